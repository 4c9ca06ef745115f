#include <fmt/format.h>

#include <filesystem>

#include "hardware/fit_kernels.h"
#include "hardware/input_file.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;

/// The tables of several folders, which must be of one machine.
MeasuredMachine read_folders(const std::vector<std::string>& folders) {
  MeasuredMachine all{read_machine(YamlCursor::open(machine_file_in(folders[0]))), nullptr};
  Measurements measured;
  for (const std::string& folder : folders) {
    const Machine machine = read_machine(YamlCursor::open(machine_file_in(folder)));
    if (machine.name != all.machine.name)
      throw InputError(fmt::format("{}: is of {}, {} of {}", folder, machine.name, folders[0], all.machine.name));
    measured.add(read_measurements(folder));
  }
  all.measurements = std::make_shared<const Measurements>(std::move(measured));
  return all;
}

bool holds(const std::string& path, const std::string& text) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) && read_file(path, kMostBytes) == text;
}

int run(const Arguments& arguments) {
  const std::string& what = arguments.positionals[0];
  if (what != "kernels") throw InputError(fmt::format("WHAT: must be kernels, got '{}'", shown(what)));
  const std::optional<std::string> place = arguments.find("--out");
  if (!place) throw InputError("--out: is missing: the file to write, e.g. --out hardware/curves/h100-sxm.yaml");
  const std::string source = arguments.find("--source").value_or("not stated");
  if (source.find_first_of("\"\\\n") != std::string::npos)
    throw InputError("--source: must be one line without quotes and backslashes");
  const MeasuredMachine measured = read_folders({arguments.positionals.begin() + 1, arguments.positionals.end()});
  const CurveFile file = fit_kernels(measured.machine, *measured.measurements, source, remark);
  const std::string text = curves_yaml(file, measured.machine.name);
  if (!arguments.has("--check")) {
    write_file(*place, text);
    return kDone;
  }
  if (holds(*place, text)) return kDone;
  write_stdout(fmt::format("{} would change\n", *place));
  return kNothingFits;
}

}  // namespace

Command fit_command() {
  return {"fit",
          "make curves of measurements, for machines that have none",
          {"fit kernels measured-h100 --out h100.yaml --source 'own runs, 2026-08'",
           "fit kernels measured-h100 --out h100.yaml --check"},
          {{"WHAT", "kernels", true, false, Completes::words, {"kernels"}},
           {"MEASURED", "folders with a machine's measurements", true, true, Completes::files, {}}},
          {{"--out", "FILE", "the file to write, whole or not at all", Completes::files},
           {"--source", "TEXT", "where the measurements are from, kept in the file"},
           {"--check", "", "write nothing; exit code 1 if FILE would change"}},
          run};
}

}  // namespace shardwright
