#pragma once

#include <cstdint>
#include <vector>

#include "kernels/operators.h"

namespace shardwright {

/// One label of a contraction: its extent, and how far each array moves with it (0: not at all).
struct Loop {
  std::int64_t extent = 1, a = 0, b = 0, out = 0;
};

/// The labels of a contraction of dense arrays.
std::vector<Loop> loops_of(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels);
/// How far an array of these labels moves with one of them, 0 where it lacks it.
std::int64_t stride_of(const std::vector<int>& labels, const std::vector<std::int64_t>& extents, int label);

/// How a matrix lies: `stride` from one row to the next; stored the other way round where `transposed`.
struct MatrixLayout {
  std::int64_t stride = 0;
  bool transposed = false;
};

/// A contraction as matrix products: `row`, `column` and `sum` are one product's, done once for each turn of `turns`.
struct Folding {
  std::vector<Loop> loops;  // neighbours joined: all there is, where it is no product
  bool is_product = false;
  Loop row, column, sum;
  MatrixLayout a, b, out;  // a [row, sum], b [sum, column], out [row, column]; see `swapped`
  bool swapped = false;    // out's rows are the columns: out^T = b^T a^T is the product, out [column, row]
  std::vector<Loop> turns;
  std::int64_t elements = 1;  // of the result
  bool sums_left = false;     // more than one turn adds to the same element
  bool empty_sum = false;     // all of the result is 0
};
Folding fold(std::vector<Loop> loops);

/// One turn of all the loops, visit(a, b, out), with how far each array has moved.
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

}  // namespace shardwright
