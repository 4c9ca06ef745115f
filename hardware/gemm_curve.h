#pragma once

#include "hardware/curve_coefficients.h"
#include "hardware/kernel_spec.h"
#include "hardware/machine.h"

namespace shardwright {

/// Which tiles of the result a library's kernels have: a choice among all, the fastest of which runs, also with k cut
/// to fill idle multiprocessors; or one for each count of rows, never cut (CUTLASS's fp8 kernels as vLLM calls them).
enum class GemmTiles { any, by_rows };
std::string_view name_of(GemmTiles);

/// How long products of one number format take on one chip:
///   t = launch + join(loop, memory) + cast,   join(a, b) = (a^q + b^q)^(1/q)
///   loop   = l (1 + throttle l / (l + throttle_seconds)), l the shortest over the tiles of
///            waves x step (k + k_half)  and, k cut into even parts,  step (f k + max(f, 1) k_half + split_k)
///   waves  = wave_step ceil(f) + (1 - wave_step) max(f, 1),  f = tiles / multiprocessors
///   step   = 2 tile_m tile_n / rate, x (1 + odd_rows) where m is no multiple of 8
///   rate   = peak_fraction x peak / multiprocessors x I / (I + tile_half), I = tile_m tile_n / (tile_m + tile_n),
///            scaled to be whole for the largest tile
///   memory = bytes / (memory_fraction x HBM rate)
///   cast   = of operands below 2 bytes that come in 16 bits: row_seconds m + reading A in 16 bits and writing it
///            narrow, at cast_fraction
struct GemmCurve {
  double launch_seconds = 0;
  double peak_fraction = 1;  // of the datasheet's rate: the largest tile, long k
  double k_half = 0;         // prologue and epilogue of a tile, in steps of k
  double wave_step = 0;      // 1: a last wave costs a whole one; 0: what it fills
  double tile_half = 0;      // operations a loaded element at which a tile reaches half of its rate
  double memory_fraction = 1;
  double join = 1e9;    // q: 1 is one after the other, large is whichever is longer
  double split_k = 0;   // what adding up parts of k costs, in steps of k
  double throttle = 0;  // by how much long kernels run slower: the power limit
  double throttle_seconds = 1e-3;
  double odd_rows = 0;
  double row_seconds = 0;
  double cast_fraction = 1;
  double host_seconds = 0;  // by which the table's software holds up a call; no part of the time (see seconds)
  GemmTiles tiles = GemmTiles::any;
  bool operator==(const GemmCurve&) const = default;
};

template <>
const std::vector<Coefficient<GemmCurve>>& coefficients<GemmCurve>();

/// Products of the same size in one kernel.
struct Products {
  double count = 1, m = 1, n = 1, k = 1;
  double a_bytes = 2, b_bytes = 2, c_bytes = 2;  // of an element; c: written, and read where it is added to
  DataType type = DataType::bf16;
  bool cast = true;

  bool empty() const { return count == 0 || m == 0 || n == 0 || k == 0; }
  /// As in training; the rest are small or narrow ones.
  bool large() const { return count * m >= 2048 && n >= 1024 && k >= 1024; }
};
Products products_of(const GemmSpec& spec);

/// Every operand once, and the result.
double bytes_moved(const Products& products);

/// Of products that are not empty. Without host_seconds: calls are sent ahead of the device.
double seconds(const GemmCurve& curve, const Products& products, const Machine& machine);

/// What the parts of products, in their count, rows, columns or sum, never beat together beyond one steady_line(curve)
/// launch each: the loops of whole tiles on busy multiprocessors under that line, joined with the traffic. No part's
/// loop is shorter than its share of that, nor its traffic; and by Minkowski the joins of parts add up to at least the
/// join of sums.
double steady_seconds(const GemmCurve& curve, const Products& products, const Machine& machine);

}  // namespace shardwright
