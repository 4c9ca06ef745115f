#include "hardware/collective_curves.h"
#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/output.h"
#include "planner/fit_collectives.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  const std::string& what = arguments.positionals[0];
  if (what != "collectives") throw InputError("WHAT: must be collectives, got '" + shown(what) + "'");
  const std::vector<std::string> inputs(arguments.positionals.begin() + 1, arguments.positionals.end());
  const std::string text = collective_curves_text(fit_collectives(collective_samples(inputs), known_fabrics()));
  if (const auto place = arguments.find("--out")) {
    write_file(*place, text);
  } else {
    write_stdout(text);
  }
  return kDone;
}

}  // namespace

Command fit_command() {
  return {"fit",
          "fit curves to measurements",
          {"fit collectives measured-h100 rows.yaml --out curves.yaml"},
          {{"WHAT", "what is fitted: collectives", true, false, Completes::words, {"collectives"}},
           {"FROM", "folders with measurements, files of rows", true, true, Completes::files}},
          {{"--out", "FILE", "the file to write (default: stdout)", Completes::files}},
          run};
}

}  // namespace shardwright
