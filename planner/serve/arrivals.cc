#include "planner/serve/arrivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <string_view>

#include "hardware/input_error.h"
#include "hardware/input_file.h"
#include "planner/random.h"

namespace shardwright {
namespace {

constexpr double kMostTokensOfRequest = 1 << 24;
constexpr std::size_t kMostTraceBytes = std::size_t{1} << 28;

double normal(std::uint64_t& state) {  // Box and Muller
  const double radius = std::sqrt(-2 * std::log(random_share(state)));
  return radius * std::cos(2 * std::numbers::pi * random_share(state));
}

std::int32_t length(std::int64_t mean, const LengthSpread& spread, std::uint64_t& state) {
  const auto about = static_cast<double>(mean);
  double tokens = about;
  switch (spread.kind) {
    case LengthSpread::Kind::fixed:
      break;
    case LengthSpread::Kind::uniform:
      tokens = about * (1 + spread.width * (2 * random_share(state) - 1));
      break;
    case LengthSpread::Kind::exponential:
      tokens = -about * std::log(random_share(state));
      break;
    case LengthSpread::Kind::lognormal:
      tokens = about * std::exp(spread.width * normal(state) - 0.5 * spread.width * spread.width);
      break;
  }
  return static_cast<std::int32_t>(std::clamp(std::round(tokens), 1.0, kMostTokensOfRequest));
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

/// Decimal digits and a point, nothing else.
bool read_number(std::string_view text, double& value) {
  text = trimmed(text);
  if (text.empty() || text.find_first_not_of("0123456789.") != std::string_view::npos) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

Arrival read_arrival(std::string_view line, const std::string& where) {
  std::array<double, 3> values = {};
  std::size_t at = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t end = i + 1 < values.size() ? line.find(',', at) : line.size();
    if (end == std::string_view::npos || !read_number(line.substr(at, end - at), values[i]))
      throw InputError(fmt::format("{}: must be seconds,prompt_tokens,answer_tokens", where));
    at = end + 1;
  }
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] < 1 || values[i] > kMostTokensOfRequest || values[i] != std::floor(values[i]))
      throw InputError(fmt::format("{}: tokens must be whole numbers between 1 and 16777216", where));
  return {values[0], static_cast<std::int32_t>(values[1]), static_cast<std::int32_t>(values[2])};
}

}  // namespace

LengthSpread parse_length_spread(const std::string& text, const std::string& what) {
  if (text == "fixed") return {};
  if (text == "exponential") return {LengthSpread::Kind::exponential, 0};
  double width = 0;
  const std::size_t colon = text.find(':');
  if (colon != std::string::npos && read_number(std::string_view(text).substr(colon + 1), width)) {
    const std::string kind = text.substr(0, colon);
    if (kind == "uniform" && width <= 1) return {LengthSpread::Kind::uniform, width};
    if (kind == "lognormal" && width <= 4) return {LengthSpread::Kind::lognormal, width};
  }
  throw InputError(
      fmt::format("{}: must be fixed, exponential, uniform:W with W up to 1, or lognormal:S with S up to 4, got '{}'",
                  what, shown_plainly(text)));
}

std::string to_string(const LengthSpread& spread) {
  switch (spread.kind) {
    case LengthSpread::Kind::fixed:
      return "fixed";
    case LengthSpread::Kind::uniform:
      return fmt::format("uniform:{:g}", spread.width);
    case LengthSpread::Kind::exponential:
      return "exponential";
    case LengthSpread::Kind::lognormal:
      return fmt::format("lognormal:{:g}", spread.width);
  }
  return "";
}

std::vector<Arrival> queued_requests(std::int64_t requests, std::int64_t isl, std::int64_t osl,
                                     const LengthSpread& spread, std::uint64_t seed) {
  std::vector<Arrival> all(static_cast<std::size_t>(requests));
  // A state of their own: lengths stay the same under another load.
  std::uint64_t state = seed ^ 0x5851f42d4c957f2d;
  for (Arrival& a : all) {
    a.prompt = length(isl, spread, state);
    a.answer = length(osl, spread, state);
  }
  return all;
}

std::vector<Arrival> poisson_arrivals(double per_second, std::int64_t requests, std::int64_t isl, std::int64_t osl,
                                      const LengthSpread& spread, std::uint64_t seed) {
  std::vector<Arrival> all = queued_requests(requests, isl, osl, spread, seed);
  std::uint64_t state = seed;
  double now = 0;
  for (Arrival& a : all) a.seconds = now += -std::log(random_share(state)) / per_second;
  return all;
}

std::vector<Arrival> read_arrivals(const std::string& path) {
  const std::string text = read_file(path, kMostTraceBytes);
  std::vector<Arrival> all;
  int number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(at, end - at));
    at = end + 1;
    ++number;
    if (line.empty() || line.front() == '#') continue;
    if (all.empty() && line == "seconds,prompt_tokens,answer_tokens") continue;
    const std::string where = fmt::format("{}:{}", path, number);
    const Arrival arrival = read_arrival(line, where);
    if (!all.empty() && arrival.seconds < all.back().seconds)
      throw InputError(fmt::format("{}: comes before the line above it", where));
    all.push_back(arrival);
  }
  if (all.empty()) throw InputError(fmt::format("{}: has no requests", path));
  return all;
}

ArrivalMeans means_of(const std::vector<Arrival>& arrivals) {
  double prompts = 0, answers = 0;
  for (const Arrival& a : arrivals) {
    prompts += a.prompt;
    answers += a.answer;
  }
  const auto n = static_cast<double>(arrivals.size());
  const double lasted = arrivals.back().seconds - arrivals.front().seconds;
  return {lasted > 0 ? (n - 1) / lasted : 0, static_cast<std::int64_t>(std::llround(prompts / n)),
          static_cast<std::int64_t>(std::llround(answers / n))};
}

}  // namespace shardwright
