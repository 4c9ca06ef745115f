#include "hardware/measured_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <utility>

#include "hardware/gzip.h"

namespace shardwright {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestTable = std::size_t{512} << 20;  // unpacked

struct TableFile {
  fs::path path;
  KernelFamily family;
};

/// "gemm" of "gemm.csv" and "gemm.csv.gz"; "" of other files.
std::string_view table_stem(std::string_view name) {
  if (name.ends_with(".gz")) name.remove_suffix(3);
  if (!name.ends_with(".csv")) return {};
  name.remove_suffix(4);
  return name;
}

/// The tables of a folder by name. Throws where a CSV file is no table's.
std::vector<TableFile> table_files(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw InputError(fmt::format("{}: no such folder", folder));
  std::vector<fs::path> paths;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    paths.push_back(entry->path());
  if (error) throw InputError(fmt::format("{}: cannot be read: {}", folder, error.message()));
  std::sort(paths.begin(), paths.end());

  std::vector<TableFile> files;
  for (const fs::path& path : paths) {
    const std::string name = path.filename().string();
    const std::string_view stem = table_stem(name);
    if (stem.empty()) continue;
    const auto family = kernel_family_named(stem);
    if (!family) {
      std::vector<std::string_view> known;
      for (int i = 0; i < kKernelFamilies; ++i) known.push_back(name_of(static_cast<KernelFamily>(i)));
      const std::string hint = did_you_mean(stem, known);
      throw InputError(
          fmt::format("{}: is no table of measurements{}", path.string(),
                      hint.empty() ? fmt::format("; those are {}, .csv or .csv.gz", fmt::join(known, ", ")) : hint));
    }
    if (!files.empty() && files.back().family == *family) {
      throw InputError(fmt::format("{}: stands beside {}; only one of them can be the table", path.string(),
                                   files.back().path.filename().string()));
    }
    files.push_back({path, *family});
  }
  return files;
}

}  // namespace

Measurements::Measurements() {
  for (int i = 0; i < kKernelFamilies; ++i) tables_.emplace_back(static_cast<KernelFamily>(i));
}

std::size_t Measurements::size() const {
  std::size_t rows = 0;
  for (const KernelTable& table : tables_) rows += table.size();
  return rows;
}

void Measurements::add(KernelTable table) {
  KernelTable& mine = tables_[static_cast<std::size_t>(table.family())];
  if (mine.size() == 0) {
    mine = std::move(table);
  } else {
    mine.add(table);
  }
  mine.sort();
}

void Measurements::add(const Measurements& other) {
  for (const KernelTable& table : other.tables_) add(table);
}

Measurements read_measurements(const std::string& folder) {
  const std::vector<TableFile> files = table_files(folder);
  if (files.empty()) throw InputError(fmt::format("{}: has no tables of measurements", folder));
  // One thread a table: two large ones hold most of the rows.
  std::vector<std::future<KernelTable>> tables;
  for (const auto& [path, family] : files) {
    tables.push_back(std::async(std::launch::async, [name = path.string(), of = family] {
      return read_kernel_table(read_maybe_gzip(name, kLargestTable), name, of);
    }));
  }
  Measurements measured;
  for (std::future<KernelTable>& table : tables) measured.add(table.get());
  return measured;
}

std::string machine_file_in(const std::string& folder) {
  return (std::filesystem::path(folder) / "machine.yaml").string();
}

std::string measured_folder_of(const std::string& name_or_path) {
  const std::vector<std::string> names = machine_names();
  if (std::find(names.begin(), names.end(), name_or_path) != names.end()) return "";
  std::error_code ignored;
  return fs::is_directory(name_or_path, ignored) ? name_or_path : "";
}

}  // namespace shardwright
