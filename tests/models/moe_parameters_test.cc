// Sizes of whole models, from their graphs, against published totals and the closed forms of counted_parameters.h.
#include <doctest/doctest.h>

#include "models/transformer.h"
#include "tests/models/counted_parameters.h"

using namespace shardwright;

namespace {

struct Sizes {
  const char* name;
  std::int64_t total, active, active_without_embedding, kv_bytes;
};

// Totals as published (published_parameters of the catalog); what is active in both of the conventions in use: gpt-oss
// and DeepSeek-V2-Lite are published without the input embedding, Qwen3 and Mixtral with it. KV: two bytes an element.
const Sizes kSizes[] = {
    {"deepseek-llm-7b", 6'910'365'696, 6'910'365'696, 6'490'935'296, 491'520},
    {"deepseek-llm-67b", 67'425'001'472, 67'425'001'472, 66'586'140'672, 389'120},
    {"deepseek-v2-lite", 15'706'484'224, 2'661'150'208, 2'451'435'008, 31'104},
    {"deepseek-v2", 235'741'434'880, 21'375'800'320, 20'851'512'320, 69'120},
    {"deepseek-v3", 671'026'419'200, 37'552'297'472, 36'625'618'432, 70'272},
    {"kimi-k2", 1'026'408'232'448, 32'861'500'928, 31'687'095'808, 70'272},
    {"llama-3.1-8b", 8'030'261'248, 8'030'261'248, 7'504'924'672, 131'072},
    {"llama-3.1-70b", 70'553'706'496, 70'553'706'496, 69'503'033'344, 327'680},
    {"llama-3.1-405b", 405'853'388'800, 405'853'388'800, 403'752'042'496, 516'096},
    {"mixtral-8x7b", 46'702'792'704, 12'879'925'248, 12'748'853'248, 131'072},
    {"mixtral-8x22b", 140'620'634'112, 39'152'031'744, 38'955'423'744, 229'376},
    {"qwen3-30b-a3b", 30'532'122'624, 3'353'032'704, 3'041'867'776, 98'304},
    {"qwen3-235b-a22b", 235'093'634'560, 22'190'763'520, 21'568'433'664, 192'512},
    {"gpt-oss-120b", 116'829'156'672, 5'711'982'912, 5'132'849'472, 73'728},
    {"gpt-oss-20b", 20'914'757'184, 4'187'440'704, 3'608'307'264, 49'152},
    // 40 layers x 2 x 5120 x 2 bytes; the output's table is the input's, so only the positions (2050 x 5120) fall away.
    {"opt-13b", 12'853'473'280, 12'853'473'280, 12'842'977'280, 819'200},
};

}  // namespace

TEST_CASE("a graph has exactly the parameters that were published") {
  for (const Sizes& sizes : kSizes) {
    CAPTURE(sizes.name);
    const Model model = find_model(sizes.name);
    REQUIRE(unsupported(model) == "");
    CHECK(parameters(model) == sizes.total);
    CHECK(active_parameters(model) == sizes.active);
    CHECK(active_parameters_without_embedding(model) == sizes.active_without_embedding);
    CHECK(kv_bytes_per_token(model) == sizes.kv_bytes);
  }
}

TEST_CASE("multi-token prediction adds a layer, a projection and three norms") {
  const Model model = find_model("deepseek-v3");
  // 11,507,286,272 of the layer + 2 x 7168^2 + 3 x 7168.
  CHECK(parameters_with_mtp(model) - parameters(model) == 11'610'068'224);
  const Model without = find_model("kimi-k2");
  CHECK(parameters_with_mtp(without) == parameters(without));
}

TEST_CASE("a graph counts what the table of keys says") {
  for (const std::string& name : model_names()) {
    CAPTURE(name);
    const Model model = find_model(name);
    REQUIRE(unsupported(model) == "");
    CHECK(parameters(model) == counted_parameters(model));
    CHECK(parameters_with_mtp(model) == counted_parameters(model) + counted_mtp_parameters(model));
    CHECK(active_parameters(model) == counted_active_parameters(model));
    CHECK(active_parameters_without_embedding(model) == counted_active_without_embedding(model));
    CHECK(kv_bytes_per_token(model) == 2 * counted_kv_elements(model));
  }
}
