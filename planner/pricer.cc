#include "planner/pricer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "planner/cost/collective_cost.h"
#include "planner/pipeline/pipeline_shape.h"
#include "planner/search/split.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

std::string text(std::int64_t n) { return std::to_string(n); }

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
    if (const auto gemm = product_of(question))
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

std::int64_t between_stages(const Layout& l) {
  const std::int64_t dense = std::int64_t{l.tensor} * l.context;
  return l.rank_order == RankOrder::tp_cp_pp_dp ? dense : dense * l.data;
}

namespace {

/// What hands a rank's residual stream on: a send, and where each rank of a tensor group sent a part, its gathering.
std::vector<CollectiveSpec> handover(const Layout& layout, Bytes stream, const Engine& engine) {
  RankGroup pair, tensor;
  pair.add(2, between_stages(layout));
  if (!engine.scatters_sends || layout.sequence_parallel || layout.tensor == 1)
    return {{CollectiveKind::send_recv, stream, pair}};
  tensor.add(layout.tensor, 1);
  return {{CollectiveKind::send_recv, {stream.value / layout.tensor}, pair},
          {CollectiveKind::all_gather, stream, tensor}};
}

}  // namespace

Seconds send_time(const Layout& layout, Bytes stream, const Machine& machine, const Engine& engine) {
  if (layout.pipeline == 1) return {};
  const EngineConstants& constants = engine.constants;
  const double beside = layout.overlap.has(Overlap::p2p) ? constants[EngineConstant::hidden_communication_factor] : 1;
  Seconds time;
  for (const CollectiveSpec& part : handover(layout, stream, engine)) time += collective_cost(part, machine).time;
  return constants[EngineConstant::communication_factor] * beside * time;
}

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
  if (l.schedule == Schedule::interleaved && l.micro_batches(workload.global_batch) % l.pipeline != 0)
    return Rejection{"interleaving", text(l.micro_batches(workload.global_batch)) +
                                         " micro-batches are no multiple of pp " + text(l.pipeline)};
  try {
    check(pipeline_of(l, workload.global_batch));
  } catch (const std::invalid_argument& e) { return Rejection{"schedule", e.what()}; }
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

Pricer::Pricer(const PlanRequest& request)
    : Pricer(request.model, evenly_filled(request.machine, request.gpus), request.workload, request.engine) {}

Pricer::Pricer(const Model& model, const Machine& machine, const Workload& workload, const Engine& engine)
    : model_(model),
      machine_(as_used_by(engine, machine)),
      workload_(workload),
      engine_(engine),
      graphs_(model_graphs(model, graph_options(workload))),
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

void Pricer::change(const EngineConstants& constants, const SustainedTimes& clocks) {
  engine_.constants = constants;
  machine_.sustained = clocks;
  machine_ = as_used_by(engine_, std::move(machine_));
  shapes_.clear();
  least_.clear();
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

ShapePricer Pricer::shape_pricer(const Shape& shape, SharedPrices* shared) {
  return ShapePricer(derived_, graphs_, model_, machine_, workload_, engine_, shape, shared);
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

std::vector<int> Pricer::balanced_layers(const ShapePrice& shape, const Recompute& recompute, int chunks,
                                         int most) const {
  const auto none = static_cast<std::size_t>(index_of({})), chosen = static_cast<std::size_t>(index_of(recompute));
  const auto both = [](const PassPrice& p) { return p.forward().value + p.backward().value; };
  const double first = both(shape.embedding.passes[none]), last = both(shape.head.passes[none]);
  if (shape.layers.size() == 1)
    return balanced_split(static_cast<int>(graphs_.class_of_layer.size()), both(shape.layers[0].passes[chosen]), first,
                          last, chunks, most);
  std::vector<double> seconds;
  for (int c : graphs_.class_of_layer)
    seconds.push_back(both(shape.layers[static_cast<std::size_t>(c)].passes[chosen]));
  return balanced_split(seconds, first, last, chunks, most);
}

CollectiveSpec Pricer::tied_reduction(const Layout& layout, const ShapePrice& shape) const {
  RankGroup ends;
  ends.add(2, between_stages(layout) * (layout.pipeline - 1));
  const double bytes =
      static_cast<double>(shape.embedding.tied_elements) * bytes_per_element(workload_.formats.gradient_reduce);
  return {CollectiveKind::all_reduce, {static_cast<std::int64_t>(bytes)}, ends};
}

Pricer::Data Pricer::data_of(const ShapePrice& shape, const Layout& layout) const {
  const bool tied = model_.tie_word_embeddings;
  Data data;
  data.overlap = layout.overlap;
  data.zero = layout.zero;
  data.layers.reserve(shape.layers.size());
  for (const GraphPrice& g : shape.layers)
    data.layers.push_back(data_cost(g, layout, machine_, workload_, false, engine_));
  data.embedding = data_cost(shape.embedding, layout, machine_, workload_, false, engine_);
  data.head = data_cost(shape.head, layout, machine_, workload_, tied && layout.pipeline == 1, engine_);
  if (!tied && shape.head.tied_elements > 0) {
    const DataCost without = data_bytes(shape.head, layout, workload_, true, engine_);
    data.second_table.weights = data.head.weights - without.weights;
    data.second_table.gradients = data.head.gradients - without.gradients;
    data.second_table.optimizer_state = data.head.optimizer_state - without.optimizer_state;
  }
  if (tied && layout.pipeline > 1)
    data.tied.reduction = engine_.constants[EngineConstant::communication_factor] *
                          collective_cost(tied_reduction(layout, shape), machine_).time;
  return data;
}

Prediction Pricer::price(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).predict(data_of(known, layout));
}

std::vector<Order> Pricer::orders(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).orders();
}

std::vector<AskedKernel> Pricer::asked(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  ShapePricer pricer = shape_pricer(shape_of(layout));
  const auto micro_batches = static_cast<double>(layout.micro_batches(workload_.global_batch));
  const double stages = layout.pipeline;
  std::vector<AskedKernel> all;
  const auto add = [&](double times, std::vector<AskedKernel> asked) {
    for (AskedKernel& kernel : asked) {
      kernel.times *= times / stages;
      all.push_back(std::move(kernel));
    }
  };
  const bool one_table = model_.tie_word_embeddings && layout.pipeline == 1;
  for (std::size_t g = 0; g < pricer.graphs(); ++g) {
    const double layers = g < 2 ? 1 : class_layers_until_[g - 2].back();
    const GraphPrice& weights = g == 0 ? known.embedding : g == 1 ? known.head : known.layers[g - 2];
    AskedForData data = asked_for_data(weights, layout, machine_, workload_.formats, g == 1 && one_table, engine_);
    add(layers * micro_batches, pricer.of_graph(g).asked(layout.micro_batch, g < 2 ? Recompute{} : layout.recompute));
    add(layers * micro_batches, std::move(data.each));
    add(layers, std::move(data.once));
  }
  if (layout.pipeline == 1) return all;
  const auto collective = [&](const CollectiveSpec& spec) {
    return std::vector<AskedKernel>{{spec, collective_cost(spec, machine_), 1}};
  };
  const int borders = layout.pipeline * layout.virtual_pipeline - 1;
  for (const CollectiveSpec& part : handover(layout, known.stream, engine_))
    add(2 * borders * micro_batches, collective(part));
  if (model_.tie_word_embeddings) add(2, collective(tied_reduction(layout, known)));
  return all;
}

std::array<double, 4> Pricer::source_share(const Layout& layout) {
  std::array<double, 4> shares = {};
  if (!machine_.measured) {
    shares[static_cast<std::size_t>(CostSource::datasheet)] = 1;
    return shares;
  }
  SourceTimes sum;
  for (const AskedKernel& kernel : asked(layout)) sum[kernel.cost.source] += kernel.times * kernel.cost.time;
  for (std::size_t i = 0; i < shares.size(); ++i) shares[i] = sum.times[i] / sum.total();
  return shares;
}

Seconds Pricer::lower_bound(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).lower_bound(data_of(known, layout));
}

double Pricer::half_width(double kernel_sigma) const {
  const PredictionErrors& errors = engine_.errors;
  const double engine = model_.n_routed_experts > 0 ? errors.step_of_experts : errors.step;
  const double clock = machine_.sustained.product == SustainedTimes{}.product ? errors.unknown_clock : 0;
  return std::hypot(kSigmasOf80 * kernel_sigma, engine, clock);
}

Bytes Pricer::worst_reserved(const Layout& layout) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  return PipelineShape(*this, known, layout).worst_reserved(data_of(known, layout));
}

}  // namespace shardwright
