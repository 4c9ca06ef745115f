#include "kernels/mpi/mpi_ranks.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <stdexcept>

namespace shardwright {
namespace {

namespace fs = std::filesystem;

/// The module beside the program; null where it cannot be loaded, and why.
struct Module {
  void* handle = nullptr;
  std::string missing;
};

const Module& module() {
  static const Module loaded = [] {
    const fs::path path = fs::path(own_path()).parent_path() / "libshardwright_mpi.so";
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      return Module{nullptr, "libshardwright_mpi.so is not beside the program: it was built without MPI"};
    // Global: Open MPI's plugins look for its symbols.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    return Module{handle, handle ? "" : std::string("MPI cannot be loaded: ") + dlerror()};
  }();
  return loaded;
}

template <typename Function>
Function* function(const char* name) {
  if (!module().handle) throw std::runtime_error(module().missing);
  void* symbol = dlsym(module().handle, name);
  if (!symbol) throw std::runtime_error(std::string("libshardwright_mpi.so is of another build: it has no ") + name);
  return reinterpret_cast<Function*>(symbol);
}

bool world_started = false;

}  // namespace

std::string own_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) throw std::runtime_error("the program's own file cannot be found: " + error.message());
  return path.string();
}

std::string mpi_missing() { return module().missing; }

std::string mpi_version() {
  const std::string all = function<const char*()>("shardwright_mpi_version")();
  return all.substr(0, all.find_first_of(",\n"));
}

std::string mpirun_path() {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = (fs::path(folder) / "mpirun").string();
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

bool is_mpi_rank() {
  // Open MPI's; PMI's of MPICH and Slurm; PMIx's.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

std::unique_ptr<Communicator> mpi_world() {
  std::unique_ptr<Communicator> world(function<Communicator*()>("shardwright_mpi_world")());
  world_started = true;
  return world;
}

void mpi_abort(int code) {
  if (world_started) function<void(int)>("shardwright_mpi_abort")(code);
}

std::vector<std::string> mpirun_command(int ranks, const std::vector<std::string>& words) {
  if (!mpi_missing().empty()) throw std::runtime_error(mpi_missing());
  const std::string mpirun = mpirun_path();
  if (mpirun.empty()) throw std::runtime_error("there is no mpirun on PATH");
  std::vector<std::string> command = {mpirun};
  if (mpi_version().starts_with("Open MPI")) {
    command.insert(command.end(),
                   {"--oversubscribe", "--bind-to", ranks <= sysconf(_SC_NPROCESSORS_ONLN) ? "core" : "none"});
    if (geteuid() == 0) command.push_back("--allow-run-as-root");
  }
  command.insert(command.end(), {"-n", std::to_string(ranks)});
  command.insert(command.end(), words.begin(), words.end());
  return command;
}

void become(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execv(words[0], words.data());
  throw std::runtime_error(command[0] + " cannot be started: " + std::strerror(errno));
}

}  // namespace shardwright
