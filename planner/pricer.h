#pragma once

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
///   mesh         the parts of tp, cp, dp and of etp, ep do not divide each other
///   sequence     cp, or cp * tp under sequence parallelism, does not divide the sequence
///   layers       more chunks than layers (only the first and the last chunk may be empty)
///   batch        dp * micro_batch does not divide the global batch
///   schedule     it splits backward, of which only the whole is priced
///   interleaving the micro-batches are no multiple of pp
///   shard_group  fsdp_group does not divide dp * cp, or cp does not divide it
///   precision    the GPU has no such format
///   memory       it does not fit (found later)
std::optional<Rejection> impossible(const Model& model, const Machine& machine, const Workload& workload,
                                    const Layout& layout);
/// `impossible` is the first of these that says so. The first looks at no micro_batch, schedule or vpp, and at pp only
/// through the order of ranks; the second at no zero or fsdp_group; the third is about fsdp_group alone.
std::optional<Rejection> impossible_shape(const Model& model, const Machine& machine, const Workload& workload,
                                          const Layout& layout);
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

  /// The same without recomputation only, and not remembered.
  ShapePrice plain_shape(const Shape& shape) const;
  /// The head alone, not remembered.
  GraphPrice head(const Shape& shape) const;

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
  std::mutex mutex_;
  std::vector<Recompute> choices_;
  std::map<std::pair<Shape, int>, std::unique_ptr<ShapePrice>>
      shapes_;  // with the index of a choice that stands alone, or -1
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
/// memory: the fullest stage holds no less than the mean of what the stages hold together, each layer's activations of
/// one micro-batch at the least, and each stage has the transient and the buffer of some graph. Stages and chunks
/// without layers, which only given splits have, weaken both.
class Floor {
 public:
  /// `layout`: its degrees, micro_batch, vpp and order of ranks. `balanced`: the split is balanced_layers.
  Floor(const Pricer& pricer, const ShapePrice& shape, const Layout& layout, bool balanced);

  struct Passes {
    Seconds once;
    Bytes saved, transient{std::int64_t{1} << 62};
  };
  struct Weights {
    Seconds once, after;
    Bytes resident, buffer{std::int64_t{1} << 62};
  };
  /// Recomputation only adds time: with `none`, time() holds for every choice.
  Passes passes(const ShapePrice& shape, const Recompute& recompute) const;
  Weights weights(const Pricer::Data& data) const;
  Seconds time(const Passes& passes, const Weights& weights) const;
  Bytes memory(const Passes& passes, const Weights& weights) const;

 private:
  double micro_batches_;
  int stages_;
  bool one_chunk_, balanced_;
  std::vector<int> layers_;  // by class
  Seconds forward_of_a_layer_{1e300}, forward_of_embedding_, send_;
  Bytes stream_;
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
