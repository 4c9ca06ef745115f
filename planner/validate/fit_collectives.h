#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hardware/collective_curves.h"
#include "hardware/kernel_spec.h"
#include "hardware/machine.h"

namespace shardwright {

/// A collective, or a dispatch or combine of rows (MoeExchangeSpec), that was timed somewhere.
struct CollectiveSample {
  KernelSpec spec;
  std::size_t machine = 0;  // of CollectiveSamples::machines
  double seconds = 0;
  std::string source;  // "NCCL 2.29.2", "ocp-h200-2node"
  std::string date;    // when it was measured; "" where that is not stated
};

struct CollectiveSamples {
  std::vector<Machine> machines;
  std::vector<CollectiveSample> samples;
};

/// What `inputs` hold to fit on: folders with a machine's measurements (measured_machine.h), and files of schema
/// shardwright.measured/1. Of their rows:
/// - those that may be scored: trust A or B, not suspect, a time or bus bandwidth published, of a machine of the
/// catalog;
/// - inside one unit of links trust A alone: the others' times contain launches;
/// - across units at the rate that the row states (network_rate), or the catalog's where it states no interconnect. A
///   sweep (source, machine, kind) that never reaches half of its network's rate says nothing about what that can do,
///   and is left out.
/// Published bandwidths of normal dispatches and combines are turned into times by exchange_bus_bytes.
/// Of several times of one question on one machine those of the first source count, and of these the fastest. Throws
/// InputError; also where there is nothing to fit.
CollectiveSamples collective_samples(const std::vector<std::string>& inputs);

/// Fits the fabrics of `known` to the samples of machines whose links have them; a fabric without samples stays as it
/// is. Which ways a fabric has, and whether it has crowding, is taken from `known`; their values are not, so a result
/// depends on the samples alone.
///
/// First links inside one unit: rings and sums in switches on all_reduce, all_gather and reduce_scatter; direct sends
/// on all_to_all and send_recv; the rest each on its own algorithm. Then networks, with these: rings on all_gather and
/// reduce_scatter, trees on all_reduce; their steps are NCCL's constants, and direct sends are as rings. Each by
/// pattern search on the mean of min(|ln(predicted / measured)|, 1/2) from NCCL's constants (2.30.7,
/// src/graph/tuning.cc) and a fixed number of other starts.
std::vector<FabricCurves> fit_collectives(const CollectiveSamples& samples,
                                          const std::vector<std::shared_ptr<const FabricCurves>>& known);

}  // namespace shardwright
