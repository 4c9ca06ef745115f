#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "profiler/execute/kernel.h"
#include "profiler/execute/weights.h"

namespace shardwright {

/// Tells nobody.
class NoRecorder final : public Recorder {
 public:
  void start(const Doing&) override {}
  void stop() override {}
};

/// One rank of a run: interprets its part of the programme's graphs, task by task, with the other ranks.
class Executor {
 public:
  /// Collective. `world` has programme.ranks() ranks, or one where options.alone says which; all arguments outlive
  /// this.
  Executor(const Programme& programme, Communicator& world, Operators& operators, Memory& memory, Recorder& recorder,
           const RunOptions& options, const Fault& fault);

  /// One step of training: every micro-batch forward and backward, gradients reduced, weights updated. `step` counts
  /// from 0 and chooses the tokens. Collective.
  void train(std::int64_t step);
  /// Mean of the last step's losses over its micro-batches. Collective.
  double loss();

  /// A step of inference: `tokens` [sequences of a micro-batch, step.sequence_length] behind those of the steps before,
  /// whose keys and values are kept. Logits of each sequence's last one [sequences, vocabulary], whole, on every rank.
  /// `step`: at_length() of the programme, which outlives this. Collective. Throws std::invalid_argument where
  /// sequences are cut.
  std::vector<double> answer(const Programme& step, const std::vector<std::int64_t>& tokens);
  /// The next step of inference begins new sequences.
  void forget_sequences() {
    kept_.clear();
    cached_ = 0;
  }

  const Weights& weights() const { return weights_; }
  const Programme& programme() const { return programme_; }
  std::int64_t line() const { return line_; }
  int stage() const { return stage_; }
  DataType compute() const { return options_.compute; }

 private:
  /// One micro-batch in one graph, from its forward until its last gradient.
  struct Pass {
    std::vector<Block> values;        // by value
    std::vector<std::int32_t> reads;  // by value: those that are still to come, in forward or backward
    std::map<OpId, std::shared_ptr<const RowList>> rows;
    bool backward = false;
  };
  using PassKey = std::pair<std::pair<int, int>, std::pair<int, int>>;  // part, instance, micro-batch, 0

  Block& at(Pass& pass, ValueId v) { return pass.values[static_cast<std::size_t>(v)]; }
  void run(const Task& task, std::int64_t step);
  void forward(int chunk, int micro_batch, std::int64_t step);
  enum class Gradients { both, inputs, weights };
  void backward(int chunk, int micro_batch, Gradients which);
  void run_node(const RunGraph& g, const Programme::Instance& instance, NodeId n, Pass& pass);
  void compute(const RunGraph& g, const Programme::Instance& instance, const Node& node, Pass& pass);
  Block sum(const RunGraph& g, const Node& node, Pass& pass);
  void add_one_hot(const Block& term, const Block& to);
  bool is_last_read(const RunGraph& g, ValueId v, const Pass& pass) const;
  Block read(const RunGraph& g, const Programme::Instance& instance, ValueId v, Pass& pass);
  void read_off(const RunGraph& g, const Node& node, Pass& pass);
  void made(const RunGraph& g, const Programme::Instance& instance, ValueId v, Block block, Pass& pass);
  void give_inputs(const RunGraph& g, int micro_batch, std::int64_t step, Pass& pass);
  Block ids(const RunGraph& g, ValueId v, int micro_batch, std::int64_t step);
  Block loss_gradient();
  Where where(const RunGraph& g, const Programme::Instance& instance, const Node& node, const Pass& pass) const;

  // ---- inference ----

  /// A step of inference.
  struct Asked {
    const std::vector<std::int64_t>& tokens;
    std::vector<double> logits;
    bool answered = false;
  };
  Block with_cached(const RunGraph& g, const Node& node, std::size_t input, const Block& block);
  void take_logits(const RunGraph& g, const Value& value, const Block& block);

  // ---- between stages ----

  void hand_on(int part, int route, int micro_batch, bool gradient, Block block);
  Block take(int part, int route, int micro_batch, bool gradient);
  int tag(int part, int route, int micro_batch, bool gradient) const;
  void forget_sent();
  void finish_sends();

  const Programme& programme_;
  Communicator& world_;
  Operators& operators_;
  Memory& memory_;
  Recorder& recorder_;
  RunOptions options_;
  const Fault& fault_;
  std::int64_t rank_;  // of the programme's
  int stage_;
  std::int64_t line_;
  std::unique_ptr<DrawnExperts> drawn_;  // of a rank that is alone
  Groups groups_;
  Mover mover_;
  Weights weights_;
  std::map<PassKey, Pass> passes_;
  std::map<int, Block> handed_;  // by tag: to another chunk of this stage
  struct Sent {
    std::unique_ptr<Communicator::Request> request;
    Block block;
  };
  std::vector<Sent> sent_;
  std::vector<double> losses_;                                     // of this rank's tokens, by loss, this step
  const Programme* shown_ = nullptr;                               // whose graphs are run
  Asked* asked_ = nullptr;                                         // of a step of inference
  std::int64_t cached_ = 0;                                        // tokens of each sequence that came before
  std::pair<int, int> instance_;                                   // that is run: part, and place in it
  std::map<std::pair<std::pair<int, int>, ValueId>, Block> kept_;  // keys and values, by instance and operand
};

}  // namespace shardwright
