#pragma once

#include <optional>

#include "hardware/kernel_spec.h"

namespace shardwright {

/// What a kernel computes and what it moves through the device's memory at the least, everything read and written
/// once: its place under a roofline. What a narrow product casts first is not counted.
struct KernelWork {
  Flops flops;
  Bytes moved;
  bool operator==(const KernelWork&) const = default;
};

/// Nothing of collectives and exchanges, whose bytes are no roofline's, nor of whole modules.
std::optional<KernelWork> work_of(const KernelSpec& spec);

}  // namespace shardwright
