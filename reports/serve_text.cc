#include "reports/serve_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "reports/detail_text.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

std::string load_text(const ServeLoad& load) {
  if (!load.trace.empty())
    return fmt::format(", {} requests of a trace, {:.3g} a second",
                       grouped(static_cast<std::int64_t>(load.trace.size())), load.requests_per_second);
  return fmt::format(", {:g} requests a second that come by themselves, lengths {}", load.requests_per_second,
                     to_string(load.lengths));
}

}  // namespace

std::string served_text(const ServedLayout& plan) {
  return plan.pools ? to_string(*plan.pools) : to_string(plan.layout);
}

std::string serve_question_text(const ServeRequest& request, const ServeResult& result, const TableStyle& style) {
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

std::string serve_sources_text(const ServePrediction& p, const TableStyle& style) {
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

std::string serve_what_if_text(const ServeWhatIf& w, const ServePrediction& now) {
  if (!w.same) return fmt::format("{}: nothing that fits and keeps what is promised", w.meaning);
  const ServePrediction& p = *w.same->prediction;
  std::string text =
      fmt::format("{}: {} tokens/s/GPU", w.meaning,
                  signed_percent(p.output_tokens_per_second_per_gpu / now.output_tokens_per_second_per_gpu - 1));
  if (p.ttft > Seconds{}) text += ", ttft " + with_unit(p.ttft);
  if (p.tpot > Seconds{}) text += ", tpot " + with_unit(p.tpot);
  return text + (w.same->keeps_goals ? "" : ", which breaks a promise");
}

namespace {

std::string interval(Seconds value, Seconds low, Seconds high) {
  return fmt::format("{} ({} to {})", with_unit(value), with_unit(low), with_unit(high));
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
    const std::string layout = served_text(plans[i]);
    const bool behind = lines[i + 1].size() + 2 + layout.size() <= static_cast<std::size_t>(style.width);
    text += lines[i + 1] + (behind ? "  " + layout + "\n" : "\n" + wrapped(layout, style.width, 4));
  }
  return text;
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
  for (const ServeWhatIf& w : detail.what_ifs) text += wrapped(serve_what_if_text(w, now), style.width, 2);
  return text + "\n";
}

std::string estimate_of(const ServeResult& result, const std::optional<ServeDetail>& detail, const TableStyle& style) {
  const ServedLayout& plan = result.plans.front();
  std::string text = wrapped(fmt::format("Layout: {}", served_text(plan)), style.width);
  if (!plan.assumed.empty())
    text += wrapped(fmt::format("filled in by the planner: {}", fmt::join(plan.assumed, ", ")), style.width);
  text += "\n" + verdict(plan, style);
  if (!plan.prediction) return text;
  const ServePrediction& p = *plan.prediction;
  if (plan.under_load) text += "\n" + under_load_text(*plan.under_load, style);
  text += "\n" + rates_text(plan) + "\n" + step_text(p) + "\n" + memory_text(p.memory, style);
  text += "\n";
  if (detail) text += behind_text(p, *detail, style);
  return text + serve_sources_text(p, style);
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
  std::string text = serve_question_text(request, result, style);
  if (result.is_estimate) return text + "\n" + estimate_of(result, detail, style);
  text += "\n";
  if (result.plans.empty()) {
    text += red("Nothing keeps what is promised.", style) + "\n";
    for (const ServedLayout& near : result.nearest)
      text +=
          wrapped(fmt::format("nearest: {}: {}: {}", served_text(near), near.rejection->reason, near.rejection->detail),
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
  text += serve_sources_text(*best.prediction, style) + search_text(result.search, result.load && !request.gpus, style);
  return text + (command.empty() ? "" : "\nThe first again:\n" + command_text(command, style));
}

}  // namespace shardwright
