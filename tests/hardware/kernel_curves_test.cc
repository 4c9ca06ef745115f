#include "hardware/kernel_curves.h"

#include <doctest/doctest.h>

#include <cmath>

#include "hardware/measurements.h"
#include "tests/support/message_of.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// A curve told apart by its launch.
Fitted<GemmCurve> curve_of(double launch, double p68 = 0.1) {
  Fitted<GemmCurve> fitted;
  for (const Coefficient<GemmCurve>& c : coefficients<GemmCurve>()) fitted.curve.*c.value = c.least;
  fitted.curve.launch_seconds = launch;
  fitted.software = "library 1.0, kernel";
  fitted.all = {100, 0.05, p68, 0.2};
  return fitted;
}

Fitted<AttentionCurve> attention_of(double launch) {
  Fitted<AttentionCurve> fitted;
  for (const Coefficient<AttentionCurve>& c : coefficients<AttentionCurve>()) fitted.curve.*c.value = c.least;
  fitted.curve.launch_seconds = launch;
  fitted.software = "library 1.0";
  fitted.all = {100, 0.05, 0.1, 0.2};
  return fitted;
}

/// With attention of all but latents.
CurveFile file_of(const std::map<std::string, Fitted<GemmCurve>, std::less<>>& gemm) {
  CurveFile file;
  file.source = "a test, 2026-01";
  file.gemm = gemm;
  file.attention = {{"decode", attention_of(7e-6)}, {"prefill", attention_of(8e-6)}};
  return file;
}

Machine machine_of(const std::vector<DataType>& types) {
  Machine machine;
  for (const DataType type : types) machine.peak[type] = {1e12};
  return machine;
}

const YamlCursor kWhere = YamlCursor::parse("curves: x\n", "m.yaml").at("curves");

}  // namespace

TEST_CASE("a file of curves is read back as it was written") {
  CurveFile file = file_of({{"bf16", curve_of(2.5e-6)}, {"fp8_block", curve_of(5e-6)}});
  file.gemm.at("bf16").large = {10, 0.02, 0.03, 0.1};
  file.gemm.at("fp8_block").curve.tiles = GemmTiles::by_rows;
  const std::string text = curves_yaml(file, "chip");
  CHECK(read_curves(YamlCursor::parse(text, "c.yaml")) == file);
  CHECK(
      text.starts_with("# Curves of chip, written by `shardwright fit kernels`. Forms: hardware/README.md, \"The "
                       "curves\".\nsource: \"a test, 2026-01\"\n\ngemm:\n  bf16:\n    software: \"library 1.0, "
                       "kernel\"\n    launch_seconds: 2.5e-06\n"));
  CHECK(
      text.ends_with("    block_rows: 128\n    all: {rows: 100, median: 0.05, p68: 0.1, p90: 0.2}\n    large: {rows: "
                     "0}\n"));
}

TEST_CASE("a wrong file of curves is refused with the place") {
  const std::string text = curves_yaml(file_of({{"bf16", curve_of(2.5e-6)}}), "chip");
  const auto complaint = [&](const std::string& from, const std::string& to) {
    std::string wrong = text;
    wrong.replace(wrong.find(from), from.size(), to);
    const std::string message = message_of([&] { read_curves(YamlCursor::parse(wrong, "c.yaml")); });
    return message.substr(0, message.find('\n'));
  };
  CHECK(complaint("peak_fraction: 0.1", "peak_fraction: 2") ==
        "c.yaml:8:20: 'gemm.bf16.peak_fraction' must be between 0.1 and 1, got 2");
  CHECK(complaint("    join: 1\n", "") == "c.yaml:6:5: 'gemm.bf16.join' is missing");
  CHECK(complaint("join", "jion") == "c.yaml:13:5: unknown key 'jion' (did you mean 'join'?)");
  CHECK(complaint("tiles: any", "tiles: some") ==
        "c.yaml:21:12: 'gemm.bf16.tiles' must be one of any, by_rows, got 'some'");
  CHECK(complaint("median", "medium") == "c.yaml:22:22: unknown key 'medium' (did you mean 'median'?)");
}

TEST_CASE("numbers have four digits") {
  CHECK(rounded(1.23456e-6) == 1.235e-6);
  CHECK(rounded(0) == 0);
  CHECK(rounded(98761) == 98760);
}

TEST_CASE("formats have the curve of their name, else of the nearest, less certainly") {
  const CurveFile first = file_of({{"bf16", curve_of(1e-6)}}),
                  second = file_of({{"bf16", curve_of(2e-6)}, {"fp8", curve_of(3e-6)}, {"fp8_block", curve_of(4e-6)}});
  const KernelCurves curves = choose_curves(
      {first, second},
      machine_of({DataType::fp32, DataType::fp16, DataType::bf16, DataType::fp8, DataType::mxfp8, DataType::nvfp4}),
      kWhere);
  const auto launch = [&](DataType type, Scaling scaling) {
    return curves.of_gemm(type, scaling).curve.launch_seconds;
  };
  CHECK(launch(DataType::bf16, Scaling::tensor) == 1e-6);  // the first file's
  CHECK(launch(DataType::fp16, Scaling::tensor) == 1e-6);
  CHECK(launch(DataType::fp32, Scaling::tensor) == 1e-6);
  CHECK(launch(DataType::fp8, Scaling::tensor) == 3e-6);
  CHECK(launch(DataType::fp8, Scaling::row) == 3e-6);
  CHECK(launch(DataType::fp8, Scaling::block) == 4e-6);
  CHECK(launch(DataType::mxfp8, Scaling::tensor) == 3e-6);
  CHECK(launch(DataType::nvfp4, Scaling::tensor) == 3e-6);
  CHECK(curves.of_gemm(DataType::fp16, Scaling::tensor).relative_error(false) == 0.1);
  CHECK(curves.of_gemm(DataType::fp32, Scaling::tensor).relative_error(false) == Approx(std::hypot(0.1, 0.1)));
  CHECK(curves.of_gemm(DataType::mxfp8, Scaling::tensor).relative_error(false) == Approx(std::hypot(0.1, 0.1)));
  CHECK(curves.of_attention(AttentionKind::latent_decode).curve.launch_seconds == 7e-6);
  CHECK(curves.of_attention(AttentionKind::latent_prefill).curve.launch_seconds == 8e-6);
  CHECK(curves.of_attention(AttentionKind::prefill).relative_error(false) == 0.1);
  CHECK(curves.of_attention(AttentionKind::latent_prefill).relative_error(false) == Approx(std::hypot(0.1, 0.1)));
  CurveFile nothing = first;
  nothing.attention.clear();
  CHECK(message_of([&] { choose_curves({nothing}, machine_of({DataType::bf16}), kWhere); }) ==
        "m.yaml:1:9: 'curves' has no curve of attention, prefill\ncurves: x\n        ^");
  CHECK(message_of([&] {
          choose_curves({first}, machine_of({DataType::bf16, DataType::fp8}), kWhere);
        }) == "m.yaml:1:9: 'curves' has no curve of products in fp8\ncurves: x\n        ^");
}

TEST_CASE("an answer has the error of its kind of question, and of another chip's curves") {
  Fitted<GemmCurve> fitted = curve_of(1e-6, 0.3);
  fitted.large = {10, 0.02, 0.04, 0.1};
  CHECK(fitted.relative_error(true) == 0.04);
  CHECK(fitted.relative_error(false) == 0.3);
  fitted.large = {};
  CHECK(fitted.relative_error(true) == 0.3);
  const Machine own = find_machine("h100-sxm-80gb"), borrowed = find_machine("h100-nvl-94gb");
  const GemmSpec large{.m = 4096, .n = 4096, .k = 4096};
  const double error = look_up(large, own).relative_error;
  CHECK(error < look_up(GemmSpec{.m = 16, .n = 4096, .k = 4096}, own).relative_error);
  CHECK(look_up(large, borrowed).relative_error == Approx(std::hypot(error, 0.1)));
  AttentionSpec prefill{.heads = 32, .kv_heads = 8, .query_length = 8192, .key_length = 8192};
  const double wide = look_up(prefill, own).relative_error;
  prefill.type = DataType::fp8;
  CHECK(look_up(prefill, own).relative_error == Approx(std::hypot(wide, 0.2)));
}

TEST_CASE("layers of experts have the curve of their format and weights, else the nearest, less certainly, or none") {
  const auto moe = [](double launch) {
    Fitted<MoeCurve> fitted;
    fitted.curve.launch_seconds = launch;
    fitted.all = {100, 0.05, 0.1, 0.2};
    return fitted;
  };
  KernelCurves curves;
  curves.moe_layer = {{"bf16", moe(1)}, {"bf16_int4", moe(2)}, {"fp8_block", moe(3)}};
  const auto of = [&](DataType type, std::optional<StoredType> weights) {
    const auto found = curves.of_moe_layer({.type = type, .weights = weights});
    return std::pair(found->curve.launch_seconds, found->other_format);
  };
  CHECK(of(DataType::bf16, StoredType::bf16) == std::pair(1.0, 0.0));
  CHECK(of(DataType::fp16, {}) == std::pair(1.0, 0.0));
  CHECK(of(DataType::bf16, StoredType::int4) == std::pair(2.0, 0.0));
  CHECK(of(DataType::bf16, StoredType::mxfp4) == std::pair(1.0, 0.1));
  CHECK(of(DataType::fp8, {}) == std::pair(3.0, 0.1));
  CHECK(of(DataType::nvfp4, {}) == std::pair(3.0, 0.1));
  curves.moe_layer.erase("fp8_block");
  CHECK_FALSE(curves.of_moe_layer({.type = DataType::fp8}));
  // Kernels for few rows are asked for by themselves, and of no other format.
  CHECK_FALSE(curves.of_min_latency_layer({.type = DataType::bf16}));
  curves.moe_layer.emplace("bf16_min_latency", moe(4));
  CHECK(curves.of_min_latency_layer({.type = DataType::bf16})->curve.launch_seconds == 4);
  CHECK_FALSE(curves.of_min_latency_layer({.type = DataType::bf16, .weights = StoredType::int4}));
  CHECK(of(DataType::bf16, {}) == std::pair(1.0, 0.0));
}

TEST_CASE("every file of curves that is built in names its source and holds 16-bit products") {
  CHECK(curve_names() == std::vector<std::string>{"a100-sxm", "b200-sxm", "h100-sxm", "h200-sxm"});
  for (const std::string& name : curve_names()) {
    CAPTURE(name);
    const CurveFile file = named_curves(YamlCursor::parse(name, "x")).front();
    CHECK(file.source.find("095f58a51") != std::string::npos);
    REQUIRE(file.gemm.contains("bf16"));
    CHECK(file.gemm.at("bf16").all.rows > 30'000);
    CHECK(file.gemm.at("bf16").all.median < 0.06);
    CHECK(file.gemm.at("bf16").large.median < 0.045);
    for (const AttentionKind kind : kAttentionKinds) CHECK(file.attention.contains(name_of(kind)));
    CHECK(file.attention.at("prefill").large.median < 0.07);
    CHECK(file.moe_layer.at("bf16").all.median < 0.1);
  }
}
