#include "hardware/minimize.h"

#include <nlopt.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <memory>

namespace shardwright {
namespace {

/// Ranges that do not begin at 0 are searched by factors: all become 0 .. 1.
bool by_factors(const Range& range) { return range.least > 0; }

double inside(const Range& range, double share) {
  if (by_factors(range)) return range.least * std::pow(range.most / range.least, share);
  return range.least + share * (range.most - range.least);
}

double share_of(const Range& range) {
  const double share = by_factors(range) ? std::log(range.start / range.least) / std::log(range.most / range.least)
                                         : (range.start - range.least) / (range.most - range.least);
  return std::clamp(share, 0.0, 1.0);
}

struct Question {
  const std::function<double(const std::vector<double>&)>& cost;
  const std::vector<Range>& ranges;
  std::vector<double> values;
};

double ask(unsigned count, const double* shares, double*, void* data) {
  auto& question = *static_cast<Question*>(data);
  for (unsigned i = 0; i < count; ++i) question.values[i] = inside(question.ranges[i], shares[i]);
  return question.cost(question.values);
}

}  // namespace

std::vector<double> minimize(const std::function<double(const std::vector<double>&)>& cost,
                             const std::vector<Range>& ranges, int evaluations) {
  assert(!ranges.empty() && "nothing to choose");
  const auto count = static_cast<unsigned>(ranges.size());
  const std::unique_ptr<std::remove_pointer_t<nlopt_opt>, decltype(&nlopt_destroy)> search(
      nlopt_create(NLOPT_LN_SBPLX, count), nlopt_destroy);
  Question question{cost, ranges, std::vector<double>(count)};
  nlopt_set_min_objective(search.get(), ask, &question);
  nlopt_set_lower_bounds1(search.get(), 0);
  nlopt_set_upper_bounds1(search.get(), 1);
  nlopt_set_initial_step1(search.get(), 0.1);
  nlopt_set_xtol_rel(search.get(), 1e-4);
  nlopt_set_maxeval(search.get(), evaluations);
  std::vector<double> shares;
  for (const Range& range : ranges) shares.push_back(share_of(range));
  double least = 0;
  nlopt_optimize(search.get(), shares.data(), &least);
  std::vector<double> values;
  for (unsigned i = 0; i < count; ++i) values.push_back(inside(ranges[i], shares[i]));
  return values;
}

}  // namespace shardwright
