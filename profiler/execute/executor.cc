#include "profiler/execute/executor.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/host/host_operators.h"
#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

std::size_t at(ValueId v) { return static_cast<std::size_t>(v); }

/// Keys' sequence whole, where a ring works it off.
Placement without_ring(const OpGraph& graph, const DimList& dims, Placement p, AxisSet ring) {
  for (int i = 0; i < dims.size(); ++i)
    if (graph.dims()[dims[i]].name == "key_sequence" && (set_of(p.dims[i]) & ring)) p.dims[i] = {};
  return p;
}

/// Dims of what a node reads, under the operator's names.
const DimList& input_dims(const Operator& op, const Node& node, std::size_t i) {
  if (node.gradient >= 0 && i == 0) return op.outputs[0].dims;
  const std::size_t k =
      node.gradient < 0 ? i
                        : static_cast<std::size_t>(op.gradients[static_cast<std::size_t>(node.gradient)].reads[i - 1]);
  return k < op.inputs.size() ? op.inputs[k].dims : op.outputs[k - op.inputs.size()].dims;
}
const DimList& output_dims(const Operator& op, const Node& node, std::size_t i) {
  if (node.gradient < 0) return op.outputs[i].dims;
  return op.inputs[static_cast<std::size_t>(op.gradients[static_cast<std::size_t>(node.gradient)].of[i])].dims;
}

Groups groups_of(const Programme& programme, Communicator& world, const RunOptions& options, Operators& operators) {
  if (!options.alone) return Groups(programme, world);
  return Groups(programme, world, options.alone->rank, operators);
}

std::unique_ptr<DrawnExperts> drawn_experts(const Model& model, const RunOptions& options) {
  if (!options.alone || model.n_routed_experts == 0) return nullptr;
  return std::make_unique<DrawnExperts>(options.alone->load, model.n_routed_experts, model.num_experts_per_tok);
}

}  // namespace

Executor::Executor(const Programme& programme, Communicator& world, Operators& operators, Memory& memory,
                   Recorder& recorder, const RunOptions& options, const Fault& fault)
    : programme_(programme),
      world_(world),
      operators_(operators),
      memory_(memory),
      recorder_(recorder),
      options_(options),
      fault_(fault),
      rank_(options.alone ? options.alone->rank : world.rank()),
      stage_(programme.stage_of(rank_)),
      line_(programme.line_of(rank_)),
      drawn_(drawn_experts(programme.model, options)),
      groups_(groups_of(programme, world, options, operators)),
      mover_(programme, line_, groups_, operators, memory, recorder, fault_, drawn_.get()),
      weights_(programme, stage_, line_, groups_, operators, memory, mover_, recorder, options),
      shown_(&programme) {}

void Executor::train(std::int64_t step) {
  losses_.assign(programme_.graphs.back().graph.losses.size(), 0.0);
  weights_.forget_gradients();
  for (const Task& task : programme_.tasks[static_cast<std::size_t>(stage_)]) run(task, step);
  finish_sends();
  weights_.reduce();
  weights_.update();
  operators_.synchronize();
}

double Executor::loss() {
  double sum = 0;
  for (double x : losses_) sum += x;
  sum /= programme_.pipeline.micro_batches;
  world_.all_reduce({&sum, 1, Element::fp64}, Reduction::sum);
  return sum;
}

void Executor::run(const Task& task, std::int64_t step) {
  switch (task.kind) {
    case Task::Kind::forward:
      return forward(task.chunk, task.micro_batch, step);
    case Task::Kind::backward:
      return backward(task.chunk, task.micro_batch, Gradients::both);
    case Task::Kind::input_gradient:
      return backward(task.chunk, task.micro_batch, Gradients::inputs);
    case Task::Kind::weight_gradient:
      return backward(task.chunk, task.micro_batch, Gradients::weights);
    case Task::Kind::pair:
      forward(task.chunk, task.micro_batch, step);
      return backward(task.backward_chunk, task.backward_micro_batch, Gradients::both);
  }
}

void Executor::forward(int chunk, int micro_batch, std::int64_t step) {
  const Place place = {stage_, chunk};
  const int part = programme_.route.part_of(place), route = programme_.route.route_of(place);
  const auto& instances = programme_.parts[static_cast<std::size_t>(part)];
  Block stream;
  if (part > 0) stream = take(part, route, micro_batch, false);
  for (std::size_t i = 0; i < instances.size(); ++i) {
    const RunGraph& g = shown_->graphs[static_cast<std::size_t>(instances[i].graph)];
    instance_ = {part, static_cast<int>(i)};
    Pass& pass = passes_[{{part, static_cast<int>(i)}, {micro_batch, 0}}];
    pass.values.resize(g.sharded.values.size());
    pass.reads = g.forward_reads;
    if (g.sharded.stream_in >= 0) at(pass, g.sharded.stream_in) = std::move(stream);
    give_inputs(g, micro_batch, step, pass);
    for (std::size_t n = 0; n < g.sharded.forward_nodes && !(asked_ && asked_->answered); ++n)
      run_node(g, instances[i], static_cast<NodeId>(n), pass);
    if (g.sharded.stream_out >= 0) {
      stream = at(pass, g.sharded.stream_out);
      if (!g.saved[shardwright::at(g.sharded.stream_out)]) at(pass, g.sharded.stream_out) = {};
    }
    if (asked_) passes_.erase({{part, static_cast<int>(i)}, {micro_batch, 0}});
  }
  if (part + 1 < programme_.pipeline.parts()) hand_on(part + 1, route, micro_batch, false, std::move(stream));
}

void Executor::backward(int chunk, int micro_batch, Gradients which) {
  const Place place = {stage_, chunk};
  const int part = programme_.route.part_of(place), route = programme_.route.route_of(place);
  const auto& instances = programme_.parts[static_cast<std::size_t>(part)];
  Block gradient;
  if (which != Gradients::weights && part + 1 < programme_.pipeline.parts())
    gradient = take(part, route, micro_batch, true);
  for (std::size_t i = instances.size(); i-- > 0;) {
    const RunGraph& g = programme_.graphs[static_cast<std::size_t>(instances[i].graph)];
    const auto pass_at = passes_.find({{part, static_cast<int>(i)}, {micro_batch, 0}});
    if (pass_at == passes_.end()) throw std::logic_error("a micro-batch goes backward before it went forward");
    Pass& pass = pass_at->second;
    if (which != Gradients::weights) {
      pass.backward = true;
      pass.reads = g.backward_reads;
      for (ValueId seed : g.sharded.seeds) at(pass, seed) = g.graph.losses.empty() ? gradient : loss_gradient();
      gradient = {};
    }
    for (NodeId n : g.backward.order) {
      const bool late = g.deferred[static_cast<std::size_t>(n)];
      if (which == Gradients::both || late == (which == Gradients::weights)) run_node(g, instances[i], n, pass);
    }
    if (which != Gradients::weights && g.sharded.stream_in_gradient >= 0)
      gradient = std::exchange(at(pass, g.sharded.stream_in_gradient), {});
    if (which != Gradients::inputs) passes_.erase(pass_at);
  }
  if (which != Gradients::weights && part > 0) hand_on(part - 1, route, micro_batch, true, std::move(gradient));
}

// ---- nodes ----

Where Executor::where(const RunGraph& g, const Programme::Instance& instance, const Node& node,
                      const Pass& pass) const {
  const std::string layer = instance.layer < 0 ? "" : "layers." + std::to_string(instance.layer) + ".";
  const bool again = pass.backward && node.phase == Phase::forward;
  Where w = {"", instance.graph, node.op, OperatorPass::forward};
  if (node.phase != Phase::forward)
    w.pass = node.phase == Phase::input_gradient ? OperatorPass::input_gradient : OperatorPass::weight_gradient;
  if (again) w.pass = OperatorPass::again;
  if (node.kind == Node::Kind::compute) {
    w.name = layer + g.graph.op(node.op).name;
    if (w.pass != OperatorPass::forward) w.name += " " + std::string(name_of(w.pass));
  } else {
    const Value& v = g.sharded.value(node.outputs[0]);
    w.name = "of " + std::string(v.gradient ? "d " : "") + layer + g.graph.tensor(v.tensor).name + " for node " +
             std::to_string(&node - g.sharded.nodes.data()) + (again ? " again" : "");
  }
  return w;
}

Block Executor::read(const RunGraph& g, const Programme::Instance& instance, ValueId v, Pass& pass) {
  const Value& value = g.sharded.value(v);
  if (value.maker < 0 && !value.gradient && g.graph.tensor(value.tensor).role == TensorRole::weight)
    return weights_.value(programme_.weight_name(instance, value.tensor));
  Block& known = at(pass, v);
  if (!known && value.maker >= 0 && g.sharded.nodes[shardwright::at(value.maker)].kind == Node::Kind::gather_parameter)
    run_node(g, instance, value.maker, pass);  // forward runs again
  if (!known) throw std::logic_error("a value is read before it is made: " + g.graph.tensor(value.tensor).name);
  if (!known.one_hot) return known;
  Block whole = memory_.make(known.view.elements * known.one_hot->columns,
                             element_of(g.graph.tensor(value.tensor), options_.compute, operators_));
  operators_.fill(whole.view, 0);
  add_one_hot(known, whole);
  return whole;
}

void Executor::run_node(const RunGraph& g, const Programme::Instance& instance, NodeId n, Pass& pass) {
  const Node& node = g.sharded.nodes[static_cast<std::size_t>(n)];
  switch (node.kind) {
    case Node::Kind::compute:
      compute(g, instance, node, pass);
      break;
    case Node::Kind::sum: {
      const Where here = where(g, instance, node, pass);
      const During during(recorder_, {Doing::Kind::compute, here.name, here});
      made(g, instance, node.outputs[0], sum(g, node, pass), pass);
      operators_.synchronize();
      break;
    }
    case Node::Kind::reshard: {
      const ValueId v = node.inputs[0];
      Block from = read(g, instance, v, pass);
      if (is_last_read(g, v, pass)) at(pass, v) = {};  // it may be changed in its place
      made(g, instance, node.outputs[0], mover_.reshard(g, node, std::move(from), where(g, instance, node, pass)),
           pass);
      break;
    }
    case Node::Kind::gather_parameter: {
      const std::int64_t elements = g.sharded.value(node.outputs[0]).elements;
      made(g, instance, node.outputs[0],
           mover_.gather_flat(read(g, instance, node.inputs[0], pass), node.steps.steps[0].axes, elements,
                              where(g, instance, node, pass)),
           pass);
      break;
    }
  }
  read_off(g, node, pass);
}

namespace {

/// Whether a value is wanted beyond the nodes that read it.
bool stays(const RunGraph& g, ValueId v, bool backward) {
  return v == g.sharded.stream_out || v == g.sharded.stream_in_gradient ||
         g.graph.tensor(g.sharded.value(v).tensor).role == TensorRole::index || (!backward && g.saved[at(v)]);
}

}  // namespace

bool Executor::is_last_read(const RunGraph& g, ValueId v, const Pass& pass) const {
  return pass.reads[shardwright::at(v)] == 1 && !stays(g, v, pass.backward);
}

/// What nobody reads any more is freed.
void Executor::read_off(const RunGraph& g, const Node& node, Pass& pass) {
  const auto done = [&](ValueId v) {
    if (pass.reads[shardwright::at(v)] == 0 && !stays(g, v, pass.backward)) at(pass, v) = {};
  };
  for (ValueId v : node.inputs) {
    --pass.reads[shardwright::at(v)];
    done(v);
  }
  for (ValueId v : node.outputs) done(v);
}

void Executor::made(const RunGraph& g, const Programme::Instance& instance, ValueId v, Block block, Pass& pass) {
  const Value& value = g.sharded.value(v);
  const Tensor& tensor = g.graph.tensor(value.tensor);
  if (value.gradient && tensor.role == TensorRole::weight) {
    for (const WeightState& w : g.sharded.weights)
      if (w.gradient == v)
        return weights_.accumulate(programme_.weight_name(instance, value.tensor), block, value.placement.partial);
  }
  if (asked_ && tensor.name == "logits") take_logits(g, value, block);
  const auto& losses = g.graph.losses;
  for (std::size_t i = 0; i < losses.size() && !value.gradient; ++i) {
    if (value.tensor != losses[i]) continue;
    const auto& op = g.sharded.nodes[shardwright::at(value.maker)];
    if (op.kind != Node::Kind::compute) continue;
    bool counts = true;  // once for each part of the sum
    for (std::size_t a = 0; a < programme_.mesh.axes().size(); ++a)
      if (!(value.placement.partial >> a & 1))
        counts = counts && coordinate(programme_.mesh, line_, static_cast<AxisId>(a)) == 0;
    if (counts) losses_[i] += operators_.download(block.view)[0];
  }
  at(pass, v) = std::move(block);
}

/// A term that is not partial over an axis of the result enters on coordinate 0 of it. The sum takes the place of a
/// term that nobody else reads.
Block Executor::sum(const RunGraph& g, const Node& node, Pass& pass) {
  const Placement& to = g.sharded.value(node.outputs[0]).placement;
  std::vector<In> terms;
  std::vector<Block> one_hot;
  Block first, result;
  for (ValueId v : node.inputs) {
    const AxisSet more = static_cast<AxisSet>(to.partial & ~g.sharded.value(v).placement.partial);
    bool enters = true;
    for (std::size_t a = 0; a < programme_.mesh.axes().size(); ++a)
      enters = enters && (!(more >> a & 1) || coordinate(programme_.mesh, line_, static_cast<AxisId>(a)) == 0);
    Block& term = at(pass, v);
    if (!term) throw std::logic_error("a term is added before it is made");
    if (term.one_hot) {
      if (enters) one_hot.push_back(term);
      continue;
    }
    if (!first) first = term;
    if (first.rows && first.rows->places != term.rows->places)
      throw std::logic_error("terms of a sum have different rows");
    if (!enters) continue;
    terms.push_back(term.view);
    if (!result && is_last_read(g, v, pass) && term.owner.use_count() == (first.owner == term.owner ? 2 : 1))
      result = term;
  }
  if (!first) throw std::logic_error("a sum of one-hot terms alone");
  if (!result) result = memory_.make(first.view.elements, first.view.element);
  result.rows = first.rows;
  if (terms.empty())
    operators_.fill(result.view, 0);
  else if (!result.view.empty() && !(terms.size() == 1 && terms[0].data == result.view.data))
    operators_.residual_sum(terms, result.view);
  for (const Block& term : one_hot) add_one_hot(term, result);
  return result;
}

void Executor::add_one_hot(const Block& term, const Block& to) {
  const OneHot& hot = *term.one_hot;
  std::vector<double> at = operators_.download(hot.labels.view);
  for (std::size_t row = 0; row < at.size(); ++row) {
    const double column = at[row] - static_cast<double>(hot.first), columns = static_cast<double>(hot.columns);
    at[row] = column >= 0 && column < columns ? static_cast<double>(row) * columns + column : -1;
  }
  const Block ids = memory_.make(static_cast<std::int64_t>(at.size()), Element::int64);
  operators_.upload(at, ids.view);
  Block numbers = {term.view, term.owner};
  if (term.view.element != to.view.element) {
    numbers = memory_.make(term.view.elements, to.view.element);
    operators_.cast(term.view, numbers.view);
  }
  operators_.gather_gradient(ids.view, numbers.view, 0, to.view, true);
}

void Executor::compute(const RunGraph& g, const Programme::Instance& instance, const Node& node, Pass& pass) {
  const Operator& op = g.graph.op(node.op);
  const bool is_gradient = node.gradient >= 0;
  const Where here = where(g, instance, node, pass);
  const auto with_name = [&](const std::string& name) {
    Where other = here;
    other.name = name;
    return other;
  };
  Kernel kernel(g, op, options_.compute, operators_, memory_, mover_);
  kernel.rows = pass.rows[node.op];
  kernel.behind(cached_);
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Value& value = g.sharded.value(node.inputs[i]);
    const DimList& dims = input_dims(op, node, i);
    Block block = read(g, instance, node.inputs[i], pass);
    const Placement whole = without_ring(g.graph, dims, value.placement, node.ring);
    if (!(whole == value.placement))
      block = mover_.pass_around(&node.inputs[i], g, dims, value.placement, whole, node.ring, block,
                                 with_name("of input " + std::to_string(i) + " of " + here.name));
    kernel.place(dims, whole, programme_.mesh, line_);
    if (asked_ && op.kind == OpKind::attention) block = with_cached(g, node, i, block);
    if (is_gradient && i == 0) {
      kernel.give_gradient(std::move(block));
    } else {
      const Gradient* gradient = is_gradient ? &op.gradients[static_cast<std::size_t>(node.gradient)] : nullptr;
      kernel.give(gradient ? static_cast<std::size_t>(gradient->reads[i - 1]) : i, std::move(block));
    }
  }
  std::vector<Placement> made_at;
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const DimList& dims = output_dims(op, node, i);
    const Placement& p = g.sharded.value(node.outputs[i]).placement;
    Placement whole = without_ring(g.graph, dims, p, node.ring);
    if (!(whole == p)) whole.partial = static_cast<AxisSet>(whole.partial | node.ring);
    kernel.place(dims, whole, programme_.mesh, line_);
    made_at.push_back(whole);
  }
  std::vector<Block> outputs;
  {
    const During during(recorder_, {Doing::Kind::compute, here.name, here});
    outputs =
        is_gradient ? kernel.backward(op.gradients[static_cast<std::size_t>(node.gradient)]) : kernel.forward(made_at);
    operators_.synchronize();
  }
  if (op.kind == OpKind::route && !is_gradient)
    mover_.replace_routes(g, op.outputs[0].dims, made_at[0], outputs[0].view, outputs[1].view);
  if (kernel.rows) pass.rows[node.op] = kernel.rows;
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const Placement& p = g.sharded.value(node.outputs[i]).placement;
    if (!(made_at[i] == p))
      outputs[i] = mover_.return_around(&node.outputs[i], g, output_dims(op, node, i), made_at[i], p, node.ring,
                                        outputs[i], with_name("of output " + std::to_string(i) + " of " + here.name));
    made(g, instance, node.outputs[i], std::move(outputs[i]), pass);
  }
}

// ---- what enters ----

void Executor::give_inputs(const RunGraph& g, int micro_batch, std::int64_t step, Pass& pass) {
  for (std::size_t v = 0; v < g.sharded.values.size(); ++v) {
    const Value& value = g.sharded.values[v];
    if (value.maker < 0 && !value.gradient && g.graph.tensor(value.tensor).role == TensorRole::index)
      pass.values[v] = ids(g, static_cast<ValueId>(v), micro_batch, step);
  }
}

/// Tokens of the step's micro-batch; labels are the tokens that follow. Drawn by their place in the whole batch.
Block Executor::ids(const RunGraph& g, ValueId v, int micro_batch, std::int64_t step) {
  const Value& value = g.sharded.value(v);
  const Tensor& tensor = g.graph.tensor(value.tensor);
  BlockPlace place = {block_extents(tensor.dims, g.extents, value.placement, programme_.mesh),
                      block_begin(tensor.dims, g.extents, value.placement, programme_.mesh, line_),
                      {}};
  for (DimId d : tensor.dims) place.whole.push_back(g.extents[d]);
  const bool positions = tensor.name == "position_ids", given = asked_ && tensor.name == "token_ids";
  const std::int64_t sequence = place.whole.back(), ahead = tensor.name == "token_ids" ? 0 : 1;
  const auto batch = static_cast<std::uint64_t>(step * programme_.pipeline.micro_batches + micro_batch);
  std::vector<double> ids;
  for_each_in_block(place, [&](std::int64_t index) {
    if (positions || given) {
      ids.push_back(
          static_cast<double>(given ? asked_->tokens[static_cast<std::size_t>(index)] : cached_ + index % sequence));
      return;
    }
    const auto token = static_cast<std::uint64_t>(index / sequence * (sequence + 1) + index % sequence + ahead);
    ids.push_back(static_cast<double>(random_bits(options_.seed + 0x51ed2701 * (batch + 1), token) %
                                      static_cast<std::uint64_t>(programme_.model.vocab_size)));
  });
  Block block = memory_.make(value.elements, Element::int64);
  operators_.upload(ids, block.view);
  return block;
}

/// Every micro-batch has its share of the step's mean.
Block Executor::loss_gradient() {
  Block d = memory_.make(1, operators_.element(DataType::fp32));
  operators_.fill(d.view, 1.0 / programme_.pipeline.micro_batches);
  return d;
}

// ---- inference ----

std::vector<double> Executor::answer(const Programme& step, const std::vector<std::int64_t>& tokens) {
  const RunGraph& head = step.graphs.back();
  const auto extent = [&](const char* dim) { return head.extents[static_cast<std::size_t>(head.graph.find_dim(dim))]; };
  if (static_cast<std::int64_t>(tokens.size()) != extent("batch") * step.sequence_length)
    throw std::invalid_argument("a step of inference has a token for each place of its sequences");
  Asked asked = {tokens, std::vector<double>(static_cast<std::size_t>(extent("batch") * extent("vocab")), 0.0)};
  asked_ = &asked;
  shown_ = &step;
  for (int part = 0; part < step.pipeline.parts(); ++part)
    if (const Place place = step.route.place(0, part); place.stage == stage_) forward(place.chunk, 0, 0);
  finish_sends();
  asked_ = nullptr;
  shown_ = &programme_;
  cached_ += step.sequence_length;
  world_.all_reduce({asked.logits.data(), static_cast<std::int64_t>(asked.logits.size()), Element::fp64},
                    Reduction::sum);
  return asked.logits;
}

/// What attention reads of its sequence, behind what it read of it before. Queries and sinks are as they come.
Block Executor::with_cached(const RunGraph& g, const Node& node, std::size_t input, const Block& block) {
  const Operator& op = g.graph.op(node.op);
  const auto parts = static_cast<std::size_t>(op.score_parts);
  if (input < parts || input > 2 * parts) return block;
  const DimList& dims = op.inputs[input].dims;
  const auto local = block_extents(dims, g.extents, g.sharded.value(node.inputs[input]).placement, programme_.mesh);
  if (local[1] != g.extents[dims[1]]) throw std::invalid_argument("inference with a cut sequence");
  Block& kept = kept_[{instance_, static_cast<ValueId>(input)}];
  const std::int64_t sequences = local[0], before = kept ? cached_ : 0, all = before + local[1];
  const std::int64_t width = block.view.elements / (sequences * local[1]);
  Block longer = memory_.make(sequences * all * width, block.view.element);
  const auto put = [&](const Block& from, std::int64_t first, std::int64_t tokens) {
    operators_.copy_box({from.view, {tokens * width, 1}},
                        {longer.view.part(first * width, longer.view.elements - first * width), {all * width, 1}},
                        {sequences, tokens * width});
  };
  if (kept) put(kept, 0, before);
  put(block, before, local[1]);
  kept = longer;
  return kept;
}

/// The last token's of this rank's sequences and part of the vocabulary, once of ranks that have the same.
void Executor::take_logits(const RunGraph& g, const Value& value, const Block& block) {
  asked_->answered = true;
  for (std::size_t a = 0; a < programme_.mesh.axes().size(); ++a)
    if (!(value.placement.sharded() >> a & 1) && coordinate(programme_.mesh, line_, static_cast<AxisId>(a)) != 0)
      return;
  const DimList& dims = g.graph.tensor(value.tensor).dims;  // batch, sequence, vocabulary
  BlockPlace place = {block_extents(dims, g.extents, value.placement, programme_.mesh),
                      block_begin(dims, g.extents, value.placement, programme_.mesh, line_),
                      {}};
  for (DimId d : dims) place.whole.push_back(g.extents[d]);
  if (place.extents[1] != place.whole[1]) throw std::invalid_argument("inference with a cut sequence");
  const std::vector<double> numbers = operators_.download(block.view);
  std::size_t at_number = 0;
  for_each_in_block(place, [&](std::int64_t index) {
    const std::int64_t column = index % place.whole[2], row = index / place.whole[2];
    if (row % place.whole[1] + 1 == place.whole[1])
      asked_->logits[static_cast<std::size_t>(row / place.whole[1] * place.whole[2] + column)] = numbers[at_number];
    ++at_number;
  });
}

// ---- between stages ----

int Executor::tag(int part, int route, int micro_batch, bool gradient) const {
  const int parts = programme_.pipeline.parts();
  return ((micro_batch * parts + part) * 2 + route) * 2 + (gradient ? 1 : 0);
}

void Executor::hand_on(int part, int route, int micro_batch, bool gradient, Block block) {
  const int to = programme_.route.place(route, part).stage, t = tag(part, route, micro_batch, gradient);
  if (to == stage_) {
    handed_[t] = std::move(block);
    return;
  }
  if (options_.alone) return;
  const During during(
      recorder_, {Doing::Kind::send, std::string(gradient ? "d " : "") + "stream to stage " + std::to_string(to), {}});
  forget_sent();
  auto request = world_.send(block.view, static_cast<int>(programme_.rank_of(to, line_)), t);
  sent_.push_back({std::move(request), std::move(block)});
}

Block Executor::take(int part, int route, int micro_batch, bool gradient) {
  const int t = tag(part, route, micro_batch, gradient);
  const int from = programme_.route.place(route, gradient ? part + 1 : part - 1).stage;
  if (from == stage_) {
    const auto handed = handed_.find(t);
    if (handed == handed_.end()) throw std::logic_error("a task runs before what it needs");
    Block block = std::move(handed->second);
    handed_.erase(handed);
    return block;
  }
  const RunGraph& layer = shown_->graphs[0];
  const std::int64_t elements = layer.sharded.value(layer.sharded.stream_in).elements;
  Block block = memory_.make(elements, operators_.element(options_.compute));
  const std::string name = std::string(gradient ? "d " : "") + "stream from stage " + std::to_string(from);
  const During during(recorder_, {Doing::Kind::receive, name, {}});
  if (options_.alone) {
    // Numbers of a stream that norms keep near 1, and of gradients, which are small.
    operators_.fill_normal(block.view, {{elements}, {0}, {elements}}, options_.seed, gradient ? 1e-3 : 1);
    return block;
  }
  world_.receive(block.view, static_cast<int>(programme_.rank_of(from, line_)), t)->wait();
  if (fault_.kind == Fault::Kind::drop && fault_.place == name)
    operators_.fill(block.view, std::numeric_limits<double>::quiet_NaN());
  return block;
}

/// Blocks that have arrived are freed.
void Executor::forget_sent() {
  std::erase_if(sent_, [](const Sent& s) { return s.request->done(); });
}

void Executor::finish_sends() {
  for (Sent& s : sent_) s.request->wait();
  sent_.clear();
}

}  // namespace shardwright
