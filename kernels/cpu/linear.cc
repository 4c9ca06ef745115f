#include <vector>

#include "kernels/cpu/contraction.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::floats;

void CpuOperators::contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                               bool accumulate) {
  // Masks are bytes: made numbers first.
  std::vector<float> made_a, made_b;
  const auto numbers = [&](const In& in, std::vector<float>& made) {
    if (in.element != Element::byte) return floats(in);
    made.resize(static_cast<std::size_t>(in.elements));
    cast(in, {made.data(), in.elements, Element::fp32});
    return static_cast<const float*>(made.data());
  };
  cpu::contract(numbers(a.data, made_a), numbers(b.data, made_b), floats(out), loops_of(a, b, out_labels), accumulate);
}

void CpuOperators::add_bias(const Labelled& x, const Labelled& bias, View y) {
  cast(x.data, y);
  const float one = 1.0f;
  cpu::contract(
      floats(bias.data), &one, floats(y),
      [&] {
        // Every label of x moves y; those that the bias lacks leave it where it is.
        std::vector<Loop> loops;
        for (std::size_t i = 0; i < x.labels.size(); ++i)
          loops.push_back({x.extents[i], stride_of(bias.labels, bias.extents, x.labels[i]), 0,
                           stride_of(x.labels, x.extents, x.labels[i])});
        return loops;
      }(),
      true);
}

void CpuOperators::add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) {
  const float one = 1.0f;
  cpu::contract(floats(dy.data), &one, floats(d_bias), loops_of(dy, Labelled{}, bias_labels), false);
}

}  // namespace shardwright
