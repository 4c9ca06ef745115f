#include "planner/serve/step_cost.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string_view>

#include "hardware/attention_curve.h"
#include "hardware/kernel_curves.h"
#include "hardware/moe_curve.h"
#include "planner/cost/collective_cost.h"
#include "planner/cost/kernel_cost.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

/// Up to so many new tokens a sequence latent attention is absorbed: decode, also of proposed tokens.
constexpr std::int64_t kMostAbsorbedTokens = 8;
/// DeepEP's low-latency kernels have buffers for so many tokens of a rank (README of deepseek-ai/DeepEP, 2025-08: 128).
constexpr std::int64_t kMostLowLatencyTokens = 128;

/// Multiprocessors of normal kernels of the exchange (DeepSeek-V3 report, 3.2.2; DeepEP's default).
constexpr double kExchangeMultiprocessors = 20;

double as_double(std::int64_t n) { return static_cast<double>(n); }

double exchange_share(const Machine& machine) {
  return std::min(1.0, kExchangeMultiprocessors / std::max(1, machine.multiprocessors));
}

/// Sequences in two parts; of a single one its tokens, the second part behind the first.
std::vector<Step> halves_of(const Step& step) {
  Step first, second;
  for (const SequenceGroup& g : step) {
    const std::int64_t sequences = g.sequences / 2, tokens = g.tokens / 2;
    if (sequences > 0) first.push_back({sequences, g.tokens, g.cached});
    if (g.sequences > 1) {
      second.push_back({g.sequences - sequences, g.tokens, g.cached});
      continue;
    }
    if (tokens > 0) first.push_back({1, tokens, g.cached});
    second.push_back({1, g.tokens - tokens, g.cached + tokens});
  }
  return {first, second};
}

bool is_latent_projection(const OpGraph& graph, const Operator& op) {
  return std::any_of(op.inputs.begin(), op.inputs.end(), [&](const Operand& in) {
    const std::string& name = graph.tensor(in.tensor).name;
    return name.ends_with("k_b_proj") || name.ends_with("v_b_proj");
  });
}

/// Choice of experts, their products and their sum.
bool is_of_experts(const OpGraph& graph, const Operator& op) {
  if (op.kind == OpKind::route || op.kind == OpKind::dispatch || op.kind == OpKind::combine) return true;
  const Tensor& made = graph.tensor(op.outputs[0].tensor);
  return made.density < 1;
}

/// A rank's tokens with all others' that enter the same layer of experts.
std::int64_t tokens_together(const ServeLayout& layout, std::int64_t tokens) { return tokens * layout.attention_data; }

/// Every token's experts are any: of an expert's tokens, those that come in the mean, and of a rank's experts, those
/// that any comes to. The busiest rank has the standard deviations more that the largest of `ep` normal numbers has.
RankLoad random_load(const MoeLayerSpec& spec) {
  const double tokens = as_double(spec.tokens), topk = as_double(spec.num_experts_per_tok);
  const double experts = as_double(spec.n_routed_experts), ep = as_double(spec.ep);
  const double rows = tokens * topk / ep, above = spec.ep > 1 ? std::sqrt(2 * std::log(ep)) : 0;
  const double hit = experts / ep * -std::expm1(tokens * std::log1p(-std::min(topk / experts, 1 - 1e-9)));
  return {std::max(1.0, std::min(rows + above * std::sqrt(rows), tokens * std::min(topk, experts / ep))),
          std::max(1.0, hit)};
}

/// An engine's own all-reduce where no table has it: two passes of its parts, at this share of the links' rate and with
/// this start. Estimates: of NVLink 4 such kernels reach 0.6 to 0.75 (hardware/fabrics/collectives.yaml).
constexpr double kPlainLinkShare = 0.6, kPlainStart = 15e-6;

KernelCost engine_collective(CollectiveSpec spec, CollectiveAlgorithm all_reduce, const Machine& machine) {
  const bool own = spec.kind == CollectiveKind::all_reduce && all_reduce != CollectiveAlgorithm::nccl;
  if (!own) return collective_cost(spec, machine);
  spec.algorithm = all_reduce;
  KernelCost cost = collective_cost(spec, machine);
  const LinkLevel& unit = machine.links.front();
  const auto ranks = as_double(spec.group.size());
  const bool inside = unit.gpus == 0 || spec.group.members_within(unit.gpus) == spec.group.size();
  if (!inside || ranks < 2 || has_curve(spec, machine) || cost.source != CostSource::datasheet) return cost;
  const double bytes = 2 * (ranks - 1) / ranks * as_double(spec.held.value);
  cost.time = std::min(cost.time, Seconds{kPlainStart + bytes / (unit.bandwidth.value * kPlainLinkShare)});
  cost.relative_error = std::max(cost.relative_error, 0.3);
  return cost;
}

}  // namespace

std::int64_t tokens_of(const Step& step) {
  std::int64_t n = 0;
  for (const SequenceGroup& g : step) n += g.sequences * g.tokens;
  return n;
}

std::int64_t sequences_of(const Step& step) {
  std::int64_t n = 0;
  for (const SequenceGroup& g : step) n += g.sequences;
  return n;
}

void StepCost::add(double times, const StepCost& other) {
  for (Seconds StepCost::*part : {&StepCost::products, &StepCost::experts, &StepCost::attention, &StepCost::memory,
                                  &StepCost::collectives, &StepCost::exchange, &StepCost::hidden})
    this->*part += times * (other.*part);
  kernels += times * other.kernels;
  error += times * other.error;
  sources.add(times, other.sources);
}

// ---- One graph ----

class StepPricer::Graph {
 public:
  enum class Role { embedding, layer, head };

  Graph(const OpGraph& graph, const StepPricer& of, Role role, bool sequence_parallel = false)
      : g_(graph),
        of_(of),
        role_(role),
        layout_(of.layout_of_stage(sequence_parallel)),
        mesh_(std::get<Mesh>(stage_mesh(layout_, of.model_))),
        says_(declarations()),
        extents_(extents(1, 1, 1)),
        sharded_(shard(g_, extents_, mesh_, says_)),
        context_{g_, extents_, mesh_, of.machine_, {}, g_.find_dim("key_sequence"), g_.find_dim("expert"),
                 1,  {},       false} {
    find_kernels();
  }
  Graph(const Graph&) = delete;

  /// What sees all of a step's tokens at once.
  StepCost shared(std::int64_t tokens) {
    size(1, tokens, tokens);
    StepCost cost;
    for (const Kernel& k : kernels_)
      if (!k.by_group) price(k, tokens, cost);
    return cost;
  }
  /// What sees each group by itself.
  StepCost of_group(const SequenceGroup& group) {
    StepCost cost;
    for (const Kernel& k : kernels_) {
      if (!k.by_group) continue;
      if (k.kind == Kind::attention) {
        size(group.sequences, group.tokens, group.cached + group.tokens);
        price_attention(k, group, cost);
      } else {
        // Cached latents are projected up again with the new ones; absorbed, only what is new is projected.
        const std::int64_t each = absorbed() ? group.tokens : group.tokens + group.cached;
        size(1, group.sequences * each, group.sequences * each);
        price(k, group.sequences * each, cost);
      }
    }
    return cost;
  }

  std::vector<StepCollective> collectives(std::int64_t tokens) {
    size(1, tokens, tokens);
    std::vector<StepCollective> all;
    for (const Kernel& k : kernels_) {
      if (k.kind != Kind::collective) continue;
      const Node& n = node(k.nodes.front());
      for (const AskedKernel& asked : asked_kernels(context_, sharded_, n))
        if (const auto* spec = std::get_if<CollectiveSpec>(&asked.spec))
          all.push_back({n.op >= 0 ? g_.op(n.op).name : "stream", *spec});
    }
    return all;
  }

  Bytes weights() {
    double bytes = 0;
    for (const WeightState& w : sharded_.weights) {
      const Tensor& t = g_.tensor(w.tensor);
      const bool experts = is_of_expert(g_, t),
                 kept_wide = role_ != Role::layer || t.dims.size() < 2 || t.name == "router";
      const WeightFormat format = experts ? of_.formats_.experts : of_.formats_.weights;
      bytes += as_double(w.used_elements) * (kept_wide ? 2 : bytes_per_element(product_format(format).weights));
    }
    return {static_cast<std::int64_t>(std::ceil(bytes))};
  }

  /// Elements of keys and values of one token, as attention reads them.
  std::int64_t kv_elements() {
    size(1, 1, 1);
    std::int64_t elements = 0;
    for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) {
      const Node& n = sharded_.nodes[i];
      if (n.kind != Node::Kind::compute || g_.op(n.op).kind != OpKind::attention) continue;
      const Operator& op = g_.op(n.op);
      std::vector<ValueId> counted;
      for (int k = op.score_parts; k <= 2 * op.score_parts; ++k) {
        const ValueId v = n.inputs[static_cast<std::size_t>(k)];
        if (std::find(counted.begin(), counted.end(), v) != counted.end()) continue;
        counted.push_back(v);
        elements += sharded_.value(v).elements;
      }
    }
    return elements;
  }
  std::int64_t window() const {
    for (const Operator& op : g_.ops())
      if (op.kind == OpKind::attention) return std::max(op.window, op.chunk);
    return 0;
  }

  /// The most that is alive at once, from its making to its last reading.
  Bytes most_alive(std::int64_t tokens) {
    size(1, tokens, tokens);
    std::vector<std::size_t> last(sharded_.values.size(), 0);
    for (std::size_t i = 0; i < sharded_.forward_nodes; ++i)
      for (ValueId v : sharded_.nodes[i].inputs) last[static_cast<std::size_t>(v)] = i;
    std::int64_t alive = 0, most = 0;
    const auto bytes = [&](ValueId v) {
      const Value& value = sharded_.value(v);
      return g_.tensor(value.tensor).role == TensorRole::weight ? 0 : bytes_of(g_, value, context_.formats).value;
    };
    for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) {
      const Node& n = sharded_.nodes[i];
      for (ValueId v : n.outputs) alive += bytes(v);
      most = std::max(most, alive);
      for (ValueId v : n.inputs)
        if (last[static_cast<std::size_t>(v)] == i && sharded_.value(v).maker >= 0) {
          alive -= bytes(v);
          last[static_cast<std::size_t>(v)] = sharded_.forward_nodes;  // once
        }
    }
    return {most};
  }

 private:
  enum class Kind { product, attention, memory, experts, collective, exchange };
  struct Kernel {
    Kind kind = Kind::memory;
    std::vector<NodeId> nodes;
    bool by_group = false;
    std::vector<ValueId> reads = {}, writes = {};  // memory: what comes from outside, and what goes there
  };

  bool absorbed() const { return g_.find_tensor("q_absorbed") >= 0; }
  const Node& node(NodeId id) const { return sharded_.nodes[static_cast<std::size_t>(id)]; }

  Declarations declarations() const {
    Declarations says = declare(g_, layout_, mesh_);
    if (layout_.dispatcher != Dispatcher::all_gather) return says;
    // Tokens are gathered before they are routed, not their rows after it, also where experts themselves are cut.
    AxisTuple whole;
    const AxisSet experts = static_cast<AxisSet>(set_of(mesh_.tuple("ep")) | set_of(mesh_.tuple("etp")));
    for (AxisId a : mesh_.tuple("dp"))
      if (!(experts & bit(a))) whole.push_back(a);
    for (std::size_t i = 0; i < g_.ops().size(); ++i)
      if (g_.ops()[i].kind == OpKind::dispatch || g_.ops()[i].kind == OpKind::combine)
        says.pins.push_back({static_cast<OpId>(i), static_cast<DimId>(g_.find_dim("batch")), whole, true});
    return says;
  }

  std::vector<std::int64_t> extents(std::int64_t sequences, std::int64_t tokens, std::int64_t keys) const {
    std::vector<std::int64_t> all = layout_extents(g_, layout_, 1);
    const std::int64_t cp = std::int64_t{layout_.context} * (layout_.sequence_parallel ? layout_.tensor : 1);
    const auto divided = [cp](std::int64_t n) { return (n + cp - 1) / cp * cp; };
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::string& name = g_.dims()[i].name;
      if (name == "batch") all[i] = sequences * layout_.data;
      if (name == "sequence") all[i] = divided(tokens);
      if (name == "key_sequence") all[i] = divided(keys);
    }
    return all;
  }
  void size(std::int64_t sequences, std::int64_t tokens, std::int64_t keys) {
    std::vector<std::int64_t> wanted = extents(sequences, tokens, keys);
    if (wanted == extents_) return;
    extents_ = std::move(wanted);
    resize(sharded_, g_, extents_, mesh_, says_);
  }

  // ---- Kernels ----

  void find_kernels() {
    for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) {
      const Node& n = sharded_.nodes[i];
      const auto id = static_cast<NodeId>(i);
      if (n.kind == Node::Kind::compute && is_of_loss(g_.op(n.op))) break;
      if (n.kind == Node::Kind::reshard)
        add_move(id);
      else if (n.kind == Node::Kind::compute)
        add_operator(id);
      else
        add_memory(id);
    }
    join_ends();
    for (Kernel& k : kernels_)
      if (k.kind == Kind::memory) find_traffic(k);
  }
  static bool is_of_loss(const Operator& op) {
    return op.kind == OpKind::vocabulary_max || op.kind == OpKind::vocabulary_exp_sum ||
           op.kind == OpKind::vocabulary_pick || op.kind == OpKind::cross_entropy;
  }
  void add_move(NodeId id) {
    const Node& n = node(id);
    const bool moves = std::any_of(n.steps.steps, n.steps.steps + n.steps.count,
                                   [](const ReshardSteps::Step& s) { return s.kind != ReshardStep::slice; });
    const Tensor& t = g_.tensor(sharded_.value(n.inputs[0]).tensor);
    const bool routing_alone = t.density < 1 && t.width != Width::compute;  // travels with its tokens
    if (!moves || routing_alone) return;
    const bool rows = t.density < 1 && of_.engine_.dispatcher != Dispatcher::all_gather;
    kernels_.push_back({rows ? Kind::exchange : Kind::collective, {id}});
  }
  void add_operator(NodeId id) {
    const Node& n = node(id);
    const Operator& op = g_.op(n.op);
    if (in_epilogue(g_, n)) return;
    if (is_of_experts(g_, op)) {
      const auto known =
          std::find_if(kernels_.begin(), kernels_.end(), [](const Kernel& k) { return k.kind == Kind::experts; });
      if (known == kernels_.end())
        kernels_.push_back({Kind::experts, {id}});
      else
        known->nodes.push_back(id);
    } else if (op.kind == OpKind::attention) {
      kernels_.push_back({Kind::attention, {id}, true});
    } else if (op.kind == OpKind::contraction) {
      add_product(id);
    } else {
      add_memory(id);
    }
  }
  bool is_wide(const Operator& op) const { return g_.tensor(op.outputs[0].tensor).width != Width::compute; }
  /// Products of the same input are one.
  void add_product(NodeId id) {
    const Node& n = node(id);
    const Operator& op = g_.op(n.op);
    const bool latent = is_latent_projection(g_, op);
    for (Kernel& k : kernels_) {
      const Node& first = node(k.nodes.front());
      if (k.kind != Kind::product || first.inputs[0] != n.inputs[0] || k.by_group != latent) continue;
      const bool alike = is_wide(g_.op(first.op)) == is_wide(op) && g_.op(first.op).region == op.region;
      if (alike || (latent && k.by_group)) {
        k.nodes.push_back(id);
        return;
      }
    }
    kernels_.push_back({Kind::product, {id}, latent});
  }
  void add_memory(NodeId id) {
    if (!kernels_.empty() && kernels_.back().kind == Kind::memory)
      kernels_.back().nodes.push_back(id);
    else
      kernels_.push_back({Kind::memory, {id}});
  }
  /// A layer ends with what the next one begins with.
  void join_ends() {
    if (role_ != Role::layer || kernels_.size() < 2) return;
    if (kernels_.front().kind != Kind::memory || kernels_.back().kind != Kind::memory) return;
    Kernel last = std::move(kernels_.back());
    kernels_.pop_back();
    Kernel& first = kernels_.front();
    first.nodes.insert(first.nodes.begin(), last.nodes.begin(), last.nodes.end());
    joined_ = true;
  }
  void find_traffic(Kernel& k) {
    const auto in_run = [&](NodeId id) { return std::find(k.nodes.begin(), k.nodes.end(), id) != k.nodes.end(); };
    for (NodeId id : k.nodes) {
      for (ValueId v : node(id).inputs) {
        const bool carried = joined_ && &k == &kernels_.front() && v == sharded_.stream_in;
        const bool known = std::find(k.reads.begin(), k.reads.end(), v) != k.reads.end();
        if (!in_run(sharded_.value(v).maker) && !carried && !known) k.reads.push_back(v);
      }
      for (ValueId v : node(id).outputs) {
        bool read = false, outside = false;
        for (std::size_t i = 0; i < sharded_.forward_nodes; ++i) {
          const auto& in = sharded_.nodes[i].inputs;
          if (std::find(in.begin(), in.end(), v) == in.end()) continue;
          read = true;
          outside = outside || !in_run(static_cast<NodeId>(i));
        }
        if (outside || (!read && v == sharded_.stream_out)) k.writes.push_back(v);
      }
    }
  }

  // ---- Prices ----

  void count(const KernelCost& cost, TimeError::Family family, Seconds StepCost::*part, StepCost& into) const {
    into.*part += cost.time;
    into.error.by_family[family] += cost.time * cost.relative_error;
    into.sources[cost.source] += cost.time;
    into.kernels += 1;
  }

  void price(const Kernel& k, std::int64_t tokens, StepCost& into) {
    switch (k.kind) {
      case Kind::product:
        price_product(k, into);
        return;
      case Kind::memory:
        count(look_up(MemorySpec{traffic(k)}, of_.machine_), TimeError::memory, &StepCost::memory, into);
        return;
      case Kind::experts:
        price_experts(tokens, into);
        return;
      case Kind::collective:
        price_collective(k, into);
        return;
      case Kind::exchange:
        price_exchange(k, tokens, into);
        return;
      case Kind::attention:
        break;
    }
    assert(false && "attention is priced by group");
  }

  Bytes traffic(const Kernel& k) const {
    if (k.nodes.size() == 1 && node(k.nodes.front()).kind == Node::Kind::compute &&
        g_.op(node(k.nodes.front()).op).kind == OpKind::gather)
      return std::get<MemorySpec>(node_question(context_, sharded_, node(k.nodes.front()))).moved;
    Bytes moved;
    for (const auto* list : {&k.reads, &k.writes})
      for (ValueId v : *list) moved += bytes_of(g_, sharded_.value(v), context_.formats);
    return moved;
  }

  void price_product(const Kernel& k, StepCost& into) {
    std::optional<GemmSpec> fused;
    for (NodeId id : k.nodes) {
      const auto question = node_question(context_, sharded_, node(id));
      const auto gemm = product_of(question);
      if (!gemm) {  // a product with elements only: a pass over memory
        count(look_up(std::get<MemorySpec>(question), of_.machine_), TimeError::memory, &StepCost::memory, into);
        continue;
      }
      if (fused && fused->m == gemm->m && fused->k == gemm->k && fused->batch == gemm->batch)
        fused->n += gemm->n;
      else if (fused)
        count(clocked(*gemm), TimeError::product, &StepCost::products, into);
      else
        fused = gemm;
    }
    if (!fused) return;
    const Operator& op = g_.op(node(k.nodes.front()).op);
    const bool weight = g_.tensor(op.inputs[1].tensor).role == TensorRole::weight;
    // Absorbed projections, a product for each head, stay in 16 bits.
    if (role_ == Role::layer && weight && !is_wide(op) && fused->batch == 1) {
      const ProductFormat format = product_format(of_.formats_.weights);
      fused->type = format.compute;
      fused->weights = format.weights;
      if (format.weights == stored(format.compute)) fused->weights.reset();
      fused->scaling = format.scaling;
    }
    fused->cast = !of_.engine_.fuses_casts;
    count(clocked(*fused), TimeError::product, &StepCost::products, into);
  }

  /// Clocks that fall in a long run slow what computes, not what waits for memory: by that share of a kernel's time.
  KernelCost clocked(KernelCost cost, double longer, double bytes) const {
    const double waits = bytes / (of_.machine_.memory_bandwidth.value * cost.time.value);
    cost.time = (1 + (longer - 1) * std::max(0.0, 1 - waits)) * cost.time;
    return cost;
  }
  KernelCost clocked(const GemmSpec& spec) const {
    const double weights = bytes_per_element(spec.weights.value_or(stored(spec.type)));
    const double bytes =
        as_double(spec.batch) * (as_double(spec.m * spec.k) * bytes_per_element(spec.type) +
                                 as_double(spec.k * spec.n) * weights + as_double(spec.m * spec.n) * 2);
    return clocked(look_up(spec, of_.machine_), of_.sustained_.product[spec.type], bytes);
  }

  void price_attention(const Kernel& k, const SequenceGroup& group, StepCost& into) {
    AttentionSpec spec = std::get<AttentionSpec>(node_question(context_, sharded_, node(k.nodes.front())));
    spec.causal = group.tokens > 1;
    spec.queries_last = spec.causal && group.cached > 0;
    spec.kv_type = kernel_type(of_.formats_.kv);
    if (of_.multiplies_narrow(spec)) spec.type = DataType::fp8;
    count(clocked(look_up(spec, of_.machine_), of_.sustained_.attention, bytes_moved(spec)), TimeError::attention,
          &StepCost::attention, into);
  }

  MoeLayerSpec experts(std::int64_t tokens) const {
    const Model& m = of_.model_;
    const ProductFormat format = product_format(of_.formats_.experts);
    MoeLayerSpec spec;
    spec.tokens = tokens_together(of_.layout_, tokens);
    spec.hidden_size = m.hidden_size;
    spec.intermediate_size = m.moe_intermediate_size;
    spec.n_routed_experts = m.n_routed_experts;
    spec.num_experts_per_tok = m.num_experts_per_tok;
    spec.ep = of_.layout_.expert;
    spec.etp = of_.layout_.expert_tensor;
    spec.gated = m.gated_mlp;
    spec.type = format.compute;
    if (format.weights != stored(format.compute)) spec.weights = format.weights;
    spec.scaling = format.scaling;
    return spec;
  }
  void price_experts(std::int64_t tokens, StepCost& into) {
    const MoeLayerSpec spec = experts(tokens);
    if (of_.machine_.measured) {
      if (const auto cost = look_up(spec, of_.machine_)) {
        count(*cost, TimeError::product, &StepCost::experts, into);
        return;
      }
    }
    const RankLoad load = random_load(spec);
    const auto fitted = of_.engine_.grouped_experts ? std::nullopt : of_.machine_.curves->of_moe_layer(spec);
    if (fitted) {
      Seconds time{seconds(fitted->curve, spec, load, of_.machine_)};
      // Engines have both and take the faster (trtllm-gen's kernels in TensorRT-LLM, vLLM and SGLang on Blackwell).
      if (const auto few = of_.machine_.curves->of_min_latency_layer(spec))
        time = std::min(time, Seconds{seconds(few->curve, spec, load, of_.machine_)});
      const double error = std::hypot(fitted->relative_error(is_large(spec)), of_.machine_.efficiency.curves_error);
      const double read = load.hit *
                          as_double((spec.gated ? 3 : 2) * spec.hidden_size * spec.intermediate_size / spec.etp) *
                          bytes_per_element(spec.weights.value_or(stored(spec.type)));
      count(clocked({time, CostSource::datasheet, error}, of_.sustained_.product[spec.type], read), TimeError::product,
            &StepCost::experts, into);
      return;
    }
    // Grouped products, or no curve of such layers: the products of those experts that any row goes to.
    const auto groups = static_cast<std::int64_t>(std::ceil(load.hit));
    const auto rows = static_cast<std::int64_t>(std::ceil(load.rows / as_double(groups)));
    const std::int64_t width = spec.intermediate_size / spec.etp;
    for (const auto& [n, k] : {std::pair{(spec.gated ? 2 : 1) * width, spec.hidden_size}, {spec.hidden_size, width}}) {
      const GroupedGemmSpec products{groups, rows, n, k, spec.type, spec.weights, {}, spec.scaling};
      count(look_up(products, of_.machine_), TimeError::product, &StepCost::experts, into);
    }
    const MemorySpec between{{static_cast<std::int64_t>(load.rows * 2 * as_double(3 * width + 2 * spec.hidden_size))}};
    count(look_up(between, of_.machine_), TimeError::memory, &StepCost::experts, into);
  }

  void price_collective(const Kernel& k, StepCost& into) {
    for (const AskedKernel& asked : asked_kernels(context_, sharded_, node(k.nodes.front()))) {
      const auto* spec = std::get_if<CollectiveSpec>(&asked.spec);
      if (!spec) continue;
      count(engine_collective(*spec, of_.engine_.all_reduce, of_.machine_), TimeError::collective,
            &StepCost::collectives, into);
    }
  }

  void price_exchange(const Kernel& k, std::int64_t tokens, StepCost& into) {
    if (layout_.sequence_parallel) tokens = (tokens + layout_.tensor - 1) / layout_.tensor;
    const Node& n = node(k.nodes.front());
    const Model& m = of_.model_;
    const auto expert_axes = [&](ValueId v) {
      const Value& value = sharded_.value(v);
      const int at = g_.tensor(value.tensor).dims.find(static_cast<DimId>(context_.expert_dim));
      return at < 0 ? 0 : value.placement.dims[at].size();
    };
    MoeExchangeSpec spec;
    spec.op = expert_axes(n.outputs[0]) > expert_axes(n.inputs[0]) ? MoeExchangeOp::dispatch : MoeExchangeOp::combine;
    spec.mode = tokens <= kMostLowLatencyTokens ? MoeExchangeMode::low_latency : MoeExchangeMode::normal;
    spec.tokens = tokens;
    spec.hidden_size = m.hidden_size;
    spec.num_experts_per_tok = m.num_experts_per_tok;
    spec.n_routed_experts = m.n_routed_experts;
    spec.top_groups = m.topk_group;
    AxisSet axes = 0;
    for (int i = 0; i < n.steps.count; ++i)
      if (n.steps.steps[i].kind == ReshardStep::all_to_all) axes = static_cast<AxisSet>(axes | n.steps.steps[i].axes);
    spec.group = mesh_.group(axes);
    const auto cost = axes ? kernel_cost(spec, of_.machine_) : std::variant<KernelCost, std::string>{std::string()};
    if (const auto* known = std::get_if<KernelCost>(&cost)) {
      count(*known, TimeError::collective, &StepCost::exchange, into);
      return;
    }
    StepCost derived;  // links without such kernels: NCCL's
    price_collective(k, derived);
    derived.exchange = derived.collectives;
    derived.collectives = {};
    into.add(1, derived);
  }

  const OpGraph& g_;
  const StepPricer& of_;
  Role role_;
  Layout layout_;
  Mesh mesh_;
  Declarations says_;
  std::vector<std::int64_t> extents_;
  ShardedGraph sharded_;
  CostContext context_;
  std::vector<Kernel> kernels_;
  bool joined_ = false;
};

// ---- All graphs ----

namespace {

Model without_prediction(Model model) {
  model.num_nextn_predict_layers = 0;
  return model;
}

GraphOptions options_of(bool absorbed) {
  GraphOptions options;
  options.early_gate = false;
  options.absorbed_latent = absorbed;
  return options;
}

/// Kernels of a serving step run by themselves: clocks are what their benchmarks had, the rest is the engine's factors.
Machine in_serving(Machine machine) {
  machine.sustained = {};
  return machine;
}

}  // namespace

StepPricer::StepPricer(const Model& model, const Machine& machine, const ServeFormats& formats,
                       const ServeEngine& engine, const ServeLayout& layout, Pace pace)
    : model_(deployed(model, layout)),
      machine_(in_serving(machine)),
      sustained_(pace == Pace::of_gpus ? machine.sustained : SustainedTimes{}),
      formats_(formats),
      engine_(engine),
      layout_(layout),
      expanded_(model_graphs(without_prediction(model_), options_of(false))),
      absorbed_(model.kv_lora_rank > 0 ? model_graphs(without_prediction(model_), options_of(true)) : ModelGraphs{}) {
  graphs_.push_back(std::make_unique<Graph>(expanded_.embedding, *this, Graph::Role::embedding));
  graphs_.push_back(std::make_unique<Graph>(expanded_.head, *this, Graph::Role::head));
  for (std::size_t c = 0; c < expanded_.layer_classes.size(); ++c) {
    graphs_.push_back(std::make_unique<Graph>(expanded_.layer_classes[c], *this, Graph::Role::layer));
    const bool latent = model.kv_lora_rank > 0;
    graphs_.push_back(latent ? std::make_unique<Graph>(absorbed_.layer_classes[c], *this, Graph::Role::layer)
                             : nullptr);
    if (engine.sequence_parallel && layout.tensor > 1 && model_.n_routed_experts > 0)
      cut_.push_back(std::make_unique<Graph>(expanded_.layer_classes[c], *this, Graph::Role::layer, true));
  }
  const auto layers = static_cast<int>(expanded_.class_of_layer.size());
  const int stages = layout.pipeline;
  int next = 0;
  for (int s = 0; s < stages; ++s) {
    // The last stage has the head, the first ones take what is left over.
    const int n = layers / stages + (s < layers % stages);
    layers_per_stage_.push_back(n);
    std::vector<int> classes(expanded_.layer_classes.size());
    for (int i = next; i < next + n; ++i)
      ++classes[static_cast<std::size_t>(expanded_.class_of_layer[static_cast<std::size_t>(i)])];
    classes_of_stage_.push_back(std::move(classes));
    next += n;
  }
}

StepPricer::~StepPricer() = default;

Layout StepPricer::layout_of_stage(bool sequence_parallel) const {
  const bool gathers = engine_.dispatcher == Dispatcher::all_gather;
  Layout l = stage_layout(layout_, gathers ? Dispatcher::all_gather : Dispatcher::all_to_all);
  l.sequence_parallel = sequence_parallel;
  return l;
}

bool StepPricer::multiplies_narrow(const AttentionSpec& spec) const {
  return engine_.narrow_attention && !spec.values_in_keys && spec.kv_type == StoredType::fp8 &&
         product_format(formats_.weights).compute == DataType::fp8 && supports(machine_, DataType::fp8);
}

StepPricer::Graph& StepPricer::shared_graph_of(std::size_t c) const {
  return cut_.empty() ? graph_of(c, false) : *cut_[c];
}

StepPricer::Graph& StepPricer::graph_of(std::size_t c, bool absorbed) const {
  const auto& own = graphs_[2 + 2 * c + (absorbed ? 1 : 0)];
  return own ? *own : *graphs_[2 + 2 * c];
}

StepCost StepPricer::layer(std::size_t c, const Step& step) {
  const StepCost whole = one_batch(c, step);
  if (!engine_.overlaps_exchange || !(whole.exchange > Seconds{}) || tokens_of(step) < 2) return whole;
  StepCost halves;
  for (const Step& half : halves_of(step)) halves.add(1, one_batch(c, half));
  // The slower of both: computing that gives up some of the GPU as long as rows are on their way, and the exchange.
  const double taken = tokens_of(step) > 2 * kMostLowLatencyTokens ? exchange_share(machine_) : 0;
  const Seconds computing = halves.computing() + halves.collectives;
  halves.hidden = std::min((1 - taken) * halves.exchange, computing);
  const auto time = [](const StepCost& cost) { return cost.computing() + cost.communicating(); };
  return time(halves) < time(whole) ? halves : whole;
}

StepCost StepPricer::one_batch(std::size_t c, const Step& step) {
  StepCost cost = shared_graph_of(c).shared(tokens_of(step));
  for (const SequenceGroup& group : step) cost.add(1, graph_of(c, group.tokens <= kMostAbsorbedTokens).of_group(group));
  return cost;
}

std::vector<StepCost> StepPricer::stages(const Step& step) {
  std::vector<StepCost> classes;
  for (std::size_t c = 0; c < expanded_.layer_classes.size(); ++c) classes.push_back(layer(c, step));
  std::vector<StepCost> all(layers_per_stage_.size());
  for (std::size_t s = 0; s < all.size(); ++s)
    for (std::size_t c = 0; c < classes.size(); ++c) all[s].add(classes_of_stage_[s][c], classes[c]);
  all.front().add(1, graphs_[0]->shared(tokens_of(step)));
  // Logits of each sequence's last token, and of every proposed one.
  std::int64_t rows = 0;
  for (const SequenceGroup& g : step) rows += g.sequences * (g.tokens <= kMostAbsorbedTokens ? g.tokens : 1);
  all.back().add(1, graphs_[1]->shared(rows));
  StepCost sampling;
  const Bytes made = logits(rows);
  sampling.memory = look_up(MemorySpec{made}, machine_).time;
  sampling.kernels = 1;
  RankGroup tensor;
  tensor.add(layout_.tensor, 1);
  const Bytes gathered{rows * model_.vocab_size * 2};
  sampling.collectives = collective_cost({CollectiveKind::all_gather, gathered, tensor}, machine_).time;
  sampling.sources[CostSource::datasheet] = sampling.memory + sampling.collectives;
  all.back().add(1, sampling);
  return all;
}

StepCost StepPricer::proposal(std::int64_t sequences, std::int64_t context) {
  // One layer like the last, the projection of two streams into one, and the output table.
  const auto last = static_cast<std::size_t>(expanded_.class_of_layer.back());
  StepCost cost = layer(last, {{sequences, 1, context}});
  const GemmSpec merge{.m = sequences, .n = model_.hidden_size, .k = 2 * model_.hidden_size};
  const KernelCost merged = look_up(merge, machine_);
  cost.products += merged.time;
  cost.sources[merged.source] += merged.time;
  cost.kernels += 1;
  cost.add(1, graphs_[1]->shared(sequences));
  return cost;
}

Seconds StepPricer::handover(const Step& step) const {
  if (layout_.pipeline == 1) return {};
  RankGroup pair;
  pair.add(2, layout_.ranks());
  return collective_cost({CollectiveKind::send_recv, {2 * tokens_of(step) * model_.hidden_size}, pair}, machine_).time;
}

std::vector<StepCollective> StepPricer::collectives(std::size_t c, const Step& step) {
  return shared_graph_of(c).collectives(tokens_of(step));
}

std::vector<Bytes> StepPricer::weights() const {
  std::vector<Bytes> all(layers_per_stage_.size());
  for (std::size_t s = 0; s < all.size(); ++s)
    for (std::size_t c = 0; c < expanded_.layer_classes.size(); ++c)
      all[s] += classes_of_stage_[s][c] * graph_of(c, false).weights();
  all.front() += graphs_[0]->weights();
  if (!model_.tie_word_embeddings || layout_.pipeline > 1) all.back() += graphs_[1]->weights();
  return all;
}

Bytes StepPricer::prediction_weights() const {
  const auto last = static_cast<std::size_t>(expanded_.class_of_layer.back());
  return graph_of(last, false).weights() + Bytes{2 * 2 * model_.hidden_size * model_.hidden_size};
}

Bytes StepPricer::kv(std::size_t stage, std::int64_t tokens) const {
  double bytes = 0;
  const std::int64_t block = engine_.block_tokens, cut = (tokens + layout_.context - 1) / layout_.context;
  for (std::size_t c = 0; c < expanded_.layer_classes.size(); ++c) {
    Graph& graph = graph_of(c, true);
    const std::int64_t window = graph.window(), kept = window > 0 ? std::min(cut, window) : cut;
    const std::int64_t paged = (kept + block - 1) / block * block;
    bytes += classes_of_stage_[stage][c] * as_double(paged * graph.kv_elements()) * bytes_per_element(formats_.kv);
  }
  return {static_cast<std::int64_t>(std::ceil(bytes))};
}

Bytes StepPricer::activations(std::int64_t tokens) {
  Bytes most;
  for (std::size_t c = 0; c < expanded_.layer_classes.size(); ++c)
    most = std::max(most, graph_of(c, false).most_alive(tokens));
  return most;
}

Bytes StepPricer::logits(std::int64_t sequences) const {
  // In fp32, whole, as samplers have them.
  return {4 * sequences * model_.vocab_size};
}

}  // namespace shardwright
