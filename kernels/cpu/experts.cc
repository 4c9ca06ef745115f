#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::floats;

namespace {

/// Calls visit(expert) for the experts of one row; none where a logit is not a number.
template <typename Visit>
void for_each_chosen(const float* logits, std::int64_t experts, std::int64_t chosen, std::vector<std::int64_t>& order,
                     Visit visit) {
  order.resize(static_cast<std::size_t>(experts));
  for (std::int64_t e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
  const auto before = [&](std::int64_t a, std::int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + chosen, order.end(), before);
  for (std::int64_t i = 0; i < chosen; ++i) visit(order[static_cast<std::size_t>(i)]);
}

bool all_numbers(const float* x, std::int64_t count) {
  return std::none_of(x, x + count, [](float v) { return std::isnan(v); });
}

}  // namespace

void CpuOperators::route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) {
  std::vector<std::int64_t> order;
  fill(gate, 0);
  fill(mask, 0);
  visit_numbers(mask, [&](auto* keep) {
    using Number = std::remove_pointer_t<decltype(keep)>;
    for (std::int64_t at = 0; at < logits.elements; at += experts) {
      const float* row = floats(logits) + at;
      float* to = floats(gate) + at;
      if (!all_numbers(row, experts)) {
        std::fill_n(to, experts, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      for_each_chosen(row, experts, chosen, order, [&](std::int64_t e) {
        to[e] = cpu::sigmoid(row[e]);
        keep[at + e] = Number{1};
      });
    }
  });
}

void CpuOperators::route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) {
  std::vector<std::int64_t> order;
  fill(d_logits, 0);
  for (std::int64_t at = 0; at < logits.elements; at += experts) {
    const float *row = floats(logits) + at, *d = floats(d_gate) + at;
    float* to = floats(d_logits) + at;
    if (!all_numbers(row, experts)) {
      std::fill_n(to, experts, std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    for_each_chosen(row, experts, chosen, order, [&](std::int64_t e) {
      const float s = cpu::sigmoid(row[e]);
      to[e] = d[e] * s * (1.0f - s);
    });
  }
}

void CpuOperators::grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed,
                                       View y) {
  std::int64_t rows = 0;
  for (const std::int64_t r : rows_per_group) rows += r;
  if (rows == 0) return;
  const std::int64_t k = x.elements / rows, n = y.elements / rows;
  const float *from = floats(x), *matrix = floats(b);
  float* to = floats(y);
  for (const std::int64_t m : rows_per_group) {
    cpu::gemm(m, n, k, 1.0f, {from, k, false}, {matrix, transposed ? k : n, transposed}, 0.0f, to, n);
    from += m * k, to += m * n, matrix += k * n;
  }
}

void CpuOperators::grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                                bool accumulate) {
  std::int64_t rows = 0;
  for (const std::int64_t r : rows_per_group) rows += r;
  if (rows == 0) {
    if (!accumulate) fill(d_b, 0);
    return;
  }
  const std::int64_t k = x.elements / rows, n = dy.elements / rows;
  const float *from = floats(x), *d = floats(dy);
  float* to = floats(d_b);
  for (const std::int64_t m : rows_per_group) {
    if (m > 0)
      cpu::gemm(k, n, m, 1.0f, {from, k, true}, {d, n, false}, accumulate ? 1.0f : 0.0f, to, n);
    else if (!accumulate)
      std::fill_n(to, k * n, 0.0f);
    from += m * k, d += m * n, to += k * n;
  }
}

}  // namespace shardwright
