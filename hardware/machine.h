#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hardware/data_type.h"
#include "hardware/quantities.h"
#include "hardware/yaml_cursor.h"

namespace shardwright {

struct FabricCurves;

/// One level of links, nested: everything inside one unit reaches everything else inside it at this level's rate or
/// better.
struct LinkLevel {
  std::string name;          // "node" (NVLink domain), "rail", "spine"
  std::int64_t gpus = 0;     // GPUs inside one unit of this level; 0 = without limit (only the last level)
  BytesPerSecond bandwidth;  // of one GPU into this level, one direction; NIC sharing and oversubscription counted
  Seconds latency;           // of one step of a ring at this level
  double efficiency = 1;     // share of `bandwidth` that large collectives reach
  /// How collectives run over it (collective_curves.h); null: by latency and efficiency alone.
  std::shared_ptr<const FabricCurves> curves = nullptr;
};

/// How far real kernels stay below the datasheet, beside the curves that were fitted (kernel_curves.h); see
/// hardware/README.md for the form of each.
struct EfficiencyCurves {
  double attention_backward_rate = 1;  // of the rate that its forward pass has
  double memory_fraction = 0;          // of the HBM bandwidth, large copies
  Seconds kernel_latency;              // from launch to end of an empty kernel, back to back
  double relative_error = 0;           // one-sigma error of a time from these
  double curves_error = 0;             // the same on top of that of fitted curves: they are another chip's
};

class MeasuredTimes;
struct KernelCurves;

/// How much longer kernels of tensor cores take in a training run than in a benchmark, measured or from a curve; 1: the
/// same. Long runs reach the power limit, and clocks fall: by type for `product`s, less for `attention`, which is bound
/// by its exponentials, too.
struct SustainedTimes {
  PerDataType<double> product = same();
  double attention = 1;
  double attention_forward = 1, attention_backward = 1;  ///< besides: of a run's own attention kernels
  bool operator==(const SustainedTimes&) const = default;

 private:
  static constexpr PerDataType<double> same() {
    PerDataType<double> ones;
    for (DataType type : kDataTypes) ones[type] = 1;
    return ones;
  }
};

/// What one kind of machine is: a GPU and the network that many of them make.
struct Machine {
  std::string name;                  // "h100-sxm-80gb"
  std::string architecture;          // "hopper"; "" where nobody says
  Bytes memory;                      // of one GPU, as the driver reports it
  Bytes unusable_memory;             // taken by the driver's context and libraries before the first tensor
  PerDataType<FlopsPerSecond> peak;  // dense; 0: the type does not exist here
  BytesPerSecond memory_bandwidth;
  Bytes l2;
  int multiprocessors = 0;
  int gpus_per_node = 0;
  int nics_per_node = 0;
  std::vector<LinkLevel> links;              // innermost first, at least one
  std::optional<double> price_per_gpu_hour;  // the user's to set
  EfficiencyCurves efficiency;
  std::shared_ptr<const KernelCurves> curves;  // never null of a machine that was read
  SustainedTimes sustained;
  double host_slowdown = 1;  // what the host does takes so many times as long as on the x86 of a DGX H100
  std::shared_ptr<const MeasuredTimes> measured;  // kernels that were timed on it (measured_times.h); null: none

  Bytes usable_memory() const { return memory - unusable_memory; }
};

/// Whether the device computes in this type at all.
bool supports(const Machine&, DataType);

/// The machine as a job on `gpus` of its GPUs meets it: ranks fill the units of each level evenly, as many to a unit as
/// divide the job (64 of an NVL72 rack's 72 for a job of 256), so that groups of ranks do not straddle units.
Machine evenly_filled(Machine machine, std::int64_t gpus);

/// Reads and checks a machine. Throws InputError.
Machine read_machine(const YamlCursor& top);

/// MACHINE as users give it: a catalog name, a file's path, or a folder with measurements (measured_machine.h).
/// InputError names the nearest catalog name.
Machine find_machine(const std::string& name_or_path);

/// The YAML text of a machine of the catalog. Throws InputError as find_machine does.
std::string machine_text(const std::string& catalog_name);

/// Names of the catalog, sorted.
std::vector<std::string> machine_names();

}  // namespace shardwright
