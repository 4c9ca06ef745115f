#include "reports/json.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/reports/answers.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> keys_of(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

TEST_CASE("a plan carries schema, question, search and ranked plans") {
  const std::string text = plan_result_json(round_result());
  CHECK(text.ends_with("}\n"));
  CHECK(text.find("null") == std::string::npos);
  const Json json = Json::parse(text);
  CHECK(keys_of(json) == std::vector<std::string>{"schema", "shardwright_version", "model", "machine", "engine", "gpus",
                                                  "workload", "search", "plans", "ties_with_best", "pareto"});
  CHECK(json["schema"] == "shardwright.plan_result/1");
  CHECK(json["shardwright_version"] == std::string(version()));
  CHECK(json["workload"] ==
        Json::parse(R"({"kind":"training","sequence_length":1024,"global_batch":32,"precision":"bf16"})"));
  CHECK(json["search"] ==
        Json::parse(R"({"considered":1234,"priced":34,"pruned":1000,"rejected":{"heads":50,"memory":150},
                                          "seconds":0.25,"proven_best":true})"));
  CHECK(json["plans"].size() == 2);
  CHECK(json["plans"][1]["rank"] == 2);
  CHECK_FALSE(json["pareto"][0].contains("rank"));
}

TEST_CASE("what was priced is in columns") {
  PlanResult result = round_result();
  const auto add = [&](const PricedLayout& p) {
    result.priced.push_back({p.layout, p.precision, p.prediction->step, p.prediction->worst().reserved});
  };
  add(result.plans[0]);
  add(result.plans[1]);
  const Json json = Json::parse(plan_result_json(result));
  CHECK(keys_of(json)[11] == "priced_layouts");
  const Json& priced = json["priced_layouts"];
  CHECK(keys_of(priced) ==
        std::vector<std::string>{"layout_text", "precision", "step_seconds", "memory_reserved_bytes"});
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(priced["layout_text"][i] == json["plans"][i]["layout_text"]);
    CHECK(priced["precision"][i] == "bf16");
    CHECK(priced["step_seconds"][i] == json["plans"][i]["predicted"]["step_seconds"]);
    CHECK(priced["memory_reserved_bytes"][i] == json["plans"][i]["predicted"]["memory_reserved_bytes"]);
  }
}

// 8 x 2 x 4 ranks: 32 sequences / (dp 4 x micro_batch 1) = 8 micro-batches.
TEST_CASE("a layout has the keys of --layout and the counts that follow from them") {
  const Json json = Json::parse(plan_result_json(round_result()));
  CHECK(json["plans"][0]["layout"] ==
        Json::parse(R"({"tp":8,"sequence_parallel":true,"cp":1,"cp_kind":"allgather","pp":2,
    "vpp":1,"schedule":"1f1b","layers_per_stage":[17,15],"ep":1,"etp":1,"dp":4,"zero":1,"fsdp_group":4,"recompute":"none",
    "recompute_modules":[],"micro_batch":1,"micro_batches":8,"rank_order":"tp-cp-dp-pp","overlap":[]})"));
}

TEST_CASE("chunks of an interleaved layout are summed by stage and also told apart") {
  PlanResult result = round_result();
  Layout& layout = result.plans[0].layout;
  layout.virtual_pipeline = 2;
  layout.schedule = Schedule::interleaved;
  layout.layers_per_chunk = {9, 8, 8, 7};  // stage 0 has chunks 0 and 2
  layout.recompute.modules = 5;
  const Json json = Json::parse(plan_result_json(result))["plans"][0]["layout"];
  CHECK(json["layers_per_stage"] == Json::parse("[17,15]"));
  CHECK(json["layers_per_chunk"] == Json::parse("[9,8,8,7]"));
  CHECK(json["recompute"] == "selective");
  CHECK(json["recompute_modules"] == Json::parse(R"(["core_attn","mlp"])"));
}

TEST_CASE("a prediction has its units in the keys and memory for each stage") {
  const Json predicted = Json::parse(plan_result_json(round_result()))["plans"][0]["predicted"];
  CHECK(predicted["step_seconds"] == 10.0);
  CHECK(predicted["step_seconds_low"] == 9.0);
  CHECK(predicted["step_seconds_high"] == doctest::Approx(11));
  CHECK(predicted["tokens_per_second"] == doctest::Approx(3276.8));
  CHECK(predicted["tokens_per_second_per_gpu"] == doctest::Approx(51.2));
  CHECK(predicted["model_flops_per_second_per_gpu"] == 400e12);
  CHECK(predicted["mfu"] == 0.4);
  CHECK(predicted["compute_seconds"] == 8.0);
  CHECK(predicted["communication_seconds"] == 1.0);
  CHECK(predicted["exposed_communication_seconds"] == 1.0);
  CHECK(predicted["bubble_seconds"] == 0.5);
  CHECK(predicted["optimizer_seconds"] == 0.5);
  CHECK(predicted["host_seconds"] == 0);
  CHECK(predicted["memory_allocated_bytes"] == (66_GiB).value);
  CHECK(predicted["memory_reserved_bytes"] == (68_GiB).value);
  CHECK(predicted["memory_per_stage"].size() == 2);
  CHECK(predicted["memory_per_stage"][1]["reserved_bytes"] == (58_GiB).value);
  CHECK(keys_of(predicted["memory_per_stage"][1]["parts"]) ==
        std::vector<std::string>{"weights", "gradients", "optimizer", "activations", "transient", "buffers"});
  CHECK(predicted["gpu_hours_per_trillion_tokens"] == 123456.0);
  CHECK_FALSE(predicted.contains("cost"));
}

TEST_CASE("shares of the sources and a price are carried") {
  PlanResult result = round_result();
  result.plans[0].prediction->cost_per_trillion_tokens = 5;
  const Json plan = Json::parse(plan_result_json(result))["plans"][0];
  CHECK(plan["sources"] == Json::parse(R"({"measured":0.0,"interpolated":0.0,"extrapolated":0.0,"datasheet":1.0})"));
  CHECK(plan["predicted"]["cost"]["per_trillion_tokens"] == 5.0);
}

TEST_CASE("an estimate has no search, and a layout that cannot be run has its reason and no prediction") {
  PlanResult result = round_result();
  result.is_estimate = true;
  result.plans.resize(1);
  result.plans[0].fits = false;
  result.plans[0].prediction.reset();
  result.plans[0].layout.layers_per_chunk.clear();
  result.plans[0].rejection = Rejection{"ffn", "tp 8 does not divide intermediate_size 100"};
  result.plans[0].assumed = {"dp", "zero"};
  const Json json = Json::parse(plan_result_json(result));
  CHECK(keys_of(json).back() == "plans");
  CHECK_FALSE(json.contains("search"));
  const Json& plan = json["plans"][0];
  CHECK(plan["fits"] == false);
  CHECK(plan["rejection"]["reason"] == "ffn");
  CHECK(plan["rejection"]["detail"] == "tp 8 does not divide intermediate_size 100");
  CHECK(plan["layout_assumed"] == Json::parse(R"(["dp","zero"])"));
  CHECK_FALSE(plan.contains("predicted"));
  CHECK_FALSE(plan["layout"].contains("layers_per_stage"));
}

TEST_CASE("a number that does not exist has no key, and bytes that are no text are replaced") {
  PlanResult result = round_result();
  result.plans[0].prediction->mfu = std::nan("");
  result.plans[1].prediction->step = {std::numeric_limits<double>::infinity()};
  result.model = "a\xffz";
  const std::string text = plan_result_json(result);
  CHECK(text.find("null") == std::string::npos);
  const Json json = Json::parse(text);
  CHECK(json["model"] == "a\xef\xbf\xbdz");
  CHECK_FALSE(json["plans"][0]["predicted"].contains("mfu"));
  CHECK_FALSE(json["plans"][1]["predicted"].contains("step_seconds"));
}

/// Two stages of two tasks each, a gemm and a collective.
PlanDetail round_detail() {
  PlanDetail detail;
  detail.model = round_request().model;
  detail.machine = round_machine();
  detail.slowest_stage = 1;
  detail.parts = {{"gemm", {8}}, {"bubble", {2}}};
  detail.tensors = {{{"weights", "layer.q", 1_GiB, 2}}, {{"buffers", "all", 2_GiB, 1}}};
  detail.kernels = {{GemmSpec{10, 20, 30}, {{0.5}, CostSource::measured, 0.1}, 4, work_of(GemmSpec{10, 20, 30})},
                    {CollectiveSpec{}, {{0.25}, CostSource::datasheet, 0.2}, 2, std::nullopt}};
  detail.axes = {{"tp", 8, {{"node", 8}}}};
  detail.spans = {{"stage 0", "pipeline", "forward 0", "forward", {0}, {1.00000000049}},
                  {"stage 1", "pipeline", "forward 0", "forward", {1}, {2}},
                  {"stage 0", "pipeline", "backward 0", "backward", {2}, {4}}};
  return detail;
}

TEST_CASE("what stands behind the first plan comes last, with units in the keys") {
  const std::string text = plan_result_json(round_result(), round_detail(), "shardwright estimate");
  CHECK(text.ends_with("\n  }\n}\n"));
  const Json json = Json::parse(text);
  CHECK(keys_of(json).back() == "detail");
  Json plain = json;
  plain.erase("detail");
  CHECK(plain == Json::parse(plan_result_json(round_result())));
  const Json& detail = json["detail"];
  CHECK(keys_of(detail) == std::vector<std::string>{"estimate_command", "model", "machine", "slowest_stage",
                                                    "step_seconds_by_part", "axes", "tensors", "kernels", "what_if",
                                                    "timeline"});
  CHECK(detail["estimate_command"] == "shardwright estimate");
  CHECK(detail["machine"]["name"] == "round-gpu");
  CHECK(detail["step_seconds_by_part"] == Json::parse(R"({"gemm":8.0,"bubble":2.0})"));
  CHECK(detail["axes"] == Json::parse(R"([{"axis":"tp","ranks":8,"links":[{"name":"node","ranks_inside":8}]}])"));
  CHECK(detail["tensors"][1] ==
        Json::parse(R"({"stage":1,"part":"buffers","tensor":"all","bytes":2147483648,"copies":1})"));
  CHECK(detail["kernels"][0] ==
        Json::parse(R"({"kernel":"gemm m=10 n=20 k=30 type=bf16","family":"gemm","calls":4.0,"seconds_per_call":0.5,
                        "seconds":2.0,"source":"measured","relative_error":0.1,"flops_per_call":12000.0,
                        "bytes_per_call":2200})"));
  CHECK_FALSE(detail["kernels"][1].contains("flops_per_call"));
}

TEST_CASE("a timeline is a list of streams, each in columns, to the nanosecond") {
  const Json json = Json::parse(plan_result_json(round_result(), round_detail(), ""))["detail"]["timeline"];
  REQUIRE(json.size() == 2);
  CHECK(json[0] == Json::parse(R"({"device":"stage 0","stream":"pipeline","kind":["forward","backward"],
                                   "name":["forward 0","backward 0"],"start_seconds":[0.0,2.0],"end_seconds":[1.0,4.0]})"));
  CHECK(json[1]["device"] == "stage 1");
}

TEST_CASE("of more tasks than 20,000 the first and the last are carried, and what is left out is said") {
  PlanDetail detail = round_detail();
  detail.spans.clear();
  for (int i = 0; i < 30000; ++i)
    detail.spans.push_back({"stage 0", "pipeline", "forward", "forward", {i * 1.0}, {i + 1.0}});
  const Json json = Json::parse(plan_result_json(round_result(), detail, ""))["detail"];
  CHECK(json["timeline"][0]["name"].size() == 20000);
  CHECK(json["timeline_omitted"] == Json::parse(R"({"tasks":10000,"from_seconds":10000.0,"to_seconds":20000.0})"));
  CHECK(json["timeline"][0]["start_seconds"][9999] == 9999.0);
  CHECK(json["timeline"][0]["start_seconds"][10000] == 20000.0);
}

TEST_CASE("models carry exact counts") {
  const Json json = Json::parse(models_json({find_model("llama-3.1-8b")}));
  CHECK(json["schema"] == "shardwright.models/1");
  const Json& model = json["models"][0];
  CHECK(model["name"] == "llama-3.1-8b");
  CHECK(model["parameters"] == 8'030'261'248);
  CHECK(model["parameters_with_mtp"] == 8'030'261'248);
  CHECK(model["active_parameters"] == 8'030'261'248);
  CHECK(model["active_parameters_without_embedding"] == 8'030'261'248 - 128'256 * 4096);
  CHECK(model["kv_bytes_per_token"] == 131'072);
}

TEST_CASE("a model without a graph has no counts") {
  Model model = find_model("llama-3.1-8b");
  model.kv_lora_rank = 512;
  model.position = Position::learned;
  const Json json = Json::parse(models_json({model}))["models"][0];
  CHECK_FALSE(json.contains("parameters"));
  CHECK(json["unsupported"] == unsupported(model));
}

TEST_CASE("machines carry the types that they have") {
  const Json json = Json::parse(machines_json({round_machine()}));
  CHECK(json["schema"] == "shardwright.machines/1");
  const Json& machine = json["machines"][0];
  CHECK(machine["name"] == "round-gpu");
  CHECK(machine["memory_bytes"] == (82_GiB).value);
  CHECK(machine["usable_memory_bytes"] == (80_GiB).value);
  CHECK(machine["peak_flops_per_second"] == Json::parse(R"({"bf16":1e15,"fp8":2e15})"));
  CHECK(machine["memory_bytes_per_second"] == 4e12);
  CHECK(machine["gpus_per_node"] == 8);
  CHECK(machine["measured"] == false);
  CHECK(machine["links"].size() == 2);
  CHECK_FALSE(machine["links"][1].contains("gpus"));  // without limit
  CHECK_FALSE(machine.contains("price_per_gpu_hour"));
}

TEST_CASE("a validation carries rows, skipped rows and summaries by kind, metric and source") {
  Validation validation;
  validation.rows = {{"a", "grid", "f", "training", "A", false, "mfu", 0.5, 0.4, 0.3, 0.45, -0.2, true, {"zero"}},
                     {"b", "grid", "", "training", "A", true, "oom", std::nullopt, 1, 1, 1, std::nullopt, false, {}}};
  validation.skipped = {{"c", "no machine: gaudi2"}};
  validation.rows[0].layout = "tp=2";
  validation.intervals = {{"training", 4, 3}};
  validation.summary = {{"training", "mfu", "", 1, 0.2, 0.2, 0.2, -0.2, "", 1},
                        {"training", "mfu", "grid", 1, 0.2, 0.2, 0.2, -0.2}};
  validation.out_of_memory = {1, 0, 3, 1};
  const Json json = Json::parse(validation_json(validation));
  CHECK(json["schema"] == "shardwright.validation/1");
  CHECK(json["rows"][0] == Json::parse(R"({"id":"a","source":"grid","family":"f","kind":"training","trust":"A",
    "suspect":false,"metric":"mfu","measured":0.5,"predicted":0.4,"predicted_low":0.3,"predicted_high":0.45,
    "relative_error":-0.2,"layout_fits":true,"layout":"tp=2","layout_assumed":["zero"]})"));
  CHECK_FALSE(json["rows"][1].contains("measured"));
  CHECK_FALSE(json["rows"][1].contains("relative_error"));
  CHECK_FALSE(json["rows"][1].contains("family"));
  CHECK(json["skipped"] == Json::parse(R"([{"id":"c","reason":"no machine: gaudi2"}])"));
  CHECK(json["summary"]["training"]["mfu"] ==
        Json::parse(R"({"n":1,"mean_absolute":0.2,"median_absolute":0.2,"p90_absolute":0.2,"signed_median":-0.2,
            "in_interval":1.0})"));
  CHECK(json["summary_by_source"]["grid"]["training"]["mfu"]["n"] == 1);
  CHECK_FALSE(json.contains("ranking"));
  CHECK(json["intervals"] == Json::parse(R"({"training":{"n":4,"held":3,"share":0.75}})"));
  validation.ranking = RankingSummary{3, 0.5, 0.1};
  validation.complete_ranking = RankingSummary{2, 1, 0};
  CHECK(Json::parse(validation_json(validation))["ranking"] ==
        Json::parse(R"({"families":3,"kendall_tau_mean":0.5,"top_regret_mean":0.1,
    "complete":{"families":2,"kendall_tau_mean":1.0,"top_regret_mean":0.0}})"));
  CHECK(json["out_of_memory"] ==
        Json::parse(R"({"recall":0.5,"false_alarm_rate":0.0,"true_positive":1,"false_positive":0,
    "true_negative":3,"false_negative":1})"));
}

TEST_CASE("a rate over no rows has no key") {
  const Json json = Json::parse(validation_json({}));
  CHECK_FALSE(json["out_of_memory"].contains("recall"));
  CHECK_FALSE(json["out_of_memory"].contains("false_alarm_rate"));
  CHECK(json["rows"] == Json::array());
  CHECK(json["summary"] == Json::object());
}

TEST_CASE("scores have a row for each family and kind") {
  const Json json = Json::parse(score_json("h100", {{KernelFamily::gemm, "", "n, k", 3, 0.25, 0.5, 0.75},
                                                    {KernelFamily::gemm, "bf16", "n, k", 2, 0.25, 0.5, 1}}));
  CHECK(json["schema"] == "shardwright.score/1");
  CHECK(json["machine"] == "h100");
  CHECK(json["errors"] == Json::parse(R"([
    {"family":"gemm","left_out":"n, k","questions":3,"median":0.25,"p90":0.5,"within_sigma":0.75},
    {"family":"gemm","kind":"bf16","left_out":"n, k","questions":2,"median":0.25,"p90":0.5,"within_sigma":1.0}])"));
}

TEST_CASE("an explanation carries the layout, the best, and the changes with their effects") {
  Explanation e;
  const PlanResult result = round_result();
  e.asked = result;
  e.asked.is_estimate = true;
  e.layout = {round_layout(4, 3, 50), {{"gemm", {9}}, {"bubble", {3}}}};
  e.best = ExplainedLayout{round_layout(8, 0.5, 40), {{"gemm", {9}}}};
  e.standing = Standing::slower;
  e.search = result.search;
  e.changes.push_back({{LayoutKey::tp}, round_layout(8, 0.5, 40), true});
  e.operators.push_back({"layer", "q_proj", OperatorPass::again, false, KernelFamily::gemm, Traffic::tensor, 32, {2}});
  e.operators.push_back(
      {"layer", "o_proj", OperatorPass::forward, true, KernelFamily::memory, Traffic::tensor, 8, {1}});
  e.tensors.push_back({"weights", "layer.q_proj", {64}, 32});
  WhatIf w{"batch_twice", "twice the global batch", round_request(), round_layout(8, 0.5, 40), {}};
  e.what_ifs.push_back(w);
  const std::string text = explanation_json(round_request(), e);
  CHECK(text.find("null") == std::string::npos);
  const Json json = Json::parse(text);
  CHECK(json["schema"] == "shardwright.explanation/1");
  CHECK(keys_of(json) == std::vector<std::string>{"schema", "shardwright_version", "model", "machine", "engine", "gpus",
                                                  "workload", "standing", "layout", "best", "search", "changes",
                                                  "pairs", "nearest", "what_if", "operators", "tensors"});
  CHECK(json["standing"] == "slower");
  CHECK_FALSE(json["search"].contains("seconds"));
  CHECK(json["layout"]["step_seconds_by_part"] == Json::parse(R"({"gemm":9.0,"bubble":3.0})"));
  CHECK(json["layout"]["layout_text"] == to_string(e.layout.priced.layout));
  const Json& change = json["changes"][0];
  CHECK(change["keys"] == Json::parse(R"(["tp"])"));
  CHECK(change["changed"] == Json::parse(R"({"tp":{"from":"4","to":"8"},"dp":{"from":"8","to":"4"},
                                             "fsdp_group":{"from":"8","to":"4"}})"));
  CHECK(change["turns"] == true);
  CHECK(change["freed_bytes"] == (10_GiB).value);
  CHECK(change["more_seconds"] == doctest::Approx(-2.5));  // 10 s after 12.5 s
  CHECK(change["relative_cost"] == doctest::Approx(-0.2));
  CHECK(json["operators"] == Json::parse(R"([
      {"graph":"layer","operator":"q_proj","pass":"again","family":"gemm","calls":32.0,"seconds":2.0},
      {"graph":"layer","operator":"o_proj","pass":"forward","traffic":"tensor","calls":8.0,"seconds":1.0}])"));
  CHECK(json["tensors"] == Json::parse(R"([{"part":"weights","tensor":"layer.q_proj","bytes":64,"copies":32}])"));
  CHECK(json["what_if"][0]["name"] == "batch_twice");
  CHECK_FALSE(json["what_if"][0].contains("same_layout"));
}

}  // namespace
}  // namespace shardwright
