// libshardwright_cuda.so: loaded by cuda_library.cc when a GPU is wanted, so that the program needs no CUDA to start.
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nccl.h>

#include <string>

#include "kernels/cuda/cuda_gpu.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/cuda/cuda_operators.h"

namespace shardwright::cuda {
namespace {

/// "9.12.0" of 91200.
std::string dotted(std::size_t version, std::size_t major, std::size_t minor) {
  return std::to_string(version / major) + "." + std::to_string(version % major / minor) + "." +
         std::to_string(version % minor);
}

class CudaLibrary final : public Library {
 public:
  std::string cuda() const override {
    int runtime = 0;
    cudaRuntimeGetVersion(&runtime);
    return std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10) + ", cuBLASLt " +
           dotted(cublasLtGetVersion(), 10'000, 100) + ", cuDNN " + dotted(cudnnGetVersion(), 10'000, 100);
  }
  std::string nccl() const override {
    int version = 0;
    ncclGetVersion(&version);
    return dotted(static_cast<std::size_t>(version), 10'000, 100);
  }
  int gpus() const override {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
  }
  std::string no_gpus() const override {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) return "";
    int driver = 0;
    // The runtime calls a driver that is not there an old one.
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return "NVIDIA's driver is not installed";
    return std::string("there is no GPU that CUDA can use: ") + cudaGetErrorString(code);
  }
  std::unique_ptr<Gpu> open(int index) override { return make_gpu(index, "CUDA " + cuda() + ", NCCL " + nccl()); }
  std::unique_ptr<Operators> operators(int index, bool own_attention) override {
    return std::make_unique<CudaOperators>(index, false, own_attention);
  }
};

}  // namespace
}  // namespace shardwright::cuda

extern "C" shardwright::cuda::Library* shardwright_cuda_library() {
  static shardwright::cuda::CudaLibrary library;
  return &library;
}
