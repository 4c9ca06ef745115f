#include "planner/serve/serve_memory.h"

#include <doctest/doctest.h>

#include "models/transformer.h"
#include "planner/serve/steady_state.h"

namespace shardwright {
namespace {

struct Served {
  Model model;
  Machine machine;
  ServeLayout layout = {};
  ServeFormats formats = {};
  std::int64_t isl = 1024, osl = 1024;
  std::string engine = "vllm";

  ServeMemory memory() const {
    const ServeEngine by = find_serve_engine(engine, "--engine");
    StepPricer pricer(model, machine, formats, by, layout);
    return serve_memory(pricer, machine, by, {isl, osl, {}, formats, {}});
  }
  /// Keys and values of a token, one rank, all stages.
  std::int64_t kv_per_token() const {
    StepPricer pricer(model, machine, formats, find_serve_engine(engine, "--engine"), layout);
    std::int64_t bytes = 0;
    for (std::size_t s = 0; s < pricer.layers_per_stage().size(); ++s) bytes += pricer.kv(s, 1 << 10).value;
    return bytes >> 10;
  }
};

ServeFormats all_of(WeightFormat weights, KvFormat kv = KvFormat::bf16) { return {weights, weights, kv}; }

ServeLayout experts_over(int tp) { return {.tensor = tp, .expert = tp}; }

TEST_CASE("keys and values of a token are those of the papers") {
  const Machine machine = find_machine("h100-sxm-80gb");
  // DeepSeek-V3 report's comparison (ISCA 25, Table 1), DeepSeek-V2 report: 6 bits make 93.3 % less than 67B's.
  CHECK(Served{find_model("deepseek-llm-67b"), machine}.kv_per_token() == 389'120);
  CHECK(Served{find_model("deepseek-v2"), machine}.kv_per_token() == 69'120);
  CHECK(Served{find_model("deepseek-v3"), machine}.kv_per_token() == 70'272);
  CHECK(Served{find_model("llama-3.1-405b"), machine}.kv_per_token() == 516'096);
  Served six{find_model("deepseek-v2"), machine};
  six.formats.kv = KvFormat::int6;
  CHECK(six.kv_per_token() == 25'920);
}

TEST_CASE("a latent is on every rank of tp, heads of keys only until there are no more of them") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const auto of = [&](const char* model, int tp) {
    return Served{find_model(model), machine, experts_over(tp)}.kv_per_token();
  };
  CHECK(of("deepseek-v2", 8) == 69'120);
  const auto dense = [&](int tp) {
    return Served{find_model("deepseek-llm-67b"), machine, {.tensor = tp}}.kv_per_token();
  };
  CHECK(dense(8) == 48'640);   // 8 heads of keys
  CHECK(dense(16) == 48'640);  // copied
}

TEST_CASE("V2 in bf16 fits eight GPUs of 80 GB and not four") {
  const Machine machine = find_machine("h800-sxm-80gb");
  Served v2{find_model("deepseek-v2"), machine, experts_over(8)};
  const ServeMemory eight = v2.memory();
  CHECK(eight.holds_weights);
  CHECK(eight.largest_batch > 0);
  // 471.5 GB over 8, what is on every rank besides.
  CHECK(static_cast<double>(eight.weights.value) == doctest::Approx(58.9e9).epsilon(0.05));
  v2.layout = experts_over(4);
  const ServeMemory four = v2.memory();
  CHECK_FALSE(four.holds_weights);
  CHECK(four.largest_batch == 0);
  CHECK(static_cast<double>(four.weights.value) == doctest::Approx(117.9e9).epsilon(0.03));
}

TEST_CASE("V3 in fp8 needs more than eight GPUs of 80 GB") {
  const Machine machine = find_machine("h800-sxm-80gb");
  Served v3{find_model("deepseek-v3"), machine, experts_over(8), all_of(WeightFormat::fp8_block)};
  CHECK_FALSE(v3.memory().holds_weights);
  v3.layout = experts_over(16);
  CHECK(v3.memory().largest_batch > 0);
  v3.layout = experts_over(8);
  v3.machine = find_machine("h200-sxm-141gb");
  CHECK(v3.memory().largest_batch > 0);
}

TEST_CASE("where no whole request fits, that is the reason") {
  // 40 GB hold the 7B and 60,000 tokens of 480 KiB at most: half of such a request, not the whole.
  const Served served{find_model("deepseek-llm-7b"), find_machine("a100-sxm-40gb"), {}, {}, 1000, 60'000};
  const ServeMemory m = served.memory();
  REQUIRE(m.holds_weights);
  CHECK(m.largest_batch == 0);
  CHECK(m.pool < m.kv_per_sequence);
  CHECK(m.reason.find("a whole request takes 27.927 GiB") != std::string::npos);
}

TEST_CASE("weights of a dense model are cut by tp, but for norms") {
  const Machine machine = find_machine("a100-sxm-40gb");
  const ServeMemory memory = Served{find_model("deepseek-llm-67b"), machine, {.tensor = 8}}.memory();
  // 67,425,001,472 parameters of 2 bytes: 15.70 GiB on each of eight.
  CHECK(static_cast<double>(memory.weights.value) / (1 << 30) == doctest::Approx(15.70).epsilon(0.002));
}

TEST_CASE("everything that ran with eager attention on 40 GB fits pages, too") {
  // DeepSeek LLM's README: the largest sequences of each batch that ran, 7B on one GPU and 67B on eight.
  struct Ran {
    std::int64_t batch, sequence;
  };
  const Machine machine = find_machine("a100-sxm-40gb");
  for (const Ran ran : {Ran{1, 4096}, {2, 4096}, {4, 2048}, {8, 2048}, {16, 1024}}) {
    const Served served{find_model("deepseek-llm-7b"), machine, {}, {}, ran.sequence - 1, 1};
    CHECK(served.memory().largest_batch >= ran.batch);
  }
  for (const Ran ran : {Ran{1, 4096}, {2, 2048}, {4, 2048}, {8, 1024}, {16, 1024}}) {
    const Served served{find_model("deepseek-llm-67b"), machine, {.tensor = 8}, {}, ran.sequence - 1, 1};
    CHECK(served.memory().largest_batch >= ran.batch);
  }
  // Neither runs on half as many GPUs, however short: 67B needs more than 40 GB on two.
  CHECK_FALSE(Served{find_model("deepseek-llm-67b"), machine, {.tensor = 2}}.memory().holds_weights);
}

TEST_CASE("one GPU starves 70B of keys") {
  const Machine machine = find_machine("h100-sxm-80gb");
  Served served{
      find_model("llama-3.1-70b"), machine, {}, all_of(WeightFormat::fp8, KvFormat::fp8), 1000, 1000, "tensorrt-llm-0"};
  const ServeMemory one = served.memory();
  served.layout.tensor = 2;
  const ServeMemory two = served.memory();
  CHECK(one.largest_batch > 0);
  CHECK(one.largest_batch < 40);
  // The second GPU's memory is almost all for keys, each of half the size: far more than twice the batch.
  CHECK(two.largest_batch > 8 * one.largest_batch);
  CHECK(one.reason.starts_with("memory: "));
}

TEST_CASE("more bits of a key never make the batch larger, nor do longer prompts") {
  const Machine machine = find_machine("h100-sxm-80gb");
  Served served{find_model("llama-3.1-8b"), machine};
  std::int64_t before = 0;
  for (const KvFormat kv : {KvFormat::bf16, KvFormat::fp8, KvFormat::int8, KvFormat::int6, KvFormat::nvfp4,
                            KvFormat::int4}) {  // from wide to narrow
    served.formats.kv = kv;
    const std::int64_t batch = served.memory().fits;
    CHECK(batch >= before);
    before = batch;
  }
  for (const std::int64_t isl : {4096, 8192, 16384, 65536}) {
    served.isl = isl;
    const std::int64_t batch = served.memory().fits;
    CHECK(batch <= before);
    before = batch;
  }
}

TEST_CASE("a window caps the keys of its layers") {
  const Machine machine = find_machine("h100-sxm-80gb");
  Served served{find_model("gpt-oss-20b"), machine};
  StepPricer pricer(served.model, machine, {}, find_serve_engine("vllm", ""), {});
  // 24 layers of 8 heads of 64, keys and values, 2 bytes: 2048 B a token and layer; half the layers see 128 tokens.
  CHECK(pricer.kv(0, 4096).value == std::int64_t{2048} * 12 * (4096 + 128));
  CHECK(pricer.kv(0, 100).value == std::int64_t{2048} * 24 * 112);  // whole pages of 16
}

}  // namespace
}  // namespace shardwright
