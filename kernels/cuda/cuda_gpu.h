#pragma once

#include <memory>

#include "kernels/cuda/gpu.h"

namespace shardwright::cuda {

std::unique_ptr<Gpu> make_gpu(int index, const std::string& libraries);

}  // namespace shardwright::cuda
