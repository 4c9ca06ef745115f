#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/launch.h"
#include "kernels/view.h"

namespace shardwright::cuda {

[[noreturn]] void throw_no_such_number(Element element);
/// The format of all that are not empty. Throws std::invalid_argument where they differ.
Element format_of(std::initializer_list<In> operands);
/// Throws std::invalid_argument where they are no ids.
const std::int64_t* ids_of(const In& in);

/// Calls visit(number) with a number of that format; throws std::invalid_argument for formats that kernels have not.
template <typename Visit>
void visit_format(Element element, Visit visit) {
  switch (element) {
    case Element::fp32:
      return visit(float{});
    case Element::fp16:
      return visit(Half{});
    case Element::bf16:
      return visit(Bfloat{});
    case Element::fp64:
    case Element::byte:
    case Element::int64:
      break;
  }
  throw_no_such_number(element);
}
template <typename Visit>
void visit_formats(std::initializer_list<In> operands, Visit visit) {
  visit_format(format_of(operands), visit);
}

/// Null where the view is empty: not wanted.
template <typename Number>
const Number* data_of(const In& in) {
  return in.empty() ? nullptr : static_cast<const Number*>(in.data);
}
template <typename Number>
Number* data_of(const View& view) {
  return view.empty() ? nullptr : static_cast<Number*>(view.data);
}

inline bool is_aligned(const void* at, std::size_t to) { return reinterpret_cast<std::uintptr_t>(at) % to == 0; }

/// Numbers that one access of 16 bytes holds.
template <typename Number>
inline constexpr int kPiece = 16 / static_cast<int>(sizeof(Number));

/// Whether rows of that width are read in whole pieces: all of them begin at a multiple of 16 bytes.
template <typename Number>
bool in_pieces(std::int64_t width, std::initializer_list<const void*> arrays) {
  if (width % kPiece<Number> != 0) return false;
  for (const void* array : arrays)
    if (!is_aligned(array, 16)) return false;
  return true;
}

/// How many numbers are visited at once, as a type.
template <int count>
struct Count {
  static constexpr int value = count;
};

/// visit(Count, first): the block's threads take turns over the numbers of a row, a piece each, or one by one.
template <typename Number, typename Visit>
SHARDWRIGHT_DEVICE void for_pieces(const Block& block, std::int64_t width, bool pieces, Visit visit) {
  if (pieces) {
    constexpr int kCount = kPiece<Number>;
    for (std::int64_t i = static_cast<std::int64_t>(block.thread()) * kCount; i < width;
         i += static_cast<std::int64_t>(block.threads()) * kCount)
      visit(Count<kCount>{}, i);
  } else {
    for (std::int64_t i = block.thread(); i < width; i += block.threads()) visit(Count<1>{}, i);
  }
}
template <typename Number>
int threads_for_row(std::int64_t width, bool pieces, int most = 512) {
  return threads_for(pieces ? width / kPiece<Number> : width, most);
}

/// The sum of a * b over a row, the same in all threads of the block.
template <typename Number>
SHARDWRIGHT_DEVICE float row_product(const Block& block, const Number* a, const Number* b, std::int64_t width,
                                     bool pieces) {
  float sum = 0;
  for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
    constexpr int kCount = decltype(count)::value;
    float u[kCount], v[kCount];
    load(a + i, u);
    load(b + i, v);
    for (int k = 0; k < kCount; ++k) sum += u[k] * v[k];
  });
  return block.sum(sum);
}

/// function(index, x, y) for each number of arrays of one length, in pieces of 16 bytes where all begin at such.
template <typename Number, int inputs, int outputs, typename Function>
struct Pointwise {
  const Number* in[inputs];
  Number* out[outputs];
  std::int64_t elements;
  bool pieces;
  Function function;

  template <int count>
  SHARDWRIGHT_DEVICE void visit(std::int64_t first) const {
    float x[inputs][count], y[outputs][count];
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int k = 0; k < inputs; ++k) load<count>(in[k] + first, x[k]);
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int i = 0; i < count; ++i) {
      float from[inputs], to[outputs];
      for (int k = 0; k < inputs; ++k) from[k] = x[k][i];
      function(first + i, from, to);
      for (int k = 0; k < outputs; ++k) y[k][i] = to[k];
    }
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int k = 0; k < outputs; ++k) store<count>(y[k], out[k] + first);
  }
  SHARDWRIGHT_DEVICE void operator()(std::int64_t piece) const {
    const std::int64_t first = piece * kPiece<Number>;
    if (pieces && first + kPiece<Number> <= elements) return visit<kPiece<Number>>(first);
    for (std::int64_t i = first; i < first + kPiece<Number> && i < elements; ++i) visit<1>(i);
  }
};

template <int inputs, int outputs, typename Function>
void pointwise(Device& device, const Function& function, const In (&in)[inputs], const View (&out)[outputs]) {
  Element format = in[0].element;
  for (const In& x : in) format = format_of({In(nullptr, 1, format), x});
  for (const View& y : out) format = format_of({In(nullptr, 1, format), y});
  visit_format(format, [&](auto number) {
    using Number = decltype(number);
    Pointwise<Number, inputs, outputs, Function> kernel = {{}, {}, out[0].elements, true, function};
    for (int k = 0; k < inputs; ++k) {
      kernel.in[k] = static_cast<const Number*>(in[k].data);
      kernel.pieces = kernel.pieces && is_aligned(in[k].data, 16);
    }
    for (int k = 0; k < outputs; ++k) {
      kernel.out[k] = static_cast<Number*>(out[k].data);
      kernel.pieces = kernel.pieces && is_aligned(out[k].data, 16);
    }
    launch_each(device, (kernel.elements + kPiece<Number> - 1) / kPiece<Number>, kernel);
  });
}

}  // namespace shardwright::cuda
