#pragma once

#include <string>
#include <vector>

#include "hardware/quantities.h"

namespace shardwright {

/// One thing that a GPU does for a while: a line of a trace.
struct TraceSpan {
  std::string device;  ///< "stage 0"
  std::string stream;  ///< "compute", "network", ...
  std::string name;    ///< "forward 3", "dispatch", ...
  std::string kind;    ///< what alike spans share: "forward", "bubble", "expert"
  Seconds start, end;
};

}  // namespace shardwright
