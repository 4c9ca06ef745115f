#pragma once

#include <string_view>

namespace shardwright {

/// The page around its data: template.html with the bundled scripts and styles. Both are empty in a build without node.
/// Generated (CMakeLists.txt).
std::string_view page_before_data();
std::string_view page_after_data();

}  // namespace shardwright
