#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/yaml_cursor.h"

namespace shardwright {

enum class Norm { rmsnorm, layernorm };
enum class Position { rope, learned };
enum class QkNorm { none, head, full };

/// A language model's architecture. Field names and meanings are Hugging Face's `config.json` keys, with the few
/// additions that its classes hide in code (`gated_mlp`, `norm`, `position`, ...). 0 or absent = the model does not
/// have it.
struct Model {
  std::string name;

  std::int64_t num_hidden_layers = 0, hidden_size = 0;
  std::int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  std::int64_t intermediate_size = 0, vocab_size = 0;
  bool gated_mlp = true, tie_word_embeddings = false;
  Position position = Position::rope;
  std::int64_t max_position_embeddings = 0;
  Norm norm = Norm::rmsnorm;
  bool attention_bias = false, attention_output_bias = false, mlp_bias = false;
  QkNorm qk_norm = QkNorm::none;
  std::int64_t sliding_window = 0, sliding_window_pattern = 1;

  bool router_bias = false, attention_sinks = false, shared_expert_gate = false;
  std::int64_t attention_chunk_size = 0;
  std::int64_t n_routed_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
  std::int64_t n_shared_experts = 0, shared_expert_intermediate_size = 0;
  std::int64_t n_group = 0, topk_group = 0;  // a token's experts lie in topk_group of n_group equal groups
  std::int64_t first_k_dense_replace = 0, moe_layer_freq = 1;
  std::int64_t q_lora_rank = 0, kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  std::int64_t num_nextn_predict_layers = 0;

  std::optional<std::int64_t> published_parameters;  // exact total of the published checkpoint, where known

  bool operator==(const Model&) const = default;

  /// Whether layer `layer` (from 0) sees only `sliding_window` tokens: the first layer of every
  /// `sliding_window_pattern`, i.e. layer % pattern == 0, as in gpt-oss (pattern 2: layers 0, 2, 4, ...); every layer
  /// when the pattern is 1. False when there is no window. (Gemma's key of the same name counts the other way round:
  /// there one of `pattern` sees everything.)
  bool is_windowed(std::int64_t layer) const;

  /// Heads with keys of their own: all of them under latent attention, which projects keys up for each.
  std::int64_t key_heads() const { return kv_lora_rank > 0 ? num_attention_heads : num_key_value_heads; }
  /// Width of the shared experts together; 0 when there are none.
  std::int64_t shared_width() const {
    return shared_expert_intermediate_size > 0 ? shared_expert_intermediate_size
                                               : n_shared_experts * moe_intermediate_size;
  }
};

/// What this version cannot describe about `model`, in words ("biases of latent attention"), or "" when it can.
std::string unsupported(const Model& model);

/// Reads and checks a model's keys. `extra_keys` are allowed beside the architecture's and ignored here (the measured
/// rows' `parameters`, `assumed`, ...). Throws InputError at the value that is wrong, with numbers
/// ("'num_attention_heads' 65 is not a multiple of num_key_value_heads 8"). Required, since a guess would be silent:
/// num_hidden_layers hidden_size num_attention_heads num_key_value_heads head_dim vocab_size gated_mlp
/// tie_word_embeddings position norm, and whatever those make necessary (intermediate_size for dense layers, ...).
Model read_model(const YamlCursor& top, std::string name, const std::vector<std::string_view>& extra_keys = {});

/// The same keys applied on top of a model (`overrides` of measured rows).
Model override_model(Model base, const YamlCursor& keys);

/// One key of a model file, read from `value` with that key's range and words, wherever it stands.
/// Precondition: `key` is one of the keys of Model.
void set_model_key(Model& model, std::string_view key, const YamlCursor& value);

/// The model, when its keys agree with each other. Throws InputError: at the key where `keys` states it, else at
/// `keys`. One group of experts is no limit, so n_group 1 becomes 0.
Model checked_model(Model model, const YamlCursor& keys);

/// A model file: read_model() makes the same model of it, but for the name.
std::string model_yaml(const Model& model);

/// MODEL as users give it: a catalog name or a file's path (then the model is called as the file without its ending).
/// InputError names the nearest catalog name.
Model find_model(const std::string& name_or_path);

/// Names of the catalog, sorted.
std::vector<std::string> model_names();

}  // namespace shardwright
