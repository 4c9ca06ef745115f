#include "hardware/csv.h"

#include <fmt/format.h>

#include <algorithm>

namespace shardwright {

CsvReader::CsvReader(std::string_view text, std::string file) : rest_(text), file_(std::move(file)) {
  if (!next_line()) throw InputError(fmt::format("{}: has no header", file_));
  header_ = cells_;
}

std::size_t CsvReader::column(std::string_view name) const {
  return static_cast<std::size_t>(std::find(header_.begin(), header_.end(), name) - header_.begin());
}

bool CsvReader::next() {
  if (!next_line()) return false;
  if (cells_.size() == header_.size()) return true;
  const std::size_t last = std::min(cells_.size(), header_.size() + 1) - 1;
  fail(last, fmt::format("has {} cells, the header has {}", cells_.size(), header_.size()));
}

bool CsvReader::next_line() {
  do {
    if (rest_.empty()) return false;
    const std::size_t end = std::min(rest_.find('\n'), rest_.size());
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (line_.ends_with('\r')) line_.remove_suffix(1);
    ++line_number_;
  } while (line_.empty() || line_[0] == '#');
  cells_.clear();
  const char* begin = line_.data();
  const char* const end = begin + line_.size();
  for (const char* at = begin;; ++at) {
    if (at != end && *at != ',') continue;
    cells_.emplace_back(begin, static_cast<std::size_t>(at - begin));
    if (at == end) return true;
    begin = at + 1;
  }
}

void CsvReader::fail(std::size_t column, const std::string& message) const {
  throw InputError(fmt::format("{}:{}:{}: {}", file_, line_number_, cells_[column].data() - line_.data() + 1,
                               shown_plainly(message)));
}

}  // namespace shardwright
