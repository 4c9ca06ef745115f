#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/op_graph.h"
#include "planner/shard/mesh.h"
#include "planner/shard/placement.h"
#include "planner/shard/shard.h"

namespace shardwright {

/// Whole arrays, by tensor: weights, indices and the stream that enters; empty for what operators make.
struct WholeData {
  std::vector<std::vector<double>> tensors;
  std::vector<std::vector<double>> seeds;  // gradients of the graph's outputs: of each loss, or of the one output
};
/// Random ids below the extent that they index, random numbers elsewhere; a weight `logit_offset` lies around -1000, so
/// that only the true maximum keeps the exponentials behind it in range.
WholeData draw_data(const OpGraph& graph, const std::vector<std::int64_t>& extents, std::uint64_t seed);

/// One derived collective left out, or done wrong.
struct Mutation {
  enum class Kind : std::uint8_t {
    none,
    drop,       // along `axes` of the step nothing moves and nothing is added
    operation,  // max for sum, sum for max
    misroute,   // pieces come from the coordinate before the right one (the first from the first) on the step's axes
  };
  Kind kind = Kind::none;
  int node = -1, weight = -1;  // of ShardedGraph::nodes or ::weights
  int step = 0;
  AxisSet axes = 0;
};
/// Every drop (of a step, and of each of its axes alone), wrong operation and misrouting of every collective in
/// `sharded`, what operators pass around themselves included.
std::vector<Mutation> mutations(const ShardedGraph& sharded, const Mesh& mesh);
std::string describe(const Mutation& mutation, const OpGraph& graph, const ShardedGraph& sharded);
std::string describe(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                     const Declarations& says, const ShardedGraph& sharded);

/// Moves one tensor as `steps` say, on all ranks. `blocks` by rank. An element that nobody in the group holds is a
/// fault.
struct Move {
  const DimList& dims;
  Placement from, to;
  const ReshardSteps& steps;
  Combine combine = Combine::sum;
};

/// Runs a sharded graph, forward and backward, on all ranks of its mesh in one process with the reference kernels. A
/// rank sees its own blocks only, but for what the steps of a reshard bring.
class RankSimulator {
 public:
  using Blocks = std::vector<std::vector<double>>;  // by rank: a dense row-major block

  /// The arguments must outlive it.
  RankSimulator(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                const Declarations& says, const ShardedGraph& sharded, const WholeData& data);

  void run();
  /// Only what depends on the mutated collective is run again; run() comes first.
  void run(const Mutation& mutation);

  /// What went wrong while running, "" if nothing: a missing element, operands that do not lie together, ...
  const std::string& fault() const { return fault_; }

  /// Largest difference to a one-rank run of the same graph, or of another with the same weights, relative to the
  /// largest element of each result: the output, the gradient of the stream that enters, every weight's gradient after
  /// its reduction. Infinite for what is missing.
  struct Difference {
    double relative = 0.0;
    std::string result;
  };
  Difference difference(const RankSimulator& one_rank) const;

  /// Of the outputs, summed over their elements times their seeds.
  double outputs_along_seeds() const;
  /// Sum of every weight's gradient times a direction; on one rank.
  double gradients_along(const WholeData& direction) const;

  Blocks move(const Move& what, const Blocks& from, const Mutation* mutation = nullptr) const;
  /// The block of each rank of a whole array.
  Blocks blocks_of(const std::vector<double>& whole, const DimList& dims, const Placement& placement) const;

 private:
  struct Arguments;
  /// Each rank's block of something that the graph is run for; partial ones are added up.
  struct Result {
    std::string name;
    ValueId value;
    Blocks blocks;
  };
  std::vector<Result> results() const;
  std::vector<ValueId> outputs() const;
  Blocks whole_sum(ValueId v) const;
  const Blocks& at(ValueId v) const;
  void run_node(std::size_t index, const Mutation& mutation);
  Blocks reshard(const Node& node, const Mutation* mutation) const;
  Blocks gather_parameter(const Node& node, const Mutation* mutation) const;
  Blocks sum(const Node& node) const;
  void compute(const Node& node, const Mutation* mutation);
  /// Blocks at a placement.
  struct Lying {
    Blocks blocks;
    Placement placement;
  };
  Lying gathered_in_ring(const DimList& dims, const Placement& p, AxisSet ring, const Blocks& blocks,
                         const Mutation* mutation) const;
  void store(ValueId v, Blocks blocks);
  void reduce_weights(const Mutation& mutation);
  void check_together(const Node& node) const;
  void complain(const std::string& what) const;
  void give_stored_weight(ValueId v, Blocks& blocks) const;

  const DimList& dims_of(ValueId v) const { return graph_.tensor(sharded_.value(v).tensor).dims; }
  const OpGraph& graph_;
  const std::vector<std::int64_t>& extents_;
  const Mesh& mesh_;
  const Declarations& says_;
  const ShardedGraph& sharded_;
  const WholeData& data_;
  std::vector<std::int64_t> line_;        // by axis: ranks between neighbours on the stage's line
  std::vector<Blocks> blocks_, altered_;  // by value
  std::vector<char> is_altered_;
  std::vector<Blocks> weight_gradients_;  // by weight, reduced
  bool mutating_ = false;
  mutable std::string fault_;  // the first complaint
};

}  // namespace shardwright
