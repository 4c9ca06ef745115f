#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include <cassert>
#include <map>
#include <new>
#include <vector>

#include "kernels/cuda/check.h"

namespace shardwright::cuda {
namespace {

/// What a request is rounded up to, so that almost the same sizes find each other's buffers.
std::int64_t rounded(std::int64_t bytes) {
  constexpr std::int64_t kSmall = 1 << 20, kFine = 512, kCoarse = 2 << 20;
  const std::int64_t unit = bytes <= kSmall ? kFine : kCoarse;
  return (bytes + unit - 1) / unit * unit;
}

/// Freed buffers by their size. Outlives the device as long as one buffer does.
class Pool {
 public:
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { release(); }

  /// One that is at most an eighth too large; null where there is none.
  void* take(std::int64_t& bytes) {
    const auto it = free_.lower_bound(bytes);
    if (it == free_.end() || it->first > bytes + bytes / 8) return nullptr;
    void* data = it->second.back();
    bytes = it->first;
    it->second.pop_back();
    if (it->second.empty()) free_.erase(it);
    return data;
  }
  void keep(void* data, std::int64_t bytes) { free_[bytes].push_back(data); }
  /// Cleaning up: a GPU that is gone already has no memory to give back.
  void release() {
    for (const auto& [bytes, buffers] : free_)
      for (void* data : buffers) static_cast<void>(cudaFree(data));  // waits for the device
    free_.clear();
  }

 private:
  std::map<std::int64_t, std::vector<void*>> free_;
};

DeviceProperties properties_of(int index) {
  cudaDeviceProp p;
  SHARDWRIGHT_CUDA(cudaGetDeviceProperties(&p, index));
  DeviceProperties result;
  result.name = p.name;
  result.major = p.major;
  result.minor = p.minor;
  result.multiprocessors = p.multiProcessorCount;
  result.shared_per_block = {static_cast<std::int64_t>(p.sharedMemPerBlockOptin)};
  result.memory = {static_cast<std::int64_t>(p.totalGlobalMem)};
  return result;
}

}  // namespace

struct Device::State {
  cudaStream_t stream = nullptr;
  DeviceProperties properties;
  std::shared_ptr<Pool> pool = std::make_shared<Pool>();
  std::shared_ptr<void> scratch;
  Bytes scratch_size;
};

Device::Device(int index) : state_(std::make_unique<State>()) {
  SHARDWRIGHT_CUDA(cudaSetDevice(index));
  state_->properties = properties_of(index);
  SHARDWRIGHT_CUDA(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking));
}

Device::~Device() {
  static_cast<void>(cudaStreamSynchronize(state_->stream));
  static_cast<void>(cudaStreamDestroy(state_->stream));
}

std::shared_ptr<void> Device::allocate(Bytes size) {
  if (size.value == 0) return nullptr;
  assert(size.value > 0 && "a size is not negative");
  std::int64_t bytes = rounded(size.value);
  void* data = state_->pool->take(bytes);
  if (!data) {
    cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());  // the error would be reported again by the next launch
      state_->pool->release();
      status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    }
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      throw std::bad_alloc();
    }
    SHARDWRIGHT_CUDA(status);
  }
  return {data, [pool = state_->pool, bytes](void* p) { pool->keep(p, bytes); }};
}

void* Device::scratch(Bytes size) {
  if (size.value > state_->scratch_size.value) {
    state_->scratch.reset();
    state_->scratch = allocate(size);
    state_->scratch_size = size;
  }
  return size.value == 0 ? nullptr : state_->scratch.get();
}

void Device::upload(const void* host, void* to, Bytes size) {
  if (size.value == 0) return;
  SHARDWRIGHT_CUDA(
      cudaMemcpyAsync(to, host, static_cast<std::size_t>(size.value), cudaMemcpyHostToDevice, state_->stream));
  synchronize();
}

void Device::download(const void* from, void* host, Bytes size) {
  if (size.value == 0) return;
  SHARDWRIGHT_CUDA(
      cudaMemcpyAsync(host, from, static_cast<std::size_t>(size.value), cudaMemcpyDeviceToHost, state_->stream));
  synchronize();
}

void Device::copy(const void* from, void* to, Bytes size) {
  if (size.value == 0) return;
  SHARDWRIGHT_CUDA(
      cudaMemcpyAsync(to, from, static_cast<std::size_t>(size.value), cudaMemcpyDeviceToDevice, state_->stream));
}

void Device::clear(void* to, Bytes size) {
  if (size.value == 0) return;
  SHARDWRIGHT_CUDA(cudaMemsetAsync(to, 0, static_cast<std::size_t>(size.value), state_->stream));
}

void Device::synchronize() { SHARDWRIGHT_CUDA(cudaStreamSynchronize(state_->stream)); }

CUstream_st* Device::stream() const { return state_->stream; }

const DeviceProperties& Device::properties() const { return state_->properties; }

Events::Events() {
  SHARDWRIGHT_CUDA(cudaEventCreate(&begin_));
  SHARDWRIGHT_CUDA(cudaEventCreate(&end_));
}

Events::~Events() {
  for (cudaEvent_t event : {begin_, end_})
    if (event) static_cast<void>(cudaEventDestroy(event));
}

void Events::begin(const Device& device) { SHARDWRIGHT_CUDA(cudaEventRecord(begin_, device.stream())); }
void Events::end(const Device& device) { SHARDWRIGHT_CUDA(cudaEventRecord(end_, device.stream())); }

Seconds Events::between() const {
  SHARDWRIGHT_CUDA(cudaEventSynchronize(end_));
  float milliseconds = 0;
  SHARDWRIGHT_CUDA(cudaEventElapsedTime(&milliseconds, begin_, end_));
  return {static_cast<double>(milliseconds) / 1e3};
}

}  // namespace shardwright::cuda
