#include "planner/workload.h"

#include <cassert>

namespace shardwright {

std::string to_string(const CudaGraphs& graphs) {
  std::string text;
  for (const auto& [name, captured] : kCudaGraphParts)
    if (graphs.*captured) text += (text.empty() ? "" : "+") + std::string(name);
  return text.empty() ? "none" : text;
}

double bytes_read(const TrainingFormats& formats) {
  const double width = bytes_per_element(formats.compute);
  if (formats.compute == DataType::mxfp8) return width + 1. / 32;
  if (formats.compute == DataType::nvfp4) return width + 1. / 16;
  return width + (formats.scaling == Scaling::block ? 4. / 128 : 0);
}

GraphOptions graph_options(const Workload& workload) {
  return {.fused_attention = workload.fused_attention,
          .dropout = workload.dropout,
          .capacity_factor = workload.capacity_factor,
          .fused_norm = workload.fused_norm,
          .norm_in_fp32 = workload.norm_in_fp32,
          .fused_activation = workload.fused_activation,
          .fused_rotary = workload.fused_rotary,
          .cross_entropy = workload.cross_entropy};
}

TrainingFormats formats_for(DataType precision) {
  TrainingFormats formats;
  formats.compute = precision;
  switch (precision) {
    case DataType::fp32:
    case DataType::tf32:
      formats.parameter = formats.parameter_gather = DataType::fp32;
      formats.dispatch = formats.combine = DataType::fp32;
      return formats;
    // Megatron-Core accumulates gradients in the parameters' type, and forces fp32 for bf16 only
    // (megatron/training/arguments.py, accumulate_allreduce_grads_in_fp32).
    case DataType::fp16:
      formats.parameter = formats.parameter_gather = DataType::fp16;
      formats.gradient = formats.gradient_reduce = DataType::fp16;
      formats.dispatch = formats.combine = DataType::fp16;
      return formats;
    // Below bf16 only the products change: weights are kept, gathered and read in bf16 and cast on the way
    // (Transformer Engine without fp8_param_gather).
    case DataType::bf16:
      return formats;
    // Rows go to the experts as their products read them, and come back in bf16 (DeepSeek-V3 report, 3.3.3).
    case DataType::fp8:
    case DataType::mxfp8:
      formats.dispatch = DataType::fp8;
      return formats;
    case DataType::nvfp4:
      return formats;
  }
  assert(false && "a data type without training formats");
  return formats;
}

}  // namespace shardwright
