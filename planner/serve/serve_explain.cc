#include "planner/serve/serve_explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "hardware/input_error.h"

namespace shardwright {

std::string_view name_of(ServeKey key) {
  static constexpr std::array<std::string_view, kServeKeys> names = {"tp", "pp", "attention_dp", "cp", "ep"};
  return names[static_cast<std::size_t>(key)];
}

std::string_view name_of(ServeStanding standing) {
  static constexpr std::string_view names[] = {"best", "slower", "breaks_promise", "too_large", "impossible"};
  return names[static_cast<int>(standing)];
}

ServePins pins_around(const ServeLayout& layout, const Model& model, const std::vector<ServeKey>& free) {
  ServePins pins = pins_of(layout, model);
  for (const ServeKey key : free) {
    if (key == ServeKey::tp) pins.tp.reset();
    if (key == ServeKey::pp) pins.pp.reset();
    if (key == ServeKey::attention_dp) pins.attention_dp.reset();
    if (key == ServeKey::cp) pins.cp.reset();
    if (key != ServeKey::ep) pins.dp.reset();
    if (key == ServeKey::pp) continue;
    pins.ep.reset();
    pins.etp.reset();
  }
  return pins;
}

std::vector<StepPart> round_parts(const ServePrediction& p, const Speculation& speculation) {
  std::vector<StepPart> parts;
  const Seconds round = speculation.gained() * p.tpot;
  const auto add = [&](const char* name, Seconds seconds) {
    if (std::fabs(seconds.value) > 1e-9 * round.value) parts.push_back({name, seconds});
  };
  const StepCost& c = p.decode_cost;
  add("products", c.products);
  add("experts", c.experts);
  add("attention", c.attention);
  add("memory", c.memory);
  add("collectives", c.collectives);
  add("exchange", c.exchange);
  add("hidden", -1.0 * c.hidden);
  add("host", p.host);
  add("engine", p.decode_step - c.computing() - c.communicating() - p.host);
  add("prompts", round - p.decode_step);
  return parts;
}

namespace {

double rate_of(const ServedLayout& plan) { return plan.prediction->output_tokens_per_second; }

/// At its best load on the question's GPUs; what comes nearest to the promises where none keeps them; nothing where
/// the pins allow no layout.
std::optional<ServedLayout> at_best_load(ServeRequest request, ServePins pins) {
  request.pins = std::move(pins);
  request.top = 1;
  ServeResult result = plan_serving(request);
  if (!result.plans.empty()) return std::move(result.plans[0]);
  if (!result.nearest.empty()) return std::move(result.nearest[0]);
  return std::nullopt;
}

/// One layout as the question meets it, impossible ones too.
ServedLayout served_with(const ServeRequest& question, const ServePins& pins) {
  if (pins.redundant || pins.shared_routed)
    throw InputError("redundant and shared experts are beyond what explain compares; estimate prices them");
  ServeRequest one = question;
  one.pins = pins;
  ServedLayout priced = std::move(estimate_serving(one).plans[0]);
  if (!priced.prediction) return priced;
  if (std::optional<ServedLayout> found = at_best_load(question, pins_of(priced.layout, question.model))) {
    found->assumed = std::move(priced.assumed);
    return std::move(*found);
  }
  return priced;
}

ServeStanding standing_of(const ServedLayout& plan, const std::optional<ServedLayout>& best) {
  if (!plan.prediction) return ServeStanding::impossible;
  if (!plan.fits) return ServeStanding::too_large;
  if (!plan.keeps_goals) return ServeStanding::breaks_promise;
  return best && rate_of(*best) > rate_of(plan) ? ServeStanding::slower : ServeStanding::best;
}

/// What forbids a larger batch of a layout that keeps what is promised.
Rejection limit_of(const ServeRequest& question, const ServedLayout& plan) {
  const ServePrediction& p = *plan.prediction;
  const std::int64_t ranks = std::int64_t{plan.layout.attention_data} * plan.layout.replicas;
  const std::int64_t batch = (p.concurrency + ranks - 1) / ranks;
  if (batch >= p.memory.largest_batch) {
    const std::string& reason = p.memory.reason;  // "memory: 41.2 GiB for keys and values, ..."
    const std::size_t colon = reason.find(':');
    return {reason.substr(0, colon), reason.substr(colon + 2)};
  }
  if (question.workload.concurrency) return {"clients", fmt::format("no more than {} ask", p.concurrency)};
  const std::vector<std::int64_t> tried = batches_tried(p.memory.largest_batch);
  ServeRequest more = question;
  const std::int64_t next = *std::upper_bound(tried.begin(), tried.end(), batch);
  more.workload.concurrency = next * ranks;
  const std::optional<ServedLayout> larger = at_best_load(more, pins_of(plan.layout, question.model));
  if (larger && larger->rejection)
    return {larger->rejection->reason, fmt::format("in batches of {}, {}", next, larger->rejection->detail)};
  return {"time", fmt::format("batches of {} do not answer more", next)};
}

/// What changing some keys of a layout leads to.
class ServeChanges {
 public:
  ServeChanges(const ServeRequest& question, ServeExplanation& e) : question_(question), e_(e) {}

  void find() {
    if (e_.standing == ServeStanding::best) return;
    for (int k = 0; k < kServeKeys; ++k) try_keys({static_cast<ServeKey>(k)}, e_.changes);
    if (std::any_of(e_.changes.begin(), e_.changes.end(), [](const ServeChange& c) { return c.turns; })) return;
    for (int a = 0; a < kServeKeys; ++a)
      for (int b = a + 1; b < kServeKeys; ++b) try_keys({static_cast<ServeKey>(a), static_cast<ServeKey>(b)}, e_.pairs);
    std::erase_if(e_.pairs, [&](const ServeChange& pair) {  // two keys that end where one does are that one
      return std::any_of(e_.changes.begin(), e_.changes.end(),
                         [&](const ServeChange& one) { return one.plan.layout == pair.plan.layout; });
    });
    if (e_.pairs.size() > kMostPairs) e_.pairs.resize(kMostPairs);
  }

 private:
  /// Into its place, most first; a layout that is there already stays as it was found.
  void try_keys(std::vector<ServeKey> keys, std::vector<ServeChange>& found) {
    const ServedLayout& from = e_.layout;
    std::optional<ServedLayout> to = at_best_load(question_, pins_around(from.layout, question_.model, keys));
    if (!to || !to->keeps_goals || to->layout == from.layout) return;
    if (from.keeps_goals && rate_of(*to) <= rate_of(from)) return;
    if (std::any_of(found.begin(), found.end(), [&](const ServeChange& c) { return c.plan.layout == to->layout; }))
      return;
    const bool turns = !from.keeps_goals || !e_.best || rate_of(*to) >= rate_of(*e_.best);
    const auto place =
        std::find_if(found.begin(), found.end(), [&](const ServeChange& c) { return rate_of(c.plan) < rate_of(*to); });
    found.insert(place, {std::move(keys), std::move(*to), turns});
  }

  const ServeRequest& question_;
  ServeExplanation& e_;
};

}  // namespace

ServeExplanation explain_serving(const ServeRequest& request, const std::optional<ServePins>& against, bool what_ifs) {
  ServeRequest question = request;
  question.gpus = layout_of(request.pins, request.model, request.gpus).gpus();
  question.pins = {};
  question.top = 1;
  ServeExplanation e;
  e.asked = empty_result(question);
  e.asked.gpus = *question.gpus;
  e.layout = served_with(question, request.pins);
  if (against) e.against = served_with(question, *against);
  ServeResult all = plan_serving(question);
  e.search = all.search;
  if (!all.plans.empty()) e.best = std::move(all.plans[0]);
  e.standing = standing_of(e.layout, e.best);
  e.limit = e.layout.keeps_goals ? limit_of(question, e.layout) : e.layout.rejection;
  ServeChanges(question, e).find();
  if (!what_ifs) return e;
  ServeResult shown = e.asked;
  shown.plans = {e.layout};
  if (auto detail = detail_of_first(question, shown)) e.what_ifs = std::move(detail->what_ifs);
  return e;
}

}  // namespace shardwright
