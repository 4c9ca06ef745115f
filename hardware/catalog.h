#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hardware/yaml_cursor.h"

namespace shardwright {

/// A YAML file that was built into the program, see embed.cmake.
struct CatalogFile {
  std::string_view name;  // "h100-sxm-80gb"
  std::string_view path;  // "hardware/catalog/h100-sxm-80gb.yaml"
  std::string_view text;
};

/// Sorted.
std::vector<std::string> catalog_names(const std::vector<CatalogFile>& catalog);

/// The file that a user means by `name_or_path`: what holds a '/' or ends in .yaml or .yml is a path; anything else is
/// first a name of the catalog, then a path. Throws InputError: `unknown machine 'h10-sxm': neither a file nor in the
/// catalog (did you mean 'h100-sxm-80gb'?)`, where `kind` is "machine".
YamlCursor open_named(std::string_view kind, const std::string& name_or_path, const std::vector<CatalogFile>& catalog);

}  // namespace shardwright
