#include "planner/memory.h"

#include <algorithm>
#include <cmath>

namespace shardwright {
namespace {

/// Bytes alive while nodes run in order.
class Lifetimes {
 public:
  explicit Lifetimes(const std::vector<ValueBytes>& sizes)
      : sizes_(sizes), readers_(sizes.size(), 0), alive_(sizes.size(), 0), kept_(sizes.size(), 0) {}

  void will_read(ValueId v) { ++readers_[static_cast<std::size_t>(v)]; }
  /// Never freed by its readers.
  void keep(ValueId v) { kept_[static_cast<std::size_t>(v)] = 1; }
  void begin(ValueId v) {
    auto& alive = alive_[static_cast<std::size_t>(v)];
    if (alive) return;
    alive = 1;
    now_ += sizes_[static_cast<std::size_t>(v)].allocated;
    now_reserved_ += sizes_[static_cast<std::size_t>(v)].reserved;
  }
  void run(const Node& node) {
    if (node.in_place) give_place(node);
    for (ValueId v : node.outputs) begin(v);
    peak_ = std::max(peak_, now_);
    peak_reserved_ = std::max(peak_reserved_, now_reserved_);
    for (ValueId v : node.inputs)
      if (--readers_[static_cast<std::size_t>(v)] <= 0) end(v);
    for (ValueId v : node.outputs)
      if (readers_[static_cast<std::size_t>(v)] <= 0) end(v);
  }
  Bytes peak() const { return peak_; }
  Bytes peak_reserved() const { return peak_reserved_; }

 private:
  /// Ends one input that nobody reads later, and that the largest result fits into.
  void give_place(const Node& node) {
    Bytes largest;
    for (ValueId v : node.outputs) largest = std::max(largest, sizes_[static_cast<std::size_t>(v)].allocated);
    for (ValueId v : node.inputs) {
      const auto i = static_cast<std::size_t>(v);
      if (!alive_[i] || kept_[i] || readers_[i] != 1 || sizes_[i].allocated != largest) continue;
      end(v);
      return;
    }
  }
  void end(ValueId v) {
    auto& alive = alive_[static_cast<std::size_t>(v)];
    if (!alive || kept_[static_cast<std::size_t>(v)]) return;
    alive = 0;
    now_ -= sizes_[static_cast<std::size_t>(v)].allocated;
    now_reserved_ -= sizes_[static_cast<std::size_t>(v)].reserved;
  }

  const std::vector<ValueBytes>& sizes_;
  std::vector<int> readers_;
  std::vector<char> alive_, kept_;
  Bytes now_, now_reserved_, peak_, peak_reserved_;
};

}  // namespace

namespace {

Bytes stored(std::int64_t elements, double bytes_per_element) {
  return {static_cast<std::int64_t>(std::ceil(static_cast<double>(elements) * bytes_per_element))};
}

}  // namespace

Bytes reserved_for(Bytes tensor) {
  const std::int64_t unit = tensor > 1_MiB ? (2_MiB).value : 512;
  return {(tensor.value + unit - 1) / unit * unit};
}

ActivationNeed activation_need(const OpGraph& graph, const ShardedGraph& sharded, const BackwardPlan& plan,
                               const TrainingFormats& formats) {
  return activation_need(sharded, plan, value_bytes(graph, sharded, formats));
}

std::vector<ValueBytes> value_bytes(const OpGraph& graph, const ShardedGraph& sharded, const TrainingFormats& formats,
                                    bool gradients_apart) {
  std::vector<ValueBytes> sizes(sharded.values.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const Value& value = sharded.values[i];
    const TensorRole role = graph.tensor(value.tensor).role;
    Bytes b;
    if (role == TensorRole::activation) b = bytes_of(graph, value, formats);
    if (role == TensorRole::weight && value.gradient && gradients_apart)
      b = stored(value.elements, std::max(2.0, bytes_per_element(formats.parameter)));
    sizes[i] = {b, reserved_for(b)};
  }
  return sizes;
}

std::vector<char> narrow_products(const OpGraph& graph, const ShardedGraph& sharded, const TrainingFormats& formats) {
  std::vector<char> narrow(sharded.nodes.size());
  for (std::size_t i = 0; i < narrow.size(); ++i) narrow[i] = is_narrow_product(graph, sharded.nodes[i], formats);
  return narrow;
}

namespace {

/// Who reads a value in backward.
enum Reader : unsigned { product = 1, attention = 2, activation = 4, other = 8, late_product = 16, late_other = 32 };

std::vector<unsigned> readers_of(const OpGraph& graph, const ShardedGraph& sharded, const BackwardPlan& plan,
                                 const std::vector<char>& narrow) {
  std::vector<unsigned> readers(sharded.values.size());
  for (NodeId n : plan.order) {
    const Node& node = sharded.nodes[static_cast<std::size_t>(n)];
    const OpKind kind = node.kind == Node::Kind::compute ? graph.op(node.op).kind : OpKind::residual_sum;
    unsigned reader = other;
    if (kind == OpKind::attention) reader = attention;
    if (kind == OpKind::gated_silu || kind == OpKind::gelu) reader = activation;
    const bool is_product = narrow[static_cast<std::size_t>(n)] && node.gradient >= 0;
    if (is_product) reader = product;
    if (node.phase == Phase::weight_gradient) reader |= is_product ? late_product : late_other;
    for (ValueId v : node.inputs) readers[static_cast<std::size_t>(v)] |= reader;
  }
  return readers;
}

}  // namespace

void save_narrow(const OpGraph& graph, const ShardedGraph& sharded, const BackwardPlan& plan,
                 const std::vector<char>& narrow, const TrainingFormats& formats, const MemoryHabits& habits,
                 std::vector<ValueBytes>& sizes) {
  if (!habits.narrow_activations || bytes_per_element(formats.compute) >= 2) return;
  constexpr double kAttentionResult = 1.5;
  const double width = bytes_read(formats);
  const std::vector<unsigned> readers = readers_of(graph, sharded, plan, narrow);
  for (ValueId v : plan.saved) {
    const auto i = static_cast<std::size_t>(v);
    const unsigned by = readers[i] & (product | attention | activation | other);
    const bool all_narrow = habits.narrow_saves && !(by & other) && by != attention;
    if (!(by & product) && !all_narrow) continue;
    if (by == product || all_narrow) sizes[i] = {};
    const Bytes cast = stored(sharded.value(v).elements, by & attention && all_narrow ? kAttentionResult : width);
    sizes[i].allocated += cast;
    sizes[i].reserved += reserved_for(cast);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!(readers[i] & late_product) || readers[i] & late_other || sizes[i].allocated <= Bytes{}) continue;
    const double cast = width * static_cast<double>(sharded.values[i].elements);
    sizes[i].late = std::min(1.0, cast / static_cast<double>(sizes[i].allocated.value));
  }
}

ValueBytes kept_for_weights(const ShardedGraph& sharded, const BackwardPlan& plan,
                            const std::vector<ValueBytes>& sizes) {
  ValueBytes kept;
  // Weight gradients read what others made; what their own reshards make is made when they run.
  std::vector<char> seen(sharded.values.size());
  const auto is_late = [&](NodeId n) {
    return sharded.nodes[static_cast<std::size_t>(n)].phase == Phase::weight_gradient;
  };
  for (NodeId n : plan.order)
    for (ValueId v : sharded.nodes[static_cast<std::size_t>(n)].outputs)
      if (is_late(n)) seen[static_cast<std::size_t>(v)] = 1;
  for (NodeId n : plan.order)
    for (ValueId v : sharded.nodes[static_cast<std::size_t>(n)].inputs) {
      const auto i = static_cast<std::size_t>(v);
      if (!is_late(n) || seen[i]) continue;
      seen[i] = 1;
      const auto share = [&](Bytes bytes) {
        return Bytes{static_cast<std::int64_t>(std::ceil(sizes[i].late * static_cast<double>(bytes.value)))};
      };
      kept.allocated += share(sizes[i].allocated);
      kept.reserved += share(sizes[i].reserved);
    }
  return kept;
}

ActivationNeed activation_need(const ShardedGraph& sharded, const BackwardPlan& plan,
                               const std::vector<ValueBytes>& sizes) {
  ActivationNeed need;
  for (ValueId v : plan.saved) {
    need.saved += sizes[static_cast<std::size_t>(v)].allocated;
    need.saved_reserved += sizes[static_cast<std::size_t>(v)].reserved;
  }

  const ValueBytes late = kept_for_weights(sharded, plan, sizes);
  need.for_weights = late.allocated;
  need.for_weights_reserved = late.reserved;

  Lifetimes forward(sizes);
  for (std::size_t i = 0; i < sharded.forward_nodes; ++i)
    for (ValueId v : sharded.nodes[i].inputs) forward.will_read(v);
  for (ValueId v : plan.saved) forward.keep(v);
  if (sharded.stream_in >= 0) forward.begin(sharded.stream_in);
  if (sharded.stream_out >= 0) forward.keep(sharded.stream_out);
  for (std::size_t i = 0; i < sharded.forward_nodes; ++i) forward.run(sharded.nodes[i]);

  Lifetimes backward(sizes);
  for (NodeId n : plan.order)
    for (ValueId v : sharded.nodes[static_cast<std::size_t>(n)].inputs) backward.will_read(v);
  for (ValueId v : plan.saved) backward.begin(v);
  for (ValueId v : sharded.seeds) backward.begin(v);
  if (sharded.stream_in_gradient >= 0) backward.keep(sharded.stream_in_gradient);
  for (NodeId n : plan.order) backward.run(sharded.nodes[static_cast<std::size_t>(n)]);

  need.transient = std::max(Bytes{0}, std::max(forward.peak(), backward.peak()) - need.saved);
  need.transient_reserved =
      std::max(need.transient, std::max(forward.peak_reserved(), backward.peak_reserved()) - need.saved_reserved);
  return need;
}

}  // namespace shardwright
