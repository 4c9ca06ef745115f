#pragma once

#include <boost/container/static_vector.hpp>
#include <optional>
#include <vector>

#include "planner/pipeline/play.h"
#include "planner/pipeline/trace.h"
#include "planner/pricer.h"

namespace shardwright {

/// The pipeline that a layout makes.
Pipeline pipeline_of(const Layout& layout, std::int64_t global_batch);

/// Workspaces of matrix products, allocated like tensors: PyTorch's (aten/src/ATen/cuda/CublasHandlePool.cpp: 32 MiB
/// since Hopper, 8.125 MiB before) and Transformer Engine's (module/base.py: 32 MiB and 4 MiB).
Bytes library_workspace(const Machine& machine);

/// A layout's stages before the choice of ZeRO: what the search computes once and completes for each choice. `shape`
/// and the pricer are kept by reference.
class PipelineShape {
 public:
  using Data = Pricer::Data;

  /// `layout`: its zero and shard_group are not looked at.
  PipelineShape(const Pricer& pricer, const ShapePrice& shape, const Layout& layout);

  Seconds lower_bound(const Data& data) const;
  StageMemory memory(const Data& data, int stage) const;
  Bytes worst_reserved(const Data& data) const;
  /// The same, or nothing where a stage does not fit, found as cheaply as can be: first what does not change with the
  /// micro-batches, then all.
  std::optional<Bytes> fitting(const Data& data) const;
  Prediction predict(const Data& data) const;
  /// Every task of a step, stage by stage.
  std::vector<TraceSpan> trace(const Data& data) const;

  /// Micro-batches that each chunk of `stage` holds at the moment when activations peak.
  const InFlight& in_flight_counts(int stage) const;
  /// Whether a stage has the embedding and the head.
  bool has_both_ends(int stage) const;
  const Route& route() const { return route_; }
  /// Of all stages. Greedy ones look at the times without what keeps weights in step.
  const std::vector<Order>& orders() const;
  /// Layers of a class in a part of the model.
  int layers_in(int part, int layer_class) const { return part_layers(part)[layer_class]; }

 private:
  /// Times after the pipeline has drained.
  struct Tail {
    Seconds reduction, optimizer, gather;
    Seconds total() const { return reduction + optimizer + gather; }
  };
  /// Bytes, and as an allocator rounds them.
  struct Sizes {
    Bytes allocated, reserved;
    void add(std::int64_t count, Bytes more, Bytes more_reserved) {
      allocated += count * more;
      reserved += count * more_reserved;
    }
  };
  /// What one micro-batch keeps in a part: until backward, and from its input gradient until its weight gradient.
  struct Kept {
    Sizes until_backward, until_weight;
  };
  /// Graphs by number: layer classes, then the embedding and the head. Calls `visit(graph, count)` for those of a part.
  template <typename F>
  void for_each_graph(int part, const F& visit) const;
  const PassPrice& pass_of(int graph) const;
  const DataCost& cost_of(const Data& data, int graph) const;

  /// What keeping weights in step adds to a graph.
  struct Added {
    Seconds forward, backward, reduction, gather;                          ///< each time
    Seconds first_forward, first_backward, first_reduction, first_gather;  ///< what has nothing to hide behind
  };
  using AllAdded = boost::container::static_vector<Added, kMostLayerClasses + 2>;
  Added added(const PassPrice& pass, const DataCost& cost, const Data& data) const;
  AllAdded all_added(const Data& data) const;  ///< by graph
  PipelineTimes times(const AllAdded& all) const;
  Tail tail(const Data& data, const AllAdded& all, int stage) const;
  /// What of a stage does not depend on the micro-batches in flight.
  struct Unchanging {
    MemoryParts parts;         // without activations
    Bytes transient_reserved;  // as parts.transient
    Bytes widened;             // gradients in fp32, while the optimizer works and no activation is kept
    /// With what micro-batches in flight keep.
    Bytes reserved(Bytes kept, double fragmentation) const;
  };
  Unchanging unchanging(const Data& data, int stage) const;
  Kept kept_of(int part) const;
  const Sizes& kept(int stage) const;
  PassKeeps keeps_of(int part) const;
  Seconds saved_by_pair(int forward_part, int backward_part) const;
  int part(int stage, int chunk) const { return route_.part_of({stage, chunk}); }

  /// Layers by class.
  const int* part_layers(int part) const { return &part_layers_[static_cast<std::size_t>(part * classes_)]; }

  const Pricer& pricer_;
  const ShapePrice& shape_;
  Pipeline pipeline_;
  Route route_;
  std::size_t recompute_ = 0;
  int classes_ = 1;
  std::int64_t gpus_ = 1;
  double taken_ = 0;  // of the multiprocessors, by what runs beside compute
  bool sends_beside_ = true;
  Seconds fixed_;                                   // of every step
  std::vector<int> part_layers_;                    // by part, then class
  PipelineTimes base_;                              // without the data costs
  mutable std::vector<InFlight> in_flight_;         // by stage; no chunks stand for one that was not asked for yet
  mutable std::vector<std::optional<Sizes>> kept_;  // by stage
  mutable std::vector<Order> orders_;               // empty until asked for
};

}  // namespace shardwright
