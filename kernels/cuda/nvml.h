#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/gpu.h"

namespace shardwright::cuda {

/// The driver's watch over one GPU, by libnvidia-ml.so.1, which comes with the driver and is loaded here. Only asks;
/// what it does not know stays 0.
class Nvml {
 public:
  /// `bus`: "0000:1b:00.0". Without the library, or without such a GPU in it, all answers are empty.
  explicit Nvml(const std::string& bus);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::string driver() const;
  void add_limits(GpuFacts& facts) const;  // power limit and highest clocks
  GpuCondition condition() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shardwright::cuda
