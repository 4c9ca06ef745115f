#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "planner/cli/command_line.h"
#include "reports/format.h"

namespace shardwright {

/// The machine failed: a file or stream cannot be written. what() is one line; exit code 3.
class OutputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Writes `text` to `path` whole or not at all: a temporary file beside it is renamed at the end, and an interrupt
/// waits until then. What is no regular file (a pipe, a device) is written as it is. Throws OutputError.
void write_file(const std::string& path, const std::string& text);

/// A file of a folder that is to be written.
struct FolderFile {
  std::string name, bytes;
};

/// Writes a new folder whole or not at all: one beside it is renamed at the end, and an interrupt waits until then.
/// `path` must not be there, or be an empty folder. Throws OutputError.
void write_folder(const std::string& path, const std::vector<FolderFile>& files);

/// Writes to stdout. Throws OutputError when that cannot be done.
void write_stdout(const std::string& text);

/// An answer in both forms: the text to stdout and, with --json FILE, the JSON there; with `--json -` the JSON alone to
/// stdout.
void write_answer(const Arguments& arguments, const std::string& text, const std::string& json);

/// 80 columns, 120 on a terminal that has them; colour where stdout is a terminal that has it and NO_COLOR is not set.
TableStyle stdout_style();

/// "2026-11-23", of this day at Greenwich.
std::string today();

/// How far long work has come: takes the place of what it said before. To stderr, and only where that is a terminal:
/// this process's, or, with SHARDWRIGHT_TERMINAL in the environment, that of the one which started it as a rank.
void progress(const std::string& line);

/// A remark for who waits: to stderr, and only where that is a terminal.
void remark(const std::string& line);

}  // namespace shardwright
