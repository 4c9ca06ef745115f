#pragma once

#include <cstdint>
#include <string_view>

#include "hardware/yaml_cursor.h"

namespace shardwright {

/// What a row of schema `shardwright.measured/1` measures; decides which keys it may have.
enum class MeasuredKind { training, inference, collective, kernel };
std::string_view name_of(MeasuredKind);

// Bounds of numbers whose keys say no more than that they are counts, degrees of parallelism or measurements.
constexpr std::int64_t kLargestCount = std::int64_t{1} << 53;   // exact in a double, too
constexpr std::int64_t kLargestDegree = std::int64_t{1} << 24;  // as in planner/layout.cc
constexpr double kLargestNumber = 1e30;

/// Checks every key of a row and of its sections against the schema: known for rows of this kind, of its type, within
/// its range. Also that hardware (with its gpu), workload and measured are there. Throws InputError; returns the row's
/// kind. What keys mean to each other is left to read_measured_rows.
MeasuredKind check_measured_row(const YamlCursor& row);

}  // namespace shardwright
