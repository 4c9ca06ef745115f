#include "hardware/measured_machine.h"

#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>

#include "hardware/gzip.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

using namespace shardwright;

namespace {

const std::string kGemms = "m,n,k,type,seconds\n1,2,3,bf16,1e-06\n4,2,3,bf16,2e-06\n";
const std::string kPasses = "bytes,seconds\n1024,1e-06\n";

}  // namespace

TEST_CASE("a folder of tables is read, packed or not") {
  const TemporaryFolder folder;
  folder.write("gemm.csv", kGemms);
  folder.write("memory.csv.gz", gzip(kPasses));
  folder.write("README.md", "anything");
  const Measurements measured = read_measurements(folder.path());
  CHECK(measured.size() == 3);
  CHECK(measured.table(KernelFamily::gemm).size() == 2);
  CHECK(measured.table(KernelFamily::memory).find(MemorySpec{Bytes{1024}}).size() == 1);
  CHECK(measured.table(KernelFamily::attention).size() == 0);
}

TEST_CASE("measurements are joined family by family") {
  Measurements all;
  all.add(read_kernel_table(kGemms, "x", KernelFamily::gemm));
  Measurements more;
  more.add(read_kernel_table("m,n,k,type,seconds\n2,2,3,bf16,5\n", "x", KernelFamily::gemm));
  more.add(read_kernel_table(kPasses, "x", KernelFamily::memory));
  all.add(more);
  CHECK(all.size() == 4);
  const auto m = all.table(KernelFamily::gemm).column("m");
  CHECK(std::vector<std::int64_t>(m.begin(), m.end()) == std::vector<std::int64_t>{1, 2, 4});
}

TEST_CASE("a machine may be a folder") {
  const TemporaryFolder folder;
  folder.write("machine.yaml", machine_text("h100-sxm-80gb"));
  CHECK(find_machine(folder.path()).name == "h100-sxm-80gb");
  CHECK(measured_folder_of(folder.path()) == folder.path());
  CHECK(measured_folder_of("h100-sxm-80gb") == "");
  CHECK(measured_folder_of("no-such-thing") == "");
  CHECK(machine_file_in("a/b") == "a/b/machine.yaml");
  CHECK(message_of([] { machine_text("h10-sxm-80gb"); }) ==
        "unknown machine 'h10-sxm-80gb': neither a file nor in the catalog (did you mean 'h100-sxm-80gb'?)");
}

TEST_CASE("faults in a folder of tables are told") {
  const TemporaryFolder folder;
  const std::string none = folder / "none";
  CHECK(message_of([&] { read_measurements(none); }) == none + ": no such folder");
  CHECK(message_of([&] { read_measurements(folder.path()); }) == folder.path() + ": has no tables of measurements");
  folder.write("gem.csv", kGemms);
  CHECK(message_of([&] { read_measurements(folder.path()); }) ==
        (folder / "gem.csv") + ": is no table of measurements (did you mean 'gemm'?)");
  std::filesystem::rename(folder / "gem.csv", folder / "latency.csv.gz");
  CHECK(message_of([&] { read_measurements(folder.path()); }) ==
        (folder / "latency.csv.gz") +
            ": is no table of measurements; those are gemm, grouped_gemm, moe_layer, attention, mla_module, memory, "
            "collective, moe_exchange, .csv or .csv.gz");
  std::filesystem::rename(folder / "latency.csv.gz", folder / "gemm.csv.gz");
  CHECK(message_of([&] { read_measurements(folder.path()); }) ==
        (folder / "gemm.csv.gz") + ": is not packed by gzip, as its name says");
  folder.write("gemm.csv", kGemms);
  CHECK(message_of([&] { read_measurements(folder.path()); }) ==
        (folder / "gemm.csv.gz") + ": stands beside gemm.csv; only one of them can be the table");
  std::filesystem::remove(folder / "gemm.csv.gz");
  folder.write("gemm.csv", kGemms + "1,2,3,bf16,slow\n");
  CHECK(message_of([&] { read_measurements(folder.path()); }) ==
        (folder / "gemm.csv") + ":4:12: 'seconds' must be a number above 0 and at most 1e+06, got 'slow'");
}
