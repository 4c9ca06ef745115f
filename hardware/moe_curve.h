#pragma once

#include "hardware/curve_coefficients.h"
#include "hardware/kernel_spec.h"
#include "hardware/machine.h"

namespace shardwright {

/// How long a layer of experts takes on one chip, of its busiest rank (RankLoad):
///   t = launch + join(loop, memory) + activations + token_seconds tokens,   join(a, b) = (a^q + b^q)^(1/q)
///   loop   = 2 (rows + tile_rows hit) ((matrices - 1) width (hidden + k_half) + hidden (width + k_half))
///            / (peak_fraction x peak),  width of an expert on this rank, two or three matrices
///   memory = weights of the experts hit / (memory_fraction x HBM rate) + expert_seconds hit
///   activations = activation_passes x rows x 2 (hidden + width) elements of 16 bits / HBM rate: sorting, casting,
///            activation, sum over experts
struct MoeCurve {
  double launch_seconds = 0;  // of all kernels of the layer
  double peak_fraction = 1;
  double k_half = 0;     // prologue and epilogue of a tile, in steps of the sum
  double tile_rows = 0;  // by how many rows an expert's are rounded up
  double memory_fraction = 1;
  double join = 1e9;  // q: 1 is one after the other, large is whichever is longer
  double activation_passes = 0;
  double token_seconds = 0;
  double expert_seconds = 0;
  double skew = 1;  // of the busiest rank's load, over what chance makes of it
  bool operator==(const MoeCurve&) const = default;
};

template <>
const std::vector<Coefficient<MoeCurve>>& coefficients<MoeCurve>();

/// Pairs of token and expert on the busiest rank, and how many of its experts have any.
struct RankLoad {
  double rows = 0, hit = 0;
};

/// At least one. Balanced: pairs are dealt out in turn. By a power law: loads of experts are spread as x^-power over 1
/// .. 0.8 tokens (as the published tables' generator does) and scaled to their sum; an expert that rounds to none is
/// not hit. Ranks' sums differ by chance: the busiest of `ep` is `skew` sqrt(2 ln ep) standard deviations above their
/// mean.
RankLoad busiest_load(const MoeLayerSpec& spec, double skew);

/// Of a layer that any token enters; the second with a load that is known.
double seconds(const MoeCurve& curve, const MoeLayerSpec& spec, const Machine& machine);
double seconds(const MoeCurve& curve, const MoeLayerSpec& spec, const RankLoad& load, const Machine& machine);

/// Whether products take most of the time: 64 rows an expert and more.
bool is_large(const MoeLayerSpec& spec);

}  // namespace shardwright
