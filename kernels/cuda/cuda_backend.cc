#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cuda/product_samples.h"
#include "kernels/memory_pass.h"
#include "kernels/reference/reference_operators.h"
#include "kernels/sampled_error.h"

namespace shardwright {
namespace {

using cuda::Fill;
using cuda::Gpu;
using cuda::Product;
using cuda::ProductBuffers;
using cuda::ProductSpec;

/// A buffer of one run, where it begins in what the run is given.
struct Piece {
  std::int64_t at = 0, bytes = 0;
  Fill with = Fill::bf16;
};

/// Buffers of one run, one behind the other.
struct Space {
  std::vector<Piece> pieces;
  std::int64_t bytes = 0;

  /// Where it begins.
  std::int64_t add(std::int64_t size, Fill with = Fill::fp32) {
    constexpr std::int64_t kLine = 256;  // what cudaMalloc aligns to
    const std::int64_t at = bytes;
    pieces.push_back({at, size, with});
    bytes += (size + kLine - 1) / kLine * kLine;
    return at;
  }
  bool alike() const {
    return std::all_of(pieces.begin(), pieces.end(), [&](const Piece& p) { return p.with == pieces[0].with; });
  }
};

/// One kernel: what it is given and makes, a run, and what one run of it is off by.
struct Work {
  Space in, out;                                   // `in` is filled with random numbers, `out` with zeros
  std::function<void(char* in, char* out)> ready;  // once for each turn, behind the filling; may be none
  std::function<void(char* in, char* out)> run;
  std::function<double(char* in, char* out)> error;
  bool collective = false, recorded = true;
};

/// The turns' memory.
class Turns {
 public:
  Turns(Gpu& gpu, const Work& work, Bytes turns_over) : in_bytes_(work.in.bytes), out_bytes_(work.out.bytes) {
    const std::int64_t each = std::max<std::int64_t>(in_bytes_ + out_bytes_, 1);
    // Where each turn is made ready by itself, as many as a round has runs.
    constexpr std::int64_t kMost = 1'000'000, kMostReady = 1000;
    const bool by_itself = work.ready || !work.in.alike();
    count_ = std::clamp((turns_over.value + each - 1) / each, std::int64_t{1}, by_itself ? kMostReady : kMost);
    memory_ = gpu.allocate({count_ * each});
    Operators& operators = gpu.operators();
    operators.fill({out(0), count_ * out_bytes_, Element::byte}, 0);
    if (!by_itself) {
      if (!work.in.pieces.empty()) gpu.fill(in(0), {count_ * in_bytes_}, work.in.pieces[0].with, 1);
      return;
    }
    for (std::int64_t turn = 0; turn < count_; ++turn) {
      for (const Piece& piece : work.in.pieces)
        gpu.fill(in(turn) + piece.at, {piece.bytes}, piece.with, static_cast<std::uint64_t>(turn * 64 + piece.at));
      if (work.ready) work.ready(in(turn), out(turn));
    }
  }
  char* in(std::int64_t turn) const { return static_cast<char*>(memory_.get()) + turn * in_bytes_; }
  char* out(std::int64_t turn) const { return in(count_) + turn * out_bytes_; }
  std::int64_t next() { return std::exchange(at_, (at_ + 1) % count_); }

 private:
  std::int64_t in_bytes_, out_bytes_, count_ = 1, at_ = 0;
  std::shared_ptr<void> memory_;
};

class CudaKernel final : public PreparedKernel {
 public:
  CudaKernel(Gpu& gpu, Work work, Bytes turns_over) : work_(std::move(work)), turns_(gpu, work_, turns_over) {}
  void enqueue() override {
    const std::int64_t turn = turns_.next();
    work_.run(turns_.in(turn), turns_.out(turn));
  }
  double max_relative_error() override { return work_.error(turns_.in(0), turns_.out(0)); }
  void enqueue(int runs) {
    for (int i = 0; i < runs; ++i) enqueue();
  }
  const Work& work() const { return work_; }

  std::map<int, std::unique_ptr<cuda::Recorded>> recorded;  // by runs; null: it cannot be

 private:
  Work work_;
  Turns turns_;
};

View view(char* at, std::int64_t elements, Element element) { return {at, elements, element}; }

// ---- formats ----

Element element_of(DataType type) {
  if (type == DataType::fp16) return Element::fp16;
  return type == DataType::bf16 ? Element::bf16 : Element::fp32;
}

Fill fill_of(DataType type) {
  switch (type) {
    case DataType::fp32:
    case DataType::tf32:
      return Fill::fp32;
    case DataType::fp16:
      return Fill::fp16;
    case DataType::bf16:
      return Fill::bf16;
    case DataType::fp8:
    case DataType::mxfp8:
      return Fill::fp8;
    case DataType::nvfp4:
      return Fill::fp4;
  }
  return Fill::fp32;
}

Fill scales_of(DataType type) {
  if (type == DataType::mxfp8) return Fill::scale_e8m0;
  return type == DataType::nvfp4 ? Fill::scale_e4m3 : Fill::scale_fp32;
}

bool is_narrow(DataType type) { return type == DataType::fp8 || type == DataType::mxfp8 || type == DataType::nvfp4; }

/// Half a unit in the last place of numbers around 1; of products, what their sums keep.
double unit(DataType type) {
  switch (type) {
    case DataType::fp32:
      return 0x1p-24;
    case DataType::tf32:
    case DataType::fp16:
      return 0x1p-11;
    case DataType::bf16:
      return 0x1p-8;
    case DataType::fp8:
    case DataType::mxfp8:
    case DataType::nvfp4:
      return 0x1p-7;  // operands are exact; tensor cores add fp8 in about 14 bits (DeepSeek-V3, arXiv
                      // 2412.19437, 3.3.2)
  }
  return 0;
}

/// What a result of that type is stored as.
std::optional<DataType> computed(StoredType type) {
  if (type == StoredType::tf32) return DataType::fp32;
  for (const DataType known : {DataType::fp32, DataType::fp16, DataType::bf16})
    if (stored(known) == type) return known;
  return std::nullopt;
}

/// Of the results.
DataType result_type(const GemmSpec& s) { return *computed(s.result.value_or(default_result(s.type))); }

// ---- products ----

/// A linear layer's x W^T; added to, a weight's gradient.
GemmLayout layout_of(const GemmSpec& s) {
  if (s.layout != GemmLayout::unstated) return s.layout;
  return s.accumulate ? GemmLayout::tn : GemmLayout::nt;
}

ProductSpec product_of(const GemmSpec& s) {
  ProductSpec p;
  p.m = s.m, p.n = s.n, p.k = s.k, p.batch = s.batch;
  p.type = s.type;
  p.result = result_type(s);
  p.scaling = s.scaling;
  p.accumulate = s.accumulate;
  return dense(p, layout_of(s));
}

bool is_narrowed(const GemmSpec& s) { return s.cast && is_narrow(s.type); }

/// Why there is none whatever the library has.
std::string no_product(const GemmSpec& s) {
  if (s.weights && *s.weights != stored(s.type))
    return "the cuda backend has no products whose weights are stored otherwise";
  if (!computed(s.result.value_or(default_result(s.type))))
    return "the cuda backend has results in fp32, fp16 and bf16 alone";
  if (is_narrowed(s) && s.type != DataType::fp8) return "the cuda backend narrows to fp8 alone: ask with cast=false";
  if (is_narrowed(s) && s.batch > 1 && s.scaling != Scaling::tensor)
    return "the cuda backend narrows batches by the tensor alone: ask with cast=false";
  if (is_narrowed(s) && (layout_of(s) == GemmLayout::tn || layout_of(s) == GemmLayout::tt))
    return "the cuda backend narrows by rows: ask with cast=false";
  return "";
}

/// Where a product's operands lie in what a run is given and makes.
struct ProductPlaces {
  ProductSpec spec;
  bool narrowed = false;
  std::int64_t wide = 0, a = 0, b = 0, out = 0, scale_a = 0, scale_b = 0;

  bool scale_is_made() const { return narrowed && spec.scaling != Scaling::tensor; }
  ProductBuffers buffers(char* given, char* made) const {
    ProductBuffers at;
    at.a = narrowed ? made + a : given + a;
    at.b = given + b;
    at.out = made + out;
    if (!is_narrow(spec.type)) return at;
    at.scale_a = scale_is_made() ? made + scale_a : given + scale_a;
    at.scale_b = given + scale_b;
    return at;
  }
};

std::int64_t stored_bytes(std::int64_t elements, DataType type) {
  if (type == DataType::nvfp4) return elements / 2;
  return is_narrow(type) ? elements : elements * bytes_of(element_of(type));
}

Work product(const GemmSpec& s, Gpu& gpu) {
  Work work;
  ProductPlaces p;
  p.spec = product_of(s);
  p.narrowed = is_narrowed(s);
  const std::int64_t a = s.batch * s.m * s.k, b = s.batch * s.k * s.n, c = s.batch * s.m * s.n;
  const Element result = element_of(p.spec.result);
  p.out = work.out.add(c * bytes_of(result));
  p.b = work.in.add(stored_bytes(b, s.type), fill_of(s.type));
  if (p.narrowed)
    p.wide = work.in.add(2 * a, Fill::bf16), p.a = work.out.add(a);
  else
    p.a = work.in.add(stored_bytes(a, s.type), fill_of(s.type));
  if (is_narrow(s.type)) {
    const std::int64_t of_a = scale_bytes_of_a(p.spec).value, of_b = scale_bytes_of_b(p.spec).value;
    p.scale_a = p.scale_is_made() ? work.out.add(of_a) : work.in.add(of_a, scales_of(s.type));
    p.scale_b = work.in.add(of_b, scales_of(s.type));
  }
  const auto narrow = [p, &gpu](char* in, char* out) {
    const ProductBuffers at = p.buffers(in, out);
    gpu.narrow(in + p.wide, p.spec.batch * p.spec.m, p.spec.k, p.spec.scaling, out + p.a,
               const_cast<void*>(at.scale_a));
  };
  // Chosen when it first runs, on random numbers.
  const auto chosen = std::make_shared<const Product*>(nullptr);
  work.run = [p, narrow, chosen, &gpu](char* in, char* out) {
    if (p.narrowed) narrow(in, out);
    if (!*chosen) *chosen = &gpu.product(p.spec, p.buffers(in, out));
    gpu.run(**chosen, p.buffers(in, out));
  };
  work.error = [p, c, result, run = work.run, &gpu](char* in, char* out) {
    gpu.operators().fill(view(out + p.out, c * bytes_of(result), Element::byte), 0);
    run(in, out);
    const double product = cuda::sampled_product_error(gpu, p.spec, p.buffers(in, out));
    if (!p.narrowed) return product;
    // E4M3 keeps 3 bits: 1 / 16 of a number, times what is allowed of products.
    const double narrowing = cuda::sampled_narrowing_error(gpu, p.spec, in + p.wide, p.buffers(in, out));
    return worst_of({product, narrowing * 16 * unit(DataType::fp8)});
  };
  return work;
}

bool by_operators(const GroupedGemmSpec& s) { return !is_narrow(s.type); }

/// Of 16 bits and more by the operators, as experts of a layer are; narrower ones as a batch.
Work grouped_product(const GroupedGemmSpec& s, Gpu& gpu) {
  const GemmSpec batch = as_batch(s);
  if (!by_operators(s)) return product(batch, gpu);
  Work work;
  const ProductSpec p = product_of(batch);
  const Element element = element_of(s.type);
  const std::int64_t a = s.groups * s.m_per_group * s.k, b = s.groups * s.k * s.n, c = s.groups * s.m_per_group * s.n;
  const std::int64_t at_a = work.in.add(a * bytes_of(element), fill_of(s.type));
  const std::int64_t at_b = work.in.add(b * bytes_of(element), fill_of(s.type));
  work.out.add(c * bytes_of(element));
  const std::vector<std::int64_t> rows(static_cast<std::size_t>(s.groups), s.accumulate ? s.k : s.m_per_group);
  work.run = [=, accumulate = s.accumulate, &gpu](char* in, char* out) {
    const View x = view(in + at_a, a, element), y = view(in + at_b, b, element), z = view(out, c, element);
    if (accumulate)
      gpu.operators().grouped_contraction_gradient(x, y, rows, z, true);
    else
      gpu.operators().grouped_contraction(x, y, rows, true, z);
  };
  work.error = [=, run = work.run, &gpu](char* in, char* out) {
    gpu.operators().fill(view(out, c * bytes_of(element), Element::byte), 0);
    run(in, out);
    return cuda::sampled_product_error(gpu, p, {in + at_a, in + at_b, out, nullptr, nullptr});
  };
  return work;
}

// ---- attention ----

/// One behind the other, in the host's memory and fp32: of every array the part of `b` in the batch.
std::vector<float> one_of(Gpu& gpu, const std::vector<In>& arrays, std::int64_t batch, std::int64_t b) {
  std::vector<float> all;
  for (const In& array : arrays) {
    const std::int64_t part = array.elements / batch;
    for (const double x : gpu.operators().download(array.part(b * part, part))) all.push_back(static_cast<float>(x));
  }
  return all;
}

std::vector<In> arrays_of(const AttentionViews& views, bool values_in_keys) {
  std::vector<In> arrays;
  for (const ScoreViews& part : views.parts) arrays.insert(arrays.end(), {part.q, part.k});
  if (!values_in_keys) arrays.push_back(views.v);
  return arrays;
}

std::vector<In> arrays_of(const AttentionGradientViews& d) {
  std::vector<In> arrays;
  for (std::size_t n = 0; n < d.q.size(); ++n) arrays.insert(arrays.end(), {In(d.q[n]), In(d.k[n])});
  arrays.push_back(d.v);
  return arrays;
}

/// The worst of the first and the last of the batch.
template <typename Error>
double worst_of_batch(std::int64_t batch, Error error) {
  double worst = error(std::int64_t{0});
  if (batch > 1) worst = worst_of({worst, error(batch - 1)});
  return worst;
}

Work attention(const AttentionSpec& spec, Gpu& gpu) {
  Work work;
  const AttentionPlaces p = places_of(spec, element_of(spec.type));
  const std::int64_t width = bytes_of(p.element), o = p.result_elements(), batch = spec.batch;
  const std::int64_t at_in = work.in.add(p.input_elements() * width, fill_of(spec.type));
  const std::int64_t at_d_o = spec.backward ? work.in.add(o * width, fill_of(spec.type)) : 0;
  const std::int64_t at_o = work.out.add(o * width), at_lse = work.out.add(p.rows * bytes_of(Element::fp32));
  const std::int64_t at_d = spec.backward ? work.out.add(p.gradient_elements() * width) : 0;
  const auto forward = [=, &gpu](char* in, char* out) {
    gpu.operators().attention(p.inputs(in + at_in), p.shape, view(out + at_o, o, p.element),
                              view(out + at_lse, p.rows, Element::fp32));
  };
  if (!spec.backward) {
    work.run = forward;
    work.error = [=, &gpu](char* in, char* out) {
      forward(in, out);
      return worst_of_batch(batch, [&](std::int64_t b) {
        const auto given = one_of(gpu, arrays_of(p.inputs(in + at_in), p.values_in_keys), batch, b);
        const auto made = one_of(gpu, {view(out + at_o, o, p.element)}, batch, b);
        return attention_error(p.one_of_batch(), given.data(), made.data());
      });
    };
    return work;
  }
  work.ready = forward;
  work.run = [=, &gpu](char* in, char* out) {
    gpu.operators().attention_gradient(p.inputs(in + at_in), view(out + at_o, o, p.element),
                                       view(out + at_lse, p.rows, Element::fp32), view(in + at_d_o, o, p.element),
                                       p.shape, p.gradients(out + at_d));
  };
  work.error = [=, run = work.run, &gpu](char* in, char* out) {
    run(in, out);
    return worst_of_batch(batch, [&](std::int64_t b) {
      const auto given = one_of(gpu, arrays_of(p.inputs(in + at_in), p.values_in_keys), batch, b);
      const auto made = one_of(gpu, {view(out + at_o, o, p.element)}, batch, b);
      const auto d_o = one_of(gpu, {view(in + at_d_o, o, p.element)}, batch, b);
      auto gradients = one_of(gpu, arrays_of(p.gradients(out + at_d)), batch, b);
      return attention_gradient_error(p.one_of_batch(), given.data(), made.data(), d_o.data(), gradients.data());
    });
  };
  return work;
}

// ---- memory ----

/// A pass as its operator is called, in fp32, compared with the reference on its first numbers.
Work memory_pass(const MemorySpec& s, Gpu& gpu) {
  Work work;
  constexpr std::int64_t kWidth = 4;  // bytes of a number
  const PassShape shape = pass_shape(s, kWidth);
  const std::int64_t read = shape.in * shape.elements, written = shape.out * shape.elements;
  work.in.add(read * kWidth, Fill::fp32);
  work.out.add(written * kWidth);
  // Rows that are gathered, in no order; given once, since they are few.
  std::vector<double> order(static_cast<std::size_t>(shape.rows()));
  std::iota(order.begin(), order.end(), 0.0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  const auto ids = [&gpu](const std::vector<double>& rows) {
    const auto count = static_cast<std::int64_t>(rows.size());
    const auto memory = gpu.allocate({count * bytes_of(Element::int64)});
    gpu.operators().upload(rows, {memory.get(), count, Element::int64});
    return std::pair(memory, In(memory.get(), count, Element::int64));
  };
  work.run = [=, &gpu, rows = ids(order)](char* in, char* out) {
    run_pass(s.pass, gpu.operators(), shape, view(in, read, Element::fp32), view(out, written, Element::fp32),
             rows.second);
  };
  work.error = [=, &gpu](char* in, char* out) {
    constexpr std::int64_t kMost = 1 << 13;
    const PassShape small = pass_shape({{std::min(s.moved.value, kMost * kWidth * arrays_of(s.pass))}, s.pass}, kWidth);
    std::vector<double> backwards(static_cast<std::size_t>(small.rows()));
    for (std::size_t i = 0; i < backwards.size(); ++i) backwards[i] = static_cast<double>(backwards.size() - 1 - i);
    const std::vector<std::int64_t> plain_ids(backwards.begin(), backwards.end());
    const View given = view(in, small.in * small.elements, Element::fp32),
               made = view(out, small.out * small.elements, Element::fp32);
    constexpr double kBefore = 0.5;
    std::vector<double> expected(static_cast<std::size_t>(made.elements), kBefore);
    const std::vector<double> x = gpu.operators().download(given);
    const auto plain = make_reference_operators();
    run_pass(s.pass, *plain, small, {x.data(), given.elements, Element::fp64},
             {expected.data(), made.elements, Element::fp64}, {plain_ids.data(), small.rows(), Element::int64});
    gpu.operators().fill(made, kBefore);
    const auto rows = ids(backwards);
    run_pass(s.pass, gpu.operators(), small, given, made, rows.second);
    return off_by(gpu.operators().download(made), expected);
  };
  return work;
}

// ---- collectives ----

/// What rank `r` holds at element `i`: everyone knows what everyone has. In bf16 sums of few are almost exact.
double held_by(int r, std::int64_t i) { return static_cast<double>((r * 37 + i * 11) % 64); }

Work collective(const CollectiveSpec& s, Element element, Gpu& gpu, Communicator& group) {
  Work work;
  work.collective = true;
  const int n = group.size(), r = group.rank();
  const std::int64_t width = bytes_of(element), all = std::max<std::int64_t>(s.held.value / width / n * n, n),
                     part = all / n;
  const std::vector<std::int64_t> parts(static_cast<std::size_t>(n), part);
  std::int64_t given = all, made = all;
  std::function<double(std::int64_t)> expected;  // of element i of the result
  const auto total = [n](std::int64_t i) {
    double sum = 0;
    for (int q = 0; q < n; ++q) sum += held_by(q, i);
    return sum;
  };
  const auto in_view = [element](char* at, std::int64_t elements) { return view(at, elements, element); };
  switch (s.kind) {
    case CollectiveKind::all_reduce:
      // In place, of what the run before left: numbers grow and end at infinity, which costs nothing more.
      given = 0;
      work.run = [=, &group](char*, char* out) { group.all_reduce(in_view(out, all), Reduction::sum); };
      expected = total;
      break;
    case CollectiveKind::all_gather:
      given = part;
      work.run = [=, &group](char* in, char* out) { group.all_gather(in_view(in, part), in_view(out, all)); };
      expected = [part](std::int64_t i) { return held_by(static_cast<int>(i / part), i % part); };
      break;
    case CollectiveKind::reduce_scatter:
      made = part;
      work.run = [=, &group](char* in, char* out) {
        group.reduce_scatter(in_view(in, all), in_view(out, part), Reduction::sum);
      };
      expected = [total, part, r](std::int64_t i) { return total(r * part + i); };
      break;
    case CollectiveKind::all_to_all:
      work.run = [=, &group](char* in, char* out) {
        group.all_to_all(in_view(in, all), parts, in_view(out, all), parts);
      };
      expected = [part, r](std::int64_t i) { return held_by(static_cast<int>(i / part), r * part + i % part); };
      break;
    case CollectiveKind::send_recv:
      // Ranks tell each other by the host what comes: that cannot be recorded.
      work.recorded = false;
      work.run = [=, &group](char* in, char* out) {
        const auto got = group.receive(in_view(out, all), (r + n - 1) % n, 0);
        const auto sent = group.send(in_view(in, all), (r + 1) % n, 0);
        got->wait();
        sent->wait();
      };
      expected = [n, r](std::int64_t i) { return held_by((r + n - 1) % n, i); };
      break;
  }
  const Fill fill = element == Element::fp16 ? Fill::fp16 : element == Element::bf16 ? Fill::bf16 : Fill::fp32;
  if (given > 0) work.in.add(given * width, fill);
  work.out.add(made * width);
  work.error = [=, run = work.run, &gpu](char* in, char* out) {
    Operators& operators = gpu.operators();
    const View holds = given > 0 ? view(in, given, element) : view(out, all, element);
    std::vector<double> numbers(static_cast<std::size_t>(holds.elements));
    for (std::int64_t i = 0; i < holds.elements; ++i) numbers[static_cast<std::size_t>(i)] = held_by(r, i);
    operators.upload(numbers, holds);
    run(in, out);
    const std::vector<double> got = operators.download(view(out, made, element));
    double worst = 0;
    for (std::int64_t i = 0; i < made; ++i)
      worst = worst_of({worst, std::abs(got[static_cast<std::size_t>(i)] - expected(i)) / (64.0 * n)});
    if (given > 0) gpu.fill(in, {given * width}, fill, 1);
    return worst;
  };
  return work;
}

/// How elements are moved: what is narrower than 16 bits as bytes, which nobody adds.
std::optional<Element> moved_as(const CollectiveSpec& s) {
  const bool adds = s.kind == CollectiveKind::all_reduce || s.kind == CollectiveKind::reduce_scatter;
  if (!s.type) return Element::fp32;
  if (const auto type = computed(*s.type)) return element_of(*type);
  return adds ? std::nullopt : std::optional(Element::byte);
}

// ---- the backend ----

/// "cuBLASLt 13.0.2" of "CUDA 13.0, cuBLASLt 13.0.2, cuDNN 9.12.0".
std::string library_named(const std::string& libraries, const std::string& name) {
  const std::size_t begin = libraries.find(name);
  if (begin == std::string::npos) return name;
  return libraries.substr(begin, libraries.find(',', begin) - begin);
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(Gpu& gpu, Communicator& ranks, Bytes turns_over)
      : gpu_(gpu), host_(ranks), ranks_(gpu.communicator(ranks)), turns_over_(turns_over) {}

  std::string name() const override { return "cuda"; }

  std::string library(KernelFamily family) const override {
    const std::string& libraries = gpu_.facts().libraries;
    switch (family) {
      case KernelFamily::gemm:
      case KernelFamily::grouped_gemm:
        return library_named(libraries, "cuBLASLt");
      case KernelFamily::collective:
        return library_named(libraries, "NCCL");
      case KernelFamily::attention:
        if (const std::string by = gpu_.attention_by(); !by.empty()) return by;
        return "shardwright cuda";
      default:
        return "shardwright cuda";
    }
  }

  std::string unsupported(const KernelSpec& spec) const override {
    return std::visit([this](const auto& s) { return lacks(s); }, spec);
  }

  double tolerance(const KernelSpec& spec) const override {
    if (const auto* s = std::get_if<GemmSpec>(&spec)) return of_products(s->type, result_type(*s), s->k);
    if (const auto* s = std::get_if<GroupedGemmSpec>(&spec))
      return of_products(s->type, result_type(as_batch(*s)), s->k);
    if (const auto* s = std::get_if<AttentionSpec>(&spec)) {
      // Weights of keys are rounded to the operands' format, and o, from which gradients follow, is.
      const double of_format = s->type == DataType::fp32 ? unit(DataType::tf32) : unit(s->type);
      return (s->backward ? 8 : 4) * of_format;
    }
    if (const auto* s = std::get_if<CollectiveSpec>(&spec))
      return *moved_as(*s) == Element::fp32 ? 4 * unit(DataType::fp32) : 4 * unit(DataType::bf16);
    if (const auto* s = std::get_if<MemorySpec>(&spec))
      return 8 * unit(DataType::fp32) * (8 + std::sqrt(static_cast<double>(pass_shape(*s, 4).width)));
    return 0;
  }

  std::unique_ptr<PreparedKernel> prepare(const KernelSpec& spec) override {
    condition_ = {};
    return std::make_unique<CudaKernel>(gpu_, std::visit([this](const auto& s) { return work_of(s); }, spec),
                                        turns_over_);
  }

  Timed time(PreparedKernel& kernel, int runs) override {
    auto& own = static_cast<CudaKernel&>(kernel);
    if (own.work().recorded && !own.recorded.contains(runs)) record(own, runs);
    cuda::Recorded* recorded = own.work().recorded ? own.recorded[runs].get() : nullptr;
    // So long the host needs to enqueue: a kernel of a graph, or a launch of its own.
    const Seconds host_needs = recorded ? Seconds{2e-5} + Seconds{1e-6} * runs : Seconds{2e-5} * runs;
    const Seconds taken = recorded ? gpu_.time([&] { gpu_.run(*recorded); }, host_needs)
                                   : gpu_.time([&] { own.enqueue(runs); }, host_needs);
    const Seconds wall = taken * (1.0 / runs);
    return {wall, watch() ? wall : Seconds{}};
  }

  std::string condition() const override { return condition_.text(); }

 private:
  /// What the GPU was like while one kernel was timed.
  struct Condition {
    int least_sm_mhz = 0, most_sm_mhz = 0, memory_mhz = 0, celsius = 0;
    double watts = 0;
    bool power_capped = false, slowed = false;
    std::string text() const {
      if (most_sm_mhz == 0) return "";
      std::string all = "SM " + std::to_string(least_sm_mhz) + " to " + std::to_string(most_sm_mhz) + " MHz, memory " +
                        std::to_string(memory_mhz) + " MHz, up to " + std::to_string(std::lround(watts)) + " W, " +
                        std::to_string(celsius) + " C";
      if (power_capped) all += ", at its power limit";
      if (slowed) all += ", slowed at times";
      return all;
    }
  };

  /// Whether what was timed just now counts.
  bool watch() {
    const cuda::GpuCondition now = gpu_.condition();
    Condition& c = condition_;
    c.least_sm_mhz = c.most_sm_mhz == 0 ? now.sm_mhz : std::min(c.least_sm_mhz, now.sm_mhz);
    c.most_sm_mhz = std::max(c.most_sm_mhz, now.sm_mhz);
    c.memory_mhz = now.memory_mhz;
    c.celsius = std::max(c.celsius, now.celsius);
    c.watts = std::max(c.watts, now.watts);
    c.power_capped = c.power_capped || now.power_capped;
    c.slowed = c.slowed || now.slowed;
    return !now.slowed;
  }

  /// All ranks, or none, play what is recorded: a collective is run as often by each.
  void record(CudaKernel& kernel, int runs) {
    auto recorded = gpu_.record([&] { kernel.enqueue(runs); });
    std::int64_t failed = recorded ? 0 : 1;
    host_.all_reduce({&failed, 1, Element::int64}, Reduction::max);
    if (failed != 0) recorded.reset();
    if (recorded) gpu_.time([&] { gpu_.run(*recorded); }, {});  // the first time it is brought to the GPU
    kernel.recorded[runs] = std::move(recorded);
  }

  static double of_products(DataType type, DataType result, std::int64_t k) {
    const double sums = 4 * unit(DataType::fp32) * (8 + std::sqrt(static_cast<double>(k)));
    return sums + unit(result) + (type == DataType::tf32 || is_narrow(type) ? 4 * unit(type) : 0);
  }

  std::string lacks(const GemmSpec& s) const {
    if (const std::string why = no_product(s); !why.empty()) return why;
    return gpu_.product_unsupported(product_of(s));
  }
  std::string lacks(const GroupedGemmSpec& s) const {
    if (!by_operators(s)) return lacks(as_batch(s));
    if (const std::string why = no_product(as_batch(s)); !why.empty()) return why;
    if (element_of(result_type(as_batch(s))) != element_of(s.type))
      return "the cuda backend has grouped products whose results are as their operands";
    return "";
  }
  std::string lacks(const AttentionSpec& s) const {
    if (is_narrow(s.type) || (s.kv_type && *s.kv_type != stored(s.type)))
      return "the cuda backend has attention in fp32, fp16 and bf16 alone";
    if (s.selected > 0) return "the cuda backend has no attention to selected keys";
    if (const std::string why = no_operators_for(s); !why.empty()) return why;
    if (s.backward && s.values_in_keys) return "the cuda backend has no gradient of values in keys";
    if (!s.causal && s.window > 0 && s.query_length > 1)
      return "the cuda backend has windows of causal attention and of single queries";
    return "";
  }
  static std::string lacks(const MemorySpec&) { return ""; }
  static std::string lacks(const MoeLayerSpec&) {
    return "the cuda backend runs layers of experts operator by operator";
  }
  static std::string lacks(const MlaModuleSpec&) {
    return "the cuda backend runs latent attention blocks operator by operator";
  }
  static std::string lacks(const MoeExchangeSpec&) { return "the cuda backend has no exchange of experts' rows"; }
  std::string lacks(const CollectiveSpec& s) const {
    if (!moved_as(s)) return "NCCL adds no numbers of that format";
    if (s.algorithm != CollectiveAlgorithm::nccl) return "the cuda backend has NCCL's own collectives alone";
    if (s.crossing != 1) return "the cuda backend has no all-to-all inside nodes";
    const auto& last = s.group.factors[std::max(s.group.count - 1, 0)];
    const std::int64_t run = s.group.count == 0 ? 1 : last.size * last.stride;
    if (host_.size() % run != 0)
      return "the group does not fit " + std::to_string(host_.size()) + (host_.size() == 1 ? " rank" : " ranks");
    return "";
  }

  Work work_of(const GemmSpec& s) { return product(s, gpu_); }
  Work work_of(const GroupedGemmSpec& s) { return grouped_product(s, gpu_); }
  Work work_of(const AttentionSpec& s) { return attention(s, gpu_); }
  Work work_of(const MemorySpec& s) { return memory_pass(s, gpu_); }
  Work work_of(const CollectiveSpec& s) { return collective(s, *moved_as(s), gpu_, group_of(s.group)); }
  template <typename Spec>
  Work work_of(const Spec&) {
    throw std::invalid_argument("not supported");
  }

  /// Ranks whose coordinates along the group's runs differ are together.
  Communicator& group_of(const RankGroup& group) {
    for (auto& [known, communicator] : groups_)
      if (known == group) return *communicator;
    std::int64_t first = host_.rank();
    for (int i = 0; i < group.count; ++i)
      first -= host_.rank() / group.factors[i].stride % group.factors[i].size * group.factors[i].stride;
    groups_.emplace_back(group, ranks_->split(static_cast<int>(first)));
    return *groups_.back().second;
  }

  Gpu& gpu_;
  Communicator& host_;
  std::unique_ptr<Communicator> ranks_;
  Bytes turns_over_;
  Condition condition_;
  std::vector<std::pair<RankGroup, std::unique_ptr<Communicator>>> groups_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(cuda::Gpu& gpu, Communicator& ranks, Bytes turns_over) {
  return std::make_unique<CudaBackend>(gpu, ranks, turns_over);
}

}  // namespace shardwright
