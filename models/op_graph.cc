#include "models/op_graph.h"

#include <cassert>

namespace shardwright {

std::string_view name_of(OpKind kind) {
  switch (kind) {
    case OpKind::contraction:
      return "contraction";
    case OpKind::gather:
      return "gather";
    case OpKind::add_bias:
      return "add_bias";
    case OpKind::cast:
      return "cast";
    case OpKind::rotary:
      return "rotary";
    case OpKind::gelu:
      return "gelu";
    case OpKind::gated_silu:
      return "gated_silu";
    case OpKind::dropout:
      return "dropout";
    case OpKind::rms_norm:
      return "rms_norm";
    case OpKind::layer_norm:
      return "layer_norm";
    case OpKind::softmax:
      return "softmax";
    case OpKind::route:
      return "route";
    case OpKind::dispatch:
      return "dispatch";
    case OpKind::combine:
      return "combine";
    case OpKind::sigmoid_scale:
      return "sigmoid_scale";
    case OpKind::attention:
      return "attention";
    case OpKind::residual_sum:
      return "residual_sum";
    case OpKind::vocabulary_max:
      return "vocabulary_max";
    case OpKind::vocabulary_exp_sum:
      return "vocabulary_exp_sum";
    case OpKind::vocabulary_pick:
      return "vocabulary_pick";
    case OpKind::cross_entropy:
      return "cross_entropy";
  }
  return "";
}

DimId OpGraph::add_dim(std::string name, std::int64_t extent) {
  assert(find_dim(name) < 0 && "a dimension is added once");
  dims_.push_back({std::move(name), extent});
  return static_cast<DimId>(dims_.size() - 1);
}

TensorId OpGraph::add_tensor(Tensor tensor) {
  tensors_.push_back(std::move(tensor));
  return static_cast<TensorId>(tensors_.size() - 1);
}

OpId OpGraph::add_op(Operator op) {
  for ([[maybe_unused]] const auto* operands : {&op.inputs, &op.outputs})
    for ([[maybe_unused]] const Operand& o : *operands)
      assert(o.dims.size() == tensor(o.tensor).dims.size() && "an operand names every dimension of its tensor");
  ops_.push_back(std::move(op));
  return static_cast<OpId>(ops_.size() - 1);
}

int OpGraph::find_dim(std::string_view name) const {
  for (std::size_t i = 0; i < dims_.size(); ++i)
    if (dims_[i].name == name) return static_cast<int>(i);
  return -1;
}

TensorId OpGraph::find_tensor(std::string_view name) const {
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (tensors_[i].name == name) return static_cast<TensorId>(i);
  return -1;
}

std::vector<std::int64_t> OpGraph::extents() const {
  std::vector<std::int64_t> result;
  for (const Dim& d : dims_) result.push_back(d.extent);
  return result;
}

std::int64_t OpGraph::weight_elements() const {
  std::int64_t total = 0;
  for (const Tensor& t : tensors_) {
    if (t.role != TensorRole::weight) continue;
    std::int64_t n = 1;
    for (DimId d : t.dims) n *= dims_[d].extent;
    total += n;
  }
  return total;
}

}  // namespace shardwright
