#include "planner/serve/steady_state.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace shardwright {
namespace {

using doctest::Approx;

ServePrediction predict(const char* model, const char* machine, const ServeLayout& layout, const ServeWorkload& w,
                        const char* engine = "vllm") {
  const Machine on = find_machine(machine);
  StepTimes times(find_model(model), on, w.formats, find_serve_engine(engine, "--engine"), layout);
  return aggregated(times, on, w);
}

TEST_CASE("a single client waits for nobody") {
  const ServeWorkload w{1024, 128, 1, {}, {}};
  const Machine machine = find_machine("h100-sxm-80gb");
  StepTimes times(find_model("llama-3.1-8b"), machine, {}, find_serve_engine("vllm", "--engine"), {});
  const ServePrediction p = aggregated(times, machine, w);
  CHECK(p.tpot.value == Approx(times.decode(1, 1024 + 64, {}).time.value).epsilon(1e-6));
  CHECK(p.concurrency == 1);
  CHECK(p.batch == 1);
  CHECK(p.tokens_per_second_per_user == Approx(1 / p.tpot.value));
}

TEST_CASE("as many requests are in flight as clients: Little's law") {
  for (const std::int64_t clients : {2, 8, 64, 200}) {
    const ServeWorkload w{1024, 256, clients, {}, {}};
    const ServePrediction p = predict("llama-3.1-8b", "h100-sxm-80gb", {}, w);
    const double life = p.ttft.value + 255 * p.tpot.value;
    CHECK(p.output_tokens_per_second / 256 * life == Approx(static_cast<double>(clients)).epsilon(0.01));
  }
}

TEST_CASE("clients beyond what fits wait for their turn") {
  const ServeFormats formats{WeightFormat::fp8, WeightFormat::fp8, KvFormat::fp8};
  const ServeWorkload w{1000, 1000, 400, formats, {}};
  const ServePrediction p = predict("llama-3.1-70b", "h100-sxm-80gb", {}, w, "tensorrt-llm-0");
  CHECK(p.batch == p.memory.largest_batch);
  CHECK(p.batch < 400);
  const double life = p.ttft.value + 999 * p.tpot.value;
  CHECK(p.output_tokens_per_second / 1000 * life == Approx(400.0).epsilon(0.01));
}

TEST_CASE("more clients: more tokens of all, fewer of each") {
  double all = 0, each = INFINITY;
  for (const std::int64_t clients : {1, 2, 4, 8, 16, 32, 64, 128}) {
    const ServePrediction p = predict("llama-3.1-8b", "h100-sxm-80gb", {.tensor = 2}, {1024, 256, clients, {}, {}});
    CHECK(p.output_tokens_per_second > all);
    CHECK(p.tokens_per_second_per_user < each);
    all = p.output_tokens_per_second;
    each = p.tokens_per_second_per_user;
  }
}

TEST_CASE("a client keeps one of eight copies busy, the others idle") {
  const ServeWorkload w{1024, 256, 1, {}, {}};
  const ServePrediction one = predict("llama-3.1-8b", "h100-sxm-80gb", {}, w);
  const ServePrediction eight = predict("llama-3.1-8b", "h100-sxm-80gb", {.replicas = 8}, w);
  CHECK(eight.output_tokens_per_second == Approx(one.output_tokens_per_second));
  CHECK(eight.output_tokens_per_second_per_gpu == Approx(one.output_tokens_per_second / 8));
}

TEST_CASE("copies of a model share the clients out") {
  const ServeWorkload w{1024, 256, 64, {}, {}}, half{1024, 256, 32, {}, {}};
  const ServePrediction two = predict("llama-3.1-8b", "h100-sxm-80gb", {.replicas = 2}, w);
  const ServePrediction one = predict("llama-3.1-8b", "h100-sxm-80gb", {}, half);
  CHECK(two.tpot == one.tpot);
  CHECK(two.output_tokens_per_second == Approx(2 * one.output_tokens_per_second));
  CHECK(two.output_tokens_per_second_per_gpu == Approx(one.output_tokens_per_second_per_gpu));
}

TEST_CASE("proposed tokens are gained as often as they are right") {
  CHECK(Speculation{}.gained() == 1);
  CHECK(Speculation{1, 0.85}.gained() == Approx(1.85));
  CHECK(Speculation{2, 0.5}.gained() == Approx(1.75));
  // DeepSeek-V3 report, 5.4.3: accepted 85 to 90 % of the time, 1.8 times the tokens a second.
  const ServeFormats fp8{WeightFormat::fp8_block, WeightFormat::fp8_block, KvFormat::bf16};
  const ServeLayout layout{.tensor = 8, .expert = 8};
  const ServePrediction plain = predict("deepseek-v3", "h200-sxm-141gb", layout, {1024, 1024, 4, fp8, {}}, "ideal");
  const ServePrediction mtp =
      predict("deepseek-v3", "h200-sxm-141gb", layout, {1024, 1024, 4, fp8, {1, 0.875}}, "ideal");
  const double faster = plain.tpot / mtp.tpot;
  CHECK(faster > 1.2);
  CHECK(faster < 1.875);
  CHECK(mtp.memory.weights > plain.memory.weights);
}

TEST_CASE("intervals hold what they are of") {
  const ServePrediction p = predict("llama-3.1-8b", "h100-sxm-80gb", {}, {1024, 256, 16, {}, {}});
  CHECK(p.ttft_low < p.ttft);
  CHECK(p.ttft < p.ttft_high);
  CHECK(p.tpot_low < p.tpot);
  CHECK(p.tpot < p.tpot_high);
  CHECK(p.output_low < p.output_tokens_per_second);
  CHECK(p.output_tokens_per_second < p.output_high);
}

/// The most that 8 H800 generate while nobody prefills, of sequences with `context` tokens in the mean, memory full.
struct Generation {
  double tokens_per_second = 0, step = 0;
  std::int64_t sequences = 0;
};
Generation generation(const char* model, const ServeFormats& formats, const ServeLayout& layout, std::int64_t context) {
  const Machine machine = find_machine("h800-sxm-80gb");
  StepTimes times(find_model(model), machine, formats, find_serve_engine("ideal", "--engine"), layout);
  const std::int64_t length = 2 * context / 3;  // a whole prompt and half an answer are `context` tokens
  const ServeWorkload w{length, length, {}, formats, {}};
  const ServePrediction p = decoding(times, machine, w, times.memory(machine, w).largest_batch);
  return {p.output_tokens_per_second, p.decode_step.value, p.concurrency};
}

TEST_CASE("V2 generates five times what 67B does, each factor told") {
  // DeepSeek-V2 report, 3.2.3: more than 50K tokens a second on a node of 8 H800, 5.76 times what 67B does, lengths
  // unpublished. Generation and prompts are published apart, so this is decode alone. 5.0 to 5.4: short of that by 7 %.
  const ServeFormats wide{}, narrow{WeightFormat::fp8, WeightFormat::fp8, KvFormat::bf16},
      narrowest{WeightFormat::fp8, WeightFormat::fp8, KvFormat::int6};
  const ServeLayout tensor{.tensor = 8}, data{.attention_data = 8, .expert = 8};
  double fastest = 0;
  for (const std::int64_t context : {512, 1024, 2048, 4096}) {
    const Generation dense = generation("deepseek-llm-67b", wide, tensor, context);
    const Generation same = generation("deepseek-v2", wide, data, context);
    const Generation eight = generation("deepseek-v2", narrow, data, context);
    const Generation all = generation("deepseek-v2", narrowest, data, context);
    const double ratio = all.tokens_per_second / dense.tokens_per_second;
    const auto told = [](const Generation& to, const Generation& from) {
      return std::to_string(to.tokens_per_second / from.tokens_per_second) + " (batch " +
             std::to_string(static_cast<double>(to.sequences) / static_cast<double>(from.sequences)) + ", step " +
             std::to_string(from.step / to.step) + ")";
    };
    MESSAGE("context " << context << ": 67B " << dense.tokens_per_second << ", V2 " << all.tokens_per_second
                       << " tokens/s, ratio " << ratio << " = active parameters and latent " << told(same, dense)
                       << " * fp8 weights " << told(eight, same) << " * 6-bit keys " << told(all, eight));
    CHECK(ratio > 4.5);
    CHECK(ratio < 6);
    fastest = std::max(fastest, all.tokens_per_second);
  }
  CHECK(fastest > 50e3);
}

TEST_CASE("V2 reads prompts at nine tenths of the published rate or more") {
  // DeepSeek-V2 report, 3.2.3: more than 100K tokens a second. Not reached: the products of a prompt are priced as
  // benchmarks have them.
  const Machine machine = find_machine("h800-sxm-80gb");
  const ServeFormats narrow{WeightFormat::fp8, WeightFormat::fp8, KvFormat::int6};
  StepTimes times(find_model("deepseek-v2"), machine, narrow, find_serve_engine("ideal", "--engine"),
                  {.attention_data = 8, .expert = 8});
  const double rate = 8.0 * 16 * 512 / times.prefill(16, 512, 0, 0).added.value;
  MESSAGE("V2 reads " << rate << " prompt tokens/s, published more than 100,000");
  CHECK(rate > 90e3);
}

StepTimes unit_of_v3(const Machine& machine, int ranks) {
  const ServeFormats blocks{WeightFormat::fp8_block, WeightFormat::fp8_block, KvFormat::bf16};
  return {find_model("deepseek-v3"),
          machine,
          blocks,
          find_serve_engine("ideal", "--engine"),
          {.attention_data = ranks, .expert = ranks}};
}

TEST_CASE("V3's decode unit makes within a fifth of the published tokens, in two micro-batches that overlap") {
  // open-infra-index, day 6: 14.8K tokens a second of a node, 20 to 22 of a user, so 88 sequences of a GPU, 4,989
  // tokens each; two micro-batches, one computing while the other is exchanged. EP 128: 144 needs redundant experts.
  const Machine machine = find_machine("h800-sxm-80gb");
  StepTimes times = unit_of_v3(machine, 128);
  const double serial = 8 * 88 / times.decode(88, 4989, {}).time.value;
  const StepCost half = times.decode(44, 4989, {}).cost;
  const double overlapped = 8 * 88 / (2 * std::max(half.computing(), half.communicating()).value);
  MESSAGE("V3 decodes " << serial << " tokens/s of a node one after the other, " << overlapped
                        << " overlapped, published 14,800");
  CHECK(serial < overlapped);
  CHECK(overlapped == Approx(14800).epsilon(0.2));
}

TEST_CASE("V3's prefill unit reads a quarter more than published, or more where all exchange is hidden") {
  // The same source: 73.7K prompt tokens a second of a node, 56.3 % of them found in a cache, in the mean of a day of
  // changing load; a unit that never waits reads more. Not within a fifth.
  const Machine machine = find_machine("h800-sxm-80gb");
  StepTimes times = unit_of_v3(machine, 32);
  const StepTimes::Prefill p = times.prefill(4, 4096, 0, 0);
  const double tokens = 8.0 * 4 * 4096 / (1 - 0.563);
  const double serial = tokens / p.added.value;
  const double overlapped = tokens / std::max(p.cost.computing(), p.cost.communicating()).value;
  MESSAGE("V3 prefills " << serial << " tokens/s of a node one after the other, " << overlapped
                         << " overlapped, published 73,700");
  CHECK(serial > 73700);
  CHECK(serial < 1.4 * 73700);
  CHECK(overlapped > serial);
}

TEST_CASE("pools: prompts go where they are prefilled, answers where they are decoded") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const ServeFormats fp8{WeightFormat::fp8, WeightFormat::fp8, KvFormat::fp8};
  const Model model = find_model("llama-3.1-70b");
  const ServeEngine engine = find_serve_engine("vllm", "--engine");
  StepTimes prefill(model, machine, fp8, engine, {.tensor = 4, .replicas = 2});
  StepTimes decode(model, machine, fp8, engine, {.tensor = 8});
  const ServeWorkload w{4096, 256, 32, fp8, {}};
  const PoolPrediction p = disaggregated(prefill, decode, machine, w);
  // Nobody's prompt comes between the tokens of another.
  CHECK(p.all.tpot == decode.decode(p.all.batch, 4096 + 128, {}).time);
  CHECK(p.prefill_busy < 1);
  CHECK(p.transfer > Seconds{0});
  CHECK(p.all.ttft > p.transfer);
  const double life = p.all.ttft.value + 255 * p.all.tpot.value;
  CHECK(p.all.output_tokens_per_second / 256 * life == Approx(32.0).epsilon(0.1));
}

}  // namespace
}  // namespace shardwright
