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

/// One query of one head, and the keys that it sees.
struct Query {
  std::size_t row, sink;  // of queries, of sinks
  std::int64_t batch, head;
  KeyRange seen;
};

template <typename Visit>
void for_each_query(const AttentionShape& s, Visit visit) {
  std::size_t row = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t i = 0; i < s.queries; ++i) {
      const KeyRange seen = s.keys_seen(i);
      for (std::int64_t h = 0; h < s.heads; ++h)
        for (std::int64_t g = 0; g < s.group; ++g, ++row)
          visit(Query{row, static_cast<std::size_t>(h * s.group + g), b, h, seen});
    }
  }
}

/// Where key `j` of a query begins in an array whose keys are `width` wide.
std::size_t key_at(const AttentionShape& s, const Query& query, std::int64_t j, std::int64_t width, bool shared) {
  const std::int64_t key = query.batch * s.keys + j;
  return static_cast<std::size_t>((shared ? key : key * s.heads + query.head) * width);
}
std::size_t query_at(const Query& query, std::int64_t width) { return query.row * static_cast<std::size_t>(width); }

double scale_of(const AttentionInputs& in) {
  std::int64_t width = in.score_width;
  if (width == 0)
    for (const ScorePart& part : in.parts) width += part.width;
  return 1.0 / std::sqrt(static_cast<double>(width));
}

double score(const AttentionInputs& in, const AttentionShape& s, const Query& query, std::int64_t j) {
  double sum = 0.0;
  for (const ScorePart& part : in.parts)
    sum += dot(&part.q[query_at(query, part.width)], &part.k[key_at(s, query, j, part.width, part.shared_key)],
               part.width);
  return scale_of(in) * sum;
}

}  // namespace

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

AttentionOutput attention(const AttentionInputs& in, const AttentionShape& s) {
  const auto rows = static_cast<std::size_t>(s.batch * s.queries * s.heads * s.group);
  AttentionOutput out = {Array(rows * static_cast<std::size_t>(s.value_dim), 0.0), Array(rows)};
  Array scores;
  for_each_query(s, [&](const Query& query) {
    scores.clear();
    for (std::int64_t j = query.seen.first; j < query.seen.end; ++j) scores.push_back(score(in, s, query, j));
    if (!in.sinks.empty()) scores.push_back(in.sinks[query.sink]);
    double largest = scores[0], sum = 0.0;
    for (double x : scores) largest = std::isnan(x) ? x : std::max(largest, x);
    for (double x : scores) sum += std::exp(x - largest);
    const double log_sum_exp = largest + std::log(sum);
    out.log_sum_exp[query.row] = log_sum_exp;
    for (std::int64_t j = query.seen.first; j < query.seen.end; ++j) {
      const double p = std::exp(scores[static_cast<std::size_t>(j - query.seen.first)] - log_sum_exp);
      add_scaled(&out.o[query_at(query, s.value_dim)], p, &in.v[key_at(s, query, j, s.value_dim, in.shared_value)],
                 s.value_dim);
    }
  });
  return out;
}

AttentionGradient attention_gradient(const AttentionInputs& in, In o, In log_sum_exp, In d_o, const AttentionShape& s) {
  const double scale = scale_of(in);
  AttentionGradient d = {{}, {}, Array(in.v.size(), 0.0), Array(in.sinks.size(), 0.0)};
  for (const ScorePart& part : in.parts) {
    d.q.push_back(Array(part.q.size(), 0.0));
    d.k.push_back(Array(part.k.size(), 0.0));
  }
  for_each_query(s, [&](const Query& query) {
    const std::size_t o_at = query_at(query, s.value_dim);
    const double along = dot(&o[o_at], &d_o[o_at], s.value_dim), log_sum = log_sum_exp[query.row];
    for (std::int64_t j = query.seen.first; j < query.seen.end; ++j) {
      const std::size_t v_at = key_at(s, query, j, s.value_dim, in.shared_value);
      const double p = std::exp(score(in, s, query, j) - log_sum);
      const double d_score = p * (dot(&d_o[o_at], &in.v[v_at], s.value_dim) - along);
      for (std::size_t i = 0; i < in.parts.size(); ++i) {
        const ScorePart& part = in.parts[i];
        const std::size_t q_at = query_at(query, part.width), k_at = key_at(s, query, j, part.width, part.shared_key);
        add_scaled(&d.q[i][q_at], scale * d_score, &part.k[k_at], part.width);
        add_scaled(&d.k[i][k_at], scale * d_score, &part.q[q_at], part.width);
      }
      add_scaled(&d.v[v_at], p, &d_o[o_at], s.value_dim);
    }
    if (!in.sinks.empty()) d.sinks[query.sink] -= std::exp(in.sinks[query.sink] - log_sum) * along;
  });
  return d;
}

}  // namespace shardwright::reference
