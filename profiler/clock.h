#pragma once

#include "hardware/quantities.h"

namespace shardwright {

/// Where the profiler reads the time, so that tests need no patience.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Since some fixed moment.
  virtual Seconds now() = 0;
  /// Waits so long.
  virtual void pause(Seconds time) = 0;
};

/// The system's, which never goes back.
Clock& steady_clock();

}  // namespace shardwright
