#include "hardware/gemm_curve.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hardware/steady_line.h"

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }

/// std::ceil of a count: that is a call where the build allows nothing beyond SSE2, and this is a hot path.
double rounded_up(double count) {
  const double down = static_cast<double>(static_cast<std::int64_t>(count));
  return down < count ? down + 1 : down;
}

struct Tile {
  double m, n;
  constexpr double intensity() const { return m * n / (m + n); }
};

// The largest first: where they win, the others are left early.
constexpr std::array kTiles = {Tile{256, 128}, Tile{128, 256}, Tile{192, 128}, Tile{128, 192}, Tile{128, 128},
                               Tile{64, 256},  Tile{64, 128},  Tile{128, 64},  Tile{64, 64}};
constexpr double kLargestIntensity = kTiles[0].intensity();
constexpr double kLeastPart = 128;  // of k

struct TileRange {
  std::size_t begin = 0, end = kTiles.size();
};

TileRange tiles_for(GemmTiles tiles, double m) {
  if (tiles == GemmTiles::any) return {};
  if (m <= 64) return {8, 9};
  if (m <= 128) return {6, 7};
  return {4, 5};
}

double multiprocessor_rate(const GemmCurve& curve, DataType type, const Machine& machine) {
  return machine.peak[type].value * curve.peak_fraction / machine.multiprocessors;
}

/// Of the largest tile's rate.
double tile_rate(const GemmCurve& curve, double intensity) {
  return intensity * (kLargestIntensity + curve.tile_half) / ((intensity + curve.tile_half) * kLargestIntensity);
}

double joined(double longer, double shorter, double join) {
  return longer * std::pow(1 + std::pow(shorter / longer, join), 1 / join);
}

/// Activations come in 16 bits and are written narrow before they are multiplied.
double cast_seconds(const GemmCurve& curve, const Products& p, const Machine& machine) {
  if (p.a_bytes >= 2 || !p.cast) return 0;
  const double rate = machine.memory_bandwidth.value * curve.cast_fraction;
  return p.count * (p.m * curve.row_seconds + (2 + p.a_bytes) * p.m * p.k / rate);
}

double bytes_of(const std::optional<StoredType>& given, StoredType otherwise) {
  return bytes_per_element(given.value_or(otherwise));
}

}  // namespace

double bytes_moved(const Products& p) {
  return p.count * (p.a_bytes * p.m * p.k + p.b_bytes * p.k * p.n + p.c_bytes * p.m * p.n);
}

std::string_view name_of(GemmTiles tiles) { return tiles == GemmTiles::any ? "any" : "by_rows"; }

template <>
const std::vector<Coefficient<GemmCurve>>& coefficients<GemmCurve>() {
  using C = GemmCurve;
  static const std::vector<Coefficient<C>> all = {{"launch_seconds", &C::launch_seconds, 1e-6, 2e-5, 3e-6},
                                                  {"peak_fraction", &C::peak_fraction, 0.1, 1, 0.85},
                                                  {"k_half", &C::k_half, 1, 2000, 150},
                                                  {"wave_step", &C::wave_step, 0, 1, 0.3},
                                                  {"tile_half", &C::tile_half, 0, 200, 10},
                                                  {"memory_fraction", &C::memory_fraction, 0.3, 1, 0.85},
                                                  {"join", &C::join, 1, 8, 2.4},
                                                  {"split_k", &C::split_k, 0, 10000, 500},
                                                  {"throttle", &C::throttle, 0, 1, 0.1},
                                                  {"throttle_seconds", &C::throttle_seconds, 1e-5, 1e-2, 5e-4},
                                                  {"odd_rows", &C::odd_rows, 0, 1, 0.05},
                                                  {"row_seconds", &C::row_seconds, 0, 2e-8, 3e-9},
                                                  {"cast_fraction", &C::cast_fraction, 0.1, 1, 0.8},
                                                  {"host_seconds", &C::host_seconds, 0, 1e-3, 0}};
  return all;
}

Products products_of(const GemmSpec& s) {
  return {as_double(s.batch),
          as_double(s.m),
          as_double(s.n),
          as_double(s.k),
          bytes_per_element(s.type),
          bytes_of(s.weights, stored(s.type)),
          bytes_of(s.result, default_result(s.type)) * (s.accumulate ? 2 : 1),
          s.type,
          s.cast};
}

double seconds(const GemmCurve& curve, const Products& p, const Machine& machine) {
  assert(!p.empty() && "products of nothing have no curve");
  const double memory_rate = machine.memory_bandwidth.value * curve.memory_fraction;
  const double memory = bytes_moved(p) / memory_rate;
  const double processors = machine.multiprocessors;
  const double rows = p.m / 8, odd = rounded_up(rows) == rows ? 1 : 1 + curve.odd_rows;
  const double unit = 2 * odd / multiprocessor_rate(curve, p.type, machine);
  const TileRange range = tiles_for(curve.tiles, p.m);
  double fastest = INFINITY;
  for (std::size_t t = range.begin; t < range.end; ++t) {
    const Tile& tile = kTiles[t];
    const double step = unit * tile.m * tile.n / tile_rate(curve, tile.intensity());
    const double f = p.count * rounded_up(p.m / tile.m) * rounded_up(p.n / tile.n) / processors;
    const double full = std::max(f, 1.0);
    const double waves = curve.wave_step * rounded_up(f) + (1 - curve.wave_step) * full;
    fastest = std::min(fastest, waves * step * (p.k + curve.k_half));
    if (curve.tiles == GemmTiles::by_rows) continue;
    // All of the work in even parts, one for each multiprocessor, cut through k.
    const double part = std::max(f * p.k, std::min(p.k, kLeastPart));
    fastest = std::min(fastest, step * (part + full * curve.k_half + curve.split_k));
  }
  const double loop = fastest * (1 + curve.throttle * fastest / (fastest + curve.throttle_seconds));
  const auto [shorter, longer] = std::minmax(loop, memory);
  return curve.launch_seconds + joined(longer, shorter, curve.join) + cast_seconds(curve, p, machine);
}

double steady_seconds(const GemmCurve& curve, const Products& p, const Machine& machine) {
  if (p.empty()) return 0;
  const double memory_rate = machine.memory_bandwidth.value * curve.memory_fraction;
  const double memory = bytes_moved(p) / memory_rate;
  double rate = 0;
  const TileRange range = curve.tiles == GemmTiles::any ? TileRange{} : TileRange{4, kTiles.size()};
  for (std::size_t t = range.begin; t < range.end; ++t) rate = std::max(rate, tile_rate(curve, kTiles[t].intensity()));
  rate *= machine.peak[p.type].value * curve.peak_fraction;
  const double loop = steady_line(curve).slope * 2 * p.count * p.m * p.n * (p.k + curve.k_half) / rate;
  const auto [shorter, longer] = std::minmax(loop, memory);
  return joined(longer, shorter, curve.join) + cast_seconds(curve, p, machine);
}

}  // namespace shardwright
