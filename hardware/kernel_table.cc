#include "hardware/kernel_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <numeric>

#include "hardware/csv.h"

namespace shardwright {
namespace {

constexpr double kLongestSeconds = 1e6;

template <typename Value>
void permute(std::vector<Value>& values, const std::vector<std::uint32_t>& order) {
  std::vector<Value> moved;
  moved.reserve(values.size());
  for (const std::uint32_t row : order) moved.push_back(values[row]);
  values = std::move(moved);
}

bool read_seconds(std::string_view text, double& seconds) {
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, seconds);
  return read.ec == std::errc() && read.ptr == end && seconds > 0 && seconds <= kLongestSeconds;
}

void write_seconds(double seconds, std::string& text) {
  std::array<char, 32> buffer;
  const auto written = std::to_chars(buffer.data(), buffer.data() + buffer.size(), seconds);
  text.append(buffer.data(), written.ptr);
}

/// Long cells are shown by their beginning.
std::string shown(std::string_view cell) {
  return cell.size() <= 60 ? std::string(cell) : std::string(cell.substr(0, 57)) + "...";
}

/// What the columns of a file mean.
class TableReader {
 public:
  TableReader(CsvReader& csv, KernelFamily family) : csv_(csv), family_(family), keys_(kernel_keys(family)) {
    column_of_.assign(keys_.size(), kNone);
    for (std::size_t column = 0; column < csv.header().size(); ++column) claim(column);
    for (std::size_t key = 0; key < keys_.size(); ++key) {
      if (column_of_[key] == kNone && keys_[key].unless == Unless::required)
        csv_.fail(0, fmt::format("column '{}' of {} is missing", keys_[key].name, name_of(family)));
    }
    if (seconds_ == kNone) csv_.fail(0, "column 'seconds' is missing");
  }

  void read_row(KernelTable& table) {
    for (std::size_t key = 0; key < keys_.size(); ++key) read_cell(key);
    double seconds = 0;
    if (!read_seconds(csv_[seconds_], seconds)) {
      csv_.fail(seconds_, fmt::format("'seconds' must be a number above 0 and at most {:g}, got '{}'", kLongestSeconds,
                                      shown(csv_[seconds_])));
    }
    table.add(slots_, {seconds}, name(kernel_), name(framework_));
  }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  void claim(std::size_t column) {
    const std::string_view title = csv_.header()[column];
    std::size_t* place = title == "seconds" ? &seconds_ : title == "kernel" ? &kernel_ : nullptr;
    if (title == "framework") place = &framework_;
    if (const KernelKey* key = find_key(family_, title))
      place = &column_of_[static_cast<std::size_t>(key - keys_.data())];
    if (place == nullptr) {
      std::vector<std::string_view> known = {"seconds", "kernel", "framework"};
      for (const KernelKey& key : keys_) known.push_back(key.name);
      csv_.fail(column,
                fmt::format("unknown column '{}' of {}{}", shown(title), name_of(family_), did_you_mean(title, known)));
    }
    if (*place != kNone) csv_.fail(column, fmt::format("column '{}' is given twice", title));
    *place = column;
  }

  /// Keys come in order, so that a default finds the slots that it needs.
  void read_cell(std::size_t index) {
    const KernelKey& key = keys_[index];
    std::int64_t* slot = &slots_[static_cast<std::size_t>(key.slot)];
    const std::size_t column = column_of_[index];
    if (key.unless != Unless::required && (column == kNone || csv_[column].empty())) {
      *slot = default_of(key, slots_);
      return;
    }
    const std::string_view cell = csv_[column];
    if (!read_value(key, cell, slot)) {
      csv_.fail(column, fmt::format("'{}' must be {}, got '{}'", key.name, value_needed(key, cell), shown(cell)));
    }
  }

  std::string_view name(std::size_t column) {
    if (column == kNone) return "";
    const std::string_view cell = csv_[column];
    if (cell != last_name_ && !is_table_name(cell)) {
      csv_.fail(column, fmt::format("'{}' must be printable ASCII without quotes, got '{}'", csv_.header()[column],
                                    shown(cell)));
    }
    last_name_ = cell;
    return cell;
  }

  CsvReader& csv_;
  KernelFamily family_;
  const std::vector<KernelKey>& keys_;
  std::vector<std::size_t> column_of_;
  std::size_t seconds_ = kNone, kernel_ = kNone, framework_ = kNone;
  std::string_view last_name_;
  KernelSlots slots_ = {};
};

/// Keys that need a column: required ones, and those that some row gives another value than its default.
std::vector<const KernelKey*> columns_needed(const KernelTable& table) {
  std::vector<const KernelKey*> needed;
  for (const KernelKey& key : kernel_keys(table.family())) {
    bool differs = key.unless == Unless::required;
    for (std::size_t row = 0; row < table.size() && !differs; ++row) {
      differs = table.column(key.slot)[row] != default_of(key, table.slots(row));
    }
    if (differs) needed.push_back(&key);
  }
  return needed;
}

}  // namespace

KernelTable::KernelTable(KernelFamily family)
    : family_(family), columns_(static_cast<std::size_t>(slot_count(family))) {}

std::span<const std::int64_t> KernelTable::column(std::string_view key) const {
  const KernelKey* found = find_key(family_, key);
  assert(found != nullptr && "a family without this key");
  return column(found->slot);
}

KernelSlots KernelTable::slots(std::size_t row) const {
  KernelSlots slots = {};
  for (std::size_t i = 0; i < columns_.size(); ++i) slots[i] = columns_[i][row];
  return slots;
}

int KernelTable::compare(std::size_t a, std::size_t b) const {
  for (const int slot : sort_order(family_)) {
    const std::vector<std::int64_t>& column = columns_[static_cast<std::size_t>(slot)];
    if (column[a] != column[b]) return column[a] < column[b] ? -1 : 1;
  }
  return 0;
}

bool KernelTable::before(std::size_t a, std::size_t b) const {
  if (const int order = compare(a, b); order != 0) return order < 0;
  if (kernel_[a] != kernel_[b]) return kernel(a) < kernel(b);
  if (framework_[a] != framework_[b]) return framework(a) < framework(b);
  return seconds_[a] < seconds_[b];
}

KernelTable::Range KernelTable::equal_in(const KernelSlots& wanted, std::size_t slots) const {
  const std::span<const int> order = std::span(sort_order(family_)).first(slots);
  // The first row that is not before `wanted`; with `past`, the first after it.
  const auto bound = [&](bool past) {
    std::size_t low = 0, high = size();
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      bool is_before = past;
      for (const int slot : order) {
        const auto i = static_cast<std::size_t>(slot);
        if (columns_[i][middle] == wanted[i]) continue;
        is_before = columns_[i][middle] < wanted[i];
        break;
      }
      if (is_before) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  return {bound(false), bound(true)};
}

KernelTable::Range KernelTable::find(const KernelSpec& spec) const {
  assert(family_of(spec) == family_ && "a question of another family");
  return equal_in(to_slots(spec), sort_order(family_).size());
}

KernelTable::Range KernelTable::curve(const KernelSpec& spec) const {
  assert(family_of(spec) == family_ && "a question of another family");
  return equal_in(to_slots(spec), sort_order(family_).size() - 1);
}

std::uint32_t KernelTable::name_index(std::string_view name) {
  if (const auto found = name_indices_.find(name); found != name_indices_.end()) return found->second;
  const auto index = static_cast<std::uint32_t>(names_.size());
  names_.emplace_back(name);
  name_indices_.emplace(name, index);
  return index;
}

void KernelTable::add(const KernelSlots& slots, Seconds time, std::string_view kernel, std::string_view framework) {
  for (std::size_t i = 0; i < columns_.size(); ++i) columns_[i].push_back(slots[i]);
  seconds_.push_back(time.value);
  kernel_.push_back(name_index(kernel));
  framework_.push_back(name_index(framework));
}

void KernelTable::add(const KernelTable& other) {
  assert(family_ == other.family_ && "tables of two families");
  for (std::size_t row = 0; row < other.size(); ++row) {
    add(other.slots(row), {other.seconds_[row]}, other.kernel(row), other.framework(row));
  }
}

void KernelTable::reserve(std::size_t rows) {
  for (std::vector<std::int64_t>& column : columns_) column.reserve(rows);
  seconds_.reserve(rows);
  kernel_.reserve(rows);
  framework_.reserve(rows);
}

void KernelTable::sort() {
  bool sorted = true;
  for (std::size_t row = 1; row < size() && sorted; ++row) sorted = !before(row, row - 1);
  if (sorted) return;
  std::vector<std::uint32_t> order(size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return before(a, b); });
  for (std::vector<std::int64_t>& column : columns_) permute(column, order);
  permute(seconds_, order);
  permute(kernel_, order);
  permute(framework_, order);
}

bool is_table_name(std::string_view name) {
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return c >= 0x20 && c <= 0x7E && c != ',' && c != '"' && c != '\''; });
}

KernelTable read_kernel_table(std::string_view text, const std::string& file, KernelFamily family) {
  CsvReader csv(text, file);
  TableReader reader(csv, family);
  KernelTable table(family);
  table.reserve(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')));
  while (csv.next()) reader.read_row(table);
  table.sort();
  return table;
}

std::string kernel_table_csv(const KernelTable& table) {
  const std::vector<const KernelKey*> keys = columns_needed(table);
  bool kernels = false, frameworks = false;
  for (std::size_t row = 0; row < table.size(); ++row) {
    kernels = kernels || !table.kernel(row).empty();
    frameworks = frameworks || !table.framework(row).empty();
  }
  std::string text;
  for (const KernelKey* key : keys) text += std::string(key->name) + ",";
  text += "seconds";
  if (kernels) text += ",kernel";
  if (frameworks) text += ",framework";
  text += '\n';
  for (std::size_t row = 0; row < table.size(); ++row) {
    const KernelSlots slots = table.slots(row);
    for (const KernelKey* key : keys) {
      write_value(*key, &slots[static_cast<std::size_t>(key->slot)], text);
      text += ',';
    }
    write_seconds(table.seconds()[row], text);
    if (kernels) (text += ',') += table.kernel(row);
    if (frameworks) (text += ',') += table.framework(row);
    text += '\n';
  }
  return text;
}

}  // namespace shardwright
