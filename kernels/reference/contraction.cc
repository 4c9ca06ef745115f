#include <algorithm>
#include <cassert>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

/// One loop of the contraction: how far each array moves with it.
struct Loop {
  int label = 0;
  std::int64_t extent = 1, a = 0, b = 0, out = 0;
};

std::int64_t stride_of(const std::vector<int>& labels, const std::vector<std::int64_t>& extents, int label) {
  std::int64_t stride = 1;
  for (std::size_t i = labels.size(); i-- > 0;) {
    if (labels[i] == label) return stride;
    stride *= extents[i];
  }
  return 0;
}

std::vector<Loop> loops_of(const Labelled& a, const Labelled& b) {
  std::vector<Loop> loops;
  for (const Labelled* operand : {&a, &b}) {
    for (std::size_t i = 0; i < operand->labels.size(); ++i) {
      const int label = operand->labels[i];
      const auto same = [label](const Loop& known) { return known.label == label; };
      const auto known = std::find_if(loops.begin(), loops.end(), same);
      assert((known == loops.end() || known->extent == operand->extents[i]) && "one extent a label");
      if (known == loops.end()) loops.push_back({label, operand->extents[i], 0, 0, 0});
    }
  }
  return loops;
}

}  // namespace

Array contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels) {
  std::vector<Loop> loops = loops_of(a, b);
  std::vector<std::int64_t> out_extents;
  std::int64_t elements = 1;
  for (int label : out_labels) {
    for (const Loop& loop : loops)
      if (loop.label == label) out_extents.push_back(loop.extent);
    elements *= out_extents.back();
  }
  assert(out_extents.size() == out_labels.size() && "every label of out is one of a or b");
  for (Loop& loop : loops) {
    loop.a = stride_of(a.labels, a.extents, loop.label);
    loop.b = stride_of(b.labels, b.extents, loop.label);
    loop.out = stride_of(out_labels, out_extents, loop.label);
  }
  // The longest loop runs innermost.
  std::stable_sort(loops.begin(), loops.end(), [](const Loop& x, const Loop& y) { return x.extent < y.extent; });
  const Loop inner = loops.empty() ? Loop{} : loops.back();
  if (!loops.empty()) loops.pop_back();

  Array out(static_cast<std::size_t>(elements), 0.0);
  std::vector<std::int64_t> at(loops.size(), 0);
  const double* x = a.data.data();
  const double* y = b.data.data();
  double* z = out.data();
  while (true) {
    for (std::int64_t i = 0; i < inner.extent; ++i) z[i * inner.out] += x[i * inner.a] * y[i * inner.b];
    std::size_t k = loops.size();
    while (k-- > 0) {
      x += loops[k].a, y += loops[k].b, z += loops[k].out;
      if (++at[k] < loops[k].extent) break;
      x -= loops[k].extent * loops[k].a, y -= loops[k].extent * loops[k].b, z -= loops[k].extent * loops[k].out;
      at[k] = 0;
    }
    if (k == static_cast<std::size_t>(-1)) return out;
  }
}

}  // namespace shardwright::reference
