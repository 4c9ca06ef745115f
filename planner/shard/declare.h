#pragma once

#include <string>
#include <variant>

#include "models/model.h"
#include "models/op_graph.h"
#include "planner/layout.h"
#include "planner/shard/mesh.h"
#include "planner/shard/shard.h"

namespace shardwright {

/// The mesh of one pipeline stage under `layout`: degrees tp (outer part `tp.kv`, over which KV heads are cut, and
/// inner part `tp.rep`, which shares them when tp is above num_key_value_heads), cp, dp, and where zero shards less
/// than dp x cp the cut between `shard` and `replica`. Returns a sentence when the degrees have no common refinement.
std::variant<Mesh, std::string> stage_mesh(const Layout& layout, const Model& model);

/// What `layout` says about any graph of models/transformer.h, by dimension name: Megatron's tensor parallelism (heads,
/// ffn and vocabulary over tp), batch over dp, sequence over cp, the residual stream's sequence over (cp, tp) under
/// sequence parallelism, ZeRO's shard axes.
Declarations declare(const OpGraph& graph, const Layout& layout, const Mesh& mesh);

/// Whether `t` is a weight of the routed experts. The router is not: it has a column for each expert, not the expert,
/// and is everywhere.
bool is_of_expert(const OpGraph& graph, const Tensor& t);

/// Whole extents of a graph of models/transformer.h: batch = micro_batch * dp, sequence as given, the vocabulary padded
/// to a multiple of tp.
std::vector<std::int64_t> layout_extents(const OpGraph& graph, const Layout& layout, std::int64_t sequence_length);

}  // namespace shardwright
