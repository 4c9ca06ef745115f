#pragma once

#include <string>
#include <vector>

#include "planner/serve/validate_serving.h"

namespace shardwright {

/// A published serving speed: the time of a further token, or the rate of a saturated system.
struct ServedRow {
  std::string id, source, arch, engine;
  bool is_rate = false;
  double measured = 0, ttft = 0;    ///< ttft: 0 where it was not published
  std::vector<ServingModel> model;  ///< exactly one
};

/// Those of `files` that constants are fitted to: trust A, not suspect, aggregated, tpot_seconds of closed loops and
/// output_tokens_per_second of offline runs. Throws InputError.
std::vector<ServedRow> served_rows(const std::vector<std::string>& files, int threads);

/// Constants of each engine that has rows, from neutral ones, by least mean |log(predicted / measured)| (which bears
/// rows that are wrong), first tokens at a tenth of the weight, and a little for constants far from neutral;
/// deterministic. `errors`: half widths that hold four in five of the rows; of rates beside what kernels may err. Of
/// tokens alone: rows of trust B, which are not fitted, lie further off, and the wider interval holds 72 % of all.
std::vector<FittedServing> fit_serving(std::vector<ServedRow>& rows, int threads);

/// A source's rows, predicted with constants that were fitted without it; engines that no other source has keep
/// neutral ones.
struct LeftOutServing {
  std::string engine, source;
  int rows = 0;
  double in_sample = 0, left_out = 0;  ///< medians of |predicted / measured - 1|
};
std::vector<LeftOutServing> leave_one_source_out(std::vector<ServedRow>& rows, const std::vector<FittedServing>& fit,
                                                 int threads);
/// The same by model: what a model costs that the fit has not seen.
std::vector<LeftOutServing> leave_one_model_out(std::vector<ServedRow>& rows, const std::vector<FittedServing>& fit,
                                                int threads);

/// The text of planner/engine/serving/constants/constants.yaml.
std::string serving_constants_yaml(const std::vector<FittedServing>& fit);

}  // namespace shardwright
