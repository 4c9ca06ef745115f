#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::each;
using cpu::floats;

void CpuOperators::adam_step(const AdamStep& s, In gradient, View weight, View first_moment, View second_moment,
                             View copy) {
  const float* d = floats(gradient);
  float *w = floats(weight), *m = floats(first_moment), *v = floats(second_moment);
  const auto single = [](double x) { return static_cast<float>(x); };
  const float beta1 = single(s.beta1), beta2 = single(s.beta2), epsilon = single(s.epsilon),
              scale = single(s.gradient_scale), rate = single(s.learning_rate),
              decay = single(1.0 - s.learning_rate * s.weight_decay), other1 = single(1.0 - s.beta1),
              other2 = single(1.0 - s.beta2),
              correction1 = single(1.0 / (1.0 - std::pow(s.beta1, static_cast<double>(s.step)))),
              correction2 = single(1.0 / (1.0 - std::pow(s.beta2, static_cast<double>(s.step))));
  each(weight.elements, [=](std::int64_t i) {
    const float g = d[i] * scale;
    m[i] = beta1 * m[i] + other1 * g;
    v[i] = beta2 * v[i] + other2 * g * g;
    w[i] = decay * w[i] - rate * (m[i] * correction1) / (std::sqrt(v[i] * correction2) + epsilon);
  });
  if (!copy.empty()) cast(weight, copy);
}

void CpuOperators::square_sum(In x, View sum) {
  const float* a = floats(x);
  constexpr std::int64_t kRun = 4096;  // runs in fp32, their sum in double
  double total = 0;
  for (std::int64_t first = 0; first < x.elements; first += kRun) {
    const float* run = a + first;
    total += cpu::sum_of(std::min(kRun, x.elements - first), [run](std::int64_t i) { return run[i] * run[i]; });
  }
  floats(sum)[0] = static_cast<float>(total);
}

}  // namespace shardwright
