#pragma once

#include <cstdint>

#include "kernels/on_device.h"

namespace shardwright {

// What a kernel is told beside its arrays. Arrays are dense and row-major; a kernel sees one rank's block and is told
// where it begins in the whole tensor when that matters.

/// x [outer, sequence, inner, width], width even: the pair (i, i + width / 2) turned by position * 10000^(-2 i /
/// width). `first_position` of the block in the whole sequence.
struct RotaryShape {
  std::int64_t outer = 1, sequence = 1, inner = 1, width = 2, first_position = 0;
};

/// Keys [first, end) that one row of scores sees.
struct KeyRange {
  std::int64_t first = 0, end = 0;
};
/// The keys that a query at `position` sees: itself and all before it; of those only the last `window`, and only those
/// in its own chunk of `chunk`, where these are not 0.
SHARDWRIGHT_BOTH KeyRange causal_range(std::int64_t position, std::int64_t window, std::int64_t chunk = 0) {
  KeyRange seen = {0, position + 1};
  if (window > 0 && position + 1 > window) seen.first = position + 1 - window;
  if (chunk > 0 && position / chunk * chunk > seen.first) seen.first = position / chunk * chunk;
  return seen;
}

/// Queries begin at `first_query` of the whole sequence, keys at 0. A query sees `causal_range` of its position, as far
/// as there are keys; all keys where it is not causal.
struct AttentionShape {
  std::int64_t batch = 1, queries = 1, keys = 1, heads = 1, group = 1, value_dim = 1;
  std::int64_t first_query = 0, window = 0, chunk = 0;
  bool causal = true;

  SHARDWRIGHT_BOTH KeyRange keys_seen(std::int64_t query) const {
    if (!causal) return {0, keys};
    KeyRange seen = causal_range(first_query + query, window, chunk);
    if (seen.end > keys) seen.end = keys;
    return seen;
  }
};

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).
struct AdamStep {
  double learning_rate = 1e-3, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0;
  std::int64_t step = 1;      // of the first step
  double gradient_scale = 1;  // the gradient is multiplied by this first: clipping
};

}  // namespace shardwright
