#include "planner/serve/step_cost.h"

#include <doctest/doctest.h>

#include <map>

#include "planner/cost/exchange_cost.h"

namespace shardwright {
namespace {

using doctest::Approx;

ServeEngine engine() { return find_serve_engine("ideal", "--engine"); }
ServeEngine gathering() {
  ServeEngine e = engine();
  e.dispatcher = Dispatcher::all_gather;
  return e;
}

/// Bytes that the collectives of a layer hold, by kind and number of ranks.
std::map<std::pair<std::string, std::int64_t>, std::vector<std::int64_t>> held(StepPricer& pricer, std::size_t c,
                                                                               const Step& step) {
  std::map<std::pair<std::string, std::int64_t>, std::vector<std::int64_t>> all;
  for (const StepCollective& s : pricer.collectives(c, step))
    all[{std::string(name_of(s.spec.kind)), s.spec.group.size()}].push_back(s.spec.held.value);
  return all;
}

TEST_CASE("a dense layer over tp sums twice, tokens times hidden") {
  const Model model = find_model("llama-3.1-70b");
  StepPricer pricer(model, find_machine("h100-sxm-80gb"), {}, engine(), {.tensor = 8});
  const std::int64_t bytes = std::int64_t{64} * 8192 * 2;
  const auto decode = held(pricer, 0, {{64, 1, 1000}});
  CHECK(decode.size() == 1);
  CHECK(decode.at({"all_reduce", 8}) == std::vector<std::int64_t>{bytes, bytes});
  // Prefill of one prompt and a decode beside it: one sum over all their tokens.
  const auto mixed = held(pricer, 0, {{1, 448, 0}, {64, 1, 1000}});
  CHECK(mixed.at({"all_reduce", 8}) == std::vector<std::int64_t>{8 * bytes, 8 * bytes});
}

TEST_CASE("one rank communicates nothing") {
  StepPricer pricer(find_model("llama-3.1-8b"), find_machine("h100-sxm-80gb"), {}, engine(), {});
  CHECK(held(pricer, 0, {{64, 1, 1000}}).empty());
}

TEST_CASE("experts over the ranks of tp are summed once, with the shared ones") {
  const Model model = find_model("deepseek-v3");
  StepPricer pricer(model, find_machine("h200-sxm-141gb"), {}, engine(), {.tensor = 8, .expert = 8});
  const std::int64_t bytes = std::int64_t{32} * 7168 * 2;
  const auto all = held(pricer, 1, {{32, 1, 4000}});
  CHECK(all.at({"all_reduce", 8}) == std::vector<std::int64_t>{bytes, bytes});
  CHECK(all.size() == 1);
}

TEST_CASE("ranks with tokens of their own gather them for their experts and scatter the sums") {
  const Model model = find_model("deepseek-v3");
  StepPricer pricer(model, find_machine("h200-sxm-141gb"), {}, gathering(), {.attention_data = 8, .expert = 8});
  const std::int64_t bytes = std::int64_t{8} * 32 * 7168 * 2;  // of all ranks' tokens
  const auto all = held(pricer, 1, {{32, 1, 4000}});
  CHECK(all.at({"all_gather", 8}) == std::vector<std::int64_t>{bytes});
  CHECK(all.at({"reduce_scatter", 8}) == std::vector<std::int64_t>{bytes});
  CHECK(all.size() == 2);
  // The same where experts are cut instead of dealt out.
  StepPricer cut(model, find_machine("h200-sxm-141gb"), {}, gathering(), {.attention_data = 8, .expert_tensor = 8});
  CHECK(held(cut, 1, {{32, 1, 4000}}) == all);
}

TEST_CASE("the all-to-all of a decode layer is the paper's 120.96 us, and 14.76 ms of 61 layers twice") {
  // DeepSeek, ISCA 25, 2.3.2: 32 tokens, each sent to 9 experts, about 7K wide, one byte there and two back, 50 GB/s.
  MoeExchangeSpec there{.op = MoeExchangeOp::dispatch, .mode = MoeExchangeMode::low_latency};
  there.tokens = 32;
  there.hidden_size = 7000;
  there.num_experts_per_tok = 9;
  there.group.add(320, 1);
  there.n_routed_experts = 320;
  there.type = StoredType::fp8;
  MoeExchangeSpec back = there;
  back.op = MoeExchangeOp::combine;
  back.type = StoredType::bf16;
  const std::int64_t alone = 1;  // a GPU a node: all of it crosses the network
  const double scales = 1 + 4.0 / 128, elsewhere = 319.0 / 320;
  const double bytes = exchange_bytes(there, alone).outside / scales + exchange_bytes(back, alone).outside;
  const double seconds = bytes / elsewhere / 50e9;
  CHECK(seconds == Approx(120.96e-6).epsilon(1e-6));
  CHECK(2 * 61 * seconds == Approx(14.76e-3).epsilon(1e-3));
  CHECK(bytes / elsewhere / 900e9 == Approx(6.72e-6).epsilon(1e-6));
}

TEST_CASE("a step is products, attention and what moves memory, each once a fused kernel") {
  const Model model = find_model("llama-3.1-8b");
  StepPricer pricer(model, find_machine("h100-sxm-80gb"), {}, engine(), {});
  const StepCost cost = pricer.stages({{16, 1, 1000}}).front();
  // A layer: norm and sum, qkv, rotation, attention, output, norm and sum, gate and up, activation, down. Besides the
  // embedding, the last norm and the output table, and sampling.
  CHECK(cost.kernels == 32 * 9 + 1 + 2 + 1);
  CHECK(cost.communicating() == Seconds{0});
  // Weights of 8.03 B parameters but for the embedding are read once: 15 GB at 3.35 TB/s.
  CHECK(cost.products.value > 2 * 7.5e9 / 3.35e12);
  CHECK(cost.products.value < 2 * 2 * 7.5e9 / 3.35e12);
}

TEST_CASE("latent attention is absorbed in decode and expanded in prefill") {
  const Model model = find_model("deepseek-v2-lite");
  StepPricer pricer(model, find_machine("h100-sxm-80gb"), {}, engine(), {});
  const auto time = [&](const Step& step) { return pricer.stages(step).front().attention; };
  // Decode reads the latent, 576 numbers a token, not 16 heads of 320: less than the keys and values of those.
  const double whole = 27.0 * 64 * 30000 * 16 * 320 * 2 / 3.35e12, latent = 27.0 * 64 * 30000 * 576 * 2 / 3.35e12;
  CHECK(time({{64, 1, 30000}}).value > latent);
  CHECK(time({{64, 1, 30000}}).value < whole);
}

TEST_CASE("stages share layers out, and the last one has the head") {
  const Model model = find_model("llama-3.1-8b");
  StepPricer pricer(model, find_machine("h100-sxm-80gb"), {}, engine(), {.pipeline = 3});
  CHECK(pricer.layers_per_stage() == std::vector<int>{11, 11, 10});
  const auto stages = pricer.stages({{16, 1, 1000}});
  CHECK(stages.size() == 3);
  CHECK(stages[1].kernels == 11 * 9);
  CHECK(pricer.handover({{16, 1, 1000}}) > Seconds{0});
  const auto weights = pricer.weights();
  // Embedding and table: 128256 x 4096 x 2 bytes each.
  CHECK(weights[0].value - weights[1].value == std::int64_t{128256} * 4096 * 2);
}

TEST_CASE("a step never gets shorter with more sequences, longer contexts or wider weights") {
  const Model model = find_model("mixtral-8x7b");
  const Machine machine = find_machine("h100-sxm-80gb");
  const auto time = [&](const ServeFormats& formats, const Step& step) {
    StepPricer pricer(model, machine, formats, engine(), {.tensor = 2, .expert_tensor = 2});
    const StepCost cost = pricer.stages(step).front();
    return (cost.computing() + cost.communicating()).value;
  };
  double before = 0;
  for (const std::int64_t n : {1, 4, 16, 64, 256, 1024}) {
    const double now = time({}, {{n, 1, 1000}});
    CHECK(now >= before);
    before = now;
  }
  CHECK(time({}, {{64, 1, 8000}}) > time({}, {{64, 1, 1000}}));
  const ServeFormats narrow{WeightFormat::fp8, WeightFormat::fp8, KvFormat::bf16};
  CHECK(time(narrow, {{4, 1, 1000}}) < time({}, {{4, 1, 1000}}));
}

TEST_CASE("clocks of long runs slow products that compute, and hardly those that wait for weights") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const double longer = machine.sustained.product[DataType::bf16];
  REQUIRE(longer > 1.1);
  const auto slower = [&](const Step& step) {
    StepPricer clients(find_model("llama-3.1-8b"), machine, {}, engine(), {});
    StepPricer gpus(find_model("llama-3.1-8b"), machine, {}, engine(), {}, Pace::of_gpus);
    const StepCost a = clients.stages(step).front(), b = gpus.stages(step).front();
    CHECK(a.memory == b.memory);
    return b.products / a.products;
  };
  const double prefill = slower({{4, 2048, 0}}), decode = slower({{1, 1, 1024}});
  CHECK(prefill <= longer);
  CHECK(prefill > 1 + 0.7 * (longer - 1));
  CHECK(decode >= 1);
  CHECK(decode < 1 + 0.3 * (longer - 1));
}

TEST_CASE("keys in fp8 are multiplied as they are only by engines that do so, with weights in fp8") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const auto attention = [&](bool narrow, WeightFormat weights, KvFormat kv) {
    ServeEngine e = engine();
    e.narrow_attention = narrow;
    StepPricer pricer(find_model("llama-3.1-8b"), machine, {weights, weights, kv}, e, {});
    return pricer.stages({{256, 1, 1024}}).front().attention;
  };
  CHECK(attention(true, WeightFormat::fp8, KvFormat::fp8) < 0.9 * attention(false, WeightFormat::fp8, KvFormat::fp8));
  CHECK(attention(true, WeightFormat::bf16, KvFormat::fp8) == attention(false, WeightFormat::bf16, KvFormat::fp8));
  CHECK(attention(true, WeightFormat::fp8, KvFormat::bf16) == attention(false, WeightFormat::fp8, KvFormat::bf16));
}

TEST_CASE("what comes before a product writes fp8 itself where the engine fuses casts") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const auto products = [&](bool fuses, WeightFormat weights) {
    ServeEngine e = engine();
    e.fuses_casts = fuses;
    StepPricer pricer(find_model("llama-3.1-8b"), machine, {weights, weights, KvFormat::bf16}, e, {});
    return pricer.stages({{4, 2048, 0}}).front().products;
  };
  CHECK(products(true, WeightFormat::fp8) < products(false, WeightFormat::fp8));
  CHECK(products(true, WeightFormat::bf16) == products(false, WeightFormat::bf16));
}

}  // namespace
}  // namespace shardwright
