#include <fmt/format.h>

#include <optional>

#include "hardware/fit_kernels.h"
#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

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

/// What to fit of a file whose other curves stay.
std::optional<KernelFamily> family_alone(const Arguments& arguments) {
  const auto name = arguments.find("--family");
  if (!name) return std::nullopt;
  for (const KernelFamily family : {KernelFamily::gemm, KernelFamily::attention, KernelFamily::moe_layer}) {
    if (name_of(family) == *name) return family;
  }
  const std::string hint = did_you_mean(*name, {"gemm", "attention", "moe_layer"});
  throw InputError(fmt::format("--family: must be gemm, attention or moe_layer, got '{}'{}", shown(*name), hint));
}

}  // namespace

int run_fit_kernels(const Arguments& arguments) {
  const std::string source = arguments.find("--source").value_or("not stated");
  if (source.find_first_of("\"\\\n") != std::string::npos)
    throw InputError("--source: must be one line without quotes and backslashes");
  const std::string place = place_of_fit(arguments, "hardware/curves/h100-sxm.yaml");
  const MeasuredMachine measured = read_folders({arguments.positionals.begin() + 1, arguments.positionals.end()});
  CurveFile file;
  if (const auto family = family_alone(arguments)) {
    file = read_curves(YamlCursor::open(place));
    if (arguments.find("--source")) file.source = source;
    refit_family(*family, measured.machine, *measured.measurements, file, remark);
  } else {
    file = fit_kernels(measured.machine, *measured.measurements, source, remark);
  }
  return write_fit(arguments, place, curves_yaml(file, measured.machine.name));
}

}  // namespace shardwright
