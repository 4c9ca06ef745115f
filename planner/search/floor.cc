#include "planner/search/floor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "planner/pipeline/pipeline_shape.h"

namespace shardwright {

Floor::Kept Floor::kept_by(const Layout& layout, double micro_batches) {
  const double p = layout.pipeline, m = micro_batches;
  switch (layout.schedule) {
    case Schedule::gpipe:
      return {{}, {}, {m, 0}, 0};
    case Schedule::one_f_one_b: {
      const double most = std::min(p, m);
      return {{1, 0}, {most, 0}, {most, 0}, most};
    }
    case Schedule::interleaved: {  // 2 j + 1 passes ahead in the j-th stage from the end, after p of each chunk but one
      const double half = std::floor(p / 2);
      return {{1, 0}, {2 * half - 1, 0}, {p, 0}, half};
    }
    case Schedule::zb_h1:  // and zb-h2, which keeps no less: see least_late()
    case Schedule::zb_h2: {
      const double most = std::min(p, m);
      return {{1, most - 1}, {most, 0}, {most, 0}, most};
    }
    default:
      return {};
  }
}

Floor::Floor(const Pricer& pricer, const Layout& layout, Bytes stream, bool balanced)
    : fragmentation_(pricer.workload_.memory.fragmentation),
      global_batch_(pricer.workload_.global_batch),
      micro_batches_(static_cast<double>(layout.micro_batches(pricer.workload_.global_batch))),
      stages_(layout.pipeline),
      balanced_(balanced),
      hidden_(visible({1}, {1}, communication_multiprocessors(pricer.machine_)).value) {
  late_counts_ = micro_batches_ >= 2.0 * stages_ - 1;
  for (const auto& until : pricer.class_layers_until_) layers_.push_back(until.back());
  always_ = library_workspace(pricer.machine_) + (stages_ > 1 ? 2 * stream : Bytes{});
  send_ = send_time(layout, stream, pricer.machine_, pricer.engine_);
  fixed_ = pricer.engine_.constants.seconds(EngineConstant::step_seconds);
  drain_ = stage_weights(1 / micro_batches_);
  arrive_ = stage_weights(1 / (3 * micro_batches_));
  change_way(layout);
}

void Floor::change_way(const Layout& layout) {
  kept_ = kept_by(layout, micro_batches_);
  parts_ = stages_ * layout.virtual_pipeline;
  round_ = Route(pipeline_of(layout, global_batch_)).shape_is_round();
  paired_ = has_pairs(layout);
  split_ = backward_tasks(layout.schedule) == BackwardTasks::split;
}

Floor::Passes Floor::passes(const Pricer& pricer, const ShapePrice& shape, const Recompute& recompute) {
  const auto r = static_cast<std::size_t>(index_of(recompute));
  Passes sum;
  const auto add = [&](const PassPrice& pass, int count) {
    sum.forward.push_back(count * pass.forward().value);
    sum.backward.push_back(count * pass.backward().value);
    sum.gradient.push_back(count * (pass.backward() - pass.weight_gradient).value);
    sum.saved.push_back(count * static_cast<double>(pass.need.saved_reserved.value));
    sum.for_weights.push_back(count * static_cast<double>(pass.need.for_weights_reserved.value));
    sum.transient.push_back(static_cast<double>(pass.need.transient_reserved.value));
  };
  for (std::size_t c = 0; c < shape.layers.size(); ++c)
    add(shape.layers[c].passes[r], pricer.class_layers_until_[c].back());
  add(shape.embedding.passes[0], 1);
  add(shape.head.passes[0], 1);
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
    sum.gradient.push_back(count * pass.gradient.at(share).value);
    sum.saved.push_back(count * share * static_cast<double>(pass.saved.value));
    sum.for_weights.push_back(count * share * static_cast<double>(pass.for_weights.value));
    sum.transient.push_back(0);
  };
  for (std::size_t c = 0; c < least.layers.size(); ++c) add(least.layers[c][r], pricer.class_layers_until_[c].back());
  add(least.embedding[0], 1);
  add(least.head[0], 1);
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
    sum.buffer.push_back(static_cast<double>(d.buffer.value));
  };
  for (std::size_t c = 0; c < data.layers.size(); ++c) add(data.layers[c], pricer.class_layers_until_[c].back());
  add(data.embedding, 1);
  add(data.head, 1);
  const DataCost& table = data.second_table;
  sum.resident.back() -= static_cast<double>((table.weights + table.gradients + table.optimizer_state).value);
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
  lower(gradient, other.gradient);
  lower(saved, other.saved);
  lower(for_weights, other.for_weights);
  lower(transient, other.transient);
}

void Floor::Weights::lower_to(const Weights& other) {
  lower(forward, other.forward);
  lower(backward, other.backward);
  lower(reduction, other.reduction);
  lower(gather, other.gather);
  lower(resident, other.resident);
  lower(buffer, other.buffer);
  same_hide = same_hide && other.same_hide && forward_beside == other.forward_beside &&
              backward_beside == other.backward_beside && reduction_beside == other.reduction_beside;
  forward_beside = forward_beside || other.forward_beside;
  backward_beside = backward_beside || other.backward_beside;
  reduction_beside = reduction_beside || other.reduction_beside;
  optimizer = std::min(optimizer, other.optimizer);
}

double Floor::firsts(const ByGraph& moves, const ByGraph& work) const {
  const int middle = std::max(parts_ - 2, 0);
  double layers = 0, least = 1e300;
  ByGraph first;  // by class, of a part that has such a layer
  for (std::size_t c = 0; c < layers_.size(); ++c) {
    layers += layers_[c];
    first.push_back(std::min(moves[c], work[c]) / layers_[c]);
    least = std::min(least, first.back());
  }
  double most = 0;
  for (std::size_t c = 0; c < layers_.size(); ++c) {
    const double have = std::clamp(middle - (layers - layers_[c]), 0.0, static_cast<double>(middle));
    most = std::max(most, have * first[c] + (middle - have) * least);
  }
  return most;
}

double Floor::least_layer(const ByGraph& seconds) const {
  double least = 1e300;
  for (std::size_t c = 0; c < layers_.size(); ++c) least = std::min(least, seconds[c] / layers_[c]);
  return least;
}

Floor::StageWeights Floor::stage_weights(double ratio) const {
  const double q = 1 - ratio;
  double to_one_less = 1;  // q^(p-1)
  double square = q;
  for (int left = stages_ - 1; left > 0; left /= 2, square *= square)
    if (left % 2 == 1) to_one_less *= square;
  const double to_p = q * to_one_less;
  const double last = ratio / (1 - to_p), from_the_end = q / ratio - stages_ * to_p / (1 - to_p);
  // A hair less: where the ratio is tiny, these are differences of large numbers.
  return {last * to_one_less, last, std::max(0.0, stages_ - 1 - from_the_end - 1e-9 / ratio)};
}

double Floor::after_arrival(const ByGraph& forward, const ByGraph& all, double rest) const {
  const std::size_t classes = layers_.size();
  const auto [first, last, mean_stage] = arrive_;
  double sum = last * all[classes + 1] + first * rest + mean_stage * send_.value;
  for (std::size_t g = 0; g <= classes; ++g) {
    const double at_first = first * all[g] + (1 - first) * forward[g];
    sum += g == classes ? at_first : std::min(at_first, last * all[g]);
  }
  return sum;
}

Seconds Floor::time(const Passes& passes, const Weights& weights, Seconds enough) const {
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
  ByGraph forward = passes.forward, backward = passes.backward, gradient = passes.gradient, all;
  for (std::size_t g = 0; g < forward.size(); ++g) {
    if (weights.forward.empty()) {
      all.push_back(counted * (forward[g] + backward[g]));
      continue;
    }
    all.push_back(
        least_sum(forward[g], weights.forward[g], weights.forward_beside, weights.gather[g], weights.forward_beside) +
        least_sum(backward[g], weights.backward[g], weights.backward_beside, weights.reduction[g],
                  weights.reduction_beside));
    forward[g] += seconds(weights.forward[g], forward[g], weights.forward_beside);
    backward[g] += seconds(weights.backward[g], backward[g], weights.backward_beside);
    gradient[g] += (weights.backward_beside ? hidden_ : 1) * weights.backward[g];
  }
  double first = 0;  // of every row, in each micro-batch
  if (!weights.forward.empty() && weights.same_hide && balanced_) {
    if (weights.forward_beside) first += firsts(weights.forward, passes.forward);
    if (weights.backward_beside) first += firsts(weights.backward, passes.backward);
  }
  const auto total = [](const ByGraph& list) { return std::accumulate(list.begin(), list.end(), 0.0); };
  const double rest = weights.optimizer.value + counted * first, send = send_.value;
  double least = (total(all) + rest) / p;  // the mean of the stages
  const auto told = [&] { return (1 - 1e-9) * (Seconds{least} + fixed_); };
  if (!round_ || paired_ || told() > enough) return told();

  ByGraph once, returns;  // a micro-batch, whole, and until its gradient is back
  for (std::size_t g = 0; g < forward.size(); ++g) {
    once.push_back(forward[g] + backward[g]);
    returns.push_back(split_ ? forward[g] + gradient[g] : once[g]);
  }
  const double way = total(returns) + (split_ ? 0 : first), head = returns.back();
  if (parts_ == stages_) {
    least = std::max(least, m * drain_.last * way + 2 * drain_.mean_stage * send);
    least = std::max(least, way + (m - 1) * head + 2 * (p - 1) * send);
    least = std::max(least, after_arrival(forward, all, rest));
  } else {
    // Stage i > 0 waits for the forwards of the embedding and of a layer in each chunk between, its gradients for their
    // backwards: the mean over the stages.
    const auto waits = [&](const ByGraph& pass) {
      const double layer = balanced_ ? least_layer(pass) : 0;
      return (p - 1) / p * pass[layers_.size()] + (p - 1) * (p - 2) / (2 * p) * layer + (p - 1) / 2 * send;
    };
    const double there = waits(forward);
    least = std::max(least + there, (m * total(once) + m * first) / p + there + (split_ ? 0 : waits(backward)));
    least = std::max(least, way + 2 * (parts_ - 1) * send);
  }
  if (told() <= enough) least = std::max(least, m * slowest_stage(once));
  return told();
}

double Floor::slowest_stage(const ByGraph& seconds) const {
  const std::size_t classes = layers_.size();
  if (stages_ == 1) return 0;
  const double first = seconds[classes], last = seconds[classes + 1];
  const auto most = static_cast<std::size_t>(
      std::max_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(classes)) - seconds.begin());
  const double layer = seconds[most] / layers_[most];
  double slowest = std::max(first, last);
  if (!(layer > 0)) return slowest;
  const double head = last / layer;  // in layers
  const auto room = [](double budget) {
    return budget < 0 ? 0 : static_cast<std::int64_t>(budget * (1 + 1e-12) + 1e-12);
  };
  const auto holds = [&](double budget) {
    return room(budget - head) + (stages_ - 1) * room(budget) >= static_cast<std::int64_t>(layers_[most]);
  };
  // The least budget is that of a stage which is full, of layers alone or beside the head. As many as in the mean, less
  // one: below that there is not room enough.
  const double mean = (layers_[most] + head) / stages_;
  double least = 1e300;
  for (const double beside : {0.0, head}) {
    double k = static_cast<double>(room(mean - beside - 1));
    while (beside + k < least && !holds(beside + k)) ++k;
    least = std::min(least, beside + k);
  }
  return std::max(slowest, least * layer);
}

Bytes Floor::memory(const Passes& passes, const Weights& weights) const {
  const auto comes_and_goes = [this](double bytes) { return (1 + fragmentation_) * bytes; };
  Held all, layers;
  double once = 0, any_transient = 1e300, any_buffer = 1e300;
  const auto of_graph = [&](std::size_t g) {
    const double late = late_counts_ ? passes.for_weights[g] : std::min(passes.for_weights[g], passes.saved[g]);
    return Held{comes_and_goes(passes.saved[g]), comes_and_goes(late), weights.resident[g]};
  };
  for (std::size_t g = 0; g < passes.saved.size(); ++g) {
    const Held own = of_graph(g);
    if (g < layers_.size()) layers += own;
    once += own.saved + own.resident;
    any_transient = std::min(any_transient, comes_and_goes(passes.transient[g]));
    any_buffer = std::min(any_buffer, weights.buffer[g]);
  }
  const double any_graph = balanced_ ? any_transient + any_buffer : 0;
  double most = once / stages_ + any_graph;
  if (layers.saved + layers.resident > 0) {
    const double sum = sum_of_weights(layers);
    double together = 0;
    for (std::size_t c = 0; c < layers_.size(); ++c) {
      const double mean = least_share(of_graph(c), layers) / sum;
      together += mean;
      most = std::max(most, mean + comes_and_goes(passes.transient[c]) + weights.buffer[c]);
    }
    const Kept::Count& of_first = kept_.line < stages_ ? kept_.rest : kept_.last;
    const Kept::Count& of_last = kept_.line > 0 ? kept_.first : kept_.rest;
    together += of_graph(layers_.size()).at(of_first) / layers.at(of_first) / sum;    // the embedding
    together += of_graph(layers_.size() + 1).at(of_last) / layers.at(of_last) / sum;  // the head
    most = std::max(most, together + any_graph);
  }
  return Bytes{static_cast<std::int64_t>((1 - 1e-9) * most)} + always_;
}

double Floor::sum_of_weights(const Held& all) const {
  const double rest = stages_ - kept_.line;
  double sum = rest > 0 ? rest / all.at(kept_.rest) : 0;
  if (kept_.line < 2) return kept_.line > 0 ? sum + kept_.line / all.at(kept_.first) : sum;
  const double first = all.at(kept_.first), last = all.at(kept_.last), step = (last - first) / (kept_.line - 1);
  // Each is no more than the integral over the step around it.
  const double low = first - step / 2, high = last + step / 2;
  const bool straight = low > 0 && high > 0 && std::abs(step) > 1e-6 * first;
  return sum + (straight ? std::log(high / low) / step : kept_.line / std::min(first, last));
}

double Floor::least_share(const Held& some, const Held& all) const {
  double least = 1e300;
  const auto at = [&](const Kept::Count& count) { least = std::min(least, some.at(count) / all.at(count)); };
  if (kept_.line < stages_) at(kept_.rest);
  if (kept_.line > 0) at(kept_.first);
  if (kept_.line > 1) at(kept_.last);
  return least;
}

}  // namespace shardwright
