#include "kernels/cuda/cuda_gpu.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/measuring.h"
#include "kernels/cuda/nccl_communicator.h"
#include "kernels/cuda/nvml.h"

namespace shardwright::cuda {
namespace {

std::string bus_of(int index) {
  std::array<char, 32> bus = {};
  SHARDWRIGHT_CUDA(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index));
  return bus.data();
}

Bytes taken_now() {
  std::size_t free = 0, all = 0;
  SHARDWRIGHT_CUDA(cudaMemGetInfo(&free, &all));
  return {static_cast<std::int64_t>(all - free)};
}

/// What a GPU says once it is in use; `libraries` is ours.
GpuFacts facts_of(int index, const Nvml& nvml, const std::string& libraries) {
  cudaDeviceProp p = {};
  SHARDWRIGHT_CUDA(cudaGetDeviceProperties(&p, index));
  GpuFacts facts;
  facts.name = p.name;
  facts.major = p.major;
  facts.minor = p.minor;
  facts.multiprocessors = p.multiProcessorCount;
  SHARDWRIGHT_CUDA(cudaGetDeviceCount(&facts.on_node));
  facts.memory = {static_cast<std::int64_t>(p.totalGlobalMem)};
  facts.taken = taken_now();
  facts.l2 = {p.l2CacheSize};
  facts.driver = nvml.driver();
  facts.libraries = libraries;
  nvml.add_limits(facts);
  return facts;
}

class Graph final : public Recorded {
 public:
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    SHARDWRIGHT_CUDA(made);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() override { static_cast<void>(cudaGraphExecDestroy(graph_)); }
  void run(cudaStream_t stream) { SHARDWRIGHT_CUDA(cudaGraphLaunch(graph_, stream)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

class CudaGpu final : public Gpu {
 public:
  CudaGpu(int index, const std::string& libraries)
      : operators_(index), device_(operators_.device()), nvml_(bus_of(index)), matmul_(device_) {
    facts_ = facts_of(index, nvml_, libraries);
    SHARDWRIGHT_CUDA(cudaDeviceGetAttribute(&khz_, cudaDevAttrClockRate, index));
  }

  const GpuFacts& facts() const override { return facts_; }
  GpuCondition condition() override { return nvml_.condition(); }
  Bytes taken() override { return taken_now(); }
  Operators& operators() override { return operators_; }
  std::unique_ptr<Communicator> communicator(Communicator& host) override {
    return make_nccl_communicator(device_, host);
  }

  std::shared_ptr<void> allocate(Bytes size) override { return device_.allocate(size); }
  void fill(void* to, Bytes size, Fill with, std::uint64_t seed) override {
    fill_random(to, size, with, seed, device_.stream());
  }
  void upload(const void* host, void* to, Bytes size) override { device_.upload(host, to, size); }
  void download(const void* from, void* host, Bytes size) override { device_.download(from, host, size); }
  void download_pieces(const void* from, std::int64_t stride, std::int64_t width, std::int64_t count,
                       void* host) override {
    if (width == 0 || count == 0) return;
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    SHARDWRIGHT_CUDA(cudaMemcpy2DAsync(host, size(width), from, size(stride), size(width), size(count),
                                       cudaMemcpyDeviceToHost, device_.stream()));
    device_.synchronize();
  }
  BytesPerSecond host_rate(Bytes size, bool to_gpu) override {
    const auto bytes = static_cast<std::size_t>(size.value);
    const std::shared_ptr<void> here = device_.allocate(size);
    void* pinned = nullptr;
    SHARDWRIGHT_CUDA(cudaMallocHost(&pinned, bytes));
    const std::shared_ptr<void> freed(pinned, [](void* p) { static_cast<void>(cudaFreeHost(p)); });
    Seconds best{1e9};
    constexpr int kRuns = 5;
    for (int i = 0; i < kRuns; ++i) {
      const auto copy = [&] {
        SHARDWRIGHT_CUDA(cudaMemcpyAsync(to_gpu ? here.get() : pinned, to_gpu ? pinned : here.get(), bytes,
                                         to_gpu ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, device_.stream()));
      };
      best = std::min(best, time(copy, {}));
    }
    return {static_cast<double>(size.value) / best.value};
  }

  std::string product_unsupported(const ProductSpec& spec) override { return matmul_.unsupported(spec); }
  const Product& product(const ProductSpec& spec, const ProductBuffers& on) override {
    return matmul_.plan_fastest(spec, on);
  }
  void run(const Product& product, const ProductBuffers& buffers) override { matmul_.run(product, buffers); }
  void narrow(const void* x, std::int64_t rows, std::int64_t width, Scaling scaling, void* y, void* scales) override {
    narrow_to_fp8(x, rows, width, scaling, y, scales, device_.stream());
  }

  std::string attention_by() override { return operators_.attention_by(); }

  std::unique_ptr<Recorded> record(const std::function<void()>& work) override {
    // Allocations are allowed: what they give belongs to the pool, not to the graph.
    SHARDWRIGHT_CUDA(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeRelaxed));
    bool whole = true;
    try {
      work();
    } catch (const std::bad_alloc&) { whole = false; } catch (const std::runtime_error&) {
      whole = false;  // what waits for the GPU cannot be recorded
    }
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(device_.stream(), &graph);
    static_cast<void>(cudaGetLastError());  // it would be reported again by the next launch
    if (whole && ended == cudaSuccess) return std::make_unique<Graph>(graph);
    if (graph) static_cast<void>(cudaGraphDestroy(graph));
    return nullptr;
  }
  void run(Recorded& recorded) override { static_cast<Graph&>(recorded).run(device_.stream()); }

  Seconds time(const std::function<void()>& work, Seconds host_needs) override {
    constexpr Seconds kAtLeast = {2e-5}, kAtMost = {2e-2};
    const Seconds ahead = std::clamp(host_needs, kAtLeast, kAtMost);
    spin(static_cast<std::int64_t>(ahead.value * 1e3 * khz_), device_.stream());
    events_.begin(device_);
    work();
    events_.end(device_);
    return events_.between();
  }

 private:
  CudaOperators operators_;
  Device& device_;
  Nvml nvml_;
  Matmul matmul_;
  GpuFacts facts_;
  Events events_;
  int khz_ = 0;
};

}  // namespace

std::unique_ptr<Gpu> make_gpu(int index, const std::string& libraries) {
  return std::make_unique<CudaGpu>(index, libraries);
}

}  // namespace shardwright::cuda
