#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/on_device.h"
#include "kernels/view.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace shardwright::cuda {

/// 16-bit numbers, as bits: hosts without CUDA have no types for them. Kernels compute in float.
struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

template <typename To, typename From>
SHARDWRIGHT_BOTH To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

SHARDWRIGHT_BOTH float to_float(float x) { return x; }
SHARDWRIGHT_BOTH float to_float(Bfloat x) { return same_bits<float>(static_cast<std::uint32_t>(x.bits) << 16); }
SHARDWRIGHT_BOTH float to_float(Half x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31u;
  const std::uint32_t fraction = x.bits & 1023u;
  if (exponent == 31) return same_bits<float>(sign | 0x7F800000u | fraction << 13);  // infinite, or no number
  if (exponent > 0) return same_bits<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -small : small;
#endif
}

/// The nearest, the even one of two; what is no number stays so.
template <typename Number>
SHARDWRIGHT_BOTH Number from_float(float x);
template <>
SHARDWRIGHT_BOTH float from_float<float>(float x) {
  return x;
}
template <>
SHARDWRIGHT_BOTH Bfloat from_float<Bfloat>(float x) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const auto bits = same_bits<std::uint32_t>(x);
  if (x != x) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
#endif
}
template <>
SHARDWRIGHT_BOTH Half from_float<Half>(float x) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const auto bits = same_bits<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t size = bits & 0x7FFFFFFFu;
  const auto with_sign = [sign](std::uint32_t rest) { return Half{static_cast<std::uint16_t>(sign | rest)}; };
  if (x != x) return with_sign(0x7E00u);
  if (size >= 0x477FF000u) return with_sign(0x7C00u);  // from 65520 on: infinite
  if (size >= 0x38800000u) {                           // from 2^-14 on
    const std::uint32_t rounded = size + 0xFFFu + (size >> 13 & 1u);
    return with_sign((rounded - 0x38000000u) >> 13);
  }
  if (size < 0x33000000u) return with_sign(0);  // below 2^-25
  // Whole multiples of 2^-24.
  const std::uint32_t shift = 126 - (size >> 23), digits = (size & 0x7FFFFFu) | 0x800000u;
  const std::uint32_t half = 1u << (shift - 1), whole = digits >> shift;
  return with_sign((digits + half - 1 + (whole & 1u)) >> shift);
#endif
}

/// `count` neighbouring numbers, read and written at once: `at` is aligned to their size, or to 16 bytes.
template <int count, typename Number>
SHARDWRIGHT_DEVICE void load(const Number* at, float (&x)[count]) {
#ifdef __CUDACC__
  if constexpr (count == 1) {
    x[0] = to_float(*at);
    return;
  }
  constexpr int kWords = count == 1 ? 4 : count * sizeof(Number) / 4;
  union {
    std::uint32_t words[kWords];
    Number numbers[count];
  } raw;
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(at)[i];
      raw.words[4 * i] = four.x, raw.words[4 * i + 1] = four.y, raw.words[4 * i + 2] = four.z,
                    raw.words[4 * i + 3] = four.w;
    }
  } else {
    static_assert(kWords == 2, "8 bytes, or 16 and more");
    const uint2 two = *reinterpret_cast<const uint2*>(at);
    raw.words[0] = two.x, raw.words[1] = two.y;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = to_float(raw.numbers[i]);
#else
  for (int i = 0; i < count; ++i) x[i] = to_float(at[i]);
#endif
}
template <int count, typename Number>
SHARDWRIGHT_DEVICE void store(const float (&x)[count], Number* at) {
#ifdef __CUDACC__
  if constexpr (count == 1) {
    *at = from_float<Number>(x[0]);
    return;
  }
  constexpr int kWords = count == 1 ? 4 : count * sizeof(Number) / 4;
  union {
    std::uint32_t words[kWords];
    Number numbers[count];
  } raw;
#pragma unroll
  for (int i = 0; i < count; ++i) raw.numbers[i] = from_float<Number>(x[i]);
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i)
      reinterpret_cast<uint4*>(at)[i] =
          make_uint4(raw.words[4 * i], raw.words[4 * i + 1], raw.words[4 * i + 2], raw.words[4 * i + 3]);
  } else {
    static_assert(kWords == 2, "8 bytes, or 16 and more");
    *reinterpret_cast<uint2*>(at) = make_uint2(raw.words[0], raw.words[1]);
  }
#else
  for (int i = 0; i < count; ++i) at[i] = from_float<Number>(x[i]);
#endif
}

/// Numbers of any format, one by one: masks, and arrays that are small beside the others of a kernel.
struct Numbers {
  const void* data = nullptr;
  Element element = Element::fp32;

  SHARDWRIGHT_BOTH Numbers() {}
  Numbers(const In& in) : data(in.data), element(in.element) {}
  SHARDWRIGHT_DEVICE float at(std::int64_t i) const {
    switch (element) {
      case Element::fp32:
        return static_cast<const float*>(data)[i];
      case Element::fp16:
        return to_float(static_cast<const Half*>(data)[i]);
      case Element::bf16:
        return to_float(static_cast<const Bfloat*>(data)[i]);
      case Element::byte:
        return static_cast<float>(static_cast<const unsigned char*>(data)[i]);
      case Element::int64:
        return static_cast<float>(static_cast<const std::int64_t*>(data)[i]);
      case Element::fp64:
        return static_cast<float>(static_cast<const double*>(data)[i]);
    }
    return 0;
  }
};
struct Places {
  void* data = nullptr;
  Element element = Element::fp32;

  Places() = default;
  Places(const View& view) : data(view.data), element(view.element) {}
  SHARDWRIGHT_DEVICE void set(std::int64_t i, float x) const {
    switch (element) {
      case Element::fp32:
        static_cast<float*>(data)[i] = x;
        break;
      case Element::fp16:
        static_cast<Half*>(data)[i] = from_float<Half>(x);
        break;
      case Element::bf16:
        static_cast<Bfloat*>(data)[i] = from_float<Bfloat>(x);
        break;
      case Element::byte:
        static_cast<unsigned char*>(data)[i] = static_cast<unsigned char>(x);
        break;
      case Element::int64:
        static_cast<std::int64_t*>(data)[i] = static_cast<std::int64_t>(x);
        break;
      case Element::fp64:
        static_cast<double*>(data)[i] = x;
        break;
    }
  }
  SHARDWRIGHT_DEVICE float at(std::int64_t i) const {
    Numbers numbers;
    numbers.data = data, numbers.element = element;
    return numbers.at(i);
  }
};

/// The larger; what is no number wins.
SHARDWRIGHT_DEVICE float larger(float a, float b) { return a >= b || a != a ? a : b; }

}  // namespace shardwright::cuda
