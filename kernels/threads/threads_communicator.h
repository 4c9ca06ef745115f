#pragma once

#include <functional>
#include <memory>

#include "kernels/communicator.h"

namespace shardwright {

/// Runs `work` on so many threads of this process, each a rank with a communicator of them all, and waits. The first
/// exception of a rank is thrown here; the others' calls that wait for it fail, so that none waits for ever.
void run_on_threads(int ranks, const std::function<void(Communicator&)>& work);

/// The communicator of one rank, where there are no others.
std::unique_ptr<Communicator> make_alone_communicator();

}  // namespace shardwright
