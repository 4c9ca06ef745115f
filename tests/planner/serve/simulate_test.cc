#include "planner/serve/simulate.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "planner/random.h"

namespace shardwright {
namespace {

using doctest::Approx;

/// Decode steps of 10 ms and 1 ms a sequence; each prompt token adds 0.1 ms.
StepTable round_times() {
  return {[](std::int64_t batch, std::int64_t) { return 0.010 + 0.001 * static_cast<double>(batch); },
          [](std::int64_t tokens, std::int64_t, std::int64_t) {
            return StepTable::Added{1e-4 * static_cast<double>(tokens), 0};
          }};
}

/// A server that takes a second for each prompt, one after the other.
WorkerRules one_by_one(StepTable& steps) {
  WorkerRules rules;
  rules.max_sequences = 1;
  rules.max_tokens = 8;
  rules.steps = &steps;
  return rules;
}

/// Erlang 1909: P(W <= t) = (1 - r) sum over k <= t of (r (k - t))^k / k! exp(-r (k - t)), service 1, load r.
long double waits_at_most(long double t, long double load) {
  long double sum = 0, sign_factor;
  for (int k = 0; k <= static_cast<int>(t); ++k) {
    const long double x = load * (k - t);
    sign_factor = k % 2 == 0 ? 1 : (x < 0 ? -1 : 1);
    const long double size = std::abs(x);
    const long double term = size == 0 ? (k == 0 ? 1 : 0) : std::exp(k * std::log(size) - std::lgamma(k + 1.0L) - x);
    sum += sign_factor * term;
  }
  return (1 - load) * sum;
}
double waiting_quantile(double share, double load) {
  if (1 - load >= share) return 0;
  long double low = 0, high = 40;
  for (int i = 0; i < 100; ++i) {
    const long double middle = (low + high) / 2;
    (waits_at_most(middle, load) < share ? low : high) = middle;
  }
  return static_cast<double>(low);
}

TEST_CASE("a queue with one server waits as Erlang's formula says") {
  // Median 0 at half load: half of the requests find nobody. 2 % of a service there, of the wait elsewhere.
  CHECK(waiting_quantile(0.5, 0.5) == 0);
  CHECK(waiting_quantile(0.6, 0.5) == Approx(std::log(1.2) / 0.5));  // below one service: (1 - r) exp(r t)
  StepTable steps([](std::int64_t, std::int64_t) { return 1.0; },
                  [](std::int64_t, std::int64_t, std::int64_t) {
                    return StepTable::Added{1, 0};
                  });
  const ServingSystem system{one_by_one(steps), {}};
  for (const double load : {0.5, 0.8}) {
    const Simulation s = simulate(system, {poisson_arrivals(load, 1'000'000, 8, 1, {}, 1), {}, {}});
    REQUIRE(s.answered == 1'000'000);
    std::vector<double> waits;
    for (const SimulatedRequest& r : s.requests) waits.push_back(r.ttft() - 1);
    for (const double share : {0.5, 0.99}) {
      const double expected = waiting_quantile(share, load), waited = percentile(waits, share);
      CAPTURE(load);
      CAPTURE(share);
      CHECK(std::abs(waited - expected) <= 0.02 * (expected > 0 ? expected : 1));
    }
  }
}

TEST_CASE("a request's times are those of its steps") {
  StepTable steps = round_times();
  WorkerRules rules;
  rules.steps = &steps;
  // Prefill of 100 tokens: 10 ms. Then two further tokens of 11 ms.
  const Simulation s = simulate({rules, {}}, {{{1.0, 100, 3}}, {}, {}});
  REQUIRE(s.requests.size() == 1);
  CHECK(s.requests[0].ttft() == Approx(0.010));
  CHECK(s.requests[0].tpot() == Approx(0.011));
  CHECK(s.requests[0].latency() == Approx(0.032));
  CHECK(s.steps == 3);
  CHECK(s.seconds == Approx(1.032));
}

TEST_CASE("a prompt comes between another's tokens, whole, in chunks, or before them") {
  StepTable steps = round_times();
  WorkerRules rules;
  rules.steps = &steps;
  rules.max_tokens = 100;
  const SimulatedLoad load{{{0, 50, 4}, {0.001, 150, 1}}, {}, {}};
  // The first has its first token after 5 ms. Chunked: 99 tokens beside a token (20.9 ms), the other 51 (16.1 ms).
  Simulation s = simulate({rules, {}}, load);
  CHECK(s.requests[0].done == Approx(0.005 + 0.0209 + 0.0161 + 0.011));
  CHECK(s.requests[1].first_token == Approx(0.005 + 0.0209 + 0.0161));
  rules.chunked_prefill = false;  // 15 ms and a token's 11
  s = simulate({rules, {}}, load);
  CHECK(s.requests[1].first_token == Approx(0.005 + 0.026));
  CHECK(s.requests[0].done == Approx(0.005 + 0.026 + 0.022));
  rules.prefill_first = true;  // the token waits 15 ms
  s = simulate({rules, {}}, load);
  CHECK(s.requests[1].first_token == Approx(0.005 + 0.015));
  CHECK(s.requests[0].done == Approx(0.005 + 0.015 + 0.033));
}

TEST_CASE("proposed tokens that are right take fewer steps") {
  StepTable steps = round_times();
  WorkerRules rules;
  rules.steps = &steps;
  rules.gained = 1.5;  // 6 further tokens in 4 steps
  const Simulation s = simulate({rules, {}}, {{{0, 10, 7}}, {}, {}});
  CHECK(s.requests[0].done == Approx(0.001 + 4 * 0.011));
}

TEST_CASE("without room the last that came goes back and is prefilled again") {
  StepTable steps = round_times();
  WorkerRules rules;
  rules.steps = &steps;
  rules.kv_tokens = 30;
  // 10 + 10 tokens of prompts, 15 of each answer: together more than 30.
  const SimulatedLoad load{{{0, 10, 15}, {0, 10, 15}}, {}, {}};
  Simulation s = simulate({rules, {}}, load);
  CHECK(s.preempted > 0);
  CHECK(s.answered == 2);
  CHECK(s.most_kv_tokens <= 30);
  CHECK(s.requests[1].done > s.requests[0].done);
  rules.reserves_answers = true;  // the second waits until the first has its answer
  s = simulate({rules, {}}, load);
  CHECK(s.preempted == 0);
  CHECK(s.requests[1].first_token == Approx(s.requests[0].done + 0.001));
}

TEST_CASE("what never fits is refused, and the others are served") {
  StepTable steps = round_times();
  WorkerRules rules;
  rules.steps = &steps;
  rules.kv_tokens = 100;
  const Simulation s = simulate({rules, {}}, {{{0, 200, 10}, {1, 20, 10}}, {}, {}});
  CHECK(s.refused == 1);
  CHECK(s.answered == 1);
  CHECK(std::isnan(s.requests[0].done));
  CHECK(simulate({rules, {}}, {{{0, 200, 10}, {1, 200, 10}}, 1, {}}).refused == 2);
}

TEST_CASE("pools hand a prompt on, and nobody's prompt comes between tokens") {
  StepTable steps = round_times();
  ServingSystem system;
  system.workers.steps = &steps;
  system.decode = system.workers;
  system.handover_seconds = 0.1;
  system.handover_seconds_per_token = 0.001;
  const Simulation s = simulate(system, {{{0, 100, 3}, {0.12, 1000, 3}}, {}, {}});
  CHECK(s.requests[0].first_token == Approx(0.010 + 0.1 + 0.1));
  CHECK(s.requests[0].tpot() == Approx(0.011));
  CHECK(s.requests[1].first_token == Approx(0.12 + 0.1 + 0.1 + 1.0));
  CHECK(s.handed_over == 0);
}

ServingSystem random_system(std::uint64_t& state, StepTable& steps) {
  const auto below = [&](int n) { return static_cast<int>(next_random(state) % static_cast<unsigned>(n)); };
  WorkerRules rules;
  rules.workers = 1 + below(3);
  rules.ranks = 1 + below(3);
  rules.max_sequences = 1 + below(20);
  rules.max_tokens = 16 + below(200);
  rules.chunked_prefill = below(2) == 0;
  rules.prefill_first = below(2) == 0;
  rules.reserves_answers = below(2) == 0;
  rules.block_tokens = std::int64_t{1} << below(6);
  rules.kv_tokens = 200 + below(800);
  rules.gained = below(3) == 0 ? 1.6 : 1;
  rules.steps = &steps;
  ServingSystem system{rules, {}};
  if (below(2) == 0) {
    system.decode = rules;
    system.decode->workers = 1 + below(3);
    system.handover_seconds = 0.01;
  }
  return system;
}

TEST_CASE("whatever stops it, requests in are requests out and those that wait, and memory holds them") {
  std::uint64_t state = 7;
  StepTable steps = round_times();
  int preempted = 0, refused = 0, left = 0;
  for (int i = 0; i < 300; ++i) {
    const ServingSystem system = random_system(state, steps);
    SimulatedLoad load{
        poisson_arrivals(20, 300, 60, 40, {LengthSpread::Kind::lognormal, 0.8}, next_random(state)), {}, {}};
    if (i % 3 == 0) load.clients = 1 + static_cast<std::int64_t>(next_random(state) % 30);
    if (i % 2 == 0) load.until_seconds = 0.2 + 8 * random_share(state);
    const Simulation s = simulate(system, load);
    CAPTURE(i);
    CHECK(s.arrived == s.answered + s.refused + s.waiting + s.running + s.handed_over);
    if (!load.until_seconds) CHECK(s.waiting + s.running + s.handed_over == 0);
    CHECK(s.most_kv_tokens <= system.workers.kv_tokens);
    preempted += s.preempted > 0;
    refused += s.refused > 0;
    left += s.waiting > 0;
    for (const SimulatedRequest& r : s.requests) {
      if (std::isnan(r.done)) continue;
      CHECK(r.arrived <= r.first_token);
      CHECK(r.first_token <= r.done);
    }
  }
  // The cases are worth something only where they happen.
  CHECK(preempted > 20);
  CHECK(refused > 20);
  CHECK(left > 20);
}

TEST_CASE("the same seed makes the same requests, another makes others") {
  const LengthSpread spread{LengthSpread::Kind::lognormal, 0.5};
  CHECK(poisson_arrivals(3, 100, 500, 100, spread, 1) == poisson_arrivals(3, 100, 500, 100, spread, 1));
  CHECK(poisson_arrivals(3, 100, 500, 100, spread, 1) != poisson_arrivals(3, 100, 500, 100, spread, 2));
}

TEST_CASE("lengths and arrivals keep their means") {
  for (const LengthSpread& spread :
       {LengthSpread{}, LengthSpread{LengthSpread::Kind::uniform, 0.8},
        LengthSpread{LengthSpread::Kind::exponential, 0}, LengthSpread{LengthSpread::Kind::lognormal, 0.8}}) {
    const ArrivalMeans means = means_of(poisson_arrivals(5, 40000, 1000, 300, spread, 3));
    CHECK(means.per_second == Approx(5).epsilon(0.02));
    CHECK(static_cast<double>(means.prompt) == Approx(1000).epsilon(0.02));
    CHECK(static_cast<double>(means.answer) == Approx(300).epsilon(0.02));
  }
}

TEST_CASE("percentiles lie between the values") {
  std::vector<double> values = {4, 1, 3, 2, 5};
  CHECK(percentile(values, 0.5) == 3);
  CHECK(percentile(values, 0.9) == Approx(4.6));
  CHECK(percentile(values, 1) == 5);
  std::vector<double> none;
  CHECK(std::isnan(percentile(none, 0.5)));
}

TEST_CASE("a table is exact at its points and straight between them") {
  int priced = 0;
  StepTable table(
      [&](std::int64_t batch, std::int64_t context) {
        ++priced;
        return static_cast<double>(batch) * 100 + static_cast<double>(context);
      },
      [](std::int64_t tokens, std::int64_t reach, std::int64_t batch) {
        return StepTable::Added{static_cast<double>(tokens + 2 * reach + 3 * batch), static_cast<double>(tokens)};
      });
  CHECK(table.decode(5, 7) == 507);
  CHECK(table.decode(5, 7) == 507);
  CHECK(priced == 1);
  for (const std::int64_t n : {8, 9, 10, 11, 100, 1000, 1023, 1024, 5000, 1 << 20})
    CHECK(table.decode(n, n) == Approx(101.0 * static_cast<double>(n)));
  CHECK(table.prefill(77, 33, 9).seconds == Approx(77 + 66 + 27));
  CHECK(table.prefill(77, 33, 0).lag == Approx(77));
}

}  // namespace
}  // namespace shardwright
