#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <variant>
#include <vector>

#include "hardware/machine.h"
#include "hardware/measurements.h"
#include "planner/cost/merged_products.h"
#include "planner/engine/constants.h"
#include "planner/shard/shard.h"
#include "planner/workload.h"

namespace shardwright {

/// Everything that turns a node into questions and bytes.
struct CostContext {
  const OpGraph& graph;
  const std::vector<std::int64_t>& extents;  // whole, by dim
  const Mesh& mesh;
  const Machine& machine;
  TrainingFormats formats;
  int ring_dim = -1;    // the dimension of keys and values that a ring passes around
  int expert_dim = -1;  // the dimension by which rows are routed
  double crossing = 1;  // of routed rows: see CollectiveSpec
  EngineConstants constants = {};
  bool adds_gradients = false;  // products add weight gradients to what earlier micro-batches left
  MergedProducts merges_products = MergedProducts::none;
  bool collects_by_layer = false;        // what tp gathers and reduces, once for each layer that reads or makes it
  bool own_kernels = false;              // as Engine has it
  bool beside_weight_gradients = false;  // run sums over tp of the input's gradient, and gathers that only they read
  const MadeTogether* made_together = nullptr;  // of the derived graph; where it is not known it is found for each node
};

/// What a compute or sum node asks of a device; nothing for a node that only moves data between ranks. Products of
/// several experts are groups, each of as many rows as the fullest rank's experts have in the mean.
using NodeQuestion = std::variant<GemmSpec, GroupedGemmSpec, AttentionSpec, MemorySpec>;
NodeQuestion node_question(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// A product that reads what it multiplies in a narrower format than it is stored in.
bool is_narrow_product(const OpGraph& graph, const Node& node, const TrainingFormats& formats);

/// What a narrow product casts first: activations and gradients that no product before it read. Both for itself and
/// transposed for the gradients' products, in one pass (Transformer Engine, cast_transpose). Weights are cast once a
/// step. Nothing moved: no cast. `node` is one of `sharded`.
MemorySpec casts_of(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// What each of two kernels moves that bring the block factors of a product's operands into the order in which tensor
/// cores read them (cuBLAS, "1D block scaling factors layout"; Transformer Engine's swizzle.cu): the mean of both, read
/// and written, a byte a factor. Nothing where blocks are not the format's.
MemorySpec swizzled(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// A question that is a matrix product, groups as a batch; nothing of another.
std::optional<GemmSpec> product_of(const NodeQuestion& question);

/// Whether it runs inside another node's kernel.
bool in_epilogue(const OpGraph& graph, const Node& node);

/// How often it asks that, 0 in an epilogue: a ring's operator once for each of the blocks that pass by, one that is
/// written out once for each of its kernels, a merged product its share of the whole.
double times_asked(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// One sigma of a time, by the families of what takes it. Inside a family times err alike (a curve or a clock is too
/// high for all), so their errors add up; families err apart.
struct TimeError {
  enum Family { product, attention, memory, collective };
  std::array<Seconds, 4> by_family = {};

  Seconds total() const {
    double squares = 0;
    for (Seconds s : by_family) squares += s.value * s.value;
    return {std::sqrt(squares)};
  }
  TimeError& operator+=(const TimeError& other) {
    for (std::size_t i = 0; i < by_family.size(); ++i) by_family[i] += other.by_family[i];
    return *this;
  }
  friend TimeError operator*(double times, TimeError error) {
    for (Seconds& s : error.by_family) s = times * s;
    return error;
  }
  bool operator==(const TimeError&) const = default;
};

/// Time of one node, apart for compute and communication.
struct NodeCost {
  Seconds compute, communication;
  TimeError error;
};
NodeCost node_cost(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// A kernel or collective that is asked for, and how often.
struct AskedKernel {
  KernelSpec spec;
  KernelCost cost;
  double times = 1;
};
/// What node_cost's times are made of; nothing for parameter gathers.
std::vector<AskedKernel> asked_kernels(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// Of every node; parameter gathers cost nothing here (data_cost.h).
std::vector<NodeCost> node_costs(const CostContext& context, const ShardedGraph& sharded);

/// What several micro-batches take at the least that together have the sizes of `sharded`: `each` of them, however
/// small, and `together`, which they share by their sizes. Errors are left out.
struct LeastCost {
  NodeCost each, together;
};
LeastCost least_cost(const CostContext& context, const ShardedGraph& sharded, const Node& node);

/// What the moves of a node take at the most in micro-batches that have these shares of the sizes of `sharded`: so much
/// `each`, and a share of `together`. Nothing where it is not known: of rows, whose parts are no even shares, and of
/// what packs them.
struct MostMoved {
  Seconds each, together;
};
class MostMoves {
 public:
  explicit MostMoves(std::vector<double> shares) : shares_(std::move(shares)) {}
  std::optional<MostMoved> of(const CostContext& context, const ShardedGraph& sharded, const Node& node);

 private:
  MostMoved of(const CollectiveSpec& spec, const Machine& machine);

  std::vector<double> shares_;
  std::vector<std::pair<CollectiveSpec, MostMoved>> known_;  // a few, that many nodes have in common
};

/// Stored bytes of one element of a tensor's value.
double bytes_per_element(const Tensor& tensor, const Value& value, const TrainingFormats& formats);
/// Stored bytes of a value.
Bytes bytes_of(const OpGraph& graph, const Value& value, const TrainingFormats& formats);

}  // namespace shardwright
