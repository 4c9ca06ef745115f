#pragma once

#include <boost/container/static_vector.hpp>

#include "planner/pricer.h"

namespace shardwright {

/// What no split of the layers can fall below: the search discards by it what it need not look at closely. A layout's
/// passes (by recomputation) and weights (by zero and fsdp_group) are summed up apart and put together here.
///
/// time: the larger of two facts. With p stages, m micro-batches, T = forward and backward of one through all layers:
///   1. The step ends no earlier than any stage: its first forward arrives, m times its work, and what follows (see
///      PipelineShape::lower_bound). The slowest stage takes no less than the mean over the stages, where the work is
///      m T / p whatever the split.
///   2. With one chunk a stage of x_i seconds, sum x_i = T, the step takes no less than x_0 + .. + x_(i-1) + m x_i for
///      each i (pipeline_lower_bound). The mean of these with weights proportional to (1 - 1/m)^(p-1-i) has the same
///      factor 1 / (1 - (1 - 1/m)^p) on every x, so it is that many T whatever the split.
/// memory: the larger of two means over the stages, which the fullest is no less than. Each stage has the transient and
/// the buffer of some graph.
///   1. All that the stages hold together, each layer's activations of one micro-batch at the least, of all of them in
///      gpipe, over p.
///   2. The stage with c - 1 stages behind it keeps min(c, m) micro-batches of every layer, whatever the schedule (of
///      those that there are). A mean with the weights w_c = 1 / (min(c, m) A + R), where A are the activations of one
///      micro-batch through all layers and R all their weights: with layers that are all alike each then holds its
///      share of the layers, whatever the split, and the sum is 1; with several classes no less than the class times
///      its least weighted share. 1/x is convex, so the weights add up to no more than their integral.
/// Stages and chunks without layers, which only given splits have, weaken both. Fact 2 of time is of schedules that run
/// backward whole, fact 2 of memory of those in which parts follow each other stage by stage; where passes are paired,
/// a pair takes no less than the longer of the two.
class Floor {
 public:
  /// Bytes of all layers of each class, of the embedding, of the head.
  using ByGraph = boost::container::static_vector<double, kMostLayerClasses + 2>;
  struct Passes {
    ByGraph forward, backward;  ///< seconds
    Seconds layer_forward{1e300}, embedding_forward;
    ByGraph saved;
    double transient = 1e300;
    /// Makes this no more than `other` in anything.
    void lower_to(const Passes& other);
  };
  struct Weights {
    ByGraph forward, backward;                                                    ///< seconds in each micro-batch
    ByGraph reduction, gather;                                                    ///< and once a step
    bool forward_beside = true, backward_beside = true, reduction_beside = true;  ///< compute: see visible()
    Seconds optimizer;
    ByGraph resident;
    double buffer = 1e300;
    /// Makes this no more than `other` in anything.
    void lower_to(const Weights& other);
  };
  /// Recomputation only adds time: with `none`, time() holds for every choice.
  static Passes passes(const Pricer& pricer, const ShapePrice& shape, const Recompute& recompute);
  /// The same from what no micro-batch falls below.
  static Passes passes(const Pricer& pricer, const LeastPrice& least, int micro_batch, const Recompute& recompute);
  static Weights weights(const Pricer& pricer, const Pricer::Data& data);

  /// `layout`: its degrees, micro_batch, vpp and order of ranks. `stream`: that of one rank and micro-batch.
  /// `balanced`: the split is balanced_layers.
  Floor(const Pricer& pricer, const Layout& layout, Bytes stream, bool balanced);
  Seconds time(const Passes& passes, const Weights& weights) const;
  Bytes memory(const Passes& passes, const Weights& weights) const;

 private:
  double weighted_mean(const Passes& passes, const Weights& weights) const;

  double kept_ = 1;                     // micro-batches, by every stage at the same time
  double micro_batches_, drained_ = 0;  // the factor of fact 2, where there is one chunk a stage
  int stages_;
  bool balanced_;
  bool round_ = true, paired_ = false;  // stage by stage and round again; a forward and a backward at once
  double hidden_;                       // what a second of moves still takes where it is hidden: see visible()
  Bytes stream_;
  Seconds send_, fixed_;
};

}  // namespace shardwright
