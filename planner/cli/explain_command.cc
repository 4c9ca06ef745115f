#include <fmt/format.h>

#include <string_view>

#include "hardware/input_error.h"
#include "hardware/yaml_cursor.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/explain.h"
#include "reports/explain_text.h"
#include "reports/json.h"

namespace shardwright {
namespace {

/// A file that `plan`, `estimate` or `explain` wrote with --json, as the arguments that ask the same: its model,
/// machine and workload, and the layout of its first plan. What stands on the command line, too, is taken from there.
/// Models and machines are found by name, so those of a file must be of the catalog.
Arguments from_plan(Arguments arguments, const std::string& path) {
  const YamlCursor top = YamlCursor::open_json(path);
  const YamlCursor schema = top.at("schema");
  const bool explanation = schema.text() == "shardwright.explanation/1";
  if (!explanation && schema.text() != "shardwright.plan_result/1")
    schema.fail("must be shardwright.plan_result/1 or shardwright.explanation/1, got '" + shown(schema.text()) + "'");
  const auto take = [&](const std::string& option, const YamlCursor& map, std::string_view key) {
    if (const auto value = map.find(key)) arguments.options.try_emplace(option, value->text());
  };
  const YamlCursor workload = top.at("workload");
  arguments.positionals = {top.at("model").text(), top.at("machine").text()};
  take("--gpus", top, "gpus");
  take("--engine", top, "engine");
  take("--sequence-length", workload, "sequence_length");
  take("--global-batch", workload, "global_batch");
  if (const auto load = workload.find("expert_load"); load && !arguments.has("--expert-load")) {
    if (load->text().starts_with("histogram")) load->fail("is of a file: name it again with --expert-load");
    take("--expert-load", workload, "expert_load");
  }
  take("--capacity-factor", workload, "capacity_factor");
  take("--cuda-graphs", workload, "cuda_graphs");
  YamlCursor plan = top;
  if (explanation) {
    plan = top.at("layout");
  } else {
    const std::vector<YamlCursor> plans = top.at("plans").items();
    if (plans.empty()) top.at("plans").fail("has no plan: nothing fitted");
    plan = plans[0];
  }
  take("--precision", plan, "precision");
  take("--layout", plan, "layout_text");
  return arguments;
}

int run(const Arguments& given) {
  check_html(given);
  const bool from_file = given.positionals.size() == 1;
  const std::string& first = given.positionals[0];
  if (from_file && !first.ends_with(".json"))
    throw InputError("explain: MACHINE is missing: a machine of the catalog, a file, or a folder");
  const Arguments arguments = from_file ? from_plan(given, first) : given;
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
                   "explain plan.json --against tp=8,pp=8 --sensitivity"},
                  question_positionals(),
                  question_options(),
                  run};
  command.positionals[0].help = "a model, its YAML file; or a plan's JSON, alone";
  command.positionals[0].completes = Completes::words;
  command.positionals[1].required = false;
  command.options.push_back({"--layout", "KEY=VALUE,...", "the layout to explain; what is not given is chosen"});
  command.options.push_back({"--against", "KEY=VALUE,...", "a layout to compare with, instead of the best"});
  command.options.push_back({"--operators", "", "every operator and every tensor, too"});
  command.options.push_back({"--sensitivity", "", "with a faster network, more memory, a larger batch"});
  command.options.push_back(html_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
