#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;

constexpr int kMostLoops = 12;

/// Loops of the result, and those of the sum, for kernels.
struct Loops {
  Loop loop[kMostLoops];
  int count = 0;
  std::int64_t turns = 1;

  void add(const Loop& l) {
    if (count == kMostLoops)
      throw std::invalid_argument("the cuda backend's contractions have at most " + std::to_string(kMostLoops) +
                                  " labels");
    loop[count++] = l;
    turns *= l.extent;
  }
  /// How far the arrays have moved in one turn.
  SHARDWRIGHT_DEVICE Loop at(std::int64_t turn) const {
    Loop moved = {1, 0, 0, 0};
    for (int i = count - 1; i >= 0; --i) {
      const std::int64_t step = turn % loop[i].extent;
      turn /= loop[i].extent;
      moved.a += step * loop[i].a, moved.b += step * loop[i].b, moved.out += step * loop[i].out;
    }
    return moved;
  }
};

struct ByLoops {
  cuda::Numbers a, b;
  cuda::Places out;
  Loops outer, inner;
  bool accumulate;

  SHARDWRIGHT_DEVICE float product(const Loop& base, std::int64_t turn) const {
    const Loop moved = inner.at(turn);
    return a.at(base.a + moved.a) * (b.data ? b.at(base.b + moved.b) : 1.0f);
  }
  SHARDWRIGHT_DEVICE void write(const Loop& base, float sum) const {
    out.set(base.out, accumulate ? out.at(base.out) + sum : sum);
  }
  /// A number of the result by one thread.
  SHARDWRIGHT_DEVICE void operator()(std::int64_t element) const {
    const Loop base = outer.at(element);
    float sum = 0;
    for (std::int64_t i = 0; i < inner.turns; ++i) sum += product(base, i);
    write(base, sum);
  }
  /// By one block.
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t element) const {
    const Loop base = outer.at(element);
    float sum = 0;
    for (std::int64_t i = block.thread(); i < inner.turns; i += block.threads()) sum += product(base, i);
    sum = block.sum(sum);
    if (block.thread() == 0) write(base, sum);
  }
};

/// A bias, repeated over the labels that it lacks.
struct Bias {
  cuda::Numbers bias;
  Loops loops;  // of x, outermost first: a is the bias's stride
  SHARDWRIGHT_DEVICE void operator()(std::int64_t i, const float (&x)[1], float (&y)[1]) const {
    y[0] = x[0] + bias.at(loops.at(i).a);
  }
};

template <typename Number>
struct BiasRows {
  const Number *x, *bias;
  Number* y;
  std::int64_t width;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    cuda::for_pieces<Number>(block, width, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float a[kCount], b[kCount];
      cuda::load(x + row * width + i, a);
      cuda::load(bias + i, b);
      for (int k = 0; k < kCount; ++k) a[k] += b[k];
      cuda::store(a, y + row * width + i);
    });
  }
};

/// Whether an array's last labels are these, in their order.
bool ends_with(const std::vector<int>& labels, const std::vector<int>& last) {
  return labels.size() >= last.size() && std::equal(last.rbegin(), last.rend(), labels.rbegin());
}

DataType data_type(Element element) {
  return element == Element::fp16 ? DataType::fp16 : element == Element::bf16 ? DataType::bf16 : DataType::fp32;
}

/// Bytes, at most 256, that divide all of the numbers: addresses, and distances.
class Alignment {
 public:
  void take(std::int64_t bytes) {
    while (bytes % value_ != 0) value_ /= 2;
  }
  void take(const void* at) { take(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(at) % 256)); }
  std::int64_t value() const { return value_; }

 private:
  std::int64_t value_ = 256;
};

/// The longest turn that moves the result: the library does it, as a batch. None: of extent 1.
Loop take_batch(std::vector<Loop>& turns) {
  constexpr std::int64_t kMost = 65535;  // matrices in a launch
  auto best = turns.end();
  for (auto it = turns.begin(); it != turns.end(); ++it)
    if (it->out != 0 && it->extent <= kMost && (best == turns.end() || it->extent > best->extent)) best = it;
  if (best == turns.end()) return {};
  const Loop batch = *best;
  turns.erase(best);
  return batch;
}

}  // namespace

void CudaOperators::contract_by_loops(In a, In b, View out, const Folding& f, bool accumulate) {
  ByLoops kernel = {a, b, out, {}, {}, accumulate};
  for (const Loop& l : f.loops) (l.out != 0 ? kernel.outer : kernel.inner).add(l);
  const std::int64_t sum = kernel.inner.turns;
  if (sum >= 64 && kernel.outer.turns < 16384)
    return cuda::launch_blocks(device_, kernel.outer.turns, cuda::threads_for(sum / 4, 256), 0, kernel);
  cuda::launch_each(device_, kernel.outer.turns, kernel);
}

void CudaOperators::contract_by_products(In a, In b, View out, const Folding& f, bool accumulate) {
  std::vector<Loop> turns = f.turns;
  const Loop batch = take_batch(turns);
  const std::int64_t width = bytes_of(a.element), out_width = bytes_of(out.element);
  Alignment alignment;
  for (const void* at : {a.data, b.data, static_cast<const void*>(out.data)}) alignment.take(at);
  for (const Loop& l : turns) {
    for (const std::int64_t step : {l.a * width, l.b * width, l.out * out_width}) alignment.take(step);
  }
  for (const std::int64_t step : {batch.a * width, batch.b * width, batch.out * out_width}) alignment.take(step);

  cuda::ProductSpec spec;
  spec.m = f.row.extent, spec.n = f.column.extent, spec.k = f.sum.extent, spec.batch = batch.extent;
  spec.type = a.element == Element::fp32 && tf32_ ? DataType::tf32 : data_type(a.element);
  spec.result = data_type(out.element);
  spec.a = {f.a.transposed, f.a.stride, batch.a};
  spec.b = {f.b.transposed, f.b.stride, batch.b};
  spec.out = {false, f.out.stride, batch.out};
  spec.alignment = alignment.value();
  if (f.swapped) {
    std::swap(spec.m, spec.n);
    std::swap(spec.a, spec.b);
    spec.a.transposed = !spec.a.transposed, spec.b.transposed = !spec.b.transposed;
  }
  spec.accumulate = accumulate || f.sums_left;
  const cuda::Product& product = matmul_.plan(spec);
  for_each_turn(turns, [&](std::int64_t da, std::int64_t db, std::int64_t dout) {
    const char *left = static_cast<const char*>(a.data) + da * width,
               *right = static_cast<const char*>(b.data) + db * width;
    if (f.swapped) std::swap(left, right);
    matmul_.run(product, {left, right, static_cast<char*>(out.data) + dout * out_width, nullptr, nullptr});
  });
}

void CudaOperators::contract(In a, In b, View out, const std::vector<Loop>& loops, bool accumulate) {
  const Folding f = fold(loops);
  if (f.elements == 0) return;
  if (f.empty_sum) {
    if (!accumulate) fill(out, 0);
    return;
  }
  const bool same = b.data && a.element == b.element && (out.element == a.element || out.element == Element::fp32);
  const std::int64_t work = f.row.extent * f.column.extent * f.sum.extent;
  if (!same || !f.is_product || work < 64) return contract_by_loops(a, b, out, f, accumulate);
  if (!f.sums_left) return contract_by_products(a, b, out, f, accumulate);
  // More than one product adds to a number: in fp32, rounded once. The result is dense.
  if (out.element == Element::fp32) {
    if (!accumulate) fill(out, 0);
    return contract_by_products(a, b, out, f, accumulate);
  }
  const auto memory = device_.allocate({f.elements * bytes_of(Element::fp32)});
  const View sum = {memory.get(), f.elements, Element::fp32};
  if (accumulate)
    cast(View{out.data, f.elements, out.element}, sum);
  else
    fill(sum, 0);
  contract_by_products(a, b, sum, f, accumulate);
  cast(sum, {out.data, f.elements, out.element});
}

void CudaOperators::contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                                bool accumulate) {
  // Masks are bytes: made numbers first, of the other operand's format.
  std::vector<std::shared_ptr<void>> made;
  const auto numbers = [&](const In& in, Element format) -> In {
    if (in.element != Element::byte) return in;
    made.push_back(device_.allocate({in.elements * bytes_of(format)}));
    const View view = {made.back().get(), in.elements, format};
    cast(in, view);
    return view;
  };
  contract(numbers(a.data, b.data.element), numbers(b.data, a.data.element), out, loops_of(a, b, out_labels),
           accumulate);
}

void CudaOperators::add_bias(const Labelled& x, const Labelled& bias, View y) {
  if (x.data.empty()) return;
  if (!ends_with(x.labels, bias.labels)) {
    Bias kernel = {bias.data, {}};
    for (std::size_t i = 0; i < x.labels.size(); ++i)
      kernel.loops.add({x.extents[i], stride_of(bias.labels, bias.extents, x.labels[i]), 0, 1});
    return cuda::pointwise<1, 1>(device_, kernel, {x.data}, {y});
  }
  cuda::visit_formats({x.data, bias.data, y}, [&](auto number) {
    using Number = decltype(number);
    const std::int64_t width = bias.data.elements;
    const bool pieces = cuda::in_pieces<Number>(width, {x.data.data, bias.data.data, y.data});
    cuda::launch_blocks(device_, x.data.elements / width, cuda::threads_for_row<Number>(width, pieces), 0,
                        BiasRows<Number>{cuda::data_of<Number>(x.data), cuda::data_of<Number>(bias.data),
                                         cuda::data_of<Number>(y), width, pieces});
  });
}

void CudaOperators::add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) {
  if (dy.data.empty()) return fill(d_bias, 0);
  if (ends_with(dy.labels, bias_labels)) return column_sums(dy.data, d_bias.elements, d_bias);
  contract(dy.data, {}, d_bias, loops_of(dy, Labelled{}, bias_labels), false);
}

}  // namespace shardwright
