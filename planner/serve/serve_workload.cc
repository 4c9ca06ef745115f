#include "planner/serve/serve_workload.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

constexpr std::array<std::string_view, 6> kKvNames = {"bf16", "fp8", "int8", "int6", "nvfp4", "int4"};
constexpr std::array<std::string_view, 9> kWeightNames = {"bf16",  "fp16", "fp8",  "fp8_block", "mxfp8",
                                                          "nvfp4", "int8", "int4", "mxfp4"};

constexpr std::array<std::string_view, 5> kGoalNames = {"mean", "p50", "p90", "p95", "p99"};
constexpr std::array<std::string_view, 3> kPhaseNames = {"both", "prefill", "decode"};

template <typename Enum, std::size_t n>
std::optional<Enum> named(const std::array<std::string_view, n>& names, std::string_view text) {
  for (std::size_t i = 0; i < n; ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace

std::string_view name_of(KvFormat format) { return kKvNames[static_cast<std::size_t>(format)]; }
std::optional<KvFormat> kv_format_named(std::string_view text) { return named<KvFormat>(kKvNames, text); }

double bytes_per_element(KvFormat format) {
  switch (format) {
    case KvFormat::bf16:
      return 2;
    case KvFormat::fp8:
    case KvFormat::int8:
      return 1;
    case KvFormat::int6:
      return 0.75;
    case KvFormat::nvfp4:
      return bytes_per_element(StoredType::nvfp4);
    case KvFormat::int4:
      return 0.5;
  }
  assert(false && "a format of keys without a size");
  return 2;
}

std::optional<StoredType> kernel_type(KvFormat format) {
  if (format == KvFormat::bf16) return std::nullopt;
  return format == KvFormat::int8 ? StoredType::int8 : StoredType::fp8;
}

std::string_view name_of(WeightFormat format) { return kWeightNames[static_cast<std::size_t>(format)]; }
std::optional<WeightFormat> weight_format_named(std::string_view text) {
  return named<WeightFormat>(kWeightNames, text);
}

ProductFormat product_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::bf16:
      return {};
    case WeightFormat::fp16:
      return {DataType::fp16, StoredType::fp16, Scaling::tensor};
    case WeightFormat::fp8:
      return {DataType::fp8, StoredType::fp8, Scaling::tensor};
    case WeightFormat::fp8_block:
      return {DataType::fp8, StoredType::fp8, Scaling::block};
    case WeightFormat::mxfp8:
      return {DataType::mxfp8, StoredType::mxfp8, Scaling::tensor};
    case WeightFormat::nvfp4:
      return {DataType::nvfp4, StoredType::nvfp4, Scaling::tensor};
    case WeightFormat::int8:
      return {DataType::bf16, StoredType::int8, Scaling::tensor};
    case WeightFormat::int4:
      return {DataType::bf16, StoredType::int4, Scaling::tensor};
    case WeightFormat::mxfp4:
      return {DataType::bf16, StoredType::mxfp4, Scaling::tensor};
  }
  assert(false && "a format of weights without products");
  return {};
}

bool supports(const Machine& machine, WeightFormat format) { return supports(machine, product_format(format).compute); }

std::string_view name_of(GoalOf of) { return kGoalNames[static_cast<std::size_t>(of)]; }
std::optional<GoalOf> goal_of_named(std::string_view text) { return named<GoalOf>(kGoalNames, text); }

std::string_view name_of(ServePhase phase) { return kPhaseNames[static_cast<std::size_t>(phase)]; }
std::optional<ServePhase> serve_phase_named(std::string_view text) { return named<ServePhase>(kPhaseNames, text); }

std::int64_t ServeWorkload::cached_tokens() const {
  const auto cached = static_cast<std::int64_t>(std::llround(cached_prefix * static_cast<double>(isl)));
  return std::clamp<std::int64_t>(cached, 0, std::max<std::int64_t>(0, isl - 1));
}

double Speculation::gained() const {
  double sum = 1, chance = 1;
  for (int i = 0; i < tokens; ++i) sum += chance *= acceptance;
  return sum;
}

}  // namespace shardwright
