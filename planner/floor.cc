#include "planner/floor.h"

#include <algorithm>
#include <cmath>

#include "planner/pipeline_shape.h"

namespace shardwright {

Floor::Floor(const Pricer& pricer, const Layout& layout, Bytes stream, bool balanced)
    : micro_batches_(static_cast<double>(layout.micro_batches(pricer.workload_.global_batch))),
      stages_(layout.pipeline),
      balanced_(balanced),
      hidden_(visible({1}, {1}, communication_multiprocessors(pricer.machine_)).value),
      stream_(stream) {
  const BackwardTasks backward = backward_tasks(layout.schedule);
  if (layout.schedule == Schedule::gpipe) kept_ = micro_batches_;
  round_ = Route(pipeline_of(layout, pricer.workload_.global_batch)).shape_is_round();
  paired_ = has_pairs(layout);
  if (layout.virtual_pipeline == 1 && backward == BackwardTasks::whole && !paired_)
    drained_ = 1 / (1 - std::pow(1 - 1 / micro_batches_, stages_));
  send_ = send_time(layout, stream, pricer.machine_, pricer.engine_);
  fixed_ = pricer.engine_.constants.seconds(EngineConstant::step_seconds);
}

Floor::Passes Floor::passes(const Pricer& pricer, const ShapePrice& shape, const Recompute& recompute) {
  const auto r = static_cast<std::size_t>(index_of(recompute));
  Passes sum;
  const auto add = [&](const PassPrice& pass, int count) {
    sum.forward.push_back(count * pass.forward().value);
    sum.backward.push_back(count * pass.backward().value);
    sum.saved.push_back(count * static_cast<double>(pass.need.saved_reserved.value));
    sum.transient = std::min(sum.transient, static_cast<double>(pass.need.transient_reserved.value));
  };
  for (std::size_t c = 0; c < shape.layers.size(); ++c) {
    add(shape.layers[c].passes[r], pricer.class_layers_until_[c].back());
    sum.layer_forward = std::min(sum.layer_forward, shape.layers[c].passes[r].forward());
  }
  add(shape.embedding.passes[0], 1);
  add(shape.head.passes[0], 1);
  sum.embedding_forward = shape.embedding.passes[0].forward();
  return sum;
}

Floor::Passes Floor::passes(const Pricer& pricer, const LeastPrice& least, int micro_batch,
                            const Recompute& recompute) {
  const auto r = static_cast<std::size_t>(index_of(recompute));
  const double share = static_cast<double>(micro_batch) / static_cast<double>(pricer.workload_.global_batch);
  Passes sum;
  const auto add = [&](const LeastPass& pass, int count) {
    sum.forward.push_back(count * pass.forward.at(share).value);
    sum.backward.push_back(count * pass.backward.at(share).value);
    sum.saved.push_back(count * share * static_cast<double>(pass.saved.value));
  };
  for (std::size_t c = 0; c < least.layers.size(); ++c) {
    add(least.layers[c][r], pricer.class_layers_until_[c].back());
    sum.layer_forward = std::min(sum.layer_forward, least.layers[c][r].forward.at(share));
  }
  add(least.embedding[0], 1);
  add(least.head[0], 1);
  sum.embedding_forward = least.embedding[0].forward.at(share);
  sum.transient = 0;
  return sum;
}

Floor::Weights Floor::weights(const Pricer& pricer, const Pricer::Data& data) {
  Weights sum;
  const BesideCompute beside = data.beside();
  sum.forward_beside = beside.forward;
  sum.backward_beside = beside.backward;
  sum.reduction_beside = beside.reduction;
  const auto add = [&](const DataCost& d, int count) {
    sum.forward.push_back(count * d.forward.value);
    sum.backward.push_back(count * d.backward.value);
    sum.reduction.push_back(count * d.reduction.value);
    sum.gather.push_back(count * d.gather.value);
    sum.optimizer += count * d.optimizer;
    sum.resident.push_back(count * static_cast<double>((d.weights + d.gradients + d.optimizer_state).value));
    sum.buffer = std::min(sum.buffer, static_cast<double>(d.buffer.value));
  };
  for (std::size_t c = 0; c < data.layers.size(); ++c) add(data.layers[c], pricer.class_layers_until_[c].back());
  add(data.embedding, 1);
  add(data.head, 1);
  return sum;
}

namespace {

void lower(Floor::ByGraph& mine, const Floor::ByGraph& theirs) {
  for (std::size_t g = 0; g < mine.size(); ++g) mine[g] = std::min(mine[g], theirs[g]);
}

}  // namespace

void Floor::Passes::lower_to(const Passes& other) {
  lower(forward, other.forward);
  lower(backward, other.backward);
  lower(saved, other.saved);
  layer_forward = std::min(layer_forward, other.layer_forward);
  embedding_forward = std::min(embedding_forward, other.embedding_forward);
  transient = std::min(transient, other.transient);
}

void Floor::Weights::lower_to(const Weights& other) {
  lower(forward, other.forward);
  lower(backward, other.backward);
  lower(reduction, other.reduction);
  lower(gather, other.gather);
  lower(resident, other.resident);
  forward_beside = forward_beside || other.forward_beside;
  backward_beside = backward_beside || other.backward_beside;
  reduction_beside = reduction_beside || other.reduction_beside;
  optimizer = std::min(optimizer, other.optimizer);
  buffer = std::min(buffer, other.buffer);
}

Seconds Floor::time(const Passes& passes, const Weights& weights) const {
  const double p = stages_, m = micro_batches_;
  const double counted = (paired_ ? 0.5 : 1.0) * m;  // a pair takes no less than its longer half
  const auto seconds = [this](double moves, double work, bool beside) {
    const double hides = beside ? std::min(moves, work) : 0;
    return moves - hides + hidden_ * hides;
  };
  // A pass over the step, with what runs in each micro-batch and what runs once beside it. More work hides more of each
  // of them, never more than itself; but of both together it may, in a single micro-batch. What holds for every work
  // from `work` on is the least here and where it is as long as one of them: the sum is linear between those.
  const auto least_sum = [&](double work, double each, bool each_beside, double once, bool once_beside) {
    const auto sum = [&](double w) {
      return counted * (w + seconds(each, w, each_beside)) + seconds(once, w, once_beside);
    };
    double least = sum(work);
    if (once_beside && once > work)
      for (double longer : {each, once})
        if (longer > work) least = std::min(least, sum(longer));
    return least;
  };
  double each = 0, all = weights.optimizer.value;
  for (std::size_t g = 0; g < passes.forward.size(); ++g) {
    const double forward = passes.forward[g], backward = passes.backward[g];
    each += forward + backward;
    if (weights.forward.empty()) {
      all += counted * (forward + backward);
      continue;
    }
    each += seconds(weights.forward[g], forward, weights.forward_beside);
    each += seconds(weights.backward[g], backward, weights.backward_beside);
    all += least_sum(forward, weights.forward[g], weights.forward_beside, weights.gather[g], weights.forward_beside);
    all += least_sum(backward, weights.backward[g], weights.backward_beside, weights.reduction[g],
                     weights.reduction_beside);
  }
  // Stage i > 0 waits for the forwards of the embedding and of a layer in each chunk between: the mean over the stages.
  const Seconds layer = balanced_ ? passes.layer_forward : Seconds{};
  const Seconds waits = !round_ || paired_ ? Seconds{}
                                           : (p - 1) / p * passes.embedding_forward +
                                                 (p - 1) * (p - 2) / (2 * p) * layer + (p - 1) / 2 * send_;
  const Seconds mean = Seconds{all / p} + waits;
  return (1 - 1e-9) * (std::max(mean, Seconds{drained_ * (paired_ ? 0.5 : 1.0) * each}) + fixed_);
}

Bytes Floor::memory(const Passes& passes, const Weights& weights) const {
  const Bytes received = stages_ > 1 ? 2 * stream_ : Bytes{};
  const double any_graph = balanced_ ? passes.transient + weights.buffer : 0;
  double together = 0;
  for (std::size_t g = 0; g < passes.saved.size(); ++g) together += kept_ * passes.saved[g] + weights.resident[g];
  const double mean = std::max(together / stages_, stages_ > 1 && round_ ? weighted_mean(passes, weights) : 0.0);
  return Bytes{static_cast<std::int64_t>((1 - 1e-9) * (mean + any_graph))} + received;
}

double Floor::weighted_mean(const Passes& passes, const Weights& weights) const {
  const std::size_t classes = passes.saved.size() - 2;
  const double most = std::min<double>(stages_, micro_batches_);  // micro-batches that the first stage keeps
  double saved = 0, resident = 0;
  for (std::size_t c = 0; c < classes; ++c) {
    saved += passes.saved[c];
    resident += weights.resident[c];
  }
  if (!(saved > 0)) return 0;
  const double last = 1 / (saved + resident), first = 1 / (most * saved + resident);  // weights of these stages
  double held = 0;
  for (std::size_t c = 0; c < classes; ++c)
    held += std::min(last * (passes.saved[c] + weights.resident[c]),
                     first * (most * passes.saved[c] + weights.resident[c]));
  held += first * (most * passes.saved[classes] + weights.resident[classes]);  // the embedding
  held += last * (passes.saved[classes + 1] + weights.resident[classes + 1]);  // the head
  const double up_to_most = std::log((2 * most * saved + saved + 2 * resident) / (saved + 2 * resident)) / saved;
  return held / (up_to_most + (stages_ - most) * first);
}

}  // namespace shardwright
