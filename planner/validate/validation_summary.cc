#include "planner/validate/validation_summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

namespace shardwright {
namespace {

constexpr double kTie = 0.02;  // measured closer than this is the noise of a run

/// Published speeds by which layouts can be ranked, the best to use first.
struct SpeedMetric {
  std::string_view name;
  bool is_time;
};
constexpr std::array<SpeedMetric, 13> kSpeedMetrics = {{{"iteration_seconds", true},
                                                        {"tokens_per_second_per_gpu", false},
                                                        {"tokens_per_second", false},
                                                        {"samples_per_second_per_gpu", false},
                                                        {"tflops_per_gpu", false},
                                                        {"mfu", false},
                                                        {"hfu", false},
                                                        {"training_days", true},
                                                        {"gpu_hours_per_trillion_tokens", true},
                                                        {"output_tokens_per_second", false},
                                                        {"output_tokens_per_second_per_gpu", false},
                                                        {"tpot_seconds", true},
                                                        {"request_latency_seconds", true}}};

bool has_layout(const ValidationRow& row) { return row.kind == "training" || row.kind == "inference"; }

// ---- Errors ----

double p90(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[(values.size() * 9 + 9) / 10 - 1];
}

/// Whether the interval holds what was measured.
bool is_held(const ValidationRow& row) {
  return row.has_interval && row.measured && row.predicted_low <= *row.measured && *row.measured <= row.predicted_high;
}

std::vector<ErrorSummary> error_summaries(const std::vector<ValidationRow>& rows) {
  struct Group {
    std::string kind, metric, source, span;
    auto operator<=>(const Group&) const = default;
  };
  std::map<Group, std::vector<double>> errors;
  std::map<Group, int> held, without_interval;
  for (const ValidationRow& row : rows) {
    const std::optional<double> error = has_layout(row) ? row.relative_error : row.time_error;
    if (!is_scored(row) || !error) continue;
    std::vector<Group> groups = {{row.kind, row.metric, "", ""}, {row.kind, row.metric, row.source, ""}};
    if (!row.span.empty()) groups.push_back({row.kind, row.metric, "", row.span});
    for (const Group& group : groups) {
      errors[group].push_back(*error);
      held[group] += is_held(row);
      without_interval[group] += !row.has_interval;
    }
  }
  std::vector<ErrorSummary> result;
  for (const auto& [group, signed_errors] : errors) {
    std::vector<double> sizes;
    double sum = 0;
    for (const double error : signed_errors) {
      sizes.push_back(std::fabs(error));
      sum += std::fabs(error);
    }
    result.push_back({group.kind, group.metric, group.source, static_cast<int>(sizes.size()),
                      sum / static_cast<double>(sizes.size()), median(sizes), p90(sizes), median(signed_errors),
                      group.span, held[group], without_interval[group]});
  }
  return result;
}

std::vector<ServingErrors> serving_errors(const std::vector<ValidationRow>& rows) {
  using Group = std::tuple<std::string, std::string, std::string, std::string>;
  std::map<Group, std::vector<double>> errors;
  for (const ValidationRow& row : rows) {
    if (!is_scored(row) || !row.relative_error || row.serving.empty()) continue;
    for (const std::string& model : {std::string(), row.model})
      errors[{row.serving, row.metric, row.engine, model}].push_back(*row.relative_error);
  }
  std::vector<ServingErrors> result;
  for (const auto& [group, signed_errors] : errors) {
    const auto& [serving, metric, engine, model] = group;
    std::vector<double> sizes;
    for (const double error : signed_errors) sizes.push_back(std::fabs(error));
    result.push_back({serving, metric, engine, model, static_cast<int>(sizes.size()), median(sizes), p90(sizes),
                      median(signed_errors)});
  }
  return result;
}

std::size_t place_of(const std::string& metric) {
  const auto found = std::find_if(kSpeedMetrics.begin(), kSpeedMetrics.end(),
                                  [&](const SpeedMetric& speed) { return speed.name == metric; });
  return static_cast<std::size_t>(found - kSpeedMetrics.begin());
}

std::vector<IntervalSummary> interval_summaries(const std::vector<ValidationRow>& rows) {
  std::map<std::string, const ValidationRow*> steps;  // by id, with the best of its speeds
  std::map<std::string, IntervalSummary> kinds;
  const auto add = [&](const ValidationRow& row) {
    IntervalSummary& kind = kinds[row.kind];
    kind.kind = row.kind;
    ++kind.n;
    kind.held += is_held(row);
  };
  for (const ValidationRow& row : rows) {
    if (!is_scored(row)) continue;
    if (!has_layout(row) && row.time_error && row.has_interval) add(row);
    if (!has_layout(row) || !row.relative_error || place_of(row.metric) == kSpeedMetrics.size()) continue;
    const ValidationRow*& best = steps[row.id];
    if (!best || place_of(row.metric) < place_of(best->metric)) best = &row;
  }
  for (const auto& [id, row] : steps) add(*row);
  std::vector<IntervalSummary> result;
  for (const auto& [name, kind] : kinds) result.push_back(kind);
  return result;
}

// ---- Ranking ----

/// Times of one layout; from rates as 1 / rate.
struct Times {
  double measured, predicted;
};

/// The family's rows by the speed that most of them have.
std::vector<Times> times_of_family(const std::vector<const ValidationRow*>& rows) {
  std::vector<Times> best;
  for (const SpeedMetric& metric : kSpeedMetrics) {
    std::vector<Times> times;
    for (const ValidationRow* row : rows) {
      if (row->metric != metric.name || !row->measured || !(*row->measured > 0) || !(row->predicted > 0)) continue;
      times.push_back(metric.is_time ? Times{*row->measured, row->predicted}
                                     : Times{1 / *row->measured, 1 / row->predicted});
    }
    if (times.size() > best.size()) best = times;
  }
  return best;
}

std::optional<double> kendall_tau(const std::vector<Times>& times) {
  int pairs = 0, balance = 0;
  for (std::size_t i = 0; i < times.size(); ++i) {
    for (std::size_t j = i + 1; j < times.size(); ++j) {
      const auto [faster, slower] =
          times[i].measured < times[j].measured ? std::pair(times[i], times[j]) : std::pair(times[j], times[i]);
      if (slower.measured < faster.measured * (1 + kTie)) continue;
      ++pairs;
      balance += (faster.predicted < slower.predicted) - (faster.predicted > slower.predicted);
    }
  }
  if (pairs == 0) return std::nullopt;
  return static_cast<double>(balance) / pairs;
}

double top_regret(const std::vector<Times>& times) {
  const auto chosen = std::min_element(times.begin(), times.end(),
                                       [](const Times& a, const Times& b) { return a.predicted < b.predicted; });
  const auto best = std::min_element(times.begin(), times.end(),
                                     [](const Times& a, const Times& b) { return a.measured < b.measured; });
  return chosen->measured / best->measured - 1;
}

/// Whether the rows say what tells them apart: what decides most about their speed, and no two that were measured apart
/// ask the same.
bool is_complete(const std::vector<const ValidationRow*>& family) {
  for (const ValidationRow* a : family) {
    if (a->metric == "oom") continue;
    if (!states_speed(a->layout_assumed)) return false;
    for (const ValidationRow* b : family)
      if (b->metric == a->metric && b->layout == a->layout && b->predicted == a->predicted && a->measured &&
          b->measured && *b->measured >= *a->measured * (1 + kTie) && place_of(a->metric) < kSpeedMetrics.size())
        return false;
  }
  return true;
}

using Families = std::map<std::pair<std::string, std::string>, std::vector<const ValidationRow*>>;

Families families_of(const std::vector<ValidationRow>& rows) {
  Families families;
  for (const ValidationRow& row : rows) {
    if (is_scored(row) && has_layout(row) && !row.family.empty()) families[{row.kind, row.family}].push_back(&row);
  }
  return families;
}

template <typename F>
std::optional<RankingSummary> ranking(const Families& families, const F& wanted) {
  RankingSummary result;
  for (const auto& [name, members] : families) {
    if (!wanted(members)) continue;
    const std::vector<Times> times = times_of_family(members);
    const std::optional<double> tau = kendall_tau(times);
    if (!tau) continue;
    ++result.families;
    result.kendall_tau_mean += *tau;
    result.top_regret_mean += top_regret(times);
  }
  if (result.families == 0) return std::nullopt;
  result.kendall_tau_mean /= result.families;
  result.top_regret_mean /= result.families;
  return result;
}

// ---- Out of memory ----

OutOfMemory out_of_memory(const std::vector<ValidationRow>& rows) {
  struct Outcome {
    bool ran_out = false, fits = false;
  };
  std::map<std::string, Outcome> outcomes;
  for (const ValidationRow& row : rows) {
    if (!is_scored(row) || !has_layout(row)) continue;
    Outcome& outcome = outcomes[row.id];
    outcome.ran_out |= row.metric == "oom";
    outcome.fits = row.layout_fits;
  }
  OutOfMemory counts;
  for (const auto& [id, outcome] : outcomes) {
    if (outcome.ran_out) ++(outcome.fits ? counts.false_negative : counts.true_positive);
    if (!outcome.ran_out) ++(outcome.fits ? counts.true_negative : counts.false_positive);
  }
  return counts;
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

bool is_scored(const ValidationRow& row) { return !row.suspect && row.trust != "C"; }

void summarise(Validation& validation) {
  validation.summary = error_summaries(validation.rows);
  validation.serving = serving_errors(validation.rows);
  validation.intervals = interval_summaries(validation.rows);
  const Families families = families_of(validation.rows);
  validation.ranking = ranking(families, [](const auto&) { return true; });
  validation.complete_ranking = ranking(families, is_complete);
  validation.incomplete_ranking = ranking(families, [](const auto& family) { return !is_complete(family); });
  validation.out_of_memory = out_of_memory(validation.rows);
}

}  // namespace shardwright
