#pragma once

#include <string>
#include <variant>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "hardware/measurements.h"

namespace shardwright {

/// Time of any kernel, whoever knows it (measurements.h, collective_cost.h), or why nobody does: "no curve for
/// mla_module", "a100-sxm-80gb does not compute in fp8". Nothing else needs to change for a family that gets a curve.
std::variant<KernelCost, std::string> kernel_cost(const KernelSpec& spec, const Machine& machine);

}  // namespace shardwright
