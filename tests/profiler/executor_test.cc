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

}  // namespace shardwright
