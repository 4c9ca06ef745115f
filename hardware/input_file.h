#pragma once

#include <cstddef>
#include <string>

namespace shardwright {

/// The bytes of a regular file of at most `most` bytes (whole MiB). Throws InputError: "cannot read 'x.yaml': No such
/// file or directory".
std::string read_file(const std::string& path, std::size_t most);

}  // namespace shardwright
