#include "planner/cost/expert_routing.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

using namespace shardwright;

namespace {

/// Moves `count` random elements to the front.
void draw(std::vector<std::int64_t>& from, std::int64_t count, std::mt19937_64& random) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    std::swap(from[i], from[i + random() % (from.size() - i)]);
  }
}

struct Estimate {
  double mean = 0, standard_error = 0;
};

/// distinct_parts by drawing tokens.
Estimate drawn_parts(std::int64_t experts, std::int64_t chosen, std::int64_t parts, std::int64_t n_group,
                     std::int64_t topk_group, int tokens, std::mt19937_64& random) {
  const std::int64_t size = experts / n_group;
  std::vector<std::int64_t> groups(static_cast<std::size_t>(n_group));
  std::iota(groups.begin(), groups.end(), std::int64_t{0});
  double sum = 0, squares = 0;
  for (int token = 0; token < tokens; ++token) {
    draw(groups, topk_group, random);
    std::vector<std::int64_t> pool;
    for (std::int64_t i = 0; i < topk_group * size; ++i) {
      pool.push_back(groups[static_cast<std::size_t>(i / size)] * size + i % size);
    }
    draw(pool, chosen, random);
    std::set<std::int64_t> touched;
    for (std::int64_t i = 0; i < chosen; ++i) touched.insert(pool[static_cast<std::size_t>(i)] / (experts / parts));
    const double count = static_cast<double>(touched.size());
    sum += count;
    squares += count * count;
  }
  const double mean = sum / tokens;
  return {mean, std::sqrt(std::max(0.0, squares / tokens - mean * mean) / tokens)};
}

/// n over k by Pascal's triangle; whole numbers below 2^53.
double binomial(std::int64_t n, std::int64_t k) {
  if (k < 0 || k > n) return 0;
  std::vector<double> row(static_cast<std::size_t>(k) + 1, 0);
  row[0] = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::size_t j = row.size() - 1; j > 0; --j) row[j] += row[j - 1];
  }
  return row.back();
}

/// distinct_parts by going through every choice of groups, up to 12 of them, and counting the choices of experts.
double counted_parts(std::int64_t experts, std::int64_t chosen, std::int64_t parts, std::int64_t n_group,
                     std::int64_t topk_group) {
  const std::int64_t size = experts / n_group, run = experts / parts, pool = topk_group * size;
  double touched = 0, choices = 0;
  for (unsigned open = 0; open < 1u << n_group; ++open) {
    if (std::popcount(open) != topk_group) continue;
    choices += binomial(pool, chosen);
    for (std::int64_t part = 0; part < parts; ++part) {
      std::int64_t covered = 0;
      for (std::int64_t i = part * run; i < (part + 1) * run; ++i) covered += open >> (i / size) & 1;
      touched += binomial(pool, chosen) - binomial(pool - covered, chosen);
    }
  }
  return touched / choices;
}

std::vector<std::int64_t> divisors(std::int64_t n) {
  std::vector<std::int64_t> all;
  for (std::int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) all.push_back(d);
  }
  return all;
}

doctest::Approx near(double expected) { return doctest::Approx(expected).epsilon(1e-12); }

}  // namespace

TEST_CASE("a token of DeepSeek-V3 touches 5.3 of 8 nodes, 3.6 when its experts lie in 4 of 8 groups") {
  // A node is missed with chance 224 223 222 221 220 219 218 217 / (256 255 254 253 252 251 250 249) = 0.338168:
  // 8 x 0.661832 = 5.2947.
  CHECK(distinct_parts(256, 8, 8) == doctest::Approx(5.2947).epsilon(1e-5));
  // A node's group is among the 4 with chance 1/2, and is then missed with 96 95 94 93 92 91 90 89 / (128 127 126 125
  // 124 123 122 121) = 0.092747: 8 x 1/2 x 0.907253 = 3.6290.
  CHECK(distinct_parts(256, 8, 8, 8, 4) == doctest::Approx(3.6290).epsilon(1e-5));
}

TEST_CASE("small cases by hand") {
  // Two of four experts on two nodes: the same node with chance 1/3.
  CHECK(distinct_parts(4, 2, 2) == near(5.0 / 3));
  // Groups {0 1} {2 3} {4 5}, two of them chosen, two experts of these; parts {0 1 2} and {3 4 5}.
  // Groups 1 and 2 (as 1 and 3 mirrored): of 0 1 2 3 one part in the 3 pairs of 0 1 2, else both: (3 + 3 x 2) / 6 =
  // 3/2. Groups 1 and 3: of 0 1 4 5 one part in 2 of 6 pairs: (2 + 4 x 2) / 6 = 5/3. Mean: (3/2 + 3/2 + 5/3) / 3 =
  // 14/9.
  CHECK(distinct_parts(6, 2, 2, 3, 2) == near(14.0 / 9));
  // Four groups of one expert, three of them chosen, one expert; whatever the parts, one is touched.
  CHECK(distinct_parts(4, 1, 2, 4, 3) == near(1));
  // Eight groups of two, two of them chosen, all four experts of these: two parts of 8, on two nodes 1 + 4/7.
  CHECK(distinct_parts(16, 4, 8, 8, 2) == near(2));
  CHECK(distinct_parts(16, 4, 2, 8, 2) == near(1 + 4.0 / 7));
}

TEST_CASE("one part is always touched, and parts of one expert as often as experts are chosen") {
  for (const std::int64_t experts : {8, 60, 160, 256, 384}) {
    for (const std::int64_t chosen : {1, 2, 6, 8}) {
      CHECK(distinct_parts(experts, chosen, 1) == near(1));
      CHECK(distinct_parts(experts, chosen, experts) == near(static_cast<double>(chosen)));
      if (chosen > experts / 4 * 3) continue;
      CHECK(distinct_parts(experts, chosen, 1, 4, 3) == near(1));
      CHECK(distinct_parts(experts, chosen, experts, 4, 3) == near(static_cast<double>(chosen)));
    }
  }
  CHECK(distinct_parts(65536, 1, 65536) == near(1));
  CHECK(distinct_parts(65536, 32768, 65536, 65536, 40000) == near(32768));
  CHECK(distinct_parts(65536, 8, 1, 65536, 40000) == near(1));
}

TEST_CASE("no limit of groups and all groups are the same") {
  for (const std::int64_t parts : {2, 4, 8, 16, 32, 64}) {
    const double free = distinct_parts(256, 8, parts);
    CHECK(distinct_parts(256, 8, parts, 1, 1) == free);
    CHECK(distinct_parts(256, 8, parts, 8, 8) == free);
  }
}

TEST_CASE("a limit to topk_group groups is one to as many parts where the parts are the groups") {
  for (std::int64_t topk = 1; topk <= 8; ++topk) {
    CHECK(distinct_parts(256, 8, 8, 8, topk) <= static_cast<double>(topk) * (1 + 1e-12));
  }
  CHECK(distinct_parts(256, 8, 8, 8, 1) == near(1));
  // DeepSeek-V2: 160 experts, 6 chosen, 8 devices of which 3. A device's group is open with chance 3/8, then missed
  // with C(40, 6) / C(60, 6) = 3838380 / 50063860: 3 x 0.923330 = 2.7700.
  const double v2 = distinct_parts(160, 6, 8, 8, 3);
  CHECK(v2 == doctest::Approx(2.7700).epsilon(1e-5));
  CHECK(v2 <= 3);
}

TEST_CASE("more parts, more chosen experts and more groups touch more parts") {
  for (const std::int64_t topk : {0, 2, 4, 6}) {
    double before = 0;
    for (const std::int64_t parts : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      const double now = distinct_parts(256, 8, parts, topk == 0 ? 0 : 8, topk);
      CHECK(now > before);
      CHECK(now <= std::min(8.0, static_cast<double>(parts)) * (1 + 1e-12));
      before = now;
    }
  }
  for (std::int64_t chosen = 2; chosen <= 16; ++chosen) {
    CHECK(distinct_parts(240, chosen, 8, 6, 3) > distinct_parts(240, chosen - 1, 8, 6, 3));
  }
  for (std::int64_t topk = 2; topk <= 6; ++topk) {
    CHECK(distinct_parts(240, 8, 8, 6, topk) > distinct_parts(240, 8, 8, 6, topk - 1));
  }
}

TEST_CASE("parts and groups that lie in any way to each other agree with going through every choice of groups") {
  int cases = 0;
  for (const std::int64_t experts : {12, 18, 24, 30}) {
    for (const std::int64_t parts : divisors(experts)) {
      for (const std::int64_t n_group : divisors(experts)) {
        if (n_group > 12) continue;
        for (std::int64_t topk_group = 1; topk_group <= n_group; ++topk_group) {
          for (const std::int64_t chosen : {1, 2, 3, 5, 8}) {
            if (chosen > topk_group * (experts / n_group)) continue;
            ++cases;
            const double counted = counted_parts(experts, chosen, parts, n_group, topk_group);
            const double exact = distinct_parts(experts, chosen, parts, n_group, topk_group);
            if (std::abs(exact - counted) <= 1e-12 * counted) continue;
            CAPTURE(experts);
            CAPTURE(chosen);
            CAPTURE(parts);
            CAPTURE(n_group);
            CAPTURE(topk_group);
            CHECK(exact == near(counted));
          }
        }
      }
    }
  }
  CHECK(cases > 3000);
}

TEST_CASE("parts and groups that lie in any way to each other agree with drawn tokens") {
  // Within five standard errors of 4000 tokens each, which about one case in two million misses by chance; and 0.0025
  // for what is so rare that no token shows it.
  std::mt19937_64 random(2024);
  int straddling = 0;
  for (int round = 0; round < 150; ++round) {
    const std::int64_t experts = std::vector<std::int64_t>{12, 30, 60, 90, 120, 180, 210}[random() % 7];
    const std::vector<std::int64_t> all = divisors(experts);
    const std::int64_t parts = all[random() % all.size()], n_group = all[random() % all.size()];
    const std::int64_t topk_group = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n_group));
    const std::int64_t pool = topk_group * (experts / n_group);
    const std::int64_t chosen =
        1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(std::min<std::int64_t>(pool, 12)));
    if (parts % n_group != 0 && n_group % parts != 0) ++straddling;
    CAPTURE(experts);
    CAPTURE(chosen);
    CAPTURE(parts);
    CAPTURE(n_group);
    CAPTURE(topk_group);
    const Estimate drawn = drawn_parts(experts, chosen, parts, n_group, topk_group, 4000, random);
    const double exact = distinct_parts(experts, chosen, parts, n_group, topk_group);
    CHECK(std::abs(exact - drawn.mean) <= 5 * drawn.standard_error + 0.0025);
  }
  CHECK(straddling > 30);
}
