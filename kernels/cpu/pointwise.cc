#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::each;
using cpu::floats;
using cpu::sigmoid;

namespace cpu {

namespace {
[[noreturn]] void complain(std::string_view wanted, Element got) {
  throw std::invalid_argument("the cpu backend computes in " + std::string(wanted) + ", not in " +
                              std::string(name_of(got)));
}
}  // namespace

float* floats(const View& view) {
  if (view.element != Element::fp32 && !view.empty()) complain("fp32", view.element);
  return static_cast<float*>(view.data);
}
const float* floats(const In& in) {
  if (in.element != Element::fp32 && !in.empty()) complain("fp32", in.element);
  return static_cast<const float*>(in.data);
}
const std::int64_t* ids(const In& in) {
  if (in.element != Element::int64 && !in.empty()) complain("ids of int64", in.element);
  return static_cast<const std::int64_t*>(in.data);
}

}  // namespace cpu

namespace {

/// `direction` 1 turns forward, -1 back. `turns`: of each position cosines, then sines.
void turn(const float* x, const RotaryShape& shape, const float* turns, float direction, float* y) {
  assert(shape.width % 2 == 0 && "pairs of elements are turned");
  const std::int64_t half = shape.width / 2;
  for (std::int64_t o = 0; o < shape.outer; ++o) {
    for (std::int64_t s = 0; s < shape.sequence; ++s) {
      const float *c = turns + s * shape.width, *d = c + half;
      for (std::int64_t n = 0; n < shape.inner; ++n) {
        const std::int64_t row = ((o * shape.sequence + s) * shape.inner + n) * shape.width;
        const float *a = x + row, *b = x + row + half;
        float *to_a = y + row, *to_b = y + row + half;
        each(half, [=](std::int64_t i) {
          const float sine = direction * d[i];
          to_a[i] = c[i] * a[i] - sine * b[i];
          to_b[i] = sine * a[i] + c[i] * b[i];
        });
      }
    }
  }
}

/// `visit(row, width)` for each row, `rows` of them in `elements`.
template <typename Visit>
void for_each_row(std::int64_t elements, std::int64_t rows, Visit visit) {
  for (std::int64_t row = 0; row < rows; ++row) visit(row, elements / rows);
}

}  // namespace

Element CpuOperators::element(DataType type) const {
  if (type != DataType::fp32)
    throw std::invalid_argument("the cpu backend computes in fp32, not in " + std::string(name_of(type)));
  return Element::fp32;
}

void CpuOperators::gelu(In x, View y) {
  const float* a = floats(x);
  float* to = floats(y);
  each(y.elements, [=](std::int64_t i) {
    to[i] = 0.5f * a[i] * (1.0f + std::erf(a[i] * static_cast<float>(1.0 / std::numbers::sqrt2)));
  });
}

void CpuOperators::gelu_gradient(In x, In dy, View dx) {
  const float *a = floats(x), *d = floats(dy);
  float* to = floats(dx);
  const auto root = static_cast<float>(1.0 / std::sqrt(2.0 * std::numbers::pi));
  each(dx.elements, [=](std::int64_t i) {
    const float cdf = 0.5f * (1.0f + std::erf(a[i] * static_cast<float>(1.0 / std::numbers::sqrt2)));
    to[i] = d[i] * (cdf + a[i] * root * cpu::exponential(-0.5f * a[i] * a[i]));
  });
}

void CpuOperators::silu(In x, View y) {
  const float* a = floats(x);
  float* to = floats(y);
  each(y.elements, [=](std::int64_t i) { to[i] = a[i] * sigmoid(a[i]); });
}

void CpuOperators::gated_silu(In gate, In up, View y) {
  const float *g = floats(gate), *u = floats(up);
  float* to = floats(y);
  each(y.elements, [=](std::int64_t i) { to[i] = g[i] * sigmoid(g[i]) * u[i]; });
}

void CpuOperators::gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) {
  const float *g = floats(gate), *u = floats(up), *d = floats(dy);
  float *to_gate = floats(d_gate), *to_up = floats(d_up);
  each(gate.elements, [=](std::int64_t i) {
    const float s = sigmoid(g[i]), before = d[i];
    to_gate[i] = before * u[i] * s * (1.0f + g[i] * (1.0f - s));
    to_up[i] = before * g[i] * s;
  });
}

void CpuOperators::sigmoid_scale(In x, In scale, View y) {
  const float *a = floats(x), *s = floats(scale);
  float* to = floats(y);
  for_each_row(x.elements, scale.elements, [&](std::int64_t row, std::int64_t width) {
    const float factor = sigmoid(s[row]);
    each(width,
         [x_row = a + row * width, y_row = to + row * width, factor](std::int64_t i) { y_row[i] = factor * x_row[i]; });
  });
}

void CpuOperators::sigmoid_scale_gradient_x(In scale, In dy, View dx) { sigmoid_scale(dy, scale, dx); }

void CpuOperators::sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) {
  const float *a = floats(x), *s = floats(scale), *d = floats(dy);
  float* to = floats(d_scale);
  for_each_row(x.elements, scale.elements, [&](std::int64_t row, std::int64_t width) {
    const float *x_row = a + row * width, *d_row = d + row * width;
    const float along = cpu::sum_of(width, [=](std::int64_t i) { return x_row[i] * d_row[i]; });
    const float share = sigmoid(s[row]);
    to[row] = along * share * (1.0f - share);
  });
}

void CpuOperators::scale_rows(In x, In scale, View y) {
  const float *a = floats(x), *s = floats(scale);
  float* to = floats(y);
  for_each_row(x.elements, scale.elements, [&](std::int64_t row, std::int64_t width) {
    each(width, [x_row = a + row * width, y_row = to + row * width, factor = s[row]](std::int64_t i) {
      y_row[i] = factor * x_row[i];
    });
  });
}

void CpuOperators::dropout(In x, In mask, double probability, View y) {
  const float* a = floats(x);
  float* to = floats(y);
  const auto scale = static_cast<float>(1.0 / (1.0 - probability));
  visit_numbers(mask, [&](const auto* keep) {
    each(y.elements, [=](std::int64_t i) { to[i] = a[i] * static_cast<float>(keep[i]) * scale; });
  });
}

/// Cosines and sines take longer than the turning: they are kept.
const float* CpuOperators::turns_of(const RotaryShape& shape) {
  std::vector<float>& turns = turns_[{shape.width, shape.first_position, shape.sequence}];
  if (!turns.empty()) return turns.data();
  const std::int64_t half = shape.width / 2;
  turns.resize(static_cast<std::size_t>(shape.sequence * shape.width));
  for (std::int64_t i = 0; i < half; ++i) {
    const double turn = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.width));
    for (std::int64_t s = 0; s < shape.sequence; ++s) {
      const double angle = static_cast<double>(shape.first_position + s) * turn;
      turns[static_cast<std::size_t>(s * shape.width + i)] = static_cast<float>(std::cos(angle));
      turns[static_cast<std::size_t>(s * shape.width + half + i)] = static_cast<float>(std::sin(angle));
    }
  }
  return turns.data();
}

void CpuOperators::rotary(In x, const RotaryShape& shape, View y) {
  turn(floats(x), shape, turns_of(shape), 1.0f, floats(y));
}

void CpuOperators::rotary_gradient(In dy, const RotaryShape& shape, View dx) {
  turn(floats(dy), shape, turns_of(shape), -1.0f, floats(dx));
}

void CpuOperators::residual_sum(const std::vector<In>& terms, View y) {
  float* to = floats(y);
  if (terms.empty()) return fill(y, 0);
  // Pairs are added first, in a pass of its own for each further term; `y` may be any one term.
  std::vector<const float*> left;
  bool started = false;
  for (const In& term : terms) {
    if (term.data == y.data && !started)
      started = true;
    else
      left.push_back(floats(term));
  }
  std::size_t next = 0;
  if (!started && left.size() == 1) return cast(terms[0], y);
  if (!started) {
    const float *a = left[0], *b = left[1];
    each(y.elements, [=](std::int64_t i) { to[i] = a[i] + b[i]; });
    next = 2;
  }
  for (; next < left.size(); ++next) each(y.elements, [to, a = left[next]](std::int64_t i) { to[i] += a[i]; });
}

}  // namespace shardwright
