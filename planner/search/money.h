#pragma once

#include <cstdint>
#include <optional>

#include "hardware/quantities.h"

namespace shardwright {

struct Model;
struct Workload;

/// From so many tokens a step on, the batch is called the user's choice: whether a model learns as much from so large a
/// one is a question of training, and nothing here answers it. 4 Mi: Llama 3 405B starts with 4 M tokens and ends with
/// 16 M ("The Llama 3 Herd of Models", 2024, 3.4.1); GPT-3 had 3.2 M (Brown et al. 2020, table 2.1).
inline constexpr std::int64_t kLargeBatchTokens = std::int64_t{4} << 20;

/// What is to be bought: a run over so many tokens.
struct RunQuestion {
  double tokens = 0;
  std::optional<double> price_per_gpu_hour;  ///< in the user's currency
  double experiments = 1;                    ///< GPU-hours of all that is run, in those of this one run
  /// Between two failures that stop a job, of one GPU with its share of all else; absent: failures are not modelled.
  /// Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs, one in 50,676 GPU-hours (table 5 of its
  /// report).
  std::optional<double> mtbf_hours;
  Seconds checkpoint;  ///< while one is written and nothing is trained; looked at with mtbf_hours
  Seconds restart;     ///< from a failure until training goes on, lost work aside
};

/// Seconds between two checkpoints, of training alone, after which the least time is lost to writing them and to what
/// failures undo. `mtbf`: of the whole job. J. T. Daly, "A higher order estimate of the optimum checkpoint interval for
/// restart dumps", Future Generation Computer Systems 22 (2006), eq. 37:
///   sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d    where d < 2 M, else M
/// Its first term alone is J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17
/// (1974).
Seconds best_checkpoint_interval(Seconds checkpoint, Seconds mtbf);

/// Share of a job's time that is progress, with failures that follow an exponential law. Daly 2006, eq. 20:
///   time / work = M e^(R/M) (e^((t + d) / M) - 1) / t
double share_of_progress(Seconds interval, Seconds checkpoint, Seconds restart, Seconds mtbf);

/// Failures and what they leave.
struct FailureCost {
  Seconds mtbf;      ///< of the job: of one GPU / GPUs
  Seconds interval;  ///< between checkpoints
  Seconds checkpoint, restart;
  double progress = 1;  ///< share_of_progress
  double failures = 0;  ///< expected in the run
};

struct RunCost {
  RunQuestion question;
  double steps = 0;
  Seconds undisturbed, time;  ///< without failures, with them where they are modelled
  std::optional<FailureCost> failures;
  double tokens_per_second = 0;  ///< over `time`
  double gpu_hours = 0;          ///< of the run, failures included
  std::optional<double> price;   ///< of those
  double all_gpu_hours = 0;      ///< with experiments
  std::optional<double> all_price;
};

/// A run on `gpus` GPUs whose steps have `tokens_per_step` tokens and take `step`.
RunCost run_cost(const RunQuestion& question, std::int64_t gpus, double tokens_per_step, Seconds step);

/// One number of GPUs that was tried, with its fastest layout that fits.
struct TriedGpus {
  std::int64_t gpus = 0;
  Seconds step;
  std::optional<RunCost> cost;  ///< nothing where nothing fits
  bool reaches = false;         ///< what was asked for
};

/// What a checkpoint holds: the optimizer's copy of all parameters and its two moments.
Bytes checkpoint_bytes(const Model& model, const Workload& workload);

}  // namespace shardwright
