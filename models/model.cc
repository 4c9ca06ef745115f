#include "models/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <filesystem>

#include "hardware/catalog.h"

namespace shardwright {

/// models/catalog/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& model_catalog();

namespace {

// ---- The keys ----

struct IntegerKey {
  std::string_view name;
  std::int64_t Model::*field;
  std::int64_t low, high;
};

// Upper bounds lie far above any model and low enough that bytes of weights and optimizer fit 63 bits.
constexpr std::int64_t kWidest = std::int64_t{1} << 22;
constexpr std::int64_t kMostLayers = 10000;

constexpr IntegerKey kIntegerKeys[] = {
    {"num_hidden_layers", &Model::num_hidden_layers, 1, kMostLayers},
    {"hidden_size", &Model::hidden_size, 1, 1 << 20},
    {"num_attention_heads", &Model::num_attention_heads, 1, 1 << 16},
    {"num_key_value_heads", &Model::num_key_value_heads, 1, 1 << 16},
    {"head_dim", &Model::head_dim, 1, 1 << 16},
    {"intermediate_size", &Model::intermediate_size, 1, kWidest},
    {"vocab_size", &Model::vocab_size, 1, 1 << 24},
    {"max_position_embeddings", &Model::max_position_embeddings, 1, 1 << 30},
    {"sliding_window", &Model::sliding_window, 1, 1 << 30},
    {"sliding_window_pattern", &Model::sliding_window_pattern, 1, kMostLayers},
    {"attention_chunk_size", &Model::attention_chunk_size, 1, 1 << 30},
    {"n_routed_experts", &Model::n_routed_experts, 1, 1 << 16},
    {"num_experts_per_tok", &Model::num_experts_per_tok, 1, 1 << 16},
    {"moe_intermediate_size", &Model::moe_intermediate_size, 1, kWidest},
    {"n_shared_experts", &Model::n_shared_experts, 1, 1 << 16},
    {"shared_expert_intermediate_size", &Model::shared_expert_intermediate_size, 1, kWidest},
    {"n_group", &Model::n_group, 1, 1 << 16},
    {"topk_group", &Model::topk_group, 1, 1 << 16},
    {"first_k_dense_replace", &Model::first_k_dense_replace, 0, kMostLayers},
    {"moe_layer_freq", &Model::moe_layer_freq, 1, kMostLayers},
    {"q_lora_rank", &Model::q_lora_rank, 1, kWidest},
    {"kv_lora_rank", &Model::kv_lora_rank, 1, kWidest},
    {"qk_nope_head_dim", &Model::qk_nope_head_dim, 1, 1 << 16},
    {"qk_rope_head_dim", &Model::qk_rope_head_dim, 1, 1 << 16},
    {"v_head_dim", &Model::v_head_dim, 1, 1 << 16},
    {"num_nextn_predict_layers", &Model::num_nextn_predict_layers, 0, kMostLayers},
};

struct FlagKey {
  std::string_view name;
  bool Model::*field;
};

constexpr FlagKey kFlagKeys[] = {
    {"gated_mlp", &Model::gated_mlp},
    {"tie_word_embeddings", &Model::tie_word_embeddings},
    {"attention_bias", &Model::attention_bias},
    {"attention_output_bias", &Model::attention_output_bias},
    {"mlp_bias", &Model::mlp_bias},
    {"router_bias", &Model::router_bias},
    {"attention_sinks", &Model::attention_sinks},
    {"shared_expert_gate", &Model::shared_expert_gate},
};

constexpr std::string_view kRequiredKeys[] = {
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
    "head_dim",          "vocab_size",  "gated_mlp",           "tie_word_embeddings",
    "position",          "norm"};

std::vector<std::string_view> model_keys() {
  std::vector<std::string_view> keys = {"position", "norm", "qk_norm", "published_parameters"};
  for (const IntegerKey& key : kIntegerKeys) keys.push_back(key.name);
  for (const FlagKey& key : kFlagKeys) keys.push_back(key.name);
  return keys;
}

const std::vector<std::string_view> kPositions = {"rope", "learned"};
const std::vector<std::string_view> kNorms = {"rmsnorm", "layernorm"};
const std::vector<std::string_view> kQkNorms = {"none", "head", "full"};

/// Overwrites what `keys` states; `extra_keys` are someone else's.
void apply(const YamlCursor& keys, const std::vector<std::string_view>& extra_keys, Model& model) {
  for (const auto& [name, value] : keys.entries()) {
    if (std::find(extra_keys.begin(), extra_keys.end(), name) == extra_keys.end()) set_model_key(model, name, value);
  }
}

// ---- What the keys must be to each other ----

/// Complains at `key` where the file states it, else at the map as a whole.
[[noreturn]] void fail_about(const YamlCursor& keys, std::string_view key, std::int64_t value,
                             const std::string& message) {
  if (const auto place = keys.find(key)) place->fail(fmt::format("{} {}", value, message));
  keys.fail(fmt::format("is wrong together with the model's keys: {} {} {}", key, value, message));
}

/// A key that means nothing while `needed` is absent.
void check_needs(const YamlCursor& keys, std::int64_t value, std::string_view key, std::int64_t needed_value,
                 std::string_view needed) {
  if (value == 0 || needed_value != 0) return;
  if (const auto place = keys.find(key)) place->fail_at_key(fmt::format("needs '{}'", needed));
  keys.fail(fmt::format("needs '{}', because the model has '{}'", needed, key));
}

void check_heads(const Model& model, const YamlCursor& keys) {
  if (model.num_attention_heads % model.num_key_value_heads != 0) {
    fail_about(keys, "num_attention_heads", model.num_attention_heads,
               fmt::format("is not a multiple of num_key_value_heads {}", model.num_key_value_heads));
  }
  if (model.num_attention_heads * model.head_dim > kWidest) {
    fail_about(keys, "num_attention_heads", model.num_attention_heads,
               fmt::format("of head_dim {} make {}, more than {}", model.head_dim,
                           model.num_attention_heads * model.head_dim, kWidest));
  }
}

void check_positions(const Model& model, const YamlCursor& keys) {
  if (model.position == Position::learned && model.max_position_embeddings == 0) {
    keys.fail("needs 'max_position_embeddings': the table of learned positions has that many rows");
  }
  const bool has_pattern = keys.find("sliding_window_pattern").has_value();
  check_needs(keys, has_pattern ? 1 : 0, "sliding_window_pattern", model.sliding_window, "sliding_window");
}

/// Layer i is MoE when i >= first_k_dense_replace and (i + 1) divides by moe_layer_freq.
std::int64_t dense_layers(const Model& model) {
  if (model.n_routed_experts == 0) return model.num_hidden_layers;
  std::int64_t dense = 0;
  for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) {
    dense += i < model.first_k_dense_replace || (i + 1) % model.moe_layer_freq != 0;
  }
  return dense;
}

void check_feed_forward(const Model& model, const YamlCursor& keys) {
  const std::int64_t dense = dense_layers(model);
  if (dense > 0 && model.intermediate_size == 0) {
    keys.fail(fmt::format("needs 'intermediate_size': {} of its {} layers are dense", dense, model.num_hidden_layers));
  }
  const std::int64_t experts = model.n_routed_experts;
  check_needs(keys, experts, "n_routed_experts", model.num_experts_per_tok, "num_experts_per_tok");
  check_needs(keys, experts, "n_routed_experts", model.moe_intermediate_size, "moe_intermediate_size");
  check_needs(keys, model.num_experts_per_tok, "num_experts_per_tok", experts, "n_routed_experts");
  check_needs(keys, model.moe_intermediate_size, "moe_intermediate_size", experts, "n_routed_experts");
  check_needs(keys, model.n_shared_experts, "n_shared_experts", experts, "n_routed_experts");
  check_needs(keys, model.first_k_dense_replace, "first_k_dense_replace", experts, "n_routed_experts");
  check_needs(keys, model.moe_layer_freq - 1, "moe_layer_freq", experts, "n_routed_experts");
  check_needs(keys, model.router_bias, "router_bias", experts, "n_routed_experts");
  check_needs(keys, model.shared_expert_intermediate_size, "shared_expert_intermediate_size", model.n_shared_experts,
              "n_shared_experts");
  check_needs(keys, model.shared_expert_gate, "shared_expert_gate", model.n_shared_experts, "n_shared_experts");
  if (model.num_experts_per_tok > experts) {
    fail_about(keys, "num_experts_per_tok", model.num_experts_per_tok,
               fmt::format("is more than n_routed_experts {}", experts));
  }
}

void check_groups(const Model& model, const YamlCursor& keys) {
  const std::int64_t groups = model.n_group, experts = model.n_routed_experts;
  check_needs(keys, groups, "n_group", experts, "n_routed_experts");
  check_needs(keys, groups, "n_group", model.topk_group, "topk_group");
  check_needs(keys, model.topk_group, "topk_group", groups, "n_group");
  if (groups == 0) return;
  if (experts % groups != 0) {
    fail_about(keys, "n_routed_experts", experts, fmt::format("is not a multiple of n_group {}", groups));
  }
  if (model.topk_group > groups) {
    fail_about(keys, "topk_group", model.topk_group, fmt::format("is more than n_group {}", groups));
  }
  const std::int64_t reachable = model.topk_group * (experts / groups);
  if (model.num_experts_per_tok > reachable) {
    fail_about(keys, "num_experts_per_tok", model.num_experts_per_tok,
               fmt::format("is more than the {} experts of topk_group {}", reachable, model.topk_group));
  }
}

void check_latent_attention(const Model& model, const YamlCursor& keys) {
  const std::int64_t rank = model.kv_lora_rank;
  check_needs(keys, rank, "kv_lora_rank", model.qk_nope_head_dim, "qk_nope_head_dim");
  check_needs(keys, rank, "kv_lora_rank", model.qk_rope_head_dim, "qk_rope_head_dim");
  check_needs(keys, rank, "kv_lora_rank", model.v_head_dim, "v_head_dim");
  check_needs(keys, model.q_lora_rank, "q_lora_rank", rank, "kv_lora_rank");
  check_needs(keys, model.qk_nope_head_dim, "qk_nope_head_dim", rank, "kv_lora_rank");
  check_needs(keys, model.qk_rope_head_dim, "qk_rope_head_dim", rank, "kv_lora_rank");
  check_needs(keys, model.v_head_dim, "v_head_dim", rank, "kv_lora_rank");
}

}  // namespace

void set_model_key(Model& model, std::string_view name, const YamlCursor& value) {
  for (const IntegerKey& key : kIntegerKeys) {
    if (key.name == name) return static_cast<void>(model.*key.field = value.integer(key.low, key.high));
  }
  for (const FlagKey& key : kFlagKeys) {
    if (key.name == name) return static_cast<void>(model.*key.field = value.boolean());
  }
  if (name == "position") {
    model.position = static_cast<Position>(value.one_of(kPositions));
  } else if (name == "norm") {
    model.norm = static_cast<Norm>(value.one_of(kNorms));
  } else if (name == "qk_norm") {
    model.qk_norm = static_cast<QkNorm>(value.one_of(kQkNorms));
  } else {
    assert(name == "published_parameters" && "a key of a model");
    model.published_parameters = value.integer(1, std::int64_t{1} << 62);
  }
}

Model checked_model(Model model, const YamlCursor& keys) {
  check_heads(model, keys);
  check_positions(model, keys);
  check_feed_forward(model, keys);
  check_groups(model, keys);
  check_latent_attention(model, keys);
  if (model.n_group == 1) model.n_group = model.topk_group = 0;
  return model;
}

std::string model_yaml(const Model& model) {
  const Model absent;
  std::string text;
  const auto required = [](std::string_view name) {
    return std::find(std::begin(kRequiredKeys), std::end(kRequiredKeys), name) != std::end(kRequiredKeys);
  };
  const auto add = [&](std::string_view name, const auto& value) { text += fmt::format("{}: {}\n", name, value); };
  for (const IntegerKey& key : kIntegerKeys) {
    if (required(key.name) || model.*key.field != absent.*key.field) add(key.name, model.*key.field);
  }
  for (const FlagKey& key : kFlagKeys) {
    if (required(key.name) || model.*key.field != absent.*key.field) add(key.name, model.*key.field);
  }
  add("position", kPositions[static_cast<std::size_t>(model.position)]);
  add("norm", kNorms[static_cast<std::size_t>(model.norm)]);
  if (model.qk_norm != QkNorm::none) add("qk_norm", kQkNorms[static_cast<std::size_t>(model.qk_norm)]);
  if (model.published_parameters) add("published_parameters", *model.published_parameters);
  return text;
}

bool Model::is_windowed(std::int64_t layer) const {
  assert(layer >= 0 && layer < num_hidden_layers && "a layer of this model");
  return sliding_window > 0 && layer % sliding_window_pattern == 0;
}

std::string unsupported(const Model& model) {
  if (model.kv_lora_rank == 0) return "";
  std::string what;
  const auto add = [&](bool has, const char* words) {
    if (has) what += (what.empty() ? "" : ", ") + std::string(words);
  };
  add(model.attention_bias, "biases of latent attention");
  add(model.qk_norm != QkNorm::none, "norms on the heads of latent attention");
  add(model.position == Position::learned, "learned positions with latent attention");
  return what;
}

Model read_model(const YamlCursor& top, std::string name, const std::vector<std::string_view>& extra_keys) {
  std::vector<std::string_view> known = model_keys();
  known.insert(known.end(), extra_keys.begin(), extra_keys.end());
  top.only_keys(known);
  for (const std::string_view key : kRequiredKeys) top.at(key);
  Model model;
  model.name = std::move(name);
  apply(top, extra_keys, model);
  return checked_model(std::move(model), top);
}

Model override_model(Model base, const YamlCursor& keys) {
  keys.only_keys(model_keys());
  apply(keys, {}, base);
  // Another shape than the checkpoint's has another total.
  if (!keys.entries().empty() && !keys.find("published_parameters")) base.published_parameters.reset();
  return checked_model(std::move(base), keys);
}

Model find_model(const std::string& name_or_path) {
  const YamlCursor top = open_named("model", name_or_path, model_catalog());
  return read_model(top, std::filesystem::path(top.file()).stem().string());
}

std::vector<std::string> model_names() { return catalog_names(model_catalog()); }

}  // namespace shardwright
