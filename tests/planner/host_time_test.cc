#include "planner/cost/host_time.h"

#include <doctest/doctest.h>

#include <numeric>

#include "planner/cost/shape_price.h"
#include "planner/pricer.h"
#include "planner/shard/declare.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

using doctest::Approx;

/// One layer of a model under a layout, and the host's work for its forward.
struct Layer {
  OpGraph graph;
  Mesh mesh;
  ShardedGraph sharded;

  Layer(const char* model, const Layout& l) {
    const Model m = find_model(model);
    graph = model_graphs(m).layer_classes.back();
    mesh = std::get<Mesh>(stage_mesh(l, m));
    sharded = shard(graph, layout_extents(graph, l, 1024), mesh, declare(graph, l, mesh));
  }
  HostWork forward(const CudaGraphs& captured = {}, bool counts_rows = true,
                   MergedProducts merges = MergedProducts::none) const {
    const std::vector<HostWork> all =
        host_work(graph, mesh, sharded, captured, counts_rows, MadeTogether(graph, sharded, merges));
    HostWork sum;
    for (std::size_t i = 0; i < sharded.forward_nodes; ++i) {
      sum.launches += all[i].launches;
      sum.waits += all[i].waits;
    }
    return sum;
  }
};

Layout tensor_parallel(int tp) {
  Layout l;
  l.tensor = tp;
  l.sequence_parallel = tp > 1;
  return l;
}

/// All constants neutral but one.
Engine with(EngineConstant constant, double value) {
  Engine engine;
  engine.constants[constant] = value;
  return engine;
}

Workload small_work() {
  Workload w;
  w.sequence_length = 1024;
  w.global_batch = 8;
  return w;
}

}  // namespace

TEST_CASE("the host launches each operator and each collective") {
  // Llama's layer: norm, q, k, v, two rotations, attention, its output, sum; norm, up, gate, silu, down, sum.
  CHECK(Layer("llama-3.1-8b", Layout{}).forward().launches == 15);
  // Merged, q, k and v are one, and so are up and gate.
  CHECK(Layer("llama-3.1-8b", Layout{}).forward({}, true, MergedProducts::all).launches == doctest::Approx(12));
  CHECK(Layer("llama-3.1-8b", Layout{}).forward({}, true, MergedProducts::attention).launches == doctest::Approx(13));
  // Sequence parallelism: a gather and a scatter around attention and around the feed-forward part.
  CHECK(Layer("llama-3.1-8b", tensor_parallel(2)).forward().launches == 15 + 4);
  CHECK(Layer("llama-3.1-8b", tensor_parallel(2)).forward().waits == 0);
}

TEST_CASE("a ring is launched once for each block, and so is its way") {
  Layout l;
  l.context = 4;
  l.context_kind = ContextParallel::ring;
  CHECK(Layer("llama-3.1-8b", l).forward().launches == 15 + 3 + 3);
}

TEST_CASE("the host waits once for the rows of experts, where it counts them") {
  const Layer layer("mixtral-8x7b", Layout{});
  CHECK(layer.forward().waits == 1);
  CHECK(layer.forward({}, false).waits == 0);
  CudaGraphs whole;
  whole.layer = true;
  CHECK(layer.forward(whole).waits == 0);
  CHECK(layer.forward(whole).launches == 0);
}

TEST_CASE("what is captured is not launched") {
  const Layer dense("llama-3.1-8b", tensor_parallel(2)), experts("mixtral-8x7b", Layout{});
  CudaGraphs attn, mlp, router, preprocess, all;
  attn.attn = mlp.mlp = router.moe_router = preprocess.moe_preprocess = all.full_iteration = true;
  CHECK(dense.forward(attn).launches == 6 + 2);
  CHECK(dense.forward(mlp).launches == 9 + 2);
  CHECK(dense.forward(router).launches == 19);
  CHECK(dense.forward(all).launches == 0);
  const double whole = experts.forward().launches;
  CHECK(experts.forward(attn).launches == whole - 9);
  CHECK(experts.forward(mlp).launches == whole);
  CHECK(experts.forward(router).launches == whole - 2 - 10);  // norm, logits, ten of routing
  CHECK(experts.forward(preprocess).launches == whole - 11);
  CHECK(experts.forward(preprocess).waits == 1);
}

TEST_CASE("a pass takes the longer of its device time and the host's launches") {
  const Model model = find_model("llama-3.1-8b");
  const Machine machine = find_machine("h100-sxm-80gb");
  const ModelGraphs graphs = model_graphs(model);
  const Workload w = small_work();
  const auto layer = [&](const Engine& engine) {
    return price_shape(graphs, model, machine, w, {}, {Recompute{}}, engine).layers[0].passes[0];
  };
  const PassPrice plain = layer(Engine{});
  CHECK(plain.in_forward.host == Seconds{});
  const PassPrice slow = layer(with(EngineConstant::host_seconds_per_kernel, 1e-3));
  CHECK(slow.forward().value == Approx(12e-3));  // of 15 operators q, k and v are one, gate and up another
  CHECK(slow.in_forward.compute == plain.in_forward.compute);
  CHECK(slow.in_forward.host.value == Approx(12e-3 - plain.forward().value));
  CHECK(slow.weight_gradient / slow.backward() == Approx(plain.weight_gradient / plain.backward()));
  const PassPrice fast = layer(with(EngineConstant::host_seconds_per_kernel, 1e-9));
  CHECK(fast.in_forward == plain.in_forward);
  CHECK(fast.in_backward == plain.in_backward);
}

TEST_CASE("waiting for the rows of experts comes on top, in every pass that sends them") {
  const Model model = find_model("mixtral-8x7b");
  const Machine machine = find_machine("h100-sxm-80gb");
  const ModelGraphs graphs = model_graphs(model);
  Workload w = small_work();
  const Engine engine = with(EngineConstant::moe_host_seconds, 1e-3);
  const auto layer = [&](const Engine& e, const Recompute& r, Dispatcher dispatcher = Dispatcher::all_to_all) {
    Shape shape;
    shape.dispatcher = dispatcher;
    return price_shape(graphs, model, machine, w, shape, {r}, e).layers[0].passes.back();
  };
  const Recompute none, full{true, 0};
  CHECK((layer(engine, none).forward() - layer({}, none).forward()).value == Approx(1e-3));
  CHECK(layer(engine, none).backward() == layer({}, none).backward());
  CHECK((layer(engine, full).backward() - layer({}, full).backward()).value == Approx(1e-3));
  Engine bounded = engine;
  bounded.host_row_counts = {Dispatcher::all_to_all};
  CHECK(layer(bounded, none, Dispatcher::hybridep).forward() == layer({}, none, Dispatcher::hybridep).forward());
  w.capacity_factor = 1;
  CHECK(layer(engine, none).forward() == layer({}, none).forward());
}

TEST_CASE("a slower host takes longer to launch and to wait") {
  const Model model = find_model("mixtral-8x7b");
  Machine machine = find_machine("h100-sxm-80gb");
  const ModelGraphs graphs = model_graphs(model);
  const auto forward = [&](double slowdown, EngineConstant constant, double value) {
    machine.host_slowdown = slowdown;
    return price_shape(graphs, model, machine, small_work(), {}, {{}}, with(constant, value))
        .layers[0]
        .passes.back()
        .forward()
        .value;
  };
  const double one = forward(1, EngineConstant::host_seconds_per_kernel, 1);  // nothing but launches
  CHECK(forward(3, EngineConstant::host_seconds_per_kernel, 1) == Approx(3 * one));
  const double none = forward(1, EngineConstant::moe_host_seconds, 0);
  CHECK(forward(3, EngineConstant::moe_host_seconds, 1e-3) == Approx(none + 3e-3));
}

TEST_CASE("each constant does what it says to a step") {
  const Model model = find_model("llama-3.1-8b");
  const Machine machine = find_machine("h100-sxm-80gb");
  Layout l;
  l.data = 8;
  l.layers_per_chunk = {32};
  const auto priced = [&](const Engine& engine) { return Pricer(model, machine, small_work(), engine).price(l); };
  const Prediction plain = priced({});
  const Prediction fixed = priced(with(EngineConstant::step_seconds, 0.25));
  CHECK((fixed.step - plain.step).value == Approx(0.25));
  CHECK(fixed.host.value == Approx(0.25));
  CHECK(fixed.idle[0].value == Approx(0));
  const double launch = machine.efficiency.kernel_latency.value;
  const double graphs = 34;  // each has an optimizer of its own
  const Prediction twice = priced(with(EngineConstant::optimizer_passes, 2));
  CHECK(twice.optimizer.value == Approx(2 * plain.optimizer.value - graphs * launch));
  Engine unfused;
  unfused.fused_optimizer = false;
  CHECK(priced(unfused).optimizer.value == Approx(3 * plain.optimizer.value - 2 * graphs * launch));
  const Prediction moved = priced(with(EngineConstant::communication_factor, 2));
  CHECK(moved.communication.value == Approx(2 * plain.communication.value));
  CHECK(priced(with(EngineConstant::hidden_communication_factor, 2)).communication == plain.communication);
  l.overlap.set(Overlap::grad_reduce, true);
  CHECK(priced(with(EngineConstant::hidden_communication_factor, 2)).communication.value ==
        Approx(2 * plain.communication.value));
  l.overlap = {};
  CHECK(priced(with(EngineConstant::memory_kernel_factor, 2)).compute > plain.compute);
  CHECK(priced(with(EngineConstant::memory_kernel_factor, 0.5)).compute < plain.compute);
}

}  // namespace shardwright
