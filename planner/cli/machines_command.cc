#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "reports/json.h"
#include "reports/machines_table.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  std::vector<Machine> machines;
  for (const std::string& name : arguments.positionals) machines.push_back(find_machine(name));
  if (!machines.empty()) {
    write_answer(arguments, machine_text(machines[0], stdout_style()), machines_json(machines));
    return kDone;
  }
  for (const std::string& name : machine_names()) machines.push_back(find_machine(name));
  write_answer(arguments, machines_table(machines, stdout_style()), machines_json(machines));
  return kDone;
}

}  // namespace

Command machines_command() {
  return {"machines",
          "memory, rates and links of machines: the catalog, or one",
          {"machines", "machines h100-sxm-80gb --json -"},
          {{"NAME", "one of the catalog, a file, or a folder", false, false, Completes::words, machine_names()}},
          {json_option()},
          run};
}

}  // namespace shardwright
