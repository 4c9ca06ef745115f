#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model.h"
#include "models/op_graph.h"
#include "planner/layout.h"
#include "planner/pipeline/schedule.h"
#include "planner/search/recompute.h"
#include "planner/shard/mesh.h"
#include "planner/shard/shard.h"
#include "planner/workload.h"

namespace shardwright {

/// A graph as every rank of a stage runs it, with what follows from it alone: who reads a value last, what waits for
/// the weight gradients' task.
struct RunGraph {
  OpGraph graph;
  std::vector<std::int64_t> extents;
  Declarations says;
  ShardedGraph sharded;
  BackwardPlan backward;
  std::vector<char> saved;     ///< by value: backward reads it
  std::vector<char> deferred;  ///< by node: where backward is split it runs in the weight gradient's task
  /// By value: how often forward reads it, and how often backward does.
  std::vector<std::int32_t> forward_reads, backward_reads;
};

/// All that the ranks of a run agree on: the plan's graphs, cut over one stage's ranks, and who runs which of them
/// when. Values only; the same on every rank.
struct Programme {
  Model model;
  Layout layout;
  std::int64_t sequence_length = 0, global_batch = 0;
  Mesh mesh;  ///< of one stage
  Pipeline pipeline;
  Route route;
  std::vector<RunGraph> graphs;  ///< the layer classes, then the embedding, then the head
  struct Instance {
    int graph = 0;
    std::int64_t layer = -1;  ///< -1: embedding or head
  };
  std::vector<std::vector<Instance>> parts;  ///< of the model, in the order in which a micro-batch passes them
  std::vector<std::vector<Task>> tasks;      ///< by stage

  std::int64_t ranks() const { return mesh.ranks() * pipeline.stages; }
  /// The run's rank at a place on a stage's line, and back.
  std::int64_t rank_of(int stage, std::int64_t line) const;
  int stage_of(std::int64_t rank) const;
  std::int64_t line_of(std::int64_t rank) const;
  /// "layers.3.q_proj", "lm_head": a weight's name in the whole model. Equal names are one weight.
  std::string weight_name(const Instance& instance, TensorId tensor) const;
  /// Stages that work on a weight: two for a tied table at both ends of a pipeline, and for all of dualpipe's.
  std::vector<int> stages_with(const std::string& weight) const;
};

/// `orders`: of all stages, as the plan was priced with. Throws std::invalid_argument for what the executor does not
/// run, in words: dropout, dropped rows.
Programme make_programme(const Model& model, const Layout& layout, const Workload& workload,
                         const std::vector<Order>& orders);

/// Of the graphs that a programme has, operators, placements and collectives: 16 hexadecimal digits. Equal graphs have
/// equal ones. Throws std::invalid_argument where the layout's ranks have no common mesh.
std::string graph_digest(const Model& model, const Layout& layout, const Workload& workload);

/// One forward pass over `tokens` of each of a micro-batch's sequences, for inference: nothing is kept for backward.
/// Throws std::invalid_argument where so few cannot be cut as the layout does.
Programme at_length(const Programme& programme, std::int64_t tokens);

/// The same step on one rank: the same weights, the same micro-batches, nothing cut.
Programme on_one_rank(const Programme& programme);

}  // namespace shardwright
