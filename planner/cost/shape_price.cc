#include "planner/cost/shape_price.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "planner/cost/node_cost.h"
#include "planner/cost/row_traffic.h"
#include "planner/divisors.h"
#include "planner/search/recompute.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

WeightBucket& bucket(std::vector<WeightBucket>& buckets, bool routed, const RankGroup& tensor_ranks) {
  for (WeightBucket& b : buckets)
    if (b.routed == routed && b.tensor_ranks == tensor_ranks) return b;
  buckets.push_back({routed, tensor_ranks, 0, 0, 0, 0});
  return buckets.back();
}

Mesh mesh_of(const Layout& layout, const Model& model) {
  auto refined = stage_mesh(layout, model);
  assert(std::holds_alternative<Mesh>(refined) && "callers reject shapes whose degrees have no common mesh");
  return std::get<Mesh>(std::move(refined));
}

Declarations declarations(const OpGraph& graph, const Layout& layout, const Mesh& mesh, const Model& model,
                          const Workload& workload) {
  Declarations says = declare(graph, layout, mesh);
  says.gather_again = workload.memory.gather_again;
  const bool even = workload.expert_load.kind == ExpertLoad::Kind::balanced || workload.capacity_factor > 0;
  if (layout.expert == 1 || even) return says;
  says.fullest.assign(graph.dims().size(), 1);
  says.fullest[static_cast<std::size_t>(graph.find_dim("expert"))] = busiest_part(
      relative_loads(workload.expert_load, model.n_routed_experts, model.num_experts_per_tok), layout.expert);
  return says;
}

/// All that a derivation looks at besides the graph.
std::string text_of(const Mesh& mesh, const Declarations& says) {
  std::string text = {static_cast<char>(mesh.axes().size()), static_cast<char>(says.zero),
                      static_cast<char>(says.gather_again | says.merge_sums << 1 | says.keep_parameters << 2)};
  const auto set = [&](AxisSet axes) {
    text.push_back(static_cast<char>(axes & 0xFF));
    text.push_back(static_cast<char>(axes >> 8));
  };
  const auto tuple = [&](const AxisTuple& axes) {
    text.push_back(static_cast<char>(axes.size()));
    for (AxisId a : axes) text.push_back(static_cast<char>(a));
  };
  for (const AxisTuple& axes : says.home) tuple(axes);
  for (const AxisTuple& axes : says.stream) tuple(axes);
  for (const Placement& used : says.weight_use) {
    for (const AxisTuple& axes : used.dims) tuple(axes);
    set(used.partial);
  }
  for (AxisSet axes : says.shard_axes) set(axes);
  for (const Declarations::Pin& pin : says.pins) {
    text += std::to_string(pin.op) + (pin.shared ? '=' : '~') + std::to_string(pin.dim) + ':';
    tuple(pin.axes);
  }
  return text;
}

}  // namespace

TrainingFormats at_the_ends(TrainingFormats formats) {
  if (bytes_per_element(formats.compute) < 2) formats.compute = DataType::bf16;
  if (bytes_per_element(formats.parameter) < 2) formats.parameter = DataType::bf16;
  return formats;
}

DerivedGraphs::Derived::Derived(const OpGraph& graph, ShardedGraph any_size)
    : graph_(graph), any_size_(std::move(any_size)) {
  for (const Node& n : any_size_.nodes) modules_ |= modules_of(n.region);
}

const BackwardPlan& DerivedGraphs::Derived::plan(const Recompute& choice) {
  const unsigned again = choice.full ? 1u << kRecomputeModules : choice.modules & modules_;
  const std::lock_guard lock(mutex_);
  auto known = plans_.find(again);
  if (known == plans_.end()) known = plans_.emplace(again, plan_backward(graph_, any_size_, choice)).first;
  return known->second;
}

const MadeTogether& DerivedGraphs::Derived::made_together(MergedProducts merges) {
  const std::lock_guard lock(mutex_);
  auto known = made_together_.find(merges);
  if (known == made_together_.end())
    known = made_together_.emplace(merges, MadeTogether(graph_, any_size_, merges)).first;
  return known->second;
}

DerivedGraphs::Derived& DerivedGraphs::of(const OpGraph& graph, const std::vector<std::int64_t>& extents,
                                          const Mesh& mesh, const Declarations& declarations) {
  std::pair key(&graph, text_of(mesh, declarations));
  {
    const std::lock_guard lock(mutex_);
    if (auto known = known_.find(key); known != known_.end()) return *known->second;
  }
  auto derived = std::make_unique<Derived>(graph, shard(graph, extents, mesh, declarations));
  const std::lock_guard lock(mutex_);
  return *known_.try_emplace(std::move(key), std::move(derived)).first->second;
}

GraphPricer::GraphPricer(DerivedGraphs& derived, const OpGraph& graph, const Model& model, const Machine& machine,
                         const Workload& workload, const TrainingFormats& formats, const Engine& engine,
                         const Shape& shape)
    : graph_(graph),
      workload_(workload),
      layout_(sample_layout(part_that_matters(graph, shape))),
      mesh_(mesh_of(layout_, model)),
      says_(declarations(graph, layout_, mesh_, model, workload)),
      extents_(layout_extents(graph, layout_, workload.sequence_length)),
      context_{graph_,
               extents_,
               mesh_,
               machine,
               formats,
               graph.find_dim("key_sequence"),
               graph.find_dim("expert"),
               row_crossing(model, layout_, mesh_, machine),
               engine.constants_of_its_host(),
               engine.adds_gradients && workload.memory.weight_gradients != WeightGradients::apart,
               engine.merges_products,
               engine.collects_by_layer,
               engine.own_kernels,
               engine.sums_beside_weight_gradients},
      derived_(derived.of(graph, extents_, mesh_, says_)),
      sharded_(derived_.any_size()),
      traffic_(traffic_of_nodes(context_, sharded_)),
      host_work_(host_work(graph, mesh_, sharded_, workload.cuda_graphs,
                           workload.capacity_factor == 0 && engine.counts_rows_on_host(shape.dispatcher),
                           derived_.made_together(engine.merges_products))),
      casts_(narrow_products(graph, sharded_, formats)),
      forward_(sharded_.forward_nodes),
      overlap_(shape.overlap) {
  layout_.micro_batch = 0;
  context_.made_together = &derived_.made_together(engine.merges_products);
  std::iota(forward_.begin(), forward_.end(), 0);
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) one_by_one_ = one_by_one_ && !may_hide(i);
}

bool GraphPricer::may_hide(std::size_t node) const {
  const Node& n = sharded_.nodes[node];
  return n.ring != 0 || may_run_beside(context_, n, traffic_[node], overlap_);
}

void GraphPricer::size_for(std::int64_t micro_batch) {
  if (layout_.micro_batch == micro_batch) return;
  layout_.micro_batch = static_cast<int>(micro_batch);
  extents_ = layout_extents(graph_, layout_, workload_.sequence_length);
  resize(sharded_, graph_, extents_, mesh_, says_);
  costs_.clear();
}

namespace {

int most_index(const std::vector<Recompute>& choices) {
  int most = 0;
  for (const Recompute& choice : choices) most = std::max(most, index_of(choice));
  return most;
}

/// `passes` of every choice, by index_of; those that run the same again are made once.
template <typename Pass, typename PlanOf, typename Make>
std::vector<Pass> for_each_choice(const std::vector<Recompute>& choices, const PlanOf& plan_of, const Make& make) {
  std::vector<Pass> passes(static_cast<std::size_t>(most_index(choices)) + 1);
  std::vector<std::pair<const BackwardPlan*, std::size_t>> known;
  for (const Recompute& choice : choices) {
    const auto at = static_cast<std::size_t>(index_of(choice));
    const BackwardPlan& plan = plan_of(choice);
    const auto alike = std::find_if(known.begin(), known.end(), [&](const auto& k) { return k.first == &plan; });
    if (alike != known.end()) {
      passes[at] = passes[alike->second];
      continue;
    }
    passes[at] = make(plan);
    known.push_back({&plan, at});
  }
  return passes;
}

}  // namespace

void GraphPricer::cost_for(int micro_batch) {
  size_for(micro_batch);
  if (costs_.empty()) costs_ = node_costs(context_, sharded_);
}

PassPieces GraphPricer::forward_pieces(int micro_batch) {
  cost_for(micro_batch);
  return pass_pieces(context_, sharded_, costs_, traffic_, forward_, overlap_);
}

PassPieces GraphPricer::backward_pieces(int micro_batch, const Recompute& choice) {
  cost_for(micro_batch);
  return pass_pieces(context_, sharded_, costs_, traffic_, derived_.plan(choice).order, overlap_);
}

std::vector<TraceSpan> GraphPricer::trace(const PassPieces& pass, const std::string& device) const {
  const Timeline timeline = play_streams(pass.pieces);
  std::vector<TraceSpan> spans;
  for (std::size_t i = 0; i < pass.pieces.size(); ++i) {
    const Piece& piece = pass.pieces[i];
    const Span& span = timeline.spans[i];
    if (span.end == span.start) continue;
    const Node& n = sharded_.nodes[static_cast<std::size_t>(pass.nodes[i])];
    std::string name = n.op >= 0 ? graph_.op(n.op).name : "stream";
    if (n.phase == Phase::input_gradient) name += ", gradient";
    if (n.phase == Phase::weight_gradient) name += ", weight gradient";
    const bool computes = piece.streams == bit(Stream::compute);
    const char* stream = computes ? "compute" : piece.streams & bit(Stream::network) ? "network" : "links of the node";
    const std::string kind = computes ? "compute" : std::string(name_of(static_cast<Traffic>(piece.kind)));
    spans.push_back({device, stream, name, kind, span.start, span.end});
  }
  return spans;
}

PassTime GraphPricer::time_of(const std::vector<NodeId>& order) const {
  PassTime t = one_by_one_ ? pass_time(costs_, traffic_, order)
                           : pass_time(pass_pieces(context_, sharded_, costs_, traffic_, order, overlap_));
  const Seconds device = t.total;
  t.total = host_time(order).total(device);
  t.host = t.total - device;
  return t;
}

GraphPricer::HostTime GraphPricer::host_time(const std::vector<NodeId>& order) const {
  double launches = 0, waits = 0;
  for (NodeId n : order) {
    const HostWork& work = host_work_[static_cast<std::size_t>(n)];
    launches += work.launches;
    waits += work.waits;
  }
  const double slower = context_.machine.host_slowdown;
  return {slower * launches * context_.constants.seconds(EngineConstant::host_seconds_per_kernel),
          slower * waits * context_.constants.seconds(EngineConstant::moe_host_seconds)};
}

GraphPrice GraphPricer::price(int micro_batch, const std::vector<Recompute>& choices) {
  cost_for(micro_batch);
  GraphPrice result = weights();
  const PassTime forward = time_of(forward_);
  TimeError forward_error;
  for (NodeId n : forward_) forward_error += costs_[static_cast<std::size_t>(n)].error;
  const std::vector<ValueBytes> wide = sizes();
  const auto plan_of = [&](const Recompute& choice) -> const BackwardPlan& { return derived_.plan(choice); };
  result.passes = for_each_choice<PassPrice>(choices, plan_of, [&](const BackwardPlan& backward) {
    PassPrice pass;
    pass.in_forward = forward;
    pass.in_backward = time_of(backward.order);
    pass.error = forward_error;
    for (NodeId n : backward.order) {
      const NodeCost& cost = costs_[static_cast<std::size_t>(n)];
      pass.error += cost.error;
      if (sharded_.nodes[static_cast<std::size_t>(n)].phase == Phase::weight_gradient)
        pass.weight_gradient += cost.compute + cost.communication;
    }
    // What the host adds it adds evenly.
    const Seconds total = pass.in_backward.total, device = total - pass.in_backward.host;
    if (pass.in_backward.host > Seconds{}) pass.weight_gradient = (total / device) * pass.weight_gradient;
    pass.weight_gradient = std::min(pass.weight_gradient, total);
    const std::vector<ValueBytes> saved = sizes_of(backward, wide);
    pass.need = activation_need(sharded_, backward, saved);
    return pass;
  });
  return result;
}

std::vector<AskedKernel> GraphPricer::asked(int micro_batch, const Recompute& choice) {
  size_for(micro_batch);
  std::vector<AskedKernel> all;
  for (const std::vector<NodeId>* order : {&std::as_const(forward_), &derived_.plan(choice).order}) {
    for (NodeId n : *order) {
      const auto i = static_cast<std::size_t>(n);
      for (AskedKernel& kernel : asked_kernels(context_, sharded_, sharded_.nodes[i])) all.push_back(std::move(kernel));
    }
  }
  return all;
}

std::optional<std::vector<MostMoved>> GraphPricer::most_hidden() const {
  std::vector<MostMoved> most(sharded_.nodes.size());
  if (one_by_one_) return most;
  std::vector<double> shares;  // of the global batch, that a micro-batch may have
  for (int parts : divisors(workload_.global_batch)) shares.push_back(1.0 / parts);
  MostMoves moves(std::move(shares));
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) {
    const Node& n = sharded_.nodes[i];
    if (n.phase != Phase::weight_gradient || !may_hide(i)) continue;
    const std::optional<MostMoved> moved = n.ring ? std::nullopt : moves.of(context_, sharded_, n);
    if (!moved) return std::nullopt;
    most[i] = *moved;
  }
  return most;
}

GraphPricer::AroundRings GraphPricer::around_rings(const std::vector<NodeId>& order) const {
  const auto node = [&](int i) -> const Node& {
    return sharded_.nodes[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
  };
  std::vector<int> rings;
  for (int i = 0; i < std::ssize(order); ++i) {
    if (node(i).ring) rings.push_back(i);
    const auto traffic = traffic_[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    if (may_run_beside(context_, node(i), traffic, overlap_)) return {};
  }
  if (rings.empty()) return {};
  std::vector<int> made(sharded_.values.size(), -1);  // by value: the last piece that it waits for, by place in `order`
  int last_before = -1;
  for (int i = 0; i <= rings.front(); ++i) {
    int waits_for = -1;
    for (ValueId v : node(i).inputs) waits_for = std::max(waits_for, made[static_cast<std::size_t>(v)]);
    last_before = waits_for;
    const bool is_piece = node(i).kind == Node::Kind::compute ||
                          traffic_[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] >= 0;
    const bool sends = is_piece && node(i).kind != Node::Kind::gather_parameter;
    for (ValueId v : node(i).outputs) made[static_cast<std::size_t>(v)] = sends ? i : waits_for;
  }
  AroundRings around;
  around.nodes.assign(order.begin(), order.begin() + last_before + 1);
  // What waits for a ring, and of that, what the next one waits for.
  for (std::size_t r = 0; r < rings.size();) {
    around.rings.push_back(order[static_cast<std::size_t>(rings[r])]);
    std::vector<char> after(sharded_.values.size());
    for (ValueId v : node(rings[r]).outputs) after[static_cast<std::size_t>(v)] = 1;
    std::vector<int> waiting;
    for (int i = rings[r] + 1; i < std::ssize(order); ++i) {
      const Node& n = node(i);
      if (std::none_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return after[static_cast<std::size_t>(v)]; }))
        continue;
      waiting.push_back(i);
      for (ValueId v : n.outputs) after[static_cast<std::size_t>(v)] = 1;
    }
    std::size_t next = r + 1;
    while (next < rings.size() && !std::binary_search(waiting.begin(), waiting.end(), rings[next])) ++next;
    if (next < rings.size()) {
      std::vector<char> before(sharded_.values.size());
      for (ValueId v : node(rings[next]).inputs) before[static_cast<std::size_t>(v)] = 1;
      std::vector<int> between;
      for (auto i = waiting.rbegin(); i != waiting.rend(); ++i) {
        const Node& n = node(*i);
        if (*i >= rings[next] || std::none_of(n.outputs.begin(), n.outputs.end(),
                                              [&](ValueId v) { return before[static_cast<std::size_t>(v)]; }))
          continue;
        between.push_back(*i);
        for (ValueId v : n.inputs) before[static_cast<std::size_t>(v)] = 1;
      }
      waiting = std::move(between);
    }
    for (int i : waiting)
      if (next < rings.size() || !node(i).ring) around.nodes.push_back(order[static_cast<std::size_t>(i)]);
    r = next;
  }
  return around;
}

std::vector<LeastPass> GraphPricer::least(const std::vector<Recompute>& choices) {
  size_for(workload_.global_batch);
  std::vector<LeastPass::Time> costs, sent(sharded_.nodes.size());  // by node; sent: of rings
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) {
    const Node& n = sharded_.nodes[i];
    costs.push_back({});
    if (n.kind == Node::Kind::gather_parameter) continue;
    const LeastCost cost = least_cost(context_, sharded_, n);
    costs.back() = {cost.each.compute, cost.together.compute, {}, {}};
    if (n.ring) {
      const double beside = context_.constants[EngineConstant::hidden_communication_factor];
      sent[i] = {{}, {}, {}, {}, beside * cost.each.communication, beside * cost.together.communication};
    }
    if (may_hide(i)) continue;
    costs.back().each += cost.each.communication;
    costs.back().together += cost.together.communication;
  }
  const auto add_to = [](LeastPass::Time& sum, const LeastPass::Time& cost) {
    sum.each += cost.each;
    sum.together += cost.together;
  };
  const auto add_sent = [&](LeastPass::Time& sum, const std::vector<NodeId>& order) {
    const AroundRings around = around_rings(order);
    for (NodeId n : around.nodes) {
      sum.sent_each += costs[static_cast<std::size_t>(n)].each;
      sum.sent_together += costs[static_cast<std::size_t>(n)].together;
    }
    for (NodeId n : around.rings) {
      sum.sent_each += sent[static_cast<std::size_t>(n)].sent_each;
      sum.sent_together += sent[static_cast<std::size_t>(n)].sent_together;
    }
  };
  const auto add_pass = [&](LeastPass::Time& pass, const std::vector<NodeId>& order) {
    for (NodeId n : order) add_to(pass, costs[static_cast<std::size_t>(n)]);
    add_sent(pass, order);
    const HostTime host = host_time(order);
    pass.host = host.launches;
    pass.waits = host.waits;
  };
  LeastPass::Time forward;
  add_pass(forward, forward_);
  const std::optional<std::vector<MostMoved>> hidden = most_hidden();
  const std::vector<ValueBytes> wide = sizes();
  const auto plan_of = [&](const Recompute& choice) -> const BackwardPlan& { return derived_.plan(choice); };
  return for_each_choice<LeastPass>(choices, plan_of, [&](const BackwardPlan& backward) {
    LeastPass least;
    least.forward = forward;
    add_pass(least.backward, backward.order);
    if (hidden) {
      for (NodeId id : backward.order) {
        const auto n = static_cast<std::size_t>(id);
        if (sharded_.nodes[n].phase != Phase::weight_gradient) add_to(least.gradient, costs[n]);
        least.gradient.each -= (*hidden)[n].each;
        least.gradient.together -= (*hidden)[n].together;
      }
    }
    const std::vector<ValueBytes> saved = sizes_of(backward, wide);
    for (ValueId v : backward.saved) least.saved += saved[static_cast<std::size_t>(v)].allocated;
    least.for_weights = kept_for_weights(sharded_, backward, saved).allocated;
    return least;
  });
}

std::vector<LeastPass> GraphPricer::least_at(int micro_batch, const std::vector<Recompute>& choices,
                                             std::vector<LeastPass> least) {
  cost_for(micro_batch);
  std::vector<Seconds> seconds;
  for (std::size_t i = 0; i < costs_.size(); ++i) {
    seconds.push_back(costs_[i].compute + (may_hide(i) ? Seconds{} : costs_[i].communication));
  }
  const double beside = context_.constants[EngineConstant::hidden_communication_factor];
  const auto sum_of = [&](const std::vector<NodeId>& order) {
    Seconds sum, sent;
    for (NodeId n : order) sum += seconds[static_cast<std::size_t>(n)];
    const AroundRings around = around_rings(order);
    for (NodeId n : around.nodes) sent += seconds[static_cast<std::size_t>(n)];
    for (NodeId n : around.rings) {
      const NodeCost& cost = costs_[static_cast<std::size_t>(n)];
      sent += std::max(cost.compute, beside * cost.communication);
    }
    return std::max(sum, (1 - 1e-12) * sent);
  };
  const Seconds forward = sum_of(forward_);
  const BackwardPlan* before = nullptr;
  Seconds backward, gradient;
  for (const Recompute& choice : choices) {
    const BackwardPlan& plan = derived_.plan(choice);
    if (&plan != before) {
      backward = sum_of(plan.order);
      gradient = backward;  // less what is a weight gradient's, moves that hide, too: PassPrice::weight_gradient
      for (NodeId n : plan.order) {
        const NodeCost& cost = costs_[static_cast<std::size_t>(n)];
        if (sharded_.nodes[static_cast<std::size_t>(n)].phase == Phase::weight_gradient)
          gradient -= cost.compute + cost.communication;
      }
      gradient = std::max(Seconds{}, gradient - 1e-12 * backward);
    }
    before = &plan;
    LeastPass& pass = least[static_cast<std::size_t>(index_of(choice))];
    pass.forward.each = forward;
    pass.backward.each = backward;
    pass.gradient.each = gradient;
    pass.forward.together = pass.backward.together = pass.gradient.together = {};
    pass.forward.sent_each = pass.forward.sent_together = {};
    pass.backward.sent_each = pass.backward.sent_together = {};
  }
  return least;
}

/// The embedding's gradient is a table that autograd makes, whatever the framework.
std::vector<ValueBytes> GraphPricer::sizes() const {
  const bool is_head = graph_.stream_in >= 0 && graph_.stream_out < 0, is_embedding = graph_.stream_in < 0;
  const WeightGradients made = workload_.memory.weight_gradients;
  const bool apart =
      is_embedding || made == WeightGradients::apart || (is_head && made == WeightGradients::placeholders);
  return value_bytes(graph_, sharded_, context_.formats, apart);
}

std::vector<ValueBytes> GraphPricer::sizes_of(const BackwardPlan& plan, std::vector<ValueBytes> sizes) const {
  save_narrow(graph_, sharded_, plan, casts_, context_.formats, workload_.memory, sizes);
  return sizes;
}

std::vector<char> GraphPricer::read_narrow() const {
  std::vector<char> narrow(graph_.tensors().size());
  for (std::size_t i = 0; i < sharded_.forward_nodes; ++i)
    if (casts_[i]) narrow[static_cast<std::size_t>(sharded_.value(sharded_.nodes[i].inputs[1]).tensor)] = 1;
  return narrow;
}

std::vector<std::pair<std::string, Bytes>> GraphPricer::matrices() {
  if (layout_.micro_batch == 0) size_for(1);
  std::vector<std::pair<std::string, Bytes>> result;
  for (const WeightState& w : sharded_.weights) {
    const Tensor& t = graph_.tensor(w.tensor);
    if (t.dims.size() < 2) continue;
    const std::int64_t experts =
        is_of_expert(graph_, t) ? extents_[t.dims[0]] / mesh_.size_of(sharded_.value(w.value).placement.dims[0]) : 1;
    const double width = std::max(2.0, bytes_per_element(context_.formats.parameter));
    result.push_back(
        {t.name, Bytes{static_cast<std::int64_t>(static_cast<double>(w.used_elements / experts) * width)}});
  }
  return result;
}

GraphPrice GraphPricer::weights() {
  if (layout_.micro_batch == 0) size_for(1);
  GraphPrice result;
  std::vector<char> forward(graph_.tensors().size()), backward(graph_.tensors().size());
  for (std::size_t i = 0; i < sharded_.nodes.size(); ++i) {
    const Node& n = sharded_.nodes[i];
    if (n.kind != Node::Kind::gather_parameter) continue;
    const TensorId t = sharded_.value(n.inputs[0]).tensor;
    (i < sharded_.forward_nodes ? forward : backward)[static_cast<std::size_t>(t)] = 1;
  }
  const std::vector<char> narrow = read_narrow();
  const auto tensor = static_cast<AxisSet>(set_of(mesh_.tuple("tp.kv")) | set_of(mesh_.tuple("tp.rep")));
  for (const WeightState& w : sharded_.weights) {
    AxisSet reduced = 0;
    for (int i = 0; i < w.reduction.count; ++i) reduced = static_cast<AxisSet>(reduced | w.reduction.steps[i].axes);
    const bool routed = is_of_expert(graph_, graph_.tensor(w.tensor));
    WeightBucket& b =
        bucket(result.buckets, routed, routed ? RankGroup{} : mesh_.group(static_cast<AxisSet>(reduced & tensor)));
    b.elements += w.used_elements;
    const auto t = static_cast<std::size_t>(w.tensor);
    if (forward[t]) b.gathered_forward += w.used_elements;
    if (backward[t]) b.gathered_backward += w.used_elements;
    if (graph_.tensors()[t].name == "embed_tokens") result.tied_elements += w.used_elements;
    if (narrow[t]) result.narrow_elements += w.used_elements;
    b.matrices += is_matrix_of_its_own(w.tensor);
  }
  return result;
}

bool GraphPricer::is_matrix_of_its_own(TensorId weight) const {
  for (OpId op = 0; op < static_cast<OpId>(graph_.ops().size()); ++op) {
    const Operator& o = graph_.op(op);
    if (o.kind == OpKind::gather && o.inputs[0].tensor == weight) return true;
    if (o.kind == OpKind::contraction && o.inputs[1].tensor == weight)
      return merged_products(graph_, op, context_.merges_products).front() == op;
  }
  return false;
}

std::vector<GraphPricer::WeightTensor> GraphPricer::weight_tensors() {
  if (layout_.micro_batch == 0) size_for(1);
  const std::vector<char> narrow = read_narrow();
  std::vector<WeightTensor> tensors;
  for (const WeightState& w : sharded_.weights) {
    const Tensor& tensor = graph_.tensor(w.tensor);
    tensors.push_back(
        {tensor.name, w.used_elements, is_of_expert(graph_, tensor), narrow[static_cast<std::size_t>(w.tensor)] != 0});
  }
  return tensors;
}

std::vector<GraphPricer::SavedTensor> GraphPricer::saved_tensors(int micro_batch, const Recompute& choice) {
  size_for(micro_batch);
  std::vector<SavedTensor> tensors;
  const BackwardPlan& plan = derived_.plan(choice);
  const std::vector<ValueBytes> known = sizes_of(plan, sizes());
  for (ValueId v : plan.saved)
    tensors.push_back({graph_.tensor(sharded_.value(v).tensor).name, known[static_cast<std::size_t>(v)].allocated});
  return tensors;
}

ShapePricer::ShapePricer(DerivedGraphs& derived, const ModelGraphs& graphs, const Model& model, const Machine& machine,
                         const Workload& workload, const Engine& engine, const Shape& shape, SharedPrices* shared)
    : derived_(derived),
      graphs_(graphs),
      model_(model),
      machine_(machine),
      workload_(workload),
      engine_(engine),
      shape_(shape),
      shared_(shared),
      pricers_(2 + graphs.layer_classes.size()) {}

const OpGraph& ShapePricer::graph(std::size_t i) const {
  return i == 0 ? graphs_.embedding : i == 1 ? graphs_.head : graphs_.layer_classes[i - 2];
}

GraphPricer& ShapePricer::of_graph(std::size_t i) {
  if (!pricers_[i])
    pricers_[i] =
        std::make_unique<GraphPricer>(derived_, graph(i), model_, machine_, workload_,
                                      i < 2 ? at_the_ends(workload_.formats) : workload_.formats, engine_, shape_);
  return *pricers_[i];
}

Bytes ShapePricer::stream(int micro_batch) const {
  const std::int64_t cut = std::int64_t{shape_.context} * (shape_.sequence_parallel ? shape_.tensor : 1);
  return {micro_batch * (workload_.sequence_length / cut) * model_.hidden_size *
          (bytes_per_element(workload_.formats.compute) >= 4 ? 4 : 2)};
}

template <typename T, typename Make>
T ShapePricer::of(std::size_t graph, int micro_batch, const std::vector<Recompute>& choices,
                  std::map<std::pair<const OpGraph*, Shape>, T> SharedPrices::*kind, const Make& make) {
  static const std::vector<Recompute> none = {Recompute{}};
  const std::vector<Recompute>& asked = graph < 2 ? none : choices;
  if (!shared_) return make(of_graph(graph), asked);
  Shape part = part_that_matters(this->graph(graph), shape_);
  part.micro_batch = shape_.micro_batch;
  if (part == shape_) return make(of_graph(graph), asked);
  const std::vector<Recompute>& all = graph < 2 ? none : shared_->choices();
  const auto listed = [&](const Recompute& r) { return std::find(all.begin(), all.end(), r) != all.end(); };
  if (!std::all_of(asked.begin(), asked.end(), listed)) return make(of_graph(graph), asked);
  part.micro_batch = micro_batch;
  return shared_->find(this->graph(graph), part, kind, [&] { return make(of_graph(graph), all); });
}

ShapePrice ShapePricer::price(int micro_batch, const std::vector<Recompute>& choices) {
  ShapePrice price;
  const auto of_graph = [&](std::size_t i) {
    return of(i, micro_batch, choices, &SharedPrices::prices,
              [&](GraphPricer& graph, const std::vector<Recompute>& some) { return graph.price(micro_batch, some); });
  };
  price.embedding = of_graph(0);
  price.head = of_graph(1);
  for (std::size_t i = 2; i < graphs(); ++i) price.layers.push_back(of_graph(i));
  price.stream = stream(micro_batch);
  if (workload_.memory.weight_gradients == WeightGradients::placeholders) price.placeholders = placeholders();
  if (shape_.pairs) price.pairs = pairs(micro_batch, choices);
  return price;
}

std::array<Bytes, 1 << kMostLayerClasses> ShapePricer::placeholders() {
  // Matrices of one name have one shape in all classes.
  std::map<std::string, std::pair<unsigned, Bytes>> known;
  for (std::size_t i = 2; i < graphs(); ++i)
    for (const auto& [name, bytes] : of_graph(i).matrices()) {
      auto& [classes, size] = known[name];
      classes |= 1u << (i - 2);
      size = bytes;
    }
  std::array<Bytes, 1 << kMostLayerClasses> result = {};
  for (std::size_t set = 0; set < result.size(); ++set)
    for (const auto& [name, matrix] : known)
      if (matrix.first & set) result[set] += matrix.second;
  return result;
}

std::vector<std::vector<Seconds>> ShapePricer::pairs(int micro_batch, const std::vector<Recompute>& choices) {
  std::vector<PassPieces> forward;
  std::vector<GraphPricer::HostTime> forward_host;
  for (std::size_t i = 2; i < graphs(); ++i) {
    forward.push_back(of_graph(i).forward_pieces(micro_batch));
    forward_host.push_back(of_graph(i).forward_host());
  }
  std::vector<std::vector<Seconds>> all(static_cast<std::size_t>(most_index(choices)) + 1);
  for (const Recompute& choice : choices) {
    std::vector<PassPieces> backward;
    for (std::size_t i = 2; i < graphs(); ++i) backward.push_back(of_graph(i).backward_pieces(micro_batch, choice));
    for (std::size_t f = 0; f < forward.size(); ++f)
      for (std::size_t b = 0; b < backward.size(); ++b) {
        const GraphPricer::HostTime host = forward_host[f] + of_graph(b + 2).backward_host(choice);
        all[static_cast<std::size_t>(index_of(choice))].push_back(
            host.total(pass_time(paired(forward[f], backward[b])).total));
      }
  }
  return all;
}

LeastPrice ShapePricer::least(const std::vector<Recompute>& choices) {
  LeastPrice least;
  const auto of_graph = [&](std::size_t i) {
    return of(i, 0, choices, &SharedPrices::least,
              [](GraphPricer& graph, const std::vector<Recompute>& some) { return graph.least(some); });
  };
  least.embedding = of_graph(0);
  least.head = of_graph(1);
  for (std::size_t i = 2; i < graphs(); ++i) least.layers.push_back(of_graph(i));
  return least;
}

LeastPrice ShapePricer::least_at(int micro_batch, const std::vector<Recompute>& choices, const LeastPrice& least) {
  LeastPrice at;
  const auto of_graph = [&](std::size_t i, const std::vector<LeastPass>& known) {
    return of(i, micro_batch, choices, &SharedPrices::least_at,
              [&](GraphPricer& graph, const std::vector<Recompute>& some) {
                return graph.least_at(micro_batch, some, known);
              });
  };
  at.embedding = of_graph(0, least.embedding);
  at.head = of_graph(1, least.head);
  for (std::size_t i = 2; i < graphs(); ++i) at.layers.push_back(of_graph(i, least.layers[i - 2]));
  return at;
}

ShapePrice price_shape(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                       const Shape& shape, const std::vector<Recompute>& choices, const Engine& engine) {
  DerivedGraphs derived;
  return ShapePricer(derived, graphs, model, machine, workload, engine, shape).price(shape.micro_batch, choices);
}

Shape part_that_matters(const OpGraph& graph, const Shape& shape) {
  Shape part = shape;
  const auto has = [&](OpKind kind) {
    return std::any_of(graph.ops().begin(), graph.ops().end(), [&](const Operator& op) { return op.kind == kind; });
  };
  if (!has(OpKind::dispatch)) {
    part.expert = part.expert_tensor = part.between = 1;
    part.dispatcher = Dispatcher::all_to_all;
    part.overlap.expert = false;
  }
  part.pairs = false;
  if (!has(OpKind::attention)) part.context_kind = ContextParallel::all_gather;
  return part;
}

Shape shape_of(const Layout& l) {
  Shape shape = {l.tensor,
                 l.context,
                 l.micro_batch,
                 l.sequence_parallel,
                 l.context > 1 ? l.context_kind : ContextParallel::all_gather,
                 l.expert,
                 l.expert_tensor,
                 l.expert > 1 ? l.dispatcher : Dispatcher::all_to_all,
                 1,
                 {l.overlap.has(Overlap::tp), l.overlap.has(Overlap::ep) || l.overlap.has(Overlap::shared_experts)},
                 has_pairs(l)};
  const bool crosses_data = std::int64_t{l.expert} * l.expert_tensor > std::int64_t{l.tensor} * l.context;
  if (crosses_data && l.rank_order == RankOrder::tp_cp_pp_dp) shape.between = l.pipeline;
  return shape;
}

std::vector<Recompute> recompute_choices(const Model& model) {
  const auto bit = [](RecomputeModule m) { return 1u << static_cast<int>(m); };
  unsigned modules = bit(RecomputeModule::core_attn) | bit(RecomputeModule::layernorm);
  const unsigned both = bit(RecomputeModule::moe) | bit(RecomputeModule::moe_act);
  modules |= model.n_routed_experts > 0 ? both : bit(RecomputeModule::mlp);
  if (model.kv_lora_rank > 0) modules |= bit(RecomputeModule::mla_up_proj);
  std::vector<Recompute> choices;
  for (unsigned set = 0; set < 1u << kRecomputeModules; ++set)
    if ((set & ~modules) == 0 && (set & both) != both) choices.push_back({false, static_cast<std::uint8_t>(set)});
  choices.push_back({true, 0});
  return choices;
}

int index_of(const Recompute& recompute) {
  if (recompute.full) return 1;
  return recompute.modules == 0 ? 0 : recompute.modules + 1;
}

Layout sample_layout(const Shape& shape) {
  Layout l;
  l.tensor = shape.tensor;
  l.context = shape.context;
  l.micro_batch = shape.micro_batch;
  l.sequence_parallel = shape.sequence_parallel;
  l.context_kind = shape.context_kind;
  l.expert = shape.expert;
  l.expert_tensor = shape.expert_tensor;
  l.dispatcher = shape.dispatcher;
  if (shape.between > 1) {
    l.pipeline = shape.between;
    l.rank_order = RankOrder::tp_cp_pp_dp;
  }
  const int folded = std::max(1, shape.expert * shape.expert_tensor / (shape.tensor * shape.context));  // of dp
  l.data = folded * 4;
  l.zero = 3;
  l.shard_group = 2 * folded * shape.context;
  return l;
}

}  // namespace shardwright
