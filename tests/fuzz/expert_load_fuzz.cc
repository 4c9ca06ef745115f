#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "planner/cost/expert_load.h"

using namespace shardwright;

namespace {

/// Loads average 1 and none is above what every token gives.
void check_loads(const ExpertLoad& load, std::int64_t experts, std::int64_t chosen) {
  double sum = 0;
  for (const double rows : relative_loads(load, experts, chosen)) {
    if (!(rows >= 0) || rows > static_cast<double>(experts) / static_cast<double>(chosen)) std::abort();
    sum += rows;
  }
  if (!(std::abs(sum - static_cast<double>(experts)) <= 1e-9 * static_cast<double>(experts))) std::abort();
}

}  // namespace

/// Any bytes as a file of expert loads, and after "zipf:" as an exponent: an answer or an InputError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const ExpertLoad load = read_expert_load("zipf:" + text, "--expert-load");
    if (read_expert_load(to_string(load), "--expert-load") != load) std::abort();
    check_loads(load, 60, 4);
  } catch (const InputError&) {}
  try {
    const ExpertLoad load = read_expert_histogram(YamlCursor::parse(text, "fuzz.yaml"));
    const auto experts = static_cast<std::int64_t>(load.counts.size());
    check_loads(load, experts, 1);
    check_loads(load, experts, (experts + 1) / 2);
  } catch (const InputError&) {}
  return 0;
}
