#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "planner/cost/data_cost.h"
#include "planner/cost/shape_price.h"
#include "planner/pipeline/schedule.h"
#include "planner/plan.h"

namespace shardwright {

/// Why a layout's degrees cannot be used with a model and workload, before anything is priced: `reason` is one of
///   heads        attention heads, or KV heads, cannot be cut tp ways
///   ffn          tp does not divide intermediate_size
///   sequence     cp, or cp * tp under sequence parallelism, does not divide the sequence
///   layers       more chunks than layers (only the first and the last chunk may be empty)
///   batch        dp * micro_batch does not divide the global batch
///   interleaving the micro-batches are no multiple of pp
///   shard_group  fsdp_group does not divide dp * cp, or cp does not divide it
///   precision    the GPU has no such format
///   memory       it does not fit (found later)
std::optional<Rejection> impossible(const Model& model, const Machine& machine, const Workload& workload,
                                    const Layout& layout);

/// Prices layouts of one model, machine and workload. Distinct shapes are sharded and priced once and remembered. Any number of
/// threads may ask.
class Pricer {
 public:
  Pricer(const Model& model, const Machine& machine, const Workload& workload);
  Pricer(const Pricer&) = delete;

  /// Priced for every recompute choice at first use.
  const ShapePrice& shape(const Shape& shape);

  /// The default split of the layers over a layout's chunks, empty when there are too many.
  std::vector<int> balanced_layers(const ShapePrice& shape, const Recompute& recompute, int chunks) const;

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
  /// Forward and backward of one token, causal half of attention, logits, no recompute.
  Flops model_flops_per_token() const { return model_flops_per_token_; }

 private:
  friend class PipelineShape;
  Model model_;
  Machine machine_;
  Workload workload_;
  ModelGraphs graphs_;
  std::vector<std::vector<int>> class_layers_until_;   // [class][i]: layers of the class among the first i
  Flops model_flops_per_token_;
  std::mutex mutex_;
  std::map<Shape, std::unique_ptr<ShapePrice>> shapes_;
};

/// A layout's stages before the choice of ZeRO: what the search computes once and completes for each choice.
class PipelineShape {
 public:
  /// `layout`: its zero and shard_group are not looked at.
  PipelineShape(const Pricer& pricer, const ShapePrice& shape, const Layout& layout);

  /// Costs of the weights under a layout's zero and shard_group, per layer class.
  struct Data {
    std::vector<DataCost> layers;
    DataCost embedding, head, tied;   ///< tied: the all-reduce of a tied table's gradient between first and last stage
  };
  Data data_of(const Layout& layout) const;

  PipelineTimes times(const Data& data) const;
  Seconds lower_bound(const Data& data) const;
  StageMemory memory(const Data& data, int stage) const;
  Bytes worst_reserved(const Data& data) const;
  /// Whether a stage does not fit, found as cheaply as can be: the first stage, then static memory, then all.
  bool fits(const Data& data) const;
  Prediction predict(const Data& data) const;

  /// Micro-batches that each chunk of `stage` holds at the moment when activations peak.
  const std::vector<int>& in_flight_counts(int stage) const;
  /// Layers of a class in a chunk of a stage.
  int layers_in(int stage, int chunk, int layer_class) const {
    return chunk_layers_[static_cast<std::size_t>(chunk * base_.stages + stage)][static_cast<std::size_t>(layer_class)];
  }

 private:
  struct Stage {
    std::vector<int> layers;          // by class
    bool first = false, last = false;
  };
  /// Times after the pipeline has drained.
  struct Tail {
    Seconds reduction, optimizer, gather;
    Seconds total() const { return reduction + optimizer + gather; }
  };
  Tail tail(const Data& data, int stage) const;
  Bytes unchanging(const Data& data, int stage, MemoryParts* parts) const;

  const Pricer& pricer_;
  const ShapePrice& shape_;
  Layout layout_;
  int recompute_ = 0;
  int micro_batches_ = 1;
  Seconds send_;
  std::vector<std::vector<int>> chunk_layers_;   // [global chunk][class]
  std::vector<Stage> stages_;
  PipelineTimes base_;                           // without the data costs
  mutable std::vector<std::vector<int>> in_flight_;   // [stage][chunk]; a stage is empty until it is asked for
};

}  // namespace shardwright
