#include "planner/explain.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>

#include "planner/pricer.h"
#include "planner/search/search.h"

namespace shardwright {
namespace {

PlanRequest question(const char* model, const char* machine, std::int64_t gpus, std::int64_t sequence,
                     std::int64_t batch) {
  PlanRequest request;
  request.model = find_model(model);
  request.machine = find_machine(machine);
  request.gpus = gpus;
  request.workload.sequence_length = sequence;
  request.workload.global_batch = batch;
  request.workload.formats = formats_for(DataType::bf16);
  request.threads = 1;
  return request;
}

PlanRequest dense() { return question("llama-3.1-8b", "a100-sxm-80gb", 16, 4096, 32); }
PlanRequest experts() { return question("mixtral-8x7b", "h100-sxm-80gb", 32, 4096, 64); }

/// Some of the keys of a layout, at random: of those that are left out the fastest value is taken.
LayoutPins random_pins(std::mt19937& random, bool has_experts) {
  const auto one_of = [&](std::initializer_list<int> values) { return *(values.begin() + random() % values.size()); };
  const auto maybe = [&](std::optional<int>& pin, std::initializer_list<int> values) {
    if (random() % 2 == 0) pin = one_of(values);
  };
  LayoutPins pins;
  pins.tp = one_of({1, 2, 4});
  pins.pp = one_of({1, 2, 4});
  maybe(pins.cp, {1, 2});
  maybe(pins.zero, {0, 1, 2, 3});
  maybe(pins.micro_batch, {1, 2});
  if (pins.pp > 1) maybe(pins.vpp, {1, 2, 4});
  if (has_experts) maybe(pins.ep, {1, 2, 4, 8});
  if (random() % 4 != 0) pins.recompute = Recompute{random() % 3 == 0, 0};
  return pins;
}

/// What `estimate` says of exactly this layout, given as text.
PricedLayout estimated(PlanRequest request, const Layout& layout) {
  request.pins = parse_layout(to_string(layout), "--layout");
  return estimate(request).plans.at(0);
}

void check_same(const PlanRequest& request, const PricedLayout& named) {
  CAPTURE(to_string(named.layout));
  const PricedLayout applied = estimated(request, named.layout);
  CHECK(applied.layout == named.layout);
  CHECK(applied.fits == named.fits);
  REQUIRE(applied.prediction.has_value());
  CHECK(applied.prediction->step.value == doctest::Approx(named.prediction->step.value).epsilon(1e-12));
  CHECK(applied.prediction->worst().reserved == named.prediction->worst().reserved);
}

/// Of the keys of a layout that nobody freed, and that follow no other, each is as it was.
void check_keeps(const Layout& from, const LayoutChange& change) {
  const Layout& to = change.priced.layout;
  const auto freed = [&](std::initializer_list<LayoutKey> keys) {
    return std::any_of(keys.begin(), keys.end(), [&](LayoutKey key) {
      return std::find(change.keys.begin(), change.keys.end(), key) != change.keys.end();
    });
  };
  const bool degrees = freed({LayoutKey::tp, LayoutKey::pp, LayoutKey::cp});
  if (!freed({LayoutKey::tp})) CHECK(to.tensor == from.tensor);
  if (!freed({LayoutKey::pp})) CHECK(to.pipeline == from.pipeline);
  if (!freed({LayoutKey::cp})) CHECK(to.context == from.context);
  if (!freed({LayoutKey::vpp})) CHECK(to.virtual_pipeline == from.virtual_pipeline);
  if (!degrees) CHECK(to.data == from.data);
  if (!freed({LayoutKey::ep})) CHECK(to.expert == from.expert);
  if (!freed({LayoutKey::ep, LayoutKey::etp, LayoutKey::tp})) CHECK(to.expert_tensor == from.expert_tensor);
  if (!freed({LayoutKey::sequence_parallel, LayoutKey::tp})) CHECK(to.sequence_parallel == from.sequence_parallel);
  if (!freed({LayoutKey::zero}) && !degrees) CHECK(to.zero == from.zero);
  if (!freed({LayoutKey::recompute})) CHECK(to.recompute == from.recompute);
  if (!freed({LayoutKey::micro_batch})) CHECK(to.micro_batch == from.micro_batch);
  if (!freed({LayoutKey::rank_order}) && !degrees) CHECK(to.rank_order == from.rank_order);
}

/// The fastest layout that fits when one key takes each of `values` in turn and what follows it is free.
template <typename Set>
std::optional<double> fastest_of(const PlanRequest& request, const Explanation& e, LayoutKey key,
                                 std::initializer_list<int> values, const Set& set) {
  std::optional<double> best;
  for (int value : values) {
    PlanRequest one = request;
    one.pins = pins_around(e.layout.priced.layout, {key}, false);
    set(one.pins, value);
    if (Space(one).degrees().empty()) continue;
    Pricer pricer(one);
    const SearchAnswer answer = search(one, pricer);
    if (answer.top.empty() || answer.top[0].layout == e.layout.priced.layout) continue;
    best = std::min(best.value_or(1e30), answer.top[0].prediction->step.value);
  }
  return best;
}

std::optional<double> named(const Explanation& e, LayoutKey key) {
  for (const LayoutChange& change : e.changes)
    if (change.keys == std::vector{key}) return change.priced.prediction->step.value;
  return std::nullopt;
}

TEST_CASE("pins of a layout pin exactly this layout") {
  std::mt19937 random(7);
  int priced = 0;
  for (int i = 0; i < 40; ++i) {
    PlanRequest request = i % 2 ? experts() : question("llama-3.1-8b", "a100-sxm-80gb", 32, 4096, 32);
    request.pins = random_pins(random, i % 2 != 0);
    const PricedLayout first = estimate(request).plans.at(0);
    if (!first.prediction) continue;
    ++priced;
    request.pins = pins_of(first.layout);
    const PricedLayout again = estimate(request).plans.at(0);
    CHECK(again.layout == first.layout);
    CHECK(again.prediction->step == first.prediction->step);
    CHECK(again.fits == first.fits);
    for (const char* key : {"tp", "pp", "vpp", "dp", "recompute", "micro_batch", "layers_per_stage"})
      CHECK(std::find(again.assumed.begin(), again.assumed.end(), key) == again.assumed.end());
  }
  CHECK(priced > 20);
}

TEST_CASE("a change has the effect that explain names") {
  std::mt19937 random(11);
  std::array<int, 5> standings = {};
  int changes = 0, pairs = 0;
  for (int i = 0; i < 16; ++i) {
    PlanRequest request = i % 2 ? experts() : question("llama-3.1-8b", "a100-sxm-80gb", 32, 4096, 32);
    if (i % 4 < 2) request.machine = find_machine("a100-sxm-40gb");  // less fits
    request.pins = random_pins(random, i % 2 != 0);
    const Explanation e = explain(request, std::nullopt, false);
    const PricedLayout& from = e.layout.priced;
    CAPTURE(to_string(from.layout));
    ++standings[static_cast<std::size_t>(e.standing)];
    for (const auto* list : {&e.changes, &e.pairs, &e.nearest})
      for (const LayoutChange& change : *list) {
        check_same(request, change.priced);
        if (from.prediction) check_keeps(from.layout, change);
        CHECK(change.keys.size() == (list == &e.pairs ? 2 : 1));
        CHECK(change.priced.layout != from.layout);
        CHECK(change.priced.fits == (list != &e.nearest));
        if (from.fits) CHECK(change.priced.prediction->step < from.prediction->step);
        if (list == &e.nearest) CHECK(change.priced.prediction->worst().reserved < from.prediction->worst().reserved);
        if (!from.fits && list != &e.nearest) CHECK(change.turns);
      }
    changes += static_cast<int>(e.changes.size());
    pairs += static_cast<int>(e.pairs.size());
    // Two keys are named only where no single one turns it.
    if (!e.pairs.empty())
      CHECK(std::none_of(e.changes.begin(), e.changes.end(), [](const auto& c) { return c.turns; }));
    if (e.standing == Standing::best || e.standing == Standing::tied) continue;
    // No other value of a key does better.
    const auto check_key = [&](LayoutKey key, std::initializer_list<int> values, const auto& set) {
      const auto best = fastest_of(request, e, key, values, set);
      const auto said = named(e, key);
      const bool counts = best && (!from.fits || *best < from.prediction->step.value);
      CHECK(said.has_value() == counts);
      if (said && counts) CHECK(*said == doctest::Approx(*best).epsilon(1e-12));
    };
    check_key(LayoutKey::micro_batch, {1, 2, 4, 8, 16, 32, 64},
              [](LayoutPins& pins, int value) { pins.micro_batch = value; });
    check_key(LayoutKey::tp, {1, 2, 4, 8, 16, 32}, [](LayoutPins& pins, int value) { pins.tp = value; });
  }
  CHECK(changes > 15);
  CHECK(pairs > 3);
  CHECK(standings[static_cast<std::size_t>(Standing::slower)] > 2);
  CHECK(standings[static_cast<std::size_t>(Standing::too_large)] > 2);
}

TEST_CASE("the parts of a step add up to it, whatever the schedule") {
  const char* layouts[] = {"tp=2,pp=4,schedule=1f1b",  "tp=2,pp=4,vpp=2",
                           "tp=1,pp=4,schedule=zb-h1", "tp=2,pp=4,schedule=zb-v,vpp=2",
                           "tp=4,cp=2,cp_kind=ring",   "tp=2,zero=3",
                           "tp=4,overlap=tp+p2p",      "tp=2,pp=4,schedule=dualpipe,micro_batch=1",
                           "tp=2,pp=2,recompute=full"};
  for (const char* layout : layouts) {
    CAPTURE(layout);
    PlanRequest request = dense();
    request.pins = parse_layout(layout, "--layout");
    const Explanation e = explain(request, std::nullopt, false);
    REQUIRE(e.layout.priced.prediction.has_value());
    Seconds sum;
    for (const StepPart& part : e.layout.parts) sum += part.seconds;
    CHECK(sum.value == doctest::Approx(e.layout.priced.prediction->step.value).epsilon(1e-9));
  }
}

TEST_CASE("operators of a stage are its graphs' kernels times layers and micro-batches") {
  PlanRequest request = dense();
  request.pins = parse_layout("tp=2,pp=2,micro_batch=1,recompute=none,layers_per_stage=20+12", "--layout");
  const Layout layout = estimate(request).plans.at(0).layout;
  Pricer pricer(request);
  const std::vector<OperatorTime> first = pricer.operator_times(layout, 0), last = pricer.operator_times(layout, 1);
  const auto calls = [](const std::vector<OperatorTime>& list, const std::string& graph, OperatorPass pass) {
    for (const OperatorTime& o : list)
      if (o.graph == graph && o.pass == pass) return o.calls;
    return 0.0;
  };
  // 4 replicas of 32 sequences: 8 micro-batches of one.
  CHECK(calls(first, "layer", OperatorPass::forward) == 20 * 8);
  CHECK(calls(first, "layer", OperatorPass::weight_gradient) == 20 * 8);
  CHECK(calls(last, "layer", OperatorPass::forward) == 12 * 8);
  CHECK(calls(first, "layer", OperatorPass::again) == 0);
  CHECK(calls(first, "embedding", OperatorPass::forward) == 8);
  CHECK(calls(first, "head", OperatorPass::forward) == 0);
  CHECK(calls(last, "head", OperatorPass::forward) == 8);
  CHECK(calls(last, "embedding", OperatorPass::forward) == 0);
  // What one GPU does on the mean of its stages is half of both (Pricer::asked counts gradients' collectives and sends,
  // too).
  Seconds products, asked_products;
  for (const auto* list : {&first, &last})
    for (const OperatorTime& o : *list)
      if (!o.communicates && o.family == KernelFamily::attention) products += o.seconds;
  for (const AskedKernel& kernel : pricer.asked(layout))
    if (family_of(kernel.spec) == KernelFamily::attention) asked_products += kernel.times * kernel.cost.time;
  CHECK(products.value / 2 == doctest::Approx(asked_products.value));
  // Full recomputation runs every layer's forward again.
  Layout again = layout;
  again.recompute.full = true;
  CHECK(calls(pricer.operator_times(again, 0), "layer", OperatorPass::again) == 20 * 8);
}

TEST_CASE("a layout stands as best, tied, slower, too large or impossible") {
  PlanRequest request = dense();
  request.engine = find_engine("generic", "--engine");
  const PlanResult ranked = plan(request);
  const auto standing = [&](const Layout& layout) {
    request.pins = pins_of(layout);
    return explain(request, std::nullopt, false);
  };
  const Explanation best = standing(ranked.plans[0].layout);
  CHECK(best.standing == Standing::best);
  CHECK(best.changes.empty());
  CHECK(best.pairs.empty());
  CHECK(best.best->priced.layout == ranked.plans[0].layout);
  const Explanation second = standing(ranked.plans[1].layout);
  REQUIRE(ranked.plans[1].ties);
  CHECK(second.standing == Standing::tied);
  request.pins = parse_layout("tp=8,pp=2,recompute=full", "--layout");
  CHECK(explain(request, std::nullopt, false).standing == Standing::slower);
  request.pins = parse_layout("tp=1,pp=1,zero=0,micro_batch=1,recompute=none", "--layout");
  const Explanation large = explain(request, std::nullopt, false);
  CHECK(large.standing == Standing::too_large);
  CHECK(large.layout.priced.rejection->reason == "memory");
  request.pins = parse_layout("tp=1,pp=2,micro_batch=3", "--layout");
  const Explanation impossible = explain(request, std::nullopt, false);
  CHECK(impossible.standing == Standing::impossible);
  REQUIRE_FALSE(impossible.changes.empty());
  CHECK(impossible.changes[0].keys == std::vector{LayoutKey::micro_batch});
  CHECK(impossible.changes[0].turns);
}

TEST_CASE("a layout to compare with is estimated like the first") {
  PlanRequest request = dense();
  request.pins = parse_layout("tp=2,pp=2", "--layout");
  const LayoutPins other = parse_layout("tp=4,zero=1", "--against");
  const Explanation e = explain(request, other, false);
  request.pins = other;
  REQUIRE(e.against.has_value());
  CHECK(e.against->priced.layout == estimate(request).plans[0].layout);
  CHECK(e.against->parts.size() > 3);
}

TEST_CASE("what if the network were twice as fast, the memory larger, the batch doubled") {
  const PlanRequest request = dense();
  const std::vector<WhatIf> all = what_if_questions(request);
  REQUIRE(all.size() == 3);
  CHECK(all[0].name == "network_twice");
  CHECK(all[0].request.machine.links[0].bandwidth == request.machine.links[0].bandwidth);
  CHECK(all[0].request.machine.links[1].bandwidth.value == 2 * request.machine.links[1].bandwidth.value);
  CHECK(all[1].name == "memory_141_gb");
  CHECK(all[1].request.machine.memory == find_machine("h200-sxm-141gb").memory);
  CHECK(all[2].request.workload.global_batch == 64);
  PlanRequest larger = request;
  larger.machine = find_machine("b200-sxm-192gb");
  CHECK(what_if_questions(larger).size() == 2);

  PlanRequest pinned = request;
  pinned.pins = parse_layout("tp=2,pp=4", "--layout");
  const Explanation e = explain(pinned, std::nullopt, true);
  REQUIRE(e.what_ifs.size() == 3);
  for (const WhatIf& w : e.what_ifs) {
    CAPTURE(w.name);
    REQUIRE(w.best.has_value());
    REQUIRE(w.same.has_value());
    CHECK(w.best->prediction->step <= w.same->prediction->step);
    // Each is what plan and estimate answer to the changed question.
    PlanRequest changed = w.request;
    changed.top = 1;
    CHECK(plan(changed).plans[0].layout == w.best->layout);
    CHECK(estimated(w.request, e.layout.priced.layout).prediction->step == w.same->prediction->step);
  }
  // A faster network is of use to both, and to nobody a harm.
  CHECK(e.what_ifs[0].same->prediction->step <= e.layout.priced.prediction->step);
  CHECK(e.what_ifs[0].best->prediction->step <= e.best->priced.prediction->step);
  CHECK(e.what_ifs[1].best->prediction->step <= e.best->priced.prediction->step);
}

}  // namespace
}  // namespace shardwright
