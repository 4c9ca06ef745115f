#pragma once

#include <string>
#include <vector>

namespace shardwright {

/// How a run ended.
struct Supervised {
  int exit_code = 0;    ///< of the ranks' starter, where nothing failed
  std::string failure;  ///< "" or what failed, naming rank and operator; then no process is left
};

/// The variable by which ranks find the board of their run.
inline constexpr const char* kBoardVariable = "SHARDWRIGHT_RUN_BOARD";

/// Runs the command that starts the ranks (mpirun), and watches over them by a board that it makes: a rank that dies,
/// fails, or gives no sign of life for `silence_seconds` ends them all. Throws std::runtime_error when the command
/// cannot be started.
Supervised supervise(const std::vector<std::string>& command, int ranks, double silence_seconds = 5);

}  // namespace shardwright
