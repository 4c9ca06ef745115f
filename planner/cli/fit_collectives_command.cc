#include "hardware/collective_curves.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/validate/fit_collectives.h"

namespace shardwright {

int run_fit_collectives(const Arguments& arguments) {
  const std::string place = place_of_fit(arguments, "hardware/fabrics/collectives.yaml");
  const std::vector<std::string> inputs(arguments.positionals.begin() + 1, arguments.positionals.end());
  const std::string text = collective_curves_text(fit_collectives(collective_samples(inputs), known_fabrics()));
  return write_fit(arguments, place, text);
}

}  // namespace shardwright
