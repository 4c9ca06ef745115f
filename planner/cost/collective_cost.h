#pragma once

#include <optional>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "hardware/measurements.h"

namespace shardwright {

/// Time of one collective, called by every rank of its group at once while the groups beside it do the same. Inside a
/// node from what was measured there, where it was (CollectiveTimes in hardware/curve_times.h); else from the links,
/// each level's by the curves of its fabric (hardware/collective_curves.h), or, without, by its latency and efficiency.
///
/// Levels of links are used in parallel, as NCCL's rings do: each GPU of a node drives its own NIC, so a group with
/// several members in a node has as many lanes out of it (lanes: members inside one unit of the level below). The
/// outermost level's start, every level's steps, and the slowest level's bytes:
///   rings    all_gather, reduce_scatter: (n-1)/n held / lanes at every level that the group crosses; n - 1 steps, of
///            which those between units take the outer level's time. all_reduce: both twice. A rank's own slice is
///            copied: ring_copy more slices inside
///   in_switch  all_reduce inside one unit: held, no steps
///   tree     all_reduce across units: held / lanes for two units, twice that for more; 2 log2(units) steps; inside
///            units sums in the switch, or around a ring
///   direct   all_to_all: held x (share that leaves the unit below), one lane a rank, a step a peer; with crossing
///            below 1 so much less of it beyond the first level, and inside the first all of it but for a rank's own
///            part: what came from outside is passed on there, by the curves of combine. send_recv: held, one step, at
///            the level that joins the two
/// Of several ways, and of NCCL's protocols, the fastest counts, inside units and between them apart. One rank costs
/// nothing. An engine's algorithm is asked of the innermost links, where a unit holds the group and has the curve; NCCL
/// may be faster. Sources of the shares: nccl-tests, doc/PERFORMANCE.md; NCCL 2.30.7, src/graph/tuning.cc. Such costs
/// are `datasheet`.
///
/// Bound: (t(bytes) - t(0)) / bytes never rises with bytes, for all but kernels over multicast: each curve's part
/// beyond its start is concave, and the largest, the smallest and the sum of such times keep it. So no collective of
/// fewer bytes takes less than t(0) and its share of t(bytes) - t(0); the search's floor is that.
KernelCost collective_cost(const CollectiveSpec& spec, const Machine& machine);

/// Whether the links have a curve of such a collective's algorithm, as all have of NCCL's; else collective_cost's time
/// is NCCL's.
bool has_curve(const CollectiveSpec& spec, const Machine& machine);

/// Seconds a byte that collective_cost never falls below for collectives like `spec` of no more bytes, where those were
/// measured; nothing where the links are asked.
std::optional<double> least_measured_slope(const CollectiveSpec& spec, const Machine& machine);

}  // namespace shardwright
