#include <cmath>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

constexpr double kEpsilon = 1e-5;

/// Mean (0 for rms) and 1 / root of the mean square around it, of one row.
struct Moments {
  double mean = 0.0, inverse = 1.0;
};

Moments moments(In row, bool centred) {
  const auto n = static_cast<double>(row.size());
  Moments m;
  if (centred) {
    for (double v : row) m.mean += v / n;
  }
  double square = 0.0;
  for (double v : row) square += (v - m.mean) * (v - m.mean) / n;
  m.inverse = 1.0 / std::sqrt(square + kEpsilon);
  return m;
}

Array norm(In x, In weight, In bias, bool centred) {
  const std::size_t width = weight.size();
  Array y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    const Moments m = moments(x.subspan(row, width), centred);
    for (std::size_t i = 0; i < width; ++i) {
      y[row + i] = (x[row + i] - m.mean) * m.inverse * weight[i] + (bias.empty() ? 0.0 : bias[i]);
    }
  }
  return y;
}

/// With n = (x - mean) * inverse and g = dy * weight: dx = inverse * (g - n mean(g n) - [centred] mean(g)).
NormGradient norm_gradient(In x, In weight, In dy, bool centred) {
  const std::size_t width = weight.size();
  const auto n = static_cast<double>(width);
  NormGradient d = {Array(x.size()), Array(width, 0.0), Array(centred ? width : 0, 0.0)};
  for (std::size_t row = 0; row < x.size(); row += width) {
    const Moments m = moments(x.subspan(row, width), centred);
    double along = 0.0, mean = 0.0;
    for (std::size_t i = 0; i < width; ++i) {
      const double normed = (x[row + i] - m.mean) * m.inverse;
      along += dy[row + i] * weight[i] * normed / n;
      if (centred) mean += dy[row + i] * weight[i] / n;
      d.weight[i] += dy[row + i] * normed;
      if (centred) d.bias[i] += dy[row + i];
    }
    for (std::size_t i = 0; i < width; ++i) {
      const double normed = (x[row + i] - m.mean) * m.inverse;
      d.x[row + i] = m.inverse * (dy[row + i] * weight[i] - normed * along - mean);
    }
  }
  return d;
}

}  // namespace

Array rms_norm(In x, In weight) { return norm(x, weight, {}, false); }

Array layer_norm(In x, In weight, In bias) { return norm(x, weight, bias, true); }

NormGradient rms_norm_gradient(In x, In weight, In dy) { return norm_gradient(x, weight, dy, false); }

NormGradient layer_norm_gradient(In x, In weight, In dy) { return norm_gradient(x, weight, dy, true); }

}  // namespace shardwright::reference
