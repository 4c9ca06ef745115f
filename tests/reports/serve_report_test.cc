#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "reports/serve_explain_text.h"
#include "reports/serve_json.h"
#include "reports/serve_text.h"

namespace shardwright {
namespace {

using namespace std::string_literals;

ServeRequest request() {
  ServeRequest r;
  r.model = find_model("llama-3.1-8b");
  r.machine = find_machine("h100-sxm-80gb");
  r.engine = find_serve_engine("vllm", "--engine");
  r.workload = {1024, 128, {}, {}, {}};
  r.gpus = 2;
  r.threads = 1;
  return r;
}

TEST_CASE("the JSON of an estimate has the keys that others read") {
  ServeRequest r = request();
  r.workload.concurrency = 16;
  r.pins = parse_serve_layout("tp=2", "--layout");
  const auto json = nlohmann::json::parse(serve_result_json(estimate_serving(r)));
  CHECK(json["schema"] == "shardwright.plan_result/1");
  CHECK(json["workload"]["kind"] == "serving");
  CHECK(json["workload"]["isl"] == 1024);
  CHECK(json["workload"]["concurrency"] == 16);
  CHECK_FALSE(json.contains("search"));
  const auto& plan = json["plans"][0];
  CHECK(plan["fits"] == true);
  CHECK(plan["layout"]["tp"] == 2);
  CHECK(plan["layout"]["attention_dp"] == 1);
  CHECK(plan["layout"]["replicas"] == 1);
  CHECK(plan["layout_assumed"] == nlohmann::json::array({"pp", "attention_dp", "cp", "dp"}));
  for (const char* key : {"ttft_seconds", "tpot_seconds", "output_tokens_per_second",
                          "output_tokens_per_second_per_gpu", "max_batch", "kv_bytes_per_token"})
    CHECK(plan["predicted"][key].is_number());
  // 8 heads of 128, keys and values, 32 layers, 2 bytes, over tp 2.
  CHECK(plan["predicted"]["kv_bytes_per_token"] == 65536);
  double shares = 0;
  for (const auto& [source, share] : plan["sources"].items()) shares += share.get<double>();
  CHECK(shares == doctest::Approx(1));
}

TEST_CASE("the JSON of a plan has its search, its front, and the promises") {
  ServeRequest r = request();
  r.goals = {0.5, 0.02};
  const ServeResult result = plan_serving(r);
  const auto json = nlohmann::json::parse(serve_result_json(result));
  CHECK(json["search"]["proven_best"] == true);
  CHECK(json["workload"]["slo"]["max_tpot_seconds"] == 0.02);
  CHECK(json["plans"][0]["rank"] == 1);
  CHECK(json["pareto"].size() > 1);
  const auto& priced = json["priced_layouts"];
  CHECK(priced["layout_text"].size() == result.priced.size());
  CHECK(priced["layout_text"][0] == json["plans"][0]["layout_text"]);
  for (const char* key : {"concurrency", "output_tokens_per_second_per_gpu", "output_tokens_per_second_per_user"})
    CHECK(priced[key][0] == json["plans"][0]["predicted"][key]);
  r.goals = {0.5, 1e-6};
  const auto none = nlohmann::json::parse(serve_result_json(plan_serving(r)));
  CHECK(none["plans"].empty());
  CHECK(none["nearest"][0]["rejection"]["reason"] == "tpot");
}

TEST_CASE("the JSON of a plan has what stands behind its first layout") {
  ServeRequest r = request();
  r.gpus = 8;
  r.pins = parse_serve_layout("tp=8,serving=aggregated", "--pin");
  const ServeResult result = plan_serving(r);
  const auto detail = detail_of_first(r, result);
  REQUIRE(detail);
  const auto json = nlohmann::json::parse(serve_result_json(result, detail, "shardwright again"))["detail"];
  CHECK(json["command"] == "shardwright again");
  CHECK(json["machine"]["gpus_per_node"] == 8);
  CHECK(json["machine"]["links"][0]["name"] == "node");
  CHECK(json["pools"] == nlohmann::json::parse(R"([{"axes":[{"axis":"tp","ranks":8,
    "links":[{"name":"node","ranks_inside":8}]}]}])"));
  REQUIRE(json["what_if"].size() == 3);
  CHECK(json["what_if"][1]["name"] == "memory_141_gb");
  CHECK(json["what_if"][1]["answers"] == true);
  CHECK(json["what_if"][1]["keeps_goals"] == true);
  CHECK(json["what_if"][1]["tpot_seconds"].is_number());
  CHECK_FALSE(nlohmann::json::parse(serve_result_json(result)).contains("detail"));
}

TEST_CASE("the text of an estimate says what it is of, and why no larger batch") {
  ServeRequest r = request();
  r.workload.concurrency = 16;
  r.pins = parse_serve_layout("tp=2", "--layout");
  const ServeResult result = estimate_serving(r);
  const std::string text = serve_text(r, result, {}, {}, {});
  CHECK(text.find("llama-3.1-8b on 2 GPUs of h100-sxm-80gb, vllm") == 0);
  CHECK(text.find("It fits and keeps what is promised.") != std::string::npos);
  CHECK(text.find("largest batch of a rank") != std::string::npos);
  CHECK(text.find(result.plans[0].prediction->memory.reason.substr(0, 6)) != std::string::npos);
}

TEST_CASE("the text of a serving plan has every fact of its page, on 80 columns and on 120") {
  ServeRequest r = request();
  r.goals = {2, 0.05};
  const ServeResult result = plan_serving(r);
  REQUIRE(!result.plans.empty());
  const ServePrediction& p = *result.plans[0].prediction;
  const ServeMemory& m = p.memory;
  for (const int width : {80, 120}) {
    std::string line;
    for (const char c : serve_text(r, result, detail_of_first(r, result), {"shardwright", "again"}, {width, false}))
      if ((c != ' ' && c != '\n') || line.back() != ' ') line += c == '\n' ? ' ' : c;
    for (const std::string& fact :
         {"llama-3.1-8b on 2 GPUs of h100-sxm-80gb, vllm: prompts of 1,024 and answers of 128 tokens"s,
          "first token within 2 s"s,
          "further tokens within 0.05 s each"s,
          "weights bf16"s,
          "first token (ttft) " + with_unit(p.ttft),
          "each further token (tpot) " + with_unit(p.tpot),
          "requests in flight "s,
          "of a user "s,
          "decode step " + with_unit(p.decode_step),
          "a prompt adds to others' steps " + with_unit(p.prefill_added),
          "weights " + in_gib(m.weights, 2),
          "left for keys and values " + in_gib(m.pool, 2),
          "usable " + in_gib(m.usable, 2),
          m.reason,
          "Confidence: "s,
          "Where times come from: datasheet"s,
          "Machine: 79.6 GiB a GPU"s,
          "links of a GPU: node 450 GB/s"s,
          "links between nodes twice as fast: "s,
          "GPUs with 141 GB: "s,
          "prompts twice as long: "s,
          "The first again: shardwright again"s,
          "Most tokens for each speed of a user"s,
          "layouts and loads"s}) {
      CAPTURE(width);
      CAPTURE(fact);
      CHECK(line.find(fact) != std::string::npos);
    }
  }
}

TEST_CASE("an explanation names its layouts, parts and changes, in JSON and as text, on 80 columns") {
  ServeRequest r = request();
  r.gpus = 8;
  r.goals.max_tpot_seconds = 0.02;
  r.pins = parse_serve_layout("tp=8", "--layout");
  const ServeExplanation e = explain_serving(r, parse_serve_layout("tp=4", "--against"), true);
  REQUIRE(e.standing == ServeStanding::slower);
  REQUIRE(!e.changes.empty());
  const auto json = nlohmann::json::parse(serve_explanation_json(e));
  CHECK(json["schema"] == "shardwright.explanation/1");
  CHECK(json["workload"]["kind"] == "serving");
  CHECK(json["standing"] == "slower");
  CHECK(json["layout"]["layout_text"] == "tp=8,pp=1,attention_dp=1,dp=1");
  CHECK(json["against"]["layout"]["tp"] == 4);
  CHECK(json["limit"]["reason"] == "tpot");
  CHECK(json["what_if"].size() == 3);
  CHECK(json["changes"][0]["keys"][0] == name_of(e.changes[0].keys[0]));
  CHECK(json["changes"][0]["turns"] == e.changes[0].turns);
  for (const char* plan : {"layout", "best", "against"}) {
    double sum = 0;
    for (const auto& [part, seconds] : json[plan]["round_seconds_by_part"].items()) sum += seconds.get<double>();
    CHECK(sum == doctest::Approx(json[plan]["predicted"]["tpot_seconds"].get<double>()));
  }
  const std::string text = serve_explain_text(r, e, {});
  for (const char* fact :
       {"answers", "No larger batch: tpot: in batches of", "What it answers", "Where the time between two tokens goes",
        "Where the GiB of a GPU go", "against", "tp 8 -> ", "The same layout, at its best load, with"}) {
    CAPTURE(fact);
    CHECK(text.find(fact) != std::string::npos);
  }
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    CHECK(end - begin <= 80);
    begin = end + 1;
  }
}

TEST_CASE("tables of plans are no wider than the terminal") {
  ServeRequest r = request();
  r.model = find_model("mixtral-8x7b");
  r.gpus = 4;
  const std::string text = serve_text(r, plan_serving(r), {}, {}, {});
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = text.find('\n', begin);
    CHECK(end - begin <= 80);
    begin = end + 1;
  }
}

}  // namespace
}  // namespace shardwright
