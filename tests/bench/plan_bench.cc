// How fast layouts are searched and priced, on the main job: Llama-3.1-405B on 1024 H100, 8192 tokens, 512 sequences a
// step.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <stdexcept>

#include "planner/cost/node_cost.h"
#include "planner/cost/shape_price.h"
#include "planner/pricer.h"
#include "planner/search/search.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

PlanRequest job(const char* model, const char* machine, std::int64_t gpus, std::int64_t sequence_length,
                std::int64_t global_batch, DataType precision) {
  PlanRequest r;
  r.model = find_model(model);
  r.machine = find_machine(machine);
  r.gpus = gpus;
  r.workload.sequence_length = sequence_length;
  r.workload.global_batch = global_batch;
  r.precision = precision;
  r.workload.formats = formats_for(precision);
  return r;
}

/// DeepSeek-V3 on 2048 H800: what experts add to the space.
PlanRequest job_of_experts() { return job("deepseek-v3", "h800-sxm-80gb", 2048, 4096, 15360, DataType::fp8); }

PlanRequest main_job() { return job("llama-3.1-405b", "h100-sxm-80gb", 1024, 8192, 512, DataType::bf16); }

/// The whole of `plan`, nothing remembered from one to the next. items: layouts considered.
void plan_job(benchmark::State& state, PlanRequest request) {
  request.threads = static_cast<int>(state.range(0));
  std::int64_t considered = 0;
  for (auto _ : state) {
    const PlanResult result = plan(request);
    if (!result.search.proven_best) throw std::logic_error("the search left something open");
    considered += result.search.considered;
  }
  state.SetItemsProcessed(considered);
}
void plan_main_job(benchmark::State& state) { plan_job(state, main_job()); }
void plan_job_of_experts(benchmark::State& state) { plan_job(state, job_of_experts()); }
BENCHMARK(plan_main_job)->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(plan_job_of_experts)->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

/// Layouts that fit, spread over the space, with their layers filled in.
std::vector<Layout> some_that_fit(const PlanRequest& request) {
  std::vector<Layout> layouts;
  for (int tp : {2, 4, 8})
    for (int pp : {8, 16, 32, 64})
      for (int vpp : {1, 2}) {
        PlanRequest one = request;
        one.pins.tp = tp;
        one.pins.pp = pp;
        one.pins.vpp = vpp;
        for (const PricedLayout& p : plan(one).plans) layouts.push_back(p.layout);
      }
  return layouts;
}

/// A prediction in full, memory of every stage and the played schedule included, where its shape is known. items:
/// layouts priced.
void price_layout(benchmark::State& state) {
  const PlanRequest request = main_job();
  const std::vector<Layout> layouts = some_that_fit(request);
  Pricer pricer(request.model, request.machine, request.workload);
  for (const Layout& l : layouts) pricer.shape(shape_of(l));
  std::int64_t priced = 0;
  for (auto _ : state)
    for (const Layout& l : layouts) {
      benchmark::DoNotOptimize(pricer.price(l).step);
      ++priced;
    }
  state.SetItemsProcessed(priced);
}
BENCHMARK(price_layout)->Unit(benchmark::kMillisecond);

/// One 405B layer at tp 8, sequence parallel, dp 4 with ZeRO-3 in two replicas.
struct Layer {
  PlanRequest request = main_job();
  OpGraph graph = model_graphs(request.model).layer_classes[0];
  Layout layout = sample_layout({8, 1, 1, true});
  Mesh mesh = std::get<Mesh>(stage_mesh(layout, request.model));
  std::vector<std::int64_t> extents = layout_extents(graph, layout, request.workload.sequence_length);

  ShardedGraph shard_it() const { return shard(graph, extents, mesh, declare(graph, layout, mesh)); }
};

void shard_layer(benchmark::State& state) {
  const Layer layer;
  for (auto _ : state) benchmark::DoNotOptimize(layer.shard_it().nodes.size());
}
BENCHMARK(shard_layer)->Unit(benchmark::kMicrosecond);

/// The same, with the time of every node, the order of backward and the memory of one choice of recomputation.
void shard_and_price_layer(benchmark::State& state) {
  const Layer layer;
  const CostContext context{layer.graph, layer.extents, layer.mesh, layer.request.machine,
                            layer.request.workload.formats};
  const Recompute recompute{false, 2};
  for (auto _ : state) {
    const ShardedGraph sharded = layer.shard_it();
    std::vector<Seconds> seconds;
    for (const Node& n : sharded.nodes) {
      const NodeCost cost = node_cost(context, sharded, n);
      seconds.push_back(cost.compute + cost.communication);
    }
    const BackwardPlan plan = plan_backward(layer.graph, sharded, recompute);
    Seconds both;
    for (std::size_t i = 0; i < sharded.forward_nodes; ++i) both += seconds[i];
    for (NodeId n : plan.order) both += seconds[static_cast<std::size_t>(n)];
    benchmark::DoNotOptimize(both);
    benchmark::DoNotOptimize(activation_need(layer.graph, sharded, plan, context.formats));
  }
}
BENCHMARK(shard_and_price_layer)->Unit(benchmark::kMicrosecond);

/// Embedding, head and layer of one shape with every choice of recomputation, as the search asks for it.
void price_whole_shape(benchmark::State& state) {
  const Layer layer;
  const ModelGraphs graphs = model_graphs(layer.request.model);
  const std::vector<Recompute> all = recompute_choices(layer.request.model);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        price_shape(graphs, layer.request.model, layer.request.machine, layer.request.workload, {8, 1, 1, true}, all)
            .stream);
}
BENCHMARK(price_whole_shape)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shardwright

BENCHMARK_MAIN();
