#pragma once

#include <cstdint>
#include <string_view>

#include "hardware/quantities.h"

namespace shardwright {

/// How one number of a buffer lies in memory. `byte` holds masks (0 or 1), `int64` ids; fp64 is the reference's.
enum class Element : std::uint8_t { fp64, fp32, fp16, bf16, byte, int64 };
std::string_view name_of(Element);
std::int64_t bytes_of(Element);

/// Numbers in a backend's memory, which need not be the host's; whoever made the buffer owns it.
struct View {
  void* data = nullptr;
  std::int64_t elements = 0;
  Element element = Element::fp32;

  bool empty() const { return elements == 0; }
  Bytes size() const { return {elements * bytes_of(element)}; }
  /// `count` numbers from `first` on.
  View part(std::int64_t first, std::int64_t count) const {
    return {static_cast<char*>(data) + first * bytes_of(element), count, element};
  }
};

/// The same, only read.
struct In {
  const void* data = nullptr;
  std::int64_t elements = 0;
  Element element = Element::fp32;

  In() = default;
  In(const void* at, std::int64_t count, Element type) : data(at), elements(count), element(type) {}
  In(const View& view) : data(view.data), elements(view.elements), element(view.element) {}
  bool empty() const { return elements == 0; }
  Bytes size() const { return {elements * bytes_of(element)}; }
  In part(std::int64_t first, std::int64_t count) const {
    return {static_cast<const char*>(data) + first * bytes_of(element), count, element};
  }
};

}  // namespace shardwright
