#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "reports/json.h"
#include "reports/models_table.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  std::vector<Model> models;
  for (const std::string& name : arguments.positionals) models.push_back(find_model(name));
  if (!models.empty()) {
    write_answer(arguments, model_text(models[0], stdout_style()), models_json(models));
    return kDone;
  }
  for (const std::string& name : model_names()) models.push_back(find_model(name));
  write_answer(arguments, models_table(models, stdout_style()), models_json(models));
  return kDone;
}

}  // namespace

Command models_command() {
  return {"models",
          "sizes and shapes of models: the catalog, or one",
          {"models", "models llama-3.1-8b --json -"},
          {{"NAME", "one of the catalog, or a YAML file", false, false, Completes::words, model_names()}},
          {json_option()},
          run};
}

}  // namespace shardwright
