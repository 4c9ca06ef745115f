#include "models/config_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace shardwright {
namespace {

/// Keys that change neither time nor memory nor the number of parameters: tokens, formats, positions' angles, training
/// losses, dropout rates, generation, and what the transformers library writes for itself.
constexpr std::string_view kHarmlessKeys[] = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "activation_dropout",
    "activation_function",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "aux_loss_alpha",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "do_sample",
    "dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "ep_size",
    "finetuning_task",
    "hidden_act",
    "hidden_dropout",
    "id2label",
    "init_std",
    "initial_context_length",
    "initializer_range",
    "label2id",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layerdrop",
    "max_length",
    "min_length",
    "model_type",
    "n_ctx",
    "norm_topk_prob",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "quantization_config",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "rms_norm_eps",
    "rope_interleave",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "scoring_func",
    "sep_token_id",
    "seq_aux",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "swiglu_alpha",
    "swiglu_limit",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
};

/// A config.json that knows which of its keys were asked for.
class Config {
 public:
  Config(const YamlCursor& top, std::string name) : top_(top) { model.name = std::move(name); }

  /// The value of `key`, unless it is absent or null.
  std::optional<YamlCursor> find(std::string_view key) {
    understood_.push_back(key);
    std::optional<YamlCursor> value = top_.find(key);
    if (value && value->is_nothing()) value.reset();
    return value;
  }

  /// Sets the model's `key` from the file's key of that name, or of `name`.
  void take(std::string_view key, std::string_view name = "") {
    if (name.empty()) name = key;
    understood_.push_back(name);
    set_model_key(model, key, top_.at(name));
  }

  /// The same where the file has it; says whether it does.
  bool take_if_there(std::string_view key, std::string_view name = "") {
    const std::optional<YamlCursor> value = find(name.empty() ? key : name);
    if (value) set_model_key(model, key, *value);
    return value.has_value();
  }

  bool flag(std::string_view key, bool absent) {
    const std::optional<YamlCursor> value = find(key);
    return value ? value->boolean() : absent;
  }

  /// Refuses any value of `key` but `only`, which it also has when absent.
  void must_be(std::string_view key, bool only, std::string_view reason) {
    if (flag(key, only) != only) top_.at(key).fail(fmt::format("{} is not supported: {}", !only, reason));
  }

  /// What was not asked for must be harmless.
  void refuse_the_rest() const {
    std::vector<std::string_view> known(std::begin(kHarmlessKeys), std::end(kHarmlessKeys));
    known.insert(known.end(), understood_.begin(), understood_.end());
    for (const auto& [key, value] : top_.entries()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      value.fail_at_key("is neither a key that changes shapes nor one that is known to be harmless" +
                        did_you_mean(key, known));
    }
  }

  const YamlCursor& top() const { return top_; }

  Model model;

 private:
  YamlCursor top_;
  std::vector<std::string_view> understood_;
};

// ---- What several classes have in common ----

void take_sizes(Config& config) {
  for (const std::string_view key : {"num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"}) {
    config.take(key);
  }
}

void take_equal_head_dim(Config& config, std::string_view heads) {
  Model& model = config.model;
  if (model.hidden_size % model.num_attention_heads != 0) {
    config.top().at(heads).fail(fmt::format("{} does not divide the hidden size {}, and there is no 'head_dim'",
                                            model.num_attention_heads, model.hidden_size));
  }
  model.head_dim = model.hidden_size / model.num_attention_heads;
}

void take_key_value_heads(Config& config) {
  if (!config.take_if_there("num_key_value_heads")) config.model.num_key_value_heads = config.model.num_attention_heads;
}

/// RMSNorm, rotary positions, SwiGLU: Llama and what came after it.
void take_llama_shape(Config& config) {
  take_sizes(config);
  take_key_value_heads(config);
  config.model.gated_mlp = true;
  config.model.norm = Norm::rmsnorm;
  config.model.position = Position::rope;
  config.take_if_there("max_position_embeddings");
  config.model.tie_word_embeddings = config.flag("tie_word_embeddings", false);
}

/// One bias key for all four projections, as most classes have it.
void take_attention_bias(Config& config) {
  config.model.attention_bias = config.model.attention_output_bias = config.flag("attention_bias", false);
}

// ---- Attention windows ----

/// Sets the pattern from `layer_types`: which layers have the window.
void take_layer_types(Config& config, const YamlCursor& list, std::int64_t window) {
  Model& model = config.model;
  const std::vector<YamlCursor> types = list.items();
  if (static_cast<std::int64_t>(types.size()) != model.num_hidden_layers) {
    list.fail(fmt::format("has {} entries for {} layers", types.size(), model.num_hidden_layers));
  }
  std::vector<bool> windowed;
  for (const YamlCursor& type : types) windowed.push_back(type.one_of({"full_attention", "sliding_attention"}) == 1);
  if (std::find(windowed.begin(), windowed.end(), true) == windowed.end()) return;
  if (window == 0) list.fail("has layers with sliding attention, but there is no 'sliding_window'");
  const auto second = std::find(windowed.begin() + 1, windowed.end(), true);
  const std::int64_t pattern = second - windowed.begin();  // of any pattern but 1, the second window shows it
  for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) {
    if (windowed[static_cast<std::size_t>(i)] == (i % pattern == 0)) continue;
    types[static_cast<std::size_t>(i)].fail("is not supported: windows must come at one distance, from layer 0 on");
  }
  model.sliding_window = window;
  model.sliding_window_pattern = pattern;
}

/// `pattern`: which layers have the window where the file does not list them.
void take_window(Config& config, std::int64_t pattern) {
  Model& model = config.model;
  config.take_if_there("sliding_window");
  const std::int64_t window = std::exchange(model.sliding_window, 0);
  if (const auto list = config.find("layer_types")) return take_layer_types(config, *list, window);
  model.sliding_window = window;
  model.sliding_window_pattern = window > 0 ? pattern : 1;
}

/// Qwen's window is there only when a second key says so. Which layers have it differs between versions of its classes.
void take_qwen_window(Config& config) {
  config.find("max_window_layers");
  if (!config.flag("use_sliding_window", false)) {
    config.find("sliding_window");
    if (const auto list = config.find("layer_types")) take_layer_types(config, *list, 0);
    return;
  }
  if (!config.find("layer_types")) {
    config.top().at("use_sliding_window").fail("true needs 'layer_types': which layers have the window?");
  }
  take_window(config, 1);
}

// ---- Mixtures of experts ----

/// Qwen's: every `decoder_sparse_step`-th layer, but for those listed; here the list must be the first so many.
void take_qwen_experts(Config& config) {
  Model& model = config.model;
  config.take("n_routed_experts", "num_experts");
  config.take("num_experts_per_tok");
  config.take("moe_intermediate_size");
  config.take_if_there("moe_layer_freq", "decoder_sparse_step");
  if (const auto list = config.find("mlp_only_layers")) {
    const std::vector<YamlCursor> layers = list->items();
    for (const YamlCursor& layer : layers) {
      const std::int64_t expected = model.first_k_dense_replace;
      if (layer.integer(0, model.num_hidden_layers - 1) != expected) {
        layer.fail(fmt::format("{} is not supported: only the first so many layers may be dense, here layer {}",
                               layer.text(), expected));
      }
      ++model.first_k_dense_replace;
    }
  }
  // The width of dense layers: stated even where there are none.
  config.take("intermediate_size");
  if (model.first_k_dense_replace == 0 && model.moe_layer_freq == 1) model.intermediate_size = 0;
}

/// Mixtral's and gpt-oss's: in every layer, and `intermediate_size` is an expert's width.
void take_local_experts(Config& config) {
  config.take("n_routed_experts", "num_local_experts");
  config.take("num_experts_per_tok");
  config.take("moe_intermediate_size", "intermediate_size");
}

/// How a DeepSeek router chooses. `absent`: the class's method where the file has none.
void take_routing(Config& config, std::size_t absent) {
  enum Method : std::size_t { greedy, group_limited_greedy, noaux_tc };
  const auto named = config.find("topk_method");
  const std::size_t method = named ? named->one_of({"greedy", "group_limited_greedy", "noaux_tc"}) : absent;
  config.model.router_bias = method == noaux_tc;
  if (method == greedy) {  // over all experts, whatever the groups say
    config.find("n_group");
    config.find("topk_group");
  } else {
    config.take("n_group");
    config.take("topk_group");
  }
}

// ---- The classes ----

void read_llama(Config& config) {
  take_llama_shape(config);
  config.take("intermediate_size");
  if (!config.take_if_there("head_dim")) take_equal_head_dim(config, "num_attention_heads");
  take_attention_bias(config);
  config.model.mlp_bias = config.flag("mlp_bias", false);
}

void read_mistral(Config& config) {
  take_llama_shape(config);
  config.take("intermediate_size");
  if (!config.take_if_there("head_dim")) take_equal_head_dim(config, "num_attention_heads");
  take_window(config, 1);
}

void read_mixtral(Config& config) {
  take_llama_shape(config);
  take_local_experts(config);
  if (!config.take_if_there("head_dim")) take_equal_head_dim(config, "num_attention_heads");
  take_window(config, 1);
}

void read_qwen2(Config& config) {
  take_llama_shape(config);
  config.take("intermediate_size");
  if (!config.take_if_there("head_dim")) take_equal_head_dim(config, "num_attention_heads");
  config.model.attention_bias = true;
  take_qwen_window(config);
}

void read_qwen2_moe(Config& config) {
  take_llama_shape(config);
  take_qwen_experts(config);
  if (!config.take_if_there("head_dim")) take_equal_head_dim(config, "num_attention_heads");
  config.model.attention_bias = config.flag("qkv_bias", true);
  config.model.n_shared_experts = 1;
  config.model.shared_expert_gate = true;
  config.take("shared_expert_intermediate_size");
  take_qwen_window(config);
}

void read_qwen3(Config& config) {
  take_llama_shape(config);
  config.take("intermediate_size");
  config.take("head_dim");
  take_attention_bias(config);
  config.model.qk_norm = QkNorm::head;
  take_qwen_window(config);
}

void read_qwen3_moe(Config& config) {
  take_llama_shape(config);
  take_qwen_experts(config);
  config.take("head_dim");
  take_attention_bias(config);
  config.model.qk_norm = QkNorm::head;
  take_qwen_window(config);
}

void read_deepseek(Config& config, std::size_t absent_method) {
  take_llama_shape(config);
  Model& model = config.model;
  for (const std::string_view key :
       {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size", "n_routed_experts",
        "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace"}) {
    config.take(key);
  }
  config.take_if_there("q_lora_rank");
  config.take_if_there("n_shared_experts");
  config.take_if_there("num_nextn_predict_layers");
  take_routing(config, absent_method);
  // Written by newer versions of the class as the rotary part, and as the sum.
  config.find("head_dim");
  config.find("qk_head_dim");
  model.head_dim = model.qk_nope_head_dim + model.qk_rope_head_dim;
  model.num_key_value_heads = model.num_attention_heads;
  config.must_be("attention_bias", false, "biases of latent projections");
  config.must_be("mlp_bias", false, "biases of experts in this class");
  if (const auto frequency = config.find("moe_layer_freq"); frequency && frequency->integer(1, 1 << 20) != 1) {
    frequency->fail(fmt::format("{} is not supported: this class counts layers from another end than the model's key",
                                frequency->text()));
  }
}

void read_deepseek_v2(Config& config) { read_deepseek(config, 0); }  // greedy
void read_deepseek_v3(Config& config) { read_deepseek(config, 2); }  // noaux_tc

void read_gpt_oss(Config& config) {
  take_llama_shape(config);
  take_local_experts(config);
  config.find("experts_per_token");  // the same number under an older name
  config.take("head_dim");
  config.model.attention_bias = config.model.attention_output_bias = config.flag("attention_bias", true);
  config.model.attention_sinks = config.model.mlp_bias = config.model.router_bias = true;
  take_window(config, 2);
}

/// LayerNorm, learned positions, biases everywhere.
void take_gpt_shape(Config& config) {
  Model& model = config.model;
  model.num_key_value_heads = model.num_attention_heads;
  model.gated_mlp = false;
  model.norm = Norm::layernorm;
  model.position = Position::learned;
  model.attention_bias = model.attention_output_bias = model.mlp_bias = true;
  model.tie_word_embeddings = config.flag("tie_word_embeddings", true);
}

void read_opt(Config& config) {
  take_sizes(config);
  take_gpt_shape(config);
  take_equal_head_dim(config, "num_attention_heads");
  Model& model = config.model;
  config.take("intermediate_size", "ffn_dim");
  config.take("max_position_embeddings");
  model.max_position_embeddings += 2;  // OPTLearnedPositionalEmbedding: two rows more, for padding
  if (const auto width = config.find("word_embed_proj_dim"); width && width->integer(1, 1 << 20) != model.hidden_size) {
    width->fail(fmt::format("{} is not supported: an embedding narrower or wider than hidden_size {}", width->text(),
                            model.hidden_size));
  }
  model.attention_bias = model.attention_output_bias = model.mlp_bias = config.flag("enable_bias", true);
  config.must_be("do_layer_norm_before", true, "norms after attention and feed-forward");
  config.must_be("layer_norm_elementwise_affine", true, "norms without weights");
  config.must_be("_remove_final_layer_norm", false, "a model without a last norm");
}

void read_gpt2(Config& config) {
  config.take("num_hidden_layers", "n_layer");
  config.take("hidden_size", "n_embd");
  config.take("num_attention_heads", "n_head");
  config.take("vocab_size");
  config.take("max_position_embeddings", "n_positions");
  take_gpt_shape(config);
  take_equal_head_dim(config, "n_head");
  if (!config.take_if_there("intermediate_size", "n_inner")) {
    config.model.intermediate_size = 4 * config.model.hidden_size;
  }
}

struct ModelType {
  std::string_view name;
  void (*read)(Config&);
};

constexpr std::array kModelTypes = {
    ModelType{"llama", read_llama},
    ModelType{"mistral", read_mistral},
    ModelType{"mixtral", read_mixtral},
    ModelType{"qwen2", read_qwen2},
    ModelType{"qwen2_moe", read_qwen2_moe},
    ModelType{"qwen3", read_qwen3},
    ModelType{"qwen3_moe", read_qwen3_moe},
    ModelType{"deepseek_v2", read_deepseek_v2},
    ModelType{"deepseek_v3", read_deepseek_v3},
    ModelType{"kimi_k2", read_deepseek_v3},
    ModelType{"gpt_oss", read_gpt_oss},
    ModelType{"opt", read_opt},
    ModelType{"gpt2", read_gpt2},
};

/// Models with another head than a vocabulary's have other parameters.
void check_kind(Config& config) {
  if (const auto classes = config.find("architectures")) {
    for (const YamlCursor& one : classes->items()) {
      const std::string name = one.text();
      if (name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel")) continue;
      one.fail("is not supported: only language models are (...ForCausalLM, ...LMHeadModel)");
    }
  }
  config.must_be("is_encoder_decoder", false, "encoders");
  config.must_be("add_cross_attention", false, "attention to another model");
}

}  // namespace

Model read_config_json(const YamlCursor& top, std::string name) {
  std::vector<std::string_view> types;
  for (const ModelType& type : kModelTypes) types.push_back(type.name);
  Config config(top, std::move(name));
  const ModelType& type = kModelTypes[top.at("model_type").one_of(types)];
  check_kind(config);
  type.read(config);
  config.refuse_the_rest();
  return checked_model(std::move(config.model), top);
}

std::string name_in_config_json(const YamlCursor& config) {
  const std::optional<YamlCursor> path = config.find("_name_or_path");
  if (!path || path->is_nothing()) return "";
  std::string name = path->text();
  while (name.ends_with('/')) name.pop_back();
  return name.substr(name.rfind('/') + 1);
}

}  // namespace shardwright
