// Whether cuDNN itself, as it is installed, knows the graphs that it is asked for as attention, and makes kernels of
// them, for GPUs that need not be here: it ends where the driver should load them. What they compute, gpu_test.cc says.
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

#include "kernels/cuda/cudnn_plan.h"

namespace shardwright::cuda {
namespace {

/// A GPU as cuDNN describes it, of so many multiprocessors and so much shared memory for a block (CUDA C++ Programming
/// Guide 13.0, "Technical Specifications per Compute Capability"; multiprocessors of A100, H100 and B200).
std::string device(int generation, int multiprocessors, int shared_bytes) {
  return R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"warpSize":32,)"
         R"("maxSharedMemoryPerBlock":49152,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,)"
         R"("maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,)"
         R"("supportCoopLaunch":1,"smClockRateKHz":1500000,"memClockRateKHz":1500000,"l2CacheSize":41943040,)"
         R"("deviceName":"a GPU","driverVer":13000,"cudaDeviceId":0,"totalGlobalMem":80000000000,"deviceVer":)" +
         std::to_string(generation) + R"(,"multiProcessorCount":)" + std::to_string(multiprocessors) +
         R"(,"maxSharedMemoryPerBlockOptin":)" + std::to_string(shared_bytes) + "}";
}

/// What is said where a plan is asked for; "" where it is made.
std::string refusal(const AttentionGraphSpec& spec, const std::string& gpu) {
  try {
    const CudnnPlan plan(attention_graph(spec), gpu);
    return "";
  } catch (const std::runtime_error& error) { return error.what(); }
}

TEST_CASE("cuDNN makes kernels of the graphs that it is asked for") {
  if (dlopen("libcuda.so.1", RTLD_NOW)) {
    MESSAGE("SKIPPED: a driver is installed, kernels are tried on its GPU");
    return;
  }
  // Has the driver's functions, all of which fail. Found by its name from then on.
  if (!dlopen(SHARDWRIGHT_CUDA_STUB, RTLD_NOW | RTLD_GLOBAL)) {
    MESSAGE("SKIPPED: the toolkit has no libcuda to link against");
    return;
  }
  // CUDA_ERROR_STUB_LIBRARY: a kernel is made, and nobody is there to load it.
  const std::string made =
      "cuDNN has no kernel for it: cuLibraryLoadData returned error  (34) at: CUDA_SUCCESS != result";
  const std::string a100 = device(800, 108, 166912), h100 = device(900, 132, 232448), b200 = device(1000, 148, 232448);
  AttentionGraphSpec grouped;
  grouped.batch = 2, grouped.queries = grouped.keys = 512, grouped.heads = 8,
  grouped.key_heads = grouped.value_heads = 2;
  grouped.width = grouped.value_width = 128, grouped.causal = true, grouped.scale = 0.0884f;
  for (const std::string& gpu : {a100, h100, b200}) {
    CAPTURE(gpu);
    CHECK(refusal(grouped, gpu) == made);
  }
  AttentionGraphSpec gradients = grouped;
  gradients.backward = true;
  CHECK(refusal(gradients, h100) == made);
  AttentionGraphSpec latent = gradients;
  latent.key_heads = latent.value_heads = 8, latent.width = 192;
  CHECK(refusal(latent, h100) == made);
  latent.width = 576, latent.value_width = 512;
  CHECK(refusal(latent, h100) == "cuDNN has no kernel for it");
}

}  // namespace
}  // namespace shardwright::cuda
