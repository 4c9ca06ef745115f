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
/// model.py: cast, square, mean, scale, cast, weight), silu(gate) * up, or x cos + rotated x sin with halves that are
/// negated and concatenated, and their derivatives by autograd. Of a norm `on_fp32_copy` the copy and the norm, both
/// again in backward, and what casts the gradient.
WrittenOut written_out(const Operator& op, bool backward);

}  // namespace shardwright
