#pragma once

// Sizes of a model counted from the table of keys (models/README.md), every matrix, bias and norm by hand and apart
// from the graphs, so that the two can be held against each other.

#include <cstdint>

#include "models/model.h"

namespace shardwright {

inline std::int64_t counted_norm(const Model& m, std::int64_t width) {
  return m.norm == Norm::layernorm ? 2 * width : width;
}

inline std::int64_t counted_attention(const Model& m) {
  const std::int64_t h = m.hidden_size, heads = m.num_attention_heads;
  if (m.kv_lora_rank > 0) {
    const std::int64_t nope = m.qk_nope_head_dim, rope = m.qk_rope_head_dim, value = m.v_head_dim;
    const std::int64_t query = heads * (nope + rope), q_rank = m.q_lora_rank, rank = m.kv_lora_rank;
    const std::int64_t queries = q_rank > 0 ? h * q_rank + q_rank + q_rank * query : h * query;
    const std::int64_t latent = h * (rank + rope) + rank;  // its norm is always a vector
    return queries + latent + rank * heads * (nope + value) + heads * value * h;
  }
  const std::int64_t q = heads * m.head_dim, kv = m.num_key_value_heads * m.head_dim;
  std::int64_t count = h * q + 2 * h * kv + q * h;
  if (m.attention_bias) count += q + 2 * kv;
  if (m.attention_output_bias) count += h;
  if (m.qk_norm == QkNorm::head) count += 2 * m.head_dim;
  if (m.qk_norm == QkNorm::full) count += q + kv;
  if (m.attention_sinks) count += heads;
  return count;
}

/// A feed-forward part of that width: a dense layer's, an expert, all shared experts together.
inline std::int64_t counted_feed_forward(const Model& m, std::int64_t width) {
  const std::int64_t h = m.hidden_size;
  std::int64_t count = (m.gated_mlp ? 3 : 2) * h * width;
  if (m.mlp_bias) count += (m.gated_mlp ? 2 : 1) * width + h;
  return count;
}

/// Router, `experts` of the routed ones, and the shared ones.
inline std::int64_t counted_experts(const Model& m, std::int64_t experts) {
  const std::int64_t h = m.hidden_size, all = m.n_routed_experts;
  std::int64_t count = h * all + experts * counted_feed_forward(m, m.moe_intermediate_size);
  if (m.router_bias) count += all;
  if (m.n_shared_experts > 0) {
    const std::int64_t width = m.shared_expert_intermediate_size > 0 ? m.shared_expert_intermediate_size
                                                                     : m.n_shared_experts * m.moe_intermediate_size;
    count += counted_feed_forward(m, width);
  }
  if (m.shared_expert_gate) count += h;
  return count;
}

/// One layer with all that is around attention and feed-forward; `experts` counts for layers that have them.
inline std::int64_t counted_layer(const Model& m, bool has_experts, std::int64_t experts) {
  const std::int64_t feed_forward =
      has_experts ? counted_experts(m, experts) : counted_feed_forward(m, m.intermediate_size);
  return counted_attention(m) + feed_forward + 2 * counted_norm(m, m.hidden_size);
}

inline std::int64_t counted_with(const Model& m, std::int64_t experts) {
  std::int64_t count = counted_norm(m, m.hidden_size) + (m.tie_word_embeddings ? 1 : 2) * m.vocab_size * m.hidden_size;
  if (m.position == Position::learned) count += m.max_position_embeddings * m.hidden_size;
  for (std::int64_t i = 0; i < m.num_hidden_layers; ++i) {
    const bool has_experts = m.n_routed_experts > 0 && i >= m.first_k_dense_replace && (i + 1) % m.moe_layer_freq == 0;
    count += counted_layer(m, has_experts, experts);
  }
  return count;
}

inline std::int64_t counted_parameters(const Model& m) { return counted_with(m, m.n_routed_experts); }

/// What one token uses, the input embedding included.
inline std::int64_t counted_active_parameters(const Model& m) { return counted_with(m, m.num_experts_per_tok); }

/// The same without the input embedding and learned positions; a table that is the output's too stays.
inline std::int64_t counted_active_without_embedding(const Model& m) {
  const std::int64_t positions = m.position == Position::learned ? m.max_position_embeddings : 0;
  const std::int64_t words = m.tie_word_embeddings ? 0 : m.vocab_size;
  return counted_active_parameters(m) - (positions + words) * m.hidden_size;
}

/// Multi-token prediction on top: a layer with experts, the projection of the stream beside the next token's embedding,
/// and norms of both and of the result. Embedding and head are the model's own. (DeepSeek-V3's report, section 2.2.)
inline std::int64_t counted_mtp_parameters(const Model& m) {
  const std::int64_t h = m.hidden_size;
  const std::int64_t one =
      counted_layer(m, m.n_routed_experts > 0, m.n_routed_experts) + 2 * h * h + 3 * counted_norm(m, h);
  return m.num_nextn_predict_layers * one;
}

/// Numbers that a token leaves behind in all layers, as if no layer had a window.
inline std::int64_t counted_kv_elements(const Model& m) {
  const std::int64_t layer =
      m.kv_lora_rank > 0 ? m.kv_lora_rank + m.qk_rope_head_dim : 2 * m.num_key_value_heads * m.head_dim;
  return m.num_hidden_layers * layer;
}

}  // namespace shardwright
