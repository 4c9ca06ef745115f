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

std::string coverage_text(const Coverage& held) {
  return fmt::format("intervals of 80 %, left out: they hold {} of the steps, and of {} pairs in families {}\n",
                     percent(held.steps), grouped(held.pair_count), percent(held.pairs));
}

}  // namespace

int run_fit_engines(const Arguments& arguments) {
  const bool left_out = arguments.has("--leave-one-source-out");
  const bool writes = !left_out || arguments.find("--out");
  const std::string place = writes ? place_of_fit(arguments, "planner/engine/constants/constants.yaml") : "";
  EngineFitOptions options;
  options.threads = read_threads(arguments);
  const std::vector<TimedStep> steps =
      timed_steps({arguments.positionals.begin() + 1, arguments.positionals.end()}, options.threads);
  if (steps.empty()) throw InputError("no row is a training step whose speed was published and can be predicted");
  const EngineFit fit = fit_engines(steps, options);
  remark(fmt::format("{} rows, median error {}", fit.rows, percent(fit.median_error)));
  const std::string date = arguments.find("--date").value_or("");
  std::optional<ErrorRecord> errors = known_errors();  // those of an earlier fit, with its date
  if (left_out) {
    const LeftOutSources without = leave_one_source_out(steps, fit, options);
    errors = prediction_errors(steps, fit, without);
    if (!date.empty()) errors->date = date;
    write_stdout(left_out_text(fit, without) + coverage_text(coverage(steps, without, *errors)));
  }
  return writes ? write_fit(arguments, place, engine_constants_yaml(fit, date, errors)) : kDone;
}

}  // namespace shardwright
