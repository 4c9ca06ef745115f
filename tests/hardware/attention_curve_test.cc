#include "hardware/attention_curve.h"

#include <doctest/doctest.h>

#include <random>

#include "hardware/steady_line.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// 10 multiprocessors of 1e9 operations a second, memory out of the way.
Machine round_machine() {
  Machine machine;
  machine.multiprocessors = 10;
  machine.peak = {{DataType::bf16, FlopsPerSecond{1e10}}};
  machine.memory_bandwidth = {1e18};
  return machine;
}

/// A block of 128 queries sees a key of heads of 128: 2 x 128 x 256 operations at 1e9.
constexpr double kKey = 65.536e-6;

/// Ten heads of ten blocks each: ten waves.
AttentionSpec hundred_blocks() {
  return {.heads = 10, .kv_heads = 10, .query_length = 1280, .key_length = 1000, .causal = false};
}

double seconds(const AttentionCurve& curve, const AttentionSpec& spec) { return seconds(curve, spec, round_machine()); }

}  // namespace

TEST_CASE("attention costs its work at the peak, behind a launch") {
  AttentionCurve curve;
  CHECK(seconds(curve, hundred_blocks()) == Approx(10 * 1000 * kKey));
  curve.launch_seconds = 1;
  curve.peak_fraction = 0.5;
  CHECK(seconds(curve, hundred_blocks()) == Approx(1 + 2 * 10 * 1000 * kKey));
}

TEST_CASE("backward attention has 2.5 times the work, at a rate of its own") {
  AttentionSpec spec = hundred_blocks();
  spec.backward = true;
  Machine machine = round_machine();
  CHECK(seconds({}, spec, machine) == Approx(2.5 * 10 * 1000 * kKey));
  machine.efficiency.attention_backward_rate = 0.5;
  CHECK(seconds({}, spec, machine) == Approx(5 * 10 * 1000 * kKey));
}

TEST_CASE("blocks begin and end, and causal ones read half a block more than their queries see") {
  AttentionCurve curve;
  curve.block_keys = 1000;
  CHECK(seconds(curve, hundred_blocks()) == Approx(2 * 10 * 1000 * kKey));
  curve.block_keys = 0;
  AttentionSpec causal = hundred_blocks();
  causal.key_length = 1280;
  causal.causal = true;
  CHECK(seconds(curve, causal) == Approx(10 * (640 + 64) * kKey));
  // One wave of ten blocks ends with the last one, which reads all.
  causal.heads = causal.kv_heads = 1;
  curve.split_keys = 1e6;
  CHECK(seconds(curve, causal) == Approx(1280 * kKey));
}

TEST_CASE("few blocks leave multiprocessors idle unless their keys are cut") {
  const AttentionSpec one{.query_length = 128, .key_length = 2000, .causal = false};
  AttentionCurve curve;
  curve.split_keys = 300;
  CHECK(seconds(curve, one) == Approx((200 + 300) * kKey));
  curve.split_keys = 1e6;
  CHECK(seconds(curve, one) == Approx(2000 * kKey));
  curve.split_keys = 0;
  const AttentionSpec few{.query_length = 128, .key_length = 500, .causal = false};  // a tenth is less than 128
  CHECK(seconds(curve, few) == Approx(128 * kKey));
}

TEST_CASE("heads that share a key head share blocks") {
  // 8 heads of 16 queries are one block of 128, with keys of their own eight.
  AttentionSpec spec{.heads = 8, .kv_heads = 1, .query_length = 16, .key_length = 1000, .causal = false};
  AttentionCurve curve;
  curve.split_keys = 1e6;
  CHECK(seconds(curve, spec) == Approx(1000 * kKey));
  spec.batch = 20;
  CHECK(seconds(curve, spec) == Approx(2 * 1000 * kKey));
  spec.kv_heads = 8;
  CHECK(seconds(curve, spec) == Approx(16 * 1000 * kKey));
  curve.block_rows = 16;  // an eighth of the work each
  CHECK(seconds(curve, spec) == Approx(2 * 1000 * kKey));
}

TEST_CASE("the last wave costs a full one where waves are steps") {
  AttentionSpec spec = hundred_blocks();
  spec.heads = spec.kv_heads = 11;
  spec.query_length = 128;
  AttentionCurve curve;
  curve.split_keys = 1e6;
  CHECK(seconds(curve, spec) == Approx(1.1 * 1000 * kKey));
  curve.wave_step = 1;
  CHECK(seconds(curve, spec) == Approx(2 * 1000 * kKey));
}

TEST_CASE("narrow heads pay the softmax more often, long kernels are throttled") {
  AttentionCurve curve;
  curve.softmax_width = 256;
  AttentionSpec spec = hundred_blocks();
  CHECK(seconds(curve, spec) == Approx(10 * 1000 * kKey));  // the fraction is that of heads of 128
  spec.head_dim = spec.value_dim = 64;
  // 128 + 256 against 256 + 256.
  CHECK(seconds(curve, spec) == Approx(0.75 * 10 * 1000 * kKey));
  curve.throttle = 0.5;
  curve.throttle_seconds = 0.75 * 10 * 1000 * kKey;
  CHECK(seconds(curve, spec) == Approx(1.25 * 0.75 * 10 * 1000 * kKey));
}

TEST_CASE("a window is read with its edges") {
  AttentionSpec spec = hundred_blocks();
  spec.key_length = 1280;
  spec.causal = true;
  spec.window = 100;
  AttentionCurve curve;
  curve.window_keys = 50;
  // A query sees 100 - 100^2 / (2 x 1280) keys.
  CHECK(seconds(curve, spec) == Approx(10 * (96.09375 + 64 + 50) * kKey));
  spec.window = 1280;  // none
  CHECK(seconds(curve, spec) == Approx(10 * (640 + 64) * kKey));
}

TEST_CASE("keys that are stored narrower are unpacked") {
  AttentionCurve curve;
  curve.narrow_keys = 1.5;
  AttentionSpec spec = hundred_blocks();
  spec.kv_type = StoredType::bf16;
  CHECK(seconds(curve, spec) == Approx(10 * 1000 * kKey));
  spec.kv_type = StoredType::fp8;
  CHECK(seconds(curve, spec) == Approx(1.5 * 10 * 1000 * kKey));
}

TEST_CASE("of narrow attention the products alone are faster") {
  Machine machine = round_machine();
  machine.peak[DataType::fp8] = {2e10};
  AttentionSpec spec = hundred_blocks();
  spec.type = DataType::fp8;
  CHECK(seconds({}, spec, machine) == Approx(0.5 * 10 * 1000 * kKey));
  AttentionCurve curve;
  curve.softmax_width = 128;
  // 256 / 2 + 128 against 256 + 128; a block's ends take what they take in bf16.
  CHECK(seconds(curve, spec, machine) == Approx(2.0 / 3 * 10 * 1000 * kKey));
  curve.block_keys = 300;
  CHECK(seconds(curve, spec, machine) == Approx(10 * (1000 * 2.0 / 3 + 300) * kKey));
  // What adding up parts costs, too: one block's 2,000 keys over ten.
  AttentionSpec one{.query_length = 128, .key_length = 2000, .causal = false, .type = DataType::fp8};
  curve.block_keys = 0;
  curve.split_keys = 150;
  CHECK(seconds(curve, one, machine) == Approx((200 * 2.0 / 3 + 150) * kKey));
  // Without bf16 to compare with, exponentials run along.
  machine.peak[DataType::bf16] = {};
  CHECK(seconds(curve, one, machine) == Approx((200 + 150) * kKey / 2));
}

TEST_CASE("activations of narrow attention come in 16 bits") {
  Machine machine = round_machine();
  machine.peak[DataType::fp8] = {2e10};
  machine.memory_bandwidth = {1e6};
  const AttentionSpec decode{
      .heads = 8, .kv_heads = 2, .query_length = 1, .key_length = 1000, .causal = false, .type = DataType::fp8};
  // 8 heads x 256 x 2 bytes and 2 x 1,000 keys x 256 x 1 byte.
  CHECK(seconds({}, decode, machine) == Approx(0.516096));
  AttentionCurve storing;
  storing.store_seconds = 3;
  storing.narrow_store = 2;
  const AttentionSpec prefill{
      .batch = 2, .heads = 4, .kv_heads = 2, .query_length = 10, .key_length = 10, .type = DataType::fp8};
  // As a bf16 prefill with an fp8 cache: 20,480 bytes.
  CHECK(seconds(storing, prefill, machine) - seconds({}, prefill, machine) == Approx(6 * 20'480 / 1e6));
}

TEST_CASE("attention of one query costs reading its keys and values") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {2e6};
  AttentionCurve curve;
  curve.memory_fraction = 0.5;
  // bf16: 2 bytes x (8 heads + 2 x 1,000 keys) x 256 = 1,028,096 bytes at 1e6.
  AttentionSpec spec{.heads = 8, .kv_heads = 2, .query_length = 1, .key_length = 1000, .causal = false};
  CHECK(seconds(curve, spec, machine) == Approx(1.028096));
  spec.window = 500;
  CHECK(seconds(curve, spec, machine) == Approx(0.516096));
  spec.kv_type = StoredType::fp8;
  CHECK(seconds(curve, spec, machine) == Approx(0.260096));
}

TEST_CASE("values that lie in the keys are read with them, and sparse attention reads what it selects") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {1e6};
  AttentionSpec spec{.heads = 8,
                     .kv_heads = 1,
                     .query_length = 1,
                     .key_length = 1000,
                     .head_dim = 100,
                     .value_dim = 60,
                     .causal = false};
  // bf16: 2 bytes x (8 queries x 160 + 1,000 keys x 160), or keys x 100.
  CHECK(seconds({}, spec, machine) == Approx(0.32256));
  spec.values_in_keys = true;
  CHECK(seconds({}, spec, machine) == Approx(0.20256));
  AttentionSpec sparse{.query_length = 2, .key_length = 0, .causal = false, .selected = 50};
  const AttentionSpec dense{.query_length = 2, .key_length = 100, .causal = false};
  CHECK(seconds({}, sparse, machine) == seconds({}, dense, machine));
  sparse.key_length = 100;
  sparse.selected = 1000;  // more than there are
  CHECK(seconds({}, sparse, machine) == seconds({}, dense, machine));
}

TEST_CASE("prefill puts its keys in a cache, backward has none") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {1e6};
  AttentionCurve plain, storing;
  storing.store_seconds = 3;
  storing.narrow_store = 2;
  AttentionSpec spec{.batch = 2, .heads = 4, .kv_heads = 2, .query_length = 10, .key_length = 10};
  // 2 x 2 x 10 keys and values of 256 elements of 2 bytes.
  CHECK(seconds(storing, spec, machine) - seconds(plain, spec, machine) == Approx(3 * 20'480 / 1e6));
  spec.kv_type = StoredType::fp8;
  CHECK(seconds(storing, spec, machine) - seconds(plain, spec, machine) == Approx(6 * 20'480 / 1e6));
  spec.backward = true;
  CHECK(seconds(storing, spec, machine) == seconds(plain, spec, machine));
}

TEST_CASE("kinds of attention have names, and are told apart by what is asked") {
  CHECK(name_of(kind_of({.query_length = 128, .key_length = 128})) == "prefill");
  CHECK(name_of(kind_of({.query_length = 1, .key_length = 128, .causal = false})) == "decode");
  CHECK(name_of(kind_of(expanded_mla(8))) == "latent_prefill");
  CHECK(name_of(kind_of(absorbed_mla(8))) == "latent_decode");
}

TEST_CASE("parts of attention never beat the whole's steady time, and more of it takes no less") {
  std::mt19937 random(5);
  const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
  Machine machine = round_machine();
  machine.memory_bandwidth = {1e9};
  machine.efficiency.attention_backward_rate = 0.8;
  for (int i = 0; i < 3000; ++i) {
    AttentionCurve curve;
    for (const Coefficient<AttentionCurve>& c : coefficients<AttentionCurve>())
      curve.*c.value = c.least + (c.most - c.least) * static_cast<double>(random() % 1001) / 1000;
    curve.block_rows = random() % 2 ? 64 : 256;
    const std::int64_t kv_heads = size(8);
    AttentionSpec part{.batch = size(4),
                       .heads = kv_heads * size(8),
                       .kv_heads = kv_heads,
                       .query_length = size(4096),
                       .key_length = size(4096),
                       .window = random() % 3 ? 0 : size(3000)};
    part.causal = random() % 2;
    part.backward = random() % 2;
    if (random() % 2) part.kv_type = StoredType::fp8;
    const std::int64_t parts = size(64);
    const double whole_part = seconds(curve, part, machine);
    const double busy = whole_part - steady_line(curve).launch;
    const auto check = [&](const AttentionSpec& whole) {
      CHECK(steady_seconds(curve, whole, machine) <= static_cast<double>(parts) * busy * (1 + 1e-9));
      CHECK(seconds(curve, whole, machine) >= whole_part * (1 - 1e-9));
    };
    AttentionSpec more = part;
    more.batch *= parts;
    check(more);
    more = part;
    more.heads *= parts;
    more.kv_heads *= parts;
    check(more);
    more = part;
    more.query_length *= parts;
    check(more);
    more = part;
    more.key_length *= parts;  // a window sees no more than it does of a part
    if (more.window == 0) check(more);
  }
}
