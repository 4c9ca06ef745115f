#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hardware/machine.h"
#include "models/transformer.h"
#include "planner/cost/host_time.h"
#include "planner/cost/operator_times.h"
#include "planner/cost/pass_pieces.h"
#include "planner/engine/engine.h"
#include "planner/layout.h"
#include "planner/memory.h"
#include "planner/pipeline/trace.h"
#include "planner/search/recompute.h"
#include "planner/workload.h"

namespace shardwright {

/// What decides the local shapes of a graph, and so everything in it except how weights are kept in step.
struct Shape {
  int tensor = 1, context = 1, micro_batch = 1;
  bool sequence_parallel = false;
  ContextParallel context_kind = ContextParallel::all_gather;
  int expert = 1, expert_tensor = 1;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  int between =
      1;  ///< pipeline stages that stand between neighbours of an expert group; 1 where the group stays inside tp x cp
  PassOverlap overlap = {};
  bool pairs = false;  ///< a forward and a backward run at once
  auto operator<=>(const Shape&) const = default;
};
Shape shape_of(const Layout& layout);

/// Formats of the embedding and the head: their products stay in 16 bits where the layers' are narrower, as FP8 recipes
/// have it (DeepSeek-V3 report, 3.3.1; Transformer Engine recipes leave the output layer out).
TrainingFormats at_the_ends(TrainingFormats formats);

/// One micro-batch through one graph, for one choice of recomputation.
struct PassPrice {
  PassTime in_forward, in_backward;
  Seconds weight_gradient;  ///< of backward, what needs no other stage: it may run later
  TimeError error;          ///< of both
  ActivationNeed need;
  Seconds forward() const { return in_forward.total; }
  Seconds backward() const { return in_backward.total; }
};

/// Weights whose gradients are reduced over the same axes, together: one bucket a graph.
struct WeightBucket {
  bool routed = false;        ///< experts: their copies are not those of the dense weights
  RankGroup tensor_ranks;     ///< gradients are partial over these ranks of tp too (norms under sequence parallelism)
  std::int64_t elements = 0;  ///< of one rank, whole on the shard axes
  std::int64_t gathered_forward = 0;   ///< elements that ZeRO-3 gathers for forward
  std::int64_t gathered_backward = 0;  ///< and for backward (weights that only their own gradient reads are not)
  int matrices = 0;                    ///< tensors that are no vectors, of merged products one
};

/// A graph at a shape.
struct GraphPrice {
  std::vector<PassPrice> passes;  ///< by index_of(Recompute), up to the last that was asked for
  std::vector<WeightBucket> buckets;
  std::int64_t tied_elements = 0;    ///< part of the buckets: the table that embedding and head share
  std::int64_t narrow_elements = 0;  ///< part of the buckets: the matrices of products below 16 bits
  std::int64_t elements() const {
    std::int64_t n = 0;
    for (const WeightBucket& b : buckets) n += b.elements;
    return n;
  }
};

struct ShapePrice {
  GraphPrice embedding, head;
  std::vector<GraphPrice> layers;  ///< by layer class
  Bytes stream;                    ///< the residual stream of one rank: what a stage sends to the next
  /// What a stage keeps in place of gradients (WeightGradients::placeholders), by the set of its layer classes.
  std::array<Bytes, 1 << kMostLayerClasses> placeholders = {};
  /// With Shape::pairs, a forward and another micro-batch's backward at once: by index_of(Recompute), then [class of
  /// the forward's layer * classes + class of the backward's].
  std::vector<std::vector<Seconds>> pairs;
};

/// none, every set of the modules that a model's layers have, full. Of a mixture of experts, `moe` (which holds them)
/// or `moe_act`; `mlp` and `shared_experts` alone are left out there. Embedding and head are never recomputed.
std::vector<Recompute> recompute_choices(const Model& model);
/// Where a choice stands in PassPrice lists; none is 0.
int index_of(const Recompute& recompute);

/// What no micro-batch of a graph falls below, whatever its size: a time for `each`, and its share of `together`, what
/// all of a step would take if they ran as one. Bytes are shares of such a whole, too.
struct LeastPass {
  struct Time {
    Seconds each, together, host, waits;         ///< host: of launches; waits: for it, besides
    Seconds sent_each = {}, sent_together = {};  ///< `each` and `together` of another floor: what waits for rings, sent
    Seconds at(double share) const {
      return std::max({host, each + share * together, sent_each + share * sent_together}) + waits;
    }
  };
  Time forward, backward;
  Time gradient;      ///< of backward, what is not a weight gradient
  Bytes saved;        ///< from forward to backward, before an allocator rounds it
  Bytes for_weights;  ///< from the input gradient to the weight gradient
};

/// A floor under the prices of a shape, for every micro-batch at once.
struct LeastPrice {
  ShapePrice weights;  ///< exact, of all micro-batches, and without passes; `stream` is that of a single sequence
  std::vector<LeastPass> embedding, head;
  std::vector<std::vector<LeastPass>> layers;  ///< by layer class; passes by index_of(Recompute), as in GraphPrice
};

/// The part of `shape` that a graph's price depends on: experts' degrees change nothing where there are no experts, the
/// kind of context parallelism nothing without attention.
Shape part_that_matters(const OpGraph& graph, const Shape& shape);

/// Derived graphs, of any sizes, with the order of their backward. What is where and what moves depends on the axes of
/// a mesh and on the declarations, not on sizes, so that few derivations serve all shapes of a model. Any number of
/// threads may ask.
class DerivedGraphs {
 public:
  class Derived {
   public:
    explicit Derived(const OpGraph& graph, ShardedGraph any_size);
    const ShardedGraph& any_size() const { return any_size_; }
    const BackwardPlan& plan(const Recompute& choice);
    const MadeTogether& made_together(MergedProducts merges);

   private:
    const OpGraph& graph_;
    ShardedGraph any_size_;
    unsigned modules_ = 0;  // that have a node in this graph: the others change nothing in it
    std::mutex mutex_;
    std::map<unsigned, BackwardPlan> plans_;  // by the modules that run again
    std::map<MergedProducts, MadeTogether> made_together_;
  };
  /// References stay; `graph` is kept by reference.
  Derived& of(const OpGraph& graph, const std::vector<std::int64_t>& extents, const Mesh& mesh,
              const Declarations& declarations);

 private:
  std::mutex mutex_;
  std::map<std::pair<const OpGraph*, std::string>, std::unique_ptr<Derived>> known_;
};

/// One graph at the micro-batches of a shape: derived once, then sized for each of them.
class GraphPricer {
 public:
  /// All are kept by reference, but for `formats` and `shape`, whose micro_batch is not looked at.
  GraphPricer(DerivedGraphs& derived, const OpGraph& graph, const Model& model, const Machine& machine,
              const Workload& workload, const TrainingFormats& formats, const Engine& engine, const Shape& shape);
  GraphPricer(const GraphPricer&) = delete;

  /// Passes of other choices than `choices` stay empty.
  GraphPrice price(int micro_batch, const std::vector<Recompute>& choices);
  /// What the host takes for a pass: to launch it, and while it makes the GPU wait.
  struct HostTime {
    Seconds launches, waits;
    friend HostTime operator+(const HostTime& a, const HostTime& b) {
      return {a.launches + b.launches, a.waits + b.waits};
    }
    /// Of a pass that takes `device` on the GPU.
    Seconds total(Seconds device) const { return std::max(device, launches) + waits; }
  };
  HostTime forward_host() const { return host_time(forward_); }
  HostTime backward_host(const Recompute& choice) { return host_time(derived_.plan(choice).order); }
  /// The pieces of one pass of a micro-batch.
  PassPieces forward_pieces(int micro_batch);
  PassPieces backward_pieces(int micro_batch, const Recompute& choice);
  /// What a forward and a backward ask for, node by node.
  std::vector<AskedKernel> asked(int micro_batch, const Recompute& choice);
  /// The times of the same, by operator: one call each.
  std::vector<OperatorTime> operator_times(int micro_batch, const Recompute& choice);
  /// What a pass of this graph runs on each stream of `device`, named by operator.
  std::vector<TraceSpan> trace(const PassPieces& pass, const std::string& device) const;
  /// Weights alone.
  GraphPrice weights();
  /// The tensors that those are the sums of, and those that a micro-batch keeps from forward to backward.
  struct WeightTensor {
    std::string name;
    std::int64_t elements = 0;
    bool routed = false, narrow = false;  // narrow: read by products below 16 bits
  };
  struct SavedTensor {
    std::string name;
    Bytes bytes;
  };
  std::vector<WeightTensor> weight_tensors();
  std::vector<SavedTensor> saved_tensors(int micro_batch, const Recompute& choice);
  /// Of each matrix of a layer one rank's part, of experts one expert's: name and bytes.
  std::vector<std::pair<std::string, Bytes>> matrices();
  std::vector<LeastPass> least(const std::vector<Recompute>& choices);
  /// `least` with the sums of the operators' times at one micro-batch: what its passes do not fall below, whatever runs
  /// beside what.
  std::vector<LeastPass> least_at(int micro_batch, const std::vector<Recompute>& choices, std::vector<LeastPass> least);

 private:
  void size_for(std::int64_t micro_batch);
  void cost_for(int micro_batch);
  PassTime time_of(const std::vector<NodeId>& order) const;
  HostTime host_time(const std::vector<NodeId>& order) const;
  bool is_matrix_of_its_own(TensorId weight) const;  // not merged with one before it
  std::vector<char> read_narrow() const;             // weights, by tensor
  /// What of a pass does not run while blocks of its rings are sent, in order: all up to the last piece that the first
  /// ring waits for, what lies on the way from one ring to the next, what waits for the last; and those rings. Nothing
  /// where there is no ring or something else runs beside others.
  struct AroundRings {
    std::vector<NodeId> nodes, rings;
  };
  AroundRings around_rings(const std::vector<NodeId>& order) const;
  /// Of each weight gradient what of it may run beside others takes at the most: it counts as weight gradient, whether
  /// it is hidden or not. Nothing where that is not known. By node, for sizes of all of the global batch.
  std::optional<std::vector<MostMoved>> most_hidden() const;
  bool may_hide(std::size_t node) const;
  std::vector<ValueBytes> sizes() const;
  std::vector<ValueBytes> sizes_of(const BackwardPlan& plan, std::vector<ValueBytes> sizes) const;

  const OpGraph& graph_;
  const Workload& workload_;
  Layout layout_;  // micro_batch: that of the sizes, 0 at first
  Mesh mesh_;
  Declarations says_;
  std::vector<std::int64_t> extents_;
  CostContext context_;
  DerivedGraphs::Derived& derived_;
  ShardedGraph sharded_;
  std::vector<std::int8_t> traffic_;  // by node
  std::vector<HostWork> host_work_;   // by node
  std::vector<char> casts_;           // by node: a product that reads what it multiplies in a narrow format
  std::vector<NodeId> forward_;       // nodes in order
  PassOverlap overlap_;
  bool one_by_one_ = true;       // nothing runs beside anything
  std::vector<NodeCost> costs_;  // by node; empty where the sizes are new
};

/// Prices of graphs that see only a part of a shape, which many shapes have in common: by graph and that part. Any
/// number of threads may ask.
class SharedPrices {
 public:
  /// Of these recomputations; what is asked with others is not shared.
  explicit SharedPrices(std::vector<Recompute> choices) : choices_(std::move(choices)) {}
  const std::vector<Recompute>& choices() const { return choices_; }

  template <typename T, typename Make>
  T find(const OpGraph& graph, const Shape& part, std::map<std::pair<const OpGraph*, Shape>, T> SharedPrices::*kind,
         const Make& make) {
    const std::pair key(&graph, part);
    {
      const std::lock_guard lock(mutex_);
      if (const auto known = (this->*kind).find(key); known != (this->*kind).end()) return known->second;
    }
    T made = make();
    const std::lock_guard lock(mutex_);
    return (this->*kind).try_emplace(key, std::move(made)).first->second;
  }
  std::map<std::pair<const OpGraph*, Shape>, GraphPrice> prices;
  std::map<std::pair<const OpGraph*, Shape>, std::vector<LeastPass>> least;  // of every micro-batch: that is 0
  std::map<std::pair<const OpGraph*, Shape>, std::vector<LeastPass>> least_at;

 private:
  std::vector<Recompute> choices_;
  std::mutex mutex_;
};

/// Every graph of a model at the micro-batches of a shape, each derived when it is first needed.
class ShapePricer {
 public:
  /// References are kept. `shared` may be null.
  ShapePricer(DerivedGraphs& derived, const ModelGraphs& graphs, const Model& model, const Machine& machine,
              const Workload& workload, const Engine& engine, const Shape& shape, SharedPrices* shared = nullptr);

  /// Graphs by number: embedding, head, layer classes.
  std::size_t graphs() const { return pricers_.size(); }
  const OpGraph& graph(std::size_t i) const;
  GraphPricer& of_graph(std::size_t i);

  /// All graphs. Passes of other choices than `choices` stay empty.
  ShapePrice price(int micro_batch, const std::vector<Recompute>& choices);
  /// Without weights.
  LeastPrice least(const std::vector<Recompute>& choices);
  /// `least` of the same choices raised to what holds at one micro-batch.
  LeastPrice least_at(int micro_batch, const std::vector<Recompute>& choices, const LeastPrice& least);
  /// The residual stream of one rank.
  Bytes stream(int micro_batch) const;
  /// ShapePrice::placeholders
  std::array<Bytes, 1 << kMostLayerClasses> placeholders();
  /// ShapePrice::pairs
  std::vector<std::vector<Seconds>> pairs(int micro_batch, const std::vector<Recompute>& choices);

 private:
  /// What `make(choices)` gives for a graph, shared where it can be. Embedding and head have no choice.
  template <typename T, typename Make>
  T of(std::size_t graph, int micro_batch, const std::vector<Recompute>& choices,
       std::map<std::pair<const OpGraph*, Shape>, T> SharedPrices::*kind, const Make& make);

  DerivedGraphs& derived_;
  const ModelGraphs& graphs_;
  const Model& model_;
  const Machine& machine_;
  const Workload& workload_;
  const Engine& engine_;
  Shape shape_;
  SharedPrices* shared_;
  std::vector<std::unique_ptr<GraphPricer>> pricers_;
};

/// Shards every graph at `shape` and prices it.
ShapePrice price_shape(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                       const Shape& shape, const std::vector<Recompute>& choices, const Engine& engine = Engine{});

/// A layout that has this shape and every kind of data axis, to shard graphs once for all layouts of the shape: its
/// data parallelism is 2 replicas of 2 shards with ZeRO-3.
Layout sample_layout(const Shape& shape);

}  // namespace shardwright
