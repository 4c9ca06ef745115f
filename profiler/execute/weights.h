#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "profiler/execute/lone_rank.h"
#include "profiler/execute/mover.h"

namespace shardwright {

/// A normal distribution, from which a weight's first values are drawn.
struct FirstValues {
  double mean = 0, deviation = 0;
};

/// What a run begins from, the same however it is sharded.
struct RunOptions {
  std::uint64_t seed = 1;
  std::map<std::string, FirstValues> first_values = {};  ///< of weights by name; others have what fits their use
  /// Its epsilon lies above the rounding of gradients that are 0 but for that (of the bias of keys), which it would
  /// make steps of otherwise.
  AdamStep adam = {1e-3, 0.9, 0.95, 1e-5, 0.0, 1, 1.0};
  /// Of products and what lies between them. What is summed over a step, the optimizer's numbers and its copy of the
  /// weights are fp32.
  DataType compute = DataType::fp32;
  bool trains = true;  ///< inference has no optimizer's state
  /// The programme's rank that runs by itself; the communicator that an Executor is given then has one rank.
  std::optional<LoneRank> alone = {};
};

/// The weights of one rank, by name in the whole model, with their gradients and the optimizer's state: what
/// WeightState says of storage and reduction.
class Weights {
 public:
  /// A weight as this rank has it.
  struct Weight {
    std::string name;
    const RunGraph* graph = nullptr;  ///< one of those that use it
    WeightState state;
    Placement placement;
    AxisSet cut = 0;      ///< over which its state is cut, flat
    AxisSet partial = 0;  ///< over which its gradient is, in any of its uses
    std::vector<int> stages;
    std::int64_t elements = 0;  ///< of the block that operators use
    Block value;                ///< that block, or under ZeRO-3 the piece of it
    Block gradient;             ///< accumulated: the whole block, from ZeRO-2 on the piece
    Block reduced;              ///< after reduce(): the whole block, or the piece where the state is cut
    Block main;                 ///< the optimizer's copy, where operators read another format: the piece under ZeRO
    Block first_moment, second_moment;
  };

  Weights(const Programme& programme, int stage, std::int64_t line, const Groups& groups, Operators& operators,
          Memory& memory, Mover& mover, Recorder& recorder, const RunOptions& options);

  /// As an operator's node finds it: a block, or under ZeRO-3 its piece.
  const Block& value(const std::string& name) const { return weights_.at(name).value; }
  const Weight& weight(const std::string& name) const { return weights_.at(name); }
  /// Takes one micro-batch's gradient, partial over `partial`.
  void accumulate(const std::string& name, const Block& gradient, AxisSet partial);
  /// After the last micro-batch.
  void reduce();
  void update();
  void forget_gradients();
  const std::map<std::string, Weight>& all() const { return weights_; }

 private:
  void draw(Weight& weight, const FirstValues& values) const;
  bool keeps_piece(const Weight& w) const { return w.cut != 0; }
  int zero(const Weight& w) const { return w.graph->says.zero; }

  const Programme& programme_;
  std::int64_t line_;
  const Groups& groups_;
  Operators& operators_;
  Memory& memory_;
  Mover& mover_;
  Recorder& recorder_;
  RunOptions options_;
  std::map<std::string, Weight> weights_;
  std::int64_t step_ = 0;
};

}  // namespace shardwright
