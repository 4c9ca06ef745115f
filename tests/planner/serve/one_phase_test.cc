#include "planner/serve/one_phase.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"

namespace shardwright {
namespace {

using doctest::Approx;

const ServeFormats kBlocks{WeightFormat::fp8_block, WeightFormat::fp8_block, KvFormat::bf16};

TEST_CASE("decode alone: as many tokens as sequences, every step") {
  const Machine machine = find_machine("h100-sxm-80gb");
  StepTimes times(find_model("llama-3.1-8b"), machine, {}, find_serve_engine("vllm", "--engine"), {.replicas = 2});
  ServeWorkload w{1024, 256, 64, {}, {}};
  w.phase = ServePhase::decode;
  const ServePrediction p = one_phase(times, machine, w);
  // 64 clients of two copies: 32 each, half way through their answers.
  CHECK(p.batch == 32);
  CHECK(p.tpot == times.decode(32, 1024 + 128, {}).time);
  CHECK(p.output_tokens_per_second == Approx(64 / p.tpot.value));
  CHECK(p.output_tokens_per_second_per_gpu == Approx(32 / p.tpot.value));
  CHECK(p.ttft == Seconds{0});
}

TEST_CASE("prefill alone: tokens that are cached count as input and are not computed") {
  const Machine machine = find_machine("h100-sxm-80gb");
  StepTimes times(find_model("llama-3.1-8b"), machine, {}, find_serve_engine("vllm", "--engine"), {});
  ServeWorkload w{4096, 256, {}, {}, {}};
  w.phase = ServePhase::prefill;
  const ServePrediction all = one_phase(times, machine, w);
  CHECK(all.batch == 2);  // 8192 tokens a step
  CHECK(all.input_tokens_per_second == Approx(2 * 4096 / times.prefill(2, 4096, 0, 0).added.value));
  CHECK(all.tpot == Seconds{0});
  w.cached_prefix = 0.75;
  CHECK(w.cached_tokens() == 3072);
  const ServePrediction cached = one_phase(times, machine, w);
  CHECK(cached.batch == 8);  // 1024 new tokens each
  // A quarter of the products, but attention still sees all keys: less than four times as fast.
  CHECK(cached.input_tokens_per_second > 3 * all.input_tokens_per_second);
  CHECK(cached.input_tokens_per_second < 4 * all.input_tokens_per_second);
}

TEST_CASE("a prompt always has a new token") {
  ServeWorkload w{10, 1, {}, {}, {}};
  w.cached_prefix = 0.99;
  CHECK(w.cached_tokens() == 9);
}

TEST_CASE("half of a step exchanges rows while the other computes, where that is faster") {
  const Machine machine = find_machine("h800-sxm-80gb");
  ServeEngine overlapped = find_serve_engine("deepseek", "--engine"), plain = overlapped;
  plain.overlaps_exchange = false;
  const ServeLayout layout{.attention_data = 32, .expert = 32};
  StepPricer with(find_model("deepseek-v3"), machine, kBlocks, overlapped, layout);
  StepPricer without(find_model("deepseek-v3"), machine, kBlocks, plain, layout);
  const auto time = [](const StepCost& c) { return c.computing() + c.communicating(); };
  SUBCASE("decode: low-latency kernels take no multiprocessors, so the shorter of both is hidden") {
    const Step step = {{128, 1, 4096}};
    const StepCost a = with.stages(step).front(), b = without.stages(step).front();
    CHECK(b.hidden == Seconds{0});
    CHECK(a.hidden > Seconds{0});
    CHECK(a.hidden <= a.exchange);
    CHECK(time(a) < time(b));
  }
  SUBCASE("prefill: normal kernels take 20 of 132") {
    const Step step = {{4, 4096, 0}};
    const StepCost a = with.stages(step).front();
    // Computing is longer: all of the exchange is hidden, but for what computing loses by it.
    CHECK(a.hidden.value == Approx((1 - 20.0 / 132) * a.exchange.value));
  }
  SUBCASE("a single token has no halves") {
    const Step step = {{1, 1, 4096}};
    CHECK(with.stages(step).front().hidden == Seconds{0});
  }
}

TEST_CASE("redundant experts are places more") {
  const Model v3 = find_model("deepseek-v3");
  const Machine machine = find_machine("h800-sxm-80gb");
  // 256 + 32 on 144 GPUs: two each (open-infra-index, day 6); 256 do not divide.
  CHECK(impossible(v3, machine, kBlocks, {.attention_data = 144, .expert = 144}).has_value());
  const ServeLayout online{.attention_data = 144, .expert = 144, .redundant = 32};
  CHECK_FALSE(impossible(v3, machine, kBlocks, online).has_value());
  CHECK(deployed(v3, online).n_routed_experts == 288);
  CHECK(deployed(v3, online).num_experts_per_tok == 8);
  // 320 places for 256 experts, copies of them and the shared one, which every token chooses: 9 of them a token.
  const ServeLayout paper{.tensor = 4, .attention_data = 80, .expert = 320, .redundant = 64, .shared_routed = true};
  const Model placed = deployed(v3, paper);
  CHECK(placed.n_routed_experts == 320);
  CHECK(placed.num_experts_per_tok == 9);
  CHECK(placed.n_shared_experts == 0);
  CHECK_FALSE(impossible(v3, machine, kBlocks, paper).has_value());
  CHECK(to_string(paper) == "tp=4,pp=1,attention_dp=80,ep=320,etp=1,redundant=64,shared=routed,dp=1");
}

TEST_CASE("redundant and shared are read from a layout") {
  const ServePins pins = parse_serve_layout("tp=4,attention_dp=80,redundant=64,shared=routed", "--layout");
  const ServeLayout layout = layout_of(pins, find_model("deepseek-v3"), {});
  CHECK(layout.redundant == 64);
  CHECK(layout.shared_routed);
  CHECK(layout.expert == 320);
  CHECK(message_of([] { parse_serve_layout("shared=yes", "--layout"); }) ==
        "--layout:1:8: 'shared' must be routed or apart, got 'yes'\nshared=yes\n       ^");
  CHECK(message_of([] { layout_of(parse_serve_layout("shared=routed", "--layout"), find_model("deepseek-v3"), {}); }) ==
        "shared=routed needs redundant, at least 1: places for the shared experts");
}

TEST_CASE("ranks of tp hold different tokens between attention and experts") {
  ServeEngine cut = find_serve_engine("deepseek", "--engine"), whole = cut;
  cut.overlaps_exchange = whole.overlaps_exchange = false;
  whole.sequence_parallel = false;
  const ServeLayout layout{.tensor = 4, .attention_data = 8, .expert = 32};
  const Machine machine = find_machine("h800-sxm-80gb");
  StepPricer apart(find_model("deepseek-v3"), machine, kBlocks, cut, layout);
  StepPricer together(find_model("deepseek-v3"), machine, kBlocks, whole, layout);
  // A quarter of the tokens to send.
  const Step step = {{4, 4096, 0}};
  CHECK(apart.stages(step).front().exchange < 0.5 * together.stages(step).front().exchange);
  CHECK(apart.stages(step).front().attention == together.stages(step).front().attention);
}

}  // namespace
}  // namespace shardwright
