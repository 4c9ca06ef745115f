#include "planner/validate/fit_engines.h"

#include <doctest/doctest.h>

#include <cmath>

#include "planner/pricer.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

using doctest::Approx;

/// How long steps really take in these tests.
struct Truth {
  EngineConstants generic, own;  // own: of the engine "own"
  double a100_clock = 1;
};

Truth truth() {
  Truth t;
  t.generic[EngineConstant::step_seconds] = 0.02;
  t.generic[EngineConstant::memory_kernel_factor] = 1.5;
  t.own = t.generic;
  t.own[EngineConstant::step_seconds] = 0.09;
  t.a100_clock = 0.8;
  return t;
}

/// Steps of small models on one node, each of another size, from two sources for each engine.
std::vector<TimedStep> steps_of(const Truth& truth, int others, int own) {
  std::vector<TimedStep> steps;
  for (int i = 0; i < others + own; ++i) {
    TimedStep s;
    const bool is_own = i >= others;
    s.id = std::to_string(i);
    s.source = std::string(is_own ? "own" : "other") + (i % 2 ? "-odd" : "-even");
    PlanRequest& r = s.request;
    r.model = find_model(i % 3 ? "llama-3.1-8b" : "deepseek-llm-7b");
    r.model.num_hidden_layers = 2 + i % 5;
    r.machine = find_machine(i % 4 < 2 ? "a100-sxm-80gb" : "h100-sxm-80gb");
    r.machine.sustained = {};
    r.gpus = 8;
    r.workload.sequence_length = i % 2 ? 2048 : 4096;
    r.workload.global_batch = 8 << (i % 3);
    r.engine.name = is_own ? "own" : i % 5 ? "generic" : "few";
    s.layout.data = 8;
    s.layout.zero = 1;
    s.layout.shard_group = 8;
    s.layout.layers_per_chunk = {static_cast<int>(r.model.num_hidden_layers)};
    Pricer pricer(r);
    SustainedTimes times;
    if (i % 4 < 2)
      for (DataType type : kDataTypes) times.product[type] = 1 / truth.a100_clock;
    pricer.change(is_own ? truth.own : truth.generic, times);
    s.seconds = pricer.price(s.layout).step.value;
    steps.push_back(std::move(s));
  }
  return steps;
}

EngineFitOptions exact() {
  EngineFitOptions options;
  options.threads = 2;
  options.pull = 1e-9;
  return options;
}

}  // namespace

TEST_CASE("a fit finds the constants that synthetic steps were made with") {
  const Truth made = truth();
  const EngineFit fit = fit_engines(steps_of(made, 24, 22), exact());
  CHECK(fit.rows == 46);
  CHECK(fit.sources == 4);
  CHECK(fit.median_error < 0.02);
  REQUIRE(fit.engines.size() == 2);  // the engine with few rows has none of its own
  CHECK(fit.engines.at("generic").rows == 24);
  CHECK(fit.engines.at("own").rows == 22);
  CHECK(fit.engines.at("own").median_error < 0.02);
  const EngineConstants &generic = fit.engines.at("generic").constants, &own = fit.engines.at("own").constants;
  CHECK(generic[EngineConstant::step_seconds] == Approx(0.02).epsilon(0.1));
  CHECK(own[EngineConstant::step_seconds] == Approx(0.09).epsilon(0.05));
  CHECK(generic[EngineConstant::memory_kernel_factor] == Approx(1.5).epsilon(0.05));
  CHECK(fit.clocks.at("a100").bf16 == Approx(0.8).epsilon(0.02));
  CHECK(fit.clocks.at("h100").bf16 == Approx(1).epsilon(0.02));
  CHECK(fit.clocks.at("a100").fp8 == 1);  // no row has narrow products
}

TEST_CASE("a fit writes the same bytes with any number of threads, and a file that is read back") {
  const std::vector<TimedStep> steps = steps_of(truth(), 6, 21);
  EngineFitOptions options = exact();
  const std::string two = engine_constants_yaml(fit_engines(steps, options), "2026-08");
  options.threads = 1;
  const EngineFit fit = fit_engines(steps, options);
  CHECK(engine_constants_yaml(fit, "2026-08") == two);
  CHECK(two.find("record:\n  date: 2026-08\n  rows: 27\n  sources: 4\n") != std::string::npos);
  CHECK(engine_constants_yaml(fit, "").find("date:") == std::string::npos);
  const auto read = read_engine_constants(YamlCursor::parse(two, "constants.yaml"));
  REQUIRE(read.engines.size() == 2);
  CHECK(read.engines[0].first == "generic");
  CHECK(read.engines[0].second == fit.engines.at("generic").constants);
  CHECK(read.engines[1].second == fit.engines.at("own").constants);
}

TEST_CASE("an engine that gains nothing by it has no constants of its own") {
  Truth alike = truth();
  alike.own = alike.generic;
  CHECK(fit_engines(steps_of(alike, 6, 21), exact()).engines.size() == 1);
}

TEST_CASE("a source that is left out is predicted from the others") {
  std::vector<TimedStep> steps = steps_of(truth(), 12, 22);
  for (TimedStep& s : steps)
    if (s.source == "other-odd") s.seconds *= 2;  // nobody else is so slow
  const EngineFit fit = fit_engines(steps, exact());
  const LeftOutSources left_out = leave_one_source_out(steps, fit, exact());
  REQUIRE(left_out.sources.size() == 4);
  CHECK(left_out.sources[0].source == "other-even");
  CHECK(left_out.sources[1].source == "other-odd");
  CHECK(left_out.sources[1].rows == 6);
  CHECK(left_out.sources[1].median_error > 0.2);
  CHECK(left_out.sources[3].source == "own-odd");
  CHECK(left_out.median_error >= 0);
  REQUIRE(left_out.steps.size() == steps.size());
  CHECK(left_out.steps[0].known_clock);
  CHECK(left_out.steps[0].kernel_width > 0);
  CHECK(!left_out.steps[0].fitted);  // "few" and generic
}

TEST_CASE("errors hold 80 % of the steps whose source was left out, and of the pairs in families") {
  // Twenty steps each of engines that were fitted and not, dense; one with experts, one on a chip that nobody knew.
  std::vector<TimedStep> steps(42);
  LeftOutSources left_out;
  left_out.steps.resize(42);
  for (int i = 0; i < 42; ++i) {
    // 0.01, -0.02, 0.03, ... 0.2; kernels explain 0.1 of the unfitted.
    const int n = i % 20 + 1;
    left_out.steps[i] = {(n % 2 ? 1 : -1) * n * 0.01, i < 20 ? 0 : 0.1, i < 20, true};
  }
  steps[40].request.model.n_routed_experts = 8;
  left_out.steps[40] = {5, 0, true, true};
  left_out.steps[41] = {5, 0, true, false};
  for (LeftOutStep& step : left_out.steps) step.in_sample = step.log;
  // A family of three: of one layout's degrees, then with another tp. Logs 0.01, -0.02, 0.03.
  for (int i : {0, 1, 2}) {
    steps[i].family = "f";
    steps[i].layout.micro_batch = i + 1;
  }
  steps[2].layout.tensor = 2;
  EngineFit fit;
  fit.newest = "2026-08";
  fit.engines["generic"] = {};
  // |log| of the clocks: 0, 0.105, 0.223, 0.357, 0.511; four of five do not exceed 0.357.
  fit.clocks = {{"a", {1, 1}}, {"b", {0.9, 1}}, {"c", {0.8, 1}}, {"d", {0.7, 1}}, {"e", {0.6, 1}}};
  const ErrorRecord record = prediction_errors(steps, fit, left_out);
  CHECK(record.date == "2026-08");
  CHECK(record.rows == 42);
  CHECK(record.fitted.step == Approx(0.16));                                // the sixteenth of twenty
  CHECK(record.unfitted.step == Approx(0.1249));                            // 0.16 beside 0.1: sqrt(0.0256 - 0.01)
  CHECK(record.fitted.step_of_experts == record.unfitted.step_of_experts);  // too few: as all 41, the 33rd of them
  CHECK(record.fitted.unknown_clock == Approx(0.3567));
  CHECK(record.fitted.ratio == record.unfitted.ratio);
  CHECK(record.fitted.ratio[0] == Approx(0.03));  // 0.01 against -0.02
  CHECK(record.fitted.ratio[1] == Approx(0.05));  // of 0.02 and 0.05 the larger
  CHECK(record.fitted.ratio[2] == 0);             // no such pair
  const Coverage held = coverage(steps, left_out, record);
  CHECK(held.steps == Approx(32. / 42));  // 16 and 16; not the last two
  CHECK(held.in_sample == held.steps);
  CHECK(held.pair_count == 3);
  CHECK(held.pairs == 1);
  // Half of the steps without an error, those in sample: the twelfth of twenty beside them.
  for (LeftOutStep& step : left_out.steps) step.in_sample = 0;
  const ErrorRecord pooled = prediction_errors(steps, fit, left_out);
  CHECK(pooled.fitted.step == Approx(0.12));
  CHECK(coverage(steps, left_out, pooled).in_sample == 1);
  const std::string text = engine_constants_yaml(fit, "", record);
  CHECK(*read_engine_constants(YamlCursor::parse(text, "c.yaml")).errors == record);
}

TEST_CASE("machines of one chip share a clock") {
  CHECK(chip_of("a800-sxm-80gb") == "a100");
  CHECK(chip_of("h200-nvl-141gb") == "h100");
  CHECK(chip_of("gb200-nvl72") == "gb200");
  CHECK(chip_of("gb300-nvl72") == "b300");
}

TEST_CASE("machines of the catalog keep the clocks that were fitted") {
  const std::string file = std::string(SHARDWRIGHT_SOURCE_DIR) + "/planner/engine/constants/constants.yaml";
  const YamlCursor fitted = YamlCursor::open(file);
  std::size_t chips = 0;
  for (const auto& [chip, clock] : fitted.at("sustained_clock").entries()) {
    ++chips;
    std::size_t machines = 0;
    for (const std::string& name : machine_names()) {
      if (chip_of(name) != chip) continue;
      ++machines;
      const Machine machine = find_machine(name);
      CHECK(machine.sustained.product[DataType::bf16] == Approx(1 / clock.at("bf16").number(0, 1)));
      if (supports(machine, DataType::fp8))
        CHECK(machine.sustained.product[DataType::fp8] == Approx(1 / clock.at("fp8").number(0, 1)));
      CHECK(machine.sustained.attention == Approx(1 / clock.at("attention").number(0, 1)));
    }
    CHECK(machines > 0);
  }
  CHECK(chips == 5);
}

TEST_CASE("published speeds are times of a step, those of other trust are left out") {
  const TemporaryFolder folder;
  const auto row = [](const char* id, const char* trust, const char* measured, const char* more = "") {
    return std::string("  - {id: ") + id + ", source: s, kind: training, trust: " + trust + more +
           ", arch: m, family: f, hardware: {gpu: h100-sxm-80gb, gpus: 8}, layout: {dp: 8}, workload: "
           "{sequence_length: 1024, global_batch: 8, precision: bf16}, software: {measured_on: 2025-03-01}, measured: "
           "{" +
           measured + "}}\n";
  };
  folder.write("rows.yaml",
               "schema: shardwright.measured/1\nsources:\n  s: {title: t, ref: r, trust: A}\n"
               "models:\n  m: {num_hidden_layers: 2, hidden_size: 512, num_attention_heads: 4, "
               "num_key_value_heads: 4, head_dim: 128, vocab_size: 1024, intermediate_size: 1024, "
               "gated_mlp: true, tie_word_embeddings: false, position: rope, norm: rmsnorm}\nrows:\n" +
                   row("time", "A", "iteration_seconds: 0.5") + row("rate", "B", "tokens_per_second_per_gpu: 2048") +
                   row("both", "A", "tokens_per_second: 1, iteration_seconds: 0.25") +
                   row("second-hand", "C", "iteration_seconds: 1") +
                   row("wrong", "A", "iteration_seconds: 1", ", suspect: true") +
                   row("memory", "A", "peak_memory_gib: 3"));
  const std::vector<TimedStep> steps = timed_steps({folder / "rows.yaml"}, 1);
  REQUIRE(steps.size() == 3);
  CHECK(steps[0].seconds == Approx(0.5));
  CHECK(steps[1].seconds == Approx(0.5));  // 8 x 1024 tokens on 8 GPUs
  CHECK(steps[2].id == "both");
  CHECK(steps[2].seconds == 0.25);
  CHECK(steps[0].measured_on == "2025-03-01");
  CHECK(steps[0].layout.data == 8);
  CHECK(steps[0].request.machine.sustained == SustainedTimes{});
}

}  // namespace shardwright
