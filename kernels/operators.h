#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hardware/data_type.h"
#include "kernels/shapes.h"
#include "kernels/view.h"

namespace shardwright {

/// An array whose dimensions carry labels. Equal labels are the same dimension.
struct Labelled {
  In data;
  std::vector<int> labels;
  std::vector<std::int64_t> extents;
};

/// Where a rank's block lies in a whole array.
struct BlockPlace {
  std::vector<std::int64_t> extents, begin, whole;  // by dimension
};

/// Every k-th number along each dimension, from `view`'s first on: a box inside a larger array.
struct Strided {
  View view;
  std::vector<std::int64_t> strides;  // in elements
};

/// One part of attention's scores: queries [batch, queries, heads, group, width] and keys [batch, keys, heads, width],
/// or [batch, keys, width] where all heads share them.
struct ScoreViews {
  In q, k;
  std::int64_t width = 1;
  bool shared_key = false;
};
/// As reference::AttentionInputs. `sinks` may be empty.
struct AttentionViews {
  std::vector<ScoreViews> parts;
  In v, sinks;
  bool shared_value = false;
  std::int64_t score_width = 0;
};
/// As reference::AttentionGradient: by part, each view of its input's size; what is empty is not wanted.
struct AttentionGradientViews {
  std::vector<View> q, k;
  View v, sinks;
};
struct NormGradientViews {
  View x, weight, bias;  // bias: layer_norm's; what is empty is not wanted
};

/// The operators of the graph, as one device computes them. What each computes stands in kernels/reference/reference.h
/// under its name; the graph's kinds in models/op_graph.h. Results are written into buffers that the caller gives,
/// which lie in memory of allocate(), are dense and row-major, of the sizes that follow from the inputs, and none of
/// which is an input, too (but for what says that it may). Numbers are of element(type) for the type that is computed
/// in, ids int64, masks bytes.
///
/// A call may return before its work is done; calls run in their order, and synchronize() waits for all. An object
/// belongs to one thread. Throws std::invalid_argument for elements that the backend has not.
class Operators {
 public:
  virtual ~Operators() = default;

  virtual std::string name() const = 0;  // "reference", "cpu", "cuda"

  // ---- memory ----

  virtual bool supports(DataType type) const = 0;
  /// How a number of that type is stored: fp32 as fp32, bf16 as bf16. The reference stores all in fp64.
  virtual Element element(DataType type) const = 0;
  /// Uninitialised; freed with the last copy of the pointer.
  virtual std::shared_ptr<void> allocate(Bytes size) = 0;
  virtual void upload(std::span<const double> from, View to) = 0;
  virtual std::vector<double> download(In from) = 0;  // waits
  virtual void synchronize() = 0;

  virtual void fill(View to, double value) = 0;
  /// Numbers of a normal distribution around 0, the same for an element of the whole array wherever it lies.
  virtual void fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) = 0;
  /// The same numbers in another format; of the same one, a copy.
  virtual void cast(In from, View to) = 0;
  /// A box of `extents`, between places of different strides, as pieces of a collective are packed.
  virtual void copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) = 0;

  // ---- contraction ----

  /// out[out_labels] = sum over the labels that out lacks of a * b, added to what is there if `accumulate`.
  virtual void contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                           bool accumulate = false) = 0;

  // ---- pointwise ----

  virtual void add_bias(const Labelled& x, const Labelled& bias, View y) = 0;
  virtual void add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) = 0;

  virtual void gelu(In x, View y) = 0;
  virtual void gelu_gradient(In x, In dy, View dx) = 0;
  virtual void silu(In x, View y) = 0;
  virtual void gated_silu(In gate, In up, View y) = 0;
  virtual void gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) = 0;
  virtual void sigmoid_scale(In x, In scale, View y) = 0;
  virtual void sigmoid_scale_gradient_x(In scale, In dy, View dx) = 0;
  virtual void sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) = 0;
  /// 0 with the probability, else 1; the same for an element of the whole array wherever it lies.
  virtual void dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) = 0;
  virtual void dropout(In x, In mask, double probability, View y) = 0;
  virtual void rotary(In x, const RotaryShape& shape, View y) = 0;
  virtual void rotary_gradient(In dy, const RotaryShape& shape, View dx) = 0;
  /// Sum of the terms, of which one may be `y` itself.
  virtual void residual_sum(const std::vector<In>& terms, View y) = 0;
  /// x [rows, width] times a number for each row.
  virtual void scale_rows(In x, In scale, View y) = 0;

  // ---- norms ----

  /// `normalised`, if wanted: x before the weight.
  virtual void rms_norm(In x, In weight, View y, View normalised = {}) = 0;
  virtual void layer_norm(In x, In weight, In bias, View y) = 0;
  virtual void rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) = 0;
  virtual void layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) = 0;

  // ---- attention ----

  virtual void softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) = 0;
  virtual void softmax_gradient(In y, In dy, std::int64_t keys, View dx) = 0;
  /// Queries of a shape that is not causal see all keys.
  virtual void attention(const AttentionViews& in, const AttentionShape& shape, View o, View log_sum_exp) = 0;
  virtual void attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& shape,
                                  const AttentionGradientViews& d) = 0;

  // ---- experts ----

  virtual void route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) = 0;
  virtual void route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) = 0;
  /// Of mask [tokens, experts]: how many tokens each expert has, and which, expert after expert. Waits.
  virtual std::vector<std::int64_t> rows_per_expert(In mask, std::int64_t experts) = 0;
  virtual void expert_rows(In mask, std::int64_t experts, View token_of_row) = 0;
  /// y [rows, n] = x [rows, k] times the matrix [k, n] of the row's group: the first rows_per_group[0] rows are group
  /// 0's. `b` [groups, k, n], or [groups, n, k] if transposed.
  virtual void grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed,
                                   View y) = 0;
  /// d_b [groups, k, n]: of each group x^T dy.
  virtual void grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                            bool accumulate = false) = 0;

  // ---- rows: gather and its gradient; dispatch and combine of experts' rows ----

  /// Row ids[i] - first of the table, 0 where that is outside. Rows are y.elements / ids.elements wide.
  virtual void gather(In ids, In table, std::int64_t first, View y) = 0;
  /// Adds row i of dy to row ids[i] - first of `d_table`, which is set to 0 before unless `accumulate`.
  virtual void gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate = false) = 0;

  // ---- vocabulary ----

  virtual void vocabulary_max(In logits, std::int64_t columns, View largest) = 0;
  /// `exponentials`, if wanted: exp(logit - max), the size of the logits. May be the logits themselves.
  virtual void vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials = {}) = 0;
  virtual void vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) = 0;
  virtual void vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) = 0;
  virtual void vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                        View d_logits) = 0;
  virtual void cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) = 0;
  /// `d_loss` has one number.
  virtual void cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) = 0;
  virtual void cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) = 0;

  // ---- optimizer ----

  /// `copy`, if not empty: the new weights in the format that is computed in.
  virtual void adam_step(const AdamStep& step, In gradient, View weight, View first_moment, View second_moment,
                         View copy = {}) = 0;
  virtual void square_sum(In x, View sum) = 0;
};

}  // namespace shardwright
