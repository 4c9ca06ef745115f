// softmax(scale * sum over parts of q k^T) v in blocks of queries and keys, so that scores are never whole: the running
// maximum and sum of FlashAttention (Dao et al., arXiv 2205.14135), its backward pass by the kept log-sum-exp
// (FlashAttention-2, arXiv 2307.08691). Products of blocks are OpenBLAS's.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::each;
using cpu::exponential;
using cpu::floats;
using cpu::gemm;
using cpu::largest_of;
using cpu::sum_of;

namespace {

// Scores of a block (128 KiB) stay in a core's L2 beside its keys and values.
constexpr std::int64_t kQueries = 128, kKeys = 256;

/// Rows of scores that one product makes: queries of one head in the group, or, where there is one query, all heads of
/// the group. `at` is their first row in [batch, queries, heads, group], `step` from one to the next.
struct Rows {
  std::int64_t batch = 0, head = 0, first_query = 0, count = 0, at = 0, step = 0;
  bool same_query = false;  // all of `first_query`
  std::int64_t query(std::int64_t i) const { return same_query ? first_query : first_query + i; }
};

/// Calls visit(rows) for blocks that together are all rows.
template <typename Visit>
void for_each_block(const AttentionShape& s, Visit visit) {
  const std::int64_t per_query = s.heads * s.group;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      const std::int64_t base = b * s.queries * per_query + h * s.group;
      if (s.queries == 1) {
        visit(Rows{b, h, 0, s.group, base, 1, true});
        continue;
      }
      for (std::int64_t g = 0; g < s.group; ++g)
        for (std::int64_t i = 0; i < s.queries; i += kQueries)
          visit(Rows{b, h, i, std::min(kQueries, s.queries - i), base + i * per_query + g, per_query, false});
    }
  }
}

/// The keys that any of the rows sees.
KeyRange keys_of(const AttentionShape& s, const Rows& rows) {
  KeyRange all = s.keys_seen(rows.query(0));
  for (std::int64_t i = 1; i < rows.count; ++i) {
    const KeyRange seen = s.keys_seen(rows.query(i));
    all = {std::min(all.first, seen.first), std::max(all.end, seen.end)};
  }
  return all;
}

/// Keys, values or their gradients [batch, keys, heads, width], or without heads.
struct KeyArray {
  std::int64_t width = 1;
  bool shared = false;
  std::int64_t stride(const AttentionShape& s) const { return shared ? width : s.heads * width; }
  std::int64_t at(const AttentionShape& s, const Rows& rows, std::int64_t key) const {
    return (rows.batch * s.keys + key) * stride(s) + (shared ? 0 : rows.head * width);
  }
};

float scale_of(const AttentionViews& in) {
  std::int64_t width = in.score_width;
  if (width == 0)
    for (const ScoreViews& part : in.parts) width += part.width;
  return 1.0f / std::sqrt(static_cast<float>(width));
}

/// scores [rows, count], `stride` apart: of keys from `first` on.
void make_scores(const AttentionViews& in, const AttentionShape& s, const Rows& rows, std::int64_t first,
                 std::int64_t count, float* scores, std::int64_t stride) {
  float beta = 0;
  for (const ScoreViews& part : in.parts) {
    const KeyArray keys = {part.width, part.shared_key};
    gemm(rows.count, count, part.width, scale_of(in),
         {floats(part.q) + rows.at * part.width, rows.step * part.width, false},
         {floats(part.k) + keys.at(s, rows, first), keys.stride(s), true}, beta, scores, stride);
    beta = 1;
  }
}

/// Keys of the block that row `i` sees, counted from the block's first.
KeyRange seen_in_block(const AttentionShape& s, const Rows& rows, std::int64_t i, std::int64_t first,
                       std::int64_t count) {
  const KeyRange seen = s.keys_seen(rows.query(i));
  const std::int64_t begin = std::clamp<std::int64_t>(seen.first - first, 0, count);
  return {begin, std::clamp<std::int64_t>(seen.end - first, begin, count)};
}

}  // namespace

void CpuOperators::softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) {
  const float* from = floats(x);
  float* to = floats(y);
  for (const KeyRange& range : seen) {
    const std::int64_t first = range.first, end = std::min(range.end, keys);
    std::fill_n(to, first, 0.0f);
    std::fill(to + end, to + keys, 0.0f);
    const float* x_row = from + first;
    float* row = to + first;
    const float most = largest_of(x_row, end - first, -std::numeric_limits<float>::infinity());
    each(end - first, [=](std::int64_t i) { row[i] = exponential(x_row[i] - most); });
    const float inverse = 1.0f / sum_of(end - first, [row](std::int64_t i) { return row[i]; });
    each(end - first, [=](std::int64_t i) { row[i] *= inverse; });
    from += keys, to += keys;
  }
}

void CpuOperators::softmax_gradient(In y, In dy, std::int64_t keys, View dx) {
  const float *p = floats(y), *d = floats(dy);
  float* to = floats(dx);
  for (std::int64_t row = 0; row < y.elements / keys; ++row, p += keys, d += keys, to += keys) {
    const float along = sum_of(keys, [p, d](std::int64_t i) { return p[i] * d[i]; });
    each(keys, [=](std::int64_t i) { to[i] = p[i] * (d[i] - along); });
  }
}

void CpuOperators::attention(const AttentionViews& in, const AttentionShape& s, View o, View log_sum_exp) {
  const KeyArray values = {s.value_dim, in.shared_value};
  std::vector<float> block(static_cast<std::size_t>(std::max(kQueries, s.group) * kKeys)), most, sum;
  fill(o, 0);
  for_each_block(s, [&](const Rows& rows) {
    const auto count = static_cast<std::size_t>(rows.count);
    most.assign(count, -std::numeric_limits<float>::infinity());
    sum.assign(count, 0.0f);
    float* to = floats(o) + rows.at * s.value_dim;
    const std::int64_t o_stride = rows.step * s.value_dim;
    const KeyRange keys = keys_of(s, rows);
    for (std::int64_t first = keys.first; first < keys.end; first += kKeys) {
      const std::int64_t wide = std::min(kKeys, keys.end - first);
      make_scores(in, s, rows, first, wide, block.data(), kKeys);
      for (std::int64_t i = 0; i < rows.count; ++i) {
        float *p = &block[static_cast<std::size_t>(i * kKeys)], *row = to + i * o_stride;
        const KeyRange seen = seen_in_block(s, rows, i, first, wide);
        auto &top = most[static_cast<std::size_t>(i)], &total = sum[static_cast<std::size_t>(i)];
        std::fill_n(p, seen.first, 0.0f);
        std::fill(p + seen.end, p + wide, 0.0f);
        if (seen.first == seen.end) continue;
        const float before = top;
        const std::int64_t keys_seen = seen.end - seen.first;
        float* visible = p + seen.first;
        top = largest_of(visible, keys_seen, before);
        each(keys_seen, [visible, most_now = top](std::int64_t j) { visible[j] = exponential(visible[j] - most_now); });
        const float shrink = total == 0.0f ? 0.0f : exponential(before - top);
        total = total * shrink + sum_of(keys_seen, [visible](std::int64_t j) { return visible[j]; });
        if (shrink != 1.0f) each(s.value_dim, [=](std::int64_t j) { row[j] *= shrink; });
      }
      gemm(rows.count, s.value_dim, wide, 1.0f, {block.data(), kKeys, false},
           {floats(in.v) + values.at(s, rows, first), values.stride(s), false}, 1.0f, to, o_stride);
    }
    for (std::int64_t i = 0; i < rows.count; ++i) {
      float top = most[static_cast<std::size_t>(i)], total = sum[static_cast<std::size_t>(i)], shrink = 1.0f;
      if (!in.sinks.empty()) {
        const std::int64_t head = (rows.at + i * rows.step) % (s.heads * s.group);
        const float sink = floats(in.sinks)[head];
        if (sink > top) {
          shrink = total == 0.0f ? 0.0f : exponential(top - sink);
          top = sink;
        }
        total = total * shrink + exponential(sink - top);
      }
      floats(log_sum_exp)[rows.at + i * rows.step] = top + std::log(total);
      float* row = to + i * o_stride;
      const float factor = shrink / total;
      each(s.value_dim, [=](std::int64_t j) { row[j] *= factor; });
    }
  });
}

void CpuOperators::attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& s,
                                      const AttentionGradientViews& d) {
  const KeyArray values = {s.value_dim, in.shared_value};
  const float scale = scale_of(in);
  for (const std::vector<View>* views : {&d.q, &d.k})
    for (const View& view : *views)
      if (!view.empty()) fill(view, 0);
  if (!d.v.empty()) fill(d.v, 0);
  if (!d.sinks.empty()) fill(d.sinks, 0);
  const auto block = static_cast<std::size_t>(std::max(kQueries, s.group) * kKeys);
  std::vector<float> p_block(block), d_block(block), along;
  float *p = p_block.data(), *dp = d_block.data();

  for_each_block(s, [&](const Rows& rows) {
    const float* d_row = floats(d_o) + rows.at * s.value_dim;
    const std::int64_t o_stride = rows.step * s.value_dim;
    along.resize(static_cast<std::size_t>(rows.count));
    for (std::int64_t i = 0; i < rows.count; ++i) {
      const float *x = floats(o) + rows.at * s.value_dim + i * o_stride, *y = d_row + i * o_stride;
      along[static_cast<std::size_t>(i)] = sum_of(s.value_dim, [x, y](std::int64_t j) { return x[j] * y[j]; });
      if (d.sinks.empty()) continue;
      const std::int64_t at = rows.at + i * rows.step, head = at % (s.heads * s.group);
      floats(d.sinks)[head] -=
          exponential(floats(in.sinks)[head] - floats(log_sum_exp)[at]) * along[static_cast<std::size_t>(i)];
    }
    const KeyRange keys = keys_of(s, rows);
    for (std::int64_t first = keys.first; first < keys.end; first += kKeys) {
      const std::int64_t wide = std::min(kKeys, keys.end - first);
      const std::int64_t v_at = values.at(s, rows, first), v_stride = values.stride(s);
      make_scores(in, s, rows, first, wide, p, kKeys);
      gemm(rows.count, wide, s.value_dim, 1.0f, {d_row, o_stride, false}, {floats(in.v) + v_at, v_stride, true}, 0.0f,
           dp, kKeys);
      for (std::int64_t i = 0; i < rows.count; ++i) {
        float *p_row = p + i * kKeys, *dp_row = dp + i * kKeys;
        const KeyRange seen = seen_in_block(s, rows, i, first, wide);
        const float log_sum = floats(log_sum_exp)[rows.at + i * rows.step], mean = along[static_cast<std::size_t>(i)];
        for (float* row : {p_row, dp_row}) {
          std::fill_n(row, seen.first, 0.0f);
          std::fill(row + seen.end, row + wide, 0.0f);
        }
        each(seen.end - seen.first, [=, x = p_row + seen.first, d_x = dp_row + seen.first](std::int64_t j) {
          x[j] = exponential(x[j] - log_sum);
          d_x[j] = scale * x[j] * (d_x[j] - mean);
        });
      }
      if (!d.v.empty())
        gemm(wide, s.value_dim, rows.count, 1.0f, {p, kKeys, true}, {d_row, o_stride, false}, 1.0f, floats(d.v) + v_at,
             v_stride);
      for (std::size_t i = 0; i < in.parts.size(); ++i) {
        const ScoreViews& part = in.parts[i];
        const KeyArray of = {part.width, part.shared_key};
        const std::int64_t q_at = rows.at * part.width, q_stride = rows.step * part.width;
        const std::int64_t k_at = of.at(s, rows, first), k_stride = of.stride(s);
        if (!d.q[i].empty())
          gemm(rows.count, part.width, wide, 1.0f, {dp, kKeys, false}, {floats(part.k) + k_at, k_stride, false}, 1.0f,
               floats(d.q[i]) + q_at, q_stride);
        if (!d.k[i].empty())
          gemm(wide, part.width, rows.count, 1.0f, {dp, kKeys, true}, {floats(part.q) + q_at, q_stride, false}, 1.0f,
               floats(d.k[i]) + k_at, k_stride);
      }
    }
  });
}

}  // namespace shardwright
