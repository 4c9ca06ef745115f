#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "hardware/machine.h"
#include "hardware/measurements.h"

using namespace shardwright;

/// Any bytes as a machine file: a machine on which every kernel takes a finite time, or an InputError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Machine machine = read_machine(YamlCursor::parse({reinterpret_cast<const char*>(data), size}, "fuzz.yaml"));
    for (const LinkLevel& level : machine.links) {
      if (!(level.bandwidth.value > 0)) std::abort();
    }
    for (DataType type : kDataTypes) {
      if (!supports(machine, type)) continue;
      const KernelCost gemm = look_up(GemmSpec{.m = 4096, .n = 1000, .k = 8192, .type = type}, machine);
      const KernelCost attention =
          look_up(AttentionSpec{.heads = 8, .query_length = 4096, .key_length = 4096, .type = type}, machine);
      if (!std::isfinite(gemm.time.value) || !std::isfinite(attention.time.value)) std::abort();
    }
  } catch (const InputError&) {}
  return 0;
}
