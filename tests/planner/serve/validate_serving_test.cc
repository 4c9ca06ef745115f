#include "planner/serve/validate_serving.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>

#include "planner/serve/fit_serving.h"
#include "planner/validate/validation_summary.h"
#include "tests/support/measured.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

using doctest::Approx;

std::string file_of(const std::string& rows) {
  return R"(schema: shardwright.measured/1
sources: {s: {title: t, ref: r, trust: A}}
models:
  llama: {num_hidden_layers: 32, hidden_size: 4096, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128,
          vocab_size: 128256, intermediate_size: 14336, gated_mlp: true, tie_word_embeddings: false, position: rope,
          norm: rmsnorm}
rows:
)" + rows;
}

std::string row(const std::string& id, const std::string& software, const std::string& workload,
                const std::string& measured, const std::string& layout = "layout: {tp: 1, pp: 1}, ") {
  return "- {id: " + id + ", source: s, kind: inference, arch: llama, family: f, hardware: {gpu: h100-sxm-80gb, " +
         "gpus: 1}, " + layout + "workload: {model_label: L, " + workload + "}, software: {framework: " + software +
         "}, measured: {" + measured + "}, trust: A}\n";
}

Validation of_rows(const std::string& rows) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/rows.yaml";
  std::ofstream(path) << file_of(rows);
  return validate({path}, 1);
}

TEST_CASE("every serving row is predicted, or skipped for one of the documented reasons") {
  const std::string ask = "isl: 1024, osl: 128, concurrency: 8, phase: mixed", answer = "tpot_seconds: 0.008";
  const Validation v = of_rows(row("a", "vLLM", ask, answer + ", ttft_seconds: 0.1") +
                               row("no-layout", "vLLM", ask, answer, "") + row("unknown-engine", "Mango", ask, answer) +
                               row("no-lengths", "vLLM", "concurrency: 8, phase: mixed", answer) +
                               row("arrivals", "vLLM", "isl: 1024, osl: 128, phase: server", answer) +
                               row("no-load", "vLLM", "isl: 1024, osl: 128, phase: mixed", answer) +
                               row("quant", "vLLM", ask + ", quant: w3a5", answer) +
                               row("heads", "vLLM", ask, answer, "layout: {tp: 3, pp: 1}, ") +
                               row("metric", "vLLM", ask, "kv_bytes_per_request: 3"));
  REQUIRE(v.rows.size() == 2);
  CHECK(v.rows[0].id == "a");
  CHECK(v.rows[0].metric == "tpot_seconds");
  CHECK(v.rows[0].layout_fits);
  CHECK(v.rows[0].engine == "vllm");
  CHECK(v.rows[0].layout == "tp=1,pp=1,attention_dp=1,dp=1");
  CHECK(v.rows[0].layout_assumed == std::vector<std::string>{"quant", "kv_dtype"});
  CHECK(*v.rows[0].relative_error == Approx(v.rows[0].predicted / 0.008 - 1));
  std::map<std::string, std::string> skipped;
  for (const SkippedRow& s : v.skipped) skipped[s.id] = s.reason;
  CHECK(skipped["no-layout"] == "layout: not stated");
  CHECK(skipped["unknown-engine"] == "engine: Mango");
  CHECK(skipped["no-lengths"] == "workload: isl and osl are not stated");
  CHECK(skipped["arrivals"] == "workload: arrivals of phase server");
  CHECK(skipped["no-load"] == "workload: concurrency is not stated");
  CHECK(skipped["quant"] == "workload: quant w3a5");
  CHECK(skipped["heads"] == "layout: tp * pp * cp * attention_dp 3 does not divide 1 GPUs");
  CHECK(skipped["metric"] == "metric: nothing that is predicted was published");
}

TEST_CASE("what was measured does not change a prediction") {
  const std::string ask = "isl: 1024, osl: 128, concurrency: 8, phase: mixed";
  const Validation v = of_rows(row("a", "vLLM", ask, "tpot_seconds: 0.008") + row("b", "vLLM", ask, "tpot_seconds: 1"));
  REQUIRE(v.rows.size() == 2);
  CHECK(v.rows[0].predicted == v.rows[1].predicted);
}

TEST_CASE("an offline row has the largest batch that fits") {
  const Validation v = of_rows(row("a", "TensorRT-LLM, version: \"0.17\"",
                                   "isl: 1000, osl: 1000, quant: fp8, kv_dtype: fp8, phase: offline",
                                   "output_tokens_per_second: 15000"));
  REQUIRE(v.rows.size() == 1);
  // The row of a published 15,245 tokens a second, by TensorRT-LLM 0.17.
  CHECK(v.rows[0].predicted > 15000 / 1.2);
  CHECK(v.rows[0].predicted < 15000 * 1.2);
}

TEST_CASE("a static batch is prefilled and then decoded to its end") {
  const Validation v = of_rows(row("a", "vLLM", "isl: 128, osl: 128, batch: 16, quant: fp16, phase: mixed",
                                   "request_latency_seconds: 1.2, total_tokens_per_second: 3400"));
  REQUIRE(v.rows.size() == 2);
  // rate = (in + out) x batch / latency
  CHECK(v.rows[1].predicted == Approx(256 * 16 / v.rows[0].predicted).epsilon(0.001));
}

TEST_CASE("rows of one phase are of a pool's GPUs alone") {
  const std::string tokens = "input_tokens_per_second_per_gpu: 40000";
  const Validation v = of_rows(
      row("prefill", "vLLM", "isl: 4096, phase: prefill", tokens) +
      row("decode", "vLLM", "isl: 1024, osl: 256, batch_per_gpu: 32, phase: decode", "output_tokens_per_second: 2000") +
      row("no-answer", "vLLM", "isl: 1024, phase: decode", "output_tokens_per_second: 2000"));
  REQUIRE(v.rows.size() == 2);
  REQUIRE(v.skipped.size() == 1);
  CHECK(v.skipped[0].reason == "workload: isl and osl are not stated");
  const Machine machine = find_machine("h100-sxm-80gb");
  StepTimes times(find_model("llama-3.1-8b"), machine, {}, find_serve_engine("vllm", "--engine"), {});
  // Two prompts fill a step of 8192 tokens; 32 sequences gain a token each step.
  CHECK(v.rows[0].predicted == Approx(2 * 4096 / times.prefill(2, 4096, 0, 0).added.value));
  CHECK(v.rows[1].predicted == Approx(32 / times.decode(32, 1024 + 128, {}).time.value));
}

TEST_CASE("errors of a further token are told by engine and model, aggregated apart from pools") {
  const std::string ask = "isl: 1024, osl: 128, concurrency: 8, phase: mixed";
  const auto measured = [&](const char* id, const char* engine, double tpot) {
    return row(id, engine, ask, "tpot_seconds: " + std::to_string(tpot));
  };
  const Validation one = of_rows(measured("a", "vLLM", 0.01) + measured("b", "SGLang", 0.01));
  REQUIRE(one.rows.size() == 2);
  const double vllm = one.rows[0].predicted, sglang = one.rows[1].predicted;
  // Measured twice, and half of what is predicted: errors of -50 % and +100 %; SGLang's once as predicted.
  const Validation v = of_rows(measured("a", "vLLM", 2 * vllm) + measured("b", "vLLM", vllm / 2) +
                               measured("c", "vLLM", vllm / 2) + measured("d", "SGLang", sglang));
  REQUIRE(v.serving.size() == 4);  // each engine, and its only model
  for (const ServingErrors& s : v.serving) {
    CHECK(s.serving == kAggregated);
    CHECK(s.metric == "tpot_seconds");
    const bool of_vllm = s.engine == "vllm";
    CHECK(s.n == (of_vllm ? 3 : 1));
    CHECK(s.median_absolute == Approx(of_vllm ? 1.0 : 0).epsilon(0.01));
    CHECK(s.signed_median == Approx(of_vllm ? 1.0 : 0).epsilon(0.01));
  }
  CHECK(v.serving[0].model.empty());
  CHECK(v.serving[1].model == "llama");
}

TEST_CASE("published serving rows are predicted as well as promised") {
  const auto folder = measured_folder();
  if (!folder) return;
  const Validation v = validate({(*folder / "inference.yaml").string()}, 0);
  std::set<std::string> ids;
  for (const ValidationRow& r : v.rows) ids.insert(r.id);
  for (const SkippedRow& s : v.skipped) {
    CHECK_FALSE(ids.contains(s.id));
    ids.insert(s.id);
    const std::string word = s.reason.substr(0, s.reason.find(':'));
    CHECK(std::set<std::string>{"machine", "model", "layout", "engine", "workload", "metric"}.contains(word));
  }
  CHECK(ids.size() == 2830);
  std::map<std::string, std::vector<double>> tpot;
  for (const ValidationRow& r : v.rows)
    if (r.metric == "tpot_seconds" && r.trust == "A" && !r.suspect && r.layout.find("prefill") == std::string::npos)
      tpot[r.engine].push_back(std::abs(*r.relative_error));
  const auto p90 = [](std::vector<double> e) {
    std::sort(e.begin(), e.end());
    return e[(e.size() * 9 + 9) / 10 - 1];
  };
  CHECK(median(tpot.at("tensorrt-llm")) <= 0.07);
  CHECK(p90(tpot.at("tensorrt-llm")) <= 0.20);
  CHECK(median(tpot.at("vllm")) <= 0.12);
  CHECK(median(tpot.at("sglang")) <= 0.12);
  double offline = 0;
  int rates = 0;
  for (const ValidationRow& r : v.rows)
    if (r.metric == "output_tokens_per_second" && r.trust == "A" && !r.suspect) {
      offline += std::abs(*r.relative_error);
      ++rates;
    }
  CHECK(rates == 740);
  CHECK(offline / rates <= 0.12);
  for (const ErrorSummary& s : v.summary)
    if (s.metric == "output_tokens_per_second" && s.source.empty()) {
      CHECK(s.held >= 0.7 * s.n);
      CHECK(s.held <= 0.9 * s.n);
    }
  for (const ServingErrors& s : v.serving) {
    CHECK(s.n > 0);
    CHECK_FALSE(s.engine.empty());
  }
  REQUIRE(v.ranking);
  CHECK(v.complete_ranking->kendall_tau_mean >= 0.8);
}

TEST_CASE("a fit to rows that constants made predicts them within 3 %") {
  const auto folder = measured_folder();
  if (!folder) return;
  std::vector<ServedRow> all = served_rows({(*folder / "inference.yaml").string()}, 0), rows;
  ServeConstants truth;
  truth[ServeConstant::step_seconds] = 4e-4;
  truth[ServeConstant::prefill_factor] = 1.1;
  for (ServedRow& r : all)
    if (r.engine == "sglang" && rows.size() < 40) {
      r.measured = r.model.front().predict(truth).tpot.value;
      r.ttft = 0;
      rows.push_back(std::move(r));
    }
  REQUIRE(rows.size() == 40);
  const std::vector<FittedServing> fit = fit_serving(rows, 0);
  REQUIRE(fit.size() == 1);
  CHECK(fit[0].median_error < 0.03);
}

}  // namespace
}  // namespace shardwright
