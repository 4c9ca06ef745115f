#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/calibration.h"
#include "hardware/kernel_table.h"
#include "hardware/machine.h"

namespace shardwright {

/// What was measured on a machine: one table for each family of kernels, empty where nothing was.
class Measurements {
 public:
  Measurements();

  const KernelTable& table(KernelFamily family) const { return tables_[static_cast<std::size_t>(family)]; }
  /// Rows of all families.
  std::size_t size() const;

  /// Takes the rows of a table of its family; sorted afterwards.
  void add(KernelTable table);
  void add(const Measurements& other);

 private:
  std::vector<KernelTable> tables_;
};

/// Measurements and the machine that they were made on.
struct MeasuredMachine {
  Machine machine;
  std::shared_ptr<const Measurements> measurements;
  Calibration calibration = {};  ///< of runs on it (calibration.h)
};

/// A folder with what a machine is and what was measured on it: `machine.yaml` (see catalog/*.yaml), and for each
/// family at most one `<family>.csv` or `<family>.csv.gz` (kernel_table.h). Other files that are not CSV are left
/// alone. Throws InputError; also where there is no table at all.
Measurements read_measurements(const std::string& folder);

/// `machine.yaml` of such a folder.
std::string machine_file_in(const std::string& folder);

/// The folder that a MACHINE means: `name_or_path` itself where it is a folder and no name of the catalog, else "".
std::string measured_folder_of(const std::string& name_or_path);

}  // namespace shardwright
