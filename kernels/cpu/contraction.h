#pragma once

#include <cstdint>
#include <vector>

namespace shardwright::cpu {

/// One label of a contraction: its extent, and how far each array moves with it (0: not at all).
struct Loop {
  std::int64_t extent = 1, a = 0, b = 0, out = 0;
};

/// out = sum over loops that do not move it of a * b, or out + that. `out` is dense: each of its elements is reached.
void contract(const float* a, const float* b, float* out, std::vector<Loop> loops, bool accumulate);

}  // namespace shardwright::cpu
