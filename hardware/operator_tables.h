#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hardware/measured_machine.h"

namespace shardwright {

/// What became of one file of operator tables.
struct ImportedFile {
  std::string name;
  std::int64_t rows = 0, measurements = 0;            // a row may hold several: dispatch and combine
  std::map<std::string, std::int64_t> left_out = {};  // rows by reason
};

struct OperatorImport {
  Measurements measured;
  std::vector<ImportedFile> files;   // by name
  std::vector<std::string> ignored;  // CSV files that are no known table
};

/// Whether a folder holds operator tables as NVIDIA AIConfigurator publishes them, as CSV or packed CSV:
/// `gemm_perf.csv.gz`, `nccl_perf.csv`, `moe_perf.<anything>.csv.gz`, ... (several files of one table are several
/// sources).
bool has_operator_tables(const std::string& folder);

/// Reads all of them. Their milliseconds and microseconds become seconds, their elements bytes, their words the keys of
/// kernel_keys.h. `gpus_per_node` is the machine's: DeepEP's tables count nodes. Throws InputError with file, line and
/// column where a table is not as expected.
OperatorImport import_operator_tables(const std::string& folder, int gpus_per_node);

}  // namespace shardwright
