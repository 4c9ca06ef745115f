#include "planner/validate/validate_kernels.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "hardware/kernel_point.h"
#include "planner/cost/kernel_cost.h"
#include "planner/engine/prediction_errors.h"
#include "planner/validate/measured_kernels.h"

namespace shardwright {
namespace {

/// A kernel of the row and its time.
struct TimedKernel {
  MeasuredKernel kernel;
  KernelCost cost;
};

double as_double(std::int64_t value) { return static_cast<double>(value); }

/// What a rate counts during one call: operations, bytes; or why that is not known.
using Counted = std::variant<double, std::string>;

/// Of the kernels that have points, but attention.
DataType type_of(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) return gemm->type;
  return std::get<MoeLayerSpec>(spec).type;
}

/// Operations (in units of the metric), or the bytes of the operands.
Counted counted_compute(const KernelSpec& spec, const Machine& machine, bool bytes) {
  if (const auto* grouped = std::get_if<GroupedGemmSpec>(&spec))
    return counted_compute(as_batch(*grouped), machine, bytes);
  if (const auto* attention = std::get_if<AttentionSpec>(&spec); attention && !bytes)
    return attention->work().value / 1e12;
  if (!has_points(spec)) return fmt::format("no work is counted of {}", name_of(family_of(spec)));
  const KernelPoint point = point_of(spec, machine, 0, 0);
  if (bytes) return point.memory * machine.memory_bandwidth.value;
  return point.compute * machine.peak[type_of(spec)].value / 1e12;
}

/// nccl-tests, doc/PERFORMANCE.md; src/sendrecv.cu.
double bus_factor(const CollectiveSpec& spec) {
  const double n = as_double(spec.group.size());
  switch (spec.kind) {
    case CollectiveKind::all_reduce:
      return 2 * (n - 1) / n;
    case CollectiveKind::send_recv:
      return 1;
    default:
      return (n - 1) / n;
  }
}

/// DeepEP, tests/test_low_latency.py: of every selection one row, in fp8 with a scale of four bytes for 128 elements
/// and a header of 16 bytes, else in bf16.
Counted counted_exchange(const MoeExchangeSpec& spec, const std::string& definition) {
  if (definition.empty()) return std::string("bandwidth_definition is not stated");
  if (definition != "bottleneck-link" || spec.mode != MoeExchangeMode::low_latency)
    return fmt::format("bandwidth_definition {} counts what the row does not state", definition);
  const double hidden = as_double(spec.hidden_size);
  const double row = spec.type == StoredType::fp8 ? hidden + hidden / 128 * 4 + 16 : hidden * 2;
  return as_double(spec.tokens) * as_double(spec.num_experts_per_tok) * row;
}

Counted counted(std::string_view metric, const MeasuredRow& row, const KernelSpec& spec, const Machine& machine) {
  if (metric == "tflops") return counted_compute(spec, machine, false);
  if (metric == "memory_bandwidth_bytes_per_second") return counted_compute(spec, machine, true);
  const bool bus = metric == "bus_bandwidth_bytes_per_second";
  if (bus || metric == "algorithm_bandwidth_bytes_per_second") {
    if (const auto* collective = std::get_if<CollectiveSpec>(&spec))
      return as_double(collective->held.value) * (bus ? bus_factor(*collective) : 1);
    if (const auto* exchange = std::get_if<MoeExchangeSpec>(&spec); exchange && bus)
      return counted_exchange(*exchange, row.kernel.bandwidth_definition);
  }
  return fmt::format("{} is not predicted", metric);
}

std::string_view span_of(const KernelSpec& spec, const Machine& machine) {
  const RankGroup* group = nullptr;
  if (const auto* collective = std::get_if<CollectiveSpec>(&spec)) group = &collective->group;
  if (const auto* exchange = std::get_if<MoeExchangeSpec>(&spec)) group = &exchange->group;
  if (!group) return "";
  const std::int64_t domain = machine.links.front().gpus;
  return domain == 0 || group->members_within(domain) == group->size() ? kWithinNode : kAcrossNodes;
}

/// From the middle of the 80 % interval of a time to its ends: a factor, so that no time and no rate is below zero.
double factor_of_80(const KernelCost& cost) { return std::exp(kSigmasOf80 * cost.relative_error); }

ValidationRow time_row(ValidationRow v, const KernelCost& cost) {
  v.predicted = cost.time.value;
  v.predicted_low = cost.time.value / factor_of_80(cost);
  v.predicted_high = cost.time.value * factor_of_80(cost);
  if (*v.measured > 0) v.relative_error = v.time_error = v.predicted / *v.measured - 1;
  return v;
}

ValidationRow rate_row(ValidationRow v, double count, const KernelCost& cost, bool time_too) {
  v.predicted = count / cost.time.value;
  v.predicted_low = v.predicted / factor_of_80(cost);
  v.predicted_high = v.predicted * factor_of_80(cost);
  if (*v.measured > 0) v.relative_error = v.predicted / *v.measured - 1;
  if (!time_too) v.time_error = *v.measured / v.predicted - 1;
  return v;
}

}  // namespace

ValidationRow unpredicted(const MeasuredRow& row, const std::string& metric, std::optional<double> measured) {
  ValidationRow v;
  v.id = row.id;
  v.source = row.source;
  v.family = row.family;
  v.kind = name_of(row.kind);
  v.trust = row.trust;
  v.suspect = row.suspect;
  v.metric = metric;
  v.measured = measured;
  return v;
}

std::variant<std::vector<ValidationRow>, std::string> predict_kernel_row(const MeasuredRow& row,
                                                                         const Machine& in_long_runs) {
  Machine machine = in_long_runs;
  machine.sustained = {};  // a benchmark is no long run
  const auto named = kernels_of(row);
  if (const auto* none = std::get_if<NoKernel>(&named)) return "kernel: " + none->reason;
  std::vector<TimedKernel> kernels;
  for (const MeasuredKernel& kernel : std::get<std::vector<MeasuredKernel>>(named)) {
    const auto cost = kernel_cost(kernel.spec, machine);
    if (const auto* why = std::get_if<std::string>(&cost)) return "kernel: " + *why;
    kernels.push_back({kernel, std::get<KernelCost>(cost)});
    if (!(kernels.back().cost.time > Seconds{})) return std::string("kernel: takes no time");
  }

  const bool time_too = row.measured.find(kernels[0].kernel.seconds_key).has_value();
  std::vector<ValidationRow> rows;
  std::string why_not;
  for (const auto& [metric, measured] : row.measured.numbers) {
    const ValidationRow like = unpredicted(row, metric, measured);
    for (const TimedKernel& k : kernels)
      if (k.kernel.seconds_key == metric) rows.push_back(time_row(like, k.cost));
    if (metric.ends_with("seconds") || kernels.size() != 1) continue;
    const Counted count = counted(metric, row, kernels[0].kernel.spec, machine);
    if (const auto* why = std::get_if<std::string>(&count))
      why_not = *why;
    else
      rows.push_back(rate_row(like, std::get<double>(count), kernels[0].cost, time_too));
  }
  if (rows.empty()) return "metric: " + (why_not.empty() ? "nothing that is predicted was published" : why_not);
  for (ValidationRow& v : rows) v.span = span_of(kernels[0].kernel.spec, machine);
  return rows;
}

}  // namespace shardwright
