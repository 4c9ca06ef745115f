#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "hardware/calibration.h"
#include "hardware/curve_times.h"
#include "hardware/kernel_index.h"
#include "hardware/machine.h"
#include "hardware/measured_machine.h"
#include "hardware/measurements.h"

namespace shardwright {

/// Answers from what was measured on a machine, the best there is:
///   measured      the table has the question: the fastest kernel's time
///   interpolated  read off between questions alike (kernel_index.h, curve_times.h)
///   extrapolated  the same beyond them; and what no table near has: backward attention is forward's time, a batch of
///                 GEMMs that of one with all of their rows, each by the datasheet's ratio of the two; groups of GEMMs
///                 are a batch
///                 And what was measured on another machine of the same chip, where this one's own tables have nothing
///                 nearer (carried_over.h)
///   nothing       nothing alike was measured: ask the datasheet
/// Answers are as long as runs found those of their family to be (calibration.h).
/// Indices are made when a family is first asked. What was asked is remembered. Any number of threads may ask.
class MeasuredTimes {
 public:
  /// `machine` is copied, without its own measurements. `carried`: those of another machine, carried over to this one.
  MeasuredTimes(const Machine& machine, std::shared_ptr<const Measurements> measurements,
                std::shared_ptr<const Measurements> carried = nullptr, Calibration calibration = {});
  /// The same measurements with another calibration.
  std::shared_ptr<const MeasuredTimes> calibrated(Calibration calibration) const;
  MeasuredTimes(const MeasuredTimes&) = delete;

  std::optional<KernelCost> find(const KernelSpec& spec) const;

  /// A time that the parts of a question, in its batch, rows or sum, never beat together, as far as find answers them;
  /// `curves_too`: the datasheet may be asked for some of them. Of gemm, grouped_gemm, attention and memory.
  struct Least {
    Seconds time;
    bool curves_too = false;
  };
  Least steady_time(const KernelSpec& spec) const;

  /// As CollectiveTimes::least_slope.
  std::optional<double> least_slope(const CollectiveSpec& spec) const;

  const Machine& machine() const { return machine_; }
  const Calibration& calibration() const { return calibration_; }
  const Measurements& measurements() const { return *measurements_; }
  /// Of gemm, attention, moe_layer.
  const KernelIndex& index(KernelFamily family) const;
  const CollectiveTimes& collectives() const;

 private:
  struct SlotsHash {
    std::size_t operator()(const KernelSlots& slots) const;
  };
  struct Memory {
    std::mutex mutex;
    std::unordered_map<KernelSlots, std::optional<KernelCost>, SlotsHash> known;
  };
  template <typename Index>
  struct Lazy {
    std::once_flag once;
    std::unique_ptr<const Index> index;
  };
  static constexpr std::size_t kMemories = 32;  // to keep threads apart

  const KernelTable& table(KernelFamily family) const { return measurements_->table(family); }
  const CurveTimes& curves(KernelFamily family) const;
  std::optional<KernelCost> find_remembered(const KernelSpec& spec) const;
  std::optional<KernelCost> find_anew(const KernelSpec& spec) const;
  std::optional<KernelCost> find_own(const KernelSpec& spec) const;
  Least own_steady_time(const KernelSpec& spec) const;
  std::optional<KernelCost> backward(const AttentionSpec& spec) const;
  std::optional<KernelCost> batched(const GemmSpec& spec) const;
  template <typename Spec>
  std::optional<KernelCost> by_ratio(const Spec& spec, const Spec& like, Seconds least) const;
  Seconds least_backward(const AttentionSpec& spec) const;

  Machine machine_;
  std::shared_ptr<const Measurements> measurements_;
  std::unique_ptr<const MeasuredTimes> carried_;
  Calibration calibration_;
  mutable std::array<Lazy<KernelIndex>, kKernelFamilies> indices_;
  mutable std::array<Lazy<CurveTimes>, kKernelFamilies> curves_;
  mutable Lazy<CollectiveTimes> collectives_;
  mutable std::array<std::array<Memory, kMemories>, kKernelFamilies> memories_;
};

}  // namespace shardwright
