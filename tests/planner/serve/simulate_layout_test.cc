#include "planner/serve/simulate_layout.h"

#include <doctest/doctest.h>

#include <cmath>

namespace shardwright {
namespace {

using doctest::Approx;

ServeRequest request(const char* engine, std::int64_t isl, std::int64_t osl) {
  ServeRequest r;
  r.model = find_model("llama-3.1-70b");
  r.machine = find_machine("h100-sxm-80gb");
  r.engine = find_serve_engine(engine, "--engine");
  // Clumps are of closed loops whose answers all have one length; here lengths differ.
  r.engine.constants[ServeConstant::clumping] = 0;
  r.workload = {isl, osl, {}, {WeightFormat::fp8, WeightFormat::fp8, KvFormat::fp8}, {}};
  return r;
}

TEST_CASE("played and in closed form, a closed loop is the same within 5 %") {
  for (const char* engine : {"vllm", "tensorrt-llm", "sglang"})
    for (const auto& [isl, osl] : {std::pair{1024, 256}, {256, 1024}, {2048, 256}})
      for (const std::int64_t clients : {1, 8, 48}) {
        ServeRequest r = request(engine, isl, osl);
        LayoutSteps steps(r, r.machine, {.tensor = 4});
        const ServingSystem system{rules_of(r, steps), {}};
        SimulatedLoad load;
        load.clients = clients;
        load.arrivals = queued_requests(150 * clients + 300, isl, osl, {LengthSpread::Kind::uniform, 0.5}, 1);
        const SimulatedLatencies played = latencies_of(simulate(system, load), 0.3);
        r.workload.concurrency = clients;
        const ServePrediction p = aggregated(steps.times(), r.machine, r.workload);
        CAPTURE(engine);
        CAPTURE(isl);
        CAPTURE(clients);
        CHECK(played.answers_per_second * static_cast<double>(osl) == Approx(p.output_tokens_per_second).epsilon(0.05));
        CHECK(played.latency.mean == Approx(p.ttft.value + static_cast<double>(osl - 1) * p.tpot.value).epsilon(0.05));
        CHECK(played.tpot.mean == Approx(p.tpot.value).epsilon(0.05));
      }
}

TEST_CASE("played and in closed form, requests that come by themselves are the same within 5 %") {
  for (const double share : {0.3, 0.7}) {
    ServeRequest r = request("vllm", 1024, 256);
    LayoutSteps steps(r, r.machine, {.tensor = 4});
    const double most = aggregated(steps.times(), r.machine, r.workload).output_tokens_per_second / 256;
    r.load = ServeLoad{share * most, {}, {}, 6000, 1};
    r.pins = parse_serve_layout("tp=4", "--layout");
    const ServedLayout plan = estimate_serving(r).plans.front();
    const ServePrediction& p = *plan.prediction;
    REQUIRE(plan.under_load);
    const SimulatedLatencies& played = plan.under_load->seen;
    CAPTURE(share);
    CHECK_FALSE(plan.under_load->overloaded);
    CHECK(played.answers_per_second == Approx(share * most).epsilon(0.05));
    CHECK(played.tpot.mean == Approx(p.tpot.value).epsilon(0.05));
    CHECK(played.latency.mean == Approx(p.ttft.value + 255 * p.tpot.value).epsilon(0.05));
  }
}

TEST_CASE("played and in closed form, pools are the same within 5 %") {
  ServeRequest r = request("vllm", 4096, 256);
  ServedLayout plan;
  plan.pools = PoolLayout{{.tensor = 4, .replicas = 2}, {.tensor = 4, .replicas = 1}};
  StepTimes prefill(r.model, r.machine, r.workload.formats, r.engine, plan.pools->prefill);
  StepTimes decode(r.model, r.machine, r.workload.formats, r.engine, plan.pools->decode);
  r.workload.concurrency = 24;
  const PoolPrediction p = disaggregated(prefill, decode, r.machine, r.workload);
  const double rate = p.all.output_tokens_per_second / 256;
  r.workload.concurrency.reset();
  r.load = ServeLoad{rate, {}, {}, 6000, 1};
  plan.prediction = p.all;
  const UnderLoad u = LoadPlayer(r).play(plan);
  CHECK_FALSE(u.overloaded);
  CHECK(u.seen.tpot.mean == Approx(p.all.tpot.value).epsilon(0.05));
  CHECK(u.seen.latency.mean == Approx(p.all.ttft.value + 255 * p.all.tpot.value).epsilon(0.05));
}

TEST_CASE("more than it bears is said, and keeps no promise") {
  ServeRequest r = request("vllm", 1024, 256);
  r.load = ServeLoad{1000, {}, {}, 4000, 1};
  r.pins = parse_serve_layout("tp=4", "--layout");
  const ServedLayout plan = estimate_serving(r).plans.front();
  CHECK(plan.under_load->overloaded);
  CHECK_FALSE(plan.keeps_goals);
  CHECK(plan.rejection->reason == "load");
}

TEST_CASE("a promise is about the requests that it names") {
  UnderLoad u;
  u.seen.ttft = {1, 0.5, 2, 3, 4};
  u.seen.tpot = {0.02, 0.02, 0.03, 0.04, 0.05};
  u.requests = 10;
  CHECK_FALSE(broken_goal({1.5, 0.03, GoalOf::mean}, u));
  CHECK(broken_goal({1.5, {}, GoalOf::p90}, u)->detail == "first tokens take 2 s (p90), more than 1.5 s");
  CHECK(broken_goal({{}, 0.03, GoalOf::p99}, u)->detail == "further tokens take 0.05 s (p99), more than 0.03 s");
  u.overloaded = true;
  u.seen.arrivals_per_second = 10;
  u.seen.answers_per_second = 8;
  CHECK(broken_goal({}, u)->detail == "answers 8 of 10 requests a second");
  u.refused = 3;
  CHECK(broken_goal({}, u)->detail == "3 of 10 requests are longer than what a rank holds");
}

TEST_CASE("the same question, the same percentiles") {
  ServeRequest r = request("vllm", 1024, 128);
  r.load = ServeLoad{3, {}, {LengthSpread::Kind::lognormal, 0.7}, 2000, 5};
  r.pins = parse_serve_layout("tp=4,dp=2", "--layout");
  const UnderLoad one = *estimate_serving(r).plans.front().under_load;
  const UnderLoad two = *estimate_serving(r).plans.front().under_load;
  CHECK(one.seen.ttft.p99 == two.seen.ttft.p99);
  CHECK(one.steps == two.steps);
  CHECK(one.seen.ttft.p50 < one.seen.ttft.p99);
}

}  // namespace
}  // namespace shardwright
