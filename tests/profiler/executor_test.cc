// Does a plan that is run compute what one rank computes? Ranks are threads of this process.
#include <doctest/doctest.h>

#include <algorithm>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/backends.h"
#include "kernels/threads/threads_communicator.h"
#include "models/transformer.h"
#include "profiler/execute/equality.h"
#include "tests/support/tiny_runs.h"

namespace shardwright {
namespace {

constexpr double kTolerance = 1e-4;  // fp32 beside double

/// The worst of all ranks over two steps: the second sees what the first one's update left.
Difference worst_of(const Programme& programme) {
  const RunOptions options;
  const auto one_rank = run_on_one_rank(programme, options, 2);
  Difference worst;
  std::mutex mutex;
  run_on_threads(static_cast<int>(programme.ranks()), [&](Communicator& world) {
    const auto operators = make_operators("cpu");
    Memory memory(*operators);
    NoRecorder recorder;
    const Fault none;
    Executor executor(programme, world, *operators, memory, recorder, options, none);
    for (std::size_t step = 0; step < one_rank.size(); ++step) {
      executor.train(static_cast<std::int64_t>(step));
      const Difference found = difference(executor, executor.loss(), one_rank[step], *operators);
      const std::lock_guard lock(mutex);
      if (found.relative > worst.relative) worst = found;
    }
  });
  return worst;
}

void check_runs(const Model& model, const std::vector<const char*>& layouts) {
  for (const char* words : layouts) {
    const Difference worst = worst_of(tiny_programme(model, words));
    INFO(model.name, " under ", words, ": ", worst.what);
    CHECK(worst.relative < kTolerance);
  }
}

}  // namespace

TEST_CASE("one rank with fp32 operators trains as one rank in double precision") {
  for (const Model& model : tiny_models()) check_runs(model, {"batch 4"});
}

TEST_CASE("tensor and sequence parallel ranks train as one rank does") {
  for (const Model& model : tiny_models()) check_runs(model, {"tp 2", "tp 2 sp", "tp 4 sp"});
}

TEST_CASE("data parallel ranks train as one rank does at every stage of ZeRO") {
  for (const Model& model : tiny_models())
    check_runs(model, {"dp 2", "dp 2 zero 1 group 2", "dp 2 zero 2 group 2", "dp 2 zero 3 group 2", "dp 3 zero 3 group 3",
                       "dp 4 zero 3 group 2", "dp 4 zero 1 group 2", "dp 4 zero 2 group 2"});
}

TEST_CASE("pipelines train as one rank does under every schedule") {
  for (Model model : tiny_models()) {
    model.num_hidden_layers = 4;
    check_runs(model, {"pp 2 gpipe batch 3", "pp 2 1f1b batch 3", "pp 2 vpp 2 interleaved batch 4", "pp 2 zb-h1 batch 3",
                       "pp 2 zb-h2 batch 3", "pp 2 zb-1p batch 3", "pp 2 zb-2p batch 3", "pp 2 vpp 2 zb-v batch 3",
                       "pp 2 dualpipe batch 4", "pp 2 vpp 2 dualpipe-v batch 5"});
    model.num_hidden_layers = 9;
    check_runs(model, {"pp 4 gpipe batch 5", "pp 4 1f1b batch 5", "pp 4 vpp 2 interleaved batch 8", "pp 4 zb-h1 batch 5",
                       "pp 4 zb-h2 batch 7", "pp 4 zb-1p batch 5", "pp 4 zb-2p batch 5", "pp 4 vpp 2 zb-v batch 5",
                       "pp 4 dualpipe batch 8", "pp 4 vpp 2 dualpipe-v batch 9"});
  }
}

TEST_CASE("context parallel ranks train as one rank does, by gathering, in a ring, and with heads for sequence") {
  for (const Model& model : tiny_models())
    check_runs(model, {"cp 2", "cp 2 ring", "cp 2 ulysses", "cp 4 ring", "tp 2 cp 2 ulysses", "tp 2 sp cp 2"});
}

TEST_CASE("ranks that share experts train as one rank does, however uneven their rows are") {
  for (Model model : {tiny_experts(), tiny_gated()})
    check_runs(model, {"dp 2 ep 2", "dp 4 ep 4", "dp 4 ep 2 etp 2", "tp 2 sp ep 2", "tp 2 sp dp 2 ep 4",
                       "tp 2 sp dp 2 ep 2 etp 2", "tp 2 dp 2 ep 4", "tp 2 etp 2", "dp 4 ep 2 zero 1 group 4",
                       "dp 4 ep 2 zero 3 group 4", "dp 2 ep 2 allgather", "cp 2 dp 2 ep 4", "tp 2 cp 2 ep 2 etp 2"});
}

TEST_CASE("mixtures of all on four ranks train as one rank does") {
  for (const Model& model : tiny_models())
    check_runs(model, {"tp 2 sp pp 2 zb-h1 batch 3", "dp 2 pp 2 zero 1 group 2 batch 4", "tp 2 dp 2 zero 3 group 2",
                       "cp 2 pp 2 1f1b batch 3", "dp 2 pp 2 vpp 2 interleaved zero 2 group 2 batch 4 layers 4",
                       "dp 2 pp 2 dualpipe zero 3 group 2 batch 8 dp-last", "tp 2 sp cp 2 full micro 2"});
}

}  // namespace shardwright
