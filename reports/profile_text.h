#pragma once

#include <map>
#include <string>

#include "profiler/doctor.h"
#include "profiler/journal.h"

namespace shardwright {

/// What a profile has, and why some kernels have no time. `folder`: where it stands; `machine`: its name.
std::string profile_text(const std::map<std::string, JournalRow>& rows, const std::string& folder,
                         const std::string& machine);

/// What was found, what is missing, and what that costs.
std::string doctor_text(const Diagnosis& diagnosis);

}  // namespace shardwright
