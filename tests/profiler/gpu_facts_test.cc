#include "profiler/gpu_facts.h"

#include <doctest/doctest.h>

#include <set>

#include "hardware/machine.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/threads/threads_communicator.h"
#include "tests/support/fake_backend.h"
#include "tests/support/fake_gpu.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

/// A backend whose kernels of each family take what is said here, so that rates are round.
struct Bench {
  FakeGpu gpu;
  CountingClock clock;
  FakeBackend backend{clock};
  std::unique_ptr<Communicator> alone = make_alone_communicator();

  void takes(const std::string& kernel, double seconds) {
    backend.durations[to_string(parse_kernel_spec(kernel, "test"))] = [seconds](int) {
      return Timed{{seconds}, {seconds}};
    };
  }
  MeasuredGpu measured() {
    // 2 * 8192^3 operations in 1.099511627776 ms are 10^15 a second; the smaller product is slower.
    takes("gemm m=8192 n=8192 k=8192 type=bf16 cast=false", 1.099511627776e-3);
    takes("gemm m=4096 n=4096 k=4096 type=bf16 cast=false", 1e-3);
    takes("memory bytes=2147483648", 1.073741824e-3);  // 2 * 10^12 bytes a second
    takes("memory bytes=64", 2e-6);
    // Backward is five products for two: at twice the time of forward its rate is 5 / 4 of forward's.
    takes("attention heads=16 query=4096 head_dim=128 type=bf16", 1e-3);
    takes("attention heads=16 query=4096 head_dim=128 type=bf16 backward=true", 2e-3);
    backend.lacks[to_string(parse_kernel_spec("gemm m=4096 n=4096 k=4096 type=fp8 cast=false", "test"))] = "none";
    backend.lacks[to_string(parse_kernel_spec("gemm m=8192 n=8192 k=8192 type=fp8 cast=false", "test"))] = "none";
    Measurer measurer(backend, *alone, clock, {}, gpu_reference_kernel());
    return measure_gpu(gpu, measurer, *alone);
  }
};

Machine read(const std::string& yaml) {
  const TemporaryFolder folder;
  folder.write("machine.yaml", yaml);
  return find_machine(folder / "machine.yaml");
}

TEST_CASE("a gpu's rates are those of its kernels, formats that it lacks are left out") {
  Bench bench;
  const MeasuredGpu m = bench.measured();
  CHECK(m.peak[DataType::bf16].value == doctest::Approx(1e15));
  CHECK(m.peak[DataType::fp8].value == 0);
  CHECK(m.copy.value == doctest::Approx(2e12));
  CHECK(m.latency.value == doctest::Approx(2e-6));
  CHECK(m.attention_backward_rate == doctest::Approx(1.25));
  CHECK(m.to_gpu.value == 5e10);
  CHECK(m.from_gpu.value == 4e10);
  CHECK(m.link.value == 0);
}

TEST_CASE("a kernel that every gpu has and this one cannot time is named") {
  Bench bench;
  bench.backend.lacks["memory bytes=64"] = "nothing moves";
  CHECK_THROWS_WITH(bench.measured(), "memory bytes=64: nothing moves");
}

TEST_CASE("a gpu of the catalog has its datasheet's rates and links, and what was measured") {
  Bench bench;
  bench.gpu.given.name = "NVIDIA H100 80GB HBM3";
  bench.gpu.given.on_node = 1;
  const std::string yaml = machine_yaml(bench.measured(), "2026-01-02", "shardwright 0.1.0");
  const Machine machine = read(yaml), catalog = find_machine("h100-sxm-80gb");
  CHECK(machine.name == "nvidia-h100-80gb-hbm3");
  CHECK(machine.memory == Bytes{80'000'000'000});
  CHECK(machine.unusable_memory == Bytes{500'000'000});
  CHECK(machine.peak[DataType::bf16] == catalog.peak[DataType::bf16]);
  CHECK(machine.memory_bandwidth.value == doctest::Approx(2e12));
  CHECK(machine.efficiency.kernel_latency.value == doctest::Approx(2e-6));
  CHECK(machine.efficiency.attention_backward_rate == doctest::Approx(1.25));
  CHECK(machine.multiprocessors == 100);
  CHECK(machine.gpus_per_node == 8);
  REQUIRE(machine.links.size() == catalog.links.size());
  CHECK(machine.links[0].bandwidth == catalog.links[0].bandwidth);
  CHECK(yaml.find("# Driver 580.1; CUDA 13.0, cuBLASLt 13.0.2, cuDNN 9.12.0, NCCL 2.27.7; shardwright 0.1.0.\n"
                  "# Power limit 700 W; clocks up to 1980 MHz, memory 2619 MHz; 1 GPU here.\n") != std::string::npos);
}

TEST_CASE("a gpu that the catalog does not have is what was measured of it") {
  Bench bench;
  const Machine machine = read(machine_yaml(bench.measured(), "2026-01-02", "shardwright 0.1.0"));
  CHECK(machine.name == "nvidia-fake-80gb");
  CHECK(machine.peak[DataType::bf16].value == doctest::Approx(1e15));
  CHECK(machine.gpus_per_node == 2);
  CHECK(machine.links[0].bandwidth.value == doctest::Approx(4e10));
}

TEST_CASE("gpus are found in the catalog by the names that drivers give them") {
  const auto found = [](const std::string& name) {
    cuda::GpuFacts gpu;
    gpu.name = name;
    return catalog_name(gpu);
  };
  CHECK(found("NVIDIA H100 80GB HBM3") == "h100-sxm-80gb");
  CHECK(found("NVIDIA H200") == "h200-sxm-141gb");
  CHECK(found("NVIDIA H200 NVL") == "h200-nvl-141gb");
  CHECK(found("NVIDIA GH200 480GB") == "gh200-96gb");
  CHECK(found("NVIDIA GB200") == "gb200-nvl72");
  CHECK(found("NVIDIA B200") == "b200-sxm-192gb");
  CHECK(found("NVIDIA A100-SXM4-80GB") == "a100-sxm-80gb");
  CHECK(found("NVIDIA L40S") == "l40s-48gb");
  CHECK(found("NVIDIA T4") == "");
}

TEST_CASE("the grid of gpus asks each question once, collectives as far as there are ranks") {
  for (const int ranks : {1, 8}) {
    std::set<std::string> texts;
    std::set<std::int64_t> groups;
    const auto grid = gpu_grid(ranks);
    for (const KernelSpec& spec : grid) {
      texts.insert(to_string(spec));
      if (const auto* c = std::get_if<CollectiveSpec>(&spec)) groups.insert(c->group.size());
    }
    CHECK(texts.size() == grid.size());
    CHECK(groups == (ranks == 1 ? std::set<std::int64_t>{} : std::set<std::int64_t>{2, 4, 8}));
  }
}

}  // namespace
}  // namespace shardwright
