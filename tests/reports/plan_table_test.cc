#include "reports/plan_table.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "tests/reports/answers.h"

namespace shardwright {
namespace {

const AskedAs kAsked{"llama-3.1-8b", "my machine.yaml"};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t longest_line(const std::string& text) {
  std::istringstream lines(text);
  std::size_t longest = 0;
  for (std::string line; std::getline(lines, line);) longest = std::max(longest, line.size());
  return longest;
}

// 32 sequences of 1024 tokens on 64 GPUs in 10 s: 3276.8 tokens/s, 51.2 a GPU. #2 takes 12.5 s: 40.96.
TEST_CASE("a plan is one page: ranking, reasons, memory, search, source, next command") {
  CHECK(plan_table(round_request(), round_result(), kAsked) ==
        R"(llama-3.1-8b (8.03 B parameters) on 64 x round-gpu
training, 32 sequences of 1,024 tokens = 32,768 tokens a step, bf16
engine: generic

Fastest: tp 8, pp 2, dp 4, zero 1, micro_batch 1. A step takes 10.0 s (9.00 s to
11.0 s holds 80 %), 40.0 % of peak. Confidence: high.

#  tp  sp  pp  vpp  dp  zero  mb  recompute  step s  tok/s/GPU  MFU %  mem GiB
1   8   y   2    1   4     1   1  none        10.00      51.20   40.0     68.0
2   4   y   2    1   8     1   1  none        12.50      40.96   40.0     58.0

Where a step of #1 goes
  compute           8.00 s   80.0 %  ##################################
  communication     1.00 s   10.0 %  ####
  bubble            500 ms    5.0 %  ##
  optimizer         500 ms    5.0 %  ##
  step              10.0 s           9.00 s to 11.0 s holds 80 %

#2 takes 2.50 s (25.0 %) longer: 2.50 s more bubble. It has tp 4 instead of 8,
dp 8 instead of 4, fsdp_group 8 instead of 4.

What fills a GPU of stage 0, the fullest of 2, in GiB
  weights                            4.0  ##
  gradients                          8.0  ####
  optimizer                         10.0  #####
  activations                       40.0  ###################
  transient                          3.0  #
  buffers                            1.0
  rounding of the allocator          2.0  #
  reserved                          68.0  of 80.0 usable: 12.0 to spare
  layers by stage: 17 + 15

Less memory, for time
#  tp  sp  pp  vpp  dp  zero  mb  recompute  step s  mem GiB
1   8   y   2    1   4     1   1  none        10.00     68.0
2   4   y   2    1   8     1   1  none        12.50     58.0

Search: 1,234 layouts considered = 34 priced + 1,000 pruned by bounds + 200
rejected (150 memory, 50 heads). #1 is proven to be the best of them.
Confidence: high. In 80 % of cases the step is less than 10 % off. Source: all
times from the datasheet and efficiency curves; no kernel of this machine was
measured.

#1 in detail:
  shardwright estimate llama-3.1-8b 'my machine.yaml' --gpus 64 \
    --sequence-length 1024 --global-batch 32 \
    --layout tp=8,pp=2,dp=4,sequence_parallel=true,zero=1,fsdp_group=4,\
recompute=none,micro_batch=1,schedule=1f1b,rank_order=tp-cp-dp-pp,overlap=none,\
layers_per_stage=17+15
)");
}

TEST_CASE("layouts that tie with the best are named and counted") {
  PlanResult result = round_result();
  CHECK_FALSE(contains(plan_table(round_request(), result, kAsked), "below #1"));
  result.plans = {round_layout(8, 0.5, 40), round_layout(4, 0.6, 30), round_layout(2, 1, 20), round_layout(1, 9, 10)};
  result.plans[1].ties = result.plans[3].ties = true;
  CHECK(contains(
      plan_table(round_request(), result, kAsked),
      "2 of the 3 below #1 tie with it, #2, #4: the error of the ratio leaves the order\nopen, which a run would "
      "settle.\n"));
  result.plans[2].ties = true;
  CHECK(contains(plan_table(round_request(), result, kAsked), "3 of the 3 below #1 tie with it, #2 to #4: the error"));
  result.plans.resize(2);
  CHECK(contains(plan_table(round_request(), result, kAsked), "1 of the 1 below #1 ties with it, #2: the error"));
}

TEST_CASE("two layouts of one time are ordered by their keys, and the text says so") {
  PlanResult result = round_result();
  result.plans = {round_layout(8, 0.5, 40), round_layout(8, 0.5, 40)};
  result.plans[1].layout.rank_order = RankOrder::tp_cp_pp_dp;
  const std::string text = plan_table(round_request(), result, kAsked);
  CHECK(contains(text,
                 "#2 takes the same time; the order between them is that of the layouts' keys. It\nhas rank_order "
                 "tp-cp-pp-dp instead of tp-cp-dp-pp.\n"));
  CHECK(contains(text, "recompute order step s"));  // a column where rows differ in it
}

TEST_CASE("columns for context parallelism, gpipe and types stand only where they say something") {
  PlanResult result = round_result();
  CHECK_FALSE(contains(plan_table(round_request(), result, kAsked), "  cp  "));
  result.plans[1].layout.context = 2;
  result.plans[1].layout.schedule = Schedule::gpipe;
  result.plans[1].precision = DataType::fp8;
  const std::string text = plan_table(round_request(), result, kAsked);
  // Tokens a second have no room beside all the others.
  CHECK(contains(text, "# tp sp cp   pp vpp dp zero mb recompute sched type step s MFU % mem GiB\n"));
  CHECK(contains(text, "2  4  y 2 ag  2   1  8  1/8  1 none      gpipe  fp8  12.50  40.0    58.0\n"));
  std::string one_line = text;
  std::replace(one_line.begin(), one_line.end(), '\n', ' ');
  CHECK(contains(one_line, "cp_kind allgather instead of none"));
  CHECK(contains(one_line, "precision fp8 instead of bf16."));
  CHECK(contains(text, "gpipe"));
  result.plans[1].precision = DataType::bf16;
  CHECK(contains(plan_table(round_request(), result, kAsked),
                 "# tp sp cp   pp vpp dp zero mb recompute sched step s tok/s/GPU MFU % mem GiB\n"));
}

TEST_CASE("where the type was searched it is shown, though all rows have the same") {
  PlanRequest request = round_request();
  request.any_precision = true;
  const std::string text = plan_table(request, round_result(), kAsked);
  CHECK(contains(text, "32,768 tokens a step, any precision\n"));
  CHECK(contains(text,
                 "#  tp  sp  pp  vpp  dp  zero  mb  recompute  type  step s  mem GiB\n1   8   y   2    1   4     1"));
}

TEST_CASE("no line is longer than 80 characters, with the longest names of layouts too") {
  PlanResult result = round_result();
  for (PricedLayout& plan : result.plans) {
    plan.layout.recompute.modules = 7;
    plan.layout.zero = 3;
    plan.layout.pipeline = 16;
    plan.layout.virtual_pipeline = 4;
    plan.layout.context = 2;
    plan.layout.data = 1024;
    plan.layout.micro_batch = 16;
    plan.layout.schedule = Schedule::interleaved;
    plan.layout.layers_per_chunk.assign(64, 2);
  }
  result.plans[1].layout.rank_order = RankOrder::tp_cp_pp_dp;
  result.pareto = result.plans;
  const std::string text = plan_table(round_request(), result, kAsked);
  CHECK(contains(text, "attn+norm+mlp"));
  CHECK(contains(text, "3/4"));  // zero 3 over groups of 4
  CHECK(longest_line(text) <= 80);
}

TEST_CASE("a list of layers that the planner chose and that is long is left to it again, a pinned one is kept") {
  PlanRequest request = round_request();
  PlanResult result = round_result();
  result.plans[0].layout.pipeline = 32;
  result.plans[0].layout.layers_per_chunk.assign(32, 1);
  CHECK_FALSE(contains(plan_table(request, result, kAsked), "layers_per_stage="));
  request.pins.layers_per_stage = std::vector<int>(32, 1);
  const std::string text = plan_table(request, result, kAsked);
  CHECK(contains(text, "layers_per_stage=1+1+"));
  CHECK(contains(text, "pinned: layers_per_stage=32 x 1\n"));
}

TEST_CASE("pins are a part of the question") {
  PlanRequest request = round_request();
  request.pins = parse_layout("tp=8,sequence_parallel=true,recompute=full,schedule=1f1b", "--pin");
  CHECK(
      contains(plan_table(request, round_result(), kAsked),
               "a step, bf16\nengine: generic\npinned: tp=8, sequence_parallel=true, recompute=full, schedule=1f1b\n"));
}

TEST_CASE("a search that was not complete does not call its best the best") {
  PlanResult result = round_result();
  result.search.proven_best = false;
  CHECK(contains(plan_table(round_request(), result, kAsked), "#1 is not proven to be the best of them."));
}

TEST_CASE("when nothing fits the text says which stage by how much, and shows the nearest misses") {
  PlanResult result = round_result();
  result.search = {200, 0, 0, {{"memory", 200}}, 0.1, true};
  result.plans.clear();
  result.pareto.clear();
  result.nearest = {round_layout(8, 0.5, 60)};  // 60 + 26 + 2 = 88 GiB of 80
  result.nearest[0].fits = false;
  CHECK(plan_table(round_request(), result, kAsked) ==
        R"(llama-3.1-8b (8.03 B parameters) on 64 x round-gpu
training, 32 sequences of 1,024 tokens = 32,768 tokens a step, bf16
engine: generic

No layout of this space fits.

Nearest misses
#  tp  sp  pp  vpp  dp  zero  mb  recompute  step s  mem GiB  over by
1   8   y   2    1   4     1   1  none        10.00     88.0      8.0

#1 misses in stage 0 of 2: a GPU needs 88.0 GiB and has 80.0.
Weights, gradients and optimizer state take 22.0 GiB of it, the rest grows with
the sequence: a shorter sequence or more GPUs would help.

What fills a GPU of stage 0, the fullest of 2, in GiB
  weights                            4.0  ##
  gradients                          8.0  ####
  optimizer                         10.0  #####
  activations                       60.0  #############################
  transient                          3.0  #
  buffers                            1.0
  rounding of the allocator          2.0  #
  reserved                          88.0  of 80.0 usable: 8.0 too much

Search: 200 layouts considered = 0 priced + 0 pruned by bounds + 200 rejected
(200 memory).
)");
}

TEST_CASE("what would help when nothing fits depends on what fills the memory and on pins") {
  PlanResult result = round_result();
  result.plans.clear();
  result.nearest = {round_layout(8, 0.5, 60)};
  PlanRequest request = round_request();
  request.pins.zero = 0;
  CHECK(contains(plan_table(request, result, kAsked),
                 "Cheapest change to try: fewer pins; what was pinned is left out of this search.\n"));
  request.pins.zero.reset();
  result.nearest[0].prediction->stages[0].parts.optimizer = 90_GiB;
  CHECK(
      contains(plan_table(request, result, kAsked),
               "Weights, gradients and optimizer state alone take 102.0 GiB of a GPU there: more\nGPUs are needed.\n"));
}

TEST_CASE("when no layout is even possible the text has the reasons") {
  PlanResult result = round_result();
  result.search = {7, 0, 0, {{"heads", 7}}, 0.1, true};
  result.plans.clear();
  result.pareto.clear();
  CHECK(plan_table(round_request(), result, kAsked) ==
        R"(llama-3.1-8b (8.03 B parameters) on 64 x round-gpu
training, 32 sequences of 1,024 tokens = 32,768 tokens a step, bf16
engine: generic

No layout of this space fits.

Search: 7 layouts considered = 0 priced + 0 pruned by bounds + 7 rejected (7
heads).
)");
}

TEST_CASE("times that were measured are told from those that were not") {
  PlanResult result = round_result();
  result.plans[0].prediction->source_share = {0.7, 0.2, 0, 0.1};
  CHECK(contains(
      plan_table(round_request(), result, kAsked),
      "Confidence: high. In 80 % of cases the step is less than 10 % off. Source: times\nare 70 % measured, 20 "
      "% interpolated, 10 % datasheet.\n"));
}

/// One space for each run of them, so that it does not matter where lines break.
std::string on_one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n';
    if (!space || (!line.empty() && line.back() != ' ')) line += space ? ' ' : c;
  }
  return line;
}

TEST_CASE("the text of a plan has every fact of its page, on 80 columns and on 120") {
  PlanRequest request = round_request();
  request.machine = find_machine("h100-sxm-80gb");
  request.gpus = 16;
  request.pins.pp = 2;
  request.pins.tp = 2;
  request.rejected_examples = 1;
  request.threads = 2;
  const PlanResult result = plan(request);
  REQUIRE(result.plans.size() > 1);
  const std::optional<PlanDetail> detail = detail_of_first(request, result);
  REQUIRE(detail);
  const PricedLayout& best = result.plans[0];
  const Prediction& p = *best.prediction;

  std::vector<std::string> facts = {
      "Fastest: " + degrees_text(best.layout), fmt::format("Confidence: {}", confidence(p)),
      "llama-3.1-8b (8.03 B parameters) on 16 x h100-sxm-80gb", "32 sequences of 1,024 tokens", "engine: generic",
      with_unit(p.step) + " (" + with_unit(p.step_low) + " to " + with_unit(p.step_high), percent(p.mfu),
      // machine
      with_unit(request.machine.memory), with_unit(request.machine.peak[DataType::bf16]) + " in bf16",
      with_unit(request.machine.memory_bandwidth),
      // memory
      "reserved " + in_gib(p.worst().reserved) + " of " + in_gib(request.machine.usable_memory()) + " usable",
      "activations " + in_gib(p.worst().parts.activations), "rounding of the allocator",
      detail->tensors[static_cast<std::size_t>(p.worst_stage)][0].tensor,
      // time
      "compute " + with_unit(p.compute), "bubble " + with_unit(p.bubble), "optimizer " + with_unit(p.optimizer),
      "Stages wait for others",
      // kernels with the source of their numbers, the front, how to ask again
      to_string(detail->kernels[0].spec), "of roof", std::string(name_of(detail->kernels[0].cost.source)),
      "Less memory, for time", "shardwright estimate llama-3.1-8b", "considered = ", "Source: all times"};
  for (const StepPart& part : detail->parts) facts.push_back(part_text(part.name) + " " + with_unit(part.seconds));
  for (std::size_t k = 0; k < kTraffics; ++k) {
    const auto kind = static_cast<Traffic>(k);
    if (p.traffic[kind] > Seconds{})
      facts.push_back(
          fmt::format("{} {} ({} exposed)", name_of(kind), with_unit(p.traffic[kind]), with_unit(p.exposed[kind])));
  }
  for (const AxisLinks& axis : detail->axes) facts.push_back(fmt::format("{} {} ", axis.axis, axis.ranks));
  for (const SameLayout& w : detail->what_ifs) facts.push_back(w.meaning + ":");
  REQUIRE(!result.rejected.empty());
  for (const PricedLayout& rejected : result.rejected)
    facts.push_back(rejected.rejection->reason + ": " + rejected.rejection->detail);

  for (const int width : {80, 120}) {
    const std::string text = plan_table(request, result, kAsked, detail, {width, false});
    const std::string line = on_one_line(text);
    for (const std::string& fact : facts) {
      CAPTURE(width);
      CAPTURE(fact);
      CHECK(contains(line, fact));
    }
    for (std::size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1)
      CHECK(text.find('\n', begin) - begin <= static_cast<std::size_t>(width));
  }
}

TEST_CASE("the same answer has the same text whatever the search took") {
  PlanResult result = round_result();
  const std::string text = plan_table(round_request(), result, kAsked);
  result.search.seconds = 99;
  CHECK(plan_table(round_request(), result, kAsked) == text);
}

}  // namespace
}  // namespace shardwright
