#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/measuring.h"

namespace shardwright::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t n, std::int64_t each) {
  constexpr std::int64_t kMost = 1 << 16;
  return static_cast<unsigned>(std::clamp<std::int64_t>((n + each - 1) / each, 1, kMost));
}

// ---- random numbers ----

/// As random_bits in kernels/host/host_operators.h.
__device__ std::uint64_t bits_of(std::uint64_t seed, std::uint64_t element) {
  std::uint64_t z = seed * 0xD1342543DE82EF95u + (element + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// Uniform in [-1, 1).
__device__ float number_of(std::uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1p-23f - 1.0f; }

struct AsFp32 {
  using Type = float;
  __device__ static Type of(std::uint64_t bits) { return number_of(bits); }
};
struct AsFp16 {
  using Type = __half;
  __device__ static Type of(std::uint64_t bits) { return __float2half_rn(number_of(bits)); }
};
struct AsBf16 {
  using Type = __nv_bfloat16;
  __device__ static Type of(std::uint64_t bits) { return __float2bfloat16_rn(number_of(bits)); }
};
struct AsFp8 {
  using Type = __nv_fp8_storage_t;
  __device__ static Type of(std::uint64_t bits) {
    return __nv_cvt_float_to_fp8(number_of(bits), __NV_SATFINITE, __NV_E4M3);
  }
};
struct AsFp4 {  // two E2M1 in a byte, whose bits are all numbers
  using Type = unsigned char;
  __device__ static Type of(std::uint64_t bits) { return static_cast<Type>(bits >> 32); }
};
struct AsScale {  // in [1/2, 3/2)
  using Type = float;
  __device__ static Type of(std::uint64_t bits) { return number_of(bits) * 0.5f + 1.0f; }
};
struct AsPowerOfTwo {  // E8M0: 1/2, 1 or 2
  using Type = unsigned char;
  __device__ static Type of(std::uint64_t bits) { return static_cast<Type>(126 + (bits >> 32) % 3); }
};
struct AsPositiveFp8 {  // E4M3 from 1/2 (0x30) to 2 (0x40)
  using Type = unsigned char;
  __device__ static Type of(std::uint64_t bits) { return static_cast<Type>(0x30 + (bits >> 32) % 17); }
};

template <typename As>
__global__ void fill_kernel(typename As::Type* to, std::int64_t n, std::uint64_t seed) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    to[i] = As::of(bits_of(seed, static_cast<std::uint64_t>(i)));
}

template <typename As>
void fill_as(void* to, Bytes size, std::uint64_t seed, CUstream_st* stream) {
  const std::int64_t n = size.value / static_cast<std::int64_t>(sizeof(typename As::Type));
  if (n == 0) return;
  fill_kernel<As><<<blocks_for(n, kThreads), kThreads, 0, stream>>>(static_cast<typename As::Type*>(to), n, seed);
  SHARDWRIGHT_CUDA(cudaGetLastError());
}

// ---- narrowing to fp8 ----

constexpr float kLargestFp8 = 448;  // of E4M3

__device__ float largest_of_warp(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}

__device__ __nv_fp8_storage_t fp8_of(__nv_bfloat16 x, float inverse) {
  return __nv_cvt_float_to_fp8(__bfloat162float(x) * inverse, __NV_SATFINITE, __NV_E4M3);
}

/// By which numbers up to `largest` are multiplied back; not 0, which none could be divided by.
__device__ float scale_of(float largest) { return fmaxf(largest, 1e-12f) / kLargestFp8; }

__global__ void narrow_tensor(const __nv_bfloat16* x, std::int64_t n, __nv_fp8_storage_t* y, const float* scale) {
  const float inverse = 1.0f / *scale;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    y[i] = fp8_of(x[i], inverse);
}

/// A block of threads for a row.
__global__ void narrow_rows(const __nv_bfloat16* x, std::int64_t rows, std::int64_t width, __nv_fp8_storage_t* y,
                            float* scales) {
  __shared__ float of_warps[kThreads / 32];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const __nv_bfloat16* from = x + row * width;
    float largest = 0;
    for (std::int64_t i = threadIdx.x; i < width; i += kThreads)
      largest = fmaxf(largest, fabsf(__bfloat162float(from[i])));
    largest = largest_of_warp(largest);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (const float other : of_warps) largest = fmaxf(largest, other);
    __syncthreads();  // the next row writes of_warps again
    const float scale = scale_of(largest);
    if (threadIdx.x == 0) scales[row] = scale;
    for (std::int64_t i = threadIdx.x; i < width; i += kThreads) y[row * width + i] = fp8_of(from[i], 1.0f / scale);
  }
}

/// A warp for 128 numbers of a row.
__global__ void narrow_blocks(const __nv_bfloat16* x, std::int64_t rows, std::int64_t width, __nv_fp8_storage_t* y,
                              float* scales) {
  const std::int64_t along = (width + 127) / 128, warps = static_cast<std::int64_t>(gridDim.x) * (kThreads / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (std::int64_t w = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; w < rows * along;
       w += warps) {
    const std::int64_t row = w / along, block = w % along, first = row * width + block * 128;
    const std::int64_t count = min(static_cast<std::int64_t>(128), width - block * 128);
    __nv_bfloat16 own[4];
    float largest = 0;
    for (int j = 0; j < 4; ++j) {
      const std::int64_t i = lane + 32 * j;
      own[j] = i < count ? x[first + i] : __float2bfloat16_rn(0);
      largest = fmaxf(largest, fabsf(__bfloat162float(own[j])));
    }
    const float scale = scale_of(largest_of_warp(largest));
    if (lane == 0) scales[block * rows + row] = scale;
    for (int j = 0; j < 4; ++j)
      if (lane + 32 * j < count) y[first + lane + 32 * j] = fp8_of(own[j], 1.0f / scale);
  }
}

__global__ void spin_kernel(long long cycles) {
  const long long begin = clock64();
  while (clock64() - begin < cycles) {}
}

}  // namespace

void fill_random(void* to, Bytes size, Fill with, std::uint64_t seed, CUstream_st* stream) {
  switch (with) {
    case Fill::fp32:
      return fill_as<AsFp32>(to, size, seed, stream);
    case Fill::fp16:
      return fill_as<AsFp16>(to, size, seed, stream);
    case Fill::bf16:
      return fill_as<AsBf16>(to, size, seed, stream);
    case Fill::fp8:
      return fill_as<AsFp8>(to, size, seed, stream);
    case Fill::fp4:
      return fill_as<AsFp4>(to, size, seed, stream);
    case Fill::scale_fp32:
      return fill_as<AsScale>(to, size, seed, stream);
    case Fill::scale_e8m0:
      return fill_as<AsPowerOfTwo>(to, size, seed, stream);
    case Fill::scale_e4m3:
      return fill_as<AsPositiveFp8>(to, size, seed, stream);
  }
}

void narrow_to_fp8(const void* x, std::int64_t rows, std::int64_t width, Scaling scaling, void* y, void* scales,
                   CUstream_st* stream) {
  const auto* from = static_cast<const __nv_bfloat16*>(x);
  auto* to = static_cast<__nv_fp8_storage_t*>(y);
  auto* scale = static_cast<float*>(scales);
  if (rows * width == 0) return;
  switch (scaling) {
    case Scaling::tensor:
      narrow_tensor<<<blocks_for(rows * width, kThreads), kThreads, 0, stream>>>(from, rows * width, to, scale);
      break;
    case Scaling::row:
      narrow_rows<<<blocks_for(rows, 1), kThreads, 0, stream>>>(from, rows, width, to, scale);
      break;
    case Scaling::block:
      narrow_blocks<<<blocks_for(rows * ((width + 127) / 128), kThreads / 32), kThreads, 0, stream>>>(from, rows, width,
                                                                                                      to, scale);
      break;
  }
  SHARDWRIGHT_CUDA(cudaGetLastError());
}

void spin(std::int64_t cycles, CUstream_st* stream) {
  spin_kernel<<<1, 1, 0, stream>>>(cycles);
  SHARDWRIGHT_CUDA(cudaGetLastError());
}

}  // namespace shardwright::cuda
