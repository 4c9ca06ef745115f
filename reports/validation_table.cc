#include "reports/validation_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "planner/validate/measured_schema.h"
#include "planner/validate/validation_summary.h"

namespace shardwright {
namespace {

/// The phrase of the documented list that a reason starts with.
std::string phrase_of(const std::string& reason) { return reason.substr(0, reason.find(": ")); }

std::string first_line(const Validation& validation, const TableStyle& style) {
  std::set<std::string> rows, unscored;
  for (const ValidationRow& row : validation.rows) {
    rows.insert(row.id);
    if (!is_scored(row)) unscored.insert(row.id);
  }
  return wrapped(
      fmt::format("{} rows predicted ({} of them suspect or of trust C, not scored), {} skipped; {} measured numbers.",
                  grouped(static_cast<std::int64_t>(rows.size())), grouped(static_cast<std::int64_t>(unscored.size())),
                  grouped(static_cast<std::int64_t>(validation.skipped.size())),
                  grouped(static_cast<std::int64_t>(validation.rows.size()))),
      style.width);
}

/// Kernels and collectives: their errors are those of the time.
bool is_timed_alone(const std::string& kind) {
  return kind == name_of(MeasuredKind::kernel) || kind == name_of(MeasuredKind::collective);
}

/// One table for a kind and metric: all sources, then parts of them.
std::string errors_text(const Validation& validation, const TableStyle& style) {
  std::string text;
  const std::vector<ErrorSummary>& all = validation.summary;
  for (std::size_t begin = 0; begin < all.size();) {
    TextTable table({{"source", TextTable::Align::left},
                     {"n"},
                     {"mean"},
                     {"median"},
                     {"90th"},
                     {"signed median"},
                     {"in interval"}});
    std::size_t end = begin;
    for (; end < all.size() && all[end].kind == all[begin].kind && all[end].metric == all[begin].metric; ++end) {
      const ErrorSummary& e = all[end];
      const int intervals = e.n - e.without_interval;
      const std::string part = e.span.empty() ? e.source : e.span;
      table.add_row({part.empty() ? "all" : "  " + part, std::to_string(e.n), percent(e.mean_absolute),
                     percent(e.median_absolute), percent(e.p90_absolute), signed_percent(e.signed_median),
                     intervals > 0 ? percent(static_cast<double>(e.held) / intervals, 0) : ""});
    }
    text += "\n" +
            bold(fmt::format("{}: {}, relative error{}", all[begin].kind, all[begin].metric,
                             is_timed_alone(all[begin].kind) ? " of the time" : ""),
                 style) +
            "\n";
    for (const std::string& line : table.lines(2)) text += line + "\n";
    begin = end;
  }
  return text;
}

/// Serving: one table for a metric, engines and below each its models.
std::string serving_text(const Validation& validation, const TableStyle& style) {
  std::string text;
  const std::vector<ServingErrors>& all = validation.serving;
  for (std::size_t begin = 0; begin < all.size();) {
    TextTable table({{"engine", TextTable::Align::left}, {"n"}, {"median"}, {"90th"}, {"signed median"}});
    std::size_t end = begin;
    for (; end < all.size() && all[end].serving == all[begin].serving && all[end].metric == all[begin].metric; ++end) {
      const ServingErrors& e = all[end];
      table.add_row({e.model.empty() ? e.engine : "  " + e.model, std::to_string(e.n), percent(e.median_absolute),
                     percent(e.p90_absolute), signed_percent(e.signed_median)});
    }
    text +=
        "\n" +
        bold(fmt::format("serving, {}: {}, relative error by engine and model", all[begin].serving, all[begin].metric),
             style) +
        "\n";
    for (const std::string& line : table.lines(2)) text += line + "\n";
    begin = end;
  }
  return text;
}

std::string share_text(int part, int whole) {
  return whole == 0 ? "none" : fmt::format("{} of {} ({})", part, whole, percent(static_cast<double>(part) / whole));
}

std::string intervals_text(const Validation& validation, const TableStyle& style) {
  std::string text = validation.intervals.empty() ? "" : "\n";
  for (const IntervalSummary& kind : validation.intervals)
    text += wrapped(fmt::format("Intervals of 80 % hold what was measured for {} {}.", share_text(kind.held, kind.n),
                                is_timed_alone(kind.kind) ? "times of " + kind.kind + "s" : kind.kind + " steps"),
                    style.width);
  return text;
}

/// Ranking and out of memory; nothing where no layouts were asked.
std::string layouts_text(const Validation& validation, const TableStyle& style) {
  const auto is_layout = [](const ValidationRow& row) {
    return row.kind == name_of(MeasuredKind::training) || row.kind == name_of(MeasuredKind::inference);
  };
  if (!validation.rows.empty() && std::none_of(validation.rows.begin(), validation.rows.end(), is_layout)) return "";
  std::string text = validation.intervals.empty() ? "\n" : "";
  if (!validation.ranking) text += "Ranking: no family with layouts to tell apart.\n";
  for (const auto& [which, ranking] : {std::pair{"that say what tells their rows apart", &validation.complete_ranking},
                                       {"that do not", &validation.incomplete_ranking}})
    if (*ranking)
      text += wrapped(
          fmt::format("Ranking, mean over the {} families {}: Kendall tau {:.2f}; the predicted best is {} "
                      "slower than the measured best.",
                      (*ranking)->families, which, (*ranking)->kendall_tau_mean, percent((*ranking)->top_regret_mean)),
          style.width);
  const OutOfMemory& oom = validation.out_of_memory;
  text += wrapped(fmt::format("Out of memory: predicted for {} that ran out, and for {} that did not.",
                              share_text(oom.true_positive, oom.true_positive + oom.false_negative),
                              share_text(oom.false_positive, oom.false_positive + oom.true_negative)),
                  style.width);
  return text;
}

constexpr std::size_t kMostWorst = 5;

/// The scored rows that are most off.
std::string worst_text(const Validation& validation, const TableStyle& style) {
  const auto off = [](const ValidationRow* row) {
    return std::abs(is_timed_alone(row->kind) ? row->time_error.value_or(0) : row->relative_error.value_or(0));
  };
  std::vector<const ValidationRow*> rows;
  for (const ValidationRow& row : validation.rows)
    if (is_scored(row) && off(&row) > 0) rows.push_back(&row);
  if (rows.empty()) return "";
  std::stable_sort(rows.begin(), rows.end(), [&](const auto* a, const auto* b) { return off(a) > off(b); });
  std::string text = "\n" + bold("Most off", style) + "\n";
  for (std::size_t i = 0; i < rows.size() && i < kMostWorst; ++i)
    text += wrapped(fmt::format("{}: {} off by {}: measured {:.4g}, predicted {:.4g}", rows[i]->id, rows[i]->metric,
                                percent(off(rows[i])), rows[i]->measured.value_or(0), rows[i]->predicted),
                    style.width, 2);
  return text;
}

std::string skipped_text(const Validation& validation, bool verbose, const TableStyle& style) {
  if (validation.skipped.empty()) return "";
  std::map<std::string, std::vector<const SkippedRow*>> by_phrase;
  for (const SkippedRow& row : validation.skipped) by_phrase[phrase_of(row.reason)].push_back(&row);
  std::vector<std::pair<std::string, std::vector<const SkippedRow*>>> groups(by_phrase.begin(), by_phrase.end());
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  std::string text = "\n" + bold("Skipped", style) + "\n";
  for (const auto& [phrase, rows] : groups) {
    text += fmt::format("{:>7}  {}\n", grouped(static_cast<std::int64_t>(rows.size())), phrase);
    if (!verbose) continue;
    for (const SkippedRow* row : rows) {
      const std::string detail = row->reason.size() > phrase.size() ? row->reason.substr(phrase.size()) : "";
      text += wrapped(row->id + detail, style.width, 11);
    }
  }
  return text;
}

}  // namespace

std::string validation_table(const Validation& validation, bool verbose, const TableStyle& style) {
  return first_line(validation, style) + errors_text(validation, style) + serving_text(validation, style) +
         intervals_text(validation, style) + layouts_text(validation, style) + worst_text(validation, style) +
         skipped_text(validation, verbose, style);
}

}  // namespace shardwright
