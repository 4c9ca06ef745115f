#include "planner/fit_engines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <set>

#include "planner/parallel.h"
#include "planner/pricer.h"

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

/// One number of them, on a scale from 0 to 1 along which a step means about the same everywhere: square where the
/// range begins at what changes nothing, so that small values are told apart; else logarithmic.
struct Axis {
  std::string engine;  // "" of a clock
  EngineConstantFacts facts;
  std::string chip;
  double SustainedClock::*clock = nullptr;

  double& of(Values& values) const {
    return clock ? values.clocks.at(chip).*clock : values.engines.at(engine)[facts.constant];
  }
  double at(double t) const {
    if (clock) return 1 - (1 - kLeastClock) * t * t;
    if (facts.neutral == facts.low) return facts.low + (facts.high - facts.low) * t * t;
    return facts.low * std::pow(facts.high / facts.low, t);
  }
  double place(double value) const {
    if (clock) return std::sqrt((1 - value) / (1 - kLeastClock));
    if (facts.neutral == facts.low) return std::sqrt((value - facts.low) / (facts.high - facts.low));
    return std::log(value / facts.low) / std::log(facts.high / facts.low);
  }
  /// Towards this it is pulled.
  double rest(const Values& values) const {
    if (clock) return 0;
    return place(engine == "generic" ? facts.neutral : values.engines.at("generic")[facts.constant]);
  }

  static constexpr double kLeastClock = 0.5;
};

SustainedTimes times_of(const SustainedClock& clock) {
  SustainedTimes times;
  for (DataType type : kDataTypes) times.product[type] = 1 / (bytes_per_element(type) < 2 ? clock.fp8 : clock.bf16);
  return times;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/// The steps, each with what need not be done again for other values.
class Steps {
 public:
  Steps(const std::vector<TimedStep>& steps, int threads)
      : steps_(steps), threads_(threads), pricers_(steps.size()), chips_(steps.size()) {
    run_in_parallel(steps.size(), threads, [&](std::size_t i) {
      pricers_[i] = std::make_unique<Pricer>(steps[i].request);
      chips_[i] = chip_of(steps[i].request.machine.name);
    });
  }

  std::size_t size() const { return steps_.size(); }
  const TimedStep& step(std::size_t i) const { return steps_[i]; }
  const std::string& engine(std::size_t i) const { return steps_[i].request.engine.name; }
  const std::string& chip(std::size_t i) const { return chips_[i]; }
  bool is_narrow(std::size_t i) const { return bytes_per_element(steps_[i].request.workload.formats.compute) < 2; }

  /// log(predicted / measured) of some steps.
  void predict(const Values& values, const std::vector<std::size_t>& which, std::vector<double>& logs) {
    run_in_parallel(which.size(), threads_, [&](std::size_t k) {
      const std::size_t i = which[k];
      pricers_[i]->change(values.constants_of(engine(i)), times_of(values.clocks.at(chip(i))));
      logs[i] = std::log(pricers_[i]->price(steps_[i].layout).step.value / steps_[i].seconds);
    });
  }

 private:
  const std::vector<TimedStep>& steps_;
  int threads_;
  std::vector<std::unique_ptr<Pricer>> pricers_;
  std::vector<std::string> chips_;
};

/// A search for the best values of some axes on some of the steps.
class Fit {
 public:
  Fit(Steps& steps, std::vector<std::size_t> rows, Values values, const EngineFitOptions& options)
      : steps_(steps), rows_(std::move(rows)), values_(std::move(values)), options_(options), logs_(steps.size()) {
    steps_.predict(values_, rows_, logs_);
  }

  const Values& values() const { return values_; }
  double log_of(std::size_t row) const { return logs_[row]; }
  double error_of(std::size_t row) const { return std::abs(std::expm1(logs_[row])); }

  /// Mean over the sources of their rows' mean, of the rows of an engine or of all ("").
  double mean_error(const std::vector<double>& logs, const std::string& engine = "") const {
    std::map<std::string_view, std::pair<double, int>> by_source;
    for (std::size_t i : rows_) {
      if (!engine.empty() && steps_.engine(i) != engine) continue;
      auto& [sum, n] = by_source[steps_.step(i).source];
      sum += std::abs(logs[i]);
      ++n;
    }
    double mean = 0;
    for (const auto& [source, sum] : by_source) mean += sum.first / sum.second;
    return by_source.empty() ? 0 : mean / static_cast<double>(by_source.size());
  }
  double mean_error(const std::string& engine = "") const { return mean_error(logs_, engine); }

  /// Along one axis after the other: a step that helps is taken and made longer for the next round; one that helps in
  /// neither direction is halved.
  void search(const std::vector<Axis>& axes, double first_step) {
    constexpr double kLastStep = 0.004;
    constexpr int kMostRounds = 40;
    std::vector<double> step(axes.size(), first_step);
    double best = cost(axes, values_, logs_);
    for (int round = 0; round < kMostRounds; ++round) {
      bool going = false;
      for (std::size_t a = 0; a < axes.size(); ++a) {
        if (step[a] < kLastStep) continue;
        going = true;
        const double improved = try_along(axes, axes[a], step[a], best);
        step[a] *= improved < best ? 1.5 : 0.5;
        best = improved;
      }
      if (!going) return;
    }
  }

 private:
  double cost(const std::vector<Axis>& axes, Values& values, const std::vector<double>& logs) const {
    double pulled = 0;
    for (const Axis& axis : axes) pulled += std::pow(axis.place(axis.of(values)) - axis.rest(values), 2);
    return mean_error(logs) + options_.pull * pulled;
  }
  bool changes(const Axis& axis, std::size_t row) const {
    if (axis.clock) return axis.chip == steps_.chip(row);
    return axis.engine == steps_.engine(row) ||
           (axis.engine == "generic" && !values_.engines.contains(steps_.engine(row)));
  }
  double try_along(const std::vector<Axis>& axes, const Axis& axis, double step, double best) {
    std::vector<std::size_t> changed;
    for (std::size_t i : rows_)
      if (changes(axis, i)) changed.push_back(i);
    const double here = axis.place(axis.of(values_));
    for (const double way : {step, -step}) {
      const double there = std::clamp(here + way, 0.0, 1.0);
      if (there == here) continue;
      Values values = values_;
      axis.of(values) = axis.at(there);
      std::vector<double> logs = logs_;
      steps_.predict(values, changed, logs);
      const double found = cost(axes, values, logs);
      if (found >= best) continue;
      values_ = std::move(values);
      logs_ = std::move(logs);
      return found;
    }
    return best;
  }

  Steps& steps_;
  std::vector<std::size_t> rows_;
  Values values_;
  const EngineFitOptions& options_;
  std::vector<double> logs_;
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
  for (const auto& [chip, narrow] : seen)
    axes.push_back({"", {}, chip, narrow ? &SustainedClock::fp8 : &SustainedClock::bf16});
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

Values neutral_values(const Steps& steps) {
  Values values;
  values.engines["generic"] = {};
  for (std::size_t i = 0; i < steps.size(); ++i) values.clocks[steps.chip(i)] = {};
  return values;
}

Values fit_values(Steps& steps, const std::vector<std::size_t>& rows, const EngineFitOptions& options) {
  constexpr double kFirst = 0.15, kAgain = 0.05;
  Fit shared(steps, rows, neutral_values(steps), options);
  shared.search(all_axes(steps, rows, shared.values()), kFirst);
  Values values = shared.values();
  for (const auto& [name, count] : rows_by_engine(steps, rows)) {
    if (name == "generic" || count < options.least_rows) continue;
    Values with_own = values;
    with_own.engines[name] = values.engines.at("generic");
    const auto is_its = [&](std::size_t i) { return steps.engine(i) == name; };
    std::vector<std::size_t> its;
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(its), is_its);
    Fit own(steps, its, with_own, options);
    const double before = own.mean_error();
    own.search(axes_of_engine(name), kFirst);
    if (before - own.mean_error() > options.least_gain) values = own.values();
  }
  if (values.engines.size() == 1) return values;
  Fit together(steps, rows, values, options);
  together.search(all_axes(steps, rows, values), kAgain);
  return together.values();
}

double rounded(double value) { return std::stod(fmt::format("{:.4g}", value)); }

/// As the file will have them.
Values rounded(Values values) {
  for (auto& [name, constants] : values.engines)
    for (const EngineConstantFacts& facts : kEngineConstantFacts)
      constants[facts.constant] = std::clamp(rounded(constants[facts.constant]), facts.low, facts.high);
  for (auto& [chip, clock] : values.clocks) clock = {rounded(clock.bf16), rounded(clock.fp8)};
  return values;
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
  const Fit best(steps, rows, rounded(fit_values(steps, rows, options)), options);
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
  for (const TimedStep& step : timed) sources.insert(step.source);
  LeftOutSources result;
  std::vector<double> all;
  for (const std::string& source : sources) {
    const auto others = rows_where(steps, [&](std::size_t i) { return timed[i].source != source; });
    const auto its = rows_where(steps, [&](std::size_t i) { return timed[i].source == source; });
    Values values = values_of(fit);
    const std::map<std::string, int> counts = rows_by_engine(steps, others);
    std::erase_if(values.engines, [&](const auto& engine) {
      const auto count = counts.find(engine.first);
      return engine.first != "generic" && (count == counts.end() || count->second < options.least_rows);
    });
    // A clock that only this source knew is not known.
    const std::vector<Axis> clocks = axes_of_clocks(steps, others);
    for (auto& [chip, clock] : values.clocks)
      for (const auto member : {&SustainedClock::bf16, &SustainedClock::fp8})
        if (std::none_of(clocks.begin(), clocks.end(),
                         [&](const Axis& axis) { return axis.chip == chip && axis.clock == member; }))
          clock.*member = 1;
    Fit refit(steps, others, values, options);
    refit.search(all_axes(steps, others, values), 0.05);
    const Fit left_out(steps, its, refit.values(), options);
    std::vector<double> errors, before;
    for (std::size_t i : its) {
      errors.push_back(left_out.error_of(i));
      before.push_back(in_sample.error_of(i));
    }
    all.insert(all.end(), errors.begin(), errors.end());
    result.sources.push_back({source, static_cast<int>(its.size()), median(errors), median(before)});
  }
  result.median_error = median(all);
  return result;
}

std::string engine_constants_yaml(const EngineFit& fit, const std::string& date) {
  std::string text =
      "# Written by `shardwright fit engines`: what engines take beyond their kernels, and the clocks that machines "
      "keep "
      "in a long\n# run, fitted to published training steps (planner/fit_engines.h). Engines that are not here inherit "
      "theirs. Constants:\n";
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
    text += fmt::format("  {}: {{bf16: {:.4g}, fp8: {:.4g}}}\n", chip, clock.bf16, clock.fp8);
  return text;
}

}  // namespace shardwright
