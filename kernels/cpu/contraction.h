#pragma once

#include <vector>

#include "kernels/host/folding.h"

namespace shardwright::cpu {

/// out = sum over loops that do not move it of a * b, or out + that. `out` is dense: each of its elements is reached.
void contract(const float* a, const float* b, float* out, std::vector<Loop> loops, bool accumulate);

}  // namespace shardwright::cpu
