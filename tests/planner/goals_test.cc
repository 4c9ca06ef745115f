#include "planner/search/goals.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "hardware/input_error.h"
#include "tests/support/message_of.h"

namespace shardwright {
namespace {

PlanRequest small_question() {
  PlanRequest request;
  request.model = find_model("llama-3.1-8b");
  request.machine = find_machine("a100-sxm-80gb");
  request.workload.sequence_length = 4096;
  request.workload.global_batch = 48;
  request.workload.formats = formats_for(DataType::bf16);
  request.threads = 1;
  return request;
}

RunCost cost_on(PlanRequest request, const RunQuestion& run, std::int64_t gpus) {
  request.gpus = gpus;
  request.top = 1;
  return run_cost(run, gpus, request.workload.tokens_per_step(), plan(request).plans.at(0).prediction->step);
}

TEST_CASE("the fewest GPUs for a deadline are those that brute force finds") {
  const PlanRequest request = small_question();
  RunGoal goal;
  goal.run.tokens = 1e11;
  int answers = 0;
  for (double days : {40.0, 15.0, 9.0}) {
    CAPTURE(days);
    goal.days = days;
    std::int64_t fewest = 0;
    for (std::int64_t gpus = 8; gpus <= 128 && fewest == 0; gpus += 8) {
      PlanRequest one = request;
      one.gpus = gpus;
      one.top = 1;
      const PlanResult result = plan(one);
      if (!result.plans.empty() && cost_on(request, goal.run, gpus).time.value <= days * 86400) fewest = gpus;
    }
    const FewestGpus found = fewest_gpus(request, goal);
    REQUIRE(found.answer.has_value());
    CHECK(found.answer->gpus == fewest);
    CHECK(found.apart == 8);
    CHECK(found.least <= fewest);
    CHECK(std::is_sorted(found.tried.begin(), found.tried.end(),
                         [](const TriedGpus& a, const TriedGpus& b) { return a.gpus < b.gpus; }));
    for (const TriedGpus& t : found.tried) {
      if (t.gpus < fewest) CHECK_FALSE(t.reaches);
      if (t.gpus == fewest) CHECK(t.reaches);
    }
    ++answers;
  }
  CHECK(answers == 3);
}

TEST_CASE("a budget keeps the price of the run below it") {
  const PlanRequest request = small_question();
  RunGoal goal;
  goal.run.tokens = 1e11;
  goal.run.price_per_gpu_hour = 2;
  const double on_8 = *cost_on(request, goal.run, 8).price;
  goal.budget = on_8 * 1.001;
  FewestGpus found = fewest_gpus(request, goal);
  REQUIRE(found.answer.has_value());
  CHECK(found.answer->gpus == 8);
  // Both: what is in time is dearer than on 8 GPUs, but not by a tenth.
  goal.budget = on_8 * 1.1;
  goal.days = 15;
  found = fewest_gpus(request, goal);
  REQUIRE(found.answer.has_value());
  CHECK(cost_on(request, goal.run, found.answer->gpus).time.value <= 15 * 86400);
  CHECK(*cost_on(request, goal.run, found.answer->gpus).price <= *goal.budget);
  // Less than peak rates cost: 48e9 FLOP a token x 1e11 / 312e12 FLOP/s is 4,300 GPU-hours.
  goal.budget = 4000;
  found = fewest_gpus(request, goal);
  CHECK(found.beyond_peak);
  CHECK(found.tried.empty());
  CHECK_FALSE(found.answer.has_value());
  // Between what the peak would cost and what any layout does.
  goal.days.reset();
  goal.budget = on_8 * 0.8;
  found = fewest_gpus(request, goal);
  CHECK_FALSE(found.beyond_peak);
  CHECK_FALSE(found.answer.has_value());
  CHECK(found.tried.size() >= 2);
  CHECK(std::none_of(found.tried.begin(), found.tried.end(), [](const TriedGpus& t) { return t.reaches; }));
}

TEST_CASE("the most GPUs are tried, too, where a node's number of GPUs is no power of two") {
  PlanRequest request = small_question();
  request.machine.gpus_per_node = 12;
  request.pins = parse_layout("tp=1,pp=1,cp=1,zero=1,micro_batch=1,recompute=full", "--pin");
  RunGoal goal;
  goal.run.tokens = 1e9;
  goal.days = 1e-3;  // out of reach, but not by the peak rate alone
  request.workload.global_batch = std::int64_t{kMostGpusTried / 12} * 12;
  const double on_all = cost_on(request, goal.run, kMostGpusTried / 12 * 12).time.value;
  goal.days = on_all * 1.0001 / 86400;
  const FewestGpus found = fewest_gpus(request, goal);
  REQUIRE(found.answer.has_value());
  CHECK(found.answer->gpus <= kMostGpusTried / 12 * 12);
  CHECK(found.tried.back().gpus == kMostGpusTried / 12 * 12);
}

TEST_CASE("a deadline that no number of GPUs reaches has no answer") {
  RunGoal goal;
  goal.run.tokens = 1e15;
  goal.days = 0.1;
  const FewestGpus found = fewest_gpus(small_question(), goal);
  CHECK(found.least > kMostGpusTried);
  CHECK(found.tried.empty());
  CHECK_FALSE(found.answer.has_value());
}

TEST_CASE("pins that no number of GPUs can hold are the user's mistake") {
  PlanRequest request = small_question();
  request.pins = parse_layout("tp=7,pp=11,dp=13", "--pin");
  RunGoal goal;
  goal.run.tokens = 1e9;
  goal.days = 3000;
  CHECK(message_of([&] { fewest_gpus(request, goal); }) == "tp 7, pp 11, dp 13 cannot fill 8 GPUs");
}

TEST_CASE("the longest sequence fits, and the next one does not") {
  PlanRequest request = small_question();
  request.gpus = 8;
  request.workload.global_batch = 8;
  for (const char* pins : {"tp=1,cp=1", "tp=2,pp=2,recompute=none"}) {
    CAPTURE(pins);
    request.pins = parse_layout(pins, "--pin");
    request.workload.sequence_length = 4096;
    const auto longest = longest_sequence(request, 1 << 24);
    REQUIRE(longest.has_value());
    CHECK(*longest % 4096 == 0);
    CHECK(*longest > 4096);
    request.workload.sequence_length = *longest;
    CHECK_FALSE(plan(request).plans.empty());
    request.workload.sequence_length = *longest + 4096;
    CHECK(plan(request).plans.empty());
    // No longer than what may be tried.
    request.workload.sequence_length = 4096;
    CHECK(longest_sequence(request, 3 * 4096 + 5) == 3 * 4096);
  }
  request.pins = parse_layout("tp=1,pp=1,zero=0", "--pin");  // 16 bytes a parameter
  CHECK_FALSE(longest_sequence(request, 1 << 24).has_value());
}

}  // namespace
}  // namespace shardwright
