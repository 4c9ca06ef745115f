#include "hardware/rank_group.h"

#include <doctest/doctest.h>

#include <map>
#include <numeric>
#include <random>
#include <vector>

using namespace shardwright;

namespace {

RankGroup group_of(std::initializer_list<RankGroup::Factor> factors) {
  RankGroup group;
  for (const RankGroup::Factor& factor : factors) group.add(factor.size, factor.stride);
  return group;
}

/// Counts, for every translate on a line of `world` ranks, the members in each unit that has any; their greatest common
/// divisor is the count that holds everywhere.
std::int64_t counted_within(const RankGroup& group, std::int64_t unit, std::int64_t world) {
  std::int64_t common = 0;
  for (std::int64_t base = 0; base < world; ++base) {
    bool is_first = true;  // of its translate: at coordinate 0 of every factor
    std::vector<std::int64_t> members = {base};
    for (int i = 0; i < group.count; ++i) {
      const RankGroup::Factor& factor = group.factors[i];
      is_first = is_first && (base / factor.stride) % factor.size == 0;
      std::vector<std::int64_t> more;
      for (std::int64_t member : members) {
        for (std::int32_t step = 0; step < factor.size; ++step) more.push_back(member + step * factor.stride);
      }
      members = more;
    }
    if (!is_first) continue;
    std::map<std::int64_t, std::int64_t> in_unit;
    for (std::int64_t member : members) ++in_unit[member / unit];
    for (const auto& [number, count] : in_unit) common = std::gcd(common, count);
  }
  return common;
}

}  // namespace

TEST_CASE("a group of no factors is one rank") {
  CHECK(RankGroup{}.size() == 1);
  CHECK(RankGroup{}.members_within(8) == 1);
}

TEST_CASE("a factor of one rank adds nothing") { CHECK(group_of({{1, 1}, {4, 8}, {1, 32}}) == group_of({{4, 8}})); }

TEST_CASE("neighbouring factors that make one run are joined") {
  CHECK(group_of({{2, 1}, {4, 2}}) == group_of({{8, 1}}));
  CHECK(group_of({{2, 4}, {3, 8}}) == group_of({{6, 4}}));
  CHECK(group_of({{2, 1}, {4, 4}}).count == 2);
  CHECK(group_of({{2, 1}, {4, 4}}).size() == 8);
}

TEST_CASE("members within a node") {
  CHECK(group_of({{8, 1}}).members_within(8) == 8);
  CHECK(group_of({{4, 1}}).members_within(8) == 4);
  CHECK(group_of({{16, 1}}).members_within(8) == 8);
  CHECK(group_of({{4, 8}}).members_within(8) == 1);
  CHECK(group_of({{4, 4}}).members_within(8) == 2);
  CHECK(group_of({{6, 1}}).members_within(8) == 2);   // 6..11 lies 2 and 4 in two nodes
  CHECK(group_of({{12, 1}}).members_within(8) == 4);  // 8 and 4
  CHECK(group_of({{7, 1}}).members_within(8) == 1);
  CHECK(group_of({{4, 3}}).members_within(8) == 1);  // 0 3 6 | 9
  CHECK(group_of({{2, 1}, {2, 4}}).members_within(4) == 2);
  CHECK(group_of({{2, 1}, {2, 4}}).members_within(8) == 4);
}

TEST_CASE("members within a unit agree with counting all translates") {
  std::mt19937 random(7);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int round = 0; round < 1000; ++round) {
    RankGroup group;
    std::int64_t stride = pick(1, 4);
    const int factors = pick(0, 3);
    for (int i = 0; i < factors; ++i) {
      const int size = pick(1, 5);
      group.add(size, stride);
      stride *= size * pick(1, 3);
    }
    const std::int64_t unit = pick(1, 24);
    // The pattern of translates and units repeats after this many ranks.
    const std::int64_t world = 2 * std::lcm(stride, unit);
    const std::int64_t expected = counted_within(group, unit, world);
    CAPTURE(group.count);
    CAPTURE(group.factors[0].size);
    CAPTURE(group.factors[0].stride);
    CAPTURE(group.factors[1].size);
    CAPTURE(group.factors[1].stride);
    CAPTURE(group.factors[2].size);
    CAPTURE(group.factors[2].stride);
    CAPTURE(unit);
    REQUIRE(group.members_within(unit) == expected);
    REQUIRE(group.size() % group.members_within(unit) == 0);
  }
}
