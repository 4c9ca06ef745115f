#include "planner/cost/host_time.h"

#include <algorithm>

#include "planner/cost/node_cost.h"
#include "planner/cost/written_out.h"

namespace shardwright {
namespace {

/// Which operators of a graph were captured, by operator; the last entry is of what serves none.
std::vector<char> captured_ops(const OpGraph& graph, const CudaGraphs& captured) {
  const std::vector<Operator>& ops = graph.ops();
  std::vector<char> all(ops.size() + 1, captured.full_iteration);
  const auto first = [&](OpKind kind) {
    return std::find_if(ops.begin(), ops.end(), [&](const Operator& op) { return op.kind == kind; }) - ops.begin();
  };
  const std::ptrdiff_t after_attention = first(OpKind::residual_sum), route = first(OpKind::route);
  const bool is_layer = after_attention < std::ssize(ops), has_experts = route < std::ssize(ops);
  if (is_layer && captured.layer) all.assign(all.size(), true);
  for (std::ptrdiff_t i = 0; is_layer && i < std::ssize(ops); ++i) {
    const Operator& op = ops[static_cast<std::size_t>(i)];
    char& is = all[static_cast<std::size_t>(i)];
    if (i <= after_attention)
      is = is || captured.attn;
    else if (!has_experts)
      is = is || captured.mlp;
    else if (i <= route || op.region == Region::shared_experts)
      is = is || captured.moe_router;
    else if (op.kind == OpKind::dispatch)
      is = is || captured.moe_preprocess;
  }
  return all;
}

/// What the host issues for an operator. Routing is many small operators in every framework: of Megatron-Core's
/// moe/router.py and moe/moe_utils.py scores, top k, two scatters, a mask, and the balancing loss with its sums and one
/// reduction; of token_dispatcher.py counting, their exchange, splits, three copies to the host, a permutation of rows
/// and one of their probabilities with its exchange, sorting by local experts; on the way back sorting and summing.
double launches(const Operator& op, bool backward) {
  if (op.written_out) return written_out(op, backward).kernels;
  switch (op.kind) {
    case OpKind::route:
      return backward ? 6 : 10;
    case OpKind::dispatch:
      return backward ? 5 : 11;
    case OpKind::combine:
      return 3;
    default:
      return 1;
  }
}

int collectives(const Node& node) {
  int n = 0;
  for (int i = 0; i < node.steps.count; ++i) n += node.steps.steps[i].kind != ReshardStep::slice;
  return n;
}

}  // namespace

std::vector<HostWork> host_work(const OpGraph& graph, const Mesh& mesh, const ShardedGraph& sharded,
                                const CudaGraphs& captured, bool counts_rows, const MadeTogether& together) {
  const std::vector<char> ops = captured_ops(graph, captured);
  std::vector<HostWork> all;
  all.reserve(sharded.nodes.size());
  for (std::size_t i = 0; i < sharded.nodes.size(); ++i) {
    const Node& n = sharded.nodes[i];
    HostWork work;
    const bool in_graph = n.op >= 0 ? ops[static_cast<std::size_t>(n.op)] : ops.back();
    if (!in_graph && n.kind != Node::Kind::gather_parameter && !in_epilogue(graph, n)) {
      const double blocks = static_cast<double>(mesh.size_of(n.ring));
      double kernels = n.kind == Node::Kind::compute ? launches(graph.op(n.op), n.gradient >= 0) : 1;
      if (!together.products[i].empty()) kernels /= static_cast<double>(together.products[i].size());
      if (n.kind == Node::Kind::sum && together.addends[i] < 2) kernels = 0;
      work.launches = n.kind == Node::Kind::reshard ? collectives(n) : kernels * blocks + (n.ring ? blocks - 1 : 0);
    }
    const bool dispatches = n.kind == Node::Kind::compute && n.gradient < 0 && graph.op(n.op).kind == OpKind::dispatch;
    work.waits = dispatches && counts_rows && !ops.back();
    all.push_back(work);
  }
  return all;
}

}  // namespace shardwright
