#include "hardware/kernel_index.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

namespace shardwright {
namespace {

double middle(std::vector<double> values) {
  const auto half = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), half, values.end());
  return *half;
}

std::string kernel_name(const KernelTable& table, std::size_t row) {
  return std::string(table.kernel(row)) + '\n' + std::string(table.framework(row));
}

/// 16-bit formats are multiplied at the same rate: one answers for the other.
std::optional<KernelSpec> in_other_16_bits(const KernelSpec& spec) {
  KernelSpec other = spec;
  return std::visit(
      [&](auto& s) -> std::optional<KernelSpec> {
        if constexpr (requires { s.type = DataType::fp16; }) {
          if (s.type != DataType::fp16 && s.type != DataType::bf16) return std::nullopt;
          s.type = s.type == DataType::fp16 ? DataType::bf16 : DataType::fp16;
          return other;
        } else {
          return std::nullopt;
        }
      },
      other);
}

}  // namespace

Seconds least_time(const KernelTable& table, KernelTable::Range rows) {
  assert(rows.size() > 0 && "a time of no rows");
  double least = INFINITY;
  for (std::size_t begin = rows.begin; begin < rows.end;) {
    std::vector<double> repeats;
    std::size_t row = begin;
    for (; row < rows.end && table.kernel(row) == table.kernel(begin) && table.framework(row) == table.framework(begin);
         ++row)
      repeats.push_back(table.seconds()[row]);
    least = std::min(least, middle(std::move(repeats)));
    begin = row;
  }
  return {least};
}

KernelIndex::KernelIndex(const KernelTable& table, const Machine& machine) : machine_(machine) {
  machine_.measured = nullptr;
  std::map<KernelGroup, std::vector<std::size_t>> rows;
  for (std::size_t row = 0; row < table.size(); ++row) {
    const KernelSpec spec = table.spec(row);
    if (has_points(spec)) rows[group_of(spec)].push_back(row);
  }
  for (const auto& [group, of_group] : rows) {
    const KernelPoint point = point_of(table.spec(of_group.front()), machine_, 0, 0);
    if (!std::isfinite(point.compute)) continue;  // a type that the machine's datasheet does not have
    groups_.emplace(group, make_group(table, of_group, machine_));
  }
}

KernelIndex::Group KernelIndex::make_group(const KernelTable& table, const std::vector<std::size_t>& rows,
                                           const Machine& machine) {
  Group group;
  const bool pooled = pools_kernels(table.spec(rows.front()));
  std::vector<std::size_t> kernel_of;
  std::map<std::pair<std::string, int>, std::size_t> known;
  for (const std::size_t row : rows) {
    const KernelSpec spec = table.spec(row);
    const auto [at, is_new] = known.try_emplace({kernel_name(table, row), variant_of(spec)}, group.kernels.size());
    if (is_new)
      group.kernels.push_back({at->first.first, at->first.second, INFINITY, pooled ? 0 : group.kernels.size()});
    Kernel& kernel = group.kernels[at->second];
    kernel.launch = std::min(kernel.launch, table.seconds()[row]);
    kernel_of.push_back(at->second);
    group.sites.try_emplace(site_of(spec), static_cast<std::int32_t>(group.sites.size()));
  }
  if (pooled) {
    double launch = INFINITY;
    for (const Kernel& k : group.kernels) launch = std::min(launch, k.launch);
    for (Kernel& k : group.kernels) k.launch = launch;
  }
  group.has_sites = group.sites.size() >= Neighbours::kFewest;

  std::vector<std::vector<Sample>> samples(pooled ? 1 : group.kernels.size());
  group.compute_share = group.memory_share = INFINITY;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const KernelSpec spec = table.spec(rows[i]);
    const Kernel& kernel = group.kernels[kernel_of[i]];
    const double seconds = table.seconds()[rows[i]];
    const KernelPoint point = point_of(spec, machine, kernel.launch, static_cast<int>(kernel_of[i]));
    group.compute_share = std::min(group.compute_share, seconds / point.compute);
    group.memory_share = std::min(group.memory_share, seconds / point.memory);
    const auto site = group.has_sites ? group.sites.at(site_of(spec)) : static_cast<std::int32_t>(i);
    samples[kernel.points].push_back(
        {point.at, static_cast<float>(std::log(seconds / (kernel.launch + point.busy))), site});
  }
  const Metric& metric = metric_of(table.spec(rows.front()));
  for (std::vector<Sample>& s : samples) group.points.emplace_back(std::move(s), metric);
  for (const Kernel& kernel : group.kernels) {
    if (group.points[kernel.points].can_read()) group.reads[static_cast<std::size_t>(kernel.variant)] = true;
  }
  return group;
}

const KernelIndex::Group* KernelIndex::find(const KernelSpec& spec, KernelSpec& asked) const {
  if (!has_points(spec)) return nullptr;
  asked = spec;
  auto found = groups_.find(group_of(spec));
  if (found == groups_.end()) {
    const auto other = in_other_16_bits(spec);
    if (!other) return nullptr;
    asked = *other;
    found = groups_.find(group_of(*other));
  }
  return found == groups_.end() ? nullptr : &found->second;
}

Seconds KernelIndex::least(const Group& group, const KernelPoint& point) const {
  return {std::max(group.compute_share * point.compute, group.memory_share * point.memory)};
}

std::optional<KernelCost> KernelIndex::read(const KernelSpec& spec, bool without_site) const {
  KernelSpec asked;
  const Group* group = find(spec, asked);
  if (group == nullptr) return std::nullopt;
  std::optional<std::int32_t> site;
  if (without_site && !group->has_sites) return std::nullopt;
  if (without_site)
    if (const auto known = group->sites.find(site_of(asked)); known != group->sites.end()) site = known->second;

  struct Answer {
    double distance, seconds;
    Reading reading;
  };
  std::vector<Answer> answers;
  double nearest = INFINITY;
  for (std::size_t k = 0; k < group->kernels.size(); ++k) {
    const Kernel& kernel = group->kernels[k];
    if (kernel.variant != variant_of(asked)) continue;
    const KernelPoint point = point_of(asked, machine_, kernel.launch, static_cast<int>(k));
    const auto reading = group->points[kernel.points].read(point.at, site);
    if (!reading) continue;
    // A kernel that was never asked anything of this sort is as far as three octaves of a GEMM's k.
    const double distance = reading->nearest + (reading->off_constant ? 3 : 0);
    const double seconds = (kernel.launch + point.busy) * std::exp(reading->value);
    answers.push_back({distance, std::max(seconds, least(*group, point).value), *reading});
    nearest = std::min(nearest, distance);
  }
  const Answer* best = nullptr;
  for (const Answer& answer : answers) {
    constexpr double kAsNear = 1.1;
    if (answer.distance <= kAsNear * nearest && (best == nullptr || answer.seconds < best->seconds)) best = &answer;
  }
  if (best == nullptr) return std::nullopt;
  const bool beyond = best->reading.outside || asked != spec;
  const double unknown = best->reading.off_constant ? machine_.efficiency.relative_error : 0;
  return KernelCost{{best->seconds},
                    beyond ? CostSource::extrapolated : CostSource::interpolated,
                    std::hypot(best->reading.sigma, unknown)};
}

std::optional<Seconds> KernelIndex::least(const KernelSpec& spec) const {
  KernelSpec asked;
  const Group* group = find(spec, asked);
  if (group == nullptr) return std::nullopt;
  return least(*group, point_of(asked, machine_, 0, 0));
}

bool KernelIndex::reads(const KernelSpec& spec) const {
  KernelSpec asked;
  const Group* group = find(spec, asked);
  return group != nullptr && group->reads[static_cast<std::size_t>(variant_of(asked))];
}

}  // namespace shardwright
