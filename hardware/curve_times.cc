#include "hardware/curve_times.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace shardwright {
namespace {

/// Two readings of the same kernel differ by that: the median between two frameworks' tables of the same bf16 GEMMs.
constexpr double kLeastError = 0.02;

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<std::size_t>(share * static_cast<double>(values.size())))];
}

double slot_size(std::int64_t slot) { return static_cast<double>(slot); }

}  // namespace

// ---- CurveTimes ----

CurveTimes::CurveTimes(const KernelTable& table)
    : size_slot_(static_cast<std::size_t>(sort_order(table.family()).back())) {
  for (std::size_t row = 0; row < table.size(); ++row) {
    KernelSlots slots = table.slots(row);
    const double size = size_of(slots);
    slots[size_slot_] = 0;
    curves_[slots].add(size, table.seconds()[row]);
  }
  std::vector<double> ratios;
  for (const auto& [slots, curve] : curves_) {
    for (std::size_t i = 0; i < curve.points(); ++i) {
      const auto reading = curve.at(curve.size(i), i);
      if (reading)
        ratios.push_back(std::abs(std::log(reading->seconds / curve.seconds(i))) /
                         std::hypot(reading->doubt, kLeastError));
    }
  }
  if (!ratios.empty()) error_factor_ = quantile(std::move(ratios), 0.68);
}

double CurveTimes::size_of(const KernelSlots& slots) const { return slot_size(slots[size_slot_]); }

const SizeCurve* CurveTimes::curve_of(KernelSlots slots) const {
  slots[size_slot_] = 0;
  const auto found = curves_.find(slots);
  return found == curves_.end() ? nullptr : &found->second;
}

std::optional<KernelCost> CurveTimes::read(const KernelSpec& spec) const {
  const KernelSlots slots = to_slots(spec);
  const SizeCurve* curve = curve_of(slots);
  return curve == nullptr ? std::nullopt : read(*curve, size_of(slots));
}

std::optional<KernelCost> CurveTimes::read(const SizeCurve& curve, double size, std::optional<std::size_t> skip) const {
  const auto reading = curve.at(size, skip);
  if (!reading) return std::nullopt;
  return KernelCost{{reading->seconds},
                    reading->outside ? CostSource::extrapolated : CostSource::interpolated,
                    error_factor_ * std::hypot(reading->doubt, kLeastError)};
}

// ---- CollectiveTimes ----

CollectiveTimes::CollectiveTimes(const KernelTable& table, std::int64_t node) : curves_(table), node_(node) {
  for (const auto& [slots, curve] : curves_.curves()) {
    const auto spec = std::get<CollectiveSpec>(from_slots(KernelFamily::collective, slots));
    if (curve.points() < 2) continue;
    // Of groups of as many ranks the first: neighbours stand before ranks that lie apart.
    if (const auto key = key_of(spec)) known_.try_emplace(*key, &curve);
  }
  calibrate();
}

std::optional<CollectiveTimes::Key> CollectiveTimes::key_of(const CollectiveSpec& spec) const {
  const std::int64_t ranks = spec.group.size();
  if (ranks < 2 || (node_ > 0 && spec.group.members_within(node_) != ranks)) return std::nullopt;
  return Key{spec.kind, spec.algorithm, ranks, spec.type ? static_cast<int>(*spec.type) : -1};
}

/// Not stated: 16 bits, as what is sent mostly is, else any.
const SizeCurve* CollectiveTimes::curve_of(const Key& key, bool& other_type, bool without_type) const {
  const auto find = [&](int type) -> const SizeCurve* {
    const auto found = known_.find({key.kind, key.algorithm, key.ranks, type});
    return found == known_.end() ? nullptr : found->second;
  };
  other_type = false;
  const SizeCurve* stated = find(key.type);
  if (stated && !without_type) return stated;
  std::array<int, kStoredTypeNames.size() + 3> types;
  std::size_t count = 0;
  for (const StoredType type : {StoredType::fp16, StoredType::bf16}) types[count++] = static_cast<int>(type);
  types[count++] = -1;
  for (std::size_t type = 0; type < kStoredTypeNames.size(); ++type) types[count++] = static_cast<int>(type);
  other_type = key.type >= 0;
  for (const int type : types) {
    if (type == key.type) continue;
    if (const SizeCurve* curve = find(type)) return curve;
  }
  return nullptr;
}

std::optional<double> CollectiveTimes::log_carried_over(const Key& key, double bytes) const {
  const auto log_time = [&](CollectiveKind kind, std::int64_t ranks) -> std::optional<double> {
    bool other_type = false;
    const SizeCurve* curve = curve_of({kind, key.algorithm, ranks, key.type}, other_type);
    const auto reading = curve ? curve->at(bytes) : std::nullopt;
    return reading ? std::optional(std::log(reading->seconds)) : std::nullopt;
  };
  std::vector<std::int64_t> counts;
  std::vector<CollectiveKind> others;
  for (const auto& [known, curve] : known_) {
    if (known.algorithm != key.algorithm) continue;
    if (known.kind == key.kind && known.ranks != key.ranks) counts.push_back(known.ranks);
    if (known.kind != key.kind && known.ranks == key.ranks) others.push_back(known.kind);
  }
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  others.erase(std::unique(others.begin(), others.end()), others.end());
  double sum = 0, weights = 0;
  for (const std::int64_t count : counts) {
    for (const CollectiveKind other : others) {
      const auto here = log_time(key.kind, count), other_here = log_time(other, count),
                 there = log_time(other, key.ranks);
      if (!here || !other_here || !there) continue;
      const double away = std::log2(static_cast<double>(count) / static_cast<double>(key.ranks));
      const double gap = *other_here - *here;
      const double weight = 1 / (away * away * (gap * gap + 0.003));
      sum += weight * (*here + *there - *other_here);
      weights += weight;
    }
  }
  return weights > 0 ? std::optional(sum / weights) : std::nullopt;
}

std::optional<KernelCost> CollectiveTimes::read(const CollectiveSpec& spec, Without without) const {
  const auto key = key_of(spec);
  if (!key) return std::nullopt;
  const auto bytes = static_cast<double>(spec.held.value);
  bool other_type = false;
  const SizeCurve* curve = curve_of(*key, other_type, without == Without::type);
  if (without == Without::ranks) curve = nullptr;
  if (curve) {
    std::optional<std::size_t> measured;
    for (std::size_t i = 0; i < curve->points() && !measured; ++i)
      if (curve->size(i) == bytes) measured = i;
    if (measured && without != Without::size) {
      if (!other_type) return KernelCost{{curve->seconds(*measured)}, CostSource::measured, kLeastError};
      return KernelCost{{curve->seconds(*measured)}, CostSource::interpolated, type_error_};
    }
    auto cost = curves_.read(*curve, bytes, without == Without::size ? measured : std::nullopt);
    if (cost && other_type) cost->relative_error = std::hypot(cost->relative_error, type_error_);
    return cost;
  }
  const auto carried = bytes > 0 ? log_carried_over(*key, bytes) : std::nullopt;
  if (!carried) return std::nullopt;
  return KernelCost{{std::exp(*carried)}, CostSource::extrapolated, ranks_error(key->kind)};
}

/// Of a kind that could not be tried, the worst of the others.
double CollectiveTimes::ranks_error(CollectiveKind kind) const {
  if (const auto known = ranks_error_.find(kind); known != ranks_error_.end()) return known->second;
  double worst = 0;
  for (const auto& [other, error] : ranks_error_) worst = std::max(worst, error);
  return worst;
}

std::optional<double> CollectiveTimes::least_slope(const CollectiveSpec& spec) const {
  const auto key = key_of(spec);
  if (!key) return std::nullopt;
  bool other_type = false;
  if (const SizeCurve* curve = curve_of(*key, other_type)) return curve->least_slope(slot_size(spec.held.value));
  // Not proven of what is carried over.
  if (log_carried_over(*key, std::max(1.0, slot_size(spec.held.value)))) return 0;
  return std::nullopt;
}

void CollectiveTimes::calibrate() {
  std::vector<double> by_type;
  std::map<CollectiveKind, std::vector<double>> by_ranks;
  for (const auto& [key, curve] : known_) {
    bool other_type = false;
    const SizeCurve* sister = curve_of(key, other_type, true);
    for (std::size_t i = 0; i < curve->points(); ++i) {
      const double here = std::log(curve->seconds(i));
      const auto other = sister ? sister->at(curve->size(i)) : std::nullopt;
      if (other) by_type.push_back(std::abs(std::log(other->seconds) - here));
      const auto carried = log_carried_over(key, curve->size(i));
      if (carried) by_ranks[key.kind].push_back(std::abs(*carried - here));
    }
  }
  type_error_ = quantile(std::move(by_type), 0.68);
  for (auto& [kind, errors] : by_ranks) ranks_error_[kind] = quantile(std::move(errors), 0.68);
}

}  // namespace shardwright
