#pragma once

#include <boost/container/static_vector.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "planner/cost/data_cost.h"
#include "planner/cost/shape_price.h"
#include "planner/pipeline/schedule.h"
#include "planner/plan.h"

namespace shardwright {

/// Why a layout's degrees cannot be used with a model and workload, before anything is priced: `reason` is one of
///   heads        attention heads, or KV heads, cannot be cut tp ways
///   ffn          tp (etp for experts) does not divide the width of the feed-forward part
///   experts      ep does not divide the experts, or there are none; experts with tp above 1 need sequence_parallel
///   sequence     cp, or cp * tp under sequence parallelism, does not divide the sequence
///   mesh         the parts of tp, cp, dp and of etp, ep do not divide each other
///   layers       more chunks than layers (only the first and the last chunk may be empty)
///   batch        dp * micro_batch does not divide the global batch
///   schedule     it splits backward, of which only the whole is priced
///   interleaving the micro-batches are no multiple of pp
///   shard_group  fsdp_group does not divide dp * cp, or cp does not divide it
///   precision    the GPU has no such format
///   memory       it does not fit (found later)
std::optional<Rejection> impossible(const Model& model, const Machine& machine, const Workload& workload,
                                    const Layout& layout);
/// `impossible` is the first of these that says so. The first looks at tp, cp, sequence_parallel, ep and etp alone, the
/// second at fsdp_group and degrees, the third at pp, dp and what a pipeline does; the last is about fsdp_group alone.
std::optional<Rejection> impossible_shape(const Model& model, const Machine& machine, const Workload& workload,
                                          const Layout& layout);
std::optional<Rejection> impossible_mesh(const Model& model, const Layout& layout);
std::optional<Rejection> impossible_pipeline(const Model& model, const Workload& workload, const Layout& layout);
std::optional<Rejection> impossible_group(const Layout& layout);

/// Prices layouts of one model, machine and workload. Distinct shapes are sharded and priced once and remembered. Any
/// number of threads may ask.
class Pricer {
 public:
  Pricer(const Model& model, const Machine& machine, const Workload& workload);
  Pricer(const Pricer&) = delete;

  /// Priced at first use, for every one of recompute_choices(model) at once or, if `recompute` is none of them, for it
  /// alone.
  const ShapePrice& shape(const Shape& shape, const Recompute& recompute = {});

  /// The recomputations that shape() prices at once when it is asked for `recompute`.
  std::vector<Recompute> priced_with(const Recompute& recompute) const;
  /// For many micro-batches of one shape: the same prices, remembered only where one says so.
  ShapePricer shape_pricer(const Shape& shape);
  const ShapePrice& remember(const Shape& shape, const Recompute& recompute, ShapePrice price);

  /// What no micro-batch of a shape beats, without recomputation. Of a graph that does not see all of a shape it is
  /// found once.
  LeastPrice least(Shape shape);

  /// The default split of the layers over a layout's chunks, empty when there are too many.
  std::vector<int> balanced_layers(const ShapePrice& shape, const Recompute& recompute, int chunks) const;

  /// Costs of the weights under a layout's data parallelism and ZeRO stage, per layer class. Its recomputation,
  /// virtual_pipeline and layers are not looked at: the search computes this once for all of them.
  struct Data {
    std::vector<DataCost> layers;
    DataCost embedding, head, tied;  ///< tied: the all-reduce of a tied table's gradient between first and last stage
  };
  Data data_of(const ShapePrice& shape, const Layout& layout) const;

  /// Everything about a layout that is not impossible; `layers_per_chunk` is filled.
  Prediction price(const Layout& layout);

  /// A time that price(layout).step never beats.
  Seconds lower_bound(const Layout& layout);
  /// Most reserved memory of any stage, as in price(layout).
  Bytes worst_reserved(const Layout& layout);

  /// The tensors behind the memory of one stage, largest first.
  std::vector<MemoryItem> memory_items(const Layout& layout, int stage);

  const Model& model() const { return model_; }
  const Machine& machine() const { return machine_; }
  const Workload& workload() const { return workload_; }
  /// Forward and backward of one token: causal half of attention, chosen experts, logits; no recompute, no prediction
  /// of further tokens.
  Flops model_flops_per_token() const { return model_flops_per_token_; }

 private:
  friend class PipelineShape;
  friend class Floor;
  Model model_;
  Machine machine_;
  Workload workload_;
  ModelGraphs graphs_;
  std::vector<std::vector<int>> class_layers_until_;  // [class][i]: layers of the class among the first i
  Flops model_flops_per_token_;
  DerivedGraphs derived_;
  std::mutex mutex_;
  std::vector<Recompute> choices_;
  std::map<std::pair<Shape, int>, std::unique_ptr<ShapePrice>>
      shapes_;  // with the index of the first choice that it was priced with
  using Least = std::pair<std::vector<LeastPass>, GraphPrice>;  // with the weights
  std::map<std::pair<std::size_t, Shape>, Least> least_;        // by graph and what it sees of a shape
};

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
///   1. All that the stages hold together, each layer's activations of one micro-batch at the least, over p.
///   2. The stage with c - 1 stages behind it keeps min(c, m) micro-batches of every layer, whatever the schedule (of
///      those that there are). A mean with the weights w_c = 1 / (min(c, m) A + R), where A are the activations of one
///      micro-batch through all layers and R all their weights: with layers that are all alike each then holds its
///      share of the layers, whatever the split, and the sum is 1; with several classes no less than the class times
///      its least weighted share. 1/x is convex, so the weights add up to no more than their integral.
/// Stages and chunks without layers, which only given splits have, weaken both.
class Floor {
 public:
  /// Bytes of all layers of each class, of the embedding, of the head.
  using ByGraph = boost::container::static_vector<double, kMostLayerClasses + 2>;
  struct Passes {
    Seconds once, layer_forward{1e300}, embedding_forward;
    ByGraph saved;
    double transient = 1e300;
  };
  struct Weights {
    Seconds once, after;
    ByGraph resident;
    double buffer = 1e300;
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

  double micro_batches_, drained_ = 0;  // the factor of fact 2, where there is one chunk a stage
  int stages_;
  bool balanced_;
  Bytes stream_;
  Seconds send_;
};

/// A layout's stages before the choice of ZeRO: what the search computes once and completes for each choice. `shape`
/// and the pricer are kept by reference.
class PipelineShape {
 public:
  using Data = Pricer::Data;

  /// `layout`: its zero and shard_group are not looked at.
  PipelineShape(const Pricer& pricer, const ShapePrice& shape, const Layout& layout);

  PipelineTimes times(const Data& data) const;
  Seconds lower_bound(const Data& data) const;
  StageMemory memory(const Data& data, int stage) const;
  Bytes worst_reserved(const Data& data) const;
  /// Whether every stage fits, found as cheaply as can be: first what does not change with the micro-batches, then all.
  bool fits(const Data& data) const;
  Prediction predict(const Data& data) const;

  /// Micro-batches that each chunk of `stage` holds at the moment when activations peak.
  std::vector<int> in_flight_counts(int stage) const;
  /// Layers of a class in a chunk of a stage.
  int layers_in(int stage, int chunk, int layer_class) const {
    return chunk_layers(chunk * base_.stages + stage)[layer_class];
  }

 private:
  /// Times after the pipeline has drained.
  struct Tail {
    Seconds reduction, optimizer, gather;
    Seconds total() const { return reduction + optimizer + gather; }
  };
  /// Activations kept from forward to backward, of all micro-batches in flight.
  struct Kept {
    Bytes saved, reserved;
  };
  Tail tail(const Data& data, int stage) const;
  Bytes unchanging(const Data& data, int stage, MemoryParts* parts) const;
  Kept kept_of_chunk(int global_chunk) const;
  const Kept& kept(int stage) const;

  /// Layers by class.
  const int* chunk_layers(int global_chunk) const {
    return &chunk_layers_[static_cast<std::size_t>(global_chunk * classes_)];
  }
  const int* stage_layers(int stage) const { return &stage_layers_[static_cast<std::size_t>(stage * classes_)]; }
  bool is_last(int stage) const { return stage + 1 == base_.stages; }
  const PassPrice& layer_pass(int layer_class) const {
    return shape_.layers[static_cast<std::size_t>(layer_class)].passes[recompute_];
  }
  const PassPrice& embedding_pass() const { return shape_.embedding.passes[0]; }  // without recomputation
  const PassPrice& head_pass() const { return shape_.head.passes[0]; }

  const Pricer& pricer_;
  const ShapePrice& shape_;
  Schedule schedule_;
  std::size_t recompute_ = 0;
  int micro_batches_ = 1, classes_ = 1;
  std::int64_t gpus_ = 1;
  std::vector<int> chunk_layers_, stage_layers_;  // by chunk (stage), then class
  PipelineTimes base_;                            // without the data costs
  mutable std::vector<Kept> kept_;                // by stage; a negative size stands for one that was not asked for yet
};

}  // namespace shardwright
