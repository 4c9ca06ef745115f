#include "planner/cost/expert_load.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>

#include "tests/support/message_of.h"

using namespace shardwright;

namespace {

ExpertLoad zipf(double exponent) {
  ExpertLoad load;
  load.kind = ExpertLoad::Kind::zipf;
  load.exponent = exponent;
  return load;
}

ExpertLoad histogram(std::vector<double> counts) {
  ExpertLoad load;
  load.kind = ExpertLoad::Kind::histogram;
  load.counts = std::move(counts);
  return load;
}

ExpertLoad read(const std::string& text) { return read_expert_load(text, "--expert-load"); }

ExpertLoad read_file(const std::string& text) { return read_expert_histogram(YamlCursor::parse(text, "load.yaml")); }

std::string fault_of(const std::string& text) {
  return message_of([&] { read(text); });
}

std::string fault_of_file(const std::string& text) {
  return message_of([&] { read_file(text); });
}

void check_near(const std::vector<double>& loads, const std::vector<double>& expected) {
  REQUIRE(loads.size() == expected.size());
  for (std::size_t i = 0; i < loads.size(); ++i) CHECK(loads[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

std::vector<double> falling(std::vector<double> loads) {
  std::sort(loads.begin(), loads.end(), std::greater<>());
  return loads;
}

double mean(const std::vector<double>& loads) {
  return std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());
}

}  // namespace

TEST_CASE("an expert load is a word, a word with its exponent or a file, and reports say it back") {
  CHECK(read("balanced") == ExpertLoad{});
  CHECK(to_string(read("balanced")) == "balanced");
  for (const std::string text : {"zipf:0", "zipf:1.2", "zipf:10", "zipf:1e-05"}) CHECK(to_string(read(text)) == text);
  CHECK(read("zipf:1.2") == zipf(1.2));

  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("shardwright_expert_load_" + std::to_string(::getpid()) + ".yaml");
  std::ofstream(path) << "# rows of one step\nexpert_load: [1203, 88, 0, 1.5e3]\n";
  const ExpertLoad load = read(path.string());
  std::filesystem::remove(path);
  CHECK(load == histogram({1203, 88, 0, 1500}));
  CHECK(to_string(load) == "histogram of 4 experts");
}

TEST_CASE("a word that is no expert load is refused with the flag") {
  CHECK(fault_of("balnced") ==
        "--expert-load: must be balanced, zipf:<exponent> or a file, got 'balnced' (did you mean 'balanced'?)");
  CHECK(fault_of("zip:1.2") ==
        "--expert-load: must be balanced, zipf:<exponent> or a file, got 'zip:1.2' (did you mean 'zipf'?)");
  CHECK(fault_of("") == "--expert-load: must be balanced, zipf:<exponent> or a file, got ''");
  CHECK(fault_of("\x1b[2J\xc3\xa9!") ==
        "--expert-load: must be balanced, zipf:<exponent> or a file, got '?[2J?"
        "?!'");
  CHECK(fault_of(std::string(61, 'x')) ==
        "--expert-load: must be balanced, zipf:<exponent> or a file, got '" + std::string(60, 'x') + "...'");
  CHECK(fault_of("no/such/load") == "cannot read 'no/such/load': No such file or directory");
  CHECK(fault_of("load-of-nothing.yaml") == "cannot read 'load-of-nothing.yaml': No such file or directory");
  for (const std::string text : {"zipf", "zipf:", "zipf:x", "zipf:1.2x", "zipf:-1", "zipf:-0", "zipf: 1", "zipf:10.1",
                                 "zipf:1e999", "zipf:inf", "zipf:nan"}) {
    CHECK(fault_of(text) ==
          "--expert-load: the exponent of '" + text + "' must be a number between 0 and 10, as in 'zipf:1.2'");
  }
}

TEST_CASE("a wrong histogram is refused with its place") {
  CHECK(fault_of_file("expert_load: [1, -2]") ==
        "load.yaml:1:18: 'expert_load[1]' must be between 0 and 1e+18, got -2\nexpert_load: [1, -2]\n"
        "                 ^");
  CHECK(fault_of_file("expert_load: [1, many]") ==
        "load.yaml:1:18: 'expert_load[1]' must be a number, got 'many'\nexpert_load: [1, many]\n"
        "                 ^");
  CHECK(fault_of_file("expert_load: [0, 0]") ==
        "load.yaml:1:14: 'expert_load' must not be all 0\nexpert_load: [0, 0]\n             ^");
  CHECK(fault_of_file("expert_load: []") ==
        "load.yaml:1:14: 'expert_load' must have the rows of at least one expert\nexpert_load: []\n             ^");
  CHECK(fault_of_file("expert_load: 7") ==
        "load.yaml:1:14: 'expert_load' must be a list, got '7'\nexpert_load: 7\n             ^");
  CHECK(fault_of_file("expert_load: [1]\nlayer: 3") == "load.yaml:2:1: unknown key 'layer'\nlayer: 3\n^");
  CHECK(fault_of_file("expert_loads: [1]") ==
        "load.yaml:1:1: unknown key 'expert_loads' (did you mean 'expert_load'?)\nexpert_loads: [1]\n^");
  CHECK(fault_of_file("{}") == "load.yaml:1:1: 'expert_load' is missing\n{}\n^");
  CHECK(fault_of_file("[1, 2]") == "load.yaml:1:1: the file must be a map, got a list\n[1, 2]\n^");
}

TEST_CASE("a histogram must be of the model's experts, and of as many as a token chooses") {
  CHECK(message_of([] {
          relative_loads(histogram({1, 2, 3}), 4, 1);
        }) == "the histogram of expert loads has 3 experts, but the model has 4");
  CHECK(message_of([] {
          relative_loads(histogram({1, 0, 3, 0}), 4, 3);
        }) == "the histogram of expert loads has rows in 2 of its 4 experts, but each token chooses 3");
}

TEST_CASE("balanced experts and those under Zipf's law with exponent 0 all have the mean load") {
  CHECK(relative_loads({}, 6, 2) == std::vector<double>(6, 1.0));
  check_near(relative_loads(zipf(0), 6, 2), std::vector<double>(6, 1.0));
}

TEST_CASE("the loads of Zipf's law fall with the power of the rank") {
  // 1 + 1/2 + 1/3 + 1/4 = 25/12, so the shares are 12, 6, 4 and 3 of 25.
  check_near(falling(relative_loads(zipf(1), 4, 1)), {1.92, 0.96, 0.64, 0.48});
}

TEST_CASE("no expert gets more than every token, the others share what it loses in proportion") {
  // 1, 1/4, 1/9, 1/16 of 205/144: the first would get 2.81 of at most 4/2. The others share 2 as 36 : 16 : 9.
  check_near(falling(relative_loads(zipf(2), 4, 2)), {2, 72.0 / 61, 32.0 / 61, 18.0 / 61});
  // At most 6/3 = 2. The first alone would get 5.4; the second, 6 of the others' 10, then 2.4 of 4, so it is cut off
  // too.
  check_near(relative_loads(histogram({1, 90, 1, 6, 1, 1}), 6, 3), {0.5, 2, 0.5, 2, 0.5, 0.5});
  // Not on the scale of the counts.
  check_near(relative_loads(histogram({2e-300, 180e-300, 2e-300, 12e-300, 2e-300, 2e-300}), 6, 3),
             {0.5, 2, 0.5, 2, 0.5, 0.5});
  // Every token chooses all that have rows.
  check_near(relative_loads(histogram({7, 0, 1, 0}), 4, 2), {2, 0, 2, 0});
  // Every token chooses every expert.
  check_near(relative_loads(zipf(10), 5, 5), std::vector<double>(5, 1.0));
}

TEST_CASE("loads average 1 and stay under the limit whatever the exponent") {
  for (const double exponent : {0.1, 0.5, 1.0, 1.5, 3.0, 10.0}) {
    for (const std::int64_t experts : {8, 60, 256, 384}) {
      for (const std::int64_t chosen : {1, 2, 6, 8}) {
        const std::vector<double> loads = relative_loads(zipf(exponent), experts, chosen);
        CHECK(mean(loads) == doctest::Approx(1).epsilon(1e-12));
        const double limit = static_cast<double>(experts) / static_cast<double>(chosen);
        CHECK(*std::max_element(loads.begin(), loads.end()) <= limit);
        CHECK(*std::min_element(loads.begin(), loads.end()) >= 0);
      }
    }
  }
}

TEST_CASE("an expert's popularity has nothing to do with its index and never changes") {
  // The shuffle of 8, from splitmix64 of the seed computed apart from this program.
  const std::vector<double> loads = relative_loads(zipf(1), 8, 1);
  std::vector<std::size_t> by_popularity(8);
  std::iota(by_popularity.begin(), by_popularity.end(), std::size_t{0});
  std::sort(by_popularity.begin(), by_popularity.end(),
            [&](std::size_t a, std::size_t b) { return loads[a] > loads[b]; });
  CHECK(by_popularity == std::vector<std::size_t>{3, 6, 7, 1, 2, 5, 0, 4});

  // The correlation of index and load of 256 experts: in order of popularity the correlation would be -0.64.
  const std::vector<double> many = relative_loads(zipf(0.5), 256, 1);
  double covariance = 0, of_index = 0, of_load = 0;
  for (std::size_t i = 0; i < many.size(); ++i) {
    const double index = static_cast<double>(i) - 127.5, load = many[i] - 1;
    covariance += index * load;
    of_index += index * index;
    of_load += load * load;
  }
  CHECK(std::abs(covariance) / std::sqrt(of_index * of_load) < 0.1);
}

TEST_CASE("the busiest part is the fullest run of neighbours against the mean run") {
  const std::vector<double> loads = {1, 3, 2, 0, 0, 0};
  CHECK(busiest_part(loads, 1) == doctest::Approx(1));
  CHECK(busiest_part(loads, 2) == doctest::Approx(2));  // 6 of 6, the mean is 3
  CHECK(busiest_part(loads, 3) == doctest::Approx(2));  // 4 of 6, the mean is 2
  CHECK(busiest_part(loads, 6) == doctest::Approx(3));  // 3 of 6, the mean is 1
  CHECK(busiest_part({1, 1, 1, 1}, 2) == doctest::Approx(1));
  // On more parts there is less to even out.
  const std::vector<double> skewed = relative_loads(zipf(1), 256, 8);
  double before = 1;
  for (const std::int64_t parts : {2, 4, 8, 16, 32, 64, 128, 256}) {
    const double now = busiest_part(skewed, parts);
    CHECK(now >= before);
    before = now;
  }
}
