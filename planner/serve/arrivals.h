#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shardwright {

/// One request of a load: when it comes, and its lengths.
struct Arrival {
  double seconds = 0;
  std::int32_t prompt = 0, answer = 0;  ///< tokens, at least 1
  bool operator==(const Arrival&) const = default;
};

/// How lengths lie about their means.
struct LengthSpread {
  enum class Kind { fixed, uniform, exponential, lognormal };
  Kind kind = Kind::fixed;
  double width = 0;  ///< uniform: mean (1 - width) to mean (1 + width); lognormal: sigma of the logarithm
  bool operator==(const LengthSpread&) const = default;
};
/// "fixed", "uniform:0.5", "exponential", "lognormal:0.8". Throws InputError: "--lengths: ...".
LengthSpread parse_length_spread(const std::string& text, const std::string& what);
std::string to_string(const LengthSpread& spread);

/// `requests` of them, independent of each other (a Poisson process of `per_second`), prompts and answers in the mean
/// of `isl` and `osl` tokens. The same seed, the same requests.
std::vector<Arrival> poisson_arrivals(double per_second, std::int64_t requests, std::int64_t isl, std::int64_t osl,
                                      const LengthSpread& spread, std::uint64_t seed);
/// The same lengths, all there from the beginning.
std::vector<Arrival> queued_requests(std::int64_t requests, std::int64_t isl, std::int64_t osl,
                                     const LengthSpread& spread, std::uint64_t seed);

/// A trace: lines `seconds,prompt_tokens,answer_tokens` in the order of time, a line of such words before them if any,
/// `#` before remarks. Throws InputError: "FILE:3: ...".
std::vector<Arrival> read_arrivals(const std::string& path);

/// What a trace asks for in the mean: from its first request to its last.
struct ArrivalMeans {
  double per_second = 0;
  std::int64_t prompt = 0, answer = 0;
};
ArrivalMeans means_of(const std::vector<Arrival>& arrivals);

}  // namespace shardwright
