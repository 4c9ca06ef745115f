#pragma once

#include <vector>

#include "planner/pipeline/schedule.h"

namespace shardwright {

/// Orders of zb-1p, zb-2p and zb-v: written out in full, from a play of all stages in which each, whenever it is free,
/// takes an input gradient or a forward if one is there and what it keeps stays within its limit, and fills its gaps
/// with weight gradients. Source: the heuristic of Qi 2024, section 3.1; for zb-v with a share of the room for each of
/// the two chunks. Some rules are open, as in the paper: every combination is played, and the one kept whose slowest
/// stage takes the least time from its first task to its last. zb-1p is never slower than zb-h1, which is within its
/// limit, nor zb-2p than zb-h2.
///
/// The limit of a stage is what `stages` micro-batches keep until backward in all of its chunks (zb-1p, zb-v: as much
/// as 1F1B), or twice that (zb-2p); where a part keeps more until its weight gradient than until its input gradient,
/// that counts. `keeps` is by part.
std::vector<Order> greedy_orders(const Pipeline& pipeline, const PipelineTimes& times,
                                 const std::vector<PassKeeps>& keeps);

}  // namespace shardwright
