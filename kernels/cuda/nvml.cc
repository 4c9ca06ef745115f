#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <cstdint>

namespace shardwright::cuda {
namespace {

// Names, numbers and signatures: NVML API reference, "Device Queries" and "NvmlClocksEventReasons". Every function
// answers 0 where it could.
constexpr int kOk = 0;
constexpr int kSmClock = 1, kMemoryClock = 2;  // nvmlClockType_t
constexpr int kGpuTemperature = 0;             // nvmlTemperatureSensors_t
constexpr std::uint64_t kPowerCap = 0x4;
// Hardware slowdown; software thermal, hardware thermal, power brake slowdown.
constexpr std::uint64_t kSlowed = 0x8 | 0x20 | 0x40 | 0x80;

using Handle = void*;

}  // namespace

struct Nvml::State {
  void* library = nullptr;
  Handle gpu = nullptr;

  template <typename... Parameters, typename... Arguments>
  bool call(const char* name, int (*)(Parameters...), Arguments... arguments) const {
    if (!library) return false;
    void* symbol = dlsym(library, name);
    return symbol && reinterpret_cast<int (*)(Parameters...)>(symbol)(arguments...) == kOk;
  }
  static constexpr int (*kPlain)() = nullptr;
  static constexpr int (*kText)(char*, unsigned) = nullptr;
  static constexpr int (*kFind)(const char*, Handle*) = nullptr;
  static constexpr int (*kNumber)(Handle, unsigned*) = nullptr;
  static constexpr int (*kBits)(Handle, std::uint64_t*) = nullptr;
  static constexpr int (*kNumberOf)(Handle, int, unsigned*) = nullptr;

  unsigned number(const char* name) const {
    unsigned value = 0;
    return gpu && call(name, kNumber, gpu, &value) ? value : 0;
  }
  int number_of(const char* name, int which) const {
    unsigned value = 0;
    return gpu && call(name, kNumberOf, gpu, which, &value) ? static_cast<int>(value) : 0;
  }
  std::uint64_t reasons() const {
    std::uint64_t bits = 0;
    if (!gpu) return 0;
    // Its name until driver 535.
    if (!call("nvmlDeviceGetCurrentClocksEventReasons", kBits, gpu, &bits))
      call("nvmlDeviceGetCurrentClocksThrottleReasons", kBits, gpu, &bits);
    return bits;
  }
};

Nvml::Nvml(const std::string& bus) : state_(std::make_unique<State>()) {
  state_->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!state_->call("nvmlInit_v2", State::kPlain)) return;
  Handle gpu = nullptr;
  if (state_->call("nvmlDeviceGetHandleByPciBusId_v2", State::kFind, bus.c_str(), &gpu)) state_->gpu = gpu;
}

Nvml::~Nvml() {
  if (!state_->library) return;
  state_->call("nvmlShutdown", State::kPlain);
  dlclose(state_->library);
}

std::string Nvml::driver() const {
  char text[96] = "";
  return state_->call("nvmlSystemGetDriverVersion", State::kText, text, static_cast<unsigned>(sizeof text)) ? text : "";
}

void Nvml::add_limits(GpuFacts& facts) const {
  facts.power_limit_w = state_->number("nvmlDeviceGetEnforcedPowerLimit") / 1000.0;
  facts.most_sm_mhz = state_->number_of("nvmlDeviceGetMaxClockInfo", kSmClock);
  facts.most_memory_mhz = state_->number_of("nvmlDeviceGetMaxClockInfo", kMemoryClock);
}

GpuCondition Nvml::condition() const {
  GpuCondition now;
  now.sm_mhz = state_->number_of("nvmlDeviceGetClockInfo", kSmClock);
  now.memory_mhz = state_->number_of("nvmlDeviceGetClockInfo", kMemoryClock);
  now.celsius = state_->number_of("nvmlDeviceGetTemperature", kGpuTemperature);
  now.watts = state_->number("nvmlDeviceGetPowerUsage") / 1000.0;
  const std::uint64_t reasons = state_->reasons();
  now.power_capped = (reasons & kPowerCap) != 0;
  now.slowed = (reasons & kSlowed) != 0;
  return now;
}

}  // namespace shardwright::cuda
