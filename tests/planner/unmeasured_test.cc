#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "planner/plan.h"
#include "tests/support/measured_machine.h"

namespace shardwright {
namespace {

PricedLayout layout_of(double step, bool ties = false) {
  PricedLayout p;
  p.prediction.emplace();
  p.prediction->step = {step};
  p.ties = ties;
  return p;
}

PlanRequest small_request() {
  PlanRequest request;
  request.model = find_model("llama-3.1-8b");
  request.machine = find_machine("h100-sxm-80gb");
  request.gpus = 8;
  request.workload.sequence_length = 1024;
  request.workload.global_batch = 16;
  request.workload.formats = formats_for(DataType::bf16);
  request.pins = parse_layout("tp=2,pp=1,micro_batch=1,recompute=none,zero=1", "--layout");
  request.threads = 1;
  return request;
}

const UnmeasuredKernel* find(const std::vector<UnmeasuredKernel>& list, const KernelSpec& spec) {
  const auto found = std::find_if(list.begin(), list.end(), [&](const auto& k) { return k.spec == spec; });
  return found == list.end() ? nullptr : &*found;
}

TEST_CASE("rivals are those whose time may be as short as the best one's") {
  PlanResult result;
  result.plans = {layout_of(10), layout_of(11, true), layout_of(12), layout_of(13, true)};
  CHECK(ties_with_best(result.plans) == 2);
  CHECK(rivals(result).size() == 3);
  CHECK(rivals(result)[2].prediction->step.value == 13);
  result.plans[0].prediction.reset();
  CHECK(rivals(result).front().prediction->step.value == 11);
  result.plans.clear();
  CHECK(rivals(result).empty());
  result.nearest = {layout_of(1)};
  CHECK(rivals(result).size() == 1);
}

TEST_CASE("layouts tie where the error of their ratio leaves the order open") {
  PredictionErrors errors;
  errors.ratio = {0.1, 0.2, 0.3};
  const PricedLayout a = layout_of(10);
  // exp(0.1) = 1.105, exp(0.2) = 1.221, exp(0.3) = 1.35.
  PricedLayout b = layout_of(11), c = layout_of(11.1);
  CHECK(ties_with(a, b, errors));
  CHECK(ties_with(b, a, errors));
  CHECK_FALSE(ties_with(a, c, errors));
  c.layout.micro_batch = 2;
  CHECK_FALSE(ties_with(a, c, errors));
  c.layout.tensor = 2;
  CHECK(different_degrees(a.layout, c.layout) == 1);
  CHECK(ties_with(a, c, errors));
  c.prediction->step = {12.3};
  CHECK_FALSE(ties_with(a, c, errors));
  c.layout.expert = 2;
  CHECK(ties_with(a, c, errors));
  c.layout.pipeline = c.layout.context = 2;
  CHECK(different_degrees(a.layout, c.layout) == 4);
  CHECK(ties_with(a, c, errors));
  c.prediction->step = {13.6};
  CHECK_FALSE(ties_with(a, c, errors));
  b.prediction->step = {13};
  CHECK_FALSE(ties_with(a, b, errors));
  b.precision = DataType::fp8;
  CHECK(ties_with(a, b, errors));
}

TEST_CASE("what was not measured is listed by the seconds it may be wrong by") {
  const PlanRequest request = small_request();
  const std::vector<UnmeasuredKernel> list = unmeasured_kernels(request, estimate(request));
  double share = 0;
  for (const UnmeasuredKernel& kernel : list) share += kernel.share;
  CHECK(share == doctest::Approx(1));  // nothing was measured
  CHECK(std::is_sorted(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.doubt() > b.doubt(); }));
  // One layer's up and gate product, which are one: 1024 rows, twice half of 14336 columns. 32 layers, 16 / 4
  // micro-batches.
  const GemmSpec up{.m = 1024, .n = 14336, .k = 4096};
  const UnmeasuredKernel* kernel = find(list, up);
  REQUIRE(kernel != nullptr);
  CHECK(kernel->calls >= 32 * 4);
  CHECK(kernel->source == CostSource::datasheet);
  CHECK(kernel->relative_error == look_up(up, request.machine).relative_error);
  CHECK(kernel->seconds.value == doctest::Approx(kernel->calls * look_up(up, request.machine).time.value));
}

TEST_CASE("what was measured is not listed, but has its share") {
  PlanRequest request = small_request();
  const GemmSpec up{.m = 1024, .n = 7168, .k = 4096};
  Measurements measurements;
  measurements.add(table_of(KernelFamily::gemm, {{up, 1}}));
  request.machine = with_measurements(request.machine, std::move(measurements));
  const std::vector<UnmeasuredKernel> list = unmeasured_kernels(request, estimate(request));
  CHECK(find(list, up) == nullptr);
  REQUIRE_FALSE(list.empty());
  double share = 0;
  for (const UnmeasuredKernel& kernel : list) share += kernel.share;
  CHECK(share < 0.9);  // a product of a second, hundreds of times
}

TEST_CASE("the layouts that may be the fastest are listed together") {
  PlanRequest request = small_request();
  PlanResult one = estimate(request);
  PlanResult twice = one;
  twice.plans.push_back(one.plans[0]);
  twice.plans[1].ties = true;
  const auto once = unmeasured_kernels(request, one), both = unmeasured_kernels(request, twice);
  REQUIRE(once.size() == both.size());
  for (std::size_t i = 0; i < once.size(); ++i) {
    CHECK(both[i].spec == once[i].spec);
    CHECK(both[i].calls == doctest::Approx(2 * once[i].calls));
    CHECK(both[i].seconds.value == doctest::Approx(2 * once[i].seconds.value));
    CHECK(both[i].share == doctest::Approx(once[i].share));
  }
}

}  // namespace
}  // namespace shardwright
