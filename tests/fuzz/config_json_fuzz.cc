#include <cstdint>
#include <cstdlib>
#include <string>

#include "models/config_json.h"

using namespace shardwright;

/// Any bytes as a config.json: a Model that its own file makes again, or an InputError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const YamlCursor top = YamlCursor::parse_json(text, "fuzz.json");
    const Model model = read_config_json(top, "fuzz");
    try {
      if (!(read_model(YamlCursor::parse(model_yaml(model), "again.yaml"), "fuzz") == model)) std::abort();
    } catch (const InputError&) {
      std::abort();  // what was read must be readable
    }
    name_in_config_json(top);
  } catch (const InputError&) {}
  return 0;
}
