#include "planner/serve/serve_memory.h"

#include <doctest/doctest.h>

#include <array>
#include <vector>

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

/// One row of a published grid: of each sequence length, 256 to 4096, the peak in GiB, or nothing where memory ran out.
struct GridRow {
  std::int64_t batch;
  std::array<double, 5> gib;  // 0: out of memory
};

/// Eager attention on top of weights, keys and values: scores of `heads` heads, logits of every token, and `others`.
struct Eager {
  double heads, bytes_of_score, bytes_of_logit, others_gib;
};

double peak_gib(const Served& served, const Eager& eager, double batch, double sequence) {
  constexpr double kGiB = 1 << 30;
  const double each = static_cast<double>(served.kv_per_token()) * sequence +
                      eager.heads * eager.bytes_of_score * sequence * sequence +
                      eager.bytes_of_logit * static_cast<double>(served.model.vocab_size) * sequence;
  return (static_cast<double>(served.memory().weights.value) + batch * each) / kGiB + eager.others_gib;
}

void check_grid(const Served& served, const Eager& eager, const std::vector<GridRow>& grid) {
  const double usable = static_cast<double>(served.machine.usable_memory().value) / (1 << 30);
  for (const GridRow& row : grid)
    for (std::size_t i = 0; i < row.gib.size(); ++i) {
      const double gib = peak_gib(served, eager, static_cast<double>(row.batch), static_cast<double>(256 << i));
      CAPTURE(row.batch);
      CAPTURE(256 << i);
      CAPTURE(gib);
      CHECK((gib <= usable) == (row.gib[i] > 0));
      if (row.gib[i] > 0) CHECK(gib == doctest::Approx(row.gib[i]).epsilon(0.13));
    }
}

TEST_CASE("of DeepSeek LLM's grids on A100 of 40 GB what ran fits, and what ran out of memory does not") {
  // README of DeepSeek LLM, "GPU memory usage", in GiB. The engine is not stated; memory grows with the square of the
  // sequence: scores in 16 bits and again in fp32 (6 bytes) of 7B's heads, and 16 bytes of all 64 heads of 67B on each
  // of its eight GPUs; logits in 16 bits and fp32, of 67B an eighth.
  const Machine machine = find_machine("a100-sxm-40gb");
  check_grid({find_model("deepseek-llm-7b"), machine}, {32, 6, 6, 0.4},
             {{1, {13.29, 13.63, 14.47, 16.37, 21.25}},
              {2, {13.63, 14.39, 15.98, 19.82, 29.59}},
              {4, {14.47, 15.82, 19.04, 26.65, 0}},
              {8, {15.99, 18.71, 25.14, 35.19, 0}},
              {16, {19.06, 24.52, 37.28, 0, 0}}});
  check_grid({find_model("deepseek-llm-67b"), machine, {.tensor = 8}}, {64, 16, 6.0 / 8, 1.2},
             {{1, {16.92, 17.11, 17.66, 20.01, 33.23}},
              {2, {17.04, 17.28, 18.55, 25.27, 0}},
              {4, {17.20, 17.80, 21.28, 33.71, 0}},
              {8, {17.59, 19.25, 25.69, 0, 0}},
              {16, {18.17, 21.69, 34.54, 0, 0}}});
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
