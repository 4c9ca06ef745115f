#include "tests/support/rank_simulator.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "kernels/reference/reference.h"
#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

using reference::Array;
using reference::In;

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr double kDropout = 0.25;

/// Missing numbers stay missing.
double combined(double a, double b, bool largest) {
  if (!largest) return a + b;
  if (std::isnan(a) || std::isnan(b)) return kMissing;
  return std::max(a, b);
}

bool moves_data(ReshardStep kind) { return kind != ReshardStep::slice; }

bool adds(ReshardStep kind) { return kind == ReshardStep::reduce_scatter || kind == ReshardStep::all_reduce; }

/// A pseudo-random number for an element of an operator's output, the same on every rank.
double dropout_mask(OpId op, std::int64_t element) {
  std::uint64_t x =
      static_cast<std::uint64_t>(element) * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(op) * 0xBF58476D1CE4E5B9u;
  x ^= x >> 31;
  x *= 0x94D049BB133111EBu;
  x ^= x >> 29;
  return x % 1024 < static_cast<std::uint64_t>(kDropout * 1024) ? 0.0 : 1.0;
}

/// What the gradients begin from, as shard() does.
std::vector<TensorId> outputs_of(const OpGraph& graph) {
  if (!graph.losses.empty()) return graph.losses;
  return {graph.stream_out >= 0 ? graph.stream_out : graph.ops().back().outputs[0].tensor};
}

std::string shown(const AxisTuple& tuple) {
  std::string s;
  for (AxisId a : tuple) s += (s.empty() ? "" : ",") + std::to_string(a);
  return s;
}

std::string shown(const OpGraph& graph, const DimList& dims, const Placement& p) {
  std::string s = "[";
  for (int i = 0; i < dims.size(); ++i) {
    s += (i ? " " : "") + graph.dims()[dims[i]].name;
    if (p.dims[i].size() > 0) s += ".(" + shown(p.dims[i]) + ")";
  }
  s += "]";
  for (int a = 0; a < 16; ++a)
    if (p.partial >> a & 1) s += " +" + std::to_string(a);
  return s;
}

std::string shown(AxisSet set) {
  std::string s;
  for (int a = 0; a < 16; ++a)
    if (set >> a & 1) s += (s.empty() ? "" : ",") + std::to_string(a);
  return s;
}

}  // namespace

WholeData draw_data(const OpGraph& graph, const std::vector<std::int64_t>& extents, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  WholeData data;
  data.tensors.resize(graph.tensors().size());
  const auto elements = [&](const DimList& dims) {
    std::size_t n = 1;
    for (DimId d : dims) n *= static_cast<std::size_t>(extents[d]);
    return n;
  };
  for (std::size_t i = 0; i < data.tensors.size(); ++i) {
    const Tensor& t = graph.tensors()[i];
    if (t.role != TensorRole::weight && static_cast<TensorId>(i) != graph.stream_in) continue;
    data.tensors[i].resize(elements(t.dims));
    // Weights of norms and biases have one dimension or hang on the last ones; a product keeps its size under 1 /
    // sqrt(rows).
    double scale = 1.0;
    for (const Operator& op : graph.ops())
      if (op.kind == OpKind::contraction && op.inputs[1].tensor == static_cast<TensorId>(i)) {
        double rows = 1.0;
        for (DimId d : op.inputs[1].dims)
          if (!op.outputs[0].dims.has(d)) rows *= static_cast<double>(extents[d]);
        scale = 1.0 / std::sqrt(rows);
      }
    // Logits far from zero: only the true maximum keeps the exponentials in range.
    const double offset = t.name == "logit_offset" ? -1000.0 : 0.0;
    for (double& x : data.tensors[i]) x = offset + scale * normal(random);
  }
  for (const Operator& op : graph.ops()) {
    if (op.kind != OpKind::gather && op.kind != OpKind::vocabulary_pick) continue;
    const Operand& index = op.inputs[op.kind == OpKind::gather ? 0 : 1];
    const Operand& table = op.inputs[op.kind == OpKind::gather ? 1 : 0];
    const DimId rows = op.kind == OpKind::gather ? table.dims[0] : table.dims[table.dims.size() - 1];
    auto& ids = data.tensors[static_cast<std::size_t>(index.tensor)];
    ids.resize(elements(index.dims));
    for (double& id : ids) id = static_cast<double>(random() % static_cast<std::uint64_t>(extents[rows]));
  }
  for (TensorId t : outputs_of(graph)) {
    data.seeds.emplace_back(elements(graph.tensor(t).dims));
    for (double& x : data.seeds.back()) x = normal(random);
  }
  return data;
}

std::vector<Mutation> mutations(const ShardedGraph& sharded, const Mesh& mesh) {
  std::vector<Mutation> result;
  const auto add = [&](int node, int weight, const ReshardSteps& steps) {
    for (int k = 0; k < steps.count; ++k) {
      const auto& step = steps.steps[k];
      if (!moves_data(step.kind)) continue;
      Mutation m = {Mutation::Kind::drop, node, weight, k, step.axes};
      result.push_back(m);
      for (std::size_t a = 0; a < mesh.axes().size(); ++a) {
        m.axes = bit(static_cast<AxisId>(a));
        if ((step.axes & m.axes) && step.axes != m.axes) result.push_back(m);
      }
      m.axes = step.axes;
      m.kind = Mutation::Kind::operation;
      if (adds(step.kind)) result.push_back(m);
      m.kind = Mutation::Kind::misroute;
      // Reduced weights are added up whole here, so no piece has a place.
      if (step.kind != ReshardStep::all_reduce && weight < 0) result.push_back(m);
    }
  };
  for (std::size_t i = 0; i < sharded.nodes.size(); ++i) {
    const Node& n = sharded.nodes[i];
    add(static_cast<int>(i), -1, n.steps);
    if (n.ring == 0) continue;
    const auto phases = n.gradient < 0 ? 1 : 2;  // what comes in, and what goes out again
    for (int phase = 0; phase < phases; ++phase)
      for (const Mutation::Kind kind : {Mutation::Kind::drop, Mutation::Kind::misroute})
        result.push_back({kind, static_cast<int>(i), -1, phase, n.ring});
  }
  for (std::size_t i = 0; i < sharded.weights.size(); ++i) add(-1, static_cast<int>(i), sharded.weights[i].reduction);
  return result;
}

std::string describe(const Mutation& m, const OpGraph& graph, const ShardedGraph& sharded) {
  static const char* const kKinds[] = {"nothing", "drop", "wrong operation", "misroute"};
  std::ostringstream out;
  const bool of_node = m.node >= 0;
  const ReshardSteps& steps = of_node ? sharded.nodes[static_cast<std::size_t>(m.node)].steps
                                      : sharded.weights[static_cast<std::size_t>(m.weight)].reduction;
  if (of_node && sharded.nodes[static_cast<std::size_t>(m.node)].ring) {
    out << kKinds[static_cast<int>(m.kind)] << " in the ring of node " << m.node << (m.step ? ", gradients" : "");
    return out.str();
  }
  const ValueId v = of_node ? sharded.nodes[static_cast<std::size_t>(m.node)].outputs[0]
                            : sharded.weights[static_cast<std::size_t>(m.weight)].gradient;
  out << kKinds[static_cast<int>(m.kind)] << " " << name_of(steps.steps[m.step].kind) << " over " << shown(m.axes)
      << " of " << shown(steps.steps[m.step].axes)
      << (of_node ? ", node " + std::to_string(m.node) : std::string(", weight reduction")) << ", "
      << (sharded.value(v).gradient ? "d " : "") << graph.tensor(sharded.value(v).tensor).name;
  return out.str();
}

std::string describe(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                     const Declarations& says, const ShardedGraph& sharded) {
  std::ostringstream out;
  out << "mesh:";
  for (const Mesh::Axis& a : mesh.axes()) out << " " << a.size;
  out << "\ndims:";
  for (std::size_t i = 0; i < graph.dims().size(); ++i) {
    out << " " << graph.dims()[i].name << "=" << extents[i] << " home(" << shown(says.home[i]) << ") stream("
        << shown(says.stream[i]) << ")";
  }
  out << "\ngather_again " << says.gather_again << " merge_sums " << says.merge_sums << " zero " << says.zero
      << " keep_parameters " << says.keep_parameters << "\n";
  for (const auto& pin : says.pins)
    out << "pin " << graph.op(pin.op).name << " " << graph.dims()[pin.dim].name << " (" << shown(pin.axes) << ")\n";
  for (std::size_t i = 0; i < sharded.values.size(); ++i) {
    if (sharded.values[i].maker >= 0) continue;
    const Value& v = sharded.values[i];
    out << "given " << i << " " << graph.tensor(v.tensor).name << " "
        << shown(graph, graph.tensor(v.tensor).dims, v.placement);
    if (says.zero > 0 && graph.tensor(v.tensor).role == TensorRole::weight && !v.gradient)
      out << " state over " << shown(says.shard_axes[static_cast<std::size_t>(v.tensor)]);
    out << "\n";
  }
  for (std::size_t i = 0; i < sharded.nodes.size(); ++i) {
    static const char* const kKinds[] = {"compute", "sum", "reshard", "gather_parameter"};
    const Node& n = sharded.nodes[i];
    out << (i == sharded.forward_nodes ? "-- backward\n" : "") << i << " " << kKinds[static_cast<int>(n.kind)];
    if (n.op >= 0) {
      out << " " << name_of(graph.op(n.op).kind) << (graph.op(n.op).on_stream ? " on_stream" : "")
          << (graph.op(n.op).passes_partial ? " passes_partial" : "");
    }
    if (n.gradient >= 0) out << " gradient " << static_cast<int>(n.gradient);
    for (int k = 0; k < n.steps.count; ++k)
      out << " " << name_of(n.steps.steps[k].kind) << "(" << shown(n.steps.steps[k].axes) << ")";
    out << ":";
    for (ValueId v : n.inputs) out << " " << v;
    out << " ->";
    for (ValueId v : n.outputs) {
      const Value& value = sharded.value(v);
      out << " " << v << " " << (value.gradient ? "d " : "") << graph.tensor(value.tensor).name
          << shown(graph, graph.tensor(value.tensor).dims, value.placement);
    }
    out << "\n";
  }
  return out.str();
}

RankSimulator::RankSimulator(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                             const Declarations& says, const ShardedGraph& sharded, const WholeData& data)
    : graph_(graph), extents_(extents), mesh_(mesh), says_(says), sharded_(sharded), data_(data) {
  std::int64_t at = 1;
  for (const Mesh::Axis& a : mesh.axes()) {
    line_.push_back(at);
    at *= a.size;
  }
  blocks_.resize(sharded.values.size());
  altered_.resize(sharded.values.size());
  is_altered_.assign(sharded.values.size(), false);
  weight_gradients_.resize(sharded.weights.size());
}

void RankSimulator::complain(const std::string& what) const {
  if (fault_.empty() && !mutating_) fault_ = what;
}

RankSimulator::Blocks RankSimulator::blocks_of(const std::vector<double>& whole, const DimList& dims,
                                               const Placement& placement) const {
  Blocks result(static_cast<std::size_t>(mesh_.ranks()));
  const auto n = block_extents(dims, extents_, placement, mesh_);
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    const auto begin = block_begin(dims, extents_, placement, mesh_, rank);
    auto& block = result[static_cast<std::size_t>(rank)];
    block.resize(static_cast<std::size_t>(product(n)));
    for (std::size_t e = 0; e < block.size(); ++e) {
      std::int64_t rest = static_cast<std::int64_t>(e), stride = 1, index = 0;
      for (int i = dims.size(); i-- > 0;) {
        const auto k = static_cast<std::size_t>(i);
        index += (begin[k] + rest % n[k]) * stride;
        rest /= n[k];
        stride *= extents_[dims[i]];
      }
      block[e] = whole[static_cast<std::size_t>(index)];
    }
  }
  return result;
}

const RankSimulator::Blocks& RankSimulator::at(ValueId v) const {
  const auto i = static_cast<std::size_t>(v);
  return is_altered_[i] ? altered_[i] : blocks_[i];
}

void RankSimulator::store(ValueId v, Blocks blocks) {
  const auto i = static_cast<std::size_t>(v);
  if (mutating_) is_altered_[i] = true;
  (mutating_ ? altered_ : blocks_)[i] = std::move(blocks);
}

namespace {

AxisSet stored_axes(const Declarations& says, const Value& weight) {
  if (says.zero != 3) return 0;
  return static_cast<AxisSet>(says.shard_axes[static_cast<std::size_t>(weight.tensor)] & ~weight.placement.sharded());
}

}  // namespace

/// Each rank keeps its piece only.
void RankSimulator::give_stored_weight(ValueId v, Blocks& blocks) const {
  const AxisSet cut = stored_axes(says_, sharded_.value(v));
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    auto& block = blocks[static_cast<std::size_t>(rank)];
    const FlatPiece piece = flat_piece(mesh_, rank, cut, static_cast<std::int64_t>(block.size()));
    for (std::size_t e = 0; e < block.size(); ++e)
      if (static_cast<std::int64_t>(e) / piece.length != piece.index) block[e] = kMissing;
  }
}

RankSimulator::Blocks RankSimulator::gather_parameter(const Node& node, const Mutation* mutation) const {
  const Blocks& stored = at(node.inputs[0]);
  const AxisSet cut = node.steps.steps[0].axes;
  const std::int64_t parts = mesh_.size_of(cut);
  Blocks result = stored;
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    auto& block = result[static_cast<std::size_t>(rank)];
    const auto length = (block.size() + static_cast<std::size_t>(parts) - 1) / static_cast<std::size_t>(parts);
    for (std::size_t e = 0; e < block.size(); ++e) {
      auto piece = static_cast<std::int64_t>(e / length);
      std::size_t element = e;
      if (mutation && mutation->kind == Mutation::Kind::misroute) {
        piece = std::max<std::int64_t>(piece - 1, 0);
        element = static_cast<std::size_t>(piece) * length + e % length;
      }
      std::int64_t from = rank;
      bool missing = element >= block.size();
      for (std::size_t a = 0; a < mesh_.axes().size(); ++a) {
        if (!(cut >> a & 1)) continue;
        const std::int64_t wanted = piece % mesh_.axes()[a].size, own = coordinate(mesh_, rank, static_cast<AxisId>(a));
        piece /= mesh_.axes()[a].size;
        if (mutation && mutation->kind == Mutation::Kind::drop && (mutation->axes >> a & 1) && wanted != own)
          missing = true;
        from += (wanted - own) * line_[a];
      }
      block[e] = missing ? kMissing : stored[static_cast<std::size_t>(from)][element];
    }
  }
  return result;
}

RankSimulator::Blocks RankSimulator::move(const Move& what, const Blocks& from, const Mutation* mutation) const {
  AxisSet moved = 0, scattered = 0, misrouted = 0;
  for (int k = 0; k < what.steps.count; ++k) {
    const auto& step = what.steps.steps[k];
    if (moves_data(step.kind)) moved = static_cast<AxisSet>(moved | step.axes);
    if (!mutation || mutation->step != k || mutation->kind != Mutation::Kind::misroute) continue;
    (step.kind == ReshardStep::reduce_scatter ? scattered : misrouted) = step.axes;
  }
  const AxisSet dropped = mutation && mutation->kind == Mutation::Kind::drop ? mutation->axes : AxisSet{0};
  const bool largest = (what.combine == Combine::max) != (mutation && mutation->kind == Mutation::Kind::operation);
  const auto resolved = static_cast<AxisSet>(what.from.partial & ~what.to.partial);
  if (resolved & ~moved) complain("a partial axis is resolved by no step");

  // How far the ranks lie whose partial values are added: all coordinates of the resolved axes.
  std::vector<std::vector<std::int64_t>> terms(static_cast<std::size_t>(mesh_.ranks()));
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    auto& of = terms[static_cast<std::size_t>(rank)] = {0};
    for (std::size_t a = 0; a < mesh_.axes().size(); ++a) {
      if (!((resolved & moved & ~dropped) >> a & 1)) continue;
      std::vector<std::int64_t> longer;
      for (std::int64_t before : of)
        for (int c = 0; c < mesh_.axes()[a].size; ++c)
          longer.push_back(before + (c - coordinate(mesh_, rank, static_cast<AxisId>(a))) * line_[a]);
      of = std::move(longer);
    }
  }

  const int rank_count = static_cast<int>(mesh_.ranks());
  const auto n = block_extents(what.dims, extents_, what.to, mesh_),
             m = block_extents(what.dims, extents_, what.from, mesh_);
  Blocks result(static_cast<std::size_t>(rank_count));
  struct Source {
    std::int64_t ranks, element;
    bool missing;
  };
  for (std::int64_t rank = 0; rank < rank_count; ++rank) {
    const auto begin = block_begin(what.dims, extents_, what.to, mesh_, rank);
    // By dimension and local index: which rank has it, relative to this one, and where.
    std::vector<std::vector<Source>> sources(n.size());
    std::int64_t stride = 1;
    for (std::size_t i = n.size(); i-- > 0;) {
      const AxisTuple& cut = what.from.dims[i];
      for (std::int64_t t = 0; t < n[i]; ++t) {
        const std::int64_t whole = begin[i] + t;
        Source s = {0, whole % m[i] * stride, false};
        std::int64_t piece = whole / m[i];
        for (int k = cut.size(); k-- > 0;) {
          const AxisId a = cut[k];
          const std::int64_t size = mesh_.axes()[a].size, own = coordinate(mesh_, rank, a);
          std::int64_t wanted = piece % size;
          piece /= size;
          if (wanted != own && !(moved & bit(a))) {
            complain("no rank of the group holds an element");
            s.missing = true;
          }
          if (misrouted & bit(a)) wanted = std::max<std::int64_t>(wanted - 1, 0);
          if (wanted != own && (dropped & bit(a))) s.missing = true;
          s.ranks += (wanted - own) * line_[a];
        }
        sources[i].push_back(s);
      }
      stride *= m[i];
    }
    auto& block = result[static_cast<std::size_t>(rank)];
    block.resize(static_cast<std::size_t>(product(n)));
    std::vector<std::size_t> index(n.size(), 0);
    for (double& x : block) {
      std::int64_t holder = rank, element = 0;
      bool missing = false;
      for (std::size_t i = 0; i < n.size(); ++i) {
        const Source& s = sources[i][index[i]];
        holder += s.ranks;
        element += s.element;
        missing = missing || s.missing;
      }
      if (missing) {
        x = kMissing;
      } else {
        bool first = true;
        for (std::int64_t term : terms[static_cast<std::size_t>(rank)]) {
          const double part = from[static_cast<std::size_t>(holder + term)][static_cast<std::size_t>(element)];
          x = first ? part : combined(x, part, largest);
          first = false;
        }
      }
      for (std::size_t i = n.size(); i-- > 0;) {
        if (++index[i] < static_cast<std::size_t>(n[i])) break;
        index[i] = 0;
      }
    }
  }
  if (!scattered) return result;
  Blocks elsewhere(result.size());
  for (std::int64_t rank = 0; rank < rank_count; ++rank) {
    std::int64_t other = rank;
    for (std::size_t a = 0; a < mesh_.axes().size(); ++a)
      if ((scattered >> a & 1) && coordinate(mesh_, rank, static_cast<AxisId>(a)) > 0) other -= line_[a];
    elsewhere[static_cast<std::size_t>(rank)] = result[static_cast<std::size_t>(other)];
  }
  return elsewhere;
}

RankSimulator::Blocks RankSimulator::reshard(const Node& node, const Mutation* mutation) const {
  const Value &from = sharded_.value(node.inputs[0]), &to = sharded_.value(node.outputs[0]);
  const Tensor& t = graph_.tensor(to.tensor);
  Blocks result =
      move({dims_of(node.outputs[0]), from.placement, to.placement, node.steps, to.gradient ? Combine::sum : t.combine},
           at(node.inputs[0]), mutation);
  if (t.role == TensorRole::index)  // an id that never came is an id outside every table
    for (auto& block : result)
      for (double& x : block)
        if (std::isnan(x)) x = -1.0;
  return result;
}

/// A term that is not partial over an axis of the result enters on coordinate 0 of it.
RankSimulator::Blocks RankSimulator::sum(const Node& node) const {
  const Value& to = sharded_.value(node.outputs[0]);
  const int dims = dims_of(node.outputs[0]).size();
  Blocks result(static_cast<std::size_t>(mesh_.ranks()));
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    auto& block = result[static_cast<std::size_t>(rank)];
    block.assign(at(node.inputs[0])[static_cast<std::size_t>(rank)].size(), 0.0);
    for (ValueId v : node.inputs) {
      const Placement& p = sharded_.value(v).placement;
      if (!p.same_dims(to.placement, dims)) complain("terms of a sum lie in different places");
      if (p.partial & ~to.placement.partial) complain("a sum forgets a partial axis of a term");
      bool enters = true;
      for (std::size_t a = 0; a < mesh_.axes().size(); ++a)
        if ((to.placement.partial & ~p.partial) >> a & 1)
          enters = enters && coordinate(mesh_, rank, static_cast<AxisId>(a)) == 0;
      const auto& term = at(v)[static_cast<std::size_t>(rank)];
      for (std::size_t e = 0; enters && e < block.size(); ++e) block[e] += term[e];
    }
  }
  return result;
}

/// What one rank's kernel is given.
struct RankSimulator::Arguments {
  const Operator& op;
  std::vector<In> operands;  // by forward operand: inputs, then outputs; empty when not read
  In dy;
  std::vector<std::int64_t> extent, begin;  // by dim
  const OpGraph& graph;
  const std::vector<std::int64_t>& whole;

  std::vector<std::int64_t> extents(const DimList& dims) const {
    std::vector<std::int64_t> result;
    for (DimId d : dims) result.push_back(extent[d]);
    return result;
  }
  std::int64_t elements(const DimList& dims) const { return product(extents(dims)); }
  reference::Labelled labelled(In data, const DimList& dims) const {
    return {data, std::vector<int>(dims.begin(), dims.end()), extents(dims)};
  }
  const DimList& dims(std::size_t i) const {
    return i < op.inputs.size() ? op.inputs[i].dims : op.outputs[i - op.inputs.size()].dims;
  }

  reference::RotaryShape rotary() const {
    reference::RotaryShape s = {1, 1, 1, 1, 0};
    const DimList& x = dims(0);
    bool behind = false;
    for (int i = 0; i + 1 < x.size(); ++i) {
      if (graph.dims()[x[i]].name == "sequence") {
        s.sequence = extent[x[i]];
        s.first_position = begin[x[i]];
        behind = true;
      } else {
        (behind ? s.inner : s.outer) *= extent[x[i]];
      }
    }
    s.width = extent[x[x.size() - 1]];
    return s;
  }
  std::vector<reference::KeyRange> keys_seen() const {
    const DimList& x = dims(0);
    const int sequence = graph.find_dim("sequence");
    const std::int64_t keys = extent[x[x.size() - 1]];
    std::vector<reference::KeyRange> seen(static_cast<std::size_t>(elements(x) / keys), {0, keys});
    if (sequence < 0 || !x.has(static_cast<DimId>(sequence)) || graph.dims()[x[x.size() - 1]].name != "key_sequence")
      return seen;
    std::int64_t behind = 1;
    for (int i = x.find(static_cast<DimId>(sequence)) + 1; i + 1 < x.size(); ++i) behind *= extent[x[i]];
    const auto d = static_cast<std::size_t>(sequence);
    for (std::size_t row = 0; row < seen.size(); ++row)
      seen[row] = reference::causal_range(begin[d] + static_cast<std::int64_t>(row) / behind % extent[d], op.window);
    return seen;
  }
  /// Inputs are query parts, key parts, values and sinks.
  std::size_t values_at() const { return 2 * static_cast<std::size_t>(op.score_parts); }
  bool has_sinks() const { return op.inputs.size() > values_at() + 1; }
  reference::AttentionShape attention_shape() const {
    const DimList &q = dims(0), &v = dims(values_at());
    return {extent[q[0]], extent[q[1]], extent[v[1]], extent[q[2]], extent[q[3]], extent[last(values_at())],
            begin[q[1]],  op.window,    op.chunk};
  }
  reference::AttentionInputs attention_inputs() const {
    reference::AttentionInputs in = {{}, operands[values_at()], {}, dims(values_at()).size() == 3, op.score_width};
    for (std::size_t i = 0; i < values_at() / 2; ++i) {
      const std::size_t key = values_at() / 2 + i;
      in.parts.push_back({operands[i], operands[key], extent[last(i)], dims(key).size() == 3});
    }
    if (has_sinks()) in.sinks = operands[values_at() + 1];
    return in;
  }
  std::int64_t experts_chosen() const {
    const double all = static_cast<double>(whole[last(0)]);
    return std::llround(all * graph.tensor(op.outputs[0].tensor).density);
  }
  Array mask() const {
    const DimList& x = dims(0);
    Array result(static_cast<std::size_t>(elements(x)));
    const auto id = static_cast<OpId>(&op - graph.ops().data());
    for (std::size_t e = 0; e < result.size(); ++e) {
      std::int64_t rest = static_cast<std::int64_t>(e), stride = 1, index = 0;
      for (int i = x.size(); i-- > 0;) {
        index += (begin[x[i]] + rest % extent[x[i]]) * stride;
        rest /= extent[x[i]];
        stride *= whole[x[i]];
      }
      result[e] = dropout_mask(id, index);
    }
    return result;
  }
  std::int64_t all_tokens() const {
    std::int64_t n = 1;
    for (DimId d : op.inputs[1].dims) n *= whole[d];
    return n;
  }
  std::int64_t columns() const { return extent[last(0)]; }
  DimId last(std::size_t i) const { return dims(i)[dims(i).size() - 1]; }

  static Array copy(std::span<const double> a) { return {a.begin(), a.end()}; }
  Array ones(std::size_t i) const { return Array(operands[i].size(), 1); }
  Array exponentials() const {
    Array e = copy(operands[0]);
    for (std::size_t i = 0; i < e.size(); ++i)
      e[i] = std::exp(e[i] - operands[1][i / static_cast<std::size_t>(columns())]);
    return e;
  }
  std::vector<Array> forward() const {
    const auto& in = operands;
    switch (op.kind) {
      case OpKind::contraction:
      case OpKind::dispatch:
      case OpKind::combine: {
        const DimList& out = op.outputs[0].dims;
        return {reference::contraction(labelled(in[0], dims(0)), labelled(in[1], dims(1)), {out.begin(), out.end()})};
      }
      case OpKind::gather:
        return {reference::gather(in[0], in[1], elements(dims(1)) / extent[dims(1)[0]], begin[dims(1)[0]])};
      case OpKind::add_bias:
        return {reference::add_bias(labelled(in[0], dims(0)), labelled(in[1], dims(1)))};
      case OpKind::cast:
        return {copy(in[0])};
      case OpKind::rotary:
        return {reference::rotary(in[0], rotary())};
      case OpKind::gelu:
        return {reference::gelu(in[0])};
      case OpKind::gated_silu:
        if (op.outputs.size() > 1) return {reference::gated_silu(in[0], in[1]), reference::gated_silu(in[0], ones(0))};
        return {reference::gated_silu(in[0], in[1])};
      case OpKind::dropout: {
        Array m = mask();
        Array y = reference::dropout(in[0], m, kDropout);
        return {std::move(y), std::move(m)};
      }
      case OpKind::rms_norm:
        if (op.outputs.size() > 1) {
          const Array plain(in[1].size(), 1);
          return {reference::rms_norm(in[0], in[1]), reference::rms_norm(in[0], plain), copy(in[0])};
        }
        return {reference::rms_norm(in[0], in[1])};
      case OpKind::layer_norm:
        return {reference::layer_norm(in[0], in[1], in[2])};
      case OpKind::softmax:
        return {reference::softmax(in[0], extent[last(0)], keys_seen())};
      case OpKind::attention: {
        auto out = reference::attention(attention_inputs(), attention_shape());
        return {std::move(out.o), std::move(out.log_sum_exp)};
      }
      case OpKind::route: {
        auto r = reference::route(in[0], extent[last(0)], experts_chosen());
        return {std::move(r.gate), std::move(r.mask)};
      }
      case OpKind::sigmoid_scale:
        return {reference::sigmoid_scale(in[0], in[1])};
      case OpKind::residual_sum:
        return {};
      case OpKind::vocabulary_max:
        return {reference::vocabulary_max(in[0], columns())};
      case OpKind::vocabulary_exp_sum:
        if (op.outputs.size() > 1) return {reference::vocabulary_exp_sum(in[0], in[1], columns()), exponentials()};
        return {reference::vocabulary_exp_sum(in[0], in[1], columns())};
      case OpKind::vocabulary_pick:
        return {reference::vocabulary_pick(in[0], in[1], columns(), begin[last(0)])};
      case OpKind::cross_entropy:
        return {{reference::cross_entropy(in[0], in[1], in[2], all_tokens())}};
    }
    return {};
  }
  /// Of every input, in order; those that Gradient::of does not name may be empty.
  std::vector<Array> backward(const Gradient& gradient) const {
    const auto& in = operands;
    switch (op.kind) {
      case OpKind::contraction:
      case OpKind::dispatch:
      case OpKind::combine: {
        const auto of = static_cast<std::size_t>(gradient.of[0]), other = 1 - of;
        std::vector<Array> result(2);
        result[of] = reference::contraction(labelled(dy, op.outputs[0].dims), labelled(in[other], dims(other)),
                                            {dims(of).begin(), dims(of).end()});
        return result;
      }
      case OpKind::gather:
        return {{},
                reference::gather_gradient(in[0], dy, elements(dims(1)) / extent[dims(1)[0]], begin[dims(1)[0]],
                                           extent[dims(1)[0]])};
      case OpKind::add_bias:
        return {{}, reference::add_bias_gradient(labelled(dy, dims(0)), {dims(1).begin(), dims(1).end()})};
      case OpKind::cast:
        return {copy(dy)};
      case OpKind::rotary:
        return {reference::rotary_gradient(dy, rotary())};
      case OpKind::gelu:
        return {reference::gelu_gradient(in[0], dy)};
      case OpKind::gated_silu: {
        auto d = reference::gated_silu_gradient(in[0], in[1], dy);
        return {std::move(d.gate), std::move(d.up)};
      }
      case OpKind::dropout:
        return {reference::dropout(dy, in[2], kDropout)};
      case OpKind::rms_norm:
      case OpKind::layer_norm: {
        const auto x = in[op.outputs.size() > 1 ? 4 : 0];  // written out it keeps x in fp32
        auto d = op.kind == OpKind::rms_norm ? reference::rms_norm_gradient(x, in[1], dy)
                                             : reference::layer_norm_gradient(x, in[1], dy);
        return {std::move(d.x), std::move(d.weight), std::move(d.bias)};
      }
      case OpKind::softmax:
        return {reference::softmax_gradient(in[1], dy, extent[last(0)])};
      case OpKind::attention: {
        const std::size_t inputs = op.inputs.size();
        auto d = reference::attention_gradient(attention_inputs(), in[inputs], in[inputs + 1], dy, attention_shape());
        std::vector<Array> result;
        for (Array& q : d.q) result.push_back(std::move(q));
        for (Array& k : d.k) result.push_back(std::move(k));
        result.push_back(std::move(d.v));
        result.push_back(std::move(d.sinks));
        return result;
      }
      case OpKind::route:
        return {reference::route_gradient(in[0], dy, extent[last(0)], experts_chosen())};
      case OpKind::sigmoid_scale:
        if (gradient.of[0] == 0) return {reference::sigmoid_scale_gradient_x(in[1], dy)};
        return {{}, reference::sigmoid_scale_gradient_scale(in[0], in[1], dy)};
      case OpKind::residual_sum:
      case OpKind::vocabulary_max:
        return {};
      case OpKind::vocabulary_exp_sum:
        if (op.outputs.size() > 1) {
          Array d = copy(in[3]);
          for (std::size_t i = 0; i < d.size(); ++i) d[i] *= dy[i / static_cast<std::size_t>(columns())];
          return {std::move(d)};
        }
        return {reference::vocabulary_exp_sum_gradient(in[0], in[1], dy, columns())};
      case OpKind::vocabulary_pick:
        return {reference::vocabulary_pick_gradient(in[1], dy, columns(), begin[last(0)])};
      case OpKind::cross_entropy:
        if (gradient.of[0] == 1) return {{}, reference::cross_entropy_gradient_exp_sum(in[1], dy[0], all_tokens())};
        return {{}, {}, reference::cross_entropy_gradient_picked(elements(dims(2)), dy[0], all_tokens())};
    }
    return {};
  }
};

/// A dimension lies in one place in one operator, whole where the operator needs it whole; over one axis one input may
/// be partial; an axis is used once.
void RankSimulator::check_together(const Node& node) const {
  const Operator& op = graph_.op(node.op);
  std::vector<const AxisTuple*> places(graph_.dims().size(), nullptr);
  AxisSet partial = 0;
  const auto look = [&](ValueId v, const DimList& dims, bool input, int operand = -1) {
    const Placement& p = sharded_.value(v).placement;
    AxisSet used = p.partial;
    for (int i = 0; i < dims.size(); ++i) {
      const AxisTuple*& known = places[dims[i]];
      if (known && !(*known == p.dims[i])) complain("operands of '" + op.name + "' do not lie together");
      known = &p.dims[i];
      if (op.whole.has(dims[i]) && (set_of(p.dims[i]) & ~node.ring))
        complain("'" + op.name + "' needs a dimension whole");
      if (used & set_of(p.dims[i])) complain("an axis is used twice by an operand of '" + op.name + "'");
      used = static_cast<AxisSet>(used | set_of(p.dims[i]));
    }
    if (input && (partial & p.partial)) complain("a product of two partial sums in '" + op.name + "'");
    const bool linear = op.passes_partial && (operand < 0 || !(op.resolved >> operand & 1));
    if (input && p.partial && !linear) complain("a partial value enters '" + op.name + "'");
    if (input) partial = static_cast<AxisSet>(partial | p.partial);
  };
  const auto dims = [&](std::size_t i) -> const DimList& {
    return i < op.inputs.size() ? op.inputs[i].dims : op.outputs[i - op.inputs.size()].dims;
  };
  if (node.gradient < 0) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) look(node.inputs[i], dims(i), true, static_cast<int>(i));
    for (std::size_t i = 0; i < node.outputs.size(); ++i) look(node.outputs[i], op.outputs[i].dims, false);
  } else {
    const Gradient& g = op.gradients[static_cast<std::size_t>(node.gradient)];
    look(node.inputs[0], op.outputs[0].dims, true);
    for (std::size_t i = 0; i < g.reads.size(); ++i)
      look(node.inputs[i + 1], dims(static_cast<std::size_t>(g.reads[i])), true, g.reads[i]);
    for (std::size_t i = 0; i < g.of.size(); ++i) look(node.outputs[i], dims(static_cast<std::size_t>(g.of[i])), false);
  }
}

/// What passes around a ring reaches every rank of it: keys and values, whose sequence is then whole.
RankSimulator::Lying RankSimulator::gathered_in_ring(const DimList& dims, const Placement& p, AxisSet ring,
                                                     const Blocks& blocks, const Mutation* mutation) const {
  Lying result = {{}, p};
  for (int i = 0; i < dims.size(); ++i)
    if (graph_.dims()[dims[i]].name == "key_sequence" && (set_of(p.dims[i]) & ring)) result.placement.dims[i] = {};
  ReshardSteps steps;
  steps.count = 1;
  steps.steps[0] = {ReshardStep::all_gather, ring, 0};
  result.blocks = result.placement == p ? blocks : move({dims, p, result.placement, steps}, blocks, mutation);
  return result;
}

void RankSimulator::compute(const Node& node, const Mutation* mutation) {
  const Operator& op = graph_.op(node.op);
  if (!mutating_) check_together(node);
  const bool backward = node.gradient >= 0;
  const Gradient* gradient = backward ? &op.gradients[static_cast<std::size_t>(node.gradient)] : nullptr;
  std::vector<Blocks> outputs(node.outputs.size(), Blocks(static_cast<std::size_t>(mesh_.ranks())));
  const auto input_dims = [&](std::size_t i) -> const DimList& {
    if (backward && i == 0) return op.outputs[0].dims;
    const std::size_t k = backward ? static_cast<std::size_t>(gradient->reads[i - 1]) : i;
    return k < op.inputs.size() ? op.inputs[k].dims : op.outputs[k - op.inputs.size()].dims;
  };
  const auto output_dims = [&](std::size_t i) -> const DimList& {
    return backward ? op.inputs[static_cast<std::size_t>(gradient->of[i])].dims : op.outputs[i].dims;
  };
  std::vector<Lying> inputs;
  std::vector<Placement> made_at;
  const Mutation* incoming = mutation && mutation->step == 0 ? mutation : nullptr;
  const Mutation* outgoing = mutation && mutation->step == 1 ? mutation : nullptr;
  for (std::size_t i = 0; i < node.inputs.size(); ++i)
    inputs.push_back(gathered_in_ring(input_dims(i), sharded_.value(node.inputs[i]).placement, node.ring,
                                      at(node.inputs[i]), incoming));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const Placement& p = sharded_.value(node.outputs[i]).placement;
    Placement whole = p;
    const DimList& dims = output_dims(i);
    for (int k = 0; k < dims.size(); ++k)
      if (graph_.dims()[dims[k]].name == "key_sequence" && (set_of(p.dims[k]) & node.ring)) whole.dims[k] = {};
    if (!(whole == p)) whole.partial = static_cast<AxisSet>(whole.partial | node.ring);
    made_at.push_back(whole);
  }
  for (std::int64_t rank = 0; rank < mesh_.ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    Arguments a = {op,       std::vector<In>(op.inputs.size() + op.outputs.size()), {},
                   extents_, std::vector<std::int64_t>(extents_.size(), 0),         graph_,
                   extents_};
    const auto place = [&](const Placement& p, const DimList& dims) {
      const auto n = block_extents(dims, extents_, p, mesh_), begin = block_begin(dims, extents_, p, mesh_, rank);
      for (int i = 0; i < dims.size(); ++i) {
        a.extent[dims[i]] = n[static_cast<std::size_t>(i)];
        a.begin[dims[i]] = begin[static_cast<std::size_t>(i)];
      }
    };
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      place(inputs[i].placement, input_dims(i));
      if (backward && i == 0) {
        a.dy = inputs[0].blocks[r];
      } else {
        a.operands[backward ? static_cast<std::size_t>(gradient->reads[i - 1]) : i] = inputs[i].blocks[r];
      }
    }
    for (std::size_t i = 0; i < node.outputs.size(); ++i) place(made_at[i], output_dims(i));
    std::vector<Array> made = backward ? a.backward(*gradient) : a.forward();
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      const std::size_t from = backward ? static_cast<std::size_t>(gradient->of[i]) : i;
      outputs[i][r] = std::move(made[from]);
      if (static_cast<std::int64_t>(outputs[i][r].size()) !=
          product(block_extents(output_dims(i), extents_, made_at[i], mesh_)))
        complain("'" + op.name + "' made a block of another size");
    }
  }
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const Placement& p = sharded_.value(node.outputs[i]).placement;
    ReshardSteps steps;
    steps.count = 1;
    steps.steps[0] = {ReshardStep::reduce_scatter, node.ring, 0};
    Mutation alone = mutation ? *mutation : Mutation{};
    alone.step = 0;
    if (!(made_at[i] == p))
      outputs[i] = move({output_dims(i), made_at[i], p, steps}, outputs[i], outgoing ? &alone : nullptr);
    store(node.outputs[i], std::move(outputs[i]));
  }
}

void RankSimulator::run_node(std::size_t index, const Mutation& mutation) {
  const Node& node = sharded_.nodes[index];
  const Mutation* here = mutation.node == static_cast<int>(index) ? &mutation : nullptr;
  switch (node.kind) {
    case Node::Kind::compute:
      return compute(node, here);
    case Node::Kind::sum:
      return store(node.outputs[0], sum(node));
    case Node::Kind::reshard:
      return store(node.outputs[0], reshard(node, here));
    case Node::Kind::gather_parameter:
      return store(node.outputs[0], gather_parameter(node, here));
  }
}

/// reduce_scatter over `flat` is run as all-reduce, which leaves every rank the piece that it keeps and the others'
/// too.
void RankSimulator::reduce_weights(const Mutation& mutation) {
  for (std::size_t i = 0; i < sharded_.weights.size(); ++i) {
    const WeightState& w = sharded_.weights[i];
    if (w.gradient < 0) continue;
    Placement p = sharded_.value(w.gradient).placement;
    Blocks blocks = at(w.gradient);
    for (int k = 0; k < w.reduction.count; ++k) {
      const bool here = mutation.weight == static_cast<int>(i) && mutation.step == k;
      ReshardSteps one;
      one.count = 1;
      one.steps[0] = w.reduction.steps[k];
      one.steps[0].kind = ReshardStep::all_reduce;
      Mutation alone = mutation;
      alone.step = 0;
      Placement to = p;
      to.partial = static_cast<AxisSet>(p.partial & ~one.steps[0].axes);
      blocks = move({dims_of(w.gradient), p, to, one, Combine::sum}, blocks, here ? &alone : nullptr);
      p = to;
    }
    if (p.partial) complain("the gradient of '" + graph_.tensor(w.tensor).name + "' stays partial");
    weight_gradients_[i] = std::move(blocks);
  }
}

void RankSimulator::run() {
  mutating_ = false;
  std::fill(is_altered_.begin(), is_altered_.end(), false);
  for (std::size_t i = 0; i < sharded_.values.size(); ++i) {
    const Value& v = sharded_.values[i];
    if (v.maker >= 0) continue;
    const auto seed = std::find(sharded_.seeds.begin(), sharded_.seeds.end(), static_cast<ValueId>(i));
    const auto& whole = seed != sharded_.seeds.end()
                            ? data_.seeds[static_cast<std::size_t>(seed - sharded_.seeds.begin())]
                            : data_.tensors[static_cast<std::size_t>(v.tensor)];
    blocks_[i] = blocks_of(whole, dims_of(static_cast<ValueId>(i)), v.placement);
    if (graph_.tensor(v.tensor).role == TensorRole::weight) give_stored_weight(static_cast<ValueId>(i), blocks_[i]);
  }
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) run_node(i, {});
  reduce_weights({});
}

void RankSimulator::run(const Mutation& mutation) {
  mutating_ = true;
  std::fill(is_altered_.begin(), is_altered_.end(), false);
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) {
    bool touched = mutation.node == static_cast<int>(i);
    for (ValueId v : sharded_.nodes[i].inputs) touched = touched || is_altered_[static_cast<std::size_t>(v)];
    if (touched) run_node(i, mutation);
  }
  reduce_weights(mutation);
}

std::vector<ValueId> RankSimulator::outputs() const {
  if (graph_.losses.empty() && sharded_.stream_out >= 0) return {sharded_.stream_out};
  std::vector<ValueId> result;
  for (TensorId t : outputs_of(graph_))
    for (const Node& n : sharded_.nodes)
      if (n.kind == Node::Kind::compute && n.gradient < 0 && sharded_.value(n.outputs[0]).tensor == t)
        result.push_back(n.outputs[0]);
  return result;
}

RankSimulator::Blocks RankSimulator::whole_sum(ValueId v) const {
  const Placement partial = sharded_.value(v).placement;
  Placement whole = partial;
  whole.partial = 0;
  ReshardSteps all;
  all.count = 1;
  all.steps[0] = {ReshardStep::all_reduce, partial.partial, 0};
  return move({dims_of(v), partial, whole, all}, at(v));
}

std::vector<RankSimulator::Result> RankSimulator::results() const {
  std::vector<Result> result;
  for (ValueId made : outputs()) result.push_back({"output", made, whole_sum(made)});
  const ValueId d_stream = sharded_.stream_in_gradient;
  if (d_stream >= 0) result.push_back({"gradient of the stream", d_stream, at(d_stream)});
  for (std::size_t i = 0; i < sharded_.weights.size(); ++i) {
    const WeightState& w = sharded_.weights[i];
    if (w.gradient >= 0)
      result.push_back({"gradient of " + graph_.tensor(w.tensor).name, w.gradient, weight_gradients_[i]});
  }
  return result;
}

double RankSimulator::outputs_along_seeds() const {
  double sum = 0.0;
  const std::vector<ValueId> made = outputs();
  for (std::size_t k = 0; k < made.size(); ++k) {
    const Blocks output = whole_sum(made[k]);
    for (std::size_t i = 0; i < output[0].size(); ++i) sum += output[0][i] * data_.seeds[k][i];
  }
  return sum;
}

double RankSimulator::gradients_along(const WholeData& direction) const {
  double sum = 0.0;
  for (std::size_t i = 0; i < sharded_.weights.size(); ++i) {
    if (sharded_.weights[i].gradient < 0) continue;
    const auto& along = direction.tensors[static_cast<std::size_t>(sharded_.weights[i].tensor)];
    for (std::size_t e = 0; e < along.size(); ++e) sum += weight_gradients_[i][0][e] * along[e];
  }
  return sum;
}

RankSimulator::Difference RankSimulator::difference(const RankSimulator& one_rank) const {
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  const std::vector<Result> ours = results(), theirs = one_rank.results();
  if (ours.size() != theirs.size()) return {kWrong, "another number of results"};
  double largest_gradient = 0.0;
  const std::size_t first_gradient = outputs().size();
  for (std::size_t k = first_gradient; k < theirs.size(); ++k)
    for (double x : theirs[k].blocks[0]) largest_gradient = std::max(largest_gradient, std::abs(x));
  Difference worst;
  for (std::size_t k = 0; k < ours.size(); ++k) {
    if (ours[k].name != theirs[k].name) return {kWrong, ours[k].name + " stands where " + theirs[k].name + " should"};
    // A gradient that is zero but for rounding has the others' scale.
    double scale = k >= first_gradient ? 1e-5 * largest_gradient : 0.0;
    for (double x : theirs[k].blocks[0]) scale = std::max(scale, std::abs(x));
    const Blocks expected =
        blocks_of(theirs[k].blocks[0], dims_of(ours[k].value), sharded_.value(ours[k].value).placement);
    for (std::size_t r = 0; r < expected.size(); ++r) {
      if (ours[k].blocks[r].size() != expected[r].size()) return {kWrong, ours[k].name};
      for (std::size_t e = 0; e < expected[r].size(); ++e) {
        const double error = std::abs(ours[k].blocks[r][e] - expected[r][e]);
        if (std::isnan(error)) return {kWrong, ours[k].name};
        if (error > worst.relative * scale) worst = {error / scale, ours[k].name};
      }
    }
  }
  return worst;
}

}  // namespace shardwright
