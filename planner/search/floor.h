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
///      m T / p whatever the split. And it takes m times the embedding, or the head; or, since layers are whole, what
///      the stages need so that all layers of one class find room beside those (slowest_stage).
///   2. With one chunk a stage of x_i seconds, sum x_i = T, the step takes no less than x_0 + .. + x_(i-1) + m x_i for
///      each i (pipeline_lower_bound). The mean of these with weights proportional to (1 - 1/m)^(p-1-i) has the same
///      factor 1 / (1 - (1 - 1/m)^p) on every x, so it is that many T whatever the split. The last stage has the head:
///      T and (m - 1) times that. Where backward is split, x is without the weight gradient. With more chunks, one
///      micro-batch's way.
///   3. With one chunk a stage of a_i seconds in all of the step, a micro-batch's forward f_i among them, it takes no
///      less than f_0 + .. + f_(i-1) + a_i. In the mean with weights w_i proportional to (1 - r)^(p-1-i), what is on
///      stage i counts w_i a + (w_(i+1) + .. + w_(p-1)) f, and the latter sum is (w_(p-1) - w_i) / r: linear in w_i, so
///      that each class of layers counts least on the first stage or on the last. Any r will do; where backward takes
///      twice as long as forward, r = 1 / (3 m) makes all stages count alike.
///    Moves that hide have a first of their row in each pass of each part, which has nothing to hide behind: with a
///    balanced split all parts but the first and the last have a layer.
/// memory: the largest of means over the stages, which the fullest is no less than.
///   1. All that the stages hold together, each layer's activations of one micro-batch at the least, over p.
///   2. A mean with weights. A schedule says of each stage how many micro-batches it keeps of every layer: until
///      backward, and where that is split until the weight gradient (Kept). Let D_s be what stage s would keep of all
///      layers together, and all their weights: with the weights 1 / D_s, and layers that are all alike, each stage
///      holds its share of the layers, whatever the split, and the sum is 1; with several classes no less than the
///      class times its least weighted share. D_s is linear in s but for stages that are all alike, so the least share
///      is at an end of the line, and since 1/x is convex the weights add up to no more than their integral.
///   3. The same of one class of layers alone, over the stages that have one of it: these have its transient and its
///      buffer, too.
/// Stages and chunks without layers, which only given splits have, weaken all but the last. Facts 2 and 3 of time are
/// of schedules that go round stage by stage; where passes are paired, a pair takes no less than the longer of the two.
class Floor {
 public:
  /// Bytes of all layers of each class, of the embedding, of the head.
  using ByGraph = boost::container::static_vector<double, kMostLayerClasses + 2>;
  struct Passes {
    ByGraph forward, backward;   ///< seconds
    ByGraph gradient;            ///< of backward, what is not a weight gradient
    ByGraph saved, for_weights;  ///< bytes, until backward, and from the input gradient until the weight gradient
    ByGraph transient;           ///< of one layer
    /// Makes this no more than `other` in anything.
    void lower_to(const Passes& other);
  };
  struct Weights {
    ByGraph forward, backward;                                                    ///< seconds in each micro-batch
    ByGraph reduction, gather;                                                    ///< and once a step
    bool forward_beside = true, backward_beside = true, reduction_beside = true;  ///< compute: see visible()
    Seconds optimizer;
    ByGraph resident;
    ByGraph buffer;         ///< of one layer
    bool same_hide = true;  ///< of all that this was lowered to, the same moves hide
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
  /// Its schedule and vpp become those of `layout`, in which nothing else differs.
  void change_way(const Layout& layout);
  /// A time above `enough` may be less than could be told.
  Seconds time(const Passes& passes, const Weights& weights, Seconds enough = Seconds{1e300}) const;
  Bytes memory(const Passes& passes, const Weights& weights) const;

 private:
  /// What stages keep: `line` of them from `first` to `last`, evenly spaced, the others as `rest`.
  struct Kept {
    struct Count {
      double until_backward = 1, until_weight = 0;  // micro-batches
    };
    Count first, last, rest;
    double line = 0;
  };
  static Kept kept_by(const Layout& layout, double micro_batches);
  /// Bytes of all layers of some graphs, for a micro-batch or for good.
  struct Held {
    double saved = 0, for_weights = 0, resident = 0;
    Held& operator+=(const Held& more) {
      saved += more.saved;
      for_weights += more.for_weights;
      resident += more.resident;
      return *this;
    }
    double at(const Kept::Count& count) const {
      return count.until_backward * saved + count.until_weight * for_weights + resident;
    }
  };
  /// Sum of 1 / D_s over the stages, or more.
  double sum_of_weights(const Held& all) const;
  /// The least of what a stage keeps of `some`, over what it would keep of `all`.
  double least_share(const Held& some, const Held& all) const;
  /// Of one row of moves in each part, what has nothing to hide behind.
  double firsts(const ByGraph& moves, const ByGraph& work) const;
  /// The least time that a layer takes, where those of a class take `seconds`.
  double least_layer(const ByGraph& seconds) const;
  /// Weights of the stages, in proportion (1 - ratio)^(p-1-i), that add up to 1.
  struct StageWeights {
    double first, last, mean_stage;  // mean_stage: of the index of the stage
  };
  StageWeights stage_weights(double ratio) const;
  /// Fact 3. `all`: of the layers, the embedding, the head; `rest`: of any stage, besides.
  double after_arrival(const ByGraph& forward, const ByGraph& all, double rest) const;

  /// A time that the slowest stage takes at the least, however the layers are split. `seconds`: all of each graph.
  double slowest_stage(const ByGraph& seconds) const;

  Kept kept_;
  boost::container::static_vector<double, kMostLayerClasses> layers_;  // by class
  double fragmentation_;
  Bytes always_;  // on every stage
  std::int64_t global_batch_;
  double micro_batches_;
  StageWeights drain_, arrive_;  // of facts 2 and 3
  int stages_, parts_ = 1;
  bool balanced_, late_counts_ = true;  // late: what waits for weight gradients counts whole
  bool round_ = true, paired_ = false;  // stage by stage and round again; a forward and a backward at once
  bool split_ = false;                  // backward: the weight gradient may wait
  double hidden_;                       // what a second of moves still takes where it is hidden: see visible()
  Seconds send_, fixed_;
};

}  // namespace shardwright
