#include "hardware/measurements.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hardware/kernel_curves.h"
#include "hardware/measured_times.h"
#include "hardware/steady_line.h"

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }

/// Moving `bytes` through HBM.
double memory_seconds(double bytes, const Machine& machine) {
  return bytes / (machine.memory_bandwidth.value * machine.efficiency.memory_fraction);
}

KernelCost cost_of(double busy_seconds, const Machine& machine) {
  return {machine.efficiency.kernel_latency + Seconds{busy_seconds}, CostSource::datasheet,
          machine.efficiency.relative_error};
}

KernelCost curve_time(const GemmSpec& spec, const Machine& machine) {
  const Products products = products_of(spec);
  const Fitted<GemmCurve>& fitted = machine.curves->of_gemm(spec.type, spec.scaling);
  const double time = products.empty() ? fitted.curve.launch_seconds : seconds(fitted.curve, products, machine);
  return {{time},
          CostSource::datasheet,
          std::hypot(fitted.relative_error(products.large()), machine.efficiency.curves_error)};
}

Seconds curve_steady_time(const GemmSpec& spec, const Machine& machine) {
  return {steady_seconds(machine.curves->of_gemm(spec.type, spec.scaling).curve, products_of(spec), machine)};
}

KernelCost curve_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return curve_time(as_batch(spec), machine);
}
Seconds curve_steady_time(const GroupedGemmSpec& spec, const Machine& machine) {
  return curve_steady_time(as_batch(spec), machine);
}

/// One sigma more of attention in less than 16 bits, which no curve was fitted to. Of 58 published fp8 prefills
/// (TensorRT-LLM 1.3.0rc20, H100 and B200) 68 % lie within 26 and 22 %.
constexpr double kNarrowAttentionError = 0.20;

KernelCost curve_time(const AttentionSpec& spec, const Machine& machine) {
  const Fitted<AttentionCurve>& fitted = machine.curves->of_attention(kind_of(spec));
  const double time = is_empty(spec) ? fitted.curve.launch_seconds : seconds(fitted.curve, spec, machine);
  return {{time},
          CostSource::datasheet,
          std::hypot(fitted.relative_error(is_large(spec)), machine.efficiency.curves_error,
                     bytes_per_element(spec.type) < 2 ? kNarrowAttentionError : 0)};
}

/// One query alone would be decode.
bool is_decode_in_parts(const AttentionSpec& spec) { return kind_of(spec) == AttentionKind::prefill && !spec.causal; }

Seconds curve_steady_time(const AttentionSpec& spec, const Machine& machine) {
  const auto steady = [&](AttentionKind kind) {
    return steady_seconds(machine.curves->of_attention(kind).curve, spec, machine);
  };
  const AttentionKind kind = kind_of(spec);
  if (is_decode_in_parts(spec)) return {std::min(steady(kind), steady(AttentionKind::decode))};
  return {steady(kind)};
}

KernelCost curve_time(const MemorySpec& spec, const Machine& machine) {
  return cost_of(memory_seconds(as_double(spec.moved.value), machine), machine);
}

Seconds curve_steady_time(const MemorySpec& spec, const Machine& machine) {
  return {memory_seconds(as_double(spec.moved.value), machine)};
}

std::optional<KernelCost> curve_time(const MoeLayerSpec& spec, const Machine& machine) {
  const auto fitted = machine.curves->of_moe_layer(spec);
  if (!fitted) return std::nullopt;
  const double time = spec.tokens == 0 ? fitted->curve.launch_seconds : seconds(fitted->curve, spec, machine);
  return KernelCost{{time},
                    CostSource::datasheet,
                    std::hypot(fitted->relative_error(is_large(spec)), machine.efficiency.curves_error)};
}

/// In a long run, over what a kernel takes by itself.
double sustained(const GemmSpec& spec, const Machine& machine) { return machine.sustained.product[spec.type]; }
double sustained(const GroupedGemmSpec& spec, const Machine& machine) { return machine.sustained.product[spec.type]; }
double sustained(const AttentionSpec& spec, const Machine& machine) {
  const SustainedTimes& times = machine.sustained;
  return times.attention * (spec.backward ? times.attention_backward : times.attention_forward);
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

std::optional<KernelCost> look_up(const MoeLayerSpec& spec, const Machine& machine) {
  assert(supports(machine, spec.type) && "a type that this machine does not compute in");
  std::optional<KernelCost> cost = machine.measured ? machine.measured->find(spec) : std::nullopt;
  if (!cost) cost = curve_time(spec, machine);
  if (cost) return in_a_long_run(*cost, machine.sustained.product[spec.type]);
  return std::nullopt;
}

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

Seconds least_launch(const GemmSpec& spec, const Machine& machine) {
  if (machine.measured) return {};
  return {steady_line(machine.curves->of_gemm(spec.type, spec.scaling).curve).launch};
}
Seconds least_launch(const GroupedGemmSpec& spec, const Machine& machine) {
  return least_launch(as_batch(spec), machine);
}
Seconds least_launch(const AttentionSpec& spec, const Machine& machine) {
  if (machine.measured) return {};
  const auto launch = [&](AttentionKind kind) { return steady_line(machine.curves->of_attention(kind).curve).launch; };
  const AttentionKind kind = kind_of(spec);
  return {is_decode_in_parts(spec) ? std::min(launch(kind), launch(AttentionKind::decode)) : launch(kind)};
}
Seconds least_launch(const MemorySpec&, const Machine& machine) {
  return machine.measured ? Seconds{} : machine.efficiency.kernel_latency;
}

}  // namespace shardwright
