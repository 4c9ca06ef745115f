#pragma once

#include "planner/cost/node_cost.h"
#include "planner/search/recompute.h"

namespace shardwright {

/// Half of an 80 % interval of log(predicted / measured) of a peak of memory: what four in five of the 119 published
/// peaks of tests/validation (trust A and B, as of 2026-08) are within.
inline constexpr double kMemoryWidth = 0.075;

/// Bytes that an allocator with pages takes for one tensor: PyTorch's caching allocator rounds blocks above 1 MiB up to
/// 2 MiB and smaller ones to 512 bytes (c10/cuda/CUDACachingAllocator.cpp, kSmallSize, kRoundLarge, kMinBlockSize).
Bytes reserved_for(Bytes tensor);

/// What one micro-batch needs in one graph.
struct ActivationNeed {
  Bytes saved, saved_reserved;              ///< from forward to backward
  Bytes for_weights, for_weights_reserved;  ///< of what is saved or made in backward, what weight gradients read
  Bytes transient;                          ///< the most that is alive besides what is saved, in forward or in backward
  Bytes transient_reserved;
};

/// From lifetimes: every value lives from the node that makes it to the last that reads it; saved ones from forward to
/// their last reader in backward. Weights and their gradients are not counted here: they live through the step.
ActivationNeed activation_need(const OpGraph& graph, const ShardedGraph& sharded, const BackwardPlan& plan,
                               const TrainingFormats& formats);

/// The same where several plans are asked about: sizes by value, nothing for weights, nor for their gradients unless
/// the graph makes them apart from the accumulated ones.
struct ValueBytes {
  Bytes allocated, reserved;
  double late = 1;  ///< of that, what a weight gradient keeps that runs later than the rest of backward
};
std::vector<ValueBytes> value_bytes(const OpGraph& graph, const ShardedGraph& sharded, const TrainingFormats& formats,
                                    bool gradients_apart = false);
ActivationNeed activation_need(const ShardedGraph& sharded, const BackwardPlan& plan,
                               const std::vector<ValueBytes>& sizes);
/// ActivationNeed::for_weights.
ValueBytes kept_for_weights(const ShardedGraph& sharded, const BackwardPlan& plan,
                            const std::vector<ValueBytes>& sizes);

/// Products that read what they multiply in a narrower format than it is stored in, by node.
std::vector<char> narrow_products(const OpGraph& graph, const ShardedGraph& sharded, const TrainingFormats& formats);
/// What only the gradients of such products read is saved as they read it; what others read, too, is saved both ways,
/// but for what MemoryHabits::narrow_saves says.
void save_narrow(const OpGraph& graph, const ShardedGraph& sharded, const BackwardPlan& plan,
                 const std::vector<char>& narrow, const TrainingFormats& formats, const MemoryHabits& habits,
                 std::vector<ValueBytes>& sizes);

}  // namespace shardwright
