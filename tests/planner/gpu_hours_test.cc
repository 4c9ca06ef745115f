#include <doctest/doctest.h>

#include <cmath>

#include "planner/plan.h"

namespace shardwright {
namespace {

/// GPU-hours for 10^12 tokens on 1024 H800s, in HAI-LLM.
double gpu_hours(const char* model, std::int64_t global_batch, double capacity_factor, const char* layout) {
  PlanRequest request;
  request.model = find_model(model);
  request.machine = find_machine("h800-sxm-80gb");
  request.gpus = 1024;
  request.workload.sequence_length = 4096;
  request.workload.global_batch = global_batch;
  request.workload.capacity_factor = capacity_factor;
  request.engine = find_engine("hai-llm", "--engine");
  run_by(request.engine, request.precision, request.workload);
  request.pins = parse_layout(layout, "--layout");
  const PlanResult result = estimate(request);
  REQUIRE(result.plans.at(0).prediction);
  return result.plans[0].prediction->gpu_hours_per_trillion_tokens;
}

}  // namespace

// tests/validation/README.md, "DeepSeek-V2 against 67B", says what is published of the layouts and what is not.
TEST_CASE("DeepSeek-V2 saves as large a share of DeepSeek 67B's GPU-hours as was published") {
  const double v2 = gpu_hours("deepseek-v2", 9216, 1,
                              "tp=1,pp=16,ep=8,zero=1,schedule=zb-1p,micro_batch=1,recompute=selective,"
                              "recompute_modules=layernorm+mla_up_proj,"
                              "overlap=shared_experts+grad_reduce+param_gather+p2p");
  const double dense = gpu_hours("deepseek-llm-67b", 4608, 0,
                                 "tp=2,pp=8,vpp=12,zero=1,micro_batch=1,recompute=selective,"
                                 "recompute_modules=layernorm");
  // 172.8 and 300.6 thousand (arXiv 2405.04434, 3.2.3), give or take 6 points.
  CHECK(std::abs(v2 / dense - 172.8 / 300.6) <= 0.06);
}

}  // namespace shardwright
