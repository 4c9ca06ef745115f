#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hardware/yaml_cursor.h"
#include "planner/plan.h"

namespace shardwright {

/// A file of questions: every model on every machine with every number of GPUs, and so on.
///
///   models: [llama-3.1-8b, llama-3.1-70b]
///   machines: [h100-sxm-80gb]
///   gpus: [64, 128]
///   sequence_lengths: [4096, 8192]
///   global_batches: [512]
///   precisions: [bf16, fp8]        # default: [bf16]
///   engines: [megatron-core]       # default: [generic]
struct Grid {
  std::vector<std::string> models, machines;
  std::vector<std::int64_t> gpus, sequence_lengths, global_batches;
  std::vector<DataType> precisions;
  std::vector<std::string> engines;
  std::size_t points() const;
};

/// At most so many points.
inline constexpr std::size_t kMostGridPoints = 1'000'000;

/// Throws InputError with the place: unknown keys, models, machines, engines, an empty list, a value that comes twice.
Grid read_grid(const YamlCursor& top);

/// One question of a grid.
struct GridPoint {
  std::string model, machine, engine;
  std::int64_t gpus = 0, sequence_length = 0, global_batch = 0;
  DataType precision = DataType::bf16;
  bool operator==(const GridPoint&) const = default;
};

/// In the order of the keys above, the last changing first.
GridPoint point_at(const Grid& grid, std::size_t i);

/// The best plan of a point, or why there is none.
struct SweepRow {
  GridPoint point;
  std::optional<PricedLayout> best;
  std::string why_not;  ///< "memory: the nearest layout misses: stage 0 needs 91.2 GiB ...", "a100-sxm-80gb does not
                        ///< compute in fp8"
};

/// Plans one point. `model` and `machine`: those that the point names.
SweepRow plan_point(const GridPoint& point, const Model& model, const Machine& machine, int threads);

}  // namespace shardwright
