#include "profiler/gpu_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <stdexcept>
#include <utility>

#include "hardware/machine.h"

namespace shardwright {
namespace {

std::optional<Seconds> time_of(Measurer& measurer, const KernelSpec& spec) {
  const auto answer = measurer.measure(spec);
  if (std::holds_alternative<NotMeasured>(answer)) return std::nullopt;
  return std::get<MeasuredKernel>(answer).time;
}

Seconds needed(Measurer& measurer, const KernelSpec& spec) {
  const auto answer = measurer.measure(spec);
  if (const auto* failed = std::get_if<NotMeasured>(&answer))
    throw std::runtime_error(fmt::format("{}: {}", to_string(spec), failed->reason));
  return std::get<MeasuredKernel>(answer).time;
}

AttentionSpec attention(bool backward) {
  return {.heads = 16, .kv_heads = 16, .query_length = 4096, .key_length = 4096, .backward = backward};
}

CollectiveSpec message(std::int64_t bytes) {
  CollectiveSpec spec = {CollectiveKind::send_recv, {bytes}};
  spec.group.add(2, 1);
  return spec;
}

/// Names as the driver has them, those that hold others first.
constexpr std::array<std::pair<const char*, const char*>, 16> kCatalog = {{{"GB300", "gb300-nvl72"},
                                                                           {"GB200", "gb200-nvl72"},
                                                                           {"GH200 144G", "gh200-144gb"},
                                                                           {"GH200", "gh200-96gb"},
                                                                           {"B300", "b300-sxm-288gb"},
                                                                           {"B200", "b200-sxm-192gb"},
                                                                           {"H200 NVL", "h200-nvl-141gb"},
                                                                           {"H200", "h200-sxm-141gb"},
                                                                           {"H100 NVL", "h100-nvl-94gb"},
                                                                           {"H100 80GB HBM3", "h100-sxm-80gb"},
                                                                           {"H800", "h800-sxm-80gb"},
                                                                           {"A100-SXM4-80GB", "a100-sxm-80gb"},
                                                                           {"A100-SXM4-40GB", "a100-sxm-40gb"},
                                                                           {"A100 80GB PCIe", "a100-pcie-80gb"},
                                                                           {"A800-SXM4-80GB", "a800-sxm-80gb"},
                                                                           {"L40S", "l40s-48gb"}}};

/// The lines of a key at the top of a catalog's file, with what stands below it.
std::string block_of(const std::string& text, const std::string& key) {
  const std::size_t begin = text.find("\n" + key + ":");
  if (begin == std::string::npos) return "";
  std::size_t end = text.find('\n', begin + 1);
  while (end + 1 < text.size() && text[end + 1] == ' ') end = text.find('\n', end + 1);
  return text.substr(begin + 1, end - begin);
}

std::string architecture(const cuda::GpuFacts& gpu) {
  if (gpu.major == 8) return gpu.minor == 9 ? "ada" : "ampere";
  return gpu.major == 9 ? "hopper" : "blackwell";
}

/// Of the chip that is most alike.
std::string curves(const cuda::GpuFacts& gpu) {
  if (gpu.major == 8) return "a100-sxm";
  return gpu.major == 9 ? "h100-sxm" : "b200-sxm";
}

std::string peaks(const PerDataType<FlopsPerSecond>& peak) {
  std::string text = "peak_flops_per_second:\n";
  for (const DataType type : kDataTypes)
    if (peak[type] > FlopsPerSecond{}) text += fmt::format("  {}: {:.4g}\n", name_of(type), peak[type].value);
  return text;
}

std::string measured_peaks(const MeasuredGpu& m) {
  std::string text;
  for (const DataType type : kDataTypes)
    if (m.peak[type] > FlopsPerSecond{})
      text += fmt::format("{}{} {:.4g}", text.empty() ? "" : ", ", name_of(type), m.peak[type].value);
  return text;
}

std::string links(const MeasuredGpu& m, const std::string& catalog) {
  if (m.link > BytesPerSecond{})
    return fmt::format(
        "links:\n"
        "  - name: node\n"
        "    gpus: 0\n"
        "    bytes_per_second_per_gpu: {:.4g}   # measured: a message of 64 MiB from each rank to the next\n"
        "    latency_seconds: {:.4g}   # of 4 bytes\n"
        "    efficiency: 1\n",
        m.link.value, m.message.value);
  if (!catalog.empty()) return "# Not measured, there was one rank: the catalog's.\n" + block_of(catalog, "links");
  return fmt::format(
      "links:\n"
      "  - name: node\n"
      "    gpus: 0\n"
      "    # Not measured, there was one rank: what the host's memory gives.\n"
      "    bytes_per_second_per_gpu: {:.4g}\n"
      "    latency_seconds: {:.4g}\n"
      "    efficiency: 1\n",
      std::min(m.to_gpu, m.from_gpu).value, m.latency.value);
}

}  // namespace

KernelSpec gpu_reference_kernel() { return GemmSpec{.m = 4096, .n = 4096, .k = 4096}; }

MeasuredGpu measure_gpu(cuda::Gpu& gpu, Measurer& measurer, Communicator& ranks) {
  MeasuredGpu m;
  m.gpu = gpu.facts();
  m.ranks = ranks.size();
  for (const DataType type : {DataType::fp32, DataType::tf32, DataType::fp16, DataType::bf16, DataType::fp8}) {
    for (const std::int64_t n : {4096, 8192}) {
      const GemmSpec spec = {.m = n, .n = n, .k = n, .type = type, .cast = false};
      const auto work = static_cast<double>(2 * n * n * n);
      if (const auto time = time_of(measurer, spec))
        m.peak[type] = std::max(m.peak[type], FlopsPerSecond{work / time->value});
    }
  }
  constexpr Bytes kLong = {std::int64_t{2} << 30}, kShort = {64};
  m.copy = {static_cast<double>(kLong.value) / needed(measurer, MemorySpec{kLong}).value};
  m.latency = needed(measurer, MemorySpec{kShort});
  const auto rate = [&](bool backward) {
    return attention(backward).work().value / needed(measurer, attention(backward)).value;
  };
  m.attention_backward_rate = rate(true) / rate(false);
  constexpr Bytes kHost = {256 << 20};
  m.to_gpu = gpu.host_rate(kHost, true);
  m.from_gpu = gpu.host_rate(kHost, false);
  if (ranks.size() % 2 != 0) return m;
  constexpr Bytes kMessage = {64 << 20};
  m.message = needed(measurer, message(4));
  m.link = {static_cast<double>(kMessage.value) / needed(measurer, message(kMessage.value)).value};
  return m;
}

std::vector<KernelSpec> gpu_grid(int ranks) {
  std::vector<KernelSpec> list;
  for (const std::int64_t m : {1, 16, 64, 256, 1024, 4096, 16384})
    for (const std::int64_t n : {1024, 4096, 16384})
      for (const std::int64_t k : {1024, 4096, 16384})
        for (const DataType type : {DataType::bf16, DataType::fp8})
          list.push_back(GemmSpec{.m = m, .n = n, .k = k, .type = type});
  for (const std::int64_t tokens : {2048, 8192})
    for (const std::int64_t n : {1024, 4096})
      for (const std::int64_t k : {1024, 4096})
        list.push_back(GemmSpec{.m = n, .n = k, .k = tokens, .result = StoredType::fp32, .accumulate = true});
  for (const std::int64_t rows : {16, 256, 2048})
    list.push_back(GroupedGemmSpec{.groups = 8, .m_per_group = rows, .n = 4096, .k = 2048});
  for (const std::int64_t length : {1024, 4096, 16384})
    for (const std::int64_t heads : {8, 32})
      for (const bool backward : {false, true})
        list.push_back(AttentionSpec{
            .heads = heads, .kv_heads = 8, .query_length = length, .key_length = length, .backward = backward});
  for (const std::int64_t batch : {1, 16, 128})
    for (const std::int64_t keys : {1024, 8192})
      list.push_back(AttentionSpec{
          .batch = batch, .heads = 32, .kv_heads = 8, .query_length = 1, .key_length = keys, .causal = false});
  for (std::int64_t bytes = 1024; bytes <= std::int64_t{1} << 30; bytes *= 4) list.push_back(MemorySpec{{bytes}});
  for (int group = 2; group <= ranks; ++group) {
    if (ranks % group != 0) continue;
    for (int kind = 0; kind < 5; ++kind) {
      if (static_cast<CollectiveKind>(kind) == CollectiveKind::send_recv && group != 2) continue;
      for (std::int64_t bytes = 4096; bytes <= std::int64_t{1} << 30; bytes *= 4) {
        CollectiveSpec spec = {static_cast<CollectiveKind>(kind), {bytes}};
        spec.group.add(group, 1);
        list.push_back(spec);
      }
    }
  }
  return list;
}

std::string machine_name(const cuda::GpuFacts& gpu) {
  std::string name;
  for (const char c : gpu.name) {
    const bool part = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (part)
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  return name;
}

std::string catalog_name(const cuda::GpuFacts& gpu) {
  for (const auto& [part, machine] : kCatalog)
    if (gpu.name.find(part) != std::string::npos) return machine;
  return "";
}

std::string machine_yaml(const MeasuredGpu& m, const std::string& date, const std::string& program) {
  const cuda::GpuFacts& gpu = m.gpu;
  const std::string known = catalog_name(gpu), catalog = known.empty() ? "" : machine_text(known);
  const std::optional<Machine> machine = known.empty() ? std::nullopt : std::optional(find_machine(known));
  const int on_node = gpu.on_node == 1 && machine ? machine->gpus_per_node : gpu.on_node;
  std::string text = fmt::format(
      "# {}, measured by `shardwright profile --backend cuda` with {} rank{} at once, {}.\n"
      "# Driver {}; {}; {}.\n"
      "# Power limit {:.0f} W; clocks up to {} MHz, memory {} MHz; {} GPU{} here.\n"
      "# Host to GPU {:.4g} bytes per second, back {:.4g} (pinned memory, 256 MiB).\n"
      "# Fastest products measured, operations per second: {}.\n"
      "name: {}\n"
      "architecture: {}\n\n"
      "memory_bytes: {}\n"
      "unusable_memory_bytes: {}   # taken before the first tensor\n",
      gpu.name, m.ranks, m.ranks == 1 ? "" : "s", date, gpu.driver.empty() ? "unknown" : gpu.driver, gpu.libraries,
      program, gpu.power_limit_w, gpu.most_sm_mhz, gpu.most_memory_mhz, gpu.on_node, gpu.on_node == 1 ? "" : "s",
      m.to_gpu.value, m.from_gpu.value, measured_peaks(m), machine_name(gpu), architecture(gpu), gpu.memory.value,
      gpu.taken.value);
  if (machine)
    text += fmt::format("# The datasheet's, as of {} in the catalog: the curves are shares of them.\n", known);
  text += peaks(machine ? machine->peak : m.peak);
  text += fmt::format(
      "memory_bytes_per_second: {:.4g}   # of a copy of 1 GiB, read plus written\n"
      "l2_bytes: {}\n"
      "multiprocessors: {}\n"
      "gpus_per_node: {}{}\n"
      "nics_per_node: {}\n\n",
      m.copy.value, gpu.l2.value, gpu.multiprocessors, on_node,
      on_node == gpu.on_node ? "" : "   # the catalog's: here is 1", machine ? machine->nics_per_node : 0);
  text += links(m, catalog) + "\n" + block_of(catalog, "sustained_clock");
  text += fmt::format(
      "efficiency:\n"
      "  curves: {}\n"
      "  curves_error: {}   # an estimate: {}\n"
      "  attention_backward_rate: {:.3g}   # 4096 tokens, 16 heads of 128\n"
      "  memory_fraction: 1   # the rate above is a measured one\n"
      "  kernel_latency_seconds: {:.3g}   # a pass over 64 bytes\n"
      "  relative_error: 0.15   # an estimate\n",
      curves(gpu), machine ? 0.1 : 0.3, machine ? "clocks and power may differ" : "another chip's",
      m.attention_backward_rate, m.latency.value);
  return text;
}

}  // namespace shardwright
