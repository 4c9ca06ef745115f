#include "kernels/cuda/product_samples.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/sampled_error.h"

namespace shardwright::cuda {
namespace {

using Raw = std::vector<unsigned char>;

/// A number of `exponent` and `mantissa` bits below its sign; the exponent 0 is of subnormal ones.
double small_float(unsigned bits, int exponent_bits, int mantissa_bits) {
  const unsigned mantissa = bits & ((1u << mantissa_bits) - 1),
                 exponent = bits >> mantissa_bits & ((1u << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double whole = exponent == 0 ? 0 : 1, step = std::ldexp(1.0, -mantissa_bits);
  const double size = std::ldexp(whole + mantissa * step, std::max(1, static_cast<int>(exponent)) - bias);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -size : size;
}

template <typename Number>
Number read(const unsigned char* at) {
  Number number;
  std::memcpy(&number, at, sizeof number);
  return number;
}

/// Bits of a number: 4 of nvfp4.
std::int64_t bits_of(DataType type) {
  switch (type) {
    case DataType::fp32:
    case DataType::tf32:
      return 32;
    case DataType::fp16:
    case DataType::bf16:
      return 16;
    case DataType::fp8:
    case DataType::mxfp8:
      return 8;
    case DataType::nvfp4:
      return 4;
  }
  return 32;
}

/// Numbers `step` apart from the `first`-th on.
std::vector<double> numbers(Gpu& gpu, const void* data, std::int64_t first, std::int64_t step, std::int64_t count,
                            DataType type) {
  const std::int64_t bits = bits_of(type);
  Raw raw(static_cast<std::size_t>((count * bits + 7) / 8));
  const char* at = static_cast<const char*>(data) + first * bits / 8;
  if (step == 1)
    gpu.download(at, raw.data(), {static_cast<std::int64_t>(raw.size())});
  else
    gpu.download_pieces(at, step * bits / 8, bits / 8, count, raw.data());
  std::vector<double> result(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) result[static_cast<std::size_t>(i)] = number_at(raw.data(), i, type);
  return result;
}

/// The scales of an operand, by its row (a's, or b's column) and place along k.
class Scales {
 public:
  Scales(Gpu& gpu, const ProductSpec& spec, bool of_b, const void* data)
      : spec_(spec), of_b_(of_b), rows_(of_b ? spec.n : spec.m) {
    const Bytes size = of_b ? scale_bytes_of_b(spec) : scale_bytes_of_a(spec);
    raw_.resize(static_cast<std::size_t>(size.value));
    if (!raw_.empty()) gpu.download(data, raw_.data(), size);
  }
  double at(std::int64_t b, std::int64_t row, std::int64_t l) const {
    if (raw_.empty()) return 1;
    const std::int64_t per_batch = static_cast<std::int64_t>(raw_.size()) / spec_.batch;
    if (spec_.type == DataType::mxfp8)
      return std::ldexp(1.0, byte(b * per_batch + tiled_scale(row, l / 32, (spec_.k + 31) / 32)) - 127);
    if (spec_.type == DataType::nvfp4)
      return small_float(byte(b * per_batch + tiled_scale(row, l / 16, (spec_.k + 15) / 16)), 4, 3);
    const std::int64_t along = (spec_.k + 127) / 128;
    switch (spec_.scaling) {
      case Scaling::tensor:
        return fp32(0);
      case Scaling::row:
        return fp32(b * rows_ + row);
      case Scaling::block:
        break;
    }
    if (of_b_) return fp32(b * per_batch / 4 + row / 128 * ((along + 3) / 4 * 4) + l / 128);
    return fp32(b * per_batch / 4 + l / 128 * rows_ + row);
  }

 private:
  unsigned char byte(std::int64_t i) const { return raw_[static_cast<std::size_t>(i)]; }
  double fp32(std::int64_t i) const { return static_cast<double>(read<float>(raw_.data() + 4 * i)); }

  const ProductSpec& spec_;
  bool of_b_;
  std::int64_t rows_;
  Raw raw_;
};

/// What a product multiplies in one row of a, or one column of b.
std::vector<double> line_of(Gpu& gpu, const ProductSpec& spec, const Scales& scales, bool of_b, const void* data,
                            std::int64_t batch, std::int64_t row) {
  const MatrixPlace& place = of_b ? spec.b : spec.a;
  // Along k: neighbours where a is not transposed, and where b is.
  const bool dense = of_b == place.transposed;
  const std::int64_t first = batch * place.batch_stride + row * (dense ? place.stride : 1);
  std::vector<double> line = numbers(gpu, data, first, dense ? 1 : place.stride, spec.k, spec.type);
  for (std::int64_t l = 0; l < spec.k; ++l) line[static_cast<std::size_t>(l)] *= scales.at(batch, row, l);
  return line;
}

std::vector<std::int64_t> ends(std::int64_t count) {
  return count == 1 ? std::vector<std::int64_t>{0} : std::vector<std::int64_t>{0, count - 1};
}

}  // namespace

double number_at(const unsigned char* bytes, std::int64_t index, DataType type) {
  switch (type) {
    case DataType::fp32:
    case DataType::tf32:
      return static_cast<double>(read<float>(bytes + 4 * index));
    case DataType::bf16: {
      const std::uint32_t bits = static_cast<std::uint32_t>(read<std::uint16_t>(bytes + 2 * index)) << 16;
      float number;
      std::memcpy(&number, &bits, sizeof number);
      return static_cast<double>(number);
    }
    case DataType::fp16: {
      const unsigned bits = read<std::uint16_t>(bytes + 2 * index);
      if ((bits >> 10 & 31) == 31) return std::nan("");  // or infinite: neither is expected
      return small_float(bits, 5, 10);
    }
    case DataType::fp8:
    case DataType::mxfp8:
      return (bytes[index] & 127) == 127 ? std::nan("") : small_float(bytes[index], 4, 3);
    case DataType::nvfp4:
      return small_float(bytes[index / 2] >> (index % 2 * 4) & 15, 2, 1);
  }
  return 0;
}

std::int64_t tiled_scale(std::int64_t row, std::int64_t block, std::int64_t blocks) {
  const std::int64_t tile = row / 128 * ((blocks + 3) / 4) + block / 4;
  return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4;
}

double sampled_product_error(Gpu& gpu, const ProductSpec& spec, const ProductBuffers& at) {
  const Scales of_a(gpu, spec, false, at.scale_a), of_b(gpu, spec, true, at.scale_b);
  std::vector<double> got, expected;
  for (const std::int64_t batch : ends(spec.batch)) {
    std::vector<std::vector<double>> columns;
    for (const std::int64_t j : sample(spec.n)) columns.push_back(line_of(gpu, spec, of_b, true, at.b, batch, j));
    for (const std::int64_t i : sample(spec.m)) {
      const std::vector<double> row = line_of(gpu, spec, of_a, false, at.a, batch, i);
      const std::vector<double> made =
          numbers(gpu, at.out, batch * spec.out.batch_stride + i * spec.out.stride, 1, spec.n, spec.result);
      std::size_t column = 0;
      for (const std::int64_t j : sample(spec.n)) {
        double sum = 0;
        for (std::size_t l = 0; l < row.size(); ++l) sum += row[l] * columns[column][l];
        ++column;
        expected.push_back(sum);
        got.push_back(made[static_cast<std::size_t>(j)]);
      }
    }
  }
  return off_by(got, expected);
}

double sampled_narrowing_error(Gpu& gpu, const ProductSpec& spec, const void* wide, const ProductBuffers& at) {
  const Scales scales(gpu, spec, false, at.scale_a);
  constexpr double kLargest = 448;  // of E4M3
  double worst = 0;
  for (const std::int64_t batch : ends(spec.batch)) {
    for (const std::int64_t i : sample(spec.m)) {
      const std::vector<double> narrow = line_of(gpu, spec, scales, false, at.a, batch, i);
      const std::vector<double> before =
          numbers(gpu, wide, batch * spec.a.batch_stride + i * spec.a.stride, 1, spec.k, DataType::bf16);
      std::vector<double> kept;
      for (std::int64_t l = 0; l < spec.k; ++l) {
        const double most = kLargest * scales.at(batch, i, l);
        kept.push_back(std::clamp(before[static_cast<std::size_t>(l)], -most, most));
      }
      worst = worst_of({worst, off_by(narrow, kept)});
    }
  }
  return worst;
}

}  // namespace shardwright::cuda
