#pragma once

#include <vector>

#include "planner/cli/command_line.h"
#include "reports/html.h"

namespace shardwright {

/// --html FILE.
Option html_option();

/// Throws OutputError where `flag` is given and this build has no page: before long work, not after it.
void check_html(const Arguments& arguments, const std::string& flag = "--html");

/// Writes what --html asks for. Throws OutputError.
void write_html(const Arguments& arguments, const std::vector<ReportFile>& files);

}  // namespace shardwright
