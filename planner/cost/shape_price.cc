#include "planner/cost/shape_price.h"

#include <algorithm>
#include <cassert>

#include "planner/cost/node_cost.h"
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
  GraphPricer(const OpGraph& graph, const Layout& layout, const Mesh& mesh, const Machine& machine,
              const Workload& workload, const TrainingFormats& formats)
      : graph_(graph),
        extents_(layout_extents(graph, layout, workload.sequence_length)),
        mesh_(mesh),
        context_{graph_, extents_, mesh_, machine, formats},
        sharded_(shard(graph_, extents_, mesh_, declare(graph_, layout, mesh_))) {}

  GraphPrice price(const std::vector<int>& choices) const {
    GraphPrice result;
    result.passes.resize(recompute_choices().size());
    std::vector<NodeCost> costs;
    for (const Node& n : sharded_.nodes)
      costs.push_back(n.kind == Node::Kind::gather_parameter ? NodeCost{} : node_cost(context_, sharded_, n));
    for (int choice : choices) {
      const BackwardPlan plan = plan_backward(graph_, sharded_, recompute_choices()[static_cast<std::size_t>(choice)]);
      PassPrice& pass = result.passes[static_cast<std::size_t>(choice)];
      for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) add(pass, costs[i], true);
      for (NodeId n : plan.order) add(pass, costs[static_cast<std::size_t>(n)], false);
      pass.need = activation_need(graph_, sharded_, plan, context_.formats);
    }
    fill_buckets(result);
    return result;
  }

 private:
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
      WeightBucket& b = bucket(result.buckets, mesh_.group(static_cast<AxisSet>(reduced & tensor)));
      b.elements += w.used_elements;
      const auto t = static_cast<std::size_t>(w.tensor);
      if (forward[t]) b.gathered_forward += w.used_elements;
      if (backward[t]) b.gathered_backward += w.used_elements;
      if (graph_.tensors()[t].name == "embed_tokens") result.tied_elements += w.used_elements;
    }
  }
  static WeightBucket& bucket(std::vector<WeightBucket>& buckets, const RankGroup& tensor_ranks) {
    for (WeightBucket& b : buckets)
      if (b.tensor_ranks == tensor_ranks) return b;
    buckets.push_back({tensor_ranks, 0, 0, 0});
    return buckets.back();
  }

  const OpGraph& graph_;
  std::vector<std::int64_t> extents_;
  const Mesh& mesh_;
  CostContext context_;
  ShardedGraph sharded_;
};

}  // namespace

Shape shape_of(const Layout& layout) {
  return {layout.tensor, layout.context, layout.micro_batch, layout.sequence_parallel};
}

const std::vector<Recompute>& recompute_choices() {
  static const std::vector<Recompute> choices = [] {
    std::vector<Recompute> list;
    for (int modules = 0; modules < 8; ++modules) list.push_back({false, static_cast<std::uint8_t>(modules)});
    list.push_back({true, 0});
    return list;
  }();
  return choices;
}

int index_of(const Recompute& recompute) { return recompute.full ? 8 : recompute.modules; }

Layout sample_layout(const Shape& shape) {
  Layout l;
  l.tensor = shape.tensor;
  l.context = shape.context;
  l.micro_batch = shape.micro_batch;
  l.sequence_parallel = shape.sequence_parallel;
  l.data = 4;
  l.zero = 3;
  l.shard_group = 2 * shape.context;
  return l;
}

ShapePrice price_shape(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                       const Shape& shape, const std::vector<int>& choices) {
  const Layout layout = sample_layout(shape);
  const auto refined = stage_mesh(layout, model);
  const Mesh* mesh = std::get_if<Mesh>(&refined);
  assert(mesh && "callers reject shapes whose degrees have no common mesh");
  ShapePrice price;
  const std::vector<int> none = {index_of({})};
  const TrainingFormats ends = at_the_ends(workload.formats);
  price.embedding = GraphPricer(graphs.embedding, layout, *mesh, machine, workload, ends).price(none);
  price.head = GraphPricer(graphs.head, layout, *mesh, machine, workload, ends).price(none);
  for (const OpGraph& graph : graphs.layer_classes)
    price.layers.push_back(GraphPricer(graph, layout, *mesh, machine, workload, workload.formats).price(choices));
  const std::int64_t cut = std::int64_t{shape.context} * (shape.sequence_parallel ? shape.tensor : 1);
  price.stream = {shape.micro_batch * (workload.sequence_length / cut) * model.hidden_size *
                  (bytes_per_element(workload.formats.compute) >= 4 ? 4 : 2)};
  return price;
}

}  // namespace shardwright
