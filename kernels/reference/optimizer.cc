#include <cmath>

#include "kernels/reference/reference.h"

namespace shardwright::reference {

void adam_step(const AdamStep& s, In gradient, Array& weight, Array& first, Array& second) {
  const double correction1 = 1.0 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = 1.0 - std::pow(s.beta2, static_cast<double>(s.step));
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const double g = gradient[i] * s.gradient_scale;
    first[i] = s.beta1 * first[i] + (1.0 - s.beta1) * g;
    second[i] = s.beta2 * second[i] + (1.0 - s.beta2) * g * g;
    const double direction = first[i] / correction1 / (std::sqrt(second[i] / correction2) + s.epsilon);
    weight[i] -= s.learning_rate * (direction + s.weight_decay * weight[i]);
  }
}

}  // namespace shardwright::reference
