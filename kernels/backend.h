#pragma once

#include <memory>
#include <string>

#include "hardware/kernel_spec.h"
#include "hardware/quantities.h"

namespace shardwright {

/// Buffers filled with random numbers, algorithm chosen, nothing timed yet. Runs take turns over so much memory that a
/// run finds nothing of its own in a cache.
class PreparedKernel {
 public:
  virtual ~PreparedKernel() = default;
  /// Asynchronous, where the device is: one run, on the backend's stream.
  virtual void enqueue() = 0;
  /// Of one run against the reference in double precision, relative to the largest number of the result; of a sample of
  /// the results where all would take long. Waits.
  virtual double max_relative_error() = 0;
};

/// How long a run took on its device, and for how much of that the device worked for us: less where others had it.
struct Timed {
  Seconds wall, busy;
};

/// A device that kernels are measured on, one for each rank.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu", "cuda"
  /// Who runs a kernel of that family, as tables have it: "OpenBLAS 0.3.21". Where kernels of one family are run by
  /// several, who ran the last.
  virtual std::string library(KernelFamily family) const = 0;
  /// Why it cannot, "" where it can. A question: never allocates, never aborts.
  virtual std::string unsupported(const KernelSpec& spec) const = 0;
  bool supports(const KernelSpec& spec) const { return unsupported(spec).empty(); }
  /// What is allowed between a kernel and the reference: tied to the number format and the length of its sums.
  virtual double tolerance(const KernelSpec& spec) const = 0;
  /// Every rank calls, in the same order; a collective runs in all groups of its form at once. Throws std::bad_alloc
  /// where its buffers do not fit.
  virtual std::unique_ptr<PreparedKernel> prepare(const KernelSpec& spec) = 0;
  /// The mean of `runs`, one after the other; device time, this rank's.
  virtual Timed time(PreparedKernel& kernel, int runs) = 0;
  /// What the device was like while the last kernel that was prepared was timed, for a person: clocks, watts. "" where
  /// nobody watches.
  virtual std::string condition() const { return ""; }
};

}  // namespace shardwright
