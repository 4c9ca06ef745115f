#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hardware/kernel_spec.h"
#include "planner/validate/measured_rows.h"

namespace shardwright {

/// A kernel that a row measured, and the key of its time among the row's numbers (which may hold rates instead).
struct MeasuredKernel {
  KernelSpec spec;
  std::string_view seconds_key;  // "time_seconds", "dispatch_seconds", "combine_seconds"
};

/// Why a row names no kernel: what its source does not state, or that it is no single kernel.
struct NoKernel {
  std::string reason;
};

/// The questions that a kernel or collective row answers: one, or two where dispatch and combine are one row. What the
/// schema's words leave open is read like this:
/// - Collectives without an algorithm are NCCL's. Groups are neighbouring ranks, as many in each node as
///   `gpus_per_node` says; nodes are as far apart as the catalog's machine has GPUs in one.
/// - `mla_prefill` and `mla_decode` are DeepSeek-V3's heads, decode absorbed into the latent.
/// - Decode sees all keys (not causal), `moe_ffn` has gated experts.
/// - `attention_fwd` with neither batch nor heads is a chart of FlashAttention's: 16k tokens in all, heads of 2048
///   together (arXiv 2407.08608, section 4.1).
/// - Exchanges are NCCL EP's where the software says so, HybridEP's where they tell algorithm bandwidths and the
///   software does not say DeepEP, else DeepEP's.
/// Of the row it reads neither id, source, family, note nor what was measured.
std::variant<std::vector<MeasuredKernel>, NoKernel> kernels_of(const MeasuredRow& row);

}  // namespace shardwright
