#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/operators.h"

namespace shardwright {

/// Names of the operators that run here: "reference", "cpu", and "cuda" where there is a GPU.
std::vector<std::string> operator_names();
/// Throws std::runtime_error where the build or the machine has none of that name, saying what is missing.
std::unique_ptr<Operators> make_operators(std::string_view name);

/// Something that kernels run with, found here or not.
struct Part {
  std::string name;
  std::string version;  // "" where it is missing
  std::string missing;  // why, or what is missing
  std::string costs;    // what is not possible, or slower, without it
};
std::vector<Part> parts();

}  // namespace shardwright
