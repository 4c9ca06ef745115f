#include "hardware/fit_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <optional>

#include "hardware/kernel_index.h"
#include "hardware/minimize.h"

namespace shardwright {
namespace {

constexpr std::size_t kFewestRows = 100;
constexpr std::size_t kMostSampled = 4000;
constexpr double kLargeWeight = 10;
constexpr int kEvaluations = 3000;

/// What was measured of something that a curve answers.
template <typename Item>
struct Row {
  Item item;
  double seconds;
  bool large;
};

/// Rows whose hash falls into an even share: sites and sizes alternate in tables, so every n-th row would see some
/// alone.
template <typename Item>
std::vector<Row<Item>> sample_of(const std::vector<Row<Item>>& rows) {
  const std::size_t every = (rows.size() + kMostSampled - 1) / kMostSampled;
  std::vector<Row<Item>> sample;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if ((i * 0x9E3779B97F4A7C15u >> 33) % every == 0) sample.push_back(rows[i]);
  }
  return sample;
}

template <typename Item, typename Model>
double mean_log_error(const std::vector<Row<Item>>& rows, double large_weight, const Model& model) {
  double error = 0, weights = 0;
  for (const Row<Item>& row : rows) {
    const double weight = row.large ? large_weight : 1;
    error += weight * std::abs(std::log(model(row.item) / row.seconds));
    weights += weight;
  }
  return error / weights;
}

template <typename Item, typename Model>
FitErrors errors_of(const std::vector<Row<Item>>& rows, bool large_alone, const Model& model) {
  std::vector<double> errors;
  for (const Row<Item>& row : rows) {
    if (row.large || !large_alone) errors.push_back(std::abs(model(row.item) / row.seconds - 1));
  }
  if (errors.empty()) return {};
  std::sort(errors.begin(), errors.end());
  const auto at = [&](double share) {
    return rounded(errors[static_cast<std::size_t>(share * static_cast<double>(errors.size() - 1))]);
  };
  return {static_cast<std::int64_t>(errors.size()), at(0.5), at(0.68), at(0.9)};
}

/// A curve and the mean error that it leaves.
template <typename Curve>
struct Found {
  Curve curve;
  double error = INFINITY;
};

/// Searches from each of `starts`, first with all rows alike, then with their weights. Coefficients named `fixed` stay
/// as they are in the start. `model(curve, item)`: what the table would say.
template <typename Curve, typename Item, typename Model>
Found<Curve> search(const std::vector<Row<Item>>& rows, const std::vector<Curve>& starts,
                    const std::vector<std::string_view>& fixed, int evaluations, const Model& model,
                    double weight_of_large = kLargeWeight) {
  const std::vector<Row<Item>> sample = sample_of(rows);
  std::vector<Coefficient<Curve>> free;
  for (const Coefficient<Curve>& c : coefficients<Curve>()) {
    if (std::find(fixed.begin(), fixed.end(), c.name) == fixed.end()) free.push_back(c);
  }
  Found<Curve> best;
  for (Curve curve : starts) {
    const auto with = [&](const std::vector<double>& values) {
      for (std::size_t i = 0; i < free.size(); ++i) curve.*free[i].value = values[i];
    };
    double error = 0;
    for (const double large_weight : {1.0, weight_of_large}) {
      std::vector<Range> ranges;
      for (const Coefficient<Curve>& c : free) ranges.push_back({c.least, c.most, curve.*c.value});
      const auto cost = [&](const std::vector<double>& values) {
        with(values);
        return mean_log_error(sample, large_weight, [&](const Item& item) { return model(curve, item); });
      };
      const std::vector<double> values = minimize(cost, ranges, evaluations);
      error = cost(values);
    }
    if (error < best.error) best = {curve, error};
  }
  for (const Coefficient<Curve>& c : coefficients<Curve>()) best.curve.*c.value = rounded(best.curve.*c.value);
  return best;
}

template <typename Curve>
Curve start_of() {
  Curve curve;
  for (const Coefficient<Curve>& c : coefficients<Curve>()) curve.*c.value = c.start;
  return curve;
}

std::string software_of(const KernelTable& table, std::size_t row) {
  std::string name(table.framework(row));
  if (table.kernel(row).empty()) return name;
  return name + (name.empty() ? "" : ", ") + std::string(table.kernel(row));
}

/// Of what several kernels ran, the one with the most rows; of several the first.
template <typename Rows>
const std::pair<const std::string, Rows>& most_rows(const std::map<std::string, Rows>& by_software) {
  return *std::max_element(by_software.begin(), by_software.end(),
                           [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
}

// ---- Products ----

/// Rows of one format by who ran them.
using GemmRows = std::map<std::string, std::vector<Row<Products>>>;

std::map<std::string, GemmRows> gemm_rows(const KernelTable& table, const Machine& machine) {
  std::map<std::string, GemmRows> rows;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto spec = std::get<GemmSpec>(table.spec(i));
    const Products products = products_of(spec);
    if (products.empty() || spec.weights || !supports(machine, spec.type)) continue;
    rows[format_name(spec.type, spec.scaling)][software_of(table, i)].push_back(
        {products, table.seconds()[i], products.large()});
  }
  return rows;
}

/// As the table has it: where software holds calls up, none is faster than that. 6 makes it a soft maximum.
double in_table(const GemmCurve& curve, const Products& products, const Machine& machine) {
  const double time = seconds(curve, products, machine);
  if (curve.host_seconds == 0) return time;
  constexpr double kJoin = 6;
  return std::pow(std::pow(time, kJoin) + std::pow(curve.host_seconds, kJoin), 1 / kJoin);
}

/// Kernels with scales of blocks are called from Python in the published tables, at 50 to 200 us a call. What small
/// ones take is hidden behind that: it is taken from those with one scale, whose small products are not held up.
std::vector<GemmCurve> gemm_starts(const Fitted<GemmCurve>* one_scale) {
  GemmCurve start = start_of<GemmCurve>();
  if (one_scale != nullptr) {
    start = one_scale->curve;
    start.host_seconds = 1e-4;
  }
  GemmCurve throttled = start;
  throttled.k_half = 20;
  throttled.wave_step = 1;
  throttled.throttle = 0.3;
  throttled.throttle_seconds = 1e-4;
  return {start, throttled};
}

Fitted<GemmCurve> fit_gemm(const std::vector<Row<Products>>& rows, const Machine& machine,
                           const Fitted<GemmCurve>* one_scale) {
  const bool narrow = rows.front().item.a_bytes < 2;
  std::vector<std::string_view> fixed;
  if (!narrow) fixed = {"row_seconds", "cast_fraction"};
  if (one_scale != nullptr) {
    fixed = {"launch_seconds", "memory_fraction", "row_seconds", "cast_fraction"};
  } else {
    fixed.push_back("host_seconds");
  }
  const auto model = [&](const GemmCurve& curve, const Products& p) { return in_table(curve, p, machine); };
  Found<GemmCurve> best;
  for (const GemmTiles tiles : {GemmTiles::any, GemmTiles::by_rows}) {
    if (tiles == GemmTiles::by_rows && !narrow) continue;
    std::vector<GemmCurve> starts = gemm_starts(one_scale);
    for (GemmCurve& start : starts) {
      start.tiles = tiles;
      if (!narrow) start.row_seconds = 0, start.cast_fraction = 1;
    }
    const Found<GemmCurve> found = search(rows, starts, fixed, kEvaluations, model);
    if (found.error < best.error) best = found;
  }
  Fitted<GemmCurve> fitted;
  fitted.curve = best.curve;
  std::vector<Row<Products>> seen;  // not behind the software
  for (const Row<Products>& row : rows) {
    if (row.seconds >= 2 * best.curve.host_seconds) seen.push_back(row);
  }
  const auto predicted = [&](const Products& p) { return seconds(best.curve, p, machine); };
  fitted.all = errors_of(seen, false, predicted);
  fitted.large = errors_of(seen, true, predicted);
  return fitted;
}

void fit_gemms(const Machine& machine, const KernelTable& table, CurveFile& file,
               const std::function<void(const std::string&)>& progress) {
  for (const auto& [format, by_software] : gemm_rows(table, machine)) {
    const auto& [software, rows] = most_rows(by_software);
    if (rows.size() < kFewestRows) continue;
    progress(fmt::format("gemm {}: {} rows", format, rows.size()));
    // "fp8" comes before "fp8_block".
    const auto one_scale = file.gemm.find("fp8");
    const bool of_blocks = format == "fp8_block" && one_scale != file.gemm.end();
    Fitted<GemmCurve> fitted = fit_gemm(rows, machine, of_blocks ? &one_scale->second : nullptr);
    fitted.software = software;
    file.gemm.emplace(format, std::move(fitted));
  }
}

// ---- Attention ----

std::vector<AttentionCurve> attention_starts(AttentionKind kind) {
  AttentionCurve start = start_of<AttentionCurve>();
  if (kind == AttentionKind::decode || kind == AttentionKind::latent_decode)
    start.store_seconds = 0, start.narrow_store = 1;
  if (kind == AttentionKind::latent_prefill || kind == AttentionKind::latent_decode) start.window_keys = 0;
  AttentionCurve throttled = start;
  throttled.peak_fraction = 0.85;
  throttled.throttle = 0.3;
  throttled.throttle_seconds = 3e-3;
  return {start, throttled};
}

/// Multiply-adds of 16 bits that a multiprocessor does while it does one exponential: 512 (V100), 1024 (A100), 2048
/// (H100) or 4096 (B200) a clock by their whitepapers, over 16 (CUDA C++ Programming Guide, "Throughput of native
/// arithmetic instructions").
std::optional<double> products_of_an_exponential(const Machine& machine) {
  if (machine.architecture == "volta") return 512.0 / 16;
  if (machine.architecture == "ampere") return 1024.0 / 16;
  if (machine.architecture == "hopper") return 2048.0 / 16;
  if (machine.architecture == "blackwell") return 4096.0 / 16;
  return std::nullopt;
}

bool one_head_size(const std::vector<Row<AttentionSpec>>& rows) {
  return std::all_of(rows.begin(), rows.end(), [&](const auto& row) {
    return row.item.head_dim == rows.front().item.head_dim && row.item.value_dim == rows.front().item.value_dim;
  });
}

Fitted<AttentionCurve> fit_attention(const std::vector<Row<AttentionSpec>>& rows, AttentionKind kind,
                                     const Machine& machine) {
  std::vector<std::string_view> fixed;
  if (kind == AttentionKind::decode || kind == AttentionKind::latent_decode) fixed = {"store_seconds", "narrow_store"};
  if (kind == AttentionKind::latent_prefill || kind == AttentionKind::latent_decode) fixed.push_back("window_keys");
  // Rows of one head size say nothing of another, but that is what most others will be asked of these two.
  const auto exponential = products_of_an_exponential(machine);
  const bool any_head = kind == AttentionKind::prefill || kind == AttentionKind::decode;
  const bool physical = exponential && any_head && one_head_size(rows);
  if (physical) fixed.push_back("softmax_width");
  const auto all_starts = [&] {
    std::vector<AttentionCurve> starts = attention_starts(kind);
    for (AttentionCurve& start : starts)
      if (physical) start.softmax_width = *exponential;
    return starts;
  };
  const auto model = [&](const AttentionCurve& curve, const AttentionSpec& s) { return seconds(curve, s, machine); };
  Found<AttentionCurve> best;
  for (const double block_rows : {16, 64, 128, 256}) {
    AttentionCurve start = all_starts().front();
    start.block_rows = block_rows;
    const Found<AttentionCurve> found = search(rows, std::vector{start}, fixed, kEvaluations / 3, model);
    if (found.error < best.error) best = found;
  }
  std::vector<AttentionCurve> starts = all_starts();
  for (AttentionCurve& start : starts) start.block_rows = best.curve.block_rows;
  best = search(rows, starts, fixed, kEvaluations, model);
  Fitted<AttentionCurve> fitted;
  fitted.curve = best.curve;
  const auto predicted = [&](const AttentionSpec& s) { return seconds(best.curve, s, machine); };
  fitted.all = errors_of(rows, false, predicted);
  fitted.large = errors_of(rows, true, predicted);
  return fitted;
}

void fit_attentions(const Machine& machine, const KernelTable& table, CurveFile& file,
                    const std::function<void(const std::string&)>& progress) {
  std::map<AttentionKind, std::map<std::string, std::vector<Row<AttentionSpec>>>> rows;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto spec = std::get<AttentionSpec>(table.spec(i));
    if (is_empty(spec) || spec.backward || !supports(machine, spec.type)) continue;
    rows[kind_of(spec)][software_of(table, i)].push_back({spec, table.seconds()[i], is_large(spec)});
  }
  for (const auto& [kind, by_software] : rows) {
    const auto& [software, most] = most_rows(by_software);
    if (most.size() < kFewestRows) continue;
    progress(fmt::format("attention {}: {} rows", name_of(kind), most.size()));
    Fitted<AttentionCurve> fitted = fit_attention(most, kind, machine);
    fitted.software = software;
    file.attention.emplace(name_of(kind), std::move(fitted));
  }
}

// ---- Layers of experts ----

/// SGLang's published rows of several ranks keep a rank, where tokens are many, as busy as one alone up to about top k
/// ranks: they say nothing of a split.
bool splits_pairs(const MoeLayerSpec& spec, std::string_view framework) {
  return spec.ep == 1 || !framework.starts_with("SGLang");
}

Fitted<MoeCurve> fit_moe_layer(const std::vector<Row<MoeLayerSpec>>& rows, const Machine& machine) {
  const auto model = [&](const MoeCurve& curve, const MoeLayerSpec& s) { return seconds(curve, s, machine); };
  Fitted<MoeCurve> fitted;
  const bool split = std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.item.ep > 1; });
  const std::vector<std::string_view> fixed =
      split ? std::vector<std::string_view>{} : std::vector<std::string_view>{"skew"};
  fitted.curve = search(rows, std::vector{start_of<MoeCurve>()}, fixed, kEvaluations / 2, model, 1).curve;
  const auto predicted = [&](const MoeLayerSpec& s) { return seconds(fitted.curve, s, machine); };
  fitted.all = errors_of(rows, false, predicted);
  fitted.large = errors_of(rows, true, predicted);
  return fitted;
}

void fit_moe_layers(const Machine& machine, const KernelTable& table, CurveFile& file,
                    const std::function<void(const std::string&)>& progress) {
  std::map<std::string, std::map<std::string, std::vector<Row<MoeLayerSpec>>>> rows;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto spec = std::get<MoeLayerSpec>(table.spec(i));
    if (spec.tokens == 0 || !supports(machine, spec.type) || !splits_pairs(spec, table.framework(i))) continue;
    const std::string software = software_of(table, i);
    // Kernels for few rows, which engines take for decode, have a curve of their own.
    const bool few = software.find(kMinLatency) != std::string::npos;
    rows[format_name(spec) + (few ? std::string(kMinLatency) : "")][software].push_back(
        {spec, table.seconds()[i], is_large(spec)});
  }
  for (const auto& [format, by_software] : rows) {
    const auto& [software, most] = most_rows(by_software);
    if (most.size() < kFewestRows) continue;
    progress(fmt::format("moe_layer {}: {} rows", format, most.size()));
    Fitted<MoeCurve> fitted = fit_moe_layer(most, machine);
    fitted.software = software;
    file.moe_layer.emplace(format, std::move(fitted));
  }
}

}  // namespace

CurveFile fit_kernels(const Machine& machine, const Measurements& measured, const std::string& source,
                      const std::function<void(const std::string&)>& progress) {
  CurveFile file;
  file.source = source;
  for (const KernelFamily family : {KernelFamily::gemm, KernelFamily::attention, KernelFamily::moe_layer})
    refit_family(family, machine, measured, file, progress);
  return file;
}

void refit_family(KernelFamily family, const Machine& machine, const Measurements& measured, CurveFile& file,
                  const std::function<void(const std::string&)>& progress) {
  const KernelTable& table = measured.table(family);
  switch (family) {
    case KernelFamily::gemm:
      file.gemm.clear();
      return fit_gemms(machine, table, file, progress);
    case KernelFamily::attention:
      file.attention.clear();
      return fit_attentions(machine, table, file, progress);
    case KernelFamily::moe_layer:
      file.moe_layer.clear();
      return fit_moe_layers(machine, table, file, progress);
    default:
      assert(false && "a family without curves");
  }
}

}  // namespace shardwright
