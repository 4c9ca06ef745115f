#pragma once

#include <cassert>
#include <memory>

#include "kernels/communicator.h"
#include "kernels/cuda/device.h"

namespace shardwright::cuda {

/// By which lane a message goes: that of the lowest bit in which its ends differ, and of that bit at the sender. A rank
/// that sends in a lane never receives in it.
constexpr int lane_of_message(int from, int to) {
  assert(from != to && "nobody writes to himself");
  int bit = 0;
  while ((from >> bit & 1) == (to >> bit & 1)) ++bit;
  return 2 * bit + (from >> bit & 1);
}

/// Ranks with a GPU each. Numbers in a GPU's memory are moved by NCCL, in the order of the device's stream: a call
/// returns at once, and the buffer may be used by what is enqueued behind it. Numbers in the host's memory go by
/// `host`, the same ranks. Collective; both outlive it and what is split off.
///
/// One rank has no NCCL. Messages go by communicators of their own, on streams of their own, in which a rank only sends
/// or only receives, so that no message waits for one that comes the other way; `host` carries what each is, so that
/// they may be taken in any order.
std::unique_ptr<Communicator> make_nccl_communicator(Device& device, Communicator& host);

}  // namespace shardwright::cuda
