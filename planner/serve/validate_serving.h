#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "planner/serve/steady_state.h"
#include "planner/validate/measured_rows.h"
#include "planner/validate/validate.h"

namespace shardwright {

/// What a published serving row asks.
struct ServingQuestion {
  Model model;
  Machine machine;
  ServeEngine engine;
  ServeWorkload workload;
  ServeLayout layout;                 ///< aggregated
  std::optional<PoolLayout> pools;    ///< disaggregated
  std::optional<std::int64_t> batch;  ///< static batch of the whole system: prefill, then decode, then the next
  bool offline = false;               ///< all requests queued
  std::vector<std::string> assumed;   ///< keys that the planner filled in
};

/// The question, or why there is none: a word of SkippedRow's list, then text.
std::variant<ServingQuestion, std::string> serving_question(const MeasuredRow& row, const Machine* machine);

/// Prices the steps of a question once; predicts with its engine's constants, or others.
class ServingModel {
 public:
  explicit ServingModel(ServingQuestion question);
  ServePrediction predict(const ServeConstants& constants);
  ServePrediction predict() { return predict(question_.engine.constants); }
  const ServingQuestion& question() const { return question_; }
  bool fits() const { return fits_; }

 private:
  ServePrediction static_batch(StepTimes& times);

  ServingQuestion question_;
  std::unique_ptr<StepTimes> times_, prefill_;  // prefill_: of disaggregated ones
  bool fits_ = true;
};

/// The row's published numbers that this version predicts, by name, from a prediction.
std::optional<double> serving_metric(const std::string& metric, const ServingQuestion& question,
                                     const ServePrediction& prediction);

/// Predictions of all of a row's published numbers; or why there are none.
std::variant<std::vector<ValidationRow>, std::string> predict_serving_row(const MeasuredRow& row,
                                                                          const Machine* machine);

}  // namespace shardwright
