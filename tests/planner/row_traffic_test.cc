#include "planner/cost/row_traffic.h"

#include <doctest/doctest.h>

#include "planner/cost/node_cost.h"
#include "planner/cost/shape_price.h"
#include "planner/pricer.h"
#include "planner/shard/declare.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

using doctest::Approx;

Layout experts_over(int ep, int dp, Dispatcher dispatcher = Dispatcher::deepep) {
  Layout l;
  l.data = dp;
  l.expert = ep;
  l.dispatcher = dispatcher;
  return l;
}

double crossing(const Model& model, const Layout& l, const Machine& machine) {
  return row_crossing(model, l, std::get<Mesh>(stage_mesh(l, model)), machine);
}

/// C(n, k) / C(m, k)
double chances(int n, int m, int k) {
  double p = 1;
  for (int i = 0; i < k; ++i) p *= static_cast<double>(n - i) / (m - i);
  return p;
}

Workload tokens(std::int64_t sequence, DataType precision) {
  Workload w;
  w.sequence_length = sequence;
  w.global_batch = 64;
  w.formats = formats_for(precision);
  return w;
}

/// The first layer with experts of a model under a layout, and what its nodes cost.
struct Layer {
  Layer(const Model& model, const Layout& layout, const Machine& on, const Workload& work)
      : machine(on),
        graphs(model_graphs(model)),
        graph(graphs.layer_classes.back()),
        mesh(std::get<Mesh>(stage_mesh(layout, model))),
        extents(layout_extents(graph, layout, work.sequence_length)),
        sharded(shard(graph, extents, mesh, declare(graph, layout, mesh))),
        context{graph,
                extents,
                mesh,
                machine,
                work.formats,
                graph.find_dim("key_sequence"),
                graph.find_dim("expert"),
                row_crossing(model, layout, mesh, machine)} {}

  /// Seconds of the reshards of `tensor`, in forward and backward.
  std::vector<double> moves(const char* tensor) const {
    std::vector<double> all;
    for (const Node& n : sharded.nodes)
      if (n.kind == Node::Kind::reshard && graph.tensor(sharded.value(n.inputs[0]).tensor).name == tensor)
        all.push_back(node_cost(context, sharded, n).communication.value);
    return all;
  }

  Machine machine;
  ModelGraphs graphs;
  const OpGraph& graph;
  Mesh mesh;
  std::vector<std::int64_t> extents;
  ShardedGraph sharded;
  CostContext context;
};

}  // namespace

TEST_CASE("DeepSeek-V3 over 8 nodes: of 8 copies of a token 3.6 cross with its limit of four nodes, 5.3 without") {
  const Model v3 = find_model("deepseek-v3");
  const Machine h800 = find_machine("h800-sxm-80gb");
  CHECK(crossing(v3, experts_over(64, 64), h800) == Approx(4 * (1 - chances(96, 128, 8)) / 8));
  CHECK(8 * crossing(v3, experts_over(64, 64), h800) == Approx(3.6).epsilon(0.01));
  Model free = v3;
  free.n_group = free.topk_group = 0;
  CHECK(crossing(free, experts_over(64, 64), h800) == Approx(8 * (1 - chances(224, 256, 8)) / 8));
  CHECK(8 * crossing(free, experts_over(64, 64), h800) == Approx(5.3).epsilon(0.01));
  CHECK(crossing(v3, experts_over(64, 64, Dispatcher::hybridep), h800) == crossing(v3, experts_over(64, 64), h800));
  // One member a node: each rank is a node of its own.
  Layout spread = experts_over(8, 8);
  spread.tensor = 8;
  spread.sequence_parallel = true;
  spread.expert_tensor = 8;
  CHECK(crossing(v3, spread, h800) == crossing(v3, experts_over(64, 64), h800));
}

TEST_CASE("every copy crosses by itself with alltoall, and where there is one rank or one node") {
  const Model v3 = find_model("deepseek-v3");
  const Machine h800 = find_machine("h800-sxm-80gb");
  CHECK(crossing(v3, experts_over(64, 64, Dispatcher::all_to_all), h800) == 1);
  CHECK(crossing(v3, experts_over(64, 64, Dispatcher::all_gather), h800) == 1);
  CHECK(crossing(v3, experts_over(1, 64), h800) == 1);
  CHECK(crossing(v3, experts_over(8, 8), h800) == Approx(1. / 8));  // one node holds all: no bytes to cross
  CHECK(crossing(v3, experts_over(64, 64), wire_machine()) == 1);
}

TEST_CASE("deepep is taken where it saves bytes or reaches more of the links, alltoall where it saves too little") {
  const Model v3 = find_model("deepseek-v3"), mixtral = find_model("mixtral-8x7b");
  const Machine h800 = find_machine("h800-sxm-80gb");
  CHECK(faster_dispatcher(v3, experts_over(64, 64), h800) == Dispatcher::deepep);
  // In one node both move the same bytes; DeepEP's kernels reach more of NVLink than NCCL's sends.
  CHECK(faster_dispatcher(v3, experts_over(8, 8), h800) == Dispatcher::deepep);
  Machine plain = h800;
  for (LinkLevel& level : plain.links) level.curves = nullptr;
  CHECK(faster_dispatcher(v3, experts_over(8, 8), plain) == Dispatcher::all_to_all);
  CHECK(faster_dispatcher(v3, experts_over(1, 8), h800) == Dispatcher::all_to_all);
  // 8 experts on 8 nodes: both copies of a row go to different nodes.
  Layout spread = experts_over(8, 8);
  spread.tensor = spread.expert_tensor = 8;
  spread.sequence_parallel = true;
  CHECK(faster_dispatcher(mixtral, spread, h800) == Dispatcher::all_to_all);
  // Links inside a node that are slower than those between: passing on costs more than crossing saves.
  Machine slow = plain;
  slow.links[0].bandwidth = slow.links[1].bandwidth * 0.5;
  CHECK(faster_dispatcher(v3, experts_over(64, 64), slow) == Dispatcher::all_to_all);
}

TEST_CASE("a token's bytes on the network and inside a node: node-limited DeepSeek-V3, dispatch in one byte") {
  // Rates such that seconds are bytes: first of the network alone, then of the links inside nodes alone.
  const Model v3 = find_model("deepseek-v3");
  Machine network = find_machine("h800-sxm-80gb");
  network.links = {{"node", 8, {1e30}, {0}, 1}, {"network", 0, {1}, {0}, 1}};
  network.efficiency.kernel_latency = {0};
  Machine inside = network;
  inside.links[0].bandwidth = {1};
  inside.links[1].bandwidth = {1e30};
  const Workload work = tokens(4096, DataType::fp8);
  const double token = 4096. * 7168;                   // of one byte
  const double nodes = 4 * (1 - chances(96, 128, 8));  // at most four, 3.6 on average
  const Layer on_network(v3, experts_over(64, 64), network, work), on_links(v3, experts_over(64, 64), inside, work);
  // Forward, and in backward the rows' gradient on its way back: dispatch in fp8, combine in bf16.
  REQUIRE(on_network.moves("rows").size() == 2);
  CHECK(on_network.moves("rows")[0] == Approx(token * nodes * 7 / 8));
  CHECK(on_network.moves("rows")[1] == Approx(2 * token * nodes * 7 / 8));
  REQUIRE(on_network.moves("expert_out").size() == 2);
  CHECK(on_network.moves("expert_out")[0] == Approx(2 * token * nodes * 7 / 8));
  CHECK(on_network.moves("expert_out")[1] == Approx(token * nodes * 7 / 8));
  CHECK(on_links.moves("rows")[0] == Approx(token * 8 * 7 / 8));  // all k copies, but for a rank's own part
  CHECK(on_links.moves("rows")[0] <= 8 * token);
  CHECK(on_network.moves("rows")[0] <= 4 * token);
  // Gates go with the rows, four bytes each.
  CHECK(on_network.moves("gate")[0] == Approx(4. * 4096 * 8 * 7 / 8));
  SUBCASE("every copy by itself: T k h (e-1)/e over all links") {
    const Layer every(v3, experts_over(64, 64, Dispatcher::all_to_all), network, work);
    CHECK(every.moves("rows")[0] == Approx(token * 8 * 56 / 64));
    const Layer bf16(v3, experts_over(64, 64, Dispatcher::all_to_all), wire_machine(), tokens(4096, DataType::bf16));
    CHECK(bf16.moves("rows")[0] == Approx(2 * token * 8 * 63 / 64));
    CHECK(bf16.moves("expert_out")[0] == Approx(2 * token * 8 * 63 / 64));
  }
}

TEST_CASE("a load that is not balanced costs time and memory of the experts' ranks, and only there") {
  const Model mixtral = find_model("mixtral-8x7b");
  const Machine h100 = find_machine("h100-sxm-80gb");
  Workload even = tokens(4096, DataType::bf16), uneven = even, capped = even;
  uneven.expert_load = {ExpertLoad::Kind::histogram, 0, {2, 1, 1, 1, 1, 1, 1, 0}};
  capped.capacity_factor = 2;
  Layout l = experts_over(8, 8, Dispatcher::all_to_all);
  l.layers_per_chunk = {32};
  Pricer balanced(mixtral, h100, even), busy(mixtral, h100, uneven), dropping(mixtral, h100, capped);
  const PassPrice& b = balanced.shape(shape_of(l)).layers[0].passes[0];
  const PassPrice& u = busy.shape(shape_of(l)).layers[0].passes[0];
  const PassPrice& c = dropping.shape(shape_of(l)).layers[0].passes[0];
  CHECK(u.forward() > b.forward());
  CHECK(u.need.saved > b.need.saved);
  // A capacity of twice the mean is what the busiest rank had: the same rows there.
  CHECK(c.forward().value == Approx(u.forward().value).epsilon(0.01));
  CHECK(c.backward().value == Approx(u.backward().value).epsilon(0.01));
  CHECK(static_cast<double>(c.need.saved.value) == Approx(static_cast<double>(u.need.saved.value)).epsilon(0.01));
  SUBCASE("with all experts on every rank a load changes nothing") {
    l.expert = 1;
    CHECK(busy.shape(shape_of(l)).layers[0].passes[0].forward() ==
          balanced.shape(shape_of(l)).layers[0].passes[0].forward());
  }
  SUBCASE("a histogram of equal counts is a balanced load") {
    uneven.expert_load.counts.assign(8, 3);
    Pricer same(mixtral, h100, uneven);
    CHECK(same.shape(shape_of(l)).layers[0].passes[0].forward() == b.forward());
  }
  SUBCASE("published rates count the model's own work, not a rank's") {
    CHECK(busy.model_flops_per_token() == balanced.model_flops_per_token());
    CHECK(dropping.model_flops_per_token() == balanced.model_flops_per_token());
  }
}

}  // namespace shardwright
