#include "profiler/execute/equality.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/backends.h"
#include "kernels/host/host_operators.h"
#include "kernels/threads/threads_communicator.h"
#include "planner/blocks.h"

namespace shardwright {
namespace {

double largest(const std::vector<double>& numbers) {
  double most = 0;
  for (double x : numbers) most = std::max(most, std::abs(x));
  return most;
}

/// This rank's block, or its piece of it, of a whole array.
std::vector<double> own_part(const Executor& rank, const Weights::Weight& w, const std::vector<double>& whole,
                             bool piece) {
  const Programme& p = rank.programme();
  const RunGraph& g = *w.graph;
  const DimList& dims = g.graph.tensor(w.state.tensor).dims;
  BlockPlace place = {block_extents(dims, g.extents, w.placement, p.mesh),
                      block_begin(dims, g.extents, w.placement, p.mesh, rank.line()),
                      {}};
  for (DimId d : dims) place.whole.push_back(g.extents[d]);
  std::vector<double> block;
  for_each_in_block(place, [&](std::int64_t index) { block.push_back(whole[static_cast<std::size_t>(index)]); });
  if (!piece) return block;
  const FlatPiece flat = flat_piece(p.mesh, rank.line(), w.cut, static_cast<std::int64_t>(block.size()));
  block.resize(static_cast<std::size_t>(flat.parts * flat.length), 0.0);
  return {block.begin() + flat.first(), block.begin() + flat.first() + flat.length};
}

void look(const std::vector<double>& ours, const std::vector<double>& theirs, double scale, const std::string& what,
          Difference& worst) {
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  if (ours.size() != theirs.size()) {
    worst = {kWrong, what};
    return;
  }
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double error = std::abs(ours[i] - theirs[i]) / scale;
    if (std::isnan(error) && worst.relative < kWrong) worst = {kWrong, what};
    if (error > worst.relative) worst = {error, what};
  }
}

}  // namespace

std::vector<StepResult> run_on_one_rank(const Programme& programme, const RunOptions& options, int steps) {
  std::vector<StepResult> results;
  const Programme one = on_one_rank(programme);
  run_on_threads(1, [&](Communicator& world) {
    const auto operators = make_operators("reference");
    Memory memory(*operators);
    NoRecorder recorder;
    Executor executor(one, world, *operators, memory, recorder, options, {});
    for (int step = 0; step < steps; ++step) {
      executor.train(step);
      StepResult result;
      result.loss = executor.loss();
      for (const auto& [name, w] : executor.weights().all()) {
        result.weights[name] = operators->download(w.value.view);
        if (w.reduced) result.gradients[name] = operators->download(w.reduced.view);
      }
      results.push_back(std::move(result));
    }
  });
  return results;
}

Difference difference(const Executor& rank, double loss, const StepResult& one, Operators& operators) {
  Difference worst;
  look({loss}, {one.loss}, std::max(1.0, std::abs(one.loss)), "loss", worst);
  double of_all = 0;
  for (const auto& [name, gradient] : one.gradients) of_all = std::max(of_all, largest(gradient));
  for (const auto& [name, w] : rank.weights().all()) {
    const std::vector<double>& whole = one.weights.at(name);
    const bool stored_cut = w.cut && w.graph->says.zero == 3;
    look(operators.download(w.value.view), own_part(rank, w, whole, stored_cut), largest(whole), name, worst);
    const auto gradient = one.gradients.find(name);
    if ((gradient != one.gradients.end()) != static_cast<bool>(w.reduced)) {
      worst = {std::numeric_limits<double>::infinity(), "gradient of " + name};
    } else if (w.reduced) {
      look(operators.download(w.reduced.view), own_part(rank, w, gradient->second, w.cut != 0),
           std::max(largest(gradient->second), 1e-3 * of_all), "gradient of " + name, worst);
    }
  }
  return worst;
}

}  // namespace shardwright
