#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/communicator.h"

namespace shardwright {

/// What stands in the way of ranks as processes, "" if nothing does: the module was not built, or MPI is not installed.
std::string mpi_missing();
/// The library's own words: "Open MPI v4.1.4". Only where nothing is missing.
std::string mpi_version();

/// The program that starts ranks, found on PATH: a path, or "" where there is none.
std::string mpirun_path();

/// Whether this process was started as a rank (by mpirun or srun).
bool is_mpi_rank();

/// Joins the other ranks; once in a process. Deleted, it ends MPI. Throws std::runtime_error.
std::unique_ptr<Communicator> mpi_world();

/// Ends every rank of the run with this exit code, when this one cannot go on. Does not return where MPI was started.
void mpi_abort(int code);

/// The command by which `ranks` processes of this machine run `words`: mpirun and its flags (more ranks than cores, and
/// root, are allowed). Throws std::runtime_error where something is missing.
std::vector<std::string> mpirun_command(int ranks, const std::vector<std::string>& words);

/// Becomes that command. Returns only by throwing.
[[noreturn]] void become(const std::vector<std::string>& command);

/// The file of the running program.
std::string own_path();

}  // namespace shardwright
