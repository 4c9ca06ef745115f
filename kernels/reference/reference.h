#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/shapes.h"

namespace shardwright::reference {

using shardwright::AdamStep;
using shardwright::AttentionShape;
using shardwright::causal_range;
using shardwright::KeyRange;
using shardwright::RotaryShape;

/// Plain kernels in double precision: what every other backend is compared with. Arrays are dense and row-major; a
/// kernel sees one rank's block and is told where it begins in the whole tensor when that matters. Nothing here is
/// fast.
using Array = std::vector<double>;
using In = std::span<const double>;

// ---- contraction ----

/// An array whose dimensions carry labels. Equal labels are the same dimension.
struct Labelled {
  In data;
  std::vector<int> labels;
  std::vector<std::int64_t> extents;
};
/// out[out_labels] = sum over the labels that out lacks of a * b. Every label of out is one of a or b.
Array contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels);

// ---- pointwise ----

/// x + bias, the bias lacking some of x's labels.
Array add_bias(const Labelled& x, const Labelled& bias);
/// Sum of dy over the labels that the bias lacks.
Array add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels);

Array gelu(In x);  // x Phi(x), with erf
Array gelu_gradient(In x, In dy);

Array gated_silu(In gate, In up);  // gate sigmoid(gate) up
struct GatedSiluGradient {
  Array gate, up;
};
GatedSiluGradient gated_silu_gradient(In gate, In up, In dy);

/// x [rows, width] times the sigmoid of each row's scale.
Array sigmoid_scale(In x, In scale);
Array sigmoid_scale_gradient_x(In scale, In dy);
Array sigmoid_scale_gradient_scale(In x, In scale, In dy);

/// x where the mask is 1, scaled by 1 / (1 - probability); 0 where it is 0. Also its own gradient, with dy for x.
Array dropout(In x, In mask, double probability);

Array rotary(In x, const RotaryShape& shape);
Array rotary_gradient(In dy, const RotaryShape& shape);  // turned back

// ---- norms: x [rows, width], weight and bias [width], epsilon 1e-5 ----

Array rms_norm(In x, In weight);
Array layer_norm(In x, In weight, In bias);
struct NormGradient {
  Array x, weight, bias;  // bias: layer_norm's
};
NormGradient rms_norm_gradient(In x, In weight, In dy);
NormGradient layer_norm_gradient(In x, In weight, In dy);

// ---- attention ----

/// Softmax of each row over the keys that it sees, 0 elsewhere. x [rows, keys]; `seen` has an entry for each row.
Array softmax(In x, std::int64_t keys, std::span<const KeyRange> seen);
Array softmax_gradient(In y, In dy, std::int64_t keys);

/// Queries [batch, queries, heads, group, width] and keys [batch, keys, heads, width], or [batch, keys, width] where
/// all heads share them. Scores are the sum of the products of all parts, divided by the root of the sum of their
/// widths, or of `score_width` where that is not 0.
struct ScorePart {
  In q, k;
  std::int64_t width = 1;
  bool shared_key = false;
};
/// Values v [batch, keys, heads, value_dim], or [batch, keys, value_dim] where all heads share them; o [batch, queries,
/// heads, group, value_dim]. Sinks [heads, group], or none: a logit of each head that takes part in the softmax and has
/// no value.
struct AttentionInputs {
  std::vector<ScorePart> parts;
  In v, sinks;
  bool shared_value = false;
  std::int64_t score_width = 0;
};
struct AttentionOutput {
  Array o, log_sum_exp;  // log_sum_exp [batch, queries, heads, group]
};
AttentionOutput attention(const AttentionInputs& in, const AttentionShape& shape);
struct AttentionGradient {
  std::vector<Array> q, k;  // by part
  Array v, sinks;
};
/// Probabilities are made again from log_sum_exp, as fused kernels do.
AttentionGradient attention_gradient(const AttentionInputs& in, In o, In log_sum_exp, In d_o,
                                     const AttentionShape& shape);

// ---- experts ----

/// The `chosen` largest logits of each row [experts], the first where they are equal: gate = sigmoid(logit) and mask 1
/// there, 0 elsewhere. A row with a number that is none has none.
struct Route {
  Array gate, mask;
};
Route route(In logits, std::int64_t experts, std::int64_t chosen);
Array route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen);

// ---- vocabulary: a block of rows [first, first + rows) of a table, or of columns of the logits [tokens, columns] ----

/// Rows of table [rows, width] by ids; an id outside the block gives zeros.
Array gather(In ids, In table, std::int64_t width, std::int64_t first);
/// Gradient of the block of the table.
Array gather_gradient(In ids, In dy, std::int64_t width, std::int64_t first, std::int64_t rows);

Array vocabulary_max(In logits, std::int64_t columns);
Array vocabulary_exp_sum(In logits, In largest, std::int64_t columns);
Array vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns);
/// The label's logit, 0 where the label is outside the block.
Array vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first);
Array vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first);

/// Sum over the block's tokens of (log(exp_sum) + max - picked) / all_tokens: blocks add up to the mean.
double cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens);
Array cross_entropy_gradient_exp_sum(In exp_sum, double d_loss, std::int64_t all_tokens);
Array cross_entropy_gradient_picked(std::int64_t block_tokens, double d_loss, std::int64_t all_tokens);

// ---- optimizer ----

void adam_step(const AdamStep& step, In gradient, Array& weight, Array& first_moment, Array& second_moment);

}  // namespace shardwright::reference
