#include <fmt/format.h>

#include <chrono>

#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "reports/json.h"
#include "reports/plan_table.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  PlanRequest request = read_question(arguments);
  request.pins = parse_layout(arguments.find("--pin").value_or(""), "--pin");
  if (const auto top = arguments.find("--top")) request.top = static_cast<int>(whole_number("--top", *top, 1, 1000));
  const auto start = std::chrono::steady_clock::now();
  PlanResult result = plan(request);
  result.search.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const AskedAs asked{arguments.positionals[0], arguments.positionals[1]};
  write_trace(arguments, request, result);
  write_unmeasured(arguments, request, result);
  write_answer(arguments, plan_table(request, result, asked, stdout_style()), plan_result_json(result));
  remark(fmt::format("{} layouts in {}", grouped(result.search.considered), with_unit(Seconds{result.search.seconds})));
  return !result.plans.empty() && result.plans[0].fits ? kDone : kNothingFits;
}

}  // namespace

Command plan_command() {
  Command command{
      "plan",
      "rank the layouts of a training run, fastest first",
      {"plan llama-3.1-405b h100-sxm-80gb --gpus 1024 \\\n    --sequence-length 8192 --global-batch 512",
       "plan llama-3.1-8b a100-sxm-80gb --sequence-length 4096 \\\n    --global-batch 64 --pin tp=2,zero=1 "
       "--top 20 --json plan.json",
       "plan llama-3.1-8b a100-sxm-80gb --sequence-length 4096 \\\n    --global-batch 64 --unmeasured todo.txt"},
      question_positionals(),
      question_options(),
      run};
  command.options.push_back({"--pin", "KEY=VALUE,...", "layout keys that are given: tp=8,recompute=none"});
  command.options.push_back({"--top", "K", "how many layouts to list (default 10)"});
  command.options.push_back(trace_option());
  command.options.push_back(unmeasured_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
