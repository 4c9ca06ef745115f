#include "planner/cost/expert_placement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>

using namespace shardwright;

namespace {

using Loads = std::vector<double>;

/// Exponentially distributed. From the generator alone, whose numbers the standard fixes.
Loads random_loads(std::mt19937_64& random, std::size_t experts) {
  Loads loads;
  for (std::size_t i = 0; i < experts; ++i)
    loads.push_back(-std::log(static_cast<double>(random() >> 11 | 1) * 0x1p-53));
  return loads;
}

double busiest_copy(const Loads& loads, const std::vector<int>& replicas) {
  double busiest = 0;
  for (std::size_t i = 0; i < loads.size(); ++i) busiest = std::max(busiest, loads[i] / replicas[i]);
  return busiest;
}

/// The least busiest_copy of all ways to deal `spare` more copies to the experts from `from` on.
double least_busiest_copy(const Loads& loads, std::vector<int>& replicas, std::size_t from, int spare) {
  if (from + 1 == loads.size()) {
    replicas[from] += spare;
    const double busiest = busiest_copy(loads, replicas);
    replicas[from] -= spare;
    return busiest;
  }
  double least = std::numeric_limits<double>::infinity();
  for (int here = 0; here <= spare; ++here) {
    replicas[from] += here;
    least = std::min(least, least_busiest_copy(loads, replicas, from + 1, spare - here));
    replicas[from] -= here;
  }
  return least;
}

double mean_busiest_gpu(std::size_t experts, int slots, int groups, int nodes, int gpus) {
  std::mt19937_64 random(7);
  double sum = 0;
  for (int i = 0; i < 50; ++i) {
    const Loads loads = random_loads(random, experts);
    sum += busiest_gpu(loads, place_experts(loads, slots, groups, nodes, gpus), gpus);
  }
  return sum / 50;
}

void check_complete(const ExpertPlacement& placement, std::size_t experts, int slots) {
  CHECK(placement.expert_of_slot.size() == static_cast<std::size_t>(slots));
  std::vector<int> copies(experts, 0);
  for (const int expert : placement.expert_of_slot) ++copies.at(static_cast<std::size_t>(expert));
  CHECK(copies == placement.replicas);
  CHECK(*std::min_element(copies.begin(), copies.end()) >= 1);
}

std::string fault_of(const Loads& loads, int slots, int groups, int nodes, int gpus) {
  try {
    place_experts(loads, slots, groups, nodes, gpus);
  } catch (const std::invalid_argument& error) { return error.what(); }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("DeepSeek's own example of its load balancer is placed as it is there") {
  // github.com/deepseek-ai/EPLB, README.md: two layers, 16 replicas, 4 groups, 2 nodes, 8 GPUs.
  CHECK(place_experts({90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, 16, 4, 2, 8).expert_of_slot ==
        std::vector<int>{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1});
  CHECK(place_experts({20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, 16, 4, 2, 8).expert_of_slot ==
        std::vector<int>{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1});
}

TEST_CASE("the busiest GPU of DeepSeek's example") {
  // 1033 rows over 8 GPUs: 129.125 each. The seventh GPU, [0, 1], has 90 + 132 / 2 = 156; the next, [11, 1], 152.
  const Loads loads = {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  CHECK(busiest_gpu(loads, place_experts(loads, 16, 4, 2, 8), 8) == doctest::Approx(156 / 129.125));
}

TEST_CASE("without spare slots the heaviest expert comes first into the lightest GPU that has room") {
  // 9 | 8; 7 to the second, 15; 6 to the first, 15; both have two of three. A tie: 2 to the first, which is full;
  // then 1.
  const ExpertPlacement placement = place_experts({1, 9, 2, 8, 6, 7}, 6, 1, 1, 2);
  CHECK(placement.expert_of_slot == std::vector<int>{1, 4, 2, 3, 5, 0});
  CHECK(placement.replicas == std::vector<int>(6, 1));
  CHECK(busiest_gpu({1, 9, 2, 8, 6, 7}, placement, 2) == doctest::Approx(17 / 16.5));
}

TEST_CASE("one slot a GPU: the experts in their order, then the copies") {
  // 12 of the first expert becomes 6 and 6, then 4, 4 and 4; the second's 5 is next.
  const ExpertPlacement placement = place_experts({12, 5, 1}, 6, 1, 1, 6);
  CHECK(placement.expert_of_slot == std::vector<int>{0, 1, 2, 0, 0, 1});
  CHECK(placement.replicas == std::vector<int>{3, 2, 1});
  CHECK(busiest_gpu({12, 5, 1}, placement, 6) == doctest::Approx(4 / 3.0));
}

TEST_CASE("experts of equal load are placed in their order") {
  CHECK(place_experts(Loads(4, 1.0), 4, 1, 1, 2).expert_of_slot == std::vector<int>{0, 2, 1, 3});
  CHECK(place_experts(Loads(4, 1.0), 6, 1, 1, 6).expert_of_slot == std::vector<int>{0, 1, 2, 3, 0, 1});
}

TEST_CASE("without any load every expert has its slots and no GPU is busier than another") {
  const Loads loads(4, 0.0);
  const ExpertPlacement placement = place_experts(loads, 8, 2, 2, 4);
  check_complete(placement, 4, 8);
  CHECK(busiest_gpu(loads, placement, 4) == 1);
}

TEST_CASE("DeepSeek-V3's redundant experts fill whole GPUs") {
  // 256 + 32 on 32 GPUs (prefill) and on 144, 256 + 64 on 320 (decoding); 8 GPUs a node, 8 groups.
  // arXiv 2412.19437, 3.4; DeepSeek's day 6 of open-source week, 2025-03-01.
  struct Case {
    int slots, gpus, slots_per_gpu;
  };
  std::mt19937_64 random(3);
  const Loads loads = random_loads(random, 256);
  for (const Case& c : {Case{288, 32, 9}, Case{288, 144, 2}, Case{320, 320, 1}}) {
    const ExpertPlacement placement = place_experts(loads, c.slots, 8, c.gpus / 8, c.gpus);
    check_complete(placement, 256, c.slots);
    CHECK(placement.expert_of_slot.size() == static_cast<std::size_t>(c.gpus * c.slots_per_gpu));
  }
}

TEST_CASE("where the nodes divide the groups, each group with all its copies stays on one node, equally many on each") {
  std::mt19937_64 random(11);
  for (int round = 0; round < 20; ++round) {
    const Loads loads = random_loads(random, 64);
    const ExpertPlacement placement = place_experts(loads, 96, 8, 4, 32);
    check_complete(placement, 64, 96);
    std::vector<std::set<int>> groups_of_node(4);
    for (std::size_t slot = 0; slot < 96; ++slot) groups_of_node[slot / 24].insert(placement.expert_of_slot[slot] / 8);
    std::set<int> seen;
    for (const std::set<int>& groups : groups_of_node) {
      CHECK(groups.size() == 2);
      seen.insert(groups.begin(), groups.end());
    }
    CHECK(seen.size() == 8);
  }
}

TEST_CASE("where the nodes do not divide the groups, nodes and groups do not count") {
  std::mt19937_64 random(12);
  const Loads loads = random_loads(random, 48);
  const ExpertPlacement placement = place_experts(loads, 72, 8, 3, 24);
  CHECK(placement.expert_of_slot == place_experts(loads, 72, 1, 1, 24).expert_of_slot);
}

TEST_CASE("the copies are dealt so that the busiest copy has as little to do as is possible") {
  std::mt19937_64 random(13);
  for (int round = 0; round < 30; ++round) {
    const Loads loads = random_loads(random, 5);
    for (int spare = 0; spare <= 7; ++spare) {
      std::vector<int> replicas(5, 1);
      const double least = least_busiest_copy(loads, replicas, 0, spare);
      CHECK(busiest_copy(loads, place_experts(loads, 5 + spare, 1, 1, 1).replicas) == least);
    }
  }
}

TEST_CASE("on random loads every expert has a slot, and the busiest GPU is between the mean and its slots' worst") {
  std::mt19937_64 random(14);
  for (int round = 0; round < 200; ++round) {
    const int gpus_per_node = 1 + static_cast<int>(random() % 8), nodes = 1 + static_cast<int>(random() % 4);
    const int gpus = gpus_per_node * nodes, slots_per_gpu = 1 + static_cast<int>(random() % 6);
    const int slots = gpus * slots_per_gpu;
    const int groups = 1 + static_cast<int>(random() % 4);
    const int experts = slots / groups * groups - groups * static_cast<int>(random() % 3);
    if (experts <= 0) continue;
    const Loads loads = random_loads(random, static_cast<std::size_t>(experts));
    const ExpertPlacement placement = place_experts(loads, slots, groups, nodes, gpus);
    check_complete(placement, loads.size(), slots);
    const double busiest = busiest_gpu(loads, placement, gpus);
    const double mean_of_gpu = std::accumulate(loads.begin(), loads.end(), 0.0) / gpus;
    CHECK(busiest >= 1 - 1e-12);
    CHECK(busiest <= slots_per_gpu * busiest_copy(loads, placement.replicas) / mean_of_gpu * (1 + 1e-12));
    // One more slot for each GPU never gives the busiest copy more to do.
    const ExpertPlacement more = place_experts(loads, slots + gpus, groups, nodes, gpus);
    CHECK(busiest_copy(loads, more.replicas) <= busiest_copy(loads, placement.replicas));
  }
}

TEST_CASE("the more redundant experts, the less the busiest GPU has to do on average") {
  SUBCASE("nodes divide the groups") {
    double before = std::numeric_limits<double>::infinity();
    // Beyond these it is the nodes that differ, which copies within a node do not even out.
    for (const int slots : {256, 288, 320, 384}) {
      const double now = mean_busiest_gpu(256, slots, 8, 4, 32);
      CHECK(now < before);
      before = now;
    }
  }
  SUBCASE("one group, one slot a GPU more each time") {
    double before = std::numeric_limits<double>::infinity();
    for (const int slots : {64, 128, 192, 256}) {
      const double now = mean_busiest_gpu(64, slots, 1, 1, 64);
      CHECK(now < before);
      before = now;
    }
  }
}

TEST_CASE("what cannot be placed is refused") {
  const Loads four = {1, 2, 3, 4};
  CHECK(fault_of({}, 4, 1, 1, 1) == "place_experts: there are no experts");
  CHECK(fault_of({1, -2}, 4, 1, 1, 1) ==
        "place_experts: the load of expert 1 is -2, not a finite number of at least 0");
  CHECK(fault_of({std::numeric_limits<double>::infinity()}, 4, 1, 1, 1) ==
        "place_experts: the load of expert 0 is inf, not a finite number of at least 0");
  CHECK(fault_of(four, 4, 0, 1, 1) == "place_experts: 0 groups, 1 nodes and 1 GPUs must be at least 1 each");
  CHECK(fault_of(four, 4, 1, 0, 1) == "place_experts: 1 groups, 0 nodes and 1 GPUs must be at least 1 each");
  CHECK(fault_of(four, 4, 1, 1, -1) == "place_experts: 1 groups, 1 nodes and -1 GPUs must be at least 1 each");
  CHECK(fault_of(four, 3, 1, 1, 1) == "place_experts: 3 slots are too few for 4 experts");
  CHECK(fault_of(four, -4, 1, 1, 1) == "place_experts: -4 slots are too few for 4 experts");
  CHECK(fault_of(four, 6, 1, 1, 4) == "place_experts: 6 slots do not divide over 4 GPUs");
  CHECK(fault_of(four, 8, 1, 3, 4) == "place_experts: 4 GPUs do not divide over 3 nodes");
  CHECK(fault_of(four, 8, 3, 1, 4) == "place_experts: 4 experts do not divide into 3 groups");
}
