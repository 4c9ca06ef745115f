#pragma once

#include "models/op_graph.h"

namespace shardwright {

/// What a chain of elementwise kernels moves, as a framework without fusion runs an operator: passes over the
/// operator's first output, each a read or a write of every element, as wide as activations or in fp32.
struct WrittenOut {
  int kernels = 1;  ///< those over whole tensors; what runs over one number a row is left out
  int narrow = 0, wide = 0;
  bool operator==(const WrittenOut&) const = default;
};

/// Of a pass through an operator that is `written_out`: an RMSNorm as LLaMA's (github.com/meta-llama/llama,
/// model.py: cast, square, mean, scale, cast, weight) or silu(gate) * up, and their derivatives by autograd.
WrittenOut written_out(OpKind kind, bool backward);

}  // namespace shardwright
