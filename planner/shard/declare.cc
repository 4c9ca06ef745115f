#include "planner/shard/declare.h"

#include <algorithm>
#include <numeric>

namespace shardwright {

std::variant<Mesh, std::string> stage_mesh(const Layout& layout, const Model& model) {
  const std::int64_t tp = layout.tensor;
  const std::int64_t kv = model.key_heads();
  const std::int64_t shared = tp > kv ? tp / std::gcd(tp, kv) : 1;  // ranks that hold the same KV head
  const std::int64_t data = std::int64_t{layout.context} * layout.data;
  Mesh::View by_heads = {{"tp.rep", shared}, {"tp.kv", tp / shared}, {"cp", layout.context}, {"dp", layout.data}};
  Mesh::View by_shards = {{"tp", tp}, {"shard", layout.zero > 0 ? layout.shard_group : data}, {"replica", 1}};
  // A group of more ranks than there are is impossible_group's to refuse.
  by_shards[2].size = std::max<std::int64_t>(1, data / by_shards[1].size);
  const std::int64_t line = tp * data, experts = std::int64_t{layout.expert} * layout.expert_tensor;
  if (line % experts != 0)
    return "ep * etp " + std::to_string(experts) + " does not divide tp * cp * dp " + std::to_string(line);
  Mesh::View by_experts = {{"etp", layout.expert_tensor}, {"ep", layout.expert}, {"edp", line / experts}};
  const std::int64_t between = layout.rank_order == RankOrder::tp_cp_pp_dp ? layout.pipeline : 1;
  return Mesh::refine({by_heads, by_shards, by_experts}, tp * layout.context, between);
}

namespace {

/// What cannot be derived about attention under context parallelism, and about the way of rows to their experts.
void pin_operator(const OpGraph& graph, OpId id, const Layout& layout, const Mesh& mesh, const AxisTuple& replicating,
                  const AxisTuple& moving, Declarations& says) {
  const Operator& op = graph.op(id);
  const auto dim = [&](const char* name) { return static_cast<DimId>(graph.find_dim(name)); };
  const AxisTuple cp = mesh.tuple("cp");
  if (op.kind == OpKind::dispatch || op.kind == OpKind::combine)
    says.pins.push_back(
        {id, dim("expert"), layout.dispatcher == Dispatcher::all_gather ? replicating + moving : replicating, true});
  if (op.kind != OpKind::attention || layout.context == 1) return;
  if (layout.context_kind == ContextParallel::ring) {
    says.pins.push_back({id, dim("sequence"), cp, true});
    says.pins.push_back({id, dim("key_sequence"), cp, true});
  }
  if (layout.context_kind == ContextParallel::ulysses) {
    const AxisTuple heads = mesh.tuple("tp.kv") + cp;
    says.pins.push_back({id, dim("kv_head"), heads, true});
    says.pins.push_back({id, dim("sequence"), {}, true});
    for (const Operand& in : op.inputs)  // attention sinks go with their heads
      if (graph.tensor(in.tensor).role == TensorRole::weight)
        says.weight_use[static_cast<std::size_t>(in.tensor)].dims[0] = heads;
  }
}

}  // namespace

bool is_of_expert(const OpGraph& graph, const Tensor& t) {
  return t.role == TensorRole::weight && t.dims.size() > 1 && graph.dims()[t.dims[0]].name == "expert";
}

Declarations declare(const OpGraph& graph, const Layout& layout, const Mesh& mesh) {
  const AxisTuple kv = mesh.tuple("tp.kv"), rep = mesh.tuple("tp.rep"), tp = kv + rep;
  const AxisTuple cp = mesh.tuple("cp"), dp = mesh.tuple("dp");
  // Axes of ep that replicate the tokens go first in the order of the experts: what they slice, nothing else may cut
  // before.
  const AxisSet tokens = static_cast<AxisSet>(set_of(dp) | set_of(cp) | (layout.sequence_parallel ? set_of(tp) : 0));
  AxisTuple replicating, moving;
  for (AxisId a : mesh.tuple("ep")) (tokens & bit(a) ? moving : replicating).push_back(a);
  Declarations says;
  says.home.resize(graph.dims().size());
  says.stream.resize(graph.dims().size());
  std::vector<AxisTuple> of_weight(graph.dims().size());
  for (std::size_t i = 0; i < graph.dims().size(); ++i) {
    const std::string& name = graph.dims()[i].name;
    if (name == "batch") says.home[i] = dp;
    if (name == "sequence") says.home[i] = cp;
    if (name == "kv_head") says.home[i] = kv;
    if (name == "query_in_group") says.home[i] = rep;
    says.stream[i] = says.home[i];
    if (name == "sequence" && layout.sequence_parallel) says.stream[i] = cp + tp;
    if (name == "kv_head") of_weight[i] = kv;
    if (name == "query_in_group") of_weight[i] = rep;
    if (name == "ffn" || name == "vocab" || name == "shared_ffn") of_weight[i] = tp;
    if (name == "expert") of_weight[i] = replicating + moving;
    if (name == "expert_ffn") of_weight[i] = mesh.tuple("etp");
  }
  says.weight_use.resize(graph.tensors().size());
  for (std::size_t i = 0; i < graph.tensors().size(); ++i) {
    const Tensor& t = graph.tensors()[i];
    if (t.role != TensorRole::weight) continue;
    for (int k = 0; k < t.dims.size(); ++k)
      if (graph.dims()[t.dims[k]].name != "expert" || is_of_expert(graph, t))
        says.weight_use[i].dims[k] = of_weight[t.dims[k]];
  }
  // A norm over heads needs its weight whole.
  for (const Operator& op : graph.ops()) {
    for (const Operand& in : op.inputs) {
      for (int k = 0; k < in.dims.size(); ++k)
        if (op.whole.has(in.dims[k])) says.weight_use[static_cast<std::size_t>(in.tensor)].dims[k] = {};
    }
  }
  for (std::size_t i = 0; i < graph.ops().size(); ++i)
    pin_operator(graph, static_cast<OpId>(i), layout, mesh, replicating, moving, says);
  says.zero = layout.zero;
  says.shard_axes.assign(graph.tensors().size(), 0);
  if (layout.zero == 0) return says;
  for (std::size_t i = 0; i < graph.tensors().size(); ++i) {
    // Experts have copies wherever tokens are cut and they are not: over tp, too.
    const bool routed = is_of_expert(graph, graph.tensors()[i]);
    says.shard_axes[i] = static_cast<AxisSet>(set_of(mesh.tuple("shard")) | (routed ? set_of(tp) : 0));
  }
  return says;
}

std::vector<std::int64_t> layout_extents(const OpGraph& graph, const Layout& layout, std::int64_t sequence_length) {
  std::vector<std::int64_t> extents = graph.extents();
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const std::string& name = graph.dims()[i].name;
    if (name == "batch") extents[i] = std::int64_t{layout.micro_batch} * layout.data;
    if (name == "sequence" || name == "key_sequence") extents[i] = sequence_length;
    if (name == "vocab") extents[i] = (extents[i] + layout.tensor - 1) / layout.tensor * layout.tensor;
  }
  return extents;
}

}  // namespace shardwright
