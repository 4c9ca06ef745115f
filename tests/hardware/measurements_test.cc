#include "hardware/measurements.h"

#include <doctest/doctest.h>

#include <random>

using namespace shardwright;

namespace {

/// 10 multiprocessors of 1e9 operations a second, all curves flat, memory out of the way.
Machine round_machine() {
  Machine machine;
  machine.multiprocessors = 10;
  machine.peak = {{DataType::bf16, FlopsPerSecond{10e9}}};
  machine.memory_bandwidth = {1e18};
  machine.efficiency.gemm_peak_fraction[DataType::bf16] = 1;
  machine.efficiency.gemm_tile_m = 8;
  machine.efficiency.gemm_tile_n = 8;
  machine.efficiency.attention_forward_fraction = 1;
  machine.efficiency.attention_backward_fraction = 0.5;
  machine.efficiency.memory_fraction = 0.5;
  machine.efficiency.kernel_latency = {1};
  machine.efficiency.relative_error = 0.1;
  return machine;
}

double seconds(const GemmSpec& spec, const Machine& machine) { return look_up(spec, machine).time.value; }
double seconds(const AttentionSpec& spec, const Machine& machine) { return look_up(spec, machine).time.value; }

}  // namespace

TEST_CASE("sources have the names of reports") {
  CHECK(name_of(CostSource::measured) == "measured");
  CHECK(name_of(CostSource::interpolated) == "interpolated");
  CHECK(name_of(CostSource::extrapolated) == "extrapolated");
  CHECK(name_of(CostSource::datasheet) == "datasheet");
}

TEST_CASE("a memory kernel costs its launch and its traffic at the achieved rate") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {100};
  const KernelCost cost = look_up(MemorySpec{Bytes{1000}}, machine);
  CHECK(cost.time.value == 1 + 1000 / 50.0);
  CHECK(cost.source == CostSource::datasheet);
  CHECK(cost.relative_error == 0.1);
}

TEST_CASE("a GEMM that fills whole waves runs at the peak") {
  // 80 x 80 is 100 tiles of 8 x 8, ten waves. 2 * 80 * 80 * 1000 = 12.8e6 operations at 10e9 a second.
  CHECK(seconds(GemmSpec{.m = 80, .n = 80, .k = 1000}, round_machine()) ==
        doctest::Approx(1 + 12.8e6 / 10e9).epsilon(1e-9));
}

TEST_CASE("the last wave costs a full one where waves are steps") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.efficiency.gemm_half_tile_rate = 0.1;  // whole tiles only
  // 11 tiles of 8 x 8 on 10 multiprocessors: two waves of 2 * 64 * 1000 operations at 1e9.
  const GemmSpec eleven{.m = 88, .n = 8, .k = 1000};
  CHECK(seconds(eleven, machine) == doctest::Approx(2 * 128e-6));
  machine.efficiency.gemm_wave_step = 0;
  CHECK(seconds(eleven, machine) == doctest::Approx(1.1 * 128e-6));
  machine.efficiency.gemm_wave_step = 0.5;
  CHECK(seconds(eleven, machine) == doctest::Approx(1.55 * 128e-6));
}

TEST_CASE("smaller tiles are taken where they fill the machine better") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.efficiency.gemm_half_tile_rate = 0.8;
  // 6 whole tiles: one wave of 128 us. 12 tiles of 8 x 4: two waves of 64 us / 0.8 = 160 us. 24 of 4 x 4: three of
  // 32 us / 0.64 = 150 us. So the whole tile wins.
  CHECK(seconds(GemmSpec{.m = 48, .n = 8, .k = 1000}, machine) == doctest::Approx(128e-6));
  // 5 whole tiles: still 128 us. 10 of 8 x 4: one wave of 80 us.
  CHECK(seconds(GemmSpec{.m = 40, .n = 8, .k = 1000}, machine) == doctest::Approx(80e-6));
}

TEST_CASE("a short inner loop runs below its final rate") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.efficiency.gemm_k_half = 500;
  CHECK(seconds(GemmSpec{.m = 80, .n = 80, .k = 500}, machine) == doctest::Approx(2 * 6.4e6 / 10e9));
}

TEST_CASE("few tiles split a long loop over idle multiprocessors") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.efficiency.gemm_half_tile_rate = 0.1;
  machine.efficiency.gemm_k_half = 100;
  // One tile, k 10,000 in ten parts of 1,000, and two prologues of 100: 128 * 1,200 operations at 1e9.
  CHECK(seconds(GemmSpec{.m = 8, .n = 8, .k = 10'000}, machine) == doctest::Approx(128.0 * 1200 / 1e9));
  // k 1,024 allows only four parts of 256.
  CHECK(seconds(GemmSpec{.m = 8, .n = 8, .k = 1024}, machine) == doctest::Approx(128.0 * 456 / 1e9));
}

TEST_CASE("a batch of GEMMs shares its waves") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  CHECK(seconds(GemmSpec{.m = 8, .n = 8, .k = 1000, .batch = 100}, machine) == doctest::Approx(10 * 128e-6));
}

TEST_CASE("a narrow GEMM costs its traffic") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.memory_bandwidth = {2e6};  // 1e6 achieved
  // 2 bytes * (1 * 1000 + 1000 * 1000 + 1 * 1000) = 2,004,000.
  CHECK(seconds(GemmSpec{.m = 1, .n = 1000, .k = 1000}, machine) == doctest::Approx(2.004));
  // fp8 inputs are half as wide, the output is not: 1,001,000 + 2,000.
  machine.peak[DataType::fp8] = {20e9};
  machine.efficiency.gemm_peak_fraction[DataType::fp8] = 1;
  CHECK(seconds(GemmSpec{.m = 1, .n = 1000, .k = 1000, .type = DataType::fp8}, machine) == doctest::Approx(1.003));
}

TEST_CASE("a kernel without elements costs its launch") {
  CHECK(seconds(GemmSpec{.m = 0, .n = 8, .k = 8}, round_machine()) == 1);
  CHECK(seconds(AttentionSpec{.query_length = 0, .key_length = 100}, round_machine()) == 1);
  CHECK(seconds(AttentionSpec{.query_length = 1, .key_length = 0}, round_machine()) == 1);
}

TEST_CASE("attention costs its work at the rate of its length") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  // 10 heads of 1,280 queries are 100 blocks. 10 * 1,280 * 1,000 pairs * 2 * 256 = 6.5536e9 operations at 10e9.
  AttentionSpec spec{.heads = 10, .kv_heads = 10, .query_length = 1280, .key_length = 1000, .causal = false};
  CHECK(seconds(spec, machine) == doctest::Approx(0.65536));
  machine.efficiency.attention_keys_half = 1000;  // half the rate at 1,000 keys
  CHECK(seconds(spec, machine) == doctest::Approx(1.31072));
  machine.efficiency.attention_keys_half = 0;
  spec.backward = true;  // 2.5 times the work at half the rate
  CHECK(seconds(spec, machine) == doctest::Approx(5 * 0.65536));
}

TEST_CASE("attention with few blocks leaves multiprocessors idle") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  // One head of 128 queries is one block: a tenth of the machine. 128 * 1,000 * 512 operations at 1e9.
  const AttentionSpec spec{.query_length = 128, .key_length = 1000, .causal = false};
  CHECK(seconds(spec, machine) == doctest::Approx(0.065536));
}

TEST_CASE("narrow heads pay the softmax more often") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  AttentionSpec spec{.heads = 10, .kv_heads = 10, .query_length = 1280, .key_length = 1000, .causal = false};
  machine.efficiency.attention_softmax_width = 256;
  CHECK(seconds(spec, machine) == doctest::Approx(0.65536));  // the fraction is that of heads of 128
  spec.head_dim = spec.value_dim = 64;
  // Half the work; width 128 of 384 against 256 of 512: a rate of 2/3.
  CHECK(seconds(spec, machine) == doctest::Approx(0.32768 * 1.5));
}

TEST_CASE("attention of one query costs reading its keys and values") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.memory_bandwidth = {2e6};
  // bf16: 2 bytes * (8 heads + 2 * 1,000 keys) * 256 = 1,028,096 bytes at 1e6.
  AttentionSpec spec{.heads = 8, .kv_heads = 2, .query_length = 1, .key_length = 1000, .causal = false};
  CHECK(seconds(spec, machine) == doctest::Approx(1.028096));
}

TEST_CASE("values that lie in the keys are read with them") {
  Machine machine = round_machine();
  machine.efficiency.kernel_latency = {0};
  machine.memory_bandwidth = {2e6};
  AttentionSpec spec{.heads = 8,
                     .kv_heads = 1,
                     .query_length = 1,
                     .key_length = 1000,
                     .head_dim = 100,
                     .value_dim = 60,
                     .causal = false};
  // bf16: 2 bytes * (8 queries * 160 + 1,000 keys * 160) at 1e6, or keys * 100.
  CHECK(seconds(spec, machine) == doctest::Approx(0.32256));
  spec.values_in_keys = true;
  CHECK(seconds(spec, machine) == doctest::Approx(0.20256));
}

TEST_CASE("sparse attention reads the keys that it selects") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {1000};
  machine.efficiency.kernel_latency = {0};
  AttentionSpec sparse{.query_length = 2, .key_length = 0, .causal = false, .selected = 50};
  const AttentionSpec dense{.query_length = 2, .key_length = 100, .causal = false};
  CHECK(seconds(sparse, machine) == seconds(dense, machine));
  sparse.key_length = 100'000;
  CHECK(seconds(sparse, machine) == seconds(dense, machine));
  sparse.key_length = 100;
  sparse.selected = 1000;  // more than there are
  CHECK(seconds(sparse, machine) == seconds(dense, machine));
}

TEST_CASE("the catalog's curves stay near published kernel times") {
  // FlashAttention-2 and cuBLAS class numbers; the tables and their spread stand in hardware/README.md.
  const Machine h100 = find_machine("h100-sxm-80gb");
  const auto gemm_rate = [&](std::int64_t size) {
    const GemmSpec spec{.m = size, .n = size, .k = size};
    return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) /
           seconds(spec, h100);
  };
  CHECK(gemm_rate(8192) > 0.70 * 989.4e12);
  CHECK(gemm_rate(8192) < 0.90 * 989.4e12);
  CHECK(gemm_rate(256) < 0.10 * 989.4e12);
  CHECK(gemm_rate(1024) < gemm_rate(4096));
}

TEST_CASE("the steady time of a kernel leaves out its launch, unfilled tiles and waves, and idle multiprocessors") {
  Machine machine = round_machine();
  machine.efficiency.gemm_k_half = 100;
  // 11 x 7 x (900 + 100) multiply-adds at 10e9 operations a second, though a tile has 8 x 8.
  CHECK(steady_time(GemmSpec{.m = 11, .n = 7, .k = 900}, machine).value == doctest::Approx(2 * 77e3 / 10e9));
  machine.efficiency.gemm_half_tile_rate = 1.5;  // the smallest tile is the best: 3 halvings
  CHECK(steady_time(GemmSpec{.m = 11, .n = 7, .k = 900}, machine).value == doctest::Approx(2 * 77e3 / 33.75e9));
  CHECK(steady_time(GemmSpec{.m = 0, .n = 7, .k = 900}, machine).value == 0);
  // Two blocks of 128 queries leave 8 of 10 idle: a fifth of the time where they do not.
  const AttentionSpec spec{.heads = 2, .kv_heads = 2, .query_length = 128, .key_length = 1000, .causal = false};
  CHECK(steady_time(spec, machine).value == doctest::Approx((seconds(spec, machine) - 1) / 5));
  CHECK(steady_time(MemorySpec{Bytes{1000}}, machine).value == doctest::Approx(1000 / 0.5e18));
}

TEST_CASE("products and attention take longer in a long run, memory passes do not") {
  const Machine by_itself = find_machine("h100-sxm-80gb");
  Machine machine = by_itself;
  machine.sustained.product[DataType::bf16] = 1.25;
  machine.sustained.attention_backward = 2;
  const auto slower = [&](const auto& spec) { return look_up(spec, machine).time / look_up(spec, by_itself).time; };
  const auto steady = [&](const auto& spec) { return steady_time(spec, machine) / steady_time(spec, by_itself); };
  GemmSpec gemm{.m = 512, .n = 512, .k = 512};
  AttentionSpec attention{.heads = 8, .kv_heads = 8, .query_length = 1024, .key_length = 1024};
  CHECK(slower(gemm) == doctest::Approx(1.25));
  CHECK(steady(gemm) == doctest::Approx(1.25));
  CHECK(slower(attention) == doctest::Approx(1.25));
  attention.backward = true;
  CHECK(slower(attention) == doctest::Approx(2.5));
  CHECK(steady(attention) == doctest::Approx(2.5));
  gemm.type = DataType::fp8;
  CHECK(slower(gemm) == 1);
  CHECK(slower(MemorySpec{1_MiB}) == 1);
}

TEST_CASE("parts of a kernel never beat the steady time of the whole") {
  std::mt19937 random(1);
  for (const std::string& name : machine_names()) {
    CAPTURE(name);
    const Machine machine = find_machine(name);
    if (!supports(machine, DataType::bf16)) continue;
    const double launch = look_up(MemorySpec{}, machine).time.value;
    const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
    for (int i = 0; i < 300; ++i) {
      const std::int64_t parts = size(64);
      const auto together = [&](double one) { return static_cast<double>(parts) * (one - launch) * (1 + 1e-9); };
      const GemmSpec gemm{.m = size(3000), .n = size(3000), .k = size(20000), .batch = size(9)};
      for (std::int64_t GemmSpec::*parted : {&GemmSpec::m, &GemmSpec::k, &GemmSpec::batch}) {
        GemmSpec whole = gemm;
        whole.*parted *= parts;
        CHECK(steady_time(whole, machine).value <= together(seconds(gemm, machine)));
      }
      AttentionSpec one{.batch = size(4), .heads = size(16), .query_length = size(4096), .key_length = size(4096)};
      one.backward = random() % 2;
      AttentionSpec all = one;
      all.batch *= parts;
      CHECK(steady_time(all, machine).value <= together(seconds(one, machine)));
    }
  }
}
