#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "hardware/measured_times.h"

namespace shardwright {

/// How wrong a machine's measurements are about questions that were left out of them: |predicted / measured - 1|.
struct LeaveOutError {
  KernelFamily family = KernelFamily::gemm;
  std::string kind;      // "bf16", "prefill", "a size"; "" for the whole family
  std::string left_out;  // "site (n, k)"
  std::size_t questions = 0;
  double median = 0, p90 = 0;
  double within_sigma = 0;  // share of errors inside the answer's own; 0.68 where that is right
  bool operator==(const LeaveOutError&) const = default;
};

/// Families in their order, the whole of one before its kinds. A question's whole site is left out with it: all rows of
/// its GEMM's (n, k), of attention's (heads, kv_heads, head_dim, keys), of a layer's (hidden, intermediate, experts per
/// token, experts); of collectives one size, one type, both types of a kind at a count of ranks. Where kernels are
/// several, measured is the fastest, and which one would answer has to be found, too. `every`: asks one question in so
/// many. Questions without an answer, and tables of too few sites, are not scored.
std::vector<LeaveOutError> leave_out_errors(const MeasuredTimes& times, std::size_t every = 1);

}  // namespace shardwright
