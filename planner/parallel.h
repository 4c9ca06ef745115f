#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace shardwright {

/// Runs `run(i)` for every i below `count`, on `threads` threads (0 or less: one a core), the calling one among them.
/// Waits for all; then throws what the first of them threw, if any did.
template <typename F>
void run_in_parallel(std::size_t count, int threads, const F& run) {
  std::size_t workers = threads > 0 ? static_cast<std::size_t>(threads) : std::thread::hardware_concurrency();
  workers = std::clamp<std::size_t>(workers, 1, std::max<std::size_t>(count, 1));
  std::atomic<std::size_t> next = 0;
  std::vector<std::exception_ptr> errors(workers);
  const auto work = [&](std::size_t worker) {
    try {
      for (std::size_t i = next++; i < count; i = next++) run(i);
    } catch (...) { errors[worker] = std::current_exception(); }
  };
  std::vector<std::thread> others;
  for (std::size_t w = 1; w < workers; ++w) others.emplace_back(work, w);
  work(0);
  for (std::thread& t : others) t.join();
  for (const std::exception_ptr& e : errors)
    if (e) std::rethrow_exception(e);
}

}  // namespace shardwright
