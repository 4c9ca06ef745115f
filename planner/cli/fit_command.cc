#include <fmt/format.h>

#include <filesystem>

#include "hardware/input_error.h"
#include "hardware/input_file.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;

bool holds(const std::string& path, const std::string& text) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) && read_file(path, kMostBytes) == text;
}

int run(const Arguments& arguments) {
  const std::string& what = arguments.positionals[0];
  if (what == "kernels") return run_fit_kernels(arguments);
  if (what == "collectives") return run_fit_collectives(arguments);
  if (what == "engines") return run_fit_engines(arguments);
  if (what == "serving") return run_fit_serving(arguments);
  const std::string hint = did_you_mean(what, {"kernels", "collectives", "engines", "serving"});
  throw InputError(
      fmt::format("WHAT: must be kernels, collectives, engines or serving, got '{}'{}", shown(what), hint));
}

}  // namespace

std::string place_of_fit(const Arguments& arguments, const std::string& example) {
  const auto place = arguments.find("--out");
  if (!place) throw InputError("--out: is missing: the file to write, e.g. --out " + example);
  return *place;
}

int write_fit(const Arguments& arguments, const std::string& place, const std::string& text) {
  if (!arguments.has("--check")) {
    write_file(place, text);
    return kDone;
  }
  if (holds(place, text)) return kDone;
  write_stdout(fmt::format("{} would change\n", place));
  return kNothingFits;
}

Command fit_command() {
  return {"fit",
          "make curves and constants of measurements",
          {"fit kernels measured-h100 --out h100.yaml --source 'own runs'",
           "fit kernels measured-h100 --out h100.yaml --check",
           "fit collectives measured-h100 rows.yaml --out collectives.yaml",
           "fit engines training.yaml --leave-one-source-out", "fit serving inference.yaml --leave-one-source-out"},
          {{"WHAT",
            "kernels, collectives, engines or serving",
            true,
            false,
            Completes::words,
            {"kernels", "collectives", "engines", "serving"}},
           {"FROM", "folders with measurements, files of rows", true, true, Completes::files, {}}},
          {{"--out", "FILE", "the file to write, whole or not at all", Completes::files},
           {"--source", "TEXT", "kernels: where the measurements are from"},
           {"--family", "NAME", "kernels: gemm, attention or moe_layer alone"},
           {"--date", "TEXT", "engines: of the data (default: the rows' newest)"},
           {"--leave-one-source-out", "", "engines, serving: predict each source without it"},
           {"--sources", "A,B", "engines: leave out these sources alone"},
           {"--check", "", "write nothing; exit code 1 if FILE would change"},
           threads_option()},
          run};
}

}  // namespace shardwright
