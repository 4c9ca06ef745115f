#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_answer.h"
#include "planner/cli/plan_to_run.h"
#include "planner/cli/run_options.h"
#include "planner/cli/serve_options.h"
#include "reports/estimate_text.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  check_serve_mix(arguments);
  if (arguments.has("--serve")) return run_estimate_serve(arguments);
  check_html(arguments);
  const std::optional<std::string> layout = arguments.find("--layout");
  if (!layout) throw InputError("--layout: is missing: the layout to price, e.g. --layout tp=8,pp=16");
  const LayoutPins pins = parse_layout(*layout, "--layout");
  PlanRequest request = read_question(arguments);
  request.pins = pins;
  const std::optional<RunQuestion> of_run = read_run(arguments, request);
  PlanResult result = estimate(request);
  add_run(of_run, result);
  const PricedLayout& plan = result.plans.at(0);
  const std::optional<PlanDetail> detail = detail_of_first(request, result);
  write_trace(arguments, request, result);
  write_unmeasured(arguments, request, result);
  write_plan(arguments, request, result);
  write_plan_answer(arguments, request, result, detail, estimate_text(request, result, detail, stdout_style()));
  return plan.fits ? kDone : kNothingFits;
}

}  // namespace

Command estimate_command() {
  Command command{
      "estimate",
      "price one layout, whether it fits or not",
      {"estimate llama-3.1-405b h100-sxm-80gb --gpus 1024 \\\n    --sequence-length 8192 --global-batch 512 "
       "--layout tp=8,pp=16,zero=1",
       "estimate llama-3.1-70b h100-sxm-80gb --serve --precision fp8 \\\n    --isl 1024 --osl 256 --concurrency 64 "
       "--layout tp=4"},
      question_positionals(),
      question_options(),
      run};
  command.options.push_back({"--layout", "KEY=VALUE,...", "what is given of the layout; the rest is chosen"});
  for (const Option& option : serve_options()) command.options.push_back(option);
  for (const Option& option : load_options()) command.options.push_back(option);
  command.options.push_back(phase_option());
  for (const Option& option : run_options()) command.options.push_back(option);
  command.options.push_back(plan_option());
  command.options.push_back(trace_option());
  command.options.push_back(unmeasured_option());
  command.options.push_back(html_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
