#pragma once

// How kernels run. A kernel is a struct of numbers and pointers with a call operator for one index, or for one block of
// threads; nvcc makes device code of it, and other compilers run it on the host, thread after thread, so that
// tests need no GPU (host_launch.h).

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"

namespace shardwright::cuda {

/// A logit and its place: of two, the larger is the better one, of equal ones the first.
struct Candidate {
  float value;
  int index;
};
SHARDWRIGHT_DEVICE Candidate better(Candidate a, Candidate b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index) ? a : b;
}

inline constexpr int kWarp = 32, kMostThreads = 1024;
/// Of a block's shared memory, for its own sums; the kernel's begins behind it.
inline constexpr std::int64_t kReduceBytes = 512;

/// Which format a warp's product is of.
template <typename Number>
struct Tile {};
/// A thread's share of a matrix [16, 16] of 16-bit numbers: pairs (row, column), (row, column + 1) where row is the
/// lane / 4 and column twice the lane % 4; then of row + 8; of column + 8; of both. As PTX's mma.m16n8k16 has it.
struct Pairs {
  std::uint32_t of[4];
};

/// Threads for `work` pieces that are alike, whole warps.
inline int threads_for(std::int64_t work, int most = kMostThreads) {
  return static_cast<int>(std::clamp<std::int64_t>((work + kWarp - 1) / kWarp * kWarp, kWarp, most));
}

}  // namespace shardwright::cuda

#ifndef __CUDACC__
#include "kernels/cuda/host_launch.h"
#else

#include "kernels/cuda/check.h"

namespace shardwright::cuda {

extern __shared__ __align__(16) char block_memory[];

__device__ __forceinline__ float from_lane(float x, int other) { return __shfl_xor_sync(0xFFFFFFFFu, x, other); }
__device__ __forceinline__ double from_lane(double x, int other) { return __shfl_xor_sync(0xFFFFFFFFu, x, other); }
__device__ __forceinline__ Candidate from_lane(Candidate x, int other) {
  return {__shfl_xor_sync(0xFFFFFFFFu, x.value, other), __shfl_xor_sync(0xFFFFFFFFu, x.index, other)};
}

/// The threads of one block, whole warps. What all of them call, all of them must reach.
///
/// By warps: multiply(Tile, a, b0, b1, c) adds to c [16, 8], of which a thread has (row, column), (row, column + 1) and
/// those of row + 8, the product of a [16, 16] and b [16, 8]; of b it has the pair (2 (lane % 4), lane / 4), (that + 1,
/// lane / 4), and that of eight rows below. load_columns reads such pairs from a row-major b in shared memory.
class Block {
 public:
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  /// The kernel's own shared memory.
  __device__ __forceinline__ char* shared() const { return block_memory + kReduceBytes; }

  /// Of all threads' numbers, the same in all of them.
  template <typename Value, typename Join>
  __device__ __forceinline__ Value reduce(Value x, Join join) const {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) x = join(x, from_lane(x, lane));
    if (threads() == kWarp) return x;
    Value* of_warps = reinterpret_cast<Value*>(block_memory);
    if (thread() % kWarp == 0) of_warps[thread() / kWarp] = x;
    sync();
    Value all = of_warps[0];
    for (int warp = 1; warp < threads() / kWarp; ++warp) all = join(all, of_warps[warp]);
    sync();
    return all;
  }
  template <typename Value>
  __device__ __forceinline__ Value sum(Value x) const {
    return reduce(x, [](Value a, Value b) { return a + b; });
  }
  __device__ __forceinline__ float largest(float x) const {
    return reduce(x, [](float a, float b) { return larger(a, b); });
  }
  __device__ __forceinline__ Candidate best(Candidate x) const {
    return reduce(x, [](Candidate a, Candidate b) { return better(a, b); });
  }

  /// Of four neighbours, threads 4 i to 4 i + 3.
  __device__ __forceinline__ float sum_of_four(float x) const {
    x += from_lane(x, 1);
    return x + from_lane(x, 2);
  }
  __device__ __forceinline__ float largest_of_four(float x) const {
    x = larger(x, from_lane(x, 1));
    return larger(x, from_lane(x, 2));
  }
  __device__ __forceinline__ void multiply(Tile<Half>, const Pairs& a, std::uint32_t b0, std::uint32_t b1,
                                           float (&c)[4]) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "r"(b0), "r"(b1));
  }
  __device__ __forceinline__ void multiply(Tile<Bfloat>, const Pairs& a, std::uint32_t b0, std::uint32_t b1,
                                           float (&c)[4]) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "r"(b0), "r"(b1));
  }
  template <typename Number>
  __device__ __forceinline__ void load_columns(const Number* tile, int stride, std::uint32_t& b0,
                                               std::uint32_t& b1) const {
    // Threads 0 to 15 name the rows.
    const auto row = static_cast<std::uint32_t>(__cvta_generic_to_shared(tile + thread() % 16 * stride));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(b0), "=r"(b1) : "r"(row));
  }
};

__device__ __forceinline__ void atomic_add(float* at, float x) { atomicAdd(at, x); }

template <typename Kernel>
__global__ void __launch_bounds__(256) run_each(std::int64_t count, const Kernel kernel) {
  const auto step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    kernel(i);
}

template <int most_threads, typename Kernel>
__global__ void __launch_bounds__(most_threads) run_blocks(std::int64_t count, const Kernel kernel) {
  const Block block;
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    kernel(block, i);
    block.sync();  // before the next one writes to shared memory
  }
}

/// kernel(i) for i below `count`, in any order. As many blocks as the GPU holds a few times over.
template <typename Kernel>
void launch_each(Device& device, std::int64_t count, const Kernel& kernel) {
  if (count <= 0) return;
  constexpr std::int64_t kThreads = 256;
  const std::int64_t most = device.properties().multiprocessors * 32;
  const auto blocks = static_cast<unsigned>(std::min((count + kThreads - 1) / kThreads, most));
  run_each<<<blocks, static_cast<unsigned>(kThreads), 0, device.stream()>>>(count, kernel);
  SHARDWRIGHT_CUDA(cudaGetLastError());
}

/// kernel(block, i) for i below `count`, each by one block that has `shared` bytes of its own. Fewer threads at most
/// have more registers each.
template <int most_threads = kMostThreads, typename Kernel>
void launch_blocks(Device& device, std::int64_t count, int threads, std::int64_t shared, const Kernel& kernel) {
  if (count <= 0) return;
  constexpr std::int64_t kMostBlocks = 1 << 20, kUnasked = 48 << 10;
  const std::int64_t bytes = kReduceBytes + shared;
  if (bytes > kUnasked)
    SHARDWRIGHT_CUDA(cudaFuncSetAttribute(run_blocks<most_threads, Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(bytes)));
  const auto blocks = static_cast<unsigned>(std::min(count, kMostBlocks));
  run_blocks<most_threads>
      <<<blocks, static_cast<unsigned>(threads), static_cast<std::size_t>(bytes), device.stream()>>>(count, kernel);
  SHARDWRIGHT_CUDA(cudaGetLastError());
}

}  // namespace shardwright::cuda
#endif
