#pragma once

#include <array>
#include <string>
#include <vector>

#include "hardware/kernel_spec.h"

namespace shardwright {

/// What a run found of one family of kernels: in it they took so many times as long as measured by themselves. Of the
/// family alone: neither a model, nor a layout, nor a size has a factor of its own.
struct FamilyCalibration {
  KernelFamily family = KernelFamily::gemm;
  double factor = 1;
  int operators = 0;                         ///< of the run
  std::string date;                          ///< of the run, "2026-11-23"
  double error_before = 0, error_after = 0;  ///< medians over them of |predicted / measured - 1|
};

/// Kernels that take more than so many times what was measured, or less than that part of it, are of another machine.
inline constexpr double kMostCalibration = 1000;

/// What runs found of a measured machine, family by family. A family that no run had takes what was measured.
class Calibration {
 public:
  double factor(KernelFamily family) const { return factors_[static_cast<std::size_t>(family)]; }
  /// At most one of each family, in KernelFamily's order.
  const std::vector<FamilyCalibration>& families() const { return families_; }
  /// Takes the place of what was known of the family.
  void set(const FamilyCalibration& found);

 private:
  std::array<double, kKernelFamilies> factors_ = {1, 1, 1, 1, 1, 1, 1, 1};
  std::vector<FamilyCalibration> families_;
};

/// A measured machine's `calibration.yaml`, of schema shardwright.calibration/1.
std::string calibration_file_in(const std::string& folder);
/// None where the folder has no such file. Throws InputError.
Calibration read_calibration(const std::string& folder);
/// What is read back as the same.
std::string to_yaml(const Calibration& calibration);

/// "gemm x 1.23, collective x 0.94", "" of none.
std::string to_string(const Calibration& calibration);

}  // namespace shardwright
