#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/validate/fit_engines.h"

namespace shardwright {
namespace {

std::string left_out_text(const LeftOutSources& left_out) {
  std::string text = fmt::format("{:<24}{:>6}{:>11}{:>11}\n", "source", "rows", "in sample", "left out");
  int rows = 0;
  for (const LeftOutSource& s : left_out.sources) {
    rows += s.rows;
    text += fmt::format("{:<24}{:>6}{:>11}{:>11}\n", s.source, s.rows, percent(s.in_sample), percent(s.median_error));
  }
  return text + fmt::format("median over {} rows: {} in sample, {} left out\n", rows, percent(left_out.in_sample),
                            percent(left_out.median_error));
}

std::string coverage_text(const Coverage& held) {
  return fmt::format("intervals of 80 % hold {} of the steps left out, {} in sample; of {} pairs in families {}\n",
                     percent(held.steps), percent(held.in_sample), grouped(held.pair_count), percent(held.pairs));
}

/// Names between commas.
std::vector<std::string> read_sources(const std::string& text, const std::vector<TimedStep>& steps) {
  std::set<std::string> known;
  for (const TimedStep& step : steps) known.insert(step.source);
  std::vector<std::string> sources;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    sources.push_back(text.substr(begin, end - begin));
    if (!known.contains(sources.back()))
      throw InputError(fmt::format("--sources: no step is of source '{}'{}", shown(sources.back()),
                                   did_you_mean(sources.back(), {known.begin(), known.end()})));
    begin = end + 1;
  }
  return sources;
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
  if (const auto sources = arguments.find("--sources")) options.left_out = read_sources(*sources, steps);
  const EngineFit fit = fit_engines(steps, options);
  remark(fmt::format("{} rows, median error {}", fit.rows, percent(fit.median_error)));
  const std::string date = arguments.find("--date").value_or("");
  std::optional<ErrorRecord> errors = known_errors();  // those of an earlier fit, with its date
  if (left_out) {
    const LeftOutSources without = leave_one_source_out(steps, fit, options);
    std::string text = left_out_text(without);
    if (options.left_out.empty()) {  // else too few are known
      errors = prediction_errors(steps, fit, without);
      if (!date.empty()) errors->date = date;
      text += coverage_text(coverage(steps, without, *errors));
    }
    write_stdout(text);
  }
  return writes ? write_fit(arguments, place, engine_constants_yaml(fit, date, errors)) : kDone;
}

}  // namespace shardwright
