#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hardware/yaml_cursor.h"

namespace shardwright {

/// How tokens spread over the routed experts of a layer.
struct ExpertLoad {
  enum class Kind { balanced, zipf, histogram };
  Kind kind = Kind::balanced;
  double exponent = 0;         // zipf: the r-th most popular expert is chosen in proportion to r^-exponent
  std::vector<double> counts;  // histogram: rows of each expert, on any scale
  bool operator==(const ExpertLoad&) const = default;
};

/// "balanced", "zipf:1.2" (the exponent from 0 to 10) or the path of a file with a histogram; a file that is called
/// balanced is "./balanced". Throws InputError, which names `what` (the flag) or the file.
ExpertLoad read_expert_load(const std::string& text, const std::string& what);

/// The file: a map with the one key `expert_load`, a list of the rows that each expert got, in the experts' order and
/// on any scale: numbers from 0 to 1e18, not all 0. Throws InputError.
ExpertLoad read_expert_histogram(const YamlCursor& top);

/// What read_expert_load reads, "zipf:1.2"; of a histogram "histogram of 256 experts".
std::string to_string(const ExpertLoad& load);

/// Rows of each of `experts` experts relative to the mean, so that they average 1. A token chooses `chosen` different
/// experts, so none gets more than experts / chosen; what is cut off goes to the others in proportion. Popularity under
/// Zipf's law has nothing to do with an expert's index: ranks are dealt by a fixed shuffle. Throws InputError when a
/// histogram has another number of experts, or rows in fewer than `chosen` of them.
std::vector<double> relative_loads(const ExpertLoad& load, std::int64_t experts, std::int64_t chosen);

/// Load of the fullest of `parts` equal runs of neighbouring experts relative to the mean run: what the busiest rank
/// has to do. `parts` divides the number of experts; `loads` are on any scale and not all 0.
double busiest_part(const std::vector<double>& loads, std::int64_t parts);

}  // namespace shardwright
