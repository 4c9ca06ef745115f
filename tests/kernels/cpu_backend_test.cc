// Kernels as they are asked for when they are measured: each is compared with the reference by its backend.
#include "kernels/cpu/cpu_backend.h"

#include <doctest/doctest.h>

#include <mutex>
#include <stdexcept>

#include "kernels/threads/threads_communicator.h"

namespace shardwright {
namespace {

const std::vector<std::string> kOfOneRank = {
    "gemm m=33 n=40 k=65 type=fp32",
    "gemm m=33 n=40 k=65 batch=3 type=fp32 layout=nt",
    "gemm m=33 n=40 k=65 type=fp32 layout=tt",
    "gemm m=33 n=40 k=65 type=fp32 accumulate=true",
    "gemm m=1 n=400 k=256 type=fp32 layout=nt",
    "grouped_gemm groups=3 m_per_group=9 n=40 k=65 type=fp32",
    "grouped_gemm groups=3 m_per_group=9 n=40 k=65 type=fp32 accumulate=true",
    "attention batch=2 heads=4 kv_heads=2 query=150 head_dim=16 type=fp32",
    "attention batch=2 heads=4 kv_heads=2 query=150 head_dim=16 type=fp32 backward=true",
    "attention heads=2 query=300 head_dim=24 value_dim=16 window=50 type=fp32",
    "attention heads=2 query=300 head_dim=24 value_dim=16 window=50 type=fp32 backward=true",
    "attention heads=2 query=40 key=100 head_dim=16 type=fp32 queries_last=true",
    "attention heads=2 query=40 key=100 head_dim=16 type=fp32",
    "attention heads=8 kv_heads=1 query=1 key=300 head_dim=24 value_dim=16 values_in_keys=true type=fp32 causal=false",
    "attention heads=2 query=1 key=300 head_dim=16 window=20 type=fp32 causal=false",
    "memory bytes=4096",
    "memory bytes=5"};

constexpr Bytes kTurnsOver = {64 << 10};  // the caches do not matter here

KernelSpec spec_of(const std::string& text) { return parse_kernel_spec(text, "test"); }

TEST_CASE("what the cpu measures agrees with the reference") {
  const auto alone = make_alone_communicator();
  const auto backend = make_cpu_backend(*alone, kTurnsOver);
  for (const std::string& text : kOfOneRank) {
    CAPTURE(text);
    const KernelSpec spec = spec_of(text);
    REQUIRE(backend->unsupported(spec) == "");
    const auto kernel = backend->prepare(spec);
    CHECK(kernel->max_relative_error() < backend->tolerance(spec));
    const Timed timed = backend->time(*kernel, 2);
    CHECK(timed.wall > Seconds{});
    CHECK(timed.busy > Seconds{});
  }
}

TEST_CASE("collectives of ranks, and of groups of them, agree with what each rank holds") {
  for (const std::string kind : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"}) {
    for (const std::string group : {"2", "4", "2x2"}) {
      const std::string text = "collective op=" + kind + " bytes=1024 group=" + group;
      CAPTURE(text);
      run_on_threads(4, [&](Communicator& ranks) {
        const auto backend = make_cpu_backend(ranks, kTurnsOver);
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

TEST_CASE("the cpu says what it cannot run") {
  const auto alone = make_alone_communicator();
  const auto backend = make_cpu_backend(*alone, kTurnsOver);
  const auto reason = [&](const std::string& text) { return backend->unsupported(spec_of(text)); };
  CHECK(reason("gemm m=8 n=8 k=8 type=bf16") == "the cpu backend computes in fp32 alone");
  CHECK(reason("gemm m=8 n=8 k=8 type=fp32 weights=int8") == "the cpu backend computes in fp32 alone");
  CHECK(reason("grouped_gemm groups=2 m_per_group=8 n=8 k=8 type=fp16") == "the cpu backend computes in fp32 alone");
  CHECK(reason("attention heads=2 query=8 head_dim=8 type=bf16") == "the cpu backend computes in fp32 alone");
  CHECK(reason("attention heads=2 query=8 head_dim=8 selected=4 type=fp32") ==
        "the cpu backend has no attention to selected keys");
  CHECK(reason("attention heads=3 kv_heads=2 query=8 head_dim=8 type=fp32") ==
        "the heads of keys do not divide those of queries");
  CHECK(reason("attention heads=2 query=8 head_dim=8 value_dim=16 values_in_keys=true type=fp32") ==
        "values in keys cannot be wider than these");
  CHECK(reason("attention heads=2 query=8 head_dim=8 values_in_keys=true backward=true type=fp32") ==
        "the cpu backend has no gradient of values in keys");
  CHECK(reason("attention heads=2 query=8 key=4 head_dim=8 type=fp32") == "causal attention has a key for each query");
  CHECK(reason("attention heads=2 query=8 head_dim=8 window=4 causal=false type=fp32") ==
        "the cpu backend has windows of causal attention and of single queries");
  CHECK(reason("moe_layer tokens=8 hidden_size=8 intermediate_size=8 n_routed_experts=4 num_experts_per_tok=2 "
               "type=fp32") == "the cpu backend runs layers of experts operator by operator");
  CHECK(reason("mla_module heads=8 query=8 type=fp32") ==
        "the cpu backend runs latent attention blocks operator by operator");
  CHECK(reason("moe_exchange op=dispatch tokens=8 hidden_size=8 num_experts_per_tok=2 group=1") ==
        "the cpu backend has no exchange of experts' rows");
  CHECK(reason("collective op=all_reduce bytes=64 group=2") == "the group does not fit 1 rank");
  CHECK(reason("collective op=all_reduce bytes=64 group=1 type=bf16") == "the cpu backend computes in fp32 alone");
  CHECK(reason("collective op=all_reduce bytes=64 group=1 algorithm=custom") ==
        "the cpu backend has the communicator's own collectives alone");
  CHECK(reason("collective op=all_to_all bytes=64 group=1 crossing=0.5") ==
        "the cpu backend has no all-to-all inside nodes");
  CHECK_THROWS_WITH(backend->prepare(spec_of("mla_module heads=8 query=8 type=fp32")), "not supported");
}

}  // namespace
}  // namespace shardwright
