#include "profiler/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "hardware/kernel_work.h"
#include "profiler/statistics.h"

namespace shardwright {

constexpr std::size_t kInARow = 15;  // times of the reference that make a median

/// "" or why no device of any size has room or time for it; sizes below that are counted in 64 bits.
static std::string too_large(const KernelSpec& spec) {
  constexpr double kMostFlops = 1e17;  // minutes of the fastest GPU there is
  constexpr std::int64_t kMostBytes = 1ll << 46;
  if (const auto* memory = std::get_if<MemorySpec>(&spec))
    return memory->moved.value > kMostBytes ? "its buffers do not fit into the memory" : "";
  if (const auto* collective = std::get_if<CollectiveSpec>(&spec))
    return collective->held.value > kMostBytes ? "its buffers do not fit into the memory" : "";
  const std::optional<KernelWork> work = work_of(spec);
  if (!work || work->flops.value <= kMostFlops) return "";
  return fmt::format("it is of {:.1g} operations: more than can be waited for", work->flops.value);
}

Measurer::Measurer(Backend& backend, Communicator& ranks, Clock& clock, const StoppingRule& rule,
                   const KernelSpec& reference)
    : backend_(backend), ranks_(ranks), clock_(clock), rule_(rule) {
  if (!rule_.void_rounds) return;
  reference_ = backend_.prepare(reference);
  for (std::size_t i = 0; i < kInARow; ++i) run_reference();
}

double Measurer::largest(double value) {
  ranks_.all_reduce({&value, 1, Element::fp64}, Reduction::max);
  return value;
}

Measurer::Round Measurer::round(PreparedKernel& kernel, int runs) {
  ranks_.barrier();
  const Timed timed = backend_.time(kernel, runs);
  const double busy = timed.wall > Seconds{} ? timed.busy / timed.wall : 1;
  double worst[] = {timed.wall.value, -busy};
  ranks_.all_reduce({worst, 2, Element::fp64}, Reduction::max);
  return {{worst[0]}, -worst[1]};
}

Seconds Measurer::run_reference() {
  const Seconds first = round(*reference_, 1).time;  // wakes a core that paused
  const Seconds now = std::min(first, round(*reference_, 1).time);
  latest_.push_back(now);
  if (latest_.size() > kInARow) latest_.pop_front();
  if (latest_.size() == kInARow) calm_ = std::min(calm_, median_time({latest_.begin(), latest_.end()}).median);
  return now;
}

bool Measurer::drifted() { return run_reference() > calm_ * (1 + rule_.drift); }

std::variant<MeasuredKernel, NotMeasured> Measurer::time(PreparedKernel& kernel) {
  round(kernel, 1);  // warm
  const Seconds once = round(kernel, 1).time;
  constexpr double kMostRuns = 1000;
  const auto runs =
      static_cast<int>(once > Seconds{} ? std::clamp(std::ceil(rule_.round / once), 1.0, kMostRuns) : kMostRuns);

  const Seconds start = clock_.now();
  std::vector<Seconds> times;
  int void_rounds = 0, in_a_row = 0;
  while (true) {
    const bool not_ours = rule_.void_rounds && drifted();
    const Round made = round(kernel, runs);
    if (not_ours || (rule_.void_rounds && made.busy < rule_.busy)) {
      clock_.pause(rule_.pause * ++in_a_row);
      if (++void_rounds < rule_.most_void) continue;
      return NotMeasured{fmt::format("the machine was not ours alone in {} of {} rounds", void_rounds,
                                     void_rounds + static_cast<int>(times.size())),
                         true};
    }
    in_a_row = 0;
    times.push_back(made.time);
    const auto count = static_cast<int>(times.size());
    if (count < rule_.least) continue;
    const MedianTime median = median_time(times);
    const Seconds taken = {largest((clock_.now() - start).value)};  // every rank stops at the same round
    if (median.relative_error <= rule_.relative_error || count >= rule_.most || taken >= rule_.longest)
      return MeasuredKernel{median.median, median.relative_error, count, void_rounds};
  }
}

std::variant<MeasuredKernel, NotMeasured> Measurer::measure(const KernelSpec& spec) {
  if (const std::string why = too_large(spec); !why.empty()) return NotMeasured{why};
  if (const std::string why = backend_.unsupported(spec); !why.empty()) return NotMeasured{why};
  try {
    return check_and_time(spec);
  } catch (const std::runtime_error& error) {
    // One kernel that a library refuses when it runs is not the end, unless others wait for this rank or the device is
    // lost: then the reference fails, too.
    if (ranks_.size() > 1 || !reference_) throw;
    round(*reference_, 1);
    return NotMeasured{error.what()};
  }
}

std::variant<MeasuredKernel, NotMeasured> Measurer::check_and_time(const KernelSpec& spec) {
  std::unique_ptr<PreparedKernel> kernel;
  try {
    kernel = backend_.prepare(spec);
  } catch (const std::bad_alloc&) {
    // The others may have their buffers; below all learn that one has not.
  }
  if (largest(kernel ? 0 : 1) > 0) return NotMeasured{"its buffers do not fit into the memory"};
  const double error = kernel->max_relative_error(), allowed = backend_.tolerance(spec);
  // What is no number is above every tolerance.
  if (const double worst = largest(error <= allowed ? error : std::max(2 * allowed, std::isnan(error) ? 1e300 : error));
      worst > allowed)
    return NotMeasured{worst >= 1e300
                           ? "it differs from the reference: it has what is no number"
                           : fmt::format("it differs from the reference by {:.2g}, {:.2g} is allowed", worst, allowed)};
  return time(*kernel);
}

}  // namespace shardwright
