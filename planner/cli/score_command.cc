#include "hardware/leave_out.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "reports/json.h"
#include "reports/score_table.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[0];
  const Machine machine = read_machine(YamlCursor::open(machine_file_in(folder)));
  const MeasuredTimes times(machine, std::make_shared<const Measurements>(read_measurements(folder)));
  const std::vector<LeaveOutError> errors = leave_out_errors(times);
  write_answer(arguments, score_table(machine.name, errors, stdout_style()), score_json(machine.name, errors));
  return kDone;
}

}  // namespace

Command score_command() {
  return {"score",
          "how well measurements answer what is left out of them",
          {"score measured-h100", "score measured-h100 --json errors.json"},
          {{"MEASURED", "a folder with a machine's measurements", true, false, Completes::files, {}}},
          {json_option()},
          run};
}

}  // namespace shardwright
