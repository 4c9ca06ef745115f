#include "planner/plan_detail.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

namespace shardwright {
namespace {

PlanRequest request_of(const char* model, std::int64_t gpus, const char* layout) {
  PlanRequest request;
  request.model = find_model(model);
  request.machine = find_machine("h100-sxm-80gb");
  request.gpus = gpus;
  request.workload.sequence_length = 4096;
  request.workload.global_batch = 64;
  request.workload.formats = formats_for(DataType::bf16);
  request.pins = parse_layout(layout, "--layout");
  request.threads = 1;
  return request;
}

PlanDetail detail_of(const PlanRequest& request) { return detail_of(request, estimate(request).plans.at(0)); }

const AxisLinks* find(const PlanDetail& detail, const std::string& axis) {
  const auto found =
      std::find_if(detail.axes.begin(), detail.axes.end(), [&](const AxisLinks& a) { return a.axis == axis; });
  return found == detail.axes.end() ? nullptr : &*found;
}

// tp 4 x dp 4 x pp 2 on nodes of 8: tp inside a node; of dp's ranks, 4 apart, 2 to a node; stages 16 apart.
TEST_CASE("an axis uses the links at which its ranks meet") {
  const PlanDetail detail = detail_of(request_of("llama-3.1-8b", 32, "tp=4,pp=2,micro_batch=1"));
  CHECK(detail.axes.size() == 3);
  const AxisLinks *tp = find(detail, "tp"), *dp = find(detail, "dp"), *pp = find(detail, "pp");
  REQUIRE(tp != nullptr);
  CHECK(tp->ranks == 4);
  REQUIRE(tp->levels.size() == 1);
  CHECK(tp->levels[0].name == "node");
  REQUIRE(dp != nullptr);
  CHECK(dp->ranks == 4);
  REQUIRE(dp->levels.size() == 2);
  CHECK(dp->levels[0].ranks == 2);
  CHECK(dp->levels[1].ranks == 4);
  REQUIRE(pp != nullptr);
  REQUIRE(pp->levels.size() == 1);
  CHECK(pp->levels[0].name != "node");
  CHECK(find(detail, "ep") == nullptr);
}

TEST_CASE("an expert axis is there where there are experts") {
  const PlanDetail detail = detail_of(request_of("mixtral-8x7b", 16, "tp=1,pp=1,ep=8,micro_batch=1,recompute=full"));
  REQUIRE(find(detail, "ep") != nullptr);
  CHECK(find(detail, "ep")->ranks == 8);
  CHECK(find(detail, "pp") == nullptr);
}

TEST_CASE("parts add up to the step, tensors to each stage's memory") {
  const PlanRequest request = request_of("llama-3.1-8b", 32, "tp=4,pp=2,micro_batch=1");
  const PricedLayout plan = estimate(request).plans.at(0);
  const Prediction& p = *plan.prediction;
  const PlanDetail detail = shardwright::detail_of(request, plan);
  const Seconds sum = std::accumulate(detail.parts.begin(), detail.parts.end(), Seconds{},
                                      [](Seconds s, const StepPart& part) { return s + part.seconds; });
  CHECK(sum.value == doctest::Approx(p.step.value));
  REQUIRE(detail.tensors.size() == 2);
  for (std::size_t stage = 0; stage < 2; ++stage) {
    std::int64_t bytes = 0;
    for (const MemoryItem& item : detail.tensors[stage]) bytes += item.bytes.value;
    CHECK(static_cast<double>(bytes) ==
          doctest::Approx(static_cast<double>(p.stages[stage].allocated.value)).epsilon(1e-3));
  }
}

TEST_CASE("a kernel is listed once, the longest first, with the work of those that compute") {
  const PlanDetail detail = detail_of(request_of("llama-3.1-8b", 32, "tp=4,pp=2,micro_batch=1"));
  REQUIRE(detail.kernels.size() > 5);
  std::vector<std::string> questions;
  for (const KernelUse& k : detail.kernels) {
    questions.push_back(to_string(k.spec));
    CHECK(k.calls > 0);
    CHECK(k.work.has_value() == (family_of(k.spec) != KernelFamily::collective));
  }
  CHECK(std::is_sorted(detail.kernels.begin(), detail.kernels.end(),
                       [](const KernelUse& a, const KernelUse& b) { return a.seconds() > b.seconds(); }));
  std::sort(questions.begin(), questions.end());
  CHECK(std::adjacent_find(questions.begin(), questions.end()) == questions.end());
}

TEST_CASE("the timeline is the trace of the layout in its own precision") {
  const PlanRequest request = request_of("llama-3.1-8b", 32, "tp=4,pp=2,micro_batch=1");
  PricedLayout plan = estimate(request).plans.at(0);
  const PlanDetail bf16 = shardwright::detail_of(request, plan);
  CHECK(bf16.spans.size() == trace_of(request, plan.layout).size());
  plan.precision = DataType::fp8;
  const PlanDetail fp8 = shardwright::detail_of(request, plan);
  CHECK(fp8.spans.front().end < bf16.spans.front().end);
}

}  // namespace
}  // namespace shardwright
