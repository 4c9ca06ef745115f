#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hardware/kernel_spec.h"
#include "planner/shard/traffic.h"

namespace shardwright {

enum class OperatorPass { forward, again, input_gradient, weight_gradient };
/// "forward", "again" (a recomputation, in backward), "input gradient", "weight gradient"
std::string_view name_of(OperatorPass);

/// What one operator takes of a step on one GPU, each of its calls as if it had the GPU to itself: what hides behind
/// something, too.
struct OperatorTime {
  std::string graph, name;  ///< "layer", "layer class 1", "embedding", "head"; "q_proj"
  OperatorPass pass = OperatorPass::forward;
  bool communicates = false;
  KernelFamily family = KernelFamily::memory;  ///< of what it computes
  Traffic traffic = Traffic::tensor;           ///< of what it communicates
  double calls = 0;
  Seconds seconds;  ///< of all calls
};

}  // namespace shardwright
