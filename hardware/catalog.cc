#include "hardware/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace shardwright {
namespace {

bool looks_like_path(std::string_view word) {
  return word.find('/') != std::string_view::npos || word.ends_with(".yaml") || word.ends_with(".yml");
}

/// The name that `word` misspells, or whose beginning it misspells ("h10-sxm" for "h100-sxm-80gb").
std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& names) {
  const std::string_view whole = nearest_spelling(word, names);
  if (!whole.empty()) return whole;
  std::vector<std::string_view> beginnings;
  for (std::string_view name : names) {
    for (std::size_t length : {word.size(), word.size() + 1, word.size() + 2})
      beginnings.push_back(name.substr(0, length));
  }
  const std::string_view begin = nearest_spelling(word, beginnings);
  if (begin.empty()) return {};
  return *std::find_if(names.begin(), names.end(), [&](std::string_view name) { return name.starts_with(begin); });
}

}  // namespace

std::vector<std::string> catalog_names(const std::vector<CatalogFile>& catalog) {
  std::vector<std::string> names;
  for (const CatalogFile& file : catalog) names.emplace_back(file.name);
  std::sort(names.begin(), names.end());
  return names;
}

YamlCursor open_named(std::string_view kind, const std::string& name_or_path, const std::vector<CatalogFile>& catalog) {
  if (looks_like_path(name_or_path)) return YamlCursor::open(name_or_path);
  for (const CatalogFile& file : catalog) {
    if (file.name == name_or_path) return YamlCursor::parse(std::string(file.text), std::string(file.path));
  }
  std::error_code ignored;
  if (std::filesystem::exists(name_or_path, ignored)) return YamlCursor::open(name_or_path);

  const std::vector<std::string> sorted = catalog_names(catalog);
  const std::vector<std::string_view> names(sorted.begin(), sorted.end());
  const std::string_view nearest = nearest_name(name_or_path, names);
  const std::string hint = nearest.empty() ? fmt::format(" (the catalog has {})", fmt::join(names, ", "))
                                           : fmt::format(" (did you mean '{}'?)", nearest);
  throw InputError(fmt::format("unknown {} '{}': neither a file nor in the catalog{}", kind, name_or_path, hint));
}

}  // namespace shardwright
