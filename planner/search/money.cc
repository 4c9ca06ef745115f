#include "planner/search/money.h"

#include <cmath>

#include "models/transformer.h"
#include "planner/workload.h"

namespace shardwright {

Seconds best_checkpoint_interval(Seconds checkpoint, Seconds mtbf) {
  const double d = checkpoint.value, m = mtbf.value;
  if (d >= 2 * m) return mtbf;
  const double ratio = d / (2 * m);
  return {std::sqrt(2 * d * m) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - d};
}

double share_of_progress(Seconds interval, Seconds checkpoint, Seconds restart, Seconds mtbf) {
  const double m = mtbf.value;
  return interval.value / (m * std::exp(restart.value / m) * std::expm1((interval.value + checkpoint.value) / m));
}

RunCost run_cost(const RunQuestion& question, std::int64_t gpus, double tokens_per_step, Seconds step) {
  RunCost cost;
  cost.question = question;
  cost.steps = std::ceil(question.tokens / tokens_per_step);
  cost.undisturbed = cost.time = cost.steps * step;
  if (question.mtbf_hours) {
    FailureCost f;
    f.mtbf = {*question.mtbf_hours * 3600 / static_cast<double>(gpus)};
    f.checkpoint = question.checkpoint;
    f.restart = question.restart;
    f.interval = best_checkpoint_interval(f.checkpoint, f.mtbf);
    f.progress = share_of_progress(f.interval, f.checkpoint, f.restart, f.mtbf);
    cost.time = cost.undisturbed * (1 / f.progress);
    f.failures = cost.time / f.mtbf;
    cost.failures = f;
  }
  cost.tokens_per_second = question.tokens / cost.time.value;
  cost.gpu_hours = cost.time.value / 3600 * static_cast<double>(gpus);
  cost.all_gpu_hours = cost.gpu_hours * question.experiments;
  if (question.price_per_gpu_hour) {
    cost.price = cost.gpu_hours * *question.price_per_gpu_hour;
    cost.all_price = cost.all_gpu_hours * *question.price_per_gpu_hour;
  }
  return cost;
}

Bytes checkpoint_bytes(const Model& model, const Workload& workload) {
  const double each =
      bytes_per_element(workload.formats.main_parameter) + 2 * bytes_per_element(workload.formats.optimizer_state);
  return {static_cast<std::int64_t>(each * static_cast<double>(parameters_with_mtp(model)))};
}

}  // namespace shardwright
