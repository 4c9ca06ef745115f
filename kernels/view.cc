#include "kernels/view.h"

#include <array>

namespace shardwright {

std::string_view name_of(Element e) {
  constexpr std::array<std::string_view, 6> kNames = {"fp64", "fp32", "fp16", "bf16", "byte", "int64"};
  return kNames[static_cast<std::size_t>(e)];
}

std::int64_t bytes_of(Element e) {
  constexpr std::array<std::int64_t, 6> kBytes = {8, 4, 2, 2, 1, 8};
  return kBytes[static_cast<std::size_t>(e)];
}

}  // namespace shardwright
