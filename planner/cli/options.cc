#include "planner/cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "hardware/carried_over.h"
#include "hardware/input_error.h"
#include "hardware/measured_times.h"
#include "planner/cli/output.h"
#include "reports/chrome_trace.h"
#include "reports/unmeasured_text.h"

namespace shardwright {
namespace {

constexpr std::int64_t kMostGpus = std::int64_t{1} << 24;
constexpr std::int64_t kMostSequences = std::int64_t{1} << 24;  // of a step

constexpr std::array<std::string_view, 7> kPrecisions = {"fp32", "fp16", "bf16", "fp8", "mxfp8", "nvfp4", "any"};

std::int64_t required_number(const Arguments& arguments, const std::string& flag, const char* meaning,
                             std::int64_t example, std::int64_t high) {
  const std::optional<std::string> text = arguments.find(flag);
  if (!text) throw InputError(fmt::format("{0}: is missing: {1}, e.g. {0} {2}", flag, meaning, example));
  return whole_number(flag, *text, 1, high);
}

void read_precision(const Arguments& arguments, PlanRequest& request) {
  const std::string text = arguments.find("--precision").value_or("bf16");
  const std::vector<std::string_view> known(kPrecisions.begin(), kPrecisions.end());
  if (std::find(known.begin(), known.end(), text) == known.end()) {
    throw InputError(fmt::format("--precision: must be one of {}, got '{}'{}", fmt::join(known, ", "), shown(text),
                                 did_you_mean(text, known)));
  }
  request.any_precision = text == "any";
  request.precision = request.any_precision ? DataType::bf16 : *data_type_named(text);
  if (request.any_precision || supports(request.machine, request.precision)) return;
  std::vector<std::string_view> types;
  for (const DataType type : kDataTypes) {
    if (supports(request.machine, type)) types.push_back(name_of(type));
  }
  throw InputError(fmt::format("--precision: {} does not compute in {}; it has {}", request.machine.name,
                               name_of(request.precision), fmt::join(types, ", ")));
}

/// How many rows the experts get; only of a model that has some.
void read_routing(const Arguments& arguments, PlanRequest& request) {
  const auto load = arguments.find("--expert-load"), capacity = arguments.find("--capacity-factor");
  for (const auto& [flag, given] : {std::pair{"--expert-load", load}, {"--capacity-factor", capacity}})
    if (given && request.model.n_routed_experts == 0)
      throw InputError(fmt::format("{}: {} has no routed experts", flag, request.model.name));
  if (load) {
    request.workload.expert_load = read_expert_load(*load, "--expert-load");
    relative_loads(request.workload.expert_load, request.model.n_routed_experts, request.model.num_experts_per_tok);
  }
  if (capacity) request.workload.capacity_factor = positive_number("--capacity-factor", *capacity, 1000);
}

CudaGraphs read_cuda_graphs(const std::string& text) {
  CudaGraphs graphs;
  if (text == "none") return graphs;
  std::vector<std::string_view> known = {"none"};
  for (const CudaGraphPart& part : kCudaGraphParts) known.push_back(part.name);
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('+', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const auto part = std::find_if(kCudaGraphParts.begin(), kCudaGraphParts.end(),
                                   [&](const CudaGraphPart& p) { return p.name == word; });
    if (part == kCudaGraphParts.end())
      throw InputError(fmt::format("--cuda-graphs: must be some of {}, got '{}'{}", fmt::join(known, ", "), shown(word),
                                   did_you_mean(word, known)));
    graphs.*(part->captured) = true;
    begin = end + 1;
  }
  return graphs;
}

}  // namespace

std::shared_ptr<const MeasuredTimes> read_all_measurements(const Arguments& arguments, const Machine& machine) {
  const std::optional<MeasuredMachine> added = read_measured_machine(arguments);
  const std::string folder = measured_folder_of(arguments.positionals[1]);
  if (!added && folder.empty()) return nullptr;
  const bool its_own = added && added->machine.name == machine.name;
  if (added && !its_own && !same_chip(added->machine, machine)) {
    throw InputError(fmt::format("--measurements: '{}' has those of {}, another chip than {}",
                                 shown(*arguments.find("--measurements")), added->machine.name, machine.name));
  }
  Measurements own;
  Calibration calibration;
  if (!folder.empty()) {
    own = read_measurements(folder);
    calibration = read_calibration(folder);
  }
  if (its_own)
    for (const FamilyCalibration& found : added->calibration.families()) calibration.set(found);
  if (its_own) own.add(*added->measurements);
  std::shared_ptr<const Measurements> carried;
  if (added && !its_own)
    carried = std::make_shared<const Measurements>(carried_over(*added->measurements, added->machine, machine));
  return std::make_shared<const MeasuredTimes>(machine, std::make_shared<const Measurements>(std::move(own)), carried,
                                               std::move(calibration));
}

double positive_number(const std::string& flag, const std::string& text, double high) {
  char* end = nullptr;
  const bool plain = text.find_first_not_of("0123456789.") == std::string::npos && !text.empty();
  const double value = plain ? std::strtod(text.c_str(), &end) : 0;
  if (!plain || *end != '\0' || !(value > 0) || value > high)
    throw InputError(fmt::format("{}: must be a number above 0 and at most {:g}, got '{}'", flag, high, shown(text)));
  return value;
}

std::int64_t whole_number(const std::string& flag, const std::string& text, std::int64_t low, std::int64_t high) {
  const auto refuse = [&] {
    throw InputError(
        fmt::format("{}: must be a whole number between {} and {}, got '{}'", flag, low, high, shown(text)));
  };
  const bool digits_only = text.find_first_not_of("0123456789") == std::string::npos;
  const bool leading_zero = text.size() > 1 && text[0] == '0';
  if (text.empty() || !digits_only || leading_zero) refuse();
  std::int64_t value = 0;
  for (const char digit : text) {
    value = value * 10 + (digit - '0');
    if (value > high) refuse();
  }
  if (value < low) refuse();
  return value;
}

std::vector<Positional> question_positionals() {
  return {{"MODEL", "a model of the catalog, or a YAML file", true, false, Completes::words, model_names()},
          {"MACHINE", "a machine of the catalog, a file, or a folder", true, false, Completes::words, machine_names()}};
}

std::vector<Option> question_options() {
  return {{"--gpus", "N", "how many GPUs (default: one node)"},
          {"--train", "", "plan a training step (the default)"},
          {"--serve", "", "serving: --isl, --osl and what follows them"},
          {"--sequence-length", "TOKENS", "tokens in a sequence"},
          {"--global-batch", "SEQUENCES", "sequences in an optimizer step"},
          {"--precision",
           "TYPE",
           "fp32 fp16 bf16 (default) fp8 mxfp8 nvfp4, or any",
           Completes::words,
           {kPrecisions.begin(), kPrecisions.end()}},
          {"--engine", "NAME", "the framework that runs it (default: generic)", Completes::words, engine_names()},
          {"--cuda-graphs", "PARTS", "what it captures: none, layer, attn+mlp, ..."},
          {"--expert-load", "LOAD", "rows of the experts: balanced, zipf:1.2, or a file"},
          {"--capacity-factor", "C", "experts take C times their mean of rows"},
          measurements_option()};
}

PlanRequest read_question(const Arguments& arguments) {
  if (arguments.has("--serve")) throw InputError("--serve: this command is about training");
  PlanRequest request;
  // The cheap faults first: a wrong flag is told before a file is read.
  const std::optional<std::string> gpus = arguments.find("--gpus");
  if (gpus) request.gpus = whole_number("--gpus", *gpus, 1, kMostGpus);
  request.workload.sequence_length =
      required_number(arguments, "--sequence-length", "tokens in a sequence", 8192, kMostTokens);
  request.workload.global_batch =
      required_number(arguments, "--global-batch", "sequences in an optimizer step", 512, kMostSequences);
  request.threads = read_threads(arguments);
  request.engine = find_engine(arguments.find("--engine").value_or("generic"), "--engine");
  if (const auto graphs = arguments.find("--cuda-graphs")) request.workload.cuda_graphs = read_cuda_graphs(*graphs);
  request.model = find_model(arguments.positionals[0]);
  request.machine = find_machine(arguments.positionals[1]);
  if (!gpus) request.gpus = request.machine.gpus_per_node;
  const std::string lacking = unsupported(request.model);
  if (!lacking.empty()) {
    throw InputError(fmt::format("{}: not supported in this version: {}", shown(arguments.positionals[0]), lacking));
  }
  read_precision(arguments, request);
  run_by(request.engine, request.precision, request.workload);
  read_routing(arguments, request);
  // The slowest last: measurements are several hundred thousand rows.
  request.machine.measured = read_all_measurements(arguments, request.machine);
  return request;
}

Option measurements_option() {
  return {"--measurements", "DIR", "what was measured on the machine (see import)", Completes::files};
}

std::optional<MeasuredMachine> read_measured_machine(const Arguments& arguments) {
  const std::optional<std::string> folder = arguments.find("--measurements");
  if (!folder) return std::nullopt;
  const Machine machine = read_machine(YamlCursor::open(machine_file_in(*folder)));
  return MeasuredMachine{machine, std::make_shared<const Measurements>(read_measurements(*folder)),
                         read_calibration(*folder)};
}

std::string own_measured_folder(const Arguments& arguments, const Machine& machine) {
  if (const auto folder = arguments.find("--measurements"))
    if (read_machine(YamlCursor::open(machine_file_in(*folder))).name == machine.name) return *folder;
  return measured_folder_of(arguments.positionals[1]);
}

Option trace_option() {
  return {"--trace", "FILE", "write a step's tasks there, for Perfetto to open", Completes::files};
}

void write_trace(const Arguments& arguments, PlanRequest request, const PlanResult& result) {
  const auto path = arguments.find("--trace");
  if (!path || result.plans.empty() || !result.plans[0].prediction) return;
  request.workload.formats = formats_for(result.plans[0].precision, request.engine);
  write_file(*path, chrome_trace(trace_of(request, result.plans[0].layout)));
}

Option unmeasured_option() {
  return {"--unmeasured", "FILE", "write what a profiler should measure there", Completes::files};
}

void write_unmeasured(const Arguments& arguments, const PlanRequest& request, PlanResult& result) {
  const auto path = arguments.find("--unmeasured");
  if (!path) return;
  result.unmeasured = unmeasured_kernels(request, result);
  write_file(*path, unmeasured_text(result));
}

Option json_option() { return {"--json", "FILE", "write JSON there; - is stdout, without the text", Completes::files}; }
Option threads_option() { return {"--threads", "N", "threads to compute with (default: all cores)"}; }

int read_threads(const Arguments& arguments) {
  const std::optional<std::string> text = arguments.find("--threads");
  return text ? static_cast<int>(whole_number("--threads", *text, 1, 1024)) : 0;
}

}  // namespace shardwright
