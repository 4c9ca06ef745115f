#include "profiler/execute/supervisor.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "profiler/execute/status_board.h"

namespace shardwright {
namespace {

using Seen = StatusBoard::Seen;
using State = StatusBoard::State;

volatile std::sig_atomic_t interrupted = 0;
void note_interrupt(int signal) { interrupted = signal; }

/// What a signal does until this is gone: it is noted.
class NotedSignal {
 public:
  explicit NotedSignal(int signal) : signal_(signal) {
    struct sigaction note = {};
    note.sa_handler = note_interrupt;
    ::sigaction(signal, &note, &before_);
  }
  ~NotedSignal() { ::sigaction(signal_, &before_, nullptr); }
  NotedSignal(const NotedSignal&) = delete;

 private:
  int signal_;
  struct sigaction before_ = {};
};

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

/// Gone, or dead and not yet buried by its parent.
bool is_dead(std::int64_t pid) {
  if (pid <= 0) return false;
  if (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return true;
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return true;
  const auto behind = text.rfind(')');
  return behind != std::string::npos && behind + 2 < text.size() &&
         (text[behind + 2] == 'Z' || text[behind + 2] == 'X');
}

pid_t start(const std::vector<std::string>& command, const std::string& board) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::setenv(kBoardVariable, board.c_str(), 1);
  const pid_t parent = ::getpid(), child = ::fork();
  if (child < 0) throw std::runtime_error(std::string("no process can be started: ") + std::strerror(errno));
  if (child > 0) {
    ::unsetenv(kBoardVariable);
    return child;
  }
  // A group of its own, which can be ended as one; and ended when this process is.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
  ::execv(words[0], words.data());
  ::_exit(127);
}

std::string in_what(const Seen& seen) {
  return seen.doing.empty() ? std::string("before its first operator") : "in '" + seen.doing + "'";
}

/// "" while all is well.
std::string trouble(const StatusBoard& board, double silence) {
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const Seen seen = board.look(rank);
    if (seen.state == State::failed)
      return "rank " + std::to_string(rank) + " failed " + in_what(seen) + ": " + seen.message;
  }
  int died = -1;
  double longest = -1;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const Seen seen = board.look(rank);
    if (seen.state != State::running || !is_dead(seen.pid)) continue;
    if (seen.silent_seconds > longest) died = rank;  // the first of them: others die of it
    longest = std::max(longest, seen.silent_seconds);
  }
  if (died >= 0) return "rank " + std::to_string(died) + " died " + in_what(board.look(died));
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const Seen seen = board.look(rank);
    if (seen.state == State::running && seen.silent_seconds > silence)
      return "rank " + std::to_string(rank) + " gave no sign of life for " + std::to_string(static_cast<int>(silence)) +
             " s " + in_what(seen);
  }
  return "";
}

/// Ends the starter's group and every rank, and waits until they are gone.
void end_all(pid_t starter, const StatusBoard& board) {
  for (int rank = 0; rank < board.ranks(); ++rank)
    if (const auto pid = static_cast<pid_t>(board.look(rank).pid); pid > 0 && !is_dead(pid)) ::kill(pid, SIGKILL);
  ::kill(-starter, SIGTERM);
  int status = 0;
  for (int waited = 0; waited < 50; ++waited) {
    if (::waitpid(starter, &status, WNOHANG) == starter) return;
    pause();
  }
  ::kill(-starter, SIGKILL);
  ::waitpid(starter, &status, 0);
}

}  // namespace

Supervised supervise(const std::vector<std::string>& command, int ranks, double silence) {
  interrupted = 0;
  const NotedSignal stop(SIGINT), end(SIGTERM);
  const StatusBoard board = StatusBoard::create(ranks);
  const pid_t starter = start(command, board.path());
  while (true) {
    int status = 0;
    const bool ended = ::waitpid(starter, &status, WNOHANG) == starter;
    if (const std::string what = trouble(board, silence); !what.empty()) {
      end_all(starter, board);
      return {0, what};
    }
    if (interrupted) {
      end_all(starter, board);
      return {0, "interrupted"};
    }
    if (ended) {
      if (WIFEXITED(status) && WEXITSTATUS(status) != 127) return {WEXITSTATUS(status), ""};
      end_all(starter, board);
      return {0, command[0] + " ended before the ranks did"};
    }
    pause();
  }
}

}  // namespace shardwright
