#include "reports/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

/// Three significant digits; from 1000 on all digits of the whole part, grouped.
std::string three_digits(double value) {
  if (value == 0) return "0";
  const double size = std::fabs(value);
  if (size >= 999.5) return grouped(std::llround(value));
  if (size >= 99.95) return fmt::format("{:.0f}", value);
  if (size >= 9.995) return fmt::format("{:.1f}", value);
  return fmt::format("{:.2f}", value);
}

/// `value` in the largest of `units` (each `step` times the one before) in which it is at least 1.
template <std::size_t n>
std::string scaled(double value, double step, const std::array<std::string_view, n>& units) {
  std::size_t unit = 0;
  // 999.5 would be printed as "1,000": that is 1.00 of the next unit.
  while (unit + 1 < n && std::fabs(value) >= step * (1 - 0.0005)) {
    value /= step;
    ++unit;
  }
  return three_digits(value) + std::string(units[unit]);
}

std::string painted(std::string_view text, std::string_view code, const TableStyle& style) {
  return style.color ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

}  // namespace

std::string with_unit(Seconds time) {
  return scaled(time.value * 1e6, 1000, std::array<std::string_view, 3>{" us", " ms", " s"});
}

std::string with_unit(Bytes amount) {
  return scaled(static_cast<double>(amount.value), 1024,
                std::array<std::string_view, 5>{" B", " KiB", " MiB", " GiB", " TiB"});
}

std::string with_unit(BytesPerSecond rate) {
  return scaled(rate.value, 1000, std::array<std::string_view, 6>{" B/s", " kB/s", " MB/s", " GB/s", " TB/s", " PB/s"});
}

std::string with_unit(FlopsPerSecond rate) {
  return scaled(rate.value, 1000,
                std::array<std::string_view, 7>{" FLOP/s", " kFLOP/s", " MFLOP/s", " GFLOP/s", " TFLOP/s", " PFLOP/s",
                                                " EFLOP/s"});
}

std::string in_gib(Bytes amount, int decimals) {
  return fmt::format("{:.{}f}", static_cast<double>(amount.value) / static_cast<double>((1_GiB).value), decimals);
}

std::string percent(double fraction, int decimals) { return fmt::format("{:.{}f} %", fraction * 100, decimals); }
std::string signed_percent(double fraction, int decimals) {
  return fmt::format("{:+.{}f} %", fraction * 100, decimals);
}

std::string grouped(std::int64_t count) {
  std::string digits = std::to_string(count);
  const std::size_t first = digits[0] == '-' ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string short_count(std::int64_t count) {
  if (count < 1'000'000) return grouped(count);
  const std::array<std::string_view, 3> units = {" M", " B", " T"};
  return scaled(static_cast<double>(count) / 1e6, 1000, units);
}

std::string wrapped(std::string_view text, int width, int indent) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  std::string lines, line;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    if (word.empty()) continue;
    if (!line.empty() && margin.size() + line.size() + 1 + word.size() > static_cast<std::size_t>(width)) {
      lines += margin + line + "\n";
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
  }
  if (!line.empty()) lines += margin + line + "\n";
  return lines;
}

std::string bold(std::string_view text, const TableStyle& style) { return painted(text, "1", style); }
std::string green(std::string_view text, const TableStyle& style) { return painted(text, "32", style); }
std::string red(std::string_view text, const TableStyle& style) { return painted(text, "31", style); }

void TextTable::add_row(std::vector<std::string> cells) {
  assert(cells.size() == columns_.size() && "a row has one cell for each column");
  rows_.push_back(std::move(cells));
}

std::size_t TextTable::column_width(std::size_t column) const {
  std::size_t widest = columns_[column].header.size();
  for (const auto& row : rows_) widest = std::max(widest, row[column].size());
  return widest;
}

int TextTable::width(int gap) const {
  std::size_t sum = columns_.empty() ? 0 : (columns_.size() - 1) * static_cast<std::size_t>(gap);
  for (std::size_t i = 0; i < columns_.size(); ++i) sum += column_width(i);
  return static_cast<int>(sum);
}

std::vector<std::string> TextTable::lines(int gap, int indent) const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) widths.push_back(column_width(i));
  const auto line_of = [&](const auto& cell_of) {
    std::string line(static_cast<std::size_t>(indent), ' ');
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& cell = cell_of(i);
      const std::string fill(widths[i] - cell.size(), ' ');
      if (i > 0) line.append(static_cast<std::size_t>(gap), ' ');
      line += columns_[i].align == Align::left ? cell + fill : fill + cell;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  };
  std::vector<std::string> result = {line_of([&](std::size_t i) -> const std::string& { return columns_[i].header; })};
  for (const auto& row : rows_) result.push_back(line_of([&](std::size_t i) -> const std::string& { return row[i]; }));
  return result;
}

}  // namespace shardwright
