#include "profiler/cpu_facts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <stdexcept>

namespace shardwright {
namespace {

/// The value behind `key` and a colon in a file of /proc; "" where there is none.
std::string proc_value(const std::string& file, const std::string& key) {
  std::ifstream lines("/proc/" + file);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

/// KiB of "24602344 kB".
Bytes kib_of(const std::string& file, const std::string& key) {
  const std::string value = proc_value(file, key);
  if (value.empty()) throw std::runtime_error(fmt::format("/proc/{} does not say {}", file, key));
  return {std::stoll(value) * 1024};
}

Seconds seconds_of(Measurer& measurer, const KernelSpec& spec) {
  const auto answer = measurer.measure(spec);
  if (const auto* failed = std::get_if<NotMeasured>(&answer))
    throw std::runtime_error(fmt::format("{}: {}", to_string(spec), failed->reason));
  return std::get<MeasuredKernel>(answer).time;
}

AttentionSpec attention(bool backward) {
  return {.heads = 4,
          .kv_heads = 4,
          .query_length = 512,
          .key_length = 512,
          .head_dim = 64,
          .value_dim = 64,
          .backward = backward,
          .type = DataType::fp32};
}

FlopsPerSecond rate(Measurer& measurer, const AttentionSpec& spec) {
  return {spec.work().value / seconds_of(measurer, spec).value};
}

CollectiveSpec message(std::int64_t bytes) {
  CollectiveSpec spec = {CollectiveKind::send_recv, {bytes}};
  spec.group.add(2, 1);
  return spec;
}

}  // namespace

CpuFacts system_facts(int ranks) {
  CpuFacts facts;
  facts.processor = proc_value("cpuinfo", "model name");
  if (facts.processor.empty()) facts.processor = "unknown";
  facts.cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.ranks = ranks;
  facts.memory = kib_of("meminfo", "MemTotal");
  facts.cache = {std::max(sysconf(_SC_LEVEL2_CACHE_SIZE), 0L)};
  facts.resident = kib_of("self/status", "VmRSS");
  return facts;
}

KernelSpec cpu_reference_kernel() { return GemmSpec{.m = 192, .n = 192, .k = 192, .type = DataType::fp32}; }

void measure_facts(CpuFacts& facts, Measurer& measurer, Communicator& ranks) {
  for (const std::int64_t n : {512, 1024, 1536}) {
    const GemmSpec spec = {.m = n, .n = n, .k = n, .type = DataType::fp32};
    const auto work = static_cast<double>(2 * n * n * n);
    facts.peak = std::max(facts.peak, FlopsPerSecond{work / seconds_of(measurer, spec).value});
  }
  constexpr Bytes kLong = {128 << 20}, kShort = {64};
  facts.copy = {static_cast<double>(kLong.value) / seconds_of(measurer, MemorySpec{kLong}).value};
  facts.latency = seconds_of(measurer, MemorySpec{kShort});
  facts.attention_backward_rate = rate(measurer, attention(true)).value / rate(measurer, attention(false)).value;
  if (ranks.size() % 2 != 0) return;
  constexpr Bytes kMessage = {16 << 20};
  facts.message = seconds_of(measurer, message(4));
  facts.link = {static_cast<double>(kMessage.value) / seconds_of(measurer, message(kMessage.value)).value};
}

std::string machine_name(const CpuFacts& facts) {
  std::string name = "cpu";
  bool word = false;
  for (const char c : facts.processor) {
    const bool part = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (part && !word) name += '-';
    if (part) name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    word = part;
  }
  return name;
}

std::string machine_yaml(const CpuFacts& f, const std::string& date, const std::string& libraries) {
  const bool linked = f.link > BytesPerSecond{};
  std::string text = fmt::format(
      "# {} cores of {}, measured by `shardwright profile` with {} rank{} at once, {}. A device is a core.\n"
      "# {}\n"
      "name: {}\n\n"
      "memory_bytes: {}   # the machine's, by its cores\n"
      "unusable_memory_bytes: {}   # resident in a rank before its first tensor\n"
      "peak_flops_per_second:\n"
      "  fp32: {:.4g}   # the fastest of products of 512, 1024 and 1536\n"
      "memory_bytes_per_second: {:.4g}   # of a copy of 64 MiB, read plus written\n"
      "l2_bytes: {}\n"
      "multiprocessors: 1\n"
      "gpus_per_node: {}\n"
      "nics_per_node: 0\n\n"
      "links:\n"
      "  - name: node\n"
      "    gpus: 0\n",
      f.cores, f.processor, f.ranks, f.ranks == 1 ? "" : "s", date, libraries, machine_name(f),
      f.memory.value / f.cores, std::min(f.resident.value, f.memory.value / f.cores - 1), f.peak.value, f.copy.value,
      f.cache.value, f.ranks);
  text += linked ? fmt::format(
                       "    bytes_per_second_per_gpu: {:.4g}   # a message of 16 MiB from each rank to the next\n"
                       "    latency_seconds: {:.4g}   # of 4 bytes\n",
                       f.link.value, f.message.value)
                 : fmt::format(
                       "    # There was no second rank: half of a copy's rate, which no message beats, and a kernel's "
                       "latency.\n"
                       "    bytes_per_second_per_gpu: {:.4g}\n"
                       "    latency_seconds: {:.4g}\n",
                       f.copy.value / 2, f.latency.value);
  text += fmt::format(
      "    efficiency: 1\n\n"
      "efficiency:\n"
      "  # For what the tables do not have: no curves of a core are fitted, a GPU's stand in, at this machine's "
      "rates.\n"
      "  curves: a100-sxm\n"
      "  curves_error: 1   # an estimate: off by a factor of two\n"
      "  attention_backward_rate: {:.3g}   # 512 tokens, 4 heads of 64\n"
      "  memory_fraction: 1   # the rate above is a measured one\n"
      "  kernel_latency_seconds: {:.3g}   # a pass over 64 bytes\n"
      "  relative_error: 0.3   # an estimate\n",
      f.attention_backward_rate, f.latency.value);
  return text;
}

}  // namespace shardwright
