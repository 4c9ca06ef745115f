#include "hardware/measurements.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hardware/kernel_curves.h"
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

/// Of GemmSpec and GroupedGemmSpec.
template <typename Spec>
KernelCost product_time(const Spec& spec, const Machine& machine) {
  const Products products = products_of(spec);
  const Fitted<GemmCurve>& fitted = machine.curves->of_gemm(spec.type, spec.scaling);
  const double time = products.empty() ? fitted.curve.launch_seconds : seconds(fitted.curve, products, machine);
  return {{time},
          CostSource::datasheet,
          std::hypot(fitted.relative_error(products.large()), machine.efficiency.curves_error)};
}

template <typename Spec>
Seconds product_steady_time(const Spec& spec, const Machine& machine) {
  return {steady_seconds(machine.curves->of_gemm(spec.type, spec.scaling).curve, products_of(spec), machine)};
}

KernelCost curve_time(const GemmSpec& spec, const Machine& machine) { return product_time(spec, machine); }
KernelCost curve_time(const GroupedGemmSpec& spec, const Machine& machine) { return product_time(spec, machine); }
Seconds curve_steady_time(const GemmSpec& spec, const Machine& machine) { return product_steady_time(spec, machine); }
Seconds curve_steady_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return product_steady_time(spec, machine);
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
  return time_of(spec, machine);
}
KernelCost look_up(const GroupedGemmSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  return time_of(spec, machine);
}
KernelCost look_up(const AttentionSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  return time_of(spec, machine);
}
KernelCost look_up(const MemorySpec& spec, const Machine& machine) { return time_of(spec, machine); }

Seconds steady_time(const GemmSpec& spec, const Machine& machine) { return steady_time_of(spec, machine); }
Seconds steady_time(const GroupedGemmSpec& spec, const Machine& machine) { return steady_time_of(spec, machine); }
Seconds steady_time(const AttentionSpec& spec, const Machine& machine) { return steady_time_of(spec, machine); }
Seconds steady_time(const MemorySpec& spec, const Machine& machine) { return steady_time_of(spec, machine); }

Seconds least_launch(const Machine& machine) {
  return machine.measured ? Seconds{} : Seconds{machine.curves->least_launch(machine)};
}

}  // namespace shardwright
