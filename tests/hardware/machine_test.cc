#include "hardware/machine.h"

#include <doctest/doctest.h>

#include "hardware/catalog.h"
#include "hardware/collective_curves.h"
#include "tests/support/message_of.h"

using namespace shardwright;

namespace shardwright {
const std::vector<CatalogFile>& machine_catalog();  // made by hardware/embed.cmake
}

namespace {

const std::string kSmall =
    "name: small\n"                                         // line 1
    "memory_bytes: 1000\n"                                  // 2
    "unusable_memory_bytes: 100\n"                          // 3
    "peak_flops_per_second: {bf16: 100e12, fp8: 200e12}\n"  // 4
    "memory_bytes_per_second: 1e12\n"                       // 5
    "l2_bytes: 50\n"                                        // 6
    "multiprocessors: 10\n"                                 // 7
    "gpus_per_node: 8\n"                                    // 8
    "nics_per_node: 4\n"                                    // 9
    "links:\n"                                              // 10
    "  - {name: node, gpus: 8, bytes_per_second_per_gpu: 400e9, latency_seconds: 1e-6, efficiency: 0.5, source: a "
    "test}\n"
    "  - {name: rail, gpus: 64, bytes_per_second_per_nic: 50e9, latency_seconds: 2e-6, efficiency: 1}\n"
    "  - {name: spine, gpus: 0, bytes_per_second_per_nic: 50e9, oversubscription: 5, latency_seconds: 3e-6, "
    "efficiency: 1}\n"
    "price_per_gpu_hour: 2.5\n"  // 14
    "efficiency:\n"              // 15
    "  curves: [a100-sxm, h100-sxm]\n"
    "  curves_error: 0.2\n"
    "  attention_backward_rate: 0.8\n"
    "  memory_fraction: 0.75\n"
    "  kernel_latency_seconds: 3e-6\n"
    "  relative_error: 0.1\n"
    "  source: a test\n";

/// kSmall with its first `from` replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = kSmall;
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

Machine machine_of(const std::string& text) { return read_machine(YamlCursor::parse(text, "m.yaml")); }

/// The first line of the complaint.
std::string complaint(const std::string& from, const std::string& to) {
  const std::string message = message_of([&] { machine_of(changed(from, to)); });
  return message.substr(0, message.find('\n'));
}

}  // namespace

TEST_CASE("a machine is read whole") {
  const Machine machine = machine_of(kSmall);
  CHECK(machine.name == "small");
  CHECK(machine.memory == Bytes{1000});
  CHECK(machine.usable_memory() == Bytes{900});
  CHECK(machine.peak[DataType::bf16] == FlopsPerSecond{100e12});
  CHECK(machine.memory_bandwidth == BytesPerSecond{1e12});
  CHECK(machine.l2 == Bytes{50});
  CHECK(machine.multiprocessors == 10);
  CHECK(machine.gpus_per_node == 8);
  CHECK(machine.nics_per_node == 4);
  CHECK(machine.price_per_gpu_hour == 2.5);
  REQUIRE(machine.links.size() == 3);
  CHECK(machine.links[0].name == "node");
  CHECK(machine.links[0].gpus == 8);
  CHECK(machine.links[0].bandwidth == BytesPerSecond{400e9});
  CHECK(machine.links[0].latency == Seconds{1e-6});
  CHECK(machine.links[0].efficiency == 0.5);
  CHECK(machine.efficiency.curves_error == 0.2);
  CHECK(machine.efficiency.attention_backward_rate == 0.8);
  CHECK(machine.efficiency.memory_fraction == 0.75);
  CHECK(machine.efficiency.kernel_latency == Seconds{3e-6});
  CHECK(machine.efficiency.relative_error == 0.1);
}

TEST_CASE("GPUs share the node's NICs, and levels may be oversubscribed") {
  const Machine machine = machine_of(kSmall);
  CHECK(machine.links[1].bandwidth.value == doctest::Approx(25e9));  // 4 NICs of 50 GB/s for 8 GPUs
  CHECK(machine.links[2].bandwidth.value == doctest::Approx(5e9));   // a fifth of that
}

TEST_CASE("a type without a rate is not supported") {
  const Machine machine = machine_of(kSmall);
  CHECK(supports(machine, DataType::bf16));
  CHECK(supports(machine, DataType::fp8));
  CHECK_FALSE(supports(machine, DataType::nvfp4));
}

TEST_CASE("clocks in a long run are those of the type, or of the next wider one that has one") {
  CHECK(machine_of(kSmall).sustained == SustainedTimes{});
  CHECK(machine_of(kSmall).architecture.empty());
  const Machine m = machine_of(kSmall + "architecture: hopper\nsustained_clock: {bf16: 0.8, mxfp8: 0.5}\n");
  CHECK(m.architecture == "hopper");
  CHECK(m.sustained.product[DataType::bf16] == 1.25);
  CHECK(m.sustained.product[DataType::fp16] == 1.25);
  CHECK(m.sustained.product[DataType::fp8] == 1.25);
  CHECK(m.sustained.product[DataType::mxfp8] == 2);
  CHECK(m.sustained.product[DataType::nvfp4] == 2);
  CHECK(m.sustained.attention == 1.25);
  CHECK(m.sustained.attention_forward == 1);
  CHECK(machine_of(kSmall + "sustained_clock: {bf16: 0.5, attention: 0.8}\n").sustained.attention == 1.25);
  CHECK(
      complaint("name: small\n", "name: small\narchitecture: kepler\n") ==
      "m.yaml:2:15: 'architecture' must be one of volta, ampere, ada, hopper, blackwell, blackwell-rtx, got 'kepler'");
  CHECK(complaint("name: small\n", "name: small\nsustained_clock: {bf16: 1.1}\n") ==
        "m.yaml:2:25: 'sustained_clock.bf16' must be between 0.3 and 1, got 1.1");
}

TEST_CASE("a machine may have no price") {
  CHECK_FALSE(machine_of(changed("price_per_gpu_hour: 2.5\n", "")).price_per_gpu_hour.has_value());
}

TEST_CASE("a wrong machine is refused with the place") {
  CHECK(
      message_of([&] { machine_of(changed("memory_bytes: 1000", "memory_bytes: 1000000000000000000000000000000")); }) ==
      "m.yaml:2:15: 'memory_bytes' must be between 1 and 1125899906842624, got 1000000000000000000000000000000\n"
      "memory_bytes: 1000000000000000000000000000000\n"
      "              ^");
  CHECK(complaint("unusable_memory_bytes: 100", "unusable_memory_bytes: 1000") ==
        "m.yaml:3:24: 'unusable_memory_bytes' must be between 0 and 999, got 1000");
  CHECK(complaint("bf16: 100e12", "bf16: -1") ==
        "m.yaml:4:31: 'peak_flops_per_second.bf16' must be between 1000000 and 1e+19, got -1");
  CHECK(complaint("bf16: 100e12", "bf61: 100e12") == "m.yaml:4:25: unknown key 'bf61' (did you mean 'bf16'?)");
  CHECK(complaint("{bf16: 100e12, fp8: 200e12}", "{}") ==
        "m.yaml:4:24: 'peak_flops_per_second' must name at least one data type");
  CHECK(complaint("memory_bytes_per_second: 1e12", "memory_bytes_per_second: 1e30") ==
        "m.yaml:5:26: 'memory_bytes_per_second' must be between 1000000 and 1e+16, got 1e30");
  CHECK(complaint("gpus_per_node: 8", "gpus_per_node: 0") ==
        "m.yaml:8:16: 'gpus_per_node' must be between 1 and 1024, got 0");
  CHECK(complaint("multiprocessors: 10\n", "") == "m.yaml:1:1: 'multiprocessors' is missing");
  CHECK(complaint("multiprocessors", "multiprocesors") ==
        "m.yaml:7:1: unknown key 'multiprocesors' (did you mean 'multiprocessors'?)");
  CHECK(complaint("price_per_gpu_hour: 2.5", "price_per_gpu_hour: -1") ==
        "m.yaml:14:21: 'price_per_gpu_hour' must be between 0 and 1000000, got -1");
}

TEST_CASE("wrong links are refused") {
  CHECK(complaint("gpus: 64", "gpus: 12") ==
        "m.yaml:12:24: 'links[1].gpus' must be a multiple of the 8 of the level inside it, got 12");
  CHECK(complaint("gpus: 64", "gpus: 8") ==
        "m.yaml:12:24: 'links[1].gpus' must be a multiple of the 8 of the level inside it, got 8");
  CHECK(complaint("gpus: 64", "gpus: 0") ==
        "m.yaml:12:24: 'links[1].gpus' can be 0 (without limit) only in the last level");
  CHECK(complaint("bytes_per_second_per_nic: 50e9", "bytes_per_second_per_nic: 900e9") ==
        "m.yaml:12:5: 'links[1]' must not be faster than the level inside it");
  CHECK(complaint("bytes_per_second_per_nic: 50e9", "bytes_per_second_per_nic: 50e9, bytes_per_second_per_gpu: 50e9") ==
        "m.yaml:12:28: 'links[1].bytes_per_second_per_nic' cannot stand beside 'bytes_per_second_per_gpu'");
  CHECK(complaint("nics_per_node: 4", "nics_per_node: 0") ==
        "m.yaml:12:28: 'links[1].bytes_per_second_per_nic' needs 'nics_per_node' above 0");
  CHECK(complaint("oversubscription: 5", "oversubscription: 0.5") ==
        "m.yaml:13:78: 'links[2].oversubscription' must be between 1 and 1000, got 0.5");
  CHECK(message_of([&] {
          machine_of(kSmall.substr(0, kSmall.find("  - {name")) + "  []\n" + kSmall.substr(kSmall.find("price")));
        }) ==
        "m.yaml:11:3: 'links' must have at least one level\n"
        "  []\n"
        "  ^");
}

TEST_CASE("wrong efficiencies are refused") {
  CHECK(complaint("memory_fraction: 0.75", "memory_fraction: 75") ==
        "m.yaml:19:20: 'efficiency.memory_fraction' must be between 1e-06 and 1, got 75");
  CHECK(complaint("memory_fraction: 0.75", "memory_fraction: 0") ==
        "m.yaml:19:20: 'efficiency.memory_fraction' must be between 1e-06 and 1, got 0");
  CHECK(complaint("memory_fraction", "memory_fractoin") ==
        "m.yaml:19:3: unknown key 'memory_fractoin' (did you mean 'memory_fraction'?)");
}

TEST_CASE("a machine names its curves") {
  CHECK(complaint("curves_error: 0.2", "curves_error: -1") ==
        "m.yaml:17:17: 'efficiency.curves_error' must be between 0 and 10, got -1");
  CHECK(
      complaint("h100-sxm", "h100-smx") ==
      "m.yaml:16:22: 'efficiency.curves[1]' must be one of a100-sxm, b200-sxm, h100-sxm, h200-sxm, got 'h100-smx' (did "
      "you mean 'h100-sxm'?)");
  CHECK(complaint("[a100-sxm, h100-sxm]", "[]") ==
        "m.yaml:16:11: 'efficiency.curves' must name at least one file of curves");
  CHECK(complaint("[a100-sxm, h100-sxm]", "a100-sxm") ==
        "m.yaml:16:11: 'efficiency.curves' has no curve of products in fp8");
}

TEST_CASE("the catalog's machines") {
  CHECK(machine_names() ==
        std::vector<std::string>{"a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb", "a800-sxm-80gb", "b200-sxm-192gb",
                                 "b300-sxm-288gb", "gb200-nvl72", "gb300-nvl72", "gh200-144gb", "gh200-96gb",
                                 "h100-96gb-hbm2e", "h100-nvl-94gb", "h100-sxm-80gb", "h200-nvl-141gb",
                                 "h200-sxm-141gb", "h800-sxm-80gb", "l40s-48gb", "rtx-pro-6000-96gb", "v100-sxm-32gb"});
  for (const std::string& name : machine_names()) {
    const Machine machine = find_machine(name);
    CAPTURE(name);
    CHECK(machine.name == name);
    CHECK(machine.links.back().gpus == 0);
    CHECK(machine.usable_memory().value > machine.memory.value * 9 / 10);
    CHECK(supports(machine, DataType::fp16));
    CHECK_FALSE(machine.price_per_gpu_hour.has_value());
  }
}

TEST_CASE("number formats came with the generations") {
  for (const std::string& name : machine_names()) {
    const Machine machine = find_machine(name);
    CAPTURE(name);
    const bool volta = name[0] == 'v';
    const bool ampere = name[0] == 'a';
    const bool blackwell = name[0] == 'b' || name[0] == 'r' || name.starts_with("gb");
    CHECK(supports(machine, DataType::tf32) == !volta);
    CHECK(supports(machine, DataType::bf16) == !volta);
    CHECK(supports(machine, DataType::fp8) == !(volta || ampere));
    CHECK(supports(machine, DataType::mxfp8) == blackwell);
    CHECK(supports(machine, DataType::nvfp4) == blackwell);
    CHECK(machine.peak[DataType::bf16] == (volta ? FlopsPerSecond{0} : machine.peak[DataType::fp16]));
    CHECK(machine.peak[DataType::mxfp8] == (blackwell ? machine.peak[DataType::fp8] : FlopsPerSecond{0}));
  }
}

TEST_CASE("every link and every curve of the catalog names its source") {
  for (const CatalogFile& file : machine_catalog()) {
    CAPTURE(file.name);
    const YamlCursor top = YamlCursor::parse(std::string(file.text), std::string(file.path));
    for (const YamlCursor& level : top.at("links").items())
      CHECK_FALSE(level.at(level.find("fabric") ? "fabric" : "source").text().empty());
    CHECK_FALSE(top.at("efficiency").at("source").text().empty());
  }
}

TEST_CASE("every fabric names the data it was fitted on") {
  CHECK(known_fabrics().size() == 5);
  for (const auto& fabric : known_fabrics()) {
    CAPTURE(fabric->name);
    CHECK_FALSE(fabric->data.empty());
    CHECK(fabric->relative_error > 0);
    REQUIRE_FALSE(fabric->errors.empty());
  }
}

TEST_CASE("the catalog has the datasheets' numbers") {
  const Machine a100 = find_machine("a100-sxm-80gb");
  CHECK(a100.memory == Bytes{81920} * (std::int64_t{1} << 20));
  CHECK(a100.peak[DataType::bf16].value == 312e12);
  CHECK(a100.peak[DataType::tf32].value == 156e12);
  CHECK(a100.memory_bandwidth.value == 2.039e12);
  CHECK(a100.multiprocessors == 108);
  CHECK(a100.links[0].bandwidth.value == 300e9);
  CHECK(a100.links[1].bandwidth.value == doctest::Approx(25e9));
  CHECK(find_machine("a100-sxm-40gb").memory == Bytes{40960} * (std::int64_t{1} << 20));
  CHECK(find_machine("a100-sxm-40gb").memory_bandwidth.value == 1.555e12);

  const Machine h100 = find_machine("h100-sxm-80gb");
  CHECK(h100.memory == Bytes{81559} * (std::int64_t{1} << 20));
  CHECK(h100.peak[DataType::bf16].value == 989.4e12);
  CHECK(h100.peak[DataType::fp8].value == 1978.9e12);
  CHECK(h100.multiprocessors == 132);
  CHECK(h100.links[0].bandwidth.value == 450e9);
  CHECK(h100.links[1].bandwidth.value == doctest::Approx(50e9));
  CHECK(find_machine("h800-sxm-80gb").links[0].bandwidth.value == 200e9);
  CHECK(find_machine("a800-sxm-80gb").links[0].bandwidth.value == 200e9);

  const Machine b200 = find_machine("b200-sxm-192gb");
  CHECK(b200.memory == Bytes{183359} * (std::int64_t{1} << 20));
  CHECK(b200.peak[DataType::bf16].value == 2250e12);
  CHECK(b200.peak[DataType::nvfp4].value == 2 * b200.peak[DataType::fp8].value);
  CHECK(find_machine("gb200-nvl72").peak[DataType::nvfp4].value == 10000e12);
  CHECK(find_machine("gb300-nvl72").peak[DataType::nvfp4].value == 15000e12);
  CHECK(find_machine("l40s-48gb").peak[DataType::bf16].value == 362.05e12);

  const Machine v100 = find_machine("v100-sxm-32gb");
  CHECK(v100.peak[DataType::fp16].value == 125e12);
  CHECK(v100.links[1].bandwidth.value == doctest::Approx(6.25e9));  // 4 NICs of 12.5 GB/s for 8 GPUs
}

TEST_CASE("an H200 is an H100 with more and faster memory") {
  const Machine h100 = find_machine("h100-sxm-80gb"), h200 = find_machine("h200-sxm-141gb");
  CHECK(h200.peak == h100.peak);
  CHECK(h200.multiprocessors == h100.multiprocessors);
  CHECK(h200.links[0].bandwidth == h100.links[0].bandwidth);
  CHECK(h200.memory == Bytes{143771} * (std::int64_t{1} << 20));
  CHECK(h200.memory_bandwidth.value == 4.8e12);
}

TEST_CASE("links are those of each form of machine") {
  for (const std::string name : {"gb200-nvl72", "gb300-nvl72"}) {
    const Machine machine = find_machine(name);
    CAPTURE(name);
    CHECK(machine.gpus_per_node == 4);
    CHECK(machine.links[0].gpus == 72);
    CHECK(machine.links[0].bandwidth.value == 900e9);
  }
  CHECK(find_machine("gb200-nvl72").links[1].bandwidth.value == doctest::Approx(50e9));
  CHECK(find_machine("gb300-nvl72").links[1].bandwidth.value == doctest::Approx(100e9));

  // Bridged cards: NVLink inside a bridge, PCIe beside it.
  const Machine h100_nvl = find_machine("h100-nvl-94gb"), h200_nvl = find_machine("h200-nvl-141gb");
  CHECK(h100_nvl.links[0].gpus == 2);
  CHECK(h100_nvl.links[0].bandwidth.value == 300e9);
  CHECK(h200_nvl.links[0].gpus == 4);
  CHECK(h200_nvl.links[0].bandwidth.value == 450e9);
  for (const Machine& machine : {h100_nvl, h200_nvl}) {
    CHECK(machine.links[1].gpus == machine.gpus_per_node);
    CHECK(machine.links[1].bandwidth.value == 64e9);
  }

  // Without NVLink: PCIe, or a GPU by itself.
  CHECK(find_machine("a100-pcie-80gb").links[0].bandwidth.value == 32e9);
  CHECK(find_machine("l40s-48gb").links[0].bandwidth.value == 32e9);
  CHECK(find_machine("rtx-pro-6000-96gb").links[0].bandwidth.value == 64e9);
  for (const std::string name : {"gh200-96gb", "gh200-144gb"}) {
    const Machine machine = find_machine(name);
    CHECK(machine.gpus_per_node == 1);
    CHECK(machine.links[0].name == "rail");
    CHECK(machine.links[0].bandwidth.value == doctest::Approx(50e9));
  }
}

TEST_CASE("a job fills the units of every level evenly") {
  const auto units = [](const char* machine, std::int64_t gpus) {
    std::vector<std::int64_t> held;
    for (const LinkLevel& level : evenly_filled(find_machine(machine), gpus).links) held.push_back(level.gpus);
    return held;
  };
  CHECK(units("gb200-nvl72", 64) == std::vector<std::int64_t>{64, 64, 0});    // of a rack's 72
  CHECK(units("gb200-nvl72", 256) == std::vector<std::int64_t>{64, 256, 0});  // four racks
  CHECK(units("gb200-nvl72", 144) == std::vector<std::int64_t>{72, 144, 0});
  CHECK(units("gb200-nvl72", 1024) == std::vector<std::int64_t>{64, 512, 0});
  CHECK(units("h100-sxm-80gb", 4) == std::vector<std::int64_t>{4, 4, 0});
  CHECK(units("h100-sxm-80gb", 12) == std::vector<std::int64_t>{6, 12, 0});
  CHECK(units("h100-sxm-80gb", 384) == std::vector<std::int64_t>{8, 192, 0});
  CHECK(units("h100-sxm-80gb", 7919) == std::vector<std::int64_t>{1, 1, 0});  // a prime
}

TEST_CASE("an unknown machine is answered with the nearest") {
  CHECK(message_of([] { find_machine("h10-sxm"); }) ==
        "unknown machine 'h10-sxm': neither a file nor in the catalog (did you mean 'h100-sxm-80gb'?)");
  CHECK(message_of([] { find_machine("x.yaml"); }) == "cannot read 'x.yaml': No such file or directory");
}
