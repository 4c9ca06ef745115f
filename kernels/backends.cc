#include "kernels/backends.h"

#include <stdexcept>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/mpi/mpi_ranks.h"
#include "kernels/reference/reference_operators.h"

namespace shardwright {

std::vector<std::string> operator_names() {
  if (cuda::gpus_missing().empty()) return {"reference", "cpu", "cuda"};
  return {"reference", "cpu"};
}

std::unique_ptr<Operators> make_operators(std::string_view name) {
  if (name == "reference") return make_reference_operators();
  if (name == "cpu") return std::make_unique<CpuOperators>();
  if (name == "cuda") {
    if (const std::string missing = cuda::gpus_missing(); !missing.empty())
      throw std::runtime_error("there is no cuda here: " + missing);
    return cuda::library().operators(cuda::gpu_of_rank(cuda::library().gpus()));
  }
  throw std::runtime_error("there is no backend '" + std::string(name) + "'; there are reference, cpu, cuda");
}

namespace {

Part openblas() {
  const std::string& version = cpu::openblas_version();
  return {"OpenBLAS", version, version.empty() ? "libopenblas.so.0 is not installed (Debian: libopenblas0)" : "",
          "products on the cpu run as plain loops, many times slower"};
}

Part mpi() {
  Part part = {"MPI", "", mpi_missing(), "plans run, and collectives are measured, on one rank only"};
  if (part.missing.empty() && mpirun_path().empty()) part.missing = "there is no mpirun on PATH (Debian: openmpi-bin)";
  if (part.missing.empty()) part.version = mpi_version() + ", " + mpirun_path();
  return part;
}

std::string counted(int count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

}  // namespace

std::vector<Part> parts() {
  // Where there are no kernels, or no GPU, both are of no use: the reason is told once for each.
  const std::string missing = cuda::gpus_missing();
  const bool found = missing.empty();
  return {openblas(),
          mpi(),
          {"CUDA", found ? cuda::library().cuda() + ", " + counted(cuda::library().gpus(), "GPU") : "", missing,
           "times of GPUs come from tables and curves; plans do not run on them"},
          {"NCCL", found ? cuda::library().nccl() : "", missing,
           "times of collectives between GPUs come from tables and curves"}};
}

}  // namespace shardwright
