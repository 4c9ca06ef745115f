// Does a rank that runs alone do what it does among the others?
#include "profiler/execute/lone_rank.h"

#include <doctest/doctest.h>

#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/backends.h"
#include "kernels/threads/threads_communicator.h"
#include "profiler/execute/executor.h"
#include "profiler/execute/trial.h"
#include "tests/support/far_operators.h"
#include "tests/support/tiny_runs.h"

namespace shardwright {
namespace {

/// What a rank computes, and how often.
class Computes final : public Recorder {
 public:
  void start(const Doing& what) override {
    if (what.kind == Doing::Kind::compute || what.kind == Doing::Kind::optimizer) ++calls[what.name];
    if (what.kind == Doing::Kind::collective) ++moved[what.where.name];
  }
  void stop() override {}
  std::map<std::string, int> calls, moved;
};

/// Rows that experts' products are given.
class CountsRows final : public FarOperators {
 public:
  using FarOperators::FarOperators;
  void grouped_contraction(In x, In b, std::span<const std::int64_t> rows, bool transposed, View y) override {
    if (!transposed) counted += std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
    FarOperators::grouped_contraction(x, b, rows, transposed, y);
  }
  std::int64_t counted = 0;
};

struct Ran {
  std::map<std::string, int> calls, moved;
  Bytes peak;
  std::int64_t rows = 0;
  bool finite = true;
};

Ran run(const Programme& programme, Communicator& world, const RunOptions& options) {
  const auto cpu = make_operators("cpu");
  CountsRows operators(*cpu);
  FarCommunicator far(world, operators);
  Memory memory(operators);
  Computes recorder;
  const Fault none;
  Executor executor(programme, far, operators, memory, recorder, options, none);
  executor.train(0);
  Ran ran = {recorder.calls, recorder.moved, memory.peak(), operators.counted, true};
  for (const auto& [name, weight] : executor.weights().all())
    for (double x : operators.download(weight.value.view)) ran.finite = ran.finite && x - x == 0;
  return ran;
}

Ran run_alone(const Programme& programme, std::int64_t rank, const ExpertLoad& load = {}) {
  RunOptions options;
  options.alone = LoneRank{rank, load};
  return run(programme, *make_alone_communicator(), options);
}

std::vector<Ran> run_together(const Programme& programme) {
  std::vector<Ran> all(static_cast<std::size_t>(programme.ranks()));
  run_on_threads(static_cast<int>(programme.ranks()),
                 [&](Communicator& world) { all[static_cast<std::size_t>(world.rank())] = run(programme, world, {}); });
  return all;
}

}  // namespace

TEST_CASE("a rank that is alone computes what it computes among the others, in the same memory") {
  for (const Model& model : tiny_models())
    for (const char* words :
         {"tp 2 sp", "tp 2", "cp 2", "cp 2 ring", "cp 2 ulysses", "dp 2 zero 1 group 2", "dp 2 zero 2 group 2",
          "dp 4 zero 3 group 2", "pp 2 zb-h1 batch 3", "pp 2 batch 3", "tp 2 sp pp 2 batch 3 full", "dp 2 ep 2",
          "tp 2 sp dp 2 ep 2 etp 2", "tp 2 sp ep 2", "dp 2 ep 2 allgather"}) {
      const std::string layout = words;
      const bool shares_experts = layout.find("ep 2") != std::string::npos;
      if (shares_experts && model.n_routed_experts == 0) continue;
      const Programme programme = tiny_programme(model, words);
      const std::vector<Ran> together = run_together(programme);
      for (std::size_t rank = 0; rank < together.size(); ++rank) {
        INFO(model.name, " under ", layout, ", rank ", rank);
        const Ran alone = run_alone(programme, static_cast<std::int64_t>(rank));
        CHECK(alone.calls == together[rank].calls);
        CHECK(alone.moved == together[rank].moved);
        CHECK(alone.finite);
        // Rows come as drawn, not as routed; what is sent to another stage is gone at once.
        if (model.n_routed_experts == 0 && programme.pipeline.stages == 1)
          CHECK(alone.peak == together[rank].peak);
        else
          CHECK(static_cast<double>(alone.peak.value) ==
                doctest::Approx(static_cast<double>(together[rank].peak.value)).epsilon(0.15));
      }
    }
}

TEST_CASE("lone ranks get the rows that tokens send to their experts under the load") {
  Model model = tiny_experts();  // 3 of 8 experts
  model.first_k_dense_replace = 0;
  const Programme programme = tiny_programme(model, "dp 4 ep 4 layers 1 batch 4");
  // One micro-batch of 4 sequences of 24 tokens, each of which is a row of 3 experts; products gate, up and out.
  constexpr std::int64_t kRows = 3 * 3 * 4 * 24;
  const auto rows_of = [&](const ExpertLoad& load) {
    std::vector<std::int64_t> rows;
    for (std::int64_t rank = 0; rank < 4; ++rank) rows.push_back(run_alone(programme, rank, load).rows);
    CHECK(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}) == kRows);
    return rows;
  };
  for (std::int64_t rows : rows_of({})) CHECK(std::abs(rows - kRows / 4) <= 3 * 4);  // an expert is off by two at most
  // Rank 1 has experts 2 and 3, which all 96 tokens choose; rank 2 has 4 and 5, of which each token chooses one.
  ExpertLoad load;
  load.kind = ExpertLoad::Kind::histogram;
  load.counts = {0, 0, 96, 96, 48, 48, 0, 0};
  CHECK(rows_of(load) == std::vector<std::int64_t>{0, 2 * 96 * 3, 96 * 3, 0});
}

TEST_CASE("experts are drawn as often as the load says, different ones for each token") {
  const auto counts = [](const ExpertLoad& load, std::int64_t experts, std::int64_t chosen, std::int64_t tokens) {
    const DrawnExperts drawn(load, experts, chosen);
    std::vector<std::int64_t> count(static_cast<std::size_t>(experts)), of_token;
    for (std::int64_t token = 0; token < tokens; ++token) {
      drawn.of_token(token, of_token);
      REQUIRE(static_cast<std::int64_t>(of_token.size()) == chosen);
      for (std::size_t i = 0; i < of_token.size(); ++i) {
        if (i > 0) REQUIRE(of_token[i] > of_token[i - 1]);
        ++count.at(static_cast<std::size_t>(of_token[i]));
      }
    }
    return count;
  };
  for (std::int64_t n : counts({}, 256, 8, 4096)) CHECK(std::abs(n - 128) <= 3);
  ExpertLoad zipf;
  zipf.kind = ExpertLoad::Kind::zipf;
  zipf.exponent = 1;
  const std::vector<double> loads = relative_loads(zipf, 64, 4);
  const auto got = counts(zipf, 64, 4, 4096);
  for (std::size_t e = 0; e < got.size(); ++e)
    CHECK(std::abs(static_cast<double>(got[e]) - loads[e] * 256) <= 3);  // of 4096 x 4 / 64
}

TEST_CASE("a trial of a lone rank leaves communication to the price") {
  const Programme programme = tiny_programme(tiny_dense(), "tp 2 sp pp 2 batch 3");
  TrialQuestion question;
  question.rounds = 2;
  question.busy = 0;
  question.drift = 1e9;
  question.watched_stage = 1;
  question.options.alone = LoneRank{3, {}};
  Trial trial = run_trial(programme, *make_alone_communicator(), question, nullptr, steady_clock(), nullptr);
  CHECK(trial.alone == 3);
  CHECK(trial.peaks.size() == 1);
  CHECK(trial.parts.communication == Seconds{});
  CHECK(trial.parts.bubble == Seconds{});
  bool moves = false;
  for (const TrialOperator& o : trial.operators) {
    moves = moves || o.communicates;
    if (o.communicates)
      CHECK(o.measured == Seconds{});
    else
      CHECK(o.measured > Seconds{});
  }
  CHECK(moves);
  REQUIRE(trial.step);
  CHECK(trial.step->value ==
        doctest::Approx((trial.parts.compute + trial.parts.optimizer + trial.parts.other).value).epsilon(0.5));

  trial.step = Seconds{10};
  trial.operators = {{"layer", "q", OperatorPass::forward, false, 2, Seconds{1}, Seconds{3}},
                     {"layer", "stream", OperatorPass::forward, true, 2, Seconds{}, Seconds{5}},
                     {"layer", "k", OperatorPass::forward, false, 2, Seconds{1}, {}}};
  Prediction prediction;
  prediction.exposed_communication = {4};
  prediction.bubble = {2};
  const PricedAlone priced = priced_alone(trial, prediction);
  CHECK(priced.compute == Seconds{3});
  CHECK(priced.communication == Seconds{4});
  CHECK(priced.bubble == Seconds{2});
  CHECK(priced.step == Seconds{16});
}

}  // namespace shardwright
