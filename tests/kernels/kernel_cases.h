#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/operators.h"

namespace shardwright {

/// Buffers of one run of a kernel on one backend, filled with numbers that the type holds exactly, so that all
/// backends compute from the same ones.
class KernelBench {
 public:
  explicit KernelBench(Operators& operators, DataType type) : operators_(operators), type_(type) {}

  View numbers(std::int64_t count, double scale = 1);
  View ids(std::int64_t count, std::int64_t below);  // also some outside: -1 and `below`
  View mask(std::int64_t count);                     // bytes
  View result(std::int64_t count);                   // holds what is no number before
  View result_of(std::int64_t count, Element element);
  View result_from(View filled);  // what the kernel changes in place
  Labelled labelled(std::vector<int> labels, std::vector<std::int64_t> extents);

  Operators& operators() { return operators_; }
  std::vector<std::vector<double>> results();

 private:
  View filled(const std::vector<double>& values, Element element);
  double next();
  Operators& operators_;
  DataType type_;
  std::uint64_t state_ = 1;
  std::vector<std::shared_ptr<void>> memory_;
  std::vector<View> results_;
};

/// One kernel at one shape. The same list runs on each backend against the reference.
struct KernelCase {
  std::string name;
  double sum_length = 1;  // of the longest sum in it: what errors grow with
  std::function<void(KernelBench&)> run;
};
std::vector<KernelCase> kernel_cases();

/// CHECKs every case, computed in that type, against the reference.
void check_against_reference(Operators& operators, DataType type);

/// Of `got` to `expected`, relative to the largest number of each result. What is no number must be none in both.
double relative_difference(const std::vector<std::vector<double>>& got,
                           const std::vector<std::vector<double>>& expected);

}  // namespace shardwright
