#include "hardware/carried_over.h"

#include <algorithm>

#include "hardware/kernel_point.h"

namespace shardwright {
namespace {

constexpr double kLaunch = 2.5e-6;
constexpr double kMemoryFraction = 0.85;

double carried_over(const KernelSpec& spec, double seconds, const Machine& from, const Machine& to) {
  const double launch = std::min(seconds, kLaunch), busy = seconds - launch;
  if (busy <= 0) return seconds;
  const double explained = std::min(1.0, point_of(spec, from, launch, 0).memory / kMemoryFraction / busy);
  const double ratio = from.memory_bandwidth.value / to.memory_bandwidth.value;
  return launch + busy * (1 + explained * explained * (ratio - 1));
}

}  // namespace

bool same_chip(const Machine& a, const Machine& b) {
  if (a.multiprocessors != b.multiprocessors) return false;
  return std::all_of(kDataTypes.begin(), kDataTypes.end(), [&](DataType type) { return a.peak[type] == b.peak[type]; });
}

Measurements carried_over(const Measurements& measured, const Machine& from, const Machine& to) {
  Measurements carried;
  for (const KernelFamily family : {KernelFamily::gemm, KernelFamily::attention, KernelFamily::moe_layer}) {
    const KernelTable& table = measured.table(family);
    KernelTable moved(family);
    moved.reserve(table.size());
    for (std::size_t row = 0; row < table.size(); ++row) {
      const KernelSpec spec = table.spec(row);
      if (!has_points(spec)) continue;
      moved.add(table.slots(row), {carried_over(spec, table.seconds()[row], from, to)}, table.kernel(row),
                table.framework(row));
    }
    carried.add(std::move(moved));
  }
  return carried;
}

}  // namespace shardwright
