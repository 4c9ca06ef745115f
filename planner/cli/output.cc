#include "planner/cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <string_view>

#include "planner/cli/signals_held.h"

namespace shardwright {
namespace {

[[noreturn]] void fail(const std::string& path, int error) {
  throw OutputError(fmt::format("cannot write {}: {}", path, std::strerror(error)));
}

/// 0, or the error.
int write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

void write_in_place(const std::string& path, const std::string& text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) fail(path, errno);
  const int error = write_all(file, text);
  ::close(file);
  if (error != 0) fail(path, error);
}

/// A link is followed: what it points to is replaced, not the link.
std::string without_links(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return path;
  const std::string result = real;
  std::free(real);
  return result;
}

/// What a new file's mode would be; as the old one's where there is one.
mode_t mode_of(const struct stat* old) {
  if (old != nullptr) return old->st_mode & 07777;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

void replace_file(const std::string& path, const std::string& text, mode_t mode) {
  std::string temporary = path + ".tmp-XXXXXX";
  const SignalsHeld held;
  const int file = ::mkstemp(temporary.data());
  if (file < 0) fail(path, errno);
  int error = write_all(file, text);
  if (error == 0 && ::fchmod(file, mode) != 0) error = errno;
  if (::close(file) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return;
  ::unlink(temporary.c_str());
  fail(path, error);
}

}  // namespace

void write_file(const std::string& path, const std::string& text) {
  if (path.empty()) fail("''", ENOENT);
  struct stat status = {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (!exists && errno != ENOENT) fail(path, errno);
  if (exists && S_ISDIR(status.st_mode)) fail(path, EISDIR);
  // /dev/stdout may be a regular file under another name; it is to be written to, not replaced.
  if ((exists && !S_ISREG(status.st_mode)) || path.starts_with("/dev/")) return write_in_place(path, text);
  if (exists && ::access(path.c_str(), W_OK) != 0) fail(path, errno);
  replace_file(without_links(path), text, mode_of(exists ? &status : nullptr));
}

void write_folder(const std::string& path, const std::vector<FolderFile>& files) {
  std::string place = path;
  while (place.size() > 1 && place.back() == '/') place.pop_back();
  if (place.empty()) fail("''", ENOENT);
  std::string temporary = place + ".tmp-XXXXXX";
  const SignalsHeld held;
  if (::mkdtemp(temporary.data()) == nullptr) fail(place, errno);
  int error = 0;
  for (const FolderFile& file : files) {
    const std::string name = temporary + "/" + file.name;
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0) {
      error = errno;
    } else {
      error = write_all(descriptor, file.bytes);
      if (::close(descriptor) != 0 && error == 0) error = errno;
    }
    if (error != 0) break;
  }
  if (error == 0 && ::chmod(temporary.c_str(), mode_of(nullptr) | ((mode_of(nullptr) & 0444) >> 2)) != 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), place.c_str()) != 0) error = errno;
  if (error == 0) return;
  for (const FolderFile& file : files) ::unlink((temporary + "/" + file.name).c_str());
  ::rmdir(temporary.c_str());
  fail(place, error);
}

void write_stdout(const std::string& text) {
  if (const int error = write_all(STDOUT_FILENO, text); error != 0) fail("to stdout", error);
}

void write_answer(const Arguments& arguments, const std::string& text, const std::string& json) {
  const std::optional<std::string> path = arguments.find("--json");
  if (path == "-") return write_stdout(json);
  // The file first: a reader of stdout that leaves early (`| head`) ends the program. Without it the text is still of
  // use.
  std::optional<OutputError> failure;
  try {
    if (path) write_file(*path, json);
  } catch (const OutputError& error) { failure = error; }
  write_stdout(text);
  if (failure) throw *failure;
}

namespace {

/// As wide as the reports are written for: on wide terminals 120 columns, else 80.
int stdout_width() {
  constexpr int kNarrow = 80, kWide = 120;
  struct winsize size = {};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= kWide ? kWide : kNarrow;
}

}  // namespace

TableStyle stdout_style() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool wanted = no_color == nullptr || *no_color == '\0';
  const bool able = terminal != nullptr && std::string_view(terminal) != "dumb" && ::isatty(STDOUT_FILENO) == 1;
  return {stdout_width(), wanted && able};
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  std::array<char, 16> text = {};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d", &parts)};
}

void progress(const std::string& line) {
  if (::isatty(STDERR_FILENO) == 1 || std::getenv("SHARDWRIGHT_TERMINAL") != nullptr)
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
}

void remark(const std::string& line) {
  if (::isatty(STDERR_FILENO) == 1) std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace shardwright
