#include "planner/cost/pass_pieces.h"

#include <algorithm>
#include <cassert>

namespace shardwright {
namespace {

/// What a communication's kernel holds beside compute: 20 multiprocessors, DeepSeek-V3's choice for its all-to-all
/// (report, 3.2.2).
constexpr double kCommunicationMultiprocessors = 20;

bool computes(const Piece& p) { return p.streams == bit(Stream::compute); }

/// Axes over which a node's steps communicate.
AxisSet axes_of(const Node& n) {
  AxisSet axes = 0;
  for (int i = 0; i < n.steps.count; ++i)
    if (n.steps.steps[i].kind != ReshardStep::slice) axes = static_cast<AxisSet>(axes | n.steps.steps[i].axes);
  return axes;
}
AxisSet tensor_axes(const Mesh& mesh) {
  return static_cast<AxisSet>(set_of(mesh.tuple("tp.kv")) | set_of(mesh.tuple("tp.rep")));
}

class Builder {
  using After = decltype(Piece::after);

 public:
  Builder(const CostContext& context, const ShardedGraph& sharded, const std::vector<NodeCost>& costs,
          const std::vector<std::int8_t>& traffic, const PassOverlap& overlap)
      : c_(context),
        s_(sharded),
        costs_(costs),
        traffic_(traffic),
        overlap_(overlap),
        tensor_(tensor_axes(context.mesh)),
        made_(sharded.values.size(), -1),
        beside_(sharded.nodes.size()) {}

  PassPieces run(std::vector<NodeId> order) {
    if (c_.beside_weight_gradients && !overlap_.tensor) issue_around_sums(order);
    for (const NodeId id : order) {
      const Node& n = node(id);
      node_ = id;
      if (n.kind == Node::Kind::gather_parameter)
        makes(n, made_[static_cast<std::size_t>(n.inputs[0])]);
      else if (n.kind == Node::Kind::reshard)
        move(n);
      else
        compute(n);
    }
    return std::move(out_);
  }

 private:
  const NodeCost& cost() const { return costs_[static_cast<std::size_t>(node_)]; }
  const Node& node(NodeId id) const { return s_.nodes[static_cast<std::size_t>(id)]; }

  // ---- order ----

  bool is_tensor_traffic(NodeId id) const {
    return traffic_[static_cast<std::size_t>(id)] == static_cast<int>(Traffic::tensor);
  }
  /// Whose input's gradient a node of backward sums over tp; empty of another node.
  std::vector<OpId> summed_layers(NodeId id) const {
    const Node& n = node(id);
    std::vector<OpId> layers;
    const NodeId maker = s_.value(n.inputs[0]).maker;
    if (n.kind != Node::Kind::reshard || n.phase != Phase::input_gradient || !is_tensor_traffic(id) ||
        n.steps.is_gather() || maker < 0)
      return layers;
    const auto add = [&](const Node& made) {
      if (made.gradient >= 0 && is_product(made)) layers.push_back(made.op);
    };
    add(node(maker));
    if (node(maker).kind == Node::Kind::sum)
      for (ValueId v : node(maker).inputs)
        if (s_.value(v).maker >= 0) add(node(s_.value(v).maker));
    return layers;
  }
  /// Issues the weight gradients of layers behind the sum over tp of their input's gradient, and what they alone gather
  /// before the input's gradient is computed.
  void issue_around_sums(std::vector<NodeId>& order) {
    for (std::size_t at = 0; at < order.size(); ++at) {
      const std::vector<OpId> layers = summed_layers(order[at]);
      if (layers.empty()) continue;
      const auto serves_weights = [&](NodeId id) {
        return node(id).phase == Phase::weight_gradient &&
               std::find(layers.begin(), layers.end(), node(id).op) != layers.end();
      };
      const auto gathers = [&](NodeId id) {
        return serves_weights(id) && node(id).kind == Node::Kind::reshard && is_tensor_traffic(id);
      };
      const auto end = order.begin() + static_cast<std::ptrdiff_t>(at) + 1;
      const auto first = std::find_if(order.begin(), end, [&](NodeId id) {
        return node(id).gradient >= 0 && std::find(layers.begin(), layers.end(), node(id).op) != layers.end();
      });
      if (first == end) continue;
      beside_[static_cast<std::size_t>(order[at])] = 1;
      std::for_each(first, end, [&](NodeId id) { beside_[static_cast<std::size_t>(id)] |= gathers(id); });
      const auto rest = std::stable_partition(first, end, gathers);
      std::stable_partition(rest, end, [&](NodeId id) { return !serves_weights(id); });
    }
  }

  void makes(const Node& n, int piece) {
    for (ValueId v : n.outputs) made_[static_cast<std::size_t>(v)] = piece;
  }
  After reads(const Node& n) const {
    After after;
    for (ValueId v : n.inputs)
      if (const int p = made_[static_cast<std::size_t>(v)]; p >= 0) after.push_back(p);
    return after;
  }
  int add(Piece piece) {
    out_.pieces.push_back(std::move(piece));
    out_.nodes.push_back(node_);
    return static_cast<int>(out_.pieces.size()) - 1;
  }

  // ---- compute ----

  /// What a kernel streams through memory, as shares of its time.
  Piece kernel(const Node& n) const {
    Piece p;
    p.alone = cost().compute;
    Bytes moved;
    for (ValueId v : n.inputs) moved += bytes_of(c_.graph, s_.value(v), c_.formats);
    for (ValueId v : n.outputs) moved += bytes_of(c_.graph, s_.value(v), c_.formats);
    const double seconds = static_cast<double>(moved.value) / c_.machine.memory_bandwidth.value;
    if (p.alone.value > 0) {
      p.memory = std::min(1.0, seconds / p.alone.value);
      p.multiprocessors = std::max(0.0, 1 - seconds / c_.machine.efficiency.memory_fraction / p.alone.value);
    }
    return p;
  }
  void compute(const Node& n) {
    Piece whole = kernel(n);
    whole.after = reads(n);
    if (n.ring) {
      // Blocks travel while the ones before them are worked on.
      const int way = add(communication(Traffic::context, bit(link_of(n.ring))));
      out_.pieces.back().after = whole.after;
      last_compute_ = add(whole);
      makes(n, add({bit(Stream::compute), {}, 0, 0, {way, last_compute_}}));
      last_compute_ = static_cast<int>(out_.pieces.size()) - 1;
      return;
    }
    const int gathered = gather_in_parts(n);
    if (gathered < 0) {
      makes(n, last_compute_ = add(std::move(whole)));
      return;
    }
    // All parts but the last need only what of the gathered operand has come.
    Piece last = whole;
    const double parts = parts_of_tensor();
    whole.after.erase(std::remove(whole.after.begin(), whole.after.end(), gathered), whole.after.end());
    for (int before : out_.pieces[static_cast<std::size_t>(gathered)].after) whole.after.push_back(before);
    whole.alone = (1 - 1 / parts) * whole.alone;
    last.alone = (1 / parts) * last.alone;
    last.after = {gathered, add(std::move(whole))};
    makes(n, last_compute_ = add(std::move(last)));
  }
  bool is_product(const Node& n) const {
    return n.kind == Node::Kind::compute && c_.graph.op(n.op).kind == OpKind::contraction;
  }
  double parts_of_tensor() const { return static_cast<double>(c_.mesh.size_of(tensor_)); }
  /// The gather over tp that a product reads, where that overlaps; -1 where there is none.
  int gather_in_parts(const Node& n) const {
    if (!overlap_.tensor || !is_product(n)) return -1;
    for (ValueId v : n.inputs) {
      const int p = made_[static_cast<std::size_t>(v)];
      if (p >= 0 && is_of(Traffic::tensor, out_.pieces[static_cast<std::size_t>(p)])) return p;
    }
    return -1;
  }

  // ---- communication ----

  Stream link_of(AxisSet axes) const {
    const RankGroup group = c_.mesh.group(axes);
    const std::int64_t unit = c_.machine.links.front().gpus;
    return unit == 0 || group.members_within(unit) == group.size() ? Stream::node_links : Stream::network;
  }
  static bool is_of(Traffic traffic, const Piece& p) { return !computes(p) && p.kind == static_cast<int>(traffic); }
  Piece communication(Traffic traffic, StreamSet streams) const {
    Piece p;
    p.streams = streams;
    p.alone = cost().communication;
    p.kind = static_cast<int>(traffic);
    if (streams & bit(Stream::compute)) return p;  // nobody is beside it
    p.alone = c_.constants[EngineConstant::hidden_communication_factor] * p.alone;
    p.multiprocessors = communication_multiprocessors(c_.machine);
    // What arrives is written, what leaves is read.
    const LinkLevel& link = streams & bit(Stream::network) ? c_.machine.links.back() : c_.machine.links.front();
    p.memory = std::min(1.0, 2 * link.bandwidth.value * link.efficiency / c_.machine.memory_bandwidth.value);
    return p;
  }
  void move(const Node& n) {
    const AxisSet axes = axes_of(n);
    if (axes == 0) {  // a slice
      makes(n, made_[static_cast<std::size_t>(n.inputs[0])]);
      return;
    }
    const auto traffic = static_cast<Traffic>(traffic_[static_cast<std::size_t>(node_)]);
    const bool beside = (traffic == Traffic::tensor && overlap_.tensor) ||
                        (traffic == Traffic::expert && overlap_.expert) || beside_[static_cast<std::size_t>(node_)];
    const StreamSet link = bit(link_of(axes));
    Piece p = communication(traffic, beside ? link : static_cast<StreamSet>(link | bit(Stream::compute)));
    p.after = reads(n);
    if (beside && last_compute_ >= 0) p.after.push_back(last_compute_);
    const int maker = made_[static_cast<std::size_t>(n.inputs[0])];
    if (overlap_.tensor && traffic == Traffic::tensor && maker == last_compute_ && maker >= 0 &&
        is_last_product(maker)) {
      reduce_in_parts(n, std::move(p), maker);
      return;
    }
    makes(n, add(std::move(p)));
  }
  bool is_last_product(int piece) const {
    const NodeId node = out_.nodes[static_cast<std::size_t>(piece)];
    return static_cast<std::size_t>(piece) + 1 == out_.pieces.size() &&
           is_product(s_.nodes[static_cast<std::size_t>(node)]);
  }
  /// Sums over tp start with the product's first part and end with its last.
  void reduce_in_parts(const Node& n, Piece reduction, int product) {
    const double parts = parts_of_tensor();
    Piece rest = out_.pieces[static_cast<std::size_t>(product)];
    Piece& first = out_.pieces[static_cast<std::size_t>(product)];
    const NodeId here = node_;
    first.alone = (1 / parts) * first.alone;
    rest.alone = (1 - 1 / parts) * rest.alone;
    rest.after = {product};
    node_ = out_.nodes[static_cast<std::size_t>(product)];
    last_compute_ = add(std::move(rest));
    makes(s_.nodes[static_cast<std::size_t>(node_)], last_compute_);
    node_ = here;
    Piece last = reduction;
    reduction.alone = (1 - 1 / parts) * reduction.alone;
    reduction.after = {product};
    last.alone = (1 / parts) * last.alone;
    last.after = {last_compute_, add(std::move(reduction))};
    makes(n, add(std::move(last)));
  }

  const CostContext& c_;
  const ShardedGraph& s_;
  const std::vector<NodeCost>& costs_;
  const std::vector<std::int8_t>& traffic_;
  PassOverlap overlap_;
  AxisSet tensor_;
  std::vector<int> made_;     // by value: the piece after which it is there, -1 from the start
  std::vector<char> beside_;  // by node: a communication that runs beside one of a layer's gradients
  NodeId node_ = -1;
  int last_compute_ = -1;
  PassPieces out_;
};

/// All pieces one after the other.
PassTime sum_of(const PassPieces& pass) {
  PassTime t{};
  for (const Piece& p : pass.pieces) {
    t.total += p.alone;
    (computes(p) ? t.compute : t.traffic[static_cast<Traffic>(p.kind)]) += p.alone;
  }
  t.exposed = t.traffic;
  return t;
}

}  // namespace

std::string_view name_of(Traffic traffic) {
  static constexpr std::array<std::string_view, kTraffics> names = {"tensor", "context", "expert", "data", "pipeline"};
  return names[static_cast<std::size_t>(traffic)];
}

double communication_multiprocessors(const Machine& machine) {
  return std::min(0.5, kCommunicationMultiprocessors / machine.multiprocessors);
}

bool may_run_beside(const CostContext& context, const Node& node, int traffic, const PassOverlap& overlap) {
  const bool in_backward = context.beside_weight_gradients && node.phase != Phase::forward;
  return (traffic == static_cast<int>(Traffic::tensor) && (overlap.tensor || in_backward)) ||
         (traffic == static_cast<int>(Traffic::expert) && overlap.expert);
}

std::vector<std::int8_t> traffic_of_nodes(const CostContext& context, const ShardedGraph& sharded) {
  const AxisSet tensor = tensor_axes(context.mesh), cp = set_of(context.mesh.tuple("cp"));
  std::vector<std::int8_t> all;
  all.reserve(sharded.nodes.size());
  for (const Node& n : sharded.nodes) {
    const AxisSet axes = static_cast<AxisSet>(axes_of(n) | n.ring);
    const OpKind serves = n.op >= 0 ? context.graph.op(n.op).kind : OpKind::residual_sum;
    Traffic traffic = axes & tensor ? Traffic::tensor : Traffic::data;
    if (axes & cp) traffic = Traffic::context;
    const bool routed = context.graph.tensor(sharded.value(n.inputs[0]).tensor).density < 1;
    if (routed || serves == OpKind::dispatch || serves == OpKind::combine) traffic = Traffic::expert;
    if (n.kind == Node::Kind::gather_parameter) traffic = Traffic::data;
    all.push_back(axes ? static_cast<std::int8_t>(traffic) : std::int8_t{-1});
  }
  return all;
}

PassPieces pass_pieces(const CostContext& context, const ShardedGraph& sharded, const std::vector<NodeCost>& costs,
                       const std::vector<std::int8_t>& traffic, const std::vector<NodeId>& order,
                       const PassOverlap& overlap) {
  return Builder(context, sharded, costs, traffic, overlap).run(order);
}

PassPieces paired(const PassPieces& a, const PassPieces& b) {
  // Merged by the share of its work that each pass has issued.
  const auto work = [](const PassPieces& p) {
    Seconds sum;
    for (const Piece& piece : p.pieces) sum += piece.alone;
    return std::max(sum.value, 1e-30);
  };
  const PassPieces* passes[2] = {&a, &b};
  const double whole[2] = {work(a), work(b)};
  double issued[2] = {};
  std::size_t next[2] = {};
  std::vector<int> place[2] = {std::vector<int>(a.pieces.size()), std::vector<int>(b.pieces.size())};
  PassPieces both;
  while (next[0] < a.pieces.size() || next[1] < b.pieces.size()) {
    const bool only_b = next[0] == a.pieces.size(), only_a = next[1] == b.pieces.size();
    const int k = only_b || (!only_a && issued[1] / whole[1] < issued[0] / whole[0]) ? 1 : 0;
    Piece p = passes[k]->pieces[next[k]];
    for (int& before : p.after) before = place[k][static_cast<std::size_t>(before)];
    issued[k] += p.alone.value;
    place[k][next[k]] = static_cast<int>(both.pieces.size());
    both.nodes.push_back(passes[k]->nodes[next[k]]);
    both.pieces.push_back(std::move(p));
    ++next[k];
  }
  return both;
}

PassTime pass_time(const std::vector<NodeCost>& costs, const std::vector<std::int8_t>& traffic,
                   const std::vector<NodeId>& order) {
  PassTime t{};
  for (NodeId n : order) {
    const NodeCost& cost = costs[static_cast<std::size_t>(n)];
    const int kind = traffic[static_cast<std::size_t>(n)];
    t.compute += cost.compute;
    if (kind >= 0) t.traffic[static_cast<Traffic>(kind)] += cost.communication;
    t.total += cost.compute + cost.communication;
  }
  t.exposed = t.traffic;
  return t;
}

PassTime pass_time(const PassPieces& pass) {
  const bool one_by_one = std::all_of(pass.pieces.begin(), pass.pieces.end(),
                                      [](const Piece& p) { return p.streams & bit(Stream::compute); });
  if (one_by_one) return sum_of(pass);
  const Timeline timeline = play_streams(pass.pieces);
  return {timeline.total, timeline.computing, {timeline.moving}, {timeline.exposed}, {}};
}

}  // namespace shardwright
