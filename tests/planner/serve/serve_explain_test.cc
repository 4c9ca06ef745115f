#include "planner/serve/serve_explain.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

ServeRequest request(const char* model, std::int64_t gpus, const char* layout) {
  ServeRequest r;
  r.model = find_model(model);
  r.machine = find_machine("h100-sxm-80gb");
  r.engine = find_serve_engine("vllm", "--engine");
  r.workload = {1024, 128, {}, {}, {}};
  r.pins = parse_serve_layout(layout, "--layout");
  r.gpus = gpus;
  r.threads = 1;
  return r;
}

double rate(const ServedLayout& plan) { return plan.prediction->output_tokens_per_second; }

/// What `plan` answers with these pins: the same layout at the same load.
void check_planned(ServeRequest r, const ServedLayout& plan) {
  r.pins = pins_of(plan.layout, r.model);
  const ServeResult result = plan_serving(r);
  REQUIRE(result.plans.size() == 1);
  CHECK(result.plans[0].layout == plan.layout);
  CHECK(rate(result.plans[0]) == rate(plan));
}

TEST_CASE("the best of a question is found best, and parts of a round add up") {
  for (const char* model : {"llama-3.1-8b", "mixtral-8x7b"}) {
    CAPTURE(model);
    ServeRequest r = request(model, 4, "tp=4");
    ServeRequest all = r;
    all.pins = parse_serve_layout("serving=aggregated", "--pin");
    all.top = 1000;
    const ServeResult plans = plan_serving(all);
    REQUIRE(plans.plans.size() > 2);
    int best = 0;
    for (const ServedLayout& plan : plans.plans) {
      CAPTURE(to_string(plan.layout));
      r.pins = pins_of(plan.layout, r.model);
      const ServeExplanation e = explain_serving(r, std::nullopt, false);
      CHECK(e.layout.layout == plan.layout);
      CHECK(rate(e.layout) == rate(plan));
      REQUIRE(e.best.has_value());
      CHECK(rate(*e.best) >= rate(plans.plans[0]));  // pools, too
      const bool slower = rate(*e.best) > rate(plan);
      CHECK(e.standing == (slower ? ServeStanding::slower : ServeStanding::best));
      best += slower ? 0 : 1;
      REQUIRE(e.limit.has_value());
      Seconds sum;
      for (const StepPart& part : round_parts(*e.layout.prediction, {})) sum += part.seconds;
      CHECK(sum.value == doctest::Approx(e.layout.prediction->tpot.value));
      for (const auto* list : {&e.changes, &e.pairs})
        for (const ServeChange& change : *list) {
          CHECK(change.keys.size() == (list == &e.pairs ? 2 : 1));
          CHECK(rate(change.plan) > rate(plan));
          CHECK(change.plan.gpus() == 4);
          CHECK(change.turns == (rate(change.plan) >= rate(*e.best)));
          check_planned(r, change.plan);
        }
      CHECK(std::is_sorted(e.changes.begin(), e.changes.end(),
                           [](const ServeChange& a, const ServeChange& b) { return rate(a.plan) > rate(b.plan); }));
    }
    CHECK(best <= 1);
  }
}

// The layouts a single key leads to, by hand: the best of tp 1, 2, 4, 8 with copies that fill 8 GPUs.
TEST_CASE("a change of tp is the best of all tp, with as many copies as there is room for") {
  const ServeExplanation e = explain_serving(request("llama-3.1-8b", 8, "tp=8"), std::nullopt, false);
  double best = 0;
  for (const char* pins : {"tp=1,dp=8", "tp=2,dp=4", "tp=4,dp=2"}) {
    ServeRequest r = request("llama-3.1-8b", 8, pins);
    const ServeResult result = plan_serving(r);
    REQUIRE(!result.plans.empty());
    best = std::max(best, rate(result.plans[0]));
  }
  const auto change = std::find_if(e.changes.begin(), e.changes.end(),
                                   [](const ServeChange& c) { return c.keys == std::vector{ServeKey::tp}; });
  REQUIRE(change != e.changes.end());
  CHECK(rate(change->plan) == best);
}

TEST_CASE("what does not fit is turned by what does") {
  const ServeExplanation e = explain_serving(request("llama-3.1-70b", 8, "tp=1"), std::nullopt, true);
  CHECK(e.standing == ServeStanding::too_large);
  CHECK(e.layout.rejection->reason == "memory");
  CHECK(e.limit->reason == "memory");
  CHECK(e.what_ifs.empty());
  REQUIRE(!e.changes.empty());
  for (const ServeChange& change : e.changes) {
    CHECK(change.turns);
    CHECK(change.plan.keeps_goals);
    CHECK(change.plan.layout.tensor * change.plan.layout.pipeline > 1);
  }
  CHECK(e.pairs.empty());
}

TEST_CASE("a promise limits the batch, or is broken at every load") {
  ServeRequest r = request("llama-3.1-70b", 8, "tp=4");
  r.goals.max_tpot_seconds = 0.03;
  const ServeExplanation e = explain_serving(r, std::nullopt, true);
  REQUIRE(e.layout.keeps_goals);
  CHECK(e.limit->reason == "tpot");
  CHECK(e.limit->detail.find("in batches of ") == 0);
  CHECK(e.what_ifs.size() == 3);
  r.goals.max_tpot_seconds = 1e-6;
  const ServeExplanation none = explain_serving(r, std::nullopt, false);
  CHECK(none.standing == ServeStanding::breaks_promise);
  CHECK_FALSE(none.best.has_value());
  CHECK(none.changes.empty());
  CHECK(none.pairs.empty());
}

TEST_CASE("clients that are given are the limit where more would fit") {
  ServeRequest r = request("llama-3.1-8b", 2, "tp=2");
  r.workload.concurrency = 8;
  const ServeExplanation e = explain_serving(r, parse_serve_layout("tp=1", "--against"), false);
  CHECK(e.limit->reason == "clients");
  CHECK(e.limit->detail == "no more than 8 ask");
  REQUIRE(e.against.has_value());
  CHECK(e.against->layout.replicas == 2);
  CHECK(e.against->prediction->concurrency == 8);
}

TEST_CASE("what cannot be run says why, and what the space does not have is refused") {
  const ServeExplanation e = explain_serving(request("llama-3.1-8b", 3, "tp=3"), std::nullopt, false);
  CHECK(e.standing == ServeStanding::impossible);
  CHECK_FALSE(e.layout.prediction.has_value());
  for (const ServeChange& change : e.changes) CHECK(change.turns);
  CHECK_THROWS_WITH_AS(explain_serving(request("deepseek-v3", 32, "attention_dp=32,ep=32,redundant=32"), {}, false),
                       "redundant and shared experts are beyond what explain compares; estimate prices them",
                       InputError);
}

}  // namespace
}  // namespace shardwright
