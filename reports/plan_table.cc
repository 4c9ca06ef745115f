#include "reports/plan_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <utility>

#include "reports/detail_text.h"
#include "reports/money_text.h"

namespace shardwright {
namespace {

using Align = TextTable::Align;

// ---- Rows ----

/// One column of a table of layouts. `always`: shown even where every row says the same.
struct LayoutColumn {
  TextTable::Column head;
  bool always = true;
  std::function<std::string(const PricedLayout&)> cell;
};

/// Recompute in at most 13 characters.
std::string short_recompute(const Recompute& recompute) {
  if (recompute.full) return "full";
  std::string text;
  const auto add = [&](RecomputeModule module, const char* name) {
    if (recompute.has(module)) text += (text.empty() ? "" : "+") + std::string(name);
  };
  add(RecomputeModule::core_attn, "attn");
  add(RecomputeModule::layernorm, "norm");
  add(RecomputeModule::mlp, "mlp");
  add(RecomputeModule::mla_up_proj, "mla");
  add(RecomputeModule::moe, "moe");
  add(RecomputeModule::moe_act, "act");
  add(RecomputeModule::shared_experts, "shared");
  return text.empty() ? "none" : text;
}

/// ZeRO's stage, and its group where that is not all of dp x cp.
std::string zero_text(const Layout& layout) {
  if (layout.zero == 0 || layout.shard_group == layout.data * layout.context) return std::to_string(layout.zero);
  return fmt::format("{}/{}", layout.zero, layout.shard_group);
}

/// cp with its kind: "8 ring", "2 ag" (all-gather), "4 a2a" (Ulysses' all-to-all).
std::string context_text(const Layout& layout) {
  static constexpr const char* kinds[] = {"ag", "a2a", "ring"};
  if (layout.context == 1) return "1";
  return fmt::format("{} {}", layout.context, kinds[static_cast<int>(layout.context_kind)]);
}

std::string short_schedule(Schedule schedule) {
  return schedule == Schedule::interleaved ? "intlv" : std::string(name_of(schedule));
}

std::vector<LayoutColumn> layout_columns() {
  const auto number = [](auto member) {
    return [member](const PricedLayout& row) { return std::to_string(row.layout.*member); };
  };
  return {
      {{"tp"}, true, number(&Layout::tensor)},
      {{"sp"}, true, [](const PricedLayout& row) { return row.layout.sequence_parallel ? "y" : "-"; }},
      {{"cp", Align::left}, false, [](const PricedLayout& row) { return context_text(row.layout); }},
      {{"pp"}, true, number(&Layout::pipeline)},
      {{"vpp"}, true, number(&Layout::virtual_pipeline)},
      {{"dp"}, true, number(&Layout::data)},
      {{"ep"}, false, number(&Layout::expert)},
      {{"etp"}, false, number(&Layout::expert_tensor)},
      {{"zero"}, true, [](const PricedLayout& row) { return zero_text(row.layout); }},
      {{"mb"}, true, number(&Layout::micro_batch)},
      {{"recompute", Align::left}, true, [](const PricedLayout& row) { return short_recompute(row.layout.recompute); }},
      {{"sched"}, false, [](const PricedLayout& row) { return short_schedule(row.layout.schedule); }},
      {{"type"}, false, [](const PricedLayout& row) { return std::string(name_of(row.precision)); }},
      {{"order"}, false, [](const PricedLayout& row) {
         return row.layout.rank_order == RankOrder::tp_cp_dp_pp ? "dp-pp" : "pp-dp";
       }}};
}

LayoutColumn predicted(std::string header, std::function<std::string(const Prediction&)> cell) {
  return {{std::move(header)}, true, [cell = std::move(cell)](const PricedLayout& row) {
            return row.prediction ? cell(*row.prediction) : std::string("?");
          }};
}

/// Decimals that leave four digits to read: "2.345", "12.35", "123.5", "1235".
std::string four_digits(double value) {
  const int decimals = value < 9.9995 ? 3 : value < 99.995 ? 2 : value < 999.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

/// Whether a column has something to say: cp of 1, the usual schedule, and one type or rank order for all is nothing.
/// The type always says something where it was searched.
bool says_something(const LayoutColumn& column, const std::vector<PricedLayout>& rows, bool any_precision) {
  if (column.always || (column.head.header == "type" && any_precision)) return true;
  for (const std::string_view degree : {"cp", "ep", "etp"}) {
    if (column.head.header != degree) continue;
    return std::any_of(rows.begin(), rows.end(), [&](const PricedLayout& row) { return column.cell(row) != "1"; });
  }
  if (column.head.header == "sched") {  // more chunks than one already say interleaved, and 1f1b is the rule
    return std::any_of(rows.begin(), rows.end(), [](const PricedLayout& row) {
      return row.layout.schedule != Schedule::one_f_one_b && row.layout.schedule != Schedule::interleaved;
    });
  }
  return std::any_of(rows.begin(), rows.end(),
                     [&](const PricedLayout& row) { return column.cell(row) != column.cell(rows[0]); });
}

TextTable table_of(const std::vector<LayoutColumn>& columns, const std::vector<PricedLayout>& rows) {
  std::vector<TextTable::Column> heads = {{"#"}};
  for (const LayoutColumn& column : columns) heads.push_back(column.head);
  TextTable table(heads);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<std::string> cells = {std::to_string(i + 1)};
    for (const LayoutColumn& column : columns) cells.push_back(column.cell(rows[i]));
    table.add_row(cells);
  }
  return table;
}

/// The rows with the layout's columns and then `results`; optional columns go when the line is too short for them.
std::vector<std::string> layout_lines(const std::vector<PricedLayout>& rows, const std::vector<LayoutColumn>& results,
                                      bool any_precision, const TableStyle& style) {
  std::vector<LayoutColumn> columns;
  for (const LayoutColumn& column : layout_columns()) {
    if (says_something(column, rows, any_precision)) columns.push_back(column);
  }
  columns.insert(columns.end(), results.begin(), results.end());
  const auto find = [&](const std::string& header) {
    return std::find_if(columns.begin(), columns.end(),
                        [&](const LayoutColumn& column) { return column.head.header == header; });
  };
  const bool schedules = find("sched") != columns.end();
  for (const std::string dropped : {"order", "tok/s/GPU", "sched"}) {
    if (table_of(columns, rows).width(1) <= style.width) break;
    if (dropped == "tok/s/GPU" && !schedules) continue;  // it goes for the schedule: the step says it, too
    if (const auto found = find(dropped); found != columns.end()) columns.erase(found);
  }
  const TextTable table = table_of(columns, rows);
  return table.lines(table.width(2) <= style.width ? 2 : 1);
}

/// The answer in a sentence.
std::string verdict_text(const PricedLayout& best, const SearchSummary& search, const TableStyle& style) {
  const Prediction& p = *best.prediction;
  return wrapped(
      fmt::format("{}: {}. A step takes {} ({} to {} holds 80 %), {} of peak. Confidence: {}.",
                  search.proven_best ? "Fastest" : "Fastest of what was searched", degrees_text(best.layout),
                  with_unit(p.step), with_unit(p.step_low), with_unit(p.step_high), percent(p.mfu), confidence(p)),
      style.width);
}

std::string ranked_table(const std::vector<PricedLayout>& rows, bool any_precision, const TableStyle& style) {
  const std::vector<LayoutColumn> results = {
      predicted("step s", [](const Prediction& p) { return four_digits(p.step.value); }),
      predicted("tok/s/GPU", [](const Prediction& p) { return four_digits(p.tokens_per_second_per_gpu); }),
      predicted("MFU %", [](const Prediction& p) { return fmt::format("{:.1f}", p.mfu * 100); }),
      predicted("mem GiB", [](const Prediction& p) { return in_gib(p.worst().reserved); })};
  const std::vector<std::string> lines = layout_lines(rows, results, any_precision, style);
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    text += (i == 0 ? bold(lines[i], style) : i == 1 ? green(lines[i], style) : lines[i]) + "\n";
  }
  return text;
}

// ---- Why ----

/// The second's time against the best's: the terms that make the difference, largest first.
std::string runner_up_text(const PricedLayout& best, const PricedLayout& second, const TableStyle& style) {
  const Prediction &a = *best.prediction, &b = *second.prediction;
  struct Term {
    const char* name;
    double more;
  };
  std::vector<Term> terms = {{"compute", (b.compute - a.compute).value},
                             {"communication", (b.exposed_communication - a.exposed_communication).value},
                             {"bubble", (b.bubble - a.bubble).value},
                             {"optimizer", (b.optimizer - a.optimizer).value}};
  std::stable_sort(terms.begin(), terms.end(),
                   [](const Term& x, const Term& y) { return std::fabs(x.more) > std::fabs(y.more); });
  std::string reasons;
  for (const Term& term : terms) {
    if (std::fabs(term.more) < 1e-4 * a.step.value) continue;
    reasons += fmt::format("{}{} {} {}", reasons.empty() ? ": " : ", ", with_unit(Seconds{std::fabs(term.more)}),
                           term.more > 0 ? "more" : "less", term.name);
  }
  const Seconds longer = b.step - a.step;
  const bool same_time = std::fabs(longer.value) < 1e-6 * a.step.value;
  const std::string verdict = same_time
                                  ? "#2 takes the same time"
                                  : fmt::format("#2 takes {} ({}) longer", with_unit(longer), percent(longer / a.step));
  const std::string order = same_time && reasons.empty() ? "; the order between them is that of the layouts' keys" : "";
  std::string differences = layout_differences(second.layout, best.layout);
  if (second.precision != best.precision) {
    differences += fmt::format("{}precision {} instead of {}", differences.empty() ? "" : ", ",
                               name_of(second.precision), name_of(best.precision));
  }
  return wrapped(fmt::format("{}{}{}. It has {}.", verdict, reasons, order, differences), style.width);
}

/// How many of the rows cannot be told from the best.
std::string tie_text(const std::vector<PricedLayout>& plans, const TableStyle& style) {
  const std::ptrdiff_t ties = ties_with_best(plans);
  if (ties == 0) return "";
  std::vector<std::string> runs;  // "#2 to #5", "#7"
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (!plans[i].ties) continue;
    const std::size_t first = i;
    while (i + 1 < plans.size() && plans[i + 1].ties) ++i;
    runs.push_back(first == i ? fmt::format("#{}", i + 1) : fmt::format("#{} to #{}", first + 1, i + 1));
  }
  return wrapped(
      fmt::format("{} of the {} below #1 {} with it, {}: the error of the ratio leaves the order open, which a "
                  "run would settle.",
                  ties, plans.size() - 1, ties == 1 ? "ties" : "tie", fmt::join(runs, ", ")),
      style.width);
}

// ---- The search ----

std::string rejected_text(const SearchSummary& search) {
  std::vector<std::pair<std::string, std::int64_t>> reasons(search.rejected.begin(), search.rejected.end());
  std::stable_sort(reasons.begin(), reasons.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::int64_t sum = 0;
  std::vector<std::string> parts;
  for (const auto& [reason, count] : reasons) {
    sum += count;
    parts.push_back(fmt::format("{} {}", grouped(count), reason));
  }
  const std::string list = parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, ", "));
  return fmt::format("{} rejected{}", grouped(sum), list);
}

std::string search_text(const SearchSummary& search, bool found, const TableStyle& style) {
  std::string text =
      fmt::format("Search: {} layouts considered = {} priced + {} pruned by bounds + {}.", grouped(search.considered),
                  grouped(search.priced), grouped(search.pruned), rejected_text(search));
  if (found) {
    text += search.proven_best ? " #1 is proven to be the best of them." : " #1 is not proven to be the best of them.";
  }
  return wrapped(text, style.width);
}

/// A rejected layout of each reason.
std::string rejected_layouts_text(const std::vector<PricedLayout>& rejected, const TableStyle& style) {
  if (rejected.empty()) return "";
  std::string text = "\n" + bold("Rejected, one layout of each reason", style) + "\n", last;
  for (const PricedLayout& p : rejected) {
    if (p.rejection->reason == last) continue;
    last = p.rejection->reason;
    text += wrapped(fmt::format("{}: {} ({})", last, p.rejection->detail, degrees_text(p.layout)), style.width, 2);
  }
  return text;
}

// ---- Memory against speed ----

/// At most `count` of the front: both ends and some between, evenly.
std::vector<PricedLayout> sample(const std::vector<PricedLayout>& front, std::size_t count) {
  if (front.size() <= count) return front;
  std::vector<PricedLayout> result;
  for (std::size_t i = 0; i < count; ++i) result.push_back(front[i * (front.size() - 1) / (count - 1)]);
  return result;
}

std::string pareto_text(const std::vector<PricedLayout>& front, bool any_precision, const TableStyle& style) {
  if (front.size() < 2) return "";
  const std::vector<LayoutColumn> results = {
      predicted("step s", [](const Prediction& p) { return four_digits(p.step.value); }),
      predicted("mem GiB", [](const Prediction& p) { return in_gib(p.worst().reserved); })};
  const std::vector<PricedLayout> rows = sample(front, 5);
  const std::string which = rows.size() == front.size() ? "" : fmt::format(" ({} of {})", rows.size(), front.size());
  std::string text = "\n" + bold(fmt::format("Less memory, for time{}", which), style) + "\n";
  const std::vector<std::string> lines = layout_lines(rows, results, any_precision, style);
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// ---- Nothing fits ----

std::string cheapest_change(const PlanRequest& request, const Prediction& p) {
  const StageMemory& stage = p.worst();
  const Bytes state = stage.parts.weights + stage.parts.gradients + stage.parts.optimizer;
  const LayoutPins& pins = request.pins;
  const bool pinned = pins.tp || pins.pp || pins.vpp || pins.cp || pins.dp || pins.sequence_parallel || pins.zero ||
                      pins.fsdp_group || pins.recompute || pins.micro_batch || pins.schedule || pins.rank_order ||
                      pins.layers_per_stage;
  if (pinned) return "Cheapest change to try: fewer pins; what was pinned is left out of this search.";
  if (state > request.machine.usable_memory()) {
    return fmt::format("Weights, gradients and optimizer state alone take {} GiB of a GPU there: more GPUs are needed.",
                       in_gib(state));
  }
  return fmt::format(
      "Weights, gradients and optimizer state take {} GiB of it, the rest grows with the sequence: a shorter sequence "
      "or "
      "more GPUs would help.",
      in_gib(state));
}

std::string nothing_fits_text(const PlanRequest& request, const PlanResult& result, const TableStyle& style) {
  std::string text = red("No layout of this space fits.", style) + "\n\n";
  const std::vector<PricedLayout>& nearest = result.nearest;
  if (!nearest.empty() && nearest[0].prediction) {
    const Bytes memory = request.machine.usable_memory();
    const std::vector<LayoutColumn> results = {
        predicted("step s", [](const Prediction& p) { return four_digits(p.step.value); }),
        predicted("mem GiB", [](const Prediction& p) { return in_gib(p.worst().reserved); }),
        predicted("over by", [memory](const Prediction& p) { return in_gib(p.worst().reserved - memory); })};
    text += bold("Nearest misses", style) + "\n";
    for (const std::string& line : layout_lines(nearest, results, request.any_precision, style)) text += line + "\n";
    const Prediction& p = *nearest[0].prediction;
    text += "\n" + wrapped(fmt::format("#1 misses in stage {} of {}: a GPU needs {} GiB and has {}.", p.worst_stage,
                                       p.stages.size(), in_gib(p.worst().reserved), in_gib(memory)),
                           style.width);
    text += wrapped(cheapest_change(request, p), style.width);
    text += "\n" + worst_stage_text(p, request.machine, style) + "\n";
  }
  return text + search_text(result.search, false, style) + rejected_layouts_text(result.rejected, style);
}

}  // namespace

std::string plan_table(const PlanRequest& request, const PlanResult& result, const AskedAs& asked,
                       const std::optional<PlanDetail>& detail, const TableStyle& style) {
  std::string text = question_text(request, result, style) + "\n";
  if (!result.tried.empty()) text += tried_text(result.tried, style) + "\n";
  if (!result.unreachable.empty()) return text + wrapped("No plan: " + result.unreachable + ".", style.width);
  if (result.sequence_unit) text += longest_sequence_text(result, style) + "\n";
  if (result.plans.empty() || !result.plans[0].fits) return text + nothing_fits_text(request, result, style);
  const std::vector<PricedLayout>& plans = result.plans;
  assert(plans[0].prediction && "a layout that fits has a prediction");
  const Prediction& best = *plans[0].prediction;
  text += verdict_text(plans[0], result.search, style) + "\n";
  text += ranked_table(plans, request.any_precision, style) + "\n";
  text += step_text(best, "Where a step of #1 goes", style) + "\n";
  if (plans.size() > 1 && plans[1].prediction) text += runner_up_text(plans[0], plans[1], style);
  text += tie_text(plans, style) + "\n";
  text += worst_stage_text(best, request.machine, style);
  text += wrapped("  layers by stage: " + layers_text(plans[0].layout), style.width, 2);
  text += pareto_text(result.pareto, request.any_precision, style) + "\n";
  if (result.run) text += run_text(*result.run, result.gpus, style) + "\n";
  if (detail) text += detail_text(best, *detail, style) + "\n";
  text += search_text(result.search, true, style) + rejected_layouts_text(result.rejected, style);
  text += (result.rejected.empty() ? "" : "\n") + source_text(best, result.calibration, style) + "\n";
  text += "#1 in detail:\n" + estimate_command(request, result, asked, plans[0], style);
  return text;
}

}  // namespace shardwright
