#include "planner/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <string_view>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

constexpr std::array<std::string_view, 10> kScheduleNames = {"gpipe", "1f1b",  "interleaved", "zb-h1",    "zb-h2",
                                                             "zb-1p", "zb-2p", "zb-v",        "dualpipe", "dualpipe-v"};
constexpr std::array<std::string_view, kRecomputeModules> kRecomputeModuleNames = {
    "core_attn", "layernorm", "mlp", "mla_up_proj", "moe", "moe_act", "shared_experts"};
constexpr std::array<std::string_view, 2> kRankOrderNames = {"tp-cp-dp-pp", "tp-cp-pp-dp"};
constexpr std::array<std::string_view, 3> kContextParallelNames = {"allgather", "ulysses", "ring"};
constexpr std::array<std::string_view, 4> kDispatcherNames = {"alltoall", "allgather", "deepep", "hybridep"};

constexpr std::array<std::string_view, kOverlaps> kOverlapNames = {"tp",          "ep",           "shared_experts",
                                                                   "grad_reduce", "param_gather", "p2p"};

constexpr std::int64_t kLargestDegree = std::int64_t{1} << 24;
constexpr std::int64_t kMostLayers = 10000;  // of a model, see models/model.cc
constexpr std::size_t kLongestText = 1 << 16;

// ---- Reading ----

/// A part of the string that the user gave, and where it starts in it.
struct Piece {
  std::string_view text;
  std::size_t begin = 0;
};

/// The string as a whole, for messages.
struct Given {
  const std::string& text;
  const std::string& what;

  [[noreturn]] void fail(std::size_t at, const std::string& message) const { fail_in_text(what, text, at, message); }
};

struct Entry {
  Piece key, value;
};

std::vector<Piece> split(Piece whole, char separator) {
  std::vector<Piece> pieces;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = std::min(whole.text.find(separator, begin), whole.text.size());
    pieces.push_back({whole.text.substr(begin, end - begin), whole.begin + begin});
    if (end == whole.text.size()) return pieces;
    begin = end + 1;
  }
}

std::int64_t whole_number(const Given& given, const Entry& entry, Piece piece, std::int64_t low, std::int64_t high) {
  const auto refuse = [&](std::string_view needed) {
    given.fail(piece.begin, fmt::format("'{}' must be {}, got '{}'", entry.key.text, needed, piece.text));
  };
  const bool digits_only = piece.text.find_first_not_of("0123456789") == std::string_view::npos;
  if (piece.text.empty() || !digits_only) refuse("a whole number");
  if (piece.text.size() > 1 && piece.text[0] == '0') refuse("a whole number without leading zeros");
  std::int64_t value = 0;
  for (std::size_t i = 0; i < piece.text.size() && value <= high; ++i) value = value * 10 + (piece.text[i] - '0');
  if (value < low || value > high) refuse(fmt::format("between {} and {}", low, high));
  return value;
}

int degree(const Given& given, const Entry& entry) {
  return static_cast<int>(whole_number(given, entry, entry.value, 1, kLargestDegree));
}

std::size_t word(const Given& given, const Entry& entry, Piece piece, const std::vector<std::string_view>& words) {
  const auto found = std::find(words.begin(), words.end(), piece.text);
  if (found != words.end()) return static_cast<std::size_t>(found - words.begin());
  given.fail(piece.begin, fmt::format("'{}' must be one of {}, got '{}'{}", entry.key.text, fmt::join(words, ", "),
                                      piece.text, did_you_mean(piece.text, words)));
}

template <std::size_t n>
std::size_t word(const Given& given, const Entry& entry, Piece piece, const std::array<std::string_view, n>& words) {
  return word(given, entry, piece, std::vector<std::string_view>(words.begin(), words.end()));
}

std::uint8_t recompute_modules(const Given& given, const Entry& entry) {
  std::uint8_t modules = 0;
  for (const Piece& piece : split(entry.value, '+')) {
    const auto bit = static_cast<std::uint8_t>(1u << word(given, entry, piece, kRecomputeModuleNames));
    if (modules & bit) given.fail(piece.begin, fmt::format("'{}' names '{}' twice", entry.key.text, piece.text));
    modules = static_cast<std::uint8_t>(modules | bit);
  }
  return modules;
}

Overlaps overlaps(const Given& given, const Entry& entry) {
  Overlaps on;
  if (entry.value.text == "none") return on;
  std::vector<std::string_view> words(kOverlapNames.begin(), kOverlapNames.end());
  words.push_back("none");
  for (const Piece& piece : split(entry.value, '+')) {
    const std::size_t chosen = word(given, entry, piece, words);
    if (chosen == kOverlapNames.size()) given.fail(piece.begin, fmt::format("'{}' is none or some", entry.key.text));
    const auto overlap = static_cast<Overlap>(chosen);
    if (on.has(overlap)) given.fail(piece.begin, fmt::format("'{}' names '{}' twice", entry.key.text, piece.text));
    on.set(overlap, true);
  }
  return on;
}

std::vector<int> layer_list(const Given& given, const Entry& entry) {
  std::vector<int> layers;
  for (const Piece& piece : split(entry.value, '+')) {
    layers.push_back(static_cast<int>(whole_number(given, entry, piece, 0, kMostLayers)));
  }
  return layers;
}

const std::vector<std::string_view>& known_keys() {
  static const std::vector<std::string_view> keys = {"tp",
                                                     "pp",
                                                     "vpp",
                                                     "cp",
                                                     "dp",
                                                     "ep",
                                                     "etp",
                                                     "zero",
                                                     "recompute",
                                                     "sequence_parallel",
                                                     "schedule",
                                                     "cp_kind",
                                                     "fsdp_group",
                                                     "rank_order",
                                                     "dispatcher",
                                                     "overlap",
                                                     "recompute_modules",
                                                     "micro_batch",
                                                     "layers_per_stage"};
  return keys;
}

/// The string's entries, each key once.
std::vector<Entry> entries_of(const Given& given) {
  const std::string& text = given.text;
  if (text.size() > kLongestText) {
    throw InputError(fmt::format("{}: has {} characters, more than {}", given.what, text.size(), kLongestText));
  }
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') given.fail(i, "spaces are not allowed");
    if (text[i] < 0x20 || text[i] > 0x7E) given.fail(i, "only printable ASCII characters are allowed");
  }
  std::vector<Entry> entries;
  if (text.empty()) return entries;
  for (const Piece& item : split({text, 0}, ',')) {
    if (item.text.empty()) given.fail(item.begin, "expected key=value between commas");
    const std::size_t equals = item.text.find('=');
    if (equals == std::string_view::npos) {
      given.fail(item.begin, fmt::format("expected key=value, got '{}'", item.text));
    }
    const Entry entry = {{item.text.substr(0, equals), item.begin},
                         {item.text.substr(equals + 1), item.begin + equals + 1}};
    const std::vector<std::string_view>& known = known_keys();
    if (std::find(known.begin(), known.end(), entry.key.text) == known.end()) {
      given.fail(entry.key.begin,
                 fmt::format("unknown key '{}'{}", entry.key.text, did_you_mean(entry.key.text, known)));
    }
    for (const Entry& earlier : entries) {
      if (earlier.key.text == entry.key.text) {
        given.fail(entry.key.begin, fmt::format("'{}' is given twice", entry.key.text));
      }
    }
    if (entry.value.text.empty()) { given.fail(entry.value.begin, fmt::format("'{}' has no value", entry.key.text)); }
    entries.push_back(entry);
  }
  return entries;
}

/// recompute and recompute_modules make one choice.
std::optional<Recompute> recompute_of(const Given& given, const Entry* kind, const Entry* modules) {
  if (kind == nullptr && modules == nullptr) return std::nullopt;
  Recompute choice;
  choice.modules = modules == nullptr ? 0 : recompute_modules(given, *modules);
  if (kind == nullptr) return choice;
  const std::size_t chosen = word(given, *kind, kind->value, {"none", "selective", "full"});
  if (chosen != 1 && modules != nullptr) {
    given.fail(modules->key.begin,
               fmt::format("'recompute_modules' contradicts recompute={}: modules are chosen when it is selective",
                           kind->value.text));
  }
  choice.full = chosen == 2;
  if (chosen == 1 && modules == nullptr) choice.modules = 1u << static_cast<int>(RecomputeModule::core_attn);
  return choice;
}

const Entry* entry_named(const std::vector<Entry>& entries, std::string_view key) {
  for (const Entry& entry : entries) {
    if (entry.key.text == key) return &entry;
  }
  return nullptr;
}

/// Values that are right each alone, but are no layout together.
void check_together(const Given& given, const std::vector<Entry>& entries, const LayoutPins& pins) {
  if (pins.schedule && pins.vpp && !takes_chunks(*pins.schedule, *pins.vpp)) {
    const Schedule chosen = *pins.schedule;
    const char* why = chosen == Schedule::interleaved ? "interleaved has more than one chunk a stage"
                      : takes_chunks(chosen, 2)       ? "it has two chunks a stage"
                                                      : "more than one chunk a stage is interleaved";
    given.fail(entry_named(entries, "schedule")->value.begin,
               fmt::format("schedule={} contradicts vpp={}: {}", name_of(chosen), *pins.vpp, why));
  }
  if (pins.zero == 0 && pins.fsdp_group && *pins.fsdp_group > 1) {
    given.fail(entry_named(entries, "fsdp_group")->value.begin,
               fmt::format("fsdp_group={} contradicts zero=0, which shards nothing", *pins.fsdp_group));
  }
  if (pins.layers_per_stage && pins.pp) {
    const auto count = static_cast<std::int64_t>(pins.layers_per_stage->size());
    const std::int64_t stages = *pins.pp;
    const bool by_stage = count == stages;
    const bool by_chunk = pins.vpp ? count == stages * *pins.vpp : count % stages == 0;
    if (!by_stage && !by_chunk) {
      const std::string chunks = pins.vpp && *pins.vpp > 1 ? fmt::format(" or pp * vpp = {}", stages * *pins.vpp) : "";
      given.fail(entry_named(entries, "layers_per_stage")->value.begin,
                 fmt::format("'layers_per_stage' has {} entries, not pp = {}{}", count, stages, chunks));
    }
  }
}

// ---- Writing ----

std::string modules_text(std::uint8_t modules) {
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < kRecomputeModuleNames.size(); ++i) {
    if (modules >> i & 1) names.push_back(kRecomputeModuleNames[i]);
  }
  return fmt::format("{}", fmt::join(names, "+"));
}

}  // namespace

std::string_view name_of(Schedule schedule) { return kScheduleNames[static_cast<std::size_t>(schedule)]; }
std::string_view name_of(RecomputeModule module) { return kRecomputeModuleNames[static_cast<std::size_t>(module)]; }
std::string_view name_of(RankOrder order) { return kRankOrderNames[static_cast<std::size_t>(order)]; }
std::string_view name_of(ContextParallel kind) { return kContextParallelNames[static_cast<std::size_t>(kind)]; }
std::string_view name_of(Overlap overlap) { return kOverlapNames[static_cast<std::size_t>(overlap)]; }
std::string_view name_of(Dispatcher dispatcher) { return kDispatcherNames[static_cast<std::size_t>(dispatcher)]; }

std::string to_string(Overlaps overlaps) {
  std::vector<std::string_view> names;
  for (const Overlap o : kOverlapList)
    if (overlaps.has(o)) names.push_back(name_of(o));
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, "+"));
}

Overlaps overlaps_of(const Layout& layout) {
  Overlaps all;
  const bool copies = std::int64_t{layout.data} * layout.context > 1;
  all.set(Overlap::tp, layout.tensor > 1);
  all.set(Overlap::ep, layout.expert > 1);
  all.set(Overlap::shared_experts, layout.expert > 1);
  all.set(Overlap::grad_reduce, copies);
  all.set(Overlap::param_gather, copies);
  all.set(Overlap::p2p, layout.pipeline > 1);
  return all;
}

bool takes_chunks(Schedule schedule, int chunks) {
  if (schedule == Schedule::interleaved) return chunks > 1;
  return chunks == (schedule == Schedule::zb_v || schedule == Schedule::dualpipe_v ? 2 : 1);
}

bool has_pairs(const Layout& layout) {
  return layout.overlap.has(Overlap::ep) || layout.schedule == Schedule::dualpipe ||
         layout.schedule == Schedule::dualpipe_v;
}

LayoutPins parse_layout(const std::string& text, const std::string& what) {
  const Given given{text, what};
  const std::vector<Entry> entries = entries_of(given);
  LayoutPins pins;
  for (const Entry& entry : entries) {
    const std::string_view key = entry.key.text;
    if (key == "tp") pins.tp = degree(given, entry);
    if (key == "pp") pins.pp = degree(given, entry);
    if (key == "vpp") pins.vpp = degree(given, entry);
    if (key == "cp") pins.cp = degree(given, entry);
    if (key == "dp") pins.dp = degree(given, entry);
    if (key == "ep") pins.ep = degree(given, entry);
    if (key == "etp") pins.etp = degree(given, entry);
    if (key == "sequence_parallel") pins.sequence_parallel = word(given, entry, entry.value, {"false", "true"}) == 1;
    if (key == "zero") pins.zero = static_cast<int>(whole_number(given, entry, entry.value, 0, 3));
    if (key == "fsdp_group") pins.fsdp_group = degree(given, entry);
    if (key == "micro_batch") pins.micro_batch = degree(given, entry);
    if (key == "schedule") pins.schedule = static_cast<Schedule>(word(given, entry, entry.value, kScheduleNames));
    if (key == "rank_order") pins.rank_order = static_cast<RankOrder>(word(given, entry, entry.value, kRankOrderNames));
    if (key == "cp_kind")
      pins.cp_kind = static_cast<ContextParallel>(word(given, entry, entry.value, kContextParallelNames));
    if (key == "dispatcher")
      pins.dispatcher = static_cast<Dispatcher>(word(given, entry, entry.value, kDispatcherNames));
    if (key == "overlap") {
      pins.overlap_on = overlaps(given, entry);
      pins.overlap_off.bits = static_cast<std::uint8_t>(Overlaps::all().bits & ~pins.overlap_on.bits);
    }
    if (key == "layers_per_stage") pins.layers_per_stage = layer_list(given, entry);
  }
  pins.recompute = recompute_of(given, entry_named(entries, "recompute"), entry_named(entries, "recompute_modules"));
  check_together(given, entries, pins);
  return pins;
}

std::string to_string(const Layout& layout) {
  std::string text = fmt::format("tp={},pp={}", layout.tensor, layout.pipeline);
  const auto add = [&](std::string_view key, const auto& value) { text += fmt::format(",{}={}", key, value); };
  const bool has_ranks_to_shard = layout.data > 1 || layout.context > 1;
  const bool order_matters = layout.data > 1 && layout.pipeline > 1;
  if (layout.virtual_pipeline > 1) add("vpp", layout.virtual_pipeline);
  if (layout.context > 1) add("cp", layout.context);
  if (layout.context > 1) add("cp_kind", name_of(layout.context_kind));
  add("dp", layout.data);
  if (layout.expert > 1) add("ep", layout.expert);
  if (layout.expert_tensor > 1) add("etp", layout.expert_tensor);
  if (layout.expert > 1) add("dispatcher", name_of(layout.dispatcher));
  if (layout.tensor > 1 || layout.sequence_parallel) add("sequence_parallel", layout.sequence_parallel);
  if (has_ranks_to_shard || layout.zero > 0) add("zero", layout.zero);
  if (layout.zero > 0) add("fsdp_group", layout.shard_group);
  if (layout.recompute.full) {
    add("recompute", "full");
  } else if (layout.recompute.modules == 0) {
    add("recompute", "none");
  } else {
    add("recompute", "selective");
    add("recompute_modules", modules_text(layout.recompute.modules));
  }
  add("micro_batch", layout.micro_batch);
  if (layout.pipeline > 1 || layout.schedule != Layout{}.schedule) add("schedule", name_of(layout.schedule));
  if (order_matters || layout.rank_order != Layout{}.rank_order) add("rank_order", name_of(layout.rank_order));
  if (overlaps_of(layout).bits != 0) add("overlap", to_string(layout.overlap));
  if (layout.layers_per_chunk.size() > 1)
    add("layers_per_stage", fmt::format("{}", fmt::join(layout.layers_per_chunk, "+")));
  return text;
}

std::vector<int> layers_per_stage(const Layout& layout) {
  const auto stages = static_cast<std::size_t>(layout.pipeline);
  assert(layout.layers_per_chunk.size() == stages * static_cast<std::size_t>(layout.virtual_pipeline) &&
         "a layout has an entry for each chunk");
  std::vector<int> layers(stages, 0);
  for (std::size_t i = 0; i < layout.layers_per_chunk.size(); ++i) layers[i % stages] += layout.layers_per_chunk[i];
  return layers;
}

}  // namespace shardwright
