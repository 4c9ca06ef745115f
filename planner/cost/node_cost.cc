#include "planner/cost/node_cost.h"

#include <algorithm>
#include <boost/container/static_vector.hpp>
#include <cassert>
#include <cmath>
#include <type_traits>

#include "planner/cost/collective_cost.h"
#include "planner/cost/written_out.h"

namespace shardwright {
namespace {

std::size_t place_of(const ShardedGraph& sharded, const Node& node) {
  return static_cast<std::size_t>(&node - sharded.nodes.data());
}

std::optional<MadeTogether> found_here(const CostContext& context, const ShardedGraph& sharded) {
  if (context.made_together) return std::nullopt;
  return MadeTogether(context.graph, sharded, context.merges_products);
}

std::size_t addends_of(const CostContext& context, const ShardedGraph& sharded, const Node& sum) {
  if (context.made_together) return context.made_together->addends[place_of(sharded, sum)];
  return addends(context.graph, sharded, sum, context.merges_products);
}

/// Dims of one tensor in an operator's names, with what one rank holds of each.
struct Seen {
  DimList dims;
  const Placement* placement = nullptr;
};

class Shapes {
 public:
  Shapes(const CostContext& context, const ShardedGraph& sharded) : c_(context), s_(sharded) {}

  std::int64_t local(const Seen& seen, int position) const {
    return c_.extents[seen.dims[position]] / c_.mesh.size_of(seen.placement->dims[position]);
  }
  Seen seen(const Operand& operand, ValueId value) const { return {operand.dims, &s_.value(value).placement}; }

 private:
  const CostContext& c_;
  const ShardedGraph& s_;
};

/// The three tensors of a product: a[..] * b[..] -> out[..]. A dimension in a and out is a row of the result, in b and
/// out a column, in a and b the sum, in all three the batch. `share`: of the tokens, those that a routed expert sees;
/// tokens are the rows, or the sum where the result is a weight.
GemmSpec product(const Shapes& shapes, const Seen& a, const Seen& b, const Seen& out, DataType type, double share,
                 bool makes_weight) {
  GemmSpec gemm;
  gemm.type = type;
  for (int i = 0; i < a.dims.size(); ++i) {
    const DimId d = a.dims[i];
    const bool in_b = b.dims.has(d), in_out = out.dims.has(d);
    const std::int64_t n = shapes.local(a, i);
    (in_b ? (in_out ? gemm.batch : gemm.k) : gemm.m) *= n;
  }
  for (int i = 0; i < b.dims.size(); ++i)
    if (!a.dims.has(b.dims[i])) gemm.n *= shapes.local(b, i);
  if (share != 1) {
    std::int64_t& tokens = makes_weight ? gemm.k : gemm.m;
    tokens = static_cast<std::int64_t>(std::ceil(static_cast<double>(tokens) * share));
  }
  return gemm;
}

bool is_written_out(const CostContext& context, const Node& node) {
  return node.kind == Node::Kind::compute && context.graph.op(node.op).written_out;
}

/// One of the kernels of a chain, the mean of them all.
MemorySpec mean_kernel(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Operator& op = context.graph.op(node.op);
  const bool backward = node.gradient >= 0;
  const WrittenOut chain = written_out(op, backward);
  const Value& passed = sharded.value(backward ? node.inputs[0] : node.outputs[0]);
  const double narrow = static_cast<double>(bytes_of(context.graph, passed, context.formats).value);
  const double moved = chain.narrow * narrow + chain.wide * 4.0 * static_cast<double>(passed.elements);
  return {{static_cast<std::int64_t>(std::ceil(moved / chain.kernels))}};
}

/// What an operator that only streams memory computes, as it is measured where it is measured by itself.
MemoryPass pass_of(OpKind kind, bool backward) {
  switch (kind) {
    case OpKind::add_bias:
      return backward ? MemoryPass::add_bias_gradient : MemoryPass::add_bias;
    case OpKind::rms_norm:
      return backward ? MemoryPass::rms_norm_gradient : MemoryPass::rms_norm;
    case OpKind::layer_norm:
      return backward ? MemoryPass::layer_norm_gradient : MemoryPass::layer_norm;
    case OpKind::gelu:
      return backward ? MemoryPass::gelu_gradient : MemoryPass::gelu;
    case OpKind::gated_silu:
      return backward ? MemoryPass::gated_silu_gradient : MemoryPass::gated_silu;
    case OpKind::rotary:
      return MemoryPass::rotary;
    case OpKind::vocabulary_max:
      return MemoryPass::vocabulary_max;
    case OpKind::vocabulary_exp_sum:
      return backward ? MemoryPass::vocabulary_exp_sum_gradient : MemoryPass::vocabulary_exp_sum;
    case OpKind::gather:
    case OpKind::dispatch:
      return backward ? MemoryPass::gather_gradient : MemoryPass::gather;
    case OpKind::combine:
      return backward ? MemoryPass::gather : MemoryPass::gather_gradient;
    default:
      return MemoryPass::stream;
  }
}

/// What it moves, and what it does with it where the engine's kernels are this program's: those touch of the logits no
/// more than the labels', and add to them in their place.
MemorySpec own_pass(const CostContext& context, const ShardedGraph& sharded, const Node& node, Bytes moved) {
  if (node.kind == Node::Kind::sum) {
    for (ValueId v : node.inputs)
      if (sharded.value(v).one_hot) moved = 3 * bytes_of(context.graph, sharded.value(v), context.formats);
    return {moved, MemoryPass::sum};
  }
  const OpKind kind = context.graph.op(node.op).kind;
  const bool backward = node.gradient >= 0;
  if (kind == OpKind::vocabulary_pick && !backward)
    moved = 3 * bytes_of(context.graph, sharded.value(node.outputs[0]), context.formats);
  return {moved, pass_of(kind, backward)};
}

MemorySpec streaming(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  if (is_written_out(context, node)) return mean_kernel(context, sharded, node);
  Bytes moved;
  const auto add = [&](ValueId id) {
    const Value& v = sharded.value(id);
    if (v.gradient || !context.graph.tensor(v.tensor).inside_kernel)
      moved += bytes_of(context.graph, v, context.formats);
  };
  std::for_each(node.inputs.begin(), node.inputs.end(), add);
  // Megatron-LM's causal softmax reads the triangle, but writes the square, backward too (fused_kernels/
  // scaled_upper_triang_masked_softmax.h).
  const bool is_softmax = node.kind == Node::Kind::compute && context.graph.op(node.op).kind == OpKind::softmax;
  if (is_softmax && !context.own_kernels) moved = {moved.value / 2};
  if (node.kind == Node::Kind::sum) {  // its inputs are of one size
    const auto read = static_cast<std::int64_t>(node.inputs.size());
    moved = {moved.value / read * static_cast<std::int64_t>(addends_of(context, sharded, node))};
  }
  std::for_each(node.outputs.begin(), node.outputs.end(), add);
  if (context.own_kernels) return own_pass(context, sharded, node, moved);
  return {moved};
}

/// The rows that a gather reads are those it writes; its gradient reads the output's gradient and adds it to as many
/// rows.
MemorySpec gather_rows(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const ValueId rows = node.gradient < 0 ? node.outputs[0] : node.inputs[0];
  const std::int64_t passes = node.gradient < 0 ? 2 : 3;
  const Bytes moved = passes * bytes_of(context.graph, sharded.value(rows), context.formats);
  if (!context.own_kernels) return {moved};
  return {moved, node.gradient < 0 ? MemoryPass::gather : MemoryPass::gather_gradient};
}

/// Query parts [batch, sequence, kv_head, query_in_group, width], key parts and values [batch, key_sequence, (kv_head,)
/// width]. Values without heads are a latent's, as are then the keys: all heads read the same.
AttentionSpec attention(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Operator& op = context.graph.op(node.op);
  const Shapes shapes(context, sharded);
  const bool backward = node.gradient >= 0;
  const auto input = [&](int i) {
    return shapes.seen(op.inputs[static_cast<std::size_t>(i)], node.inputs[static_cast<std::size_t>(i + backward)]);
  };
  const Seen q = input(0), k = input(op.score_parts), v = input(2 * op.score_parts);
  AttentionSpec spec;
  spec.batch = shapes.local(q, 0);
  spec.query_length = shapes.local(q, 1);
  spec.heads = shapes.local(q, 2) * shapes.local(q, 3);
  spec.kv_heads = v.dims.has(q.dims[2]) ? shapes.local(q, 2) : 1;
  spec.head_dim = 0;
  for (int part = 0; part < op.score_parts; ++part) spec.head_dim += shapes.local(input(part), 4);
  spec.key_length = shapes.local(k, 1);  // in a ring: of one of its blocks
  spec.value_dim = shapes.local(v, v.dims.size() - 1);
  spec.values_in_keys = op.inputs[static_cast<std::size_t>(2 * op.score_parts)].tensor ==
                        op.inputs[static_cast<std::size_t>(op.score_parts)].tensor;
  // What a query sees of all keys it sees evenly of the blocks of a ring.
  const auto of_block = [&](std::int64_t keys) {
    return keys == 0 ? 0 : std::max<std::int64_t>(1, keys / context.mesh.size_of(node.ring));
  };
  spec.window = of_block(op.window);
  if (const std::int64_t chunk = of_block(op.chunk); chunk > 0 && chunk < spec.key_length) {
    // Chunks are sequences of their own.
    const std::int64_t chunks = spec.key_length / chunk;
    spec.batch *= chunks;
    spec.query_length = std::max<std::int64_t>(1, spec.query_length / chunks);
    spec.key_length = chunk;
  }
  spec.backward = backward;
  const DataType type = context.formats.compute;
  spec.type = type == DataType::fp8 || type == DataType::mxfp8 || type == DataType::nvfp4 ? DataType::bf16 : type;
  return spec;
}

/// What a product whose result is a weight's gradient does to the accumulated one.
GemmSpec summed(const CostContext& context, GemmSpec gemm) {
  if (!context.adds_gradients) return gemm;
  const StoredType result = stored(context.formats.gradient);
  if (result != default_result(gemm.type)) gemm.result = result;
  gemm.accumulate = true;
  return gemm;
}

GemmSpec contraction(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Operator& op = context.graph.op(node.op);
  const Shapes shapes(context, sharded);
  const DataType compute = context.formats.compute;
  const bool narrow = is_narrow_product(context.graph, node, context.formats);
  const DataType type = bytes_per_element(compute) < 2 && !narrow ? DataType::bf16 : compute;
  // Of the rows of the result, or of the gradient that is read.
  const double share = sharded.value(node.gradient < 0 ? node.outputs[0] : node.inputs[0]).share;
  if (node.gradient < 0)
    return product(shapes, shapes.seen(op.inputs[0], node.inputs[0]), shapes.seen(op.inputs[1], node.inputs[1]),
                   shapes.seen(op.outputs[0], node.outputs[0]), type, share, false);
  const Gradient& gradient = op.gradients[static_cast<std::size_t>(node.gradient)];
  const auto& of = op.inputs[static_cast<std::size_t>(gradient.of[0])];
  const auto& read = op.inputs[static_cast<std::size_t>(gradient.reads[0])];
  const bool makes_weight = context.graph.tensor(of.tensor).role == TensorRole::weight;
  const GemmSpec gemm = product(shapes, shapes.seen(op.outputs[0], node.inputs[0]), shapes.seen(read, node.inputs[1]),
                                shapes.seen(of, node.outputs[0]), type, share, makes_weight);
  return makes_weight ? summed(context, gemm) : gemm;
}

/// The extent by which merged products of a pass differ: columns forward, what is summed up in the input's gradient,
/// rows in the weight's.
std::int64_t& merged_extent(const CostContext& context, const Node& node, GemmSpec& gemm) {
  if (node.gradient < 0) return gemm.n;
  const Operator& op = context.graph.op(node.op);
  return op.gradients[static_cast<std::size_t>(node.gradient)].of[0] == 0 ? gemm.k : gemm.m;
}

/// One product of several, and the share of it that the node's own is.
struct Merged {
  GemmSpec all;
  double share = 1;
};
Merged merged(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  Merged result{contraction(context, sharded, node), 1};
  if (context.merges_products == MergedProducts::none) return result;
  const std::optional<MadeTogether> here = found_here(context, sharded);
  const std::vector<NodeId>& nodes = (here ? *here : *context.made_together).products[place_of(sharded, node)];
  if (nodes.empty()) return result;
  std::int64_t& extent = merged_extent(context, node, result.all);
  const auto own = static_cast<double>(extent);
  for (NodeId id : nodes) {
    const Node& other = sharded.nodes[static_cast<std::size_t>(id)];
    if (&other == &node) continue;
    GemmSpec gemm = contraction(context, sharded, other);
    extent += merged_extent(context, other, gemm);
  }
  result.share = own / static_cast<double>(extent);
  return result;
}

/// Whether the batch of a product is that of the experts: they are a dimension of all three tensors.
bool is_of_experts(const CostContext& context, const Node& node) {
  const Operator& op = context.graph.op(node.op);
  const auto has = [&](const Operand& operand) { return operand.dims.has(static_cast<DimId>(context.expert_dim)); };
  return context.expert_dim >= 0 && has(op.inputs[0]) && has(op.inputs[1]) && has(op.outputs[0]);
}

GroupedGemmSpec in_groups(const GemmSpec& batch) {
  return {.groups = batch.batch,
          .m_per_group = batch.m,
          .n = batch.n,
          .k = batch.k,
          .type = batch.type,
          .result = batch.result,
          .scaling = batch.scaling,
          .accumulate = batch.accumulate,
          .cast = batch.cast};
}

CollectiveKind collective_of(ReshardStep step) {
  switch (step) {
    case ReshardStep::reduce_scatter:
      return CollectiveKind::reduce_scatter;
    case ReshardStep::all_to_all:
      return CollectiveKind::all_to_all;
    case ReshardStep::all_reduce:
      return CollectiveKind::all_reduce;
    case ReshardStep::all_gather:
      return CollectiveKind::all_gather;
    case ReshardStep::slice:
      break;
  }
  assert(false && "a slice is no collective");
  return CollectiveKind::all_reduce;
}

/// Rows on their way to experts, or back: what has a row's width, not what the router alone made.
bool is_routed(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Tensor& t = context.graph.tensor(sharded.value(node.inputs[0]).tensor);
  return t.density < 1 && t.width == Width::compute && context.expert_dim >= 0 &&
         t.dims.has(static_cast<DimId>(context.expert_dim));
}

/// Stored bytes of one element of what a node moves. Rows travel in formats of their own, to the experts and back.
double bytes_on_the_way(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Value& moved = sharded.value(node.inputs[0]);
  if (node.kind == Node::Kind::gather_parameter) return bytes_per_element(context.formats.parameter_gather);
  if (is_routed(context, sharded, node)) {
    const int at = context.graph.tensor(moved.tensor).dims.find(static_cast<DimId>(context.expert_dim));
    const int before = moved.placement.dims[at].size(),
              after = sharded.value(node.outputs[0]).placement.dims[at].size();
    if (after > before) return bytes_per_element(context.formats.dispatch);
    if (after < before) return bytes_per_element(context.formats.combine);
  }
  return bytes_per_element(context.graph.tensor(moved.tensor), moved, context.formats);
}

/// A collective that runs `times` times; `lost`: bytes by which whole elements may fall short of an even share.
struct Move {
  CollectiveSpec spec;
  double times = 1, lost = 0;
};
using Moves = boost::container::static_vector<Move, 5>;

/// Operands whose sequence a ring passes around: n-1 times to the next rank; in backward they and their gradients. One
/// that is keys and values travels once.
Move around_the_ring(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const Operator& op = context.graph.op(node.op);
  const RankGroup group = context.mesh.group(node.ring);
  const bool backward = node.gradient >= 0;
  Bytes passed;
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    bool travels = false;
    for (DimId d : op.inputs[i].dims) travels = travels || (op.whole.has(d) && d == context.ring_dim);
    const auto first = node.inputs.begin() + backward, here = first + static_cast<std::ptrdiff_t>(i);
    if (travels && std::find(first, here, *here) == here)
      passed += bytes_of(context.graph, sharded.value(*here), context.formats);
  }
  RankGroup pair;
  pair.add(2, group.factors[0].stride);
  return {{CollectiveKind::send_recv, (backward ? 2 : 1) * passed, pair}, static_cast<double>(group.size() - 1), 0};
}

/// What a node sends between ranks.
Moves moves_of(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  Moves moves;
  if (node.ring) moves.push_back(around_the_ring(context, sharded, node));
  if (node.kind == Node::Kind::compute || node.kind == Node::Kind::sum) return moves;
  const Value& moved = sharded.value(node.inputs[0]);
  const Tensor& tensor = context.graph.tensor(moved.tensor);
  const double width = bytes_on_the_way(context, sharded, node);
  const bool routed = is_routed(context, sharded, node);
  const double layers = context.collects_by_layer && !routed
                            ? static_cast<double>(layers_at(context.graph, sharded, node, context.merges_products))
                            : 1;
  const double fullest = std::max(moved.share, sharded.value(node.outputs[0]).share) / tensor.density;
  for (int i = 0; i < node.steps.count; ++i) {
    const ReshardSteps::Step& step = node.steps.steps[i];
    if (step.kind == ReshardStep::slice) continue;
    const auto held = static_cast<std::int64_t>(std::ceil(static_cast<double>(step.held_elements) * width));
    // Extents divide by what cuts them; only the rows that routing leaves may not, and a part of them is rounded down.
    const double lost = tensor.density < 1 ? fullest * static_cast<double>(context.mesh.size_of(step.axes)) * width : 0;
    moves.push_back({{collective_of(step.kind), {held}, context.mesh.group(step.axes)}, layers, lost});
    if (routed && step.kind == ReshardStep::all_to_all) moves.back().spec.crossing = context.crossing;
  }
  return moves;
}

/// Whether all of a block lies in front of what one index of its dimension `at` has: only then its parts along that
/// dimension lie one behind the other.
bool is_outermost(const CostContext& context, const DimList& dims, const Placement& p, int at) {
  for (int i = 0; i < at; ++i)
    if (context.extents[dims[i]] > context.mesh.size_of(p.dims[i])) return false;
  return true;
}

/// Copies that bring a collective's pieces into the order of ranks, and those of its result into place: as the executor
/// makes them (profiler/execute/mover.cc).
MemorySpec packing(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  MemorySpec copies = {{}, MemoryPass::copy};
  if (node.kind != Node::Kind::reshard) return copies;
  const Value &from = sharded.value(node.inputs[0]), &to = sharded.value(node.outputs[0]);
  const DimList& dims = context.graph.tensor(from.tensor).dims;
  const double width = bytes_per_element(context.graph.tensor(from.tensor), from, context.formats);
  for (int k = 0; k < node.steps.count; ++k) {
    const ReshardSteps::Step& step = node.steps.steps[k];
    const bool no_pieces = step.kind == ReshardStep::slice || step.kind == ReshardStep::all_reduce;
    int times = 0;
    for (int i = 0; i < dims.size() && !no_pieces; ++i) {
      const bool was = set_of(from.placement.dims[i]) & step.axes, is = set_of(to.placement.dims[i]) & step.axes;
      if (was != is && !is_outermost(context, dims, from.placement, i)) ++times;
    }
    copies.moved += Bytes{static_cast<std::int64_t>(2 * times * width * static_cast<double>(step.held_elements))};
  }
  return copies;
}

}  // namespace

double bytes_per_element(const Tensor& tensor, const Value& value, const TrainingFormats& formats) {
  if (tensor.role == TensorRole::index) return 8;  // int64, as frameworks keep token ids
  if (tensor.role == TensorRole::weight)
    return bytes_per_element(value.gradient ? formats.gradient : formats.parameter);
  switch (tensor.width) {
    case Width::fp32:
      return 4;
    case Width::byte:
      return 1;
    case Width::compute:
      break;
  }
  // Between matrix products activations are 16 bits wide whatever the products' inputs are cast to.
  return bytes_per_element(formats.compute) >= 4 ? 4 : 2;
}

Bytes bytes_of(const OpGraph& graph, const Value& value, const TrainingFormats& formats) {
  const double bytes =
      static_cast<double>(value.elements) * bytes_per_element(graph.tensor(value.tensor), value, formats);
  return {static_cast<std::int64_t>(std::ceil(bytes))};
}

std::optional<GemmSpec> product_of(const NodeQuestion& question) {
  if (const auto* gemm = std::get_if<GemmSpec>(&question)) return *gemm;
  if (const auto* grouped = std::get_if<GroupedGemmSpec>(&question)) return as_batch(*grouped);
  return std::nullopt;
}

bool in_epilogue(const OpGraph& graph, const Node& node) {
  return node.kind == Node::Kind::compute && node.gradient < 0 && graph.op(node.op).epilogue;
}

bool is_narrow_product(const OpGraph& graph, const Node& node, const TrainingFormats& formats) {
  if (bytes_per_element(formats.compute) >= 2 || node.kind != Node::Kind::compute) return false;
  const Operator& op = graph.op(node.op);
  // A router's product stays wide.
  return op.kind == OpKind::contraction && graph.tensor(op.inputs[1].tensor).role == TensorRole::weight &&
         graph.tensor(op.outputs[0].tensor).width == Width::compute;
}

namespace {

/// By a narrow product. Those that read a value mostly stand close together.
bool is_read_before(const CostContext& context, const ShardedGraph& sharded, const Node& node, ValueId v) {
  const Node* first = sharded.nodes.data();
  if (const NodeId maker = sharded.value(v).maker; maker >= 0) first += maker;
  for (const Node* before = &node; before-- != first;)
    if (before->kind == Node::Kind::compute &&
        std::find(before->inputs.begin(), before->inputs.end(), v) != before->inputs.end() &&
        is_narrow_product(context.graph, *before, context.formats))
      return true;
  return false;
}

}  // namespace

MemorySpec casts_of(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  if (!is_narrow_product(context.graph, node, context.formats)) return {};
  Bytes moved;
  for (ValueId v : node.inputs) {
    if (context.graph.tensor(sharded.value(v).tensor).role == TensorRole::weight) continue;
    const double width = bytes_per_element(DataType::bf16) + 2 * bytes_read(context.formats);
    if (!is_read_before(context, sharded, node, v))
      moved += Bytes{static_cast<std::int64_t>(width * static_cast<double>(sharded.value(v).elements))};
  }
  return {moved};
}

MemorySpec swizzled(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  const DataType type = context.formats.compute;
  const int block = type == DataType::mxfp8 ? 32 : 16;
  if ((type != DataType::mxfp8 && type != DataType::nvfp4) || !is_narrow_product(context.graph, node, context.formats))
    return {};
  std::int64_t elements = 0;
  for (ValueId v : node.inputs) elements += sharded.value(v).elements;
  return {Bytes{elements / block}};
}

NodeQuestion node_question(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  if (node.kind == Node::Kind::compute) switch (context.graph.op(node.op).kind) {
      case OpKind::contraction: {
        GemmSpec gemm = merged(context, sharded, node).all;
        // Without rows, columns or a sum it multiplies elements: no matrix product, a pass over memory.
        if ((gemm.m == 1) + (gemm.n == 1) + (gemm.k == 1) >= 2) break;
        gemm.cast = bytes_per_element(gemm.type) >= 2;  // asked apart: casts_of
        if (gemm.type == DataType::fp8) gemm.scaling = context.formats.scaling;
        if (gemm.batch > 1 && is_of_experts(context, node)) return in_groups(gemm);
        return gemm;
      }
      case OpKind::attention:
        return attention(context, sharded, node);
      case OpKind::gather:
        return gather_rows(context, sharded, node);
      default:
        break;
    }
  return streaming(context, sharded, node);
}

double times_asked(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  if (in_epilogue(context.graph, node)) return 0;
  if (node.kind == Node::Kind::sum) return addends_of(context, sharded, node) > 1 ? 1 : 0;
  const double kernels =
      is_written_out(context, node) ? written_out(context.graph.op(node.op), node.gradient >= 0).kernels : 1;
  const bool may_be_part =
      context.graph.op(node.op).kind == OpKind::contraction &&
      (!context.made_together || !context.made_together->products[place_of(sharded, node)].empty());
  const double share = may_be_part ? merged(context, sharded, node).share : 1;
  return share * kernels * static_cast<double>(context.mesh.size_of(node.ring));
}

namespace {

/// How much longer an engine's kernel takes than the question that it is asked as.
template <typename Spec>
double engine_factor(const CostContext& context, const Spec&) {
  return std::is_same_v<Spec, MemorySpec> ? context.constants[EngineConstant::memory_kernel_factor] : 1;
}

KernelCost longer(double factor, KernelCost cost) {
  cost.time = factor * cost.time;
  return cost;
}

template <typename Spec>
constexpr TimeError::Family family_of(const Spec&) {
  if (std::is_same_v<Spec, AttentionSpec>) return TimeError::attention;
  if (std::is_same_v<Spec, MemorySpec>) return TimeError::memory;
  return std::is_same_v<Spec, GemmSpec> || std::is_same_v<Spec, GroupedGemmSpec> ? TimeError::product
                                                                                 : TimeError::collective;
}

/// Calls `visit(spec, kernel, times, computes)` for what a node asks of the device and for each collective it takes.
template <typename F>
void for_each_kernel(const CostContext& context, const ShardedGraph& sharded, const Node& node, const F& visit) {
  const bool asks = node.kind == Node::Kind::compute || node.kind == Node::Kind::sum;
  if (const double times = asks ? times_asked(context, sharded, node) : 0; times > 0)
    std::visit(
        [&](const auto& spec) {
          visit(spec, longer(engine_factor(context, spec), look_up(spec, context.machine)), times, true);
        },
        node_question(context, sharded, node));
  if (const MemorySpec casts = casts_of(context, sharded, node); casts.moved > Bytes{})
    visit(casts, longer(engine_factor(context, casts), look_up(casts, context.machine)), 1, true);
  if (const MemorySpec factors = swizzled(context, sharded, node); factors.moved > Bytes{})
    visit(factors, look_up(factors, context.machine), 2, true);
  const double factor = context.constants[EngineConstant::communication_factor];
  for (const Move& move : moves_of(context, sharded, node))
    visit(move.spec, longer(factor, collective_cost(move.spec, context.machine)), move.times, false);
  if (!context.own_kernels) return;
  if (const MemorySpec copies = packing(context, sharded, node); copies.moved > Bytes{})
    visit(copies, look_up(copies, context.machine), 1, false);
}

}  // namespace

NodeCost node_cost(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  NodeCost cost;
  for_each_kernel(context, sharded, node, [&](const auto& spec, const KernelCost& kernel, double times, bool computes) {
    const Seconds time = times * kernel.time;
    (computes ? cost.compute : cost.communication) += time;
    cost.error.by_family[family_of(spec)] += time * kernel.relative_error;
  });
  return cost;
}

std::vector<AskedKernel> asked_kernels(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  std::vector<AskedKernel> asked;
  if (node.kind == Node::Kind::gather_parameter) return asked;
  for_each_kernel(context, sharded, node, [&](const auto& spec, const KernelCost& kernel, double times, bool) {
    asked.push_back({spec, kernel, times});
  });
  return asked;
}

std::vector<NodeCost> node_costs(const CostContext& context, const ShardedGraph& sharded) {
  std::vector<NodeCost> costs;
  costs.reserve(sharded.nodes.size());
  for (const Node& n : sharded.nodes)
    costs.push_back(n.kind == Node::Kind::gather_parameter ? NodeCost{} : node_cost(context, sharded, n));
  return costs;
}

LeastCost least_cost(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  LeastCost least;
  if (node.kind == Node::Kind::compute || node.kind == Node::Kind::sum) {
    const auto question = node_question(context, sharded, node);
    const double asked = times_asked(context, sharded, node);
    const double factor = std::visit([&](const auto& spec) { return engine_factor(context, spec); }, question);
    least.each.compute =
        asked * factor * std::visit([&](const auto& spec) { return least_launch(spec, context.machine); }, question);
    least.together.compute =
        asked * factor * std::visit([&](const auto& spec) { return steady_time(spec, context.machine); }, question);
    // With one row, as a part of it may have, a product is a pass over memory.
    const auto gemm = product_of(question);
    if (gemm && (gemm->m == 1 || gemm->n == 1 || gemm->k == 1)) {
      const MemorySpec pass = streaming(context, sharded, node);
      const double slower = engine_factor(context, pass);
      least.each.compute = std::min(least.each.compute, asked * slower * least_launch(pass, context.machine));
      least.together.compute = std::min(least.together.compute, slower * steady_time(pass, context.machine));
    } else if (const MemorySpec casts = casts_of(context, sharded, node); casts.moved > Bytes{}) {
      const double slower = engine_factor(context, casts);
      least.each.compute += slower * least_launch(casts, context.machine);
      least.together.compute += slower * steady_time(casts, context.machine);
    }
  }
  const double factor = context.constants[EngineConstant::communication_factor];
  for (const Move& move : moves_of(context, sharded, node)) {
    CollectiveSpec spec = move.spec;
    const double count = factor * move.times;
    if (const auto slope = least_measured_slope(spec, context.machine)) {
      least.each.communication -= Seconds{count * *slope * move.lost};
      least.together.communication += Seconds{count * *slope * static_cast<double>(spec.held.value)};
      continue;
    }
    // The time of a collective is a latency and a share of its bytes.
    const Seconds all = collective_cost(spec, context.machine).time;
    spec.held = {};
    const Seconds latency = collective_cost(spec, context.machine).time;
    spec.held = {static_cast<std::int64_t>(move.lost)};
    const Seconds lost = move.lost > 0 ? collective_cost(spec, context.machine).time - latency : Seconds{};
    least.each.communication += count * (latency - lost);
    least.together.communication += count * (all - latency);
  }
  return least;
}

MostMoved MostMoves::of(const CollectiveSpec& spec, const Machine& machine) {
  for (const auto& [known, moved] : known_)
    if (known == spec) return moved;
  const Seconds all = collective_cost(spec, machine).time;
  Seconds above;  // of the line from nothing to all
  CollectiveSpec part = spec;
  for (const double share : shares_) {
    part.held = {static_cast<std::int64_t>(std::ceil(share * static_cast<double>(spec.held.value))) + 1};
    above = std::max(above, collective_cost(part, machine).time - share * all);
  }
  return known_.emplace_back(spec, MostMoved{above, all}).second;
}

std::optional<MostMoved> MostMoves::of(const CostContext& context, const ShardedGraph& sharded, const Node& node) {
  if (context.own_kernels) return std::nullopt;
  const double factor = context.constants[EngineConstant::communication_factor];
  MostMoved most;
  for (const Move& move : moves_of(context, sharded, node)) {
    if (move.lost > 0) return std::nullopt;
    const MostMoved once = of(move.spec, context.machine);
    most.each += factor * move.times * once.each;
    most.together += factor * move.times * once.together;
  }
  return most;
}

}  // namespace shardwright
