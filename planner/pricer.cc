#include "planner/pricer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <tuple>

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

std::optional<Rejection> impossible_mesh(const Model& model, const Layout& l) {
  if (model.n_routed_experts == 0) return std::nullopt;
  const auto mesh = stage_mesh(l, model);
  if (const std::string* why = std::get_if<std::string>(&mesh)) return Rejection{"mesh", *why};
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
  if (auto why = impossible_mesh(model, layout)) return why;
  if (auto why = impossible_pipeline(model, workload, layout)) return why;
  return impossible_group(layout);
}

Pricer::Pricer(const Model& model, const Machine& machine, const Workload& workload)
    : model_(model),
      machine_(machine),
      workload_(workload),
      graphs_(model_graphs(model, {.fused_attention = workload.fused_attention,
                                   .dropout = workload.dropout,
                                   .capacity_factor = workload.capacity_factor})),
      choices_(recompute_choices(model)) {
  if (workload.expert_load.kind != ExpertLoad::Kind::balanced && model.n_routed_experts > 0)  // drawn up once
    workload_.expert_load = {ExpertLoad::Kind::histogram, 0,
                             relative_loads(workload.expert_load, model.n_routed_experts, model.num_experts_per_tok)};
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

std::vector<Recompute> Pricer::priced_with(const Recompute& recompute) const {
  const bool listed = std::find(choices_.begin(), choices_.end(), recompute) != choices_.end();
  return listed ? choices_ : std::vector<Recompute>{recompute};
}

const ShapePrice& Pricer::shape(const Shape& shape, const Recompute& recompute) {
  const std::vector<Recompute> choices = priced_with(recompute);
  {
    const std::lock_guard lock(mutex_);
    if (auto known = shapes_.find({shape, index_of(choices.front())}); known != shapes_.end()) return *known->second;
  }
  return remember(shape, recompute, shape_pricer(shape).price(shape.micro_batch, choices));
}

const ShapePrice& Pricer::remember(const Shape& shape, const Recompute& recompute, ShapePrice price) {
  auto kept = std::make_unique<ShapePrice>(std::move(price));
  const std::lock_guard lock(mutex_);
  return *shapes_.try_emplace({shape, index_of(priced_with(recompute).front())}, std::move(kept)).first->second;
}

ShapePricer Pricer::shape_pricer(const Shape& shape) {
  return ShapePricer(derived_, graphs_, model_, machine_, workload_, shape);
}

LeastPrice Pricer::least(Shape shape) {
  shape.micro_batch = 1;
  ShapePricer pricer = shape_pricer(shape);
  std::vector<Least> graphs;
  for (std::size_t i = 0; i < pricer.graphs(); ++i) {
    const std::pair key(i, part_that_matters(pricer.graph(i), shape));
    {
      const std::lock_guard lock(mutex_);
      if (auto known = least_.find(key); known != least_.end()) {
        graphs.push_back(known->second);
        continue;
      }
    }
    graphs.push_back({pricer.of_graph(i).least({Recompute{}}), pricer.of_graph(i).weights()});
    const std::lock_guard lock(mutex_);
    if (!(key.second == shape)) least_.try_emplace(key, graphs.back());
  }
  LeastPrice least;
  std::tie(least.embedding, least.weights.embedding) = std::move(graphs[0]);
  std::tie(least.head, least.weights.head) = std::move(graphs[1]);
  for (std::size_t i = 2; i < graphs.size(); ++i) {
    least.layers.push_back(graphs[i].first);
    least.weights.layers.push_back(std::move(graphs[i].second));
  }
  least.weights.stream = pricer.stream(1);
  return least;
}

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

Floor::Floor(const Pricer& pricer, const Layout& layout, Bytes stream, bool balanced)
    : micro_batches_(static_cast<double>(layout.micro_batches(pricer.workload_.global_batch))),
      stages_(layout.pipeline),
      balanced_(balanced),
      stream_(stream) {
  if (layout.virtual_pipeline == 1) drained_ = 1 / (1 - std::pow(1 - 1 / micro_batches_, stages_));
  if (stages_ > 1) {
    RankGroup pair;
    pair.add(2, between_stages(layout));
    send_ = collective_cost({CollectiveKind::send_recv, stream, pair}, pricer.machine_).time;
  }
}

Floor::Passes Floor::passes(const Pricer& pricer, const ShapePrice& shape, const Recompute& recompute) {
  const auto r = static_cast<std::size_t>(index_of(recompute));
  Passes sum;
  const auto add = [&](const PassPrice& pass, int count) {
    sum.once += count * (pass.forward() + pass.backward());
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
    sum.once += count * (pass.forward.at(share) + pass.backward.at(share));
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
  const auto add = [&](const DataCost& d, int count) {
    sum.once += count * (d.forward + d.backward);
    sum.after += count * (d.reduction + d.optimizer + d.gather);
    sum.resident.push_back(count * static_cast<double>((d.weights + d.gradients + d.optimizer_state).value));
    sum.buffer = std::min(sum.buffer, static_cast<double>(d.buffer.value));
  };
  for (std::size_t c = 0; c < data.layers.size(); ++c) add(data.layers[c], pricer.class_layers_until_[c].back());
  add(data.embedding, 1);
  add(data.head, 1);
  return sum;
}

Seconds Floor::time(const Passes& passes, const Weights& weights) const {
  const double p = stages_, m = micro_batches_;
  const Seconds once = passes.once + weights.once;
  // Stage i > 0 waits for the forwards of the embedding and of a layer in each chunk between: the mean over the stages.
  const Seconds layer = balanced_ ? passes.layer_forward : Seconds{};
  const Seconds waits =
      (p - 1) / p * passes.embedding_forward + (p - 1) * (p - 2) / (2 * p) * layer + (p - 1) / 2 * send_;
  const Seconds mean = (1 / p) * (m * once + weights.after) + waits;
  return (1 - 1e-9) * std::max(mean, drained_ * once);
}

Bytes Floor::memory(const Passes& passes, const Weights& weights) const {
  const Bytes received = stages_ > 1 ? 2 * stream_ : Bytes{};
  const double any_graph = balanced_ ? passes.transient + weights.buffer : 0;
  double together = 0;
  for (std::size_t g = 0; g < passes.saved.size(); ++g) together += passes.saved[g] + weights.resident[g];
  const double mean = std::max(together / stages_, stages_ > 1 ? weighted_mean(passes, weights) : 0.0);
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
