#include "planner/serve/serve_layout.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"

namespace shardwright {
namespace {

const Model& deepseek() {
  static const Model model = find_model("deepseek-v3");
  return model;
}
const Model& llama() {
  static const Model model = find_model("llama-3.1-70b");
  return model;
}

TEST_CASE("a served layout is read key by key") {
  const ServePins pins = parse_serve_layout("tp=4,pp=2,attention_dp=2,ep=8,dp=3", "--layout");
  CHECK(pins.tp == 4);
  CHECK(pins.pp == 2);
  CHECK(pins.attention_dp == 2);
  CHECK(pins.ep == 8);
  CHECK(pins.dp == 3);
  CHECK_FALSE(pins.etp);
  CHECK_FALSE(pins.disaggregated);
  CHECK(parse_serve_layout("serving=disaggregated", "--pin").disaggregated == true);
  CHECK_FALSE(parse_serve_layout("", "--pin").tp);
}

TEST_CASE("what is wrong in a served layout is shown with a caret") {
  const auto message = [](const char* text) { return message_of([&] { parse_serve_layout(text, "--layout"); }); };
  CHECK(message("tpp=4") == "--layout:1:1: unknown key 'tpp' (did you mean 'tp'?)\ntpp=4\n^");
  CHECK(message("tp=4,tp=2") == "--layout:1:6: 'tp' is given twice\ntp=4,tp=2\n     ^");
  CHECK(message("tp") == "--layout:1:1: expected key=value, got 'tp'\ntp\n^");
  CHECK(message("tp=4,") == "--layout:1:6: expected key=value, got ''\ntp=4,\n     ^");
  CHECK(message("tp=0") == "--layout:1:4: 'tp' must be a whole number between 1 and 1048576, got '0'\ntp=0\n   ^");
  CHECK(message("tp=4x") == "--layout:1:4: 'tp' must be a whole number between 1 and 1048576, got '4x'\ntp=4x\n   ^");
  CHECK(message("serving=both") ==
        "--layout:1:9: 'serving' must be aggregated or disaggregated, got 'both'\nserving=both\n        ^");
}

TEST_CASE("degrees that are not given follow from the others") {
  const auto layout = [](const char* text, const Model& model, std::optional<std::int64_t> gpus) {
    return layout_of(parse_serve_layout(text, "--layout"), model, gpus);
  };
  CHECK(layout("tp=4", llama(), 16).replicas == 4);
  CHECK(layout("tp=4", llama(), std::nullopt).replicas == 1);
  // Experts fill the stage: all ep unless one of the two is given.
  CHECK(layout("tp=2,attention_dp=4", deepseek(), std::nullopt).expert == 8);
  CHECK(layout("tp=2,attention_dp=4,etp=2", deepseek(), std::nullopt).expert == 4);
  CHECK(layout("tp=8,ep=2", deepseek(), std::nullopt).expert_tensor == 4);
  CHECK(layout("tp=8,ep=8", deepseek(), 16).gpus() == 16);
  CHECK(to_string(layout("tp=8,ep=2", deepseek(), 16)) == "tp=8,pp=1,attention_dp=1,ep=2,etp=4,dp=2");
}

TEST_CASE("pins that contradict each other are the user's mistake") {
  const auto message = [](const char* text, const Model& model, std::optional<std::int64_t> gpus) {
    return message_of([&] { layout_of(parse_serve_layout(text, "--layout"), model, gpus); });
  };
  CHECK(message("tp=3", llama(), 8) == "tp * pp * cp * attention_dp 3 does not divide 8 GPUs");
  CHECK(message("tp=2,dp=3", llama(), 8) == "8 GPUs do not hold 3 copies of 2 ranks");
  CHECK(message("tp=2,ep=2", llama(), 8) == "llama-3.1-70b has no experts for ep, etp, redundant or shared");
  CHECK(message("tp=4,ep=8", deepseek(), 8) == "ep * etp must be tp * cp * attention_dp, 4");
  CHECK(message("tp=4,ep=2,etp=4", deepseek(), 8) == "ep * etp must be tp * cp * attention_dp, 4");
}

TEST_CASE("what no engine can run says why") {
  const Machine machine = find_machine("h100-sxm-80gb");
  const auto why = [&](ServeLayout layout, const Model& model, ServeFormats formats = {}) {
    const auto rejection = impossible(model, machine, formats, layout);
    return rejection ? rejection->reason + ": " + rejection->detail : "";
  };
  CHECK(why({.tensor = 16}, llama()).empty());  // heads of keys are copied
  CHECK(why({.tensor = 3}, llama()) == "heads: tp 3 does not cut 8 KV heads with 8 query heads each into equal parts");
  CHECK(why({.pipeline = 81}, llama()) == "layers: pp 81 is more than the 80 layers");
  CHECK(why({.attention_data = 24, .expert = 24}, deepseek()) == "experts: ep 24 does not divide the 256 experts");
  CHECK(why({.tensor = 1}, llama(), {WeightFormat::nvfp4, WeightFormat::nvfp4, KvFormat::bf16}) ==
        "precision: h100-sxm-80gb does not compute in nvfp4");
}

}  // namespace
}  // namespace shardwright
