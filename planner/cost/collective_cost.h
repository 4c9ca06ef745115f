#pragma once

#include <optional>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "hardware/measurements.h"

namespace shardwright {

/// Time of one collective, called by every rank of its group at once while the groups beside it do the same. Inside a
/// node from what was measured there, where it was (CollectiveTimes in hardware/curve_times.h); else from the links:
///
/// Levels of links are used in parallel, as NCCL's rings do: each GPU of a node drives its own NIC, so a group with
/// several members in a node has as many lanes out of it. The slowest level decides, each pays its latency:
///   all_gather, reduce_scatter   (n-1)/n held / (lanes x rate) at every level that the group crosses
///   all_reduce                   twice that
///   all_to_all                   held x (share that leaves the unit below) / rate, one lane a rank; with crossing
///                                below 1 so much less of it beyond the first level, and inside the first all of it
///                                but for a rank's own part: what came from outside is passed on there
///   send_recv                    held / rate of the level that joins the two
/// lanes: members inside one unit of the level below. One rank costs nothing. No tree, NVLS or SHARP algorithm is
/// modelled. Source of the shares: nccl-tests, doc/PERFORMANCE.md. Such costs are `datasheet`: rates and efficiencies
/// of Machine::links.
KernelCost collective_cost(const CollectiveSpec& spec, const Machine& machine);

/// Seconds a byte that collective_cost never falls below for collectives like `spec` of no more bytes, where those were
/// measured; nothing where the links are asked.
std::optional<double> least_measured_slope(const CollectiveSpec& spec, const Machine& machine);

}  // namespace shardwright
