#include "reports/estimate_text.h"

#include <doctest/doctest.h>

#include "tests/reports/answers.h"

namespace shardwright {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

PlanResult round_estimate() {
  PlanResult result = round_result();
  result.is_estimate = true;
  result.plans.resize(1);
  result.plans[0].assumed = {"dp", "zero"};
  return result;
}

/// Of a layout with these tensors, two kernels, and ranks of tp inside a node.
PlanDetail detail_with(const std::vector<MemoryItem>& tensors) {
  PlanDetail detail;
  detail.tensors = {tensors};
  detail.kernels = {{CollectiveSpec{CollectiveKind::all_reduce, 1_GiB, {}}, {{0.5}, CostSource::datasheet, 0.2}, 3, {}},
                    {GemmSpec{10, 20, 30}, {{0.25}, CostSource::measured, 0.01}, 2, {}}};
  detail.axes = {{"tp", 8, {{"node", 8}}}, {"dp", 16, {{"node", 4}, {"spine", 16}}}};
  return detail;
}

TEST_CASE("an estimate shows the layout, what was filled in, time and memory") {
  const std::vector<MemoryItem> tensors = {{"activations", "up_proj.output", 30_GiB, 64},
                                           {"weights", "embed_tokens", 1_GiB, 1}};
  CHECK(estimate_text(round_request(), round_estimate(), detail_with(tensors)) ==
        R"(llama-3.1-8b (8.03 B parameters) on 64 x round-gpu
training, 32 sequences of 1,024 tokens = 32,768 tokens a step, bf16
engine: generic
layout: tp=8, pp=2, dp=4, sequence_parallel=true, zero=1, fsdp_group=4,
        recompute=none, micro_batch=1, schedule=1f1b, rank_order=tp-cp-dp-pp,
        overlap=none, layers_per_stage=17+15
filled in by the planner: dp, zero

It fits.

Where a step goes
  compute           8.00 s   80.0 %  ##################################
  communication     1.00 s   10.0 %  ####
  bubble            500 ms    5.0 %  ##
  optimizer         500 ms    5.0 %  ##
  step              10.0 s           9.00 s to 11.0 s holds 80 %
  tokens per second              3,276
  tokens per second and GPU      51.2
  model FLOP/s of a GPU          400 TFLOP/s (MFU 40.0 %)
  GPU-hours per 10^12 tokens     123,456

What fills a GPU of stage 0, the fullest of 2, in GiB
  weights                            4.0  ##
  gradients                          8.0  ####
  optimizer                         10.0  #####
  activations                       40.0  ###################
  transient                          3.0  #
  buffers                            1.0
  rounding of the allocator          2.0  #
  reserved                          68.0  of 80.0 usable: 12.0 to spare

GiB of a GPU by stage, fullest first
stage weights grads optimizer activations transient buffers allocated reserved
    0    4.00  8.00     10.00       40.00      3.00    1.00     66.00    68.00
    1    4.00  8.00     10.00       30.00      3.00    1.00     56.00    58.00

Largest tensors of stage 0
  GiB  copies  part         tensor
30.00      64  activations  up_proj.output
 1.00       1  weights      embed_tokens

Longest kernels, of a GPU in a step
  time   share  of roof  error  source
1.50 s  75.0 %        -   20 %  datasheet
        collective op=all_reduce bytes=1073741824 group=1
500 ms  25.0 %        -    1 %  measured   gemm m=10 n=20 k=30 type=bf16

Links: tp 8 node; dp 16 node (4 of them), spine.

Confidence: high. In 80 % of cases the step is less than 10 % off. Source: all
times from the datasheet and efficiency curves; no kernel of this machine was
measured.
)");
}

TEST_CASE("stages with equal memory share a row, and only the fullest are listed") {
  PlanResult result = round_estimate();
  result.plans[0].layout.pipeline = 12;
  result.plans[0].layout.layers_per_chunk.assign(12, 2);
  std::vector<StageMemory>& stages = result.plans[0].prediction->stages;
  stages = {round_stage(40), round_stage(30), round_stage(30)};
  for (int i = 0; i < 9; ++i) stages.push_back(round_stage(20 - i));
  const std::string text = estimate_text(round_request(), result, {});
  CHECK(contains(text, "\n  1-2    4.00  8.00     10.00       30.00      3.00    1.00     56.00    58.00\n"));
  CHECK(contains(text, "\nand 3 more that need less\n"));  // 11 rows, 8 shown
}

TEST_CASE("tensors beyond the largest twelve are summed up") {
  std::vector<MemoryItem> tensors;
  for (int i = 0; i < 14; ++i) tensors.push_back({"weights", "w" + std::to_string(i), 2_GiB, 1});
  CHECK(contains(estimate_text(round_request(), round_estimate(), detail_with(tensors)),
                 "\nand 2 more with 4.00 GiB together\n"));
}

TEST_CASE("a layout that does not fit is priced all the same") {
  PlanResult result = round_estimate();
  result.plans[0] = round_layout(8, 0.5, 60);
  result.plans[0].fits = false;
  result.plans[0].rejection = Rejection{"memory", "stage 0 needs 88.0 GiB of 80.0 GiB"};
  const std::string text = estimate_text(round_request(), result, {});
  CHECK(contains(text, "\nIt does not fit.\nmemory: stage 0 needs 88.0 GiB of 80.0 GiB\n\nWhere a step goes\n"));
  CHECK(contains(text, "of 80.0 usable: 8.0 too much\n"));
}

TEST_CASE("a layout that cannot be run has its reason and nothing else") {
  PlanResult result = round_estimate();
  result.plans[0].fits = false;
  result.plans[0].prediction.reset();
  result.plans[0].layout.layers_per_chunk.clear();
  result.plans[0].rejection = Rejection{"ffn", "tp 8 does not divide intermediate_size 100"};
  CHECK(estimate_text(round_request(), result, {}) ==
        R"(llama-3.1-8b (8.03 B parameters) on 64 x round-gpu
training, 32 sequences of 1,024 tokens = 32,768 tokens a step, bf16
engine: generic
layout: tp=8, pp=2, dp=4, sequence_parallel=true, zero=1, fsdp_group=4,
        recompute=none, micro_batch=1, schedule=1f1b, rank_order=tp-cp-dp-pp,
        overlap=none
filled in by the planner: dp, zero

It cannot be run.
ffn: tp 8 does not divide intermediate_size 100
)");
}

TEST_CASE("communication under compute and a price are shown where there are any") {
  PlanResult result = round_estimate();
  result.plans[0].prediction->traffic[Traffic::expert] = {2.5};
  result.plans[0].prediction->exposed[Traffic::expert] = {1};
  result.plans[0].prediction->traffic[Traffic::pipeline] = {0.5};
  result.plans[0].prediction->cost_per_trillion_tokens = 250000;
  const std::string text = estimate_text(round_request(), result, {});
  CHECK(contains(text, "communication: expert 2.50 s (1.00 s exposed), pipeline 500 ms (0 us exposed)\n"));
  CHECK(contains(text, "  cost per 10^12 tokens          250,000\n"));
}

TEST_CASE("an estimate says what an uneven load does to the experts' ranks, and what redundant experts would do") {
  // Over the mean of one: 4 1 | 1 1 | 1 0 | 0 0. Four spare slots make five copies of the first: 1 + 0.8 + 0.8 of 2.
  PlanRequest request = round_request();
  request.model = find_model("mixtral-8x7b");
  request.workload.expert_load = {ExpertLoad::Kind::histogram, 0, {4, 1, 1, 1, 1, 0, 0, 0}};
  PlanResult result = round_estimate();
  result.plans[0].layout.expert = 4;
  result.workload = request.workload;
  const std::string text = estimate_text(request, result, {});
  CHECK(contains(text, "experts loaded by histogram of 8 experts\n"));
  CHECK(contains(text,
                 "\nExperts: the busiest of 4 ranks has 2.50 times the mean of rows and sets the\n"
                 "pace. With one redundant expert a rank, placed by DeepSeek's EPLB, it would have\n"
                 "1.30 times the mean; training runs without.\n"));
  SUBCASE("not where every rank has all experts, or takes no more than its capacity") {
    result.plans[0].layout.expert = 1;
    CHECK(!contains(estimate_text(request, result, {}), "busiest"));
    result.plans[0].layout.expert = 4;
    result.workload.capacity_factor = request.workload.capacity_factor = 1.25;
    CHECK(!contains(estimate_text(request, result, {}), "busiest"));
    CHECK(contains(estimate_text(request, result, {}),
                   "experts take 1.25 times their mean of rows, the rest is dropped\n"));
  }
}

}  // namespace
}  // namespace shardwright
