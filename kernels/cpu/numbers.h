#pragma once

#include <bit>
#include <cstdint>

#include "kernels/view.h"

namespace shardwright::cpu {

/// The numbers of a view. Throws std::invalid_argument where it holds no fp32.
float* floats(const View& view);
const float* floats(const In& in);
/// Ids, and masks of bytes.
const std::int64_t* ids(const In& in);

/// e^x in fp32, relative error below 2e-7, without branches, so that loops of it become vectors. Below -87 it is the
/// smallest normal number, above 88 the largest: never 0, never infinite. What is no number stays so.
inline float exponential(float x) {
  const float in_range = x > -87.0f ? (x < 88.0f ? x : 88.0f) : -87.0f;  // also for what is no number
  const float halves = in_range * 1.44269504f + (in_range < 0.0f ? -0.5f : 0.5f);
  const auto power = static_cast<std::int32_t>(halves);  // truncates: the nearest whole number
  const auto whole = static_cast<float>(power);
  // ln 2 in two parts, of which the first has few digits: their products with `whole` are exact enough (Cody, Waite).
  const float r = (in_range - whole * 0.693359375f) + whole * 2.12194440e-4f;
  // Minimax polynomial of e^r on [-ln 2 / 2, ln 2 / 2] (Cephes, expf).
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * r * r + r + 1.0f;
  const float scaled = e * std::bit_cast<float>((power + 127) << 23);
  return x == x ? scaled : x;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/// Sums of term(0) to term(n - 1), in lanes of their own that are added last: the compiler may not reorder one sum into
/// a vector, and 16 short sums round less than one long one.
template <typename Term>
float sum_of(std::int64_t n, Term term) {
  constexpr int kLanes = 16;
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  float rest = 0;
  for (; i < n; ++i) rest += term(i);
  for (const float lane : lanes) rest += lane;
  return rest;
}

}  // namespace shardwright::cpu
