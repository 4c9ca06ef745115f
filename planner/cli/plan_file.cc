#include "planner/cli/plan_file.h"

#include <string_view>

#include "hardware/yaml_cursor.h"

namespace shardwright {

YamlCursor first_plan(const YamlCursor& plan_result) {
  const YamlCursor list = plan_result.at("plans");
  const std::vector<YamlCursor> plans = list.items();
  if (plans.empty()) list.fail("has no plan: nothing fitted");
  return plans[0];
}

Arguments arguments_of_plan(Arguments arguments, const std::string& path) {
  const YamlCursor top = YamlCursor::open_json(path);
  const YamlCursor schema = top.at("schema");
  const bool explanation = schema.text() == "shardwright.explanation/1";
  const bool to_run = schema.text() == "shardwright.plan/1";
  if (!explanation && !to_run && schema.text() != "shardwright.plan_result/1")
    schema.fail("must be shardwright.plan_result/1, shardwright.plan/1 or shardwright.explanation/1, got '" +
                shown(schema.text()) + "'");
  const auto take = [&](const std::string& option, const YamlCursor& map, std::string_view key) {
    if (const auto value = map.find(key)) arguments.options.try_emplace(option, value->text());
  };
  const YamlCursor workload = top.at("workload");
  arguments.positionals = {top.at(to_run ? "model_asked" : "model").text(), top.at("machine").text()};
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
  } else if (!to_run) {
    plan = first_plan(top);
  }
  take("--precision", plan, "precision");
  take("--layout", plan, "layout_text");
  return arguments;
}

}  // namespace shardwright
