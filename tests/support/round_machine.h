#pragma once

#include "hardware/machine.h"
#include "hardware/rank_group.h"
#include "tests/support/flat_curves.h"

namespace shardwright {

/// A machine to do sums with by hand: nodes of 4, rails of 4 nodes, a spine at half a rail's rate. All of its links
/// reach what they promise; every step of a ring takes 1, 10 and 100 s, a launch half a second.
inline Machine round_machine() {
  Machine m;
  m.name = "round";
  m.memory = 100_GiB;
  m.peak = {{DataType::bf16, {1e15}}, {DataType::fp16, {1e15}}, {DataType::fp32, {1e14}}};
  m.memory_bandwidth = {1e12};
  m.multiprocessors = 100;
  m.gpus_per_node = m.nics_per_node = 4;
  m.links = {{"node", 4, {100}, {1}, 1}, {"rail", 16, {10}, {10}, 1}, {"spine", 0, {5}, {100}, 1}};
  m.curves = flat_curves(0.5);
  m.efficiency.memory_fraction = 1;
  m.efficiency.kernel_latency = {0.5};
  m.efficiency.relative_error = 0.1;
  return m;
}

/// Every GPU reaches every other at one byte a second, at once: seconds are bytes on the wire.
inline Machine wire_machine() {
  Machine m = round_machine();
  m.links = {{"wire", 0, {1}, {0}, 1}};
  m.efficiency.kernel_latency = {0};
  m.curves = flat_curves(0);
  return m;
}

/// A group of `size` neighbours, `stride` apart.
inline RankGroup run_of(std::int32_t size, std::int64_t stride = 1) {
  RankGroup group;
  group.add(size, stride);
  return group;
}

}  // namespace shardwright
