#include "models/transformer.h"

#include <cassert>
#include <string>

namespace shardwright {
namespace {

/// Appends operators with the names that a part of the model uses, so that the parts below read like the formulas.
class Builder {
 public:
  Builder(OpGraph& graph, const TransformerDims& dims) : g_(graph), d_(dims) {}

  Region region = Region::none;

  TensorId activation(std::string name, DimList dims, Width width = Width::compute, Combine combine = Combine::sum) {
    return g_.add_tensor({std::move(name), dims, TensorRole::activation, width, combine, false});
  }
  /// A weight of this name, made at first use: a tied table has two uses.
  TensorId weight(const std::string& name, DimList dims) {
    if (TensorId known = g_.find_tensor(name); known >= 0) return known;
    return g_.add_tensor({name, dims, TensorRole::weight, Width::compute, Combine::sum, false});
  }
  TensorId index(const std::string& name, DimList dims) {
    if (TensorId known = g_.find_tensor(name); known >= 0) return known;
    return g_.add_tensor({name, dims, TensorRole::index, Width::compute, Combine::sum, false});
  }

  /// y = sum over what `out` lacks of a * b.
  TensorId contract(Operand a, Operand b, std::string name, DimList out, DimList whole = {}) {
    Operator op = start(OpKind::contraction, name, {a, b});
    op.whole = whole;
    op.gradients = {{.of = {0}, .reads = {1}}, {.of = {1}, .reads = {0}}};
    return finish(std::move(op), out);
  }
  TensorId linear(TensorId x, TensorId w, std::string name, DimList out) {
    return contract(plain(x), plain(w), std::move(name), out);
  }
  TensorId gather(TensorId ids, TensorId table, std::string name, DimList out) {
    Operator op = start(OpKind::gather, name, {plain(ids), plain(table)});
    op.passes_partial = true;  // the gradient of a learned position's row is reduced with its table, not before
    op.gradients = {{.of = {1}, .reads = {0}}};
    return finish(std::move(op), out);
  }
  /// x plus a tensor that lacks some of its dims.
  TensorId add_broadcast(TensorId x, TensorId term, std::string name, bool on_stream) {
    Operator op = start(OpKind::add_bias, name, {plain(x), plain(term)});
    op.on_stream = on_stream;
    op.gradients = {{.of = {0}, .identity = true}, {.of = {1}}};
    return finish(std::move(op), dims(x));
  }
  TensorId rotary(TensorId x, std::string name) {
    Operator op = start(OpKind::rotary, name, {plain(x)});
    op.whole = {d_.head_dim};
    op.gradients = {{.of = {0}}};
    return finish(std::move(op), dims(x));
  }
  TensorId norm(TensorId x, std::string name, Norm kind, DimList over) {
    Operator op = start(kind == Norm::rmsnorm ? OpKind::rms_norm : OpKind::layer_norm, name,
                        {plain(x), plain(weight(name + ".weight", over))});
    if (kind == Norm::layernorm) op.inputs.push_back(plain(weight(name + ".bias", over)));
    op.whole = over;
    op.gradients = {{.of = {0, 1}, .reads = {0, 1}}};
    if (kind == Norm::layernorm) op.gradients[0].of.push_back(2);
    return finish(std::move(op), dims(x));
  }
  TensorId gelu(TensorId x, std::string name) {
    Operator op = start(OpKind::gelu, name, {plain(x)});
    op.gradients = {{.of = {0}, .reads = {0}}};
    return finish(std::move(op), dims(x));
  }
  TensorId gated_silu(TensorId gate, TensorId up, std::string name) {
    Operator op = start(OpKind::gated_silu, name, {plain(gate), plain(up)});
    op.gradients = {{.of = {0, 1}, .reads = {0, 1}}};
    return finish(std::move(op), dims(gate));
  }
  TensorId dropout(TensorId x, std::string name, bool on_stream) {
    Operator op = start(OpKind::dropout, name, {plain(x)});
    op.on_stream = on_stream;
    op.gradients = {{.of = {0}, .reads = {2}}};
    op.outputs.push_back(plain(activation(name, dims(x))));
    op.outputs.push_back(plain(activation(name + ".mask", dims(x), Width::byte)));
    TensorId y = op.outputs[0].tensor;
    g_.add_op(std::move(op));
    return y;
  }
  TensorId softmax(TensorId x, std::string name, DimId over) {
    Operator op = start(OpKind::softmax, name, {plain(x)});
    op.whole = {over};
    op.gradients = {{.of = {0}, .reads = {1}}};
    return finish(std::move(op), dims(x));
  }
  TensorId residual_sum(TensorId x, TensorId y, std::string name) {
    Operator op = start(OpKind::residual_sum, name, {plain(x), plain(y)});
    op.on_stream = true;
    op.gradients = {{.of = {0, 1}, .identity = true}};
    TensorId z = finish(std::move(op), dims(x));
    g_.mark_stream(z);
    return z;
  }
  /// Keys and values are seen with their sequence as `key_sequence`.
  TensorId attention(TensorId q, TensorId k, TensorId v, std::string name, std::int64_t window) {
    Operator op = start(OpKind::attention, name, {plain(q), as_key(k), as_key(v)});
    op.whole = {d_.key_sequence, d_.head_dim, d_.value_dim};
    op.window = window;
    op.gradients = {{.of = {0, 1, 2}, .reads = {0, 1, 2, 3, 4}}};
    TensorId o = activation(name, {d_.batch, d_.sequence, d_.kv_head, d_.query_in_group, d_.value_dim});
    op.outputs = {plain(o), plain(activation(name + ".log_sum_exp",
                                             {d_.batch, d_.sequence, d_.kv_head, d_.query_in_group}, Width::fp32))};
    g_.add_op(std::move(op));
    return o;
  }
  /// A statistic of each token over the vocabulary, four bytes.
  TensorId statistic(OpKind kind, std::vector<Operand> inputs, std::string name, Combine combine,
                     std::vector<Gradient> gradients) {
    Operator op = start(kind, name, std::move(inputs));
    op.gradients = std::move(gradients);
    return finish(std::move(op), {d_.batch, d_.sequence}, Width::fp32, combine);
  }
  TensorId loss(TensorId largest, TensorId exp_sum, TensorId picked) {
    Operator op = start(OpKind::cross_entropy, "loss", {plain(largest), plain(exp_sum), plain(picked)});
    op.gradients = {{.of = {1}, .reads = {1}}, {.of = {2}, .reads = {1}}};
    return finish(std::move(op), {}, Width::fp32);
  }

  Operand plain(TensorId t) const { return {t, dims(t)}; }
  Operand as_key(TensorId t) const {
    DimList seen = dims(t);
    for (int i = 0; i < seen.size(); ++i)
      if (seen[i] == d_.sequence) seen.dims[i] = d_.key_sequence;
    return {t, seen};
  }
  DimList dims(TensorId t) const { return g_.tensor(t).dims; }

 private:
  Operator start(OpKind kind, std::string name, std::vector<Operand> inputs) const {
    Operator op;
    op.kind = kind;
    op.name = std::move(name);
    op.region = region;
    op.inputs = std::move(inputs);
    return op;
  }
  TensorId finish(Operator op, DimList out, Width width = Width::compute, Combine combine = Combine::sum) {
    TensorId y = activation(op.name, out, width, combine);
    op.outputs = {{y, out}};
    g_.add_op(std::move(op));
    return y;
  }

  OpGraph& g_;
  const TransformerDims& d_;
};

TensorId append_attention(Builder& b, const TransformerDims& d, TensorId stream, const Model& model, bool windowed,
                          const GraphOptions& options) {
  const DimList query = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.head_dim};
  const DimList key = {d.batch, d.sequence, d.kv_head, d.head_dim},
                value = {d.batch, d.sequence, d.kv_head, d.value_dim};
  const DimList wide = {d.batch, d.sequence, d.hidden};

  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "input_layernorm", model.norm, {d.hidden});
  b.region = Region::none;
  TensorId q = b.linear(n, b.weight("q_proj", {d.hidden, d.kv_head, d.query_in_group, d.head_dim}), "q", query);
  TensorId k = b.linear(n, b.weight("k_proj", {d.hidden, d.kv_head, d.head_dim}), "k", key);
  TensorId v = b.linear(n, b.weight("v_proj", {d.hidden, d.kv_head, d.value_dim}), "v", value);
  if (model.attention_bias) {
    q = b.add_broadcast(q, b.weight("q_proj.bias", {d.kv_head, d.query_in_group, d.head_dim}), "q+bias", false);
    k = b.add_broadcast(k, b.weight("k_proj.bias", {d.kv_head, d.head_dim}), "k+bias", false);
    v = b.add_broadcast(v, b.weight("v_proj.bias", {d.kv_head, d.value_dim}), "v+bias", false);
  }
  if (model.qk_norm == QkNorm::head) {
    q = b.norm(q, "q_norm", Norm::rmsnorm, {d.head_dim});
    k = b.norm(k, "k_norm", Norm::rmsnorm, {d.head_dim});
  } else if (model.qk_norm == QkNorm::full) {
    q = b.norm(q, "q_norm", Norm::rmsnorm, {d.kv_head, d.query_in_group, d.head_dim});
    k = b.norm(k, "k_norm", Norm::rmsnorm, {d.kv_head, d.head_dim});
  }
  if (model.position == Position::rope) {
    q = b.rotary(q, "q_rotary");
    k = b.rotary(k, "k_rotary");
  }

  b.region = Region::core_attn;
  TensorId o = -1;
  if (options.fused_attention) {
    o = b.attention(q, k, v, "core_attention", windowed ? model.sliding_window : 0);
  } else {
    const DimList scores = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.key_sequence};
    TensorId p = b.contract(b.plain(q), b.as_key(k), "scores", scores, {d.key_sequence});
    p = b.softmax(p, "softmax", d.key_sequence);
    if (options.dropout) p = b.dropout(p, "attention_dropout", false);
    o = b.contract(b.plain(p), b.as_key(v), "context", {d.batch, d.sequence, d.kv_head, d.query_in_group, d.value_dim},
                   {d.key_sequence});
  }
  b.region = Region::none;

  TensorId y =
      b.linear(o, b.weight("o_proj", {d.kv_head, d.query_in_group, d.value_dim, d.hidden}), "attention_out", wide);
  if (model.attention_output_bias)
    y = b.add_broadcast(y, b.weight("o_proj.bias", {d.hidden}), "attention_out+bias", true);
  if (options.dropout) y = b.dropout(y, "hidden_dropout_1", true);
  return b.residual_sum(stream, y, "after_attention");
}

TensorId append_mlp(Builder& b, const TransformerDims& d, TensorId stream, const Model& model,
                    const GraphOptions& options) {
  const DimList wide = {d.batch, d.sequence, d.hidden}, inner = {d.batch, d.sequence, d.ffn};
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "post_attention_layernorm", model.norm, {d.hidden});
  b.region = Region::mlp;
  TensorId up = b.linear(n, b.weight("up_proj", {d.hidden, d.ffn}), "up", inner);
  if (model.mlp_bias) up = b.add_broadcast(up, b.weight("up_proj.bias", {d.ffn}), "up+bias", false);
  TensorId act = -1;
  if (model.gated_mlp) {
    TensorId gate = b.linear(n, b.weight("gate_proj", {d.hidden, d.ffn}), "gate", inner);
    if (model.mlp_bias) gate = b.add_broadcast(gate, b.weight("gate_proj.bias", {d.ffn}), "gate+bias", false);
    act = b.gated_silu(gate, up, "activation");
  } else {
    act = b.gelu(up, "activation");
  }
  TensorId y = b.linear(act, b.weight("down_proj", {d.ffn, d.hidden}), "mlp_out", wide);
  b.region = Region::none;
  if (model.mlp_bias) y = b.add_broadcast(y, b.weight("down_proj.bias", {d.hidden}), "mlp_out+bias", true);
  if (options.dropout) y = b.dropout(y, "hidden_dropout_2", true);
  return b.residual_sum(stream, y, "after_mlp");
}

std::int64_t extent_of(const OpGraph& g, std::string_view weight) {
  TensorId t = g.find_tensor(weight);
  if (t < 0) return 0;
  std::int64_t n = 1;
  for (DimId dim : g.tensor(t).dims) n *= g.dims()[dim].extent;
  return n;
}

}  // namespace

TransformerDims add_transformer_dims(OpGraph& graph, const Model& model) {
  TransformerDims d{};
  d.batch = graph.add_dim("batch", 1);
  d.sequence = graph.add_dim("sequence", 1);
  d.key_sequence = graph.add_dim("key_sequence", 1);
  d.hidden = graph.add_dim("hidden", model.hidden_size);
  d.kv_head = graph.add_dim("kv_head", model.num_key_value_heads);
  d.query_in_group = graph.add_dim("query_in_group", model.num_attention_heads / model.num_key_value_heads);
  d.head_dim = graph.add_dim("head_dim", model.head_dim);
  d.value_dim = graph.add_dim("value_dim", model.head_dim);
  d.ffn = graph.add_dim("ffn", model.intermediate_size);
  d.vocab = graph.add_dim("vocab", model.vocab_size);
  d.position = graph.add_dim("position", model.max_position_embeddings);
  return d;
}

TensorId append_embedding(OpGraph& graph, const TransformerDims& d, const Model& model, const GraphOptions& options) {
  Builder b(graph, d);
  const DimList wide = {d.batch, d.sequence, d.hidden};
  TensorId x = b.gather(b.index("token_ids", {d.batch, d.sequence}), b.weight("embed_tokens", {d.vocab, d.hidden}),
                        "embedded", wide);
  if (model.position == Position::learned) {
    TensorId p = b.gather(b.index("position_ids", {d.sequence}), b.weight("embed_positions", {d.position, d.hidden}),
                          "positions", {d.sequence, d.hidden});
    x = b.add_broadcast(x, p, "embedded+positions", true);
  }
  if (options.dropout) x = b.dropout(x, "embedding_dropout", true);
  graph.mark_stream(x);
  return x;
}

TensorId append_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model, bool windowed,
                      const GraphOptions& options) {
  Builder b(graph, d);
  return append_mlp(b, d, append_attention(b, d, stream, model, windowed, options), model, options);
}

TensorId append_head(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model) {
  Builder b(graph, d);
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "norm", model.norm, {d.hidden});
  b.region = Region::none;
  TensorId table = model.tie_word_embeddings ? b.weight("embed_tokens", {d.vocab, d.hidden})
                                             : b.weight("lm_head", {d.hidden, d.vocab});
  TensorId logits = b.linear(n, table, "logits", {d.batch, d.sequence, d.vocab});
  TensorId labels = b.index("labels", {d.batch, d.sequence});
  TensorId largest = b.statistic(OpKind::vocabulary_max, {b.plain(logits)}, "max", Combine::max, {});
  TensorId exp_sum = b.statistic(OpKind::vocabulary_exp_sum, {b.plain(logits), b.plain(largest)}, "exp_sum",
                                 Combine::sum, {{.of = {0}, .reads = {0, 1}}});
  TensorId picked = b.statistic(OpKind::vocabulary_pick, {b.plain(logits), b.plain(labels)}, "picked", Combine::sum,
                                {{.of = {0}, .reads = {1}, .one_hot = true}});
  return b.loss(largest, exp_sum, picked);
}

ModelGraphs model_graphs(const Model& model, const GraphOptions& options) {
  assert(unsupported(model).empty() && "callers ask unsupported() first");
  ModelGraphs result;
  {
    OpGraph& g = result.embedding;
    TransformerDims d = add_transformer_dims(g, model);
    g.stream_out = append_embedding(g, d, model, options);
  }
  int class_of[2] = {-1, -1};  // of full and of windowed layers
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    const bool windowed = model.is_windowed(layer);
    int& known = class_of[windowed];
    if (known < 0) {
      known = static_cast<int>(result.layer_classes.size());
      OpGraph g;
      TransformerDims d = add_transformer_dims(g, model);
      g.stream_in = g.add_tensor(
          {"stream", {d.batch, d.sequence, d.hidden}, TensorRole::activation, Width::compute, Combine::sum, true});
      g.stream_out = append_layer(g, d, g.stream_in, model, windowed, options);
      result.layer_classes.push_back(std::move(g));
    }
    result.class_of_layer.push_back(known);
  }
  OpGraph& g = result.head;
  TransformerDims d = add_transformer_dims(g, model);
  g.stream_in = g.add_tensor(
      {"stream", {d.batch, d.sequence, d.hidden}, TensorRole::activation, Width::compute, Combine::sum, true});
  append_head(g, d, g.stream_in, model);
  return result;
}

std::int64_t parameters(const Model& model) {
  ModelGraphs graphs = model_graphs(model);
  std::int64_t total = graphs.embedding.weight_elements() + graphs.head.weight_elements();
  if (model.tie_word_embeddings) total -= extent_of(graphs.head, "embed_tokens");
  for (int c : graphs.class_of_layer) total += graphs.layer_classes[static_cast<std::size_t>(c)].weight_elements();
  return total;
}

std::int64_t parameters_without_embedding(const Model& model) {
  ModelGraphs graphs = model_graphs(model);
  std::int64_t total = parameters(model) - extent_of(graphs.embedding, "embed_positions");
  return model.tie_word_embeddings ? total : total - extent_of(graphs.embedding, "embed_tokens");
}

std::int64_t kv_bytes_per_token(const Model& model) {
  return 2 * model.num_key_value_heads * model.head_dim * model.num_hidden_layers * 2;
}

}  // namespace shardwright
