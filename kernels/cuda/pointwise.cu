#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;
using cuda::pointwise;

SHARDWRIGHT_DEVICE float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }
SHARDWRIGHT_DEVICE float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

struct Gelu {
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[1], float (&y)[1]) const {
    y[0] = x[0] * normal_cdf(x[0]);
  }
};
struct GeluGradient {
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[2], float (&d)[1]) const {
    constexpr float kPeak = 0.39894228040143268f;  // of the normal distribution's density: 1 / root(2 pi)
    d[0] = x[1] * (normal_cdf(x[0]) + x[0] * kPeak * expf(-0.5f * x[0] * x[0]));
  }
};
struct Silu {
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[1], float (&y)[1]) const {
    y[0] = x[0] * sigmoid_of(x[0]);
  }
};
struct GatedSilu {
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[2], float (&y)[1]) const {
    y[0] = x[0] * sigmoid_of(x[0]) * x[1];
  }
};
struct GatedSiluGradient {  // of gate, up, dy
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[3], float (&d)[2]) const {
    const float s = sigmoid_of(x[0]);
    d[0] = x[2] * x[1] * s * (1.0f + x[0] * (1.0f - s));
    d[1] = x[2] * x[0] * s;
  }
};
struct Dropout {
  cuda::Numbers mask;
  float scale;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i, const float (&x)[1], float (&y)[1]) const {
    y[0] = x[0] * mask.at(i) * scale;
  }
};

template <int terms>
struct Sum {
  SHARDWRIGHT_DEVICE void operator()(std::int64_t, const float (&x)[terms], float (&y)[1]) const {
    y[0] = x[0];
    for (int k = 1; k < terms; ++k) y[0] += x[k];
  }
};

template <typename Number>
struct MultiplyRows {
  const Number* x;
  cuda::Numbers scale;
  bool sigmoid;
  Number* y;
  std::int64_t width;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const float given = scale.at(row), factor = sigmoid ? sigmoid_of(given) : given;
    const Number* from = x + row * width;
    Number* to = y + row * width;
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      float a[decltype(count)::value];
      cuda::load(from + i, a);
      for (float& v : a) v *= factor;
      cuda::store(a, to + i);
    });
  }
};

template <typename Number>
struct SigmoidScaleGradient {
  const Number *x, *dy;
  cuda::Numbers scale;
  cuda::Places d_scale;
  std::int64_t width;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const float along = cuda::row_product(block, x + row * width, dy + row * width, width, pieces);
    const float share = sigmoid_of(scale.at(row));
    if (block.thread() == 0) d_scale.set(row, along * share * (1.0f - share));
  }
};

/// A piece of pairs of one row: the first half's numbers, and those half a width behind them.
template <typename Number, int count>
struct Turn {
  const Number* x;
  Number* y;
  const double* frequencies;
  RotaryShape shape;
  float direction;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t piece) const {
    constexpr double kTurn = 6.283185307179586476925;
    const std::int64_t half = shape.width / 2, in_row = half / count;
    const std::int64_t row = piece / in_row, first = piece % in_row * count;
    const std::int64_t at = row * shape.width + first, position = row / shape.inner % shape.sequence;
    float a[count], b[count], to_a[count], to_b[count];
    cuda::load(x + at, a);
    cuda::load(x + at + half, b);
    for (int k = 0; k < count; ++k) {
      // Whole turns are taken away in double precision: single precision does for the rest.
      const double angle = static_cast<double>(shape.first_position + position) * frequencies[first + k];
      const auto rest = static_cast<float>(angle - kTurn * rint(angle / kTurn));
      const float cosine = cosf(rest), sine = direction * sinf(rest);
      to_a[k] = cosine * a[k] - sine * b[k];
      to_b[k] = sine * a[k] + cosine * b[k];
    }
    cuda::store(to_a, y + at);
    cuda::store(to_b, y + at + half);
  }
};

}  // namespace

void CudaOperators::gelu(In x, View y) { pointwise<1, 1>(device_, Gelu{}, {x}, {y}); }
void CudaOperators::gelu_gradient(In x, In dy, View dx) { pointwise<2, 1>(device_, GeluGradient{}, {x, dy}, {dx}); }
void CudaOperators::silu(In x, View y) { pointwise<1, 1>(device_, Silu{}, {x}, {y}); }
void CudaOperators::gated_silu(In gate, In up, View y) { pointwise<2, 1>(device_, GatedSilu{}, {gate, up}, {y}); }
void CudaOperators::gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) {
  pointwise<3, 2>(device_, GatedSiluGradient{}, {gate, up, dy}, {d_gate, d_up});
}
void CudaOperators::dropout(In x, In mask, double probability, View y) {
  pointwise<1, 1>(device_, Dropout{mask, static_cast<float>(1.0 / (1.0 - probability))}, {x}, {y});
}

void CudaOperators::multiply_rows(In x, In scale, bool sigmoid, View y) {
  if (x.empty()) return;
  cuda::visit_formats({x, y}, [&](auto number) {
    using Number = decltype(number);
    const std::int64_t rows = scale.elements, width = x.elements / rows;
    const bool pieces = cuda::in_pieces<Number>(width, {x.data, y.data});
    cuda::launch_blocks(
        device_, rows, cuda::threads_for_row<Number>(width, pieces), 0,
        MultiplyRows<Number>{cuda::data_of<Number>(x), scale, sigmoid, cuda::data_of<Number>(y), width, pieces});
  });
}

void CudaOperators::sigmoid_scale(In x, In scale, View y) { multiply_rows(x, scale, true, y); }
void CudaOperators::sigmoid_scale_gradient_x(In scale, In dy, View dx) { multiply_rows(dy, scale, true, dx); }
void CudaOperators::scale_rows(In x, In scale, View y) { multiply_rows(x, scale, false, y); }

void CudaOperators::sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) {
  if (scale.empty()) return;
  cuda::visit_formats({x, dy}, [&](auto number) {
    using Number = decltype(number);
    const std::int64_t rows = scale.elements, width = x.elements / rows;
    const bool pieces = cuda::in_pieces<Number>(width, {x.data, dy.data});
    cuda::launch_blocks(device_, rows, cuda::threads_for_row<Number>(width, pieces), 0,
                        SigmoidScaleGradient<Number>{cuda::data_of<Number>(x), cuda::data_of<Number>(dy), scale,
                                                     d_scale, width, pieces});
  });
}

void CudaOperators::turn(In x, const RotaryShape& shape, float direction, View y) {
  assert(shape.width % 2 == 0 && "pairs of elements are turned");
  if (x.empty()) return;
  const std::int64_t half = shape.width / 2;
  auto& table = rotary_frequencies_[shape.width];
  if (!table) {
    std::vector<double> frequencies(static_cast<std::size_t>(half));
    for (std::int64_t i = 0; i < half; ++i)
      frequencies[static_cast<std::size_t>(i)] =
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.width));
    const Bytes size = {half * static_cast<std::int64_t>(sizeof(double))};
    table = device_.allocate(size);
    device_.upload(frequencies.data(), table.get(), size);
  }
  cuda::visit_formats({x, y}, [&](auto number) {
    using Number = decltype(number);
    const auto launch = [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      cuda::launch_each(device_, x.elements / 2 / kCount,
                        Turn<Number, kCount>{cuda::data_of<Number>(x), cuda::data_of<Number>(y),
                                             static_cast<const double*>(table.get()), shape, direction});
    };
    if (cuda::in_pieces<Number>(half, {x.data, y.data}))
      launch(cuda::Count<cuda::kPiece<Number>>{});
    else
      launch(cuda::Count<1>{});
  });
}

void CudaOperators::rotary(In x, const RotaryShape& shape, View y) { turn(x, shape, 1.0f, y); }
void CudaOperators::rotary_gradient(In dy, const RotaryShape& shape, View dx) { turn(dy, shape, -1.0f, dx); }

void CudaOperators::residual_sum(const std::vector<In>& terms, View y) {
  if (terms.empty()) return fill(y, 0);
  if (terms.size() == 1) {
    if (terms[0].data != y.data) cast(terms[0], y);
    return;
  }
  // Up to four at once; `y` may be any one term: of more than four it goes first, before it is overwritten.
  std::vector<In> left = terms;
  const auto own = std::find_if(left.begin(), left.end(), [&](const In& term) { return term.data == y.data; });
  if (own != left.end()) std::iter_swap(left.begin(), own);
  std::size_t at = 0;
  In first = left[at++];
  while (at < left.size()) {
    const std::size_t more = std::min<std::size_t>(left.size() - at, 3);
    if (more == 1)
      pointwise<2, 1>(device_, Sum<2>{}, {first, left[at]}, {y});
    else if (more == 2)
      pointwise<3, 1>(device_, Sum<3>{}, {first, left[at], left[at + 1]}, {y});
    else
      pointwise<4, 1>(device_, Sum<4>{}, {first, left[at], left[at + 1], left[at + 2]}, {y});
    at += more;
    first = y;
  }
}

}  // namespace shardwright
