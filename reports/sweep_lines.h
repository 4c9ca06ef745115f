#pragma once

#include <string>

#include "planner/search/sweep.h"

namespace shardwright {

/// The file of a sweep: a head, one line for each point of the grid, a foot. Every line ends with a newline, so that
/// what lacks one was torn.
enum class SweepFormat { csv, json };

std::string sweep_head(SweepFormat format);
/// What the line of a point starts with, up to its answer.
std::string sweep_line_start(SweepFormat format, const GridPoint& point);
/// `last`: of the grid; JSON has no comma there.
std::string sweep_line(SweepFormat format, const SweepRow& row, bool last);
std::string sweep_foot(SweepFormat format);
/// Whether a line says that something fits.
bool sweep_line_fits(SweepFormat format, const GridPoint& point, const std::string& line);

}  // namespace shardwright
