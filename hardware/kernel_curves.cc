#include "hardware/kernel_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "hardware/catalog.h"

namespace shardwright {

/// hardware/curves/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& curve_catalog();

namespace {

/// One sigma of asking a curve of another format; an estimate.
constexpr double kOtherFormatError = 0.10;

// ---- Files ----

/// What a curve has beside its coefficients, if anything.
std::string_view choice_of(const GemmCurve&) { return "tiles"; }
std::string_view choice_of(const AttentionCurve&) { return "block_rows"; }
std::string_view choice_of(const MoeCurve&) { return ""; }

template <typename Curve>
std::vector<std::string_view> keys_of_curve() {
  std::vector<std::string_view> keys;
  for (const Coefficient<Curve>& c : coefficients<Curve>()) keys.push_back(c.name);
  if (!choice_of(Curve()).empty()) keys.push_back(choice_of(Curve()));
  keys.insert(keys.end(), {"software", "all", "large"});
  return keys;
}

FitErrors read_errors(const YamlCursor& map) {
  map.only_keys({"rows", "median", "p68", "p90"});
  FitErrors errors;
  errors.rows = map.at("rows").integer(0, std::int64_t{1} << 40);
  if (errors.rows == 0) return errors;
  errors.median = map.at("median").number(0, 1e6);
  errors.p68 = map.at("p68").number(0, 1e6);
  errors.p90 = map.at("p90").number(0, 1e6);
  return errors;
}

void read_choice(const YamlCursor& map, GemmCurve& curve) {
  curve.tiles = static_cast<GemmTiles>(map.at("tiles").one_of({name_of(GemmTiles::any), name_of(GemmTiles::by_rows)}));
}

void read_choice(const YamlCursor& map, AttentionCurve& curve) {
  curve.block_rows = map.at("block_rows").number(1, 1024);
}

void read_choice(const YamlCursor&, MoeCurve&) {}

template <typename Curve>
Fitted<Curve> read_curve(const YamlCursor& map) {
  map.only_keys(keys_of_curve<Curve>());
  Fitted<Curve> fitted;
  read_choice(map, fitted.curve);
  for (const Coefficient<Curve>& c : coefficients<Curve>())
    fitted.curve.*c.value = map.at(c.name).number(c.least, c.most);
  fitted.software = map.at("software").text();
  fitted.all = read_errors(map.at("all"));
  fitted.large = read_errors(map.at("large"));
  return fitted;
}

template <typename Curve>
void read_family(const YamlCursor& top, std::string_view name,
                 std::map<std::string, Fitted<Curve>, std::less<>>& into) {
  const auto family = top.find(name);
  if (!family) return;
  for (const auto& [format, curve] : family->entries()) into.emplace(format, read_curve<Curve>(curve));
}

std::string errors_text(const FitErrors& e) {
  if (e.rows == 0) return "{rows: 0}";
  return fmt::format("{{rows: {}, median: {}, p68: {}, p90: {}}}", e.rows, e.median, e.p68, e.p90);
}

std::string choice_text(const GemmCurve& curve) { return fmt::format("    tiles: {}\n", name_of(curve.tiles)); }
std::string choice_text(const AttentionCurve& curve) { return fmt::format("    block_rows: {}\n", curve.block_rows); }
std::string choice_text(const MoeCurve&) { return ""; }

template <typename Curve>
std::string curve_text(std::string_view format, const Fitted<Curve>& fitted) {
  std::string text = fmt::format("  {}:\n    software: \"{}\"\n", format, fitted.software);
  for (const Coefficient<Curve>& c : coefficients<Curve>())
    text += fmt::format("    {}: {}\n", c.name, fitted.curve.*c.value);
  text += choice_text(fitted.curve);
  return text + fmt::format("    all: {}\n    large: {}\n", errors_text(fitted.all), errors_text(fitted.large));
}

template <typename Curve>
std::string family_text(std::string_view name, const std::map<std::string, Fitted<Curve>, std::less<>>& curves) {
  if (curves.empty()) return "";
  std::string text = fmt::format("\n{}:\n", name);
  for (const auto& [format, curve] : curves) text += curve_text(format, curve);
  return text;
}

// ---- Choice ----

struct Format {
  DataType type;
  Scaling scaling;
};

/// Formats whose curve may answer for one, the nearest first.
std::vector<Format> answering(const Format& asked) {
  constexpr auto tensor = Scaling::tensor, block = Scaling::block;
  switch (asked.type) {
    case DataType::fp32:
    case DataType::tf32:
    case DataType::fp16:
    case DataType::bf16:
      return {asked, {DataType::bf16, tensor}, {DataType::fp16, tensor}};
    case DataType::fp8:
      return {asked, {DataType::fp8, tensor}, {DataType::fp8, block}};
    case DataType::mxfp8:  // tensor cores apply its factors: no promotion to fp32, as blocks of fp8 need it
    case DataType::nvfp4:
      return {asked, {DataType::fp8, tensor}, {DataType::fp8, block}};
  }
  return {asked};
}

bool is_16_bits(DataType type) { return type == DataType::fp16 || type == DataType::bf16; }

template <typename Curve, typename Family>
std::optional<Fitted<Curve>> chosen(const std::vector<CurveFile>& files, Family family, const Format& asked) {
  for (const Format& format : answering(asked)) {
    for (const CurveFile& file : files) {
      const auto found = (file.*family).find(format_name(format.type, format.scaling));
      if (found == (file.*family).end()) continue;
      Fitted<Curve> curve = found->second;
      const bool same = found->first == format_name(asked.type, asked.scaling);
      if (!same && !(is_16_bits(asked.type) && is_16_bits(format.type))) curve.other_format = kOtherFormatError;
      return curve;
    }
  }
  return std::nullopt;
}

/// Of the first file that has it; a latent's else as other heads'.
std::optional<Fitted<AttentionCurve>> chosen(const std::vector<CurveFile>& files, AttentionKind kind) {
  const bool prefill = kind == AttentionKind::prefill || kind == AttentionKind::latent_prefill;
  for (const AttentionKind answering : {kind, prefill ? AttentionKind::prefill : AttentionKind::decode}) {
    for (const CurveFile& file : files) {
      const auto found = file.attention.find(name_of(answering));
      if (found == file.attention.end()) continue;
      Fitted<AttentionCurve> curve = found->second;
      if (answering != kind) curve.other_format = kOtherFormatError;
      return curve;
    }
  }
  return std::nullopt;
}

}  // namespace

template <typename Curve>
double Fitted<Curve>::relative_error(bool of_large) const {
  return std::hypot(of_large && large.rows > 0 ? large.p68 : all.p68, other_format);
}
template struct Fitted<GemmCurve>;
template struct Fitted<AttentionCurve>;
template struct Fitted<MoeCurve>;

double rounded(double value) { return std::strtod(fmt::format("{:.3e}", value).c_str(), nullptr); }

CurveFile read_curves(const YamlCursor& top) {
  top.only_keys({"source", "gemm", "attention", "moe_layer"});
  CurveFile file;
  file.source = top.at("source").text();
  read_family(top, "gemm", file.gemm);
  read_family(top, "attention", file.attention);
  read_family(top, "moe_layer", file.moe_layer);
  return file;
}

std::string curves_yaml(const CurveFile& file, std::string_view name) {
  return fmt::format(
             "# Curves of {}, written by `shardwright fit kernels`. Forms: hardware/README.md, \"The "
             "curves\".\nsource: "
             "\"{}\"\n",
             name, file.source) +
         family_text("gemm", file.gemm) + family_text("attention", file.attention) +
         family_text("moe_layer", file.moe_layer);
}

std::vector<std::string> curve_names() { return catalog_names(curve_catalog()); }

std::string format_name(DataType type, Scaling scaling) {
  std::string name(name_of(type));
  if (type != DataType::fp8 || scaling == Scaling::tensor) return name;
  return name + (scaling == Scaling::row ? "_row" : "_block");
}

std::string format_name(const MoeLayerSpec& spec) {
  const std::string name = format_name(spec.type, spec.scaling);
  const StoredType weights = spec.weights.value_or(stored(spec.type));
  return weights == stored(spec.type) ? name
                                      : fmt::format("{}_{}", name, kStoredTypeNames[static_cast<std::size_t>(weights)]);
}

std::optional<Fitted<MoeCurve>> KernelCurves::of_moe_layer(const MoeLayerSpec& spec) const {
  const auto same = moe_layer.find(format_name(spec));
  if (same != moe_layer.end()) return same->second;
  for (const Format& format : answering({spec.type, spec.scaling})) {
    const auto near = moe_layer.find(format_name(format.type, format.scaling));
    if (near == moe_layer.end()) continue;
    Fitted<MoeCurve> curve = near->second;
    const bool alike = is_16_bits(spec.type) && is_16_bits(format.type);
    const bool as_wide = spec.weights.value_or(stored(spec.type)) == stored(spec.type);
    if (!alike || !as_wide) curve.other_format = kOtherFormatError;
    return curve;
  }
  return std::nullopt;
}

std::optional<Fitted<MoeCurve>> KernelCurves::of_min_latency_layer(const MoeLayerSpec& spec) const {
  const auto found = moe_layer.find(format_name(spec) + std::string(kMinLatency));
  return found == moe_layer.end() ? std::nullopt : std::optional(found->second);
}

KernelCurves choose_curves(const std::vector<CurveFile>& files, const Machine& machine, const YamlCursor& where) {
  KernelCurves curves;
  for (const DataType type : kDataTypes) {
    if (!supports(machine, type)) continue;
    for (const Scaling scaling : {Scaling::tensor, Scaling::row, Scaling::block}) {
      const auto gemm = chosen<GemmCurve>(files, &CurveFile::gemm, {type, scaling});
      if (!gemm) where.fail(fmt::format("has no curve of products in {}", name_of(type)));
      curves.gemm[type][static_cast<std::size_t>(scaling)] = *gemm;
    }
  }
  for (const AttentionKind kind : kAttentionKinds) {
    const auto attention = chosen(files, kind);
    if (!attention) where.fail(fmt::format("has no curve of attention, {}", name_of(kind)));
    curves.attention[static_cast<std::size_t>(kind)] = *attention;
  }
  for (const CurveFile& file : files) curves.moe_layer.insert(file.moe_layer.begin(), file.moe_layer.end());
  return curves;
}

std::vector<CurveFile> named_curves(const YamlCursor& names) {
  const std::vector<YamlCursor> items = names.is_list() ? names.items() : std::vector{names};
  std::vector<CurveFile> files;
  for (const YamlCursor& item : items) {
    const std::vector<std::string> known = curve_names();
    const std::size_t i = item.one_of({known.begin(), known.end()});
    files.push_back(read_curves(open_named("curves", known[i], curve_catalog())));
  }
  if (files.empty()) names.fail("must name at least one file of curves");
  return files;
}

}  // namespace shardwright
