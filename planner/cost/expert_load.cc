#include "planner/cost/expert_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <string_view>
#include <system_error>

#include "planner/random.h"

namespace shardwright {
namespace {

constexpr std::string_view kBalanced = "balanced", kZipf = "zipf";
constexpr double kLargestExponent = 10;
constexpr double kMostRows = 1e18;
constexpr std::uint64_t kShuffleSeed = 0x5eed;

// ---- Reading ----

/// `text` in quotes as a terminal may show it.
std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string out(text.substr(0, kLongest));
  for (char& c : out) {
    if (c < 0x20 || c > 0x7E) c = '?';
  }
  return fmt::format("'{}{}'", out, text.size() > kLongest ? "..." : "");
}

/// The exponent of "zipf:1.2".
double exponent_of(std::string_view text, const std::string& what) {
  const std::string_view digits = text.substr(std::min(text.size(), kZipf.size() + 1));
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool is_number = error == std::errc() && end == digits.data() + digits.size() && !std::signbit(value);
  if (!is_number || !(value <= kLargestExponent)) {  // which NaN is not either
    throw InputError(fmt::format("{}: the exponent of {} must be a number between 0 and {}, as in 'zipf:1.2'", what,
                                 shown(text), kLargestExponent));
  }
  return value;
}

bool names_a_file(const std::string& text) {
  std::error_code ignored;
  return text.find('/') != std::string::npos || text.ends_with(".yaml") || text.ends_with(".yml") ||
         std::filesystem::exists(text, ignored);
}

// ---- Spreading ----

/// 0 .. n-1 in a fixed order that looks like none: Fisher and Yates from the end, each partner the next random number
/// modulo the number of places left.
std::vector<std::size_t> shuffled(std::size_t n) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::uint64_t state = kShuffleSeed;
  for (std::size_t left = n; left > 1; --left) std::swap(order[left - 1], order[next_random(state) % left]);
  return order;
}

std::vector<double> zipf_popularity(double exponent, std::size_t experts) {
  std::vector<double> popularity(experts);
  const std::vector<std::size_t> expert_of_rank = shuffled(experts);
  for (std::size_t rank = 0; rank < experts; ++rank) {
    popularity[expert_of_rank[rank]] = std::pow(static_cast<double>(rank + 1), -exponent);
  }
  return popularity;
}

/// Scales `popularity` to an average of 1 with nobody above experts / chosen. The most popular are cut off, as many as
/// it takes until what remains, spread over the others in proportion, cuts off no more; that is at most chosen - 1.
std::vector<double> capped(const std::vector<double>& popularity, std::size_t chosen) {
  const std::size_t experts = popularity.size();
  std::vector<std::size_t> order(experts);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return popularity[a] > popularity[b]; });
  std::vector<double> sum_from(experts + 1, 0);  // of the others' popularity, by the number of those cut off
  for (std::size_t i = experts; i-- > 0;) sum_from[i] = sum_from[i + 1] + popularity[order[i]];

  const double cap = static_cast<double>(experts) / static_cast<double>(chosen);
  const auto left = [&](std::size_t cut) { return static_cast<double>(chosen - cut) * cap; };
  std::size_t cut = 0;
  while (cut + 1 < chosen && popularity[order[cut]] / sum_from[cut] * left(cut) > cap) ++cut;

  std::vector<double> loads(experts);
  for (std::size_t i = 0; i < experts; ++i) {
    // The smaller of both only against rounding.
    loads[order[i]] = i < cut ? cap : std::min(cap, popularity[order[i]] / sum_from[cut] * left(cut));
  }
  return loads;
}

void check_histogram(const std::vector<double>& counts, std::int64_t experts, std::int64_t chosen) {
  if (static_cast<std::int64_t>(counts.size()) != experts) {
    throw InputError(
        fmt::format("the histogram of expert loads has {} experts, but the model has {}", counts.size(), experts));
  }
  const auto with_rows = std::count_if(counts.begin(), counts.end(), [](double count) { return count > 0; });
  if (with_rows < chosen) {
    throw InputError(
        fmt::format("the histogram of expert loads has rows in {} of its {} experts, but each token chooses {}",
                    with_rows, experts, chosen));
  }
}

}  // namespace

ExpertLoad read_expert_histogram(const YamlCursor& top) {
  top.only_keys({"expert_load"});
  const YamlCursor list = top.at("expert_load");
  ExpertLoad load;
  load.kind = ExpertLoad::Kind::histogram;
  for (const YamlCursor& item : list.items()) load.counts.push_back(item.number(0, kMostRows));
  if (load.counts.empty()) list.fail("must have the rows of at least one expert");
  const bool all_zero = std::all_of(load.counts.begin(), load.counts.end(), [](double count) { return count == 0; });
  if (all_zero) list.fail("must not be all 0");
  return load;
}

ExpertLoad read_expert_load(const std::string& text, const std::string& what) {
  if (text == kBalanced) return {};
  const std::string_view word = std::string_view(text).substr(0, text.find(':'));
  if (word == kZipf) {
    ExpertLoad load;
    load.kind = ExpertLoad::Kind::zipf;
    load.exponent = exponent_of(text, what);
    return load;
  }
  if (names_a_file(text)) return read_expert_histogram(YamlCursor::open(text));
  throw InputError(fmt::format("{}: must be balanced, zipf:<exponent> or a file, got {}{}", what, shown(text),
                               did_you_mean(word, {kBalanced, kZipf})));
}

std::string to_string(const ExpertLoad& load) {
  switch (load.kind) {
    case ExpertLoad::Kind::balanced:
      return std::string(kBalanced);
    case ExpertLoad::Kind::zipf:
      return fmt::format("{}:{}", kZipf, load.exponent);
    case ExpertLoad::Kind::histogram:
      return fmt::format("histogram of {} experts", load.counts.size());
  }
  assert(false && "a kind of load without a name");
  return "";
}

std::vector<double> relative_loads(const ExpertLoad& load, std::int64_t experts, std::int64_t chosen) {
  assert(experts >= 1 && chosen >= 1 && chosen <= experts && "a token chooses some of the experts");
  const auto count = static_cast<std::size_t>(experts), per_token = static_cast<std::size_t>(chosen);
  switch (load.kind) {
    case ExpertLoad::Kind::balanced:
      break;
    case ExpertLoad::Kind::zipf:
      return capped(zipf_popularity(load.exponent, count), per_token);
    case ExpertLoad::Kind::histogram:
      check_histogram(load.counts, experts, chosen);
      return capped(load.counts, per_token);
  }
  return std::vector<double>(count, 1.0);
}

double busiest_part(const std::vector<double>& loads, std::int64_t parts) {
  const auto count = static_cast<std::size_t>(parts);
  assert(parts >= 1 && !loads.empty() && loads.size() % count == 0 && "the runs are equal");
  const std::size_t run = loads.size() / count;
  double fullest = 0, all = 0;
  for (std::size_t begin = 0; begin < loads.size(); begin += run) {
    double sum = 0;
    for (std::size_t i = begin; i < begin + run; ++i) sum += loads[i];
    fullest = std::max(fullest, sum);
    all += sum;
  }
  return fullest / all * static_cast<double>(parts);
}

}  // namespace shardwright
