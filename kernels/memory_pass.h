#pragma once

#include "hardware/kernel_spec.h"
#include "kernels/operators.h"

namespace shardwright {

/// A pass over memory as its operator is called, on arrays of `elements` numbers each, which lie one behind the other.
/// Rows are as wide as a small model's; what has a number for each row or each column takes the first of an array.
struct PassShape {
  std::int64_t elements = 1, width = 1;
  int in = 1, out = 1;  // arrays that are read, and that are written
  std::int64_t rows() const { return elements / width; }
};

/// As large as `spec` says, where a number has so many bytes.
PassShape pass_shape(const MemorySpec& spec, std::int64_t bytes_of_number);

/// Runs it once. `ids`: of the rows that are gathered, shape.rows() of them.
void run_pass(MemoryPass pass, Operators& operators, const PassShape& shape, In in, View out, In ids);

}  // namespace shardwright
