#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <vector>

#include "hardware/data_type.h"
#include "kernels/shapes.h"

namespace shardwright::cuda {

/// Attention as a library's engine is asked for it: one part of scores, all arrays in 16 bits, dense, as
/// kernels/operators.h has them. Queries see all keys unless `causal`; then query i those up to first_query + i, of
/// them the last `window`, where that is not 0.
struct AttentionGraphSpec {
  DataType type = DataType::bf16;
  std::int64_t batch = 1, queries = 1, keys = 1;
  std::int64_t heads = 1, key_heads = 1, value_heads = 1;  // of queries; each of keys and values serves as many
  std::int64_t width = 1, value_width = 1;
  bool causal = false;
  std::int64_t first_query = 0, window = 0;
  float scale = 1;
  bool backward = false;
  auto operator<=>(const AttentionGraphSpec&) const = default;
};

/// Arrays that lie in memory: what is given, what is made, and what the way back needs beside them.
enum class GraphArray : std::int64_t { q = 1, k, v, o, log_sum_exp, d_o, d_q, d_k, d_v, along, d_q_sum };

enum class GraphType { fp32, fp16, bf16, int32, boolean };

/// Of four dimensions: batch, head, row, column. `id` is a GraphArray's where it lies in memory; what has a `value` is
/// one number, and what has neither exists between steps alone.
struct GraphTensor {
  using Four = std::array<std::int64_t, 4>;
  std::int64_t id = 0;
  GraphType type = GraphType::fp32;
  Four extents = {1, 1, 1, 1}, strides = {1, 1, 1, 1};
  std::optional<double> value = {};
  bool in_memory = false;
  std::int64_t elements() const { return extents[0] * extents[1] * extents[2] * extents[3]; }
};

/// One operation of cuDNN's graphs. An extent of 1, or a divisor of heads, is spread over the result's.
enum class GraphWork {
  product,    // of matrices, for each batch and head
  sum,        // over what the result lacks: columns, or heads of a group
  largest,    // over columns
  transpose,  // of rows and columns
  row_index,  // a row's number
  column_index,
  add,
  subtract,
  multiply,
  divide,
  exponential,
  logarithm,
  copy,
  at_least,  // a >= b
  above,     // a > b
  select,    // a where `condition`, else b
};
struct GraphStep {
  GraphWork work;
  std::int64_t a = 0, b = 0, condition = 0, out = 0;  // ids; 0: none
  GraphType computed = GraphType::fp32;
};

/// Steps in their order, as cuDNN knows fused attention: softmax(scale * q k^T) v with its log-sum-exp, or its
/// gradients by FlashAttention-2's algorithm (arXiv 2307.08691, algorithm 2).
struct AttentionGraph {
  std::vector<GraphTensor> tensors;
  std::vector<GraphStep> steps;
  const GraphTensor& tensor(std::int64_t id) const;
};
AttentionGraph attention_graph(const AttentionGraphSpec& spec);

}  // namespace shardwright::cuda
