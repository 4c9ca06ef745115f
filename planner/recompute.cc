#include "planner/recompute.h"

namespace shardwright {
namespace {

/// Regions as recomputation sees them: 0 = not recomputed, else a number for each region that is.
class Regions {
 public:
  explicit Regions(const Recompute& recompute) : recompute_(recompute) {}

  int of(Region r) const {
    if (recompute_.full) return 1;
    switch (r) {
      case Region::layernorm:
        return recompute_.has(RecomputeModule::layernorm) ? 2 : 0;
      case Region::core_attn:
        return recompute_.has(RecomputeModule::core_attn) ? 3 : 0;
      case Region::mlp:
        return recompute_.has(RecomputeModule::mlp) ? 4 : 0;
      case Region::mla_up_proj:
        return recompute_.has(RecomputeModule::mla_up_proj) ? 5 : 0;
      case Region::moe:
        return recompute_.has(RecomputeModule::moe) ? 6 : 0;
      case Region::moe_act:
        return recompute_.has(RecomputeModule::moe) ? 6 : recompute_.has(RecomputeModule::moe_act) ? 7 : 0;
      case Region::shared_experts:
        return recompute_.has(RecomputeModule::moe) ? 6 : recompute_.has(RecomputeModule::shared_experts) ? 8 : 0;
      case Region::none:
        return 0;
    }
    return 0;
  }
  /// Plain checkpoints; the others drop what they make and make again what is read of it.
  static bool is_checkpoint(int region) { return region == 3 || region == 4 || region == 6 || region == 8; }
  static bool keeps_outputs(int region) { return is_checkpoint(region); }
  static bool runs_whole(int region) { return region == 1 || is_checkpoint(region); }

 private:
  const Recompute& recompute_;
};

class Planner {
 public:
  Planner(const OpGraph& graph, const ShardedGraph& sharded, const Recompute& recompute)
      : g_(graph),
        s_(sharded),
        regions_(recompute),
        saved_(sharded.values.size(), false),
        again_(sharded.forward_nodes, false),
        done_(sharded.forward_nodes, false) {}

  BackwardPlan run() {
    for (std::size_t i = s_.forward_nodes; i < s_.nodes.size(); ++i)
      for (ValueId v : s_.nodes[i].inputs) want(v, regions_.of(s_.nodes[i].region));
    BackwardPlan plan;
    for (std::size_t v = 0; v < saved_.size(); ++v)
      if (saved_[v]) plan.saved.push_back(static_cast<ValueId>(v));
    for (std::size_t i = s_.forward_nodes; i < s_.nodes.size(); ++i) {
      for (ValueId v : s_.nodes[i].inputs) make(v, plan.order);
      plan.order.push_back(static_cast<NodeId>(i));
    }
    return plan;
  }

 private:
  bool is_forward(ValueId v) const {
    const Value& value = s_.value(v);
    return !value.gradient && g_.tensor(value.tensor).role == TensorRole::activation &&
           value.maker < static_cast<NodeId>(s_.forward_nodes);
  }
  int region_of(NodeId n) const { return regions_.of(s_.nodes[static_cast<std::size_t>(n)].region); }

  void want(ValueId v, int reader) {
    if (!is_forward(v)) return;
    const NodeId maker = s_.value(v).maker;
    const int region = maker < 0 ? 0 : region_of(maker);
    if (region == 0 || (Regions::keeps_outputs(region) && reader != region)) {
      saved_[static_cast<std::size_t>(v)] = true;
      return;
    }
    if (Regions::runs_whole(region)) {
      for (NodeId n = 0; n < static_cast<NodeId>(s_.forward_nodes); ++n)
        if (region_of(n) == region) run_again(n, region);
    } else {
      run_again(maker, region);
    }
  }
  void run_again(NodeId n, int region) {
    const Node& node = s_.nodes[static_cast<std::size_t>(n)];
    if (again_[static_cast<std::size_t>(n)] || node.kind == Node::Kind::gather_parameter) return;
    again_[static_cast<std::size_t>(n)] = true;
    for (ValueId v : node.inputs) want(v, region);
  }

  /// Appends the nodes that must run again before `v` can be read.
  void make(ValueId v, std::vector<NodeId>& order) {
    if (!is_forward(v) || saved_[static_cast<std::size_t>(v)]) return;
    const NodeId maker = s_.value(v).maker;
    if (maker < 0 || done_[static_cast<std::size_t>(maker)]) return;
    const int region = region_of(maker);
    if (!Regions::runs_whole(region)) return make_one(maker, order);
    for (NodeId n = 0; n < static_cast<NodeId>(s_.forward_nodes); ++n)
      if (region_of(n) == region && again_[static_cast<std::size_t>(n)]) make_one(n, order);
  }
  void make_one(NodeId n, std::vector<NodeId>& order) {
    if (done_[static_cast<std::size_t>(n)]) return;
    done_[static_cast<std::size_t>(n)] = true;
    for (ValueId v : s_.nodes[static_cast<std::size_t>(n)].inputs) make(v, order);
    order.push_back(n);
  }

  const OpGraph& g_;
  const ShardedGraph& s_;
  Regions regions_;
  std::vector<char> saved_, again_, done_;
};

}  // namespace

BackwardPlan plan_backward(const OpGraph& graph, const ShardedGraph& sharded, const Recompute& recompute) {
  return Planner(graph, sharded, recompute).run();
}

}  // namespace shardwright
