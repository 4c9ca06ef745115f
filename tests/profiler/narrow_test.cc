// Plans that run in 16 bits, on CUDA's own kernels where the host runs them (tests/kernels/emulated_cuda.cc), in memory
// that it cannot reach.
#include <doctest/doctest.h>

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/threads/threads_communicator.h"
#include "profiler/execute/equality.h"
#include "profiler/execute/trial.h"
#include "tests/support/far_operators.h"
#include "tests/support/tiny_runs.h"

namespace shardwright {
namespace {

/// The worst of all ranks.
template <typename Work>
Difference worst_of(const Programme& programme, Work work) {
  Difference worst;
  std::mutex mutex;
  run_on_threads(static_cast<int>(programme.ranks()), [&](Communicator& host) {
    CudaOperators cuda;
    FarOperators operators(cuda);
    FarCommunicator world(host, operators);
    const Difference found = work(world, operators);
    const std::lock_guard lock(mutex);
    if (!(found.relative <= worst.relative)) worst = found;
  });
  return worst;
}

Difference trained(const Programme& programme, const RunOptions& options, int steps = 2, const Fault& fault = {}) {
  const std::vector<StepResult> one_rank = run_on_one_rank(programme, options, steps);
  return worst_of(programme, [&](Communicator& world, Operators& operators) {
    Memory memory(operators);
    NoRecorder recorder;
    Executor executor(programme, world, operators, memory, recorder, options, fault);
    Difference worst;
    for (std::size_t step = 0; step < one_rank.size(); ++step) {
      executor.train(static_cast<std::int64_t>(step));
      const Difference found = difference(executor, executor.loss(), one_rank[step], operators);
      if (!(found.relative <= worst.relative)) worst = found;
    }
    return worst;
  });
}

}  // namespace

TEST_CASE("ranks train in 16 bits as one rank does in double precision") {
  Model experts = tiny_experts();
  experts.first_k_dense_replace = 0;
  const std::vector<std::pair<Model, std::vector<const char*>>> runs = {
      {tiny_dense(), {"tp 2 sp", "dp 2 zero 1 group 2", "dp 2 zero 3 group 2", "pp 2 zb-h1 batch 2"}},
      {tiny_tied(), {"tp 2 pp 2 batch 2"}},
      {tiny_latent(), {"cp 2 ring"}},
      {experts, {"dp 2 ep 2", "tp 2 sp etp 2"}}};
  for (const auto& [model, layouts] : runs)
    for (const char* words : layouts)
      for (const DataType type : {DataType::bf16, DataType::fp16}) {
        RunOptions options;
        options.compute = type;
        const Difference found = trained(tiny_programme(model, words), options);
        INFO(model.name, " under ", std::string(words), " in ", std::string(name_of(type)), ": ", found.what);
        CHECK(found.relative < equal_tolerance(type));
        CHECK(found.relative > 1e-4);  // it is narrow
      }
}

TEST_CASE("collectives that are left out are noticed in 16 bits, too") {
  class Places final : public Recorder {
   public:
    void start(const Doing& what) override {
      if (what.kind == Doing::Kind::collective) all.insert(what.name);
    }
    void stop() override {}
    std::set<std::string> all;
  };
  RunOptions options;
  options.compute = DataType::bf16;
  options.first_values["lm_head"] = {1, 0.3};  // logits away from zero, which a label that is not found is taken for
  for (const char* words : {"tp 2 sp layers 1"}) {
    const Programme programme = tiny_programme(tiny_dense(), words);
    Places places;
    std::mutex mutex;
    worst_of(programme, [&](Communicator& world, Operators& operators) {
      Memory memory(operators);
      Places own;
      const Fault none;
      Executor executor(programme, world, operators, memory, own, options, none);
      executor.train(0);
      const std::lock_guard lock(mutex);
      places.all.merge(own.all);
      return Difference{};
    });
    CHECK(places.all.size() > 10);
    CHECK(trained(programme, options, 1).relative < equal_tolerance(DataType::bf16));
    for (const std::string& place : places.all) {
      INFO(std::string(words), ": ", place);
      CHECK_FALSE(trained(programme, options, 1, {Fault::Kind::drop, place}).relative <
                  equal_tolerance(DataType::bf16));
    }
  }
}

TEST_CASE("a device's ranks prefill and decode in its formats, by its own operators") {
  Model model = tiny_dense();
  model.max_position_embeddings = 40;
  const Programme programme = tiny_programme(model, "tp 2");
  for (const DataType type : {DataType::fp32, DataType::bf16, DataType::fp16}) {
    TrialQuestion question;
    question.rounds = 1;
    question.busy = 0;
    question.drift = 1e9;
    question.decode = 4;
    question.backend = "none";  // there are no operators of that name
    question.options.compute = type;
    const auto one_rank =
        std::make_shared<const std::vector<StepResult>>(run_on_one_rank(programme, question.options, 2));
    Trial trial;
    worst_of(programme, [&](Communicator& world, Operators& operators) {
      TrialQuestion own = question;
      own.operators = &operators;
      own.device_memory = [] { return Bytes{12345}; };
      Trial found = run_trial(programme, world, own, one_rank, steady_clock(), nullptr);
      if (world.rank() == 0) trial = std::move(found);
      return Difference{};
    });
    INFO(std::string(name_of(type)));
    CHECK(trial.precision == type);
    CHECK(trial.equal());
    CHECK(trial.peaks.at(0).resident == Bytes{12345});
    REQUIRE(trial.inference);
    CHECK(trial.inference->checked);
    CHECK(trial.inference->equal);
    CHECK(trial.inference->tokens == 4);
    CHECK(trial.inference->decode > Seconds{});
  }
}

TEST_CASE("weights in 16 bits have a copy in fp32, cut as ZeRO says") {
  // Bytes of a rank's weights, gradients and optimizer's numbers: 2, 4, and three times 4, the latter two cut from ZeRO
  // 2 on. Nothing else of a step lives when it is over.
  const auto bytes_of_weight = [](const char* words, DataType type) {
    const Programme programme = tiny_programme(tiny_dense(), words);
    RunOptions options;
    options.compute = type;
    double each = 0;
    std::mutex mutex;
    worst_of(programme, [&](Communicator& world, Operators& operators) {
      Memory memory(operators);
      NoRecorder recorder;
      const Fault none;
      Executor executor(programme, world, operators, memory, recorder, options, none);
      executor.train(0);
      double elements = 0;
      for (const auto& [name, w] : executor.weights().all()) elements += static_cast<double>(w.elements);
      const std::lock_guard lock(mutex);
      each = static_cast<double>(memory.current().value) / elements;
      return Difference{};
    });
    return each;
  };
  CHECK(bytes_of_weight("batch 2", DataType::fp32) == 4 + 4 + 8);
  CHECK(bytes_of_weight("batch 2", DataType::bf16) == 2 + 4 + 12);
  CHECK(bytes_of_weight("dp 2 zero 2 group 2", DataType::bf16) == 2 + 4 / 2 + 12 / 2);
  CHECK(bytes_of_weight("dp 2 zero 3 group 2", DataType::bf16) == (2 + 4 + 12) / 2);
}

TEST_CASE("tokens that are as likely may part two texts, others may not") {
  const Generated one = {{{1, 0.95, 0}, {4, 1, 0}}, {{0}, {0}}}, other = {{{0.96, 1, 0}, {7, 7, 7}}, {{1}, {2}}};
  CHECK(difference(other, one, 0.1).relative == doctest::Approx(0.05));
  CHECK(difference(other, one, 0.01).relative > 1e9);
  CHECK(difference(other, one, 0.01).what == "logits of the prompt");
}

}  // namespace shardwright
