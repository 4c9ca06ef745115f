#pragma once

#include <cstdint>
#include <string>

#include "hardware/quantities.h"
#include "planner/placement.h"

namespace shardwright {

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
  std::string name;  ///< "layers.3 q", "layers.3 all_gather of k", ...
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
