#pragma once

// Included by launch.h, where no nvcc compiles: the same kernels on the host. The threads of a block are run one after
// the other from barrier to barrier, first to last and last to first by turns, so that a barrier that is missing shows.

#include <cassert>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"

namespace shardwright::cuda {

/// Runs `body(thread)` for each thread of a block; `wait` returns once all others wait, too, or have ended.
class HostThreads {
 public:
  static void run(int threads, const std::function<void(int)>& body);
  static void wait();
};

class Block {
 public:
  Block(int thread, int threads, char* memory) : thread_(thread), threads_(threads), memory_(memory) {}
  int thread() const { return thread_; }
  int threads() const { return threads_; }
  void sync() const { HostThreads::wait(); }
  char* shared() const { return memory_ + kMostThreads * sizeof(double); }

  template <typename Value, typename Join>
  Value reduce(Value x, Join join) const {
    Value* parts = reinterpret_cast<Value*>(memory_);
    parts[thread_] = x;
    sync();
    Value all = parts[0];
    for (int i = 1; i < threads_; ++i) all = join(all, parts[i]);
    sync();
    return all;
  }
  template <typename Value>
  Value sum(Value x) const {
    return reduce(x, [](Value a, Value b) { return a + b; });
  }
  float largest(float x) const {
    return reduce(x, [](float a, float b) { return larger(a, b); });
  }
  Candidate best(Candidate x) const {
    return reduce(x, [](Candidate a, Candidate b) { return better(a, b); });
  }

  float sum_of_four(float x) const {
    return of_four(x, [](float a, float b) { return a + b; });
  }
  float largest_of_four(float x) const {
    return of_four(x, [](float a, float b) { return larger(a, b); });
  }

  template <typename Number>
  void multiply(Tile<Number>, const Pairs& a, std::uint32_t b0, std::uint32_t b1, float (&c)[4]) const {
    struct Share {
      Pairs a;
      std::uint32_t b[2];
    };
    Share* shares = reinterpret_cast<Share*>(memory_);
    shares[thread_] = {a, {b0, b1}};
    sync();
    const Share* warp = shares + thread_ / kWarp * kWarp;
    const auto number = [](std::uint32_t pair, int which) {
      return to_float(Number{static_cast<std::uint16_t>(pair >> 16 * which)});
    };
    for (int i = 0; i < 4; ++i) {
      const int row = thread_ % kWarp / 4 + i / 2 * 8, column = thread_ % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) {
        const int lane = k % 8 / 2;
        c[i] += number(warp[row % 8 * 4 + lane].a.of[row / 8 + k / 8 * 2], k % 2) *
                number(warp[column * 4 + lane].b[k / 8], k % 2);
      }
    }
    sync();
  }
  template <typename Number>
  void load_columns(const Number* tile, int stride, std::uint32_t& b0, std::uint32_t& b1) const {
    const int row = thread_ % 4 * 2, column = thread_ % kWarp / 4;
    const auto pair = [&](int first) {
      return tile[first * stride + column].bits | static_cast<std::uint32_t>(tile[(first + 1) * stride + column].bits)
                                                      << 16;
    };
    b0 = pair(row), b1 = pair(row + 8);
  }

 private:
  template <typename Join>
  float of_four(float x, Join join) const {
    float* parts = reinterpret_cast<float*>(memory_);
    parts[thread_] = x;
    sync();
    const float* four = parts + thread_ / 4 * 4;
    const float all = join(join(four[0], four[1]), join(four[2], four[3]));
    sync();
    return all;
  }

  int thread_, threads_;
  char* memory_;
};

inline void atomic_add(float* at, float x) { *at += x; }

template <typename Kernel>
void launch_each(Device&, std::int64_t count, const Kernel& kernel) {
  for (std::int64_t i = 0; i < count; ++i) kernel(i);
}

template <int most_threads = kMostThreads, typename Kernel>
void launch_blocks(Device& device, std::int64_t count, int threads, std::int64_t shared, const Kernel& kernel) {
  assert(threads % kWarp == 0 && threads <= most_threads && "whole warps");
  assert(kReduceBytes + shared <= device.properties().shared_per_block.value && "blocks have so much memory");
  static_cast<void>(device);
  std::vector<double> memory(kMostThreads + static_cast<std::size_t>(shared + 7) / 8);
  for (std::int64_t i = 0; i < count; ++i) {
    std::fill(memory.begin(), memory.end(), std::numeric_limits<double>::quiet_NaN());  // of the last block: nothing
    HostThreads::run(threads,
                     [&](int thread) { kernel(Block(thread, threads, reinterpret_cast<char*>(memory.data())), i); });
  }
}

}  // namespace shardwright::cuda
