#include "planner/serve/serve_detail.h"

#include <doctest/doctest.h>

namespace shardwright {
namespace {

using doctest::Approx;

ServeRequest request(const char* model, const char* layout) {
  ServeRequest r;
  r.model = find_model(model);
  r.machine = find_machine("h100-sxm-80gb");
  r.engine = find_serve_engine("vllm", "--engine");
  r.workload = {1024, 128, {}, {}, {}};
  r.pins = parse_serve_layout(layout, "--layout");
  r.threads = 1;
  return r;
}

ServeDetail detail(const ServeRequest& r, const ServeResult& result) {
  const auto found = detail_of_first(r, result);
  REQUIRE(found);
  return *found;
}

const ServeWhatIf& named(const ServeDetail& detail, const std::string& name) {
  for (const ServeWhatIf& w : detail.what_ifs)
    if (w.name == name) return w;
  FAIL(name << " is not asked");
  return detail.what_ifs[0];
}

// tp 2 x attention_dp 8 on nodes of 8: tp inside one, of attention_dp's ranks, 2 apart, 4 to a node; ep 16 over both.
TEST_CASE("axes of a served layout use the links at which their ranks meet") {
  const ServeRequest r = request("mixtral-8x7b", "tp=2,attention_dp=8,ep=8,etp=2");
  const ServeDetail d = detail(r, estimate_serving(r));
  REQUIRE(d.pools.size() == 1);
  CHECK(d.pools[0].pool.empty());
  const std::vector<AxisLinks>& axes = d.pools[0].axes;
  REQUIRE(axes.size() == 4);
  CHECK(axes[0].axis == "tp");
  REQUIRE(axes[0].levels.size() == 1);
  CHECK(axes[0].levels[0].name == "node");
  CHECK(axes[1].axis == "attention_dp");
  CHECK(axes[1].ranks == 8);
  REQUIRE(axes[1].levels.size() == 2);
  CHECK(axes[1].levels[0].ranks == 4);
  CHECK(axes[1].levels[1].ranks == 8);
}

TEST_CASE("stages of a pipeline lie outside the ranks of one") {
  const ServeRequest r = request("llama-3.1-70b", "tp=8,pp=2");
  const std::vector<AxisLinks> axes = detail(r, estimate_serving(r)).pools.at(0).axes;
  REQUIRE(axes.size() == 2);
  CHECK(axes[1].axis == "pp");
  REQUIRE(axes[1].levels.size() == 1);
  CHECK(axes[1].levels[0].name != "node");
}

TEST_CASE("what changes is what an estimate of the changed question says") {
  ServeRequest r = request("llama-3.1-8b", "tp=2");
  r.workload.concurrency = 16;
  const ServeDetail d = detail(r, estimate_serving(r));
  r.workload.concurrency = 32;
  const ServePrediction twice = *estimate_serving(r).plans[0].prediction;
  REQUIRE(named(d, "clients_twice").same);
  CHECK(named(d, "clients_twice").same->prediction->output_tokens_per_second == twice.output_tokens_per_second);
  r.workload.concurrency = 16;
  r.workload.isl = 2048;
  CHECK(named(d, "prompts_twice").same->prediction->ttft == estimate_serving(r).plans[0].prediction->ttft);
  // Within one node the network has no part in it.
  r.workload.isl = 1024;
  CHECK(named(d, "network_twice").same->prediction->tpot == estimate_serving(r).plans[0].prediction->tpot);
}

TEST_CASE("a plan's layout is put into the changed question with its best load there") {
  ServeRequest r = request("llama-3.1-8b", "serving=aggregated");
  r.gpus = 2;
  const ServeResult result = plan_serving(r);
  const ServeDetail d = detail(r, result);
  const ServedLayout& same = *named(d, "memory_141_gb").same;
  CHECK(same.layout == result.plans[0].layout);
  CHECK(same.prediction->memory.largest_batch > result.plans[0].prediction->memory.largest_batch);
  CHECK(same.prediction->output_tokens_per_second >= result.plans[0].prediction->output_tokens_per_second);
}

TEST_CASE("pools stay pools, each with its axes") {
  ServeRequest r = request("llama-3.1-8b", "serving=disaggregated");
  r.gpus = 4;
  r.goals.max_ttft_seconds = 1;
  const ServeResult result = plan_serving(r);
  REQUIRE(!result.plans.empty());
  const ServedLayout& first = result.plans[0];
  REQUIRE(first.pools);
  // The same question has the same answer.
  const auto again = best_load(r, *first.pools);
  REQUIRE(again);
  CHECK(again->prediction->output_tokens_per_second == Approx(first.prediction->output_tokens_per_second));
  CHECK(again->pools == first.pools);
  const ServeDetail d = detail(r, result);
  REQUIRE(d.pools.size() == 2);
  CHECK(d.pools[0].pool == "prefill");
  CHECK(d.pools[1].pool == "decode");
  REQUIRE(named(d, "prompts_twice").same);
  CHECK(named(d, "prompts_twice").same->prediction->ttft > first.prediction->ttft);
}

TEST_CASE("a change that no load survives has no layout") {
  ServeRequest r = request("llama-3.1-8b", "serving=aggregated");
  r.gpus = 1;
  const double quickest = plan_serving(r).pareto.front().prediction->ttft.value;
  r.goals.max_ttft_seconds = 1.2 * quickest;  // of prompts twice as long all take longer
  const ServeResult result = plan_serving(r);
  REQUIRE(!result.plans.empty());
  CHECK_FALSE(named(detail(r, result), "prompts_twice").same);
}

TEST_CASE("nothing stands behind a layout that does not fit, and nothing is changed of a load") {
  ServeRequest r = request("llama-3.1-405b", "tp=1");
  CHECK_FALSE(detail_of_first(r, estimate_serving(r)));
  r = request("llama-3.1-8b", "tp=1");
  r.load = ServeLoad{};
  r.load->requests_per_second = 1;
  r.load->requests = 100;
  CHECK(detail(r, estimate_serving(r)).what_ifs.empty());
}

}  // namespace
}  // namespace shardwright
