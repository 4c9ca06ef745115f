#include "planner/cli/plan_to_run.h"

#include <fmt/format.h>

#include <stdexcept>

#include "hardware/input_error.h"
#include "hardware/yaml_cursor.h"
#include "planner/cli/backend_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_file.h"
#include "profiler/execute/programme.h"
#include "reports/json.h"

namespace shardwright {
namespace {

constexpr const char* kExecutor = "shardwright";

/// The workload as the executor runs it. Its graphs are the same in every format.
Workload run_by_executor(Workload workload) {
  run_by(find_engine(kExecutor, "--engine"), DataType::fp32, workload);
  return workload;
}

Model model_of(const YamlCursor& top) {
  const YamlCursor name = top.at("model");
  if (const auto text = top.find("model_yaml"))
    return read_model(YamlCursor::parse(text->text(), name.text()), name.text());
  return find_model(name.text());
}

/// Cores have fp32 alone. A GPU computes in the plan's precision, or not at all.
DataType precision_of(const YamlCursor& precision, DataType asked, const std::string& backend) {
  if (backend == "cpu") return DataType::fp32;
  if (asked != DataType::fp32 && asked != DataType::bf16 && asked != DataType::fp16)
    precision.fail("is not run: GPUs run plans in fp32, bf16 and fp16, not in " + std::string(name_of(asked)));
  return asked;
}

}  // namespace

Option plan_option() { return {"--plan", "FILE", "write the first plan there, for run", Completes::files}; }

void write_plan(const Arguments& arguments, const PlanRequest& request, const PlanResult& result) {
  const auto path = arguments.find("--plan");
  if (!path || result.plans.empty() || !result.plans[0].prediction) return;
  const std::string digest = graph_digest(request.model, result.plans[0].layout, run_by_executor(result.workload));
  write_file(*path,
             plan_file_json({result, request.model, arguments.positionals[0], arguments.positionals[1], digest, 1}));
}

PlanToRun read_plan(const std::string& path, const Arguments& arguments) {
  const YamlCursor top = YamlCursor::open_json(path);
  const YamlCursor schema = top.at("schema");
  if (schema.text() != "shardwright.plan/1" && schema.text() != "shardwright.plan_result/1")
    schema.fail("must be shardwright.plan/1 or shardwright.plan_result/1, got '" + shown(schema.text()) + "'");
  YamlCursor plan = top;
  if (schema.text() == "shardwright.plan_result/1") plan = first_plan(top);
  PlanToRun run;
  PlanRequest& request = run.request;
  request.model = model_of(top);
  request.machine = find_machine(top.at("machine").text());
  request.threads = read_threads(arguments);
  request.gpus = top.at("gpus").integer(1, 1 << 24);
  const YamlCursor workload = top.at("workload");
  request.workload.sequence_length = workload.at("sequence_length").integer(1, kMostTokens);
  request.workload.global_batch = workload.at("global_batch").integer(1, 1 << 24);
  if (workload.find("capacity_factor")) workload.at("capacity_factor").fail("is not run: the executor drops no rows");
  if (const auto load = workload.find("expert_load"))
    request.workload.expert_load = read_expert_load(load->text(), path);
  request.engine = find_engine(kExecutor, "--engine");
  const YamlCursor precision = plan.at("precision");
  const auto planned = data_type_named(precision.text());
  if (!planned) precision.fail("is no precision: '" + shown(precision.text()) + "'");
  run.asked = *planned;
  request.precision = precision_of(precision, *planned, read_backend(arguments));
  if (!supports(request.machine, request.precision))
    top.at("machine").fail(
        fmt::format("does not compute in {}, in which the executor runs", name_of(request.precision)));
  run_by(request.engine, request.precision, request.workload);
  Arguments asked;
  asked.positionals = {request.model.name, top.at("machine").text()};
  if (const auto folder = arguments.find("--measurements")) asked.options["--measurements"] = *folder;
  request.machine.measured = read_all_measurements(asked, request.machine);
  run.measured_folder = own_measured_folder(asked, request.machine);
  request.pins = parse_layout(plan.at("layout_text").text(), path);
  request.pins.overlap_on = {};
  request.pins.overlap_off = Overlaps::all();
  if (const std::string beyond = beyond_engine(request.engine, request.pins); !beyond.empty())
    plan.at("layout_text").fail("cannot be run: " + beyond);
  run.priced = estimate(request);
  const PricedLayout& first = run.priced.plans.at(0);
  if (!first.prediction) plan.at("layout_text").fail("is impossible: " + first.rejection->detail);
  if (const auto seed = top.find("seed")) run.seed = static_cast<std::uint64_t>(seed->integer(0, 1'000'000'000));
  const auto digest = top.find("graph_digest");
  if (!digest) return run;
  run.digest = digest->text();
  const std::string here = graph_digest(request.model, first.layout, request.workload);
  if (run.digest != here)
    digest->fail(fmt::format("is that of another graph than this program makes of the plan, {}: plan again", here));
  return run;
}

}  // namespace shardwright
