#include "hardware/fit_kernels.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "tests/support/measured_machine.h"

using doctest::Approx;
using namespace shardwright;

namespace {

Machine h100() { return find_machine("h100-sxm-80gb"); }

Measurements measured_of(KernelTable table) {
  Measurements measured;
  measured.add(std::move(table));
  return measured;
}

CurveFile fit(const Machine& machine, KernelTable table) {
  return fit_kernels(machine, measured_of(std::move(table)), "a test", [](const std::string&) {});
}

/// Products of 1 to 16,384, as long as a curve says.
KernelTable gemms_of(const GemmCurve& curve, const Machine& machine, int rows) {
  std::mt19937 random(3);
  const auto size = [&](double most) {
    return static_cast<std::int64_t>(std::exp2(most * static_cast<double>(random() % 1001) / 1000));
  };
  KernelTable table(KernelFamily::gemm);
  for (int i = 0; i < rows; ++i) {
    const GemmSpec spec{.m = size(14), .n = 8 * size(11), .k = 8 * size(11)};
    table.add(to_slots(spec), {seconds(curve, products_of(spec), machine)}, "kernel", "library 1");
  }
  table.sort();
  return table;
}

}  // namespace

TEST_CASE("a fit finds the coefficients that times were made with") {
  GemmCurve curve;
  curve.launch_seconds = 4e-6;
  curve.peak_fraction = 0.7;
  curve.k_half = 300;
  curve.memory_fraction = 0.6;
  curve.join = 2;
  curve.split_k = 1000;
  const Machine machine = h100();
  const CurveFile file = fit(machine, gemms_of(curve, machine, 1500));
  REQUIRE(file.gemm.size() == 1);
  const Fitted<GemmCurve>& found = file.gemm.at("bf16");
  CHECK(found.software == "library 1, kernel");
  CHECK(found.all.rows == 1500);
  CHECK(found.all.p90 < 0.02);
  CHECK(found.curve.launch_seconds == Approx(4e-6).epsilon(0.02));
  CHECK(found.curve.peak_fraction == Approx(0.7).epsilon(0.03));
  CHECK(found.curve.memory_fraction == Approx(0.6).epsilon(0.02));
  CHECK(found.curve.row_seconds == 0);
  CHECK(found.curve.host_seconds == 0);
}

TEST_CASE("layers of experts are fitted, too, alone where that is asked for") {
  MoeCurve curve;
  curve.launch_seconds = 4e-5;
  curve.peak_fraction = 0.5;
  curve.memory_fraction = 0.8;
  curve.join = 2;
  curve.tile_rows = 20;
  const Machine machine = h100();
  KernelTable table(KernelFamily::moe_layer);
  for (std::int64_t tokens = 1; tokens <= 16'384; tokens *= 2) {
    for (const std::int64_t width : {512, 1024, 4096}) {
      for (const std::int64_t ep : {1, 2, 8}) {
        const MoeLayerSpec spec{.tokens = tokens,
                                .hidden_size = 4096,
                                .intermediate_size = width,
                                .n_routed_experts = 64,
                                .num_experts_per_tok = 8,
                                .ep = ep};
        table.add(to_slots(spec), {seconds(curve, spec, machine)}, "kernel", "library 1");
      }
    }
  }
  table.sort();
  CurveFile file;
  file.source = "before";
  file.gemm["bf16"].software = "kept";
  refit_family(KernelFamily::moe_layer, machine, measured_of(std::move(table)), file, [](const std::string&) {});
  CHECK(file.source == "before");
  CHECK(file.gemm.at("bf16").software == "kept");
  REQUIRE(file.moe_layer.size() == 1);
  const Fitted<MoeCurve>& found = file.moe_layer.at("bf16");
  CHECK(found.software == "library 1, kernel");
  CHECK(found.all.rows == 135);
  CHECK(found.all.p90 < 0.05);
  CHECK(found.curve.launch_seconds == Approx(4e-5).epsilon(0.05));
  file.gemm.clear();
  CHECK(read_curves(YamlCursor::parse(curves_yaml(file, "x"), "x")).moe_layer == file.moe_layer);
}

TEST_CASE("the same tables make the same file, and its text reads back to it") {
  GemmCurve curve;
  curve.launch_seconds = 3e-6;
  const Machine machine = h100();
  const KernelTable table = gemms_of(curve, machine, 200);
  const CurveFile file = fit(machine, table);
  CHECK(curves_yaml(file, "x") == curves_yaml(fit(machine, table), "x"));
  CHECK(read_curves(YamlCursor::parse(curves_yaml(file, "x"), "x")) == file);
}

TEST_CASE("tables of one head size say nothing of others: exponentials do") {
  const Machine machine = h100();
  KernelTable table(KernelFamily::attention);
  for (std::int64_t length = 128; length < 128 + 150 * 64; length += 64) {
    const AttentionSpec spec{.heads = 8, .kv_heads = 8, .query_length = length, .key_length = length};
    table.add(to_slots(spec), {1e-6 + 1e-12 * static_cast<double>(length * length)}, "kernel", "library 1");
  }
  table.sort();
  // 2048 multiply-adds a clock over 16 exponentials.
  CHECK(fit(machine, table).attention.at("prefill").curve.softmax_width == 128);
}

TEST_CASE("of several kernels that have rows the most frequent is fitted, of few rows none") {
  GemmCurve curve;
  curve.launch_seconds = 3e-6;
  const Machine machine = h100();
  KernelTable table = gemms_of(curve, machine, 150);
  for (std::int64_t m = 1; m < 120; ++m)
    table.add(to_slots(GemmSpec{.m = m, .n = 64, .k = 64}), {1}, "slow", "library 1");
  table.sort();
  CHECK(fit(machine, table).gemm.at("bf16").all.median < 0.05);
  CHECK(fit(machine, gemms_of(curve, machine, 99)).gemm.empty());
}
