#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::each;
using cpu::floats;
using cpu::sum_of;

namespace {

constexpr float kEpsilon = 1e-5f;

/// Mean (0 for rms) and 1 / root of the mean square around it, of one row.
struct Moments {
  float mean = 0, inverse = 1;
};

Moments moments(const float* x, std::int64_t width, bool centred) {
  const auto n = static_cast<float>(width);
  Moments m;
  if (centred) {
    m.mean = sum_of(width, [x](std::int64_t i) { return x[i]; }) / n;
  }
  const float mean = m.mean;
  const float square = sum_of(width, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  m.inverse = 1.0f / std::sqrt(square / n + kEpsilon);
  return m;
}

/// See reference/norm.cc for the formula. What is null is not wanted.
void norm_gradient(const float* x, const float* weight, const float* dy, std::int64_t rows, std::int64_t width,
                   bool centred, float* dx, float* d_weight, float* d_bias) {
  const auto n = static_cast<float>(width);
  std::vector<float> normed_row(static_cast<std::size_t>(width));
  float* normed = normed_row.data();
  for (float* sum : {d_weight, d_bias})
    if (sum) std::fill_n(sum, width, 0.0f);
  for (std::int64_t row = 0; row < rows; ++row, x += width, dy += width) {
    const Moments m = moments(x, width, centred);
    each(width, [=](std::int64_t i) { normed[i] = (x[i] - m.mean) * m.inverse; });
    const float along = sum_of(width, [=](std::int64_t i) { return dy[i] * weight[i] * normed[i]; }) / n;
    const float mean = centred ? sum_of(width, [=](std::int64_t i) { return dy[i] * weight[i]; }) / n : 0.0f;
    if (d_weight) each(width, [=](std::int64_t i) { d_weight[i] += dy[i] * normed[i]; });
    if (d_bias) each(width, [=](std::int64_t i) { d_bias[i] += dy[i]; });
    if (!dx) continue;
    each(width, [=](std::int64_t i) { dx[i] = m.inverse * (dy[i] * weight[i] - normed[i] * along - mean); });
    dx += width;
  }
}

float* wanted(const View& view) { return view.empty() ? nullptr : floats(view); }

}  // namespace

void CpuOperators::rms_norm(In x, In weight, View y, View normalised) {
  const float *a = floats(x), *w = floats(weight);
  float *to = floats(y), *plain = wanted(normalised);
  const std::int64_t width = weight.elements;
  for (std::int64_t row = 0; row < x.elements / width; ++row, a += width, to += width) {
    const float inverse = moments(a, width, false).inverse;
    if (plain) {
      each(width, [=](std::int64_t i) { plain[i] = a[i] * inverse; });
      plain += width;
    }
    each(width, [=](std::int64_t i) { to[i] = a[i] * inverse * w[i]; });
  }
}

void CpuOperators::layer_norm(In x, In weight, In bias, View y) {
  const float *a = floats(x), *w = floats(weight), *b = floats(bias);
  float* to = floats(y);
  const std::int64_t width = weight.elements;
  for (std::int64_t row = 0; row < x.elements / width; ++row, a += width, to += width) {
    const Moments m = moments(a, width, true);
    each(width, [=](std::int64_t i) { to[i] = (a[i] - m.mean) * m.inverse * w[i] + b[i]; });
  }
}

void CpuOperators::rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) {
  norm_gradient(floats(x), floats(weight), floats(dy), x.elements / weight.elements, weight.elements, false,
                wanted(d.x), wanted(d.weight), nullptr);
}

void CpuOperators::layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) {
  norm_gradient(floats(x), floats(weight), floats(dy), x.elements / weight.elements, weight.elements, true, wanted(d.x),
                wanted(d.weight), wanted(d.bias));
}

}  // namespace shardwright
