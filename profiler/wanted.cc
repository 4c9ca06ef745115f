#include "profiler/wanted.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "planner/pricer.h"

namespace shardwright {

std::vector<KernelSpec> wanted_kernels(const PlanRequest& request, const PlanResult& result,
                                       const std::vector<KernelSpec>& known) {
  std::set<std::string> left_out;
  for (const KernelSpec& spec : known) left_out.insert(to_string(spec));
  std::map<DataType, std::unique_ptr<Pricer>> pricers;
  std::set<std::string> layouts;
  std::map<std::string, std::pair<KernelSpec, Seconds>> wanted;
  for (const auto* list : {&result.plans, &result.pareto, &result.nearest}) {
    for (const PricedLayout& priced : *list) {
      if (!priced.prediction || !layouts.insert(to_string(priced.layout)).second) continue;
      auto& pricer = pricers[priced.precision];
      if (!pricer) {
        PlanRequest of = request;
        of.workload.formats = formats_for(priced.precision, request.engine);
        pricer = std::make_unique<Pricer>(of.model, of.machine, of.workload, of.engine);
      }
      for (const AskedKernel& asked : pricer->asked(priced.layout)) {
        const Seconds seconds = asked.times * asked.cost.time;
        const std::string text = to_string(asked.spec);
        if (asked.cost.source == CostSource::measured || !(seconds > Seconds{}) || left_out.contains(text)) continue;
        auto& entry = wanted.try_emplace(text, asked.spec, Seconds{}).first->second;
        entry.second += seconds;
      }
    }
  }
  std::vector<std::pair<KernelSpec, Seconds>> ordered;
  for (auto& [text, entry] : wanted) ordered.push_back(std::move(entry));
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<KernelSpec> specs;
  for (auto& [spec, seconds] : ordered) specs.push_back(std::move(spec));
  // A collective's times are read along its size, from two sizes at least (curve_times.h).
  for (std::size_t i = 0, count = specs.size(); i < count; ++i) {
    const auto* collective = std::get_if<CollectiveSpec>(&specs[i]);
    if (!collective) continue;
    CollectiveSpec twice = *collective;
    twice.held = twice.held + twice.held;
    const std::string text = to_string(KernelSpec(twice));
    if (!wanted.contains(text) && left_out.insert(text).second) specs.push_back(twice);
  }
  return specs;
}

}  // namespace shardwright
