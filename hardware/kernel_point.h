#pragma once

#include <array>
#include <cstdint>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "hardware/neighbours.h"

namespace shardwright {

/// A question as a point among others of its family, for reading off times that were not measured. Times are compared
/// to what the datasheet says of the work, and it is the ratio that is read off: it hardly changes where time does by
/// powers of ten. Scales of features were tuned by leaving out sites of the tables of A100, H100, H200 and B200 that
/// NVIDIA AIConfigurator publishes (commit 095f58a51), all machines together; hardware/README.md has the errors.
struct KernelPoint {
  double compute = 0;  // seconds at the peak rate
  double memory = 0;   // seconds at the HBM's rate
  double busy = 0;     // model of the time beyond what every kernel takes: seconds
  Features at = {};
};

/// Questions that answer each other: their number formats, and what else makes another kernel of it.
using KernelGroup = std::array<std::int64_t, 8>;
/// Questions of a group that differ in their batch alone: a layer's shape.
using KernelSite = std::array<std::int64_t, 4>;

/// Whether times of such questions are read off between points: gemm, attention, moe_layer, if there is any work.
bool has_points(const KernelSpec& spec);

KernelGroup group_of(const KernelSpec& spec);
KernelSite site_of(const KernelSpec& spec);
/// `launch`: the least that a kernel of the group takes, in seconds; `kernel`: its number among those of the group.
KernelPoint point_of(const KernelSpec& spec, const Machine& machine, double launch, int kernel);
const Metric& metric_of(const KernelSpec& spec);
/// Whether kernels of one group are read off together, their number being a feature.
bool pools_kernels(const KernelSpec& spec);
/// What tells kernels apart although their group is the same: experts with a gate and without.
int variant_of(const KernelSpec& spec);

/// Whether a single token attends to its past.
bool is_decode(const AttentionSpec& spec);

}  // namespace shardwright
