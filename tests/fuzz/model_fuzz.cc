#include <cstdint>
#include <cstdlib>
#include <string>

#include "models/model.h"

using namespace shardwright;

/// Any bytes as a model file: a Model whose every question has an answer, or an InputError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const YamlCursor top = YamlCursor::parse(text, "fuzz.yaml");
    const Model model = read_model(top, "fuzz");
    unsupported(model);
    for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) model.is_windowed(i);
    // The whole file as overrides of itself changes nothing, but that its total is kept only where it is stated.
    if (!(override_model(model, top) == model)) std::abort();
    if (!(read_model(YamlCursor::parse(model_yaml(model), "again.yaml"), "fuzz") == model)) std::abort();
  } catch (const InputError&) {}
  return 0;
}
