#include "planner/validate/validation_figures.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <utility>

namespace shardwright {
namespace {

using Numbers = std::vector<std::pair<std::string, double>>;

double share(int part, int all) { return all > 0 ? static_cast<double>(part) / all : 0; }

/// By name, in the order of the names; the first number is a count of rows.
std::map<std::string, Numbers> figures_of(const Validation& v) {
  std::map<std::string, Numbers> figures;
  for (const ErrorSummary& e : v.summary) {
    const std::string part = !e.span.empty() ? e.span : e.source.empty() ? "all" : e.source;
    figures[fmt::format("{}/{}/{}", e.kind, e.metric, part)] = {{"n", e.n},
                                                                {"mean", e.mean_absolute},
                                                                {"median", e.median_absolute},
                                                                {"p90", e.p90_absolute},
                                                                {"in_interval", share(e.held, e.n)}};
  }
  for (const IntervalSummary& kind : v.intervals)
    figures["intervals/" + kind.kind] = {{"n", kind.n}, {"held", share(kind.held, kind.n)}};
  for (const auto& [name, ranking] :
       {std::pair{"ranking/complete", &v.complete_ranking}, {"ranking/incomplete", &v.incomplete_ranking}})
    if (*ranking)
      figures[name] = {{"n", (*ranking)->families},
                       {"kendall_tau", (*ranking)->kendall_tau_mean},
                       {"regret", (*ranking)->top_regret_mean}};
  const OutOfMemory& oom = v.out_of_memory;
  const int ran_out = oom.true_positive + oom.false_negative, ran = oom.true_negative + oom.false_positive;
  if (ran_out > 0) figures["out_of_memory/told"] = {{"n", ran_out}, {"share", share(oom.true_positive, ran_out)}};
  if (ran > 0) figures["out_of_memory/false_alarms"] = {{"n", ran}, {"share", share(oom.false_positive, ran)}};
  return figures;
}

bool has_moved(const std::string& key, double was, double is) {
  return key == "n" ? was != is : std::abs(is - was) > 0.002 + 0.01 * std::abs(was);
}

}  // namespace

std::string figures_yaml(const Validation& validation) {
  std::string text =
      "# Written by `shardwright validate ROWS.yaml... --figures FILE`: relative errors by kind, metric and source, of "
      "scored rows.\nschema: shardwright.figures/1\nfigures:\n";
  for (const auto& [name, numbers] : figures_of(validation)) {
    std::string list;
    for (const auto& [key, value] : numbers) list += fmt::format("{}{}: {:.4g}", list.empty() ? "" : ", ", key, value);
    text += fmt::format("  {}: {{{}}}\n", name, list);
  }
  return text;
}

std::vector<std::string> moved_figures(const YamlCursor& kept, const Validation& now) {
  kept.only_keys({"schema", "figures"});
  kept.at("schema").one_of({"shardwright.figures/1"});
  std::map<std::string, Numbers> figures = figures_of(now);
  std::vector<std::string> moved;
  for (const auto& [name, numbers] : kept.at("figures").entries()) {
    const auto found = figures.find(name);
    if (found == figures.end()) {
      moved.push_back(name + ": is gone");
      continue;
    }
    for (const auto& [key, is] : found->second) {
      const double was = numbers.at(key).number(-1e9, 1e9);
      if (has_moved(key, was, is)) moved.push_back(fmt::format("{}: {} was {:.4g}, is {:.4g}", name, key, was, is));
    }
    figures.erase(found);
  }
  for (const auto& [name, numbers] : figures) moved.push_back(name + ": is new");
  return moved;
}

}  // namespace shardwright
