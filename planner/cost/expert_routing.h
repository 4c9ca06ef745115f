#pragma once

#include <cstdint>

namespace shardwright {

/// How many of `parts` equal runs of neighbouring experts (ranks, nodes) hold at least one of the `chosen` experts of a
/// token, on average; every choice of different experts is equally likely. Where n_group > 1 the token's experts lie in
/// topk_group of n_group equal runs, every choice of which is equally likely too ("device-limited routing",
/// DeepSeek-V2, arXiv 2405.04434, 2.2.2; "node-limited", DeepSeek-V3, arXiv 2412.19437, 2.1.2). Parts and groups may
/// lie in any way to each other.
///
/// Without limit parts x (1 - C(E - E/parts, k) / C(E, k)), E experts, k chosen. With it the same for each part given
/// the groups that were chosen, averaged over these. `parts` and n_group divide `experts`; `chosen` experts fit into
/// topk_group groups. Exact but for rounding.
double distinct_parts(std::int64_t experts, std::int64_t chosen, std::int64_t parts, std::int64_t n_group = 0,
                      std::int64_t topk_group = 0);

}  // namespace shardwright
