#include <fmt/format.h>

#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/serve/fit_serving.h"

namespace shardwright {
namespace {

std::string left_out_text(const std::vector<LeftOutServing>& left_out, std::string_view what) {
  std::string text = fmt::format("{:<20}{:<20}{:>6}{:>11}{:>11}\n", "engine", what, "rows", "in sample", "left out");
  for (const LeftOutServing& s : left_out)
    text += fmt::format("{:<20}{:<20}{:>6}{:>11}{:>11}\n", s.engine, s.source, s.rows, percent(s.in_sample),
                        percent(s.left_out));
  return text;
}

}  // namespace

int run_fit_serving(const Arguments& arguments) {
  const bool left_out = arguments.has("--leave-one-source-out");
  const bool writes = !left_out || arguments.find("--out");
  const std::string place = writes ? place_of_fit(arguments, "planner/engine/serving/constants/constants.yaml") : "";
  const int threads = read_threads(arguments);
  std::vector<ServedRow> rows = served_rows({arguments.positionals.begin() + 1, arguments.positionals.end()}, threads);
  if (rows.empty()) throw InputError("no row is of serving, of trust A, and can be predicted");
  const std::vector<FittedServing> fit = fit_serving(rows, threads);
  for (const FittedServing& engine : fit)
    remark(fmt::format("{}: {} rows, median error {}", engine.name, engine.rows, percent(engine.median_error)));
  if (left_out)
    write_stdout(left_out_text(leave_one_source_out(rows, fit, threads), "source") + "\n" +
                 left_out_text(leave_one_model_out(rows, fit, threads), "model"));
  return writes ? write_fit(arguments, place, serving_constants_yaml(fit)) : kDone;
}

}  // namespace shardwright
