#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/communicator.h"
#include "kernels/cuda/gpu.h"

namespace shardwright {

/// Kernels of one GPU a rank: products by cuBLASLt, attention and passes over memory by the GPU's operators,
/// collectives by NCCL. Knows no CUDA: all it does, it does by `gpu`, which must outlive it, as must `ranks`, the
/// host's.
///
/// Runs take turns over so much memory that a run finds nothing of its own in the last cache (`turns_over`: of all its
/// turns), and are recorded once and played from then on, where they can be: a kernel's time is the GPU's alone.
std::unique_ptr<Backend> make_cuda_backend(cuda::Gpu& gpu, Communicator& ranks, Bytes turns_over);

}  // namespace shardwright
