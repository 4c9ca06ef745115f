#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "hardware/gzip.h"
#include "hardware/operator_tables.h"
#include "models/config_json.h"
#include "planner/cli/commands.h"
#include "planner/cli/output.h"
#include "reports/format.h"

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

// ---- A folder of operator tables ----

/// `h100-sxm-80gb` for `h100_sxm`: the one machine of the catalog whose name begins like the folder's.
std::string machine_for(const Arguments& arguments, const std::string& folder) {
  if (const std::optional<std::string> given = arguments.find("--machine")) return *given;
  std::error_code ignored;
  std::string name = fs::canonical(folder, ignored).filename().string();
  std::replace(name.begin(), name.end(), '_', '-');
  std::vector<std::string> fitting;
  for (const std::string& machine : machine_names()) {
    if (machine == name || machine.starts_with(name + "-")) fitting.push_back(machine);
  }
  if (fitting.size() == 1) return fitting[0];
  if (fitting.empty()) {
    throw InputError(
        fmt::format("--machine: is missing: no machine of the catalog is named like the folder, '{}'", shown(name)));
  }
  throw InputError(fmt::format("--machine: is missing: the folder's tables may be of {}", fmt::join(fitting, ", ")));
}

std::string plural(std::int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", grouped(count), what, count == 1 ? "" : "s");
}

/// What was read, from where, and what was left out and why.
std::string import_text(const OperatorImport& import, const std::string& machine) {
  std::string text =
      fmt::format("{} of {}\n", plural(static_cast<std::int64_t>(import.measured.size()), "measurement"), machine);
  for (int i = 0; i < kKernelFamilies; ++i) {
    const KernelTable& table = import.measured.table(static_cast<KernelFamily>(i));
    if (table.size() == 0) continue;
    text += fmt::format("  {:<14} {:>9}\n", name_of(table.family()), grouped(static_cast<std::int64_t>(table.size())));
  }
  text += "\nread\n";
  for (const ImportedFile& file : import.files) {
    text += fmt::format("  {}: {}", file.name, plural(file.rows, "row"));
    if (file.measurements != file.rows) text += fmt::format(", {}", plural(file.measurements, "measurement"));
    text += "\n";
    for (const auto& [reason, rows] : file.left_out)
      text += fmt::format("    left out: {}, {}\n", plural(rows, "row"), shown(reason));
  }
  for (const std::string& name : import.ignored) text += fmt::format("  {}: left out, no known table\n", shown(name));
  return text;
}

int import_tables(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[0];
  if (arguments.has("--name")) throw InputError("--name: is of models; this is a folder of operator tables");
  const std::optional<std::string> place = arguments.find("--out");
  if (!place) throw InputError("--out: is missing: the folder to write, e.g. --out measured-h100");
  std::error_code ignored;
  if (fs::exists(*place, ignored) && !(fs::is_directory(*place, ignored) && fs::is_empty(*place, ignored)))
    throw InputError(fmt::format("--out: '{}' is there already; name a new folder", shown(*place)));
  const std::string name = machine_for(arguments, folder);
  const std::string facts = machine_text(name);
  const OperatorImport import = import_operator_tables(folder, find_machine(name).gpus_per_node);
  const std::string text = import_text(import, name);
  std::vector<FolderFile> files;
  files.push_back({"machine.yaml", facts});
  files.push_back({"imported.txt", text});
  for (int i = 0; i < kKernelFamilies; ++i) {
    const KernelTable& table = import.measured.table(static_cast<KernelFamily>(i));
    if (table.size() > 0)
      files.push_back({fmt::format("{}.csv.gz", name_of(table.family())), gzip(kernel_table_csv(table))});
  }
  write_folder(*place, files);
  write_stdout(text);
  return kDone;
}

// ---- A config.json ----

int run(const Arguments& arguments) {
  fs::path file = arguments.positionals[0];
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    if (has_operator_tables(file.string())) return import_tables(arguments);
    file /= "config.json";
  }
  if (arguments.has("--machine")) throw InputError("--machine: is of operator tables; this is a model");
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
          "make a model file of a config.json, or measurements of operator tables",
          {"import DeepSeek-V3/config.json --out deepseek-v3.yaml",
           "import h100_sxm --out measured-h100 --machine h100-sxm-80gb"},
          {{"WHAT", "a config.json, or a folder with one or with tables", true, false, Completes::files, {}}},
          {{"--out", "WHERE", "the file or folder to write (a model: or stdout)", Completes::files},
           {"--name", "NAME", "the model's name (default: the file's or folder's)"},
           {"--machine", "NAME", "whose tables (default: by the folder's name)", Completes::words, machine_names()}},
          run};
}

}  // namespace shardwright
