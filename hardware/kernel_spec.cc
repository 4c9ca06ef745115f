#include "hardware/kernel_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "hardware/input_error.h"
#include "hardware/kernel_keys.h"

namespace shardwright {
namespace {

constexpr std::array<std::string_view, kKernelFamilies> kFamilyNames = {
    "gemm", "grouped_gemm", "moe_layer", "attention", "mla_module", "memory", "collective", "moe_exchange"};
constexpr std::size_t kLongestText = 1 << 12;

/// A word of a question's text, and where it begins.
struct Word {
  std::string_view text;
  std::size_t begin = 0;
};

std::vector<Word> words_of(std::string_view text) {
  std::vector<Word> words;
  for (std::size_t begin = text.find_first_not_of(' '); begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    words.push_back({text.substr(begin, end - begin), begin});
    begin = text.find_first_not_of(' ', end);
  }
  return words;
}

/// Reads one text; a class for its place in messages.
class SpecReader {
 public:
  SpecReader(const std::string& text, const std::string& what) : text_(text), what_(what) {}

  KernelSpec read() {
    if (text_.size() > kLongestText) {
      throw InputError(fmt::format("{}: has {} characters, more than {}", what_, text_.size(), kLongestText));
    }
    const std::vector<Word> words = words_of(text_);
    if (words.empty()) fail(0, fmt::format("names no kernel; there are {}", fmt::join(kFamilyNames, ", ")));
    const auto family = kernel_family_named(words[0].text);
    if (!family) {
      fail(words[0].begin, fmt::format("unknown kernel '{}'{}", words[0].text,
                                       did_you_mean(words[0].text, {kFamilyNames.begin(), kFamilyNames.end()})));
    }
    family_ = *family;
    given_.assign(kernel_keys(family_).size(), false);
    for (std::size_t i = 1; i < words.size(); ++i) take(words[i]);
    fill_in(words[0].begin);
    return from_slots(family_, slots_);
  }

 private:
  void take(const Word& word) {
    const std::size_t equals = word.text.find('=');
    if (equals == std::string_view::npos) fail(word.begin, fmt::format("expected key=value, got '{}'", word.text));
    const std::string_view name = word.text.substr(0, equals), value = word.text.substr(equals + 1);
    const std::vector<KernelKey>& keys = kernel_keys(family_);
    const KernelKey* key = find_key(family_, name);
    if (key == nullptr) {
      std::vector<std::string_view> known;
      for (const KernelKey& each : keys) known.push_back(each.name);
      fail(word.begin, fmt::format("unknown key '{}' of {}{}", name, name_of(family_), did_you_mean(name, known)));
    }
    const auto index = static_cast<std::size_t>(key - keys.data());
    if (given_[index]) fail(word.begin, fmt::format("'{}' is given twice", name));
    given_[index] = true;
    if (!read_value(*key, value, &slots_[static_cast<std::size_t>(key->slot)])) {
      fail(word.begin + equals + 1, fmt::format("'{}' must be {}, got '{}'", name, value_needed(*key, value), value));
    }
  }

  void fill_in(std::size_t begin) {
    const std::vector<KernelKey>& keys = kernel_keys(family_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (given_[i]) continue;
      if (keys[i].unless == Unless::required) {
        fail(begin, fmt::format("'{}' of {} is missing", keys[i].name, name_of(family_)));
      }
      slots_[static_cast<std::size_t>(keys[i].slot)] = default_of(keys[i], slots_);
    }
  }

  [[noreturn]] void fail(std::size_t at, const std::string& message) const { fail_in_text(what_, text_, at, message); }

  const std::string& text_;
  const std::string& what_;
  KernelFamily family_ = KernelFamily::gemm;
  KernelSlots slots_ = {};
  std::vector<bool> given_;
};

}  // namespace

int arrays_of(MemoryPass pass) {
  switch (pass) {
    case MemoryPass::add_bias_gradient:
    case MemoryPass::vocabulary_max:
    case MemoryPass::vocabulary_exp_sum:
      return 1;
    case MemoryPass::stream:
    case MemoryPass::copy:
    case MemoryPass::add_bias:
    case MemoryPass::rms_norm:
    case MemoryPass::layer_norm:
    case MemoryPass::gelu:
    case MemoryPass::rotary:
    case MemoryPass::vocabulary_exp_sum_gradient:
    case MemoryPass::gather:
      return 2;
    case MemoryPass::sum:
    case MemoryPass::rms_norm_gradient:
    case MemoryPass::layer_norm_gradient:
    case MemoryPass::gelu_gradient:
    case MemoryPass::gated_silu:
    case MemoryPass::gather_gradient:
      return 3;
    case MemoryPass::gated_silu_gradient:
      return 5;
    case MemoryPass::adam:
      return 6;  // as Adam is priced: gradient, twice each moment, the parameter
  }
  assert(false && "a pass without arrays");
  return 2;
}

GemmSpec as_batch(const GroupedGemmSpec& spec) {
  return {.m = spec.m_per_group,
          .n = spec.n,
          .k = spec.k,
          .batch = spec.groups,
          .type = spec.type,
          .weights = spec.weights,
          .result = spec.result,
          .scaling = spec.scaling,
          .accumulate = spec.accumulate,
          .cast = spec.cast};
}

double AttentionSpec::visible_keys() const {
  const auto keys = static_cast<double>(key_length);
  const double width = window == 0 ? keys : std::min(static_cast<double>(window), keys);
  double visible = width;
  if (causal && key_length > 0) {
    // The query at position i sees min(i, width) keys; the mean over i in first..keys. Over all positions and without a
    // window that is half of the keys.
    const double first = queries_last && query_length < key_length ? keys - static_cast<double>(query_length) : 0;
    const double short_of = std::max(width - first, 0.0);
    visible = width - short_of * short_of / (2 * (keys - first));
  }
  if (selected == 0) return visible;
  return key_length == 0 ? static_cast<double>(selected) : std::min(static_cast<double>(selected), visible);
}

Flops AttentionSpec::work() const {
  const double pairs =
      static_cast<double>(batch) * static_cast<double>(heads) * static_cast<double>(query_length) * visible_keys();
  // Forward: scores (head_dim) and output (value_dim). Backward: scores again, gradients of queries and of keys
  // (head_dim), gradients of probabilities and of values (value_dim).
  const std::int64_t depth = backward ? 3 * head_dim + 2 * value_dim : head_dim + value_dim;
  return {2 * pairs * static_cast<double>(depth)};
}

AttentionSpec expanded_mla(std::int64_t heads) {
  return {.heads = heads, .kv_heads = heads, .head_dim = 128 + 64, .value_dim = 128};
}

AttentionSpec absorbed_mla(std::int64_t heads) {
  return {
      .heads = heads, .kv_heads = 1, .head_dim = 512 + 64, .value_dim = 512, .values_in_keys = true, .causal = false};
}

StoredType default_result(DataType type) { return bytes_per_element(type) < 2 ? StoredType::bf16 : stored(type); }

std::string_view name_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::all_reduce:
      return "all_reduce";
    case CollectiveKind::all_gather:
      return "all_gather";
    case CollectiveKind::reduce_scatter:
      return "reduce_scatter";
    case CollectiveKind::all_to_all:
      return "all_to_all";
    case CollectiveKind::send_recv:
      return "send_recv";
  }
  assert(false && "a collective without a name");
  return "";
}

std::string_view name_of(KernelFamily family) { return kFamilyNames[static_cast<std::size_t>(family)]; }

std::optional<KernelFamily> kernel_family_named(std::string_view name) {
  const auto found = std::find(kFamilyNames.begin(), kFamilyNames.end(), name);
  if (found == kFamilyNames.end()) return std::nullopt;
  return static_cast<KernelFamily>(found - kFamilyNames.begin());
}

std::string to_string(const KernelSpec& spec) {
  const KernelFamily family = family_of(spec);
  const KernelSlots slots = to_slots(spec);
  std::string text(name_of(family));
  for (const KernelKey& key : kernel_keys(family)) {
    const std::int64_t* value = &slots[static_cast<std::size_t>(key.slot)];
    if (key.unless != Unless::required && *value == default_of(key, slots)) continue;
    text += ' ';
    text += key.name;
    text += '=';
    write_value(key, value, text);
  }
  return text;
}

KernelSpec parse_kernel_spec(const std::string& text, const std::string& what) { return SpecReader(text, what).read(); }

}  // namespace shardwright
