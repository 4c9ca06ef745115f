#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

struct CUstream_st;

namespace shardwright::cuda {

// Kernels that serve measurements alone. All are enqueued on the stream.

void fill_random(void* to, Bytes size, Fill with, std::uint64_t seed, CUstream_st* stream);
/// As Gpu::narrow.
void narrow_to_fp8(const void* x, std::int64_t rows, std::int64_t width, Scaling scaling, void* y, void* scales,
                   CUstream_st* stream);
/// Keeps the stream busy for so many clock cycles.
void spin(std::int64_t cycles, CUstream_st* stream);

}  // namespace shardwright::cuda
