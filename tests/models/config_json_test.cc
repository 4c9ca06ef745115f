#include "models/config_json.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "tests/support/message_of.h"

using namespace shardwright;

namespace {

/// Each model of the catalog as a config.json has it: the public keys in the order that they are written in, with some
/// of those that change nothing. Models that never had such a file are written as GPT-2's class would say them.
const std::map<std::string, std::string> kConfigs = {
    {"deepseek-llm-7b",
     R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 100000, "eos_token_id": 100001, "hidden_act": "silu",
         "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
         "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 30, "num_key_value_heads": 32,
         "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000.0,
         "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": true,
         "vocab_size": 102400})"},
    {"deepseek-llm-67b",
     R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 22016,
         "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 64, "num_hidden_layers": 95,
         "num_key_value_heads": 8, "vocab_size": 102400})"},
    {"deepseek-v2-lite",
     R"({"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
         "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001,
         "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
         "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1408,
         "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
         "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16,
         "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 1.0,
         "scoring_func": "softmax", "seq_aux": true, "tie_word_embeddings": false, "topk_group": 1,
         "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400})"},
    {"deepseek-v2",
     R"({"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 1,
         "hidden_size": 5120, "intermediate_size": 12288, "kv_lora_rank": 512, "max_position_embeddings": 163840,
         "model_type": "deepseek_v2", "moe_intermediate_size": 1536, "moe_layer_freq": 1, "n_group": 8,
         "n_routed_experts": 160, "n_shared_experts": 2, "num_attention_heads": 128, "num_experts_per_tok": 6,
         "num_hidden_layers": 60, "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
         "qk_rope_head_dim": 64, "routed_scaling_factor": 16.0, "topk_group": 3,
         "topk_method": "group_limited_greedy", "v_head_dim": 128, "vocab_size": 102400,
         "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "type": "yarn"}})"},
    {"deepseek-v3",
     R"({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 3,
         "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
         "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
         "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
         "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
         "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
         "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
         "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false, "topk_group": 4,
         "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280})"},
    {"kimi-k2",
     R"({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "aux_loss_alpha": 0.001,
         "first_k_dense_replace": 1, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
         "max_position_embeddings": 131072, "model_type": "kimi_k2", "moe_intermediate_size": 2048,
         "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 384, "n_shared_experts": 1, "num_attention_heads": 64,
         "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 64, "num_nextn_predict_layers": 0,
         "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 2.827,
         "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 163840})"},
    {"llama-3.1-8b",
     R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "eos_token_id": [128001, 128008],
         "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
         "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
         "rope_scaling": {"factor": 8.0, "rope_type": "llama3"}, "rope_theta": 500000.0,
         "tie_word_embeddings": false, "vocab_size": 128256})"},
    {"llama-3.1-70b",
     R"({"hidden_size": 8192, "intermediate_size": 28672, "max_position_embeddings": 131072, "model_type": "llama",
         "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8, "vocab_size": 128256})"},
    {"llama-3.1-405b",
     R"({"hidden_size": 16384, "intermediate_size": 53248, "max_position_embeddings": 131072, "model_type": "llama",
         "num_attention_heads": 128, "num_hidden_layers": 126, "num_key_value_heads": 8, "vocab_size": 128256,
         "head_dim": 128})"},
    {"mixtral-8x7b",
     R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
         "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
         "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
         "output_router_logits": false, "router_aux_loss_coef": 0.02, "sliding_window": null,
         "tie_word_embeddings": false, "vocab_size": 32000})"},
    {"mixtral-8x22b",
     R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 6144, "intermediate_size": 16384,
         "max_position_embeddings": 65536, "model_type": "mixtral", "num_attention_heads": 48,
         "num_experts_per_tok": 2, "num_hidden_layers": 56, "num_key_value_heads": 8, "num_local_experts": 8,
         "sliding_window": null, "vocab_size": 32000})"},
    {"qwen3-30b-a3b",
     R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128,
         "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
         "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
         "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
         "num_key_value_heads": 4, "sliding_window": null, "use_sliding_window": false, "vocab_size": 151936})"},
    {"qwen3-235b-a22b",
     R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128,
         "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 94,
         "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 1536, "num_attention_heads": 64,
         "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 94, "num_key_value_heads": 4,
         "sliding_window": null, "use_sliding_window": false, "vocab_size": 151936})"},
    {"qwen3-32b",
     R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_size": 5120,
         "intermediate_size": 25600, "max_position_embeddings": 40960, "max_window_layers": 64,
         "model_type": "qwen3", "num_attention_heads": 64, "num_hidden_layers": 64, "num_key_value_heads": 8,
         "sliding_window": null, "use_sliding_window": false, "vocab_size": 151936})"},
    {"gpt-oss-20b",
     R"({"architectures": ["GptOssForCausalLM"], "attention_bias": true, "experts_per_token": 4, "head_dim": 64,
         "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
                         "sliding_attention", "full_attention", "sliding_attention", "full_attention",
                         "sliding_attention", "full_attention", "sliding_attention", "full_attention",
                         "sliding_attention", "full_attention", "sliding_attention", "full_attention",
                         "sliding_attention", "full_attention", "sliding_attention", "full_attention",
                         "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
         "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 64,
         "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
         "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
         "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201088})"},
    {"gpt-oss-120b",
     R"({"attention_bias": true, "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
         "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 64,
         "num_experts_per_tok": 4, "num_hidden_layers": 36, "num_key_value_heads": 8, "num_local_experts": 128,
         "sliding_window": 128, "vocab_size": 201088})"},
    {"opt-13b",
     R"({"_name_or_path": "facebook/opt-13b", "_remove_final_layer_norm": false, "activation_dropout": 0.0,
         "activation_function": "relu", "architectures": ["OPTForCausalLM"], "do_layer_norm_before": true,
         "dropout": 0.1, "ffn_dim": 20480, "hidden_size": 5120, "init_std": 0.02, "layerdrop": 0.0,
         "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 40, "num_hidden_layers": 40,
         "prefix": "</s>", "vocab_size": 50272, "word_embed_proj_dim": 5120})"},
    {"gpt3-175b",
     R"({"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "attn_pdrop": 0.1,
         "model_type": "gpt2", "n_ctx": 2048, "n_embd": 12288, "n_head": 96, "n_inner": null, "n_layer": 96,
         "n_positions": 2048, "vocab_size": 51200})"},
    {"megatron-22b",
     R"({"model_type": "gpt2", "n_embd": 6144, "n_head": 64, "n_layer": 48, "n_positions": 2048,
         "vocab_size": 51200})"},
    {"megatron-530b",
     R"({"model_type": "gpt2", "n_embd": 20480, "n_head": 128, "n_layer": 105, "n_positions": 2048,
         "vocab_size": 51200, "n_inner": 81920})"},
    {"megatron-1t",
     R"({"model_type": "gpt2", "n_embd": 25600, "n_head": 160, "n_layer": 128, "n_positions": 2048,
         "vocab_size": 51200, "tie_word_embeddings": true})"},
};

Model imported(const std::string& text) { return read_config_json(YamlCursor::parse_json(text, "config.json"), "m"); }

/// A file in which each test changes a line.
const std::string kSmall = R"({
  "model_type": "llama",
  "hidden_size": 64,
  "intermediate_size": 96,
  "num_attention_heads": 8,
  "num_key_value_heads": 2,
  "num_hidden_layers": 4,
  "vocab_size": 100
})";

const std::string kSmallQwen = R"({
  "model_type": "qwen3_moe",
  "hidden_size": 64,
  "intermediate_size": 96,
  "moe_intermediate_size": 16,
  "num_experts": 8,
  "num_experts_per_tok": 2,
  "num_attention_heads": 8,
  "num_key_value_heads": 2,
  "head_dim": 16,
  "num_hidden_layers": 4,
  "vocab_size": 100
})";

const std::string kSmallDeepseek = R"({
  "model_type": "deepseek_v3",
  "hidden_size": 64,
  "intermediate_size": 96,
  "moe_intermediate_size": 16,
  "n_routed_experts": 8,
  "num_experts_per_tok": 2,
  "first_k_dense_replace": 1,
  "n_group": 4,
  "topk_group": 2,
  "num_attention_heads": 8,
  "kv_lora_rank": 32,
  "qk_nope_head_dim": 8,
  "qk_rope_head_dim": 4,
  "v_head_dim": 6,
  "num_hidden_layers": 4,
  "vocab_size": 100
})";

const std::string kSmallOpt = R"({
  "model_type": "opt",
  "hidden_size": 64,
  "ffn_dim": 96,
  "num_attention_heads": 8,
  "num_hidden_layers": 4,
  "max_position_embeddings": 30,
  "vocab_size": 100
})";

std::string replaced(std::string text, const std::string& old, const std::string& with) {
  const std::size_t at = text.find(old);
  REQUIRE(at != std::string::npos);
  return text.replace(at, old.size(), with);
}

/// With `line` as the file's third.
std::string with(const std::string& text, const std::string& line) {
  return replaced(text, ",\n", ",\n  " + line + ",\n");
}

std::string fault_of(const std::string& text) {
  return message_of([&] { imported(text); });
}

/// The message about `line`, the third, at its `column`.
std::string at(int column, const std::string& message, const std::string& line) {
  return "config.json:3:" + std::to_string(column) + ": " + message + "\n  " + line + ",\n" +
         std::string(static_cast<std::size_t>(column - 1), ' ') + "^";
}

}  // namespace

TEST_CASE("the config.json of every model of the catalog makes that model") {
  for (const std::string& name : model_names()) {
    CAPTURE(name);
    REQUIRE(kConfigs.contains(name));
    Model expected = find_model(name);
    expected.published_parameters.reset();  // not in such files
    const Model model = read_config_json(YamlCursor::parse_json(kConfigs.at(name), name + ".json"), name);
    CHECK(model == expected);
    // And the file that is made of it is read as the same model.
    CHECK(read_model(YamlCursor::parse(model_yaml(model), "made.yaml"), name) == expected);
  }
  CHECK(kConfigs.size() == model_names().size());
}

TEST_CASE("classes without a model in the catalog are read as well") {
  SUBCASE("qwen2 has biases on queries, keys and values only") {
    const Model model =
        imported(with(replaced(kSmall, "llama", "qwen2"),
                      R"("use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 2)"));
    CHECK(model.attention_bias);
    CHECK_FALSE(model.attention_output_bias);
    CHECK(model.sliding_window == 0);
    CHECK(model.head_dim == 8);
  }
  SUBCASE("mistral's window is on every layer") {
    const Model model = imported(with(replaced(kSmall, "llama", "mistral"), R"("sliding_window": 16)"));
    CHECK(model.sliding_window == 16);
    CHECK(model.sliding_window_pattern == 1);
  }
  SUBCASE("qwen2_moe has one shared expert behind a gate") {
    const Model model =
        imported(with(replaced(kSmallQwen, "qwen3_moe", "qwen2_moe"), R"("shared_expert_intermediate_size": 48)"));
    CHECK(model.n_shared_experts == 1);
    CHECK(model.shared_expert_intermediate_size == 48);
    CHECK(model.shared_expert_gate);
    CHECK(model.attention_bias);
    CHECK(model.qk_norm == QkNorm::none);
    CHECK(model.intermediate_size == 0);
  }
}

TEST_CASE("details that a file states change the model") {
  SUBCASE("a llama with biases, its own head size and one table") {
    const Model model = imported(
        with(kSmall, R"("attention_bias": true, "mlp_bias": true, "head_dim": 12, "tie_word_embeddings": true)"));
    CHECK(model.attention_bias);
    CHECK(model.attention_output_bias);
    CHECK(model.mlp_bias);
    CHECK(model.head_dim == 12);
    CHECK(model.tie_word_embeddings);
  }
  SUBCASE("no heads of keys and values: as many as of queries") {
    CHECK(imported(replaced(kSmall, "  \"num_key_value_heads\": 2,\n", "")).num_key_value_heads == 8);
  }
  SUBCASE("dense layers among experts") {
    const Model model = imported(with(kSmallQwen, R"("mlp_only_layers": [0, 1], "decoder_sparse_step": 2)"));
    CHECK(model.first_k_dense_replace == 2);
    CHECK(model.moe_layer_freq == 2);
    CHECK(model.intermediate_size == 96);
  }
  SUBCASE("a list of layers with a window") {
    const auto types = [](const std::string& list) {
      return imported(
          with(kSmallQwen, R"("use_sliding_window": true, "sliding_window": 7, "layer_types": [)" + list + "]"));
    };
    const std::string s = R"("sliding_attention")", f = R"("full_attention")";
    CHECK(types(s + "," + f + "," + f + "," + s).sliding_window_pattern == 3);
    CHECK(types(s + "," + s + "," + s + "," + s).sliding_window_pattern == 1);
    CHECK(types(s + "," + f + "," + f + "," + f).sliding_window_pattern == 4);
    CHECK(types(s + "," + f + "," + s + "," + f).sliding_window == 7);
    CHECK(types(f + "," + f + "," + f + "," + f).sliding_window == 0);
  }
  SUBCASE("a router's method") {
    CHECK(imported(kSmallDeepseek).router_bias);
    CHECK(imported(kSmallDeepseek).n_group == 4);
    const Model greedy = imported(with(kSmallDeepseek, R"("topk_method": "greedy")"));
    CHECK_FALSE(greedy.router_bias);
    CHECK(greedy.n_group == 0);
    CHECK(imported(replaced(kSmallDeepseek, "deepseek_v3", "deepseek_v2")).n_group == 0);
  }
  SUBCASE("what newer versions write about latent heads is not the head size") {
    const Model model = imported(with(kSmallDeepseek, R"("head_dim": 4, "qk_head_dim": 12, "rope_interleave": true)"));
    CHECK(model.head_dim == 12);
  }
  SUBCASE("an opt without biases") {
    const Model model = imported(with(kSmallOpt, R"("enable_bias": false)"));
    CHECK_FALSE(model.attention_bias);
    CHECK_FALSE(model.mlp_bias);
    CHECK(model.max_position_embeddings == 32);  // two rows more than positions
  }
}

TEST_CASE("a config.json that is not understood is refused by the name of what is not") {
  CHECK(fault_of(kSmall) == "nothing was thrown");
  SUBCASE("unknown keys") {
    CHECK(fault_of(with(kSmall, R"("rope_scaling_x": {})")) ==
          at(3,
             "'rope_scaling_x' is neither a key that changes shapes nor one that is known to be harmless (did you mean "
             "'rope_scaling'?)",
             R"("rope_scaling_x": {})"));
    // A key of another class is as unknown.
    CHECK(fault_of(with(kSmall, R"("num_local_experts": 8)")) ==
          at(3, "'num_local_experts' is neither a key that changes shapes nor one that is known to be harmless",
             R"("num_local_experts": 8)"));
  }
  SUBCASE("another class of model") {
    CHECK(fault_of(replaced(kSmall, "llama", "mamba")) ==
          "config.json:2:17: 'model_type' must be one of llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, "
          "deepseek_v2, deepseek_v3, kimi_k2, gpt_oss, opt, gpt2, got the text 'mamba'\n  \"model_type\": \"mamba\",\n"
          "                ^");
    CHECK(fault_of("{}") == "config.json:1:1: 'model_type' is missing\n{}\n^");
    CHECK(fault_of("[1]") == "config.json:1:1: the file must be a map, got a list\n[1]\n^");
  }
  SUBCASE("another head") {
    CHECK(fault_of(with(kSmall, R"("architectures": ["LlamaForSequenceClassification"])")) ==
          at(21, "'architectures[0]' is not supported: only language models are (...ForCausalLM, ...LMHeadModel)",
             R"("architectures": ["LlamaForSequenceClassification"])"));
    CHECK(fault_of(with(kSmall, R"("is_encoder_decoder": true)")) ==
          at(25, "'is_encoder_decoder' true is not supported: encoders", R"("is_encoder_decoder": true)"));
    CHECK(fault_of(with(kSmall, R"("add_cross_attention": true)")) ==
          at(26, "'add_cross_attention' true is not supported: attention to another model",
             R"("add_cross_attention": true)"));
  }
  SUBCASE("sizes") {
    CHECK(fault_of(replaced(kSmall, "  \"hidden_size\": 64,\n", "")) ==
          "config.json:1:1: 'hidden_size' is missing\n{\n^");
    CHECK(fault_of(replaced(kSmall, "64", "null")) ==
          at(18, "'hidden_size' must be a whole number, got nothing", R"("hidden_size": null)"));
    CHECK(fault_of(replaced(kSmall, "64", "\"64\"")) ==
          at(18, "'hidden_size' must be a whole number, got the text '64'", R"("hidden_size": "64")"));
    CHECK(fault_of(replaced(kSmall, "64", "64.0")) ==
          at(18, "'hidden_size' must be a whole number, got '64.0'", R"("hidden_size": 64.0)"));
    CHECK(fault_of(replaced(kSmall, "64", "1e3")) ==
          at(18, "'hidden_size' must be a whole number, got '1e3'", R"("hidden_size": 1e3)"));
    CHECK(fault_of(replaced(kSmall, "64", "-64")) ==
          at(18, "'hidden_size' must be between 1 and 1048576, got -64", R"("hidden_size": -64)"));
    CHECK(fault_of(replaced(kSmall, "64", "99999999999999999999")) ==
          at(18, "'hidden_size' must be between 1 and 1048576, got 99999999999999999999",
             R"("hidden_size": 99999999999999999999)"));
    CHECK(fault_of(replaced(kSmall, "64", "65")) ==
          "config.json:5:26: 'num_attention_heads' 8 does not divide the hidden size 65, and there is no 'head_dim'\n"
          "  \"num_attention_heads\": 8,\n                         ^");
    CHECK(fault_of(replaced(kSmall, "heads\": 2", "heads\": 3")) ==
          "config.json:5:26: 'num_attention_heads' 8 is not a multiple of num_key_value_heads 3\n"
          "  \"num_attention_heads\": 8,\n                         ^");
  }
  SUBCASE("windows") {
    const std::string on = R"("use_sliding_window": true, "sliding_window": 7)";
    CHECK(fault_of(with(kSmallQwen, on)) ==
          at(25, "'use_sliding_window' true needs 'layer_types': which layers have the window?", on));
    const auto types = [&](const std::string& list) { return on + R"(, "layer_types": [)" + list + "]"; };
    CHECK(fault_of(with(kSmallQwen, types(""))) == at(67, "'layer_types' has 0 entries for 4 layers", types("")));
    const std::string s = R"("sliding_attention")", f = R"("full_attention")";
    const std::string late = R"("layer_types": [)" + f + "," + s + "," + s + "," + s + "]";
    CHECK(
        fault_of(with(kSmallQwen, "\"use_sliding_window\": true, \"sliding_window\": 7,\n  " + late)) ==
        replaced(at(19, "'layer_types[0]' is not supported: windows must come at one distance, from layer 0 on", late),
                 ":3:", ":4:"));
    CHECK(fault_of(with(kSmallQwen, late)) ==
          at(18, "'layer_types' has layers with sliding attention, but there is no 'sliding_window'", late));
    CHECK(fault_of(with(kSmallQwen, R"("layer_types": ["linear_attention", 1, 1, 1])")) ==
          at(19,
             "'layer_types[0]' must be one of full_attention, sliding_attention, got the text 'linear_attention' (did "
             "you mean 'sliding_attention'?)",
             R"("layer_types": ["linear_attention", 1, 1, 1])"));
  }
  SUBCASE("experts") {
    CHECK(fault_of(with(kSmallQwen, R"("mlp_only_layers": [0, 2])")) ==
          at(26, "'mlp_only_layers[1]' 2 is not supported: only the first so many layers may be dense, here layer 1",
             R"("mlp_only_layers": [0, 2])"));
    CHECK(fault_of(with(kSmallDeepseek, R"("moe_layer_freq": 2)")) ==
          at(21, "'moe_layer_freq' 2 is not supported: this class counts layers from another end than the model's key",
             R"("moe_layer_freq": 2)"));
    CHECK(fault_of(with(kSmallDeepseek, R"("attention_bias": true)")) ==
          at(21, "'attention_bias' true is not supported: biases of latent projections", R"("attention_bias": true)"));
    CHECK(fault_of(with(kSmallDeepseek, R"("mlp_bias": true)")) ==
          at(15, "'mlp_bias' true is not supported: biases of experts in this class", R"("mlp_bias": true)"));
    CHECK(fault_of(with(kSmallDeepseek, R"("topk_method": "random")")) ==
          at(18, "'topk_method' must be one of greedy, group_limited_greedy, noaux_tc, got the text 'random'",
             R"("topk_method": "random")"));
    CHECK(fault_of(replaced(kSmallDeepseek, "topk_group\": 2", "topk_group\": 5")) ==
          "config.json:10:17: 'topk_group' 5 is more than n_group 4\n  \"topk_group\": 5,\n                ^");
  }
  SUBCASE("opt's variants") {
    CHECK(fault_of(with(kSmallOpt, R"("word_embed_proj_dim": 32)")) ==
          at(26, "'word_embed_proj_dim' 32 is not supported: an embedding narrower or wider than hidden_size 64",
             R"("word_embed_proj_dim": 32)"));
    CHECK(fault_of(with(kSmallOpt, R"("do_layer_norm_before": false)")) ==
          at(27, "'do_layer_norm_before' false is not supported: norms after attention and feed-forward",
             R"("do_layer_norm_before": false)"));
    CHECK(fault_of(with(kSmallOpt, R"("layer_norm_elementwise_affine": false)")) ==
          at(36, "'layer_norm_elementwise_affine' false is not supported: norms without weights",
             R"("layer_norm_elementwise_affine": false)"));
    CHECK(fault_of(with(kSmallOpt, R"("_remove_final_layer_norm": true)")) ==
          at(31, "'_remove_final_layer_norm' true is not supported: a model without a last norm",
             R"("_remove_final_layer_norm": true)"));
  }
}

TEST_CASE("a model's name is the last part of where it came from") {
  const auto name = [](const std::string& text) { return name_in_config_json(YamlCursor::parse_json(text, "c.json")); };
  CHECK(name(kConfigs.at("opt-13b")) == "opt-13b");
  CHECK(name(R"({"_name_or_path": "a/b/c//"})") == "c");
  CHECK(name(R"({"_name_or_path": "plain"})") == "plain");
  CHECK(name(R"({"_name_or_path": ""})") == "");
  CHECK(name(R"({"_name_or_path": null})") == "");
  CHECK(name("{}") == "");
}
