// The schedules against what is published about them.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "planner/pipeline/play.h"
#include "tests/support/pipelines.h"

namespace shardwright {
namespace {

/// Input and weight gradient apart, as the zero-bubble paper writes them; of a whole stage.
struct Pass {
  double forward, input_gradient, weight_gradient;
  double total() const { return forward + input_gradient + weight_gradient; }
};

PipelineTimes uniform_pass(int stages, int chunks, const Pass& pass, double send = 0) {
  return uniform(stages, chunks, pass.forward, pass.input_gradient + pass.weight_gradient, send, pass.weight_gradient);
}

/// Time in which the stage that takes longest does nothing, from its first task to its last.
double bubble(const Pipeline& p, const Pass& pass, const std::vector<PassKeeps>& keeps = {}) {
  return longest_span(play(p, uniform_pass(p.stages, p.chunks, pass), keeps)).value - p.micro_batches * pass.total();
}

}  // namespace

TEST_CASE("uniform stages that send nothing idle for (p-1)(F+B), interleaved for (p-1)(F+B)/V") {
  // Narayanan 2021, section 2.2. Times are whole, so every sum is exact.
  std::mt19937 random(2);
  for (int n = 0; n < 2000; ++n) {
    Pipeline p = random_pipeline(random, kAllSchedules[static_cast<std::size_t>(n % 3)], 12, 6, 100);
    p.paired = false;
    const double forward = p.chunks * (1 + draw(random, 50)), backward = p.chunks * (1 + draw(random, 50));
    const PipelineTimes times = uniform(p.stages, p.chunks, forward, backward);
    const Played played = play(p, times);
    const double expected = (p.micro_batches + (p.stages - 1.0) / p.chunks) * (forward + backward);
    INFO(name_of(p.schedule), " stages ", p.stages, " chunks ", p.chunks, " micro-batches ", p.micro_batches);
    REQUIRE(played.total.value == doctest::Approx(expected).epsilon(1e-14));
    for (const Seconds busy : played.stage_busy) REQUIRE(busy.value == p.micro_batches * (forward + backward));
    REQUIRE(pipeline_lower_bound(p, times).value == doctest::Approx(expected).epsilon(2e-11));
  }
}

TEST_CASE("zb-h1 idles for (p-1)(F+B-W), zb-h2 for (p-1)(F+B-2W)") {
  // Qi 2024, Table 2; its order of times is W < F < B.
  std::mt19937 random(3);
  for (int n = 0; n < 500; ++n) {
    const int stages = 1 + draw(random, 12), micro_batches = 3 * stages + draw(random, 40);
    const double weight = 1 + draw(random, 20), forward = weight + draw(random, 20);
    const Pass pass{forward, forward, weight};
    const double filled = pass.forward + pass.input_gradient;
    REQUIRE(bubble({Schedule::zb_h1, stages, 1, micro_batches}, pass) == (stages - 1) * (filled - weight));
    REQUIRE(bubble({Schedule::zb_h2, stages, 1, micro_batches}, pass) == (stages - 1) * (filled - 2 * weight));
  }
}

TEST_CASE("with few micro-batches a zero-bubble pipeline takes (m+p-1)(F+B)+W") {
  // Qi 2024, appendix H: up to as many as stages.
  for (int stages = 1; stages <= 9; ++stages)
    for (int m = 1; m <= stages; ++m)
      for (const Schedule schedule : {Schedule::zb_h1, Schedule::zb_h2, Schedule::zb_1p, Schedule::zb_2p})
        CHECK(play({schedule, stages, 1, m}, uniform_pass(stages, 1, {5, 6, 4})).stage_end[0].value ==
              (m + stages - 1) * 11 + 4);
}

TEST_CASE("zb-1p is no slower than zb-h1, and zb-2p than zb-h2") {
  std::mt19937 random(4);
  for (int n = 0; n < 200; ++n) {
    Pipeline p = random_pipeline(random, Schedule::zb_h1, 9, 1, 50);
    const PipelineTimes times = random_times(random, p);
    for (const auto& [searched, laid_out] :
         {std::pair{Schedule::zb_1p, Schedule::zb_h1}, std::pair{Schedule::zb_2p, Schedule::zb_h2}}) {
      p.schedule = searched;
      const Seconds greedy = longest_span(play(p, times));
      p.schedule = laid_out;
      REQUIRE(greedy <= longest_span(play(p, times)));
    }
  }
}

TEST_CASE("with F = B = W there is no bubble in zb-2p, in zb-v within the memory of 1F1B, and (p-1) F in zb-1p") {
  for (const int p : {2, 4, 8, 16}) {
    CHECK(bubble({Schedule::zb_1p, p, 1, 4 * p}, {2, 2, 2}) == (p - 1) * 2);
    CHECK(bubble({Schedule::zb_2p, p, 1, 4 * p}, {2, 2, 2}) == 0);
    // Half of the activations stay until the weight gradient.
    const Pipeline v{Schedule::zb_v, p, 2, 4 * p};
    CHECK(bubble(v, {2, 2, 2}, std::vector<PassKeeps>(static_cast<std::size_t>(v.parts()), {1, 0.5})) == 0);
    // All of them do: the heuristic misses two of 384 chunk-times with 16 stages.
    CHECK(bubble(v, {2, 2, 2}) <= (p == 16 ? 2 : 0));
  }
}

TEST_CASE("the bubbles of the zero-bubble paper, from its own profile") {
  // Qi 2024: F, B, W and T_comm in ms from Table 9, bubble rates (cost - m (F+B+W)) / cost from Table 5, where the cost
  // is the longest of the stages' spans. T_comm delays what the next stage waits for, and no stage is busy meanwhile.
  // 1F1B-I has as many chunks as layers a stage, embedding and head each counted as one: (22+2)/8, (46+2)/16,
  // (62+2)/32. What stays until the weight gradient is 32 s b h of (34 + 5 a s / h) s b h a layer (Table 1; sequences
  // of 1024 tokens, hidden size and heads from Table 3).
  struct Row {
    int stages, micro_batches, chunks;
    double hidden, heads;
    Pass pass;
    double send, rate_1f1b, rate_interleaved, rate_h1, rate_h2, rate_2p;
  };
  for (const Row& row : {Row{8, 24, 3, 2304, 24, {18.5, 18.1, 9.3}, 0.60, 0.2431, 0.1055, 0.1585, 0.1083, 0.0433},
                         Row{16, 64, 3, 5120, 40, {11.3, 11.2, 8.1}, 0.38, 0.2082, 0.0852, 0.1088, 0.0516, 0.0054},
                         Row{32, 256, 2, 6144, 48, {10.4, 10.2, 7.7}, 0.41, 0.1352, 0.0624, 0.0594, 0.0257, 0.0018}}) {
    const PassKeeps keeps{1, 32 / (34 + 5 * row.heads * 1024 / row.hidden)};
    const auto rate = [&](Schedule schedule, int chunks) {
      const Pipeline p{schedule, row.stages, chunks, row.micro_batches};
      const Played played = play(p, uniform_pass(p.stages, p.chunks, row.pass, row.send),
                                 std::vector<PassKeeps>(static_cast<std::size_t>(p.parts()), keeps));
      const double cost = longest_span(played).value;
      return (cost - row.micro_batches * row.pass.total()) / cost;
    };
    const auto check = [&](Schedule schedule, int chunks, double expected, double within) {
      const double played = rate(schedule, chunks);
      MESSAGE(row.stages, " stages, ", row.micro_batches, " micro-batches: ", name_of(schedule), " ", played,
              ", expected ", expected);
      CHECK(std::abs(played - expected) < within);
    };
    check(Schedule::one_f_one_b, 1, row.rate_1f1b, 0.01);
    check(Schedule::interleaved, row.chunks, row.rate_interleaved, 0.01);
    check(Schedule::zb_h1, 1, row.rate_h1, 0.01);
    check(Schedule::zb_h2, 1, row.rate_h2, 0.01);
    check(Schedule::zb_2p, 1, row.rate_2p, 0.01);
    // With the memory of 1F1B the laid-out schedule is as good as the paper's search finds.
    check(Schedule::zb_1p, 1, row.rate_h1, 0.01);
    const double v = rate(Schedule::zb_v, 2);
    MESSAGE(row.stages, " stages: zb-v ", v);
    CHECK(v < row.rate_h1);
  }
}

TEST_CASE("dualpipe idles for (p/2-1)(F&B + B - 3W) where a forward takes as long as an input gradient") {
  // DualPipe's README, whose B is the whole backward. The middle stages, which overlap most pairs, idle longest;
  // counted from the start of all to the end of all.
  std::mt19937 random(5);
  for (int n = 0; n < 300; ++n) {
    const int stages = 2 * (1 + draw(random, 8)), micro_batches = 2 * (stages + draw(random, 30));
    const double weight = 1 + draw(random, 20), forward = weight + draw(random, 20);
    const Pass pass{forward, forward, weight};
    const double pair = forward + weight + draw(random, static_cast<int>(forward));  // no less than either alone
    const double expected = (stages / 2 - 1) * (pair + forward + weight - 3 * weight);
    INFO("stages ", stages, ", micro-batches ", micro_batches, ", F ", forward, ", W ", weight, ", F&B ", pair);

    PipelineTimes times = uniform_pass(stages, 1, pass);
    times.pair.assign(static_cast<std::size_t>(4 * stages), Seconds{pair});
    const Played both_ways = play({Schedule::dualpipe, stages, 1, micro_batches}, times);
    CHECK((both_ways.total - both_ways.stage_busy[stages / 2]).value == expected);

    // Folded: half the stages, of two parts each, and half the micro-batches.
    times = uniform_pass(stages / 2, 2, {2 * forward, 2 * forward, 2 * weight});
    times.pair.assign(static_cast<std::size_t>(2 * stages), Seconds{pair});
    const Played folded = play({Schedule::dualpipe_v, stages / 2, 2, micro_batches / 2}, times);
    CHECK((folded.total - folded.stage_busy.back()).value == expected);
    CHECK(folded.total == both_ways.total);
  }
}

}  // namespace shardwright
