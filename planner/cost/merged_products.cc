#include "planner/cost/merged_products.h"

#include <algorithm>

namespace shardwright {
namespace {

/// A layer's own product: a router's stays apart, and so does what has one column.
bool is_layer(const OpGraph& graph, const Operator& op) {
  return op.kind == OpKind::contraction && graph.tensor(op.inputs[1].tensor).role == TensorRole::weight &&
         graph.tensor(op.outputs[0].tensor).width == Width::compute && op.inputs[1].dims.size() > 1;
}

/// Of a gradient that a layer's product makes; -1 of others.
OpId layer_that_makes(const OpGraph& graph, const ShardedGraph& sharded, ValueId v, MergedProducts merges) {
  const NodeId maker = sharded.value(v).maker;
  if (maker < 0) return -1;
  const Node& made = sharded.nodes[static_cast<std::size_t>(maker)];
  const bool product = made.kind == Node::Kind::compute && made.gradient >= 0 && is_layer(graph, graph.op(made.op));
  return product ? merged_products(graph, made.op, merges).front() : -1;
}

/// Whether it was not there yet.
bool add_new(std::vector<OpId>& seen, OpId op) {
  if (std::find(seen.begin(), seen.end(), op) != seen.end()) return false;
  seen.push_back(op);
  return true;
}

}  // namespace

std::vector<OpId> merged_products(const OpGraph& graph, OpId id, MergedProducts merges) {
  const Operator& op = graph.op(id);
  const bool in_attention = op.region == Region::none || op.region == Region::mla_up_proj;
  const bool may = merges == MergedProducts::all || (merges == MergedProducts::attention && in_attention);
  if (!may || !is_layer(graph, op)) return {id};
  const auto same = [](const DimList& a, const DimList& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  };
  std::vector<OpId> merged;
  for (OpId other = 0; other < static_cast<OpId>(graph.ops().size()); ++other) {
    const Operator& o = graph.op(other);
    if (o.region == op.region && is_layer(graph, o) && o.inputs[0].tensor == op.inputs[0].tensor &&
        same(o.inputs[0].dims, op.inputs[0].dims))
      merged.push_back(other);
  }
  return merged;
}

MadeTogether::MadeTogether(const OpGraph& graph, const ShardedGraph& sharded, MergedProducts merges)
    : products(sharded.nodes.size()), addends(sharded.nodes.size()) {
  for (std::size_t i = 0; i < sharded.nodes.size(); ++i) {
    const Node& node = sharded.nodes[i];
    if (node.kind == Node::Kind::sum) addends[i] = shardwright::addends(graph, sharded, node, merges);
    if (node.kind != Node::Kind::compute) continue;
    const std::vector<OpId> ops = merged_products(graph, node.op, merges);
    if (ops.size() < 2) continue;
    for (std::size_t k = 0; k < sharded.nodes.size(); ++k) {
      const Node& other = sharded.nodes[k];
      if (other.kind == Node::Kind::compute && other.gradient == node.gradient &&
          std::find(ops.begin(), ops.end(), other.op) != ops.end())
        products[i].push_back(static_cast<NodeId>(k));
    }
    if (products[i].size() < 2) products[i].clear();
  }
}

std::size_t addends(const OpGraph& graph, const ShardedGraph& sharded, const Node& sum, MergedProducts merges) {
  std::vector<OpId> seen;
  std::size_t count = 0;
  for (ValueId v : sum.inputs) {
    const OpId layer = layer_that_makes(graph, sharded, v, merges);
    if (layer < 0 || add_new(seen, layer)) ++count;
  }
  return count;
}

std::size_t layers_at(const OpGraph& graph, const ShardedGraph& sharded, const Node& collective,
                      MergedProducts merges) {
  std::vector<OpId> seen;
  if (collective.phase == Phase::forward) {
    for (std::size_t i = 0; i < sharded.forward_nodes; ++i) {
      const Node& n = sharded.nodes[i];
      if (n.kind == Node::Kind::compute && is_layer(graph, graph.op(n.op)) && n.inputs[0] == collective.outputs[0])
        add_new(seen, merged_products(graph, n.op, merges).front());
    }
  } else if (const NodeId maker = sharded.value(collective.inputs[0]).maker; maker >= 0) {
    const Node& sum = sharded.nodes[static_cast<std::size_t>(maker)];
    for (ValueId v : sum.inputs) {
      const OpId layer = sum.kind == Node::Kind::sum ? layer_that_makes(graph, sharded, v, merges) : -1;
      if (layer >= 0) add_new(seen, layer);
    }
  }
  return std::max<std::size_t>(1, seen.size());
}

}  // namespace shardwright
