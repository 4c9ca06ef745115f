#include "planner/explain.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>

#include "planner/pricer.h"
#include "planner/search/search.h"

namespace shardwright {

std::string_view name_of(LayoutKey key) {
  static constexpr std::array<std::string_view, kLayoutKeys> names = {
      "tp",   "pp",        "vpp",         "cp",        "cp_kind", "ep", "etp", "sequence_parallel",
      "zero", "recompute", "micro_batch", "rank_order"};
  return names[static_cast<std::size_t>(key)];
}

std::string_view name_of(Standing standing) {
  static constexpr std::string_view names[] = {"best", "tied", "slower", "too_large", "impossible"};
  return names[static_cast<int>(standing)];
}

LayoutPins pins_of(const Layout& l) {
  LayoutPins pins;
  pins.tp = l.tensor;
  pins.pp = l.pipeline;
  pins.vpp = l.virtual_pipeline;
  pins.cp = l.context;
  pins.dp = l.data;
  pins.ep = l.expert;
  pins.etp = l.expert_tensor;
  if (l.context > 1) pins.cp_kind = l.context_kind;
  if (l.expert > 1) pins.dispatcher = l.dispatcher;
  if (l.tensor > 1) pins.sequence_parallel = l.sequence_parallel;
  if (l.data * l.context > 1) pins.zero = l.zero;
  if (l.zero > 0) pins.fsdp_group = l.shard_group;
  pins.recompute = l.recompute;
  pins.micro_batch = l.micro_batch;
  if (l.pipeline > 1) pins.schedule = l.schedule;
  if (l.data > 1 && l.pipeline > 1) pins.rank_order = l.rank_order;
  const int matters = overlaps_of(l).bits;
  pins.overlap_on.bits = static_cast<std::uint8_t>(l.overlap.bits & matters);
  pins.overlap_off.bits = static_cast<std::uint8_t>(~l.overlap.bits & matters);
  if (!l.layers_per_chunk.empty()) pins.layers_per_stage = l.layers_per_chunk;
  return pins;
}

LayoutPins pins_around(const Layout& l, const std::vector<LayoutKey>& free, bool own_layers) {
  LayoutPins pins = pins_of(l);
  if (!own_layers) pins.layers_per_stage.reset();
  for (LayoutKey key : free) {
    switch (key) {
      case LayoutKey::tp:
        pins.tp.reset();
        pins.etp.reset();
        break;
      case LayoutKey::pp:
        pins.pp.reset();
        break;
      case LayoutKey::vpp:
        pins.vpp.reset();
        break;
      case LayoutKey::cp:
        pins.cp.reset();
        break;
      case LayoutKey::cp_kind:
        pins.cp_kind.reset();
        break;
      case LayoutKey::ep:
        pins.ep.reset();
        pins.etp.reset();
        break;
      case LayoutKey::etp:
        pins.etp.reset();
        break;
      case LayoutKey::sequence_parallel:
        pins.sequence_parallel.reset();
        break;
      case LayoutKey::zero:
        pins.zero.reset();
        pins.fsdp_group.reset();
        break;
      case LayoutKey::recompute:
        pins.recompute.reset();
        break;
      case LayoutKey::micro_batch:
        pins.micro_batch.reset();
        break;
      case LayoutKey::rank_order:
        pins.rank_order.reset();
        break;
    }
    if (key == LayoutKey::tp || key == LayoutKey::pp || key == LayoutKey::cp) {
      pins.dp.reset();
      if (l.shard_group == l.data * l.context) pins.fsdp_group.reset();
    }
    if (key == LayoutKey::pp || key == LayoutKey::vpp) {
      pins.schedule.reset();
      pins.layers_per_stage.reset();
    }
  }
  return pins;
}

int slowest_stage(const Prediction& prediction) {
  const auto least = std::min_element(prediction.idle.begin(), prediction.idle.end());
  return least == prediction.idle.end() ? 0 : static_cast<int>(least - prediction.idle.begin());
}

std::vector<StepPart> step_parts(const Prediction& p, const std::vector<OperatorTime>& operators) {
  std::vector<StepPart> parts;
  const double nothing = 1e-9 * p.step.value;
  const auto add = [&](std::string name, Seconds seconds) {
    if (std::fabs(seconds.value) > nothing) parts.push_back({std::move(name), seconds});
  };
  std::array<Seconds, kKernelFamilies> families = {};
  for (const OperatorTime& o : operators)
    if (!o.communicates) families[static_cast<std::size_t>(o.family)] += o.seconds;
  Seconds alone;
  for (int f = 0; f < kKernelFamilies; ++f) {
    add(std::string(name_of(static_cast<KernelFamily>(f))), families[static_cast<std::size_t>(f)]);
    alone += families[static_cast<std::size_t>(f)];
  }
  add("overlap", p.compute - alone);
  for (int k = 0; k < kTraffics; ++k) {
    const auto kind = static_cast<Traffic>(k);
    add("exposed " + std::string(name_of(kind)), p.exposed[kind]);
  }
  add("optimizer", p.optimizer);
  add("host", p.host);
  add("bubble", p.bubble);
  return parts;
}

namespace {

/// Layouts of one question, all priced by the same pricer.
class Explainer {
 public:
  explicit Explainer(const PlanRequest& request) : request_(request), pricer_(request) { request_.pins = {}; }

  SearchAnswer search_with(const LayoutPins& pins, int top) {
    PlanRequest one = request_;
    one.pins = pins;
    one.top = top;
    SearchAnswer answer = search(one, pricer_);
    for (auto* list : {&answer.top, &answer.nearest})
      for (PricedLayout& p : *list)
        if (p.prediction) p.prediction->source_share = pricer_.source_share(p.layout);
    return answer;
  }

  std::vector<OperatorTime> operators(const PricedLayout& p) {
    if (!p.prediction) return {};
    return pricer_.operator_times(p.layout, slowest_stage(*p.prediction));
  }
  ExplainedLayout explained(const PricedLayout& p) {
    ExplainedLayout e{p, {}};
    if (p.prediction) e.parts = step_parts(*p.prediction, operators(p));
    return e;
  }
  Pricer& pricer() { return pricer_; }
  const PredictionErrors& errors() const { return request_.engine.errors; }

 private:
  PlanRequest request_;
  Pricer pricer_;
};

Standing standing_of(const PricedLayout& p, const std::optional<ExplainedLayout>& best,
                     const PredictionErrors& errors) {
  if (!p.prediction) return Standing::impossible;
  if (!p.fits) return Standing::too_large;
  // A layout outside of the space (another schedule, uneven layers) may beat the best of it.
  if (!best || p.prediction->step <= best->priced.prediction->step) return Standing::best;
  return ties_with(best->priced, p, errors) ? Standing::tied : Standing::slower;
}

bool faster(const LayoutChange& a, const LayoutChange& b) {
  return std::tie(a.priced.prediction->step, a.priced.layout) < std::tie(b.priced.prediction->step, b.priced.layout);
}

/// Frees what was filled in of a layout that cannot be computed: nothing was chosen there, the first value was taken.
void free_filled_in(LayoutPins& pins, const std::vector<std::string>& assumed) {
  for (const std::string& key : assumed) {
    if (key == "cp_kind") pins.cp_kind.reset();
    if (key == "dispatcher") pins.dispatcher.reset();
    if (key == "sequence_parallel") pins.sequence_parallel.reset();
    if (key == "zero") pins.zero.reset();
    if (key == "fsdp_group") pins.fsdp_group.reset();
    if (key == "recompute") pins.recompute.reset();
    if (key == "micro_batch") pins.micro_batch.reset();
    if (key == "schedule") pins.schedule.reset();
    if (key == "rank_order") pins.rank_order.reset();
  }
}

/// What changing some keys of a layout leads to.
class Changes {
 public:
  Changes(Explainer& explainer, Explanation& e) : explainer_(explainer), e_(e) {
    const auto& assumed = e.layout.priced.assumed;
    own_layers_ = std::find(assumed.begin(), assumed.end(), "layers_per_stage") == assumed.end();
  }

  void find() {
    if (e_.standing == Standing::best) return;
    for (int k = 0; k < kLayoutKeys; ++k) try_keys({static_cast<LayoutKey>(k)}, e_.changes);
    std::sort(e_.changes.begin(), e_.changes.end(), faster);
    const bool turned = std::any_of(e_.changes.begin(), e_.changes.end(), [](const auto& c) { return c.turns; });
    if (turned || e_.standing == Standing::tied) {
      e_.nearest.clear();
      return;
    }
    const std::size_t single = e_.nearest.size();
    for (int a = 0; a < kLayoutKeys; ++a)
      for (int b = a + 1; b < kLayoutKeys; ++b)
        try_keys({static_cast<LayoutKey>(a), static_cast<LayoutKey>(b)}, e_.pairs);
    std::sort(e_.pairs.begin(), e_.pairs.end(), faster);
    // Two keys that end where one does are that one.
    std::erase_if(e_.pairs, [&](const LayoutChange& pair) {
      return std::any_of(e_.changes.begin(), e_.changes.end(),
                         [&](const LayoutChange& one) { return one.priced.layout == pair.priced.layout; });
    });
    if (e_.pairs.size() > kMostPairs) e_.pairs.resize(kMostPairs);
    e_.nearest.resize(std::min(single, e_.nearest.size()));
    std::stable_sort(e_.nearest.begin(), e_.nearest.end(), [](const LayoutChange& a, const LayoutChange& b) {
      return a.priced.prediction->worst().reserved < b.priced.prediction->worst().reserved;
    });
    if (!e_.changes.empty() || !e_.pairs.empty()) e_.nearest.clear();
  }

 private:
  void try_keys(std::vector<LayoutKey> keys, std::vector<LayoutChange>& found) {
    const PricedLayout& from = e_.layout.priced;
    LayoutPins pins = pins_around(from.layout, keys, own_layers_);
    if (!from.prediction) free_filled_in(pins, from.assumed);
    const SearchAnswer answer = explainer_.search_with(pins, 1);
    if (answer.top.empty()) {
      if (!answer.nearest.empty() && from.prediction &&
          answer.nearest[0].prediction->worst().reserved < from.prediction->worst().reserved)
        e_.nearest.push_back({std::move(keys), answer.nearest[0], false});
      return;
    }
    const PricedLayout& to = answer.top[0];
    const bool improves = !from.fits || to.prediction->step < from.prediction->step;
    if (!improves || to.layout == from.layout) return;
    const bool turns = !from.fits || !e_.best || ties_with(e_.best->priced, to, explainer_.errors());
    found.push_back({std::move(keys), to, turns});
  }

  Explainer& explainer_;
  Explanation& e_;
  bool own_layers_ = false;
};

}  // namespace

std::vector<MachineChange> machine_changes(const Machine& machine) {
  std::vector<MachineChange> all;
  MachineChange network{"network_twice", "links between nodes twice as fast", machine};
  bool any = false;
  for (LinkLevel& level : network.machine.links) {
    if (level.gpus != 0 && level.gpus <= machine.gpus_per_node) continue;
    level.bandwidth = level.bandwidth * 2;
    any = true;
  }
  if (any) all.push_back(std::move(network));
  // As the catalog has it of h200-sxm-141gb, with its source.
  const Bytes larger = find_machine("h200-sxm-141gb").memory;
  if (machine.memory < larger) {
    all.push_back({"memory_141_gb", "GPUs with 141 GB", machine});
    all.back().machine.memory = larger;
  }
  return all;
}

std::vector<WhatIf> what_if_questions(const PlanRequest& request) {
  PlanRequest bare = request;
  bare.pins = {};
  std::vector<WhatIf> all;
  for (MachineChange& change : machine_changes(request.machine)) {
    all.push_back({std::move(change.name), std::move(change.meaning), bare, {}, {}});
    all.back().request.machine = std::move(change.machine);
  }
  WhatIf w{"batch_twice", "twice the global batch", bare, {}, {}};
  w.request.workload.global_batch *= 2;
  all.push_back(std::move(w));
  return all;
}

Explanation explain(const PlanRequest& request, const std::optional<LayoutPins>& against, bool what_ifs) {
  Explanation e;
  e.asked = estimate(request);
  Explainer explainer(request);
  const PricedLayout& plan = e.asked.plans.at(0);
  e.operators = explainer.operators(plan);
  e.layout = {plan, {}};
  if (plan.prediction) {
    e.layout.parts = step_parts(*plan.prediction, e.operators);
    e.tensors = explainer.pricer().memory_items(plan.layout, plan.prediction->worst_stage);
  }
  SearchAnswer best = explainer.search_with({}, 1);
  e.search = std::move(best.summary);
  if (!best.top.empty()) e.best = explainer.explained(best.top[0]);
  e.standing = standing_of(plan, e.best, explainer.errors());
  Changes(explainer, e).find();
  if (against) {
    PlanRequest other = request;
    other.pins = *against;
    e.against = explainer.explained(estimate(other).plans.at(0));
  }
  if (what_ifs) {
    e.what_ifs = what_if_questions(request);
    for (WhatIf& w : e.what_ifs) {
      Explainer changed(w.request);
      SearchAnswer found = changed.search_with({}, 1);
      if (!found.top.empty()) w.best = std::move(found.top[0]);
      if (!plan.prediction) continue;
      SearchAnswer same = changed.search_with(pins_of(plan.layout), 1);
      if (!same.top.empty())
        w.same = std::move(same.top[0]);
      else if (!same.nearest.empty())
        w.same = std::move(same.nearest[0]);
    }
  }
  return e;
}

}  // namespace shardwright
