#pragma once

#include <array>
#include <map>
#include <vector>

#include "kernels/host/host_operators.h"

namespace shardwright {

/// fp32 on one core: products by OpenBLAS (cpu/blas.h), attention in blocks, the rest loops that the compiler makes
/// vectors of. Each function stands in the file that has its namesake in `reference/`.
class CpuOperators final : public HostOperators {
 public:
  std::string name() const override { return "cpu"; }
  bool supports(DataType type) const override { return type == DataType::fp32; }
  Element element(DataType type) const override;

  void contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                   bool accumulate) override;

  void add_bias(const Labelled& x, const Labelled& bias, View y) override;
  void add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) override;

  void gelu(In x, View y) override;
  void gelu_gradient(In x, In dy, View dx) override;
  void silu(In x, View y) override;
  void gated_silu(In gate, In up, View y) override;
  void gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) override;
  void sigmoid_scale(In x, In scale, View y) override;
  void sigmoid_scale_gradient_x(In scale, In dy, View dx) override;
  void sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) override;
  void dropout(In x, In mask, double probability, View y) override;
  void rotary(In x, const RotaryShape& shape, View y) override;
  void rotary_gradient(In dy, const RotaryShape& shape, View dx) override;
  void residual_sum(const std::vector<In>& terms, View y) override;
  void scale_rows(In x, In scale, View y) override;

  void rms_norm(In x, In weight, View y, View normalised) override;
  void layer_norm(In x, In weight, In bias, View y) override;
  void rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override;
  void layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override;

  void softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) override;
  void softmax_gradient(In y, In dy, std::int64_t keys, View dx) override;
  void attention(const AttentionViews& in, const AttentionShape& shape, View o, View log_sum_exp) override;
  void attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& shape,
                          const AttentionGradientViews& d) override;

  void route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) override;
  void route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) override;
  void grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed, View y) override;
  void grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                    bool accumulate) override;

  void gather(In ids, In table, std::int64_t first, View y) override;
  void gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate) override;

  void vocabulary_max(In logits, std::int64_t columns, View largest) override;
  void vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials) override;
  void vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) override;
  void vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) override;
  void vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                View d_logits) override;
  void cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) override;
  void cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) override;
  void cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) override;

  void adam_step(const AdamStep& step, In gradient, View weight, View first_moment, View second_moment,
                 View copy) override;
  void square_sum(In x, View sum) override;

 private:
  const float* turns_of(const RotaryShape& shape);

  std::map<std::array<std::int64_t, 3>, std::vector<float>> turns_;  // by width, first position, length
};

}  // namespace shardwright
