#include "planner/validate/validate.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "planner/validate/measured_rows.h"
#include "tests/support/measured.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

/// What a row says beside its question: where it comes from, and what came out.
struct Telling {
  std::string id, source, family, note;
  double factor;  // of what was measured
};

/// Rows of three kinds, each asking much and measuring all that is predicted.
std::vector<std::string> files_of(const Telling& telling, const TemporaryFolder& folder) {
  const auto head = [&](const std::string& kind, int row) {
    return "- {id: " + telling.id + std::to_string(row) + ", source: " + telling.source + ", kind: " + kind +
           ", family: " + telling.family + ", trust: A" +
           (telling.note.empty() ? ""
                                 : ", note: " + telling.note + ", derived: {" +
                                       (kind == "training" ? "iteration_seconds" : "time_seconds") + ": 7}") +
           ", ";
  };
  const auto measured = [&](std::initializer_list<std::pair<const char*, double>> numbers, const char* more = "") {
    std::string text = "measured: {";
    for (const auto& [key, value] : numbers)
      text += (text.back() == '{' ? "" : ", ") + std::string(key) + ": " + std::to_string(value * telling.factor);
    return text + more + "}}\n";
  };
  const auto write = [&](const std::string& name, const std::string& models, const std::string& rows) {
    folder.write(name, "schema: shardwright.measured/1\nsources: {" + telling.source +
                           ": {title: A paper, ref: arXiv 1, trust: A}}\nmodels: " + models + "\nrows:\n" + rows);
    return folder / name;
  };
  const std::string model =
      "{tiny: {num_hidden_layers: 4, hidden_size: 1024, num_attention_heads: 8, num_key_value_heads: 8, head_dim: 128, "
      "intermediate_size: 4096, vocab_size: 32000, gated_mlp: true, tie_word_embeddings: false, position: rope, norm: "
      "rmsnorm, parameters: 100000000}}";
  const std::string step =
      "arch: tiny, hardware: {gpu: a100-sxm-80gb, gpus: 8}, workload: {sequence_length: 1024, "
      "global_batch: 32, precision: bf16}, layout: {tp: 2, pp: 2}, ";
  const std::string gpu = "hardware: {gpu: h100-sxm-80gb}, ";
  const std::string node = "hardware: {gpu: h100-sxm-80gb, gpus: 8, gpus_per_node: 8}, ";
  const std::string exchange =
      "workload: {op: moe_dispatch, mode: normal, tokens_per_gpu: 8, hidden_size: 8, num_experts_per_tok: 2}, ";
  return {write("training.yaml", model,
                head("training", 1) + step +
                    measured({{"iteration_seconds", 1}, {"tokens_per_second_per_gpu", 5}, {"peak_memory_gib", 9}}) +
                    head("training", 2) + step +
                    measured({{"tflops_per_gpu", 90}, {"mfu", 0.1}}, ", flop_convention: model-causal") +
                    head("training", 3) + step + "measured: {oom: true}}\n"),
          write("kernels.yaml", "{}",
                head("kernel", 1) + gpu + "workload: {op: gemm, m: 512, n: 512, k: 512, dtype: bf16}, " +
                    measured({{"time_seconds", 1}, {"tflops", 5}}) + head("kernel", 2) + gpu +
                    "workload: {op: attention_fwd, head_dim: 64, seq: 512, causal: true, dtype: fp16}, " +
                    measured({{"tflops", 300}})),
          write("collectives.yaml", "{}",
                head("collective", 1) + node + "workload: {op: all_reduce, message_bytes: 4096}, " +
                    measured({{"time_seconds", 1}, {"bus_bandwidth_bytes_per_second", 5}}) + head("collective", 2) +
                    node + exchange + measured({{"time_seconds", 1}}))};
}

Validation told_as(const Telling& telling) {
  const TemporaryFolder folder;
  return validate(files_of(telling, folder), 1);
}

TEST_CASE("predictions depend on nothing that a row says beside its question") {
  const Telling plain{"a", "paper", "f", "", 1};
  const Validation before = told_as(plain);
  REQUIRE(before.rows.size() == 12);
  CHECK(before.skipped.empty());
  for (const char* source : {"fa3-charts-machine-read", "nccl-ep", "hybrid-ep", "korthikanti"}) {
    CAPTURE(source);
    const Validation after = told_as({"zero-bubble-", source, "g", "fast", 2});
    REQUIRE(after.rows.size() == before.rows.size());
    for (std::size_t i = 0; i < before.rows.size(); ++i) {
      const ValidationRow &was = before.rows[i], &is = after.rows[i];
      CAPTURE(was.metric);
      CHECK(is.metric == was.metric);
      CHECK(is.predicted == was.predicted);
      CHECK(is.predicted_low == was.predicted_low);
      CHECK(is.predicted_high == was.predicted_high);
      CHECK(is.layout_fits == was.layout_fits);
      CHECK(is.layout_assumed == was.layout_assumed);
      if (was.relative_error) CHECK(*is.relative_error + 1 == doctest::Approx((*was.relative_error + 1) / 2));
    }
    CHECK(after.skipped.empty());
  }
}

std::map<std::string, double> predicted(const std::string& row, int layers = 13) {
  const TemporaryFolder folder;
  folder.write(
      "rows.yaml",
      "schema: shardwright.measured/1\nsources: {paper: {title: A paper, ref: arXiv 1, trust: A}}\n"
      "models: {tiny: {num_hidden_layers: " +
          std::to_string(layers) +
          ", hidden_size: 1024, num_attention_heads: 8, "
          "num_key_value_heads: 8, head_dim: 128, intermediate_size: 4096, vocab_size: 32000, gated_mlp: true, "
          "tie_word_embeddings: false, position: rope, norm: rmsnorm}}\nrows:\n- {id: a, source: paper, family: f, "
          "kind: training, trust: A, arch: tiny, hardware: {gpu: a100-sxm-80gb, gpus: 8}, workload: "
          "{sequence_length: 1024, global_batch: 32, precision: bf16}, " +
          row + "}\n");
  std::map<std::string, double> all;
  for (const ValidationRow& r : validate({folder / "rows.yaml"}, 1).rows) all[r.metric] = r.predicted;
  return all;
}

TEST_CASE("the hardware's work counts recomputation once, whether its convention has it or not") {
  const auto rate = [](const char* convention) {
    return predicted(std::string("layout: {tp: 1, pp: 1, recompute: full}, measured: {hfu: 0.4, mfu: 0.3, "
                                 "flop_convention: ") +
                     convention + "}");
  };
  const auto model = rate("6n-full-attention"), hardware = rate("hardware-recompute");
  CHECK(model.at("hfu") == doctest::Approx(model.at("mfu") * 4 / 3));
  CHECK(hardware.at("hfu") == doctest::Approx(hardware.at("mfu")));
}

TEST_CASE("a pipeline of modules is cut into equal parts, embedding, norm and head among them") {
  const auto step = [](const std::string& software, const std::string& split) {
    return predicted("layout: {tp: 1, pp: 4, dp: 2, micro_batch: 1" + split + "}, software: {framework: " + software +
                     "}, measured: {iteration_seconds: 1}")
        .at("iteration_seconds");
  };
  // 13 layers and three more modules: 3, 4, 4, 2.
  CHECK(step("Aleph Alpha", "") == step("Aleph Alpha", ", pipeline_layout: Et*3|t*4|t*4|t*2L"));
  CHECK(step("Aleph Alpha", "") != step("Aleph Alpha", ", pipeline_layout: Et*3|t*3|t*4|t*3L"));
}

TEST_CASE("a run of Llama 3's that does not say its chunks has them of one layer, the ends without one") {
  const auto step = [](const std::string& software, const std::string& chunks) {
    return predicted("layout: {tp: 1, pp: 4, dp: 2, micro_batch: 1" + chunks + "}, software: {framework: \"" +
                         software + "\"}, measured: {iteration_seconds: 1}",
                     14)
        .at("iteration_seconds");
  };
  // 14 layers and two are 4 stages of 4 chunks.
  const std::string stated = ", vpp: 4, schedule: interleaved";
  CHECK(step("Meta internal, FSDP", "") == step("Meta internal, FSDP", stated));
  CHECK(step("Meta internal, FSDP", ", schedule: 1f1b") == step("torchtitan", ", schedule: 1f1b"));
  CHECK(step("torchtitan", "") == step("torchtitan", ", schedule: 1f1b"));
  CHECK(step("torchtitan", "") != step("torchtitan", stated));
}

}  // namespace

TEST_CASE("each published row about a kernel or a collective is predicted, or says why not") {
  const auto folder = measured_folder();
  if (!folder) return;
  for (const char* file : {"kernels.yaml", "collectives.yaml"}) {
    CAPTURE(file);
    const std::string path = (*folder / file).string();
    const Validation v = validate({path}, 0);
    std::set<std::string> predicted, skipped;
    for (const ValidationRow& row : v.rows) {
      predicted.insert(row.id);
      CHECK(row.predicted_low <= row.predicted);
      CHECK(row.predicted <= row.predicted_high);
      CHECK(row.predicted_low > 0);
    }
    for (const SkippedRow& row : v.skipped) {
      skipped.insert(row.id);
      CHECK(std::set<std::string>{"kernel", "machine", "metric"}.count(row.reason.substr(0, row.reason.find(": "))));
    }
    for (const MeasuredRow& row : read_measured_rows(YamlCursor::open(path)).rows)
      CHECK(predicted.count(row.id) + skipped.count(row.id) == 1);
    MESSAGE(file, ": ", predicted.size(), " rows predicted, ", skipped.size(), " skipped");
    CHECK(predicted.size() > 800);
  }
}

TEST_CASE("nine in ten of the published training rows that ran are predicted, and each other one says why not") {
  const auto folder = measured_folder();
  if (!folder) return;
  const std::string file = folder->string() + "/training.yaml";
  const Validation v = validate({file}, 0);
  std::set<std::string> predicted;
  for (const ValidationRow& row : v.rows) predicted.insert(row.id);
  std::map<std::string, std::string> why;
  for (const SkippedRow& row : v.skipped) {
    CHECK(why.emplace(row.id, row.reason).second);
    CHECK(predicted.count(row.id) == 0);
    const std::string word = row.reason.substr(0, row.reason.find(": "));
    CHECK(std::set<std::string>{"kind", "machine", "model", "layout", "workload", "metric"}.count(word) == 1);
    CHECK(row.reason.size() > word.size() + 2);
  }
  int ran = 0, answered = 0;
  for (const MeasuredRow& row : read_measured_rows(YamlCursor::open(file)).rows) {
    CHECK(predicted.count(row.id) + why.count(row.id) == 1);
    if (row.trust == "C" || row.suspect || row.measured.numbers.empty()) continue;
    ++ran;
    answered += predicted.count(row.id) == 1;
  }
  MESSAGE(answered, " of ", ran, " rows that ran are predicted");
  CHECK(ran > 900);
  CHECK(answered >= 0.9 * ran);
}

}  // namespace shardwright
