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
  const float below = 88.0f < x ? 88.0f : x;  // in this order what is no number comes through, by one instruction each
  const float in_range = -87.0f > below ? -87.0f : below;
  // Of a number near 1.5 * 2^23 the last bits are the nearest whole number.
  constexpr float kWhole = 12582912.0f;
  const float shifted = in_range * 1.44269504f + kWhole;
  const float whole = shifted - kWhole;
  const std::uint32_t power = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kWhole);
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
  return e * std::bit_cast<float>((power + 127u) << 23);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// Loops are compiled for several widths of vectors, of which the processor's is taken when the program starts. Not by
// clang, which does so for no templates, and not where a sanitizer is at work before the choice is made.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SHARDWRIGHT_EACH_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SHARDWRIGHT_EACH_WIDTH
#endif

/// Calls body(0) to body(n - 1), which do not hang on each other.
template <typename Body>
SHARDWRIGHT_EACH_WIDTH static void each(std::int64_t n, Body body) {
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

constexpr int kLanes = 16;

/// Sums of term(0) to term(n - 1), in lanes of their own that are added last: the compiler may not reorder one sum into
/// a vector, and 16 short sums round less than one long one.
template <typename Term>
SHARDWRIGHT_EACH_WIDTH static float sum_of(std::int64_t n, Term term) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  float rest = 0;
  for (; i < n; ++i) rest += term(i);
  for (const float lane : lanes) rest += lane;
  return rest;
}

/// The largest of x[0] to x[n - 1], and of `before`; what is no number is passed over.
SHARDWRIGHT_EACH_WIDTH static inline float largest_of(const float* x, std::int64_t n, float before) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = before;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
  for (; i < n; ++i) before = x[i] > before ? x[i] : before;
  for (const float lane : lanes) before = lane > before ? lane : before;
  return before;
}

}  // namespace shardwright::cpu
