#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;

constexpr float kEpsilon = 1e-5f;

/// Mean (0 for rms) and 1 / root of the mean square around it, of one row.
struct Moments {
  float mean, inverse;
};

/// Reads the row once, or twice; what it has read lies in a cache.
template <typename Number>
SHARDWRIGHT_DEVICE Moments moments(const Block& block, const Number* x, std::int64_t width, bool pieces, bool centred) {
  const auto n = static_cast<float>(width);
  float mean = 0, square = 0;
  if (centred) {
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      float a[decltype(count)::value];
      cuda::load(x + i, a);
      for (const float v : a) mean += v;
    });
    mean = block.sum(mean) / n;
  }
  cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
    float a[decltype(count)::value];
    cuda::load(x + i, a);
    for (const float v : a) square += (v - mean) * (v - mean);
  });
  return {mean, 1.0f / sqrtf(block.sum(square) / n + kEpsilon)};
}

template <typename Number>
struct NormRow {
  const Number *x, *weight, *bias;
  Number *y, *normalised;
  std::int64_t width;
  bool pieces, centred;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const std::int64_t at = row * width;
    const Moments m = moments(block, x + at, width, pieces, centred);
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float a[kCount], w[kCount], b[kCount] = {};
      cuda::load(x + at + i, a);
      cuda::load(weight + i, w);
      if (bias) cuda::load(bias + i, b);
      for (float& v : a) v = (v - m.mean) * m.inverse;
      if (normalised) cuda::store(a, normalised + at + i);
      for (int k = 0; k < kCount; ++k) a[k] = a[k] * w[k] + b[k];
      cuda::store(a, y + at + i);
    });
  }
};

/// Each block does every blocks-th row, and keeps sums of its columns for the weight and the bias, each column in the
/// thread that visits it. See reference/norm.cc for the formula.
template <typename Number>
struct NormGradientRows {
  const Number *x, *weight, *dy;
  Number* dx;        // or null
  float* sums;       // [blocks][weight, bias][width], or null
  bool sums_shared;  // summed up in shared memory first
  std::int64_t rows, width, blocks;
  bool pieces, centred;

  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t which) const {
    float* const kept = sums ? sums + which * 2 * width : nullptr;
    float* const sum = sums_shared ? reinterpret_cast<float*>(block.shared()) : kept;
    if (sum)
      cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
        for (int k = 0; k < decltype(count)::value; ++k) sum[i + k] = sum[width + i + k] = 0;
      });
    for (std::int64_t row = which; row < rows; row += blocks) add_row(block, row, sum);
    if (sum != kept)
      cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
        for (int k = 0; k < decltype(count)::value; ++k)
          kept[i + k] = sum[i + k], kept[width + i + k] = sum[width + i + k];
      });
  }

  SHARDWRIGHT_DEVICE void add_row(const Block& block, std::int64_t row, float* sum) const {
    const auto n = static_cast<float>(width);
    const std::int64_t at = row * width;
    const Moments m = moments(block, x + at, width, pieces, centred);
    float along = 0, mean = 0;
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float a[kCount], w[kCount], d[kCount];
      cuda::load(x + at + i, a);
      cuda::load(weight + i, w);
      cuda::load(dy + at + i, d);
      for (int k = 0; k < kCount; ++k) {
        const float normed = (a[k] - m.mean) * m.inverse, g = d[k] * w[k];
        along += g * normed;
        mean += g;
        if (sum) sum[i + k] += d[k] * normed, sum[width + i + k] += d[k];
      }
    });
    if (!dx) return;
    along = block.sum(along) / n;
    mean = centred ? block.sum(mean) / n : 0.0f;
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float a[kCount], w[kCount], d[kCount];
      cuda::load(x + at + i, a);
      cuda::load(weight + i, w);
      cuda::load(dy + at + i, d);
      for (int k = 0; k < kCount; ++k) a[k] = m.inverse * (d[k] * w[k] - (a[k] - m.mean) * m.inverse * along - mean);
      cuda::store(a, dx + at + i);
    });
  }
};

/// Adds up what blocks have kept: sums [blocks][stride] from `first` on.
struct AddBlocks {
  const float* sums;
  std::int64_t blocks, stride, first;
  cuda::Places to;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t column) const {
    float sum = 0;
    for (std::int64_t b = 0; b < blocks; ++b) sum += sums[b * stride + first + column];
    to.set(column, sum);
  }
};

/// The sums of the columns of every blocks-th row.
template <typename Number>
struct ColumnSums {
  const Number* x;
  float* sums;  // [blocks][width]
  std::int64_t rows, width, blocks;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t which) const {
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float sum[kCount] = {};
      for (std::int64_t row = which; row < rows; row += blocks) {
        float a[kCount];
        cuda::load(x + row * width + i, a);
        for (int k = 0; k < kCount; ++k) sum[k] += a[k];
      }
      for (int k = 0; k < kCount; ++k) sums[which * width + i + k] = sum[k];
    });
  }
};

constexpr std::int64_t kFloat = sizeof(float);

/// Blocks that keep sums of their own: enough to fill the GPU, no more than rows.
std::int64_t summing_blocks(const cuda::Device& device, std::int64_t rows) {
  return std::max<std::int64_t>(1, std::min(rows, 2 * device.properties().multiprocessors));
}

}  // namespace

void CudaOperators::norm(In x, In weight, In bias, bool centred, View y, View normalised) {
  if (x.empty()) return;
  cuda::visit_formats({x, weight, bias, y, normalised}, [&](auto number) {
    using Number = decltype(number);
    const std::int64_t width = weight.elements;
    const bool pieces = cuda::in_pieces<Number>(
        width, {x.data, weight.data, cuda::data_of<Number>(bias), y.data, cuda::data_of<Number>(normalised)});
    const NormRow<Number> kernel = {cuda::data_of<Number>(x),
                                    cuda::data_of<Number>(weight),
                                    cuda::data_of<Number>(bias),
                                    cuda::data_of<Number>(y),
                                    cuda::data_of<Number>(normalised),
                                    width,
                                    pieces,
                                    centred};
    cuda::launch_blocks(device_, x.elements / width, cuda::threads_for_row<Number>(width, pieces), 0, kernel);
  });
}

void CudaOperators::norm_gradient(In x, In weight, In dy, bool centred, const NormGradientViews& d) {
  const std::int64_t width = weight.elements, rows = x.elements / width;
  const std::int64_t blocks = summing_blocks(device_, rows);
  const bool sums_wanted = !d.weight.empty() || !d.bias.empty();
  // Two blocks on a multiprocessor share its memory.
  const std::int64_t shared = 2 * width * kFloat, most = device_.properties().shared_per_block.value / 2;
  const bool sums_shared = sums_wanted && shared + cuda::kReduceBytes <= most;
  auto* sums = static_cast<float*>(sums_wanted ? device_.scratch({blocks * 2 * width * kFloat}) : nullptr);
  cuda::visit_formats({x, weight, dy, d.x}, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(width, {x.data, weight.data, dy.data, cuda::data_of<Number>(d.x)});
    const NormGradientRows<Number> kernel = {cuda::data_of<Number>(x),
                                             cuda::data_of<Number>(weight),
                                             cuda::data_of<Number>(dy),
                                             cuda::data_of<Number>(d.x),
                                             sums,
                                             sums_shared,
                                             rows,
                                             width,
                                             blocks,
                                             pieces,
                                             centred};
    cuda::launch_blocks(device_, blocks, cuda::threads_for_row<Number>(width, pieces), sums_shared ? shared : 0,
                        kernel);
  });
  cuda::launch_each(device_, d.weight.elements, AddBlocks{sums, blocks, 2 * width, 0, d.weight});
  cuda::launch_each(device_, d.bias.elements, AddBlocks{sums, blocks, 2 * width, width, d.bias});
}

void CudaOperators::rms_norm(In x, In weight, View y, View normalised) { norm(x, weight, {}, false, y, normalised); }
void CudaOperators::layer_norm(In x, In weight, In bias, View y) { norm(x, weight, bias, true, y, {}); }
void CudaOperators::rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) {
  norm_gradient(x, weight, dy, false, {d.x, d.weight, {}});
}
void CudaOperators::layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) {
  norm_gradient(x, weight, dy, true, d);
}

void CudaOperators::column_sums(In x, std::int64_t width, View to) {
  const std::int64_t rows = x.elements / width, blocks = summing_blocks(device_, rows);
  auto* sums = static_cast<float*>(device_.scratch({blocks * width * kFloat}));
  cuda::visit_format(x.element, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(width, {x.data});
    const ColumnSums<Number> kernel = {cuda::data_of<Number>(x), sums, rows, width, blocks, pieces};
    cuda::launch_blocks(device_, blocks, cuda::threads_for_row<Number>(width, pieces, cuda::kMostThreads), 0, kernel);
  });
  cuda::launch_each(device_, width, AddBlocks{sums, blocks, width, 0, to});
}

}  // namespace shardwright
