#include "planner/serve/serve_detail.h"

#include <utility>

namespace shardwright {
namespace {

std::vector<AxisLinks> links_of(const ServeRequest& request, const Machine& of, const ServeLayout& served) {
  Layout layout = stage_layout(served, request.engine.dispatcher);
  layout.pipeline = served.pipeline;
  const Machine machine = evenly_filled(of, served.ranks() * served.pipeline);
  std::vector<AxisLinks> axes = axes_of(deployed(request.model, served), machine, layout);
  for (AxisLinks& axis : axes)
    if (axis.axis == "dp") axis.axis = "attention_dp";
  return axes;
}

/// The layout with the load that is best in this question; `estimate`: with the question's own.
std::optional<ServedLayout> at_best_load(ServeRequest request, const ServedLayout& plan, bool estimate) {
  request.top = 1;
  if (plan.pools) return best_load(request, *plan.pools);
  request.pins = pins_of(plan.layout, request.model);
  request.gpus = plan.layout.gpus();
  ServeResult result = estimate ? estimate_serving(request) : plan_serving(request);
  if (result.plans.empty() || !result.plans[0].fits) return std::nullopt;
  return std::move(result.plans[0]);
}

struct ServeQuestion {
  std::string name, meaning;
  ServeRequest request;
};

std::vector<ServeQuestion> changed(const ServeRequest& request) {
  std::vector<ServeQuestion> all;
  for (MachineChange& change : machine_changes(request.machine)) {
    ServeQuestion w{std::move(change.name), std::move(change.meaning), request};
    w.request.machine = std::move(change.machine);
    all.push_back(std::move(w));
  }
  if (request.prefill_pool) {  // the same change of both kinds of machine, as far as both have it
    for (MachineChange& change : machine_changes(request.prefill_machine()))
      for (ServeQuestion& w : all)
        if (w.name == change.name) w.request.prefill_pool->machine = change.machine;
  }
  ServeQuestion prompts{"prompts_twice", "prompts twice as long", request};
  prompts.request.workload.isl *= 2;
  all.push_back(std::move(prompts));
  if (request.workload.concurrency) {
    ServeQuestion clients{"clients_twice", "twice the clients", request};
    *clients.request.workload.concurrency *= 2;
    all.push_back(std::move(clients));
  }
  return all;
}

}  // namespace

std::optional<ServeDetail> detail_of_first(const ServeRequest& request, const ServeResult& result) {
  if (result.plans.empty() || !result.plans[0].prediction || !result.plans[0].fits) return std::nullopt;
  const ServedLayout& plan = result.plans[0];
  ServeDetail detail;
  detail.machine =
      evenly_filled(request.machine, plan.pools && request.prefill_pool ? plan.pools->decode.gpus() : plan.gpus());
  if (plan.pools) {
    detail.pools.push_back({"prefill", links_of(request, request.prefill_machine(), plan.pools->prefill)});
    detail.pools.push_back({"decode", links_of(request, request.machine, plan.pools->decode)});
  } else {
    detail.pools.push_back({"", links_of(request, request.machine, plan.layout)});
  }
  if (request.load) return detail;
  for (ServeQuestion& w : changed(request))
    detail.what_ifs.push_back(
        {std::move(w.name), std::move(w.meaning), at_best_load(std::move(w.request), plan, result.is_estimate)});
  return detail;
}

}  // namespace shardwright
