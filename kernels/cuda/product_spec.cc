// What of products is arithmetic: places and sizes. Needs no library.
#include <cassert>

#include "kernels/cuda/matmul.h"

namespace shardwright::cuda {
namespace {

std::int64_t blocks(std::int64_t n, std::int64_t of) { return (n + of - 1) / of; }

/// Scales of `rows` rows along k, in tiles of 128 rows by 4 scales: `along` numbers for one scale.
std::int64_t tiled_scales(std::int64_t rows, std::int64_t k, std::int64_t along) {
  return blocks(rows, 128) * 128 * blocks(blocks(k, along), 4) * 4;
}

/// Of an operand of `rows` rows (a's m, b's n). `square`: blocks of 128 x 128.
Bytes scale_bytes(const ProductSpec& spec, std::int64_t rows, bool square) {
  if (spec.type == DataType::mxfp8) return {spec.batch * tiled_scales(rows, spec.k, 32)};
  if (spec.type == DataType::nvfp4) return {spec.batch * tiled_scales(rows, spec.k, 16)};
  if (spec.type != DataType::fp8) return {0};
  constexpr std::int64_t kFloat = 4;
  switch (spec.scaling) {
    case Scaling::tensor:
      return {kFloat};
    case Scaling::row:
      return {kFloat * spec.batch * rows};
    case Scaling::block:
      break;
  }
  const std::int64_t along = blocks(spec.k, 128);
  return {kFloat * spec.batch * (square ? blocks(rows, 128) * blocks(along, 4) * 4 : along * rows)};
}

}  // namespace

ProductSpec dense(ProductSpec spec, GemmLayout layout) {
  const bool a_turned = layout == GemmLayout::tn || layout == GemmLayout::tt;
  const bool b_turned = layout == GemmLayout::nt || layout == GemmLayout::tt;
  spec.a = {a_turned, a_turned ? spec.m : spec.k, spec.m * spec.k};
  spec.b = {b_turned, b_turned ? spec.k : spec.n, spec.k * spec.n};
  spec.out = {false, spec.n, spec.m * spec.n};
  return spec;
}

Bytes scale_bytes_of_a(const ProductSpec& spec) { return scale_bytes(spec, spec.m, false); }
Bytes scale_bytes_of_b(const ProductSpec& spec) { return scale_bytes(spec, spec.n, true); }

}  // namespace shardwright::cuda
