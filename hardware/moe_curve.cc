#include "hardware/moe_curve.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }

double experts_of(const MoeLayerSpec& spec) { return as_double(spec.n_routed_experts + spec.redundant_experts); }

/// Of x^(power - 1) over 1 .. most.
double integral(double power, double most) {
  const double log = std::log(most);
  return std::abs(power * log) < 1e-9 ? log : std::expm1(power * log) / power;
}

double joined(double a, double b, double join) {
  const auto [shorter, longer] = std::minmax(a, b);
  return longer * std::pow(1 + std::pow(shorter / longer, join), 1 / join);
}

/// Of an even share of the pairs: the busiest rank's.
double busiest(const MoeLayerSpec& spec, double skew, double most, double mean) {
  if (spec.ep == 1 || spec.eplb) return 1;
  const double ep = as_double(spec.ep), local = experts_of(spec) / ep;
  const double topk = as_double(spec.num_experts_per_tok);
  const double square = integral(3 - spec.power_law, most) / integral(1 - spec.power_law, most);
  const double spread = std::sqrt(std::max(0.0, square / (mean * mean) - 1) / local);
  const double all_here = ep * std::min(topk, local) / topk;
  return std::max(1.0, std::min(1 + skew * std::sqrt(2 * std::log(ep)) * spread, all_here));
}

}  // namespace

template <>
const std::vector<Coefficient<MoeCurve>>& coefficients<MoeCurve>() {
  using C = MoeCurve;
  static const std::vector<Coefficient<C>> all = {{"launch_seconds", &C::launch_seconds, 1e-6, 5e-4, 3e-5},
                                                  {"peak_fraction", &C::peak_fraction, 0.05, 1, 0.6},
                                                  {"k_half", &C::k_half, 0, 5000, 150},
                                                  {"tile_rows", &C::tile_rows, 0, 256, 32},
                                                  {"memory_fraction", &C::memory_fraction, 0.05, 1, 0.75},
                                                  {"join", &C::join, 1, 8, 2},
                                                  {"activation_passes", &C::activation_passes, 0, 20, 1},
                                                  {"token_seconds", &C::token_seconds, 0, 1e-7, 1e-9},
                                                  {"expert_seconds", &C::expert_seconds, 0, 1e-5, 1e-7},
                                                  {"skew", &C::skew, 0, 4, 1}};
  return all;
}

RankLoad busiest_load(const MoeLayerSpec& spec, double skew) {
  const double tokens = as_double(spec.tokens), topk = as_double(spec.num_experts_per_tok);
  const double ep = as_double(spec.ep), local = experts_of(spec) / ep;
  const double rows = std::max(tokens * topk / ep, 1.0);
  const double most = 0.8 * tokens;
  if (spec.power_law == 0 || most <= 1) return {rows, std::min(local, rows)};
  const double all = integral(1 - spec.power_law, most);
  const double mean = integral(2 - spec.power_law, most) / all;
  // Half a pair is the least that rounds to one.
  const double least = std::clamp(0.5 * mean * experts_of(spec) / (tokens * topk), 1.0, most);
  const double hit = local * (1 - integral(1 - spec.power_law, least) / all);
  RankLoad load{rows * busiest(spec, skew, most, mean), 0};
  // A token goes to as many different experts as it has.
  load.hit = std::min({std::max({hit, topk / ep, 1.0}), local, load.rows});
  return load;
}

double seconds(const MoeCurve& curve, const MoeLayerSpec& spec, const Machine& machine) {
  return seconds(curve, spec, busiest_load(spec, curve.skew), machine);
}

double seconds(const MoeCurve& curve, const MoeLayerSpec& spec, const RankLoad& load, const Machine& machine) {
  assert(spec.tokens > 0 && "a layer that no token enters has no curve");
  const double hidden = as_double(spec.hidden_size);
  const double width = as_double(spec.intermediate_size) / as_double(spec.etp);
  const double matrices = spec.gated ? 3 : 2;
  const double rate = machine.memory_bandwidth.value;
  const double steps = (matrices - 1) * width * (hidden + curve.k_half) + hidden * (width + curve.k_half);
  const double loop =
      2 * (load.rows + curve.tile_rows * load.hit) * steps / (machine.peak[spec.type].value * curve.peak_fraction);
  const double weight = bytes_per_element(spec.weights.value_or(stored(spec.type)));
  const double memory =
      load.hit * matrices * hidden * width * weight / (rate * curve.memory_fraction) + load.hit * curve.expert_seconds;
  const double activations = curve.activation_passes * load.rows * 2 * (hidden + width) * 2 / rate;
  return curve.launch_seconds + joined(loop, memory, curve.join) + activations +
         curve.token_seconds * as_double(spec.tokens);
}

bool is_large(const MoeLayerSpec& spec) {
  return as_double(spec.tokens * spec.num_experts_per_tok) >= 64 * experts_of(spec);
}

}  // namespace shardwright
