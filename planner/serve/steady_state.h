#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/serve/serve_memory.h"
#include "planner/serve/step_cost.h"

namespace shardwright {

/// Steps of one layout, each priced once, and what an engine makes of them.
class StepTimes {
 public:
  StepTimes(const Model& model, const Machine& machine, const ServeFormats& formats, const ServeEngine& engine,
            const ServeLayout& layout, Pace pace = Pace::of_clients);

  /// A decode step of `batch` sequences of a rank that have `context` tokens; in pipelines the rank's sequences go
  /// through in as many parts as there are stages.
  struct Decode {
    Seconds time;   ///< until each sequence has its next tokens
    StepCost cost;  ///< of all stages, one part
    Seconds host;   ///< of `time`, what the GPUs wait for the host
  };
  Decode decode(std::int64_t batch, std::int64_t context, const Speculation& speculation);

  /// What `prompts` new prompts of `isl` tokens add to a rank's decode steps (0 sequences: nothing runs beside), cut
  /// into chunks where the engine does that. The first `cached` tokens of each have their keys and values.
  struct Prefill {
    Seconds added;    ///< to the steps of others, all prompts together
    Seconds latency;  ///< of the prompts, through all stages, the decode steps they share among them
    StepCost cost;    ///< of all stages
  };
  Prefill prefill(std::int64_t prompts, std::int64_t isl, std::int64_t batch, std::int64_t context,
                  std::int64_t cached = 0);
  /// The same of one step's tokens, of however many prompts: each sees `reach` tokens before it, in the mean.
  Prefill piece(std::int64_t tokens, std::int64_t reach, std::int64_t batch, std::int64_t context);

  /// What serve_memory() says of it, and the bytes of a token's keys and values, of one rank, all stages; each once.
  const ServeMemory& memory(const Machine& machine, const ServeWorkload& workload);
  std::int64_t kv_bytes_per_token();

  StepPricer& pricer() { return pricer_; }
  const ServeEngine& engine() const { return engine_; }
  const ServeLayout& layout() const { return layout_; }
  /// Its engine as the engine's offline benchmark sizes it (SizedToLoad); nothing where it does not.
  void size_to_load(const Machine& machine, const ServeWorkload& workload);
  /// Other constants, the same kernels.
  void use(const ServeConstants& constants) { engine_.constants = constants; }

 private:
  struct Known {
    std::vector<StepCost> stages;
    Seconds handover;
  };
  const Known& known(const Step& step);
  /// Of one step; `added` without the host's time.
  Prefill beside(const SequenceGroup& group, std::int64_t batch, std::int64_t context);
  Seconds host(std::int64_t batch) const;
  Seconds device(const StepCost& cost, ServeConstant factor) const;

  ServeEngine engine_;
  ServeLayout layout_;
  StepPricer pricer_;
  std::map<Step, Known> known_;
  std::map<std::array<std::int64_t, 4>, ServeMemory> memory_;  // by isl, osl, proposed tokens and phase
  std::int64_t kv_bytes_per_token_ = 0;
  std::map<std::pair<std::int64_t, std::int64_t>, StepCost> proposals_;
};

/// What a layout does with a workload, in the mean of a long run.
struct ServePrediction {
  Seconds ttft, ttft_low, ttft_high;   ///< first token, waiting and prefill
  Seconds tpot, tpot_low, tpot_high;   ///< each further token of a request, prefills of others in between counted
  double input_tokens_per_second = 0;  ///< of prompts, cached tokens too
  double output_tokens_per_second = 0, output_low = 0, output_high = 0;  ///< of all GPUs
  double output_tokens_per_second_per_gpu = 0, total_tokens_per_second = 0;
  double tokens_per_second_per_user = 0;  ///< 1 / tpot
  std::int64_t concurrency = 0;           ///< requests in flight, waiting ones too
  std::int64_t batch = 0;                 ///< of them running on a rank at once
  Seconds decode_step, prefill_added, host;
  StepCost decode_cost;
  StepCost prefill_cost;  ///< of a step; of prefill alone
  SourceTimes sources;    ///< of a request's decode steps and its prefill
  ServeMemory memory;
  std::int64_t kv_bytes_per_token = 0;  ///< of all stages, of one rank
  std::optional<double> cost_per_million_output_tokens;
};

/// Prefill and decode on the same GPUs, new prompts between the tokens of others (continuous batching). With
/// `concurrency` clients, each of whom asks again when its answer is complete; without, as many as fit.
///
/// In the mean: a rank has b requests in flight, of which `rate` end, and come, a second. Each takes the prefill and
/// half a step until its first token, then a step for each further one; prompts of others come between its steps:
///   slot = decode(d) / (1 - rate added (b - 1) / b),   d = rate further slot,   b = d + rate (latency + decode(d) / 2)
///   tpot = slot / gained,   further = (osl - 1) / gained
/// Clients beyond the largest batch wait for their turn.
///
/// Answers of one length end together, and so their clients' next prompts come in clumps: a prompt waits for `clumping`
/// times half the others where the engine prefills first, for half the root of their number where it does not, and what
/// it waits for then does not come between its further tokens: ttft grows, tpot falls, their sum stays.
ServePrediction aggregated(StepTimes& times, const Machine& machine, const ServeWorkload& workload);
/// The same where `per_second` requests come by themselves: with as many clients, up to those that fit, as ask so
/// often.
ServePrediction aggregated_at_rate(StepTimes& times, const Machine& machine, const ServeWorkload& workload,
                                   double per_second);

/// Decode alone: `batch` sequences of each rank, prompts prefilled elsewhere; ttft is a step, for its interval.
ServePrediction decoding(StepTimes& times, const Machine& machine, const ServeWorkload& workload, std::int64_t batch);

/// What follows of a prediction's latencies and the rates of all its GPUs: intervals, with the errors of the engine's
/// rows and of the kernels of `step`, and the price of tokens that are answered.
void complete(ServePrediction& prediction, const Machine& machine, const ServeEngine& engine, const StepCost& step,
              std::int64_t gpus, double input_tokens_per_second, double output_tokens_per_second);

/// Time of a prompt's keys and values from a rank that prefills to one that decodes, behind all `prefill_gpus`.
Seconds handover_time(Bytes kv, std::int64_t prefill_gpus, const Machine& machine);

/// Prefill and decode apart: `prefill` and `decode` have the layouts of a worker each, with replicas as workers. Keys
/// and values go over the network to the decoding worker.
struct PoolPrediction {
  ServePrediction all;
  ServeMemory prefill_memory;
  double prefill_busy = 0;  ///< share of time
  Seconds transfer;
};
PoolPrediction disaggregated(StepTimes& prefill, StepTimes& decode, const Machine& machine,
                             const ServeWorkload& workload);

}  // namespace shardwright
