#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "planner/cost/operator_times.h"
#include "planner/plan.h"
#include "profiler/clock.h"
#include "profiler/execute/equality.h"
#include "profiler/execute/status_board.h"

namespace shardwright {

/// One operator in one step of one rank: measured, and predicted where the plan's price has it.
struct TrialOperator {
  std::string graph, name;  ///< as OperatorTime's; graph "weights": what keeps them in step
  OperatorPass pass = OperatorPass::forward;
  bool communicates = false;
  double calls = 0;
  Seconds measured;
  std::optional<Seconds> predicted;
  std::optional<KernelFamily> family = {};  ///< where it is predicted
};

/// Where a step of one rank goes.
struct TrialParts {
  Seconds compute, communication, bubble, optimizer, other;  ///< bubble: waiting for other stages; other: between them
  Seconds total() const { return compute + communication + bubble + optimizer + other; }
  TrialParts& operator+=(const TrialParts& more);
};

struct TrialRound {
  Seconds step;       ///< of the slowest rank; of one that is alone, without what stands for messages
  std::string fault;  ///< "", or why it is void
};

/// What inference with a plan's ranks found: a prompt as long as its sequences, then one token after the other.
struct InferenceTrial {
  bool checked = false, equal = false;
  Difference difference;  ///< of logits, where it was checked
  std::int64_t sequences = 0, prompt = 0;
  int tokens = 0;
  int rounds = 0, void_rounds = 0;  ///< where all are void, all of them count
  Seconds prefill, decode;          ///< of the slowest rank: the prompt; the median of a further token of all sequences
  Bytes peak;                       ///< of the fullest rank, the executor's own
  std::optional<Seconds> predicted_prefill = {}, predicted_decode = {};  ///< forward_time(), where it has one
};

/// What running a plan found.
struct Trial {
  bool checked = false;
  std::string not_checked;  ///< why
  Difference difference;    ///< the worst of all ranks, where it was checked
  double loss = 0;          ///< of the last step
  std::vector<TrialRound> rounds;
  std::optional<Seconds> step;  ///< median of the rounds that are not void
  Seconds reference;  ///< the second fastest time of a product of reference, on the rank where that took longest:
                      ///< runs where it differs met another machine, whatever their rounds say
  TrialParts parts;   ///< of the watched rank, means of those rounds (of all where all are void)
  std::vector<TrialOperator> operators;
  struct Peak {
    Bytes allocated;  ///< the executor's own
    Bytes resident;   ///< of the process, or of its device: everything but what the proof needed
  };
  std::vector<Peak> peaks;  ///< by stage, the worst of its ranks; of a rank that was alone, its own stage's
  std::string communicator, backend;
  DataType precision = DataType::fp32;  ///< that was computed in
  bool equal() const { return !checked || difference.relative < equal_tolerance(precision); }
  std::optional<std::int64_t> alone;  ///< the rank of the plan that ran by itself; then nothing was communicated, and
                                      ///< what is measured of communication and bubble is nothing
  std::optional<InferenceTrial> inference;
};

/// How a plan is to be run.
struct TrialQuestion {
  int rounds = 5, warm_up = 1;
  RunOptions options;
  int decode = 0;  ///< tokens to decode afterwards, 0: no inference
  std::shared_ptr<const Programme> answers =
      {};                   ///< by which prompts are answered (answering()); none: the trained one
  int watched_stage = 0;    ///< whose first rank's operators are told
  Bytes memory_limit = {};  ///< of each rank; 0: none
  double busy = 0.95;       ///< a round is void where a rank computed less than this of the time that it computed in,
  double drift = 0.1;       ///< or a product before or after it took so much more than the fastest
  std::string backend = "cpu";
  Operators* operators = nullptr;        ///< of this rank, where it brings its own; else made by the backend's name
  std::function<Bytes()> device_memory;  ///< taken on the rank's device now; none: what counts is the process's
};

/// Floating-point operations that the proof may take, in double precision and by the plainest of loops.
inline constexpr double kMostProofFlops = 6e9;
/// Sets the price of each of a trial's operators beside it; what was priced and never done is added with no calls.
void add_predictions(Trial& trial, const std::vector<OperatorTime>& predicted);

/// What the price says of a rank that ran alone: its stage's operators, and what nobody ran.
struct PricedAlone {
  Seconds compute;                ///< of its stage's operators
  Seconds communication, bubble;  ///< of the slowest stage; exposed
  std::optional<Seconds> step;    ///< what was measured, with the two
};
PricedAlone priced_alone(const Trial& trial, const Prediction& prediction);

/// "" or why equality is not checked.
std::string too_large_to_check(const Programme& programme);

/// Proves equality over two steps where `one_rank` is given, lets go of it, then times. Collective; the answer is rank
/// 0's. A failure
/// is thrown again as a std::runtime_error that names this rank and its operator; `board` may be null.
Trial run_trial(const Programme& programme, Communicator& world, const TrialQuestion& question, OneRank one_rank,
                Clock& clock, StatusBoard* board);

}  // namespace shardwright
