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

 private:
  int thread_, threads_;
  char* memory_;
};

inline void atomic_add(float* at, float x) { *at += x; }

template <typename Kernel>
void launch_each(Device&, std::int64_t count, const Kernel& kernel) {
  for (std::int64_t i = 0; i < count; ++i) kernel(i);
}

template <typename Kernel>
void launch_blocks(Device& device, std::int64_t count, int threads, std::int64_t shared, const Kernel& kernel) {
  assert(threads % kWarp == 0 && threads <= kMostThreads && "whole warps");
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
