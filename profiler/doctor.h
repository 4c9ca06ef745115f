#pragma once

#include <string>
#include <vector>

#include "hardware/quantities.h"
#include "kernels/backends.h"

namespace shardwright {

/// What this machine and this build can measure and run with.
struct Diagnosis {
  std::string processor;
  int cores = 1;
  Bytes memory;
  std::vector<Part> parts;
};
Diagnosis diagnose();

}  // namespace shardwright
