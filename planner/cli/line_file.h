#pragma once

#include <string>

namespace shardwright {

/// A file that grows by whole lines, one process at a time. However the program ends, what is there are whole lines,
/// and at most one torn one behind them, which the next to open it drops.
class LineFile {
 public:
  /// Makes the file where there is none. Throws OutputError, also when another process has it open so.
  explicit LineFile(const std::string& path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  /// The whole lines that were there.
  const std::string& text() const { return text_; }
  /// What stands behind them: a torn line, or "".
  const std::string& torn() const { return torn_; }
  /// Drops a torn line, if there is one. Nothing is changed before this.
  void drop_torn();
  /// `lines`: whole ones. A signal that would end the program waits. Throws OutputError.
  void append(const std::string& lines);
  /// Waits until what was appended is on the disk. Throws OutputError.
  void sync();

 private:
  std::string path_, text_, torn_;
  int file_ = -1;
};

}  // namespace shardwright
