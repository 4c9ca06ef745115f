#include "reports/trial_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace shardwright {
namespace {

constexpr std::size_t kMostOperators = 15;

std::string equality_text(const Trial& t, const TableStyle& style) {
  if (!t.checked) return wrapped("Equality was not checked: " + t.not_checked + ".", style.width);
  const std::string far =
      std::isfinite(t.difference.relative)
          ? fmt::format("a relative error of {:.1e} at most, in '{}'", t.difference.relative, t.difference.what)
          : fmt::format("'{}' is missing or no number", t.difference.what);
  const std::string text =
      fmt::format("{} one rank's in double precision over two steps, loss, gradients and weights: {}.",
                  t.equal() ? "Equal to" : "NOT equal to", far);
  return wrapped(text, style.width);
}

std::string beside(Seconds predicted, std::optional<Seconds> measured) {
  if (!measured || !(*measured > Seconds{}) || !(predicted > Seconds{})) return "";
  return signed_percent(predicted / *measured - 1);
}

std::string alone_text(const TrialReport& report) {
  std::string text = "No number comes from the other ranks: nothing is proven, and communication is priced, not run.";
  if (report.model_layers > 0)
    text += fmt::format(" Of the model's layers {} are left, in the price, too.", report.model_layers);
  if (report.has_experts)
    text += fmt::format(" Tokens choose experts as the load says, not as the router does: {}.",
                        to_string(report.plan.workload.expert_load));
  return text;
}

/// What ran is measured, what needs the others is priced.
std::string parts_alone_table(const TrialReport& report, const TableStyle& style) {
  const Trial& t = report.trial;
  const Prediction& p = *report.plan.plans.at(0).prediction;
  const PricedAlone priced = priced_alone(t, p);
  TextTable table({{"", TextTable::Align::left}, {"measured"}, {"predicted"}, {"error"}});
  const auto add = [&](const char* name, std::optional<Seconds> measured, Seconds predicted) {
    table.add_row(
        {name, measured ? with_unit(*measured) : "not available", with_unit(predicted), beside(predicted, measured)});
  };
  add("compute", t.parts.compute, priced.compute);
  add("optimizer", t.parts.optimizer, p.optimizer);
  add("between operators", t.parts.other, p.host);
  table.add_row({"communication", "priced", with_unit(priced.communication), ""});
  table.add_row({"bubble", "priced", with_unit(priced.bubble), ""});
  add("step, of both", priced.step, p.step);
  std::string text =
      bold(fmt::format("A step of rank {} alone, of stage {}", *t.alone, report.watched_stage), style) + "\n";
  for (const std::string& line : table.lines(2)) text += line + "\n";
  return text;
}

std::string parts_table(const TrialReport& report, const TableStyle& style) {
  const Trial& t = report.trial;
  const std::optional<Prediction>& p = report.plan.plans.at(0).prediction;
  TextTable table({{"", TextTable::Align::left}, {"measured"}, {"predicted"}, {"error"}});
  const auto add = [&](const char* name, std::optional<Seconds> measured, Seconds Prediction::*predicted) {
    table.add_row({name, measured ? with_unit(*measured) : "not available", p ? with_unit((*p).*predicted) : "",
                   p ? beside((*p).*predicted, measured) : ""});
  };
  add("step", t.step, &Prediction::step);
  add("compute", t.parts.compute, &Prediction::compute);
  add("communication", t.parts.communication, &Prediction::exposed_communication);
  add("bubble", t.parts.bubble, &Prediction::bubble);
  add("optimizer", t.parts.optimizer, &Prediction::optimizer);
  add("between operators", t.parts.other, &Prediction::host);
  std::string text =
      bold(fmt::format("A step, and what the first rank of stage {} did in it", report.watched_stage), style) + "\n";
  for (const std::string& line : table.lines(2)) text += line + "\n";
  return text;
}

std::string operators_table(const Trial& t, const TableStyle& style) {
  std::vector<const TrialOperator*> sorted;
  for (const TrialOperator& o : t.operators)
    if (o.calls > 0) sorted.push_back(&o);
  const auto priced = [&](const TrialOperator& o) { return t.alone && o.communicates; };
  const auto known = [&](const TrialOperator& o) { return priced(o) ? o.predicted.value_or(Seconds{}) : o.measured; };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const auto* a, const auto* b) { return known(*a) > known(*b); });
  TextTable table({{"operator", TextTable::Align::left}, {"calls"}, {"measured"}, {"predicted"}, {"error"}});
  for (std::size_t i = 0; i < sorted.size() && i < kMostOperators; ++i) {
    const TrialOperator& o = *sorted[i];
    std::string name = o.graph + " " + o.name;
    if (o.communicates) name += ", moved";
    if (o.pass != OperatorPass::forward) name += ", " + std::string(name_of(o.pass));
    table.add_row({name, fmt::format("{:.0f}", o.calls), priced(o) ? "priced" : with_unit(o.measured),
                   o.predicted ? with_unit(*o.predicted) : "",
                   o.predicted && !priced(o) ? beside(*o.predicted, o.measured) : ""});
  }
  std::string text = bold("Longest operators of a step", style) + "\n";
  for (const std::string& line : table.lines(2)) text += line + "\n";
  if (sorted.size() > kMostOperators) text += fmt::format("and {} more\n", sorted.size() - kMostOperators);
  return text;
}

std::string memory_table(const TrialReport& report, const TableStyle& style) {
  const std::optional<Prediction>& p = report.plan.plans.at(0).prediction;
  TextTable table({{"stage"}, {"allocated"}, {"predicted"}, {"process, all of it"}});
  const std::size_t first = report.trial.alone ? static_cast<std::size_t>(report.watched_stage) : 0;
  for (std::size_t i = 0; i < report.trial.peaks.size(); ++i) {
    const std::size_t s = first + i;
    table.add_row({std::to_string(s), with_unit(report.trial.peaks[i].allocated),
                   p ? with_unit(p->stages[s].allocated) : "", with_unit(report.trial.peaks[i].resident)});
  }
  const char* title = report.trial.alone ? "Peak memory of the rank" : "Peak memory of the fullest rank";
  std::string text = bold(title, style) + "\n";
  for (const std::string& line : table.lines(2)) text += line + "\n";
  return text;
}

std::string inference_text(const InferenceTrial& t, const TableStyle& style) {
  std::string text = bold("Inference by the same ranks", style) + "\n";
  std::string proof = "Its logits were not compared with one rank's.";
  if (t.checked)
    proof = fmt::format("{} one rank's that keeps no keys and values: a relative error of {:.1e} at most, in '{}'.",
                        t.equal ? "Equal to" : "NOT equal to", t.difference.relative, t.difference.what);
  TextTable table({{"step", TextTable::Align::left}, {"measured"}, {"predicted"}, {"error"}});
  const auto add = [&](std::string what, Seconds measured, std::optional<Seconds> predicted) {
    table.add_row({std::move(what), with_unit(measured), predicted ? with_unit(*predicted) : "not available",
                   predicted ? beside(*predicted, measured) : ""});
  };
  add(fmt::format("prompts of {} tokens, {} at once", t.prompt, t.sequences), t.prefill, t.predicted_prefill);
  add(fmt::format("a further token of each, of {}", t.tokens), t.decode, t.predicted_decode);
  std::string steps;
  for (const std::string& line : table.lines(2)) steps += line + "\n";
  std::string rounds = fmt::format("{} rounds", t.rounds);
  if (t.void_rounds == t.rounds)
    rounds += ", all of them void: the machine was not ours alone, and these times say little";
  else if (t.void_rounds > 0)
    rounds += fmt::format(", {} of them void", t.void_rounds);
  return text + wrapped(proof, style.width) + "\n" + wrapped(rounds + ".", style.width) + "\n" + steps +
         fmt::format("peak memory of a rank: {}\n", with_unit(t.peak));
}

std::string calibration_text(const CalibrationReport& report, const TableStyle& style) {
  std::string text = bold("Calibration of the measured machine", style) + "\n";
  if (!report.refused.empty()) return text + wrapped("Not calibrated: " + report.refused + ".", style.width);
  TextTable families({{"family", TextTable::Align::left},
                      {"operators"},
                      {"takes, of what was measured"},
                      {"median error"},
                      {"calibrated"}});
  for (const FamilyCalibration& f : report.run.found)
    families.add_row({std::string(name_of(f.family)), std::to_string(f.operators), fmt::format("x {:.3f}", f.factor),
                      percent(f.error_before), percent(f.error_after)});
  for (const std::string& line : families.lines(2)) text += line + "\n";
  for (const KernelFamily family : report.run.too_few)
    text += wrapped(fmt::format("{}: left alone, it has fewer than {} operators.", name_of(family), kFewestCalibrated),
                    style.width);
  if (!report.run.found.empty()) text += fmt::format("written to {}\n", report.file);
  text += "\n" + bold("Layouts of the plan's question, before and with it", style) + "\n";
  TextTable ranking({{"now"}, {"before"}, {"step"}, {"before"}, {"layout", TextTable::Align::left}});
  for (const RankedTwice& r : report.run.ranking)
    ranking.add_row({std::to_string(r.rank_after), std::to_string(r.rank_before), with_unit(r.after),
                     with_unit(r.before), to_string(r.layout)});
  for (const std::string& line : ranking.lines(2)) text += line + "\n";
  return text;
}

}  // namespace

std::string trial_text(const TrialReport& report, const TableStyle& style) {
  const Trial& t = report.trial;
  const std::string layout = to_string(report.plan.plans.at(0).layout);
  std::string text =
      t.alone ? fmt::format("{} as {}: rank {} of {} ranks, alone ({}), priced for {}\n\n", report.plan.model, layout,
                            *t.alone, report.plan.gpus, t.backend, report.plan.machine)
              : fmt::format("{} as {} on {} ranks ({}, {}), priced for {}\n\n", report.plan.model, layout,
                            report.plan.gpus, t.communicator, t.backend, report.plan.machine);
  if (t.alone)
    text += wrapped(alone_text(report), style.width) + "\n";
  else
    text += equality_text(t, style) + "\n";
  if (report.asked != t.precision)
    text += wrapped(fmt::format("The plan is for {}; {} computes it in {}, and is priced so.", name_of(report.asked),
                                t.backend, name_of(t.precision)),
                    style.width) +
            "\n";
  const auto is_void = [](const TrialRound& r) { return !r.fault.empty(); };
  const auto voids = std::count_if(t.rounds.begin(), t.rounds.end(), is_void);
  text += fmt::format("{} rounds", t.rounds.size());
  if (voids > 0) {
    const auto first = std::find_if(t.rounds.begin(), t.rounds.end(), is_void);
    text += fmt::format(", {} of them void; the first: {}", voids, first->fault);
  }
  text += "\n\n" + (t.alone ? parts_alone_table(report, style) : parts_table(report, style)) + "\n" +
          operators_table(t, style) + "\n" + memory_table(report, style);
  if (report.calibration) text += "\n" + calibration_text(*report.calibration, style);
  if (t.inference) text += "\n" + inference_text(*t.inference, style);
  return text;
}

}  // namespace shardwright
