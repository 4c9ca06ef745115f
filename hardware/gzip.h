#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shardwright {

/// The bytes of a regular file, unpacked where its name ends in .gz. Throws InputError: the file cannot be read, is no
/// gzip, is cut off or damaged, or is larger than `most` bytes unpacked.
std::string read_maybe_gzip(const std::string& path, std::size_t most);

/// Packed as gzip does it, without name and time: the same text gives the same bytes.
std::string gzip(std::string_view text);

/// Unpacks one or more gzip members; `file` is for messages.
std::string gunzip(std::string_view packed, const std::string& file, std::size_t most);

}  // namespace shardwright
