#pragma once

#include <cstdint>
#include <string>

#include "hardware/quantities.h"
#include "models/op_graph.h"
#include "planner/cost/operator_times.h"
#include "planner/shard/placement.h"

namespace shardwright {

/// Which operator of the plan's graphs something is done for.
struct Where {
  std::string name;  ///< of one node of one layer, in the whole model
  int graph = -1;    ///< of Programme::graphs; -1: of none, what keeps weights in step
  OpId op = -1;      ///< -1: the stream's way out of a graph
  OperatorPass pass = OperatorPass::forward;
};

/// What a rank is at: one operator, one collective, one wait.
struct Doing {
  enum class Kind : std::uint8_t {
    compute,     ///< an operator
    collective,  ///< `step` over some ranks of a stage, or of several
    send,        ///< handing a block to another stage
    receive,     ///< waiting for another stage
    optimizer
  };
  Kind kind = Kind::compute;
  std::string name;  ///< "layers.3.q", "all_gather of layers.3.k for node 12", "stream from stage 1", ...
  Where where;
  ReshardStep step = ReshardStep::slice;
  int ranks = 1;    ///< of a collective
  Bytes held = {};  ///< of a collective, nccl-tests' size: see CollectiveSpec
};

/// Is told what a rank does as it does it. Nothing is nested.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual void start(const Doing& what) = 0;
  virtual void stop() = 0;
};

/// A span of time in which a rank does one thing.
class During {
 public:
  During(Recorder& recorder, const Doing& what) : recorder_(recorder) { recorder_.start(what); }
  ~During() { recorder_.stop(); }
  During(const During&) = delete;

 private:
  Recorder& recorder_;
};

}  // namespace shardwright
