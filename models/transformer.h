#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"
#include "models/op_graph.h"

namespace shardwright {

/// What a run chooses about the graph, apart from the model.
struct GraphOptions {
  bool fused_attention = true;  ///< one attention operator; else scores, softmax and the weighted sum apart
  bool dropout =
      false;  ///< after attention's softmax (unfused), after attention, after the feed-forward part, on the embedding
  bool operator==(const GraphOptions&) const = default;
};

/// The dimensions of a decoder-only transformer, whole. `batch` and `sequence` are set by the caller of the derivation.
/// batch sequence key_sequence hidden kv_head query_in_group head_dim value_dim ffn vocab position
struct TransformerDims {
  DimId batch, sequence, key_sequence, hidden, kv_head, query_in_group, head_dim, value_dim, ffn, vocab, position;
};
TransformerDims add_transformer_dims(OpGraph& graph, const Model& model);

/// Parts of a model, appended to `graph`. Each takes the residual stream [batch, sequence, hidden] and returns it (the
/// head returns the loss, a scalar). Shapes of weights: q_proj [hidden, kv_head, query_in_group, head_dim], k_proj and
/// v_proj [hidden, kv_head, head_dim], o_proj [kv_head, query_in_group, value_dim, hidden], gate_proj, up_proj [hidden,
/// ffn], down_proj [ffn, hidden], embed_tokens [vocab, hidden], lm_head [hidden, vocab]. A graph that holds embedding
/// and head of a model with tied embeddings has one table.
TensorId append_embedding(OpGraph& graph, const TransformerDims& d, const Model& model, const GraphOptions& options);
TensorId append_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model, bool windowed,
                      const GraphOptions& options);
TensorId append_head(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model);

/// A model as graphs: identical layers are one class with a count, never a list of copies.
struct ModelGraphs {
  OpGraph embedding, head;
  std::vector<OpGraph> layer_classes;
  std::vector<int> class_of_layer;  ///< num_hidden_layers entries
};

/// Precondition: unsupported(model) is empty.
ModelGraphs model_graphs(const Model& model, const GraphOptions& options = {});

/// All weights of the model, each counted once; from the graphs. Tied embeddings are one table.
std::int64_t parameters(const Model& model);
/// Those that a token's forward pass multiplies with: without the input embedding and learned positions when the output
/// has a table of its own.
std::int64_t parameters_without_embedding(const Model& model);
/// Keys and values of one token in all layers, two bytes an element.
std::int64_t kv_bytes_per_token(const Model& model);

}  // namespace shardwright
