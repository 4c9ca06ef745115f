#include "kernels/cuda/cuda_library.h"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string_view>

#include "kernels/mpi/mpi_ranks.h"

namespace shardwright::cuda {
namespace {

namespace fs = std::filesystem;

struct Loaded {
  Library* library = nullptr;
  std::string missing;
};

Loaded load() {
  const fs::path path = fs::path(own_path()).parent_path() / "libshardwright_cuda.so";
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    return {nullptr, "libshardwright_cuda.so is not beside the program: it was built without CUDA"};
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return {nullptr, std::string("the kernels for GPUs cannot be loaded: ") + dlerror()};
  void* symbol = dlsym(handle, "shardwright_cuda_library");
  if (!symbol) return {nullptr, "libshardwright_cuda.so is of another build: it has no shardwright_cuda_library"};
  return {reinterpret_cast<Library* (*)()>(symbol)(), ""};
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}

}  // namespace

std::string library_missing() { return loaded().missing; }

std::string gpus_missing() { return loaded().library ? loaded().library->no_gpus() : loaded().missing; }

Library& library() {
  if (!loaded().library) throw std::runtime_error(loaded().missing);
  return *loaded().library;
}

int gpu_of_rank(int gpus) {
  // Open MPI's, Slurm's, MPICH's and torchrun's.
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "LOCAL_RANK"}) {
    const char* text = std::getenv(name);
    if (!text) continue;
    const std::string_view digits = text;
    int rank = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (error != std::errc() || end != digits.data() + digits.size() || rank < 0)
      throw std::runtime_error(std::string(name) + " is no rank's place: '" + text + "'");
    // Slurm may show each rank its own GPU alone.
    if (gpus == 1 && std::getenv("SLURM_LOCALID")) return 0;
    if (rank >= gpus)
      throw std::runtime_error("rank " + std::to_string(rank) + " of this machine has no GPU of its own: there " +
                               (gpus == 1 ? "is 1" : "are " + std::to_string(gpus)));
    return rank;
  }
  return 0;
}

}  // namespace shardwright::cuda
