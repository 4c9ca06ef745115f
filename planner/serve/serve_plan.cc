#include "planner/serve/serve_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/serve/one_phase.h"
#include "planner/serve/simulate_layout.h"

namespace shardwright {
namespace {

std::vector<std::string> assumed_keys(const ServePins& pins, const Model& model) {
  std::vector<std::string> keys;
  const auto note = [&](const char* key, bool given) {
    if (!given) keys.push_back(key);
  };
  note("tp", pins.tp.has_value());
  note("pp", pins.pp.has_value());
  note("attention_dp", pins.attention_dp.has_value());
  note("cp", pins.cp.has_value());
  if (model.n_routed_experts > 0) {
    note("ep", pins.ep.has_value());
    note("etp", pins.etp.has_value());
  }
  note("dp", pins.dp.has_value());
  return keys;
}

}  // namespace

std::optional<Rejection> broken_goal(const ServeGoals& goals, const ServePrediction& p) {
  if (goals.max_ttft_seconds && p.ttft.value > *goals.max_ttft_seconds)
    return Rejection{
        "ttft", fmt::format("first tokens take {:.4g} s, more than {:.4g} s", p.ttft.value, *goals.max_ttft_seconds)};
  if (goals.max_tpot_seconds && p.tpot.value > *goals.max_tpot_seconds)
    return Rejection{"tpot", fmt::format("each further token takes {:.4g} s, more than {:.4g} s", p.tpot.value,
                                         *goals.max_tpot_seconds)};
  return std::nullopt;
}

std::optional<Rejection> broken_goal(const ServeGoals& goals, const UnderLoad& u) {
  if (u.refused > 0)
    return Rejection{"load", fmt::format("{} of {} requests are longer than what a rank holds", u.refused, u.requests)};
  if (u.overloaded)
    return Rejection{"load", fmt::format("answers {:.4g} of {:.4g} requests a second", u.seen.answers_per_second,
                                         u.seen.arrivals_per_second)};
  const auto broken = [&](const char* what, const char* name, const LatencySpread& spread, std::optional<double> most) {
    const double seen = value_of(spread, goals.of);
    return most && seen > *most ? std::optional(Rejection{what, fmt::format("{} take {:.4g} s ({}), more than {:.4g} s",
                                                                            name, seen, name_of(goals.of), *most)})
                                : std::nullopt;
  };
  if (auto why = broken("ttft", "first tokens", u.seen.ttft, goals.max_ttft_seconds)) return why;
  return broken("tpot", "further tokens", u.seen.tpot, goals.max_tpot_seconds);
}

double value_of(const LatencySpread& spread, GoalOf of) {
  switch (of) {
    case GoalOf::mean:
      return spread.mean;
    case GoalOf::p50:
      return spread.p50;
    case GoalOf::p90:
      return spread.p90;
    case GoalOf::p95:
      return spread.p95;
    case GoalOf::p99:
      return spread.p99;
  }
  return spread.mean;
}

namespace {

/// To a GPU beyond all that the inner links reach.
Seconds through_outermost_links(Bytes kv, const Machine& machine) {
  std::int64_t reached = 1;
  for (const LinkLevel& level : machine.links) reached = std::max<std::int64_t>(reached, level.gpus);
  return handover_time(kv, reached, machine);
}

}  // namespace

Seconds handover_time(const ServeRequest& request, Bytes kv, std::int64_t prefill_gpus) {
  if (!request.prefill_pool) return handover_time(kv, prefill_gpus, request.machine);
  return std::max(through_outermost_links(kv, request.prefill_machine()), through_outermost_links(kv, request.machine));
}

ServeResult empty_result(const ServeRequest& request) {
  ServeResult result;
  result.model = request.model.name;
  result.machine = request.machine.name;
  result.prefill_pool = request.prefill_pool;
  result.engine = request.engine.name;
  result.workload = request.workload;
  result.goals = request.goals;
  result.load = request.load;
  return result;
}

ServeResult estimate_serving(const ServeRequest& request) {
  if (request.pins.disaggregated.value_or(false))
    throw InputError("an estimate has one layout: serving=disaggregated is the plan command's");
  ServeResult result = empty_result(request);
  result.is_estimate = true;
  ServedLayout plan;
  plan.layout = layout_of(request.pins, request.model, request.gpus);
  plan.assumed = assumed_keys(request.pins, request.model);
  result.gpus = plan.layout.gpus();
  if (auto why = impossible(request.model, request.machine, request.workload.formats, plan.layout)) {
    plan.rejection = std::move(why);
  } else {
    const Machine machine = evenly_filled(request.machine, plan.layout.ranks() * plan.layout.pipeline);
    StepTimes times(request.model, machine, request.workload.formats, request.engine, plan.layout);
    plan.prediction = request.workload.phase != ServePhase::both ? one_phase(times, machine, request.workload)
                      : request.load
                          ? aggregated_at_rate(times, machine, request.workload, request.load->requests_per_second)
                          : aggregated(times, machine, request.workload);
    const ServePrediction& p = *plan.prediction;
    plan.fits = p.memory.largest_batch > 0;
    if (plan.fits && request.load) plan.under_load = LoadPlayer(request).play(plan);
    if (!plan.fits)
      plan.rejection = Rejection{"memory", p.memory.reason.substr(p.memory.reason.find(' ') + 1)};
    else
      plan.rejection = plan.under_load ? broken_goal(request.goals, *plan.under_load) : broken_goal(request.goals, p);
    plan.keeps_goals = plan.fits && !plan.rejection;
  }
  result.plans.push_back(std::move(plan));
  return result;
}

}  // namespace shardwright
