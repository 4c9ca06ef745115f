#include "models/transformer.h"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

namespace shardwright {
namespace {

TEST_CASE("graphs have exactly the parameters of the published models") {
  struct Expected {
    const char* name;
    std::int64_t parameters;
  };
  // Checkpoints' own totals; the Megatron models from 12 L h^2 (1 + 13 / 12h + (v + s) / 12Lh) with the padded
  // vocabulary of Narayanan et al. 2021 plus the last norm.
  const Expected all[] = {{"deepseek-llm-7b", 6'910'365'696},  {"deepseek-llm-67b", 67'425'001'472},
                          {"llama-3.1-8b", 8'030'261'248},     {"llama-3.1-70b", 70'553'706'496},
                          {"llama-3.1-405b", 405'853'388'800}, {"qwen3-32b", 32'762'123'264},
                          {"gpt3-175b", 174'615'846'912},      {"megatron-22b", 22'074'273'792},
                          {"megatron-530b", 529'600'819'200},  {"megatron-1t", 1'008'038'758'400}};
  for (const Expected& model : all) {
    INFO(model.name);
    CHECK(parameters(find_model(model.name)) == model.parameters);
  }
}

TEST_CASE("the parameters that a token multiplies with leave out the input embedding") {
  CHECK(active_parameters_without_embedding(find_model("deepseek-llm-7b")) == 6'490'935'296);
  CHECK(active_parameters_without_embedding(find_model("deepseek-llm-67b")) == 66'586'140'672);
  CHECK(active_parameters_without_embedding(find_model("llama-3.1-8b")) == 7'504'924'672);
  CHECK(active_parameters_without_embedding(find_model("llama-3.1-70b")) == 69'503'033'344);
  CHECK(active_parameters_without_embedding(find_model("llama-3.1-405b")) == 403'752'042'496);
  // Tied: the table is also the head's; learned positions are left out.
  const Model gpt = find_model("gpt3-175b");
  REQUIRE(gpt.tie_word_embeddings);
  CHECK(active_parameters_without_embedding(gpt) == parameters(gpt) - gpt.max_position_embeddings * gpt.hidden_size);
}

TEST_CASE("keys and values of a token take two bytes an element") {
  CHECK(kv_bytes_per_token(find_model("deepseek-llm-67b")) == 389'120);  // DeepSeek-V2 report's comparison model
  CHECK(kv_bytes_per_token(find_model("llama-3.1-405b")) == 516'096);    // DeepSeek, ISCA 2025, table 1
  CHECK(kv_bytes_per_token(find_model("llama-3.1-8b")) == 2 * 65'536);
}

TEST_CASE("a model is a few classes of layers and a count of each") {
  const ModelGraphs llama = model_graphs(find_model("llama-3.1-405b"));
  CHECK(llama.layer_classes.size() == 1);
  CHECK(llama.class_of_layer == std::vector<int>(126, 0));
  Model windowed = find_model("llama-3.1-8b");
  windowed.sliding_window = 128;
  windowed.sliding_window_pattern = 2;
  const ModelGraphs two = model_graphs(windowed);
  REQUIRE(two.layer_classes.size() == 2);
  CHECK(two.class_of_layer[0] == 0);
  CHECK(two.class_of_layer[1] == 1);
  CHECK(two.class_of_layer[2] == 0);
  const auto window = [](const OpGraph& graph) {
    for (const Operator& op : graph.ops())
      if (op.kind == OpKind::attention) return op.window;
    return std::int64_t{-1};
  };
  CHECK(window(two.layer_classes[0]) == 128);
  CHECK(window(two.layer_classes[1]) == 0);
}

TEST_CASE("a layer of Llama is a norm, attention, a norm and a gated feed-forward part") {
  const ModelGraphs graphs = model_graphs(find_model("llama-3.1-8b"));
  const OpGraph& layer = graphs.layer_classes[0];
  std::string kinds;
  for (const Operator& op : layer.ops()) kinds += std::string(name_of(op.kind)) + " ";
  CHECK(kinds ==
        "rms_norm contraction contraction contraction rotary rotary attention contraction residual_sum "
        "rms_norm contraction contraction gated_silu contraction residual_sum ");
  CHECK(layer.stream_in >= 0);
  CHECK(layer.tensor(layer.stream_out).name == "after_mlp");
  CHECK(graphs.embedding.stream_in == -1);
  CHECK(graphs.head.stream_out == -1);
  CHECK(graphs.head.ops().back().kind == OpKind::cross_entropy);
}

std::string kinds_of(const OpGraph& graph) {
  std::string kinds;
  for (const Operator& op : graph.ops()) kinds += std::string(name_of(op.kind)) + " ";
  return kinds;
}

TEST_CASE("DeepSeek-V3 has three dense layers, then experts and its head predicts one token more") {
  const ModelGraphs graphs = model_graphs(find_model("deepseek-v3"));
  REQUIRE(graphs.layer_classes.size() == 2);
  std::vector<int> classes(61, 1);
  classes[0] = classes[1] = classes[2] = 0;
  CHECK(graphs.class_of_layer == classes);
  CHECK(graphs.head.losses.size() == 2);
  // Latents of queries, keys and the rotary key, norms, projections up, the core; then the router with its bias.
  const std::string attention =
      "rms_norm contraction rms_norm contraction contraction rms_norm rotary contraction contraction rotary "
      "contraction "
      "contraction attention contraction residual_sum ";
  CHECK(kinds_of(graphs.layer_classes[0]) ==
        attention + "rms_norm contraction contraction gated_silu contraction residual_sum ");
  CHECK(kinds_of(graphs.layer_classes[1]) ==
        attention +
            "rms_norm contraction add_bias route dispatch contraction contraction gated_silu contraction contraction "
            "combine contraction contraction gated_silu contraction residual_sum ");
}

TEST_CASE("absorbed, the keys' up-projection is one of queries and the values' one of the core's result") {
  const ModelGraphs expanded = model_graphs(find_model("deepseek-v3")),
                    absorbed = model_graphs(find_model("deepseek-v3"), {.absorbed_latent = true});
  CHECK(kinds_of(absorbed.layer_classes[0]) ==
        "rms_norm contraction rms_norm contraction contraction rms_norm rotary contraction contraction rotary "
        "contraction attention contraction contraction residual_sum "
        "rms_norm contraction contraction gated_silu contraction residual_sum ");
  const auto weights = [](const OpGraph& graph) {
    std::string names;
    for (const Tensor& t : graph.tensors())
      if (t.role == TensorRole::weight) names += t.name + " ";
    return names;
  };
  for (std::size_t c = 0; c < expanded.layer_classes.size(); ++c) {
    CHECK(weights(absorbed.layer_classes[c]) == weights(expanded.layer_classes[c]));
    CHECK(absorbed.layer_classes[c].weight_elements() == expanded.layer_classes[c].weight_elements());
  }
  CHECK(absorbed.head.weight_elements() == expanded.head.weight_elements());
}

TEST_CASE("the absorbed core reads of a token what is cached of it, the expanded core keys and values of all heads") {
  // Each tensor that the core sees along its keys, once; two bytes an element.
  const auto bytes_read = [](const Model& model, bool absorbed) {
    const ModelGraphs graphs = model_graphs(model, {.absorbed_latent = absorbed});
    std::int64_t elements = 0;
    for (int c : graphs.class_of_layer) {
      const OpGraph& layer = graphs.layer_classes[static_cast<std::size_t>(c)];
      const auto keys = static_cast<DimId>(layer.find_dim("key_sequence"));
      std::set<TensorId> read;
      for (const Operator& op : layer.ops())
        for (const Operand& in : op.inputs)
          if (in.dims.has(keys) && read.insert(in.tensor).second) {
            std::int64_t of_token = 1;
            for (DimId d : in.dims) of_token *= layer.dims()[d].extent;
            elements += of_token;
          }
    }
    return 2 * elements;
  };
  for (const char* name : {"deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "kimi-k2"}) {
    CAPTURE(name);
    CHECK(bytes_read(find_model(name), true) == kv_bytes_per_token(find_model(name)));
  }
  const Model v3 = find_model("deepseek-v3");
  CHECK(bytes_read(v3, true) == 70'272);            // (512 + 64) * 61 * 2: DeepSeek, ISCA 2025, table 1
  CHECK(bytes_read(v3, false) == 2 * 61 * 32'832);  // 2 * 128 * 128 + 64
  CHECK(bytes_read(find_model("llama-3.1-405b"), true) == 516'096);  // no latent to absorb
}

TEST_CASE("of the rows of all experts, a token's chosen ones exist") {
  const ModelGraphs graphs = model_graphs(find_model("deepseek-v3"));
  const OpGraph& layer = graphs.layer_classes[1];
  for (const char* name : {"gate", "mask", "rows", "expert_up", "expert_activation", "expert_scaled", "expert_out"}) {
    CAPTURE(name);
    CHECK(layer.tensor(layer.find_tensor(name)).density == 8.0 / 256);
  }
  for (const char* name : {"router_logits", "routed", "shared_out", "experts.up_proj"}) {
    CAPTURE(name);
    CHECK(layer.tensor(layer.find_tensor(name)).density == 1);
  }
}

TEST_CASE("the gate of an expert multiplies before its down-projection unless a bias follows that") {
  const auto gated_rows = [](const char* model, bool early) {
    const ModelGraphs graphs = model_graphs(find_model(model), {.early_gate = early});
    return graphs.layer_classes.back().find_tensor("expert_scaled") >= 0;
  };
  CHECK(gated_rows("mixtral-8x7b", true));
  CHECK_FALSE(gated_rows("mixtral-8x7b", false));
  CHECK_FALSE(gated_rows("gpt-oss-20b", true));
}

TEST_CASE(
    "gpt-oss has sinks, one a head, and a window on every other layer and Llama 4's chunks skip each fourth layer") {
  const Model gpt_oss = find_model("gpt-oss-20b");
  const auto core = [](const OpGraph& graph) {
    for (const Operator& op : graph.ops())
      if (op.kind == OpKind::attention) return op;
    return Operator{};
  };
  const ModelGraphs graphs = model_graphs(gpt_oss);
  REQUIRE(graphs.layer_classes.size() == 2);
  CHECK(core(graphs.layer_classes[0]).window == 128);
  CHECK(core(graphs.layer_classes[1]).window == 0);
  const OpGraph& layer = graphs.layer_classes[0];
  const DimList sinks = layer.tensor(layer.find_tensor("sinks")).dims;
  REQUIRE(sinks.size() == 2);
  CHECK(layer.dims()[sinks[0]].extent * layer.dims()[sinks[1]].extent == gpt_oss.num_attention_heads);
  Model chunked = find_model("llama-3.1-8b");
  chunked.attention_chunk_size = 8192;
  const ModelGraphs two = model_graphs(chunked);
  REQUIRE(two.layer_classes.size() == 2);
  CHECK(std::vector<int>(two.class_of_layer.begin(), two.class_of_layer.begin() + 8) ==
        std::vector<int>{0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(core(two.layer_classes[0]).chunk == 8192);
  CHECK(core(two.layer_classes[1]).chunk == 0);
}

TEST_CASE("embedding and head of a tied model in one graph have one table") {
  const Model gpt = find_model("gpt3-175b");
  OpGraph graph;
  const TransformerDims d = add_transformer_dims(graph, gpt);
  append_head(graph, d, append_embedding(graph, d, gpt, {}), gpt);
  // Table and positions, and the last norm's weight and bias.
  CHECK(graph.weight_elements() == (gpt.vocab_size + gpt.max_position_embeddings + 2) * gpt.hidden_size);
}

TEST_CASE("dropout stands where GPT has it") {
  const ModelGraphs graphs = model_graphs(find_model("gpt3-175b"), {.fused_attention = false, .dropout = true});
  const auto dropouts = [](const OpGraph& graph) {
    std::string names;
    for (const Operator& op : graph.ops())
      if (op.kind == OpKind::dropout) names += op.name + " ";
    return names;
  };
  CHECK(dropouts(graphs.embedding) == "embedding_dropout ");
  CHECK(dropouts(graphs.layer_classes[0]) == "attention_dropout hidden_dropout_1 hidden_dropout_2 ");
}

}  // namespace
}  // namespace shardwright
