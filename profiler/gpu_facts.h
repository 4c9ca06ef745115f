#pragma once

#include <string>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/cuda/gpu.h"
#include "profiler/measure.h"

namespace shardwright {

/// One GPU, or several, as the file in a measured folder says it (hardware/README.md).
struct MeasuredGpu {
  cuda::GpuFacts gpu;
  int ranks = 1;                     // that were measured at once, each with a GPU
  PerDataType<FlopsPerSecond> peak;  // the fastest of some large products; 0: not here
  BytesPerSecond copy;               // read and written
  BytesPerSecond to_gpu, from_gpu;   // from the host's pinned memory, and to it
  Seconds latency;                   // of the shortest kernel, back to back
  double attention_backward_rate = 1;
  Seconds message;      // the shortest, between two ranks; 0: there is one
  BytesPerSecond link;  // one rank to another, a large message
};

/// What is measured of it. All ranks call. Throws std::runtime_error with the kernel's reason where what every GPU has
/// cannot be measured; formats that this one lacks are left out.
MeasuredGpu measure_gpu(cuda::Gpu& gpu, Measurer& measurer, Communicator& ranks);

/// The kernel by which a Measurer sees whether the machine is as it was.
KernelSpec gpu_reference_kernel();

/// Products, attention, memory passes and collectives of the sizes that large models have on one of some GPUs: what is
/// measured where nobody says what for.
std::vector<KernelSpec> gpu_grid(int ranks);

/// "nvidia-h100-80gb-hbm3"
std::string machine_name(const cuda::GpuFacts& gpu);
/// Of the catalog, by its name: "h100-sxm-80gb"; "" where there is none.
std::string catalog_name(const cuda::GpuFacts& gpu);
/// machine.yaml. What cannot be seen from here is the catalog's where it has this GPU, and said to be: rates of formats
/// by the datasheet (the curves are shares of those), and links that were not measured. `date`: of the measurement.
std::string machine_yaml(const MeasuredGpu& measured, const std::string& date, const std::string& program);

}  // namespace shardwright
