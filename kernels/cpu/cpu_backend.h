#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/communicator.h"

namespace shardwright {

/// What the ranks' runs together take turns over: twice the largest cache.
Bytes twice_the_cache();

/// One core a rank, by the cpu's operators. `ranks` must outlive it.
std::unique_ptr<Backend> make_cpu_backend(Communicator& ranks, Bytes turns_over = twice_the_cache());

}  // namespace shardwright
