#include "hardware/input_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "hardware/input_error.h"

namespace shardwright {

std::string read_file(const std::string& path, std::size_t most) {
  const auto refuse = [&](const std::string& reason) {
    throw InputError(fmt::format("cannot read '{}': {}", path, reason));
  };
  // Asked before opening: opening a pipe would wait for its writer.
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (error) refuse(error.message());
  if (std::filesystem::is_directory(status)) refuse("it is a folder");
  if (!std::filesystem::is_regular_file(status)) refuse("it is not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) refuse(error.message());
  if (size > most) refuse(fmt::format("it has {} bytes, more than {} MiB", size, most >> 20));

  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) refuse(std::generic_category().message(errno));
  std::string text(static_cast<std::size_t>(size), '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

}  // namespace shardwright
