#include "reports/estimate_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/cost/expert_placement.h"
#include "reports/detail_text.h"
#include "reports/money_text.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

constexpr std::size_t kMostStages = 8;

std::string rates_text(const Prediction& p) {
  std::string text;
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<31}{}\n", name, value);
  };
  add("tokens per second", grouped(static_cast<std::int64_t>(p.tokens_per_second)));
  add("tokens per second and GPU", fmt::format("{:.1f}", p.tokens_per_second_per_gpu));
  add("model FLOP/s of a GPU", fmt::format("{} (MFU {})", with_unit(p.model_flops_per_gpu), percent(p.mfu)));
  add("GPU-hours per 10^12 tokens", grouped(static_cast<std::int64_t>(p.gpu_hours_per_trillion_tokens)));
  if (p.cost_per_trillion_tokens) {
    add("cost per 10^12 tokens", grouped(static_cast<std::int64_t>(*p.cost_per_trillion_tokens)));
  }
  return text;
}

/// Neighbouring stages with equal memory, as one row.
struct StageRun {
  std::size_t first = 0, last = 0;
  StageMemory memory;
};

std::vector<StageRun> stage_runs(const std::vector<StageMemory>& stages) {
  std::vector<StageRun> runs;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    if (!runs.empty() && runs.back().memory == stages[i]) {
      runs.back().last = i;
    } else {
      runs.push_back({i, i, stages[i]});
    }
  }
  return runs;
}

std::string stages_text(const Prediction& p, const TableStyle& style) {
  std::vector<StageRun> runs = stage_runs(p.stages);
  std::stable_sort(runs.begin(), runs.end(),
                   [](const StageRun& a, const StageRun& b) { return a.memory.reserved > b.memory.reserved; });
  TextTable table({{"stage"},
                   {"weights"},
                   {"grads"},
                   {"optimizer"},
                   {"activations"},
                   {"transient"},
                   {"buffers"},
                   {"allocated"},
                   {"reserved"}});
  for (std::size_t i = 0; i < runs.size() && i < kMostStages; ++i) {
    const StageMemory& memory = runs[i].memory;
    const MemoryParts& parts = memory.parts;
    const std::string stages = runs[i].first == runs[i].last ? std::to_string(runs[i].first)
                                                             : fmt::format("{}-{}", runs[i].first, runs[i].last);
    table.add_row({stages, in_gib(parts.weights, 2), in_gib(parts.gradients, 2), in_gib(parts.optimizer, 2),
                   in_gib(parts.activations, 2), in_gib(parts.transient, 2), in_gib(parts.buffers, 2),
                   in_gib(memory.allocated, 2), in_gib(memory.reserved, 2)});
  }
  std::string text = bold("GiB of a GPU by stage, fullest first", style) + "\n";
  for (const std::string& line : table.lines(1)) text += line + "\n";
  if (runs.size() > kMostStages) text += fmt::format("and {} more that need less\n", runs.size() - kMostStages);
  return text;
}

/// What an uneven load does to the ranks of ep, and what redundant experts would do to the load.
std::string load_text(const PlanRequest& request, const Layout& layout, const TableStyle& style) {
  const Workload& work = request.workload;
  const int ranks = layout.expert;
  if (work.expert_load.kind == ExpertLoad::Kind::balanced || work.capacity_factor > 0 || ranks == 1) return "";
  const Model& model = request.model;
  const auto loads = relative_loads(work.expert_load, model.n_routed_experts, model.num_experts_per_tok);
  const int per_node = request.machine.gpus_per_node, nodes = ranks % per_node == 0 ? ranks / per_node : 1;
  const ExpertPlacement placed = place_experts(loads, static_cast<int>(model.n_routed_experts) + ranks,
                                               std::max(1, static_cast<int>(model.n_group)), nodes, ranks);
  return "\n" + wrapped(fmt::format("Experts: the busiest of {} ranks has {:.2f} times the mean of rows and sets the "
                                    "pace. With one redundant expert a rank, placed by DeepSeek's EPLB, it would have "
                                    "{:.2f} times the mean; training runs without.",
                                    ranks, busiest_part(loads, ranks), busiest_gpu(loads, placed, ranks)),
                        style.width);
}

std::string verdict_text(const PricedLayout& plan, const TableStyle& style) {
  if (plan.fits) return green("It fits.", style) + "\n";
  if (!plan.rejection) return red("It does not fit.", style) + "\n";
  return red(plan.prediction ? "It does not fit." : "It cannot be run.", style) + "\n" +
         wrapped(fmt::format("{}: {}", plan.rejection->reason, plan.rejection->detail), style.width);
}

}  // namespace

std::string estimate_text(const PlanRequest& request, const PlanResult& result, const std::optional<PlanDetail>& detail,
                          const TableStyle& style) {
  const PricedLayout& plan = result.plans.at(0);
  std::string text = question_text(request, result, style) + layout_paragraph(plan.layout, style);
  if (!plan.assumed.empty()) {
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  }
  text += "\n" + verdict_text(plan, style);
  if (!plan.prediction) return text;
  const Prediction& p = *plan.prediction;
  text += "\n" + step_text(p, "Where a step goes", style) + rates_text(p);
  if (result.run) text += "\n" + run_text(*result.run, result.gpus, style);
  text += "\n" + worst_stage_text(p, request.machine, style);
  if (p.stages.size() > 1) text += "\n" + stages_text(p, style);
  text += load_text(request, plan.layout, style);
  if (detail) text += "\n" + detail_text(p, *detail, style);
  return text + "\n" + source_text(p, result.calibration, style);
}

}  // namespace shardwright
