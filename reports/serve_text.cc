#include "reports/serve_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "reports/detail_text.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

std::string layout_text(const ServedLayout& plan) {
  return plan.pools ? to_string(*plan.pools) : to_string(plan.layout);
}

std::string interval(Seconds value, Seconds low, Seconds high) {
  return fmt::format("{} ({} to {})", with_unit(value), with_unit(low), with_unit(high));
}

std::string load_text(const ServeLoad& load) {
  if (!load.trace.empty())
    return fmt::format(", {} requests of a trace, {:.3g} a second",
                       grouped(static_cast<std::int64_t>(load.trace.size())), load.requests_per_second);
  return fmt::format(", {:g} requests a second that come by themselves, lengths {}", load.requests_per_second,
                     to_string(load.lengths));
}

std::string question_text(const ServeRequest& request, const ServeResult& result, const TableStyle& style) {
  const ServeWorkload& w = result.workload;
  const std::string gpus = result.gpus > 0 ? grouped(result.gpus) : "any number of";
  const std::string place = result.prefill_pool
                                ? fmt::format("{} GPUs of {} that prefill and {} of {} that decode",
                                              grouped(result.prefill_pool->gpus), result.prefill_pool->machine.name,
                                              grouped(result.gpus - result.prefill_pool->gpus), result.machine)
                                : fmt::format("{} GPUs of {}", gpus, result.machine);
  std::string text = fmt::format("{} on {}, {}: prompts of {} and answers of {} tokens", result.model, place,
                                 result.engine, grouped(w.isl), grouped(w.osl));
  if (w.concurrency) text += fmt::format(", {} clients", grouped(*w.concurrency));
  if (result.load) text += load_text(*result.load);
  text += fmt::format("; weights {}", name_of(w.formats.weights));
  if (request.model.n_routed_experts > 0) text += fmt::format(", experts {}", name_of(w.formats.experts));
  text += fmt::format(", keys and values {}", name_of(w.formats.kv));
  if (w.cached_prefix > 0) text += fmt::format("; {} of a prompt cached", percent(w.cached_prefix));
  if (w.phase != ServePhase::both) text += fmt::format("; {} alone", name_of(w.phase));
  if (w.speculation.tokens > 0)
    text += fmt::format("; {} tokens proposed, each right {} of the time", w.speculation.tokens,
                        percent(w.speculation.acceptance, 0));
  if (result.goals.max_ttft_seconds) text += fmt::format("; first token within {:g} s", *result.goals.max_ttft_seconds);
  if (result.goals.max_tpot_seconds)
    text += fmt::format("; further tokens within {:g} s each", *result.goals.max_tpot_seconds);
  if (result.goals.of != GoalOf::mean) text += fmt::format(" ({} of requests)", name_of(result.goals.of));
  return wrapped(text + ".", style.width);
}

std::string line(std::string_view name, const std::string& value) { return fmt::format("  {:<31}{}\n", name, value); }

std::string rates_text(const ServedLayout& plan) {
  const ServePrediction& p = *plan.prediction;
  std::string text;
  if (p.ttft > Seconds{}) text += line("first token (ttft)", interval(p.ttft, p.ttft_low, p.ttft_high));
  if (p.tpot > Seconds{}) {
    text += line("each further token (tpot)", interval(p.tpot, p.tpot_low, p.tpot_high));
    text += line("output tokens per second",
                 fmt::format("{:.0f} ({:.0f} to {:.0f})", p.output_tokens_per_second, p.output_low, p.output_high));
    text += line("of a GPU", fmt::format("{:.1f}", p.output_tokens_per_second_per_gpu));
    text += line("of a user", fmt::format("{:.1f}", p.tokens_per_second_per_user));
  } else {
    const double each = p.input_tokens_per_second / p.output_tokens_per_second;
    text += line("input tokens per second", fmt::format("{:.0f} ({:.0f} to {:.0f})", p.input_tokens_per_second,
                                                        each * p.output_low, each * p.output_high));
    text += line("of a GPU", fmt::format("{:.1f}", each * p.output_tokens_per_second_per_gpu));
  }
  text += line("requests in flight", fmt::format("{}, {} of a rank at once", grouped(p.concurrency), grouped(p.batch)));
  if (p.cost_per_million_output_tokens)
    text += line("cost of 10^6 output tokens", fmt::format("{:.3f}", *p.cost_per_million_output_tokens));
  return text;
}

std::string under_load_text(const UnderLoad& u, const TableStyle& style) {
  std::string text = bold("Under the load, played step by step", style) + "\n";
  TextTable table({{"", TextTable::Align::left}, {"mean"}, {"p50"}, {"p90"}, {"p99"}});
  for (const auto& [name, spread] : {std::pair{"first token (ttft)", &u.seen.ttft},
                                     {"each further token (tpot)", &u.seen.tpot},
                                     {"whole answer", &u.seen.latency}})
    if (u.seen.counted > 0)
      table.add_row({name, with_unit(Seconds{spread->mean}), with_unit(Seconds{spread->p50}),
                     with_unit(Seconds{spread->p90}), with_unit(Seconds{spread->p99})});
  for (const std::string& row : table.lines(2)) text += row + "\n";
  std::string said =
      fmt::format("{} requests in {} steps, {:.3g} a second asked and {:.3g} answered", grouped(u.requests),
                  grouped(u.steps), u.seen.arrivals_per_second, u.seen.answers_per_second);
  if (u.preempted > 0) said += fmt::format("; {} times one had to give way and begin again", grouped(u.preempted));
  return text + wrapped(said + ".", style.width, 2);
}

std::string step_text(const ServePrediction& p) {
  const bool decodes = p.decode_step > Seconds{};
  const StepCost& c = decodes ? p.decode_cost : p.prefill_cost;
  std::string text = line(decodes ? "decode step" : "prefill step", with_unit(decodes ? p.decode_step : p.ttft));
  for (const auto& [name, time] : {std::pair{"  products", c.products},
                                   {"  experts", c.experts},
                                   {"  attention", c.attention},
                                   {"  norms, activations, ...", c.memory},
                                   {"  collectives", c.collectives},
                                   {"  experts' exchange", c.exchange},
                                   {"  of it, hidden", c.hidden},
                                   {"  host", p.host}})
    if (time > Seconds{}) text += line(name, with_unit(time));
  if (decodes && p.prefill_added > Seconds{})
    text += line("a prompt adds to others' steps", with_unit(p.prefill_added));
  return text;
}

std::string memory_text(const ServeMemory& m, const TableStyle& style) {
  std::string text = bold(fmt::format("GiB of a GPU, stage {}", m.stage), style) + "\n";
  text += line("weights", in_gib(m.weights, 2)) + line("activations of a step", in_gib(m.activations, 2)) +
          line("CUDA graphs", in_gib(m.cuda_graphs, 2)) + line("workspaces", in_gib(m.workspace, 2)) +
          line("left for keys and values", in_gib(m.pool, 2)) + line("usable", in_gib(m.usable, 2)) +
          line("a whole request's keys, values", in_gib(m.kv_per_sequence, 4)) +
          line("largest batch of a rank", grouped(m.largest_batch));
  return text + wrapped(m.reason, style.width, 2);
}

std::string sources_text(const ServePrediction& p, const TableStyle& style) {
  const double all = p.sources.total().value;
  if (!(all > 0)) return "";
  std::vector<std::string> parts;
  for (const CostSource source :
       {CostSource::measured, CostSource::interpolated, CostSource::extrapolated, CostSource::datasheet}) {
    const double share = p.sources.times[static_cast<std::size_t>(source)].value / all;
    if (share > 0.0005) parts.push_back(fmt::format("{} {}", name_of(source), percent(share)));
  }
  const double off = p.output_high / p.output_tokens_per_second - 1;
  return wrapped(
      fmt::format("Confidence: {}. In 80 % of cases tokens per second are less than {} off. Where times come "
                  "from: {}. Intervals hold four in five of the published rows.",
                  confidence(off), percent(off, 0), fmt::join(parts, ", ")),
      style.width);
}

std::string verdict(const ServedLayout& plan, const TableStyle& style) {
  if (!plan.rejection) return green("It fits and keeps what is promised.", style) + "\n";
  const char* word = !plan.prediction ? "It cannot be run." : plan.fits ? "It breaks a promise." : "It does not fit.";
  return red(word, style) + "\n" +
         wrapped(fmt::format("{}: {}", plan.rejection->reason, plan.rejection->detail), style.width);
}

/// Numbers of a plan, then its layout: behind them where it fits, else below.
std::string table_of(const std::vector<ServedLayout>& plans, const TableStyle& style) {
  TextTable table({{"tokens/s"}, {"/GPU"}, {"/user"}, {"ttft"}, {"tpot"}, {"in flight"}});
  for (const ServedLayout& plan : plans) {
    const ServePrediction& p = *plan.prediction;
    table.add_row({fmt::format("{:.0f}", p.output_tokens_per_second),
                   fmt::format("{:.1f}", p.output_tokens_per_second_per_gpu),
                   fmt::format("{:.1f}", p.tokens_per_second_per_user), with_unit(p.ttft), with_unit(p.tpot),
                   grouped(p.concurrency)});
  }
  const std::vector<std::string> lines = table.lines(2);
  std::string text = lines.front() + "  layout\n";
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const std::string layout = layout_text(plans[i]);
    const bool behind = lines[i + 1].size() + 2 + layout.size() <= static_cast<std::size_t>(style.width);
    text += lines[i + 1] + (behind ? "  " + layout + "\n" : "\n" + wrapped(layout, style.width, 4));
  }
  return text;
}

std::string what_if_text(const ServeWhatIf& w, const ServePrediction& now) {
  if (!w.same) return fmt::format("{}: nothing that fits and keeps what is promised", w.meaning);
  const ServePrediction& p = *w.same->prediction;
  std::string text =
      fmt::format("{}: {} tokens/s/GPU", w.meaning,
                  signed_percent(p.output_tokens_per_second_per_gpu / now.output_tokens_per_second_per_gpu - 1));
  if (p.ttft > Seconds{}) text += ", ttft " + with_unit(p.ttft);
  if (p.tpot > Seconds{}) text += ", tpot " + with_unit(p.tpot);
  return text + (w.same->keeps_goals ? "" : ", which breaks a promise");
}

/// Machine, links by pool, what changes of the question do.
std::string behind_text(const ServePrediction& now, const ServeDetail& detail, const TableStyle& style) {
  std::string text = machine_paragraph(detail.machine, style);
  bool links = false;
  for (const PoolLinks& pool : detail.pools) {
    if (pool.axes.empty()) continue;
    text += links_text(pool.axes, style, pool.pool);
    links = true;
  }
  if (links) text += "\n";
  if (detail.what_ifs.empty()) return text;
  text += bold("The same layout, at its best load, with", style) + "\n";
  for (const ServeWhatIf& w : detail.what_ifs) text += wrapped(what_if_text(w, now), style.width, 2);
  return text + "\n";
}

std::string estimate_of(const ServeResult& result, const std::optional<ServeDetail>& detail, const TableStyle& style) {
  const ServedLayout& plan = result.plans.front();
  std::string text = wrapped(fmt::format("Layout: {}", layout_text(plan)), style.width);
  if (!plan.assumed.empty())
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  text += "\n" + verdict(plan, style);
  if (!plan.prediction) return text;
  const ServePrediction& p = *plan.prediction;
  if (plan.under_load) text += "\n" + under_load_text(*plan.under_load, style);
  text += "\n" + rates_text(plan) + "\n" + step_text(p) + "\n" + memory_text(p.memory, style);
  text += "\n";
  if (detail) text += behind_text(p, *detail, style);
  return text + sources_text(p, style);
}

std::string search_text(const SearchSummary& search, bool fewest, const TableStyle& style) {
  std::string text = fmt::format("{} layouts and loads, {} priced", grouped(search.considered), grouped(search.priced));
  for (const auto& [reason, n] : search.rejected) text += fmt::format(", {} rejected for {}", grouped(n), reason);
  if (search.proven_best && fewest)
    text +=
        "; copies of every size within a node, and of whole nodes up to 64 GPUs, were looked at: none bears it with "
        "fewer";
  else if (search.proven_best)
    text += "; all were looked at, so the first is the best of them";
  return wrapped(text + ".", style.width);
}

}  // namespace

std::string serve_text(const ServeRequest& request, const ServeResult& result, const std::optional<ServeDetail>& detail,
                       const std::vector<std::string>& command, const TableStyle& style) {
  std::string text = question_text(request, result, style);
  if (result.is_estimate) return text + "\n" + estimate_of(result, detail, style);
  text += "\n";
  if (result.plans.empty()) {
    text += red("Nothing keeps what is promised.", style) + "\n";
    for (const ServedLayout& near : result.nearest)
      text +=
          wrapped(fmt::format("nearest: {}: {}: {}", layout_text(near), near.rejection->reason, near.rejection->detail),
                  style.width);
    return text + "\n" + search_text(result.search, result.load && !request.gpus, style);
  }
  text += table_of(result.plans, style);
  text += "\n" + bold("Most tokens for each speed of a user", style) + "\n" + table_of(result.pareto, style);
  const ServedLayout& best = result.plans.front();
  if (best.under_load) text += "\n" + under_load_text(*best.under_load, style);
  text += "\n" + bold("The first", style) + "\n" + rates_text(best) + "\n" + step_text(*best.prediction) + "\n" +
          memory_text(best.prediction->memory, style);
  text += "\n";
  if (detail) text += behind_text(*best.prediction, *detail, style);
  text += sources_text(*best.prediction, style) + search_text(result.search, result.load && !request.gpus, style);
  return text + (command.empty() ? "" : "\nThe first again:\n" + command_text(command, style));
}

// ---- explain ----

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
                               percent(less), space, layout_text(*e.best)),
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
                                      layout_text(*e.best)),
                          style.width);
  return text + wrapped("No layout of the same question keeps what is promised.", style.width);
}

}  // namespace

std::string serve_explain_text(const ServeRequest& request, const ServeExplanation& e, const TableStyle& style) {
  const ServedLayout& plan = e.layout;
  std::string text = question_text(request, e.asked, style);
  text += wrapped(fmt::format("Layout: {}", layout_text(plan)), style.width);
  if (!plan.assumed.empty())
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  text += "\n" + standing_text(e, style);
  if (e.limit && plan.keeps_goals)
    text += wrapped(fmt::format("No larger batch: {}: {}.", e.limit->reason, e.limit->detail), style.width);
  if (e.against && e.against->rejection)
    text += wrapped(fmt::format("The layout to compare with, {}: {}: {}.", layout_text(*e.against),
                                e.against->rejection->reason, e.against->rejection->detail),
                    style.width);
  const Compared all = compared(e);
  if (!all.layouts.empty())
    text += "\n" + answers_text(all, style) + "\n" + rounds_text(all, request.workload.speculation, style) + "\n" +
            gigabytes_text(all, style);
  text += changes_text(e, style);
  if (!e.what_ifs.empty()) {
    text += "\n" + bold("The same layout, at its best load, with", style) + "\n";
    for (const ServeWhatIf& w : e.what_ifs) text += wrapped(what_if_text(w, *plan.prediction), style.width, 2);
  }
  return plan.fits ? text + "\n" + sources_text(*plan.prediction, style) : text;
}

}  // namespace shardwright
