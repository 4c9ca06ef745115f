#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "hardware/data_type.h"
#include "hardware/kernel_spec.h"
#include "models/transformer.h"
#include "planner/cost/expert_load.h"

namespace shardwright {

/// Number formats of a training run. Which of them an engine uses is a fact of the engine; these are Megatron-Core's
/// with bf16 (gradients accumulated in fp32).
struct TrainingFormats {
  DataType compute = DataType::bf16;    // of the matrix products (fp8 and below: activations between them stay bf16)
  Scaling scaling = Scaling::tensor;    // of fp8 operands
  DataType parameter = DataType::bf16;  // the weights that the products read
  DataType parameter_gather = DataType::bf16;  // of a ZeRO parameter gather on the wire
  DataType gradient = DataType::fp32;          // the accumulated gradient
  DataType gradient_reduce = DataType::fp32;   // on the wire
  DataType main_parameter = DataType::fp32;    // the optimizer's copy
  DataType optimizer_state = DataType::fp32;   // each of Adam's two moments
  DataType dispatch = DataType::bf16;          // rows on their way to the experts, in backward their outputs' gradients
  DataType combine = DataType::bf16;           // rows on their way back, in backward their gradients
  bool operator==(const TrainingFormats&) const = default;
};

/// Parts of a step that were captured as CUDA graphs: the host launches each of them at once. Megatron-Core's names:
/// attn holds all up to the sum behind attention, mlp what follows it where it is dense, moe_router the norm, the
/// router and the shared experts, moe_preprocess what comes before the rows go to the experts.
struct CudaGraphs {
  bool full_iteration = false, layer = false, attn = false, mlp = false, moe_router = false, moe_preprocess = false;
  bool operator==(const CudaGraphs&) const = default;
};
struct CudaGraphPart {
  std::string_view name;
  bool CudaGraphs::*captured;
};
inline constexpr std::array<CudaGraphPart, 6> kCudaGraphParts = {{{"full_iteration", &CudaGraphs::full_iteration},
                                                                  {"layer", &CudaGraphs::layer},
                                                                  {"attn", &CudaGraphs::attn},
                                                                  {"mlp", &CudaGraphs::mlp},
                                                                  {"moe_router", &CudaGraphs::moe_router},
                                                                  {"moe_preprocess", &CudaGraphs::moe_preprocess}}};
/// Names of what is captured, "attn+moe_router"; "none".
std::string to_string(const CudaGraphs& graphs);
/// Where a weight's gradient of one micro-batch is before it is part of the accumulated one.
enum class WeightGradients : std::uint8_t {
  placeholders,  ///< added by the product itself; autograd gets a tensor that nobody fills: of each shape of a layer's
                 ///< weights one is kept for good, the output table's is made each time
  added,         ///< added by the product itself
  apart,         ///< made in the weight's type, then added
};

/// Holes between blocks of different sizes, as a share of the memory that comes and goes inside a step (activations and
/// what is alive beside them). Of PyTorch's caching allocator: published runs show 0.13 to 0.4 where reserved and
/// allocated bytes are both printed, and layouts on the edge of a GPU's memory ran at less than 0.2 and failed at more
/// than 0.27. With expandable segments blocks grow in place, and whole pages alone are lost.
inline constexpr double kCachingAllocator = 0.25, kExpandableSegments = 0.02;

/// What a training framework does with memory besides what its operators read and make. Facts of an engine; the
/// defaults are Megatron-Core's with Transformer Engine.
struct MemoryHabits {
  WeightGradients weight_gradients = WeightGradients::placeholders;
  bool gather_again = true;        ///< what tp gathers for a product is gathered again in backward, not kept
  bool narrow_activations = true;  ///< products below 16 bits: what backward's products read is kept as they read it
  bool narrow_weights = true;      ///< and so are, beside 16-bit weights, their casts, row-wise and column-wise
  bool widens_gradients = true;    ///< the optimizer copies its gradients to fp32 where they are narrower
  double fragmentation = kExpandableSegments;  ///< what the allocator holds beyond live tensors, of what comes and goes
  /// What attention and activation functions read of narrow products in backward is kept narrow, too: attention's
  /// results in 12 bits (DeepSeek-V3 report, 3.3.3: SwiGLU's inputs in FP8, the Linear's after attention in E5M6).
  bool narrow_saves = false;
  bool operator==(const MemoryHabits&) const = default;
};

/// What is to be trained, apart from the model: one optimizer step over `global_batch` sequences.
struct Workload {
  std::int64_t sequence_length = 0;  // tokens
  std::int64_t global_batch = 0;     // sequences a step
  TrainingFormats formats;
  bool fused_attention = true;  // flash attention: no scores in memory
  bool dropout = false;         // hidden and attention dropout masks are kept
  ExpertLoad expert_load;       // how rows spread over the routed experts; the busiest rank decides
  /// Above 0: each expert takes exactly so many times its mean of rows: what is more is dropped, what is less is
  /// padded. 0: no row is dropped.
  double capacity_factor = 0;
  CudaGraphs cuda_graphs;
  bool fused_norm = true, norm_in_fp32 = false, fused_activation = true, fused_rotary = true;  // see GraphOptions
  CrossEntropy cross_entropy = CrossEntropy::in_place;
  MemoryHabits memory;
  double tokens_per_step() const { return static_cast<double>(global_batch) * static_cast<double>(sequence_length); }
  bool operator==(const Workload&) const = default;
};

/// Bytes of an element that a product narrower than 16 bits reads, with its part of a factor: with block scaling one in
/// fp32 for 128, of mxfp8 one of 8 bits for 32, of nvfp4 for 16.
double bytes_read(const TrainingFormats& formats);

/// What the workload chooses about the model's graphs.
GraphOptions graph_options(const Workload& workload);

/// The formats that `--precision` stands for. tf32 and fp32 keep everything in fp32.
TrainingFormats formats_for(DataType precision);

}  // namespace shardwright
