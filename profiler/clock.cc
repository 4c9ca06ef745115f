#include "profiler/clock.h"

#include <chrono>
#include <thread>

namespace shardwright {
namespace {

class SteadyClock final : public Clock {
 public:
  Seconds now() override {
    return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count()};
  }
  void pause(Seconds time) override { std::this_thread::sleep_for(std::chrono::duration<double>(time.value)); }
};

}  // namespace

Clock& steady_clock() {
  static SteadyClock clock;
  return clock;
}

}  // namespace shardwright
