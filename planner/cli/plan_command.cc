#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <sstream>

#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_answer.h"
#include "planner/cli/plan_to_run.h"
#include "planner/cli/run_options.h"
#include "planner/cli/run_plan.h"
#include "planner/cli/serve_options.h"
#include "reports/plan_table.h"

namespace shardwright {
namespace {

/// Plans with the fewest GPUs that reach the goal; where none does, a result without a plan that says so.
PlanResult plan_fewest(PlanRequest& request, const RunGoal& goal) {
  FewestGpus fewest = fewest_gpus(request, goal);
  PlanResult result;
  if (fewest.answer) {
    request.gpus = fewest.answer->gpus;
    result = plan(request);
  } else {
    request.gpus = fewest.tried.empty() ? fewest.least : fewest.tried.back().gpus;
    result = empty_result(request);
    result.unreachable = fewest.beyond_peak     ? "even at the peak rate of its GPUs the run costs more than the budget"
                         : fewest.tried.empty() ? fmt::format("even at their peak rate it takes more than {} GPUs",
                                                              grouped(kMostGpusTried))
                                                : "none of the numbers of GPUs that were tried reaches it";
  }
  result.tried = std::move(fewest.tried);
  return result;
}

PlanResult plan_longest(PlanRequest& request) {
  const std::int64_t unit = request.workload.sequence_length;
  request.workload.sequence_length = longest_sequence(request, kMostTokens).value_or(unit);
  PlanResult result = plan(request);
  if (!result.plans.empty()) result.sequence_unit = unit;
  return result;
}

/// Schedules that are tried only when they are asked for: "zb-v,dualpipe", or "all" that the engine can run.
std::vector<Schedule> read_schedules(const std::string& text, const PlanRequest& request) {
  constexpr std::array kAsked = {Schedule::zb_1p, Schedule::zb_2p, Schedule::zb_v, Schedule::dualpipe,
                                 Schedule::dualpipe_v};
  if (request.pins.schedule) throw InputError("--schedules: --pin gives the one schedule");
  std::vector<Schedule> wanted;
  if (text == "all") {
    const std::vector<Schedule>& can = request.engine.schedules;
    std::copy_if(kAsked.begin(), kAsked.end(), std::back_inserter(wanted),
                 [&](Schedule s) { return std::find(can.begin(), can.end(), s) != can.end(); });
    return wanted;
  }
  std::istringstream names(text);
  for (std::string name; std::getline(names, name, ',');) {
    const auto known = std::find_if(kAsked.begin(), kAsked.end(), [&](Schedule s) { return name_of(s) == name; });
    if (known == kAsked.end())
      throw InputError(
          fmt::format("--schedules: must be all or some of zb-1p, zb-2p, zb-v, dualpipe, dualpipe-v, got '{}'", name));
    LayoutPins pins;
    pins.schedule = *known;
    if (const std::string beyond = beyond_engine(request.engine, pins); !beyond.empty()) throw InputError(beyond);
    wanted.push_back(*known);
  }
  return wanted;
}

int run(const Arguments& arguments) {
  check_serve_mix(arguments);
  if (arguments.has("--serve")) return run_plan_serve(arguments);
  check_html(arguments);
  PlanRequest request = read_question(arguments);
  request.pins = parse_layout(arguments.find("--pin").value_or(""), "--pin");
  if (const auto names = arguments.find("--schedules")) request.more_schedules = read_schedules(*names, request);
  if (const auto top = arguments.find("--top")) request.top = static_cast<int>(whole_number("--top", *top, 1, 10000));
  request.rejected_examples = 3;
  const std::optional<RunQuestion> of_run = read_run(arguments, request);
  const std::optional<RunGoal> goal = read_goal(arguments, of_run);
  const auto start = std::chrono::steady_clock::now();
  bool told = false;
  request.progress = [&](std::size_t done, std::size_t all) {  // of a search that takes long
    if (std::chrono::steady_clock::now() - start < std::chrono::seconds(1)) return;
    progress(fmt::format("{} of {} families of layouts", grouped(static_cast<std::int64_t>(done)),
                         grouped(static_cast<std::int64_t>(all))));
    told = true;
  };
  PlanResult result = goal                                  ? plan_fewest(request, *goal)
                      : arguments.has("--longest-sequence") ? plan_longest(request)
                                                            : plan(request);
  result.search.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (told) progress("");
  add_run(of_run, result);
  const AskedAs asked{arguments.positionals[0], arguments.positionals[1]};
  write_trace(arguments, request, result);
  write_unmeasured(arguments, request, result);
  write_plan(arguments, request, result);
  const auto detail = detail_of_first(request, result);
  write_plan_answer(arguments, request, result, detail, plan_table(request, result, asked, detail, stdout_style()));
  remark(fmt::format("{} layouts in {}", grouped(result.search.considered), with_unit(Seconds{result.search.seconds})));
  if (result.plans.empty() || !result.plans[0].fits) return kNothingFits;
  return arguments.has("--run") ? run_at_once(arguments, request, result) : kDone;
}

}  // namespace

Command plan_command() {
  Command command{
      "plan",
      "rank the layouts of a training run or of serving, fastest first",
      {"plan llama-3.1-405b h100-sxm-80gb --gpus 1024 \\\n    --sequence-length 8192 --global-batch 512",
       "plan llama-3.1-8b a100-sxm-80gb --sequence-length 4096 \\\n    --global-batch 64 --pin tp=2,zero=1 "
       "--top 20 --json plan.json",
       "plan llama-3.1-8b a100-sxm-80gb --sequence-length 4096 \\\n    --global-batch 64 --unmeasured todo.txt",
       "plan deepseek-v3 h800-sxm-80gb --gpus 2048 --precision fp8 \\\n    --sequence-length 4096 --global-batch 15360 "
       "--tokens 14.8T \\\n    --gpu-hour-price 2 --mtbf-hours 50676 --checkpoint-seconds 60",
       "plan llama-3.1-8b h100-sxm-80gb --sequence-length 8192 \\\n    --global-batch 512 --tokens 1T --deadline-days "
       "14",
       "plan deepseek-v3 h200-sxm-141gb --gpus 16 --serve \\\n    --precision fp8_block --isl 4096 --osl 1024 "
       "--max-tpot 0.05 --max-ttft 2",
       "plan deepseek-v3 h200-sxm-141gb --gpus 16 --serve \\\n    --precision fp8_block --isl 4096 --osl 1024 "
       "--prefill-machine h100-sxm-80gb"},
      question_positionals(),
      question_options(),
      run};
  command.options.push_back({"--pin", "KEY=VALUE,...", "layout keys that are given: tp=8,recompute=none"});
  command.options.push_back({"--schedules", "NAME,...", "try zb-1p, zb-v, dualpipe, ... or all, too (slow)"});
  command.options.push_back({"--top", "K", "how many layouts to list (default 10)"});
  for (const auto& more :
       {serve_options(), load_options(), prefill_pool_options(), run_options(), goal_options(), run_at_once_options()})
    command.options.insert(command.options.end(), more.begin(), more.end());
  command.options.push_back(plan_option());
  command.options.push_back(trace_option());
  command.options.push_back(unmeasured_option());
  command.options.push_back(html_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
