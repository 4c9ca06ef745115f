#include "planner/search/recompute.h"

namespace shardwright {
namespace {

constexpr unsigned bit_of(RecomputeModule m) { return 1u << static_cast<int>(m); }

/// Regions as recomputation sees them: kNone, kLayer under full recomputation, else the number of the module.
class Regions {
 public:
  static constexpr int kNone = -1, kLayer = kRecomputeModules;

  explicit Regions(const Recompute& recompute) : recompute_(recompute) {}

  int of(Region r) const {
    if (recompute_.full) return kLayer;
    const unsigned active = modules_of(r) & recompute_.modules;
    for (const RecomputeModule m : kRecomputeModuleList)
      if (active & bit_of(m)) return static_cast<int>(m);
    return kNone;
  }
  /// Plain checkpoints keep what leaves them; the others drop what they make and make again what is read of it.
  static bool is_checkpoint(int region) {
    constexpr unsigned kCheckpoints = bit_of(RecomputeModule::core_attn) | bit_of(RecomputeModule::mlp) |
                                      bit_of(RecomputeModule::moe) | bit_of(RecomputeModule::shared_experts);
    return region >= 0 && (kCheckpoints >> region & 1);
  }
  static bool runs_whole(int region) { return region == kLayer || is_checkpoint(region); }

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
    const int region = maker < 0 ? Regions::kNone : region_of(maker);
    if (region == Regions::kNone || (Regions::is_checkpoint(region) && reader != region)) {
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

unsigned modules_of(Region region) {
  switch (region) {
    case Region::layernorm:
      return bit_of(RecomputeModule::layernorm);
    case Region::core_attn:
      return bit_of(RecomputeModule::core_attn);
    case Region::mlp:
      return bit_of(RecomputeModule::mlp);
    case Region::mla_up_proj:
      return bit_of(RecomputeModule::mla_up_proj);
    case Region::moe:
      return bit_of(RecomputeModule::moe);
    case Region::moe_act:
      return bit_of(RecomputeModule::moe) | bit_of(RecomputeModule::moe_act);
    case Region::shared_experts:
      return bit_of(RecomputeModule::moe) | bit_of(RecomputeModule::shared_experts);
    case Region::none:
      break;
  }
  return 0;
}

BackwardPlan plan_backward(const OpGraph& graph, const ShardedGraph& sharded, const Recompute& recompute) {
  return Planner(graph, sharded, recompute).run();
}

}  // namespace shardwright
