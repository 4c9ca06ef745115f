#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "planner/pricer.h"

namespace shardwright {

std::ptrdiff_t ties_with_best(const std::vector<PricedLayout>& plans) {
  return std::count_if(plans.begin(), plans.end(), [](const PricedLayout& p) { return p.ties; });
}

std::vector<PricedLayout> rivals(const PlanResult& result) {
  std::vector<PricedLayout> close;
  for (const PricedLayout& p : result.plans.empty() ? result.nearest : result.plans) {
    if (!p.prediction) continue;
    if (close.empty() || p.ties) close.push_back(p);
  }
  return close;
}

std::vector<UnmeasuredKernel> unmeasured_kernels(const PlanRequest& request, const PlanResult& result) {
  std::map<DataType, std::unique_ptr<Pricer>> pricers;
  std::map<std::string, UnmeasuredKernel> known;  // by the question's text
  Seconds all;
  for (const PricedLayout& p : rivals(result)) {
    std::unique_ptr<Pricer>& pricer = pricers[p.precision];
    if (!pricer) {
      Workload workload = request.workload;
      workload.formats = formats_for(p.precision, request.engine);
      pricer = std::make_unique<Pricer>(request.model, request.machine, workload, request.engine);
    }
    for (const AskedKernel& asked : pricer->asked(p.layout)) {
      const Seconds seconds = asked.times * asked.cost.time;
      all += seconds;
      if (asked.cost.source == CostSource::measured || !(seconds > Seconds{})) continue;
      UnmeasuredKernel& kernel = known[to_string(asked.spec)];
      kernel.spec = asked.spec;
      kernel.source = asked.cost.source;
      kernel.relative_error = asked.cost.relative_error;
      kernel.calls += asked.times;
      kernel.seconds += seconds;
    }
  }
  std::vector<UnmeasuredKernel> list;
  for (auto& [text, kernel] : known) {
    kernel.share = kernel.seconds / all;
    list.push_back(std::move(kernel));
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const UnmeasuredKernel& a, const UnmeasuredKernel& b) { return a.doubt() > b.doubt(); });
  return list;
}

}  // namespace shardwright
