#include "kernels/backends.h"

#include <stdexcept>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/mpi/mpi_ranks.h"
#include "kernels/reference/reference_operators.h"

namespace shardwright {

std::vector<std::string> operator_names() { return {"reference", "cpu"}; }

std::unique_ptr<Operators> make_operators(std::string_view name) {
  if (name == "reference") return make_reference_operators();
  if (name == "cpu") return std::make_unique<CpuOperators>();
  throw std::runtime_error("there is no backend '" + std::string(name) + "'; there are reference, cpu");
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

}  // namespace

std::vector<Part> parts() {
  const std::string not_built = "this build has no kernels for GPUs";
  return {openblas(),
          mpi(),
          {"CUDA", "", not_built, "times of GPUs come from tables and curves; plans do not run on them"},
          {"NCCL", "", not_built, "times of collectives between GPUs come from tables and curves"}};
}

}  // namespace shardwright
