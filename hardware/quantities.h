#pragma once

#include <compare>
#include <cstdint>

namespace shardwright {

/// A count of bytes (not KiB, not elements).
struct Bytes {
  std::int64_t value = 0;
  constexpr auto operator<=>(const Bytes&) const = default;
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return {a.value + b.value}; }
  friend constexpr Bytes operator-(Bytes a, Bytes b) { return {a.value - b.value}; }
  friend constexpr Bytes operator*(Bytes a, std::int64_t n) { return {a.value * n}; }
  friend constexpr Bytes operator*(std::int64_t n, Bytes a) { return {a.value * n}; }
  constexpr Bytes& operator+=(Bytes other) {
    value += other.value;
    return *this;
  }
  constexpr Bytes& operator-=(Bytes other) {
    value -= other.value;
    return *this;
  }
};

/// Arithmetic work; one multiply-add counts two. A double: a training run exceeds 2^63.
struct Flops {
  double value = 0;
  constexpr auto operator<=>(const Flops&) const = default;
  friend constexpr Flops operator+(Flops a, Flops b) { return {a.value + b.value}; }
  friend constexpr Flops operator*(Flops a, double n) { return {a.value * n}; }
  friend constexpr Flops operator*(double n, Flops a) { return {a.value * n}; }
  constexpr Flops& operator+=(Flops other) {
    value += other.value;
    return *this;
  }
};

struct Seconds {
  double value = 0;
  constexpr auto operator<=>(const Seconds&) const = default;
  friend constexpr Seconds operator+(Seconds a, Seconds b) { return {a.value + b.value}; }
  friend constexpr Seconds operator-(Seconds a, Seconds b) { return {a.value - b.value}; }
  friend constexpr Seconds operator*(Seconds a, double n) { return {a.value * n}; }
  friend constexpr Seconds operator*(double n, Seconds a) { return {a.value * n}; }
  friend constexpr double operator/(Seconds a, Seconds b) { return a.value / b.value; }
  constexpr Seconds& operator+=(Seconds other) {
    value += other.value;
    return *this;
  }
  constexpr Seconds& operator-=(Seconds other) {
    value -= other.value;
    return *this;
  }
};

struct BytesPerSecond {
  double value = 0;
  constexpr auto operator<=>(const BytesPerSecond&) const = default;
  friend constexpr BytesPerSecond operator*(BytesPerSecond a, double n) { return {a.value * n}; }
};

struct FlopsPerSecond {
  double value = 0;
  constexpr auto operator<=>(const FlopsPerSecond&) const = default;
  friend constexpr FlopsPerSecond operator*(FlopsPerSecond a, double n) { return {a.value * n}; }
};

constexpr Seconds operator/(Bytes amount, BytesPerSecond rate) {
  return {static_cast<double>(amount.value) / rate.value};
}
constexpr Seconds operator/(Flops work, FlopsPerSecond rate) { return {work.value / rate.value}; }

constexpr Bytes operator""_KiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 10}; }
constexpr Bytes operator""_MiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 20}; }
constexpr Bytes operator""_GiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 30}; }

}  // namespace shardwright
