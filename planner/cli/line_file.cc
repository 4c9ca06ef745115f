#include "planner/cli/line_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "planner/cli/output.h"
#include "planner/cli/signals_held.h"

namespace shardwright {
namespace {

[[noreturn]] void fail(const std::string& path, const char* why) {
  throw OutputError(fmt::format("cannot write {}: {}", path.empty() ? "''" : path, why));
}

}  // namespace

LineFile::LineFile(const std::string& path) : path_(path) {
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) fail(path, std::strerror(errno));
  struct stat status = {};
  const char* why = ::fstat(file_, &status) != 0             ? std::strerror(errno)
                    : !S_ISREG(status.st_mode)               ? "not a regular file, which can be taken up again"
                    : ::flock(file_, LOCK_EX | LOCK_NB) == 0 ? nullptr
                    : errno == EWOULDBLOCK                   ? "another process is writing it"
                                                             : std::strerror(errno);
  std::array<char, 65536> block;
  while (why == nullptr) {
    const ssize_t got = ::read(file_, block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) why = std::strerror(errno);
    if (got <= 0) break;
    text_.append(block.data(), static_cast<std::size_t>(got));
  }
  if (why != nullptr) {
    ::close(file_);
    fail(path, why);
  }
  const std::size_t end = text_.rfind('\n');
  const std::size_t whole = end == std::string::npos ? 0 : end + 1;
  torn_ = text_.substr(whole);
  text_.resize(whole);
}

LineFile::~LineFile() { ::close(file_); }

void LineFile::drop_torn() {
  const auto length = static_cast<off_t>(text_.size());
  if (::ftruncate(file_, length) != 0 || ::lseek(file_, length, SEEK_SET) != length) fail(path_, std::strerror(errno));
}

void LineFile::append(const std::string& lines) {
  const SignalsHeld held;
  std::string_view rest = lines;
  while (!rest.empty()) {
    const ssize_t written = ::write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      // A full disk may have taken a part of the line.
      const int error = errno;
      drop_torn();
      fail(path_, std::strerror(error));
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  text_ += lines;
}

void LineFile::sync() {
  if (::fdatasync(file_) != 0) fail(path_, std::strerror(errno));
}

}  // namespace shardwright
