#pragma once

#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/yaml_cursor.h"

namespace shardwright {

/// One way to move bytes over links. With x = bytes / (share x the link's rate)
///   t = start + steps x step + x + 2 sqrt(fill x)
/// The last two terms are what a transfer in pieces takes where each piece costs a time of its own and their number is
/// the best one. Of all sizes the time per byte beyond the smallest time only falls as the size grows
/// (collective_cost.h needs that).
struct TransferCurve {
  double start = 0;  // seconds
  double step = 0;   // seconds
  double share = 1;  // of the link's rate
  double fill = 0;   // seconds

  /// Seconds beyond start and steps of what takes `x` seconds at the link's whole rate.
  double moving(double x) const {
    const double at_share = x / share;
    return fill > 0 ? at_share + 2 * std::sqrt(fill * at_share) : at_share;
  }
  bool operator==(const TransferCurve&) const = default;
};

/// The ways in which collectives are run. Rings and direct sends in NCCL's protocols LL, LL128 and Simple; trees across
/// nodes and sums in NVLink switches (all_reduce); all-reduces of inference engines; kernels over multicast and
/// load-store memory of NVLink; rows of experts there and back, by DeepEP (normal and low-latency mode) and HybridEP.
enum class CollectiveWay {
  ring_ll,
  ring_ll128,
  ring_simple,
  direct_ll,
  direct_simple,
  tree,
  in_switch,
  one_shot,
  two_shot,
  one_shot_multicast,
  two_shot_multicast,
  lsa_simple,
  lsa_poison,
  dispatch,
  combine,
  low_latency_dispatch,
  low_latency_combine,
  hybrid_dispatch,
  hybrid_combine
};
inline constexpr int kCollectiveWays = 19;
inline constexpr std::array<std::string_view, kCollectiveWays> kCollectiveWayNames = {"ring_ll",
                                                                                      "ring_ll128",
                                                                                      "ring_simple",
                                                                                      "direct_ll",
                                                                                      "direct_simple",
                                                                                      "tree",
                                                                                      "in_switch",
                                                                                      "one_shot",
                                                                                      "two_shot",
                                                                                      "one_shot_multicast",
                                                                                      "two_shot_multicast",
                                                                                      "lsa_simple",
                                                                                      "lsa_poison",
                                                                                      "dispatch",
                                                                                      "combine",
                                                                                      "low_latency_dispatch",
                                                                                      "low_latency_combine",
                                                                                      "hybrid_dispatch",
                                                                                      "hybrid_combine"};

/// How wrong curves are about the rows they were fitted on: |predicted / measured - 1|.
struct CurveError {
  std::string of;  // "all_reduce"
  std::int64_t rows = 0;
  double median = 0, p68 = 0, p90 = 0;
  bool operator==(const CurveError&) const = default;
};

/// How collectives run over one kind of links: NVLink of a generation, a box of PCIe cards, a network.
struct FabricCurves {
  std::string name;  // "nvlink4"
  std::array<std::optional<TransferCurve>, kCollectiveWays> ways = {};
  double ring_copy = 0, direct_copy = 0;  // a rank's own slice, copied: in slices sent
  double crowding = 0;                    // rate x (2 / members)^crowding: cards behind the same bridges
  /// Bytes a second that one multiprocessor moves over links inside a unit for DeepEP's normal kernels, there and back;
  /// of a network's fabric: where they also forward between units. 0: no limit.
  double dispatch_rate_per_sm = 0, combine_rate_per_sm = 0;
  double relative_error = 0;  // one sigma
  std::string data, date;     // what it was fitted on, and when that was measured; may be empty
  std::vector<CurveError> errors = {};

  const std::optional<TransferCurve>& operator[](CollectiveWay way) const {
    return ways[static_cast<std::size_t>(way)];
  }
  std::optional<TransferCurve>& operator[](CollectiveWay way) { return ways[static_cast<std::size_t>(way)]; }
  bool operator==(const FabricCurves&) const = default;
};

/// A file of schema `shardwright.collective_curves/1`: fabrics by name. Throws InputError.
std::vector<FabricCurves> read_collective_curves(const YamlCursor& top);

/// Text that reads back as the same; four significant digits, to which values are rounded (see rounded_to_file).
std::string collective_curves_text(const std::vector<FabricCurves>& fabrics);

/// The value as the file will have it.
double rounded_to_file(double value);

/// hardware/fabrics/collectives.yaml, which is built into the program.
const std::vector<std::shared_ptr<const FabricCurves>>& known_fabrics();

}  // namespace shardwright
