#include "profiler/execute/block.h"

#include <algorithm>

namespace shardwright {

Memory::Memory(Operators& operators, Bytes limit) : operators_(operators), limit_(limit) {}

Block Memory::make(std::int64_t elements, Element element) {
  const Bytes size{std::max<std::int64_t>(1, elements) * bytes_of(element)};
  if (limit_.value > 0 && counts_->current + size > limit_)
    throw RanOutOfMemory("out of memory: " + std::to_string(counts_->current.value) + " bytes live and " +
                         std::to_string(size.value) + " more wanted, of " + std::to_string(limit_.value));
  std::shared_ptr<void> memory;
  try {
    memory = operators_.allocate(size);
  } catch (const std::bad_alloc&) {
    throw RanOutOfMemory("out of memory: " + std::to_string(counts_->current.value) + " bytes live and " +
                         std::to_string(size.value) + " more wanted");
  }
  counts_->current += size;
  counts_->peak = std::max(counts_->peak, counts_->current);
  void* const data = memory.get();
  std::shared_ptr<void> counted(data, [memory = std::move(memory), counts = counts_, size](void*) mutable {
    counts->current -= size;
    memory.reset();
  });
  return {{data, elements, element}, std::move(counted), nullptr};
}

}  // namespace shardwright
