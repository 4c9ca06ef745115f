#include "hardware/gzip.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cassert>
#include <new>

#include "hardware/input_error.h"
#include "hardware/input_file.h"

namespace shardwright {
namespace {

constexpr int kGzip = 16;  // zlib.h, deflateInit2: added to the window's bits, a gzip header and trailer

/// The trailer's size of the unpacked text, modulo 2^32, as a first guess; a packed byte holds 1032 at most
/// (zlib_tech.html, "Maximum Compression Factor").
std::size_t guessed_size(std::string_view packed, std::size_t most) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < 4 && packed.size() >= 18; ++i)
    size |= std::size_t{static_cast<unsigned char>(packed[packed.size() - 4 + i])} << (8 * i);
  return std::min({std::max(size + 1, packed.size() * 2), packed.size() * 1032, most + 1});
}

class Inflate {
 public:
  Inflate() {
    if (inflateInit2(&stream, MAX_WBITS + kGzip) != Z_OK) throw std::bad_alloc();
  }
  ~Inflate() { inflateEnd(&stream); }
  Inflate(const Inflate&) = delete;
  Inflate& operator=(const Inflate&) = delete;
  z_stream stream = {};
};

}  // namespace

std::string gunzip(std::string_view packed, const std::string& file, std::size_t most) {
  const auto fail = [&](std::string_view message) { throw InputError(fmt::format("{}: {}", file, message)); };
  if (!packed.starts_with("\x1f\x8b")) fail("is not packed by gzip, as its name says");
  Inflate inflater;
  z_stream& stream = inflater.stream;
  std::string text(guessed_size(packed, most), '\0');
  std::size_t written = 0, taken = 0;
  while (true) {
    if (written > most) fail(fmt::format("is larger than {} MiB unpacked", most >> 20));
    if (written == text.size()) text.resize(std::min(most + 1, text.size() * 2));
    const std::size_t space = std::min<std::size_t>(text.size() - written, 1u << 30);
    const std::size_t input = std::min<std::size_t>(packed.size() - taken, 1u << 30);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + taken));
    stream.avail_in = static_cast<uInt>(input);
    stream.next_out = reinterpret_cast<Bytef*>(text.data() + written);
    stream.avail_out = static_cast<uInt>(space);
    const int status = inflate(&stream, Z_NO_FLUSH);
    taken += input - stream.avail_in;
    written += space - stream.avail_out;
    if (status == Z_STREAM_END) {
      if (taken == packed.size()) break;
      if (inflateReset(&stream) != Z_OK) throw std::bad_alloc();
    } else if (status == Z_MEM_ERROR) {
      throw std::bad_alloc();
    } else if (status == Z_BUF_ERROR || (status == Z_OK && taken == packed.size() && stream.avail_out > 0)) {
      fail("is cut off: the end of its packed text is missing");
    } else if (status != Z_OK) {
      fail("is damaged: it cannot be unpacked");
    }
  }
  if (written > most) fail(fmt::format("is larger than {} MiB unpacked", most >> 20));
  text.resize(written);
  return text;
}

std::string gzip(std::string_view text) {
  z_stream stream = {};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::bad_alloc();
  std::string packed(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  assert(text.size() <= UINT32_MAX && "tables are smaller than 4 GiB");
  const int status = deflate(&stream, Z_FINISH);
  assert(status == Z_STREAM_END && "deflateBound is enough");
  (void)status;
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

std::string read_maybe_gzip(const std::string& path, std::size_t most) {
  std::string bytes = read_file(path, most);
  return path.ends_with(".gz") ? gunzip(bytes, path, most) : bytes;
}

}  // namespace shardwright
