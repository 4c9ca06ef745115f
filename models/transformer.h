#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"
#include "models/op_graph.h"

namespace shardwright {

/// How the loss comes from the logits, and what that keeps.
enum class CrossEntropy : std::uint8_t {
  in_place,  ///< one kernel over each rank's part of the vocabulary; the gradient takes the logits' place (Transformer
             ///< Engine's and flash-attn's)
  softmax,   ///< operators over each rank's part, on logits cast to fp32; the fp32 softmax, later the gradient, takes
             ///< their place (Megatron's, fused or not)
  whole,     ///< PyTorch's cross_entropy on fp32 logits of the whole vocabulary, which every rank gathers; the logits
             ///< themselves are the model's output and live until its backward
};

/// What a run chooses about the graph, apart from the model.
struct GraphOptions {
  bool fused_attention = true;  ///< one attention operator; else scores, softmax and the weighted sum apart
  bool dropout =
      false;  ///< after attention's softmax (unfused), after attention, after the feed-forward part, on the embedding
  bool early_gate =
      true;  ///< experts: the gate multiplies before the down-projection (Megatron-Core since 0.12), not after
  /// Latent attention: its core works on the latent, which all heads share as keys and values; the keys' up-projection
  /// is applied to the queries, the values' to the core's result (DeepSeek-V2, 2.1.2). Few queries and many keys, as in
  /// decode, then take less work and memory traffic, many queries more. The weights are the same.
  bool absorbed_latent = false;
  double capacity_factor = 0;    ///< experts: above 0 each takes exactly so many times its mean of rows
  bool fused_norm = true;        ///< else RMSNorm is written out as LLaMA's: x is kept in fp32, and x before the weight
  bool norm_in_fp32 = false;     ///< a fused norm reads a copy of its input in fp32, which backward makes again
  bool fused_activation = true;  ///< else silu(gate) is kept, beside gate and up
  bool fused_rotary = true;      ///< else x cos + rotated x sin is written out: products, a concatenation, a sum
  CrossEntropy cross_entropy = CrossEntropy::in_place;
  bool operator==(const GraphOptions&) const = default;
};

/// The dimensions of a decoder-only transformer, whole. `batch` and `sequence` are set by the caller of the derivation.
/// Latent attention (MLA) has a head of its own for every query (query_in_group 1), head_dim without position and
/// rope_dim with, and the ranks of its latents; value_rank is kv_rank where the latent is a value, next to the key.
struct TransformerDims {
  DimId batch, sequence, key_sequence, hidden, kv_head, query_in_group, head_dim, value_dim, ffn, vocab, position;
  DimId query_rank, kv_rank, value_rank, rope_dim, expert, expert_ffn, shared_ffn, merged;
};
TransformerDims add_transformer_dims(OpGraph& graph, const Model& model);

/// Parts of a model, appended to `graph`. Each takes the residual stream [batch, sequence, hidden] and returns it (the
/// head returns the loss, a scalar). Shapes of weights: q_proj [hidden, kv_head, query_in_group, head_dim], k_proj and
/// v_proj [hidden, kv_head, head_dim], o_proj [kv_head, query_in_group, value_dim, hidden], gate_proj, up_proj [hidden,
/// ffn], down_proj [ffn, hidden], embed_tokens [vocab, hidden], lm_head [hidden, vocab]. A graph that holds embedding
/// and head of a model with tied embeddings has one table. Latent attention: q_a_proj [hidden, query_rank], q_b_proj
/// and q_b_rope_proj [query_rank, kv_head, head_dim | rope_dim] (from hidden where there is no query latent), kv_a_proj
/// [hidden, kv_rank], k_rope_proj [hidden, rope_dim], k_b_proj, v_b_proj [kv_rank, kv_head, head_dim | value_dim].
/// Experts: router [hidden, expert], experts.gate_proj, .up_proj [expert, hidden, expert_ffn], .down_proj [expert,
/// expert_ffn, hidden]; shared_experts.* as a dense feed-forward part of shared_ffn.
TensorId append_embedding(OpGraph& graph, const TransformerDims& d, const Model& model, const GraphOptions& options);
struct LayerKind {
  bool windowed = false;  ///< sees only the sliding window, or its chunk
  bool experts = false;   ///< a mixture of experts instead of a dense feed-forward part
  bool operator==(const LayerKind&) const = default;
};
LayerKind kind_of_layer(const Model& model, std::int64_t layer);
TensorId append_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                      const LayerKind& kind, const GraphOptions& options);
TensorId append_head(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                     const GraphOptions& options = {});

/// Multi-token prediction (DeepSeek-V3 report, 2.2): the stream and the next token's embedding, each normed and
/// projected, added; one layer like the model's last; the model's own output table. Returns the loss.
TensorId append_prediction_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                                 const GraphOptions& options);

/// A model as graphs: identical layers are one class with a count, never a list of copies.
inline constexpr int kMostLayerClasses = 4;  ///< windowed or not, with experts or not
struct ModelGraphs {
  OpGraph embedding, head;  ///< the head holds the prediction layers too
  std::vector<OpGraph> layer_classes;
  std::vector<int> class_of_layer;  ///< num_hidden_layers entries
};

/// Precondition: unsupported(model) is empty.
ModelGraphs model_graphs(const Model& model, const GraphOptions& options = {});

/// All weights of the model, each counted once; from the graphs. Tied embeddings are one table.
std::int64_t parameters(const Model& model);
/// With what multi-token prediction adds; its tables are the model's own.
std::int64_t parameters_with_mtp(const Model& model);
/// Those that one token's forward pass reads: of the experts only the chosen ones. Publishers count with or without the
/// input embedding (and learned positions), which multiplies with nothing; without it a tied table still counts as the
/// output's.
std::int64_t active_parameters(const Model& model);
std::int64_t active_parameters_without_embedding(const Model& model);
/// Keys and values of one token in all layers, or their latent and the rotary key, two bytes an element.
std::int64_t kv_bytes_per_token(const Model& model);

}  // namespace shardwright
