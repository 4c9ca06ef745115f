#pragma once

#include <array>
#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <vector>

#include "models/op_graph.h"
#include "planner/shard/mesh.h"
#include "planner/shard/placement.h"

namespace shardwright {

using ValueId = std::int32_t;
using NodeId = std::int32_t;

/// What a layout says about a graph. Everything that is not here is derived. Graphs are remembered by all of it: a new
/// member goes into text_of in cost/shape_price.cc, too.
struct Declarations {
  std::vector<AxisTuple> home;        ///< by dim: where a dimension goes unless something else decides
  std::vector<AxisTuple> stream;      ///< by dim: the residual stream
  std::vector<Placement> weight_use;  ///< by tensor: weights where operators use them (others ignored)
  struct Pin {
    OpId op;
    DimId dim;
    AxisTuple axes;
    bool shared = false;  ///< exactly these axes, whole or not, even where another dim of the operator has them: a ring
  };
  std::vector<Pin> pins;     ///< dims that an operator wants somewhere else than home
  bool gather_again = true;  ///< backward reads the shard and gathers again, instead of keeping the gathered tensor
  bool merge_sums = true;    ///< terms of a sum with one placement are added before they move
  int zero = 0;
  std::vector<AxisSet> shard_axes;  ///< by tensor, zero >= 1: the axes over which a flattened weight's state is cut,
                                    ///< but for those that cut a dimension of it
  bool keep_parameters = false;     ///< zero 3: gathered weights stay until backward
  /// By dim, empty = all 1: how much more than the mean the fullest part of a cut dimension holds of what is sparse in
  /// it (rows routed to experts). Every rank is counted as the fullest.
  std::vector<double> fullest;
};

/// One rank's piece of a tensor, or of its gradient.
struct Value {
  TensorId tensor = -1;
  bool gradient = false;
  bool one_hot = false;  ///< `elements` counts what is stored, not what the placement spans
  Width width = Width::compute;
  Placement placement;
  double share = 1;  ///< of what the placement spans, the part that exists: the tensor's density, on the fullest part
  std::int64_t elements = 0;
  NodeId maker = -1;  ///< -1: given (the stream that enters, ids, weights, the loss's own gradient)
};

enum class Phase : std::uint8_t { forward, input_gradient, weight_gradient };

/// One thing that every rank does.
struct Node {
  enum class Kind : std::uint8_t { compute, sum, reshard, gather_parameter };
  Kind kind = Kind::compute;
  Phase phase = Phase::forward;
  Region region = Region::none;  ///< of the operator that needs it
  OpId op = -1;                  ///< compute: what is computed; else whom it serves (-1: nobody in this graph)
  std::int8_t gradient = -1;     ///< compute: index into the operator's gradients, -1 = forward
  boost::container::static_vector<ValueId, 10> inputs;  ///< forward: the operator's; gradient: [dy,] then its reads
  boost::container::static_vector<ValueId, 6> outputs;  ///< forward: the operator's; gradient: of Gradient::of
  ReshardSteps steps;                                   ///< reshard and gather_parameter
  AxisSet ring = 0;       ///< compute: operands cut over these axes are passed around inside the operator
  bool in_place = false;  ///< a result takes the place of an input of its size that nothing reads later
};

/// A weight's life between steps: how it is used, and how its gradient gets to where the optimizer keeps its state.
struct WeightState {
  TensorId tensor = -1;
  ValueId value = -1;              ///< as operators use it, but not yet gathered
  std::int64_t used_elements = 0;  ///< of one rank, whole on the shard axes
  std::int64_t shard_parts = 1;    ///< ranks over which the state that zero shards is cut
  ValueId gradient = -1;
  ReshardSteps reduction;  ///< of the gradient: reduce_scatter over the shard axes, then all_reduce of the shard
};

/// A graph as one rank of a mesh runs it: local pieces, and a reshard wherever a producer and a reader disagree.
struct ShardedGraph {
  std::vector<Value> values;
  std::vector<Node> nodes;  ///< forward, then backward, each in an order in which it can run
  std::size_t forward_nodes = 0;
  std::vector<WeightState> weights;
  ValueId stream_in = -1, stream_out = -1, stream_in_gradient = -1;
  std::vector<ValueId> seeds;  ///< gradients that backward starts from: of the losses, or of stream_out

  const Value& value(ValueId v) const { return values[static_cast<std::size_t>(v)]; }
};

/// Derives the sharded graph, forward and backward, and every collective in it. Knows no operator beyond its declared
/// rule (dims, `whole`, `on_stream`, gradients and what they read), and no layer or model.
///
/// `extents`: whole, by dim; each divides by the axes that cut it (check first with what the layout knows; asserted
/// here). Rules: P1 pins, P2 home, unless a value has that axis on another dim (where inputs differ the first decides,
/// a finer cut deepens it), P3 an axis once and contiguous, P4 output partial where a cut dim is contracted, S1 one
/// reshard for each (tensor, placement, phase), S2 sums before moves, S3 declared linear operators let partials pass.
/// An axis that is pinned to two dims of one operator (ring attention) is worked off inside it: operands travel,
/// nothing stays partial over it. Precondition: `weight_use` leaves whole what an operator of the weight needs whole,
/// and uses no axis twice.
ShardedGraph shard(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
                   const Declarations& declarations);

/// The same graph at other extents, and on another mesh with as many axes: what is where, and what moves, does not
/// depend on sizes. `graph` and `declarations` as in shard().
void resize(ShardedGraph& sharded, const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
            const Declarations& declarations);

}  // namespace shardwright
