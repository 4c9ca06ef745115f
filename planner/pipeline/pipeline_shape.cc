#include "planner/pipeline/pipeline_shape.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

}  // namespace

Bytes library_workspace(const Machine& machine) {
  return supports(machine, DataType::fp8) ? 64_MiB : Bytes{(97 * (1_MiB).value) / 8};
}

Pipeline pipeline_of(const Layout& layout, std::int64_t global_batch) {
  const bool asked_for =
      layout.schedule == Schedule::one_f_one_b || layout.schedule == Schedule::interleaved;  // others have or have not
  return {layout.schedule, layout.pipeline, layout.virtual_pipeline,
          static_cast<int>(layout.micro_batches(global_batch)), asked_for && has_pairs(layout)};
}

PipelineShape::PipelineShape(const Pricer& pricer, const ShapePrice& shape, const Layout& layout)
    : pricer_(pricer),
      shape_(shape),
      pipeline_(pipeline_of(layout, pricer.workload_.global_batch)),
      route_(pipeline_),
      recompute_(at(index_of(layout.recompute))),
      classes_(static_cast<int>(shape.layers.size())),
      gpus_(layout.gpus()),
      taken_(communication_multiprocessors(pricer.machine_)),
      sends_beside_(layout.pipeline == 1 || layout.overlap.has(Overlap::p2p)) {
  const int parts = pipeline_.parts();
  assert(std::ssize(layout.layers_per_chunk) == parts);
  base_.stages = pipeline_.stages;
  base_.chunks = pipeline_.chunks;
  base_.forward.resize(at(parts));
  base_.backward.resize(at(parts));
  base_.weight_gradient.resize(at(parts));
  part_layers_.resize(at(parts * classes_));
  in_flight_.resize(at(pipeline_.stages));
  kept_.resize(at(pipeline_.stages));
  const auto add = [&](int part, const PassPrice& pass, int count) {
    base_.forward[at(part)] += count * pass.forward();
    base_.backward[at(part)] += count * pass.backward();
    base_.weight_gradient[at(part)] += count * pass.weight_gradient;
  };
  for (int c = 0; c < classes_; ++c) {
    const std::vector<int>& until = pricer.class_layers_until_[at(c)];
    for (int g = 0, first = 0; g < parts; ++g) {
      const int behind = first + layout.layers_per_chunk[at(g)];
      part_layers_[at(g * classes_ + c)] = until[at(behind)] - until[at(first)];
      add(g, pass_of(c), part_layers(g)[c]);
      first = behind;
    }
  }
  add(0, pass_of(classes_), 1);
  add(parts - 1, pass_of(classes_ + 1), 1);
  base_.send = send_time(layout, shape.stream, pricer.machine_, pricer.engine_);
  fixed_ = pricer.engine_.constants.seconds(EngineConstant::step_seconds);
}

template <typename F>
void PipelineShape::for_each_graph(int part, const F& visit) const {
  for (int c = 0; c < classes_; ++c)
    if (const int n = part_layers(part)[c]; n > 0) visit(c, n);
  if (part == 0) visit(classes_, 1);
  if (part + 1 == pipeline_.parts()) visit(classes_ + 1, 1);
}

const PassPrice& PipelineShape::pass_of(int graph) const {
  if (graph < classes_) return shape_.layers[at(graph)].passes[recompute_];
  return (graph == classes_ ? shape_.embedding : shape_.head).passes[0];  // without recomputation
}

const DataCost& PipelineShape::cost_of(const Data& data, int graph) const {
  if (graph < classes_) return data.layers[at(graph)];
  return graph == classes_ ? data.embedding : data.head;
}

PipelineShape::Added PipelineShape::added(const PassPrice& pass, const DataCost& cost, const Data& data) const {
  const auto shown = [&](Seconds moves, Seconds work, bool hides, Seconds& first) {
    if (!hides || moves == Seconds{}) return moves;
    first = std::min(moves, work);
    return visible(moves, work, taken_);
  };
  const BesideCompute beside = data.beside();
  Added a;
  a.forward = shown(cost.forward, pass.forward(), beside.forward, a.first_forward);
  a.backward = shown(cost.backward, pass.backward(), beside.backward, a.first_backward);
  a.reduction = shown(cost.reduction, pass.backward(), beside.reduction, a.first_reduction);
  a.gather = shown(cost.gather, pass.forward(), beside.forward, a.first_gather);
  return a;
}

PipelineShape::AllAdded PipelineShape::all_added(const Data& data) const {
  AllAdded all;
  for (int graph = 0; graph < classes_ + 2; ++graph) all.push_back(added(pass_of(graph), cost_of(data, graph), data));
  return all;
}

PipelineTimes PipelineShape::times(const AllAdded& all) const {
  PipelineTimes t = base_;
  for (int g = 0; g < pipeline_.parts(); ++g) {
    Seconds first_forward, first_backward;
    for_each_graph(g, [&](int graph, int count) {
      const Added& a = all[at(graph)];
      t.forward[at(g)] += count * a.forward;
      t.backward[at(g)] += count * a.backward;
      first_forward = std::max(first_forward, a.first_forward);
      first_backward = std::max(first_backward, a.first_backward);
    });
    t.forward[at(g)] += first_forward;
    t.backward[at(g)] += first_backward;
    if (sends_beside_) continue;
    t.forward[at(g)] += base_.send;
    t.backward[at(g)] += base_.send;
  }
  if (!sends_beside_) t.send = {};
  const int chunks = route_.chunks();
  for (int s = 0; has_pairs(pipeline_) && s < pipeline_.stages; ++s)
    for (int f = 0; f < chunks; ++f)
      for (int b = 0; b < chunks; ++b) {
        const int forward = part(s, f), backward = part(s, b);
        t.pair.push_back(t.forward[at(forward)] + t.backward[at(backward)] - saved_by_pair(forward, backward));
      }
  return t;
}

/// Layers of one kind first, then whatever is left.
Seconds PipelineShape::saved_by_pair(int forward_part, int backward_part) const {
  if (shape_.pairs.empty()) return {};
  const std::vector<Seconds>& pair = shape_.pairs[recompute_];
  std::vector<int> forward(part_layers(forward_part), part_layers(forward_part) + classes_);
  std::vector<int> backward(part_layers(backward_part), part_layers(backward_part) + classes_);
  Seconds saved;
  const auto match = [&](int f, int b) {
    const int n = std::min(forward[at(f)], backward[at(b)]);
    const Seconds alone = pass_of(f).forward() + pass_of(b).backward();
    saved += n * std::max(Seconds{}, alone - pair[at(f * classes_ + b)]);
    forward[at(f)] -= n;
    backward[at(b)] -= n;
  };
  for (int c = 0; c < classes_; ++c) match(c, c);
  for (int f = 0; f < classes_; ++f)
    for (int b = 0; b < classes_; ++b) match(f, b);
  return saved;
}

/// What follows the last backward. With overlap, only what neither that nor the next step's first forward hides.
PipelineShape::Tail PipelineShape::tail(const Data& data, const AllAdded& all, int stage) const {
  Tail t;
  Seconds first_reduction, first_gather;
  bool has_end = false;  // of a tied table
  for (int chunk = 0; chunk < route_.chunks(); ++chunk) {
    const int g = part(stage, chunk);
    for_each_graph(g, [&](int graph, int count) {
      const Added& a = all[at(graph)];
      t.reduction += count * a.reduction;
      t.gather += count * a.gather;
      t.optimizer += count * cost_of(data, graph).optimizer;
      first_reduction = std::max(first_reduction, a.first_reduction);
      first_gather = std::max(first_gather, a.first_gather);
    });
    has_end = has_end || g == 0 || g + 1 == pipeline_.parts();
  }
  t.reduction += first_reduction;
  t.gather += first_gather;
  if (has_end) t.reduction += data.tied.reduction;
  return t;
}

Seconds PipelineShape::lower_bound(const Data& data) const {
  const AllAdded all_moves = all_added(data);
  const PipelineTimes t = times(all_moves);
  const auto tail = [&](int stage) { return this->tail(data, all_moves, stage).total(); };
  const Seconds bound = pipeline_lower_bound(pipeline_, t);
  if (backward_tasks(pipeline_.schedule) != BackwardTasks::whole || pipeline_.paired) {
    Seconds least = tail(0);
    for (int s = 1; s < t.stages; ++s) least = std::min(least, tail(s));
    return (1 - 1e-12) * (bound + least + fixed_);
  }
  // The last task is the first part's last backward, on stage 0.
  Seconds all = bound + tail(0);
  Seconds arrives;  // when a stage's first forward can start
  for (int s = 0; s < t.stages; ++s) {
    Seconds work;
    for (int c = 0; c < t.chunks; ++c) work += t.forward[at(part(s, c))] + t.backward[at(part(s, c))];
    // A hair below, so that the rounding of a play never falls under the bound.
    all = std::max(all, (1 - 1e-11) * (arrives + pipeline_.micro_batches * work) + tail(s));
    arrives += t.forward[at(s)] + t.send;
  }
  return (1 - 1e-12) * (all + fixed_);
}

Bytes PipelineShape::Unchanging::reserved(Bytes kept, double fragmentation) const {
  const Bytes comes_and_goes = kept + transient_reserved;
  const Bytes holes{static_cast<std::int64_t>(fragmentation * static_cast<double>(comes_and_goes.value))};
  return parts.total() - parts.transient + std::max(comes_and_goes + holes, widened);
}

bool PipelineShape::has_both_ends(int stage) const {
  bool first = false, last = false;
  for (int c = 0; c < route_.chunks(); ++c) {
    first = first || part(stage, c) == 0;
    last = last || part(stage, c) + 1 == pipeline_.parts();
  }
  return first && last;
}

PipelineShape::Unchanging PipelineShape::unchanging(const Data& data, int stage) const {
  Unchanging u;
  MemoryParts& p = u.parts;
  unsigned classes = 0;
  for (int c = 0; c < route_.chunks(); ++c) {
    // Whose backward has run when the embedding's does.
    Bytes freed, freed_reserved;
    for_each_graph(part(stage, c), [&](int graph, std::int64_t count) {
      const ActivationNeed& need = pass_of(graph).need;
      const DataCost& d = cost_of(data, graph);
      p.weights += count * d.weights;
      p.gradients += count * d.gradients;
      p.optimizer += count * d.optimizer_state;
      p.buffers = std::max(p.buffers, d.buffer);
      u.widened += count * d.widened;
      Bytes transient = need.transient, reserved = need.transient_reserved;
      if (graph < classes_) {
        classes |= 1u << graph;
        freed += count * need.saved;
        freed_reserved += count * need.saved_reserved;
      } else if (graph == classes_) {
        transient -= freed;
        reserved -= freed_reserved;
      }
      p.transient = std::max(p.transient, transient);
      u.transient_reserved = std::max(u.transient_reserved, reserved);
    });
  }
  if (has_both_ends(stage)) {
    p.weights -= data.second_table.weights;
    p.gradients -= data.second_table.gradients;
    p.optimizer -= data.second_table.optimizer_state;
  }
  if (base_.stages > 1) p.buffers += 2 * shape_.stream;  // one activation and one gradient on their way in
  p.buffers += shape_.placeholders[classes];
  if (!pricer_.engine_.is_neutral) p.buffers += library_workspace(pricer_.machine_);
  return u;
}

PipelineShape::Kept PipelineShape::kept_of(int part) const {
  Kept kept;
  for_each_graph(part, [&](int graph, std::int64_t count) {
    const ActivationNeed& need = pass_of(graph).need;
    kept.until_backward.add(count, need.saved, need.saved_reserved);
    if (backward_tasks(pipeline_.schedule) != BackwardTasks::whole)
      kept.until_weight.add(count, need.for_weights, need.for_weights_reserved);
  });
  return kept;
}

PassKeeps PipelineShape::keeps_of(int part) const {
  const Kept kept = kept_of(part);
  return {static_cast<double>(kept.until_backward.reserved.value),
          static_cast<double>(kept.until_weight.reserved.value)};
}

const std::vector<Order>& PipelineShape::orders() const {
  if (!orders_.empty()) return orders_;
  std::vector<PassKeeps> keeps;
  for (int g = 0; is_greedy(pipeline_.schedule) && g < pipeline_.parts(); ++g) keeps.push_back(keeps_of(g));
  return orders_ = stage_orders(pipeline_, base_, keeps);
}

const InFlight& PipelineShape::in_flight_counts(int stage) const {
  InFlight& known = in_flight_[at(stage)];
  if (!known.until_backward.empty()) return known;
  std::vector<PassKeeps> keeps;
  keeps.reserve(at(route_.chunks()));
  for (int c = 0; c < route_.chunks(); ++c) keeps.push_back(keeps_of(part(stage, c)));
  const bool alike = std::all_of(keeps.begin(), keeps.end(), [&](const PassKeeps& k) {
    return k.until_backward > 0 && k.until_backward == keeps.front().until_backward &&
           k.until_weight <= k.until_backward;
  });
  const bool one_pattern = !is_greedy(pipeline_.schedule) && !has_pairs(pipeline_);
  if (alike && one_pattern) return known = in_flight_of_alike(pipeline_, stage);
  known = is_greedy(pipeline_.schedule) ? in_flight(orders()[at(stage)], keeps)
                                        : in_flight(stage_order(pipeline_, stage), keeps);
  return known;
}

/// Activations of all micro-batches in flight.
const PipelineShape::Sizes& PipelineShape::kept(int stage) const {
  std::optional<Sizes>& known = kept_[at(stage)];
  if (known) return *known;
  const InFlight& counts = in_flight_counts(stage);
  Sizes& all = known.emplace();
  for (int c = 0; c < route_.chunks(); ++c) {
    const Kept one = kept_of(part(stage, c));
    all.add(counts.until_backward[at(c)], one.until_backward.allocated, one.until_backward.reserved);
    all.add(counts.until_weight[at(c)], one.until_weight.allocated, one.until_weight.reserved);
  }
  return all;
}

StageMemory PipelineShape::memory(const Data& data, int stage) const {
  const Unchanging u = unchanging(data, stage);
  const Sizes activations = kept(stage);
  StageMemory m;
  m.reserved = u.reserved(activations.reserved, pricer_.workload_.memory.fragmentation);
  m.parts = u.parts;
  m.parts.activations = activations.allocated;
  m.parts.transient = std::max(u.parts.transient, u.widened - activations.allocated);
  m.allocated = m.parts.total();
  return m;
}

Bytes PipelineShape::worst_reserved(const Data& data) const {
  Bytes worst;
  for (int s = 0; s < base_.stages; ++s)
    worst = std::max(worst, unchanging(data, s).reserved(kept(s).reserved, pricer_.workload_.memory.fragmentation));
  return worst;
}

std::optional<Bytes> PipelineShape::fitting(const Data& data) const {
  const Bytes usable = pricer_.machine_.usable_memory();
  const double fragmentation = pricer_.workload_.memory.fragmentation;
  std::vector<Unchanging> all;
  all.reserve(at(base_.stages));
  for (int s = 0; s < base_.stages; ++s) {
    all.push_back(unchanging(data, s));
    if (all.back().reserved({}, fragmentation) > usable) return std::nullopt;
  }
  Bytes worst;
  for (int s = 0; s < base_.stages; ++s) {
    worst = std::max(worst, all[at(s)].reserved(kept(s).reserved, fragmentation));
    if (worst > usable) return std::nullopt;
  }
  return worst;
}

Prediction PipelineShape::predict(const Data& data) const {
  const Machine& machine = pricer_.machine_;
  const Workload& workload = pricer_.workload_;
  const AllAdded all_moves = all_added(data);
  const PipelineTimes t = times(all_moves);
  const Played played = play(route_, orders(), t, pipeline_.micro_batches);

  Prediction p;
  int slowest = 0;
  std::vector<Seconds> busy;
  for (int s = 0; s < t.stages; ++s) {
    const Seconds after = tail(data, all_moves, s).total() + fixed_;
    p.step = std::max(p.step, played.stage_end[at(s)] + after);
    busy.push_back(played.stage_busy[at(s)] + after);
    if (busy[at(s)] > busy[at(slowest)]) slowest = s;
    p.stages.push_back(memory(data, s));
    if (p.stages.back().reserved > p.stages[at(p.worst_stage)].reserved) p.worst_stage = s;
  }
  for (Seconds b : busy) p.idle.push_back(std::max(Seconds{}, p.step - b));
  const Seconds busiest = busy[at(slowest)];

  // The slowest stage's time, part by part.
  TimeError error;
  const double carried = machine.efficiency.relative_error;  // of what has no error of its own
  const double passes = static_cast<double>(pipeline_.micro_batches) / route_.routes();  // through each part
  for (int c = 0; c < route_.chunks(); ++c)
    for_each_graph(part(slowest, c), [&](int graph, int count) {
      const PassPrice& pass = pass_of(graph);
      const DataCost& d = cost_of(data, graph);
      const double times_run = count * passes;
      for (const PassTime* time : {&pass.in_forward, &pass.in_backward}) {
        p.compute += times_run * time->compute;
        p.host += times_run * time->host;
        p.traffic.add(times_run, time->traffic);
        p.exposed.add(times_run, time->exposed);
      }
      p.traffic[Traffic::data] += times_run * (d.forward + d.backward) + count * (d.reduction + d.gather);
      error += times_run * pass.error;
      error.by_family[TimeError::collective] += carried * times_run * (d.forward + d.backward);
    });
  const Tail after = tail(data, all_moves, slowest);
  p.optimizer = after.optimizer;
  const double sends = passes * route_.chunks() * (t.stages > 1 ? 2 : 0);
  p.traffic[Traffic::pipeline] = sends * base_.send;
  if (!sends_beside_) p.exposed[Traffic::pipeline] = p.traffic[Traffic::pipeline];
  // What keeps weights in step is exposed by what it adds; what pairs hide is rows of experts first.
  Seconds exposed_data = after.reduction + after.gather;
  for (int c = 0; c < route_.chunks(); ++c) {
    const int g = part(slowest, c);
    const Seconds send = sends_beside_ ? Seconds{} : base_.send;
    exposed_data +=
        passes * (t.forward[at(g)] + t.backward[at(g)] - base_.forward[at(g)] - base_.backward[at(g)] - 2 * send);
  }
  p.exposed[Traffic::data] += exposed_data;
  Seconds hidden = p.compute + p.exposed.total() + p.optimizer + p.host + fixed_ - busiest;  // by pairs
  for (Traffic kind : {Traffic::expert, Traffic::tensor, Traffic::context}) {
    const Seconds of_kind = std::min(std::max(Seconds{}, hidden), p.exposed[kind]);
    p.exposed[kind] = p.exposed[kind] - of_kind;
    hidden = hidden - of_kind;
  }
  const Seconds of_host = std::min(std::max(Seconds{}, hidden), p.host);
  p.host = p.host - of_host + fixed_;
  p.compute = p.compute - std::max(Seconds{}, hidden - of_host);  // less beside communications of their own
  p.communication = p.traffic.total();
  p.exposed_communication = p.exposed.total();
  p.bubble = std::max(Seconds{0}, p.step - p.compute - p.exposed_communication - p.optimizer - p.host);
  error.by_family[TimeError::memory] += carried * after.optimizer;
  error.by_family[TimeError::collective] += carried * (after.reduction + after.gather);
  const double factor = std::exp(pricer_.half_width(busiest.value > 0 ? error.total() / busiest : 0));
  p.step_low = p.step * (1 / factor);
  p.step_high = p.step * factor;

  const double tokens = static_cast<double>(workload.global_batch) * static_cast<double>(workload.sequence_length);
  const auto gpus = static_cast<double>(gpus_);
  p.tokens_per_second = tokens / p.step.value;
  p.tokens_per_second_per_gpu = p.tokens_per_second / gpus;
  p.model_flops_per_gpu = {pricer_.model_flops_per_token_.value * p.tokens_per_second_per_gpu};
  p.mfu = p.model_flops_per_gpu.value / machine.peak[workload.formats.compute].value;
  p.gpu_hours_per_trillion_tokens = 1e12 / p.tokens_per_second_per_gpu / 3600;
  if (machine.price_per_gpu_hour)
    p.cost_per_trillion_tokens = p.gpu_hours_per_trillion_tokens * *machine.price_per_gpu_hour;
  return p;
}

std::vector<TraceSpan> PipelineShape::trace(const Data& data) const {
  const AllAdded all_moves = all_added(data);
  const PipelineTimes t = times(all_moves);
  std::vector<std::vector<Task>> tasks;
  for (const Order& order : orders()) tasks.push_back(tasks_of(order));
  std::vector<TraceSpan> spans;
  std::vector<Seconds> ends(at(t.stages));
  for (const PlayedTask& played : play_in_detail(route_, tasks, t, pipeline_.micro_batches)) {
    static constexpr const char* kNames[] = {"forward", "backward", "input gradient", "weight gradient", "pair"};
    const std::string kind = kNames[static_cast<int>(played.task.kind)];
    std::string name = kind + " " + std::to_string(played.task.micro_batch);
    if (played.task.kind == Task::Kind::pair) name += " and " + std::to_string(played.task.backward_micro_batch);
    if (route_.chunks() > 1) name += " of chunk " + std::to_string(played.task.chunk);
    spans.push_back({"stage " + std::to_string(played.stage), "pipeline", name, kind, played.start, played.end});
    ends[at(played.stage)] = std::max(ends[at(played.stage)], played.end);
  }
  for (int s = 0; s < t.stages; ++s) {
    const Tail after = tail(data, all_moves, s);
    Seconds now = ends[at(s)];
    for (const auto& [name, length] : {std::pair{"reduce gradients", after.reduction},
                                       {"optimizer", after.optimizer},
                                       {"gather parameters", after.gather},
                                       {"every step's own", fixed_}}) {
      if (length == Seconds{}) continue;
      spans.push_back({"stage " + std::to_string(s), "pipeline", name, "step", now, now + length});
      now += length;
    }
  }
  return spans;
}

}  // namespace shardwright
