#include "planner/serve/serve_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "planner/shard/declare.h"

namespace shardwright {
namespace {

constexpr int kMostDegree = 1 << 20;
const std::vector<std::string_view>& known_keys() {
  static const std::vector<std::string_view> keys = {"tp",  "pp", "attention_dp", "cp",     "ep",
                                                     "etp", "dp", "redundant",    "shared", "serving"};
  return keys;
}

struct Entry {
  std::string_view key, value;
  std::size_t key_at = 0, value_at = 0;
};

std::vector<Entry> entries_of(std::string_view what, std::string_view text) {
  std::vector<Entry> entries;
  for (std::size_t at = 0; at < text.size() || (at > 0 && text[at - 1] == ',');) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string_view item = text.substr(at, end - at);
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos)
      fail_in_text(what, text, at, fmt::format("expected key=value, got '{}'", item));
    const Entry entry{item.substr(0, equals), item.substr(equals + 1), at, at + equals + 1};
    if (std::find(known_keys().begin(), known_keys().end(), entry.key) == known_keys().end())
      fail_in_text(what, text, at, fmt::format("unknown key '{}'{}", entry.key, did_you_mean(entry.key, known_keys())));
    for (const Entry& before : entries)
      if (before.key == entry.key) fail_in_text(what, text, at, fmt::format("'{}' is given twice", entry.key));
    entries.push_back(entry);
    at = end + 1;
  }
  return entries;
}

int degree_of(std::string_view what, std::string_view text, const Entry& entry) {
  std::int64_t value = 0;
  const bool digits = !entry.value.empty() && entry.value.size() < 8 &&
                      std::all_of(entry.value.begin(), entry.value.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (digits) value = std::stoll(std::string(entry.value));
  if (value < 1 || value > kMostDegree)
    fail_in_text(
        what, text, entry.value_at,
        fmt::format("'{}' must be a whole number between 1 and {}, got '{}'", entry.key, kMostDegree, entry.value));
  return static_cast<int>(value);
}

}  // namespace

ServePins parse_serve_layout(const std::string& text, const std::string& what) {
  ServePins pins;
  for (const Entry& entry : entries_of(what, text)) {
    if (entry.key == "serving") {
      if (entry.value != "aggregated" && entry.value != "disaggregated")
        fail_in_text(what, text, entry.value_at,
                     fmt::format("'serving' must be aggregated or disaggregated, got '{}'", entry.value));
      pins.disaggregated = entry.value == "disaggregated";
      continue;
    }
    if (entry.key == "shared") {
      if (entry.value != "routed" && entry.value != "apart")
        fail_in_text(what, text, entry.value_at,
                     fmt::format("'shared' must be routed or apart, got '{}'", entry.value));
      pins.shared_routed = entry.value == "routed";
      continue;
    }
    const int degree = degree_of(what, text, entry);
    if (entry.key == "tp") pins.tp = degree;
    if (entry.key == "pp") pins.pp = degree;
    if (entry.key == "attention_dp") pins.attention_dp = degree;
    if (entry.key == "cp") pins.cp = degree;
    if (entry.key == "ep") pins.ep = degree;
    if (entry.key == "etp") pins.etp = degree;
    if (entry.key == "dp") pins.dp = degree;
    if (entry.key == "redundant") pins.redundant = degree;
  }
  return pins;
}

ServePins pins_of(const ServeLayout& l, const Model& model) {
  ServePins pins;
  pins.tp = l.tensor;
  pins.pp = l.pipeline;
  pins.attention_dp = l.attention_data;
  pins.cp = l.context;
  pins.dp = l.replicas;
  pins.disaggregated = false;
  if (model.n_routed_experts == 0) return pins;
  pins.ep = l.expert;
  pins.etp = l.expert_tensor;
  if (l.redundant > 0) pins.redundant = l.redundant;
  pins.shared_routed = l.shared_routed;
  return pins;
}

std::string to_string(const ServeLayout& l) {
  std::string text = fmt::format("tp={},pp={},attention_dp={}", l.tensor, l.pipeline, l.attention_data);
  if (l.context > 1) text += fmt::format(",cp={}", l.context);
  if (l.expert * l.expert_tensor > 1) text += fmt::format(",ep={},etp={}", l.expert, l.expert_tensor);
  if (l.redundant > 0) text += fmt::format(",redundant={}", l.redundant);
  if (l.shared_routed) text += ",shared=routed";
  return text + fmt::format(",dp={}", l.replicas);
}

std::string to_string(const PoolLayout& layout) {
  const auto pool = [](ServeLayout l) {
    const int workers = l.replicas;
    l.replicas = 1;
    std::string text = to_string(l);
    return fmt::format("{} x ({})", workers, text.substr(0, text.rfind(",dp=")));
  };
  return fmt::format("prefill {}, decode {}", pool(layout.prefill), pool(layout.decode));
}

ServeLayout layout_of(const ServePins& pins, const Model& model, std::optional<std::int64_t> gpus) {
  ServeLayout l;
  l.tensor = pins.tp.value_or(1);
  l.pipeline = pins.pp.value_or(1);
  l.attention_data = pins.attention_dp.value_or(1);
  l.context = pins.cp.value_or(1);
  constexpr std::int64_t kMostRanks = 1 << 24;
  std::int64_t most = 1;
  for (const int degree : {l.tensor, l.pipeline, l.attention_data, l.context}) {
    most *= degree;
    if (most > kMostRanks) throw InputError("tp * pp * cp * attention_dp must be at most 16777216");
  }
  const std::int64_t ranks = l.ranks(), copy = ranks * l.pipeline;
  if (gpus && pins.dp && copy * *pins.dp != *gpus)
    throw InputError(fmt::format("{} GPUs do not hold {} copies of {} ranks", *gpus, *pins.dp, copy));
  if (gpus && *gpus % copy != 0)
    throw InputError(fmt::format("tp * pp * cp * attention_dp {} does not divide {} GPUs", copy, *gpus));
  l.replicas = pins.dp.value_or(gpus ? static_cast<int>(*gpus / copy) : 1);
  if (model.n_routed_experts == 0) {
    if (pins.ep.value_or(1) > 1 || pins.etp.value_or(1) > 1 || pins.redundant || pins.shared_routed)
      throw InputError(fmt::format("{} has no experts for ep, etp, redundant or shared", model.name));
    return l;
  }
  l.redundant = pins.redundant.value_or(0);
  l.shared_routed = pins.shared_routed;
  if (l.shared_routed && l.redundant < model.n_shared_experts)
    throw InputError(fmt::format("shared=routed needs redundant, at least {}: places for the shared experts",
                                 std::max<std::int64_t>(1, model.n_shared_experts)));
  const auto rest = [&](int given) {
    if (ranks % given != 0) throw InputError(fmt::format("ep * etp must be tp * cp * attention_dp, {}", ranks));
    return static_cast<int>(ranks / given);
  };
  if (pins.ep) {
    l.expert = *pins.ep;
    l.expert_tensor = pins.etp.value_or(rest(*pins.ep));
  } else {
    l.expert_tensor = pins.etp.value_or(1);
    l.expert = rest(l.expert_tensor);
  }
  if (std::int64_t{l.expert} * l.expert_tensor != ranks)
    throw InputError(fmt::format("ep * etp must be tp * cp * attention_dp, {}", ranks));
  return l;
}

Model deployed(Model model, const ServeLayout& layout) {
  model.n_routed_experts += layout.redundant;
  if (layout.shared_routed) {
    model.num_experts_per_tok += model.n_shared_experts;
    model.n_shared_experts = model.shared_expert_intermediate_size = 0;
  }
  return model;
}

Layout stage_layout(const ServeLayout& serve, Dispatcher dispatcher) {
  Layout l;
  l.tensor = serve.tensor;
  l.context = serve.context;
  l.data = serve.attention_data;
  l.expert = serve.expert;
  l.expert_tensor = serve.expert_tensor;
  l.dispatcher = dispatcher;
  return l;
}

namespace {

std::optional<Rejection> does_not_cut(const char* degree, std::int64_t parts, const char* width, std::int64_t size) {
  if (size % parts == 0) return std::nullopt;
  return Rejection{"ffn", fmt::format("{} {} does not divide {} {}", degree, parts, width, size)};
}

}  // namespace

std::optional<Rejection> impossible(const Model& served, const Machine& machine, const ServeFormats& formats,
                                    const ServeLayout& l) {
  const Model model = deployed(served, l);
  for (const WeightFormat format : {formats.weights, formats.experts})
    if (!supports(machine, format))
      return Rejection{"precision", fmt::format("{} does not compute in {}", machine.name, name_of(format))};
  const std::int64_t tp = l.tensor, kv = model.key_heads(), group = model.num_attention_heads / kv;
  const std::int64_t shared = tp > kv ? tp / std::gcd(tp, kv) : 1;
  if (kv % (tp / shared) != 0 || group % shared != 0)
    return Rejection{"heads", fmt::format("tp {} does not cut {} KV heads with {} query heads each into equal parts",
                                          tp, kv, group)};
  if (l.pipeline > model.num_hidden_layers)
    return Rejection{"layers", fmt::format("pp {} is more than the {} layers", l.pipeline, model.num_hidden_layers)};
  const bool dense = model.n_routed_experts == 0 || model.first_k_dense_replace > 0 || model.moe_layer_freq > 1;
  if (dense)
    if (auto why = does_not_cut("tp", tp, "intermediate_size", model.intermediate_size)) return why;
  if (model.n_routed_experts == 0) return std::nullopt;
  if (model.n_routed_experts % l.expert != 0)
    return Rejection{"experts", fmt::format("ep {} does not divide the {} experts", l.expert, model.n_routed_experts)};
  if (auto why = does_not_cut("etp", l.expert_tensor, "moe_intermediate_size", model.moe_intermediate_size)) return why;
  if (auto why = does_not_cut("tp", tp, "the shared experts' width", model.shared_width())) return why;
  const auto mesh = stage_mesh(stage_layout(l, Dispatcher::all_to_all), model);
  if (const auto* why = std::get_if<std::string>(&mesh)) return Rejection{"mesh", *why};
  return std::nullopt;
}

}  // namespace shardwright
