#include "planner/cli/backend_option.h"

#include <fmt/format.h>

#include "hardware/input_error.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/mpi/mpi_ranks.h"

namespace shardwright {

Option backend_option() {
  return {"--backend", "NAME", "what computes: cpu (default) or cuda", Completes::words, {"cpu", "cuda"}};
}

std::string read_backend(const Arguments& arguments) {
  const std::string backend = arguments.find("--backend").value_or("cpu");
  if (backend != "cpu" && backend != "cuda")
    throw InputError(fmt::format("--backend: must be cpu or cuda, got '{}'", shown(backend)));
  return backend;
}

void check_gpus(int ranks) {
  if (const std::string missing = cuda::gpus_missing(); !missing.empty())
    throw InputError("--backend: there is no cuda here: " + missing);
  // Ranks that others started may lie on several machines.
  const int gpus = cuda::library().gpus();
  if (!is_mpi_rank() && ranks > gpus)
    throw InputError(fmt::format("--ranks: each of {} ranks needs a GPU, this machine has {}", ranks, gpus));
}

}  // namespace shardwright
