#include <fmt/format.h>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  const std::string& what = arguments.positionals[0];
  if (what == "engines") return run_fit_engines(arguments);
  throw InputError(fmt::format("WHAT: must be engines, got '{}'{}", shown(what), did_you_mean(what, {"engines"})));
}

}  // namespace

Command fit_command() {
  return {"fit",
          "fit constants to measurements",
          {"fit engines training.yaml \\\n    --out planner/engine/constants/constants.yaml",
           "fit engines training.yaml --leave-one-source-out"},
          {{"WHAT", "what is fitted: engines", true, false, Completes::words, {"engines"}},
           {"FROM", "files of rows", true, true, Completes::files}},
          {{"--out", "FILE", "the file to write, whole or not at all", Completes::files},
           {"--date", "TEXT", "of the data, for the file (default: newest row)"},
           {"--leave-one-source-out", "", "predict each source from the others"},
           threads_option()},
          run};
}

}  // namespace shardwright
