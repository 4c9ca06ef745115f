#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/input_error.h"

namespace shardwright {

/// Text of comma-separated cells, line by line: a header, then lines with as many cells. Empty lines and lines that
/// begin with # are passed over; there are no quotes. Cells are views into the text, which must outlive the reader.
class CsvReader {
 public:
  /// Reads the header. Throws InputError: "gemm.csv: has no header".
  CsvReader(std::string_view text, std::string file);

  const std::vector<std::string_view>& header() const { return header_; }
  /// Index of a column of the header; its size where there is none.
  std::size_t column(std::string_view name) const;

  /// Goes to the next line with cells; false at the end. Throws InputError: "gemm.csv:3:9: has 3 cells, the header has
  /// 5".
  bool next();
  std::string_view operator[](std::size_t column) const { return cells_[column]; }

  /// Throws InputError at a cell of this line (of the header before the first next()): "gemm.csv:3:9: message", one
  /// line.
  [[noreturn]] void fail(std::size_t column, const std::string& message) const;

 private:
  bool next_line();

  std::string_view rest_, line_;
  std::string file_;
  std::size_t line_number_ = 0;
  std::vector<std::string_view> header_, cells_;
};

}  // namespace shardwright
