#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "profiler/execute/block.h"
#include "profiler/execute/mover.h"
#include "profiler/execute/programme.h"

namespace shardwright {

/// Whether a tensor is [expert, batch, sequence, ...]: rows, of which only the chosen ones exist.
bool is_routed(const OpGraph& graph, TensorId tensor);

/// How a value of that tensor is stored where the rest is computed in a format.
Element element_of(const Tensor& tensor, DataType compute, const Operators& operators);

/// One operator of a graph on one rank's blocks, forward or one of its gradients: what the backend is asked for.
class Kernel {
 public:
  /// `compute`: the format of what the graph does not want in another.
  Kernel(const RunGraph& graph, const Operator& op, DataType compute, Operators& operators, Memory& memory,
         Mover& mover);

  /// Where an operand, a result or a gradient lies: its dims under the operator's names.
  void place(const DimList& dims, const Placement& placement, const Mesh& mesh, std::int64_t line);
  /// The sequence's tokens lie behind `cached` ones, whose keys and values are among attention's.
  void behind(std::int64_t cached) { cached_ = cached; }
  void give(std::size_t operand, Block block) { operands_[operand] = std::move(block); }
  void give_gradient(Block dy) { dy_ = std::move(dy); }

  /// What combine's backward has to know of its forward: the rows that came.
  std::shared_ptr<const RowList> rows;

  /// Of every output. `made_at`: where the outputs lie.
  std::vector<Block> forward(const std::vector<Placement>& made_at);
  /// Of the inputs in Gradient::of, in their order.
  std::vector<Block> backward(const Gradient& gradient);

 private:
  std::vector<std::int64_t> extents(const DimList& dims) const;
  std::int64_t elements(const DimList& dims) const;
  Labelled labelled(In data, const DimList& dims) const { return {data, {dims.begin(), dims.end()}, extents(dims)}; }
  const DimList& dims(std::size_t i) const;
  /// How the numbers of an operand or result are stored, and so its gradient.
  Element element(std::size_t i) const;
  DimId last(std::size_t i) const { return dims(i)[dims(i).size() - 1]; }
  std::int64_t columns() const { return extent_[last(0)]; }
  In in(std::size_t i) const { return operands_[i].view; }
  const Tensor& output(std::size_t i) const { return graph_.graph.tensor(op_.outputs[i].tensor); }
  Block block(const DimList& dims, Element element) { return memory_.make(elements(dims), element); }
  Block rows_block(const std::shared_ptr<const RowList>& list, const DimList& dims);
  Block numbers(std::int64_t count) { return memory_.make(count, number_); }

  RotaryShape rotary() const;
  std::vector<KeyRange> keys_seen() const;
  std::size_t values_at() const { return 2 * static_cast<std::size_t>(op_.score_parts); }
  AttentionShape attention_shape() const;
  AttentionViews attention_views() const;
  std::int64_t experts_chosen() const;
  std::int64_t all_tokens() const;

  void contract(Block& y);
  Block contract_gradient(std::size_t of);
  /// Gates of the rows of a list, from a block [tokens, experts]; nothing for a mask, whose gates are 1.
  Block gates_of(const RowList& list, In gate);
  Block scaled(const Block& rows_in, const RowList& list, In gate);
  /// For each row the product of two, put where the gate of the row is.
  Block gate_gradient(const Block& a, const Block& b, const RowList& list, const DimList& gate_dims);
  std::vector<Block> attention_backward(const Gradient& gradient);
  /// A block of `dy_` whose rows are those of `list`: rows that it lacks are 0.
  Block aligned(const Block& from, const std::shared_ptr<const RowList>& list);

  const RunGraph& graph_;
  const Operator& op_;
  Operators& ops_;
  Memory& memory_;
  Mover& mover_;
  DataType compute_;
  Element number_;
  std::int64_t cached_ = 0;
  std::vector<Block> operands_;  // inputs, then outputs
  Block dy_;
  std::vector<std::int64_t> extent_, begin_;  // by dim
};

}  // namespace shardwright
