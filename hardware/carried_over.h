#pragma once

#include "hardware/machine.h"
#include "hardware/measured_machine.h"

namespace shardwright {

/// Whether two machines have the same chip as far as kernels see: multiprocessors and peak rates. Memory and links may
/// differ.
bool same_chip(const Machine& a, const Machine& b);

/// What was measured on `from`, as `to` with the same chip would have it: products, attention and layers of experts
/// (nothing that links do). Of a time beyond a launch, the part that memory explains scales by the rates of HBM, the
/// rest stays:
///   t' = t0 + u (1 + s (HBM / HBM' - 1)),  u = t - t0,  s = min(1, bytes / (0.85 HBM) / u)^2, t0 = 2.5 us
/// Median error from H200 to H100, whose HBM differs by 43 %, on rows that both tables have (carried over unchanged in
/// brackets): GEMM bf16 3.7 % (6.0), fp8 3.3 % (4.1), attention 1.5 % (1.7), decode 1.4 % (1.4), experts 4.7 % (12.2).
Measurements carried_over(const Measurements& measured, const Machine& from, const Machine& to);

/// One sigma of a time that was carried over, beside that of its reading: what the tables of H100 and H200 differ by.
constexpr double kCarriedOverError = 0.05;

}  // namespace shardwright
