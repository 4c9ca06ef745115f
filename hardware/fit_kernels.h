#pragma once

#include <functional>
#include <string>

#include "hardware/kernel_curves.h"
#include "hardware/measured_machine.h"

namespace shardwright {

/// Curves of every family and format that a machine's tables have rows enough of (100), each fitted to the times
/// of the kernel that has the most: the mean of |ln(predicted / measured)| is made small, large rows (see the families'
/// `large()`) weighing ten times the others, over a fixed sample; the errors are those of all rows under the curve as
/// it is written. Layers of experts, of whose rows some ran a wrongly chosen algorithm, weigh alike. `progress` hears
/// what is being fitted. Deterministic.
CurveFile fit_kernels(const Machine& machine, const Measurements& measured, const std::string& source,
                      const std::function<void(const std::string&)>& progress);

/// The file with one family (gemm, attention, moe_layer) fitted anew, the others as they are.
void refit_family(KernelFamily family, const Machine& machine, const Measurements& measured, CurveFile& file,
                  const std::function<void(const std::string&)>& progress);

}  // namespace shardwright
