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

TEST_CASE("a queue of one batch is filled, decoded to its end and empty") {
  // 8 requests of 1,000 tokens, 4,096 tokens a step: 4 prompts go in, 4 more beside the decode of those, then all of
  // the first lot end, then the second, a step later. `ideal` adds nothing of the host's.
  const Machine machine = find_machine("h100-sxm-80gb");
  ServeEngine engine = find_serve_engine("ideal", "--engine");
  engine.max_sequences = 8;
  engine.max_tokens = 4096 + 8;
  StepTimes times(find_model("llama-3.1-8b"), machine, {}, engine, {});
  ServeWorkload w{1000, 101, {}, {}, {}};
  const double endless = aggregated(times, machine, w).output_tokens_per_second;
  w.queued = 8;
  const ServePrediction p = aggregated(times, machine, w);
  const Seconds four = times.decode(4, 1050, {}).time, eight = times.decode(8, 1050, {}).time;
  const Seconds run = 8 * p.prefill_added + 2 * four + 99 * eight;
  CHECK(p.output_tokens_per_second == Approx(8 * 101 / run.value).epsilon(0.001));
  // Three waves of eight, then one of a single request: the tail costs nearly what a full wave does.
  w.queued = 24;
  const double whole = aggregated(times, machine, w).output_tokens_per_second;
  w.queued = 25;
  CHECK(aggregated(times, machine, w).output_tokens_per_second < 0.9 * whole);
  // A long queue is what never ends.
  w.queued = 8000;
  CHECK(aggregated(times, machine, w).output_tokens_per_second == Approx(endless).epsilon(0.05));
}

TEST_CASE("an engine that is sized for its load holds what fits, and a steady run's tokens a step") {
  const Machine machine = find_machine("h100-sxm-80gb");
  ServeEngine engine = find_serve_engine("tensorrt-llm-0", "--engine");
  engine.offline_size = SizedToLoad{100, 300, 2000};
  const auto sized = [&](std::int64_t isl, std::int64_t osl) {
    StepTimes times(find_model("llama-3.1-8b"), machine, {}, engine, {});
    const ServeWorkload w{isl, osl, {}, {}, {}};
    times.size_to_load(machine, w);
    CHECK(times.memory(machine, w).largest_batch == 100);
    CHECK(times.engine().max_sequences == 100);
    return times.engine().max_tokens;
  };
  CHECK(sized(500, 100) == 600);    // 100 x (1 + 500 / 100)
  CHECK(sized(100, 100) == 300);    // 200, but no fewer
  CHECK(sized(3000, 100) == 2000);  // 3,100, but no more
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
