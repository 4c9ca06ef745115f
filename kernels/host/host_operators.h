#pragma once

#include <type_traits>

#include "kernels/operators.h"
#include "kernels/random.h"

namespace shardwright {

/// Calls `visit(index in the whole array)` for each element of a block, in the block's order.
template <typename Visit>
void for_each_in_block(const BlockPlace& place, Visit visit) {
  const std::size_t dims = place.extents.size();
  std::vector<std::int64_t> at(dims, 0), stride(dims, 1);
  for (std::size_t i = dims; i-- > 1;) stride[i - 1] = stride[i] * place.whole[i];
  std::int64_t row = 0;
  for (std::size_t i = 0; i < dims; ++i) {
    if (place.extents[i] == 0) return;
    row += place.begin[i] * stride[i];
  }
  while (true) {
    visit(row);
    std::size_t i = dims;
    while (i-- > 0) {
      row += stride[i];
      if (++at[i] < place.extents[i]) break;
      row -= at[i] * stride[i];
      at[i] = 0;
    }
    if (i == static_cast<std::size_t>(-1)) return;
  }
}

/// What backends whose buffers lie in the host's memory share: memory, copies, random numbers, lists of rows.
class HostOperators : public Operators {
 public:
  std::shared_ptr<void> allocate(Bytes size) override;
  void upload(std::span<const double> from, View to) override;
  std::vector<double> download(In from) override;
  void synchronize() override {}
  void fill(View to, double value) override;
  void fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) override;
  void cast(In from, View to) override;
  void copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) override;
  void dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) override;
  std::vector<std::int64_t> rows_per_expert(In mask, std::int64_t experts) override;
  void expert_rows(In mask, std::int64_t experts, View token_of_row) override;
};

[[noreturn]] void throw_no_such_element(Element element);

/// Calls `visit` with a typed pointer to the numbers. Throws std::invalid_argument for formats that hosts have not.
template <typename Visit>
void visit_numbers(const View& view, Visit visit) {
  switch (view.element) {
    case Element::fp64:
      return visit(static_cast<double*>(view.data));
    case Element::fp32:
      return visit(static_cast<float*>(view.data));
    case Element::byte:
      return visit(static_cast<unsigned char*>(view.data));
    case Element::int64:
      return visit(static_cast<std::int64_t*>(view.data));
    case Element::fp16:
    case Element::bf16:
      break;
  }
  throw_no_such_element(view.element);
}
template <typename Visit>
void visit_numbers(const In& in, Visit visit) {
  visit_numbers(View{const_cast<void*>(in.data), in.elements, in.element},
                [&](auto* data) { visit(static_cast<const std::remove_pointer_t<decltype(data)>*>(data)); });
}

}  // namespace shardwright
