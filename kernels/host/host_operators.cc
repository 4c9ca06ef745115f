#include "kernels/host/host_operators.h"

#include <cassert>
#include <cstring>
#include <new>
#include <stdexcept>

namespace shardwright {
namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector register

template <typename From, typename To>
void copy_numbers(const From* from, To* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

}  // namespace

void throw_no_such_element(Element element) {
  throw std::invalid_argument("the host's kernels have no numbers of " + std::string(name_of(element)));
}

std::shared_ptr<void> HostOperators::allocate(Bytes size) {
  if (size.value == 0) return nullptr;
  const auto alignment = std::align_val_t{kAlignment};
  void* data = ::operator new(static_cast<std::size_t>(size.value), alignment);
  return {data, [alignment](void* p) { ::operator delete(p, alignment); }};
}

void HostOperators::upload(std::span<const double> from, View to) {
  assert(static_cast<std::int64_t>(from.size()) == to.elements && "sizes agree");
  visit_numbers(to, [&](auto* data) { copy_numbers(from.data(), data, to.elements); });
}

std::vector<double> HostOperators::download(In from) {
  std::vector<double> result(static_cast<std::size_t>(from.elements));
  visit_numbers(from, [&](const auto* data) { copy_numbers(data, result.data(), from.elements); });
  return result;
}

void HostOperators::fill(View to, double value) {
  visit_numbers(to, [&](auto* data) {
    std::fill_n(data, to.elements, static_cast<std::remove_pointer_t<decltype(data)>>(value));
  });
}

void HostOperators::fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) {
  visit_numbers(to, [&](auto* data) {
    for_each_in_block(place, [&](std::int64_t index) {
      *data++ = static_cast<std::remove_pointer_t<decltype(data)>>(deviation * normal(seed, index));
    });
  });
}

void HostOperators::cast(In from, View to) {
  assert(from.elements == to.elements && "sizes agree");
  if (from.element == to.element) {
    if (!from.empty()) std::memcpy(to.data, from.data, static_cast<std::size_t>(from.size().value));
    return;
  }
  visit_numbers(from, [&](const auto* source) {
    visit_numbers(to, [&](auto* target) { copy_numbers(source, target, to.elements); });
  });
}

void HostOperators::copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) {
  assert(from.view.element == to.view.element && "a copy, no conversion");
  const auto width = static_cast<std::size_t>(bytes_of(from.view.element));
  const char* source = static_cast<const char*>(from.view.data);
  char* target = static_cast<char*>(to.view.data);
  // Whole runs where the last dimension is dense on both sides.
  std::size_t dims = extents.size(), run = width;
  for (const std::int64_t extent : extents)
    if (extent == 0) return;
  std::int64_t dense = 1;
  while (dims > 0 && from.strides[dims - 1] == dense && to.strides[dims - 1] == dense) {
    dense *= extents[--dims];
    run = width * static_cast<std::size_t>(dense);
  }
  std::vector<std::int64_t> at(dims, 0);
  std::int64_t source_at = 0, target_at = 0;
  while (true) {
    std::memcpy(target + target_at * static_cast<std::int64_t>(width),
                source + source_at * static_cast<std::int64_t>(width), run);
    std::size_t i = dims;
    while (i-- > 0) {
      source_at += from.strides[i], target_at += to.strides[i];
      if (++at[i] < extents[i]) break;
      source_at -= at[i] * from.strides[i], target_at -= at[i] * to.strides[i];
      at[i] = 0;
    }
    if (i == static_cast<std::size_t>(-1)) return;
  }
}

void HostOperators::dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) {
  visit_numbers(mask, [&](auto* data) {
    using Number = std::remove_pointer_t<decltype(data)>;
    for_each_in_block(place, [&](std::int64_t index) {
      *data++ = static_cast<Number>(uniform(random_bits(seed, static_cast<std::uint64_t>(index))) > probability);
    });
  });
}

std::vector<std::int64_t> HostOperators::rows_per_expert(In mask, std::int64_t experts) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(experts), 0);
  visit_numbers(mask, [&](const auto* data) {
    for (std::int64_t i = 0; i < mask.elements; ++i) rows[static_cast<std::size_t>(i % experts)] += data[i] != 0;
  });
  return rows;
}

void HostOperators::expert_rows(In mask, std::int64_t experts, View token_of_row) {
  assert(token_of_row.element == Element::int64 && "rows are named by ids");
  auto* row = static_cast<std::int64_t*>(token_of_row.data);
  visit_numbers(mask, [&](const auto* data) {
    for (std::int64_t e = 0; e < experts; ++e)
      for (std::int64_t t = 0; t < mask.elements / experts; ++t)
        if (data[t * experts + e] != 0) *row++ = t;
  });
}

}  // namespace shardwright
