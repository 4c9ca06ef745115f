#include "kernels/backends.h"

#include <stdexcept>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/reference/reference_operators.h"

namespace shardwright {

std::vector<std::string> operator_names() { return {"reference", "cpu"}; }

std::unique_ptr<Operators> make_operators(std::string_view name) {
  if (name == "reference") return make_reference_operators();
  if (name == "cpu") return std::make_unique<CpuOperators>();
  throw std::runtime_error("there is no backend '" + std::string(name) + "'; there are reference, cpu");
}

}  // namespace shardwright
