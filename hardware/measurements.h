#pragma once

#include <array>
#include <optional>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"

namespace shardwright {

/// Where a time came from, best first.
enum class CostSource { measured, interpolated, extrapolated, datasheet };
std::string_view name_of(CostSource);

/// A time, its origin and how wrong it may be.
struct KernelCost {
  Seconds time;
  CostSource source = CostSource::datasheet;
  double relative_error = 0;  // one sigma
};

/// Time by where it came from, in CostSource's order.
struct SourceTimes {
  std::array<Seconds, 4> times = {};

  Seconds& operator[](CostSource source) { return times[static_cast<std::size_t>(source)]; }
  Seconds total() const { return times[0] + times[1] + times[2] + times[3]; }
  void add(double count, const SourceTimes& other) {
    for (std::size_t i = 0; i < times.size(); ++i) times[i] += count * other.times[i];
  }
};

/// How long a kernel takes on one device: from what was measured there (Machine::measured), where anything alike was;
/// else from the machine's curves (kernel_curves.h) and datasheet. A GEMM of no elements, like any kernel, costs its
/// launch. Products in less than 16 bits hold the cast of their activations. Products
/// and attention take Machine::sustained times that. The type must be one that the machine
/// supports (asserted). Collectives are not asked here but of planner/cost/collective_cost.h.
KernelCost look_up(const GemmSpec&, const Machine&);
KernelCost look_up(const GroupedGemmSpec&, const Machine&);
KernelCost look_up(const AttentionSpec&, const Machine&);
KernelCost look_up(const MemorySpec&, const Machine&);
/// Nothing where neither tables nor curves have layers of experts in such a format.
std::optional<KernelCost> look_up(const MoeLayerSpec&, const Machine&);

/// A time that the parts of a kernel's work never beat together, one least_launch each left out, however the work is
/// parted along its batch, its rows or its sum: nothing is lost to tiles and waves that are not full or to idle
/// multiprocessors. Of measured kernels: at the best share of the datasheet's rates that any row of the table reached,
/// under which no answer falls.
Seconds steady_time(const GemmSpec&, const Machine&);
Seconds steady_time(const GroupedGemmSpec&, const Machine&);
Seconds steady_time(const AttentionSpec&, const Machine&);
Seconds steady_time(const MemorySpec&, const Machine&);

/// What each of the parts takes at the least beyond that: nothing, where kernels were measured.
Seconds least_launch(const GemmSpec&, const Machine&);
Seconds least_launch(const GroupedGemmSpec&, const Machine&);
Seconds least_launch(const AttentionSpec&, const Machine&);
Seconds least_launch(const MemorySpec&, const Machine&);

}  // namespace shardwright
