#include "reports/machines_table.h"

#include <fmt/format.h>

namespace shardwright {
namespace {

std::string peak_text(const Machine& machine, DataType type) {
  return supports(machine, type) ? fmt::format("{:.0f}", machine.peak[type].value / 1e12) : "-";
}

std::string in_gigabytes(BytesPerSecond rate) { return fmt::format("{:.0f}", rate.value / 1e9); }

constexpr std::string_view kSources =
    "Rates are datasheet values, dense, no kernel was measured; the source of each number stands in its YAML file "
    "(hardware/catalog/NAME.yaml).";

}  // namespace

std::string machines_table(const std::vector<Machine>& machines, const TableStyle& style) {
  TextTable table({{"machine", TextTable::Align::left},
                   {"GiB"},
                   {"HBM TB/s"},
                   {"bf16"},
                   {"fp8"},
                   {"GPUs/node"},
                   {"NICs"},
                   {"GB/s in node"},
                   {"beyond"}});
  for (const Machine& machine : machines) {
    table.add_row({machine.name, in_gib(machine.memory), fmt::format("{:.2f}", machine.memory_bandwidth.value / 1e12),
                   peak_text(machine, DataType::bf16), peak_text(machine, DataType::fp8),
                   std::to_string(machine.gpus_per_node), std::to_string(machine.nics_per_node),
                   in_gigabytes(machine.links.front().bandwidth),
                   machine.links.size() > 1 ? in_gigabytes(machine.links[1].bandwidth) : "-"});
  }
  std::string text;
  const std::vector<std::string> lines = table.lines(table.width(2) <= style.width ? 2 : 1);
  for (std::size_t i = 0; i < lines.size(); ++i) text += (i == 0 ? bold(lines[i], style) : lines[i]) + "\n";
  text += wrapped(
      "bf16 and fp8 in TFLOP/s; links in GB/s of one GPU, one direction, inside the first level and into the next.",
      style.width);
  return text + wrapped(kSources, style.width);
}

std::string machine_text(const Machine& machine, const TableStyle& style) {
  std::string text = bold(machine.name, style) + "\n";
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<31}{}\n", name, value);
  };
  add("memory of a GPU", fmt::format("{}, {} usable", with_unit(machine.memory), with_unit(machine.usable_memory())));
  add("memory bandwidth", with_unit(machine.memory_bandwidth));
  for (const DataType type : kDataTypes) {
    if (supports(machine, type)) add(fmt::format("peak {}", name_of(type)), with_unit(machine.peak[type]));
  }
  add("L2", with_unit(machine.l2));
  add("multiprocessors", std::to_string(machine.multiprocessors));
  add("GPUs in a node", std::to_string(machine.gpus_per_node));
  add("NICs in a node", std::to_string(machine.nics_per_node));
  for (const LinkLevel& level : machine.links) {
    const std::string extent = level.gpus == 0 ? "without limit" : grouped(level.gpus) + " GPUs";
    add("link level '" + level.name + "'",
        fmt::format("{}, {} a GPU, {}", extent, with_unit(level.bandwidth), with_unit(level.latency)));
  }
  if (machine.price_per_gpu_hour) add("price of a GPU-hour", fmt::format("{:.2f}", *machine.price_per_gpu_hour));
  add("one sigma of a kernel's time", percent(machine.efficiency.relative_error, 0));
  return text + wrapped(kSources, style.width);
}

}  // namespace shardwright
