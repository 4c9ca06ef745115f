#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "hardware/data_type.h"
#include "hardware/quantities.h"
#include "hardware/rank_group.h"

namespace shardwright {

/// C[m,n] = A[m,k] B[k,n], `batch` times.
struct GemmSpec {
  std::int64_t m = 1, n = 1, k = 1, batch = 1;
  DataType type = DataType::bf16;
  bool operator==(const GemmSpec&) const = default;
};

/// Softmax attention of one rank. A fused kernel never writes the scores; an unfused one does, and is asked as GEMMs
/// and memory passes instead.
struct AttentionSpec {
  std::int64_t batch = 1, heads = 1, kv_heads = 1, query_length = 1, key_length = 1;
  std::int64_t head_dim = 128, value_dim = 128;
  std::int64_t window = 0;      // keys that a query sees, 0 = all
  bool values_in_keys = false;  // a head's values are the first value_dim of its keys (a latent): read once
  bool causal = true;
  bool backward = false;  // input gradients, with the scores computed again
  DataType type = DataType::bf16;
  bool operator==(const AttentionSpec&) const = default;

  /// Work of this call. Forward: two products of query x visible keys; backward: five.
  /// Causal counts the visible half; a query offset (context parallelism) makes that an average over ranks.
  Flops work() const;
  /// Keys that one query sees, averaged over queries spread evenly over the keys' positions.
  double visible_keys() const;
};

/// A kernel that streams memory: norm, activation, add, optimizer.
struct MemorySpec {
  Bytes moved;  // read plus written
  bool operator==(const MemorySpec&) const = default;
};

enum class CollectiveKind { all_reduce, all_gather, reduce_scatter, all_to_all, send_recv };
std::string_view name_of(CollectiveKind);

/// One collective, called once by every rank of `group`.
struct CollectiveSpec {
  CollectiveKind kind = CollectiveKind::all_reduce;
  Bytes held;  // nccl-tests' size: all_reduce and send_recv the buffer, all_gather its result,
               // reduce_scatter its input, all_to_all everything one rank sends, own slice included
  RankGroup group;
  double crossing = 1;  // all_to_all: of the bytes for other nodes, the share that leaves the node; below 1 one copy
                        // goes to a node for all receivers in it, which pass it on inside
  bool operator==(const CollectiveSpec&) const = default;
};

/// A question asked of a device: how long does this take?
using KernelSpec = std::variant<GemmSpec, AttentionSpec, MemorySpec, CollectiveSpec>;

}  // namespace shardwright
