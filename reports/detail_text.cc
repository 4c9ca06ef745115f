#include "reports/detail_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <variant>

#include "reports/prediction_text.h"

namespace shardwright {
namespace {

constexpr std::size_t kMostTensors = 12, kMostKernels = 8;

/// What stage by stage is waited, and compute by family.
std::string parts_text(const Prediction& p, const PlanDetail& detail, const TableStyle& style) {
  std::vector<std::string> parts;
  for (const StepPart& part : detail.parts) parts.push_back(part_text(part.name) + " " + with_unit(part.seconds));
  std::string text;
  if (!parts.empty())
    text += wrapped(fmt::format("A step of stage {}, the slowest: {}.", detail.slowest_stage, fmt::join(parts, ", ")),
                    style.width);
  if (p.idle.size() > 1) {
    const auto [least, most] = std::minmax_element(p.idle.begin(), p.idle.end());
    text += wrapped(fmt::format("Stages wait for others {} (stage {}) to {} (stage {}) of a step.", with_unit(*least),
                                least - p.idle.begin(), with_unit(*most), most - p.idle.begin()),
                    style.width);
  }
  return text.empty() ? "" : text + "\n";
}

std::string tensors_text(const std::vector<MemoryItem>& tensors, int stage, const TableStyle& style) {
  TextTable table({{"GiB"}, {"copies"}, {"part", TextTable::Align::left}, {"tensor", TextTable::Align::left}});
  Bytes rest;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const MemoryItem& item = tensors[i];
    if (i < kMostTensors) {
      table.add_row({in_gib(item.bytes, 2), grouped(item.copies), item.part, item.tensor});
    } else {
      rest += item.bytes;
    }
  }
  std::string text = bold(fmt::format("Largest tensors of stage {}", stage), style) + "\n";
  for (const std::string& line : table.lines(2)) text += line + "\n";
  if (tensors.size() > kMostTensors) {
    text += fmt::format("and {} more with {} GiB together\n", tensors.size() - kMostTensors, in_gib(rest, 2));
  }
  return text;
}

DataType type_of(const KernelSpec& spec) {
  return std::visit(
      [](const auto& s) {
        if constexpr (requires { requires std::is_same_v<decltype(s.type), DataType>; }) return s.type;
        return DataType::bf16;
      },
      spec);
}

/// The least that the datasheet allows, over what it takes.
std::string of_roof(const KernelUse& k, const Machine& machine) {
  if (!k.work || !(machine.memory_bandwidth.value > 0) || !supports(machine, type_of(k.spec))) return "-";
  const Seconds computing = k.work->flops / machine.peak[type_of(k.spec)];
  const Seconds moving = k.work->moved / machine.memory_bandwidth;
  return percent(std::max(computing, moving) / k.cost.time, 0);
}

/// The kernels and collectives that take longest, hidden ones, too, and where their times come from. What a line is too
/// short for stands below it.
std::string kernels_text(const std::vector<KernelUse>& kernels, const Machine& machine, const TableStyle& style) {
  const std::size_t shown = std::min(kernels.size(), kMostKernels);
  Seconds all;
  for (const KernelUse& k : kernels) all += k.seconds();
  TextTable table({{"time"}, {"share"}, {"of roof"}, {"error"}, {"source", TextTable::Align::left}});
  for (std::size_t i = 0; i < shown; ++i) {
    const KernelUse& k = kernels[i];
    table.add_row({with_unit(k.seconds()), percent(k.seconds() / all), of_roof(k, machine),
                   percent(k.cost.relative_error, 0), std::string(name_of(k.cost.source))});
  }
  const std::vector<std::string> lines = table.lines(2);
  const auto width = static_cast<std::size_t>(style.width), begin = static_cast<std::size_t>(table.width(2)) + 2;
  std::string text = bold("Longest kernels, of a GPU in a step", style) + "\n" + lines[0] + "\n";
  for (std::size_t i = 0; i < shown; ++i) {
    const std::string& line = lines[i + 1];
    const std::string kernel = to_string(kernels[i].spec);
    if (begin + kernel.size() <= width) {
      text += line + std::string(begin - line.size(), ' ') + kernel + "\n";
    } else {
      text += line + "\n" + wrapped(kernel, style.width, 8);
    }
  }
  if (kernels.size() > shown) text += fmt::format("and {} more\n", kernels.size() - shown);
  return text;
}

std::string what_ifs_text(const Prediction& p, const std::vector<SameLayout>& what_ifs, const TableStyle& style) {
  std::string text = bold("The same layout, if it had", style) + "\n";
  for (const SameLayout& w : what_ifs)
    text +=
        wrapped(fmt::format("{}: {} tokens/s/GPU, a step of {}, {} GiB{}", w.meaning,
                            signed_percent(w.prediction.tokens_per_second_per_gpu / p.tokens_per_second_per_gpu - 1),
                            with_unit(w.prediction.step), in_gib(w.prediction.worst().reserved),
                            w.fits ? "" : ", which do not fit"),
                style.width, 2);
  return text;
}

}  // namespace

std::string machine_paragraph(const Machine& machine, const TableStyle& style) {
  if (machine.name.empty()) return "";
  std::vector<std::string> peaks, links;
  for (const DataType type : kDataTypes)
    if (supports(machine, type)) peaks.push_back(fmt::format("{} in {}", with_unit(machine.peak[type]), name_of(type)));
  for (const LinkLevel& level : machine.links)
    links.push_back(fmt::format("{} {}", level.name, with_unit(level.bandwidth)));
  return wrapped(fmt::format("Machine: {} a GPU, {} usable, {}; {}; links of a GPU: {}.", with_unit(machine.memory),
                             with_unit(machine.usable_memory()), with_unit(machine.memory_bandwidth),
                             fmt::join(peaks, ", "), fmt::join(links, ", ")),
                 style.width) +
         "\n";
}

std::string links_text(const std::vector<AxisLinks>& axes, const TableStyle& style, const std::string& pool) {
  std::vector<std::string> parts;
  for (const AxisLinks& axis : axes) {
    std::vector<std::string> levels;
    for (const AxisLinks::Level& level : axis.levels)
      levels.push_back(level.ranks == axis.ranks ? level.name
                                                 : fmt::format("{} ({} of them)", level.name, level.ranks));
    parts.push_back(fmt::format("{} {} {}", axis.axis, axis.ranks, fmt::join(levels, ", ")));
  }
  return wrapped(fmt::format("Links{}: {}.", pool.empty() ? "" : " of " + pool, fmt::join(parts, "; ")), style.width);
}

std::string detail_text(const Prediction& p, const PlanDetail& detail, const TableStyle& style) {
  std::string text = machine_paragraph(detail.machine, style) + parts_text(p, detail, style);
  text += tensors_text(detail.tensors.at(static_cast<std::size_t>(p.worst_stage)), p.worst_stage, style);
  text += "\n" + kernels_text(detail.kernels, detail.machine, style);
  if (!detail.axes.empty()) text += "\n" + links_text(detail.axes, style);
  if (!detail.what_ifs.empty()) text += "\n" + what_ifs_text(p, detail.what_ifs, style);
  return text;
}

}  // namespace shardwright
