#include "hardware/measured_times.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hardware/carried_over.h"

namespace shardwright {
namespace {

/// Entries that one of the memories takes before it starts afresh: 2 million questions in all, of 200 bytes.
constexpr std::size_t kMostRemembered = 1 << 16;

/// No measurement is exact: the median between two frameworks' tables of the same bf16 GEMMs of an H100.
constexpr double kMeasuredError = 0.02;

bool is_backward(const KernelSpec& spec) {
  const auto* attention = std::get_if<AttentionSpec>(&spec);
  return attention != nullptr && attention->backward;
}

bool is_pointed(KernelFamily family) {
  return family == KernelFamily::gemm || family == KernelFamily::attention || family == KernelFamily::moe_layer;
}

/// Groups of GEMMs that no table has are asked as a batch.
const GroupedGemmSpec* grouped(const KernelSpec& spec) { return std::get_if<GroupedGemmSpec>(&spec); }

/// A product whose operand is narrow already, as it is where it has to be cast first.
std::optional<GemmSpec> with_cast(const KernelSpec& spec) {
  const auto* gemm = std::get_if<GemmSpec>(&spec);
  if (gemm == nullptr || gemm->cast) return std::nullopt;
  GemmSpec other = *gemm;
  other.cast = true;
  return other;
}

/// A pass of which no table says how long it takes, as the plainest one.
std::optional<KernelSpec> as_stream(const KernelSpec& spec) {
  const auto* memory = std::get_if<MemorySpec>(&spec);
  if (memory == nullptr || memory->pass == MemoryPass::stream) return std::nullopt;
  return MemorySpec{memory->moved};
}

AttentionSpec forward_of(AttentionSpec spec) {
  spec.backward = false;
  return spec;
}

}  // namespace

std::size_t MeasuredTimes::SlotsHash::operator()(const KernelSlots& slots) const {
  std::uint64_t hash = 0;
  for (const std::int64_t slot : slots) {
    hash = (hash ^ static_cast<std::uint64_t>(slot)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  }
  return static_cast<std::size_t>(hash);
}

MeasuredTimes::MeasuredTimes(const Machine& machine, std::shared_ptr<const Measurements> measurements,
                             std::shared_ptr<const Measurements> carried, Calibration calibration)
    : machine_(machine), measurements_(std::move(measurements)), calibration_(std::move(calibration)) {
  machine_.measured = nullptr;
  machine_.sustained = {};  // what was measured is no long run
  if (carried) carried_ = std::make_unique<const MeasuredTimes>(machine_, std::move(carried));
}

std::shared_ptr<const MeasuredTimes> MeasuredTimes::calibrated(Calibration calibration) const {
  return std::make_shared<const MeasuredTimes>(machine_, measurements_, carried_ ? carried_->measurements_ : nullptr,
                                               std::move(calibration));
}

const KernelIndex& MeasuredTimes::index(KernelFamily family) const {
  Lazy<KernelIndex>& lazy = indices_[static_cast<std::size_t>(family)];
  std::call_once(lazy.once, [&] { lazy.index = std::make_unique<KernelIndex>(table(family), machine_); });
  return *lazy.index;
}

const CurveTimes& MeasuredTimes::curves(KernelFamily family) const {
  Lazy<CurveTimes>& lazy = curves_[static_cast<std::size_t>(family)];
  std::call_once(lazy.once, [&] { lazy.index = std::make_unique<CurveTimes>(table(family)); });
  return *lazy.index;
}

const CollectiveTimes& MeasuredTimes::collectives() const {
  std::call_once(collectives_.once, [&] {
    collectives_.index =
        std::make_unique<CollectiveTimes>(table(KernelFamily::collective), machine_.links.front().gpus);
  });
  return *collectives_.index;
}

std::optional<KernelCost> MeasuredTimes::find(const KernelSpec& spec) const {
  std::optional<KernelCost> cost = find_remembered(spec);
  if (cost) cost->time = calibration_.factor(family_of(spec)) * cost->time;
  return cost;
}

std::optional<KernelCost> MeasuredTimes::find_remembered(const KernelSpec& spec) const {
  const KernelFamily family = family_of(spec);
  if (const auto* collective = std::get_if<CollectiveSpec>(&spec); collective && table(family).size() > 0)
    return collectives().read(*collective);
  if (table(family).size() == 0 && !carried_)
    return grouped(spec) ? find_remembered(as_batch(*grouped(spec))) : std::optional<KernelCost>();
  const KernelSlots slots = to_slots(spec);
  Memory& memory = memories_[static_cast<std::size_t>(family)][SlotsHash()(slots) % kMemories];
  {
    const std::lock_guard lock(memory.mutex);
    if (const auto known = memory.known.find(slots); known != memory.known.end()) return known->second;
  }
  const std::optional<KernelCost> cost = find_anew(spec);
  const std::lock_guard lock(memory.mutex);
  if (memory.known.size() >= kMostRemembered) memory.known.clear();
  memory.known.emplace(slots, cost);
  return cost;
}

std::optional<KernelCost> MeasuredTimes::find_anew(const KernelSpec& spec) const {
  const auto own = find_own(spec);
  if (!carried_ || (own && own->source <= CostSource::interpolated)) return own;
  auto carried = carried_->find_own(spec);
  if (!carried) return own;
  carried->source = CostSource::extrapolated;
  carried->relative_error = std::hypot(carried->relative_error, kCarriedOverError);
  return carried;
}

std::optional<KernelCost> MeasuredTimes::find_own(const KernelSpec& spec) const {
  const KernelFamily family = family_of(spec);
  if (table(family).size() == 0)
    return grouped(spec) ? find_own(as_batch(*grouped(spec))) : std::optional<KernelCost>();
  const KernelTable::Range rows = table(family).find(spec);
  if (rows.size() > 0) return KernelCost{least_time(table(family), rows), CostSource::measured, kMeasuredError};
  if (!is_pointed(family)) {
    const auto read = curves(family).read(spec);
    if (const auto stream = as_stream(spec); stream && !read) return find_own(*stream);
    return read || !grouped(spec) ? read : find_own(as_batch(*grouped(spec)));
  }
  const auto cost = index(family).read(spec);
  if (const auto cast = with_cast(spec); cast && !cost)
    return by_ratio(std::get<GemmSpec>(spec), *cast, index(family).least(*cast).value_or(Seconds{}));
  if (is_backward(spec) && !cost) return backward(std::get<AttentionSpec>(spec));
  const auto* gemm = std::get_if<GemmSpec>(&spec);
  if (gemm != nullptr && gemm->batch > 1 && cost && cost->source == CostSource::extrapolated) return batched(*gemm);
  return cost;
}

/// How long `spec` takes by what `like` takes; never less than `least`.
template <typename Spec>
std::optional<KernelCost> MeasuredTimes::by_ratio(const Spec& spec, const Spec& like, Seconds least) const {
  const auto known = find_own(like);
  if (!known) return std::nullopt;
  const double ratio = look_up(spec, machine_).time / look_up(like, machine_).time;
  return KernelCost{std::max(ratio * known->time, least), CostSource::extrapolated,
                    std::hypot(known->relative_error, machine_.efficiency.relative_error)};
}

std::optional<KernelCost> MeasuredTimes::backward(const AttentionSpec& spec) const {
  return by_ratio(spec, forward_of(spec), least_backward(spec));
}

std::optional<KernelCost> MeasuredTimes::batched(const GemmSpec& spec) const {
  GemmSpec one = spec;
  one.m *= spec.batch;
  one.batch = 1;
  return by_ratio(spec, one, index(KernelFamily::gemm).least(spec).value_or(Seconds{}));
}

/// Backward's products at the rate of forward's at the best: its kernels reach less (arXiv 2407.08608, figures 5 and
/// 6).
Seconds MeasuredTimes::least_backward(const AttentionSpec& spec) const {
  const AttentionSpec forward = forward_of(spec);
  const auto least = index(KernelFamily::attention).least(forward);
  return least ? spec.work().value / forward.work().value * *least : Seconds{};
}

MeasuredTimes::Least MeasuredTimes::steady_time(const KernelSpec& spec) const {
  Least least = own_steady_time(spec);
  if (carried_) {
    const Least carried = carried_->own_steady_time(spec);
    least = {std::min(least.time, carried.time), least.curves_too && carried.curves_too};
  }
  least.time = calibration_.factor(family_of(spec)) * least.time;
  return least;
}

MeasuredTimes::Least MeasuredTimes::own_steady_time(const KernelSpec& spec) const {
  const KernelFamily family = family_of(spec);
  if (grouped(spec)) {
    const Least batch = own_steady_time(as_batch(*grouped(spec)));
    return {table(family).size() > 0 ? Seconds{0} : batch.time, batch.curves_too};  // a table may say anything
  }
  if (table(family).size() == 0) return {{INFINITY}, true};
  if (const auto* memory = std::get_if<MemorySpec>(&spec)) {
    const SizeCurve* curve = curves(family).curve_of(to_slots(spec));
    const auto bytes = static_cast<double>(memory->moved.value);
    const Least least{{curve ? curve->least_slope(bytes) * bytes : INFINITY}, curve == nullptr || curve->points() < 2};
    const auto stream = as_stream(spec);
    if (!least.curves_too || !stream) return least;
    const Least otherwise = own_steady_time(*stream);
    return {std::min(least.time, otherwise.time), otherwise.curves_too};
  }
  if (!has_points(spec)) return {{0}, false};
  Least least{index(family).least(spec).value_or(Seconds{INFINITY}), !index(family).reads(spec)};
  if (const auto cast = with_cast(spec); cast && least.curves_too) {
    least.time = std::min(least.time, index(family).least(*cast).value_or(Seconds{INFINITY}));
    least.curves_too = !index(family).reads(*cast);
  }
  if (least.curves_too && is_backward(spec)) {
    const auto& attention = std::get<AttentionSpec>(spec);
    const KernelSpec forward = forward_of(attention);
    // Answered from forward: measured, read off, or not at all.
    if (index(family).least(forward)) least.time = std::min(least.time, least_backward(attention));
    least.curves_too = !index(family).reads(forward);
  }
  return least;
}

std::optional<double> MeasuredTimes::least_slope(const CollectiveSpec& spec) const {
  if (table(KernelFamily::collective).size() == 0) return std::nullopt;
  std::optional<double> slope = collectives().least_slope(spec);
  if (slope) *slope *= calibration_.factor(KernelFamily::collective);
  return slope;
}

}  // namespace shardwright
