#include "hardware/rank_group.h"

#include <cassert>
#include <numeric>

namespace shardwright {

std::int64_t RankGroup::size() const {
  std::int64_t product = 1;
  for (int i = 0; i < count; ++i) product *= factors[i].size;
  return product;
}

void RankGroup::add(std::int32_t size, std::int64_t stride) {
  assert(size >= 1 && stride >= 1 && "a factor has at least one rank and a step forward");
  if (size == 1) return;
  if (count > 0) {
    Factor& last = factors[count - 1];
    assert(stride >= last.size * last.stride && "factors come by growing stride and do not overlap");
    if (stride == last.size * last.stride) {
      last.size *= size;
      return;
    }
  }
  assert(count < kMaxFactors && "more runs than a group can hold");
  factors[count++] = {size, stride};
}

std::int64_t RankGroup::members_within(std::int64_t unit) const {
  assert(unit >= 1 && "a unit holds at least one rank");
  std::int64_t members = 1;
  for (int i = 0; i < count; ++i) {
    const std::int64_t run = factors[i].size * factors[i].stride;
    // Translates of an aligned run meet unit borders at every multiple of this, so no more is sure to stay together.
    const std::int64_t together = std::gcd(run, unit);
    if (together % factors[i].stride != 0) break;
    members *= together / factors[i].stride;
    if (together != run) break;
  }
  return members;
}

}  // namespace shardwright
