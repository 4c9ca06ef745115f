#pragma once

#include <string_view>
#include <vector>

namespace shardwright {

/// One number of a curve: its key in files, where a fit looks for it, and where it starts. Above 0, `least` means that
/// it is looked for by factors, else by differences.
template <typename Curve>
struct Coefficient {
  std::string_view name;
  double Curve::*value;
  double least, most, start;
};

/// Those of a family, in the order of files.
template <typename Curve>
const std::vector<Coefficient<Curve>>& coefficients();

}  // namespace shardwright
