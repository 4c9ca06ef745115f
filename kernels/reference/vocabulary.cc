#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

/// Position in the block of what an index names in the whole, -1 when it is outside.
std::int64_t inside(double index, std::int64_t first, std::int64_t count) {
  const std::int64_t at = static_cast<std::int64_t>(index) - first;
  return at >= 0 && at < count ? at : -1;
}

}  // namespace

Array gather(In ids, In table, std::int64_t width, std::int64_t first) {
  const std::int64_t rows = static_cast<std::int64_t>(table.size()) / width;
  Array y(ids.size() * static_cast<std::size_t>(width), 0.0);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const std::int64_t row = inside(ids[t], first, rows);
    if (row >= 0)
      std::copy_n(&table[static_cast<std::size_t>(row * width)], width, &y[t * static_cast<std::size_t>(width)]);
  }
  return y;
}

Array gather_gradient(In ids, In dy, std::int64_t width, std::int64_t first, std::int64_t rows) {
  Array d(static_cast<std::size_t>(rows * width), 0.0);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const std::int64_t row = inside(ids[t], first, rows);
    for (std::int64_t i = 0; row >= 0 && i < width; ++i)
      d[static_cast<std::size_t>(row * width + i)] +=
          dy[t * static_cast<std::size_t>(width) + static_cast<std::size_t>(i)];
  }
  return d;
}

Array vocabulary_max(In logits, std::int64_t columns) {
  const auto width = static_cast<std::size_t>(columns);
  Array y(logits.size() / width);
  for (std::size_t t = 0; t < y.size(); ++t) {
    y[t] = logits[t * width];
    for (std::size_t i = 1; i < width; ++i) {
      const double logit = logits[t * width + i];
      if (!(logit <= y[t])) y[t] = logit;  // also when it is not a number
      if (std::isnan(y[t])) break;
    }
  }
  return y;
}

Array vocabulary_exp_sum(In logits, In largest, std::int64_t columns) {
  const auto width = static_cast<std::size_t>(columns);
  Array y(largest.size(), 0.0);
  for (std::size_t i = 0; i < logits.size(); ++i) y[i / width] += std::exp(logits[i] - largest[i / width]);
  return y;
}

Array vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns) {
  const auto width = static_cast<std::size_t>(columns);
  Array d(logits.size());
  for (std::size_t i = 0; i < d.size(); ++i) d[i] = d_sum[i / width] * std::exp(logits[i] - largest[i / width]);
  return d;
}

Array vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first) {
  Array y(labels.size(), 0.0);
  for (std::size_t t = 0; t < y.size(); ++t) {
    const std::int64_t at = inside(labels[t], first, columns);
    if (at >= 0) y[t] = logits[t * static_cast<std::size_t>(columns) + static_cast<std::size_t>(at)];
  }
  return y;
}

Array vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first) {
  Array d(labels.size() * static_cast<std::size_t>(columns), 0.0);
  for (std::size_t t = 0; t < labels.size(); ++t) {
    const std::int64_t at = inside(labels[t], first, columns);
    if (at >= 0) d[t * static_cast<std::size_t>(columns) + static_cast<std::size_t>(at)] = d_picked[t];
  }
  return d;
}

double cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens) {
  double sum = 0.0;
  for (std::size_t t = 0; t < largest.size(); ++t) sum += std::log(exp_sum[t]) + largest[t] - picked[t];
  return sum / static_cast<double>(all_tokens);
}

Array cross_entropy_gradient_exp_sum(In exp_sum, double d_loss, std::int64_t all_tokens) {
  Array d(exp_sum.size());
  for (std::size_t t = 0; t < d.size(); ++t) d[t] = d_loss / (static_cast<double>(all_tokens) * exp_sum[t]);
  return d;
}

Array cross_entropy_gradient_picked(std::int64_t block_tokens, double d_loss, std::int64_t all_tokens) {
  return Array(static_cast<std::size_t>(block_tokens), -d_loss / static_cast<double>(all_tokens));
}

}  // namespace shardwright::reference
