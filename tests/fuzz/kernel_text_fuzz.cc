#include <cstdint>
#include <cstdlib>
#include <string>

#include "hardware/input_error.h"
#include "hardware/kernel_keys.h"
#include "hardware/kernel_spec.h"

using namespace shardwright;

/// Any bytes as a question: a spec or an InputError; and what to_string writes is read back.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  KernelSpec spec;
  try {
    spec = parse_kernel_spec(text, "--kernel");
  } catch (const InputError&) { return 0; }
  const std::string canonical = to_string(spec);
  const KernelSpec read = parse_kernel_spec(canonical, "--kernel");
  if (!(read == spec) || to_string(read) != canonical) std::abort();
  return 0;
}
