#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/attention_curve.h"
#include "hardware/gemm_curve.h"
#include "hardware/machine.h"
#include "hardware/moe_curve.h"

namespace shardwright {

/// How a curve met the rows that it was fitted to: |predicted / measured - 1|, sorted.
struct FitErrors {
  std::int64_t rows = 0;
  double median = 0, p68 = 0, p90 = 0;
  bool operator==(const FitErrors&) const = default;
};

/// A curve, the software whose kernels it is of, and how wrong it is: of all rows, and of the large ones among them.
template <typename Curve>
struct Fitted {
  Curve curve;
  std::string software;
  FitErrors all, large;
  double other_format = 0;  // one sigma more where the curve is another format's

  double relative_error(bool of_large) const;
  bool operator==(const Fitted&) const = default;
};

/// What a file of curves/ holds: one chip's, by the name of what they are of ("bf16", "fp8_block").
struct CurveFile {
  std::string source;
  std::map<std::string, Fitted<GemmCurve>, std::less<>> gemm;
  std::map<std::string, Fitted<AttentionCurve>, std::less<>> attention;  // by kind
  std::map<std::string, Fitted<MoeCurve>, std::less<>> moe_layer;        // by format, and weights: "bf16_int4"
  bool operator==(const CurveFile&) const = default;
};

/// Reads and checks a file. Throws InputError.
CurveFile read_curves(const YamlCursor& top);
/// The file's text; read_curves makes the same of it.
std::string curves_yaml(const CurveFile& file, std::string_view name);
/// The number with the digits that files have: 4.
double rounded(double value);

/// The curves built into the program, sorted by name.
std::vector<std::string> curve_names();

/// Of one machine, what answers for each format that it computes in.
struct KernelCurves {
  template <typename Curve>
  using ByFormat = PerDataType<std::array<Fitted<Curve>, 3>>;  // by type and scaling

  ByFormat<GemmCurve> gemm;
  std::array<Fitted<AttentionCurve>, 4> attention;  // by kind
  std::map<std::string, Fitted<MoeCurve>, std::less<>> moe_layer;

  const Fitted<GemmCurve>& of_gemm(DataType type, Scaling scaling) const {
    return gemm[type][static_cast<std::size_t>(scaling)];
  }
  const Fitted<AttentionCurve>& of_attention(AttentionKind kind) const {
    return attention[static_cast<std::size_t>(kind)];
  }
  /// Of the layer's format and weights; else, less certainly, of its format or the nearest. Nothing where no file has
  /// any of those.
  std::optional<Fitted<MoeCurve>> of_moe_layer(const MoeLayerSpec& spec) const;
  /// Of the kernels for few rows, where they were measured in the layer's format and weights.
  std::optional<Fitted<MoeCurve>> of_min_latency_layer(const MoeLayerSpec& spec) const;
};

/// "fp8", "fp8_row", "fp8_block"; types without a choice of scales have their name alone.
std::string format_name(DataType type, Scaling scaling);
/// That, and the weights' where they are of another type: "bf16_mxfp4".
std::string format_name(const MoeLayerSpec& spec);
/// Behind a layer's format: the curve of the kernels that tables call so, of layers in which experts get few rows.
inline constexpr std::string_view kMinLatency = "_min_latency";

/// For each format the curve of its name from the first of `files` that has one; else that of the nearest format:
/// 16-bit ones answer for each other and, less certainly, for wider ones; kinds of fp8 for each other; fp8 for what is
/// narrower; attention's kinds without a latent for those with one. Layers of
/// experts need no curve. Throws InputError at `where` for a format of the
/// machine that none answers for.
KernelCurves choose_curves(const std::vector<CurveFile>& files, const Machine& machine, const YamlCursor& where);

/// The curves of the names in a list, or of one name. Throws InputError.
std::vector<CurveFile> named_curves(const YamlCursor& names);

}  // namespace shardwright
