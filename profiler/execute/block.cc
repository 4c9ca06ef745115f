#include "profiler/execute/block.h"

#include <algorithm>

namespace shardwright {

Memory::Memory(Operators& operators, Bytes limit) : operators_(operators), limit_(limit) {}

/// Of that size or somewhat more, which `size` becomes.
std::shared_ptr<void> Memory::raw(Bytes& size) {
  auto& kept = counts_->kept;
  if (const auto fits = kept.lower_bound(size.value);
      fits != kept.end() && fits->first <= size.value + size.value / 8) {
    size = {fits->first};
    std::shared_ptr<void> memory = std::move(fits->second);
    kept.erase(fits);
    return memory;
  }
  try {
    return operators_.allocate(size);
  } catch (const std::bad_alloc&) {
    if (kept.empty()) throw;
  }
  kept.clear();
  return operators_.allocate(size);
}

Block Memory::make(std::int64_t elements, Element element) {
  const Bytes size{std::max<std::int64_t>(1, elements) * bytes_of(element)};
  if (limit_.value > 0 && counts_->current + size > limit_)
    throw RanOutOfMemory("out of memory: " + std::to_string(counts_->current.value) + " bytes live and " +
                         std::to_string(size.value) + " more wanted, of " + std::to_string(limit_.value));
  std::shared_ptr<void> memory;
  Bytes held = size;
  try {
    memory = raw(held);
  } catch (const std::bad_alloc&) {
    throw RanOutOfMemory("out of memory: " + std::to_string(counts_->current.value) + " bytes live and " +
                         std::to_string(size.value) + " more wanted");
  }
  counts_->current += size;
  counts_->peak = std::max(counts_->peak, counts_->current);
  void* const data = memory.get();
  std::shared_ptr<void> counted(data, [memory = std::move(memory), counts = counts_, size, held](void*) mutable {
    counts->current -= size;
    counts->kept.emplace(held.value, std::move(memory));
  });
  return {{data, elements, element}, std::move(counted)};
}

}  // namespace shardwright
