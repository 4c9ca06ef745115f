#pragma once

#include "models/model.h"
#include "planner/plan.h"

namespace shardwright {

// Answers made by hand, with round numbers, for the tests of reports.

inline Machine round_machine() {
  Machine machine;
  machine.name = "round-gpu";
  machine.memory = 82_GiB;
  machine.unusable_memory = 2_GiB;
  machine.peak = {{DataType::bf16, {1000e12}}, {DataType::fp8, {2000e12}}};
  machine.memory_bandwidth = {4e12};
  machine.l2 = 64_MiB;
  machine.multiprocessors = 100;
  machine.gpus_per_node = 8;
  machine.nics_per_node = 8;
  machine.links = {{"node", 8, {400e9}, {2e-6}, 0.8}, {"spine", 0, {50e9}, {10e-6}, 0.9}};
  machine.efficiency.relative_error = 0.1;
  return machine;
}

/// 64 GPUs, 32 sequences of 1024 tokens.
inline PlanRequest round_request() {
  PlanRequest request;
  request.model = find_model("llama-3.1-8b");
  request.machine = round_machine();
  request.gpus = 64;
  request.workload.sequence_length = 1024;
  request.workload.global_batch = 32;
  return request;
}

/// A GPU with `activations` GiB of them, 26 GiB of the rest and 2 GiB of rounding.
inline StageMemory round_stage(int activations) {
  StageMemory stage;
  stage.parts = {4_GiB, 8_GiB, 10_GiB, 1_GiB * activations, 3_GiB, 1_GiB};
  stage.allocated = stage.parts.total();
  stage.reserved = stage.allocated + 2_GiB;
  return stage;
}

/// 8 s of compute, 1 s of communication, `bubble`, 0.5 s of optimizer; 10 % error; two stages, the first fuller.
inline PricedLayout round_layout(int tensor, double bubble, int activations) {
  PricedLayout plan;
  plan.fits = true;
  Layout& layout = plan.layout;
  layout.tensor = tensor;
  layout.pipeline = 2;
  layout.data = 32 / tensor;
  layout.sequence_parallel = true;
  layout.zero = 1;
  layout.shard_group = layout.data;
  layout.layers_per_chunk = {17, 15};
  Prediction p;
  p.compute = {8};
  p.communication = p.exposed_communication = {1};
  p.bubble = {bubble};
  p.optimizer = {0.5};
  p.step = {9.5 + bubble};
  p.step_low = p.step * 0.9;
  p.step_high = p.step * 1.1;
  p.tokens_per_second = 32 * 1024 / p.step.value;
  p.tokens_per_second_per_gpu = p.tokens_per_second / 64;
  p.model_flops_per_gpu = {400e12};
  p.mfu = 0.4;
  p.stages = {round_stage(activations), round_stage(activations - 10)};
  p.source_share = {0, 0, 0, 1};
  p.gpu_hours_per_trillion_tokens = 123456;
  plan.prediction = p;
  return plan;
}

inline PlanResult round_result() {
  const PlanRequest request = round_request();
  PlanResult result;
  result.model = request.model.name;
  result.machine = request.machine.name;
  result.engine = request.engine.name;
  result.gpus = request.gpus;
  result.workload = request.workload;
  result.search = {1234, 34, 1000, {{"heads", 50}, {"memory", 150}}, 0.25, true};
  result.plans = {round_layout(8, 0.5, 40), round_layout(4, 3, 30)};
  result.pareto = result.plans;
  return result;
}

}  // namespace shardwright
