#include <algorithm>
#include <cassert>
#include <vector>

#include "kernels/cpu/contraction.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/cpu/numbers.h"

namespace shardwright {

using cpu::floats;

namespace {

std::int64_t stride_of(const std::vector<int>& labels, const std::vector<std::int64_t>& extents, int label) {
  std::int64_t stride = 1;
  for (std::size_t i = labels.size(); i-- > 0;) {
    if (labels[i] == label) return stride;
    stride *= extents[i];
  }
  return 0;
}

std::vector<cpu::Loop> loops_of(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels) {
  std::vector<int> labels;
  std::vector<cpu::Loop> loops;
  std::vector<std::int64_t> out_extents(out_labels.size(), 1);
  for (const Labelled* operand : {&a, &b}) {
    for (std::size_t i = 0; i < operand->labels.size(); ++i) {
      const int label = operand->labels[i];
      if (std::find(labels.begin(), labels.end(), label) != labels.end()) continue;
      labels.push_back(label);
      loops.push_back(
          {operand->extents[i], stride_of(a.labels, a.extents, label), stride_of(b.labels, b.extents, label), 0});
      for (std::size_t k = 0; k < out_labels.size(); ++k)
        if (out_labels[k] == label) out_extents[k] = operand->extents[i];
    }
  }
  for (std::size_t i = 0; i < loops.size(); ++i) loops[i].out = stride_of(out_labels, out_extents, labels[i]);
  return loops;
}

}  // namespace

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
        std::vector<cpu::Loop> loops;
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
