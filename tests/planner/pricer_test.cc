#include "planner/pricer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <tuple>
#include <utility>

#include "planner/cost/collective_cost.h"
#include "planner/cost/node_cost.h"
#include "planner/pipeline/pipeline_shape.h"
#include "planner/search/floor.h"
#include "planner/shard/declare.h"
#include "tests/support/measured_machine.h"
#include "tests/support/round_machine.h"
#include "tests/support/slow_engine.h"

namespace shardwright {
namespace {

using doctest::Approx;

Workload workload(std::int64_t sequence, std::int64_t batch, DataType precision = DataType::bf16) {
  Workload w;
  w.sequence_length = sequence;
  w.global_batch = batch;
  w.formats = formats_for(precision);
  return w;
}

template <typename T>
T pick(std::mt19937& random, const std::vector<T>& from) {
  return from[random() % from.size()];
}

int divisor_of(std::mt19937& random, std::int64_t n) {
  std::vector<int> all;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) all.push_back(d);
  return pick(random, all);
}

/// Any layout of any degrees; often an impossible one.
Layout random_layout(std::mt19937& random, const Model& model, const Workload& w) {
  Layout l;
  l.tensor = pick(random, std::vector{1, 2, 4, 8});
  l.pipeline = pick(random, std::vector{1, 2, 3, 4, 6, 8});
  l.context = pick(random, std::vector{1, 1, 1, 2});
  l.data = pick(random, std::vector{1, 2, 3, 4, 8, 16});
  l.sequence_parallel = l.tensor > 1 && random() % 2;
  const int most = static_cast<int>((model.num_hidden_layers + 2) / l.pipeline);
  if (l.pipeline > 1 && most > 1 && random() % 2) {
    l.virtual_pipeline = 2 + static_cast<int>(random() % static_cast<unsigned>(most - 1));
    l.schedule = Schedule::interleaved;
    if (l.virtual_pipeline == 2 && random() % 4 == 0) l.schedule = Schedule::dualpipe_v;
    if (l.virtual_pipeline == 2 && random() % 8 == 0) l.schedule = Schedule::zb_v;
  } else if (l.pipeline > 1 && random() % 2) {
    l.schedule = pick(random, std::vector{Schedule::gpipe, Schedule::zb_h1, Schedule::zb_h2, Schedule::dualpipe});
    if (random() % 8 == 0) l.schedule = pick(random, std::vector{Schedule::zb_1p, Schedule::zb_2p});
  } else if (random() % 3 == 0) {
    l.schedule = Schedule::gpipe;
  }
  l.zero = l.data * l.context > 1 ? static_cast<int>(random() % 4) : 0;
  if (l.zero > 0) l.shard_group = l.context * divisor_of(random, l.data);
  l.recompute = pick(random, recompute_choices(model));
  if (model.n_routed_experts > 0) {
    l.expert = divisor_of(random, model.n_routed_experts);
    l.expert_tensor = pick(random, std::vector{1, 1, l.tensor});
    l.sequence_parallel = l.tensor > 1 && random() % 8 > 0;
  }
  if (l.context > 1)
    l.context_kind =
        pick(random, std::vector{ContextParallel::all_gather, ContextParallel::ulysses, ContextParallel::ring});
  if (w.global_batch % l.data == 0) l.micro_batch = divisor_of(random, w.global_batch / l.data);
  l.rank_order = random() % 4 ? RankOrder::tp_cp_dp_pp : RankOrder::tp_cp_pp_dp;
  l.overlap = {static_cast<std::uint8_t>(random() & overlaps_of(l).bits)};
  if (l.schedule != Schedule::one_f_one_b && l.schedule != Schedule::interleaved && l.schedule != Schedule::dualpipe &&
      l.schedule != Schedule::dualpipe_v)
    l.overlap.set(Overlap::ep, false);  // no pairs
  return l;
}

/// Models made small, so that many pipelines are too deep for them and some fit anywhere.
std::vector<Model> small_models() {
  Model llama = find_model("llama-3.1-8b"), gpt = find_model("gpt3-175b"), windowed = find_model("qwen3-32b");
  llama.num_hidden_layers = 7;
  gpt.num_hidden_layers = 12;
  gpt.hidden_size = 1536;
  gpt.num_attention_heads = gpt.num_key_value_heads = 12;
  gpt.intermediate_size = 6144;
  windowed.num_hidden_layers = 10;
  windowed.sliding_window = 256;
  windowed.sliding_window_pattern = 3;
  Model mixtral = find_model("mixtral-8x7b"), latent = find_model("deepseek-v2-lite");
  mixtral.num_hidden_layers = 6;
  latent.num_hidden_layers = 7;
  latent.num_nextn_predict_layers = 1;  // experts in the head
  return {llama, gpt, windowed, mixtral, latent};
}

/// Calls `check` with every layout of `wanted` that is possible, its layers filled in.
template <typename Check>
void with_random_layouts(int wanted, unsigned seed, const Check& check, const Engine& engine = Engine{}) {
  std::mt19937 random(seed);
  const std::vector<Machine> machines = {find_machine("h100-sxm-80gb"), find_machine("a100-sxm-40gb"), round_machine(),
                                         badly_measured(find_machine("h100-sxm-80gb"), seed)};
  for (const Model& model : small_models())
    for (const Machine& m : machines) {
      Workload w = workload(1024, 48);
      w.fused_attention = random() % 2;
      w.dropout = random() % 2;
      w.fused_norm = random() % 2;
      w.fused_activation = random() % 2;
      w.fused_rotary = random() % 2;
      w.norm_in_fp32 = random() % 2;
      w.cross_entropy = std::array{CrossEntropy::in_place, CrossEntropy::softmax, CrossEntropy::whole}[random() % 3];
      w.memory.fragmentation = random() % 2 ? kCachingAllocator : kExpandableSegments;
      Pricer pricer(model, m, w, engine);
      for (int done = 0; done < wanted;) {
        Layout l = random_layout(random, model, w);
        if (impossible(model, m, w, l)) continue;
        l.layers_per_chunk =
            pricer.balanced_layers(pricer.shape(shape_of(l)), l.recompute, l.pipeline * l.virtual_pipeline);
        REQUIRE(!l.layers_per_chunk.empty());
        CAPTURE(model.name);
        CAPTURE(m.name);
        CAPTURE(to_string(l));
        check(pricer, l);
        ++done;
      }
    }
}

/// The whole text of why a layout is impossible.
std::string why(const Layout& layout, Workload w = workload(1024, 48), const char* model = "llama-3.1-8b",
                const char* machine = "a100-sxm-80gb") {
  const auto rejection = impossible(find_model(model), find_machine(machine), w, layout);
  return rejection ? rejection->reason + ": " + rejection->detail : "possible";
}

}  // namespace

TEST_CASE("an interval has the errors of kernels, of the engine and of a clock that nobody knows") {
  Machine machine = find_machine("a100-sxm-80gb");
  Engine engine;
  engine.errors = {0.3, 0.4, 1.2, {}};
  const auto width = [&](const char* model, double sigma) {
    return Pricer(find_model(model), machine, workload(1024, 48), engine).half_width(sigma);
  };
  CHECK(width("llama-3.1-8b", 0) == Approx(0.3));
  CHECK(width("deepseek-v2-lite", 0) == Approx(0.4));
  CHECK(width("llama-3.1-8b", 0.4 / 1.2815515655446004) == Approx(0.5));  // 3, 4, 5
  machine.sustained = {};
  CHECK(width("deepseek-v2-lite", 0.3 / 1.2815515655446004) == Approx(1.3));  // 5, 12, 13
}

TEST_CASE("errors of one family add up, those of several do not") {
  TimeError error;
  error.by_family[TimeError::product] = {3};
  TimeError more;
  more.by_family[TimeError::attention] = {2};
  error += 2.0 * more;
  CHECK(error.total().value == Approx(5));  // 3 and 4
  error += error;
  CHECK(error.total().value == Approx(10));
}

TEST_CASE("the parts of a step add up to it") {
  const auto check = [](Pricer& pricer, const Layout& l) {
    const Prediction p = pricer.price(l);
    const double sum = (p.compute + p.exposed_communication + p.bubble + p.optimizer + p.host).value;
    CHECK(std::abs(sum - p.step.value) <= 1e-9 * p.step.value);
    CHECK(p.compute.value > 0);
    CHECK(p.bubble.value >= 0);
    if (l.pipeline == 1) CHECK(p.bubble.value <= 1e-9 * p.step.value);  // nobody to wait for: all of it is named
    CHECK(p.step_low <= p.step);
    CHECK(p.step <= p.step_high);
    CHECK(p.tokens_per_second == Approx(48. * 1024 / p.step.value));
    CHECK(p.tokens_per_second_per_gpu == Approx(p.tokens_per_second / static_cast<double>(l.gpus())));
    CHECK((p.host > Seconds{}) == (pricer.engine() == slow_engine()));
  };
  with_random_layouts(300, 1, check);
  with_random_layouts(100, 11, check, slow_engine());
}

TEST_CASE("shares by source add up to one, and are the datasheet's where nothing was measured") {
  double measured = 0;
  with_random_layouts(20, 4, [&](Pricer& pricer, const Layout& l) {
    const std::array<double, 4> share = pricer.source_share(l);
    CHECK(share[0] + share[1] + share[2] + share[3] == Approx(1));
    if (!pricer.machine().measured) CHECK(share == std::array<double, 4>{0, 0, 0, 1});
    if (pricer.machine().measured) measured += 1 - share[3];
  });
  CHECK(measured > 50);  // of 100 layouts: their kernels were, the network's collectives not
}

TEST_CASE("what a step asks for adds up to it where nothing runs beside anything") {
  Engine engine;
  engine.sums_beside_weight_gradients = false;
  for (const char* name : {"llama-3.1-8b", "gpt3-175b", "mixtral-8x7b"}) {
    Pricer pricer(find_model(name), find_machine("h100-sxm-80gb"), workload(1024, 16), engine);
    const bool experts = pricer.model().n_routed_experts > 0;
    for (int zero : {0, 1, 3}) {
      CAPTURE(name);
      CAPTURE(zero);
      Layout l;
      l.tensor = 2;
      l.sequence_parallel = true;
      l.data = 8;
      l.expert = experts ? 4 : 1;
      l.zero = zero;
      l.shard_group = zero > 0 ? 8 : 1;
      l.recompute.full = zero == 1;
      l.micro_batch = 2;
      l.layers_per_chunk = {static_cast<int>(pricer.model().num_hidden_layers)};
      Seconds sum;
      for (const AskedKernel& kernel : pricer.asked(l)) sum += kernel.times * kernel.cost.time;
      CHECK(sum.value == Approx(pricer.price(l).step.value).epsilon(1e-9));
    }
  }
}

TEST_CASE("a pipeline's stages ask for their mean, and for what they send") {
  Pricer pricer(find_model("llama-3.1-8b"), find_machine("h100-sxm-80gb"), workload(1024, 16));
  Layout l;
  l.pipeline = 4;
  l.micro_batch = 2;
  l.layers_per_chunk = {8, 8, 8, 8};
  double products = 0, sends = 0;
  for (const AskedKernel& kernel : pricer.asked(l)) {
    const auto* gemm = std::get_if<GemmSpec>(&kernel.spec);
    const auto* collective = std::get_if<CollectiveSpec>(&kernel.spec);
    if (gemm) products += kernel.times;
    if (collective && collective->kind == CollectiveKind::send_recv) sends += kernel.times;
  }
  // 32 layers and the head: 2 products of attention (q, k and v in one, o) and 2 of the feed-forward part (gate and up
  // in one), each in forward and twice in backward, of 8 micro-batches, by 4 stages.
  CHECK(products == Approx((32 * 4 + 1) * 3 * 8 / 4.0));
  CHECK(sends == Approx(3 * 2 * 8 / 4.0));  // three borders, there and back
}

TEST_CASE("an engine that scatters its sends has each tensor rank send a part, and gathers the parts") {
  Engine engine;
  engine.scatters_sends = true;
  Layout l;
  l.tensor = 4;
  l.pipeline = 2;
  const Machine h100 = find_machine("h100-sxm-80gb");
  const Bytes stream = 64_MiB;
  const auto time = [&] { return send_time(l, stream, h100, engine).value; };
  const auto of = [&](CollectiveKind kind, Bytes held, int ranks, std::int64_t stride) {
    CollectiveSpec spec{kind, held, {}};
    spec.group.add(ranks, stride);
    return collective_cost(spec, h100).time.value;
  };
  const double gathered = of(CollectiveKind::send_recv, 16_MiB, 2, 4) + of(CollectiveKind::all_gather, 64_MiB, 4, 1);
  CHECK(time() == doctest::Approx(gathered));
  l.sequence_parallel = true;  // each holds a part of its own
  CHECK(time() == doctest::Approx(of(CollectiveKind::send_recv, 64_MiB, 2, 4)));
  l.sequence_parallel = false;
  engine.scatters_sends = false;
  CHECK(time() == doctest::Approx(of(CollectiveKind::send_recv, 64_MiB, 2, 4)));
}

TEST_CASE("no layout is faster than its lower bound") {
  double tightest = 0, sum = 0;
  int count = 0;
  const auto check = [&](Pricer& pricer, const Layout& l) {
    const Seconds bound = pricer.lower_bound(l), step = pricer.price(l).step;
    CHECK(bound < step);
    tightest = std::max(tightest, bound / step);
    sum += bound / step;
    ++count;
  };
  with_random_layouts(600, 2, check);
  with_random_layouts(200, 12, check, slow_engine());
  MESSAGE("bound / step over ", count, " layouts: ", sum / count, " in the mean, ", tightest, " at most");
}

TEST_CASE("no layout falls below the floor of its shape") {
  double tightest = 0, sum = 0, memory = 0, early = 0, gradient = 0, gradients = 0;
  int count = 0;
  const auto check = [&](Pricer& pricer, const Layout& l, bool balanced) {
    const ShapePrice& shape = pricer.shape(shape_of(l), l.recompute);
    const Pricer::Data data = pricer.data_of(shape, l);
    const PipelineShape pipeline(pricer, shape, l);
    const Floor floor(pricer, l, shape.stream, balanced);
    const Floor::Weights weights = Floor::weights(pricer, data);
    const Floor::Passes passes = Floor::passes(pricer, shape, l.recompute);
    const Seconds floored = floor.time(passes, weights);
    const Seconds bound = pipeline.predict(data).step;
    const Bytes worst = pipeline.worst_reserved(data);
    CHECK(floored < bound);
    CHECK(pipeline.lower_bound(data) < bound);
    CHECK(floor.memory(passes, weights) <= worst);
    // What the search knows before it prices a micro-batch; and of all recomputations, zero stages and groups.
    ShapePricer graphs = pricer.shape_pricer(shape_of(l));
    LeastPrice least = graphs.least({l.recompute});
    least.weights = pricer.least(shape_of(l)).weights;
    const Floor::Passes before = Floor::passes(pricer, least, l.micro_batch, l.recompute);
    const Floor::Weights same = Floor::weights(pricer, pricer.data_of(least.weights, l));
    const auto all = [](const Floor::Weights& w) {
      return std::tie(w.forward, w.backward, w.reduction, w.gather, w.optimizer, w.resident, w.buffer);
    };
    CHECK(all(same) == all(weights));
    CHECK(l.micro_batch * least.weights.stream == shape.stream);
    CHECK(floor.time(before, weights) < bound);
    CHECK(floor.memory(before, weights) <= worst);
    const LeastPrice sums = graphs.least_at(l.micro_batch, {l.recompute}, least);
    const Floor::Passes at = Floor::passes(pricer, sums, l.micro_batch, l.recompute);
    CHECK(floor.time(at, weights) <= (1 + 1e-12) * floored);  // sums in another order
    CHECK((1 + 1e-12) * floor.time(at, weights) >= floor.time(before, weights));
    CHECK(floor.memory(at, weights) == floor.memory(before, weights));
    for (std::size_t g = 0; g < passes.gradient.size(); ++g) {
      const double hair = 1e-9 * passes.backward[g];
      CHECK(before.gradient[g] <= at.gradient[g] + hair);
      CHECK(at.gradient[g] <= passes.gradient[g] + hair);
      if (l.tensor > 1 && passes.gradient[g] > 0) {
        gradient += before.gradient[g] / passes.gradient[g];
        ++gradients;
      }
    }
    const Floor::Passes plain = Floor::passes(pricer, pricer.least(shape_of(l)), l.micro_batch, {});
    CHECK(floor.time(plain, {}) < bound);
    early += floor.time(before, weights) / floored;
    tightest = std::max(tightest, floored / bound);
    sum += floored / bound;
    memory += static_cast<double>(floor.memory(passes, weights).value) / static_cast<double>(worst.value);
    ++count;
  };
  const auto check_balanced = [&](Pricer& pricer, const Layout& l) { check(pricer, l, true); };
  with_random_layouts(150, 5, check_balanced);
  with_random_layouts(60, 13, check_balanced, slow_engine());
  MESSAGE("floor / step over ", count, " layouts: ", sum / count, " in the mean, ", tightest, " at most; memory ",
          memory / count, " in the mean; before the micro-batch is priced ", early / count,
          " of it, of input gradients over tp ", gradient / gradients);
  CHECK(gradient > 0.3 * gradients);  // sums that run beside weight gradients leave something to be told
  std::mt19937 random(6);
  with_random_layouts(50, 6, [&](Pricer& pricer, Layout l) {  // any split, empty chunks among it
    for (std::size_t i = 1; i < l.layers_per_chunk.size(); ++i) {
      const std::size_t to = random() % l.layers_per_chunk.size();
      std::swap(l.layers_per_chunk[i], l.layers_per_chunk[to]);
      if (random() % 2) l.layers_per_chunk[to] += std::exchange(l.layers_per_chunk[i], 0);
      if (to == i) l.layers_per_chunk[i] = 0;
    }
    const int sum_before = static_cast<int>(pricer.model().num_hidden_layers);
    int all = 0;
    for (int n : l.layers_per_chunk) all += n;
    l.layers_per_chunk[0] += sum_before - all;
    check(pricer, l, false);
  });
}

namespace {

auto all_of(const PassPrice& p) {
  return std::tuple(p.in_forward, p.in_backward, p.error, p.need.for_weights, p.need.saved, p.need.saved_reserved,
                    p.need.transient, p.need.transient_reserved);
}
/// One graph of a pricer's model at a shape, all of the shape, derived for it alone.
struct Fresh {
  PassPrice pass;
  std::int64_t elements = 0, gathered_forward = 0, gathered_backward = 0;

  Fresh(const Pricer& pricer, const OpGraph& graph, const Shape& shape, const Recompute& recompute) {
    const Layout sample = sample_layout(shape);
    const Mesh mesh = std::get<Mesh>(stage_mesh(sample, pricer.model()));
    const auto extents = layout_extents(graph, sample, pricer.workload().sequence_length);
    const ShardedGraph sharded = shard(graph, extents, mesh, declare(graph, sample, mesh));
    const bool adds_gradients = Engine{}.adds_gradients;
    const MergedProducts merges_products = Engine{}.merges_products;
    CostContext context{
        graph, extents, mesh,           pricer.machine(), pricer.workload().formats, graph.find_dim("key_sequence"), -1,
        1,     {},      adds_gradients, merges_products};
    context.beside_weight_gradients = Engine{}.sums_beside_weight_gradients;
    const BackwardPlan plan = plan_backward(graph, sharded, recompute);
    const std::vector<NodeCost> costs = node_costs(context, sharded);
    std::vector<NodeId> order(sharded.forward_nodes);
    std::iota(order.begin(), order.end(), 0);
    const std::vector<std::int8_t> traffic = traffic_of_nodes(context, sharded);
    bool beside = false;
    for (std::size_t i = 0; i < sharded.nodes.size(); ++i)
      beside = beside || sharded.nodes[i].ring != 0 || may_run_beside(context, sharded.nodes[i], traffic[i], {});
    const auto time = [&](const std::vector<NodeId>& nodes) {
      return beside ? pass_time(pass_pieces(context, sharded, costs, traffic, nodes, {}))
                    : pass_time(costs, traffic, nodes);
    };
    pass.in_forward = time(order);
    pass.in_backward = time(plan.order);
    const auto visit = [&](const std::vector<NodeId>& nodes, std::int64_t& gathered) {
      for (NodeId id : nodes) {
        const Node& n = sharded.nodes[static_cast<std::size_t>(id)];
        if (n.kind == Node::Kind::gather_parameter) gathered += sharded.value(n.inputs[0]).elements;
        pass.error += costs[static_cast<std::size_t>(id)].error;
      }
    };
    visit(order, gathered_forward);
    visit(plan.order, gathered_backward);
    const bool inside = graph.stream_in >= 0 && graph.stream_out >= 0;  // the ends make gradients of weights apart
    pass.need = activation_need(sharded, plan, value_bytes(graph, sharded, context.formats, !inside));
    for (const WeightState& w : sharded.weights) elements += w.used_elements;
  }
};

}  // namespace

TEST_CASE("a graph that is derived once has the prices of one that is derived for each shape and micro-batch") {
  with_random_layouts(10, 8, [&](Pricer& pricer, const Layout& l) {
    Shape shape = shape_of(l);
    shape.overlap = {};
    shape.pairs = false;
    ShapePricer once = pricer.shape_pricer(shape);
    once.least({l.recompute});  // sizes of all micro-batches
    for (int micro_batch : {48, 1, 2, 3})
      for (std::size_t i = 0; i < once.graphs(); ++i) {
        CAPTURE(micro_batch);
        CAPTURE(i);
        shape.micro_batch = micro_batch;
        const Fresh fresh(pricer, once.graph(i), shape, l.recompute);
        const GraphPrice price = once.of_graph(i).price(micro_batch, {l.recompute});
        CHECK(all_of(price.passes.back()) == all_of(fresh.pass));
        std::int64_t forward = 0, backward = 0;
        for (const WeightBucket& b : price.buckets) {
          forward += b.gathered_forward;
          backward += b.gathered_backward;
        }
        CHECK(std::tuple(price.elements(), forward, backward) ==
              std::tuple(fresh.elements, fresh.gathered_forward, fresh.gathered_backward));
      }
  });
}

TEST_CASE("what shapes share is what each of them would find") {
  const auto all = [](const std::vector<LeastPass>& passes) {
    std::vector<Seconds> times;
    for (const LeastPass& p : passes)
      for (const LeastPass::Time& t : {p.forward, p.backward})
        times.insert(times.end(), {t.each, t.together, t.host, t.waits});
    return times;
  };
  with_random_layouts(30, 11, [&](Pricer& pricer, const Layout& l) {
    const std::vector<Recompute> some = {Recompute{}, l.recompute};
    SharedPrices shared(some);
    ShapePricer alone = pricer.shape_pricer(shape_of(l));
    for (int time = 0; time < 2; ++time) {  // made, and found
      ShapePricer sharing = pricer.shape_pricer(shape_of(l), &shared);
      const LeastPrice least = sharing.least(some), expected = alone.least(some);
      const LeastPrice at = sharing.least_at(2, some, least), expected_at = alone.least_at(2, some, expected);
      const ShapePrice price = sharing.price(2, some), expected_price = alone.price(2, some);
      CHECK(all_of(price.embedding.passes[0]) == all_of(expected_price.embedding.passes[0]));
      CHECK(all_of(price.head.passes[0]) == all_of(expected_price.head.passes[0]));
      CHECK(all(least.head) == all(expected.head));
      for (std::size_t c = 0; c < price.layers.size(); ++c) {
        const auto r = static_cast<std::size_t>(index_of(l.recompute));
        CHECK(all_of(price.layers[c].passes[r]) == all_of(expected_price.layers[c].passes[r]));
        CHECK(all(least.layers[c]) == all(expected.layers[c]));
        CHECK(all(at.layers[c]) == all(expected_at.layers[c]));
      }
    }
  });
}

TEST_CASE("what part_that_matters leaves out of a shape changes nothing in a graph") {
  int smaller = 0;
  with_random_layouts(60, 9, [&](Pricer& pricer, const Layout& l) {
    const Shape shape = shape_of(l);
    ShapePricer graphs = pricer.shape_pricer(shape);
    for (std::size_t i = 0; i < graphs.graphs(); ++i) {
      const Shape part = part_that_matters(graphs.graph(i), shape);
      if (part == shape) continue;
      ++smaller;
      CHECK(all_of(Fresh(pricer, graphs.graph(i), part, l.recompute).pass) ==
            all_of(Fresh(pricer, graphs.graph(i), shape, l.recompute).pass));
    }
  });
  CHECK(smaller > 100);
}

TEST_CASE("a graph that is sized again is the one that is derived at that size") {
  with_random_layouts(10, 10, [&](Pricer& pricer, const Layout& l) {
    ShapePricer graphs = pricer.shape_pricer(shape_of(l));
    for (std::size_t g = 0; g < graphs.graphs(); ++g) {
      const OpGraph& graph = graphs.graph(g);
      Layout sample = sample_layout(shape_of(l));
      const Mesh mesh = std::get<Mesh>(stage_mesh(sample, pricer.model()));
      const Declarations says = declare(graph, sample, mesh);
      const auto extents = layout_extents(graph, sample, pricer.workload().sequence_length);
      const ShardedGraph right = shard(graph, extents, mesh, says);
      sample.micro_batch *= 5;
      ShardedGraph sized = shard(graph, layout_extents(graph, sample, 4096), mesh, says);
      resize(sized, graph, extents, mesh, says);
      const auto same_steps = [](const ReshardSteps& a, const ReshardSteps& b) {
        return std::equal(a.steps, a.steps + a.count, b.steps, b.steps + b.count, [](const auto& x, const auto& y) {
          return std::tie(x.kind, x.axes, x.held_elements) == std::tie(y.kind, y.axes, y.held_elements);
        });
      };
      CHECK(std::equal(sized.values.begin(), sized.values.end(), right.values.begin(), right.values.end(),
                       [](const Value& a, const Value& b) { return a.elements == b.elements; }));
      CHECK(std::equal(sized.nodes.begin(), sized.nodes.end(), right.nodes.begin(), right.nodes.end(),
                       [&](const Node& a, const Node& b) { return same_steps(a.steps, b.steps); }));
      CHECK(std::equal(sized.weights.begin(), sized.weights.end(), right.weights.begin(), right.weights.end(),
                       [&](const WeightState& a, const WeightState& b) {
                         return a.used_elements == b.used_elements && a.shard_parts == b.shard_parts &&
                                same_steps(a.reduction, b.reduction);
                       }));
    }
  });
}

TEST_CASE("where a stage has n - 1 behind it, n micro-batches of every layer are kept there, or all") {
  // What Floor::memory builds on, for every schedule.
  for (Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved})
    for (int stages : {1, 2, 3, 5, 8})
      for (int chunks : {1, 2, 3, 7})
        for (int micro_batches : {1, 2, 3, 5, 8, 10, 16, 24, 40}) {
          if ((schedule == Schedule::interleaved) != (chunks > 1)) continue;
          if (chunks > 1 && (stages == 1 || micro_batches % stages != 0)) continue;
          for (int s = 0; s < stages; ++s) {
            CAPTURE(stages);
            CAPTURE(chunks);
            CAPTURE(micro_batches);
            CAPTURE(s);
            const std::vector<PassKeeps> alike(static_cast<std::size_t>(chunks), {1, 0});
            for (int count : in_flight(stage_order({schedule, stages, chunks, micro_batches}, s), alike).until_backward)
              CHECK(count >= std::min(stages - s, micro_batches));
          }
        }
}

TEST_CASE("modules that a graph has not are no other price") {
  const Model model = find_model("deepseek-v2-lite");  // its first layer is dense
  Pricer pricer(model, find_machine("h100-sxm-80gb"), workload(1024, 48));
  Shape at;
  at.tensor = 2;
  at.sequence_parallel = true;
  at.expert = 4;
  const ShapePrice& together = pricer.shape(at);
  const ModelGraphs graphs = model_graphs(model, {true, false});
  for (const Recompute& choice : recompute_choices(model)) {
    const ShapePrice alone = price_shape(graphs, model, pricer.machine(), pricer.workload(), at, {choice});
    const auto i = static_cast<std::size_t>(index_of(choice));
    for (std::size_t c = 0; c < alone.layers.size(); ++c) {
      CAPTURE(i);
      CHECK(all_of(alone.layers[c].passes[i]) == all_of(together.layers[c].passes[i]));
    }
  }
}

TEST_CASE("the memory that the search asks for is the prediction's worst stage") {
  with_random_layouts(200, 3, [](Pricer& pricer, const Layout& l) {
    const Prediction p = pricer.price(l);
    Bytes worst;
    for (const StageMemory& s : p.stages) {
      worst = std::max(worst, s.reserved);
      CHECK(s.allocated == s.parts.total());
      CHECK(s.reserved >= s.allocated);
    }
    CHECK(pricer.worst_reserved(l) == worst);
    CHECK(p.worst().reserved == worst);
    const ShapePrice& shape = pricer.shape(shape_of(l));
    const bool fits = worst <= pricer.machine().usable_memory();
    CHECK(PipelineShape(pricer, shape, l).fitting(pricer.data_of(shape, l)) ==
          (fits ? std::optional(worst) : std::nullopt));
  });
}

TEST_CASE("gpipe and zb-h1 need no less memory than 1f1b, zb-h2 no less than zb-h1 and has its bound") {
  int more = 0;
  with_random_layouts(200, 14, [&](Pricer& pricer, Layout l) {
    if (l.virtual_pipeline > 1 || has_pairs(l)) return;
    const ShapePrice& shape = pricer.shape(shape_of(l));
    const Pricer::Data data = pricer.data_of(shape, l);
    const auto with = [&](Schedule schedule) {
      l.schedule = schedule;
      return PipelineShape(pricer, shape, l);
    };
    const Bytes least = with(Schedule::one_f_one_b).worst_reserved(data);
    const Bytes h1 = with(Schedule::zb_h1).worst_reserved(data), h2 = with(Schedule::zb_h2).worst_reserved(data);
    CHECK(with(Schedule::gpipe).worst_reserved(data) >= least);
    CHECK(h1 >= least);
    CHECK(h2 >= h1);
    CHECK(with(Schedule::zb_h1).lower_bound(data) == with(Schedule::zb_h2).lower_bound(data));
    more += h2 > h1 && h1 > least;
  });
  CHECK(more > 10);
}

TEST_CASE("faster links never slow a layout down") {
  std::vector<std::pair<Machine, std::unique_ptr<Pricer>>> faster;
  for (std::size_t level = 0; level < 3; ++level) {
    with_random_layouts(60, 4, [&](Pricer& pricer, const Layout& l) {
      if (faster.empty() || !(faster.back().second->model() == pricer.model()) ||
          faster.back().first.name != pricer.machine().name ||
          !(faster.back().second->workload() == pricer.workload())) {
        Machine m = pricer.machine();
        m.links[level].bandwidth = m.links[level].bandwidth * 2;
        faster.clear();
        faster.push_back({m, std::make_unique<Pricer>(pricer.model(), m, pricer.workload())});
      }
      // Lists of what may run beside what have anomalies (Graham 1966): sooner there is not always sooner done.
      const bool lists = is_greedy(l.schedule) || l.context_kind == ContextParallel::ring || l.tensor > 1 ||
                         l.overlap.has(Overlap::ep) || l.overlap.has(Overlap::shared_experts);
      CHECK(faster.back().second->price(l).step.value <= pricer.price(l).step.value * (lists ? 1.15 : 1 + 1e-12));
    });
    faster.clear();
  }
}

TEST_CASE("DeepSeek-V3 on its published layout: DualPipe's parts on the first of 16 stages") {
  // ISCA 2025, arXiv 2505.09343, table 4: of a step of 19.93 s a bubble of 2.06 s; 104 pairs at the most, 97 on the
  // first stage. Both fall short of that: in DeepSeek's profile weight gradients and elementwise kernels take longer.
  const Model v3 = find_model("deepseek-v3");
  const Machine h800 = find_machine("h800-sxm-80gb");
  const Engine hai = find_engine("hai-llm", "--engine");
  Workload w = workload(4096, 15360, DataType::fp8);
  run_by(hai, DataType::fp8, w);
  Layout l;
  l.pipeline = 16;
  l.data = 128;
  l.expert = 64;
  l.dispatcher = Dispatcher::deepep;
  l.schedule = Schedule::dualpipe;
  l.zero = 1;
  l.shard_group = 128;
  for (RecomputeModule m : {RecomputeModule::layernorm, RecomputeModule::mla_up_proj, RecomputeModule::moe_act})
    l.recompute.modules = static_cast<std::uint8_t>(l.recompute.modules | 1u << static_cast<int>(m));
  for (Overlap o : {Overlap::ep, Overlap::grad_reduce, Overlap::param_gather, Overlap::p2p}) l.overlap.set(o, true);
  REQUIRE(!impossible(v3, h800, w, l));
  Pricer pricer(v3, h800, w, hai);
  l.layers_per_chunk.assign(16, 4);
  l.layers_per_chunk.back() = 1;  // with the head and the layer that predicts one token more
  const Prediction p = pricer.price(l);
  MESSAGE("step ", p.step.value, " s, idle on the first stage ", p.idle[0].value, " s, on the slowest ",
          p.bubble.value);
  CHECK(p.step.value == Approx(19.93).epsilon(0.25));
  CHECK(p.idle[0].value == Approx(2.06).epsilon(0.45));
  CHECK(p.idle[0].value >= p.bubble.value * (1 - 1e-9));
  // It ran in 80 GB: what is kept in fp8, moments in 16 bits, one table of embeddings on the first stage.
  CHECK(p.worst().reserved <= h800.usable_memory());
  CHECK(p.exposed[Traffic::expert] < p.traffic[Traffic::expert]);
}

TEST_CASE("one GPU takes the plain sum of its kernels") {
  const Model model = small_models()[0];
  const Workload w = workload(1024, 12);
  Pricer pricer(model, find_machine("h100-sxm-80gb"), w);
  Layout l;
  l.micro_batch = 2;
  l.layers_per_chunk = {7};
  const ShapePrice& shape = pricer.shape(shape_of(l));
  const auto both = [](const GraphPrice& g) {
    return (g.passes[0].in_forward.compute + g.passes[0].in_backward.compute).value;
  };
  const double once = both(shape.embedding) + 7 * both(shape.layers[0]) + both(shape.head);
  const auto data = pricer.data_of(shape, l);
  const double optimizer =
      data.embedding.optimizer.value + 7 * data.layers[0].optimizer.value + data.head.optimizer.value;

  const Prediction p = pricer.price(l);
  CHECK(p.compute.value == Approx(6 * once));  // 12 sequences, two at a time
  CHECK(p.optimizer.value == Approx(optimizer));
  CHECK(p.step.value == Approx(6 * once + optimizer));
  CHECK(p.communication.value == 0);
  CHECK(p.bubble.value <= 1e-12 * p.step.value);
  CHECK(p.mfu == Approx(pricer.model_flops_per_token().value * 12 * 1024 / p.step.value / 989.4e12));
  // All weights, bf16: two bytes each.
  CHECK(p.stages[0].parts.weights.value == 2 * parameters(model));
  CHECK(p.stages[0].parts.gradients.value == 4 * parameters(model));
  CHECK(p.stages[0].parts.optimizer.value == 12 * parameters(model));
}

TEST_CASE("a tied table is held once by one stage and twice by a pipeline") {
  Model model = small_models()[1];
  REQUIRE(model.tie_word_embeddings);
  Machine machine = find_machine("a100-sxm-80gb");
  machine.links[0] = {"node", 8, {300e9}, {3.5e-6}, 0.62};
  Pricer pricer(model, machine, workload(1024, 48));
  const std::int64_t table = model.vocab_size * model.hidden_size;
  const auto weights = [&](Layout l) {
    l.layers_per_chunk = pricer.balanced_layers(pricer.shape(shape_of(l)), l.recompute, l.pipeline);
    Bytes sum;
    for (const StageMemory& s : pricer.price(l).stages) sum += s.parts.weights;
    return sum.value;
  };
  Layout one, two;
  two.pipeline = 2;
  CHECK(weights(one) == 2 * parameters(model));
  CHECK(weights(two) == 2 * (parameters(model) + table));
  // Its two gradients are summed between first and last stage, neighbours in a node: fp32, once a step.
  const ShapePrice& shape = pricer.shape(shape_of(two));
  const double wire = 4. * static_cast<double>(table) / (300e9 * 0.62);
  CHECK(pricer.data_of(shape, two).tied.reduction.value == Approx(wire + 2 * 3.5e-6 + 4e-6));
  CHECK(pricer.data_of(shape, one).tied.reduction.value == 0);
}

TEST_CASE("the work of a GPT model is Narayanan's and Korthikanti's") {
  // 72 B L s h^2 (1 + s/6h + v/12hL) counts all scores; here only the causal half is: s/12h.
  const Model m = find_model("gpt3-175b");
  const double L = 96, h = 12288, s = 2048, v = 51200;
  const double per_token = Pricer(m, find_machine("a100-sxm-80gb"), workload(2048, 8)).model_flops_per_token().value;
  CHECK(per_token == Approx(72 * L * h * h * (1 + s / (12 * h) + v / (12 * h * L))).epsilon(1e-12));
  const double hidden_half = 3 * L * 2 * s * h;  // forward 2 s h a token and layer, backward twice that
  CHECK(per_token + hidden_half == Approx(72 * L * h * h * (1 + s / (6 * h) + v / (12 * h * L))).epsilon(1e-12));
}

TEST_CASE("the work of Llama-3.1-405B is six times its parameters and causal attention") {
  const Model m = find_model("llama-3.1-405b");
  const double n = static_cast<double>(active_parameters_without_embedding(m));
  const double attention = 3. * 126 * 2 * 8192 * 16384;
  CHECK(Pricer(m, find_machine("h100-sxm-80gb"), workload(8192, 8)).model_flops_per_token().value ==
        Approx(6 * n + attention).epsilon(1e-3));
}

TEST_CASE("recomputation and attention kernels do not change a model's work") {
  Workload unfused = workload(2048, 8);
  unfused.fused_attention = false;
  unfused.dropout = true;
  const Model m = find_model("llama-3.1-8b");
  const Machine h100 = find_machine("h100-sxm-80gb");
  CHECK(Pricer(m, h100, unfused).model_flops_per_token() == Pricer(m, h100, workload(2048, 8)).model_flops_per_token());
}

TEST_CASE("an impossible layout is rejected with its numbers") {
  Layout l;
  CHECK(why(l) == "possible");
  SUBCASE("precision") {
    CHECK(why(l, workload(1024, 48, DataType::fp8)) == "precision: a100-sxm-80gb does not compute in fp8");
  }
  SUBCASE("heads") {
    l.tensor = 7;  // 14336 = 7 * 2048
    CHECK(why(l) == "heads: tp 7 does not cut 8 KV heads with 4 query heads each into equal parts");
    l.tensor = 64;
    CHECK(why(l) == "heads: tp 64 does not cut 8 KV heads with 4 query heads each into equal parts");
    l.tensor = 32;
    CHECK(why(l) == "possible");
  }
  SUBCASE("ffn") {
    Model m = find_model("llama-3.1-8b");
    m.intermediate_size = 14337;
    l.tensor = 2;
    const auto rejection = impossible(m, find_machine("a100-sxm-80gb"), workload(1024, 48), l);
    CHECK(rejection == Rejection{"ffn", "tp 2 does not divide intermediate_size 14337"});
  }
  SUBCASE("experts") {
    l.expert = 8;
    l.expert_tensor = 2;
    CHECK(why(l) == "experts: llama-3.1-8b has no experts for ep 8, etp 2");
    l = {};
    l.expert = 16;
    l.data = 16;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "experts: ep 16 does not divide the 8 experts");
    l.expert = 8;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "possible");
    l.tensor = 2;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") ==
          "experts: a mixture of experts with tp 2 needs sequence_parallel");
    l.sequence_parallel = true;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "possible");
  }
  SUBCASE("the width of experts") {
    l.data = 3;
    l.expert_tensor = 3;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "ffn: etp 3 does not divide moe_intermediate_size 14336");
    Model m = find_model("deepseek-v2-lite");
    m.moe_intermediate_size = 1409;  // 10944 of the dense layers is even
    l = {};
    l.tensor = 4;
    l.sequence_parallel = true;
    CHECK(impossible(m, find_machine("a100-sxm-80gb"), workload(1024, 48), l) ==
          Rejection{"ffn", "tp 4 does not divide the shared experts' width 2818"});
    m.intermediate_size = 10946;
    CHECK(impossible(m, find_machine("a100-sxm-80gb"), workload(1024, 48), l) ==
          Rejection{"ffn", "tp 4 does not divide intermediate_size 10946"});
  }
  SUBCASE("mesh") {
    l.data = 6;
    l.expert = 4;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "mesh: ep * etp 4 does not divide tp * cp * dp 6");
    l.data = 12;
    l.zero = 3;
    l.shard_group = 6;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") ==
          "mesh: ep 4 and shard 6 have no common refinement: 4 does not divide 6");
    l.shard_group = 4;
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") == "possible");
  }
  SUBCASE("ulysses") {
    l.tensor = 4;
    l.context = 4;
    l.context_kind = ContextParallel::ulysses;
    CHECK(why(l) == "heads: ulysses with cp 4 cannot cut the 2 KV heads that tp leaves");
    l.context = 2;
    CHECK(why(l) == "possible");
  }
  SUBCASE("sequence") {
    l.context = 3;
    CHECK(why(l) == "sequence: cp 3 does not divide sequence_length 1024");
    l.context = 2;
    l.tensor = 4;
    l.sequence_parallel = true;
    CHECK(why(l, workload(1020, 48)) == "sequence: cp * tp 8 does not divide sequence_length 1020");
    l.sequence_parallel = false;
    CHECK(why(l, workload(1020, 48)) == "possible");
  }
  SUBCASE("layers") {
    l.pipeline = 35;
    CHECK(why(l) == "layers: 35 chunks are too many for 32 layers: only the first and the last may be without one");
    l.pipeline = 34;
    CHECK(why(l) == "possible");
  }
  SUBCASE("batch") {
    l.data = 5;
    l.micro_batch = 2;
    CHECK(why(l) == "batch: dp * micro_batch 10 does not divide global_batch 48");
  }
  SUBCASE("schedule") {
    l.pipeline = 4;
    l.schedule = Schedule::zb_h1;
    CHECK(why(l) == "possible");
    l.schedule = Schedule::dualpipe;
    CHECK(why(l) == "possible");
    l.pipeline = 3;
    CHECK(why(l) == "schedule: dualpipe needs an even number of stages, got 3");
    l.pipeline = 4;
    l.data = 8;
    CHECK(why(l) == "schedule: dualpipe needs at least two micro-batches for each of its 4 stages, got 6");
  }
  SUBCASE("interleaving") {
    l.pipeline = 8;
    l.virtual_pipeline = 2;
    l.schedule = Schedule::interleaved;
    l.data = 4;
    CHECK(why(l) == "interleaving: 12 micro-batches are no multiple of pp 8");
  }
  SUBCASE("shard_group") {
    l.data = 8;
    l.zero = 3;
    l.shard_group = 3;
    CHECK(why(l) == "shard_group: fsdp_group 3 must divide dp * cp 8 and be a multiple of cp 1");
    l.context = 2;
    l.data = 4;
    l.shard_group = 1;
    CHECK(why(l) == "shard_group: fsdp_group 1 must divide dp * cp 8 and be a multiple of cp 2");
    l.shard_group = 16;  // more than there are, which a mesh with experts must stand
    CHECK(why(l, workload(1024, 48), "mixtral-8x7b") ==
          "shard_group: fsdp_group 16 must divide dp * cp 8 and be a multiple of cp 2");
    l.shard_group = 4;
    CHECK(why(l) == "possible");
  }
}

TEST_CASE("a layout that does not fit names the stage and its bytes") {
  Machine m = round_machine();
  m.memory = 80_GiB;
  m.unusable_memory = 1_GiB;
  Prediction p;
  p.stages.resize(4);
  p.worst_stage = 3;
  p.stages[3].reserved = 82_GiB + 100_MiB;
  CHECK(too_large(m, p) == Rejection{"memory", "stage 3 needs 82.1 GiB of 79.0 GiB"});
}

TEST_CASE("DeepSeek's work of a token is the published one") {
  // Insights into DeepSeek-V3 (arXiv 2505.09343), table 2, at 4096 tokens: V2 155, V3 250 GFLOPs.
  const auto gflops = [](const char* model) {
    return Pricer(find_model(model), find_machine("h800-sxm-80gb"), workload(4096, 8)).model_flops_per_token().value /
           1e9;
  };
  CHECK(gflops("deepseek-v2") == doctest::Approx(155).epsilon(0.01));
  CHECK(gflops("deepseek-v3") == doctest::Approx(250).epsilon(0.01));
}

}  // namespace shardwright
