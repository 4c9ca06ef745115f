#include "reports/money_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace shardwright {
namespace {

/// A run that fails before it has saved anything takes for ever.
std::string whole(double number) { return number < 1e15 ? grouped(std::llround(number)) : "without end"; }

/// "54.1", "1,204"
std::string in_days(Seconds time) {
  const double days = time.value / 86400;
  return days < 999.5 ? fmt::format("{:.1f}", days) : whole(days);
}

/// "24 min", "3.1 h"
std::string span(Seconds time) {
  if (time.value < 600) return with_unit(time);
  if (time.value < 2 * 3600) return fmt::format("{:.0f} min", time.value / 60);
  return fmt::format("{:.1f} h", time.value / 3600);
}

std::string failures_text(const RunCost& run, std::int64_t gpus, const TableStyle& style) {
  if (!run.failures) {
    return wrapped("Failures are not modelled: --mtbf-hours says how often a GPU has one.", style.width);
  }
  const FailureCost& f = *run.failures;
  std::string text = fmt::format(
      "Failures: one every {} on {} GPUs, {} in all. With a checkpoint of {} after every {} of training (Daly 2006) "
      "{} of the time is progress",
      span(f.mtbf), grouped(gpus), whole(f.failures), span(f.checkpoint), span(f.interval), percent(f.progress));
  text += f.restart > Seconds{} ? fmt::format("; a restart takes {}.", span(f.restart))
                                : "; restarts take no time here: --restart-seconds says how long.";
  return wrapped(text, style.width);
}

}  // namespace

std::string run_text(const RunCost& run, std::int64_t gpus, const TableStyle& style) {
  std::string text =
      bold(fmt::format("A run over {} tokens", short_count(std::llround(run.question.tokens))), style) + "\n";
  const auto add = [&](const char* name, const std::string& value) {
    text += fmt::format("  {:<31}{}\n", name, value);
  };
  add("steps", whole(run.steps));
  if (run.failures) add("days without failures", in_days(run.undisturbed));
  add("days", in_days(run.time));
  add("tokens per second", whole(run.tokens_per_second));
  add("GPU-hours", whole(run.gpu_hours));
  if (run.price)
    add("price", fmt::format("{} at {:g} a GPU-hour", whole(*run.price), *run.question.price_per_gpu_hour));
  if (run.question.experiments != 1) {
    add("GPU-hours with experiments",
        fmt::format("{} (x {:g}, as you say)", whole(run.all_gpu_hours), run.question.experiments));
    if (run.all_price) add("price with experiments", whole(*run.all_price));
  }
  return text + failures_text(run, gpus, style);
}

std::string tried_text(const std::vector<TriedGpus>& tried, const TableStyle& style) {
  const bool price =
      std::any_of(tried.begin(), tried.end(), [](const TriedGpus& t) { return t.cost && t.cost->price; });
  std::vector<TextTable::Column> columns = {{"GPUs"}, {"step"}, {"days"}, {"GPU-hours"}};
  if (price) columns.push_back({"price"});
  columns.push_back({"reaches it"});
  TextTable table(columns);
  for (const TriedGpus& t : tried) {
    std::vector<std::string> cells = {grouped(t.gpus)};
    if (t.cost) {
      cells.insert(cells.end(), {with_unit(t.step), in_days(t.cost->time), whole(t.cost->gpu_hours)});
      if (price) cells.push_back(whole(*t.cost->price));
    } else {
      cells.insert(cells.end(), price ? 4 : 3, "-");
    }
    cells.push_back(t.reaches ? "yes" : t.cost ? "no" : "does not fit");
    table.add_row(cells);
  }
  std::string text = bold("GPUs tried, each with its fastest layout", style) + "\n";
  for (const std::string& line : table.lines(2, 2)) text += line + "\n";
  const auto first = std::find_if(tried.begin(), tried.end(), [](const TriedGpus& t) { return t.reaches; });
  if (first == tried.end()) return text;
  return text + wrapped(fmt::format("{} are the fewest of these that reach it.", grouped(first->gpus)), style.width);
}

std::string longest_sequence_text(const PlanResult& result, const TableStyle& style) {
  return wrapped(fmt::format("{} tokens are the longest sequence, in multiples of {}, with which a layout fits.",
                             grouped(result.workload.sequence_length), grouped(*result.sequence_unit)),
                 style.width);
}

}  // namespace shardwright
