#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/reference/reference.h"

namespace shardwright::reference {
namespace {

/// The experts of one row, best first; none where a logit is not a number.
std::vector<std::size_t> chosen_experts(In logits, std::int64_t chosen) {
  for (double logit : logits)
    if (std::isnan(logit)) return {};
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  order.resize(static_cast<std::size_t>(chosen));
  return order;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

Route route(In logits, std::int64_t experts, std::int64_t chosen) {
  const auto width = static_cast<std::size_t>(experts);
  Route r = {Array(logits.size(), 0.0), Array(logits.size(), 0.0)};
  for (std::size_t row = 0; row < logits.size(); row += width) {
    const auto best = chosen_experts(logits.subspan(row, width), chosen);
    if (best.empty()) {
      std::fill_n(&r.gate[row], width, std::nan(""));
      std::fill_n(&r.mask[row], width, std::nan(""));
    }
    for (std::size_t e : best) {
      r.gate[row + e] = sigmoid(logits[row + e]);
      r.mask[row + e] = 1.0;
    }
  }
  return r;
}

Array route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen) {
  const Route r = route(logits, experts, chosen);
  Array d(logits.size());
  for (std::size_t i = 0; i < d.size(); ++i) d[i] = r.mask[i] == 0.0 ? 0.0 : d_gate[i] * r.gate[i] * (1.0 - r.gate[i]);
  return d;
}

}  // namespace shardwright::reference
