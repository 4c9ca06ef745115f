#include "reports/serve_explain_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "reports/serve_text.h"

namespace shardwright {
namespace {

constexpr std::size_t kMostChanges = 5;

/// A part of a decode round for people.
std::string_view part_words(const std::string& name) {
  static constexpr std::pair<std::string_view, std::string_view> words[] = {
      {"products", "matrix products"}, {"memory", "norms, activations, ..."}, {"exchange", "experts' exchange"},
      {"hidden", "of it, hidden"},     {"engine", "gaps, stages that wait"},  {"prompts", "prompts of others"},
  };
  for (const auto& [key, word] : words)
    if (key == name) return word;
  return name;
}

/// Columns of numbers of each layout that fits, by name: "this", "best", "against".
struct Compared {
  std::vector<std::pair<std::string, const ServedLayout*>> layouts;
};

Compared compared(const ServeExplanation& e) {
  Compared all;
  const auto add = [&](const char* name, const ServedLayout& plan) {
    if (plan.fits) all.layouts.push_back({name, &plan});
  };
  add("this", e.layout);
  if (e.best && e.standing != ServeStanding::best) add("best", *e.best);
  if (e.against) add("against", *e.against);
  return all;
}

std::string lines_of(const TextTable& table) {
  std::string text;
  for (const std::string& row : table.lines(2)) text += row + "\n";
  return text;
}

TextTable table_beside(const Compared& all) {
  std::vector<TextTable::Column> columns = {{"", TextTable::Align::left}};
  for (const auto& [name, plan] : all.layouts) columns.push_back({name});
  return TextTable(columns);
}

std::string rounds_text(const Compared& all, const Speculation& speculation, const TableStyle& style) {
  std::vector<std::vector<StepPart>> parts;
  for (const auto& [name, plan] : all.layouts) parts.push_back(round_parts(*plan->prediction, speculation));
  TextTable table = table_beside(all);
  for (const char* name : {"products", "experts", "attention", "memory", "collectives", "exchange", "hidden", "host",
                           "engine", "prompts"}) {
    std::vector<std::string> cells = {std::string(part_words(name))};
    bool any = false;
    for (const auto& of : parts) {
      const auto part = std::find_if(of.begin(), of.end(), [&](const StepPart& p) { return p.name == name; });
      any = any || part != of.end();
      cells.push_back(part == of.end()            ? "0"
                      : part->seconds < Seconds{} ? "-" + with_unit(-1.0 * part->seconds)
                                                  : with_unit(part->seconds));
    }
    if (any) table.add_row(cells);
  }
  std::vector<std::string> sums = {"until the next tokens"}, firsts = {"first token (ttft)"};
  for (const auto& [name, plan] : all.layouts) {
    sums.push_back(with_unit(speculation.gained() * plan->prediction->tpot));
    firsts.push_back(with_unit(plan->prediction->ttft));
  }
  table.add_row(sums);
  table.add_row(firsts);
  return bold("Where the time between two tokens goes", style) + "\n" + lines_of(table);
}

std::string gigabytes_text(const Compared& all, const TableStyle& style) {
  TextTable table = table_beside(all);
  const auto row = [&](const char* name, const auto& value) {
    std::vector<std::string> cells = {name};
    for (const auto& [column, plan] : all.layouts) cells.push_back(value(plan->prediction->memory));
    table.add_row(cells);
  };
  row("weights", [](const ServeMemory& m) { return in_gib(m.weights, 2); });
  row("activations of a step", [](const ServeMemory& m) { return in_gib(m.activations, 2); });
  row("CUDA graphs", [](const ServeMemory& m) { return in_gib(m.cuda_graphs, 2); });
  row("workspaces", [](const ServeMemory& m) { return in_gib(m.workspace, 2); });
  row("left for keys and values", [](const ServeMemory& m) { return in_gib(m.pool, 2); });
  row("a whole request's", [](const ServeMemory& m) { return in_gib(m.kv_per_sequence, 4); });
  row("largest batch of a rank", [](const ServeMemory& m) { return grouped(m.largest_batch); });
  return bold("Where the GiB of a GPU go", style) + "\n" + lines_of(table);
}

std::string answers_text(const Compared& all, const TableStyle& style) {
  TextTable table = table_beside(all);
  const auto row = [&](const char* name, const auto& value) {
    std::vector<std::string> cells = {name};
    for (const auto& [column, plan] : all.layouts) cells.push_back(value(*plan->prediction));
    table.add_row(cells);
  };
  row("output tokens per second",
      [](const ServePrediction& p) { return fmt::format("{:.0f}", p.output_tokens_per_second); });
  row("of a GPU", [](const ServePrediction& p) { return fmt::format("{:.1f}", p.output_tokens_per_second_per_gpu); });
  row("of a user", [](const ServePrediction& p) { return fmt::format("{:.1f}", p.tokens_per_second_per_user); });
  row("requests in flight", [](const ServePrediction& p) { return grouped(p.concurrency); });
  return bold("What it answers", style) + "\n" + lines_of(table);
}

std::string standing_text(const ServeExplanation& e, const TableStyle& style) {
  const ServedLayout& plan = e.layout;
  const std::string space = fmt::format("the {} layouts and loads of the question", grouped(e.search.considered));
  if (e.standing == ServeStanding::best)
    return wrapped(fmt::format("It keeps what is promised, and none of {} answers more.", space), style.width);
  if (e.standing == ServeStanding::slower) {
    const double less = 1 - plan.prediction->output_tokens_per_second / e.best->prediction->output_tokens_per_second;
    return wrapped(fmt::format("It keeps what is promised, and answers {} less than the best of {}, which is {}.",
                               percent(less), space, served_text(*e.best)),
                   style.width);
  }
  const char* word = e.standing == ServeStanding::impossible  ? "It cannot be run."
                     : e.standing == ServeStanding::too_large ? "It does not fit."
                                                              : "It breaks a promise at every load.";
  return red(word, style) + "\n" +
         wrapped(fmt::format("{}: {}", plan.rejection->reason, plan.rejection->detail), style.width);
}

/// "tp 8 -> 4 (dp 1 -> 2 follows): +12.0 % tokens/s, tpot 8.1 ms"
std::string change_text(const ServeExplanation& e, const ServeChange& change) {
  const ServeLayout &from = e.layout.layout, &to = change.plan.layout;
  std::vector<std::string> named, following;
  for (const auto& [key, a, b] : {std::tuple{"tp", from.tensor, to.tensor},
                                  {"pp", from.pipeline, to.pipeline},
                                  {"attention_dp", from.attention_data, to.attention_data},
                                  {"cp", from.context, to.context},
                                  {"ep", from.expert, to.expert},
                                  {"etp", from.expert_tensor, to.expert_tensor},
                                  {"dp", from.replicas, to.replicas}}) {
    if (a == b) continue;
    const bool own = std::any_of(change.keys.begin(), change.keys.end(), [&](ServeKey k) { return name_of(k) == key; });
    (own ? named : following).push_back(fmt::format("{} {} -> {}", key, a, b));
  }
  if (named.empty()) std::swap(named, following);
  std::string text = fmt::format("{}", fmt::join(named, " and "));
  if (!following.empty())
    text += fmt::format(" ({} follow{})", fmt::join(following, ", "), following.size() == 1 ? "s" : "");
  const ServePrediction& p = *change.plan.prediction;
  text +=
      e.layout.keeps_goals
          ? fmt::format(": {} tokens/s",
                        signed_percent(p.output_tokens_per_second / e.layout.prediction->output_tokens_per_second - 1))
          : fmt::format(": {:.0f} tokens/s", p.output_tokens_per_second);
  text += fmt::format(", ttft {}, tpot {}", with_unit(p.ttft), with_unit(p.tpot));
  if (e.layout.keeps_goals && change.turns) text += "; no other answers more";
  return text;
}

std::string changes_text(const ServeExplanation& e, const TableStyle& style) {
  if (e.standing == ServeStanding::best) return "";
  const auto list = [&](const char* title, const std::vector<ServeChange>& changes) {
    if (changes.empty()) return std::string();
    std::string text = "\n" + bold(title, style) + "\n";
    for (std::size_t i = 0; i < std::min(changes.size(), kMostChanges); ++i)
      text += wrapped(change_text(e, changes[i]), style.width, 2);
    return text;
  };
  const bool keeps = e.layout.keeps_goals;
  std::string text = list(keeps ? "One key changed, most tokens first"
                                : "One key changed, and it keeps what is promised; most tokens first",
                          e.changes);
  text += list(keeps ? "No single key closes the gap; two keys changed, most tokens first"
                     : "No single key turns it; two keys changed, most tokens first",
               e.pairs);
  const bool turned = std::any_of(e.changes.begin(), e.changes.end(), [](const ServeChange& c) { return c.turns; }) ||
                      std::any_of(e.pairs.begin(), e.pairs.end(), [](const ServeChange& c) { return c.turns; });
  if (!turned && e.best && e.best->pools)
    return text + "\n" +
           wrapped("What turns it is serving=disaggregated, prompts on GPUs of their own: the best above.",
                   style.width);
  if (!text.empty()) return text;
  text = "\n";
  if (keeps) return text + wrapped("No change of one key, nor of two, answers more.", style.width);
  if (e.best)
    return text + wrapped(fmt::format("Neither one key nor two turn it. What keeps what is promised: {}.",
                                      served_text(*e.best)),
                          style.width);
  return text + wrapped("No layout of the same question keeps what is promised.", style.width);
}

}  // namespace

std::string serve_explain_text(const ServeRequest& request, const ServeExplanation& e, const TableStyle& style) {
  const ServedLayout& plan = e.layout;
  std::string text = serve_question_text(request, e.asked, style);
  text += wrapped(fmt::format("Layout: {}", served_text(plan)), style.width);
  if (!plan.assumed.empty())
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  text += "\n" + standing_text(e, style);
  if (e.limit && plan.keeps_goals)
    text += wrapped(fmt::format("No larger batch: {}: {}.", e.limit->reason, e.limit->detail), style.width);
  if (e.against && e.against->rejection)
    text += wrapped(fmt::format("The layout to compare with, {}: {}: {}.", served_text(*e.against),
                                e.against->rejection->reason, e.against->rejection->detail),
                    style.width);
  const Compared all = compared(e);
  if (!all.layouts.empty())
    text += "\n" + answers_text(all, style) + "\n" + rounds_text(all, request.workload.speculation, style) + "\n" +
            gigabytes_text(all, style);
  text += changes_text(e, style);
  if (!e.what_ifs.empty()) {
    text += "\n" + bold("The same layout, at its best load, with", style) + "\n";
    for (const ServeWhatIf& w : e.what_ifs) text += wrapped(serve_what_if_text(w, *plan.prediction), style.width, 2);
  }
  return plan.fits ? text + "\n" + serve_sources_text(*plan.prediction, style) : text;
}

}  // namespace shardwright
