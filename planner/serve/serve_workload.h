#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/data_type.h"
#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "planner/serve/arrivals.h"

namespace shardwright {

/// How keys and values (or a latent) are kept. `int6` is what DeepSeek-V2 has ("6 bits on average", report, 3.2.3).
enum class KvFormat { bf16, fp8, int8, int6, nvfp4, int4 };
inline constexpr std::array kKvFormats = {KvFormat::bf16, KvFormat::fp8,   KvFormat::int8,
                                          KvFormat::int6, KvFormat::nvfp4, KvFormat::int4};
std::string_view name_of(KvFormat);
std::optional<KvFormat> kv_format_named(std::string_view);
double bytes_per_element(KvFormat);
/// The stored type that a kernel of this format is asked with, the next wider one that has kernels; absent: as wide as
/// activations.
std::optional<StoredType> kernel_type(KvFormat);

/// How weights are kept, and what their products compute in: int8, int4 and mxfp4 are unpacked to bf16 in the kernel.
enum class WeightFormat { bf16, fp16, fp8, fp8_block, mxfp8, nvfp4, int8, int4, mxfp4 };
inline constexpr std::array kWeightFormats = {WeightFormat::bf16,      WeightFormat::fp16,  WeightFormat::fp8,
                                              WeightFormat::fp8_block, WeightFormat::mxfp8, WeightFormat::nvfp4,
                                              WeightFormat::int8,      WeightFormat::int4,  WeightFormat::mxfp4};
std::string_view name_of(WeightFormat);
std::optional<WeightFormat> weight_format_named(std::string_view);
struct ProductFormat {
  DataType compute = DataType::bf16;
  StoredType weights = StoredType::bf16;
  Scaling scaling = Scaling::tensor;
};
ProductFormat product_format(WeightFormat);
bool supports(const Machine&, WeightFormat);

/// Formats of a served model. Embedding, output table, norms and the router stay in 16 bits.
struct ServeFormats {
  WeightFormat weights = WeightFormat::bf16;  ///< of the dense parts
  WeightFormat experts = WeightFormat::bf16;  ///< of the routed experts
  KvFormat kv = KvFormat::bf16;
  bool operator==(const ServeFormats&) const = default;
};

/// Tokens that a model proposes and checks at once (multi-token prediction): `tokens` after each that is certain, each
/// right with probability `acceptance` if those before it are.
struct Speculation {
  int tokens = 0;
  double acceptance = 0;
  /// Tokens a sequence gains in a step: 1 + a + a^2 + ...
  double gained() const;
  bool operator==(const Speculation&) const = default;
};

/// What the GPUs do: prompts and answers, or one of them alone, as workers of a pool (`--phase`).
enum class ServePhase { both, prefill, decode };
inline constexpr std::array kServePhases = {ServePhase::both, ServePhase::prefill, ServePhase::decode};
std::string_view name_of(ServePhase);
std::optional<ServePhase> serve_phase_named(std::string_view);

/// What is to be served.
struct ServeWorkload {
  std::int64_t isl = 0, osl = 0;            ///< tokens of a prompt and of its answer, means
  std::optional<std::int64_t> concurrency;  ///< clients in a closed loop; absent: as many as fit
  ServeFormats formats;
  Speculation speculation;
  double cached_prefix = 0;  ///< share of a prompt's tokens, the first ones, whose keys and values are there already
  ServePhase phase = ServePhase::both;
  std::optional<std::int64_t> queued = {};  ///< requests in all, all there at the start; absent: they never end
  std::int64_t cached_tokens() const;       ///< of a prompt; at least one token of it is new
  bool operator==(const ServeWorkload&) const = default;
};

/// Which request of many a promise is about: the mean one, or the slowest of a share of them.
enum class GoalOf { mean, p50, p90, p95, p99 };
inline constexpr std::array kGoalsOf = {GoalOf::mean, GoalOf::p50, GoalOf::p90, GoalOf::p95, GoalOf::p99};
std::string_view name_of(GoalOf);
std::optional<GoalOf> goal_of_named(std::string_view text);

/// What is promised of requests. Percentiles are of a load (ServeLoad).
struct ServeGoals {
  std::optional<double> max_ttft_seconds, max_tpot_seconds;
  GoalOf of = GoalOf::mean;
};

/// Requests that come by themselves, to be played (simulate.h).
struct ServeLoad {
  double requests_per_second = 0;
  std::vector<Arrival> trace;  ///< empty: independent arrivals, lengths about isl and osl
  LengthSpread lengths;
  std::int64_t requests = 0;  ///< played; 0: as many as percentiles need
  std::uint64_t seed = 1;
  bool operator==(const ServeLoad&) const = default;
};

}  // namespace shardwright
