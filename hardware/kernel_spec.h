#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "hardware/data_type.h"
#include "hardware/quantities.h"
#include "hardware/rank_group.h"

namespace shardwright {

/// What one scale factor of narrow operands (fp8) covers: the tensor, a row, or a block (1 x 128 of the activations and
/// 128 x 128 of the weights, as DeepSeek-V3 has it). mxfp8 and nvfp4 have the blocks of their formats.
enum class Scaling { tensor, row, block };

/// Which operands of a GEMM lie transposed, in BLAS's letters for row-major A and B: `nt` is a linear layer's x W^T.
enum class GemmLayout { unstated, nn, nt, tn, tt };

/// C[m,n] = A[m,k] B[k,n], `batch` times.
struct GemmSpec {
  std::int64_t m = 1, n = 1, k = 1, batch = 1;
  DataType type = DataType::bf16;          // of A, and of the multipliers
  std::optional<StoredType> weights = {};  // of B; absent: as A
  std::optional<StoredType> result = {};   // of C; absent: as A, bf16 where A is narrower than 16 bits
  Scaling scaling = Scaling::tensor;
  bool accumulate = false;  // adds to C
  bool cast = true;         // A below 16 bits: comes in 16 bits and is made narrow first, as in serving
  GemmLayout layout = GemmLayout::unstated;
  bool operator==(const GemmSpec&) const = default;
};

/// The type of a GEMM's result that needs no saying.
StoredType default_result(DataType type);

/// `groups` GEMMs with weights of their own in one kernel, of `m_per_group` rows each.
struct GroupedGemmSpec {
  std::int64_t groups = 1, m_per_group = 1, n = 1, k = 1;
  DataType type = DataType::bf16;
  std::optional<StoredType> weights = {}, result = {};  // as in GemmSpec
  Scaling scaling = Scaling::tensor;
  bool accumulate = false, cast = true;
  bool operator==(const GroupedGemmSpec&) const = default;
};

/// The same products as one batch, as if a kernel knew that its groups are alike.
GemmSpec as_batch(const GroupedGemmSpec& spec);

/// The routed experts' part of a layer on one rank: choice of experts, first products, activation, second product. No
/// communication. The rank is the busiest one where the load is uneven.
struct MoeLayerSpec {
  std::int64_t tokens = 1;                              // that enter the layer, before the split over `ep` ranks
  std::int64_t hidden_size = 1, intermediate_size = 1;  // of a whole expert
  std::int64_t n_routed_experts = 1, num_experts_per_tok = 1;
  std::int64_t redundant_experts = 0;  // copies of experts beside them
  std::int64_t ep = 1, etp = 1;
  double power_law = 0;  // the experts' load falls by this power; 0: balanced
  bool eplb = false;     // experts are placed by their load
  bool router = true;    // the choice of experts is timed, too
  bool gated = true;     // three matrices an expert; two without a gate
  DataType type = DataType::bf16;
  std::optional<StoredType> weights = {};  // absent: as `type`
  Scaling scaling = Scaling::tensor;
  bool operator==(const MoeLayerSpec&) const = default;
};

/// Softmax attention of one rank: prefill, decode (query_length 1, not causal: the last position sees all keys),
/// training. A fused kernel never writes the scores; an unfused one does, and is asked as GEMMs and memory passes
/// instead. Latent attention (MLA) is attention of heads of 192 with values of 128; absorbed into its latent, one key
/// head of 576 whose first 512 are the values.
struct AttentionSpec {
  std::int64_t batch = 1, heads = 1, kv_heads = 1, query_length = 1, key_length = 1;
  std::int64_t head_dim = 128, value_dim = 128;
  std::int64_t window = 0;      // keys that a query sees, 0 = all
  bool values_in_keys = false;  // a head's values are the first value_dim of its keys (a latent): read once
  bool causal = true;
  bool backward = false;  // input gradients, with the scores computed again
  DataType type = DataType::bf16;
  bool queries_last = false;  // causal: the queries are the last positions of the keys (behind cached tokens)
  std::int64_t selected = 0;  // keys that each query picks out of all (sparse attention), 0 = all. Then
                              // key_length may be 0, not stated: the time hardly depends on it
  std::optional<StoredType> kv_type = {};  // of stored keys and values; absent: as `type`
  bool operator==(const AttentionSpec&) const = default;

  /// Work of this call. Forward: two products of query x visible keys; backward: five.
  /// Causal counts the visible half; a query offset (context parallelism) makes that an average over ranks.
  Flops work() const;
  /// Keys that one query sees, averaged over queries spread evenly over the keys' positions (at their end where
  /// `queries_last`).
  double visible_keys() const;
};

/// Latent attention as DeepSeek-V3 has it (config.json of its checkpoint: 128 + 64 rotary dimensions of queries and
/// keys, values of 128, a latent of 512), of `heads` heads. Lengths and types are the caller's.
AttentionSpec expanded_mla(std::int64_t heads);
AttentionSpec absorbed_mla(std::int64_t heads);

/// A whole latent attention block of one rank: projections, norms, rotary embedding, attention. Sizes not said are
/// DeepSeek-V3's (config.json of its checkpoint).
struct MlaModuleSpec {
  std::int64_t batch = 1, heads = 1, query_length = 1, key_length = 1;
  std::int64_t hidden_size = 7168, q_lora_rank = 1536, kv_lora_rank = 512;
  std::int64_t qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128;
  bool absorbed = false;                     // as decode runs it
  DataType type = DataType::bf16;            // of attention
  std::optional<StoredType> kv_type = {};    // absent: as `type`
  std::optional<StoredType> gemm_type = {};  // of the projections; absent: as `type`
  Scaling scaling = Scaling::tensor;         // of the projections
  bool operator==(const MlaModuleSpec&) const = default;
};

/// What a pass over memory does with what it reads. On a core that decides its time more than its bytes do; a machine
/// that knows nothing of a pass takes it for a `stream`, one array times a number.
enum class MemoryPass {
  stream,
  copy,
  sum,  // of two arrays
  add_bias,
  add_bias_gradient,
  rms_norm,
  rms_norm_gradient,
  layer_norm,
  layer_norm_gradient,
  gelu,
  gelu_gradient,
  gated_silu,
  gated_silu_gradient,
  rotary,
  vocabulary_max,
  vocabulary_exp_sum,
  vocabulary_exp_sum_gradient,
  gather,
  gather_gradient,
  adam,
};
inline constexpr int kMemoryPasses = 20;

/// Whole arrays that a pass reads and writes: of so many times its elements are the bytes that it moves.
int arrays_of(MemoryPass pass);

/// A kernel that streams memory: norm, activation, add, optimizer.
struct MemorySpec {
  Bytes moved;  // read plus written
  MemoryPass pass = MemoryPass::stream;
  bool operator==(const MemorySpec&) const = default;
};

enum class CollectiveKind { all_reduce, all_gather, reduce_scatter, all_to_all, send_recv };
std::string_view name_of(CollectiveKind);

/// Whose collective it is: NCCL's own choice, an inference engine's all-reduce, or kernels over multicast and
/// load-store memory of NVLink.
enum class CollectiveAlgorithm { nccl, custom, one_shot_multicast, two_shot_multicast, lsa_simple, lsa_poison };

/// One collective, called once by every rank of `group`.
struct CollectiveSpec {
  CollectiveKind kind = CollectiveKind::all_reduce;
  Bytes held = {};  // nccl-tests' size: all_reduce and send_recv the buffer, all_gather its result,
                    // reduce_scatter its input, all_to_all everything one rank sends, own slice included
  RankGroup group = {};
  double crossing = 1;  // all_to_all: of the bytes for other nodes, the share that leaves the node; below 1 one copy
                        // goes to a node for all receivers in it, which pass it on inside
  std::optional<StoredType> type = {};  // of the elements; absent: not stated
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::nccl;
  bool operator==(const CollectiveSpec&) const = default;
};

/// One part of the experts' exchange: rows out, results back, and what comes before each (counting, telling sizes).
enum class MoeExchangeOp { prepare, dispatch, combine, combine_low_precision, dispatch_notify, combine_notify };
enum class MoeExchangeMode { normal, low_latency };
enum class MoeExchangeBackend { deepep, hybrid_ep, nccl_ep, nvlink_one_sided, nvlink_two_sided };

/// Tokens on their way to the ranks of their experts, or back.
struct MoeExchangeSpec {
  MoeExchangeOp op = MoeExchangeOp::dispatch;
  MoeExchangeMode mode = MoeExchangeMode::normal;
  std::int64_t tokens = 1;  // of one rank
  std::int64_t hidden_size = 1, num_experts_per_tok = 1;
  std::int64_t n_routed_experts = 0;  // 0: not stated
  std::int64_t top_groups = 0;        // node-limited routing: groups of experts that a token may use; 0: all
  std::int64_t sms = 0;               // multiprocessors it may take; 0: its own choice
  RankGroup group = {};
  double power_law = 0;                 // as in MoeLayerSpec
  std::optional<StoredType> type = {};  // of the rows; absent: not stated
  MoeExchangeBackend backend = MoeExchangeBackend::deepep;
  bool operator==(const MoeExchangeSpec&) const = default;
};

/// A question asked of a device: how long does this take?
using KernelSpec = std::variant<GemmSpec, GroupedGemmSpec, MoeLayerSpec, AttentionSpec, MlaModuleSpec, MemorySpec,
                                CollectiveSpec, MoeExchangeSpec>;

/// The alternatives of KernelSpec, in its order.
enum class KernelFamily { gemm, grouped_gemm, moe_layer, attention, mla_module, memory, collective, moe_exchange };
inline constexpr int kKernelFamilies = 8;

inline KernelFamily family_of(const KernelSpec& spec) { return static_cast<KernelFamily>(spec.index()); }
std::string_view name_of(KernelFamily);
std::optional<KernelFamily> kernel_family_named(std::string_view);

/// The one text form of a question: `gemm m=4096 n=7168 k=2048 type=bf16`. The family, then keys in the order of
/// kernel_keys.h; what has its default is left out. Two questions are the same exactly when their texts are. A group of
/// ranks is `8` (neighbours), `2x8` (two ranks, 8 apart) or runs of runs, smallest stride first: `2:4x8`.
std::string to_string(const KernelSpec& spec);

/// Reads it back; keys come in any order. Throws InputError with place and caret, `what` standing for the file:
/// "--kernel:1:6: 'm' must be a whole number, got 'x'".
KernelSpec parse_kernel_spec(const std::string& text, const std::string& what);

}  // namespace shardwright
