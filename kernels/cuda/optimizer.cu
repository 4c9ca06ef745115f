#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;

struct AdamNumbers {
  float beta1, beta2, other1, other2, epsilon, scale, rate, decay, correction1, correction2;
};

/// Four weights at once: 16 bytes of fp32, 8 of formats half as wide.
template <typename Gradient, typename Weight>
struct Adam {
  static constexpr int kCount = 4;
  const Gradient* gradient;
  Weight *weight, *first, *second;
  cuda::Places copy;  // without data: not wanted
  AdamNumbers s;
  std::int64_t elements;
  bool pieces;

  template <int count>
  SHARDWRIGHT_DEVICE void visit(std::int64_t i) const {
    float d[count], w[count], m[count], v[count];
    cuda::load(gradient + i, d);
    cuda::load(weight + i, w);
    cuda::load(first + i, m);
    cuda::load(second + i, v);
    for (int k = 0; k < count; ++k) {
      const float g = d[k] * s.scale;
      m[k] = s.beta1 * m[k] + s.other1 * g;
      v[k] = s.beta2 * v[k] + s.other2 * g * g;
      w[k] = s.decay * w[k] - s.rate * (m[k] * s.correction1) / (sqrtf(v[k] * s.correction2) + s.epsilon);
    }
    cuda::store(w, weight + i);
    cuda::store(m, first + i);
    cuda::store(v, second + i);
    if (copy.data) write_copy(w, i);
  }
  template <int count>
  SHARDWRIGHT_DEVICE void write_copy(const float (&w)[count], std::int64_t i) const {
    if (copy.element == Element::bf16) return cuda::store(w, static_cast<cuda::Bfloat*>(copy.data) + i);
    if (copy.element == Element::fp16) return cuda::store(w, static_cast<cuda::Half*>(copy.data) + i);
    for (int k = 0; k < count; ++k) copy.set(i + k, w[k]);
  }
  SHARDWRIGHT_DEVICE void operator()(std::int64_t piece) const {
    const std::int64_t begin = piece * kCount;
    if (pieces && begin + kCount <= elements) return visit<kCount>(begin);
    for (std::int64_t i = begin; i < begin + kCount && i < elements; ++i) visit<1>(i);
  }
};

/// Squares of every blocks-th run of threads' numbers, in double precision between threads.
template <typename Number>
struct SquareSum {
  const Number* x;
  std::int64_t elements, blocks;
  bool pieces;
  double* sums;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t which) const {
    constexpr int kCount = cuda::kPiece<Number>;
    double total = 0;
    const std::int64_t whole = pieces ? elements / kCount : 0, step = blocks * block.threads();
    for (std::int64_t p = which * block.threads() + block.thread(); p < whole; p += step) {
      float a[kCount], sum = 0;
      cuda::load(x + p * kCount, a);
      for (const float v : a) sum += v * v;
      total += static_cast<double>(sum);
    }
    for (std::int64_t i = whole * kCount + which * block.threads() + block.thread(); i < elements; i += step) {
      const float v = cuda::to_float(x[i]);
      total += static_cast<double>(v * v);
    }
    total = block.sum(total);
    if (block.thread() == 0) sums[which] = total;
  }
};

struct AddSums {
  const double* sums;
  std::int64_t count;
  cuda::Places to;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t) const {
    double sum = 0;
    for (std::int64_t i = block.thread(); i < count; i += block.threads()) sum += sums[i];
    sum = block.sum(sum);
    if (block.thread() == 0) to.set(0, static_cast<float>(sum));
  }
};

}  // namespace

void CudaOperators::adam_step(const AdamStep& s, In gradient, View weight, View first_moment, View second_moment,
                              View copy) {
  if (weight.empty()) return;
  const auto single = [](double x) { return static_cast<float>(x); };
  const auto correction = [&](double beta) {
    return single(1.0 / (1.0 - std::pow(beta, static_cast<double>(s.step))));
  };
  const AdamNumbers numbers = {single(s.beta1),         single(s.beta2),
                               single(1.0 - s.beta1),   single(1.0 - s.beta2),
                               single(s.epsilon),       single(s.gradient_scale),
                               single(s.learning_rate), single(1.0 - s.learning_rate * s.weight_decay),
                               correction(s.beta1),     correction(s.beta2)};
  cuda::visit_format(gradient.element, [&](auto of_gradient) {
    cuda::visit_formats({weight, first_moment, second_moment}, [&](auto of_weight) {
      using Gradient = decltype(of_gradient);
      using Weight = decltype(of_weight);
      Adam<Gradient, Weight> kernel = {static_cast<const Gradient*>(gradient.data),
                                       static_cast<Weight*>(weight.data),
                                       static_cast<Weight*>(first_moment.data),
                                       static_cast<Weight*>(second_moment.data),
                                       copy.empty() ? View{} : copy,
                                       numbers,
                                       weight.elements,
                                       true};
      for (const void* at :
           {gradient.data, static_cast<const void*>(weight.data), static_cast<const void*>(first_moment.data),
            static_cast<const void*>(second_moment.data), static_cast<const void*>(copy.data)})
        kernel.pieces = kernel.pieces && cuda::is_aligned(at, 16);
      cuda::launch_each(device_, (weight.elements + kernel.kCount - 1) / kernel.kCount, kernel);
    });
  });
}

void CudaOperators::square_sum(In x, View sum) {
  constexpr int kThreads = 512;
  const std::int64_t blocks = 4 * device_.properties().multiprocessors;
  auto* sums = static_cast<double*>(device_.scratch({blocks * static_cast<std::int64_t>(sizeof(double))}));
  cuda::visit_format(x.element, [&](auto number) {
    using Number = decltype(number);
    cuda::launch_blocks(
        device_, blocks, kThreads, 0,
        SquareSum<Number>{cuda::data_of<Number>(x), x.elements, blocks, cuda::is_aligned(x.data, 16), sums});
  });
  cuda::launch_blocks(device_, 1, cuda::threads_for(blocks), 0, AddSums{sums, blocks, sum});
}

}  // namespace shardwright
