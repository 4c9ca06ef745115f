#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/gpu.h"

namespace shardwright::cuda {

/// What libshardwright_cuda.so offers: the only part of the house that knows CUDA, cuBLASLt, cuDNN and NCCL. It lies
/// beside the program and is loaded when it is first wanted.
class Library {
 public:
  virtual ~Library() = default;
  virtual std::string cuda() const = 0;  // "13.0, cuBLASLt 13.0.2, cuDNN 9.12.0"
  virtual std::string nccl() const = 0;  // "2.27.7"
  /// GPUs of this machine that CUDA can use.
  virtual int gpus() const = 0;
  /// Why there are none, in CUDA's words; "" where there are.
  virtual std::string no_gpus() const = 0;
  /// Becomes the thread's GPU. Throws std::runtime_error.
  virtual std::unique_ptr<Gpu> open(int index) = 0;
  /// Of that GPU, for who needs nothing else of it; `own_attention`: never by cuDNN. Throws std::runtime_error.
  virtual std::unique_ptr<Operators> operators(int index, bool own_attention = false) = 0;
};

/// Why kernels for GPUs cannot be loaded, "" where they can. `gpus`: or why there is none to run them on.
std::string library_missing();
std::string gpus_missing();
/// Throws std::runtime_error where something is missing.
Library& library();

/// The GPU of this process: where several ranks share a machine, each takes one by its place there (as mpirun, srun and
/// torchrun tell it), else the first. Throws std::runtime_error where there are fewer GPUs than ranks.
int gpu_of_rank(int gpus);

}  // namespace shardwright::cuda
