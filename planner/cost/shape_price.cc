#include "planner/cost/shape_price.h"

#include <algorithm>
#include <cassert>

#include "planner/cost/node_cost.h"
#include "planner/cost/row_traffic.h"
#include "planner/declare.h"
#include "planner/recompute.h"

namespace shardwright {
namespace {

/// Matrix products of the embedding and the head stay in 16 bits where the layers' are narrower, as FP8 recipes have it
/// (DeepSeek-V3 report, 3.3.1; Transformer Engine recipes leave the output layer out).
TrainingFormats at_the_ends(TrainingFormats formats) {
  if (bytes_per_element(formats.compute) < 2) formats.compute = DataType::bf16;
  if (bytes_per_element(formats.parameter) < 2) formats.parameter = DataType::bf16;
  return formats;
}

void add(PassPrice& pass, const NodeCost& cost, bool forward) {
  (forward ? pass.forward_compute : pass.backward_compute) += cost.compute;
  (forward ? pass.forward_communication : pass.backward_communication) += cost.communication;
  pass.error += cost.error;
}

class GraphPricer {
 public:
  GraphPricer(const OpGraph& graph, const Layout& layout, const Mesh& mesh, const Model& model, const Machine& machine,
              const Workload& workload, const TrainingFormats& formats)
      : graph_(graph),
        extents_(layout_extents(graph, layout, workload.sequence_length)),
        mesh_(mesh),
        context_{graph_,
                 extents_,
                 mesh_,
                 machine,
                 formats,
                 graph.find_dim("key_sequence"),
                 graph.find_dim("expert"),
                 row_crossing(model, layout, mesh, machine)},
        sharded_(shard(graph_, extents_, mesh_, declarations(layout, model, workload))) {}

  GraphPrice price(const std::vector<Recompute>& choices) const {
    GraphPrice result;
    int most = 0;
    for (const Recompute& choice : choices) most = std::max(most, index_of(choice));
    result.passes.resize(static_cast<std::size_t>(most) + 1);
    std::vector<std::pair<unsigned, std::size_t>> known;  // choices that recompute the same of this graph are alike
    std::vector<NodeCost> costs;
    for (const Node& n : sharded_.nodes)
      costs.push_back(n.kind == Node::Kind::gather_parameter ? NodeCost{} : node_cost(context_, sharded_, n));
    const unsigned here = modules_here();
    for (const Recompute& choice : choices) {
      const auto at = static_cast<std::size_t>(index_of(choice));
      const unsigned same = choice.full ? 1u << kRecomputeModules : choice.modules & here;
      const auto alike = std::find_if(known.begin(), known.end(), [&](const auto& k) { return k.first == same; });
      if (alike != known.end()) {
        result.passes[at] = result.passes[alike->second];
        continue;
      }
      known.push_back({same, at});
      const BackwardPlan plan = plan_backward(graph_, sharded_, choice);
      PassPrice& pass = result.passes[at];
      for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) add(pass, costs[i], true);
      for (NodeId n : plan.order) add(pass, costs[static_cast<std::size_t>(n)], false);
      pass.need = activation_need(graph_, sharded_, plan, context_.formats);
    }
    fill_buckets(result);
    return result;
  }

 private:
  Declarations declarations(const Layout& layout, const Model& model, const Workload& workload) const {
    Declarations says = declare(graph_, layout, mesh_);
    if (layout.expert == 1 || workload.expert_load.kind == ExpertLoad::Kind::balanced || workload.capacity_factor > 0)
      return says;
    says.fullest.assign(graph_.dims().size(), 1);
    says.fullest[static_cast<std::size_t>(context_.expert_dim)] = busiest_part(
        relative_loads(workload.expert_load, model.n_routed_experts, model.num_experts_per_tok), layout.expert);
    return says;
  }
  /// Modules that have a node in this graph: the others change nothing in it.
  unsigned modules_here() const {
    unsigned modules = 0;
    for (const Node& n : sharded_.nodes) modules |= modules_of(n.region);
    return modules;
  }
  void fill_buckets(GraphPrice& result) const {
    std::vector<char> forward(graph_.tensors().size()), backward(graph_.tensors().size());
    for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) {
      const Node& n = sharded_.nodes[i];
      if (n.kind != Node::Kind::gather_parameter) continue;
      const TensorId t = sharded_.value(n.inputs[0]).tensor;
      (i < sharded_.forward_nodes ? forward : backward)[static_cast<std::size_t>(t)] = 1;
    }
    const auto tensor = static_cast<AxisSet>(set_of(mesh_.tuple("tp.kv")) | set_of(mesh_.tuple("tp.rep")));
    for (const WeightState& w : sharded_.weights) {
      AxisSet reduced = 0;
      for (int i = 0; i < w.reduction.count; ++i) reduced = static_cast<AxisSet>(reduced | w.reduction.steps[i].axes);
      const bool routed = is_of_expert(graph_, graph_.tensor(w.tensor));
      WeightBucket& b =
          bucket(result.buckets, routed, routed ? RankGroup{} : mesh_.group(static_cast<AxisSet>(reduced & tensor)));
      b.elements += w.used_elements;
      const auto t = static_cast<std::size_t>(w.tensor);
      if (forward[t]) b.gathered_forward += w.used_elements;
      if (backward[t]) b.gathered_backward += w.used_elements;
      if (graph_.tensors()[t].name == "embed_tokens") result.tied_elements += w.used_elements;
    }
  }
  static WeightBucket& bucket(std::vector<WeightBucket>& buckets, bool routed, const RankGroup& tensor_ranks) {
    for (WeightBucket& b : buckets)
      if (b.routed == routed && b.tensor_ranks == tensor_ranks) return b;
    buckets.push_back({routed, tensor_ranks, 0, 0, 0});
    return buckets.back();
  }

  const OpGraph& graph_;
  std::vector<std::int64_t> extents_;
  const Mesh& mesh_;
  CostContext context_;
  ShardedGraph sharded_;
};

}  // namespace

Shape shape_of(const Layout& l) {
  Shape shape = {l.tensor,
                 l.context,
                 l.micro_batch,
                 l.sequence_parallel,
                 l.context > 1 ? l.context_kind : ContextParallel::all_gather,
                 l.expert,
                 l.expert_tensor,
                 l.expert > 1 ? l.dispatcher : Dispatcher::all_to_all,
                 1};
  const bool crosses_data = std::int64_t{l.expert} * l.expert_tensor > std::int64_t{l.tensor} * l.context;
  if (crosses_data && l.rank_order == RankOrder::tp_cp_pp_dp) shape.between = l.pipeline;
  return shape;
}

std::vector<Recompute> recompute_choices(const Model& model) {
  const auto bit = [](RecomputeModule m) { return 1u << static_cast<int>(m); };
  unsigned modules = bit(RecomputeModule::core_attn) | bit(RecomputeModule::layernorm);
  const unsigned both = bit(RecomputeModule::moe) | bit(RecomputeModule::moe_act);
  modules |= model.n_routed_experts > 0 ? both : bit(RecomputeModule::mlp);
  if (model.kv_lora_rank > 0) modules |= bit(RecomputeModule::mla_up_proj);
  std::vector<Recompute> choices;
  for (unsigned set = 0; set < 1u << kRecomputeModules; ++set)
    if ((set & ~modules) == 0 && (set & both) != both) choices.push_back({false, static_cast<std::uint8_t>(set)});
  choices.push_back({true, 0});
  return choices;
}

int index_of(const Recompute& recompute) { return recompute.full ? 1 << kRecomputeModules : recompute.modules; }

Layout sample_layout(const Shape& shape) {
  Layout l;
  l.tensor = shape.tensor;
  l.context = shape.context;
  l.micro_batch = shape.micro_batch;
  l.sequence_parallel = shape.sequence_parallel;
  l.context_kind = shape.context_kind;
  l.expert = shape.expert;
  l.expert_tensor = shape.expert_tensor;
  l.dispatcher = shape.dispatcher;
  if (shape.between > 1) {
    l.pipeline = shape.between;
    l.rank_order = RankOrder::tp_cp_pp_dp;
  }
  const int folded = std::max(1, shape.expert * shape.expert_tensor / (shape.tensor * shape.context));  // of dp
  l.data = folded * 4;
  l.zero = 3;
  l.shard_group = 2 * folded * shape.context;
  return l;
}

namespace {

Mesh mesh_of(const Layout& layout, const Model& model) {
  auto refined = stage_mesh(layout, model);
  assert(std::holds_alternative<Mesh>(refined) && "callers reject shapes whose degrees have no common mesh");
  return std::get<Mesh>(std::move(refined));
}

}  // namespace

GraphPrice price_head(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                      const Shape& shape) {
  const Layout layout = sample_layout(shape);
  const Mesh mesh = mesh_of(layout, model);
  return GraphPricer(graphs.head, layout, mesh, model, machine, workload, at_the_ends(workload.formats))
      .price({Recompute{}});
}

ShapePrice price_shape(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                       const Shape& shape, const std::vector<Recompute>& choices) {
  const Layout layout = sample_layout(shape);
  const Mesh mesh = mesh_of(layout, model);
  ShapePrice price;
  const std::vector<Recompute> none = {Recompute{}};
  const TrainingFormats ends = at_the_ends(workload.formats);
  price.embedding = GraphPricer(graphs.embedding, layout, mesh, model, machine, workload, ends).price(none);
  price.head = price_head(graphs, model, machine, workload, shape);
  for (const OpGraph& graph : graphs.layer_classes)
    price.layers.push_back(GraphPricer(graph, layout, mesh, model, machine, workload, workload.formats).price(choices));
  const std::int64_t cut = std::int64_t{shape.context} * (shape.sequence_parallel ? shape.tensor : 1);
  price.stream = {shape.micro_batch * (workload.sequence_length / cut) * model.hidden_size *
                  (bytes_per_element(workload.formats.compute) >= 4 ? 4 : 2)};
  return price;
}

}  // namespace shardwright
