#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hardware/machine.h"
#include "models/transformer.h"
#include "planner/cost/node_cost.h"
#include "planner/serve/serve_engine.h"
#include "planner/serve/serve_layout.h"
#include "planner/serve/serve_workload.h"

namespace shardwright {

/// Sequences of one rank that a step advances alike, each by `tokens` behind `cached` ones that have keys and values.
/// Prefill is many tokens of few sequences, decode one token of many; a mixed step has groups of both.
struct SequenceGroup {
  std::int64_t sequences = 0, tokens = 1, cached = 0;
  auto operator<=>(const SequenceGroup&) const = default;
};
using Step = std::vector<SequenceGroup>;
std::int64_t tokens_of(const Step& step);
std::int64_t sequences_of(const Step& step);

/// What one rank does in a step of one layer, or of all: kernels by kind, as their benchmarks have them.
struct StepCost {
  Seconds products, experts, attention, memory, collectives, exchange;
  Seconds hidden;  ///< of `exchange`, under the computing of the other half of a step, less what that loses by it
  double kernels = 0;
  TimeError error;
  SourceTimes sources;

  Seconds computing() const { return products + experts + attention + memory; }
  Seconds communicating() const { return collectives + exchange - hidden; }
  void add(double times, const StepCost& other);
};

/// What keeps the GPUs busy: clients that wait for tokens, or a queue or a static batch, which never leaves them idle,
/// so that they reach their power limit as in training (SustainedTimes).
enum class Pace { of_clients, of_gpus };

/// A collective of one layer, as it was derived: what tests compare with formulas.
struct StepCollective {
  std::string op;  ///< the operator that it serves
  CollectiveSpec spec;
};

/// Prices steps of one layout. The same operator graphs as in training, forward only, at `tokens` and `context`:
/// everything but attention sees the step's tokens as one sequence, attention each group by itself. Kernels are fused
/// as inference engines fuse them: products that read one input are one; a run of operators that only move memory is
/// one, also across the border of two layers; choice of experts, their products and their sum are the measured layer of
/// experts. Engines that overlap the experts' exchange run a layer's step in two halves, where that is faster: one's
/// rows are on their way while the other computes, without the multiprocessors that normal kernels of the exchange
/// take. Latent attention is expanded where a group has many tokens (prefill) and absorbed where it has few.
class StepPricer {
 public:
  /// Precondition: impossible() has nothing against the layout.
  StepPricer(const Model& model, const Machine& machine, const ServeFormats& formats, const ServeEngine& engine,
             const ServeLayout& layout, Pace pace = Pace::of_clients);
  ~StepPricer();
  StepPricer(const StepPricer&) = delete;

  /// By pipeline stage; the first has the embedding, the last the head. Times of one rank; the busiest of uneven
  /// expert loads.
  std::vector<StepCost> stages(const Step& step);
  /// Of the prediction layers, one pass of `sequences` tokens: what proposing one token takes.
  StepCost proposal(std::int64_t sequences, std::int64_t context);
  /// What the stages hand on.
  Seconds handover(const Step& step) const;
  /// Of the layers of class `c`, in order.
  std::vector<StepCollective> collectives(std::size_t c, const Step& step);

  const std::vector<int>& layers_per_stage() const { return layers_per_stage_; }

  // ---- memory of one rank (serve_memory.h) ----

  /// Weights by stage, without prediction layers; and of one of those.
  std::vector<Bytes> weights() const;
  Bytes prediction_weights() const;
  /// Keys and values of a sequence of so many tokens in the layers of a stage, whole pages, windows capped.
  Bytes kv(std::size_t stage, std::int64_t tokens) const;
  /// Activations of a step with so many tokens: the most that is alive at once in any graph; logits apart.
  Bytes activations(std::int64_t tokens);
  Bytes logits(std::int64_t sequences) const;

 private:
  class Graph;
  Graph& graph_of(std::size_t c, bool absorbed) const;
  /// What sees all of a step's tokens at once, cut over tp where the engine does that.
  Graph& shared_graph_of(std::size_t c) const;
  StepCost layer(std::size_t c, const Step& step);
  Layout layout_of_stage(bool sequence_parallel) const;
  bool multiplies_narrow(const AttentionSpec& spec) const;
  StepCost one_batch(std::size_t c, const Step& step);

  Model model_;
  Machine machine_;
  SustainedTimes sustained_;  // of products and attention beside the machine's
  ServeFormats formats_;
  ServeEngine engine_;
  ServeLayout layout_;
  ModelGraphs expanded_, absorbed_;
  std::vector<std::unique_ptr<Graph>> graphs_;  // embedding, head, prediction, then each class expanded and absorbed
  std::vector<std::unique_ptr<Graph>> cut_;     // by class, where ranks of tp hold different tokens; else empty
  std::vector<int> layers_per_stage_;
  std::vector<std::vector<int>> classes_of_stage_;  // layers of each class, by stage
};

}  // namespace shardwright
