#pragma once

#include "planner/engine/engine.h"

namespace shardwright {

/// An engine that can run everything and that is slow at all of it, except at passes over memory.
inline Engine slow_engine() {
  Engine engine;
  engine.constants[EngineConstant::host_seconds_per_kernel] = 6e-6;
  engine.constants[EngineConstant::moe_host_seconds] = 150e-6;
  engine.constants[EngineConstant::step_seconds] = 0.013;
  engine.constants[EngineConstant::optimizer_passes] = 2.5;
  engine.constants[EngineConstant::communication_factor] = 1.4;
  engine.constants[EngineConstant::hidden_communication_factor] = 1.7;
  engine.constants[EngineConstant::memory_kernel_factor] = 0.8;
  engine.attention = AttentionKernel::flash2;
  engine.fused_optimizer = false;
  return engine;
}

}  // namespace shardwright
