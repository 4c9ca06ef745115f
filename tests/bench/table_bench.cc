// How fast measured tables are read, on those that SHARDWRIGHT_MEASURED holds of the H100.

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>

#include "hardware/gzip.h"
#include "hardware/measured_machine.h"
#include "hardware/operator_tables.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

constexpr std::size_t kLargest = std::size_t{1} << 30;

/// Imported once. Empty where there are no tables.
const Measurements& h100() {
  static const Measurements measured = [] {
    const char* folder = std::getenv("SHARDWRIGHT_MEASURED");
    if (folder == nullptr) return Measurements();
    return import_operator_tables((std::filesystem::path(folder) / "silicon" / "h100_sxm").string(), 8).measured;
  }();
  return measured;
}

void counted(benchmark::State& state, std::size_t rows) {
  if (rows == 0) return state.SkipWithError("SHARDWRIGHT_MEASURED is not set");
  state.counters["rows"] = static_cast<double>(rows);
}

void read_gemm_table_plain(benchmark::State& state) {
  const std::string text = kernel_table_csv(h100().table(KernelFamily::gemm));
  std::size_t rows = 0;
  for (auto _ : state) rows = read_kernel_table(text, "gemm.csv", KernelFamily::gemm).size();
  counted(state, rows);
}

void read_gemm_table_packed(benchmark::State& state) {
  const std::string packed = gzip(kernel_table_csv(h100().table(KernelFamily::gemm)));
  std::size_t rows = 0;
  for (auto _ : state) {
    const std::string text = gunzip(packed, "gemm.csv.gz", kLargest);
    rows = read_kernel_table(text, "gemm.csv.gz", KernelFamily::gemm).size();
  }
  counted(state, rows);
}

void read_folder(benchmark::State& state) {
  const TemporaryFolder folder;
  for (int i = 0; i < kKernelFamilies; ++i) {
    const KernelTable& table = h100().table(static_cast<KernelFamily>(i));
    folder.write(std::string(name_of(table.family())) + ".csv.gz", gzip(kernel_table_csv(table)));
  }
  std::size_t rows = 0;
  for (auto _ : state) rows = read_measurements(folder.path()).size();
  counted(state, rows);
}

void find_gemm(benchmark::State& state) {
  const KernelTable& table = h100().table(KernelFamily::gemm);
  if (table.size() == 0) return state.SkipWithError("SHARDWRIGHT_MEASURED is not set");
  std::vector<GemmSpec> questions;
  for (std::size_t row = 0; row < table.size(); row += 97) questions.push_back(std::get<GemmSpec>(table.spec(row)));
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(table.find(questions[++i % questions.size()]).size());
}

BENCHMARK(read_gemm_table_plain)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(read_gemm_table_packed)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(read_folder)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(find_gemm)->Unit(benchmark::kNanosecond);

}  // namespace
}  // namespace shardwright

BENCHMARK_MAIN();
