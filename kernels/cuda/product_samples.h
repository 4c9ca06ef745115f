#pragma once

#include "kernels/cuda/gpu.h"

namespace shardwright::cuda {

/// Of a product whose results lie in `at`, at sampled places, against sums in double precision of what the operands
/// and their scales say; relative to the largest of them. Waits.
double sampled_product_error(Gpu& gpu, const ProductSpec& spec, const ProductBuffers& at);

/// Of a's fp8 numbers times their scales, in sampled rows, against the bf16 numbers that they were made of; relative to
/// the largest of each row. Scales that were given (`tensor`) cut off what is too large for them: those count as exact.
double sampled_narrowing_error(Gpu& gpu, const ProductSpec& spec, const void* wide, const ProductBuffers& at);

/// The number of the format at `index` of `bytes`: fp32 (also tf32), fp16, bf16, E4M3 (fp8, mxfp8), E2M1 (nvfp4, two in
/// a byte, the lower half first).
double number_at(const unsigned char* bytes, std::int64_t index, DataType type);

/// Where the scale of `row` and the `block`-th 16 or 32 numbers along k lies: in tiles of 128 rows by 4 scales, in
/// which rows 32 apart are neighbours. From the cuBLAS documentation, "1D block scaling factors layout".
std::int64_t tiled_scale(std::int64_t row, std::int64_t block, std::int64_t blocks);

}  // namespace shardwright::cuda
