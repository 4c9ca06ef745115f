#pragma once

#include <memory>

#include "kernels/operators.h"

namespace shardwright {

/// The reference kernels behind the class of all backends. They compute in double; buffers may be of any format that
/// the host has, and of `stored` where the operators are asked.
std::unique_ptr<Operators> make_reference_operators(Element stored = Element::fp64);

}  // namespace shardwright
