#pragma once

#include <string>

#include "kernels/communicator.h"
#include "profiler/measure.h"

namespace shardwright {

/// One machine of cores, as its file in a measured folder says it (hardware/README.md): a device is a core.
struct CpuFacts {
  std::string processor;  // "AMD EPYC"
  int cores = 1;          // of the machine, which share its memory
  int ranks = 1;          // that were measured at once
  Bytes memory, cache;    // of the machine; of one core
  Bytes resident;         // of a rank, before its first tensor
  FlopsPerSecond peak;    // fp32: the fastest of some large products
  BytesPerSecond copy;    // read and written
  Seconds latency;        // of the shortest kernel
  double attention_backward_rate = 1;
  Seconds message;      // the shortest, between two ranks
  BytesPerSecond link;  // one rank to another, a large message
};

/// What the system says. Throws std::runtime_error where it says nothing.
CpuFacts system_facts(int ranks);

/// Adds what is measured. All ranks call. Throws std::runtime_error with the kernel's reason where it cannot be
/// measured.
void measure_facts(CpuFacts& facts, Measurer& measurer, Communicator& ranks);

/// The kernel by which a Measurer sees whether the machine is as it was.
KernelSpec cpu_reference_kernel();

/// "cpu-amd-epyc"
std::string machine_name(const CpuFacts& facts);
/// machine.yaml. `date`: of the measurement; `libraries`: their versions, in a line.
std::string machine_yaml(const CpuFacts& facts, const std::string& date, const std::string& libraries);

}  // namespace shardwright
