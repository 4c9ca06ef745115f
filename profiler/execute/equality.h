#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "profiler/execute/executor.h"

namespace shardwright {

/// What one step leaves on one rank, whole and in double precision.
struct StepResult {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients, weights;
};

/// What one rank's steps left, for proofs; gone when the last rank has let go of it.
using OneRank = std::shared_ptr<const std::vector<StepResult>>;

/// The first `steps` steps of the same run on one rank, with the reference operators.
std::vector<StepResult> run_on_one_rank(const Programme& programme, const RunOptions& options, int steps);

/// The largest difference of a rank's own blocks to those of one rank, relative to the largest number of each whole
/// array (of a gradient to no less than 1e-3 of the largest of all gradients: one that is zero but for rounding has the
/// others' scale). In 16 bits, where any one number may be far off, each block's quadratic mean takes the place of its
/// largest number, and a tenth that of the 1e-3; the loss, a mean of many, counts eight times. Infinite for what is
/// missing or no number.
struct Difference {
  double relative = 0;
  std::string what;  ///< "gradient of layers.0.q_proj", "layers.0.q_proj", "loss"
};
/// After a step. `loss`: Executor::loss() of it.
Difference difference(const Executor& rank, double loss, const StepResult& one_rank, Operators& operators);

/// A prompt's and then `tokens` generated ones' logits, each the most likely after the last: [step][sequence,
/// vocabulary].
struct Generated {
  std::vector<std::vector<double>> logits;
  std::vector<std::vector<std::int64_t>> tokens;  ///< that were chosen, by step and sequence
};
/// Tokens of the sequences of a micro-batch, drawn by the seed.
std::vector<std::int64_t> prompt_of(const Programme& programme, std::uint64_t seed);
/// Steps of inference of a programme: of a prompt as long as its sequences, and of one more token.
struct InferenceSteps {
  Programme prefill, decode;
};
InferenceSteps inference_steps(const Programme& programme);
/// By prefill, then by steps of one token with kept keys and values. Collective. `steps` outlive the rank.
Generated generate(Executor& rank, const InferenceSteps& steps, const std::vector<std::int64_t>& prompt, int tokens);
/// The same of one rank with the reference operators, which keeps nothing: every step reads all tokens again.
Generated generate_on_one_rank(const Programme& programme, const RunOptions& options, int tokens);
/// The largest difference of logits, relative to the largest logit of its step. Infinite where another token was
/// chosen, unless one rank's logits of the two are as close as `tie` times the largest: then what follows is another
/// text, and is not compared.
Difference difference(const Generated& ranks, const Generated& one_rank, double tie = 0);

/// What ranks that compute in a format may be off from one rank in double precision. In 16 bits eight times as much
/// with bf16 as with fp16, which has three bits more: see profiler/README.md for what was seen.
double equal_tolerance(DataType compute);

}  // namespace shardwright
