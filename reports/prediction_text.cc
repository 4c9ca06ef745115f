#include "reports/prediction_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <utility>

#include "models/transformer.h"

namespace shardwright {
namespace {

std::string yes_no(bool value) { return value ? "true" : "false"; }

/// Every choice of a layout by its key, in the order of the keys of --layout.
std::vector<std::pair<std::string, std::string>> choices(const Layout& layout) {
  return {{"tp", std::to_string(layout.tensor)},
          {"pp", std::to_string(layout.pipeline)},
          {"vpp", std::to_string(layout.virtual_pipeline)},
          {"cp", std::to_string(layout.context)},
          {"cp_kind", layout.context > 1 ? std::string(name_of(layout.context_kind)) : "none"},
          {"dp", std::to_string(layout.data)},
          {"ep", std::to_string(layout.expert)},
          {"etp", std::to_string(layout.expert_tensor)},
          {"dispatcher", layout.expert > 1 ? std::string(name_of(layout.dispatcher)) : "none"},
          {"sequence_parallel", yes_no(layout.sequence_parallel)},
          {"zero", std::to_string(layout.zero)},
          {"fsdp_group", std::to_string(layout.shard_group)},
          {"recompute", recompute_text(layout.recompute)},
          {"micro_batch", std::to_string(layout.micro_batch)},
          {"schedule", std::string(name_of(layout.schedule))},
          {"rank_order", std::string(name_of(layout.rank_order))},
          {"overlap", to_string(layout.overlap)},
          {"layers_per_stage", layers_text(layout)}};
}

/// "17 + 3 x 16"
std::string runs_text(const std::vector<int>& layers) {
  std::vector<std::string> runs;
  for (std::size_t begin = 0; begin < layers.size();) {
    std::size_t end = begin;
    while (end < layers.size() && layers[end] == layers[begin]) ++end;
    const bool alone = end - begin == 1;
    runs.push_back(alone ? std::to_string(layers[begin]) : fmt::format("{} x {}", end - begin, layers[begin]));
    begin = end;
  }
  return fmt::format("{}", fmt::join(runs, " + "));
}

std::string pins_text(const LayoutPins& pins) {
  std::vector<std::string> parts;
  const auto add = [&](std::string_view key, const auto& pin) {
    if (pin) parts.push_back(fmt::format("{}={}", key, *pin));
  };
  add("tp", pins.tp);
  add("pp", pins.pp);
  add("vpp", pins.vpp);
  add("cp", pins.cp);
  if (pins.cp_kind) parts.push_back(fmt::format("cp_kind={}", name_of(*pins.cp_kind)));
  add("dp", pins.dp);
  add("ep", pins.ep);
  add("etp", pins.etp);
  if (pins.dispatcher) parts.push_back(fmt::format("dispatcher={}", name_of(*pins.dispatcher)));
  add("sequence_parallel", pins.sequence_parallel);
  add("zero", pins.zero);
  add("fsdp_group", pins.fsdp_group);
  if (pins.recompute) parts.push_back("recompute=" + recompute_text(*pins.recompute));
  add("micro_batch", pins.micro_batch);
  if (pins.schedule) parts.push_back(fmt::format("schedule={}", name_of(*pins.schedule)));
  if (pins.rank_order) parts.push_back(fmt::format("rank_order={}", name_of(*pins.rank_order)));
  if (pins.layers_per_stage) { parts.push_back("layers_per_stage=" + runs_text(*pins.layers_per_stage)); }
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string bar(double share, int width) {
  const double length = std::round(std::clamp(share, 0.0, 1.0) * width);
  return std::string(static_cast<std::size_t>(length), '#');
}

}  // namespace

std::string part_text(const std::string& name) {
  static const std::map<std::string, std::string> names = {
      {"gemm", "matrix products"},      {"grouped_gemm", "experts' products"}, {"memory", "memory passes"},
      {"overlap", "slower by overlap"}, {"exposed tensor", "exposed tp"},      {"exposed context", "exposed cp"},
      {"exposed expert", "exposed ep"}, {"exposed data", "exposed dp"},        {"exposed pipeline", "exposed pp"}};
  const auto found = names.find(name);
  return found == names.end() ? name : found->second;
}

std::string_view confidence(double relative_error) {
  const double percent = std::round(relative_error * 100);
  return percent <= 10 ? "high" : percent <= 20 ? "medium" : "low";
}
std::string_view confidence(const Prediction& p) { return confidence(p.step_high / p.step - 1); }

std::string degrees_text(const Layout& layout) {
  std::string text = fmt::format("tp {}, pp {}", layout.tensor, layout.pipeline);
  if (layout.virtual_pipeline > 1) text += fmt::format(", vpp {}", layout.virtual_pipeline);
  if (layout.context > 1) text += fmt::format(", cp {} {}", layout.context, name_of(layout.context_kind));
  text += fmt::format(", dp {}", layout.data);
  if (layout.expert > 1) text += fmt::format(", ep {}", layout.expert);
  if (layout.expert_tensor > 1) text += fmt::format(", etp {}", layout.expert_tensor);
  return text + fmt::format(", zero {}, micro_batch {}", layout.zero, layout.micro_batch);
}

std::string recompute_text(const Recompute& recompute) {
  if (recompute.full) return "full";
  std::string text;
  for (const RecomputeModule module : kRecomputeModuleList) {
    if (!recompute.has(module)) continue;
    if (!text.empty()) text += "+";
    text += name_of(module);
  }
  return text.empty() ? "none" : text;
}

std::string layers_text(const Layout& layout) {
  if (layout.layers_per_chunk.empty()) return "";
  return runs_text(layers_per_stage(layout));
}

std::string layout_paragraph(const Layout& layout, const TableStyle& style) {
  std::string spaced;
  for (const char c : to_string(layout)) {
    spaced += c;
    if (c == ',') spaced += ' ';
  }
  std::string rest = "layout: " + spaced, text;
  const auto width = static_cast<std::size_t>(style.width);
  while (rest.size() > width) {
    const std::size_t cut = rest.find_last_of(" +", width - 1);
    if (cut == std::string::npos || cut < 8) break;
    text += rest.substr(0, rest[cut] == ' ' ? cut : cut + 1) + "\n";
    rest = std::string(8, ' ').append(rest, cut + 1);
  }
  return text + rest + "\n";
}

std::vector<KeyChange> layout_changes(const Layout& from, const Layout& to) {
  const auto before = choices(from), after = choices(to);
  std::vector<KeyChange> changes;
  for (std::size_t i = 0; i < before.size(); ++i)
    if (before[i].second != after[i].second) changes.push_back({before[i].first, before[i].second, after[i].second});
  return changes;
}

std::string layout_differences(const Layout& other, const Layout& layout) {
  std::vector<std::string> parts;
  for (const KeyChange& change : layout_changes(layout, other))
    parts.push_back(fmt::format("{} {} instead of {}", change.key, change.to, change.from));
  // Sums by stage can be equal where the chunks are not.
  if (parts.empty() && other.layers_per_chunk != layout.layers_per_chunk) parts.push_back("other layers in its chunks");
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string question_text(const PlanRequest& request, const PlanResult& result, const TableStyle& style) {
  const std::string parameter_count =
      unsupported(request.model).empty() ? fmt::format(" ({} parameters)", short_count(parameters(request.model))) : "";
  std::string text =
      bold(fmt::format("{}{} on {} x {}", result.model, parameter_count, grouped(result.gpus), result.machine), style);
  text += "\n";
  const Workload& work = result.workload;
  text += wrapped(fmt::format("training, {} sequences of {} tokens = {} tokens a step, {}", grouped(work.global_batch),
                              grouped(work.sequence_length), grouped(work.global_batch * work.sequence_length),
                              request.any_precision ? "any precision" : name_of(result.precision)),
                  style.width);
  if (work.tokens_per_step() > static_cast<double>(kLargeBatchTokens))
    text += wrapped(
        "more than 4 Mi tokens a step: that the model learns as well from so many is your choice, it is "
        "not modelled",
        style.width);
  text += "engine: " + result.engine + "\n";
  if (work.cuda_graphs != CudaGraphs{}) text += "captured as CUDA graphs: " + to_string(work.cuda_graphs) + "\n";
  if (work.expert_load.kind != ExpertLoad::Kind::balanced)
    text += wrapped("experts loaded by " + to_string(work.expert_load), style.width);
  if (work.capacity_factor > 0)
    text +=
        wrapped(fmt::format("experts take {:g} times their mean of rows, the rest is dropped", work.capacity_factor),
                style.width);
  const std::string pins = pins_text(request.pins);
  if (!result.is_estimate && !pins.empty()) text += wrapped("pinned: " + pins, style.width);
  return text;
}

std::string step_text(const Prediction& p, const std::string& title, const TableStyle& style) {
  struct Part {
    std::string_view name;
    Seconds time;
  };
  std::vector<Part> parts = {{"compute", p.compute},
                             {"communication", p.exposed_communication},
                             {"bubble", p.bubble},
                             {"optimizer", p.optimizer}};
  if (p.host > Seconds{}) parts.push_back({"host", p.host});
  std::string text = bold(title, style) + "\n";
  const int bar_width = std::max(10, style.width - 38);
  for (const Part& part : parts) {
    const double share = p.step.value > 0 ? part.time / p.step : 0;
    const std::string line =
        fmt::format("  {:<14}{:>10}{:>9}  {}", part.name, with_unit(part.time), percent(share), bar(share, bar_width));
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  text += fmt::format("  {:<14}{:>10}           {} to {} holds 80 %\n", "step", with_unit(p.step),
                      with_unit(p.step_low), with_unit(p.step_high));
  std::vector<std::string> kinds;
  for (std::size_t k = 0; k < kTraffics; ++k) {
    const auto kind = static_cast<Traffic>(k);
    if (p.traffic[kind] > Seconds{})
      kinds.push_back(
          fmt::format("{} {} ({} exposed)", name_of(kind), with_unit(p.traffic[kind]), with_unit(p.exposed[kind])));
  }
  if (!kinds.empty()) text += wrapped(fmt::format("communication: {}", fmt::join(kinds, ", ")), style.width);
  return text;
}

std::string worst_stage_text(const Prediction& p, const Machine& machine, const TableStyle& style) {
  const StageMemory& stage = p.worst();
  const MemoryParts& parts = stage.parts;
  const Bytes usable = machine.usable_memory();
  const std::string which =
      p.stages.size() > 1 ? fmt::format(" of stage {}, the fullest of {}", p.worst_stage, p.stages.size()) : "";
  std::string text = bold(fmt::format("What fills a GPU{}, in GiB", which), style) + "\n";
  const int bar_width = std::max(10, style.width - 42);
  const auto add = [&](std::string_view name, Bytes amount) {
    const double share = static_cast<double>(amount.value) / static_cast<double>(usable.value);
    const std::string line = fmt::format("  {:<31}{:>7}  {}", name, in_gib(amount), bar(share, bar_width));
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add("weights", parts.weights);
  add("gradients", parts.gradients);
  add("optimizer", parts.optimizer);
  add("activations", parts.activations);
  add("transient", parts.transient);
  add("buffers", parts.buffers);
  add("rounding of the allocator", stage.reserved - stage.allocated);
  const bool over = stage.reserved > usable;
  const Bytes gap = over ? stage.reserved - usable : usable - stage.reserved;
  text += fmt::format("  {:<31}{:>7}  of {} usable: {} {}\n", "reserved", in_gib(stage.reserved), in_gib(usable),
                      in_gib(gap), over ? "too much" : "to spare");
  return text;
}

std::string source_text(const Prediction& p, const Calibration& calibration, const TableStyle& style) {
  std::vector<std::string> shares;
  for (std::size_t i = 0; i < p.source_share.size(); ++i) {
    if (p.source_share[i] < 0.0005) continue;
    shares.push_back(fmt::format("{} {}", percent(p.source_share[i], 0), name_of(static_cast<CostSource>(i))));
  }
  const double error = p.step.value > 0 ? p.step_high / p.step - 1 : 0;
  const bool nothing_measured = p.source_share[static_cast<std::size_t>(CostSource::datasheet)] > 0.9995;
  const std::string sources =
      nothing_measured
          ? std::string("all times from the datasheet and efficiency curves; no kernel of this machine was measured")
          : fmt::format("times are {}", fmt::join(shares, ", "));
  const std::string calibrated =
      calibration.families().empty() ? "" : fmt::format(" Calibrated by runs: {}.", to_string(calibration));
  return wrapped(fmt::format("Confidence: {}. In 80 % of cases the step is less than {} off. Source: {}.{}",
                             confidence(p), percent(error, 0), sources, calibrated),
                 style.width);
}

std::string quoted(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           std::string_view("-_./=+,:@%").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string command_text(const std::vector<std::string>& words, const TableStyle& style) {
  const auto width = static_cast<std::size_t>(style.width);
  std::string text = "  ", line;
  for (const std::string& word : words) {
    if (!line.empty() && line.size() + word.size() + 5 > width) {
      text += line + " \\\n    ";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return text + line + "\n";
}

std::string estimate_command(const PlanRequest& request, const PlanResult& result, const AskedAs& asked,
                             const PricedLayout& plan, const TableStyle& style) {
  std::vector<std::string> words = {"shardwright", "estimate", quoted(asked.model), quoted(asked.machine)};
  const auto add = [&](std::string_view flag, const auto& value) {
    words.push_back(fmt::format("{} {}", flag, value));
  };
  add("--gpus", request.gpus);
  add("--sequence-length", result.workload.sequence_length);
  add("--global-batch", result.workload.global_batch);
  if (plan.precision != DataType::bf16) add("--precision", name_of(plan.precision));
  if (result.engine != "generic") add("--engine", result.engine);
  if (result.workload.cuda_graphs != CudaGraphs{}) add("--cuda-graphs", to_string(result.workload.cuda_graphs));
  const auto width = static_cast<std::size_t>(style.width);
  std::string text = command_text(words, style);
  text.back() = ' ';
  text += "\\\n    --layout ";
  // A backslash at a line's end joins a word only with what starts the next line, so the rest stands at the margin.
  Layout named = plan.layout;
  constexpr std::size_t kLongList = 16;
  if (!request.pins.layers_per_stage && named.layers_per_chunk.size() > kLongList) named.layers_per_chunk.clear();
  std::string rest = to_string(named);
  std::size_t room = width - 14;
  while (rest.size() > room) {
    const std::size_t cut = rest.find_last_of(",+", room - 1);
    if (cut == std::string::npos || cut == 0) break;
    text += rest.substr(0, cut + 1) + "\\\n";
    rest.erase(0, cut + 1);
    room = width - 1;
  }
  return text + rest + "\n";
}

}  // namespace shardwright
