#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace shardwright {

using DimId = std::uint8_t;
using TensorId = std::int16_t;
using OpId = std::int16_t;

/// At most 7 dimensions in order, inline: graphs are walked for every layout of a search.
struct DimList {
  static constexpr int kMax = 7;
  std::uint8_t count = 0;
  DimId dims[kMax] = {};

  constexpr DimList() = default;
  constexpr DimList(std::initializer_list<DimId> list) {
    for (DimId d : list) dims[count++] = d;
  }
  constexpr int size() const { return count; }
  constexpr DimId operator[](int i) const { return dims[i]; }
  constexpr const DimId* begin() const { return dims; }
  constexpr const DimId* end() const { return dims + count; }
  constexpr int find(DimId d) const {
    for (int i = 0; i < count; ++i)
      if (dims[i] == d) return i;
    return -1;
  }
  constexpr bool has(DimId d) const { return find(d) >= 0; }
  constexpr bool operator==(const DimList&) const = default;
};

/// A named dimension and its whole extent, before any sharding.
struct Dim {
  std::string name;
  std::int64_t extent = 0;
};

enum class TensorRole : std::uint8_t {
  activation,  ///< made by an operator, or the residual stream that enters the graph
  weight,
  index,  ///< integers from outside (token ids, labels): no gradient
};

/// How wide one element is stored; bytes follow from the run's number formats.
enum class Width : std::uint8_t { compute, fp32, byte };

/// How partial values of a tensor combine.
enum class Combine : std::uint8_t { sum, max };

struct Tensor {
  std::string name;
  DimList dims;
  TensorRole role = TensorRole::activation;
  Width width = Width::compute;
  Combine combine = Combine::sum;
  double density = 1;          ///< share of the extents' product that exists: k/E for rows routed to experts
  bool stream = false;         ///< the residual stream: moved to where the stream is placed as soon as it is made
  bool inside_kernel = false;  ///< its operator and the one that reads it run as one kernel: it is never in memory
};

/// What an operator computes. The derivation of collectives never looks at it, only at the declared rule beside it;
/// kernels and their costs do.
enum class OpKind : std::uint8_t {
  contraction,  ///< out = sum over the dims that out lacks of a * b
  gather,       ///< rows of a table [v, h] by ids [...]: a contraction of a one-hot with v
  add_bias,     ///< x + bias, the bias lacking leading dims
  cast,         ///< the same numbers, stored wider
  rotary,       ///< rotation of head_dim by position
  gelu,
  gated_silu,          ///< silu(a) * b [-> and silu(a)]
  dropout,             ///< outputs: dropped, mask
  rms_norm,            ///< x, weight [-> and x before the weight, and x in fp32]
  layer_norm,          ///< x, weight, bias
  softmax,             ///< over the dim that is whole
  route,               ///< logits over experts -> gate and mask of the top k
  dispatch,            ///< mask, tokens -> rows, one for each chosen expert: an outer product with a sparse mask
  combine,             ///< gate, rows -> tokens: the sum over experts of gate * row
  sigmoid_scale,       ///< x * sigmoid(scale), the scale lacking dims
  attention,           ///< fused softmax attention: query parts, key parts, v [, sinks] -> o, log-sum-exp
  residual_sum,        ///< x + every other input
  vocabulary_max,      ///< logits -> largest a token
  vocabulary_exp_sum,  ///< logits, max -> sum of exp(logit - max) [and exp(logit - max)]
  vocabulary_pick,     ///< logits, labels -> the label's logit
  cross_entropy,       ///< max, exp_sum, picked -> loss, the mean over all tokens
};
std::string_view name_of(OpKind);

/// A tensor as an operator sees it: `dims` are the tensor's, position by position, under the names that the operator
/// uses (keys have `sequence` outside the attention core and `key_sequence` inside). One operator may have a tensor as
/// two operands, each under names of its own (a latent that is keys and values).
struct Operand {
  TensorId tensor = -1;
  DimList dims;
};

/// One backward computation of an operator: from the gradient of outputs[0], and from what it reads of the forward
/// pass, to the gradient of some inputs.
struct Gradient {
  std::vector<int> of = {};     ///< indices into Operator::inputs
  std::vector<int> reads = {};  ///< forward operands: 0.. are inputs, inputs.size().. are outputs
  bool identity = false;        ///< the output's gradient passes to every input of `of` unchanged; nothing is computed
  bool one_hot = false;         ///< at most one element for each element of the output is not zero: stored and added so
  bool in_place = false;        ///< its result takes the place of a tensor of that size that nothing reads later
};

/// Names of the parts of a layer that can be recomputed as one, Megatron's where it has one.
enum class Region : std::uint8_t { none, layernorm, core_attn, mlp, mla_up_proj, moe, moe_act, shared_experts };

struct Operator {
  OpKind kind = OpKind::contraction;
  std::string name;
  Region region = Region::none;
  std::vector<Operand> inputs, outputs;
  DimList whole;                ///< dims that may not be sharded here (a norm's, the key sequence of attention)
  bool on_stream = false;       ///< works where the residual stream is placed, not where its inputs come from
  bool passes_partial = false;  ///< declared linear: partial sums may pass through unresolved
  bool in_place = false;        ///< a result takes the place of an input of that size that nothing reads later
  bool written_out = false;  ///< runs as a chain of elementwise kernels, as without fusion (planner/cost/written_out.h)
  bool on_fp32_copy = false;  ///< written_out: of a norm, one kernel, but it reads a copy in fp32
  bool epilogue = false;  ///< forward in the kernel whose result it takes or in the next one: moves nothing of its own
  std::uint8_t resolved = 0;  ///< inputs, a bit each, in which it is not linear even so
  std::vector<Gradient> gradients;
  int score_parts = 1;           ///< attention: scores are the sum of so many products of a query and a key part
  std::int64_t score_width = 0;  ///< attention: scores are divided by the root of this, 0 = of their queries' width
  std::int64_t window = 0;       ///< attention: keys that a query sees, 0 = all before it
  std::int64_t chunk = 0;        ///< attention: sequences are cut into chunks that do not see each other, 0 = whole
};

/// A directed acyclic graph of operators with named dimensions, in an order in which it can run.
class OpGraph {
 public:
  DimId add_dim(std::string name, std::int64_t extent);
  TensorId add_tensor(Tensor tensor);
  OpId add_op(Operator op);

  const std::vector<Dim>& dims() const { return dims_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<Operator>& ops() const { return ops_; }
  const Tensor& tensor(TensorId id) const { return tensors_[static_cast<std::size_t>(id)]; }
  const Operator& op(OpId id) const { return ops_[static_cast<std::size_t>(id)]; }

  /// -1 when there is none.
  int find_dim(std::string_view name) const;
  TensorId find_tensor(std::string_view name) const;

  std::vector<std::int64_t> extents() const;

  /// Declares `tensor` to be the residual stream.
  void mark_stream(TensorId id) { tensors_[static_cast<std::size_t>(id)].stream = true; }

  /// Declares that the operator which makes `tensor` is one kernel with the one that reads it.
  void mark_inside_kernel(TensorId id) { tensors_[static_cast<std::size_t>(id)].inside_kernel = true; }

  void set_density(TensorId id, double density) { tensors_[static_cast<std::size_t>(id)].density = density; }

  /// The residual stream where it enters and leaves; -1 where the graph begins (embedding) or ends (loss).
  TensorId stream_in = -1, stream_out = -1;
  /// Scalars whose sum is minimised; a graph without them is differentiated from stream_out.
  std::vector<TensorId> losses;

  /// Elements of all weights, whole.
  std::int64_t weight_elements() const;

 private:
  std::vector<Dim> dims_;
  std::vector<Tensor> tensors_;
  std::vector<Operator> ops_;
};

}  // namespace shardwright
