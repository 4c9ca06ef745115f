#pragma once

#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "planner/cost/data_cost.h"
#include "planner/cost/operator_times.h"
#include "planner/cost/shape_price.h"
#include "planner/pipeline/order.h"
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
///   schedule     dualpipe and zb-v need other stages, chunks or micro-batches
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

/// Prices layouts of one model, machine, workload and engine. Distinct shapes are sharded and priced once and
/// remembered. Any number of threads may ask.
class Pricer {
 public:
  Pricer(const Model& model, const Machine& machine, const Workload& workload, const Engine& engine = Engine{});
  explicit Pricer(const PlanRequest& request);
  Pricer(const Pricer&) = delete;

  /// The same with other constants of the engine and other clocks of the machine: what was priced is forgotten, what
  /// was derived is kept. Nobody else may ask meanwhile.
  void change(const EngineConstants& constants, const SustainedTimes& clocks);
  /// From now on layouts of this recomputation are asked for: shapes are priced with it alone. Before anything is
  /// priced.
  void price_alone(const Recompute& recompute) { choices_ = {recompute}; }

  /// Priced at first use, for every one of recompute_choices(model) at once or, if `recompute` is none of them, for it
  /// alone.
  const ShapePrice& shape(const Shape& shape, const Recompute& recompute = {});

  /// The recomputations that shape() prices at once when it is asked for `recompute`.
  std::vector<Recompute> priced_with(const Recompute& recompute) const;
  /// For many micro-batches of one shape: the same prices, remembered only where one says so.
  ShapePricer shape_pricer(const Shape& shape, SharedPrices* shared = nullptr);
  const ShapePrice& remember(const Shape& shape, const Recompute& recompute, ShapePrice price);

  /// What no micro-batch of a shape beats, without recomputation. Of a graph that does not see all of a shape it is
  /// found once.
  LeastPrice least(Shape shape);

  /// The default split of the layers over a layout's chunks, with at most `most` in each; empty when there is none.
  std::vector<int> balanced_layers(const ShapePrice& shape, const Recompute& recompute, int chunks,
                                   int most = std::numeric_limits<int>::max()) const;

  /// Costs of the weights under a layout's data parallelism and ZeRO stage, per layer class. Its recomputation,
  /// virtual_pipeline and layers are not looked at: the search computes this once for all of them.
  struct Data {
    std::vector<DataCost> layers;
    DataCost embedding, head, tied;  ///< tied: the all-reduce of a tied table's gradient between first and last stage
    /// What the prediction layers' table of embeddings holds: nothing of its own on a stage that has the embedding, too
    /// (DeepSeek-V3 report, 3.2.3).
    DataCost second_table;
    Overlaps overlap;  ///< grad_reduce and param_gather
    int zero = 0;
    BesideCompute beside() const { return beside_compute(overlap, zero); }
  };
  Data data_of(const ShapePrice& shape, const Layout& layout) const;

  /// Everything about a layout that is not impossible; `layers_per_chunk` is filled.
  Prediction price(const Layout& layout);

  /// All kernels and collectives of a step, hidden ones, too; `times` are those of one GPU, on the mean of its stages.
  /// A kernel may come several times.
  std::vector<AskedKernel> asked(const Layout& layout);
  /// Shares of their time, by CostSource.
  std::array<double, 4> source_share(const Layout& layout);

  /// The order in which every stage works through its tasks, as price() plays it.
  std::vector<Order> orders(const Layout& layout);

  /// A time that price(layout).step never beats.
  Seconds lower_bound(const Layout& layout);
  /// Most reserved memory of any stage, as in price(layout).
  Bytes worst_reserved(const Layout& layout);

  /// The tensors behind the memory of one stage, largest first.
  std::vector<MemoryItem> memory_items(const Layout& layout, int stage);

  /// Everything that a GPU of `stage` computes and communicates inside the graphs in one step, in the graphs' order:
  /// not what keeps weights in step, nor what stages send each other.
  std::vector<OperatorTime> operator_times(const Layout& layout, int stage);

  const Model& model() const { return model_; }
  const Machine& machine() const { return machine_; }
  const Workload& workload() const { return workload_; }
  const Engine& engine() const { return engine_; }
  /// Forward and backward of one token: causal half of attention, chosen experts, logits; no recompute, no prediction
  /// of further tokens.
  Flops model_flops_per_token() const { return model_flops_per_token_; }

  /// Of the 80 % interval of the log of a time of a step, whose kernels and collectives have a relative error of one
  /// sigma together: that, the engine's, and the clock's where nobody knows it.
  double half_width(double kernel_sigma) const;

 private:
  /// Of a tied table's gradient, between the first and the last stage.
  CollectiveSpec tied_reduction(const Layout& layout, const ShapePrice& shape) const;

  friend class PipelineShape;
  friend class Floor;
  Model model_;
  Machine machine_;  // as used by the engine
  Workload workload_;
  Engine engine_;
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

/// Ranks from one pipeline stage to the next.
std::int64_t between_stages(const Layout& layout);
/// Of handing a micro-batch's residual stream on; nothing with one stage.
Seconds send_time(const Layout& layout, Bytes stream, const Machine& machine, const Engine& engine);

}  // namespace shardwright
