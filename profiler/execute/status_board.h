#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace shardwright {

/// What ranks on one machine tell whoever watches over them: that they live, and what they are at. A file that all map
/// into their memory.
class StatusBoard {
 public:
  enum class State : std::int32_t { unborn, running, done, failed };
  struct Seen {
    std::int64_t pid = 0;
    State state = State::unborn;
    double silent_seconds = 0;  ///< since its last sign of life
    std::string doing, message;
  };

  /// A new board, which is deleted with this. Throws std::runtime_error.
  static StatusBoard create(int ranks);
  /// One that another process made.
  static StatusBoard open(const std::string& path);
  StatusBoard(StatusBoard&&) noexcept;
  StatusBoard& operator=(StatusBoard&&) = delete;
  ~StatusBoard();

  const std::string& path() const { return path_; }
  int ranks() const { return ranks_; }
  Seen look(int rank) const;

  /// This process is that rank from now on, and says that it lives every 50 ms until this is deleted.
  void be(int rank);
  void doing(const std::string& what);
  /// The first end counts: where it failed there, not what came of it.
  void end(State state, const std::string& message);

 private:
  struct Slot;
  StatusBoard() = default;
  void map(bool fresh);
  std::string path_;
  int ranks_ = 0;
  bool own_ = false;
  Slot* slots_ = nullptr;
  Slot* mine_ = nullptr;
  std::unique_ptr<std::atomic<bool>> stop_;
  std::thread heart_;
};

}  // namespace shardwright
