#include "kernels/cpu/contraction.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/blas.h"

namespace shardwright::cpu {
namespace {

void add_products(const float* a, const float* b, float* out, const Loop& l) {
  for (std::int64_t i = 0; i < l.extent; ++i) out[i * l.out] += a[i * l.a] * b[i * l.b];
}

void by_loops(const float* a, const float* b, float* out, std::vector<Loop> loops) {
  // Innermost what is dense, and long.
  const auto key = [](const Loop& l) { return std::pair(l.a == 1 || l.b == 1 || l.out == 1, l.extent); };
  std::stable_sort(loops.begin(), loops.end(), [&](const Loop& x, const Loop& y) { return key(x) < key(y); });
  Loop inner;
  if (!loops.empty()) inner = loops.back(), loops.pop_back();
  for_each_turn(loops,
                [&](std::int64_t x, std::int64_t y, std::int64_t z) { add_products(a + x, b + y, out + z, inner); });
}

}  // namespace

void contract(const float* a, const float* b, float* out, std::vector<Loop> loops, bool accumulate) {
  const Folding f = fold(std::move(loops));
  if (f.elements == 0) return;
  const bool is_product = f.is_product && f.row.extent * f.column.extent * f.sum.extent >= 64;
  if (!accumulate && (!is_product || f.sums_left || f.empty_sum)) std::fill_n(out, f.elements, 0.0f);
  if (f.empty_sum) return;
  if (!is_product) return by_loops(a, b, out, f.loops);
  const float beta = accumulate || f.sums_left ? 1.0f : 0.0f;
  for_each_turn(f.turns, [&](std::int64_t da, std::int64_t db, std::int64_t dout) {
    const Matrix left = {a + da, f.a.stride, f.a.transposed}, right = {b + db, f.b.stride, f.b.transposed};
    if (f.swapped)
      gemm(f.column.extent, f.row.extent, f.sum.extent, 1.0f, right.of_transpose(), left.of_transpose(), beta,
           out + dout, f.out.stride);
    else
      gemm(f.row.extent, f.column.extent, f.sum.extent, 1.0f, left, right, beta, out + dout, f.out.stride);
  });
}

}  // namespace shardwright::cpu
