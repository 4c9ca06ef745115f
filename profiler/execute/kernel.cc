#include "profiler/execute/kernel.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "planner/shard/blocks.h"

namespace shardwright {

bool is_routed(const OpGraph& graph, TensorId tensor) {
  const Tensor& t = graph.tensor(tensor);
  return t.role == TensorRole::activation && t.dims.size() > 2 && graph.dims()[t.dims[0]].name == "expert";
}

Element element_of(const Tensor& tensor, DataType compute, const Operators& operators) {
  if (tensor.role == TensorRole::index) return Element::int64;
  if (tensor.width == Width::byte) return Element::byte;
  return operators.element(tensor.width == Width::fp32 ? DataType::fp32 : compute);
}

Kernel::Kernel(const RunGraph& graph, const Operator& op, DataType compute, Operators& operators, Memory& memory,
               Mover& mover)
    : graph_(graph),
      op_(op),
      ops_(operators),
      memory_(memory),
      mover_(mover),
      compute_(compute),
      number_(operators.element(compute)),
      operands_(op.inputs.size() + op.outputs.size()),
      extent_(graph.extents),
      begin_(graph.extents.size(), 0) {}

void Kernel::place(const DimList& dims, const Placement& placement, const Mesh& mesh, std::int64_t line) {
  const auto n = block_extents(dims, graph_.extents, placement, mesh);
  const auto begin = block_begin(dims, graph_.extents, placement, mesh, line);
  for (int i = 0; i < dims.size(); ++i) {
    extent_[dims[i]] = n[static_cast<std::size_t>(i)];
    begin_[dims[i]] = begin[static_cast<std::size_t>(i)];
  }
}

std::vector<std::int64_t> Kernel::extents(const DimList& dims) const {
  std::vector<std::int64_t> result;
  for (DimId d : dims) result.push_back(extent_[d]);
  return result;
}
std::int64_t Kernel::elements(const DimList& dims) const { return product(extents(dims)); }
const DimList& Kernel::dims(std::size_t i) const {
  return i < op_.inputs.size() ? op_.inputs[i].dims : op_.outputs[i - op_.inputs.size()].dims;
}
Element Kernel::element(std::size_t i) const {
  const Operand& operand = i < op_.inputs.size() ? op_.inputs[i] : op_.outputs[i - op_.inputs.size()];
  return element_of(graph_.graph.tensor(operand.tensor), compute_, ops_);
}
Block Kernel::rows_block(const std::shared_ptr<const RowList>& list, const DimList& dims) {
  const auto n = extents(dims);
  Block block = numbers(list->count() * product({n.begin() + 3, n.end()}));
  block.rows = list;
  return block;
}

// ---- shapes ----

RotaryShape Kernel::rotary() const {
  RotaryShape s = {1, 1, 1, 1, 0};
  const DimList& x = dims(0);
  bool behind = false;
  for (int i = 0; i + 1 < x.size(); ++i) {
    if (graph_.graph.dims()[x[i]].name == "sequence") {
      s.sequence = extent_[x[i]];
      s.first_position = begin_[x[i]] + cached_;
      behind = true;
    } else {
      (behind ? s.inner : s.outer) *= extent_[x[i]];
    }
  }
  s.width = columns();
  return s;
}

std::vector<KeyRange> Kernel::keys_seen() const {
  const DimList& x = dims(0);
  const int sequence = graph_.graph.find_dim("sequence");
  const std::int64_t keys = columns();
  std::vector<KeyRange> seen(static_cast<std::size_t>(elements(x) / keys), {0, keys});
  if (sequence < 0 || !x.has(static_cast<DimId>(sequence)) ||
      graph_.graph.dims()[x[x.size() - 1]].name != "key_sequence")
    return seen;
  std::int64_t behind = 1;
  for (int i = x.find(static_cast<DimId>(sequence)) + 1; i + 1 < x.size(); ++i) behind *= extent_[x[i]];
  const auto d = static_cast<std::size_t>(sequence);
  for (std::size_t row = 0; row < seen.size(); ++row)
    seen[row] = causal_range(begin_[d] + static_cast<std::int64_t>(row) / behind % extent_[d], op_.window);
  return seen;
}

/// Inputs are query parts, key parts, values and sinks.
AttentionShape Kernel::attention_shape() const {
  const DimList &q = dims(0), &v = dims(values_at());
  AttentionShape s;
  s.batch = extent_[q[0]];
  s.queries = extent_[q[1]];
  s.keys = extent_[v[1]] + cached_;
  s.heads = extent_[q[2]];
  s.group = extent_[q[3]];
  s.value_dim = extent_[last(values_at())];
  s.first_query = begin_[q[1]] + cached_;
  s.window = op_.window;
  s.chunk = op_.chunk;
  return s;
}

AttentionViews Kernel::attention_views() const {
  AttentionViews views;
  views.v = in(values_at());
  views.shared_value = dims(values_at()).size() == 3;
  views.score_width = op_.score_width;
  for (std::size_t i = 0; i < values_at() / 2; ++i) {
    const std::size_t key = values_at() / 2 + i;
    views.parts.push_back({in(i), in(key), extent_[last(i)], dims(key).size() == 3});
  }
  if (op_.inputs.size() > values_at() + 1) views.sinks = in(values_at() + 1);
  return views;
}

std::int64_t Kernel::experts_chosen() const {
  return std::llround(static_cast<double>(graph_.extents[last(0)]) * output(0).density);
}

std::int64_t Kernel::all_tokens() const {
  std::int64_t n = 1;
  for (DimId d : op_.inputs[1].dims) n *= graph_.extents[d];
  return n;
}

// ---- rows ----

Block Kernel::gates_of(const RowList& list, In gate) {
  if (gate.element == Element::byte) return {};
  Block gates = memory_.make(list.count(), gate.element);
  if (list.count() > 0) ops_.gather(list.gate, gate, 0, gates.view);
  return gates;
}

Block Kernel::scaled(const Block& from, const RowList& list, In gate) {
  const Block gates = gates_of(list, gate);
  if (!gates || list.count() == 0) return from;
  Block y = numbers(from.view.elements);
  y.rows = from.rows;
  ops_.scale_rows(from.view, gates.view, y.view);
  return y;
}

Block Kernel::gate_gradient(const Block& a, const Block& b, const RowList& list, const DimList& gate_dims) {
  const Element wide = ops_.element(DataType::fp32);
  Block d = block(gate_dims, wide);
  if (list.count() == 0) {
    ops_.fill(d.view, 0);
    return d;
  }
  const Block products = memory_.make(list.count(), wide);
  const std::vector<std::int64_t> shape = {list.count(), a.view.elements / list.count()};
  ops_.contraction({a.view, {0, 1}, shape}, {b.view, {0, 1}, shape}, {0}, products.view);
  ops_.gather_gradient(list.gate, products.view, 0, d.view);
  return d;
}

Block Kernel::aligned(const Block& from, const std::shared_ptr<const RowList>& list) {
  if (from.rows == list || from.rows->places == list->places) return from;
  throw std::logic_error("the gradient of '" + op_.name + "' has other rows than its operand");
}

// ---- contractions ----

void Kernel::contract(Block& y) {
  const OpGraph& g = graph_.graph;
  if (!is_routed(g, op_.outputs[0].tensor)) {
    const DimList& out = op_.outputs[0].dims;
    return ops_.contraction(labelled(in(0), dims(0)), labelled(in(1), dims(1)), {out.begin(), out.end()}, y.view);
  }
  const RowList& list = *operands_[0].rows;
  if (list.count() == 0) return;
  if (g.tensor(op_.inputs[1].tensor).role == TensorRole::weight)
    return ops_.grouped_contraction(in(0), in(1), list.per_expert, false, y.view);
  ops_.scale_rows(in(0), gates_of(list, in(1)).view, y.view);
}

Block Kernel::contract_gradient(std::size_t of) {
  const OpGraph& g = graph_.graph;
  const std::size_t other = 1 - of;
  const DimList& result = dims(of);
  if (!is_routed(g, op_.outputs[0].tensor)) {
    Block d = block(result, element(of));
    ops_.contraction(labelled(dy_.view, op_.outputs[0].dims), labelled(in(other), dims(other)),
                     {result.begin(), result.end()}, d.view);
    return d;
  }
  const std::shared_ptr<const RowList>& list = dy_.rows;
  const bool weight = g.tensor(op_.inputs[1].tensor).role == TensorRole::weight;
  if (of == 0) {
    if (!weight) return scaled(dy_, *list, in(1));
    Block d = rows_block(list, result);
    if (list->count() > 0) ops_.grouped_contraction(dy_.view, in(1), list->per_expert, true, d.view);
    return d;
  }
  const Block dy = aligned(dy_, operands_[0].rows);
  if (!weight) return gate_gradient(operands_[0], dy, *list, result);
  Block d = block(result, number_);
  if (list->count() == 0)
    ops_.fill(d.view, 0);
  else
    ops_.grouped_contraction_gradient(in(0), dy.view, list->per_expert, d.view);
  return d;
}

// ---- forward ----

std::vector<Block> Kernel::forward(const std::vector<Placement>& made_at) {
  std::vector<Block> out;
  for (std::size_t i = 0; i < op_.outputs.size(); ++i) {
    if (is_routed(graph_.graph, op_.outputs[i].tensor)) {
      const auto list = op_.kind == OpKind::dispatch
                            ? mover_.rows_of_mask(graph_, op_.outputs[0].dims, made_at[0], in(0))
                            : operands_[0].rows;
      out.push_back(rows_block(list, op_.outputs[i].dims));
    } else {
      out.push_back(block(op_.outputs[i].dims, element(op_.inputs.size() + i)));
    }
  }
  Block& y = out[0];
  switch (op_.kind) {
    case OpKind::contraction:
      contract(y);
      break;
    case OpKind::dispatch:
      if (y.rows->count() > 0) ops_.gather(y.rows->token, in(1), 0, y.view);
      break;
    case OpKind::combine: {
      rows = operands_[1].rows;
      if (rows->count() == 0) {
        ops_.fill(y.view, 0);
        break;
      }
      ops_.gather_gradient(rows->token, scaled(operands_[1], *rows, in(0)).view, 0, y.view);
      break;
    }
    case OpKind::gather:
      ops_.gather(in(0), in(1), begin_[dims(1)[0]], y.view);
      break;
    case OpKind::add_bias:
      if (!y.rows) {
        ops_.add_bias(labelled(in(0), dims(0)), labelled(in(1), dims(1)), y.view);
      } else if (y.rows->count() > 0) {
        const Block biases = numbers(y.view.elements);
        ops_.gather(y.rows->expert, in(1), 0, biases.view);
        ops_.residual_sum({in(0), biases.view}, y.view);
      }
      break;
    case OpKind::cast:
      ops_.cast(in(0), y.view);
      break;
    case OpKind::rotary:
      ops_.rotary(in(0), rotary(), y.view);
      break;
    case OpKind::gelu:
      if (!y.view.empty()) ops_.gelu(in(0), y.view);
      break;
    case OpKind::gated_silu:
      if (y.view.empty()) break;
      ops_.gated_silu(in(0), in(1), y.view);
      if (out.size() > 1) ops_.silu(in(0), out[1].view);
      break;
    case OpKind::rms_norm:
      ops_.rms_norm(in(0), in(1), y.view, out.size() > 1 ? out[1].view : View{});
      if (out.size() > 2) ops_.cast(in(0), out[2].view);
      break;
    case OpKind::layer_norm:
      ops_.layer_norm(in(0), in(1), in(2), y.view);
      break;
    case OpKind::softmax:
      ops_.softmax(in(0), columns(), keys_seen(), y.view);
      break;
    case OpKind::attention:
      ops_.attention(attention_views(), attention_shape(), y.view, out[1].view);
      break;
    case OpKind::route:
      ops_.route(in(0), columns(), experts_chosen(), y.view, out[1].view);
      break;
    case OpKind::sigmoid_scale:
      ops_.sigmoid_scale(in(0), in(1), y.view);
      break;
    case OpKind::vocabulary_max:
      ops_.vocabulary_max(in(0), columns(), y.view);
      break;
    case OpKind::vocabulary_exp_sum:
      ops_.vocabulary_exp_sum(in(0), in(1), columns(), y.view, out.size() > 1 ? out[1].view : View{});
      break;
    case OpKind::vocabulary_pick:
      ops_.vocabulary_pick(in(0), in(1), columns(), begin_[last(0)], y.view);
      break;
    case OpKind::cross_entropy:
      ops_.cross_entropy(in(0), in(1), in(2), all_tokens(), y.view);
      break;
    case OpKind::dropout:
    case OpKind::residual_sum:
      throw std::logic_error("'" + op_.name + "' is no operator that is computed");
  }
  return out;
}

// ---- backward ----

std::vector<Block> Kernel::attention_backward(const Gradient& gradient) {
  const std::size_t inputs = op_.inputs.size();
  std::vector<Block> all(inputs), result;
  AttentionGradientViews d;
  for (int i : gradient.of) {
    const auto k = static_cast<std::size_t>(i);
    all[k] = block(dims(k), number_);
  }
  for (std::size_t i = 0; i < inputs; ++i) {
    if (i < values_at() / 2)
      d.q.push_back(all[i].view);
    else if (i < values_at())
      d.k.push_back(all[i].view);
    else
      (i == values_at() ? d.v : d.sinks) = all[i].view;
  }
  ops_.attention_gradient(attention_views(), in(inputs), in(inputs + 1), dy_.view, attention_shape(), d);
  for (int i : gradient.of) result.push_back(all[static_cast<std::size_t>(i)]);
  return result;
}

std::vector<Block> Kernel::backward(const Gradient& gradient) {
  const auto of = static_cast<std::size_t>(gradient.of[0]);
  const auto alike = [&] {  // as large as dy
    Block d = memory_.make(dy_.view.elements, element(of));
    d.rows = dy_.rows;
    return d;
  };
  switch (op_.kind) {
    case OpKind::contraction:
      return {contract_gradient(of)};
    case OpKind::dispatch: {
      Block d = block(dims(1), number_);
      if (dy_.rows->count() == 0)
        ops_.fill(d.view, 0);
      else
        ops_.gather_gradient(dy_.rows->token, dy_.view, 0, d.view);
      return {d};
    }
    case OpKind::combine: {
      if (!rows) throw std::logic_error("'" + op_.name + "' goes backward before it went forward");
      if (of == 0) {
        Block tokens = rows_block(rows, dims(1));
        if (rows->count() > 0) ops_.gather(rows->token, dy_.view, 0, tokens.view);
        return {gate_gradient(operands_[1], tokens, *rows, dims(0))};
      }
      Block d = rows_block(rows, dims(1));
      if (rows->count() > 0) ops_.gather(rows->token, dy_.view, 0, d.view);
      return {scaled(d, *rows, in(0))};
    }
    case OpKind::gather: {
      Block d = block(dims(1), number_);
      ops_.gather_gradient(in(0), dy_.view, begin_[dims(1)[0]], d.view);
      return {d};
    }
    case OpKind::add_bias: {
      Block d = block(dims(1), number_);
      if (!dy_.rows)
        ops_.add_bias_gradient(labelled(dy_.view, dims(0)), {dims(1).begin(), dims(1).end()}, d.view);
      else if (dy_.rows->count() == 0)
        ops_.fill(d.view, 0);
      else
        ops_.gather_gradient(dy_.rows->expert, dy_.view, 0, d.view);
      return {d};
    }
    case OpKind::cast: {
      if (dy_.view.element == element(0)) return {dy_};
      Block d = alike();
      ops_.cast(dy_.view, d.view);
      return {d};
    }
    case OpKind::rotary: {
      Block d = alike();
      ops_.rotary_gradient(dy_.view, rotary(), d.view);
      return {d};
    }
    case OpKind::gelu: {
      Block d = alike();
      if (dy_.rows) aligned(dy_, operands_[0].rows);
      if (!d.view.empty()) ops_.gelu_gradient(in(0), dy_.view, d.view);
      return {d};
    }
    case OpKind::gated_silu: {
      Block gate = alike(), up = alike();
      if (dy_.rows) aligned(dy_, operands_[0].rows);
      if (!gate.view.empty()) ops_.gated_silu_gradient(in(0), in(1), dy_.view, gate.view, up.view);
      return {gate, up};
    }
    case OpKind::rms_norm:
    case OpKind::layer_norm: {
      const In x = in(op_.outputs.size() > 1 ? 4 : 0);  // written out it keeps x in fp32
      std::vector<Block> d = {alike(), block(dims(1), number_)};
      if (op_.kind == OpKind::rms_norm) {
        ops_.rms_norm_gradient(x, in(1), dy_.view, {d[0].view, d[1].view, {}});
      } else {
        d.push_back(block(dims(2), number_));
        ops_.layer_norm_gradient(x, in(1), dy_.view, {d[0].view, d[1].view, d[2].view});
      }
      return d;
    }
    case OpKind::softmax: {
      Block d = alike();
      ops_.softmax_gradient(in(1), dy_.view, columns(), d.view);
      return {d};
    }
    case OpKind::attention:
      return attention_backward(gradient);
    case OpKind::route: {
      Block d = alike();
      ops_.route_gradient(in(0), dy_.view, columns(), experts_chosen(), d.view);
      return {d};
    }
    case OpKind::sigmoid_scale: {
      Block d = block(dims(of), element(of));
      if (of == 0)
        ops_.sigmoid_scale_gradient_x(in(1), dy_.view, d.view);
      else
        ops_.sigmoid_scale_gradient_scale(in(0), in(1), dy_.view, d.view);
      return {d};
    }
    case OpKind::vocabulary_exp_sum: {
      Block d = block(dims(0), element(0));
      if (op_.outputs.size() > 1)
        ops_.scale_rows(in(3), dy_.view, d.view);
      else
        ops_.vocabulary_exp_sum_gradient(in(0), in(1), dy_.view, columns(), d.view);
      return {d};
    }
    case OpKind::vocabulary_pick: {
      Block d = dy_;
      d.one_hot = std::make_shared<const OneHot>(OneHot{operands_[1], columns(), begin_[last(0)]});
      return {d};
    }
    case OpKind::cross_entropy: {
      Block d = block(dims(of), element(of));
      if (of == 1)
        ops_.cross_entropy_gradient_exp_sum(in(1), dy_.view, all_tokens(), d.view);
      else
        ops_.cross_entropy_gradient_picked(dy_.view, all_tokens(), d.view);
      return {d};
    }
    case OpKind::dropout:
    case OpKind::residual_sum:
    case OpKind::vocabulary_max:
      break;
  }
  throw std::logic_error("'" + op_.name + "' has no gradient that is computed");
}

}  // namespace shardwright
