#include "reports/explain_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace shardwright {
namespace {

using Align = TextTable::Align;

constexpr std::size_t kMostChanges = 5, kMostTerms = 4;

Seconds part_of(const std::vector<StepPart>& parts, const std::string& name) {
  for (const StepPart& part : parts)
    if (part.name == name) return part.seconds;
  return {};
}

/// Names of both, in the order of a step's parts.
std::vector<std::string> part_names(const std::vector<StepPart>& a, const std::vector<StepPart>& b) {
  std::vector<std::string> names;
  for (const StepPart& part : a) names.push_back(part.name);
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (std::find(names.begin(), names.end(), b[i].name) != names.end()) continue;
    // Behind what it follows there.
    const auto before = i == 0 ? names.end() : std::find(names.begin(), names.end(), b[i - 1].name);
    names.insert(before == names.end() ? names.begin() : before + 1, b[i].name);
  }
  return names;
}

std::string signed_seconds(Seconds s) {
  if (s == Seconds{}) return "0";
  return (s > Seconds{} ? "+" : "-") + with_unit(Seconds{std::fabs(s.value)});
}

std::string signed_gib(Bytes amount) {
  return (amount < Bytes{} ? "-" : "+") + in_gib(Bytes{std::abs(amount.value)}, 2);
}

/// A table that stands beside another layout's.
struct Beside {
  const ExplainedLayout* layout = nullptr;
  std::string name;
};

std::string table_text(const TextTable& table, const TableStyle& style) {
  std::string text;
  bool head = true;
  for (const std::string& line : table.lines(2, 2)) {
    text += (head ? bold(line, style) : line) + "\n";
    head = false;
  }
  return text;
}

std::string seconds_text(const ExplainedLayout& e, const Beside& beside, const TableStyle& style) {
  const Prediction& p = *e.priced.prediction;
  const std::vector<StepPart> theirs = beside.layout ? beside.layout->parts : std::vector<StepPart>{};
  std::vector<TextTable::Column> columns = {{"seconds", Align::left}, {"this"}, {"share"}};
  if (beside.layout) {
    columns.push_back({beside.name});
    columns.push_back({"this - " + beside.name});
  }
  TextTable table(columns);
  const auto row = [&](const std::string& name, Seconds ours, Seconds other) {
    std::vector<std::string> cells = {part_text(name), with_unit(ours), percent(ours / p.step)};
    if (beside.layout) {
      cells.push_back(with_unit(other));
      cells.push_back(signed_seconds(ours - other));
    }
    table.add_row(cells);
  };
  for (const std::string& name : part_names(e.parts, theirs)) row(name, part_of(e.parts, name), part_of(theirs, name));
  row("step", p.step, beside.layout ? beside.layout->priced.prediction->step : Seconds{});
  const std::string which =
      p.stages.size() > 1 ? fmt::format(" (stage {}, the slowest of {})", slowest_stage(p), p.stages.size()) : "";
  return bold("Where each second of a step goes" + which, style) + "\n" + table_text(table, style);
}

std::string gigabytes_text(const ExplainedLayout& e, const Beside& beside, const Machine& machine,
                           const TableStyle& style) {
  const Prediction& p = *e.priced.prediction;
  const StageMemory& ours = p.worst();
  const StageMemory none;
  const StageMemory& theirs = beside.layout ? beside.layout->priced.prediction->worst() : none;
  std::vector<TextTable::Column> columns = {{"GiB", Align::left}, {"this"}};
  if (beside.layout) {
    columns.push_back({beside.name});
    columns.push_back({"this - " + beside.name});
  }
  TextTable table(columns);
  const auto row = [&](const char* name, Bytes a, Bytes b) {
    std::vector<std::string> cells = {name, in_gib(a, 2)};
    if (beside.layout) {
      cells.push_back(in_gib(b, 2));
      cells.push_back(signed_gib(a - b));
    }
    table.add_row(cells);
  };
  row("weights", ours.parts.weights, theirs.parts.weights);
  row("gradients", ours.parts.gradients, theirs.parts.gradients);
  row("optimizer", ours.parts.optimizer, theirs.parts.optimizer);
  row("activations", ours.parts.activations, theirs.parts.activations);
  row("transient", ours.parts.transient, theirs.parts.transient);
  row("buffers", ours.parts.buffers, theirs.parts.buffers);
  row("allocator's rounding", ours.reserved - ours.allocated, theirs.reserved - theirs.allocated);
  row("reserved", ours.reserved, theirs.reserved);
  const std::string which =
      p.stages.size() > 1 ? fmt::format(" (stage {}, the fullest of {})", p.worst_stage, p.stages.size()) : "";
  return bold("Where each gigabyte goes" + which, style) + "\n" + table_text(table, style) +
         fmt::format("  {} GiB are usable\n", in_gib(machine.usable_memory(), 2));
}

std::string operators_text(const Explanation& e, const TableStyle& style) {
  TextTable table({{"operator", Align::left}, {"pass", Align::left}, {"kind", Align::left}, {"calls"}, {"all"}});
  std::vector<OperatorTime> sorted = e.operators;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const OperatorTime& a, const OperatorTime& b) { return a.seconds > b.seconds; });
  for (const OperatorTime& o : sorted) {
    const std::string kind =
        o.communicates ? "sends: " + std::string(name_of(o.traffic)) : std::string(name_of(o.family));
    table.add_row({o.graph + "." + o.name, std::string(name_of(o.pass)), kind,
                   grouped(static_cast<std::int64_t>(std::llround(o.calls))), with_unit(o.seconds)});
  }
  std::string text = bold("Operator by operator, each call as if alone", style) + "\n";
  for (const std::string& line : table.lines(1)) text += line + "\n";
  TextTable tensors({{"GiB"}, {"copies"}, {"part", Align::left}, {"tensor", Align::left}});
  for (const MemoryItem& item : e.tensors)
    tensors.add_row({in_gib(item.bytes, 3), grouped(item.copies), item.part, item.tensor});
  text += "\n" + bold("Tensor by tensor, of the fullest stage", style) + "\n";
  for (const std::string& line : tensors.lines(2)) text += line + "\n";
  return text;
}

/// "0.35 s more bubble, 0.1 s less exposed tp": what makes `a` slower than `b`, largest first.
std::string difference_text(const ExplainedLayout& a, const ExplainedLayout& b) {
  std::vector<std::pair<std::string, double>> terms;
  for (const std::string& name : part_names(a.parts, b.parts))
    terms.push_back({part_text(name), (part_of(a.parts, name) - part_of(b.parts, name)).value});
  std::stable_sort(terms.begin(), terms.end(),
                   [](const auto& x, const auto& y) { return std::fabs(x.second) > std::fabs(y.second); });
  std::vector<std::string> texts;
  const double step = b.priced.prediction->step.value;
  for (const auto& [name, more] : terms) {
    if (std::fabs(more) < 1e-3 * step || texts.size() == kMostTerms) continue;
    texts.push_back(fmt::format("{} {} {}", with_unit(Seconds{std::fabs(more)}), more > 0 ? "more" : "less", name));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

/// How much longer a step of `a` takes than one of `b`.
std::string longer_text(const PricedLayout& a, const PricedLayout& b) {
  const Seconds more = a.prediction->step - b.prediction->step;
  return fmt::format("{} ({}) longer", with_unit(more), percent(more / b.prediction->step));
}

std::string standing_text(const Explanation& e, const Machine& machine, const TableStyle& style) {
  const PricedLayout& p = e.layout.priced;
  const std::string space = fmt::format("the {} layouts of the question", grouped(e.search.considered));
  switch (e.standing) {
    case Standing::best:
      return wrapped(fmt::format("It fits, and none of {} is faster.", space), style.width);
    case Standing::tied:
    case Standing::slower: {
      const ExplainedLayout& best = *e.best;
      std::string text =
          fmt::format("It fits. A step takes {} than with the best of {}", longer_text(p, best.priced), space);
      const std::string reasons = difference_text(e.layout, best);
      if (!reasons.empty()) text += ": " + reasons;
      text += e.standing == Standing::tied
                  ? ". That is within the errors: a tie on these numbers, which only a run would settle."
                  : ".";
      return wrapped(text + " The best has " + layout_differences(best.priced.layout, p.layout) + ".", style.width);
    }
    case Standing::too_large: {
      const StageMemory& worst = p.prediction->worst();
      std::vector<std::pair<Bytes, const char*>> parts = {
          {worst.parts.weights, "weights"},     {worst.parts.gradients, "gradients"},
          {worst.parts.optimizer, "optimizer"}, {worst.parts.activations, "activations"},
          {worst.parts.transient, "transient"}, {worst.parts.buffers, "buffers"}};
      std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
      return red("It does not fit.", style) + "\n" +
             wrapped(fmt::format("memory: {}: {} GiB too much. Most of it: {} {} GiB, {} {} GiB.", p.rejection->detail,
                                 in_gib(worst.reserved - machine.usable_memory()), parts[0].second,
                                 in_gib(parts[0].first), parts[1].second, in_gib(parts[1].first)),
                     style.width);
    }
    case Standing::impossible:
      break;
  }
  return red("It cannot be run.", style) + "\n" +
         wrapped(fmt::format("{}: {}", p.rejection->reason, p.rejection->detail), style.width);
}

/// "tp 4 -> 8 (dp 16 -> 8 follows)"
std::string change_text(const Layout& from, const LayoutChange& change) {
  std::vector<std::string> named, following;
  for (const KeyChange& k : layout_changes(from, change.priced.layout)) {
    const bool own =
        std::any_of(change.keys.begin(), change.keys.end(), [&](LayoutKey key) { return name_of(key) == k.key; }) ||
        (k.key == "fsdp_group" && change.keys == std::vector{LayoutKey::zero});
    // Splits of many stages are long; the reader needs to know that they change.
    const bool long_list = k.key == "layers_per_stage" && k.from.size() + k.to.size() > 24;
    (own ? named : following).push_back(long_list ? k.key : fmt::format("{} {} -> {}", k.key, k.from, k.to));
  }
  if (named.empty()) std::swap(named, following);
  std::string text = fmt::format("{}", fmt::join(named, " and "));
  if (!following.empty())
    text += fmt::format(" ({} follow{})", fmt::join(following, ", "), following.size() == 1 ? "s" : "");
  return text;
}

/// "frees 9.1 GiB, costs 4.2 %"
std::string effect_text(const PricedLayout& from, const PricedLayout& to) {
  const Prediction& after = *to.prediction;
  if (!from.prediction)
    return fmt::format("a step of {}, {} GiB of a GPU", with_unit(after.step), in_gib(after.worst().reserved));
  const Prediction& before = *from.prediction;
  const Bytes freed = before.worst().reserved - after.worst().reserved;
  const double slower = after.step / before.step - 1;
  return fmt::format("{} {} GiB, {} {}", freed < Bytes{} ? "takes" : "frees", in_gib(Bytes{std::abs(freed.value)}),
                     slower > 0 ? "costs" : "saves", percent(std::fabs(slower)));
}

std::string list_of(const std::vector<LayoutChange>& changes, const PricedLayout& from, bool say_turns,
                    const TableStyle& style) {
  std::string text;
  for (std::size_t i = 0; i < std::min(changes.size(), kMostChanges); ++i) {
    const LayoutChange& change = changes[i];
    std::string line = fmt::format("{}: {}", change_text(from.layout, change), effect_text(from, change.priced));
    if (say_turns && change.turns) line += "; then it is as good as the best, within the errors";
    text += wrapped(line, style.width, 2);
  }
  return text;
}

std::string changes_text(const PlanRequest& request, const Explanation& e, const AskedAs& asked,
                         const TableStyle& style) {
  if (e.standing == Standing::best) return "";
  const PricedLayout& from = e.layout.priced;
  const bool fits = from.fits;
  std::string text;
  const PricedLayout* first = nullptr;
  if (!e.changes.empty()) {
    text += "\n" +
            bold(fits ? "One key changed, fastest first" : "One key changed, and it fits; fastest first", style) + "\n";
    text += list_of(e.changes, from, fits, style);
    first = &e.changes[0].priced;
  }
  if (!e.pairs.empty()) {
    text += "\n" +
            bold(fits ? "No single key closes the gap; two keys changed, fastest first"
                      : "No single key makes it fit; two keys changed, fastest first",
                 style) +
            "\n";
    text += list_of(e.pairs, from, fits, style);
    first = &e.pairs[0].priced;
  }
  if (!e.nearest.empty()) {
    text += "\n" + bold("Neither one key nor two make it fit; one key that helps most", style) + "\n";
    const LayoutChange& near = e.nearest[0];
    text += wrapped(
        fmt::format("{}: {}; still {} GiB too much", change_text(from.layout, near), effect_text(from, near.priced),
                    in_gib(near.priced.prediction->worst().reserved - request.machine.usable_memory())),
        style.width, 2);
  }
  if (!first) {
    if (fits) return text + "\n" + wrapped("No change of one key makes it faster.", style.width);
    if (e.best)
      text += "\n" + wrapped("What fits of the same question: the best has " +
                                 layout_differences(e.best->priced.layout, from.layout) + ".",
                             style.width);
    else
      text += "\n" + wrapped("No layout of the same question fits.", style.width);
    return text;
  }
  return text + "\nThe first of these in detail:\n" + estimate_command(request, e.asked, asked, *first, style);
}

std::string against_text(const Explanation& e) {
  if (!e.against || e.against->priced.prediction) return "";
  const Rejection& why = *e.against->priced.rejection;
  return fmt::format("The layout to compare with cannot be run: {}: {}\n", why.reason, why.detail);
}

std::string what_ifs_text(const Explanation& e, const TableStyle& style) {
  if (e.what_ifs.empty()) return "";
  std::string text = "\n" + bold("What if", style) + "\n";
  for (const WhatIf& w : e.what_ifs) {
    std::string line = w.meaning + ": ";
    if (w.same) {
      line +=
          w.same->fits
              ? fmt::format("this layout has {:.1f} tokens/s/GPU", w.same->prediction->tokens_per_second_per_gpu)
              : fmt::format("this layout needs {} GiB and does not fit", in_gib(w.same->prediction->worst().reserved));
      if (e.layout.priced.fits && w.same->fits)
        line += fmt::format(" ({})", signed_percent(w.same->prediction->tokens_per_second_per_gpu /
                                                        e.layout.priced.prediction->tokens_per_second_per_gpu -
                                                    1));
      line += "; ";
    }
    if (!w.best) {
      text += wrapped(line + "nothing fits.", style.width, 2);
      continue;
    }
    line += fmt::format("the best has {:.1f}", w.best->prediction->tokens_per_second_per_gpu);
    if (e.best) {
      line += fmt::format(" ({})", signed_percent(w.best->prediction->tokens_per_second_per_gpu /
                                                      e.best->priced.prediction->tokens_per_second_per_gpu -
                                                  1));
      const std::string differences = layout_differences(w.best->layout, e.best->priced.layout);
      line += differences.empty() ? ", with the same layout as today's best" : ", with " + differences;
    }
    text += wrapped(line + ".", style.width, 2);
  }
  return text;
}

}  // namespace

std::string explain_text(const PlanRequest& request, const Explanation& e, const AskedAs& asked, bool operators,
                         const TableStyle& style) {
  const PricedLayout& plan = e.layout.priced;
  std::string text = question_text(request, e.asked, style) + layout_paragraph(plan.layout, style);
  if (!plan.assumed.empty())
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  text += "\n" + standing_text(e, request.machine, style);
  if (plan.prediction) {
    Beside beside;
    if (e.against) {
      if (e.against->priced.prediction) beside = {&*e.against, "against"};
    } else if (e.best && e.standing != Standing::best) {
      beside = {&*e.best, "best"};
    }
    if (e.against && beside.layout) {
      const std::string differences = layout_differences(e.against->priced.layout, plan.layout);
      text += "\n" + wrapped(differences.empty() ? "The layout to compare with is the same."
                                                 : "The layout to compare with has " + differences + ".",
                             style.width);
    }
    text += "\n" + seconds_text(e.layout, beside, style);
    text += "\n" + gigabytes_text(e.layout, beside, request.machine, style);
  }
  text += against_text(e) + changes_text(request, e, asked, style) + what_ifs_text(e, style);
  if (operators && plan.prediction) text += "\n" + operators_text(e, style);
  return plan.prediction ? text + "\n" + source_text(*plan.prediction, e.asked.calibration, style) : text;
}

}  // namespace shardwright
