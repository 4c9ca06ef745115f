#include "planner/shard/shard.h"

#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

constexpr int kMaxDims = 24;  // named dimensions in one graph

/// A set of dimensions, one bit each: an operator may have more of them than a tensor.
using DimSet = std::uint32_t;
static_assert(kMaxDims <= 32);

std::int64_t scaled(std::int64_t elements, double factor) {
  return factor == 1 ? elements : static_cast<std::int64_t>(std::ceil(static_cast<double>(elements) * factor));
}

/// Elements of one rank, of those that a sparse tensor has: on the fullest rank.
void size(Value& v, const Tensor& t, const std::vector<std::int64_t>& extents, const Mesh& mesh,
          const Declarations& says) {
  v.share = t.density;
  if (t.density < 1 && !says.fullest.empty())
    for (int i = 0; i < t.dims.size(); ++i)
      if (v.placement.dims[i].size() > 0) v.share *= says.fullest[t.dims[i]];
  v.elements = scaled(local_elements(t.dims, extents, v.placement, mesh), v.share);
}

/// From one value to another. An exchange that makes ranks fuller is as slow as the fullest rank's part of it; what
/// follows moves that part.
ReshardSteps steps_between(const Value& from, const Value& to, const Mesh& mesh) {
  ReshardSteps steps = reshard_steps(from.placement, to.placement, from.elements, mesh);
  const double fuller = to.share / from.share;
  bool exchanged = false;
  for (int i = 0; i < steps.count && fuller != 1; ++i) {
    ReshardSteps::Step& step = steps.steps[i];
    const bool exchange = step.kind == ReshardStep::all_to_all;
    if (exchanged || (exchange && fuller > 1)) step.held_elements = scaled(step.held_elements, fuller);
    exchanged = exchanged || exchange;
  }
  return steps;
}

/// Axes over which the state of a weight is cut: an axis that cuts a dimension of it has no copies to save.
AxisSet shard_axes(const Declarations& says, const Value& weight) {
  const AxisSet axes = says.shard_axes[static_cast<std::size_t>(weight.tensor)];
  return static_cast<AxisSet>(axes & ~weight.placement.sharded());
}

/// Sizes of a weight's state, and how its gradient is reduced. Zero: reduce-scatter over the shard axes, then
/// all-reduce of the shard over what is left; no zero: one all-reduce. A shard axis over which the gradient is not
/// partial only cuts it, which is free and comes first.
void settle(WeightState& w, const ShardedGraph& sharded, const Mesh& mesh, const Declarations& says) {
  w.used_elements = sharded.value(w.value).elements;
  w.shard_parts = says.zero > 0 ? mesh.size_of(shard_axes(says, sharded.value(w.value))) : 1;
  w.reduction = {};
  if (w.gradient < 0) return;
  const AxisSet partial = sharded.value(w.gradient).placement.partial;
  const AxisSet cut = says.zero > 0 ? shard_axes(says, sharded.value(w.gradient)) : AxisSet{0};
  const auto scatter = static_cast<AxisSet>(partial & cut), rest = static_cast<AxisSet>(partial & ~cut);
  const auto divided = [&](std::int64_t n, AxisSet axes) { return (n + mesh.size_of(axes) - 1) / mesh.size_of(axes); };
  std::int64_t n = divided(w.used_elements, static_cast<AxisSet>(cut & ~partial));
  if (scatter) w.reduction.steps[w.reduction.count++] = {ReshardStep::reduce_scatter, scatter, n};
  n = divided(n, scatter);
  if (rest) w.reduction.steps[w.reduction.count++] = {ReshardStep::all_reduce, rest, n};
}

/// The axes of every dimension of one operator.
class Plan {
 public:
  explicit Plan(const std::vector<AxisTuple>& home) : home_(home) {}

  bool has(DimId d) const { return decided_ >> d & 1; }
  const AxisTuple& of(DimId d) const { return axes_[d]; }
  AxisSet taken() const { return taken_; }

  /// P1: exactly these axes, whatever comes later.
  void pin(DimId d, const AxisTuple& axes) {
    if (has(d)) return;
    decided_ |= 1u << d;
    axes_[d] = axes;
    taken_ = static_cast<AxisSet>(taken_ | set_of(axes));
  }
  /// P3: these axes up to the first one that is taken.
  void want(DimId d, const AxisTuple& axes) {
    if (has(d)) return;
    AxisTuple kept;
    for (AxisId a : axes) {
      if (taken_ & bit(a)) break;
      kept.push_back(a);
    }
    pin(d, kept);
  }
  /// P2: home, unless the value has it on another dim that is still free, then what it has beyond home. Where inputs
  /// differ the first decides, but a later one that is cut finer cuts it finer: the first is sliced, which is free,
  /// where the later one would have to be gathered.
  void follow(const DimList& dims, const Placement& placement) {
    for (int i = 0; i < dims.size(); ++i) {
      const DimId d = dims[i];
      if (has(d)) {
        if (followed_ >> d & 1) deepen(d, placement.dims[i]);
        continue;
      }
      want(d, home_of(d, stays_on_later(dims, placement, i)) + beyond(home_[d], placement.dims[i]));
      followed_ |= 1u << d;
    }
  }
  /// Placement of a tensor seen as `dims`; dims that nothing decided are whole.
  Placement at(const DimList& dims, AxisSet partial = 0) const {
    Placement p;
    for (int i = 0; i < dims.size(); ++i)
      if (has(dims[i])) p.dims[i] = axes_[dims[i]];
    p.partial = partial;
    return p;
  }
  /// P4: axes that cut a dimension of `dims` which `out` lacks, unless they cut one that it has: then the operator
  /// works them off itself.
  AxisSet contracted(DimSet dims, const DimList& out) const {
    AxisSet lost = 0, kept = 0;
    for (DimId d = 0; d < kMaxDims; ++d) {
      if (!(dims >> d & 1) || !has(d)) continue;
      AxisSet& to = out.has(d) ? kept : lost;
      to = static_cast<AxisSet>(to | set_of(axes_[d]));
    }
    return static_cast<AxisSet>(lost & ~kept);
  }
  /// Axes that cut two of `dims`.
  AxisSet ring(DimSet dims) const {
    AxisSet once = 0, twice = 0;
    for (DimId d = 0; d < kMaxDims; ++d) {
      if (!(dims >> d & 1) || !has(d)) continue;
      twice = static_cast<AxisSet>(twice | (once & set_of(axes_[d])));
      once = static_cast<AxisSet>(once | set_of(axes_[d]));
    }
    return twice;
  }

 private:
  /// Axes that the value has on an undecided dim behind position `i`: there they stay.
  AxisSet stays_on_later(const DimList& dims, const Placement& placement, int i) const {
    AxisSet s = 0;
    for (int j = i + 1; j < dims.size(); ++j)
      if (!has(dims[j])) s = static_cast<AxisSet>(s | set_of(placement.dims[j]));
    return s;
  }
  AxisTuple home_of(DimId d, AxisSet elsewhere) const {
    AxisTuple kept;
    for (AxisId a : home_[d]) {
      if (elsewhere & bit(a)) break;
      kept.push_back(a);
    }
    return kept;
  }
  static AxisTuple beyond(const AxisTuple& home, const AxisTuple& axes) {
    AxisTuple more;
    for (AxisId a : axes)
      if (!home.has(a)) more.push_back(a);
    return more;
  }

  void deepen(DimId d, const AxisTuple& finer) {
    AxisTuple& axes = axes_[d];
    for (int i = 0; i < axes.size(); ++i)
      if (i >= finer.size() || finer[i] != axes[i]) return;
    for (int i = axes.size(); i < finer.size() && !(taken_ & bit(finer[i])); ++i) {
      axes.push_back(finer[i]);
      taken_ = static_cast<AxisSet>(taken_ | bit(finer[i]));
    }
  }

  const std::vector<AxisTuple>& home_;
  std::array<AxisTuple, kMaxDims> axes_ = {};
  std::uint32_t decided_ = 0, followed_ = 0;
  AxisSet taken_ = 0;
};

class Derivation {
 public:
  Derivation(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh, const Declarations& says)
      : g_(graph), extents_(extents), mesh_(mesh), says_(says) {
    assert(graph.dims().size() <= kMaxDims);
    out_.values.reserve(graph.tensors().size() * 5);
    out_.nodes.reserve(graph.ops().size() * 8);
    current_.assign(graph.tensors().size(), -1);
    gradients_.resize(graph.tensors().size());
    lazy_.assign(graph.tensors().size(), false);
    read_.resize(graph.ops().size());
    forward_node_.assign(graph.ops().size(), -1);
  }

  ShardedGraph run() {
    give_inputs();
    for (OpId op = 0; op < static_cast<OpId>(g_.ops().size()); ++op) forward(op);
    out_.stream_in = g_.stream_in >= 0 ? value_of(g_.stream_in) : -1;
    out_.stream_out = g_.stream_out >= 0 ? value_of(g_.stream_out) : -1;
    out_.forward_nodes = out_.nodes.size();
    start_phase(Phase::input_gradient);
    seed();
    for (OpId op = static_cast<OpId>(g_.ops().size()); op-- > 0;) backward(op);
    if (g_.stream_in >= 0) {
      serving_ = -1;
      region_ = Region::none;
      if (ValueId total = total_gradient(g_.stream_in); total >= 0) {
        Placement own = value(value_of(g_.stream_in)).placement;
        own.partial = 0;
        out_.stream_in_gradient = reshard(total, own);
      }
    }
    collect_weights();
    return std::move(out_);
  }

 private:
  const Value& value(ValueId v) const { return out_.values[static_cast<std::size_t>(v)]; }
  ValueId value_of(TensorId t) const { return current_[static_cast<std::size_t>(t)]; }
  bool is_weight(TensorId t) const { return g_.tensor(t).role == TensorRole::weight; }

  ValueId add_value(TensorId tensor, const Placement& placement, bool gradient) {
    const Tensor& t = g_.tensor(tensor);
    Value v;
    v.tensor = tensor;
    v.gradient = gradient;
    v.width = gradient && is_weight(tensor) ? Width::fp32 : t.width;
    v.placement = placement;
    size(v, t, extents_, mesh_, says_);
    out_.values.push_back(v);
    return static_cast<ValueId>(out_.values.size() - 1);
  }
  Node& add_node(Node::Kind kind) {
    out_.nodes.emplace_back();
    Node& n = out_.nodes.back();
    n.kind = kind;
    n.phase = phase_;
    n.region = region_;
    n.op = serving_;
    return n;
  }
  void makes(Node& node, ValueId v) {
    node.outputs.push_back(v);
    out_.values[static_cast<std::size_t>(v)].maker = static_cast<NodeId>(&node - out_.nodes.data());
  }
  /// Reshards are shared inside forward, and inside backward.
  void start_phase(Phase phase) {
    phase_ = phase;
    moved_.clear();
    if (!says_.keep_parameters) gathered_.clear();
  }

  void give_inputs() {
    for (std::size_t i = 0; i < g_.tensors().size(); ++i) {
      const Tensor& t = g_.tensors()[i];
      const auto id = static_cast<TensorId>(i);
      if (t.role == TensorRole::weight) current_[i] = add_value(id, says_.weight_use[i], false);
      if (t.role == TensorRole::index) current_[i] = add_value(id, placed_by(says_.home, t.dims), false);
    }
    if (g_.stream_in >= 0)
      current_[static_cast<std::size_t>(g_.stream_in)] =
          add_value(g_.stream_in, placed_by(says_.stream, g_.tensor(g_.stream_in).dims), false);
  }
  static Placement placed_by(const std::vector<AxisTuple>& axes, const DimList& dims) {
    Plan plan(axes);
    plan.follow(dims, {});
    return plan.at(dims);
  }

  // ---- moving ----

  ValueId reshard(ValueId v, const Placement& want) {
    if (value(v).placement == want) return v;
    for (const Moved& m : moved_)
      if (m.from == v && m.want == want) return m.to;
    const Placement from = value(v).placement;
    if (!is_direct(from, want)) {
      const ValueId to = reshard(reshard(v, halfway(from, want)), want);
      moved_.push_back({v, to, want});
      return to;
    }
    const ValueId to = add_value(value(v).tensor, want, value(v).gradient);
    Node& n = add_node(Node::Kind::reshard);
    n.steps = steps_between(value(v), value(to), mesh_);
    n.inputs.push_back(v);
    makes(n, to);
    moved_.push_back({v, to, want});
    return to;
  }

  /// Stored -> used: under ZeRO-3 a weight is gathered where a phase first uses it.
  ValueId use(TensorId weight) {
    const ValueId v = value_of(weight);
    const AxisSet cut = says_.zero == 3 ? shard_axes(says_, value(v)) : AxisSet{0};
    if (!cut) return v;
    for (const Gathered& known : gathered_)
      if (known.weight == weight) return known.value;
    const ValueId to = add_value(weight, value(v).placement, false);
    Node& n = add_node(Node::Kind::gather_parameter);
    n.steps.steps[n.steps.count++] = {ReshardStep::all_gather, cut, value(v).elements};
    n.inputs.push_back(v);
    makes(n, to);
    gathered_.push_back({weight, to});
    return to;
  }

  /// S2: values of one tensor with equal dims become one; a term that is not partial where another is enters once (the
  /// reader of a sum node knows: coordinate 0 of those axes).
  ValueId sum(const std::vector<ValueId>& terms) {
    assert(!terms.empty());
    if (terms.size() == 1) return terms[0];
    Placement p = value(terms[0]).placement;
    for (ValueId t : terms) p.partial = static_cast<AxisSet>(p.partial | value(t).placement.partial);
    ValueId so_far = terms[0];
    for (std::size_t next = 1; next < terms.size();) {
      const ValueId to = add_value(value(so_far).tensor, p, value(so_far).gradient);
      Node& n = add_node(Node::Kind::sum);
      n.in_place = true;
      n.inputs.push_back(so_far);
      while (next < terms.size() && n.inputs.size() < n.inputs.max_size()) n.inputs.push_back(terms[next++]);
      makes(n, to);
      so_far = to;
    }
    return so_far;
  }

  /// Sums `terms` at `want`: equal placements first, one move for each distinct one, then the rest. A term that already
  /// is where it is wanted waits there.
  ValueId sum_at(std::vector<ValueId> terms, const Placement& want, int rank) {
    std::vector<ValueId> arrived;
    while (!terms.empty()) {
      std::vector<ValueId> group = {terms.front()}, rest;
      const Placement first = value(terms.front()).placement;
      for (std::size_t i = 1; i < terms.size(); ++i) {
        const Placement& other = value(terms[i]).placement;
        const bool joins = says_.merge_sums && !(first == want) && !(other == want) && first.same_dims(other, rank);
        (joins ? group : rest).push_back(terms[i]);
      }
      arrived.push_back(reshard(sum(group), want));
      terms = std::move(rest);
    }
    return sum(arrived);
  }

  // ---- forward ----

  void pin_whole(Plan& plan, const Operator& op) const {
    for (DimId d : op.whole) plan.pin(d, {});
  }
  void pin_shared(Plan& plan, OpId id) const {
    for (const Declarations::Pin& p : says_.pins)
      if (p.op == id && p.shared) plan.pin(p.dim, p.axes);
  }
  void pin_declared(Plan& plan, OpId id) const {
    for (const Declarations::Pin& p : says_.pins)
      if (p.op == id && !p.shared) plan.want(p.dim, p.axes);
  }
  void pin_weight(Plan& plan, const Operand& w) const {
    const Placement& used = says_.weight_use[static_cast<std::size_t>(w.tensor)];
    for (int i = 0; i < w.dims.size(); ++i) plan.pin(w.dims[i], used.dims[i]);
    assert(plan.at(w.dims) == used && "a weight is used in one placement, which its operators allow");
  }
  void pin_stream(Plan& plan, const Operator& op) const {
    if (!op.on_stream) return;
    for (DimId d : op.outputs[0].dims) plan.want(d, says_.stream[d]);
  }
  /// S3: partial axes that may stay partial through a declared linear operator. `already`: of the operands before; over
  /// one axis only one operand may be partial, since a product of two sums is not the sum of the products.
  /// `operand` -1: the output's gradient, in which every backward is linear.
  AxisSet staying_partial(const Operator& op, const Plan& plan, ValueId v, int operand, AxisSet already) const {
    if (!op.passes_partial || (operand >= 0 && op.resolved >> operand & 1)) return 0;
    return static_cast<AxisSet>(value(v).placement.partial & ~plan.taken() & ~already);
  }

  void forward(OpId id) {
    const Operator& op = g_.op(id);
    serving_ = id;
    region_ = op.region;
    Plan plan(says_.home);
    pin_shared(plan, id);
    pin_whole(plan, op);
    for (const Operand& in : op.inputs)
      if (is_weight(in.tensor)) pin_weight(plan, in);
    pin_declared(plan, id);
    pin_stream(plan, op);
    for (const Operand& in : op.inputs)
      if (!is_weight(in.tensor)) plan.follow(in.dims, value(value_of(in.tensor)).placement);

    if (op.kind == OpKind::residual_sum) {
      std::vector<ValueId> terms;
      for (const Operand& in : op.inputs) terms.push_back(value_of(in.tensor));
      const ValueId total = sum_at(terms, plan.at(op.outputs[0].dims), op.outputs[0].dims.size());
      rename_sum(total, op.outputs[0].tensor);
      return;
    }

    auto& reads = read_[static_cast<std::size_t>(id)];
    AxisSet partial = 0;
    DimSet all = 0;
    for (std::size_t i = 0; i < op.inputs.size(); ++i) {
      const Operand& in = op.inputs[i];
      const ValueId v = is_weight(in.tensor) ? use(in.tensor) : value_of(in.tensor);
      const AxisSet stays = staying_partial(op, plan, v, static_cast<int>(i), partial);
      const ValueId there = is_weight(in.tensor) ? v : reshard(v, plan.at(in.dims, stays));
      reads.push_back(there);
      partial = static_cast<AxisSet>(partial | stays);
      join(all, in.dims);
    }
    Node& n = add_node(Node::Kind::compute);
    forward_node_[static_cast<std::size_t>(id)] = static_cast<NodeId>(out_.nodes.size() - 1);
    for (ValueId v : reads) n.inputs.push_back(v);
    n.ring = plan.ring(all);
    n.in_place = op.in_place;
    for (const Operand& out : op.outputs) {
      const ValueId y = add_value(
          out.tensor, plan.at(out.dims, static_cast<AxisSet>(partial | plan.contracted(all, out.dims))), false);
      makes(out_.nodes.back(), y);
      current_[static_cast<std::size_t>(out.tensor)] = y;
      lazy_[static_cast<std::size_t>(out.tensor)] = op.passes_partial;
    }
    for (const Operand& out : op.outputs) settle_stream(out.tensor);
  }
  static void join(DimSet& all, const DimList& dims) {
    for (DimId d : dims) all |= DimSet{1} << d;
  }
  /// The residual stream moves to its place as soon as it is made.
  void settle_stream(TensorId t) {
    if (!g_.tensor(t).stream) return;
    current_[static_cast<std::size_t>(t)] = reshard(value_of(t), placed_by(says_.stream, g_.tensor(t).dims));
  }
  /// A residual sum is a sum node whose result is a tensor of its own.
  void rename_sum(ValueId total, TensorId t) {
    out_.values[static_cast<std::size_t>(total)].tensor = t;
    current_[static_cast<std::size_t>(t)] = total;
  }

  // ---- backward ----

  void seed() {
    if (g_.losses.empty()) seed(g_.stream_out >= 0 ? g_.stream_out : g_.ops().back().outputs[0].tensor);
    for (TensorId loss : g_.losses) seed(loss);
  }
  void seed(TensorId t) {
    Placement p = value(value_of(t)).placement;
    p.partial = 0;
    out_.seeds.push_back(add_value(t, p, true));
    gradients_[static_cast<std::size_t>(t)].push_back(out_.seeds.back());
  }

  /// The gradient of a tensor from all its readers, -1 when nobody gave one: equal placements are added first. A single
  /// one passes as it came unless it is partial.
  ValueId total_gradient(TensorId t) {
    auto& terms = gradients_[static_cast<std::size_t>(t)];
    if (terms.empty()) return -1;
    const int rank = g_.tensor(t).dims.size();
    bool one_placement = true;
    AxisSet partial = 0;
    for (ValueId v : terms) {
      one_placement = one_placement && value(v).placement.same_dims(value(terms[0]).placement, rank);
      partial = static_cast<AxisSet>(partial | value(v).placement.partial);
    }
    const bool resolved = partial == 0 || lazy_[static_cast<std::size_t>(t)];
    if (one_placement && resolved && (says_.merge_sums || terms.size() == 1)) return sum(terms);
    Placement own = value(value_of(t)).placement;
    own.partial = 0;
    return sum_at(terms, own, rank);
  }

  /// What backward reads of a forward operand: what the operator read, or the shard that it was gathered from.
  ValueId saved_form(OpId id, int operand) const {
    const Operator& op = g_.op(id);
    const auto inputs = static_cast<int>(op.inputs.size());
    if (operand >= inputs) {
      const Node& made = out_.nodes[static_cast<std::size_t>(forward_node_[static_cast<std::size_t>(id)])];
      return made.outputs[static_cast<std::size_t>(operand - inputs)];
    }
    const ValueId read = read_[static_cast<std::size_t>(id)][static_cast<std::size_t>(operand)];
    const NodeId maker = value(read).maker;
    if (!says_.gather_again || maker < 0) return read;
    const Node& n = out_.nodes[static_cast<std::size_t>(maker)];
    const bool gathered = n.kind == Node::Kind::reshard && n.steps.is_gather();
    return gathered ? n.inputs[0] : read;
  }
  void backward(OpId id) {
    const Operator& op = g_.op(id);
    if (op.gradients.empty()) return;
    serving_ = id;
    region_ = op.region;
    const ValueId dy = total_gradient(op.outputs[0].tensor);
    if (dy < 0) return;
    for (std::size_t k = 0; k < op.gradients.size(); ++k) {
      const Gradient& gradient = op.gradients[k];
      if (gradient.identity) {
        for (int i : gradient.of) give_gradient(op.inputs[static_cast<std::size_t>(i)].tensor, dy);
      } else {
        compute_gradient(id, op, static_cast<std::int8_t>(k), dy);
      }
    }
  }

  /// The same value as a gradient of another tensor of the same dims.
  void give_gradient(TensorId t, ValueId v) { gradients_[static_cast<std::size_t>(t)].push_back(v); }

  const Operand& operand(const Operator& op, int i) const {
    const auto inputs = static_cast<int>(op.inputs.size());
    return i < inputs ? op.inputs[static_cast<std::size_t>(i)] : op.outputs[static_cast<std::size_t>(i - inputs)];
  }

  void compute_gradient(OpId id, const Operator& op, std::int8_t k, ValueId dy) {
    const Gradient& gradient = op.gradients[static_cast<std::size_t>(k)];
    bool only_weights = true;
    for (int i : gradient.of) only_weights = only_weights && is_weight(op.inputs[static_cast<std::size_t>(i)].tensor);
    const Phase before = phase_;
    phase_ = only_weights ? Phase::weight_gradient : Phase::input_gradient;

    Plan plan(says_.home);
    pin_shared(plan, id);
    pin_whole(plan, op);
    for (int i : gradient.of)
      if (is_weight(operand(op, i).tensor)) pin_weight(plan, operand(op, i));
    for (int i : gradient.reads)
      if (is_weight(operand(op, i).tensor)) pin_weight(plan, operand(op, i));
    pin_declared(plan, id);
    pin_stream(plan, op);
    const DimList& out_dims = op.outputs[0].dims;
    plan.follow(out_dims, value(dy).placement);
    for (int i : gradient.reads)
      if (!is_weight(operand(op, i).tensor)) plan.follow(operand(op, i).dims, value(saved_form(id, i)).placement);
    // A dim that only the result has (the vocabulary of the label's logit) lies as forward read it.
    for (int i : gradient.of)
      plan.follow(operand(op, i).dims,
                  value(read_[static_cast<std::size_t>(id)][static_cast<std::size_t>(i)]).placement);

    AxisSet partial = 0;
    DimSet all = 0;
    boost::container::static_vector<ValueId, 10> inputs;
    const auto read = [&](ValueId v, int operand, const DimList& dims) {
      const AxisSet stays = staying_partial(op, plan, v, operand, partial);
      inputs.push_back(reshard(v, plan.at(dims, stays)));
      partial = static_cast<AxisSet>(partial | stays);
      join(all, dims);
    };
    read(dy, -1, out_dims);
    for (int i : gradient.reads) {
      const Operand& o = operand(op, i);
      if (is_weight(o.tensor)) {
        inputs.push_back(use(o.tensor));
        join(all, o.dims);
      } else {
        read(saved_form(id, i), i, o.dims);
      }
    }
    Node& n = add_node(Node::Kind::compute);
    n.gradient = k;
    n.in_place = gradient.in_place;
    n.inputs = inputs;
    n.ring = plan.ring(all);
    const NodeId node = static_cast<NodeId>(out_.nodes.size() - 1);
    for (int i : gradient.of) {
      const Operand& o = operand(op, i);
      const Placement p = plan.at(o.dims, static_cast<AxisSet>(partial | plan.contracted(all, o.dims)));
      const ValueId d = add_value(o.tensor, p, true);
      if (gradient.one_hot) {
        out_.values[static_cast<std::size_t>(d)].one_hot = true;
        out_.values[static_cast<std::size_t>(d)].elements = value(inputs[0]).elements;
      }
      makes(out_.nodes[static_cast<std::size_t>(node)], d);
      give_gradient(o.tensor, d);
    }
    phase_ = before;
  }

  // ---- weights ----

  void collect_weights() {
    region_ = Region::none;
    serving_ = -1;
    phase_ = Phase::weight_gradient;
    for (std::size_t i = 0; i < g_.tensors().size(); ++i) {
      if (g_.tensors()[i].role != TensorRole::weight) continue;
      const auto id = static_cast<TensorId>(i);
      WeightState w;
      w.tensor = id;
      w.value = value_of(id);
      if (!gradients_[i].empty()) w.gradient = sum(gradients_[i]);
      settle(w, out_, mesh_, says_);
      out_.weights.push_back(w);
    }
  }

  struct Moved {
    ValueId from, to;
    Placement want;
  };
  struct Gathered {
    TensorId weight;
    ValueId value;
  };

  const OpGraph& g_;
  const std::vector<std::int64_t>& extents_;
  const Mesh& mesh_;
  const Declarations& says_;
  ShardedGraph out_;
  std::vector<ValueId> current_;                                   // by tensor: where it is now, in forward
  std::vector<std::vector<ValueId>> gradients_;                    // by tensor: what its readers gave
  std::vector<char> lazy_;                                         // by tensor: its gradient may stay partial
  std::vector<boost::container::static_vector<ValueId, 8>> read_;  // by operator: the values its forward read
  std::vector<NodeId> forward_node_;                               // by operator
  std::vector<Moved> moved_;
  std::vector<Gathered> gathered_;
  Phase phase_ = Phase::forward;
  Region region_ = Region::none;
  OpId serving_ = -1;
};

}  // namespace

ShardedGraph shard(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                   const Declarations& declarations) {
  return Derivation(graph, extents, mesh, declarations).run();
}

void resize(ShardedGraph& sharded, const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
            const Declarations& declarations) {
  for (Value& v : sharded.values)
    if (!v.one_hot) size(v, graph.tensor(v.tensor), extents, mesh, declarations);
  for (Node& n : sharded.nodes) {
    for (ValueId made : n.outputs) {
      Value& v = sharded.values[static_cast<std::size_t>(made)];
      const Value& read = sharded.value(n.inputs[0]);
      if (v.one_hot) v.elements = read.elements;
      if (n.kind == Node::Kind::reshard) n.steps = steps_between(read, v, mesh);
      if (n.kind == Node::Kind::gather_parameter) n.steps.steps[0].held_elements = read.elements;
    }
  }
  for (WeightState& w : sharded.weights) settle(w, sharded, mesh, declarations);
}

}  // namespace shardwright
