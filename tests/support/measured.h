#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>

namespace shardwright {

/// The folder of published measurements that SHARDWRIGHT_MEASURED names. Nothing when it is not set: the test returns,
/// and the line printed here makes ctest count it as skipped.
inline std::optional<std::filesystem::path> measured_folder() {
  const char* folder = std::getenv("SHARDWRIGHT_MEASURED");
  if (folder != nullptr && *folder != '\0') return folder;
  std::puts("SKIPPED: SHARDWRIGHT_MEASURED is not set");
  return std::nullopt;
}

}  // namespace shardwright
