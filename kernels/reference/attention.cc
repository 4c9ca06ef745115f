#include <algorithm>
#include <cassert>
#include <cmath>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double* to, double factor, const double* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

/// Calls visit(query row, row of the first key that it sees, how many it sees); its keys lie `heads` rows apart.
template <typename Visit>
void for_each_query(const AttentionShape& s, Visit visit) {
  std::int64_t query = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t i = 0; i < s.queries; ++i) {
      KeyRange seen = causal_range(s.first_query + i, s.window);
      seen.end = std::min(seen.end, s.keys);
      for (std::int64_t h = 0; h < s.heads; ++h) {
        for (std::int64_t g = 0; g < s.group; ++g, ++query) {
          visit(query, (b * s.keys + seen.first) * s.heads + h, seen.end - seen.first);
        }
      }
    }
  }
}

}  // namespace

KeyRange causal_range(std::int64_t position, std::int64_t window) {
  return {window > 0 ? std::max<std::int64_t>(0, position + 1 - window) : 0, position + 1};
}

Array softmax(In x, std::int64_t keys, std::span<const KeyRange> seen) {
  const auto width = static_cast<std::size_t>(keys);
  assert(seen.size() * width == x.size() && "one range a row");
  Array y(x.size(), 0.0);
  for (std::size_t row = 0; row < seen.size(); ++row) {
    const auto first = row * width + static_cast<std::size_t>(seen[row].first);
    const auto end = row * width + static_cast<std::size_t>(std::min(seen[row].end, keys));
    double largest = x[first], sum = 0.0;
    for (std::size_t i = first; i < end; ++i) largest = std::max(largest, x[i]);
    for (std::size_t i = first; i < end; ++i) sum += y[i] = std::exp(x[i] - largest);
    for (std::size_t i = first; i < end; ++i) y[i] /= sum;
  }
  return y;
}

Array softmax_gradient(In y, In dy, std::int64_t keys) {
  Array d(y.size());
  for (std::size_t row = 0; row < y.size(); row += static_cast<std::size_t>(keys)) {
    const double along = dot(&y[row], &dy[row], keys);
    for (std::size_t i = row; i < row + static_cast<std::size_t>(keys); ++i) d[i] = y[i] * (dy[i] - along);
  }
  return d;
}

AttentionOutput attention(In q, In k, In v, const AttentionShape& s) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  const auto rows = static_cast<std::size_t>(s.batch * s.queries * s.heads * s.group);
  AttentionOutput out = {Array(rows * static_cast<std::size_t>(s.value_dim), 0.0), Array(rows)};
  Array scores;
  for_each_query(s, [&](std::int64_t query, std::int64_t key, std::int64_t seen) {
    scores.resize(static_cast<std::size_t>(seen));
    for (std::int64_t j = 0; j < seen; ++j) {
      scores[static_cast<std::size_t>(j)] =
          scale * dot(&q[static_cast<std::size_t>(query * s.head_dim)],
                      &k[static_cast<std::size_t>((key + j * s.heads) * s.head_dim)], s.head_dim);
    }
    double largest = scores[0], sum = 0.0;
    for (double score : scores) largest = std::isnan(score) ? score : std::max(largest, score);
    for (double score : scores) sum += std::exp(score - largest);
    const double log_sum_exp = largest + std::log(sum);
    out.log_sum_exp[static_cast<std::size_t>(query)] = log_sum_exp;
    for (std::int64_t j = 0; j < seen; ++j) {
      add_scaled(&out.o[static_cast<std::size_t>(query * s.value_dim)],
                 std::exp(scores[static_cast<std::size_t>(j)] - log_sum_exp),
                 &v[static_cast<std::size_t>((key + j * s.heads) * s.value_dim)], s.value_dim);
    }
  });
  return out;
}

AttentionGradient attention_gradient(In q, In k, In v, In o, In log_sum_exp, In d_o, const AttentionShape& s) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  AttentionGradient d = {Array(q.size(), 0.0), Array(k.size(), 0.0), Array(v.size(), 0.0)};
  for_each_query(s, [&](std::int64_t query, std::int64_t key, std::int64_t seen) {
    const auto q_at = static_cast<std::size_t>(query * s.head_dim),
               o_at = static_cast<std::size_t>(query * s.value_dim);
    const double along = dot(&o[o_at], &d_o[o_at], s.value_dim);
    for (std::int64_t j = 0; j < seen; ++j) {
      const auto k_at = static_cast<std::size_t>((key + j * s.heads) * s.head_dim);
      const auto v_at = static_cast<std::size_t>((key + j * s.heads) * s.value_dim);
      const double score = scale * dot(&q[q_at], &k[k_at], s.head_dim);
      const double p = std::exp(score - log_sum_exp[static_cast<std::size_t>(query)]);
      const double d_score = p * (dot(&d_o[o_at], &v[v_at], s.value_dim) - along);
      add_scaled(&d.q[q_at], scale * d_score, &k[k_at], s.head_dim);
      add_scaled(&d.k[k_at], scale * d_score, &q[q_at], s.head_dim);
      add_scaled(&d.v[v_at], p, &d_o[o_at], s.value_dim);
    }
  });
  return d;
}

}  // namespace shardwright::reference
