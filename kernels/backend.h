#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hardware/kernel_spec.h"
#include "hardware/quantities.h"

namespace shardwright {

/// Buffers filled with random numbers, algorithm chosen, nothing timed yet. Runs rotate over as many copies of the
/// buffers as the backend needs for none to be in a cache.
class PreparedKernel {
 public:
  virtual ~PreparedKernel() = default;
  /// Asynchronous, where the device is: one run, on the backend's stream.
  virtual void enqueue() = 0;
  /// Of one run against the reference in double precision, relative to the largest number of each result; on a sample
  /// of the results where all would take minutes. Waits.
  virtual double max_relative_error() = 0;
};

/// A device that kernels are measured on.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu", "cuda"
  /// Why not, "" where it does. A question: never allocates, never aborts.
  virtual std::string unsupported(const KernelSpec& spec) const = 0;
  bool supports(const KernelSpec& spec) const { return unsupported(spec).empty(); }
  /// What is allowed between a kernel and the reference: tied to the number format and the length of its sums.
  virtual double tolerance(const KernelSpec& spec) const = 0;
  /// Collective over `group`: each of its ranks calls, in the same order; ranks outside do not. A GEMM's group is one
  /// rank. Throws std::bad_alloc where its buffers do not fit.
  virtual std::unique_ptr<PreparedKernel> prepare(const KernelSpec& spec, const RankGroup& group) = 0;
  virtual Seconds time(PreparedKernel& kernel) = 0;  // one run, device time, this rank's
  virtual void synchronize() = 0;
};

}  // namespace shardwright
