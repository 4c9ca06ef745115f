#include <fmt/format.h>

#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/fit_engines.h"

namespace shardwright {
namespace {

std::string left_out_text(const EngineFit& fit, const LeftOutSources& left_out) {
  std::string text = fmt::format("{:<24}{:>6}{:>11}{:>11}\n", "source", "rows", "in sample", "left out");
  for (const LeftOutSource& s : left_out.sources)
    text += fmt::format("{:<24}{:>6}{:>11}{:>11}\n", s.source, s.rows, percent(s.in_sample), percent(s.median_error));
  return text + fmt::format("median over {} rows: {} in sample, {} left out\n", fit.rows, percent(fit.median_error),
                            percent(left_out.median_error));
}

}  // namespace

int run_fit_engines(const Arguments& arguments) {
  const std::optional<std::string> out = arguments.find("--out");
  if (!out && !arguments.has("--leave-one-source-out"))
    throw InputError("--out: is missing: the file to write, e.g. --out planner/engine/constants/constants.yaml");
  EngineFitOptions options;
  options.threads = read_threads(arguments);
  const std::vector<TimedStep> steps =
      timed_steps({arguments.positionals.begin() + 1, arguments.positionals.end()}, options.threads);
  if (steps.empty()) throw InputError("no row is a training step whose speed was published and can be predicted");
  const EngineFit fit = fit_engines(steps, options);
  if (out) write_file(*out, engine_constants_yaml(fit, arguments.find("--date").value_or("")));
  remark(fmt::format("{} rows, median error {}", fit.rows, percent(fit.median_error)));
  if (arguments.has("--leave-one-source-out"))
    write_stdout(left_out_text(fit, leave_one_source_out(steps, fit, options)));
  return kDone;
}

}  // namespace shardwright
