#include "kernels/cpu/contraction.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels/cpu/blas.h"

namespace shardwright::cpu {
namespace {

/// What a loop does: rows of the result, its columns, the sum, or one product for each turn.
enum class Role { row, column, sum, batch };
Role role_of(const Loop& loop) {
  if (loop.a != 0 && loop.b != 0) return loop.out != 0 ? Role::batch : Role::sum;
  if (loop.out == 0) return Role::sum;  // of one operand alone
  return loop.a != 0 ? Role::row : Role::column;
}

/// Whether `outer` goes on where `inner` ends, in all arrays: one loop does for both.
bool joins(const Loop& outer, const Loop& inner) {
  return outer.a == inner.a * inner.extent && outer.b == inner.b * inner.extent &&
         outer.out == inner.out * inner.extent;
}

void join_neighbours(std::vector<Loop>& loops) {
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = 0; i < loops.size() && !again; ++i) {
      for (std::size_t j = 0; j < loops.size() && !again; ++j) {
        if (i == j || role_of(loops[i]) != role_of(loops[j]) || !joins(loops[i], loops[j])) continue;
        loops[j].extent *= loops[i].extent;
        loops.erase(loops.begin() + static_cast<std::ptrdiff_t>(i));
        again = true;
      }
    }
  }
}

/// Takes the loop of `role` that is best in a product out of `loops`: one that is dense somewhere, the longest of them.
Loop take(std::vector<Loop>& loops, Role role) {
  const auto dense = [](const Loop& l) { return l.a == 1 || l.b == 1 || l.out == 1; };
  auto best = loops.end();
  for (auto it = loops.begin(); it != loops.end(); ++it) {
    if (role_of(*it) != role) continue;
    if (best == loops.end() || std::pair(dense(*it), it->extent) > std::pair(dense(*best), best->extent)) best = it;
  }
  if (best == loops.end()) return {};
  const Loop taken = *best;
  loops.erase(best);
  return taken;
}

/// A matrix whose element (i, j) is data[i * down + j * right]; false where BLAS cannot read it so.
bool as_matrix(const float* data, const Loop& i, std::int64_t down, const Loop& j, std::int64_t right, Matrix& m) {
  if (j.extent == 1 || right == 1) {
    m = {data, std::max(down, j.extent), false};
    return i.extent == 1 || down >= j.extent;
  }
  if (i.extent == 1 || down == 1) {
    m = {data, std::max(right, i.extent), true};
    return right >= i.extent;
  }
  return false;
}

/// One turn of all loops that are not in the product.
template <typename Visit>
void for_each_turn(const std::vector<Loop>& loops, Visit visit) {
  std::vector<std::int64_t> at(loops.size(), 0);
  std::int64_t a = 0, b = 0, out = 0;
  while (true) {
    visit(a, b, out);
    std::size_t i = loops.size();
    while (i-- > 0) {
      const Loop& l = loops[i];
      a += l.a, b += l.b, out += l.out;
      if (++at[i] < l.extent) break;
      a -= l.extent * l.a, b -= l.extent * l.b, out -= l.extent * l.out;
      at[i] = 0;
    }
    if (i == static_cast<std::size_t>(-1)) return;
  }
}

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
  std::int64_t elements = 1;
  for (const Loop& l : loops) {
    if (l.extent == 0 && l.out != 0) return;
    if (l.out != 0) elements *= l.extent;
  }
  std::erase_if(loops, [](const Loop& l) { return l.extent == 1; });
  const bool empty_sum = std::any_of(loops.begin(), loops.end(), [](const Loop& l) { return l.extent == 0; });
  join_neighbours(loops);

  std::vector<Loop> turns = loops;
  const Loop row = take(turns, Role::row), column = take(turns, Role::column), sum = take(turns, Role::sum);
  Matrix x, y, z;
  // The result's rows are to be dense; where its columns are, the product is transposed.
  const bool rows_dense = column.extent == 1 || column.out == 1;
  const bool is_product = row.extent * column.extent * sum.extent >= 64 && (sum.a != 0 || sum.extent == 1) &&
                          (sum.b != 0 || sum.extent == 1) && as_matrix(a, row, row.a, sum, sum.a, x) &&
                          as_matrix(b, sum, sum.b, column, column.b, y) &&
                          (rows_dense ? as_matrix(out, row, row.out, column, column.out, z) && !z.transposed
                                      : as_matrix(out, column, column.out, row, row.out, z) && !z.transposed);
  // More than one turn adds to the same element where a sum is left over.
  const bool sums_left = std::any_of(turns.begin(), turns.end(), [](const Loop& l) { return l.out == 0; });
  if (!accumulate && (!is_product || sums_left || empty_sum)) std::fill_n(out, elements, 0.0f);
  if (empty_sum) return;
  if (!is_product) return by_loops(a, b, out, std::move(loops));
  const float beta = accumulate || sums_left ? 1.0f : 0.0f;
  for_each_turn(turns, [&](std::int64_t da, std::int64_t db, std::int64_t dout) {
    const Matrix left = {a + da, x.stride, x.transposed}, right = {b + db, y.stride, y.transposed};
    if (rows_dense)
      gemm(row.extent, column.extent, sum.extent, 1.0f, left, right, beta, out + dout, z.stride);
    else
      gemm(column.extent, row.extent, sum.extent, 1.0f, right.of_transpose(), left.of_transpose(), beta, out + dout,
           z.stride);
  });
}

}  // namespace shardwright::cpu
