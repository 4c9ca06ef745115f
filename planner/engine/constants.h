#pragma once

#include <array>
#include <string_view>

#include "hardware/quantities.h"

namespace shardwright {

/// What an engine takes beyond what its kernels and collectives were measured to take. Fitted to published training
/// steps (fit_engines.h); never per row, source or model.
enum class EngineConstant {
  host_seconds_per_kernel,
  moe_host_seconds,
  step_seconds,
  optimizer_passes,
  communication_factor,
  hidden_communication_factor,
  memory_kernel_factor
};
inline constexpr int kEngineConstants = 7;

/// `neutral` changes nothing. `low` and `high` are the range of what is physical. `unit`: "s", or "" of a ratio.
struct EngineConstantFacts {
  EngineConstant constant;
  std::string_view name, unit, meaning;
  double neutral, low, high;
  double usual;  ///< by how much engines differ: the fit's scale
};

/// In the order of EngineConstant. The bounds of the search hold since no constant takes time away: every low is no
/// less than the neutral value, but for those that the bounds have in them (optimizer_passes, memory_kernel_factor).
inline constexpr std::array<EngineConstantFacts, kEngineConstants> kEngineConstantFacts = {
    {{EngineConstant::host_seconds_per_kernel, "host_seconds_per_kernel", "s",
      "of the host, to launch one operator; a pass takes the longer of this and of its device's time", 0, 0, 200e-6,
      100e-6},
     {EngineConstant::moe_host_seconds, "moe_host_seconds", "s",
      "of a layer of experts and a pass in which the host waits for the rows of each expert", 0, 0, 5e-3, 5e-4},
     {EngineConstant::step_seconds, "step_seconds", "s", "of every step, whatever it does", 0, 0, 1, 0.02},
     {EngineConstant::optimizer_passes, "optimizer_passes", "",
      "bytes that the optimizer moves over the least that it could", 1, 1, 10, 1},
     {EngineConstant::communication_factor, "communication_factor", "",
      "time of a collective over that of its benchmark", 1, 1, 3, 0.5},
     {EngineConstant::hidden_communication_factor, "hidden_communication_factor", "",
      "that of one beside compute, over that of one alone", 1, 1, 3, 0.5},
     {EngineConstant::memory_kernel_factor, "memory_kernel_factor", "",
      "time of an operator that only moves memory over that of one pass over its tensors", 1, 0.6, 5, 0.5}}};

class EngineConstants {
 public:
  constexpr EngineConstants() {
    for (const EngineConstantFacts& facts : kEngineConstantFacts) (*this)[facts.constant] = facts.neutral;
  }
  constexpr double& operator[](EngineConstant c) { return values_[static_cast<std::size_t>(c)]; }
  constexpr double operator[](EngineConstant c) const { return values_[static_cast<std::size_t>(c)]; }
  constexpr Seconds seconds(EngineConstant c) const { return {(*this)[c]}; }
  bool operator==(const EngineConstants&) const = default;

 private:
  std::array<double, kEngineConstants> values_ = {};
};

}  // namespace shardwright
