#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace shardwright::cuda {

/// "cudaMalloc(&data, bytes): out of memory (cudaErrorMemoryAllocation), device.cc:20"
inline std::string failure(const std::string& call, const std::string& error, const std::string& name,
                           const std::string& file, int line) {
  const std::size_t folder = file.rfind('/');
  return call + ": " + error + " (" + name + "), " + (folder == std::string::npos ? file : file.substr(folder + 1)) +
         ":" + std::to_string(line);
}

inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess)
    throw std::runtime_error(failure(call, cudaGetErrorString(status), cudaGetErrorName(status), file, line));
}

}  // namespace shardwright::cuda

/// Throws std::runtime_error with the call's text where it fails.
#define SHARDWRIGHT_CUDA(call) ::shardwright::cuda::check(call, #call, __FILE__, __LINE__)
