#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "planner/serve/serve_plan.h"

namespace shardwright {
namespace {

using doctest::Approx;

ServeRequest request(const char* model, std::int64_t gpus) {
  ServeRequest r;
  r.model = find_model(model);
  r.machine = find_machine("h200-sxm-141gb");
  r.engine = find_serve_engine("vllm", "--engine");
  r.workload = {1024, 256, {}, {WeightFormat::fp8, WeightFormat::fp8, KvFormat::fp8}, {}};
  r.gpus = gpus;
  r.threads = 1;
  return r;
}

/// Every layout of so many GPUs, by trying all numbers for all degrees, with every concurrency of the list.
double brute_force(const ServeRequest& r, const ServeGoals& goals) {
  double best = 0;
  const auto gpus = static_cast<int>(*r.gpus);
  const bool experts = r.model.n_routed_experts > 0;
  for (int tp = 1; tp <= gpus; ++tp)
    for (int pp = 1; pp <= gpus; ++pp)
      for (int adp = 1; adp <= (experts ? gpus : 1); ++adp)
        for (int ep = 1; ep <= (experts ? gpus : 1); ++ep)
          for (int etp = 1; etp <= (experts ? gpus : 1); ++etp)
            for (int dp = 1; dp <= gpus; ++dp) {
              if (tp * pp * adp * dp != gpus || (experts && ep * etp != tp * adp)) continue;
              ServeRequest one = r;
              one.pins = {tp, pp, adp, {}, {}, {}, dp, {}};
              if (experts) {
                one.pins.ep = ep;
                one.pins.etp = etp;
              }
              const ServedLayout whole = estimate_serving(one).plans.front();
              if (!whole.fits) continue;
              for (const std::int64_t batch : batches_tried(whole.prediction->memory.largest_batch)) {
                one.workload.concurrency = batch * adp * dp;
                const ServedLayout at = estimate_serving(one).plans.front();
                if (!broken_goal(goals, *at.prediction)) best = std::max(best, at.prediction->output_tokens_per_second);
              }
            }
  return best;
}

TEST_CASE("the first plan is what brute force finds") {
  for (const auto& [model, gpus] : {std::pair{"llama-3.1-8b", 4}, {"mixtral-8x7b", 4}})
    for (const ServeGoals& goals : {ServeGoals{}, ServeGoals{{}, 0.02}, ServeGoals{0.3, 0.03}}) {
      ServeRequest r = request(model, gpus);
      r.goals = goals;
      r.pins.disaggregated = false;
      const ServeResult result = plan_serving(r);
      REQUIRE_FALSE(result.plans.empty());
      CHECK(result.search.proven_best);
      CHECK(result.plans.front().prediction->output_tokens_per_second == Approx(brute_force(r, goals)).epsilon(1e-9));
    }
}

TEST_CASE("with a number of clients, plans are what estimate says of them, idle copies too") {
  for (const std::int64_t clients : {1, 3, 10}) {
    ServeRequest r = request("mixtral-8x7b", 8);
    r.pins.disaggregated = false;
    r.workload.concurrency = clients;
    const ServeResult result = plan_serving(r);
    REQUIRE_FALSE(result.plans.empty());
    for (const ServedLayout& plan : result.plans) {
      const ServeLayout& l = plan.layout;
      ServeRequest one = r;
      one.pins.tp = l.tensor;
      one.pins.pp = l.pipeline;
      one.pins.attention_dp = l.attention_data;
      one.pins.cp = l.context;
      one.pins.ep = l.expert;
      one.pins.etp = l.expert_tensor;
      one.pins.dp = l.replicas;
      const ServedLayout same = estimate_serving(one).plans.front();
      REQUIRE(same.layout == l);
      CHECK(same.prediction->output_tokens_per_second == plan.prediction->output_tokens_per_second);
      CHECK(plan.prediction->concurrency == clients);
    }
  }
}

TEST_CASE("threads change nothing, and plans come best first") {
  ServeRequest r = request("mixtral-8x7b", 8);
  r.goals = {1, 0.05};
  const ServeResult one = plan_serving(r);
  r.threads = 3;
  const ServeResult three = plan_serving(r);
  REQUIRE(one.plans.size() == three.plans.size());
  for (std::size_t i = 0; i < one.plans.size(); ++i) {
    CHECK(one.plans[i].layout == three.plans[i].layout);
    CHECK(one.plans[i].pools == three.plans[i].pools);
    CHECK(one.plans[i].prediction->tpot == three.plans[i].prediction->tpot);
    CHECK(one.plans[i].gpus() == 8);
    if (i > 0)
      CHECK(one.plans[i].prediction->output_tokens_per_second <= one.plans[i - 1].prediction->output_tokens_per_second);
    CHECK(one.plans[i].prediction->ttft.value <= 1);
    CHECK(one.plans[i].prediction->tpot.value <= 0.05);
  }
}

TEST_CASE("what is charted are the ranked layouts at their best loads, and those behind them") {
  ServeRequest r = request("llama-3.1-70b", 8);
  r.top = 2;
  const ServeResult result = plan_serving(r);
  REQUIRE(result.priced.size() > result.plans.size());
  for (std::size_t i = 0; i < result.priced.size(); ++i) {
    const ServedPoint& point = result.priced[i];
    if (i > 0) CHECK(point.per_gpu <= result.priced[i - 1].per_gpu);
    if (i >= result.plans.size()) continue;
    CHECK(point.layout == result.plans[i].layout);
    CHECK(point.pools == result.plans[i].pools);
    CHECK(point.concurrency == result.plans[i].prediction->concurrency);
    CHECK(point.per_gpu == result.plans[i].prediction->output_tokens_per_second_per_gpu);
    CHECK(point.per_user == result.plans[i].prediction->tokens_per_second_per_user);
  }
}

TEST_CASE("no plan of the front is behind another in both respects") {
  const ServeResult result = plan_serving(request("llama-3.1-70b", 8));
  REQUIRE(result.pareto.size() > 2);
  for (std::size_t i = 1; i < result.pareto.size(); ++i) {
    const ServePrediction &before = *result.pareto[i - 1].prediction, &here = *result.pareto[i].prediction;
    CHECK(here.tokens_per_second_per_user < before.tokens_per_second_per_user);
    CHECK(here.output_tokens_per_second > before.output_tokens_per_second);
  }
  CHECK(result.pareto.back().prediction->output_tokens_per_second ==
        result.plans.front().prediction->output_tokens_per_second);
}

TEST_CASE("stricter promises never bring more tokens") {
  double before = INFINITY;
  for (const double tpot : {0.1, 0.05, 0.03, 0.02, 0.012}) {
    ServeRequest r = request("llama-3.1-70b", 8);
    r.goals.max_tpot_seconds = tpot;
    const ServeResult result = plan_serving(r);
    const double now = result.plans.empty() ? 0 : result.plans.front().prediction->output_tokens_per_second;
    CHECK(now <= before);
    before = now;
  }
}

TEST_CASE("where nothing keeps the promises the nearest are told") {
  ServeRequest r = request("llama-3.1-70b", 2);
  r.goals.max_tpot_seconds = 0.001;
  const ServeResult result = plan_serving(r);
  CHECK(result.plans.empty());
  CHECK_FALSE(result.search.proven_best);
  REQUIRE_FALSE(result.nearest.empty());
  CHECK(result.nearest.front().rejection->reason == "tpot");
  // And where nothing fits, what misses least.
  ServeRequest large = request("deepseek-v3", 2);
  const ServeResult none = plan_serving(large);
  CHECK(none.plans.empty());
  REQUIRE_FALSE(none.nearest.empty());
  CHECK(none.nearest.front().rejection->reason == "memory");
}

ServeRequest under(double per_second) {
  ServeRequest r = request("llama-3.1-70b", 8);
  r.gpus.reset();
  r.load = ServeLoad{per_second, {}, {}, 2000, 1};
  r.goals = {1, 0.05};
  return r;
}

TEST_CASE("the fewest GPUs for a load bear it when it is played, and fewer do not") {
  ServeRequest r = under(20);
  const ServeResult result = plan_serving(r);
  REQUIRE_FALSE(result.plans.empty());
  const ServedLayout& best = result.plans.front();
  CHECK(result.gpus == best.gpus());
  CHECK(result.search.proven_best);
  REQUIRE(best.under_load);
  CHECK_FALSE(best.under_load->overloaded);
  CHECK(best.under_load->seen.ttft.mean <= 1);
  CHECK(best.under_load->seen.tpot.mean <= 0.05);
  for (int gpus = 1; gpus < result.gpus; ++gpus) {
    ServeRequest fewer = r;
    fewer.gpus = gpus;
    fewer.pins.disaggregated = false;
    CHECK(plan_serving(fewer).plans.empty());
  }
  r.load->requests_per_second = 40;
  CHECK(plan_serving(r).gpus >= result.gpus);
}

TEST_CASE("a promise to nearly all requests takes no fewer GPUs than one in the mean") {
  ServeRequest r = under(20);
  r.goals = {0.3, 0.03};
  const std::int64_t mean = plan_serving(r).gpus;
  r.goals.of = GoalOf::p99;
  const ServeResult all = plan_serving(r);
  REQUIRE_FALSE(all.plans.empty());
  CHECK(all.gpus >= mean);
  CHECK(all.plans.front().under_load->seen.ttft.p99 <= 0.3);
}

TEST_CASE("a load that nothing bears as promised says why") {
  ServeRequest r = under(20);
  r.goals = {1, 0.0001};
  ServeResult result = plan_serving(r);
  CHECK(result.plans.empty());
  REQUIRE_FALSE(result.nearest.empty());
  CHECK(result.nearest.front().rejection->reason == "tpot");
  // As many copies as are pinned, and no more.
  r = under(500);
  r.pins = parse_serve_layout("tp=4,dp=2", "--pin");
  result = plan_serving(r);
  CHECK(result.plans.empty());
  REQUIRE_FALSE(result.nearest.empty());
  CHECK(result.nearest.front().rejection->detail == "2 copies do not bear it");
  r.load->requests_per_second = 1;
  result = plan_serving(r);
  REQUIRE_FALSE(result.plans.empty());
  for (const ServedLayout& plan : result.plans) CHECK(plan.layout.replicas == 2);
}

TEST_CASE("with a number of GPUs, plans that bear a load come by how soon they answer, pools too") {
  ServeRequest r = under(10);
  r.gpus = 8;
  const ServeResult result = plan_serving(r);
  REQUIRE(result.plans.size() > 1);
  CHECK_FALSE(result.search.proven_best);
  for (std::size_t i = 0; i < result.plans.size(); ++i) {
    CHECK_FALSE(result.plans[i].under_load->overloaded);
    if (i > 0)
      CHECK(result.plans[i].under_load->seen.latency.mean >= result.plans[i - 1].under_load->seen.latency.mean);
  }
  r.pins = parse_serve_layout("serving=disaggregated", "--pin");
  const ServeResult pools = plan_serving(r);
  REQUIRE_FALSE(pools.plans.empty());
  for (const ServedLayout& plan : pools.plans) CHECK(plan.pools.has_value());
  r.load->requests_per_second = 10000;
  const ServeResult none = plan_serving(r);
  CHECK(none.plans.empty());
  CHECK(none.nearest.front().rejection->reason == "load");
}

TEST_CASE("pins hold in every plan") {
  ServeRequest r = request("mixtral-8x7b", 8);
  r.pins = parse_serve_layout("tp=2,etp=2,serving=aggregated", "--pin");
  const ServeResult result = plan_serving(r);
  REQUIRE_FALSE(result.plans.empty());
  for (const ServedLayout& plan : result.plans) {
    CHECK(plan.layout.tensor == 2);
    CHECK(plan.layout.expert_tensor == 2);
    CHECK_FALSE(plan.pools);
  }
  r.pins = parse_serve_layout("serving=disaggregated", "--pin");
  const ServeResult pools = plan_serving(r);
  REQUIRE_FALSE(pools.plans.empty());
  for (const ServedLayout& plan : pools.plans) CHECK(plan.pools.has_value());
  r.pins = parse_serve_layout("dp=2", "--pin");
  const ServeResult copies = plan_serving(r);
  REQUIRE_FALSE(copies.plans.empty());
  for (const ServedLayout& plan : copies.plans) {
    CHECK_FALSE(plan.pools);
    CHECK(plan.layout.replicas == 2);
  }
}

TEST_CASE("pools on two kinds of machine: the best of all pairs, each pool full, each GPU at its own price") {
  ServeRequest r = request("llama-3.1-8b", 4);
  r.machine = find_machine("a100-sxm-80gb");
  r.workload.formats = {};
  r.machine.price_per_gpu_hour = 1.8;
  r.prefill_pool = PrefillPool{find_machine("h100-sxm-80gb"), 2};
  r.prefill_pool->machine.price_per_gpu_hour = 7.2;
  r.pins = parse_serve_layout("serving=disaggregated", "--pin");
  const ServeResult result = plan_serving(r);
  REQUIRE_FALSE(result.plans.empty());
  CHECK(result.gpus == 6);

  double fastest = 0;
  ServeRequest prefill = r;
  prefill.machine = r.prefill_machine();
  for (const std::int64_t there : {1, 2})
    for (const std::int64_t here : {1, 2, 4})
      for (ServeLayout a : copies_on(prefill, there))
        for (ServeLayout b : copies_on(r, here)) {
          a.replicas = static_cast<int>(2 / there);
          b.replicas = static_cast<int>(4 / here);
          if (const auto plan = best_load(r, PoolLayout{a, b}))
            fastest = std::max(fastest, plan->prediction->output_tokens_per_second);
        }
  const ServedLayout& best = result.plans.front();
  CHECK(best.prediction->output_tokens_per_second == fastest);
  // 2 x 7.2 and 4 x 1.8 an hour are 0.006 a second.
  CHECK(*best.prediction->cost_per_million_output_tokens == Approx(6000 / fastest));
  for (const ServedLayout& plan : result.plans) {
    REQUIRE(plan.pools.has_value());
    CHECK(plan.pools->prefill.gpus() == 2);
    CHECK(plan.pools->decode.gpus() == 4);
  }

  // The same layouts with A100s in front: prompts take longer, keys and values no less.
  ServeRequest slow = r;
  slow.prefill_pool->machine = r.machine;
  const auto slower = best_load(slow, *best.pools);
  REQUIRE(slower.has_value());
  CHECK(slower->prediction->ttft > best.prediction->ttft);

  r.prefill_pool->machine.price_per_gpu_hour.reset();
  CHECK_FALSE(plan_serving(r).plans.front().prediction->cost_per_million_output_tokens.has_value());
  // Its load can be played, each pool's steps on its own machine.
  r.load.emplace();
  r.load->requests_per_second = 1;
  const ServeResult played = plan_serving(r);
  REQUIRE_FALSE(played.plans.empty());
  CHECK_FALSE(played.plans.front().under_load->overloaded);
}

TEST_CASE("a price makes tokens cost") {
  ServeRequest r = request("llama-3.1-8b", 1);
  r.machine.price_per_gpu_hour = 3.6;
  const ServeResult result = plan_serving(r);
  const ServePrediction& p = *result.plans.front().prediction;
  // 3.6 an hour is 0.001 a second.
  CHECK(*p.cost_per_million_output_tokens == Approx(1000 / p.output_tokens_per_second));
}

TEST_CASE("batches that are tried double and stand half way") {
  CHECK(batches_tried(1) == std::vector<std::int64_t>{1});
  CHECK(batches_tried(10) == std::vector<std::int64_t>{1, 2, 3, 4, 6, 8, 10});
  CHECK(batches_tried(16) == std::vector<std::int64_t>{1, 2, 3, 4, 6, 8, 12, 16});
}

TEST_CASE("an estimate has one layout, whether it fits or not") {
  ServeRequest r = request("llama-3.1-70b", 1);
  r.machine = find_machine("h100-sxm-80gb");
  r.gpus.reset();
  r.workload.formats = {};
  const ServedLayout plan = estimate_serving(r).plans.front();
  CHECK_FALSE(plan.fits);
  CHECK(plan.prediction.has_value());
  CHECK(plan.rejection->reason == "memory");
  CHECK(plan.assumed == std::vector<std::string>{"tp", "pp", "attention_dp", "cp", "dp"});
}

}  // namespace
}  // namespace shardwright
