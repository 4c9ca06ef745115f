#include "planner/search/goals.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "hardware/input_error.h"
#include "planner/pricer.h"

namespace shardwright {
namespace {

/// GPU-seconds of a run at the highest rate that the GPU has in any format.
double least_gpu_seconds(const PlanRequest& request, double tokens) {
  double peak = 0;
  for (const DataType type : kDataTypes) peak = std::max(peak, request.machine.peak[type].value);
  PlanRequest one = request;
  one.gpus = request.machine.gpus_per_node;
  return tokens * Pricer(one).model_flops_per_token().value / peak;
}

class Tries {
 public:
  Tries(const PlanRequest& request, const RunGoal& goal) : request_(request), goal_(goal) { request_.top = 1; }

  PlanRequest with(std::int64_t gpus) const {
    PlanRequest one = request_;
    one.gpus = gpus;
    return one;
  }

  bool reaches(std::int64_t gpus) {
    const auto known = std::find_if(tried_.begin(), tried_.end(), [&](const TriedGpus& t) { return t.gpus == gpus; });
    if (known != tried_.end()) return known->reaches;
    TriedGpus t;
    t.gpus = gpus;
    PlanResult result;
    try {
      result = plan(with(gpus));
      any_plan_ = true;
    } catch (const InputError& error) { first_error_ = first_error_.empty() ? error.what() : first_error_; }
    if (!result.plans.empty()) {
      t.step = result.plans[0].prediction->step;
      t.cost = run_cost(goal_.run, gpus, request_.workload.tokens_per_step(), t.step);
      t.reaches = (!goal_.days || t.cost->time.value <= *goal_.days * 86400) &&
                  (!goal_.budget || *t.cost->price <= *goal_.budget);
    }
    tried_.push_back(std::move(t));
    return tried_.back().reaches;
  }

  /// The last one was in time, but above the budget, and dearer than the one before it.
  bool only_dearer() const {
    if (tried_.size() < 2 || !goal_.budget) return false;
    const auto &last = tried_.back().cost, &before = tried_[tried_.size() - 2].cost;
    return last && before && (!goal_.days || last->time.value <= *goal_.days * 86400) && *last->price > *goal_.budget &&
           *last->price > *before->price;
  }

  /// Sorted; throws when no count could be asked at all: then the pins are wrong.
  std::vector<TriedGpus> take() {
    if (!any_plan_ && !first_error_.empty()) throw InputError(first_error_);
    std::sort(tried_.begin(), tried_.end(), [](const TriedGpus& a, const TriedGpus& b) { return a.gpus < b.gpus; });
    return std::move(tried_);
  }

 private:
  PlanRequest request_;
  const RunGoal& goal_;
  std::vector<TriedGpus> tried_;
  std::string first_error_;
  bool any_plan_ = false;
};

}  // namespace

FewestGpus fewest_gpus(const PlanRequest& request, const RunGoal& goal) {
  FewestGpus found;
  const std::int64_t node = request.machine.gpus_per_node;
  const double least = least_gpu_seconds(request, goal.run.tokens);
  const double needed = goal.days ? std::ceil(least / (*goal.days * 86400)) : 1;
  found.beyond_peak = goal.budget && least / 3600 * *goal.run.price_per_gpu_hour > *goal.budget;
  const std::int64_t most = kMostGpusTried / node;
  const double least_nodes = std::ceil(needed / static_cast<double>(node));
  found.least = static_cast<std::int64_t>(std::min(least_nodes, static_cast<double>(most + 1))) * node;
  if (found.beyond_peak || least_nodes > static_cast<double>(most)) return found;
  const auto first = static_cast<std::int64_t>(least_nodes);
  std::int64_t end = 1;
  while (end < first) end *= 2;
  Tries tries(request, goal);
  end = std::min(end, most);
  while (end < most && !tries.reaches(end * node) && !tries.only_dearer()) end = std::min(2 * end, most);
  // More GPUs are faster, but not always dearer.
  if (!goal.budget && !tries.reaches(end * node)) {
    found.tried = tries.take();
    return found;
  }
  std::int64_t apart = 1;
  while ((end - first) / apart > kMostCountsTried) apart *= 2;
  found.apart = apart * node;
  for (std::int64_t n = (first + apart - 1) / apart * apart; n < end + apart && !found.answer; n += apart) {
    const std::int64_t gpus = std::min(n, end) * node;  // `end` may be no multiple
    if (tries.reaches(gpus)) found.answer = tries.with(gpus);
  }
  found.tried = tries.take();
  return found;
}

std::optional<std::int64_t> longest_sequence(const PlanRequest& request, std::int64_t most) {
  const std::int64_t unit = request.workload.sequence_length;
  const auto fits = [&](std::int64_t times) {
    PlanRequest one = request;
    one.top = 1;
    one.workload.sequence_length = times * unit;
    return !plan(one).plans.empty();
  };
  if (!fits(1)) return std::nullopt;
  std::int64_t good = 1, bad = 2;
  while (bad * unit <= most && fits(bad)) {
    good = bad;
    bad *= 2;
  }
  bad = std::min(bad, most / unit + 1);
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good * unit;
}

}  // namespace shardwright
