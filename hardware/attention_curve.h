#pragma once

#include <array>

#include "hardware/curve_coefficients.h"
#include "hardware/kernel_spec.h"
#include "hardware/machine.h"

namespace shardwright {

/// How long attention of one kind takes on one chip:
///   t = launch + join(loop, memory) + store,   join(a, b) = (a^q + b^q)^(1/q)
///   loop   = l (1 + throttle l / (l + throttle_seconds)), l the shorter of
///            key x max(waves x (visited + block_keys), longest + block_keys)  and, its keys cut into even parts,
///            key x (f (visited + block_keys) + split_keys)
///   waves  = wave_step ceil(f) + (1 - wave_step) max(f, 1),  f = blocks / multiprocessors; a block is block_rows
///            queries of the heads that share a key head
///   visited = what a block reads on average: the keys that a query sees, half a block more where causal cuts it, and
///            window_keys where a window does; longest: of the last block
///   key    = 2 x block_rows (head_dim + value_dim + softmax_width) operations, at peak_fraction of the peak for heads
///   of 128;
///            x narrow_keys where keys are stored narrower than they are multiplied
///   memory = bytes / (memory_fraction x HBM rate)
///   store  = store_seconds x bytes of new keys and values / HBM rate, x narrow_store where they are stored narrower:
///   the
///            published tables are of serving, where prefill puts them in a cache
/// Products narrower than 16 bits run at their peak alone: exponentials (softmax_width), block_keys and split_keys take
/// what they take in bf16, queries and results move in 16 bits, and new keys are stored narrower than they come.
/// Backward: the loop at the machine's `attention_backward_rate` of the forward rate, for its 2.5 times the work, and
/// twice the traffic; no store.
struct AttentionCurve {
  double launch_seconds = 0;
  double peak_fraction = 1;  // of the datasheet's rate, many keys, heads of 128
  double block_keys = 0;     // prologue and epilogue of a block
  double softmax_width = 0;  // multiply-adds that take as long as the softmax of one score
  double wave_step = 0;      // 1: a last wave costs a whole one; 0: what it fills
  double memory_fraction = 1;
  double join = 1e9;      // q: 1 is one after the other, large is whichever is longer
  double split_keys = 0;  // what adding up parts of the keys costs
  double throttle = 0;    // by how much long kernels run slower: the power limit
  double throttle_seconds = 1e-3;
  double window_keys = 0;
  double narrow_keys = 1;
  double store_seconds = 0;
  double narrow_store = 1;
  double block_rows = 128;  // queries of a block; a choice, not a coefficient
  bool operator==(const AttentionCurve&) const = default;
};

template <>
const std::vector<Coefficient<AttentionCurve>>& coefficients<AttentionCurve>();

/// Kinds that have kernels of their own: prefill and training, decode, and both of a latent.
enum class AttentionKind { prefill, decode, latent_prefill, latent_decode };
inline constexpr std::array kAttentionKinds = {AttentionKind::prefill, AttentionKind::decode,
                                               AttentionKind::latent_prefill, AttentionKind::latent_decode};
std::string_view name_of(AttentionKind);
AttentionKind kind_of(const AttentionSpec& spec);

bool is_empty(const AttentionSpec& spec);
/// Long sequences, as in training, and long contexts; the rest is mostly launches.
bool is_large(const AttentionSpec& spec);

/// Forward: queries, keys and values in, output out. Backward: those and the output's gradient in, three gradients out.
double bytes_moved(const AttentionSpec& spec);

/// Of attention that is not empty.
double seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine);

/// What the parts of attention, in its batch, heads, queries or keys, never beat together beyond one steady_line(curve)
/// launch each: the loops of full blocks on busy multiprocessors under that line, joined with the traffic (see
/// gemm_curve.h), and the store.
double steady_seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine);

}  // namespace shardwright
