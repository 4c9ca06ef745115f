#pragma once

#include <bit>
#include <random>

#include "hardware/kernel_keys.h"

namespace shardwright {

/// Any question of any family; half of the keys that have a default have it.
inline KernelSpec random_kernel(std::mt19937_64& random) {
  const auto below = [&](std::int64_t bound) {
    return std::uniform_int_distribution<std::int64_t>(0, bound - 1)(random);
  };
  const auto family = static_cast<KernelFamily>(below(kKernelFamilies));
  KernelSlots slots = {};
  for (const KernelKey& key : kernel_keys(family)) {
    std::int64_t& slot = slots[static_cast<std::size_t>(key.slot)];
    if (key.unless != Unless::required && below(2) == 0) {
      slot = default_of(key, slots);
      continue;
    }
    switch (key.type) {
      case KeyType::count:
        slot = key.low + below(std::int64_t{1} << (1 + below(52)));
        break;
      case KeyType::flag:
        slot = below(2);
        break;
      case KeyType::word:
        slot = below(static_cast<std::int64_t>(key.words.size()));
        break;
      case KeyType::share:
        slot = std::bit_cast<std::int64_t>(std::uniform_real_distribution<double>(0, 1)(random));
        break;
      case KeyType::routing:
        slot = std::bit_cast<std::int64_t>(std::uniform_real_distribution<double>(0.1, 3)(random));
        break;
      case KeyType::group: {
        std::int64_t covered = 1;
        std::int64_t* run = &slot;
        for (std::int64_t runs = below(RankGroup::kMaxFactors + 1); runs > 0; --runs, run += 2) {
          run[0] = 2 + below(15);
          run[1] = covered * (run == &slot ? 1 + below(2) : 2 + below(3));
          covered = run[0] * run[1];
        }
        break;
      }
    }
  }
  return from_slots(family, slots);
}

}  // namespace shardwright
