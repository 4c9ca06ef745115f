#include "planner/validate/fit_engines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <set>

#include "planner/parallel.h"
#include "planner/pricer.h"
#include "planner/validate/validation_summary.h"

namespace shardwright {
namespace {

/// All that is fitted.
struct Values {
  std::map<std::string, EngineConstants> engines;  // generic, and those with their own
  std::map<std::string, SustainedClock> clocks;

  const EngineConstants& constants_of(const std::string& engine) const {
    const auto own = engines.find(engine);
    return own != engines.end() ? own->second : engines.at("generic");
  }
};

/// One number of them, on a scale where 0 changes nothing and 1 is usual.
struct Axis {
  std::string engine;  // "" of a clock
  EngineConstantFacts facts;
  std::string chip;
  double SustainedClock::*clock = nullptr;

  double& of(Values& values) const {
    return clock ? values.clocks.at(chip).*clock : values.engines.at(engine)[facts.constant];
  }
  double place(Values& values) const {
    const double value = of(values);
    return clock ? (1 / value - 1) / kUsualSlowing : (value - facts.neutral) / facts.usual;
  }
  void put(Values& values, double t) const {
    of(values) = clock ? 1 / (1 + kUsualSlowing * std::max(t, 0.0))
                       : std::clamp(facts.neutral + t * facts.usual, facts.low, facts.high);
  }
  /// Towards this it is pulled: an engine's own constant to generic's, a clock to the mean of all.
  double rest(Values& values) const {
    if (!clock) return engine == "generic" ? 0 : Axis{"generic", facts, "", nullptr}.place(values);
    double sum = 0;
    for (const auto& [name, known] : values.clocks) sum += Axis{"", {}, name, clock}.place(values);
    return sum / static_cast<double>(values.clocks.size());
  }

  static constexpr double kUsualSlowing = 0.2;
};

SustainedTimes times_of(const SustainedClock& clock) {
  SustainedTimes times;
  for (DataType type : kDataTypes) times.product[type] = 1 / (bytes_per_element(type) < 2 ? clock.fp8 : clock.bf16);
  times.attention = 1 / clock.attention;
  return times;
}

constexpr double kHeld = 0.8;

struct Weighed {
  double value, weight;
};
/// The least of the values that 80 % of the weight do not exceed; 0 of none.
double least_above(std::vector<Weighed> values) {
  std::sort(values.begin(), values.end(), [](const Weighed& a, const Weighed& b) { return a.value < b.value; });
  double all = 0, below = 0;
  for (const Weighed& v : values) all += v.weight;
  for (const Weighed& v : values)
    if ((below += v.weight) >= kHeld * all) return v.value;
  return 0;
}

/// The steps, each with what need not be done again for other values.
class Steps {
 public:
  Steps(const std::vector<TimedStep>& steps, int threads)
      : steps_(steps), threads_(threads), pricers_(steps.size()), chips_(steps.size()), widths_(steps.size()) {
    run_in_parallel(steps.size(), threads, [&](std::size_t i) {
      pricers_[i] = std::make_unique<Pricer>(steps[i].request);
      pricers_[i]->price_alone(steps[i].layout.recompute);
      chips_[i] = chip_of(steps[i].request.machine.name);
    });
  }

  std::size_t size() const { return steps_.size(); }
  const TimedStep& step(std::size_t i) const { return steps_[i]; }
  const std::string& engine(std::size_t i) const { return steps_[i].request.engine.fitted_as(); }
  const std::string& chip(std::size_t i) const { return chips_[i]; }
  bool is_narrow(std::size_t i) const { return bytes_per_element(steps_[i].request.workload.formats.compute) < 2; }

  /// log(predicted / measured) of some steps.
  void predict(const Values& values, const std::vector<std::size_t>& which, std::vector<double>& logs) {
    run_in_parallel(which.size(), threads_, [&](std::size_t k) {
      const std::size_t i = which[k];
      pricers_[i]->change(values.constants_of(engine(i)), times_of(values.clocks.at(chip(i))));
      const Prediction p = pricers_[i]->price(steps_[i].layout);
      logs[i] = std::log(p.step.value / steps_[i].seconds);
      widths_[i] = std::log(p.step_high / p.step);
    });
  }
  /// Half of an 80 % interval of the log, as last predicted: of kernels and collectives alone.
  double kernel_width(std::size_t i) const { return widths_[i]; }

 private:
  const std::vector<TimedStep>& steps_;
  int threads_;
  std::vector<std::unique_ptr<Pricer>> pricers_;
  std::vector<std::string> chips_;
  std::vector<double> widths_;
};

/// Solves a x = b for a symmetric positive matrix of b.size() columns, by Cholesky.
std::vector<double> solve(std::vector<double> a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i * n + j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
    }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return b;
}

/// A search for the best values of some axes on some of the steps.
class Fit {
 public:
  Fit(Steps& steps, std::vector<std::size_t> rows, Values values, const EngineFitOptions& options)
      : steps_(steps), rows_(std::move(rows)), values_(std::move(values)), options_(options), logs_(steps.size()) {
    steps_.predict(values_, rows_, logs_);
    std::map<std::string_view, double> count;
    for (std::size_t i : rows_) ++count[steps_.step(i).source];
    double sum = 0;
    weights_.resize(steps.size());
    for (std::size_t i : rows_) sum += weights_[i] = 1 / std::sqrt(count[steps_.step(i).source]);
    for (double& w : weights_) w /= sum;
  }

  const Values& values() const { return values_; }
  double log_of(std::size_t row) const { return logs_[row]; }
  double error_of(std::size_t row) const { return std::abs(std::expm1(logs_[row])); }

  /// Mean of |log(predicted / measured)| of an engine's rows.
  double mean_error(const std::string& engine) const {
    double sum = 0, n = 0;
    for (std::size_t i : rows_)
      if (steps_.engine(i) == engine) sum += std::abs(logs_[i]), ++n;
    return n > 0 ? sum / n : 0;
  }

  /// Gauss and Newton's steps, shortened as Levenberg and Marquardt's until they help; rows far off weigh less
  /// (soft L1).
  void search(const std::vector<Axis>& axes, int rounds) {
    double damping = 1e-3, best = cost(axes, values_, logs_);
    for (int round = 0; round < rounds; ++round) {
      const std::vector<double> slopes = slopes_along(axes);
      const double before = best;
      for (int attempt = 0; attempt < 6 && best == before; ++attempt) {
        Values values = moved(axes, slopes, damping);
        std::vector<double> logs = logs_;
        steps_.predict(values, rows_, logs);
        const double found = cost(axes, values, logs);
        damping *= found < best ? 0.2 : 10;
        if (found >= best) continue;
        best = found;
        values_ = std::move(values);
        logs_ = std::move(logs);
      }

      if (before - best < 2e-4 * best) return;
    }
  }

 private:
  static constexpr double kFar = 0.05;  // of a row's log: beyond it errors count by their size, not its square

  double cost(const std::vector<Axis>& axes, Values& values, const std::vector<double>& logs) const {
    double sum = 0;
    for (std::size_t i : rows_) sum += weights_[i] * 2 * kFar * kFar * (std::sqrt(1 + std::pow(logs[i] / kFar, 2)) - 1);
    for (const Axis& axis : axes) sum += options_.pull * std::pow(axis.place(values) - axis.rest(values), 2);
    return sum;
  }

  /// Which axis of a kind (one constant of all engines, all clocks of products, or of attention) a row feels; -1: none
  /// that is fitted.
  std::vector<int> felt(const std::vector<Axis>& axes, int kind) const {
    std::vector<int> result(steps_.size(), -1);
    for (std::size_t a = 0; a < axes.size(); ++a) {
      const Axis& axis = axes[a];
      if (kind_of(axis) != kind) continue;
      for (std::size_t i : rows_) {
        const bool own = values_.engines.contains(steps_.engine(i));
        const bool feels =
            axis.clock ? axis.chip == steps_.chip(i) && (axis.clock == &SustainedClock::attention ||
                                                         (axis.clock == &SustainedClock::fp8) == steps_.is_narrow(i))
                       : axis.engine == (own ? steps_.engine(i) : "generic");
        if (feels) result[i] = static_cast<int>(a);
      }
    }
    return result;
  }
  static constexpr int kKinds = kEngineConstants + 2;
  static int kind_of(const Axis& axis) {
    if (!axis.clock) return static_cast<int>(axis.facts.constant);
    return axis.clock == &SustainedClock::attention ? kEngineConstants + 1 : kEngineConstants;
  }

  /// By kind, then row. All axes of a kind move at once, since no row feels two of them.
  std::vector<double> slopes_along(const std::vector<Axis>& axes) {
    constexpr double kStep = 0.6;  // wide: some constants do nothing while they are small
    std::vector<double> slopes(kKinds * steps_.size());
    for (int kind = 0; kind < kKinds; ++kind) {
      Values values = values_;
      for (const Axis& axis : axes)
        if (kind_of(axis) == kind) axis.put(values, axis.place(values) + kStep);
      std::vector<double> logs = logs_;
      steps_.predict(values, rows_, logs);
      for (std::size_t i : rows_)
        slopes[static_cast<std::size_t>(kind) * steps_.size() + i] = (logs[i] - logs_[i]) / kStep;
    }
    return slopes;
  }

  Values moved(const std::vector<Axis>& axes, const std::vector<double>& slopes, double damping) {
    const std::size_t n = axes.size();
    std::vector<std::vector<int>> felt_by;
    for (int kind = 0; kind < kKinds; ++kind) felt_by.push_back(felt(axes, kind));
    std::vector<double> a(n * n), b(n);
    for (std::size_t i : rows_) {
      const double weight = weights_[i] / std::sqrt(1 + std::pow(logs_[i] / kFar, 2));
      for (std::size_t p = 0; p < felt_by.size(); ++p) {
        if (felt_by[p][i] < 0) continue;
        const auto x = static_cast<std::size_t>(felt_by[p][i]);
        const double slope = weight * slopes[p * steps_.size() + i];
        b[x] -= slope * logs_[i];
        for (std::size_t q = 0; q < felt_by.size(); ++q)
          if (felt_by[q][i] >= 0)
            a[x * n + static_cast<std::size_t>(felt_by[q][i])] += slope * slopes[q * steps_.size() + i];
      }
    }
    Values values = values_;
    for (std::size_t x = 0; x < n; ++x) {
      b[x] -= options_.pull * (axes[x].place(values) - axes[x].rest(values));
      a[x * n + x] = (a[x * n + x] + options_.pull) * (1 + damping);
    }
    // What would leave its range goes to the end of it, and the others move as they then should.
    std::vector<double> step(n);
    std::vector<char> held(n);
    for (bool again = true; again;) {
      std::vector<double> left = a, right = b;
      for (std::size_t x = 0; x < n; ++x)
        for (std::size_t y = 0; held[x] && y < n; ++y) {
          right[y] -= a[y * n + x] * step[x];
          left[x * n + y] = left[y * n + x] = x == y;
        }
      for (std::size_t x = 0; x < n; ++x)
        if (held[x]) right[x] = step[x];
      const std::vector<double> by = solve(std::move(left), std::move(right));
      again = false;
      for (std::size_t x = 0; x < n; ++x) {
        if (held[x]) continue;
        const double from = axes[x].place(values_), to = from + by[x];
        axes[x].put(values, to);
        step[x] = axes[x].place(values) - from;
        held[x] = std::abs(step[x] - by[x]) > 1e-9;
        again = again || held[x];
      }
    }
    return values;
  }

  Steps& steps_;
  std::vector<std::size_t> rows_;
  Values values_;
  const EngineFitOptions& options_;
  std::vector<double> logs_, weights_;
};

std::vector<Axis> axes_of_engine(const std::string& engine) {
  std::vector<Axis> axes;
  for (const EngineConstantFacts& facts : kEngineConstantFacts) axes.push_back({engine, facts, "", nullptr});
  return axes;
}

/// Of the chips and widths that have rows.
std::vector<Axis> axes_of_clocks(const Steps& steps, const std::vector<std::size_t>& rows) {
  std::set<std::pair<std::string, bool>> seen;
  for (std::size_t i : rows) seen.insert({steps.chip(i), steps.is_narrow(i)});
  std::vector<Axis> axes;
  std::set<std::string> chips;
  for (const auto& [chip, narrow] : seen) {
    axes.push_back({"", {}, chip, narrow ? &SustainedClock::fp8 : &SustainedClock::bf16});
    if (chips.insert(chip).second) axes.push_back({"", {}, chip, &SustainedClock::attention});
  }
  return axes;
}

std::vector<Axis> all_axes(const Steps& steps, const std::vector<std::size_t>& rows, const Values& values) {
  std::vector<Axis> axes = axes_of_clocks(steps, rows);
  for (const auto& [name, constants] : values.engines) {
    const std::vector<Axis> own = axes_of_engine(name);
    axes.insert(axes.end(), own.begin(), own.end());
  }
  return axes;
}

std::map<std::string, int> rows_by_engine(const Steps& steps, const std::vector<std::size_t>& rows) {
  std::map<std::string, int> counts;
  for (std::size_t i : rows) ++counts[steps.engine(i)];
  return counts;
}

std::vector<std::size_t> rows_where(const Steps& steps, const std::function<bool(std::size_t)>& wanted) {
  std::vector<std::size_t> rows;
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (wanted(i)) rows.push_back(i);
  return rows;
}

/// Where a search for nothing known begins: what is usual, since some constants change nothing before they are that
/// large.
Values usual_values(const Steps& steps) {
  Values values;
  values.engines["generic"] = {};
  for (const Axis& axis : axes_of_engine("generic")) axis.put(values, 1);
  for (std::size_t i = 0; i < steps.size(); ++i) values.clocks[steps.chip(i)] = {};
  return values;
}

constexpr int kMostRounds = 25;

/// The search begins at `start`.
Values fit_values(Steps& steps, const std::vector<std::size_t>& rows, const Values& start,
                  const EngineFitOptions& options) {
  Fit shared(steps, rows, {{{"generic", start.engines.at("generic")}}, start.clocks}, options);
  shared.search(all_axes(steps, rows, shared.values()), kMostRounds);
  Values values = shared.values();
  for (const auto& [name, count] : rows_by_engine(steps, rows))
    if (name != "generic" && count >= options.least_rows)
      values.engines[name] =
          start.engines.contains(name) ? start.engines.at(name) : usual_values(steps).engines.at("generic");
  Fit apart(steps, rows, values, options);
  apart.search(all_axes(steps, rows, values), kMostRounds);
  // Constants of its own an engine keeps only where it gains by them.
  Values kept = apart.values();
  for (const auto& [name, constants] : apart.values().engines)
    if (name != "generic" && shared.mean_error(name) - apart.mean_error(name) <= options.least_gain)
      kept.engines.erase(name);
  if (kept.engines.size() == apart.values().engines.size()) return kept;
  Fit last(steps, rows, kept, options);
  last.search(all_axes(steps, rows, kept), kMostRounds);
  return last.values();
}

double rounded(double value) { return std::stod(fmt::format("{:.4g}", value)); }

/// As the file will have them.
Values rounded(Values values) {
  for (auto& [name, constants] : values.engines)
    for (const EngineConstantFacts& facts : kEngineConstantFacts)
      constants[facts.constant] = std::clamp(rounded(constants[facts.constant]), facts.low, facts.high);
  for (auto& [chip, clock] : values.clocks) clock = {rounded(clock.bf16), rounded(clock.fp8), rounded(clock.attention)};
  return values;
}

/// The least engine's width that makes the intervals hold 80 % of `rows`.
double width_beside_kernels(const std::vector<LeftOutStep>& rows) {
  std::vector<Weighed> needed;  // of each row, the width that just holds it
  for (const LeftOutStep& row : rows)
    for (const double log : {row.log, row.in_sample})
      needed.push_back({std::sqrt(std::max(0.0, log * log - row.kernel_width * row.kernel_width)), 1});
  return least_above(needed);
}

/// Two steps of one family.
struct Pair {
  double off = 0;  ///< |log| of the predicted ratio over the measured one
  double weight = 1;
  std::size_t degrees = 0;  ///< how many of tp, pp, cp and ep differ; two stand for more, too
};
std::vector<Pair> pairs_of(const std::vector<TimedStep>& timed, const LeftOutSources& left_out) {
  std::map<std::string, std::vector<std::size_t>> families;
  for (std::size_t i = 0; i < timed.size(); ++i)
    if (!timed[i].family.empty()) families[timed[i].family].push_back(i);
  std::vector<Pair> pairs;
  for (const auto& [name, rows] : families) {
    const auto n = static_cast<double>(rows.size());
    for (std::size_t x = 0; x < rows.size(); ++x)
      for (std::size_t y = x + 1; y < rows.size(); ++y) {
        const Layout &a = timed[rows[x]].layout, &b = timed[rows[y]].layout;
        if (a == b) continue;
        pairs.push_back({std::abs(left_out.steps[rows[x]].log - left_out.steps[rows[y]].log),
                         1 / std::sqrt(n * (n - 1) / 2), std::min<std::size_t>(different_degrees(a, b), 2)});
      }
  }
  return pairs;
}

std::string errors_yaml(const ErrorRecord& record) {
  std::string text =
      "interval:  # half-widths of 80 % of log(predicted / measured), left out and in sample: planner/engine/"
      "prediction_errors.h\n";
  if (!record.date.empty()) text += fmt::format("  date: {}\n", record.date);
  text += fmt::format("  rows: {}\n", record.rows);
  for (const auto& [name, errors] : {std::pair{"fitted", &record.fitted}, {"unfitted", &record.unfitted}})
    text +=
        fmt::format("  {}: {{step: {:.4g}, step_of_experts: {:.4g}}}\n", name, errors->step, errors->step_of_experts);
  return text + fmt::format("  unknown_clock: {:.4g}\n  ratio: [{:.4g}]  # none, one, more of tp, pp, cp, ep differ\n",
                            record.fitted.unknown_clock, fmt::join(record.fitted.ratio, ", "));
}

std::vector<std::size_t> all_rows(const Steps& steps) {
  return rows_where(steps, [](std::size_t) { return true; });
}

Values values_of(const EngineFit& fit) {
  Values values;
  for (const auto& [name, engine] : fit.engines) values.engines[name] = engine.constants;
  values.clocks = fit.clocks;
  return values;
}

/// Where the clocks of the same width stand.
double mean_of(const std::vector<Axis>& clocks, const Axis& like, Values& values) {
  double sum = 0, n = 0;
  for (const Axis& axis : clocks)
    if (axis.clock == like.clock) sum += axis.place(values), ++n;
  return n > 0 ? sum / n : 0;
}

}  // namespace

std::string chip_of(const std::string& machine) {
  const std::string word = machine.substr(0, machine.find('-'));
  static const std::map<std::string, std::string> alike = {
      {"a800", "a100"}, {"h800", "h100"}, {"h200", "h100"}, {"gh200", "h100"}, {"gb300", "b300"}};
  const auto chip = alike.find(word);
  return chip == alike.end() ? word : chip->second;
}

EngineFit fit_engines(const std::vector<TimedStep>& timed, const EngineFitOptions& options) {
  Steps steps(timed, options.threads);
  const std::vector<std::size_t> rows = all_rows(steps);
  const Fit best(steps, rows, rounded(fit_values(steps, rows, usual_values(steps), options)), options);
  EngineFit fit;
  fit.clocks = best.values().clocks;
  std::map<std::string, std::vector<double>> errors;
  std::vector<double> all;
  std::set<std::string> sources;
  for (std::size_t i : rows) {
    const std::string& engine = steps.engine(i);
    errors[best.values().engines.contains(engine) ? engine : "generic"].push_back(best.error_of(i));
    all.push_back(best.error_of(i));
    sources.insert(timed[i].source);
    fit.newest = std::max(fit.newest, timed[i].measured_on);
  }
  for (const auto& [name, constants] : best.values().engines)
    fit.engines[name] = {static_cast<int>(errors[name].size()), median(errors[name]), constants};
  fit.rows = static_cast<int>(rows.size());
  fit.sources = static_cast<int>(sources.size());
  fit.median_error = median(all);
  return fit;
}

LeftOutSources leave_one_source_out(const std::vector<TimedStep>& timed, const EngineFit& fit,
                                    const EngineFitOptions& options) {
  Steps steps(timed, options.threads);
  const Fit in_sample(steps, all_rows(steps), values_of(fit), options);
  std::set<std::string> sources;
  for (const TimedStep& step : timed)
    if (options.left_out.empty() || std::count(options.left_out.begin(), options.left_out.end(), step.source))
      sources.insert(step.source);
  LeftOutSources result;
  result.steps.resize(timed.size());
  std::vector<double> all, all_before;
  for (const std::string& source : sources) {
    const auto others = rows_where(steps, [&](std::size_t i) { return timed[i].source != source; });
    const auto its = rows_where(steps, [&](std::size_t i) { return timed[i].source == source; });
    // A clock that only this source knew is taken for the mean of the others.
    std::vector<Axis> unknown;
    const std::vector<Axis> clocks = axes_of_clocks(steps, others);
    for (const auto& known : fit.clocks)
      for (const auto member : {&SustainedClock::bf16, &SustainedClock::fp8, &SustainedClock::attention})
        if (std::none_of(clocks.begin(), clocks.end(),
                         [&](const Axis& axis) { return axis.chip == known.first && axis.clock == member; }))
          unknown.push_back({"", {}, known.first, member});
    Values start = values_of(fit);
    for (const Axis& axis : unknown) axis.put(start, 0);
    Values found = fit_values(steps, others, start, options);
    for (const Axis& axis : unknown) axis.put(found, mean_of(clocks, axis, found));
    const Fit left_out(steps, its, found, options);
    std::vector<double> errors, before;
    for (std::size_t i : its) {
      const auto member = steps.is_narrow(i) ? &SustainedClock::fp8 : &SustainedClock::bf16;
      const bool guessed = std::any_of(unknown.begin(), unknown.end(), [&](const Axis& axis) {
        return axis.chip == steps.chip(i) && axis.clock == member;
      });
      const bool fitted = steps.engine(i) != "generic" && found.engines.contains(steps.engine(i));
      result.steps[i] = {left_out.log_of(i), steps.kernel_width(i), fitted, !guessed, in_sample.log_of(i)};
      errors.push_back(left_out.error_of(i));
      before.push_back(in_sample.error_of(i));
    }
    all.insert(all.end(), errors.begin(), errors.end());
    all_before.insert(all_before.end(), before.begin(), before.end());
    result.sources.push_back({source, static_cast<int>(its.size()), median(errors), median(before)});
  }
  result.median_error = median(all);
  result.in_sample = median(all_before);
  return result;
}

ErrorRecord prediction_errors(const std::vector<TimedStep>& timed, const EngineFit& fit,
                              const LeftOutSources& left_out) {
  constexpr std::size_t kFewest = 20;
  const auto rows_of = [&](const std::function<bool(std::size_t)>& wanted) {
    std::vector<LeftOutStep> rows;
    for (std::size_t i = 0; i < timed.size(); ++i)
      if (left_out.steps[i].known_clock && wanted(i)) rows.push_back(left_out.steps[i]);
    return rows;
  };
  const double of_all = rounded(width_beside_kernels(rows_of([](std::size_t) { return true; })));
  const auto width = [&](bool fitted, bool experts) {
    const auto rows = rows_of([&](std::size_t i) {
      return left_out.steps[i].fitted == fitted && (timed[i].request.model.n_routed_experts > 0) == experts;
    });
    return rows.size() < kFewest ? of_all : rounded(width_beside_kernels(rows));
  };
  ErrorRecord record;
  record.date = fit.newest;
  record.rows = static_cast<int>(timed.size());
  PredictionErrors shared;
  std::vector<Weighed> clocks;
  for (const auto& [chip, clock] : fit.clocks) clocks.push_back({std::abs(std::log(clock.bf16)), 1});
  shared.unknown_clock = rounded(least_above(clocks));
  std::array<std::vector<Weighed>, 3> ratios;
  for (const Pair& pair : pairs_of(timed, left_out)) ratios[pair.degrees].push_back({pair.off, pair.weight});
  for (std::size_t n = 0; n < ratios.size(); ++n) shared.ratio[n] = rounded(least_above(ratios[n]));
  record.fitted = record.unfitted = shared;
  record.fitted.step = width(true, false);
  record.fitted.step_of_experts = width(true, true);
  record.unfitted.step = width(false, false);
  record.unfitted.step_of_experts = width(false, true);
  return record;
}

Coverage coverage(const std::vector<TimedStep>& timed, const LeftOutSources& left_out, const ErrorRecord& record) {
  Coverage held;
  for (std::size_t i = 0; i < timed.size(); ++i) {
    const LeftOutStep& step = left_out.steps[i];
    const PredictionErrors& errors = step.fitted ? record.fitted : record.unfitted;
    const double engine = timed[i].request.model.n_routed_experts > 0 ? errors.step_of_experts : errors.step;
    const double clock = step.known_clock ? 0 : errors.unknown_clock;
    held.steps += std::abs(step.log) <= std::hypot(step.kernel_width, engine, clock);
    held.in_sample += std::abs(step.in_sample) <= std::hypot(step.kernel_width, engine);
  }
  held.steps /= static_cast<double>(timed.size());
  held.in_sample /= static_cast<double>(timed.size());
  for (const Pair& pair : pairs_of(timed, left_out)) {
    ++held.pair_count;
    held.pairs += pair.off <= record.fitted.ratio[pair.degrees];
  }
  if (held.pair_count > 0) held.pairs /= held.pair_count;
  return held;
}

std::string engine_constants_yaml(const EngineFit& fit, const std::string& date,
                                  const std::optional<ErrorRecord>& errors) {
  std::string text =
      "# Written by `shardwright fit engines`: what engines take beyond their kernels, and the clocks that machines "
      "keep "
      "in a long\n# run, fitted to published training steps (planner/validate/fit_engines.h). Engines that are not "
      "here have "
      "generic's. Constants:\n";
  for (const EngineConstantFacts& facts : kEngineConstantFacts)
    text += fmt::format("#   {}: {}{}; {:g} to {:g}\n", facts.name, facts.meaning,
                        facts.unit.empty() ? "" : ", seconds", facts.low, facts.high);
  text += "schema: shardwright.engine_constants/1\nrecord:\n";
  const std::string& of = date.empty() ? fit.newest : date;
  if (!of.empty()) text += fmt::format("  date: {}\n", of);
  text += fmt::format("  rows: {}\n  sources: {}\n  median_error: {:.4f}\nengines:\n", fit.rows, fit.sources,
                      fit.median_error);
  for (const auto& [name, engine] : fit.engines) {
    text += fmt::format("  {}:\n    rows: {}\n    median_error: {:.4f}\n    constants:\n", name, engine.rows,
                        engine.median_error);
    for (const EngineConstantFacts& facts : kEngineConstantFacts)
      text += fmt::format("      {}: {:.4g}\n", facts.name, engine.constants[facts.constant]);
  }
  text += "sustained_clock:  # for hardware/catalog, by chip\n";
  for (const auto& [chip, clock] : fit.clocks)
    text += fmt::format("  {}: {{bf16: {:.4g}, fp8: {:.4g}, attention: {:.4g}}}\n", chip, clock.bf16, clock.fp8,
                        clock.attention);
  return text + (errors ? errors_yaml(*errors) : "");
}

}  // namespace shardwright
