#include "models/transformer.h"

#include <algorithm>
#include <cassert>
#include <string>

namespace shardwright {
namespace {

/// What enters the attention core. Scores are the sum of the products of query and key parts, over the root of
/// `score_width`.
struct CoreInputs {
  std::vector<TensorId> queries, keys;
  Operand values;
  std::int64_t score_width = 0;
  Operand values_up = {};  // a weight that takes the core's result to value_dim; tensor -1: it is there
};

/// Appends operators with the names that a part of the model uses, so that the parts below read like the formulas.
class Builder {
 public:
  Builder(OpGraph& graph, const TransformerDims& dims, const GraphOptions& options)
      : g_(graph), d_(dims), options_(options) {}

  Region region = Region::none;
  std::string prefix;  // of the names of what is made: a second part of the same kind in one graph

  TensorId activation(std::string name, DimList dims, Width width = Width::compute, Combine combine = Combine::sum) {
    return g_.add_tensor({prefix + name, dims, TensorRole::activation, width, combine, 1, false});
  }
  /// A weight of this name, made at first use: a tied table has two uses.
  TensorId weight(const std::string& name, DimList dims) { return shared_weight(prefix + name, dims); }
  /// The same without the part's prefix: the model's own tables.
  TensorId shared_weight(const std::string& name, DimList dims) {
    if (TensorId known = g_.find_tensor(name); known >= 0) return known;
    return g_.add_tensor({name, dims, TensorRole::weight, Width::compute, Combine::sum, 1, false});
  }
  TensorId index(const std::string& name, DimList dims) {
    if (TensorId known = g_.find_tensor(name); known >= 0) return known;
    return g_.add_tensor({name, dims, TensorRole::index, Width::compute, Combine::sum, 1, false});
  }

  /// y = sum over what `out` lacks of a * b.
  TensorId contract(Operand a, Operand b, const std::string& name, DimList out, DimList whole = {},
                    Width width = Width::compute) {
    Operator op = start(OpKind::contraction, name, {a, b});
    op.whole = whole;
    op.gradients = {{.of = {0}, .reads = {1}}, {.of = {1}, .reads = {0}}};
    return finish(std::move(op), out, width);
  }
  TensorId linear(TensorId x, TensorId w, std::string name, DimList out, Width width = Width::compute) {
    return contract(plain(x), plain(w), std::move(name), out, {}, width);
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
    // A bias is added by the product's kernel, or by the one that drops out and adds to the stream (Megatron's
    // bias_dropout_add); a table of positions by none.
    op.epilogue = g_.tensor(term).role == TensorRole::weight;
    op.gradients = {{.of = {0}, .identity = true}, {.of = {1}}};
    return finish(std::move(op), dims(x));
  }
  TensorId rotary(TensorId x, std::string name, DimId over) {
    Operator op = start(OpKind::rotary, name, {plain(x)});
    op.whole = {over};
    op.gradients = {{.of = {0}}};
    op.written_out = !options_.fused_rotary;
    return finish(std::move(op), dims(x));
  }
  TensorId norm(TensorId x, std::string name, Norm kind, DimList over) {
    Operator op = start(kind == Norm::rmsnorm ? OpKind::rms_norm : OpKind::layer_norm, name,
                        {plain(x), plain(weight(name + ".weight", over))});
    if (kind == Norm::layernorm) op.inputs.push_back(plain(weight(name + ".bias", over)));
    op.whole = over;
    op.gradients = {{.of = {0, 1}, .reads = {0, 1}}};
    if (kind == Norm::layernorm) op.gradients[0].of.push_back(2);
    if (options_.fused_norm || kind == Norm::layernorm) {
      op.written_out = op.on_fp32_copy = options_.norm_in_fp32;
      return finish(std::move(op), dims(x));
    }
    op.written_out = true;
    op.gradients[0].reads = {1, 3, 4};
    const TensorId y = activation(name, dims(x));
    op.outputs = {plain(y), plain(activation(name + ".normalised", dims(x))),
                  plain(activation(name + ".fp32", dims(x), Width::fp32))};
    g_.add_op(std::move(op));
    return y;
  }
  TensorId gelu(TensorId x, std::string name) {
    Operator op = start(OpKind::gelu, name, {plain(x)});
    op.gradients = {{.of = {0}, .reads = {0}}};
    return finish(std::move(op), dims(x));
  }
  TensorId gated_silu(TensorId gate, TensorId up, std::string name) {
    Operator op = start(OpKind::gated_silu, name, {plain(gate), plain(up)});
    op.gradients = {{.of = {0, 1}, .reads = {0, 1}}};
    if (options_.fused_activation) return finish(std::move(op), dims(gate));
    op.written_out = true;
    op.gradients[0].reads.push_back(3);
    const TensorId y = activation(name, dims(gate)), silu = activation(name + ".silu", dims(gate));
    for (const TensorId t : {y, silu}) {
      if (dims(t).has(d_.expert)) g_.set_density(t, g_.tensor(gate).density);
      op.outputs.push_back(plain(t));
    }
    g_.add_op(std::move(op));
    return y;
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
  bool is_dropped(TensorId t) const {
    const std::vector<Operator>& ops = g_.ops();
    return std::any_of(ops.begin(), ops.end(),
                       [t](const Operator& op) { return op.kind == OpKind::dropout && op.outputs[0].tensor == t; });
  }
  TensorId softmax(TensorId x, std::string name, DimId over) {
    Operator op = start(OpKind::softmax, name, {plain(x)});
    op.whole = {over};
    op.gradients = {{.of = {0}, .reads = {1}}};
    return finish(std::move(op), dims(x));
  }
  TensorId residual_sum(const std::vector<TensorId>& terms, std::string name) {
    Operator op = start(OpKind::residual_sum, name, {});
    Gradient gradient;
    gradient.identity = true;
    for (TensorId t : terms) {
      gradient.of.push_back(static_cast<int>(op.inputs.size()));
      op.inputs.push_back(plain(t));
      if (is_dropped(t)) g_.mark_inside_kernel(t);
    }
    op.on_stream = true;
    op.gradients = {gradient};
    TensorId z = finish(std::move(op), dims(terms[0]));
    g_.mark_stream(z);
    return z;
  }
  /// Keys and values are seen with their sequence as `key_sequence`. `sinks` (-1: none): one logit a head that takes
  /// part in the softmax and has no value.
  TensorId attention(const CoreInputs& in, TensorId sinks, std::string name, std::int64_t window, std::int64_t chunk) {
    const DimId value = in.values.dims[in.values.dims.size() - 1];
    Operator op = start(OpKind::attention, name, {});
    op.whole = {d_.key_sequence, value};
    for (TensorId q : in.queries) {
      op.inputs.push_back(plain(q));
      op.whole.dims[op.whole.count++] = dims(q)[dims(q).size() - 1];
    }
    for (TensorId k : in.keys) op.inputs.push_back(as_key(plain(k)));
    op.inputs.push_back(as_key(in.values));
    if (sinks >= 0) op.inputs.push_back(plain(sinks));
    op.score_parts = static_cast<int>(in.queries.size());
    op.score_width = in.score_width;
    op.window = window;
    op.chunk = chunk;
    Gradient gradient;
    const auto inputs = static_cast<int>(op.inputs.size());
    for (int i = 0; i < inputs; ++i) gradient.of.push_back(i);
    for (int i = 0; i < inputs + 2; ++i) gradient.reads.push_back(i);
    op.gradients = {gradient};
    TensorId o = activation(name, {d_.batch, d_.sequence, d_.kv_head, d_.query_in_group, value});
    op.outputs = {plain(o), plain(activation(name + ".log_sum_exp",
                                             {d_.batch, d_.sequence, d_.kv_head, d_.query_in_group}, Width::fp32))};
    g_.add_op(std::move(op));
    return o;
  }

  struct Route {
    TensorId gate, mask;
  };
  /// The top k of all experts for each token.
  Route route(TensorId logits, double density) {
    Operator op = start(OpKind::route, "route", {plain(logits)});
    op.whole = {d_.expert};
    op.gradients = {{.of = {0}, .reads = {0}}};
    const Route r = {activation("gate", dims(logits), Width::fp32), activation("mask", dims(logits), Width::byte)};
    for (TensorId t : {r.gate, r.mask}) {
      g_.set_density(t, density);
      op.outputs.push_back(plain(t));
    }
    g_.add_op(std::move(op));
    return r;
  }
  /// Tokens to rows [expert, batch, sequence, hidden]. The mask comes first: it knows where its tokens live.
  TensorId dispatch(TensorId mask, TensorId x, std::string name, double density) {
    Operator op = start(OpKind::dispatch, name, {plain(mask), plain(x)});
    op.passes_partial = true;
    op.gradients = {{.of = {1}, .reads = {0}}};
    TensorId rows = finish(std::move(op), {d_.expert, d_.batch, d_.sequence, d_.hidden});
    g_.set_density(rows, density);
    return rows;
  }
  TensorId combine(TensorId gate, TensorId rows, std::string name, bool differentiate_gate) {
    Operator op = start(OpKind::combine, name, {plain(gate), plain(rows)});
    op.passes_partial = true;
    op.gradients = {{.of = {1}, .reads = {0}}};
    if (differentiate_gate) op.gradients.push_back({.of = {0}, .reads = {1}});
    return finish(std::move(op), {d_.batch, d_.sequence, d_.hidden});
  }
  TensorId sigmoid_scale(TensorId x, TensorId scale, std::string name) {
    Operator op = start(OpKind::sigmoid_scale, name, {plain(x), plain(scale)});
    op.passes_partial = true;  // linear in x, which comes partial from a row-parallel product
    op.resolved = 1 << 1;
    op.gradients = {{.of = {0}, .reads = {1}}, {.of = {1}, .reads = {0, 1}}};
    return finish(std::move(op), dims(x));
  }
  /// A statistic of each token over the vocabulary, four bytes.
  TensorId statistic(OpKind kind, std::vector<Operand> inputs, std::string name, Combine combine,
                     std::vector<Gradient> gradients, DimList whole) {
    Operator op = start(kind, name, std::move(inputs));
    op.whole = whole;
    op.gradients = std::move(gradients);
    return finish(std::move(op), {d_.batch, d_.sequence}, Width::fp32, combine);
  }
  TensorId loss(TensorId largest, TensorId exp_sum, TensorId picked) {
    Operator op = start(OpKind::cross_entropy, "loss", {plain(largest), plain(exp_sum), plain(picked)});
    op.gradients = {{.of = {1}, .reads = {1}}, {.of = {2}, .reads = {1}}};
    return finish(std::move(op), {}, Width::fp32);
  }

  TensorId cast(TensorId x, std::string name, DimList whole, bool keep) {
    Operator op = start(OpKind::cast, name, {plain(x)});
    op.whole = whole;
    op.gradients = {{.of = {0}}};
    if (keep) op.gradients[0].reads = {0};
    return finish(std::move(op), dims(x), Width::fp32);
  }
  /// The loss from logits [batch, sequence, vocab].
  TensorId cross_entropy(TensorId logits, TensorId labels) {
    const CrossEntropy kind = options_.cross_entropy;
    const bool of_all = kind == CrossEntropy::whole;
    const DimList whole = of_all ? DimList{d_.vocab} : DimList{};
    if (kind != CrossEntropy::in_place) logits = cast(logits, "logits.fp32", whole, of_all);
    const TensorId largest = statistic(OpKind::vocabulary_max, {plain(logits)}, "max", Combine::max, {}, whole);
    // Who reads the logits last may take their place; backward runs the other way round.
    TensorId sum = of_all ? exp_sum(logits, largest, whole) : TensorId{-1};
    const TensorId picked = statistic(OpKind::vocabulary_pick, {plain(logits), plain(labels)}, "picked", Combine::sum,
                                      {{.of = {0}, .reads = {1}, .one_hot = !of_all}}, whole);
    if (!of_all) sum = exp_sum(logits, largest, whole);
    return loss(largest, sum, picked);
  }

  Operand plain(TensorId t) const { return {t, dims(t)}; }
  Operand as_key(Operand seen) const {
    for (int i = 0; i < seen.dims.size(); ++i)
      if (seen.dims[i] == d_.sequence) seen.dims.dims[i] = d_.key_sequence;
    return seen;
  }
  DimList dims(TensorId t) const { return g_.tensor(t).dims; }

 private:
  Operator start(OpKind kind, const std::string& name, std::vector<Operand> inputs) const {
    Operator op;
    op.kind = kind;
    op.name = std::move(name);
    op.region = region;
    op.inputs = std::move(inputs);
    return op;
  }
  TensorId finish(Operator op, DimList out, Width width = Width::compute, Combine combine = Combine::sum) {
    TensorId y = activation(op.name, out, width, combine);
    // What is made from routed rows, expert by expert, is as sparse as they are.
    if (out.has(d_.expert)) g_.set_density(y, g_.tensor(op.inputs[0].tensor).density);
    op.outputs = {{y, out}};
    g_.add_op(std::move(op));
    return y;
  }

  TensorId exp_sum(TensorId logits, TensorId largest, DimList whole) {
    const CrossEntropy kind = options_.cross_entropy;
    Operator op = start(OpKind::vocabulary_exp_sum, "exp_sum", {plain(logits), plain(largest)});
    op.whole = whole;
    op.gradients = {{.of = {0}, .reads = {0, 1}}};
    op.gradients[0].in_place = kind != CrossEntropy::whole;
    const DimList tokens = {d_.batch, d_.sequence};
    op.outputs = {{activation(op.name, tokens, Width::fp32), tokens}};
    const TensorId sum = op.outputs[0].tensor;
    if (kind != CrossEntropy::in_place) {
      op.in_place = kind == CrossEntropy::softmax;
      op.gradients[0].reads = {3};
      op.outputs.push_back(plain(activation("softmax", dims(logits), Width::fp32)));
    }
    g_.add_op(std::move(op));
    return sum;
  }
  OpGraph& g_;
  const TransformerDims& d_;
  const GraphOptions& options_;
};

/// Multi-head or grouped-query attention.
CoreInputs grouped_heads(Builder& b, const TransformerDims& d, TensorId n, const Model& model) {
  const DimList query = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.head_dim};
  const DimList key = {d.batch, d.sequence, d.kv_head, d.head_dim},
                value = {d.batch, d.sequence, d.kv_head, d.value_dim};
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
    q = b.rotary(q, "q_rotary", d.head_dim);
    k = b.rotary(k, "k_rotary", d.head_dim);
  }
  return {{q}, {k}, b.plain(v), model.head_dim};
}

/// Multi-head latent attention (DeepSeek-V2, 2.1): keys and values are projected up from a latent, and every head adds
/// a score of rotary parts, whose key all heads share. Absorbed, q . (W latent) is taken as (q W) . latent.
CoreInputs latent_heads(Builder& b, const TransformerDims& d, TensorId n, const Model& model, bool absorbed) {
  const DimList query = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.head_dim};
  const DimList rotary = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.rope_dim};
  TensorId from = n;
  DimId rank = d.hidden;
  if (model.q_lora_rank > 0) {
    rank = d.query_rank;
    from = b.linear(n, b.weight("q_a_proj", {d.hidden, d.query_rank}), "q_latent", {d.batch, d.sequence, d.query_rank});
    b.region = Region::mla_up_proj;
    from = b.norm(from, "q_a_layernorm", model.norm, {d.query_rank});
    b.region = Region::none;
  }
  TensorId kv =
      b.linear(n, b.weight("kv_a_proj", {d.hidden, d.kv_rank}), "kv_latent", {d.batch, d.sequence, d.kv_rank});
  TensorId k_rope =
      b.linear(n, b.weight("k_rope_proj", {d.hidden, d.rope_dim}), "k_rope", {d.batch, d.sequence, d.rope_dim});
  b.region = Region::mla_up_proj;
  kv = b.norm(kv, "kv_a_layernorm", model.norm, {d.kv_rank});
  k_rope = b.rotary(k_rope, "k_rotary", d.rope_dim);
  TensorId q = b.linear(from, b.weight("q_b_proj", {rank, d.kv_head, d.query_in_group, d.head_dim}), "q", query);
  TensorId q_rope =
      b.linear(from, b.weight("q_b_rope_proj", {rank, d.kv_head, d.query_in_group, d.rope_dim}), "q_rope", rotary);
  q_rope = b.rotary(q_rope, "q_rotary", d.rope_dim);
  const TensorId keys_up = b.weight("k_b_proj", {d.kv_rank, d.kv_head, d.head_dim});
  const TensorId values_up = b.weight("v_b_proj", {d.kv_rank, d.kv_head, d.value_dim});
  CoreInputs in = {{q, q_rope}, {kv, k_rope}, {}, model.qk_nope_head_dim + model.qk_rope_head_dim};
  if (absorbed) {
    in.queries[0] = b.linear(q, keys_up, "q_absorbed", {d.batch, d.sequence, d.kv_head, d.query_in_group, d.kv_rank});
    in.values = {kv, {d.batch, d.sequence, d.value_rank}};
    in.values_up = {values_up, {d.value_rank, d.kv_head, d.value_dim}};
  } else {
    in.keys[0] = b.linear(kv, keys_up, "k", {d.batch, d.sequence, d.kv_head, d.head_dim});
    in.values = b.plain(b.linear(kv, values_up, "v", {d.batch, d.sequence, d.kv_head, d.value_dim}));
  }
  b.region = Region::none;
  return in;
}

/// Softmax of scaled scores times values, written out: for engines without a fused kernel.
TensorId unfused_core(Builder& b, const TransformerDims& d, const CoreInputs& in, const GraphOptions& options) {
  const DimList scores = {d.batch, d.sequence, d.kv_head, d.query_in_group, d.key_sequence};
  TensorId p = b.contract(b.plain(in.queries[0]), b.as_key(b.plain(in.keys[0])), "scores", scores, {d.key_sequence});
  p = b.softmax(p, "softmax", d.key_sequence);
  if (options.dropout) p = b.dropout(p, "attention_dropout", false);
  return b.contract(b.plain(p), b.as_key(in.values), "context",
                    {d.batch, d.sequence, d.kv_head, d.query_in_group, d.value_dim}, {d.key_sequence});
}

TensorId append_attention(Builder& b, const TransformerDims& d, TensorId stream, const Model& model, bool windowed,
                          const GraphOptions& options) {
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "input_layernorm", model.norm, {d.hidden});
  b.region = Region::none;
  const CoreInputs in =
      model.kv_lora_rank > 0 ? latent_heads(b, d, n, model, options.absorbed_latent) : grouped_heads(b, d, n, model);

  b.region = Region::core_attn;
  TensorId o = -1;
  if (options.fused_attention || in.queries.size() > 1 || model.attention_sinks) {
    const TensorId sinks = model.attention_sinks ? b.weight("sinks", {d.kv_head, d.query_in_group}) : TensorId{-1};
    o = b.attention(in, sinks, "core_attention", windowed ? model.sliding_window : 0,
                    windowed ? model.attention_chunk_size : 0);
  } else {
    o = unfused_core(b, d, in, options);
  }
  b.region = Region::none;
  if (in.values_up.tensor >= 0)
    o = b.contract(b.plain(o), in.values_up, "context",
                   {d.batch, d.sequence, d.kv_head, d.query_in_group, d.value_dim});

  TensorId y = b.linear(o, b.weight("o_proj", {d.kv_head, d.query_in_group, d.value_dim, d.hidden}), "attention_out",
                        {d.batch, d.sequence, d.hidden});
  if (model.attention_output_bias)
    y = b.add_broadcast(y, b.weight("o_proj.bias", {d.hidden}), "attention_out+bias", true);
  if (options.dropout) y = b.dropout(y, "hidden_dropout_1", true);
  return b.residual_sum({stream, y}, "after_attention");
}

/// Two or three matrices and an activation: a dense part, a shared expert, or all routed experts at once.
struct FeedForward {
  std::string weights;  // prefix of the weights' names
  std::string tensors;  // and of the activations'
  DimList expert;       // {expert} for the routed ones
  DimId width;          // ffn, shared_ffn, expert_ffn
  Region activation;    // of the activation function
  TensorId scale = -1;  // what the activation is multiplied with: the router's gate
};
struct FeedForwardOut {
  TensorId before_bias;
  TensorId bias;  // -1: none; the caller adds it where the sum is complete
};
FeedForwardOut append_feed_forward(Builder& b, const TransformerDims& d, TensorId n, const Model& model,
                                   const FeedForward& f) {
  const auto with = [&](std::initializer_list<DimId> rest) {
    DimList dims = f.expert;
    for (DimId x : rest) dims.dims[dims.count++] = x;
    return dims;
  };
  const Region around = b.region;
  const DimList inner = with({d.batch, d.sequence, f.width}), wide = with({d.batch, d.sequence, d.hidden});
  TensorId up = b.linear(n, b.weight(f.weights + "up_proj", with({d.hidden, f.width})), f.tensors + "up", inner);
  if (model.mlp_bias)
    up = b.add_broadcast(up, b.weight(f.weights + "up_proj.bias", with({f.width})), f.tensors + "up+bias", false);
  TensorId act = -1;
  if (model.gated_mlp) {
    TensorId gate =
        b.linear(n, b.weight(f.weights + "gate_proj", with({d.hidden, f.width})), f.tensors + "gate", inner);
    if (model.mlp_bias)
      gate = b.add_broadcast(gate, b.weight(f.weights + "gate_proj.bias", with({f.width})), f.tensors + "gate+bias",
                             false);
    b.region = f.activation;
    act = b.gated_silu(gate, up, f.tensors + "activation");
  } else {
    b.region = f.activation;
    act = b.gelu(up, f.tensors + "activation");
  }
  if (f.scale >= 0) act = b.contract(b.plain(act), b.plain(f.scale), f.tensors + "scaled", b.dims(act));
  b.region = around;
  TensorId y = b.linear(act, b.weight(f.weights + "down_proj", with({f.width, d.hidden})), f.tensors + "out", wide);
  return {y, model.mlp_bias ? b.weight(f.weights + "down_proj.bias", with({d.hidden})) : TensorId{-1}};
}

TensorId append_mlp(Builder& b, const TransformerDims& d, TensorId stream, const Model& model,
                    const GraphOptions& options) {
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "post_attention_layernorm", model.norm, {d.hidden});
  b.region = Region::mlp;
  auto [y, bias] = append_feed_forward(b, d, n, model, {"", "mlp_", {}, d.ffn, Region::mlp});
  b.region = Region::none;
  if (bias >= 0) y = b.add_broadcast(y, bias, "mlp_out+bias", true);
  if (options.dropout) y = b.dropout(y, "hidden_dropout_2", true);
  return b.residual_sum({stream, y}, "after_mlp");
}

/// Each token goes to its top experts and comes back as the gated sum; shared experts see every token.
TensorId append_experts(Builder& b, const TransformerDims& d, TensorId stream, const Model& model,
                        const GraphOptions& options) {
  const double density = static_cast<double>(model.num_experts_per_tok) / static_cast<double>(model.n_routed_experts);
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "post_attention_layernorm", model.norm, {d.hidden});
  b.region = Region::moe;
  TensorId logits = b.linear(n, b.weight("router", {d.hidden, d.expert}), "router_logits",
                             {d.batch, d.sequence, d.expert}, Width::fp32);
  if (model.router_bias)
    logits = b.add_broadcast(logits, b.weight("router.bias", {d.expert}), "router_logits+bias", false);
  const auto [gate, mask] = b.route(logits, density);
  TensorId rows = b.dispatch(mask, n, "rows",
                             options.capacity_factor > 0 ? std::min(1.0, density * options.capacity_factor) : density);
  // The gate may multiply before the down-projection, which is linear: then it travels with the rows, and the rows that
  // come back are not kept. A bias after that projection would escape it.
  const bool early = options.early_gate && !model.mlp_bias;
  auto [expert_rows, bias] = append_feed_forward(
      b, d, rows, model,
      {"experts.", "expert_", {d.expert}, d.expert_ffn, Region::moe_act, early ? gate : TensorId{-1}});
  if (bias >= 0) expert_rows = b.add_broadcast(expert_rows, bias, "expert_out+bias", false);
  std::vector<TensorId> terms = {stream, b.combine(early ? mask : gate, expert_rows, "routed", !early)};

  if (model.n_shared_experts > 0) {
    b.region = Region::shared_experts;
    auto [shared, shared_bias] =
        append_feed_forward(b, d, n, model, {"shared_experts.", "shared_", {}, d.shared_ffn, Region::shared_experts});
    if (shared_bias >= 0) shared = b.add_broadcast(shared, shared_bias, "shared_out+bias", true);
    if (model.shared_expert_gate) {
      TensorId scale = b.linear(n, b.weight("shared_expert_gate", {d.hidden}), "shared_scale", {d.batch, d.sequence});
      shared = b.sigmoid_scale(shared, scale, "shared_scaled");
    }
    terms.push_back(shared);
  }
  b.region = Region::none;
  if (options.dropout) terms.back() = b.dropout(terms.back(), "hidden_dropout_2", true);
  return b.residual_sum(terms, "after_experts");
}

TensorId append_part(Builder& b, const TransformerDims& d, TensorId stream, const Model& model, const LayerKind& kind,
                     const GraphOptions& options) {
  stream = append_attention(b, d, stream, model, kind.windowed, options);
  return kind.experts ? append_experts(b, d, stream, model, options) : append_mlp(b, d, stream, model, options);
}

/// Final norm, output table and the vocabulary-parallel cross-entropy.
TensorId append_loss(Builder& b, OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model) {
  b.region = Region::layernorm;
  TensorId n = b.norm(stream, "norm", model.norm, {d.hidden});
  b.region = Region::none;
  TensorId table = model.tie_word_embeddings ? b.shared_weight("embed_tokens", {d.vocab, d.hidden})
                                             : b.shared_weight("lm_head", {d.hidden, d.vocab});
  TensorId logits = b.linear(n, table, "logits", {d.batch, d.sequence, d.vocab});
  TensorId labels = b.index("labels", {d.batch, d.sequence});
  TensorId loss = b.cross_entropy(logits, labels);
  graph.losses.push_back(loss);
  return loss;
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
  const bool latent = model.kv_lora_rank > 0;
  const std::int64_t heads = model.key_heads();
  d.kv_head = graph.add_dim("kv_head", heads);
  d.query_in_group = graph.add_dim("query_in_group", model.num_attention_heads / heads);
  d.head_dim = graph.add_dim("head_dim", latent ? model.qk_nope_head_dim : model.head_dim);
  d.value_dim = graph.add_dim("value_dim", latent ? model.v_head_dim : model.head_dim);
  d.ffn = graph.add_dim("ffn", model.intermediate_size);
  d.vocab = graph.add_dim("vocab", model.vocab_size);
  d.position = graph.add_dim("position", model.max_position_embeddings);
  d.query_rank = graph.add_dim("query_rank", model.q_lora_rank);
  d.kv_rank = graph.add_dim("kv_rank", model.kv_lora_rank);
  d.value_rank = graph.add_dim("value_rank", model.kv_lora_rank);
  d.rope_dim = graph.add_dim("rope_dim", model.qk_rope_head_dim);
  d.expert = graph.add_dim("expert", model.n_routed_experts);
  d.expert_ffn = graph.add_dim("expert_ffn", model.moe_intermediate_size);
  d.shared_ffn = graph.add_dim("shared_ffn", model.shared_width());
  d.merged = graph.add_dim("merged", model.hidden_size);
  return d;
}

TensorId append_embedding(OpGraph& graph, const TransformerDims& d, const Model& model, const GraphOptions& options) {
  Builder b(graph, d, options);
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

LayerKind kind_of_layer(const Model& model, std::int64_t layer) {
  LayerKind kind;
  // Llama 4 cuts sequences into chunks on three layers of four.
  kind.windowed = model.attention_chunk_size > 0 ? (layer + 1) % 4 != 0 : model.is_windowed(layer);
  kind.experts =
      model.n_routed_experts > 0 && layer >= model.first_k_dense_replace && (layer + 1) % model.moe_layer_freq == 0;
  return kind;
}

TensorId append_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                      const LayerKind& kind, const GraphOptions& options) {
  Builder b(graph, d, options);
  return append_part(b, d, stream, model, kind, options);
}

TensorId append_head(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                     const GraphOptions& options) {
  Builder b(graph, d, options);
  return append_loss(b, graph, d, stream, model);
}

TensorId append_prediction_layer(OpGraph& graph, const TransformerDims& d, TensorId stream, const Model& model,
                                 const GraphOptions& options) {
  Builder b(graph, d, options);
  b.prefix = "prediction.";
  const DimList wide = {d.batch, d.sequence, d.hidden}, merged = {d.batch, d.sequence, d.merged};
  TensorId next = b.gather(b.index("next_token_ids", {d.batch, d.sequence}),
                           b.shared_weight("embed_tokens", {d.vocab, d.hidden}), "embedded", wide);
  graph.mark_stream(next);
  b.region = Region::layernorm;
  TensorId from_stream = b.norm(stream, "hnorm", model.norm, {d.hidden});
  TensorId from_token = b.norm(next, "enorm", model.norm, {d.hidden});
  b.region = Region::none;
  TensorId x = b.contract({from_stream, merged}, b.plain(b.weight("eh_proj.stream", {d.merged, d.hidden})),
                          "projected_stream", wide);
  TensorId y = b.contract({from_token, merged}, b.plain(b.weight("eh_proj.token", {d.merged, d.hidden})),
                          "projected_token", wide);
  x = b.residual_sum({x, y}, "merged");
  x = append_part(b, d, x, model, kind_of_layer(model, model.num_hidden_layers - 1), options);
  return append_loss(b, graph, d, x, model);
}

ModelGraphs model_graphs(const Model& model, const GraphOptions& options) {
  assert(unsupported(model).empty() && "callers ask unsupported() first");
  const auto enter = [](OpGraph& g, const TransformerDims& d) {
    g.stream_in = g.add_tensor(
        {"stream", {d.batch, d.sequence, d.hidden}, TensorRole::activation, Width::compute, Combine::sum, 1, true});
    return g.stream_in;
  };
  ModelGraphs result;
  {
    OpGraph& g = result.embedding;
    TransformerDims d = add_transformer_dims(g, model);
    g.stream_out = append_embedding(g, d, model, options);
  }
  std::vector<LayerKind> kinds;
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    const LayerKind kind = kind_of_layer(model, layer);
    const auto known = std::find(kinds.begin(), kinds.end(), kind);
    result.class_of_layer.push_back(static_cast<int>(known - kinds.begin()));
    if (known != kinds.end()) continue;
    kinds.push_back(kind);
    OpGraph g;
    TransformerDims d = add_transformer_dims(g, model);
    g.stream_out = append_layer(g, d, enter(g, d), model, kind, options);
    result.layer_classes.push_back(std::move(g));
  }
  OpGraph& g = result.head;
  TransformerDims d = add_transformer_dims(g, model);
  const TensorId stream = enter(g, d);
  append_head(g, d, stream, model, options);
  for (std::int64_t i = 0; i < model.num_nextn_predict_layers; ++i)
    append_prediction_layer(g, d, stream, model, options);
  return result;
}

namespace {

/// Elements of the weights of a graph whose name passes.
template <typename F>
std::int64_t count_weights(const OpGraph& g, const F& counts) {
  std::int64_t total = 0;
  for (const Tensor& t : g.tensors())
    if (t.role == TensorRole::weight) total += counts(t) ? extent_of(g, t.name) : 0;
  return total;
}
bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

/// Elements of all weights, each once.
std::int64_t count_model(const Model& model, bool with_prediction) {
  const ModelGraphs graphs = model_graphs(model);
  const auto count = [&](const OpGraph& g, bool is_head) {
    return count_weights(g, [&](const Tensor& t) {
      if (is_head && t.name == "embed_tokens") return false;  // counted with the embedding
      return with_prediction || !starts_with(t.name, "prediction.");
    });
  };
  std::int64_t total = count(graphs.embedding, false) + count(graphs.head, true);
  for (int c : graphs.class_of_layer) total += count(graphs.layer_classes[static_cast<std::size_t>(c)], false);
  return total;
}

/// Elements of routed experts that one token does not read.
std::int64_t idle_parameters(const Model& model) {
  if (model.n_routed_experts == 0) return 0;
  const ModelGraphs graphs = model_graphs(model);
  std::int64_t idle = 0;
  for (int c : graphs.class_of_layer) {
    const std::int64_t routed = count_weights(graphs.layer_classes[static_cast<std::size_t>(c)],
                                              [](const Tensor& t) { return starts_with(t.name, "experts."); });
    idle += routed / model.n_routed_experts * (model.n_routed_experts - model.num_experts_per_tok);
  }
  return idle;
}

}  // namespace

std::int64_t parameters(const Model& model) { return count_model(model, false); }

std::int64_t parameters_with_mtp(const Model& model) { return count_model(model, true); }

std::int64_t active_parameters(const Model& model) { return parameters(model) - idle_parameters(model); }

std::int64_t active_parameters_without_embedding(const Model& model) {
  const OpGraph embedding = model_graphs(model).embedding;
  const std::int64_t active = active_parameters(model) - extent_of(embedding, "embed_positions");
  return model.tie_word_embeddings ? active : active - extent_of(embedding, "embed_tokens");
}

std::int64_t kv_bytes_per_token(const Model& model) {
  const std::int64_t elements = model.kv_lora_rank > 0 ? model.kv_lora_rank + model.qk_rope_head_dim
                                                       : 2 * model.num_key_value_heads * model.head_dim;
  return 2 * elements * model.num_hidden_layers;
}

}  // namespace shardwright
