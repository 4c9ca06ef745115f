#include <fmt/format.h>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_file.h"
#include "planner/cli/serve_options.h"
#include "planner/explain.h"
#include "reports/explain_text.h"
#include "reports/json.h"

namespace shardwright {
namespace {

int run(const Arguments& given) {
  check_serve_mix(given);
  if (given.has("--serve")) return run_explain_serve(given);
  check_html(given);
  const bool from_file = given.positionals.size() == 1;
  const std::string& first = given.positionals[0];
  if (from_file && !first.ends_with(".json"))
    throw InputError("explain: MACHINE is missing: a machine of the catalog, a file, or a folder");
  const Arguments arguments = from_file ? arguments_of_plan(given, first) : given;
  const std::optional<std::string> layout = arguments.find("--layout");
  if (!layout) throw InputError("--layout: is missing: the layout to explain, e.g. --layout tp=8,pp=16");
  const LayoutPins pins = parse_layout(*layout, "--layout");
  std::optional<LayoutPins> against;
  if (const auto other = arguments.find("--against")) against = parse_layout(*other, "--against");
  PlanRequest request = read_question(arguments);
  request.pins = pins;
  if (request.any_precision) {  // one of them is the layout's; the others would be other questions
    request.precision = estimate(request).plans.at(0).precision;
    request.any_precision = false;
    request.workload.formats = formats_for(request.precision, request.engine);
  }
  const Explanation explanation = explain(request, against, arguments.has("--sensitivity"));
  const AskedAs asked{arguments.positionals[0], arguments.positionals[1]};
  const std::string json = explanation_json(request, explanation);
  write_html(arguments, {{asked.model + " on " + asked.machine, json}});
  write_answer(arguments, explain_text(request, explanation, asked, arguments.has("--operators"), stdout_style()),
               json);
  return explanation.layout.priced.fits ? kDone : kNothingFits;
}

}  // namespace

Command explain_command() {
  Command command{"explain",
                  "where a layout's time and memory go, and what would turn it",
                  {"explain llama-3.1-405b h100-sxm-80gb --gpus 1024 \\\n    --sequence-length 8192 --global-batch 512 "
                   "--layout tp=4,pp=16,zero=1",
                   "explain plan.json --against tp=8,pp=8 --sensitivity",
                   "explain llama-3.1-70b h100-sxm-80gb --serve --precision fp8 \\\n    --isl 1024 --osl 256 "
                   "--max-tpot 0.03 --layout tp=8"},
                  question_positionals(),
                  question_options(),
                  run};
  command.positionals[0].help = "a model, its YAML file; or a plan's JSON, alone";
  command.positionals[0].completes = Completes::words;
  command.positionals[1].required = false;
  command.options.push_back({"--layout", "KEY=VALUE,...", "the layout to explain; what is not given is chosen"});
  command.options.push_back({"--against", "KEY=VALUE,...", "a layout to compare with, instead of the best"});
  for (const Option& option : serve_options()) command.options.push_back(option);
  command.options.push_back({"--operators", "", "every operator and every tensor, too"});
  command.options.push_back({"--sensitivity", "", "with a faster network, more memory, a larger batch"});
  command.options.push_back(html_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
