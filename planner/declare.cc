#include "planner/declare.h"

#include <numeric>

namespace shardwright {

std::variant<Mesh, std::string> stage_mesh(const Layout& layout, const Model& model) {
  const std::int64_t tp = layout.tensor, kv = model.num_key_value_heads;
  const std::int64_t shared = tp > kv ? tp / std::gcd(tp, kv) : 1;  // ranks that hold the same KV head
  const std::int64_t data = std::int64_t{layout.context} * layout.data;
  Mesh::View by_heads = {{"tp.rep", shared}, {"tp.kv", tp / shared}, {"cp", layout.context}, {"dp", layout.data}};
  Mesh::View by_shards = {{"tp", tp}, {"shard", layout.zero > 0 ? layout.shard_group : data}, {"replica", 1}};
  by_shards[2].size = data / by_shards[1].size;
  const std::int64_t between = layout.rank_order == RankOrder::tp_cp_pp_dp ? layout.pipeline : 1;
  return Mesh::refine({by_heads, by_shards}, tp * layout.context, between);
}

Declarations declare(const OpGraph& graph, const Layout& layout, const Mesh& mesh) {
  const AxisTuple kv = mesh.tuple("tp.kv"), rep = mesh.tuple("tp.rep"), tp = kv + rep;
  const AxisTuple cp = mesh.tuple("cp"), dp = mesh.tuple("dp");
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
    if (name == "ffn" || name == "vocab") of_weight[i] = tp;
  }
  says.weight_use.resize(graph.tensors().size());
  for (std::size_t i = 0; i < graph.tensors().size(); ++i) {
    const Tensor& t = graph.tensors()[i];
    if (t.role != TensorRole::weight) continue;
    for (int k = 0; k < t.dims.size(); ++k) says.weight_use[i].dims[k] = of_weight[t.dims[k]];
  }
  // A norm over heads needs its weight whole.
  for (const Operator& op : graph.ops()) {
    for (const Operand& in : op.inputs) {
      for (int k = 0; k < in.dims.size(); ++k)
        if (op.whole.has(in.dims[k])) says.weight_use[static_cast<std::size_t>(in.tensor)].dims[k] = {};
    }
  }
  says.zero = layout.zero;
  if (layout.zero > 0) says.shard_axes = set_of(mesh.tuple("shard"));
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
