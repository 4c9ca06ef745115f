#include "models/model.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "tests/models/counted_parameters.h"

using namespace shardwright;

namespace {

/// A model file in which each test changes a line or two.
const std::string kSmall =
    "num_hidden_layers: 4\n"
    "hidden_size: 64\n"
    "num_attention_heads: 8\n"
    "num_key_value_heads: 2\n"
    "head_dim: 8\n"
    "intermediate_size: 96\n"
    "vocab_size: 100\n"
    "gated_mlp: true\n"
    "tie_word_embeddings: false\n"
    "position: rope\n"
    "norm: rmsnorm\n";

std::string replaced(std::string text, const std::string& old, const std::string& with) {
  const std::size_t at = text.find(old);
  REQUIRE(at != std::string::npos);
  return text.replace(at, old.size(), with);
}

Model read(const std::string& text) { return read_model(YamlCursor::parse(text, "m.yaml"), "small"); }

std::string fault_of(const std::string& text) {
  try {
    read(text);
  } catch (const InputError& error) { return error.what(); }
  return "no fault";
}

/// DeepSeek-V3 in small: 4 layers, the first dense, 8 experts in 4 groups.
const std::string kSmallExperts = kSmall +
                                  "n_routed_experts: 8\n"
                                  "num_experts_per_tok: 2\n"
                                  "moe_intermediate_size: 32\n"
                                  "n_group: 4\n"
                                  "topk_group: 2\n";

}  // namespace

TEST_CASE("every model of the catalog has its exact number of parameters") {
  struct Sizes {
    std::string name;
    std::int64_t total, active, active_without_embedding, kv_elements;
  };
  // KV elements of gpt-oss: of a token within the window.
  const std::vector<Sizes> all = {
      {"deepseek-llm-67b", 67'425'001'472, 67'425'001'472, 66'586'140'672, 194'560},
      {"deepseek-llm-7b", 6'910'365'696, 6'910'365'696, 6'490'935'296, 245'760},
      {"deepseek-v2", 235'741'434'880, 21'375'800'320, 20'851'512'320, 34'560},
      {"deepseek-v2-lite", 15'706'484'224, 2'661'150'208, 2'451'435'008, 15'552},
      {"deepseek-v3", 671'026'419'200, 37'552'297'472, 36'625'618'432, 35'136},
      {"gpt-oss-120b", 116'829'156'672, 5'711'982'912, 5'132'849'472, 36'864},
      {"gpt-oss-20b", 20'914'757'184, 4'187'440'704, 3'608'307'264, 24'576},
      // Tied tables: only the 2048 (2050) positions are not multiplied with. KV: 2 x layers x hidden_size.
      {"gpt3-175b", 174'615'846'912, 174'615'846'912, 174'590'681'088, 2'359'296},
      {"kimi-k2", 1'026'408'232'448, 32'861'500'928, 31'687'095'808, 35'136},
      {"llama-3.1-405b", 405'853'388'800, 405'853'388'800, 403'752'042'496, 258'048},
      {"llama-3.1-70b", 70'553'706'496, 70'553'706'496, 69'503'033'344, 163'840},
      {"llama-3.1-8b", 8'030'261'248, 8'030'261'248, 7'504'924'672, 65'536},
      {"megatron-1t", 1'008'038'758'400, 1'008'038'758'400, 1'007'986'329'600, 6'553'600},
      {"megatron-22b", 22'074'273'792, 22'074'273'792, 22'061'690'880, 589'824},
      {"megatron-530b", 529'600'819'200, 529'600'819'200, 529'558'876'160, 4'300'800},
      {"mixtral-8x22b", 140'620'634'112, 39'152'031'744, 38'955'423'744, 114'688},
      {"mixtral-8x7b", 46'702'792'704, 12'879'925'248, 12'748'853'248, 65'536},
      {"opt-13b", 12'853'473'280, 12'853'473'280, 12'842'977'280, 409'600},
      {"qwen3-235b-a22b", 235'093'634'560, 22'190'763'520, 21'568'433'664, 96'256},
      {"qwen3-30b-a3b", 30'532'122'624, 3'353'032'704, 3'041'867'776, 49'152},
      // Without 151936 x 5120 of the input embedding; KV: 2 x 64 layers x 8 heads x 128.
      {"qwen3-32b", 32'762'123'264, 32'762'123'264, 31'984'210'944, 131'072},
  };
  std::vector<std::string> names;
  for (const Sizes& sizes : all) {
    CAPTURE(sizes.name);
    names.push_back(sizes.name);
    const Model model = find_model(sizes.name);
    CHECK(model.name == sizes.name);
    CHECK(counted_parameters(model) == sizes.total);
    CHECK(model.published_parameters.value_or(sizes.total) == sizes.total);
    CHECK(counted_active_parameters(model) == sizes.active);
    CHECK(counted_active_without_embedding(model) == sizes.active_without_embedding);
    CHECK(counted_kv_elements(model) == sizes.kv_elements);
  }
  CHECK(model_names() == names);
}

TEST_CASE("the parts of DeepSeek-V3 are the published ones") {
  const Model model = find_model("deepseek-v3");
  CHECK(counted_attention(model) == 187'107'328);
  CHECK(counted_feed_forward(model, model.moe_intermediate_size) == 44'040'192);
  CHECK(counted_layer(model, true, 256) == 11'507'286'272);
  CHECK(counted_layer(model, false, 0) == 583'483'392);
  CHECK(counted_mtp_parameters(model) == 11'610'068'224);
  CHECK(counted_mtp_parameters(find_model("kimi-k2")) == 0);
}

TEST_CASE("a model file is written and read back as the same model") {
  for (const std::string& name : model_names()) {
    CAPTURE(name);
    const Model model = find_model(name);
    CHECK(read_model(YamlCursor::parse(model_yaml(model), "again.yaml"), name) == model);
  }
  // What no catalog model has.
  const Model odd = read(kSmallExperts +
                         "qk_norm: full\nmoe_layer_freq: 2\nn_shared_experts: 2\nshared_expert_intermediate_size: 40\n"
                         "shared_expert_gate: true\nattention_chunk_size: 16\nsliding_window: 9\n"
                         "sliding_window_pattern: 3\npublished_parameters: 77\n");
  CHECK(read_model(YamlCursor::parse(model_yaml(odd), "again.yaml"), "small") == odd);
  CHECK(model_yaml(read(kSmall)) ==
        "num_hidden_layers: 4\nhidden_size: 64\nnum_attention_heads: 8\nnum_key_value_heads: 2\nhead_dim: 8\n"
        "intermediate_size: 96\nvocab_size: 100\ngated_mlp: true\ntie_word_embeddings: false\nposition: rope\n"
        "norm: rmsnorm\n");
}

TEST_CASE("one group of experts is no limit") {
  const Model free =
      read(replaced(replaced(kSmallExperts, "n_group: 4", "n_group: 1"), "topk_group: 2", "topk_group: 1"));
  CHECK(free.n_group == 0);
  CHECK(free.topk_group == 0);
  const Model limited = read(kSmallExperts);
  CHECK(limited.n_group == 4);
  CHECK(limited.topk_group == 2);
  CHECK(override_model(limited, YamlCursor::parse("{n_group: 1, topk_group: 1}", "m.yaml")) == free);
}

TEST_CASE("a model file is read key by key") {
  const Model model = read(kSmall +
                           "attention_bias: true\n"
                           "qk_norm: full\n"
                           "max_position_embeddings: 512\n"
                           "sliding_window: 16\n"
                           "published_parameters: 12345\n");
  Model expected;
  expected.name = "small";
  expected.num_hidden_layers = 4;
  expected.hidden_size = 64;
  expected.num_attention_heads = 8;
  expected.num_key_value_heads = 2;
  expected.head_dim = 8;
  expected.intermediate_size = 96;
  expected.vocab_size = 100;
  expected.gated_mlp = true;
  expected.tie_word_embeddings = false;
  expected.position = Position::rope;
  expected.norm = Norm::rmsnorm;
  expected.attention_bias = true;
  expected.qk_norm = QkNorm::full;
  expected.max_position_embeddings = 512;
  expected.sliding_window = 16;
  expected.published_parameters = 12345;
  CHECK(model == expected);
}

TEST_CASE("the first layer of every pattern is windowed") {
  Model model = read(kSmall);
  const auto windowed = [&] {
    std::string layers;
    for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) layers += model.is_windowed(i) ? 'w' : '.';
    return layers;
  };
  CHECK(windowed() == "....");
  model.sliding_window = 128;
  CHECK(windowed() == "wwww");
  model.sliding_window_pattern = 2;
  CHECK(windowed() == "w.w.");
  model.sliding_window_pattern = 3;
  CHECK(windowed() == "w..w");
}

TEST_CASE("what no graph is built for is named in words") {
  Model model = read(kSmall);
  model.attention_bias = true;
  model.qk_norm = QkNorm::head;
  model.position = Position::learned;
  CHECK(unsupported(model) == "");
  model.kv_lora_rank = 512;
  CHECK(unsupported(model) ==
        "biases of latent attention, norms on the heads of latent attention, learned positions with latent attention");
  model.attention_bias = false;
  model.qk_norm = QkNorm::none;
  CHECK(unsupported(model) == "learned positions with latent attention");
  for (const std::string& name : model_names()) CHECK(unsupported(find_model(name)) == "");
}

TEST_CASE("overrides change single keys, and the total is then no longer the published one") {
  const Model llama = find_model("llama-3.1-8b");
  const auto overridden = [&](const std::string& keys) {
    return override_model(llama, YamlCursor::parse(keys, "m.yaml"));
  };
  const Model cut = overridden("{num_hidden_layers: 4}");
  CHECK(cut.num_hidden_layers == 4);
  CHECK(cut.hidden_size == 4096);
  CHECK_FALSE(cut.published_parameters.has_value());
  CHECK(overridden("{}") == llama);
  CHECK_THROWS_WITH_AS(overridden("{num_key_value_heads: 5}"),
                       "m.yaml:1:1: the file is wrong together with the model's keys: num_attention_heads 32 is not a "
                       "multiple of num_key_value_heads 5\n{num_key_value_heads: 5}\n^",
                       InputError);
  CHECK_THROWS_WITH_AS(overridden("{layers: 5}"), "m.yaml:1:2: unknown key 'layers'\n{layers: 5}\n ^", InputError);
}

TEST_CASE("a model may be a file") {
  const Model model = find_model(std::string(SHARDWRIGHT_SOURCE_DIR) + "/models/catalog/qwen3-32b.yaml");
  CHECK(model == find_model("qwen3-32b"));
}

TEST_CASE("a model that is not there is refused") {
  CHECK_THROWS_WITH_AS(find_model("lama-3.1-8b"),
                       "unknown model 'lama-3.1-8b': neither a file nor in the catalog (did you mean 'llama-3.1-8b'?)",
                       InputError);
  CHECK_THROWS_WITH_AS(find_model("no/such.yaml"), "cannot read 'no/such.yaml': No such file or directory", InputError);
}

TEST_CASE("keys of a model are checked one by one") {
  CHECK(fault_of(kSmall) == "no fault");
  SUBCASE("unknown keys suggest") {
    CHECK(fault_of(replaced(kSmall, "hidden_size", "hiden_size")) ==
          "m.yaml:2:1: unknown key 'hiden_size' (did you mean 'hidden_size'?)\nhiden_size: 64\n^");
  }
  SUBCASE("what has no safe default is required") {
    CHECK(fault_of(replaced(kSmall, "gated_mlp: true\n", "")) ==
          "m.yaml:1:1: 'gated_mlp' is missing\nnum_hidden_layers: 4\n^");
  }
  SUBCASE("layers") {
    CHECK(fault_of(replaced(kSmall, "layers: 4", "layers: -4")) ==
          "m.yaml:1:20: 'num_hidden_layers' must be between 1 and 10000, got -4\nnum_hidden_layers: -4\n"
          "                   ^");
    CHECK(fault_of(replaced(kSmall, "layers: 4", "layers: 10001")) ==
          "m.yaml:1:20: 'num_hidden_layers' must be between 1 and 10000, got 10001\nnum_hidden_layers: 10001\n"
          "                   ^");
  }
  SUBCASE("10^30 is too wide") {
    CHECK(fault_of(replaced(kSmall, "size: 64", "size: 1000000000000000000000000000000")) ==
          "m.yaml:2:14: 'hidden_size' must be between 1 and 1048576, got 1000000000000000000000000000000\n"
          "hidden_size: 1000000000000000000000000000000\n             ^");
  }
  SUBCASE("words") {
    CHECK(fault_of(replaced(kSmall, "hidden_size: 64", "hidden_size: twelve")) ==
          "m.yaml:2:14: 'hidden_size' must be a whole number, got 'twelve'\nhidden_size: twelve\n             ^");
    CHECK(fault_of(replaced(kSmall, "rmsnorm", "layer_norm")) ==
          "m.yaml:11:7: 'norm' must be one of rmsnorm, layernorm, got 'layer_norm' (did you mean 'layernorm'?)\n"
          "norm: layer_norm\n      ^");
  }
}

TEST_CASE("keys of a model must agree with each other") {
  SUBCASE("heads that do not divide") {
    CHECK(fault_of(replaced(kSmall, "value_heads: 2", "value_heads: 3")) ==
          "m.yaml:3:22: 'num_attention_heads' 8 is not a multiple of num_key_value_heads 3\nnum_attention_heads: 8\n"
          "                     ^");
  }
  SUBCASE("heads too wide together") {
    CHECK(fault_of(replaced(replaced(kSmall, "attention_heads: 8", "attention_heads: 65536"), "head_dim: 8",
                            "head_dim: 65536")) ==
          "m.yaml:3:22: 'num_attention_heads' 65536 of head_dim 65536 make 4294967296, more than 4194304\n"
          "num_attention_heads: 65536\n                     ^");
  }
  SUBCASE("learned positions without a table") {
    CHECK(fault_of(replaced(kSmall, "position: rope", "position: learned")) ==
          "m.yaml:1:1: the file needs 'max_position_embeddings': the table of learned positions has that many rows\n"
          "num_hidden_layers: 4\n^");
  }
  SUBCASE("dense layers without a width") {
    CHECK(fault_of(replaced(kSmall, "intermediate_size: 96\n", "")) ==
          "m.yaml:1:1: the file needs 'intermediate_size': 4 of its 4 layers are dense\nnum_hidden_layers: 4\n^");
    // Layers 0 and 2 are dense: layer i is MoE when i + 1 divides by 2.
    CHECK(fault_of(replaced(kSmall, "intermediate_size: 96\n",
                            "n_routed_experts: 8\nnum_experts_per_tok: 2\nmoe_intermediate_size: 32\n"
                            "moe_layer_freq: 2\n")) ==
          "m.yaml:1:1: the file needs 'intermediate_size': 2 of its 4 layers are dense\nnum_hidden_layers: 4\n^");
  }
  SUBCASE("no width where every layer is MoE") {
    CHECK(fault_of(replaced(kSmall, "intermediate_size: 96\n",
                            "n_routed_experts: 8\nnum_experts_per_tok: 2\nmoe_intermediate_size: 32\n")) == "no fault");
  }
  SUBCASE("experts") {
    CHECK(fault_of(kSmall + "num_experts_per_tok: 2\n") ==
          "m.yaml:12:1: 'num_experts_per_tok' needs 'n_routed_experts'\nnum_experts_per_tok: 2\n^");
    CHECK(fault_of(kSmall + "n_routed_experts: 8\nnum_experts_per_tok: 2\n") ==
          "m.yaml:12:1: 'n_routed_experts' needs 'moe_intermediate_size'\nn_routed_experts: 8\n^");
    CHECK(fault_of(kSmall + "n_routed_experts: 8\nnum_experts_per_tok: 9\nmoe_intermediate_size: 32\n") ==
          "m.yaml:13:22: 'num_experts_per_tok' 9 is more than n_routed_experts 8\nnum_experts_per_tok: 9\n"
          "                     ^");
    CHECK(fault_of(kSmall + "shared_expert_gate: true\n") ==
          "m.yaml:12:1: 'shared_expert_gate' needs 'n_shared_experts'\nshared_expert_gate: true\n^");
  }
  SUBCASE("groups of experts") {
    CHECK(fault_of(kSmallExperts) == "no fault");
    CHECK(fault_of(kSmall + "n_group: 4\ntopk_group: 2\n") ==
          "m.yaml:12:1: 'n_group' needs 'n_routed_experts'\nn_group: 4\n^");
    CHECK(fault_of(replaced(kSmallExperts, "topk_group: 2\n", "")) ==
          "m.yaml:15:1: 'n_group' needs 'topk_group'\nn_group: 4\n^");
    CHECK(fault_of(replaced(kSmallExperts, "n_group: 4\n", "")) ==
          "m.yaml:15:1: 'topk_group' needs 'n_group'\ntopk_group: 2\n^");
    CHECK(fault_of(replaced(kSmallExperts, "n_group: 4", "n_group: 3")) ==
          "m.yaml:12:19: 'n_routed_experts' 8 is not a multiple of n_group 3\nn_routed_experts: 8\n"
          "                  ^");
    CHECK(fault_of(replaced(kSmallExperts, "topk_group: 2", "topk_group: 5")) ==
          "m.yaml:16:13: 'topk_group' 5 is more than n_group 4\ntopk_group: 5\n            ^");
    CHECK(fault_of(replaced(kSmallExperts, "per_tok: 2", "per_tok: 5")) ==
          "m.yaml:13:22: 'num_experts_per_tok' 5 is more than the 4 experts of topk_group 2\nnum_experts_per_tok: 5\n"
          "                     ^");
    CHECK(fault_of(replaced(kSmallExperts, "n_group: 4", "n_group: 0")) ==
          "m.yaml:15:10: 'n_group' must be between 1 and 65536, got 0\nn_group: 0\n         ^");
  }
  SUBCASE("latent attention") {
    CHECK(fault_of(kSmall + "kv_lora_rank: 512\n") ==
          "m.yaml:12:1: 'kv_lora_rank' needs 'qk_nope_head_dim'\nkv_lora_rank: 512\n^");
    CHECK(fault_of(kSmall + "q_lora_rank: 1536\n") ==
          "m.yaml:12:1: 'q_lora_rank' needs 'kv_lora_rank'\nq_lora_rank: 1536\n^");
  }
  SUBCASE("a pattern of no window") {
    CHECK(fault_of(kSmall + "sliding_window_pattern: 2\n") ==
          "m.yaml:12:1: 'sliding_window_pattern' needs 'sliding_window'\nsliding_window_pattern: 2\n^");
  }
}
