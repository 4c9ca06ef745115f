#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/kernel_keys.h"
#include "hardware/quantities.h"

namespace shardwright {

/// Measured times of one family of kernels, as columns: one for each slot of its keys (kernel_keys.h), one of seconds,
/// and who ran them. Sorted by sort_order(): rows that differ only along the curve (a GEMM's rows, tokens, keys, bytes)
/// are neighbours and ascend; then by kernel and framework. A question may have several rows: other kernels, or
/// repeats.
class KernelTable {
 public:
  explicit KernelTable(KernelFamily family);

  KernelFamily family() const { return family_; }
  std::size_t size() const { return seconds_.size(); }

  /// A key's column; of a group of ranks the first of its slots, the size of the run with the smallest stride. Asserts
  /// that the family has the key.
  std::span<const std::int64_t> column(std::string_view key) const;
  std::span<const std::int64_t> column(int slot) const { return columns_[static_cast<std::size_t>(slot)]; }
  std::span<const double> seconds() const { return seconds_; }
  KernelSlots slots(std::size_t row) const;
  KernelSpec spec(std::size_t row) const { return from_slots(family_, slots(row)); }
  /// The kernel's name as its source has it, and the software around it; "" when not stated.
  std::string_view kernel(std::size_t row) const { return names_[kernel_[row]]; }
  std::string_view framework(std::size_t row) const { return names_[framework_[row]]; }

  /// Rows begin..end hold exactly this question; empty when it was not measured. Takes a question of the table's
  /// family.
  struct Range {
    std::size_t begin = 0, end = 0;
    std::size_t size() const { return end - begin; }
  };
  Range find(const KernelSpec& spec) const;
  /// Rows that differ from this question at most along the curve, ascending.
  Range curve(const KernelSpec& spec) const;

  /// Adds a row; the table must be sorted before it is asked.
  void add(const KernelSlots& slots, Seconds time, std::string_view kernel, std::string_view framework);
  void add(const KernelTable& other);
  void sort();
  void reserve(std::size_t rows);

 private:
  /// Rows that are as `wanted` in the first `slots` slots of sort_order().
  Range equal_in(const KernelSlots& wanted, std::size_t slots) const;
  std::uint32_t name_index(std::string_view name);
  /// -1, 0, 1: row `a` before, same, after row `b`, without seconds and sources.
  int compare(std::size_t a, std::size_t b) const;
  bool before(std::size_t a, std::size_t b) const;

  KernelFamily family_;
  std::vector<std::vector<std::int64_t>> columns_;
  std::vector<double> seconds_;
  std::vector<std::uint32_t> kernel_, framework_;  // into names_
  std::vector<std::string> names_;
  std::map<std::string, std::uint32_t, std::less<>> name_indices_;
};

/// Reads a table from CSV text: columns are the family's keys (those with a default may be missing, or empty in a row),
/// `seconds`, and at will `kernel` and `framework`. Throws InputError with `file`, line and column.
KernelTable read_kernel_table(std::string_view text, const std::string& file, KernelFamily family);

/// The table as CSV: columns in which every row has its default are left out; read_kernel_table makes the same table of
/// it. Seconds are as short as reads back to the same number.
std::string kernel_table_csv(const KernelTable& table);

/// Whether a kernel's or framework's name can stand in a table: printable ASCII without commas and quotes.
bool is_table_name(std::string_view name);

}  // namespace shardwright
