#include "profiler/clock.h"

#include <chrono>

namespace shardwright {
namespace {

class SteadyClock final : public Clock {
 public:
  Seconds now() override {
    return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count()};
  }
};

}  // namespace

Clock& steady_clock() {
  static SteadyClock clock;
  return clock;
}

}  // namespace shardwright
