#include <cstdint>
#include <cstdlib>
#include <string>

#include "hardware/gzip.h"
#include "hardware/input_error.h"
#include "hardware/kernel_table.h"

using namespace shardwright;

namespace {

/// A table or an InputError; what is written of it is read back.
void read(const std::string& text, KernelFamily family) {
  try {
    const KernelTable table = read_kernel_table(text, "x.csv", family);
    const std::string csv = kernel_table_csv(table);
    const KernelTable again = read_kernel_table(csv, "x.csv", family);
    if (again.size() != table.size() || kernel_table_csv(again) != csv) std::abort();
    for (std::size_t row = 0; row < table.size(); ++row) {
      if (again.slots(row) != table.slots(row)) std::abort();
      if (table.find(table.spec(row)).size() == 0) std::abort();
    }
  } catch (const InputError&) {}
}

}  // namespace

/// The first byte chooses the family, its highest bit says that the rest is packed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto family = static_cast<KernelFamily>((data[0] & 0x7F) % kKernelFamilies);
  std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  if ((data[0] & 0x80) != 0) {
    try {
      text = gunzip(text, "x.csv.gz", 1 << 20);
    } catch (const InputError&) { return 0; }
  }
  read(text, family);
  return 0;
}
