#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/quantities.h"

namespace shardwright {

/// How a report is to look.
struct TableStyle {
  int width = 80;
  bool color = false;
};

/// A value with its unit, three significant digits: rates in SI ("989 TFLOP/s", "3.35 TB/s"), memory in KiB, MiB, GiB
/// or TiB
/// ("79.6 GiB"), times in us, ms or s ("12.3 s", from 1000 s on "1,234 s").
std::string with_unit(Seconds);
std::string with_unit(Bytes);
std::string with_unit(BytesPerSecond);
std::string with_unit(FlopsPerSecond);

/// GiB without the unit, for a column that names it: "79.6".
std::string in_gib(Bytes, int decimals = 1);

/// 1.0 is "100.0 %". The signed form has a '+' or a '-'.
std::string percent(double fraction, int decimals = 1);
std::string signed_percent(double fraction, int decimals = 1);

/// "4,194,304"
std::string grouped(std::int64_t count);
/// "406 B", "8.03 B", "125 M", "999": thousands of millions are B, as in model names.
std::string short_count(std::int64_t count);

/// Text broken at spaces into lines of at most `width` characters, each with `indent` spaces before it and a newline at
/// its end. A longer word has a line of its own.
std::string wrapped(std::string_view text, int width, int indent = 0);

/// Escape sequences of a terminal around `text` where the style has colour.
std::string bold(std::string_view text, const TableStyle& style);
std::string green(std::string_view text, const TableStyle& style);
std::string red(std::string_view text, const TableStyle& style);

/// Columns as wide as their widest cell, `gap` spaces between them.
class TextTable {
 public:
  enum class Align { left, right };
  struct Column {
    std::string header;
    Align align = Align::right;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// One cell for each column.
  void add_row(std::vector<std::string> cells);
  int width(int gap) const;
  /// The header's line, then one a row; no spaces at line ends.
  std::vector<std::string> lines(int gap, int indent = 0) const;

 private:
  std::size_t column_width(std::size_t column) const;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace shardwright
