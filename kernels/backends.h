#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/operators.h"

namespace shardwright {

/// Names of the operators that this build has: "reference", "cpu".
std::vector<std::string> operator_names();
/// Throws std::runtime_error where the build or the machine has none of that name, saying what is missing.
std::unique_ptr<Operators> make_operators(std::string_view name);

}  // namespace shardwright
