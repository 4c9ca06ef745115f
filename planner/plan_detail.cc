#include "planner/plan_detail.h"

#include <algorithm>
#include <map>
#include <utility>
#include <variant>

#include "planner/pricer.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

std::vector<KernelUse> kernels_of(Pricer& pricer, const Layout& layout) {
  std::map<std::string, KernelUse> by_question;
  for (const AskedKernel& asked : pricer.asked(layout)) {
    KernelUse& use = by_question[to_string(asked.spec)];
    use.spec = asked.spec;
    use.cost = asked.cost;
    use.calls += asked.times;
  }
  std::vector<KernelUse> kernels;
  for (auto& [question, use] : by_question) {
    if (!(use.seconds() > Seconds{})) continue;
    use.work = work_of(use.spec);
    kernels.push_back(std::move(use));
  }
  std::stable_sort(kernels.begin(), kernels.end(),
                   [](const KernelUse& a, const KernelUse& b) { return a.seconds() > b.seconds(); });
  return kernels;
}

AxisLinks links_of(std::string axis, const RankGroup& group, const Machine& machine) {
  AxisLinks links{std::move(axis), group.size(), {}};
  std::int64_t below = 1;
  for (const LinkLevel& level : machine.links) {
    const std::int64_t here = level.gpus == 0 ? group.size() : group.members_within(level.gpus);
    if (here > below) links.levels.push_back({level.name, here});
    below = std::max(below, here);
  }
  return links;
}

}  // namespace

std::vector<AxisLinks> axes_of(const Model& model, const Machine& machine, const Layout& layout) {
  std::vector<AxisLinks> axes;
  const std::variant<Mesh, std::string> refined = stage_mesh(layout, model);
  const Mesh& mesh = std::get<Mesh>(refined);
  for (const char* axis : {"tp", "cp", "dp", "etp", "ep"}) {
    const bool experts = axis[0] == 'e';
    if (experts && model.n_routed_experts == 0) continue;
    const RankGroup group = mesh.group(set_of(mesh.tuple(axis)));
    if (group.size() > 1) axes.push_back(links_of(axis, group, machine));
  }
  if (layout.pipeline > 1) {
    RankGroup stages;
    stages.add(layout.pipeline, between_stages(layout));
    axes.push_back(links_of("pp", stages, machine));
  }
  return axes;
}

namespace {

std::vector<SameLayout> what_ifs_of(const PlanRequest& request, const Layout& layout) {
  std::vector<SameLayout> all;
  for (const WhatIf& w : what_if_questions(request)) {
    const Prediction p = Pricer(w.request).price(layout);
    all.push_back({w.name, w.meaning, p, p.worst().reserved <= w.request.machine.usable_memory()});
  }
  return all;
}

}  // namespace

PlanDetail detail_of(const PlanRequest& request, const PricedLayout& plan) {
  PlanRequest one = request;
  one.precision = plan.precision;
  one.any_precision = false;
  one.workload.formats = formats_for(plan.precision, request.engine);
  Pricer pricer(one);
  const Prediction& p = *plan.prediction;
  PlanDetail detail;
  detail.model = one.model;
  detail.machine = evenly_filled(one.machine, one.gpus);
  detail.slowest_stage = slowest_stage(p);
  detail.parts = step_parts(p, pricer.operator_times(plan.layout, detail.slowest_stage));
  for (std::size_t stage = 0; stage < p.stages.size(); ++stage)
    detail.tensors.push_back(pricer.memory_items(plan.layout, static_cast<int>(stage)));
  detail.kernels = kernels_of(pricer, plan.layout);
  detail.axes = axes_of(one.model, detail.machine, plan.layout);
  detail.spans = trace_of(one, plan.layout);
  detail.what_ifs = what_ifs_of(one, plan.layout);
  return detail;
}

std::optional<PlanDetail> detail_of_first(const PlanRequest& request, const PlanResult& result) {
  if (result.plans.empty() || !result.plans[0].prediction) return std::nullopt;
  return detail_of(request, result.plans[0]);
}

}  // namespace shardwright
