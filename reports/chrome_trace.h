#pragma once

#include <string>
#include <vector>

#include "planner/pipeline/trace.h"

namespace shardwright {

/// Spans in the Trace Event Format (JSON) that Perfetto and chrome://tracing open: a process for each device, a thread
/// for each of its streams, both in the order in which they first come; times in microseconds, to the nanosecond.
std::string chrome_trace(const std::vector<TraceSpan>& spans);

}  // namespace shardwright
