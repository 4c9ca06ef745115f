#include <cassert>
#include <cmath>
#include <numbers>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double normal_cdf(double x) { return 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2)); }

double normal_density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi); }

/// `direction` 1 turns forward, -1 back.
Array turn(In x, const RotaryShape& shape, double direction) {
  assert(shape.width % 2 == 0 && "pairs of elements are turned");
  const auto half = static_cast<std::size_t>(shape.width / 2), width = static_cast<std::size_t>(shape.width);
  Array y(x.size());
  std::size_t row = 0;
  for (std::int64_t o = 0; o < shape.outer; ++o) {
    for (std::int64_t s = 0; s < shape.sequence; ++s) {
      const auto position = static_cast<double>(shape.first_position + s);
      for (std::int64_t n = 0; n < shape.inner; ++n, row += width) {
        for (std::size_t i = 0; i < half; ++i) {
          const double angle =
              position * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.width));
          const double c = std::cos(angle), d = direction * std::sin(angle);
          y[row + i] = c * x[row + i] - d * x[row + i + half];
          y[row + i + half] = d * x[row + i] + c * x[row + i + half];
        }
      }
    }
  }
  return y;
}

}  // namespace

Array add_bias(const Labelled& x, const Labelled& bias) {
  const Array ones(x.data.size(), 1.0);
  Array y = contraction({ones, x.labels, x.extents}, bias, x.labels);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += x.data[i];
  return y;
}

Array add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels) {
  const Array one = {1.0};
  return contraction(dy, {one, {}, {}}, bias_labels);
}

Array gelu(In x) {
  Array y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * normal_cdf(x[i]);
  return y;
}

Array gelu_gradient(In x, In dy) {
  Array d(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) d[i] = dy[i] * (normal_cdf(x[i]) + x[i] * normal_density(x[i]));
  return d;
}

Array gated_silu(In gate, In up) {
  Array y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return y;
}

GatedSiluGradient gated_silu_gradient(In gate, In up, In dy) {
  GatedSiluGradient d = {Array(gate.size()), Array(gate.size())};
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double s = sigmoid(gate[i]);
    d.gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
    d.up[i] = dy[i] * gate[i] * s;
  }
  return d;
}

Array sigmoid_scale(In x, In scale) {
  Array y(x.begin(), x.end());
  const std::size_t width = x.size() / scale.size();
  for (std::size_t i = 0; i < y.size(); ++i) y[i] *= sigmoid(scale[i / width]);
  return y;
}

Array sigmoid_scale_gradient_x(In scale, In dy) { return sigmoid_scale(dy, scale); }

Array sigmoid_scale_gradient_scale(In x, In scale, In dy) {
  Array d(scale.size(), 0.0);
  const std::size_t width = x.size() / scale.size();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double s = sigmoid(scale[i / width]);
    d[i / width] += dy[i] * x[i] * s * (1.0 - s);
  }
  return d;
}

Array dropout(In x, In mask, double probability) {
  Array y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * mask[i] / (1.0 - probability);
  return y;
}

Array rotary(In x, const RotaryShape& shape) { return turn(x, shape, 1.0); }

Array rotary_gradient(In dy, const RotaryShape& shape) { return turn(dy, shape, -1.0); }

}  // namespace shardwright::reference
