#include "hardware/measurements.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "hardware/measured_times.h"

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }

/// std::ceil and std::floor of a count: those are calls where the build allows nothing beyond SSE2, and this is a hot
/// path.
double rounded_down(double count) { return as_double(static_cast<std::int64_t>(count)); }
double rounded_up(double count) {
  const double down = rounded_down(count);
  return down < count ? down + 1 : down;
}

/// Moving `bytes` through HBM.
double memory_seconds(double bytes, const Machine& machine) {
  return bytes / (machine.memory_bandwidth.value * machine.efficiency.memory_fraction);
}

KernelCost cost_of(double busy_seconds, const Machine& machine) {
  return {machine.efficiency.kernel_latency + Seconds{busy_seconds}, CostSource::datasheet,
          machine.efficiency.relative_error};
}

/// GEMM libraries have kernels for several tiles and choose the fastest: the machine's own, and halves of it in turn.
struct Tile {
  double m_divisor, n_divisor;
  int halvings;  // of the area
};
constexpr std::array kTiles = {Tile{1, 1, 0}, Tile{1, 2, 1}, Tile{2, 2, 2}, Tile{2, 4, 3}};

/// Time of the tiles' loops over k. `tiles` tiles share the multiprocessors in waves; below half a wave, libraries
/// split k over idle multiprocessors (in parts of at least 256), and one more prologue adds the parts up.
double loop_seconds(const GemmSpec& spec, double tile_m, double tile_n, double multiprocessor_rate,
                    const Machine& machine) {
  const EfficiencyCurves& curves = machine.efficiency;
  const double tiles =
      as_double(spec.batch) * rounded_up(as_double(spec.m) / tile_m) * rounded_up(as_double(spec.n) / tile_n);
  const double filled = tiles / machine.multiprocessors;
  const double waves = curves.gemm_wave_step * rounded_up(filled) + (1 - curves.gemm_wave_step) * std::max(filled, 1.0);
  double k = as_double(spec.k);
  if (filled < 0.5 && k >= 1024) k = k / std::min(rounded_down(1 / filled), rounded_down(k / 256)) + curves.gemm_k_half;
  return waves * 2 * tile_m * tile_n * (k + curves.gemm_k_half) / multiprocessor_rate;
}

/// Of one multiprocessor, with the machine's own tile.
double whole_tile_rate(DataType type, const Machine& machine) {
  return machine.peak[type].value * machine.efficiency.gemm_peak_fraction[type] / machine.multiprocessors;
}

double bytes_moved(const GemmSpec& spec) {
  const double m = as_double(spec.m), n = as_double(spec.n), k = as_double(spec.k);
  const double element = bytes_per_element(spec.type);
  return as_double(spec.batch) * (element * (m * k + k * n) + std::max(element, 2.0) * m * n);
}

/// Attention with every multiprocessor busy.
double busy_attention_seconds(const AttentionSpec& spec, const Machine& machine) {
  const EfficiencyCurves& curves = machine.efficiency;
  const double visible = spec.visible_keys();
  const auto width_factor = [&](double width) { return width / (width + curves.attention_softmax_width); };
  const double fraction = spec.backward ? curves.attention_backward_fraction : curves.attention_forward_fraction;
  const double rate = machine.peak[spec.type].value * fraction * (visible / (visible + curves.attention_keys_half)) *
                      (width_factor(as_double(spec.head_dim + spec.value_dim)) / width_factor(256));
  return spec.work().value / rate;
}

/// Keys that are read: all, or of sparse attention no more than its queries select.
double keys_read(const AttentionSpec& spec) {
  if (spec.selected == 0) return as_double(spec.key_length);
  const double selected = as_double(spec.selected) * as_double(spec.query_length);
  return spec.key_length == 0 ? selected : std::min(selected, as_double(spec.key_length));
}

/// Forward: queries, keys and values in, output out. Backward: those and the output's gradient in, three gradients out.
double bytes_moved(const AttentionSpec& spec) {
  const double queries = as_double(spec.batch) * as_double(spec.heads) * as_double(spec.query_length);
  const double keys = as_double(spec.batch) * as_double(spec.kv_heads) * keys_read(spec);
  const double once = queries * as_double(spec.head_dim + spec.value_dim) +
                      keys * as_double(spec.head_dim + (spec.values_in_keys ? 0 : spec.value_dim));
  return bytes_per_element(spec.type) * once * (spec.backward ? 2 : 1);
}

bool is_empty(const AttentionSpec& spec) {
  return !(spec.visible_keys() > 0) || spec.batch == 0 || spec.heads == 0 || spec.query_length == 0;
}

/// Whichever is longer: the waves of tiles, or the operands' way through HBM (a third operand in the output's 16 bits
/// where the inputs are narrower).
KernelCost curve_time(const GemmSpec& spec, const Machine& machine) {
  if (spec.m == 0 || spec.n == 0 || spec.k == 0 || spec.batch == 0) return cost_of(0, machine);
  const EfficiencyCurves& curves = machine.efficiency;
  const double whole_rate = whole_tile_rate(spec.type, machine);

  double fastest = INFINITY;
  double rate = whole_rate;
  int halvings = 0;
  for (const Tile& tile : kTiles) {
    for (; halvings < tile.halvings; ++halvings) rate *= curves.gemm_half_tile_rate;
    const double tile_m = rounded_up(as_double(curves.gemm_tile_m) / tile.m_divisor);
    const double tile_n = rounded_up(as_double(curves.gemm_tile_n) / tile.n_divisor);
    fastest = std::min(fastest, loop_seconds(spec, tile_m, tile_n, rate, machine));
  }

  return cost_of(std::max(fastest, memory_seconds(bytes_moved(spec), machine)), machine);
}

KernelCost curve_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return curve_time(as_batch(spec), machine);
}

/// Whole tiles, as many as the multiprocessors like: the elements of the result at the rate of the best tile.
Seconds curve_steady_time(const GemmSpec& spec, const Machine& machine) {
  if (spec.m == 0 || spec.n == 0 || spec.k == 0 || spec.batch == 0) return {};
  const EfficiencyCurves& curves = machine.efficiency;
  double best_rate = whole_tile_rate(spec.type, machine), rate = best_rate;
  for (int halving = 0; halving < kTiles.back().halvings; ++halving) {
    rate *= curves.gemm_half_tile_rate;
    best_rate = std::max(best_rate, rate);
  }
  const double results = as_double(spec.batch) * as_double(spec.m) * as_double(spec.n);
  const double compute = results / machine.multiprocessors * 2 * (as_double(spec.k) + curves.gemm_k_half) / best_rate;
  return {std::max(compute, memory_seconds(bytes_moved(spec), machine))};
}

Seconds curve_steady_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return curve_steady_time(as_batch(spec), machine);
}

/// Work over a rate that grows with the keys a query sees (each block of queries fills and drains its pipeline once)
/// and with the heads' width (the exponential of a score costs the same for any width), or the traffic if that is
/// longer. Blocks of 128 queries are the units of work: fewer of them than multiprocessors leave some idle.
KernelCost curve_time(const AttentionSpec& spec, const Machine& machine) {
  if (is_empty(spec)) return cost_of(0, machine);
  constexpr double kBlock = 128;
  const double blocks =
      as_double(spec.batch) * as_double(spec.heads) * rounded_up(as_double(spec.query_length) / kBlock);
  const double idle = std::max(1.0, machine.multiprocessors / blocks);
  const double compute = busy_attention_seconds(spec, machine) * idle;
  return cost_of(std::max(compute, memory_seconds(bytes_moved(spec), machine)), machine);
}

Seconds curve_steady_time(const AttentionSpec& spec, const Machine& machine) {
  if (is_empty(spec)) return {};
  return {std::max(busy_attention_seconds(spec, machine), memory_seconds(bytes_moved(spec), machine))};
}

KernelCost curve_time(const MemorySpec& spec, const Machine& machine) {
  return cost_of(memory_seconds(as_double(spec.moved.value), machine), machine);
}

Seconds curve_steady_time(const MemorySpec& spec, const Machine& machine) {
  return {memory_seconds(as_double(spec.moved.value), machine)};
}

/// In a long run, over what a kernel takes by itself.
double sustained(const GemmSpec& spec, const Machine& machine) { return machine.sustained.product[spec.type]; }
double sustained(const GroupedGemmSpec& spec, const Machine& machine) { return machine.sustained.product[spec.type]; }
double sustained(const AttentionSpec& spec, const Machine& machine) {
  const SustainedTimes& times = machine.sustained;
  return times.product[spec.type] * (spec.backward ? times.attention_backward : times.attention_forward);
}
KernelCost in_a_long_run(KernelCost cost, double factor) {
  cost.time = factor * cost.time;
  return cost;
}

template <typename Spec>
KernelCost time_of(const Spec& spec, const Machine& machine) {
  if (machine.measured) {
    if (const auto cost = machine.measured->find(spec)) return *cost;
  }
  return curve_time(spec, machine);
}

template <typename Spec>
Seconds steady_time_of(const Spec& spec, const Machine& machine) {
  const Seconds curve = curve_steady_time(spec, machine);
  if (!machine.measured) return curve;
  const MeasuredTimes::Least least = machine.measured->steady_time(spec);
  return least.curves_too ? std::min(least.time, curve) : least.time;
}

}  // namespace

std::string_view name_of(CostSource source) {
  switch (source) {
    case CostSource::measured:
      return "measured";
    case CostSource::interpolated:
      return "interpolated";
    case CostSource::extrapolated:
      return "extrapolated";
    case CostSource::datasheet:
      return "datasheet";
  }
  assert(false && "a cost source without a name");
  return "";
}

KernelCost look_up(const GemmSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  return in_a_long_run(time_of(spec, machine), sustained(spec, machine));
}
KernelCost look_up(const GroupedGemmSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  return in_a_long_run(time_of(spec, machine), sustained(spec, machine));
}
KernelCost look_up(const AttentionSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  return in_a_long_run(time_of(spec, machine), sustained(spec, machine));
}
KernelCost look_up(const MemorySpec& spec, const Machine& machine) { return time_of(spec, machine); }

Seconds steady_time(const GemmSpec& spec, const Machine& machine) {
  return sustained(spec, machine) * steady_time_of(spec, machine);
}
Seconds steady_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return sustained(spec, machine) * steady_time_of(spec, machine);
}
Seconds steady_time(const AttentionSpec& spec, const Machine& machine) {
  return sustained(spec, machine) * steady_time_of(spec, machine);
}
Seconds steady_time(const MemorySpec& spec, const Machine& machine) { return steady_time_of(spec, machine); }

Seconds least_launch(const Machine& machine) {
  return machine.measured ? Seconds{} : machine.efficiency.kernel_latency;
}

}  // namespace shardwright
