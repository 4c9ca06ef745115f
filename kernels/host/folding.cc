#include "kernels/host/folding.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace shardwright {
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

/// The matrix whose element (i, j) is i * down + j * right away; false where it is dense in neither direction.
bool as_matrix(const Loop& i, std::int64_t down, const Loop& j, std::int64_t right, MatrixLayout& m) {
  if (j.extent == 1 || right == 1) {
    m = {std::max(down, j.extent), false};
    return i.extent == 1 || down >= j.extent;
  }
  if (i.extent == 1 || down == 1) {
    m = {std::max(right, i.extent), true};
    return right >= i.extent;
  }
  return false;
}

}  // namespace

std::int64_t stride_of(const std::vector<int>& labels, const std::vector<std::int64_t>& extents, int label) {
  std::int64_t stride = 1;
  for (std::size_t i = labels.size(); i-- > 0;) {
    if (labels[i] == label) return stride;
    stride *= extents[i];
  }
  return 0;
}

std::vector<Loop> loops_of(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels) {
  std::vector<int> labels;
  std::vector<Loop> loops;
  std::vector<std::int64_t> out_extents(out_labels.size(), 1);
  for (const Labelled* operand : {&a, &b}) {
    for (std::size_t i = 0; i < operand->labels.size(); ++i) {
      const int label = operand->labels[i];
      if (std::find(labels.begin(), labels.end(), label) != labels.end()) continue;
      labels.push_back(label);
      loops.push_back(
          {operand->extents[i], stride_of(a.labels, a.extents, label), stride_of(b.labels, b.extents, label), 0});
      for (std::size_t k = 0; k < out_labels.size(); ++k)
        if (out_labels[k] == label) out_extents[k] = operand->extents[i];
    }
  }
  for (std::size_t i = 0; i < loops.size(); ++i) loops[i].out = stride_of(out_labels, out_extents, labels[i]);
  return loops;
}

Folding fold(std::vector<Loop> loops) {
  Folding f;
  for (const Loop& l : loops) {
    if (l.out != 0) f.elements *= l.extent;
    f.empty_sum = f.empty_sum || l.extent == 0;
  }
  std::erase_if(loops, [](const Loop& l) { return l.extent == 1; });
  join_neighbours(loops);
  f.loops = loops;
  f.turns = std::move(loops);
  f.row = take(f.turns, Role::row), f.column = take(f.turns, Role::column), f.sum = take(f.turns, Role::sum);
  f.swapped = f.column.extent != 1 && f.column.out != 1;
  f.is_product = !f.empty_sum && (f.sum.a != 0 || f.sum.extent == 1) && (f.sum.b != 0 || f.sum.extent == 1) &&
                 as_matrix(f.row, f.row.a, f.sum, f.sum.a, f.a) &&
                 as_matrix(f.sum, f.sum.b, f.column, f.column.b, f.b) &&
                 (f.swapped ? as_matrix(f.column, f.column.out, f.row, f.row.out, f.out)
                            : as_matrix(f.row, f.row.out, f.column, f.column.out, f.out)) &&
                 !f.out.transposed;
  f.sums_left = std::any_of(f.turns.begin(), f.turns.end(), [](const Loop& l) { return l.out == 0; });
  return f;
}

}  // namespace shardwright
