#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "hardware/machine.h"
#include "planner/validate/measured_rows.h"
#include "planner/validate/validate.h"

namespace shardwright {

/// What `row` says of itself and of `metric`; the prediction is to be filled in.
ValidationRow unpredicted(const MeasuredRow& row, const std::string& metric, std::optional<double> measured);

/// Predicts a row about a kernel or a collective, made on `machine`: every metric of it that follows from the kernel's
/// time. Else why not, in the words of SkippedRow.
///
///   time_seconds, dispatch_seconds, combine_seconds   the kernel's time
///   tflops                                     its work, as AttentionSpec::work and 2 m n k count it, by its time
///   memory_bandwidth_bytes_per_second          operands and result, each moved once, by its time
///   algorithm_, bus_bandwidth_bytes_per_second of collectives: message by time, and that times nccl-tests' factor
///                                              (doc/PERFORMANCE.md; 1 for send_recv)
///   bus_bandwidth_bytes_per_second             of experts' exchanges by the row's `bandwidth_definition`:
///                                              bottleneck-link in mode low_latency counts every selected row (DeepEP,
///                                              tests/test_low_latency.py); no other is told from what a row states
std::variant<std::vector<ValidationRow>, std::string> predict_kernel_row(const MeasuredRow& row,
                                                                         const Machine& machine);

}  // namespace shardwright
