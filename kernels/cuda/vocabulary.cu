#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;

/// Position in the block of what an id names in the whole, -1 when it is outside.
SHARDWRIGHT_DEVICE std::int64_t inside(std::int64_t id, std::int64_t first, std::int64_t count) {
  return id >= first && id < first + count ? id - first : -1;
}

/// So many bytes of a row, moved at once.
template <int bytes>
struct alignas(bytes) Unit {
  unsigned char byte[bytes];
};

template <int bytes>
struct Gather {
  const std::int64_t* ids;
  const Unit<bytes>* table;
  Unit<bytes>* y;
  std::int64_t first, rows, width;  // width: in units
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = inside(ids[i / width], first, rows);
    y[i] = row >= 0 ? table[row * width + i % width] : Unit<bytes>{};
  }
};

template <typename Number, int count>
struct GatherGradient {
  const std::int64_t* ids;
  const Number* dy;
  float* table;
  std::int64_t first, rows, width;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t piece) const {
    const std::int64_t in_row = width / count, at = piece % in_row * count;
    const std::int64_t row = inside(ids[piece / in_row], first, rows);
    if (row < 0) return;
    float d[count];
    cuda::load(dy + piece * count, d);
    for (int k = 0; k < count; ++k) cuda::atomic_add(table + row * width + at + k, d[k]);
  }
};

template <typename Number>
struct Largest {
  const Number* logits;
  cuda::Places largest;
  std::int64_t columns;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const Number* x = logits + row * columns;
    float top = -INFINITY;
    cuda::for_pieces<Number>(block, columns, pieces, [&](auto count, std::int64_t i) {
      float a[decltype(count)::value];
      cuda::load(x + i, a);
      for (const float v : a) top = cuda::larger(top, v);
    });
    top = block.largest(top);
    if (block.thread() == 0) largest.set(row, top);
  }
};

template <typename Number>
struct ExpSum {
  const Number* logits;
  cuda::Numbers largest;
  cuda::Places sum;
  Number* exponentials;  // or null
  std::int64_t columns;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const float top = largest.at(row);
    float total = 0;
    cuda::for_pieces<Number>(block, columns, pieces, [&](auto count, std::int64_t i) {
      float a[decltype(count)::value];
      cuda::load(logits + row * columns + i, a);
      for (float& v : a) total += v = expf(v - top);
      if (exponentials) cuda::store(a, exponentials + row * columns + i);
    });
    total = block.sum(total);
    if (block.thread() == 0) sum.set(row, total);
  }
};

template <typename Number>
struct ExpSumGradient {
  const Number* logits;
  cuda::Numbers largest, d_sum;
  Number* d_logits;
  std::int64_t columns;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const float top = largest.at(row), d = d_sum.at(row);
    cuda::for_pieces<Number>(block, columns, pieces, [&](auto count, std::int64_t i) {
      float a[decltype(count)::value];
      cuda::load(logits + row * columns + i, a);
      for (float& v : a) v = d * expf(v - top);
      cuda::store(a, d_logits + row * columns + i);
    });
  }
};

struct Pick {
  cuda::Numbers logits;
  const std::int64_t* labels;
  std::int64_t columns, first;
  cuda::Places picked;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t row) const {
    const std::int64_t at = inside(labels[row], first, columns);
    picked.set(row, at >= 0 ? logits.at(row * columns + at) : 0.0f);
  }
};

struct PickGradient {
  const std::int64_t* labels;
  cuda::Numbers d_picked;
  std::int64_t columns, first;
  cuda::Places d_logits;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t row) const {
    const std::int64_t at = inside(labels[row], first, columns);
    if (at >= 0) d_logits.set(row * columns + at, d_picked.at(row));
  }
};

struct CrossEntropy {
  cuda::Numbers largest, exp_sum, picked;
  std::int64_t tokens, all_tokens;
  cuda::Places loss;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t) const {
    double sum = 0;
    for (std::int64_t t = block.thread(); t < tokens; t += block.threads())
      sum += log(static_cast<double>(exp_sum.at(t))) + static_cast<double>(largest.at(t)) -
             static_cast<double>(picked.at(t));
    sum = block.sum(sum);
    if (block.thread() == 0) loss.set(0, static_cast<float>(sum / static_cast<double>(all_tokens)));
  }
};

struct CrossEntropyGradient {
  cuda::Numbers exp_sum, d_loss;  // no exp_sum: of what was picked
  float all_tokens;
  cuda::Places d;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t t) const {
    const float share = d_loss.at(0) / all_tokens;
    d.set(t, exp_sum.data ? share / exp_sum.at(t) : -share);
  }
};

constexpr int kRowThreads = 1024;

}  // namespace

void CudaOperators::gather(In ids, In table, std::int64_t first, View y) {
  if (ids.empty() || y.empty()) return;
  if (!table.empty() && table.element != y.element)
    throw std::invalid_argument("the cuda backend's operands are of one format, not of " +
                                std::string(name_of(table.element)) + " and " + std::string(name_of(y.element)));
  const std::int64_t width = y.elements / ids.elements, rows = table.elements / width;
  const std::int64_t bytes = width * bytes_of(y.element);
  const auto launch = [&](auto count) {
    constexpr int kBytes = decltype(count)::value;
    const Gather<kBytes> kernel = {cuda::ids_of(ids),
                                   static_cast<const Unit<kBytes>*>(table.data),
                                   static_cast<Unit<kBytes>*>(y.data),
                                   first,
                                   rows,
                                   bytes / kBytes};
    cuda::launch_each(device_, ids.elements * (bytes / kBytes), kernel);
  };
  const auto fits = [&](std::int64_t unit) {
    const auto size = static_cast<std::size_t>(unit);
    return bytes % unit == 0 && cuda::is_aligned(table.data, size) && cuda::is_aligned(y.data, size);
  };
  if (fits(16)) return launch(cuda::Count<16>{});
  if (fits(4)) return launch(cuda::Count<4>{});
  if (fits(2)) return launch(cuda::Count<2>{});
  launch(cuda::Count<1>{});
}

void CudaOperators::gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate) {
  // Added up in fp32.
  std::shared_ptr<void> memory;
  View sum = d_table;
  if (d_table.element != Element::fp32) {
    memory = allocate({d_table.elements * bytes_of(Element::fp32)});
    sum = {memory.get(), d_table.elements, Element::fp32};
    if (accumulate) cast(d_table, sum);
  }
  if (!accumulate) fill(sum, 0);
  if (!ids.empty() && !dy.empty()) {
    const std::int64_t width = dy.elements / ids.elements, rows = d_table.elements / width;
    cuda::visit_format(dy.element, [&](auto number) {
      using Number = decltype(number);
      const auto launch = [&](auto count) {
        constexpr int kCount = decltype(count)::value;
        const GatherGradient<Number, kCount> kernel = {
            cuda::ids_of(ids), cuda::data_of<Number>(dy), static_cast<float*>(sum.data), first, rows, width};
        cuda::launch_each(device_, dy.elements / kCount, kernel);
      };
      if (cuda::in_pieces<Number>(width, {dy.data}))
        launch(cuda::Count<cuda::kPiece<Number>>{});
      else
        launch(cuda::Count<1>{});
    });
  }
  if (memory) cast(sum, d_table);
}

void CudaOperators::vocabulary_max(In logits, std::int64_t columns, View largest) {
  cuda::visit_format(logits.element, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(columns, {logits.data});
    cuda::launch_blocks(device_, largest.elements, cuda::threads_for_row<Number>(columns, pieces, kRowThreads), 0,
                        Largest<Number>{cuda::data_of<Number>(logits), largest, columns, pieces});
  });
}

void CudaOperators::vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials) {
  cuda::visit_formats({logits, exponentials}, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(columns, {logits.data, cuda::data_of<Number>(exponentials)});
    cuda::launch_blocks(device_, largest.elements, cuda::threads_for_row<Number>(columns, pieces, kRowThreads), 0,
                        ExpSum<Number>{cuda::data_of<Number>(logits), largest, sum, cuda::data_of<Number>(exponentials),
                                       columns, pieces});
  });
}

void CudaOperators::vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) {
  cuda::visit_formats({logits, d_logits}, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(columns, {logits.data, d_logits.data});
    cuda::launch_blocks(device_, largest.elements, cuda::threads_for_row<Number>(columns, pieces, kRowThreads), 0,
                        ExpSumGradient<Number>{cuda::data_of<Number>(logits), largest, d_sum,
                                               cuda::data_of<Number>(d_logits), columns, pieces});
  });
}

void CudaOperators::vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) {
  cuda::launch_each(device_, labels.elements, Pick{logits, cuda::ids_of(labels), columns, first, picked});
}

void CudaOperators::vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                             View d_logits) {
  fill(d_logits, 0);
  cuda::launch_each(device_, labels.elements, PickGradient{cuda::ids_of(labels), d_picked, columns, first, d_logits});
}

void CudaOperators::cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) {
  cuda::launch_blocks(device_, 1, cuda::threads_for(largest.elements), 0,
                      CrossEntropy{largest, exp_sum, picked, largest.elements, all_tokens, loss});
}

void CudaOperators::cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) {
  cuda::launch_each(device_, exp_sum.elements,
                    CrossEntropyGradient{exp_sum, d_loss, static_cast<float>(all_tokens), d_sum});
}

void CudaOperators::cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) {
  cuda::launch_each(device_, d_picked.elements,
                    CrossEntropyGradient{In{}, d_loss, static_cast<float>(all_tokens), d_picked});
}

}  // namespace shardwright
