#include "planner/cost/collective_cost.h"

#include <doctest/doctest.h>

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

}  // namespace shardwright
