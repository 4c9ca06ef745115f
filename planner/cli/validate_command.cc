#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/validate/validate.h"
#include "planner/validate/validation_figures.h"
#include "reports/json.h"
#include "reports/validation_table.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  check_html(arguments);
  const Validation validation =
      validate(arguments.positionals, read_threads(arguments), read_measured_machine(arguments));
  if (const auto figures = arguments.find("--figures")) write_file(*figures, figures_yaml(validation));
  const std::string json = validation_json(validation);
  write_html(arguments, {{"validation", json}});
  write_answer(arguments, validation_table(validation, arguments.has("--verbose"), stdout_style()), json);
  return kDone;
}

}  // namespace

Command validate_command() {
  return {"validate",
          "predict published measurements and show the errors",
          {"validate training.yaml", "validate kernels.yaml collectives.yaml --verbose \\\n    --json errors.json",
           "validate trial-1.json trial-2.json"},
          {{"ROWS.yaml", "of schema shardwright.measured/1, or JSON of run", true, true, Completes::files}},
          {{"--verbose", "", "name each row that was skipped"},
           {"--figures", "FILE", "write the errors there, to be kept and compared", Completes::files},
           measurements_option(),
           html_option(),
           json_option(),
           threads_option()},
          run};
}

}  // namespace shardwright
