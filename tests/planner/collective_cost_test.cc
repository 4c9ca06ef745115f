#include "planner/cost/collective_cost.h"

#include <doctest/doctest.h>

#include <cmath>

#include "hardware/collective_curves.h"
#include "tests/support/measured_machine.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

using doctest::Approx;

double seconds(CollectiveKind kind, std::int64_t held, const RankGroup& group) {
  return collective_cost({kind, {held}, group}, round_machine()).time.value;
}

constexpr auto kAllGather = CollectiveKind::all_gather;
constexpr auto kReduceScatter = CollectiveKind::reduce_scatter;
constexpr auto kAllReduce = CollectiveKind::all_reduce;
constexpr auto kAllToAll = CollectiveKind::all_to_all;
constexpr auto kSendRecv = CollectiveKind::send_recv;

/// Two of each of two nodes: ranks 0, 1, 4, 5.
RankGroup two_by_two() {
  RankGroup group = run_of(2);
  group.add(2, 4);
  return group;
}

}  // namespace

TEST_CASE("one rank exchanges nothing and takes no time, not even a launch") {
  for (CollectiveKind kind : {kAllGather, kReduceScatter, kAllReduce, kAllToAll, kSendRecv})
    CHECK(seconds(kind, 1000, {}) == 0);
  CHECK(collective_cost({kAllReduce, {1000}, {}}, round_machine()).relative_error == 0);
}

TEST_CASE("a collective's cost comes from the datasheet with the machine's error") {
  const KernelCost cost = collective_cost({kAllReduce, {1000}, run_of(2)}, round_machine());
  CHECK(cost.source == CostSource::datasheet);
  CHECK(cost.relative_error == 0.1);
}

TEST_CASE("inside a node only the node's links count") {
  // 400 bytes at 100 B/s, launch 0.5 s, a step 1 s.
  CHECK(seconds(kAllGather, 400, run_of(4)) == Approx(300 / 100. + 3 + 0.5));
  CHECK(seconds(kReduceScatter, 400, run_of(4)) == Approx(300 / 100. + 3 + 0.5));
  CHECK(seconds(kAllReduce, 400, run_of(4)) == Approx(600 / 100. + 6 + 0.5));
  CHECK(seconds(kAllToAll, 400, run_of(4)) == Approx(300 / 100. + 1 + 0.5));
  CHECK(seconds(kSendRecv, 400, run_of(2)) == Approx(400 / 100. + 1 + 0.5));
  // The same for neighbours that are not next to each other: ranks 0 and 2.
  CHECK(seconds(kAllReduce, 400, run_of(2, 2)) == Approx(400 / 100. + 2 + 0.5));
}

TEST_CASE("one member a node leaves it on one lane") {
  // Ranks 0, 4, 8, 12: nothing inside a node, 10 B/s and 10 s a step between them.
  CHECK(seconds(kAllGather, 400, run_of(4, 4)) == Approx(300 / 10. + 30 + 0.5));
  CHECK(seconds(kReduceScatter, 400, run_of(4, 4)) == Approx(300 / 10. + 30 + 0.5));
  CHECK(seconds(kAllReduce, 400, run_of(4, 4)) == Approx(600 / 10. + 60 + 0.5));
  CHECK(seconds(kAllToAll, 400, run_of(4, 4)) == Approx(300 / 10. + 10 + 0.5));
  CHECK(seconds(kSendRecv, 400, run_of(2, 4)) == Approx(400 / 10. + 10 + 0.5));
}

TEST_CASE("several members in a node have as many lanes out of it") {
  // Two lanes: 300 / 100 inside, 300 / (2 * 10) outside; of a ring's three steps one is outside.
  CHECK(seconds(kAllGather, 400, two_by_two()) == Approx(15 + 2 + 10 + 0.5));
  CHECK(seconds(kAllReduce, 400, two_by_two()) == Approx(30 + 4 + 20 + 0.5));
  // Four lanes of two whole nodes: 700 / 100 inside, 700 / (4 * 10) outside; six steps inside, one outside.
  CHECK(seconds(kReduceScatter, 800, run_of(8)) == Approx(17.5 + 6 + 10 + 0.5));
}

TEST_CASE("the inner links decide where they are the slower ones") {
  Machine m = round_machine();
  m.links[0].bandwidth = {20};  // 700 / 20 inside, 700 / 40 outside
  CHECK(collective_cost({kAllGather, {800}, run_of(8)}, m).time.value == Approx(35 + 6 + 10 + 0.5));
}

TEST_CASE("an all-to-all sends each rank's own share over each level") {
  // Of 800 bytes in eighths, three go to the node's others at 100 B/s and four leave it at 10 B/s.
  CHECK(seconds(kAllToAll, 800, run_of(8)) == Approx(400 / 10. + 1 + 10 + 0.5));
}

TEST_CASE("one copy for all receivers in a node leaves it once, and is passed on inside") {
  // Two nodes of 4; of the bytes for the other node 5/8 cross: 800 x 4/8 x 5/8 / 10 outside. Inside 3/4 of all 800.
  CollectiveSpec rows{kAllToAll, {800}, run_of(8)};
  rows.crossing = 5. / 8;
  CHECK(collective_cost(rows, round_machine()).time.value == Approx(250 / 10. + 1 + 10 + 0.5));
  rows.crossing = 1. / 8;  // 50 / 10 outside, 600 / 100 inside
  CHECK(collective_cost(rows, round_machine()).time.value == Approx(600 / 100. + 1 + 10 + 0.5));
  // In a single node there is no difference.
  CHECK(collective_cost({kAllToAll, {400}, run_of(4), 0.5}, round_machine()).time.value ==
        Approx(300 / 100. + 1 + 0.5));
}

TEST_CASE("a group over several rails crosses the spine at its oversubscribed rate") {
  // 64 ranks: 6300 / 100 in a node, 6300 / (4 * 10) in a rail, 6300 / (16 * 5) over the spine. Of 63 steps 3
  // cross the spine, 12 leave a node inside a rail.
  CHECK(seconds(kAllGather, 6400, run_of(64)) == Approx(157.5 + 48 + 120 + 300 + 0.5));
  // One rank a rail: only the spine, one lane.
  CHECK(seconds(kAllGather, 400, run_of(4, 16)) == Approx(300 / 5. + 300 + 0.5));
  Machine oversubscribed = round_machine();
  oversubscribed.links[2].bandwidth = {1};  // 6300 / (16 * 1)
  CHECK(collective_cost({kAllGather, {6400}, run_of(64)}, oversubscribed).time.value ==
        Approx(393.75 + 48 + 120 + 300 + 0.5));
}

TEST_CASE("a run that straddles units counts by its even part") {
  // Six neighbours in nodes of 4 and rails of 16: some translate has two in a node, and two in a rail. So pairs meet
  // over the spine: 500 / 100 inside, 500 / (2 * 5) outside; three steps inside, two outside.
  CHECK(seconds(kAllGather, 600, run_of(6)) == Approx(50 + 3 + 200 + 0.5));
}

TEST_CASE("a link reaches its efficiency's share of its rate") {
  Machine m = round_machine();
  m.links[0].efficiency = 0.5;
  CHECK(collective_cost({kAllReduce, {400}, run_of(4)}, m).time.value == Approx(12 + 6 + 0.5));
}

TEST_CASE("an empty collective still pays its steps and its launch") {
  CHECK(seconds(kAllReduce, 0, run_of(4)) == Approx(6 + 0.5));
}

TEST_CASE("a collective that was measured in a node costs that, where this machine's nodes hold the group") {
  const auto measured = [](std::int64_t bytes) { return CollectiveSpec{kAllReduce, {bytes}, run_of(4)}; };
  Measurements tables;
  tables.add(table_of(KernelFamily::collective, {{measured(100), 7}, {measured(200), 9}}));
  Machine machine = with_measurements(round_machine(), std::move(tables));
  CHECK(collective_cost(measured(100), machine).time.value == 7);
  CHECK(collective_cost(measured(100), machine).source == CostSource::measured);
  CHECK(collective_cost(measured(150), machine).time.value == Approx(8));
  CHECK(collective_cost(measured(150), machine).source == CostSource::interpolated);
  CHECK(*least_measured_slope(measured(200), machine) == Approx(0.045));
  for (const CollectiveSpec& other :
       {CollectiveSpec{kAllReduce, {100}, run_of(8)}, CollectiveSpec{kAllReduce, {100}, run_of(4, 4)},
        CollectiveSpec{kSendRecv, {100}, run_of(2)}}) {
    CHECK(collective_cost(other, machine).source == CostSource::datasheet);
    CHECK(collective_cost(other, machine).time == collective_cost(other, round_machine()).time);
    CHECK_FALSE(least_measured_slope(other, machine).has_value());
  }
  machine.links.front().gpus = 2;
  CHECK(collective_cost(measured(100), machine).source == CostSource::datasheet);
  CHECK_FALSE(least_measured_slope(measured(100), machine).has_value());
  CHECK_FALSE(least_measured_slope(measured(100), round_machine()).has_value());
}

namespace {

using enum CollectiveWay;

/// Nodes of 4 at 100 B/s and a network of 10 B/s, each with curves that can be added up by hand.
Machine with_curves() {
  auto inside = std::make_shared<FabricCurves>(), outside = std::make_shared<FabricCurves>();
  (*inside)[ring_ll] = {2, 1, 0.1, 0};
  (*inside)[ring_simple] = {20, 3, 0.5, 0};
  (*inside)[direct_simple] = {4, 1, 0.5, 0};
  (*outside)[ring_simple] = {30, 10, 1, 0};
  (*outside)[direct_simple] = {40, 5, 0.8, 0};
  inside->relative_error = 0.05;
  outside->relative_error = 0.2;
  Machine m = round_machine();
  m.links.pop_back();
  m.links[1].gpus = 0;
  m.links[0].curves = inside;
  m.links[1].curves = outside;
  return m;
}

FabricCurves& curves_of(Machine& machine, std::size_t level) {
  auto own = std::make_shared<FabricCurves>(*machine.links[level].curves);
  machine.links[level].curves = own;
  return *own;
}

double seconds_on(const Machine& machine, CollectiveKind kind, std::int64_t held, const RankGroup& group) {
  return collective_cost({kind, {held}, group}, machine).time.value;
}

/// Groups inside a node, over nodes, and one member a node.
std::vector<RankGroup> many_groups() {
  std::vector<RankGroup> groups = {run_of(2),    run_of(4),    run_of(8),     run_of(72),   run_of(64),
                                   run_of(1024), run_of(2, 8), run_of(16, 8), run_of(3, 72)};
  RankGroup spread = run_of(4);
  spread.add(8, 64);
  groups.push_back(spread);
  return groups;
}

}  // namespace

TEST_CASE("of NCCL's protocols the fastest counts") {
  const Machine m = with_curves();
  // 400 bytes on 4 ranks, 300 to move in 3 steps. LL: 2 + 3 + 300 / 10; Simple: 20 + 9 + 300 / 50.
  CHECK(seconds_on(m, kAllGather, 400, run_of(4)) == Approx(35));
  CHECK(seconds_on(m, kReduceScatter, 400, run_of(4)) == Approx(35));
  CHECK(seconds_on(m, kAllReduce, 400, run_of(4)) == Approx(50));  // 20 + 6 x 3 + 600 / 50, LL 68
  // 40 bytes: LL 2 + 3 + 3, Simple 29.6.
  CHECK(seconds_on(m, kAllGather, 40, run_of(4)) == Approx(8));
  CHECK(collective_cost({kAllGather, {40}, run_of(4)}, m).relative_error == 0.05);
}

TEST_CASE("a rank's own slice is copied as part of a slice sent") {
  Machine m = with_curves();
  FabricCurves& inside = curves_of(m, 0);
  inside.ring_copy = 0.5;
  inside.direct_copy = 1;
  CHECK(seconds_on(m, kAllGather, 400, run_of(4)) == Approx(29 + 350 / 50.));  // LL: 5 + 35
  CHECK(seconds_on(m, kAllToAll, 400, run_of(4)) == Approx(4 + 3 + 400 / 50.));
}

TEST_CASE("across nodes the network starts, and each level's steps and slowest bytes add up") {
  const Machine m = with_curves();
  // 8 ranks of two nodes, 700 of 800 bytes to move, four lanes out: 700 / 40. Six steps inside, one outside. Inside LL
  // takes 6 + 70, Simple 18 + 14 < 17.5.
  CHECK(seconds_on(m, kAllGather, 800, run_of(8)) == Approx(30 + 10 + 18 + 17.5));
  CHECK(collective_cost({kAllGather, {800}, run_of(8)}, m).relative_error == 0.2);
  // Few bytes: LL inside.
  CHECK(seconds_on(m, kAllGather, 8, run_of(8)) == Approx(30 + 10 + 6 + 0.7));
  // To each other rank a step: 3 inside, 4 outside at 5; 400 / 8 outside.
  CHECK(seconds_on(m, kAllToAll, 800, run_of(8)) == Approx(40 + 3 + 20 + 50));
  CHECK(seconds_on(m, kSendRecv, 80, run_of(2, 4)) == Approx(40 + 5 + 10));
  CHECK(seconds_on(m, kSendRecv, 50, run_of(2)) == Approx(4 + 1 + 1));
}

TEST_CASE("sums in the switch take no steps and move what is held") {
  Machine m = with_curves();
  curves_of(m, 0)[in_switch] = {10, 0, 0.4, 0};
  CHECK(seconds_on(m, kAllReduce, 400, run_of(4)) == Approx(10 + 400 / 40.));
  CHECK(seconds_on(m, kAllGather, 400, run_of(4)) == Approx(35));  // not of a gather
}

TEST_CASE("a tree sends what is held once between two nodes, twice between more") {
  Machine m = with_curves();
  curves_of(m, 1)[tree] = {5, 2, 1, 0};
  // Two nodes: four lanes, 800 / 40; inside around a ring of four 1200 / 50 = 24. Up and down one step.
  CHECK(seconds_on(m, kAllReduce, 800, run_of(8)) == Approx(5 + 4 + 24));
  curves_of(m, 0)[in_switch] = {10, 0, 0.5, 0};  // 16 inside
  CHECK(seconds_on(m, kAllReduce, 800, run_of(8)) == Approx(5 + 4 + 20));
  // Four nodes: 1600 / 40, two steps each way.
  CHECK(seconds_on(m, kAllReduce, 800, run_of(16)) == Approx(5 + 8 + 40));
  // One member a node: one lane.
  CHECK(seconds_on(m, kAllReduce, 80, run_of(4, 4)) == Approx(5 + 8 + 16));
}

TEST_CASE("rows that cross once a node take the curves of DeepEP's combine") {
  Machine m = with_curves();
  CollectiveSpec rows{kAllToAll, {800}, run_of(8), 0.5};
  // 800 x 4/8 x 1/2 / 8 outside, 800 x 3/4 / 50 inside: NCCL's sends.
  CHECK(collective_cost(rows, m).time.value == Approx(40 + 3 + 20 + 25));
  curves_of(m, 0)[combine] = {6, 0, 0.6, 0};
  CHECK(collective_cost(rows, m).time.value == Approx(40 + 3 + 20 + 25));  // the network does not know them
  curves_of(m, 1)[combine] = {9, 0, 1, 0};
  CHECK(collective_cost(rows, m).time.value == Approx(9 + 20));
  rows.crossing = 1;
  CHECK(collective_cost(rows, m).time.value == Approx(40 + 3 + 20 + 50));
}

TEST_CASE("an engine's all-reduce is one shot, two shots, or NCCL's") {
  Machine m = with_curves();
  CollectiveSpec spec{kAllReduce, {40}, run_of(4)};
  spec.algorithm = CollectiveAlgorithm::custom;
  CHECK(collective_cost(spec, m).time.value == Approx(14));  // NCCL: 2 + 6 + 60 / 10
  curves_of(m, 0)[one_shot] = {1, 0.5, 1, 0};
  CHECK(collective_cost(spec, m).time.value == Approx(1 + 1.5 + 120 / 100.));
  curves_of(m, 0)[two_shot] = {2, 0.5, 1, 0};
  spec.held = {4000};  // one shot 2.5 + 120, two 3.5 + 60, NCCL 20 + 18 + 120
  CHECK(collective_cost(spec, m).time.value == Approx(63.5));
  spec.algorithm = CollectiveAlgorithm::one_shot_multicast;
  CHECK(collective_cost(spec, m).time.value == Approx(20 + 18 + 120));
  curves_of(m, 0)[one_shot_multicast] = {1, 0, 0.5, 0};
  CHECK(collective_cost(spec, m).time.value == Approx(1 + 80));
  spec.group = run_of(8);  // leaves the node
  CHECK(collective_cost(spec, m).time.value == seconds_on(m, kAllReduce, 4000, run_of(8)));
}

TEST_CASE("cards behind shared bridges slow down with their number") {
  Machine m = with_curves();
  curves_of(m, 0).crowding = 2;
  CHECK(seconds_on(m, kSendRecv, 50, run_of(2)) == Approx(6));
  CHECK(seconds_on(m, kAllToAll, 400, run_of(4)) == Approx(4 + 3 + 4 * 300 / 50.));
}

TEST_CASE("collectives of the catalog's machines: no jump, no fall, and no more a byte for more bytes") {
  for (const char* name : {"h100-sxm-80gb", "a100-sxm-80gb", "b200-sxm-192gb", "gb200-nvl72", "l40s-48gb",
                           "h100-nvl-94gb", "gh200-96gb"}) {
    const Machine machine = find_machine(name);
    for (const RankGroup& group : many_groups()) {
      for (CollectiveKind kind : {kAllGather, kReduceScatter, kAllReduce, kAllToAll, kSendRecv}) {
        CAPTURE(name);
        CAPTURE(static_cast<int>(kind));
        CAPTURE(group.size());
        const double least = seconds_on(machine, kind, 0, group);
        CHECK(least > 0);
        double before = least, slope = INFINITY;
        for (double size = 64; size < 1e11; size *= 1.1) {
          const auto held = static_cast<std::int64_t>(size);
          const double now = seconds_on(machine, kind, held, group);
          REQUIRE(now >= before);
          REQUIRE((size == 64 || now < 1.11 * before));
          const double here = (now - least) / static_cast<double>(held);
          REQUIRE(here <= slope * (1 + 1e-9));
          before = now;
          slope = here;
        }
      }
    }
  }
}

}  // namespace shardwright
