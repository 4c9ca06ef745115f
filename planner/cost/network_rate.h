#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace shardwright {

/// Bytes a second of one GPU's share of a node's network, of an `interconnect` as sources print it: the last rate in
/// it ("400G", "HDR200", "800 Gb/s", "50 GB/s"), times what "8x" before it counts, by the GPUs of a node or alone where
/// "per GPU" follows. Nothing where no rate is stated, or no count and neither "per node" nor "per GPU".
std::optional<double> network_rate(const std::string& interconnect, std::int64_t gpus_per_node);

}  // namespace shardwright
