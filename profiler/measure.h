#pragma once

#include <deque>
#include <limits>
#include <string>
#include <variant>

#include "hardware/kernel_spec.h"
#include "kernels/backend.h"
#include "kernels/communicator.h"
#include "profiler/clock.h"

namespace shardwright {

/// When a kernel has been timed often enough. A round is so many runs, one after the other, as take `round` together.
struct StoppingRule {
  double relative_error = 0.01;  // of the median (statistics.h)
  int least = 7, most = 200;     // rounds that count
  Seconds round = {2e-4};
  Seconds longest = {3.0};  // of all rounds; the least are made all the same
  /// A round is void where the device worked for us less than `busy` of its time, or the reference kernel before it
  /// took `drift` more than it does in calm: the machine was not ours alone. Off: all rounds count.
  bool void_rounds = true;
  double busy = 0.95, drift = 0.25;
  /// Behind the n-th void round in a row it waits for n times `pause`, that others may end.
  Seconds pause = {2e-3};
  int most_void = 100;  // of one kernel
};

struct MeasuredKernel {
  Seconds time;  // the median of the slowest rank's
  double relative_error = 0;
  int rounds = 0, void_rounds = 0;
};
/// Why it has no time: a reason for a person.
struct NotMeasured {
  std::string reason;
  bool others = false;  // had the machine: another time it may be ours
};

/// Measures kernels on the ranks of a communicator, which all call, in the same order: each runs every kernel at the
/// same time as the others, and the slowest counts. Backend, ranks and clock must outlive it.
class Measurer {
 public:
  /// `reference`: a kernel of some tenths of a millisecond, whose time tells whether the machine is as it was.
  Measurer(Backend& backend, Communicator& ranks, Clock& clock, const StoppingRule& rule, const KernelSpec& reference);

  /// No kernel is timed that the backend lacks, that does not fit, or that is not the reference's within the format's
  /// tolerance.
  std::variant<MeasuredKernel, NotMeasured> measure(const KernelSpec& spec);

  /// What the reference takes in calm, as far as was seen; infinite where no round is ever void. What was measured when
  /// this was more than the rule's drift above what it is now was not measured in calm.
  Seconds calm() const { return calm_; }
  bool in_calm(Seconds calm_then) const { return !(calm_then > calm_ * (1 + rule_.drift)); }

 private:
  /// The slowest rank's time, and the least share of it that any rank was busy.
  struct Round {
    Seconds time;
    double busy = 1;
  };
  Round round(PreparedKernel& kernel, int runs);
  /// One more time of the reference.
  Seconds run_reference();
  bool drifted();
  double largest(double value);
  std::variant<MeasuredKernel, NotMeasured> check_and_time(const KernelSpec& spec);
  std::variant<MeasuredKernel, NotMeasured> time(PreparedKernel& kernel);

  Backend& backend_;
  Communicator& ranks_;
  Clock& clock_;
  StoppingRule rule_;
  std::unique_ptr<PreparedKernel> reference_;
  std::deque<Seconds> latest_;  // of the reference
  /// The least median of so many in a row: one lucky time is no measure.
  Seconds calm_ = {std::numeric_limits<double>::infinity()};
};

}  // namespace shardwright
