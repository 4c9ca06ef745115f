#include "planner/serve/fit_serving.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>

#include "hardware/minimize.h"
#include "planner/parallel.h"
#include "planner/validate/validation_summary.h"

namespace shardwright {
namespace {

constexpr int kEvaluations = 700;

using Rows = std::vector<std::size_t>;

double speed_of(const ServedRow& row, const ServePrediction& p) {
  return row.is_rate ? p.output_tokens_per_second : p.tpot.value;
}

std::vector<double> logs_of(std::vector<ServedRow>& rows, const Rows& of, const ServeConstants& constants,
                            int threads) {
  std::vector<double> logs(of.size());
  run_in_parallel(of.size(), threads, [&](std::size_t i) {
    ServedRow& row = rows[of[i]];
    logs[i] = std::log(speed_of(row, row.model.front().predict(constants)) / row.measured);
  });
  return logs;
}

/// Of first tokens, which hang on how a benchmark starts, this much counts.
constexpr double kFirstTokenWeight = 0.1;
/// What a constant one `usual` away from neutral costs: rows that say nothing about it leave it where it is.
constexpr double kPrior = 0.01;

double loss(std::vector<ServedRow>& rows, const Rows& of, const ServeConstants& constants, int threads) {
  std::vector<double> parts(of.size());
  run_in_parallel(of.size(), threads, [&](std::size_t i) {
    ServedRow& row = rows[of[i]];
    const ServePrediction p = row.model.front().predict(constants);
    parts[i] = std::abs(std::log(speed_of(row, p) / row.measured));
    // Rows that exceed what fits wait for slots: no matter of clumps.
    if (row.ttft > 0) parts[i] += kFirstTokenWeight * std::min(2.0, std::abs(std::log(p.ttft.value / row.ttft)));
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  sum /= static_cast<double>(of.size());
  for (const ServeConstantFacts& f : kServeConstantFacts) {
    const double off = (constants[f.constant] - f.neutral) / f.usual;
    sum += kPrior * off * off;
  }
  return sum;
}

double median_error(const std::vector<double>& logs) {
  std::vector<double> errors;
  for (const double log : logs) errors.push_back(std::abs(std::expm1(log)));
  return median(errors);
}

/// The smallest half width that holds four in five.
double width_of(std::vector<double> logs) {
  if (logs.empty()) return 0;
  for (double& log : logs) log = std::abs(log);
  std::sort(logs.begin(), logs.end());
  return logs[(logs.size() * 4 + 4) / 5 - 1];
}

/// What the errors of kernels, which an interval has beside the engine's, leave of a rate's error.
double beyond_kernels(double log, const ServePrediction& p, const ServeErrors& errors) {
  const double whole = std::log(p.output_high / p.output_tokens_per_second), own = errors.throughput;
  return std::sqrt(std::max(0.0, log * log - std::max(0.0, whole * whole - own * own)));
}

double rounded(double value) { return std::strtod(fmt::format("{:.3g}", value).c_str(), nullptr); }

ServeConstants fitted(std::vector<ServedRow>& rows, const Rows& of, int threads) {
  std::vector<Range> ranges;
  for (const ServeConstantFacts& f : kServeConstantFacts) ranges.push_back({f.low, f.high, f.neutral});
  const auto constants_of = [](const std::vector<double>& values) {
    ServeConstants constants;
    for (std::size_t i = 0; i < values.size(); ++i) constants[kServeConstantFacts[i].constant] = values[i];
    return constants;
  };
  const std::vector<double> best =
      minimize([&](const std::vector<double>& values) { return loss(rows, of, constants_of(values), threads); }, ranges,
               kEvaluations);
  std::vector<double> kept;
  for (const double value : best) kept.push_back(rounded(value));
  return constants_of(kept);
}

Rows rows_where(const std::vector<ServedRow>& rows, const std::function<bool(const ServedRow&)>& wanted) {
  Rows of;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (wanted(rows[i])) of.push_back(i);
  return of;
}

std::vector<std::string> engines_of(const std::vector<ServedRow>& rows) {
  std::vector<std::string> names;
  for (const ServedRow& row : rows)
    if (std::find(names.begin(), names.end(), row.engine) == names.end()) names.push_back(row.engine);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<LeftOutServing> leave_out(std::vector<ServedRow>& rows, const std::vector<FittedServing>& fit,
                                      std::string ServedRow::*part, int threads) {
  std::vector<LeftOutServing> result;
  for (const FittedServing& engine : fit) {
    std::map<std::string, Rows> parts;
    for (const std::size_t i : rows_where(rows, [&](const ServedRow& r) { return r.engine == engine.name; }))
      parts[rows[i].*part].push_back(i);
    for (const auto& [name, its] : parts) {
      const Rows others = rows_where(
          rows, [&, &left_out = name](const ServedRow& r) { return r.engine == engine.name && r.*part != left_out; });
      const ServeConstants without = others.empty() ? ServeConstants{} : fitted(rows, others, threads);
      result.push_back({engine.name, name, static_cast<int>(its.size()),
                        median_error(logs_of(rows, its, engine.constants, threads)),
                        median_error(logs_of(rows, its, without, threads))});
    }
  }
  return result;
}

}  // namespace

std::vector<FittedServing> fit_serving(std::vector<ServedRow>& rows, int threads) {
  std::vector<FittedServing> all;
  for (const std::string& name : engines_of(rows)) {
    const Rows of = rows_where(rows, [&](const ServedRow& r) { return r.engine == name; });
    FittedServing& fit = all.emplace_back();
    fit.name = name;
    fit.rows = static_cast<int>(of.size());
    fit.constants = fitted(rows, of, threads);
    const std::vector<double> logs = logs_of(rows, of, fit.constants, threads);
    fit.median_error = rounded(median_error(logs));
    std::vector<double> rates, tokens, firsts;
    for (std::size_t i = 0; i < of.size(); ++i) {
      ServingModel& model = rows[of[i]].model.front();
      if (rows[of[i]].is_rate)
        rates.push_back(beyond_kernels(logs[i], model.predict(fit.constants), model.question().engine.errors));
      else
        tokens.push_back(logs[i]);
    }
    for (const std::size_t i : of)
      if (rows[i].ttft > 0)
        firsts.push_back(std::log(rows[i].model.front().predict(fit.constants).ttft.value / rows[i].ttft));
    const double any = width_of(logs);
    fit.errors = {rounded(tokens.empty() ? any : width_of(tokens)), rounded(firsts.empty() ? 1 : width_of(firsts)),
                  rounded(rates.empty() ? any : width_of(rates))};
  }
  return all;
}

std::vector<ServedRow> served_rows(const std::vector<std::string>& files, int threads) {
  std::vector<MeasuredRow> wanted;
  for (const std::string& file : files)
    for (MeasuredRow& row : read_measured_rows(YamlCursor::open(file)).rows) {
      const MeasuredServing& s = row.serving;
      const bool kind = row.kind == MeasuredKind::inference && row.trust == "A" && !row.suspect && !s.prefill;
      const bool speed = s.phase == "offline" ? row.measured.find("output_tokens_per_second").has_value()
                                              : row.measured.find("tpot_seconds") && s.concurrency;
      if (kind && speed) wanted.push_back(std::move(row));
    }
  std::map<std::string, Machine> machines;
  for (const std::string& name : machine_names()) machines.emplace(name, find_machine(name));
  std::vector<std::vector<ServedRow>> found(wanted.size());
  run_in_parallel(wanted.size(), threads, [&](std::size_t i) {
    const MeasuredRow& row = wanted[i];
    const auto machine = machines.find(row.hardware.gpu);
    auto question = serving_question(row, machine == machines.end() ? nullptr : &machine->second);
    if (!std::holds_alternative<ServingQuestion>(question)) return;
    ServedRow served;
    served.id = row.id;
    served.source = row.source;
    served.arch = row.arch;
    served.is_rate = row.serving.phase == "offline";
    served.measured = *row.measured.find(served.is_rate ? "output_tokens_per_second" : "tpot_seconds");
    served.ttft = row.measured.find("ttft_seconds").value_or(0);
    served.model.emplace_back(std::get<ServingQuestion>(std::move(question)));
    served.engine = served.model.front().question().engine.name;
    served.model.front().predict();
    found[i].push_back(std::move(served));
  });
  std::vector<ServedRow> rows;
  for (auto& one : found)
    for (ServedRow& row : one) rows.push_back(std::move(row));
  return rows;
}

std::vector<LeftOutServing> leave_one_source_out(std::vector<ServedRow>& rows, const std::vector<FittedServing>& fit,
                                                 int threads) {
  return leave_out(rows, fit, &ServedRow::source, threads);
}

std::vector<LeftOutServing> leave_one_model_out(std::vector<ServedRow>& rows, const std::vector<FittedServing>& fit,
                                                int threads) {
  return leave_out(rows, fit, &ServedRow::arch, threads);
}

std::string serving_constants_yaml(const std::vector<FittedServing>& fit) {
  std::string text =
      "# Written by `shardwright fit serving`: what inference engines take beyond their kernels, fitted to published "
      "serving\n# rows of trust A (planner/serve/fit_serving.h). Engines that are not here have neutral ones. "
      "Constants:\n";
  for (const ServeConstantFacts& facts : kServeConstantFacts)
    text += fmt::format("#   {}: {}{}; {:g} to {:g}\n", facts.name, facts.meaning,
                        facts.unit.empty() ? "" : ", seconds", facts.low, facts.high);
  text += "# interval: half widths, in logs, that hold four in five of those rows.\n";
  text += "schema: shardwright.serving_constants/1\nengines:";
  if (fit.empty()) return text + " {}\n";
  text += "\n";
  for (const FittedServing& engine : fit) {
    text += fmt::format("  {}:\n    rows: {}\n    median_error: {:.4f}\n    constants:\n", engine.name, engine.rows,
                        engine.median_error);
    for (const ServeConstantFacts& facts : kServeConstantFacts)
      text += fmt::format("      {}: {:.3g}\n", facts.name, engine.constants[facts.constant]);
    text += fmt::format("    interval: {{tpot: {:.3g}, ttft: {:.3g}, throughput: {:.3g}}}\n", engine.errors.tpot,
                        engine.errors.ttft, engine.errors.throughput);
  }
  return text;
}

}  // namespace shardwright
