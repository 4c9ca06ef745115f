#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::each;
using cpu::floats;

namespace {

/// Position in the block of what an id names in the whole, -1 when it is outside.
std::int64_t inside(std::int64_t id, std::int64_t first, std::int64_t count) {
  return id >= first && id < first + count ? id - first : -1;
}

}  // namespace

void CpuOperators::gather(In ids, In table, std::int64_t first, View y) {
  if (ids.empty()) return;
  const std::int64_t* id = cpu::ids(ids);
  const std::int64_t width = y.elements / ids.elements, rows = table.elements / width;
  for (std::int64_t t = 0; t < ids.elements; ++t) {
    const std::int64_t row = inside(id[t], first, rows);
    float* to = floats(y) + t * width;
    if (row >= 0)
      std::copy_n(floats(table) + row * width, width, to);
    else
      std::fill_n(to, width, 0.0f);
  }
}

void CpuOperators::gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate) {
  if (!accumulate) fill(d_table, 0);
  if (ids.empty()) return;
  const std::int64_t* id = cpu::ids(ids);
  const std::int64_t width = dy.elements / ids.elements, rows = d_table.elements / width;
  for (std::int64_t t = 0; t < ids.elements; ++t) {
    const std::int64_t row = inside(id[t], first, rows);
    if (row < 0) continue;
    const float* from = floats(dy) + t * width;
    float* to = floats(d_table) + row * width;
    each(width, [=](std::int64_t i) { to[i] += from[i]; });
  }
}

void CpuOperators::vocabulary_max(In logits, std::int64_t columns, View largest) {
  const float* x = floats(logits);
  for (std::int64_t t = 0; t < largest.elements; ++t, x += columns) {
    float most = cpu::largest_of(x, columns, x[0]);
    // 0 times a number is 0; what is no number, or infinite, shows.
    const float shows = cpu::sum_of(columns, [x](std::int64_t i) { return 0.0f * x[i]; });
    if (shows != 0.0f && std::any_of(x, x + columns, [](float v) { return std::isnan(v); }))
      most = std::numeric_limits<float>::quiet_NaN();
    floats(largest)[t] = most;
  }
}

void CpuOperators::vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials) {
  const float *x = floats(logits), *most = floats(largest);
  float* keep = exponentials.empty() ? nullptr : floats(exponentials);
  for (std::int64_t t = 0; t < largest.elements; ++t, x += columns) {
    const float top = most[t];
    if (!keep) {
      floats(sum)[t] = cpu::sum_of(columns, [x, top](std::int64_t i) { return cpu::exponential(x[i] - top); });
      continue;
    }
    each(columns, [=](std::int64_t i) { keep[i] = cpu::exponential(x[i] - top); });
    floats(sum)[t] = cpu::sum_of(columns, [keep](std::int64_t i) { return keep[i]; });
    keep += columns;
  }
}

void CpuOperators::vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) {
  const float *x = floats(logits), *most = floats(largest), *d = floats(d_sum);
  float* to = floats(d_logits);
  for (std::int64_t t = 0; t < largest.elements; ++t, x += columns, to += columns)
    each(columns, [=](std::int64_t i) { to[i] = d[t] * cpu::exponential(x[i] - most[t]); });
}

void CpuOperators::vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) {
  for (std::int64_t t = 0; t < labels.elements; ++t) {
    const std::int64_t at = inside(cpu::ids(labels)[t], first, columns);
    floats(picked)[t] = at >= 0 ? floats(logits)[t * columns + at] : 0.0f;
  }
}

void CpuOperators::vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                            View d_logits) {
  fill(d_logits, 0);
  for (std::int64_t t = 0; t < labels.elements; ++t) {
    const std::int64_t at = inside(cpu::ids(labels)[t], first, columns);
    if (at >= 0) floats(d_logits)[t * columns + at] = floats(d_picked)[t];
  }
}

void CpuOperators::cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) {
  double sum = 0;
  for (std::int64_t t = 0; t < largest.elements; ++t)
    sum += std::log(static_cast<double>(floats(exp_sum)[t])) + floats(largest)[t] - floats(picked)[t];
  floats(loss)[0] = static_cast<float>(sum / static_cast<double>(all_tokens));
}

void CpuOperators::cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) {
  const float d = floats(d_loss)[0] / static_cast<float>(all_tokens);
  for (std::int64_t t = 0; t < exp_sum.elements; ++t) floats(d_sum)[t] = d / floats(exp_sum)[t];
}

void CpuOperators::cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) {
  fill(d_picked, -floats(d_loss)[0] / static_cast<float>(all_tokens));
}

}  // namespace shardwright
