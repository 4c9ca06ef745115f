#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "profiler/journal.h"

namespace shardwright {

/// How far a profile is.
struct ProfileProgress {
  std::size_t done = 0, all = 0;  // kernels, of this list
  Seconds taken;                  // since the first of them
};

/// What a profile tells whoever started it. Only rank 0 is told.
struct ProfileListener {
  std::function<void(const JournalRow&)> row = [](const JournalRow&) {};
  std::function<void(const ProfileProgress&)> progress = [](const ProfileProgress&) {};
  /// Whether to end behind this kernel; asked on rank 0, obeyed by all.
  std::function<bool()> stop = [] { return false; };
};

/// Measures every kernel of the list, all ranks together: `list` is rank 0's, the others' is not looked at. False where
/// it was stopped.
bool profile_kernels(const std::vector<KernelSpec>& list, Measurer& measurer, Backend& backend, Communicator& ranks,
                     Clock& clock, const ProfileListener& listener);

/// One rank's text for all.
std::string told_by_first(Communicator& ranks, std::string text);

/// The questions of a list: a line each, in their text form; blank lines and what begins with # are left out, of equal
/// ones one is kept. Throws InputError with the file's line.
std::vector<KernelSpec> read_kernel_list(const std::string& text, const std::string& file);

/// Products, attention, memory passes and collectives of the sizes that small models have: what a machine is measured
/// by where nobody says what for. `ranks` and all that divide it, for collectives.
std::vector<KernelSpec> general_grid(DataType type, int ranks);

}  // namespace shardwright
