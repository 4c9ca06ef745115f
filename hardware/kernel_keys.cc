#include "hardware/kernel_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <charconv>
#include <cmath>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

constexpr std::int64_t kLargestCount = std::int64_t{1} << 53;  // exact in a double, too
constexpr std::int64_t kLargestGroup = std::int64_t{1} << 24;  // ranks, as in planner/layout.cc
constexpr std::int64_t kLargestStride = std::int64_t{1} << 24;
constexpr double kLargestExponent = 100;
constexpr std::string_view kPowerLaw = "power_law_";

// ---- The keys ----

const std::vector<std::string_view>& stored_words() {
  static const std::vector<std::string_view> words(kStoredTypeNames.begin(), kStoredTypeNames.end());
  return words;
}
const std::vector<std::string_view>& data_words() {
  static const std::vector<std::string_view> words(kStoredTypeNames.begin(),
                                                   kStoredTypeNames.begin() + kDataTypes.size());
  return words;
}

/// The keys of one family, in order.
class Keys {
 public:
  Keys& required(std::string_view name, std::int64_t low = 1) { return add({.name = name, .low = low}); }
  Keys& count(std::string_view name, std::int64_t constant, std::int64_t low) {
    return add({.name = name, .unless = Unless::constant, .constant = constant, .low = low});
  }
  Keys& count_as(std::string_view name, std::string_view other, std::int64_t low) {
    return add({.name = name, .unless = Unless::same_as, .other = slot_of(other), .low = low});
  }
  Keys& flag(std::string_view name, bool constant) {
    return add({.name = name, .type = KeyType::flag, .unless = Unless::constant, .constant = constant});
  }
  Keys& required_word(std::string_view name, std::vector<std::string_view> words) {
    return add({.name = name, .type = KeyType::word, .words = std::move(words)});
  }
  Keys& word(std::string_view name, std::vector<std::string_view> words, std::int64_t constant = 0) {
    return add({.name = name,
                .type = KeyType::word,
                .unless = Unless::constant,
                .constant = constant,
                .words = std::move(words)});
  }
  Keys& type() { return required_word("type", data_words()); }
  Keys& type_as(std::string_view name, std::string_view other) {
    return add({.name = name,
                .type = KeyType::word,
                .unless = Unless::same_as,
                .other = slot_of(other),
                .words = stored_words()});
  }
  Keys& result() {
    return add({.name = "result",
                .type = KeyType::word,
                .unless = Unless::result_of,
                .other = slot_of("type"),
                .words = stored_words()});
  }
  Keys& scaling() { return word("scaling", {"tensor", "row", "block"}); }
  Keys& routing() { return add({.name = "routing", .type = KeyType::routing, .unless = Unless::constant}); }
  Keys& share(std::string_view name) {
    return add({.name = name,
                .type = KeyType::share,
                .unless = Unless::constant,
                .constant = std::bit_cast<std::int64_t>(1.0)});
  }
  Keys& group() { return add({.name = "group", .type = KeyType::group}); }

  std::vector<KernelKey> keys;
  int slots = 0;

 private:
  Keys& add(KernelKey key) {
    key.slot = slots;
    slots += key.slots();
    assert(slots <= kMostSlots && "a family with more slots than KernelSlots holds");
    keys.push_back(std::move(key));
    return *this;
  }
  int slot_of(std::string_view name) const {
    return std::find_if(keys.begin(), keys.end(), [&](const KernelKey& key) { return key.name == name; })->slot;
  }
};

/// The order of each is that of walk() below.
std::array<Keys, kKernelFamilies> make_families() {
  std::array<Keys, kKernelFamilies> all;
  const auto keys = [&](KernelFamily family) -> Keys& { return all[static_cast<std::size_t>(family)]; };
  keys(KernelFamily::gemm)
      .required("m", 0)
      .required("n", 0)
      .required("k", 0)
      .count("batch", 1, 0)
      .type()
      .type_as("weights", "type")
      .result()
      .scaling()
      .flag("accumulate", false)
      .flag("cast", true)
      .word("layout", {"unstated", "nn", "nt", "tn", "tt"});
  keys(KernelFamily::grouped_gemm)
      .required("groups")
      .required("m_per_group", 0)
      .required("n", 0)
      .required("k", 0)
      .type()
      .type_as("weights", "type")
      .result()
      .scaling()
      .flag("accumulate", false)
      .flag("cast", true);
  keys(KernelFamily::moe_layer)
      .required("tokens", 0)
      .required("hidden_size")
      .required("intermediate_size")
      .required("n_routed_experts")
      .required("num_experts_per_tok")
      .count("redundant_experts", 0, 0)
      .count("ep", 1, 1)
      .count("etp", 1, 1)
      .routing()
      .flag("eplb", false)
      .flag("router", true)
      .flag("gated", true)
      .type()
      .type_as("weights", "type")
      .scaling();
  keys(KernelFamily::attention)
      .count("batch", 1, 0)
      .required("heads")
      .count_as("kv_heads", "heads", 1)
      .required("query", 0)
      .count_as("key", "query", 0)
      .required("head_dim")
      .count_as("value_dim", "head_dim", 1)
      .count("window", 0, 0)
      .flag("values_in_keys", false)
      .flag("causal", true)
      .flag("backward", false)
      .type()
      .flag("queries_last", false)
      .count("selected", 0, 0)
      .type_as("kv_type", "type");
  keys(KernelFamily::mla_module)
      .count("batch", 1, 0)
      .required("heads")
      .required("query", 0)
      .count_as("key", "query", 0)
      .count("hidden_size", MlaModuleSpec{}.hidden_size, 1)
      .count("q_lora_rank", MlaModuleSpec{}.q_lora_rank, 0)
      .count("kv_lora_rank", MlaModuleSpec{}.kv_lora_rank, 1)
      .count("qk_nope_head_dim", MlaModuleSpec{}.qk_nope_head_dim, 1)
      .count("qk_rope_head_dim", MlaModuleSpec{}.qk_rope_head_dim, 1)
      .count("v_head_dim", MlaModuleSpec{}.v_head_dim, 1)
      .flag("absorbed", false)
      .type()
      .type_as("kv_type", "type")
      .type_as("gemm_type", "type")
      .scaling();
  keys(KernelFamily::memory)
      .required("bytes", 0)
      .word("pass", {"stream",
                     "copy",
                     "sum",
                     "add_bias",
                     "add_bias_gradient",
                     "rms_norm",
                     "rms_norm_gradient",
                     "layer_norm",
                     "layer_norm_gradient",
                     "gelu",
                     "gelu_gradient",
                     "gated_silu",
                     "gated_silu_gradient",
                     "rotary",
                     "vocabulary_max",
                     "vocabulary_exp_sum",
                     "vocabulary_exp_sum_gradient",
                     "gather",
                     "gather_gradient",
                     "adam"});
  keys(KernelFamily::collective)
      .required_word("op", {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"})
      .required("bytes", 0)
      .group()
      .share("crossing")
      .word("type", stored_words(), -1)
      .word("algorithm", {"nccl", "custom", "one_shot_multicast", "two_shot_multicast", "lsa_simple", "lsa_poison"});
  keys(KernelFamily::moe_exchange)
      .required_word("op",
                     {"prepare", "dispatch", "combine", "combine_low_precision", "dispatch_notify", "combine_notify"})
      .word("mode", {"normal", "low_latency"})
      .required("tokens", 0)
      .required("hidden_size")
      .required("num_experts_per_tok")
      .count("n_routed_experts", 0, 0)
      .count("top_groups", 0, 0)
      .count("sms", 0, 0)
      .group()
      .routing()
      .word("type", stored_words(), -1)
      .word("backend", {"deepep", "hybrid_ep", "nccl_ep", "nvlink_one_sided", "nvlink_two_sided"});
  return all;
}

const Keys& family_keys(KernelFamily family) {
  static const std::array<Keys, kKernelFamilies> all = make_families();
  return all[static_cast<std::size_t>(family)];
}

/// The size along which times are read off.
std::string_view curve_key(KernelFamily family) {
  switch (family) {
    case KernelFamily::gemm:
      return "m";
    case KernelFamily::grouped_gemm:
      return "m_per_group";
    case KernelFamily::moe_layer:
    case KernelFamily::moe_exchange:
      return "tokens";
    case KernelFamily::attention:
    case KernelFamily::mla_module:
      return "key";
    case KernelFamily::memory:
    case KernelFamily::collective:
      return "bytes";
  }
  assert(false && "a family without a curve");
  return "";
}

std::vector<int> make_sort_order(KernelFamily family) {
  std::vector<int> order;
  const KernelKey* curve = find_key(family, curve_key(family));
  for (const bool sizes : {false, true}) {
    for (const KernelKey& key : kernel_keys(family)) {
      if (&key == curve || (key.type == KeyType::count) != sizes) continue;
      for (int i = 0; i < key.slots(); ++i) order.push_back(key.slot + i);
    }
  }
  order.push_back(curve->slot);
  return order;
}

// ---- Between structs and slots ----

/// Struct to slots; an absent type is what it stands for.
struct ToSlots {
  std::int64_t* next;

  void count(std::int64_t value) { *next++ = value; }
  void flag(bool value) { *next++ = value; }
  template <typename Enum>
  void word(Enum value) {
    *next++ = static_cast<std::int64_t>(value);
  }
  void type_or(const std::optional<StoredType>& type, StoredType otherwise) {
    *next++ = static_cast<std::int64_t>(type.value_or(otherwise));
  }
  void type_or_unstated(const std::optional<StoredType>& type) {
    *next++ = type ? static_cast<std::int64_t>(*type) : -1;
  }
  void real(double value) { *next++ = std::bit_cast<std::int64_t>(value + 0.0); }  // + 0.0: no negative zero
  void group(const RankGroup& group) {
    for (int i = 0; i < RankGroup::kMaxFactors; ++i) {
      *next++ = i < group.count ? group.factors[i].size : 0;
      *next++ = i < group.count ? group.factors[i].stride : 0;
    }
  }
};

/// Slots to struct; a type that needs no saying is absent.
struct FromSlots {
  const std::int64_t* next;

  void count(std::int64_t& value) { value = *next++; }
  void flag(bool& value) { value = *next++ != 0; }
  template <typename Enum>
  void word(Enum& value) {
    value = static_cast<Enum>(*next++);
  }
  void type_or(std::optional<StoredType>& type, StoredType otherwise) {
    const auto read = static_cast<StoredType>(*next++);
    type = read == otherwise ? std::nullopt : std::optional(read);
  }
  void type_or_unstated(std::optional<StoredType>& type) {
    const std::int64_t read = *next++;
    type = read < 0 ? std::nullopt : std::optional(static_cast<StoredType>(read));
  }
  void real(double& value) { value = std::bit_cast<double>(*next++); }
  void group(RankGroup& group) {
    group = {};
    for (int i = 0; i < RankGroup::kMaxFactors; ++i, next += 2) {
      if (next[0] > 0) group.add(static_cast<std::int32_t>(next[0]), next[1]);
    }
  }
};

template <typename Slots>
void walk(GemmSpec& spec, Slots& slots) {
  slots.count(spec.m);
  slots.count(spec.n);
  slots.count(spec.k);
  slots.count(spec.batch);
  slots.word(spec.type);
  slots.type_or(spec.weights, stored(spec.type));
  slots.type_or(spec.result, default_result(spec.type));
  slots.word(spec.scaling);
  slots.flag(spec.accumulate);
  slots.flag(spec.cast);
  slots.word(spec.layout);
}

template <typename Slots>
void walk(GroupedGemmSpec& spec, Slots& slots) {
  slots.count(spec.groups);
  slots.count(spec.m_per_group);
  slots.count(spec.n);
  slots.count(spec.k);
  slots.word(spec.type);
  slots.type_or(spec.weights, stored(spec.type));
  slots.type_or(spec.result, default_result(spec.type));
  slots.word(spec.scaling);
  slots.flag(spec.accumulate);
  slots.flag(spec.cast);
}

template <typename Slots>
void walk(MoeLayerSpec& spec, Slots& slots) {
  slots.count(spec.tokens);
  slots.count(spec.hidden_size);
  slots.count(spec.intermediate_size);
  slots.count(spec.n_routed_experts);
  slots.count(spec.num_experts_per_tok);
  slots.count(spec.redundant_experts);
  slots.count(spec.ep);
  slots.count(spec.etp);
  slots.real(spec.power_law);
  slots.flag(spec.eplb);
  slots.flag(spec.router);
  slots.flag(spec.gated);
  slots.word(spec.type);
  slots.type_or(spec.weights, stored(spec.type));
  slots.word(spec.scaling);
}

template <typename Slots>
void walk(AttentionSpec& spec, Slots& slots) {
  slots.count(spec.batch);
  slots.count(spec.heads);
  slots.count(spec.kv_heads);
  slots.count(spec.query_length);
  slots.count(spec.key_length);
  slots.count(spec.head_dim);
  slots.count(spec.value_dim);
  slots.count(spec.window);
  slots.flag(spec.values_in_keys);
  slots.flag(spec.causal);
  slots.flag(spec.backward);
  slots.word(spec.type);
  slots.flag(spec.queries_last);
  slots.count(spec.selected);
  slots.type_or(spec.kv_type, stored(spec.type));
}

template <typename Slots>
void walk(MlaModuleSpec& spec, Slots& slots) {
  slots.count(spec.batch);
  slots.count(spec.heads);
  slots.count(spec.query_length);
  slots.count(spec.key_length);
  slots.count(spec.hidden_size);
  slots.count(spec.q_lora_rank);
  slots.count(spec.kv_lora_rank);
  slots.count(spec.qk_nope_head_dim);
  slots.count(spec.qk_rope_head_dim);
  slots.count(spec.v_head_dim);
  slots.flag(spec.absorbed);
  slots.word(spec.type);
  slots.type_or(spec.kv_type, stored(spec.type));
  slots.type_or(spec.gemm_type, stored(spec.type));
  slots.word(spec.scaling);
}

template <typename Slots>
void walk(MemorySpec& spec, Slots& slots) {
  slots.count(spec.moved.value);
  slots.word(spec.pass);
}

template <typename Slots>
void walk(CollectiveSpec& spec, Slots& slots) {
  slots.word(spec.kind);
  slots.count(spec.held.value);
  slots.group(spec.group);
  slots.real(spec.crossing);
  slots.type_or_unstated(spec.type);
  slots.word(spec.algorithm);
}

template <typename Slots>
void walk(MoeExchangeSpec& spec, Slots& slots) {
  slots.word(spec.op);
  slots.word(spec.mode);
  slots.count(spec.tokens);
  slots.count(spec.hidden_size);
  slots.count(spec.num_experts_per_tok);
  slots.count(spec.n_routed_experts);
  slots.count(spec.top_groups);
  slots.count(spec.sms);
  slots.group(spec.group);
  slots.real(spec.power_law);
  slots.type_or_unstated(spec.type);
  slots.word(spec.backend);
}

// ---- Between slots and text ----

bool read_count(std::string_view text, std::int64_t low, std::int64_t high, std::int64_t& value) {
  // from_chars alone would take a sign.
  if (text.empty() || text[0] < '0' || text[0] > '9' || (text[0] == '0' && text.size() > 1)) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= low && value <= high;
}

bool read_real(std::string_view text, double high, std::int64_t& bits) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return false;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value <= high)) return false;
  bits = std::bit_cast<std::int64_t>(value);
  return true;
}

void write_real(std::int64_t bits, std::string& text) {
  std::array<char, 32> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), std::bit_cast<double>(bits));
  assert(error == std::errc() && "a double is shorter than 32 characters");
  text.append(buffer.data(), end);
}

/// `8`, `2x8`, `2:4x8`: runs of at least two ranks, each stepping over the ones before it.
bool read_group(std::string_view text, std::int64_t* slots) {
  RankGroup group;
  std::int64_t covered = 1, ranks = 1;
  if (text != "1") {
    while (true) {
      const std::string_view run = text.substr(0, text.find(':'));
      const std::size_t cross = run.find('x');
      std::int64_t size = 0, stride = 1;
      if (!read_count(run.substr(0, cross), 2, kLargestGroup, size)) return false;
      if (cross != std::string_view::npos && !read_count(run.substr(cross + 1), 1, kLargestStride, stride))
        return false;
      ranks *= size;
      const bool joins = group.count > 0 && stride == covered;
      if (stride < covered || ranks > kLargestGroup || (group.count == RankGroup::kMaxFactors && !joins)) return false;
      group.add(static_cast<std::int32_t>(size), stride);
      covered = size * stride;
      if (run.size() == text.size()) break;
      text.remove_prefix(run.size() + 1);
    }
  }
  ToSlots{slots}.group(group);
  return true;
}

void write_group(const std::int64_t* slots, std::string& text) {
  RankGroup group;
  FromSlots{slots}.group(group);
  if (group.count == 0) text += '1';
  for (int i = 0; i < group.count; ++i) {
    if (i > 0) text += ':';
    text += std::to_string(group.factors[i].size);
    if (group.factors[i].stride != 1) text += 'x' + std::to_string(group.factors[i].stride);
  }
}

bool read_word(const std::vector<std::string_view>& words, std::string_view text, std::int64_t& index) {
  const auto found = std::find(words.begin(), words.end(), text);
  index = found - words.begin();
  return found != words.end();
}

}  // namespace

const std::vector<KernelKey>& kernel_keys(KernelFamily family) { return family_keys(family).keys; }
int slot_count(KernelFamily family) { return family_keys(family).slots; }

const KernelKey* find_key(KernelFamily family, std::string_view name) {
  for (const KernelKey& key : kernel_keys(family)) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

const std::vector<int>& sort_order(KernelFamily family) {
  static const std::array<std::vector<int>, kKernelFamilies> all = [] {
    std::array<std::vector<int>, kKernelFamilies> orders;
    for (int i = 0; i < kKernelFamilies; ++i)
      orders[static_cast<std::size_t>(i)] = make_sort_order(static_cast<KernelFamily>(i));
    return orders;
  }();
  return all[static_cast<std::size_t>(family)];
}

KernelSlots to_slots(const KernelSpec& spec) {
  KernelSlots slots = {};
  ToSlots to{slots.data()};
  std::visit([&](auto copy) { walk(copy, to); }, spec);
  assert(to.next - slots.data() == slot_count(family_of(spec)) && "keys and walk() differ");
  return slots;
}

namespace {

template <std::size_t... Index>
KernelSpec empty_spec(KernelFamily family, std::index_sequence<Index...>) {
  KernelSpec spec;
  (void)((static_cast<std::size_t>(family) == Index && (spec.emplace<Index>(), true)) || ...);
  return spec;
}

}  // namespace

KernelSpec from_slots(KernelFamily family, const KernelSlots& slots) {
  KernelSpec spec = empty_spec(family, std::make_index_sequence<std::variant_size_v<KernelSpec>>());
  FromSlots from{slots.data()};
  std::visit([&](auto& alternative) { walk(alternative, from); }, spec);
  return spec;
}

std::int64_t default_of(const KernelKey& key, const KernelSlots& slots) {
  assert(key.unless != Unless::required && "a required key has no default");
  const std::int64_t other = slots[static_cast<std::size_t>(key.other)];
  if (key.unless == Unless::same_as) return other;
  if (key.unless == Unless::result_of) return static_cast<std::int64_t>(default_result(static_cast<DataType>(other)));
  return key.constant;
}

bool read_value(const KernelKey& key, std::string_view text, std::int64_t* slots) {
  switch (key.type) {
    case KeyType::count:
      return read_count(text, key.low, kLargestCount, *slots);
    case KeyType::flag:
      *slots = text == "true";
      return text == "true" || text == "false";
    case KeyType::word:
      return read_word(key.words, text, *slots);
    case KeyType::share:
      return read_real(text, 1, *slots);
    case KeyType::routing:
      if (text == "balanced") {
        *slots = 0;
        return true;
      }
      return text.starts_with(kPowerLaw) && read_real(text.substr(kPowerLaw.size()), kLargestExponent, *slots) &&
             *slots != 0;
    case KeyType::group:
      return read_group(text, slots);
  }
  return false;
}

std::string value_needed(const KernelKey& key, std::string_view text) {
  switch (key.type) {
    case KeyType::count:
      return fmt::format("a whole number between {} and {}", key.low, kLargestCount);
    case KeyType::flag:
      return "true or false";
    case KeyType::word:
      return fmt::format("one of {}", fmt::join(key.words, ", ")) + did_you_mean(text, key.words);
    case KeyType::share:
      return "a number between 0 and 1";
    case KeyType::routing:
      return "balanced or power_law_ and its exponent";
    case KeyType::group:
      return "ranks such as 8, 2x8 (two, 8 apart) or 2:4x8";
  }
  return "";
}

void write_value(const KernelKey& key, const std::int64_t* slots, std::string& text) {
  switch (key.type) {
    case KeyType::count:
      text += std::to_string(*slots);
      return;
    case KeyType::flag:
      text += *slots != 0 ? "true" : "false";
      return;
    case KeyType::word:
      if (*slots >= 0) text += key.words[static_cast<std::size_t>(*slots)];
      return;
    case KeyType::share:
      return write_real(*slots, text);
    case KeyType::routing:
      if (*slots == 0) {
        text += "balanced";
        return;
      }
      text += kPowerLaw;
      return write_real(*slots, text);
    case KeyType::group:
      return write_group(slots, text);
  }
}

}  // namespace shardwright
