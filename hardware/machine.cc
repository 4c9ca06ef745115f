#include "hardware/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "hardware/catalog.h"
#include "hardware/collective_curves.h"
#include "hardware/kernel_curves.h"
#include "hardware/measured_machine.h"

namespace shardwright {

/// hardware/catalog/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& machine_catalog();

namespace {

// Ranges are wide enough for any machine of the next decade and narrow enough to catch a wrong unit or a slip of zeros.
constexpr std::int64_t kMaxMemoryBytes = std::int64_t{1} << 50;
constexpr std::int64_t kMaxGpus = std::int64_t{1} << 24;
constexpr double kMinRate = 1e6, kMaxRate = 1e16;    // bytes per second
constexpr double kMinFlops = 1e6, kMaxFlops = 1e19;  // per second

/// By whose attention kernels they run: blackwell-rtx, like ada, runs those that ampere has.
constexpr std::array<std::string_view, 6> kArchitectures = {"volta",  "ampere",    "ada",
                                                            "hopper", "blackwell", "blackwell-rtx"};

double fraction(const YamlCursor& value) { return value.number(1e-6, 1); }

PerDataType<FlopsPerSecond> read_peak(const YamlCursor& map) {
  PerDataType<FlopsPerSecond> peak;
  std::vector<std::string_view> names;
  for (DataType type : kDataTypes) names.push_back(name_of(type));
  map.only_keys(names);
  for (const auto& [name, rate] : map.entries()) { peak[*data_type_named(name)] = {rate.number(kMinFlops, kMaxFlops)}; }
  if (map.entries().empty()) map.fail("must name at least one data type");
  return peak;
}

/// Shares of the clock that products keep in a long run, by type. Types without their own have that of the next wider
/// type that has one, bf16's in the end; without bf16's the clock stays. Attention without its own has bf16's.
SustainedTimes read_sustained_clock(const YamlCursor& map) {
  std::vector<std::string_view> names;
  for (DataType type : kDataTypes) names.push_back(name_of(type));
  names.push_back("attention");
  map.only_keys(names);
  SustainedTimes times;
  double longer = 1;
  for (DataType type : {DataType::bf16, DataType::fp8, DataType::mxfp8, DataType::nvfp4}) {
    if (const auto share = map.find(name_of(type))) longer = 1 / share->number(0.3, 1);
    times.product[type] = longer;
  }
  for (DataType type : {DataType::fp16, DataType::tf32, DataType::fp32}) {
    const auto share = map.find(name_of(type));
    times.product[type] = share ? 1 / share->number(0.3, 1) : times.product[DataType::bf16];
  }
  const auto share = map.find("attention");
  times.attention = share ? 1 / share->number(0.3, 1) : times.product[DataType::bf16];
  return times;
}

EfficiencyCurves read_efficiency(const YamlCursor& map) {
  map.only_keys({"curves", "curves_error", "attention_backward_rate", "memory_fraction", "kernel_latency_seconds",
                 "relative_error", "source"});
  EfficiencyCurves curves;
  if (const auto error = map.find("curves_error")) curves.curves_error = error->number(0, 10);
  curves.attention_backward_rate = map.at("attention_backward_rate").number(0.01, 10);
  curves.memory_fraction = fraction(map.at("memory_fraction"));
  curves.kernel_latency = {map.at("kernel_latency_seconds").number(0, 1)};
  curves.relative_error = map.at("relative_error").number(0, 10);
  if (const auto source = map.find("source")) source->text();
  return curves;
}

/// What one GPU can send into this level: its own link, or its share of the node's NICs; less by oversubscription.
BytesPerSecond read_bandwidth(const YamlCursor& level, const Machine& machine) {
  const auto per_gpu = level.find("bytes_per_second_per_gpu");
  const auto per_nic = level.find("bytes_per_second_per_nic");
  if (per_gpu && per_nic) per_nic->fail_at_key("cannot stand beside 'bytes_per_second_per_gpu'");
  if (per_nic && machine.nics_per_node == 0) per_nic->fail_at_key("needs 'nics_per_node' above 0");
  const auto oversubscription = level.find("oversubscription");
  const double share = oversubscription ? 1 / oversubscription->number(1, 1000) : 1;
  if (!per_nic) return BytesPerSecond{level.at("bytes_per_second_per_gpu").number(kMinRate, kMaxRate)} * share;
  const double nics_per_gpu = static_cast<double>(machine.nics_per_node) / machine.gpus_per_node;
  return BytesPerSecond{per_nic->number(kMinRate, kMaxRate)} * (nics_per_gpu * share);
}

/// Curves by the name of their fabric; latency and efficiency are theirs.
void use_fabric(const YamlCursor& name, const YamlCursor& level_map, LinkLevel& level) {
  for (const char* key : {"latency_seconds", "efficiency"})
    if (const auto own = level_map.find(key)) own->fail_at_key("cannot stand beside 'fabric', whose curves have it");
  std::vector<std::string_view> names;
  for (const auto& fabric : known_fabrics()) names.push_back(fabric->name);
  level.curves = known_fabrics()[name.one_of(names)];
  level.efficiency = 0;
  for (const CollectiveWay way : {CollectiveWay::ring_ll, CollectiveWay::ring_ll128, CollectiveWay::ring_simple})
    if (const auto& ring = (*level.curves)[way]; ring && ring->share > level.efficiency) {
      level.latency = {ring->step};
      level.efficiency = ring->share;
    }
}

LinkLevel read_level(const YamlCursor& map, const Machine& machine) {
  map.only_keys({"name", "gpus", "bytes_per_second_per_gpu", "bytes_per_second_per_nic", "oversubscription",
                 "latency_seconds", "efficiency", "fabric", "source"});
  LinkLevel level;
  level.name = map.at("name").text();
  level.gpus = map.at("gpus").integer(0, kMaxGpus);
  level.bandwidth = read_bandwidth(map, machine);
  if (const auto fabric = map.find("fabric")) {
    use_fabric(*fabric, map, level);
  } else {
    level.latency = {map.at("latency_seconds").number(0, 1)};
    level.efficiency = fraction(map.at("efficiency"));
  }
  if (const auto source = map.find("source")) source->text();
  return level;
}

std::vector<LinkLevel> read_links(const YamlCursor& list, const Machine& machine) {
  std::vector<LinkLevel> levels;
  const std::vector<YamlCursor> items = list.items();
  if (items.empty()) list.fail("must have at least one level");
  for (std::size_t i = 0; i < items.size(); ++i) {
    const LinkLevel level = read_level(items[i], machine);
    const YamlCursor gpus = items[i].at("gpus");
    if (level.gpus == 0 && i + 1 < items.size()) gpus.fail("can be 0 (without limit) only in the last level");
    if (i > 0) {
      const LinkLevel& inside = levels.back();
      const bool nests = level.gpus == 0 || (level.gpus > inside.gpus && level.gpus % inside.gpus == 0);
      if (!nests) {
        gpus.fail(fmt::format("must be a multiple of the {} of the level inside it, got {}", inside.gpus, level.gpus));
      }
      if (level.bandwidth > inside.bandwidth) items[i].fail("must not be faster than the level inside it");
    }
    levels.push_back(level);
  }
  return levels;
}

}  // namespace

Machine evenly_filled(Machine machine, std::int64_t gpus) {
  std::int64_t inside = 1;
  for (LinkLevel& level : machine.links) {
    if (level.gpus == 0) break;
    std::int64_t units_inside = std::min(level.gpus, gpus) / inside;
    while (gpus % (units_inside * inside) != 0) --units_inside;
    level.gpus = inside *= units_inside;
  }
  return machine;
}

bool supports(const Machine& machine, DataType type) { return machine.peak[type].value > 0; }

Machine read_machine(const YamlCursor& top) {
  top.only_keys({"name", "architecture", "sustained_clock", "host_slowdown", "memory_bytes", "unusable_memory_bytes",
                 "peak_flops_per_second", "memory_bytes_per_second", "l2_bytes", "multiprocessors", "gpus_per_node",
                 "nics_per_node", "links", "price_per_gpu_hour", "efficiency"});
  Machine machine;
  machine.name = top.at("name").text();
  if (const auto architecture = top.find("architecture"))
    machine.architecture = kArchitectures[architecture->one_of({kArchitectures.begin(), kArchitectures.end()})];
  machine.memory = {top.at("memory_bytes").integer(1, kMaxMemoryBytes)};
  machine.unusable_memory = {top.at("unusable_memory_bytes").integer(0, machine.memory.value - 1)};
  machine.peak = read_peak(top.at("peak_flops_per_second"));
  machine.memory_bandwidth = {top.at("memory_bytes_per_second").number(kMinRate, kMaxRate)};
  machine.l2 = {top.at("l2_bytes").integer(0, kMaxMemoryBytes)};
  machine.multiprocessors = static_cast<int>(top.at("multiprocessors").integer(1, 1'000'000));
  machine.gpus_per_node = static_cast<int>(top.at("gpus_per_node").integer(1, 1024));
  machine.nics_per_node = static_cast<int>(top.at("nics_per_node").integer(0, 1024));
  machine.links = read_links(top.at("links"), machine);
  if (const auto price = top.find("price_per_gpu_hour")) machine.price_per_gpu_hour = price->number(0, 1e6);
  const YamlCursor efficiency = top.at("efficiency");
  machine.efficiency = read_efficiency(efficiency);
  const YamlCursor curves = efficiency.at("curves");
  machine.curves = std::make_shared<const KernelCurves>(choose_curves(named_curves(curves), machine, curves));
  if (const auto clock = top.find("sustained_clock")) machine.sustained = read_sustained_clock(*clock);
  if (const auto slower = top.find("host_slowdown")) machine.host_slowdown = slower->number(0.1, 10);
  return machine;
}

Machine find_machine(const std::string& name_or_path) {
  const std::string folder = measured_folder_of(name_or_path);
  return read_machine(
      open_named("machine", folder.empty() ? name_or_path : machine_file_in(folder), machine_catalog()));
}

std::string machine_text(const std::string& catalog_name) {
  for (const CatalogFile& file : machine_catalog()) {
    if (file.name == catalog_name) return std::string(file.text);
  }
  // Not there: the message is open_named's.
  open_named("machine", catalog_name, machine_catalog());
  throw InputError(fmt::format("{} is a file, not a machine of the catalog", catalog_name));
}

std::vector<std::string> machine_names() { return catalog_names(machine_catalog()); }

}  // namespace shardwright
