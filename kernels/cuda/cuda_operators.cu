// Memory, formats and copies.
#include <algorithm>
#include <cassert>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"
#include "kernels/random.h"

namespace shardwright {

namespace cuda {

void throw_no_such_number(Element element) {
  throw std::invalid_argument("the cuda backend computes in fp32, fp16 and bf16, not in " +
                              std::string(name_of(element)));
}

Element format_of(std::initializer_list<In> operands) {
  const In* first = nullptr;
  for (const In& in : operands) {
    if (in.empty()) continue;
    if (first && in.element != first->element)
      throw std::invalid_argument("the cuda backend's operands are of one format, not of " +
                                  std::string(name_of(first->element)) + " and " + std::string(name_of(in.element)));
    first = &in;
  }
  return first ? first->element : Element::fp32;
}

const std::int64_t* ids_of(const In& in) {
  if (in.element != Element::int64 && !in.empty())
    throw std::invalid_argument("the cuda backend reads ids of int64, not of " + std::string(name_of(in.element)));
  return static_cast<const std::int64_t*>(in.data);
}

}  // namespace cuda

namespace {

using cuda::Bfloat;
using cuda::Half;

constexpr int kMostDimensions = 8;
std::int64_t checked(std::size_t dimensions) {
  if (dimensions > kMostDimensions)
    throw std::invalid_argument("the cuda backend's arrays have at most 8 dimensions, not " +
                                std::to_string(dimensions));
  return static_cast<std::int64_t>(dimensions);
}

/// Calls visit with a typed pointer to numbers that lie on the host in a buffer's format.
template <typename Visit>
void visit_host_numbers(void* data, Element element, Visit visit) {
  switch (element) {
    case Element::fp32:
      return visit(static_cast<float*>(data));
    case Element::fp16:
      return visit(static_cast<Half*>(data));
    case Element::bf16:
      return visit(static_cast<Bfloat*>(data));
    case Element::byte:
      return visit(static_cast<unsigned char*>(data));
    case Element::int64:
      return visit(static_cast<std::int64_t*>(data));
    case Element::fp64:
      break;
  }
  cuda::throw_no_such_number(element);
}
template <typename Number>
constexpr bool is_narrow = std::is_same_v<Number, Half> || std::is_same_v<Number, Bfloat>;

template <typename Number>
Number number_from(double x) {
  if constexpr (is_narrow<Number>)
    return cuda::from_float<Number>(static_cast<float>(x));
  else
    return static_cast<Number>(x);
}
template <typename Number>
double double_from(Number x) {
  if constexpr (is_narrow<Number>)
    return static_cast<double>(cuda::to_float(x));
  else
    return static_cast<double>(x);
}

/// Where the numbers of a block lie in the whole array.
struct Place {
  std::int64_t extents[kMostDimensions], strides[kMostDimensions], first = 0;
  int dimensions = 0;

  explicit Place(const BlockPlace& place) : dimensions(static_cast<int>(checked(place.extents.size()))) {
    std::int64_t stride = 1;
    for (int d = dimensions - 1; d >= 0; --d) {
      const auto i = static_cast<std::size_t>(d);
      extents[d] = place.extents[i], strides[d] = stride;
      first += place.begin[i] * stride;
      stride *= place.whole[i];
    }
  }
  SHARDWRIGHT_DEVICE std::int64_t in_whole(std::int64_t i) const {
    std::int64_t at = first;
    for (int d = dimensions - 1; d >= 0; --d) {
      at += i % extents[d] * strides[d];
      i /= extents[d];
    }
    return at;
  }
};

struct FillNormal {
  Place place;
  std::uint64_t seed;
  double deviation;
  cuda::Places to;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const {
    to.set(i, static_cast<float>(deviation * normal(seed, place.in_whole(i))));
  }
};

struct DropoutMask {
  Place place;
  double probability;
  std::uint64_t seed;
  cuda::Places mask;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const {
    const auto element = static_cast<std::uint64_t>(place.in_whole(i));
    mask.set(i, uniform(random_bits(seed, element)) > probability ? 1.0f : 0.0f);
  }
};

template <typename From, typename To>
struct Cast {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const From* from;
  To* to;
  std::int64_t elements;
  bool pieces;
  template <int count>
  SHARDWRIGHT_DEVICE void visit(std::int64_t i) const {
    float x[count];
    cuda::load<count>(from + i, x);
    cuda::store<count>(x, to + i);
  }
  SHARDWRIGHT_DEVICE void operator()(std::int64_t piece) const {
    const std::int64_t first = piece * kCount;
    if (pieces && first + kCount <= elements) return visit<kCount>(first);
    for (std::int64_t i = first; i < first + kCount && i < elements; ++i) visit<1>(i);
  }
};

struct CastEach {
  cuda::Numbers from;
  cuda::Places to;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const { to.set(i, from.at(i)); }
};

bool is_number(Element e) { return e == Element::fp32 || e == Element::fp16 || e == Element::bf16; }

/// So many bytes, moved at once.
template <int bytes>
struct alignas(bytes) Unit {
  unsigned char byte[bytes];
};

template <typename Piece>
struct FillEach {
  Piece* to;
  Piece value;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const { to[i] = value; }
};

template <typename Piece>
struct CopyBox {
  const Piece* from;
  Piece* to;
  std::int64_t extents[kMostDimensions], from_strides[kMostDimensions], to_strides[kMostDimensions];
  int dimensions;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const {
    std::int64_t source = 0, target = 0;
    for (int d = dimensions - 1; d >= 0; --d) {
      const std::int64_t at = i % extents[d];
      source += at * from_strides[d], target += at * to_strides[d];
      i /= extents[d];
    }
    to[target] = from[source];
  }
};

struct BoxDimension {
  std::int64_t extent, from, to;  // strides in bytes
};

/// The box's dimensions in bytes, neighbours joined, the last one dense: of stride 1.
std::vector<BoxDimension> joined_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents,
                                     std::int64_t width) {
  std::vector<BoxDimension> box;
  for (std::size_t i = 0; i < extents.size(); ++i)
    if (extents[i] != 1) box.push_back({extents[i], from.strides[i] * width, to.strides[i] * width});
  box.push_back({width, 1, 1});
  for (std::size_t i = box.size() - 1; i-- > 0;) {
    const BoxDimension inner = box[i + 1];
    if (box[i].from != inner.from * inner.extent || box[i].to != inner.to * inner.extent) continue;
    box[i] = {box[i].extent * inner.extent, inner.from, inner.to};
    box.erase(box.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
  return box;
}

template <int bytes>
void copy_box_in_units(cuda::Device& device, const void* from, void* to, const std::vector<BoxDimension>& box) {
  CopyBox<Unit<bytes>> kernel = {static_cast<const Unit<bytes>*>(from), static_cast<Unit<bytes>*>(to), {}, {}, {},
                                 static_cast<int>(box.size())};
  std::int64_t count = 1;
  for (std::size_t d = 0; d < box.size(); ++d) {
    const bool last = d + 1 == box.size();
    kernel.extents[d] = last ? box[d].extent / bytes : box[d].extent;
    kernel.from_strides[d] = last ? 1 : box[d].from / bytes;
    kernel.to_strides[d] = last ? 1 : box[d].to / bytes;
    count *= kernel.extents[d];
  }
  cuda::launch_each(device, count, kernel);
}

/// Whether units of that size divide all of the box.
bool divides(std::int64_t bytes, const void* from, const void* to, const std::vector<BoxDimension>& box) {
  const auto size = static_cast<std::size_t>(bytes);
  if (!cuda::is_aligned(from, size) || !cuda::is_aligned(to, size) || box.back().extent % bytes != 0) return false;
  return std::all_of(box.begin(), box.end() - 1,
                     [&](const BoxDimension& d) { return d.from % bytes == 0 && d.to % bytes == 0; });
}

}  // namespace

bool CudaOperators::supports(DataType type) const {
  return type == DataType::fp16 || type == DataType::bf16 || type == (tf32_ ? DataType::tf32 : DataType::fp32);
}

Element CudaOperators::element(DataType type) const {
  if (!supports(type))
    throw std::invalid_argument("the cuda backend computes in " + std::string(tf32_ ? "tf32" : "fp32") +
                                ", fp16 and bf16, not in " + std::string(name_of(type)));
  return type == DataType::fp16 ? Element::fp16 : type == DataType::bf16 ? Element::bf16 : Element::fp32;
}

void CudaOperators::upload(std::span<const double> from, View to) {
  assert(static_cast<std::int64_t>(from.size()) == to.elements && "sizes agree");
  std::vector<char> bytes(static_cast<std::size_t>(to.size().value));
  visit_host_numbers(bytes.data(), to.element, [&](auto* data) {
    using Number = std::remove_pointer_t<decltype(data)>;
    for (std::size_t i = 0; i < from.size(); ++i) data[i] = number_from<Number>(from[i]);
  });
  device_.upload(bytes.data(), to.data, to.size());
}

std::vector<double> CudaOperators::download(In from) {
  std::vector<char> bytes(static_cast<std::size_t>(from.size().value));
  device_.download(from.data, bytes.data(), from.size());
  std::vector<double> result(static_cast<std::size_t>(from.elements));
  visit_host_numbers(bytes.data(), from.element, [&](auto* data) {
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = double_from(data[i]);
  });
  return result;
}

void CudaOperators::fill(View to, double value) {
  char number[16] = {};
  visit_host_numbers(number, to.element,
                     [&](auto* data) { *data = number_from<std::remove_pointer_t<decltype(data)>>(value); });
  const std::int64_t width = bytes_of(to.element), bytes = to.size().value;
  if (std::all_of(number, number + width, [](char c) { return c == 0; })) return device_.clear(to.data, to.size());
  for (std::int64_t i = width; i < 16; ++i) number[i] = number[i - width];
  // 16 bytes at once, and what is left over one by one.
  const std::int64_t whole = cuda::is_aligned(to.data, 16) ? bytes / 16 * 16 : 0;
  cuda::launch_each(device_, whole / 16,
                    FillEach<Unit<16>>{static_cast<Unit<16>*>(to.data), cuda::same_bits<Unit<16>>(number)});
  const View rest = to.part(whole / width, to.elements - whole / width);
  if (rest.empty()) return;
  const auto fill_rest = [&](auto unit) {
    using Piece = decltype(unit);
    memcpy(&unit, number, sizeof(unit));
    cuda::launch_each(device_, rest.elements, FillEach<Piece>{static_cast<Piece*>(rest.data), unit});
  };
  if (width == 1) return fill_rest(Unit<1>{});
  if (width == 2) return fill_rest(Unit<2>{});
  if (width == 4) return fill_rest(Unit<4>{});
  fill_rest(Unit<8>{});
}

void CudaOperators::fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) {
  cuda::launch_each(device_, to.elements, FillNormal{Place(place), seed, deviation, to});
}

void CudaOperators::dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) {
  cuda::launch_each(device_, mask.elements, DropoutMask{Place(place), probability, seed, mask});
}

void CudaOperators::cast(In from, View to) {
  assert(from.elements == to.elements && "sizes agree");
  if (from.empty()) return;
  if (from.element == to.element) return device_.copy(from.data, to.data, from.size());
  if (!is_number(from.element) || !is_number(to.element))
    return cuda::launch_each(device_, to.elements, CastEach{from, to});
  cuda::visit_format(from.element, [&](auto source) {
    cuda::visit_format(to.element, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      const Cast<From, To> kernel = {static_cast<const From*>(from.data), static_cast<To*>(to.data), to.elements,
                                     cuda::is_aligned(from.data, 16) && cuda::is_aligned(to.data, 16)};
      cuda::launch_each(device_, (to.elements + kernel.kCount - 1) / kernel.kCount, kernel);
    });
  });
}

void CudaOperators::copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) {
  assert(from.view.element == to.view.element && "a copy, no conversion");
  for (const std::int64_t extent : extents)
    if (extent == 0) return;
  const auto box = joined_box(from, to, extents, bytes_of(from.view.element));
  if (box.size() == 1) return device_.copy(from.view.data, to.view.data, {box[0].extent});
  checked(box.size());
  const auto fits = [&](std::int64_t bytes) { return divides(bytes, from.view.data, to.view.data, box); };
  if (fits(16)) return copy_box_in_units<16>(device_, from.view.data, to.view.data, box);
  if (fits(8)) return copy_box_in_units<8>(device_, from.view.data, to.view.data, box);
  if (fits(4)) return copy_box_in_units<4>(device_, from.view.data, to.view.data, box);
  if (fits(2)) return copy_box_in_units<2>(device_, from.view.data, to.view.data, box);
  copy_box_in_units<1>(device_, from.view.data, to.view.data, box);
}

}  // namespace shardwright
