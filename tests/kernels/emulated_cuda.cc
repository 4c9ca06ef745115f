// What kernels/cuda asks of a GPU and its libraries, on the host: memory, products by plain loops, and threads of a
// block that are run in turns. So its operators, compiled as plain C++, run where there is no GPU.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/operands.h"

namespace shardwright::cuda {

// ---- threads ----

namespace {

constexpr std::size_t kStack = 256 << 10;

/// The threads of the block that runs, and the one that runs of them.
struct Turns {
  std::vector<ucontext_t> threads;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<bool> ended;
  ucontext_t scheduler;
  const std::function<void(int)>* body = nullptr;
  std::size_t current = 0;
};
Turns& turns() {
  static thread_local Turns all;  // ranks may be threads
  return all;
}

void run_current() {
  Turns& t = turns();
  (*t.body)(static_cast<int>(t.current));
  t.ended[t.current] = true;
}

}  // namespace

void HostThreads::run(int threads, const std::function<void(int)>& body) {
  Turns& t = turns();
  const auto count = static_cast<std::size_t>(threads);
  while (t.stacks.size() < count) t.stacks.emplace_back(new char[kStack]);
  t.threads.resize(count);
  t.ended.assign(count, false);
  t.body = &body;
  for (std::size_t i = 0; i < count; ++i) {
    getcontext(&t.threads[i]);
    t.threads[i].uc_stack.ss_sp = t.stacks[i].get();
    t.threads[i].uc_stack.ss_size = kStack;
    t.threads[i].uc_link = &t.scheduler;
    makecontext(&t.threads[i], run_current, 0);
  }
  for (bool forward = true;; forward = !forward) {
    std::size_t ended = 0;
    for (std::size_t i = 0; i < count; ++i) {
      t.current = forward ? i : count - 1 - i;
      swapcontext(&t.scheduler, &t.threads[t.current]);
      ended += t.ended[t.current];
    }
    if (ended == count) return;
    if (ended != 0) {
      std::fputs("threads of a block end while others wait for them\n", stderr);
      std::abort();
    }
  }
}

void HostThreads::wait() {
  Turns& t = turns();
  swapcontext(&t.threads[t.current], &t.scheduler);
}

// ---- memory ----

struct Device::State {
  DeviceProperties properties;
  std::shared_ptr<void> scratch;
};

Device::Device(int) : state_(std::make_unique<State>()) {
  state_->properties.name = "none";
  state_->properties.multiprocessors = 3;
  state_->properties.shared_per_block = {96 << 10};
}
Device::~Device() = default;

std::shared_ptr<void> Device::allocate(Bytes size) {
  if (size.value == 0) return nullptr;
  // As CUDA aligns it, and not a byte more: what reads on is found by sanitizers.
  void* data = nullptr;
  if (posix_memalign(&data, 256, static_cast<std::size_t>(size.value)) != 0) throw std::bad_alloc();
  std::memset(data, 0xFF, static_cast<std::size_t>(size.value));  // no numbers
  return {data, std::free};
}
void* Device::scratch(Bytes size) {
  state_->scratch = allocate(size);
  return state_->scratch.get();
}
void Device::upload(const void* host, void* to, Bytes size) { copy(host, to, size); }
void Device::download(const void* from, void* host, Bytes size) { copy(from, host, size); }
void Device::copy(const void* from, void* to, Bytes size) {
  if (size.value > 0) std::memcpy(to, from, static_cast<std::size_t>(size.value));
}
void Device::clear(void* to, Bytes size) {
  if (size.value > 0) std::memset(to, 0, static_cast<std::size_t>(size.value));
}
void Device::synchronize() {}
CUstream_st* Device::stream() const { return nullptr; }
const DeviceProperties& Device::properties() const { return state_->properties; }

// ---- products ----

namespace {

struct Planned final : Product {
  ProductSpec spec;
  Bytes workspace() const override { return {0}; }
  Seconds tried() const override { return {0}; }
  int candidates() const override { return 1; }
};

Element element_of(DataType type) {
  return type == DataType::fp16 ? Element::fp16 : type == DataType::bf16 ? Element::bf16 : Element::fp32;
}

std::int64_t at(const MatrixPlace& place, std::int64_t batch, std::int64_t row, std::int64_t column) {
  return batch * place.batch_stride + (place.transposed ? column * place.stride + row : row * place.stride + column);
}

/// What cuBLASLt refuses: rows that overlap.
void check_place(const MatrixPlace& place, std::int64_t rows, std::int64_t columns) {
  if (place.stride < (place.transposed ? rows : columns)) throw std::runtime_error("rows of a matrix overlap");
}

void check_alignment(const ProductSpec& spec, const void* data, const MatrixPlace& place, Element element) {
  const std::int64_t step = place.batch_stride * bytes_of(element);
  if (!is_aligned(data, static_cast<std::size_t>(spec.alignment)) || (spec.batch > 1 && step % spec.alignment != 0))
    throw std::runtime_error("a matrix begins where the plan said that it does not");
}

}  // namespace

struct Matmul::State {
  std::map<ProductSpec, Planned> planned;
};
Matmul::Matmul(Device&, Bytes) : state_(std::make_unique<State>()) {}
Matmul::~Matmul() = default;
std::string Matmul::version() const { return "plain loops"; }
std::string Matmul::unsupported(const ProductSpec&) { return ""; }
const Product& Matmul::plan(const ProductSpec& spec) {
  check_place(spec.a, spec.m, spec.k);
  check_place(spec.b, spec.k, spec.n);
  check_place(spec.out, spec.m, spec.n);
  if (spec.out.transposed) throw std::runtime_error("a result is transposed");
  Planned& planned = state_->planned[spec];
  planned.spec = spec;
  return planned;
}
const Product& Matmul::plan_fastest(const ProductSpec& spec, const ProductBuffers&, int) { return plan(spec); }
void Matmul::run(const Product& product, const ProductBuffers& buffers) {
  const ProductSpec& s = static_cast<const Planned&>(product).spec;
  const Element element = element_of(s.type), result = element_of(s.result);
  check_alignment(s, buffers.a, s.a, element);
  check_alignment(s, buffers.b, s.b, element);
  check_alignment(s, buffers.out, s.out, result);
  const Numbers a = In(buffers.a, 0, element), b = In(buffers.b, 0, element);
  const Places out = View{buffers.out, 0, result};
  for (std::int64_t batch = 0; batch < s.batch; ++batch) {
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < s.n; ++j) {
        float sum = 0;
        for (std::int64_t k = 0; k < s.k; ++k) sum += a.at(at(s.a, batch, i, k)) * b.at(at(s.b, batch, k, j));
        const std::int64_t to = at(s.out, batch, i, j);
        out.set(to, s.accumulate ? out.at(to) + sum : sum);
      }
    }
  }
}

}  // namespace shardwright::cuda
