// On a real GPU, where there is one: the list of cases, and the kernels as they are measured.
#include <doctest/doctest.h>

#include <cstdlib>

#include "kernels/backends.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/cuda/nccl_communicator.h"
#include "kernels/threads/threads_communicator.h"
#include "tests/kernels/kernel_cases.h"
#include "tests/support/message_of.h"

namespace shardwright {
namespace {

/// Says why the rest of a test is not for this machine.
bool no_gpu() {
  const std::string missing = cuda::gpus_missing();
  if (!missing.empty()) MESSAGE("SKIPPED: " << missing);
  return !missing.empty();
}

TEST_CASE("on a gpu CUDA's kernels agree with the reference") {
  if (no_gpu()) return;
  const auto operators = make_operators("cuda");
  for (const DataType type : {DataType::fp32, DataType::bf16, DataType::fp16})
    check_against_reference(*operators, type);
}

TEST_CASE("on a gpu attention of our own agrees with the reference, too") {
  if (no_gpu()) return;
  const auto own = cuda::library().operators(0, true);
  for (const DataType type : {DataType::bf16, DataType::fp16}) check_against_reference(*own, type);
}

TEST_CASE("on a gpu what is measured agrees with the reference") {
  if (no_gpu()) return;
  const auto gpu = cuda::library().open(0);
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(*gpu, *alone, {1 << 20});
  for (const std::string text :
       {"gemm m=256 n=384 k=512 type=fp32",
        "gemm m=256 n=384 k=512 type=tf32",
        "gemm m=256 n=384 k=512 type=fp16",
        "gemm m=256 n=384 k=512 type=bf16",
        "gemm m=256 n=384 k=512 type=bf16 layout=nn",
        "gemm m=256 n=384 k=512 type=bf16 layout=tn",
        "gemm m=256 n=384 k=512 type=bf16 layout=tt batch=3",
        "gemm m=256 n=384 k=512 type=bf16 accumulate=true result=fp32",
        "gemm m=1 n=4096 k=4096 type=bf16",
        "gemm m=256 n=384 k=512 type=fp8",
        "gemm m=256 n=384 k=512 type=fp8 cast=false",
        "gemm m=256 n=384 k=512 type=fp8 scaling=row",
        "gemm m=256 n=384 k=512 type=fp8 scaling=block",
        "gemm m=256 n=384 k=512 type=mxfp8 cast=false",
        "gemm m=256 n=384 k=512 type=nvfp4 cast=false",
        "grouped_gemm groups=4 m_per_group=64 n=128 k=256 type=bf16",
        "grouped_gemm groups=4 m_per_group=64 n=128 k=256 type=bf16 accumulate=true",
        "attention batch=2 heads=8 kv_heads=2 query=512 head_dim=128 type=bf16",
        "attention batch=2 heads=8 kv_heads=2 query=512 head_dim=128 type=bf16 backward=true",
        "attention heads=4 query=512 head_dim=192 value_dim=128 type=bf16",
        "attention batch=4 heads=8 kv_heads=2 query=1 key=2048 head_dim=128 type=bf16 causal=false",
        "attention batch=2 heads=16 kv_heads=1 query=1 key=1024 head_dim=576 value_dim=512 values_in_keys=true "
        "type=bf16 causal=false",
        "memory bytes=1048576",
        "memory bytes=1048576 pass=rms_norm",
        "memory bytes=1048576 pass=adam"}) {
    CAPTURE(text);
    const KernelSpec spec = parse_kernel_spec(text, "test");
    if (const std::string why = backend->unsupported(spec); !why.empty()) {
      MESSAGE(text << ": " << why);  // formats that this GPU, or its library, lacks
      continue;
    }
    try {
      const auto kernel = backend->prepare(spec);
      const double error = kernel->max_relative_error();
      CHECK(error <= backend->tolerance(spec));
      const Timed timed = backend->time(*kernel, 10);
      CHECK(timed.wall > Seconds{});
      MESSAGE(text << ": off by " << error << ", " << timed.wall.value * 1e6 << " us, "
                   << backend->library(family_of(spec)));
    } catch (const std::exception& problem) { FAIL_CHECK(problem.what()); }
  }
}

TEST_CASE("a rank takes the gpu of its place on its machine") {
  const auto with = [](const char* name, const char* value, int gpus) {
    for (const char* other : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "LOCAL_RANK"})
      unsetenv(other);
    setenv(name, value, 1);
    const auto ended = [name] { unsetenv(name); };
    try {
      const int gpu = cuda::gpu_of_rank(gpus);
      ended();
      return std::to_string(gpu);
    } catch (const std::runtime_error& error) {
      ended();
      return std::string(error.what());
    }
  };
  CHECK(with("UNRELATED", "3", 8) == "0");
  CHECK(with("OMPI_COMM_WORLD_LOCAL_RANK", "3", 8) == "3");
  CHECK(with("MPI_LOCALRANKID", "7", 8) == "7");
  CHECK(with("LOCAL_RANK", "1", 2) == "1");
  CHECK(with("SLURM_LOCALID", "2", 4) == "2");
  CHECK(with("SLURM_LOCALID", "2", 1) == "0");  // each rank is shown its own alone
  CHECK(with("OMPI_COMM_WORLD_LOCAL_RANK", "8", 8) == "rank 8 of this machine has no GPU of its own: there are 8");
  CHECK(with("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1) == "rank 1 of this machine has no GPU of its own: there is 1");
  CHECK(with("LOCAL_RANK", "x", 2) == "LOCAL_RANK is no rank's place: 'x'");
}

TEST_CASE("a rank never receives in a lane in which it sends") {
  for (int rank = 0; rank < 16; ++rank)
    for (int to = 0; to < 16; ++to)
      for (int from = 0; from < 16; ++from)
        if (to != rank && from != rank) CHECK(cuda::lane_of_message(rank, to) != cuda::lane_of_message(from, rank));
}

TEST_CASE("without a gpu its operators say what is missing") {
  const std::string missing = cuda::gpus_missing();
  if (missing.empty()) return;
  CHECK(message_of<std::runtime_error>([] { make_operators("cuda"); }) == "there is no cuda here: " + missing);
}

}  // namespace
}  // namespace shardwright
