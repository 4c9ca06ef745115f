#include "planner/pricer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "planner/cost/collective_cost.h"
#include "planner/declare.h"
#include "planner/pipeline/play.h"
#include "planner/split.h"

namespace shardwright {
namespace {

std::string text(std::int64_t n) { return std::to_string(n); }

/// Ranks from one pipeline stage to the next.
std::int64_t between_stages(const Layout& l) {
  const std::int64_t dense = std::int64_t{l.tensor} * l.context;
  return l.rank_order == RankOrder::tp_cp_pp_dp ? dense : dense * l.data;
}

/// Forward work of one token through a graph, whole.
double forward_flops_per_token(const OpGraph& graph, const Model& model, const Machine& machine,
                               const Workload& workload) {
  const Layout one;
  const auto refined = stage_mesh(one, model);
  const Mesh& mesh = std::get<Mesh>(refined);
  const auto extents = layout_extents(graph, one, workload.sequence_length);
  const ShardedGraph whole = shard(graph, extents, mesh, declare(graph, one, mesh));
  const CostContext context{graph, extents, mesh, machine, workload.formats};
  double flops = 0;
  for (std::size_t i = 0; i < whole.forward_nodes; ++i) {
    const Node& n = whole.nodes[i];
    if (n.kind != Node::Kind::compute) continue;
    const auto question = node_question(context, whole, n);
    if (const auto* gemm = std::get_if<GemmSpec>(&question))
      flops += 2.0 * static_cast<double>(gemm->batch * gemm->m) * static_cast<double>(gemm->n * gemm->k);
    if (const auto* attention = std::get_if<AttentionSpec>(&question)) flops += attention->work().value;
  }
  return flops / static_cast<double>(workload.sequence_length);
}

std::optional<Rejection> impossible_feed_forward(const Model& model, const Layout& l) {
  const auto cuts = [](const char* degree, std::int64_t parts, const char* width,
                       std::int64_t size) -> std::optional<Rejection> {
    if (size % parts == 0) return std::nullopt;
    return Rejection{"ffn", std::string(degree) + " " + text(parts) + " does not divide " + width + " " + text(size)};
  };
  const bool dense = model.n_routed_experts == 0 || model.first_k_dense_replace > 0 || model.moe_layer_freq > 1;
  if (dense)
    if (auto why = cuts("tp", l.tensor, "intermediate_size", model.intermediate_size)) return why;
  if (model.n_routed_experts == 0) {
    if (l.expert * l.expert_tensor == 1) return std::nullopt;
    return Rejection{"experts",
                     model.name + " has no experts for ep " + text(l.expert) + ", etp " + text(l.expert_tensor)};
  }
  if (model.n_routed_experts % l.expert != 0)
    return Rejection{"experts",
                     "ep " + text(l.expert) + " does not divide the " + text(model.n_routed_experts) + " experts"};
  // Megatron-Core asks for it, too (megatron/core/transformer/moe): without it every tp rank would route all tokens.
  if (l.tensor > 1 && !l.sequence_parallel)
    return Rejection{"experts", "a mixture of experts with tp " + text(l.tensor) + " needs sequence_parallel"};
  if (auto why = cuts("etp", l.expert_tensor, "moe_intermediate_size", model.moe_intermediate_size)) return why;
  if (auto why = cuts("tp", l.tensor, "the shared experts' width", model.shared_width())) return why;
  const auto mesh = stage_mesh(l, model);
  if (const std::string* why = std::get_if<std::string>(&mesh)) return Rejection{"mesh", *why};
  return std::nullopt;
}

}  // namespace

std::optional<Rejection> impossible_shape(const Model& model, const Machine& machine, const Workload& workload,
                                          const Layout& l) {
  if (!supports(machine, workload.formats.compute))
    return Rejection{"precision",
                     machine.name + " does not compute in " + std::string(name_of(workload.formats.compute))};
  const std::int64_t tp = l.tensor, kv = model.key_heads();
  const std::int64_t group = model.num_attention_heads / kv, shared = tp > kv ? tp / std::gcd(tp, kv) : 1;
  if (kv % (tp / shared) != 0 || group % shared != 0)
    return Rejection{"heads", "tp " + text(tp) + " does not cut " + text(kv) + " KV heads with " + text(group) +
                                  " query heads each into equal parts"};
  const bool ulysses = l.context > 1 && l.context_kind == ContextParallel::ulysses;
  if (ulysses && kv / (tp / shared) % l.context != 0)
    return Rejection{"heads", "ulysses with cp " + text(l.context) + " cannot cut the " + text(kv / (tp / shared)) +
                                  " KV heads that tp leaves"};
  if (const auto why = impossible_feed_forward(model, l)) return why;
  const std::int64_t cut = std::int64_t{l.context} * (l.sequence_parallel ? tp : 1);
  if (workload.sequence_length % cut != 0)
    return Rejection{"sequence", (l.sequence_parallel ? "cp * tp " : "cp ") + text(cut) +
                                     " does not divide sequence_length " + text(workload.sequence_length)};
  return std::nullopt;
}

std::optional<Rejection> impossible_pipeline(const Model& model, const Workload& workload, const Layout& l) {
  const std::int64_t chunks = std::int64_t{l.pipeline} * l.virtual_pipeline;
  if (chunks - 2 > model.num_hidden_layers)
    return Rejection{"layers", text(chunks) + " chunks are too many for " + text(model.num_hidden_layers) +
                                   " layers: only the first and the last may be without one"};
  const std::int64_t together = std::int64_t{l.data} * l.micro_batch;
  if (workload.global_batch % together != 0)
    return Rejection{
        "batch", "dp * micro_batch " + text(together) + " does not divide global_batch " + text(workload.global_batch)};
  if (backward_tasks(l.schedule) != BackwardTasks::whole)
    return Rejection{"schedule", "the times of weight gradients alone, which " + std::string(name_of(l.schedule)) +
                                     " needs, are not priced"};
  if (l.schedule == Schedule::interleaved && l.micro_batches(workload.global_batch) % l.pipeline != 0)
    return Rejection{"interleaving", text(l.micro_batches(workload.global_batch)) +
                                         " micro-batches are no multiple of pp " + text(l.pipeline)};
  return std::nullopt;
}

std::optional<Rejection> impossible_group(const Layout& l) {
  const std::int64_t data = std::int64_t{l.data} * l.context;
  if (l.zero > 0 && (data % l.shard_group != 0 || l.shard_group % l.context != 0))
    return Rejection{"shard_group", "fsdp_group " + text(l.shard_group) + " must divide dp * cp " + text(data) +
                                        " and be a multiple of cp " + text(l.context)};
  return std::nullopt;
}

std::optional<Rejection> impossible(const Model& model, const Machine& machine, const Workload& workload,
                                    const Layout& layout) {
  if (auto why = impossible_shape(model, machine, workload, layout)) return why;
  if (auto why = impossible_pipeline(model, workload, layout)) return why;
  return impossible_group(layout);
}

Pricer::Pricer(const Model& model, const Machine& machine, const Workload& workload)
    : model_(model),
      machine_(machine),
      workload_(workload),
      graphs_(model_graphs(model, {workload.fused_attention, workload.dropout})),
      choices_(recompute_choices(model)) {
  const std::size_t layers = graphs_.class_of_layer.size();
  class_layers_until_.assign(graphs_.layer_classes.size(), std::vector<int>(layers + 1, 0));
  for (std::size_t c = 0; c < graphs_.layer_classes.size(); ++c)
    for (std::size_t i = 0; i < layers; ++i)
      class_layers_until_[c][i + 1] = class_layers_until_[c][i] + (graphs_.class_of_layer[i] == static_cast<int>(c));

  Model plain = model;  // published rates count the model itself
  plain.num_nextn_predict_layers = 0;
  const ModelGraphs fused = model_graphs(plain, {true, false});
  double forward = forward_flops_per_token(fused.head, model, machine, workload);
  std::vector<double> by_class;
  for (const OpGraph& g : fused.layer_classes) by_class.push_back(forward_flops_per_token(g, model, machine, workload));
  for (int c : fused.class_of_layer) forward += by_class[static_cast<std::size_t>(c)];
  model_flops_per_token_ = {3 * forward};
}

const ShapePrice& Pricer::shape(const Shape& shape, const Recompute& recompute) {
  const bool alone = std::find(choices_.begin(), choices_.end(), recompute) == choices_.end();
  const std::pair key(shape, alone ? index_of(recompute) : -1);
  {
    const std::lock_guard lock(mutex_);
    if (auto known = shapes_.find(key); known != shapes_.end()) return *known->second;
  }
  auto price = std::make_unique<ShapePrice>(
      price_shape(graphs_, model_, machine_, workload_, shape, alone ? std::vector<Recompute>{recompute} : choices_));
  const std::lock_guard lock(mutex_);
  return *shapes_.try_emplace(key, std::move(price)).first->second;
}

ShapePrice Pricer::plain_shape(const Shape& shape) const {
  return price_shape(graphs_, model_, machine_, workload_, shape, {Recompute{}});
}

GraphPrice Pricer::head(const Shape& shape) const { return price_head(graphs_, model_, machine_, workload_, shape); }

std::vector<int> Pricer::balanced_layers(const ShapePrice& shape, const Recompute& recompute, int chunks) const {
  const auto none = static_cast<std::size_t>(index_of({})), chosen = static_cast<std::size_t>(index_of(recompute));
  const auto both = [](const PassPrice& p) { return p.forward().value + p.backward().value; };
  const double first = both(shape.embedding.passes[none]), last = both(shape.head.passes[none]);
  if (shape.layers.size() == 1)
    return balanced_split(static_cast<int>(graphs_.class_of_layer.size()), both(shape.layers[0].passes[chosen]), first,
                          last, chunks);
  std::vector<double> seconds;
  for (int c : graphs_.class_of_layer)
    seconds.push_back(both(shape.layers[static_cast<std::size_t>(c)].passes[chosen]));
  return balanced_split(seconds, first, last, chunks);
}

Pricer::Data Pricer::data_of(const ShapePrice& shape, const Layout& layout) const {
  const TrainingFormats& formats = workload_.formats;
  const bool tied = model_.tie_word_embeddings;
  Data data;
  data.layers.reserve(shape.layers.size());
  for (const GraphPrice& g : shape.layers) data.layers.push_back(data_cost(g, layout, machine_, formats));
  data.embedding = data_cost(shape.embedding, layout, machine_, formats);
  data.head = data_cost(shape.head, layout, machine_, formats, tied && layout.pipeline == 1);
  if (tied && layout.pipeline > 1) {
    RankGroup ends;
    ends.add(2, between_stages(layout) * (layout.pipeline - 1));
    const double bytes =
        static_cast<double>(shape.embedding.tied_elements) * bytes_per_element(formats.gradient_reduce);
    data.tied.reduction =
        collective_cost({CollectiveKind::all_reduce, {static_cast<std::int64_t>(bytes)}, ends}, machine_).time;
  }
  return data;
}

Prediction Pricer::price(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).predict(data_of(known, layout));
}

Seconds Pricer::lower_bound(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).lower_bound(data_of(known, layout));
}

Bytes Pricer::worst_reserved(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).worst_reserved(data_of(known, layout));
}

// ---- Floor ----

Floor::Floor(const Pricer& pricer, const ShapePrice& shape, const Layout& layout, bool balanced)
    : micro_batches_(static_cast<double>(layout.micro_batches(pricer.workload_.global_batch))),
      stages_(layout.pipeline),
      one_chunk_(layout.virtual_pipeline == 1),
      balanced_(balanced) {
  for (std::size_t c = 0; c < shape.layers.size(); ++c) {
    layers_.push_back(pricer.class_layers_until_[c].back());
    forward_of_a_layer_ = std::min(forward_of_a_layer_, shape.layers[c].passes[0].forward());
  }
  if (!balanced) forward_of_a_layer_ = {};
  forward_of_embedding_ = shape.embedding.passes[0].forward();
  stream_ = shape.stream;
  if (stages_ > 1) {
    RankGroup pair;
    pair.add(2, between_stages(layout));
    send_ = collective_cost({CollectiveKind::send_recv, shape.stream, pair}, pricer.machine_).time;
  }
}

Floor::Passes Floor::passes(const ShapePrice& shape, const Recompute& recompute) const {
  const auto r = static_cast<std::size_t>(index_of(recompute));
  Passes sum;
  const auto add = [&](const PassPrice& pass, int count) {
    sum.once += count * (pass.forward() + pass.backward());
    sum.saved += count * pass.need.saved_reserved;
    sum.transient = std::min(sum.transient, pass.need.transient_reserved);
  };
  for (std::size_t c = 0; c < layers_.size(); ++c) add(shape.layers[c].passes[r], layers_[c]);
  add(shape.embedding.passes[0], 1);
  add(shape.head.passes[0], 1);
  return sum;
}

Floor::Weights Floor::weights(const Pricer::Data& data) const {
  Weights sum;
  const auto add = [&](const DataCost& d, int count) {
    sum.once += count * (d.forward + d.backward);
    sum.after += count * (d.reduction + d.optimizer + d.gather);
    sum.resident += count * (d.weights + d.gradients + d.optimizer_state);
    sum.buffer = std::min(sum.buffer, d.buffer);
  };
  for (std::size_t c = 0; c < layers_.size(); ++c) add(data.layers[c], layers_[c]);
  add(data.embedding, 1);
  add(data.head, 1);
  return sum;
}

Seconds Floor::time(const Passes& passes, const Weights& weights) const {
  const double p = stages_, m = micro_batches_;
  const Seconds once = passes.once + weights.once;
  // Stage i > 0 waits for the forwards of the embedding and of a layer in each chunk between: the mean over the stages.
  const Seconds waits =
      (p - 1) / p * forward_of_embedding_ + (p - 1) * (p - 2) / (2 * p) * forward_of_a_layer_ + (p - 1) / 2 * send_;
  const Seconds mean = (1 / p) * (m * once + weights.after) + waits;
  if (!one_chunk_) return (1 - 1e-9) * mean;
  const Seconds drained = (1 / (1 - std::pow(1 - 1 / m, p))) * once;
  return (1 - 1e-9) * std::max(mean, drained);
}

Bytes Floor::memory(const Passes& passes, const Weights& weights) const {
  const Bytes received = stages_ > 1 ? 2 * stream_ : Bytes{};
  const Bytes any_graph = balanced_ ? passes.transient + weights.buffer : Bytes{};
  return Bytes{(passes.saved + weights.resident).value / stages_} + any_graph + received;
}

// ---- PipelineShape ----

PipelineShape::PipelineShape(const Pricer& pricer, const ShapePrice& shape, const Layout& layout)
    : pricer_(pricer),
      shape_(shape),
      schedule_(layout.schedule),
      recompute_(static_cast<std::size_t>(index_of(layout.recompute))),
      micro_batches_(static_cast<int>(layout.micro_batches(pricer.workload_.global_batch))),
      classes_(static_cast<int>(shape.layers.size())),
      gpus_(layout.gpus()) {
  const int stages = layout.pipeline;
  const std::size_t chunks = layout.layers_per_chunk.size();
  assert(chunks == static_cast<std::size_t>(stages * layout.virtual_pipeline));

  base_.stages = stages;
  base_.chunks = layout.virtual_pipeline;
  base_.forward.resize(chunks);
  base_.backward.resize(chunks);
  chunk_layers_.resize(chunks * static_cast<std::size_t>(classes_));
  stage_layers_.resize(static_cast<std::size_t>(stages * classes_));
  kept_.assign(static_cast<std::size_t>(stages), Kept{{-1}, {-1}});
  for (int c = 0; c < classes_; ++c) {
    const std::vector<int>& until = pricer.class_layers_until_[static_cast<std::size_t>(c)];
    const Seconds forward = layer_pass(c).forward(), backward = layer_pass(c).backward();
    int at = 0;
    for (int g = 0; g < static_cast<int>(chunks); ++g) {
      const int next = at + layout.layers_per_chunk[static_cast<std::size_t>(g)];
      const int n = until[static_cast<std::size_t>(next)] - until[static_cast<std::size_t>(at)];
      chunk_layers_[static_cast<std::size_t>(g * classes_ + c)] = n;
      stage_layers_[static_cast<std::size_t>(g % stages * classes_ + c)] += n;
      base_.forward[static_cast<std::size_t>(g)] += n * forward;
      base_.backward[static_cast<std::size_t>(g)] += n * backward;
      at = next;
    }
  }
  base_.forward.front() += embedding_pass().forward();
  base_.backward.front() += embedding_pass().backward();
  base_.forward.back() += head_pass().forward();
  base_.backward.back() += head_pass().backward();
  if (stages > 1) {
    RankGroup pair;
    pair.add(2, between_stages(layout));
    base_.send = collective_cost({CollectiveKind::send_recv, shape.stream, pair}, pricer.machine_).time;
  }
}

PipelineTimes PipelineShape::times(const Data& data) const {
  PipelineTimes t = base_;
  for (int c = 0; c < classes_; ++c) {
    const DataCost& cost = data.layers[static_cast<std::size_t>(c)];
    if (cost.forward == Seconds{} && cost.backward == Seconds{}) continue;
    for (std::size_t g = 0; g < t.forward.size(); ++g) {
      const int layers = chunk_layers(static_cast<int>(g))[c];
      t.forward[g] += layers * cost.forward;
      t.backward[g] += layers * cost.backward;
    }
  }
  t.forward.front() += data.embedding.forward;
  t.backward.front() += data.embedding.backward;
  t.forward.back() += data.head.forward;
  t.backward.back() += data.head.backward;
  return t;
}

PipelineShape::Tail PipelineShape::tail(const Data& data, int stage) const {
  Tail t;
  const auto add = [&](const DataCost& d, double times) {
    t.reduction += times * d.reduction;
    t.optimizer += times * d.optimizer;
    t.gather += times * d.gather;
  };
  for (int c = 0; c < classes_; ++c) add(data.layers[static_cast<std::size_t>(c)], stage_layers(stage)[c]);
  if (stage == 0) add(data.embedding, 1);
  if (is_last(stage)) add(data.head, 1);
  if (stage == 0 || is_last(stage)) add(data.tied, 1);
  return t;
}

Seconds PipelineShape::lower_bound(const Data& data) const {
  const PipelineTimes t = times(data);
  // The last task of every schedule is the first chunk's last backward, on stage 0.
  Seconds bound = pipeline_lower_bound({schedule_, t.stages, t.chunks, micro_batches_}, t) + tail(data, 0).total();
  Seconds arrives;  // when a stage's first forward can start
  for (int s = 0; s < t.stages; ++s) {
    Seconds work;
    for (int c = 0; c < t.chunks; ++c) {
      const auto g = static_cast<std::size_t>(c * t.stages + s);
      work += t.forward[g] + t.backward[g];
    }
    // A hair below, so that the rounding of a play never falls under the bound.
    bound = std::max(bound, (1 - 1e-11) * (arrives + micro_batches_ * work) + tail(data, s).total());
    arrives += t.forward[static_cast<std::size_t>(s)] + t.send;
  }
  return (1 - 1e-12) * bound;
}

/// Bytes of a stage that do not depend on the micro-batches in flight.
Bytes PipelineShape::unchanging(const Data& data, int stage, MemoryParts* parts) const {
  MemoryParts p;
  Bytes transient_reserved;
  const auto add = [&](const DataCost& d, const PassPrice& pass, std::int64_t count) {
    if (count == 0) return;
    p.weights += count * d.weights;
    p.gradients += count * d.gradients;
    p.optimizer += count * d.optimizer_state;
    p.buffers = std::max(p.buffers, d.buffer);
    p.transient = std::max(p.transient, pass.need.transient);
    transient_reserved = std::max(transient_reserved, pass.need.transient_reserved);
  };
  for (int c = 0; c < classes_; ++c)
    add(data.layers[static_cast<std::size_t>(c)], layer_pass(c), stage_layers(stage)[c]);
  if (stage == 0) add(data.embedding, embedding_pass(), 1);
  if (is_last(stage)) add(data.head, head_pass(), 1);
  if (base_.stages > 1) p.buffers += 2 * shape_.stream;  // one activation and one gradient on their way in
  if (parts) *parts = p;
  return p.total() - p.transient + transient_reserved;
}

/// Of one micro-batch.
PipelineShape::Kept PipelineShape::kept_of_chunk(int global_chunk) const {
  Kept kept;
  const auto add = [&](const PassPrice& pass, std::int64_t count) {
    kept.saved += count * pass.need.saved;
    kept.reserved += count * pass.need.saved_reserved;
  };
  for (int c = 0; c < classes_; ++c) add(layer_pass(c), chunk_layers(global_chunk)[c]);
  if (global_chunk == 0) add(embedding_pass(), 1);
  if (global_chunk + 1 == base_.stages * base_.chunks) add(head_pass(), 1);
  return kept;
}

std::vector<int> PipelineShape::in_flight_counts(int stage) const {
  std::vector<PassKeeps> keeps;
  keeps.reserve(static_cast<std::size_t>(base_.chunks));
  for (int c = 0; c < base_.chunks; ++c)
    keeps.push_back({static_cast<double>(kept_of_chunk(c * base_.stages + stage).reserved.value), 0});
  return in_flight(stage_order({schedule_, base_.stages, base_.chunks, micro_batches_}, stage), keeps).until_backward;
}

const PipelineShape::Kept& PipelineShape::kept(int stage) const {
  Kept& known = kept_[static_cast<std::size_t>(stage)];
  if (known.saved.value >= 0) return known;
  known = {};
  const std::vector<int> counts = in_flight_counts(stage);
  for (int c = 0; c < base_.chunks; ++c) {
    const Kept one = kept_of_chunk(c * base_.stages + stage);
    known.saved += counts[static_cast<std::size_t>(c)] * one.saved;
    known.reserved += counts[static_cast<std::size_t>(c)] * one.reserved;
  }
  return known;
}

StageMemory PipelineShape::memory(const Data& data, int stage) const {
  StageMemory m;
  m.reserved = unchanging(data, stage, &m.parts) + kept(stage).reserved;
  m.parts.activations = kept(stage).saved;
  m.allocated = m.parts.total();
  return m;
}

Bytes PipelineShape::worst_reserved(const Data& data) const {
  Bytes worst;
  for (int s = 0; s < base_.stages; ++s) worst = std::max(worst, unchanging(data, s, nullptr) + kept(s).reserved);
  return worst;
}

bool PipelineShape::fits(const Data& data) const {
  const Bytes usable = pricer_.machine_.usable_memory();
  for (int s = 0; s < base_.stages; ++s)
    if (unchanging(data, s, nullptr) > usable) return false;
  for (int s = 0; s < base_.stages; ++s)
    if (unchanging(data, s, nullptr) + kept(s).reserved > usable) return false;
  return true;
}

Prediction PipelineShape::predict(const Data& data) const {
  const Machine& machine = pricer_.machine_;
  const Workload& workload = pricer_.workload_;
  const PipelineTimes t = times(data);
  const Played played = play({schedule_, t.stages, t.chunks, micro_batches_}, t);

  Prediction p;
  int slowest = 0;
  Seconds busiest{-1};
  for (int s = 0; s < t.stages; ++s) {
    const auto i = static_cast<std::size_t>(s);
    const Seconds after = tail(data, s).total();
    p.step = std::max(p.step, played.stage_end[i] + after);
    if (played.stage_busy[i] + after > busiest) {
      busiest = played.stage_busy[i] + after;
      slowest = s;
    }
    p.stages.push_back(memory(data, s));
    if (p.stages.back().reserved > p.stages[static_cast<std::size_t>(p.worst_stage)].reserved) p.worst_stage = s;
  }

  // The slowest stage's time, part by part.
  Seconds error;
  const auto add = [&](const PassPrice& pass, const DataCost& d, int count) {
    const double times_run = static_cast<double>(count) * micro_batches_;
    p.compute += times_run * (pass.forward_compute + pass.backward_compute);
    p.communication += times_run * (pass.forward_communication + pass.backward_communication + d.forward + d.backward);
    error += times_run * (pass.error + machine.efficiency.relative_error * (d.forward + d.backward));
  };
  for (int c = 0; c < classes_; ++c)
    add(layer_pass(c), data.layers[static_cast<std::size_t>(c)], stage_layers(slowest)[c]);
  if (slowest == 0) add(embedding_pass(), data.embedding, 1);
  if (is_last(slowest)) add(head_pass(), data.head, 1);
  const Tail after = tail(data, slowest);
  p.communication += after.reduction + after.gather;
  p.exposed_communication = p.communication;
  p.optimizer = after.optimizer;
  p.bubble = std::max(Seconds{0}, p.step - p.compute - p.communication - p.optimizer);
  error += machine.efficiency.relative_error * after.total();
  const double relative = busiest.value > 0 ? error / busiest : 0;
  p.step_low = p.step * (1 - relative);
  p.step_high = p.step * (1 + relative);

  const double tokens = static_cast<double>(workload.global_batch) * static_cast<double>(workload.sequence_length);
  const auto gpus = static_cast<double>(gpus_);
  p.tokens_per_second = tokens / p.step.value;
  p.tokens_per_second_per_gpu = p.tokens_per_second / gpus;
  p.model_flops_per_gpu = {pricer_.model_flops_per_token_.value * p.tokens_per_second_per_gpu};
  p.mfu = p.model_flops_per_gpu.value / machine.peak[workload.formats.compute].value;
  p.source_share[static_cast<std::size_t>(CostSource::datasheet)] = 1;
  p.gpu_hours_per_trillion_tokens = 1e12 / p.tokens_per_second_per_gpu / 3600;
  if (machine.price_per_gpu_hour)
    p.cost_per_trillion_tokens = p.gpu_hours_per_trillion_tokens * *machine.price_per_gpu_hour;
  return p;
}

}  // namespace shardwright
