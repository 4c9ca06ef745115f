#include "profiler/execute/status_board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

namespace shardwright {

/// Written by one process, read by others while it writes: a text may be torn, which a watcher of failures can live
/// with.
struct StatusBoard::Slot {
  std::atomic<std::int64_t> pid = 0, beat_milliseconds = 0;
  std::atomic<std::int32_t> state = 0;
  char doing[256] = {}, message[768] = {};
};

namespace {

/// The same clock in all processes of a machine.
std::int64_t milliseconds() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <std::size_t n>
void write(char (&to)[n], const std::string& text) {
  const std::size_t length = std::min(text.size(), n - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("the run's board: " + what + ": " + std::strerror(errno));
}

}  // namespace

void StatusBoard::map(bool fresh) {
  const int file = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) fail(path_);
  struct stat facts = {};
  if (::fstat(file, &facts) != 0) fail(path_);
  ranks_ = static_cast<int>(static_cast<std::size_t>(facts.st_size) / sizeof(Slot));
  void* memory = ::mmap(nullptr, static_cast<std::size_t>(facts.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (memory == MAP_FAILED) fail(path_);
  slots_ = static_cast<Slot*>(memory);
  for (int rank = 0; fresh && rank < ranks_; ++rank) new (&slots_[rank]) Slot();
}

StatusBoard StatusBoard::create(int ranks) {
  StatusBoard board;
  const char* folder = std::getenv("TMPDIR");
  std::string path = std::string(folder && *folder ? folder : "/tmp") + "/shardwright-run-XXXXXX";
  const int file = ::mkstemp(path.data());
  if (file < 0) fail(path);
  board.path_ = path;
  board.own_ = true;
  const bool sized = ::ftruncate(file, static_cast<off_t>(sizeof(Slot)) * ranks) == 0;
  ::close(file);
  if (!sized) fail(path);
  board.map(true);
  return board;
}

StatusBoard StatusBoard::open(const std::string& path) {
  StatusBoard board;
  board.path_ = path;
  board.map(false);
  return board;
}

StatusBoard::StatusBoard(StatusBoard&& other) noexcept
    : path_(std::move(other.path_)),
      ranks_(other.ranks_),
      own_(std::exchange(other.own_, false)),
      slots_(std::exchange(other.slots_, nullptr)),
      mine_(std::exchange(other.mine_, nullptr)),
      stop_(std::move(other.stop_)),
      heart_(std::move(other.heart_)) {}

StatusBoard::~StatusBoard() {
  if (stop_) *stop_ = true;
  if (heart_.joinable()) heart_.join();
  if (slots_) ::munmap(slots_, sizeof(Slot) * static_cast<std::size_t>(ranks_));
  if (own_) ::unlink(path_.c_str());
}

StatusBoard::Seen StatusBoard::look(int rank) const {
  const Slot& slot = slots_[rank];
  Seen seen;
  seen.pid = slot.pid;
  seen.state = static_cast<State>(slot.state.load());
  seen.silent_seconds = static_cast<double>(milliseconds() - slot.beat_milliseconds) / 1000;
  seen.doing.assign(slot.doing, ::strnlen(slot.doing, sizeof slot.doing));
  seen.message.assign(slot.message, ::strnlen(slot.message, sizeof slot.message));
  return seen;
}

void StatusBoard::be(int rank) {
  mine_ = &slots_[rank];
  mine_->pid = ::getpid();
  mine_->beat_milliseconds = milliseconds();
  mine_->state = static_cast<std::int32_t>(State::running);
  stop_ = std::make_unique<std::atomic<bool>>(false);
  heart_ = std::thread([slot = mine_, stop = stop_.get()] {
    while (!*stop) {
      slot->beat_milliseconds = milliseconds();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
}

void StatusBoard::doing(const std::string& what) {
  if (mine_) write(mine_->doing, what);
}

void StatusBoard::end(State state, const std::string& message) {
  if (!mine_ || mine_->state != static_cast<std::int32_t>(State::running)) return;
  write(mine_->message, message);
  mine_->state = static_cast<std::int32_t>(state);
}

}  // namespace shardwright
