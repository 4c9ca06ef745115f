#include "hardware/measurements.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/support/flat_curves.h"

using namespace shardwright;

namespace {

/// 10 multiprocessors of 1e9 operations a second, all curves flat, memory out of the way.
Machine round_machine() {
  Machine machine;
  machine.multiprocessors = 10;
  machine.peak = {{DataType::bf16, FlopsPerSecond{10e9}}};
  machine.memory_bandwidth = {1e18};
  machine.curves = flat_curves(1);
  machine.efficiency.attention_backward_rate = 0.5;
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

TEST_CASE("groups of products take what a batch of them takes") {
  const Machine machine = round_machine();
  // 10 products of 128 x 64 x 1,000 x 2 operations at 10e9.
  const GroupedGemmSpec grouped{.groups = 10, .m_per_group = 128, .n = 64, .k = 1000};
  CHECK(look_up(grouped, machine).time.value == doctest::Approx(1 + 10 * 128 * 64 * 1000 * 2 / 10e9));
  CHECK(look_up(grouped, machine).relative_error == 0.1);
}

TEST_CASE("a kernel without elements costs its launch") {
  CHECK(seconds(GemmSpec{.m = 0, .n = 8, .k = 8}, round_machine()) == 1);
  CHECK(seconds(AttentionSpec{.query_length = 0, .key_length = 100}, round_machine()) == 1);
  CHECK(seconds(AttentionSpec{.query_length = 1, .key_length = 0}, round_machine()) == 1);
}

TEST_CASE("the catalog's curves stay near published kernel times") {
  // FlashAttention-2 and cuBLAS class numbers; the tables and their spread stand in hardware/README.md.
  Machine h100 = find_machine("h100-sxm-80gb");
  h100.sustained = {};  // a benchmark is no long run
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

TEST_CASE("the steady time of a kernel leaves out its launch") {
  Machine machine = round_machine();
  CHECK(steady_time(MemorySpec{Bytes{1000}}, machine).value == doctest::Approx(1000 / 0.5e18));
}

TEST_CASE("products and attention take longer in a long run, memory passes do not") {
  Machine by_itself = find_machine("h100-sxm-80gb");
  by_itself.sustained = {};
  Machine machine = by_itself;
  machine.sustained.product[DataType::bf16] = 1.25;
  machine.sustained.attention = 1.5;
  machine.sustained.attention_backward = 2;
  const auto slower = [&](const auto& spec) { return look_up(spec, machine).time / look_up(spec, by_itself).time; };
  const auto steady = [&](const auto& spec) { return steady_time(spec, machine) / steady_time(spec, by_itself); };
  GemmSpec gemm{.m = 512, .n = 512, .k = 512};
  AttentionSpec attention{.heads = 8, .kv_heads = 8, .query_length = 1024, .key_length = 1024};
  CHECK(slower(gemm) == doctest::Approx(1.25));
  CHECK(steady(gemm) == doctest::Approx(1.25));
  CHECK(slower(attention) == doctest::Approx(1.5));
  attention.backward = true;
  CHECK(slower(attention) == doctest::Approx(3));
  CHECK(steady(attention) == doctest::Approx(3));
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
    const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
    for (int i = 0; i < 300; ++i) {
      const std::int64_t parts = size(64);
      const auto together = [&](double one, double launch) {
        return static_cast<double>(parts) * (one - launch) * (1 + 1e-9);
      };
      const DataType type = supports(machine, DataType::fp8) && random() % 2 ? DataType::fp8 : DataType::bf16;
      const GemmSpec gemm{.m = size(3000), .n = size(3000), .k = size(20000), .batch = size(9), .type = type};
      for (std::int64_t GemmSpec::*parted : {&GemmSpec::m, &GemmSpec::n, &GemmSpec::k, &GemmSpec::batch}) {
        GemmSpec whole = gemm;
        whole.*parted *= parts;
        CHECK(steady_time(whole, machine).value <= together(seconds(gemm, machine), least_launch(gemm, machine).value));
      }
      const GroupedGemmSpec grouped{
          .groups = gemm.batch, .m_per_group = gemm.m, .n = gemm.n, .k = gemm.k, .type = type};
      CHECK(steady_time(grouped, machine) == steady_time(gemm, machine));
      AttentionSpec one{.batch = size(4), .heads = size(16), .query_length = size(4096), .key_length = size(4096)};
      one.backward = random() % 2;
      AttentionSpec all = one;
      all.batch *= parts;
      CHECK(steady_time(all, machine).value <= together(seconds(one, machine), least_launch(one, machine).value));
    }
  }
}
