#include "planner/search/split.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

namespace shardwright {
namespace {

using doctest::Approx;

/// The slowest chunk.
double slowest(const std::vector<double>& seconds, double first, double last, const std::vector<int>& split) {
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t c = 0; c < split.size(); ++c) {
    double sum = (c == 0 ? first : 0) + (c + 1 == split.size() ? last : 0);
    for (int i = 0; i < split[c]; ++i) sum += seconds[at++];
    worst = std::max(worst, sum);
  }
  return worst;
}

/// The best of every split whose middle chunks have a layer; infinite when there is none.
double best(const std::vector<double>& seconds, double first, double last, int chunks, int most) {
  double found = std::numeric_limits<double>::infinity();
  std::vector<int> split;
  const auto extend = [&](const auto& self, int left) -> void {
    const int c = static_cast<int>(split.size());
    if (c + 1 == chunks) {
      if (left > most) return;
      split.push_back(left);
      found = std::min(found, slowest(seconds, first, last, split));
      split.pop_back();
      return;
    }
    for (int n = c == 0 ? 0 : 1; n <= std::min(left, most); ++n) {
      split.push_back(n);
      self(self, left - n);
      split.pop_back();
    }
  };
  extend(extend, static_cast<int>(seconds.size()));
  return found;
}

void check(const std::vector<double>& seconds, double first, double last, int chunks, const std::vector<int>& split,
           int most = 1000) {
  CAPTURE(seconds.size());
  CAPTURE(first);
  CAPTURE(last);
  CAPTURE(chunks);
  const double optimum = best(seconds, first, last, chunks, most);
  if (optimum == std::numeric_limits<double>::infinity()) {
    CHECK(split.empty());
    return;
  }
  REQUIRE(split.size() == static_cast<std::size_t>(chunks));
  CHECK(std::accumulate(split.begin(), split.end(), 0) == static_cast<int>(seconds.size()));
  CHECK(*std::min_element(split.begin(), split.end()) >= 0);
  CHECK(*std::max_element(split.begin(), split.end()) <= most);
  for (int c = 1; c + 1 < chunks; ++c) CHECK(split[static_cast<std::size_t>(c)] >= 1);
  CHECK(slowest(seconds, first, last, split) <= optimum * (1 + 1e-9));
}

}  // namespace

TEST_CASE("even layers without ends are split evenly, smaller chunks first") {
  CHECK(balanced_split(8, 1, 0, 0, 4) == std::vector{2, 2, 2, 2});
  CHECK(balanced_split(10, 1, 0, 0, 4) == std::vector{2, 2, 3, 3});
  CHECK(balanced_split(7, 1, 0, 0, 1) == std::vector{7});
}

TEST_CASE("embedding and head take the place of layers") {
  // 126 layers and a head worth a layer on 16 stages: 8 in each, but 7 with the head and one more less in front.
  CHECK(balanced_split(126, 1, 0.1, 0.9, 16) == std::vector{7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7});
  CHECK(balanced_split(4, 1, 0, 2, 2) == std::vector{3, 1});
  // A head that takes longer than all layers stands alone.
  CHECK(balanced_split(4, 1, 0, 9, 3) == std::vector{2, 2, 0});
  CHECK(balanced_split(2, 1, 9, 9, 4) == std::vector{0, 1, 1, 0});
}

TEST_CASE("more chunks than layers and two ends have no split") {
  CHECK(balanced_split(2, 1, 0, 0, 5).empty());
  CHECK(balanced_split(std::vector<double>{1, 2}, 0, 0, 5).empty());
  CHECK(balanced_split(2, 1, 0, 0, 0).empty());
}

TEST_CASE("no split of uniform layers has a faster slowest chunk") {
  for (int layers = 1; layers <= 9; ++layers)
    for (int chunks = 1; chunks <= 8; ++chunks)
      for (double first : {0.0, 0.1, 0.5, 1.0, 2.5})
        for (double last : {0.0, 0.3, 1.0, 1.7, 4.0})
          check(std::vector<double>(static_cast<std::size_t>(layers), 0.7), first, last, chunks,
                balanced_split(layers, 0.7, first, last, chunks));
}

TEST_CASE("no split of layers of two kinds has a faster slowest chunk") {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> time(0.1, 2.0);
  for (int round = 0; round < 2000; ++round) {
    const double kinds[] = {time(random), time(random)};
    std::vector<double> seconds(1 + random() % 9);
    for (double& s : seconds) s = kinds[random() % 2];
    const int chunks = 1 + static_cast<int>(random() % 8);
    const double first = random() % 2 ? time(random) : 0, last = random() % 2 ? 2 * time(random) : 0;
    check(seconds, first, last, chunks, balanced_split(seconds, first, last, chunks));
    const int most = 1 + static_cast<int>(random() % 4);
    check(seconds, first, last, chunks, balanced_split(seconds, first, last, chunks, most), most);
    const std::vector<double> alike(seconds.size(), seconds[0]);
    check(alike, first, last, chunks, balanced_split(alike, first, last, chunks, most), most);
  }
}

TEST_CASE("a chunk may be told to have no more than so many layers") {
  // A head of three layers: 4, 4 and 1 beside it; with at most 3 each all have as many.
  CHECK(balanced_split(9, 1, 0, 3, 3) == std::vector{4, 4, 1});
  CHECK(balanced_split(9, 1, 0, 3, 3, 4) == std::vector{4, 4, 1});
  CHECK(balanced_split(9, 1, 0, 3, 3, 3) == std::vector{3, 3, 3});
  CHECK(balanced_split(9, 1, 0, 3, 3, 2).empty());
}

TEST_CASE("both forms agree on uniform layers") {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> time(0.1, 2.0);
  for (int round = 0; round < 500; ++round) {
    const int layers = 1 + static_cast<int>(random() % 130), chunks = 1 + static_cast<int>(random() % 40);
    const double layer = time(random), first = time(random), last = time(random);
    CHECK(balanced_split(layers, layer, first, last, chunks) ==
          balanced_split(std::vector<double>(static_cast<std::size_t>(layers), layer), first, last, chunks));
  }
}

}  // namespace shardwright
