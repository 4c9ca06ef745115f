// What the backend for GPUs makes of questions, on a GPU that is none: whether each kernel is told rightly, compared
// rightly and timed as it should be. Whether real ones compute that, their machine says.
#include "kernels/cuda/cuda_backend.h"

#include <doctest/doctest.h>

#include <set>
#include <stdexcept>

#include "kernels/threads/threads_communicator.h"
#include "tests/support/fake_gpu.h"

namespace shardwright {
namespace {

constexpr Bytes kTurnsOver = {64 << 10};

KernelSpec spec_of(const std::string& text) { return parse_kernel_spec(text, "test"); }

TEST_CASE("every kernel that a gpu is asked for agrees with the reference") {
  for (const std::string text :
       {"gemm m=33 n=40 k=65 type=fp32",
        "gemm m=33 n=40 k=65 batch=3 type=fp32 layout=nn",
        "gemm m=33 n=40 k=65 type=bf16",
        "gemm m=33 n=40 k=65 type=bf16 layout=tt result=fp32",
        "gemm m=33 n=40 k=65 type=bf16 accumulate=true",
        "gemm m=8 n=8 k=64 type=tf32 layout=tn",
        "gemm m=33 n=40 k=256 type=fp8",
        "gemm m=33 n=40 k=256 type=fp8 cast=false",
        "gemm m=33 n=150 k=640 type=fp8 scaling=row",
        "gemm m=33 n=150 k=640 type=fp8 scaling=block",
        "gemm m=33 n=150 k=640 type=fp8 scaling=block cast=false",
        "gemm m=140 n=40 k=256 type=mxfp8 cast=false",
        "gemm m=140 n=40 k=256 type=nvfp4 cast=false",
        "grouped_gemm groups=3 m_per_group=9 n=40 k=65 type=fp32",
        "grouped_gemm groups=3 m_per_group=9 n=40 k=65 type=fp32 accumulate=true",
        "grouped_gemm groups=3 m_per_group=16 n=32 k=64 type=fp8",
        "attention batch=2 heads=4 kv_heads=2 query=150 head_dim=16 type=fp32",
        "attention batch=2 heads=4 kv_heads=2 query=150 head_dim=16 type=fp32 backward=true",
        "attention heads=2 query=40 key=100 head_dim=16 type=fp32 queries_last=true",
        "attention batch=3 heads=8 kv_heads=1 query=1 key=300 head_dim=24 value_dim=16 values_in_keys=true type=fp32 "
        "causal=false",
        "memory bytes=4096",
        "memory bytes=5"}) {
    CAPTURE(text);
    FakeGpu gpu;
    const auto alone = make_alone_communicator();
    const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
    const KernelSpec spec = spec_of(text);
    REQUIRE(backend->unsupported(spec) == "");
    const auto kernel = backend->prepare(spec);
    CHECK(kernel->max_relative_error() <= backend->tolerance(spec));
    CHECK(backend->time(*kernel, 4).wall.value == doctest::Approx(2.5e-4));
  }
}

TEST_CASE("a product with one wrong number is noticed in every format") {
  for (const std::string text : {"gemm m=8 n=8 k=64 type=fp32", "gemm m=8 n=8 k=64 type=bf16",
                                 "gemm m=8 n=8 k=256 type=fp8", "gemm m=8 n=8 k=256 type=nvfp4 cast=false"}) {
    CAPTURE(text);
    FakeGpu gpu;
    gpu.spoil = 1000;
    const auto alone = make_alone_communicator();
    const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
    CHECK(backend->prepare(spec_of(text))->max_relative_error() > backend->tolerance(spec_of(text)));
  }
}

TEST_CASE("runs take turns over the memory that was asked for, and begin again behind the last") {
  FakeGpu gpu;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, {100'000});
  // a, b and c of 16 x 16 in fp32 are 1 KiB each: 33 turns are more than 100,000 bytes.
  const auto kernel = backend->prepare(spec_of("gemm m=16 n=16 k=16 type=fp32"));
  CHECK(gpu.allocated == 33 * 3072);
  for (int i = 0; i < 34; ++i) kernel->enqueue();
  CHECK(std::set<const void*>(gpu.products_of.begin(), gpu.products_of.end()).size() == 33);
  CHECK(gpu.products_of[33] == gpu.products_of[0]);
}

TEST_CASE("a kernel is chosen once, recorded once for each number of runs, played once before it counts") {
  FakeGpu gpu;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  const auto kernel = backend->prepare(spec_of("gemm m=16 n=16 k=16 type=bf16"));
  kernel->max_relative_error();
  backend->time(*kernel, 5);
  backend->time(*kernel, 5);
  CHECK(gpu.told == std::vector<std::string>{"choose", "record", "play", "play", "play"});
  CHECK(gpu.products_of.size() == 1 + 3 * 5);
}

TEST_CASE("what cannot be recorded is enqueued run by run") {
  FakeGpu gpu;
  gpu.records = false;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  const auto kernel = backend->prepare(spec_of("gemm m=16 n=16 k=16 type=bf16"));
  CHECK(backend->time(*kernel, 5).wall.value == doctest::Approx(2e-4));
  backend->time(*kernel, 5);
  CHECK(gpu.told == std::vector<std::string>{"record", "choose"});
  CHECK(gpu.products_of.size() == 10);
}

TEST_CASE("a time counts for nothing while the gpu is slowed, and the clocks are told") {
  FakeGpu gpu;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  const auto kernel = backend->prepare(spec_of("memory bytes=4096"));
  CHECK(backend->condition() == "");
  CHECK(backend->time(*kernel, 1).busy == backend->time(*kernel, 1).wall);
  CHECK(backend->condition() == "SM 1980 to 1980 MHz, memory 2619 MHz, up to 300 W, 40 C");
  gpu.now = {.sm_mhz = 1200, .memory_mhz = 2619, .celsius = 91, .watts = 699.6, .power_capped = true, .slowed = true};
  CHECK(backend->time(*kernel, 1).busy == Seconds{});
  CHECK(backend->condition() ==
        "SM 1200 to 1980 MHz, memory 2619 MHz, up to 700 W, 91 C, at its power limit, slowed at times");
  backend->prepare(spec_of("memory bytes=64"));
  CHECK(backend->condition() == "");
}

TEST_CASE("buffers that do not fit into a gpu are said as every backend says it") {
  FakeGpu gpu;
  gpu.holds = {1 << 20};
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  CHECK_THROWS_AS(backend->prepare(spec_of("gemm m=1024 n=1024 k=1024 type=bf16")), std::bad_alloc);
}

TEST_CASE("collectives between gpus, and of groups of them, agree with what each rank holds") {
  for (const std::string kind : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"}) {
    for (const std::string group : {"2", "4", "2x2"}) {
      const std::string text = "collective op=" + kind + " bytes=1024 group=" + group;
      CAPTURE(text);
      run_on_threads(4, [&](Communicator& ranks) {
        FakeGpu gpu;
        const auto backend = make_cuda_backend(gpu, ranks, kTurnsOver);
        const KernelSpec spec = spec_of(text);
        if (!backend->supports(spec)) throw std::runtime_error(backend->unsupported(spec));
        const auto kernel = backend->prepare(spec);
        for (int i = 0; i < 2; ++i)
          if (const double error = kernel->max_relative_error(); !(error <= backend->tolerance(spec)))
            throw std::runtime_error("off by " + std::to_string(error));
        backend->time(*kernel, 3);
      });
    }
  }
}

TEST_CASE("all ranks play what is recorded, or none: a collective is run as often by each") {
  run_on_threads(2, [](Communicator& ranks) {
    FakeGpu gpu;
    gpu.records = ranks.rank() == 0;
    const auto backend = make_cuda_backend(gpu, ranks, kTurnsOver);
    const auto kernel = backend->prepare(spec_of("collective op=all_reduce bytes=1024 group=2"));
    backend->time(*kernel, 3);
    if (gpu.told != std::vector<std::string>{"record"}) throw std::runtime_error("one rank plays alone");
  });
}

TEST_CASE("each table names the library that ran its kernels") {
  FakeGpu gpu;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  CHECK(backend->library(KernelFamily::gemm) == "cuBLASLt 13.0.2");
  CHECK(backend->library(KernelFamily::grouped_gemm) == "cuBLASLt 13.0.2");
  CHECK(backend->library(KernelFamily::attention) == "shardwright cuda");
  gpu.ran_attention = "cuDNN 9.12.0";
  CHECK(backend->library(KernelFamily::attention) == "cuDNN 9.12.0");
  CHECK(backend->library(KernelFamily::memory) == "shardwright cuda");
  CHECK(backend->library(KernelFamily::collective) == "NCCL 2.27.7");
}

TEST_CASE("the backend for gpus says what it cannot run") {
  FakeGpu gpu;
  const auto alone = make_alone_communicator();
  const auto backend = make_cuda_backend(gpu, *alone, kTurnsOver);
  const auto reason = [&](const std::string& text) { return backend->unsupported(spec_of(text)); };
  CHECK(reason("gemm m=8 n=8 k=8 type=bf16 weights=int4") ==
        "the cuda backend has no products whose weights are stored otherwise");
  CHECK(reason("gemm m=8 n=8 k=8 type=fp8 result=fp8") == "the cuda backend has results in fp32, fp16 and bf16 alone");
  CHECK(reason("gemm m=8 n=8 k=32 type=mxfp8") == "the cuda backend narrows to fp8 alone: ask with cast=false");
  CHECK(reason("gemm m=8 n=8 k=32 batch=2 type=fp8 scaling=row") ==
        "the cuda backend narrows batches by the tensor alone: ask with cast=false");
  CHECK(reason("gemm m=8 n=8 k=32 type=fp8 layout=tn") == "the cuda backend narrows by rows: ask with cast=false");
  CHECK(reason("grouped_gemm groups=2 m_per_group=8 n=8 k=8 type=bf16 result=fp32") ==
        "the cuda backend has grouped products whose results are as their operands");
  CHECK(reason("attention heads=2 query=8 head_dim=8 type=fp8") ==
        "the cuda backend has attention in fp32, fp16 and bf16 alone");
  CHECK(reason("attention heads=2 query=8 head_dim=8 type=bf16 kv_type=fp8") ==
        "the cuda backend has attention in fp32, fp16 and bf16 alone");
  CHECK(reason("attention heads=2 query=8 head_dim=8 selected=4 type=bf16") ==
        "the cuda backend has no attention to selected keys");
  CHECK(reason("attention heads=3 kv_heads=2 query=8 head_dim=8 type=bf16") ==
        "the heads of keys do not divide those of queries");
  CHECK(reason("attention heads=2 query=8 head_dim=8 values_in_keys=true backward=true type=bf16") ==
        "the cuda backend has no gradient of values in keys");
  CHECK(reason("attention heads=2 query=8 head_dim=8 window=4 causal=false type=bf16") ==
        "the cuda backend has windows of causal attention and of single queries");
  CHECK(reason("moe_layer tokens=8 hidden_size=8 intermediate_size=8 n_routed_experts=4 num_experts_per_tok=2 "
               "type=bf16") == "the cuda backend runs layers of experts operator by operator");
  CHECK(reason("mla_module heads=8 query=8 type=bf16") ==
        "the cuda backend runs latent attention blocks operator by operator");
  CHECK(reason("moe_exchange op=dispatch tokens=8 hidden_size=8 num_experts_per_tok=2 group=1") ==
        "the cuda backend has no exchange of experts' rows");
  CHECK(reason("collective op=all_reduce bytes=64 group=2") == "the group does not fit 1 rank");
  CHECK(reason("collective op=all_reduce bytes=64 group=1 type=fp8") == "NCCL adds no numbers of that format");
  CHECK(reason("collective op=all_gather bytes=64 group=1 type=fp8") == "");
  CHECK(reason("collective op=all_reduce bytes=64 group=1 algorithm=custom") ==
        "the cuda backend has NCCL's own collectives alone");
  CHECK(reason("collective op=all_to_all bytes=64 group=1 crossing=0.5") ==
        "the cuda backend has no all-to-all inside nodes");
  CHECK_THROWS_WITH(backend->prepare(spec_of("mla_module heads=8 query=8 type=bf16")), "not supported");
  gpu.no_product = "cuBLASLt has no algorithm for it (CUBLAS_STATUS_NOT_SUPPORTED)";
  CHECK(reason("gemm m=8 n=8 k=8 type=bf16") == gpu.no_product);
}

TEST_CASE("numbers of narrow formats are read as their standards have them") {
  // E4M3 (OCP 8-bit floating point, 1.0): 0x38 is 1, 0x7e 448, 0x01 2^-9. E2M1 (OCP MX 1.0): 1 to 7 are 0.5, 1, 1.5, 2,
  // 3, 4, 6. fp16: 0x3c00 is 1, 0x0001 2^-24. bf16: 0x3fc0 is 1.5.
  const unsigned char fp8[] = {0x38, 0x7e, 0x01, 0xb8};
  CHECK(cuda::number_at(fp8, 0, DataType::fp8) == 1);
  CHECK(cuda::number_at(fp8, 1, DataType::fp8) == 448);
  CHECK(cuda::number_at(fp8, 2, DataType::mxfp8) == 0x1p-9);
  CHECK(cuda::number_at(fp8, 3, DataType::fp8) == -1);
  const unsigned char fp4[] = {0x21, 0x43, 0x65, 0xf7};
  const double expected[] = {0.5, 1, 1.5, 2, 3, 4, 6, -6};
  for (int i = 0; i < 8; ++i) CHECK(cuda::number_at(fp4, i, DataType::nvfp4) == expected[i]);
  const unsigned char fp16[] = {0x00, 0x3c, 0x01, 0x00};
  CHECK(cuda::number_at(fp16, 0, DataType::fp16) == 1);
  CHECK(cuda::number_at(fp16, 1, DataType::fp16) == 0x1p-24);
  const unsigned char bf16[] = {0xc0, 0x3f};
  CHECK(cuda::number_at(bf16, 0, DataType::bf16) == 1.5);
}

TEST_CASE("scales of blocks lie in tiles of 128 rows by 4") {
  // The documentation's own places: within a tile (row % 32) * 16 + (row / 32) * 4 + column.
  CHECK(cuda::tiled_scale(0, 0, 8) == 0);
  CHECK(cuda::tiled_scale(0, 3, 8) == 3);
  CHECK(cuda::tiled_scale(1, 0, 8) == 16);
  CHECK(cuda::tiled_scale(33, 2, 8) == 16 + 4 + 2);
  CHECK(cuda::tiled_scale(0, 4, 8) == 512);
  CHECK(cuda::tiled_scale(128, 0, 8) == 1024);
}

}  // namespace
}  // namespace shardwright
