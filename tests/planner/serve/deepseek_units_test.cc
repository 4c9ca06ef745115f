#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "planner/serve/one_phase.h"

namespace shardwright {
namespace {

// What DeepSeek published of its own serving on H800 (V2 report, 3.2.3; V3 report, 3.4; open-infra-index, day 6).

const ServeFormats kNarrow{WeightFormat::fp8, WeightFormat::fp8, KvFormat::int6}, kWide;
const ServeFormats kBlocks{WeightFormat::fp8_block, WeightFormat::fp8_block, KvFormat::bf16};

/// Output tokens a second of a node that only decodes `sequences` of so many tokens.
double rate(const char* model, const ServeFormats& formats, const ServeLayout& layout, std::int64_t sequences,
            std::int64_t context) {
  StepTimes times(find_model(model), find_machine("h800-sxm-80gb"), formats, find_serve_engine("deepseek", "--engine"),
                  layout);
  const std::int64_t ranks = layout.attention_data * layout.replicas, each = (sequences + ranks - 1) / ranks;
  return static_cast<double>(each * ranks) / times.decode(each, context, {}).time.value;
}

/// Sequences that fit, prompt and answer alike long, at 3/2 of a prompt in the mean.
std::int64_t fitting(const char* model, const ServeFormats& formats, const ServeLayout& layout, std::int64_t context) {
  const Machine machine = find_machine("h800-sxm-80gb");
  const ServeEngine engine = find_serve_engine("deepseek", "--engine");
  StepPricer pricer(find_model(model), machine, formats, engine, layout);
  ServeWorkload w{context * 2 / 3, context * 2 / 3, {}, formats, {}};
  w.phase = ServePhase::decode;
  return serve_memory(pricer, machine, engine, w).largest_batch * layout.attention_data * layout.replicas;
}

TEST_CASE("V2 generates 5.76 times what 67B does, for contexts between 512 and 4096, and why") {
  // Published: 5.76 times 67B's maximum on a node of 8 H800, more than 50 thousand tokens a second, fp8 weights and
  // 6-bit keys; layouts, lengths and the formats of 67B are not: 16 bits, and both ways to fill the node.
  const ServeLayout spread{.attention_data = 8, .expert = 8}, tp8{.tensor = 8}, tp4{.tensor = 4, .replicas = 2};
  double least = INFINITY, most = 0, fastest = 0;
  std::string table =
      "\ncontext | 67B tp 8, tp 4 x 2 | V2 | ratios | active parameters, latent | weight bits | KV bits | batch\n";
  for (const std::int64_t context : {512, 1024, 2048, 4096}) {
    const std::int64_t held = fitting("deepseek-llm-67b", kWide, tp8, context);
    const std::int64_t own = fitting("deepseek-v2", kNarrow, spread, context);
    const double base = rate("deepseek-llm-67b", kWide, tp8, held, context);
    const double other =
        rate("deepseek-llm-67b", kWide, tp4, fitting("deepseek-llm-67b", kWide, tp4, context), context);
    // One change after the other, each at the batch of 67B but the last.
    const double wide = rate("deepseek-v2", kWide, spread, held, context);
    const double fp8 =
        rate("deepseek-v2", {WeightFormat::fp8, WeightFormat::fp8, KvFormat::bf16}, spread, held, context);
    const double kv = rate("deepseek-v2", kNarrow, spread, held, context);
    const double v2 = rate("deepseek-v2", kNarrow, spread, own, context);
    table += fmt::format(
        "{} | {:.0f}, {:.0f} | {:.0f} | {:.2f}, {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} ({} for {})\n", context,
        base, other, v2, v2 / base, v2 / other, wide / base, fp8 / wide, kv / fp8, v2 / kv, own, held);
    CHECK(own > 4 * held);  // the batch is what the latent buys
    CHECK(v2 / kv > 1.5);
    least = std::min({least, v2 / base, v2 / other});
    most = std::max({most, v2 / base, v2 / other});
    fastest = std::max(fastest, v2);
  }
  MESSAGE(table);
  CHECK(least < 5.76);
  CHECK(most > 5.76);
  CHECK(fastest > 50e3);
}

ServePrediction unit(const ServeLayout& layout, ServeWorkload w) {
  const Machine machine = find_machine("h800-sxm-80gb");
  StepTimes times(find_model("deepseek-v3"), machine, w.formats, find_serve_engine("deepseek", "--engine"), layout);
  return one_phase(times, machine, w);
}

TEST_CASE("V2 prefills more than 100 thousand tokens a second on a node") {
  const Machine machine = find_machine("h800-sxm-80gb");
  StepTimes times(find_model("deepseek-v2"), machine, kNarrow, find_serve_engine("deepseek", "--engine"),
                  {.attention_data = 8, .expert = 8});
  ServeWorkload w{1024, 1, {}, kNarrow, {}};
  w.phase = ServePhase::prefill;
  CHECK(one_phase(times, machine, w).input_tokens_per_second > 100e3);
}

// 608 and 168 billion tokens a day: 3.62 times as many in as out, so a mean of 4989 tokens behind each answer's token
// is 4384 of a prompt and half of 1211.
ServeWorkload online() { return {4384, 1211, {}, kBlocks, {}}; }

TEST_CASE("V3's prefill unit: 73.7 thousand tokens a second and node, 56.3 % of them cached") {
  ServeWorkload w = online();
  w.cached_prefix = 0.563;
  w.phase = ServePhase::prefill;
  const double paper =
      unit({.tensor = 4, .attention_data = 8, .expert = 32, .redundant = 32}, w).input_tokens_per_second / 4;
  const double day6 = unit({.attention_data = 32, .expert = 32, .redundant = 32}, w).input_tokens_per_second / 4;
  MESSAGE("a node's input tokens a second: TP4 DP8 " << paper << ", DP32 " << day6);
  CHECK(std::abs(paper / 73.7e3 - 1) < 0.2);
  // The mean of a day, with nodes that wait for prompts, is less than what the unit could.
  CHECK(day6 > 73.7e3);
}

TEST_CASE("V3's decode unit: 14.8 thousand tokens a second and node at 20 to 22 a user") {
  ServeWorkload w = online();
  w.phase = ServePhase::decode;
  const ServeLayout layout{.attention_data = 144, .expert = 144, .redundant = 32};
  w.concurrency = 144 * 96;
  const ServePrediction p = unit(layout, w);
  MESSAGE("a node's output tokens a second: " << p.output_tokens_per_second / 18 << " at "
                                              << p.tokens_per_second_per_user);
  CHECK(p.tokens_per_second_per_user > 20);
  CHECK(p.tokens_per_second_per_user < 22);
  CHECK(std::abs(p.output_tokens_per_second / 18 / 14.8e3 - 1) < 0.2);
}

}  // namespace
}  // namespace shardwright
