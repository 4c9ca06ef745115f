#pragma once

#include <map>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/cuda/library_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/host/folding.h"
#include "kernels/operators.h"

namespace shardwright {

/// fp32, fp16 and bf16 on one GPU: products by cuBLASLt, the rest kernels of our own. Each function stands in the file
/// that has its namesake in `reference/`. Kernels compute in fp32, and their large operands are of one format;
/// statistics of rows, masks, sums of gradients and the optimizer's numbers may be of another. What reads a list of the
/// host (softmax's ranges), or gives one back, waits.
///
/// Sums are made in an order that depends on sizes and the GPU alone, but for gather_gradient, which adds rows of the
/// same id in any order.
class CudaOperators final : public Operators {
 public:
  /// `tf32`: products of fp32 by tensor cores, which round operands to 10 bits. `own_attention`: never by cuDNN.
  explicit CudaOperators(int device = 0, bool tf32 = false, bool own_attention = false)
      : device_(device), matmul_(device_), library_attention_(device_), tf32_(tf32), own_attention_(own_attention) {}

  std::string name() const override { return "cuda"; }
  cuda::Device& device() { return device_; }
  /// Who computed the last attention, or its gradients: "cuDNN 9.19.0", or "shardwright cuda" and, where cuDNN was
  /// asked before, its reason. "" before the first.
  const std::string& attention_by() const { return attention_by_; }

  bool supports(DataType type) const override;
  Element element(DataType type) const override;
  std::shared_ptr<void> allocate(Bytes size) override { return device_.allocate(size); }
  void upload(std::span<const double> from, View to) override;
  std::vector<double> download(In from) override;
  void synchronize() override { device_.synchronize(); }
  void fill(View to, double value) override;
  void fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) override;
  void cast(In from, View to) override;
  void copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) override;

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
  void dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) override;
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
  std::vector<std::int64_t> rows_per_expert(In mask, std::int64_t experts) override;
  void expert_rows(In mask, std::int64_t experts, View token_of_row) override;
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
  /// out = the sum of a * b over the loops, or out + that; a missing b (no data) is 1.
  void contract(In a, In b, View out, const std::vector<Loop>& loops, bool accumulate);
  void contract_by_products(In a, In b, View out, const Folding& folding, bool accumulate);
  void contract_by_loops(In a, In b, View out, const Folding& folding, bool accumulate);
  /// Sums of the columns of x [rows, width].
  void column_sums(In x, std::int64_t width, View sums);
  void turn(In x, const RotaryShape& shape, float direction, View y);
  /// y = x times a number for each row, or its sigmoid.
  void multiply_rows(In x, In scale, bool sigmoid, View y);
  void norm(In x, In weight, In bias, bool centred, View y, View normalised);
  void norm_gradient(In x, In weight, In dy, bool centred, const NormGradientViews& d);
  struct AttentionPiece;
  /// Whether cuDNN did it.
  bool attention_by_library(const AttentionViews& in, const AttentionShape& shape, In o, In log_sum_exp, In d_o,
                            const AttentionGradientViews& d);
  void make_scores(const AttentionViews& in, const AttentionShape& shape, const AttentionPiece& piece, View scores);
  void choose(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View gate, View mask, View d_logits);
  cuda::Device device_;
  cuda::Matmul matmul_;
  cuda::LibraryAttention library_attention_;
  bool tf32_, own_attention_;
  std::string attention_by_;
  std::map<std::int64_t, std::shared_ptr<void>> rotary_frequencies_;  // by width
};

}  // namespace shardwright
