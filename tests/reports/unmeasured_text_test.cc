#include "reports/unmeasured_text.h"

#include <doctest/doctest.h>

#include "reports/json.h"
#include "tests/reports/answers.h"

namespace shardwright {
namespace {

PlanResult with_kernels() {
  PlanResult result = round_result();
  result.unmeasured = {{GemmSpec{.m = 1, .n = 2, .k = 3}, CostSource::datasheet, 0.1, 64, {2}, 0.5},
                       {MemorySpec{{100}}, CostSource::interpolated, 0.05, 2.5, {0.001}, 0.00025}};
  return result;
}

TEST_CASE("what to measure is a question a line, behind what it weighs") {
  CHECK(unmeasured_text(with_kernels()) ==
        R"(# llama-3.1-8b on 64 round-gpu: what was not measured of the layout, most doubt first.
# Seconds and calls are those of one GPU in a step.
# datasheet  2.00 s (50.0 %)  error 10.0 %  calls 64
gemm m=1 n=2 k=3 type=bf16
# interpolated  1.00 ms (0.0 %)  error 5.0 %  calls 2.5
memory bytes=100
)");
}

TEST_CASE("several layouts that may be the fastest are named") {
  PlanResult result = with_kernels();
  result.plans[1].ties = true;
  const std::string text = unmeasured_text(result);
  CHECK(
      text.substr(0, text.find("# datasheet")) ==
      R"(# llama-3.1-8b on 64 round-gpu: what was not measured of the 2 layouts that may be the fastest, most doubt first.
# Seconds and calls are those of one GPU in a step, all of these layouts together.
)");
}

TEST_CASE("the JSON has the same list, where it was asked for") {
  CHECK(plan_result_json(round_result()).find("unmeasured") == std::string::npos);
  const std::string text = plan_result_json(with_kernels());
  CHECK(text.substr(text.find("  \"unmeasured\"")) == R"(  "unmeasured": [
    {
      "kernel": "gemm m=1 n=2 k=3 type=bf16",
      "source": "datasheet",
      "seconds": 2.0,
      "share": 0.5,
      "relative_error": 0.1,
      "doubt_seconds": 0.2,
      "calls": 64.0
    },
    {
      "kernel": "memory bytes=100",
      "source": "interpolated",
      "seconds": 0.001,
      "share": 0.00025,
      "relative_error": 0.05,
      "doubt_seconds": 5e-05,
      "calls": 2.5
    }
  ]
}
)");
}

}  // namespace
}  // namespace shardwright
