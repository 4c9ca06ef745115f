#include <fmt/format.h>

#include <filesystem>

#include "models/config_json.h"
#include "planner/cli/commands.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

namespace fs = std::filesystem;

bool is_file_name(std::string_view name) {
  constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name[0] != '.' && name[0] != '-' && name.find_first_not_of(allowed) == std::string_view::npos;
}

/// `deepseek-v3` of `deepseek-v3/config.json` and of `deepseek-v3.json`; "" when neither is a name.
std::string name_of_place(const fs::path& file) {
  std::error_code ignored;
  const std::string stem = file.stem().string();
  const std::string name = stem == "config" ? fs::absolute(file, ignored).parent_path().filename().string() : stem;
  return is_file_name(name) ? name : "";
}

std::string name_for(const Arguments& arguments, const YamlCursor& config) {
  if (const std::optional<std::string> given = arguments.find("--name")) {
    if (is_file_name(*given)) return *given;
    throw InputError(
        fmt::format("--name: must be letters, digits and . _ -, not beginning with . or -, got '{}'", shown(*given)));
  }
  std::string name = name_in_config_json(config);
  if (!is_file_name(name)) name = name_of_place(config.file());
  return name.empty() ? "model" : name;
}

int run(const Arguments& arguments) {
  fs::path file = arguments.positionals[0];
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) file /= "config.json";
  const YamlCursor config = YamlCursor::open_json(file.string());
  const Model model = read_config_json(config, name_for(arguments, config));
  const std::string text = fmt::format("# {}, from the config.json of a model of type {}.\n{}", model.name,
                                       config.at("model_type").text(), model_yaml(model));
  const std::optional<std::string> place = arguments.find("--out");
  if (!place) {
    write_stdout(text);
  } else if (fs::is_directory(*place, ignored)) {
    write_file((fs::path(*place) / (model.name + ".yaml")).string(), text);
  } else {
    write_file(*place, text);
  }
  return kDone;
}

}  // namespace

Command import_command() {
  return {"import",
          "make a model file from a Hugging Face config.json",
          {"import DeepSeek-V3/config.json --out deepseek-v3.yaml"},
          {{"WHAT", "a config.json, or the folder that holds one", true, false, Completes::files, {}}},
          {{"--out", "WHERE", "the file to write, or its folder (default: stdout)", Completes::files},
           {"--name", "NAME", "what to call the model (default: as the file says, or its folder)"}},
          run};
}

}  // namespace shardwright
