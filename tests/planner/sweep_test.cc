#include "planner/search/sweep.h"

#include <doctest/doctest.h>

#include <set>
#include <tuple>

#include "tests/support/message_of.h"

namespace shardwright {
namespace {

Grid grid_of(const std::string& text) { return read_grid(YamlCursor::parse(text, "grid.yaml")); }
std::string complaint(const std::string& text) {
  return message_of([&] { grid_of(text); });
}

const std::string kRest = "sequence_lengths: [1024]\nglobal_batches: [8]\n";

TEST_CASE("a grid has an end") {
  std::string numbers = "[1";
  for (int i = 2; i <= 101; ++i) numbers += ", " + std::to_string(i);
  numbers += "]";
  const std::string axes = "gpus: " + numbers + "\nsequence_lengths: " + numbers + "\nglobal_batches: ";
  CHECK(grid_of("models: [llama-3.1-8b]\nmachines: [h100-sxm-80gb]\n" + axes + "[1]\n").points() == 10201);
  CHECK(complaint("models: [llama-3.1-8b]\nmachines: [h100-sxm-80gb]\n" + axes + numbers + "\n") ==
        "grid.yaml:1:1: the file has more than 1000000 points\nmodels: [llama-3.1-8b]\n^");
}

TEST_CASE("a grid is every combination, the last key changing first") {
  const Grid grid = grid_of(
      "models: [llama-3.1-8b, llama-3.1-70b]\nmachines: [h100-sxm-80gb]\ngpus: [8, 16]\n"
      "sequence_lengths: [1024]\nglobal_batches: [8]\nprecisions: [bf16, fp8]\n");
  CHECK(grid.points() == 8);
  CHECK(grid.engines == std::vector<std::string>{"generic"});
  CHECK(point_at(grid, 0) == GridPoint{"llama-3.1-8b", "h100-sxm-80gb", "generic", 8, 1024, 8, DataType::bf16});
  CHECK(point_at(grid, 1).precision == DataType::fp8);
  CHECK(point_at(grid, 2).gpus == 16);
  CHECK(point_at(grid, 4).model == "llama-3.1-70b");
  std::set<std::tuple<std::string, std::int64_t, DataType>> all;
  for (std::size_t i = 0; i < 8; ++i) {
    const GridPoint p = point_at(grid, i);
    all.insert({p.model, p.gpus, p.precision});
  }
  CHECK(all.size() == 8);
}

TEST_CASE("a wrong grid is told with file, line and column") {
  CHECK(complaint("models: [llama-3.1-8]\nmachines: [h100-sxm-80gb]\ngpus: [8]\n" + kRest) ==
        "grid.yaml:1:10: 'models[0]' unknown model 'llama-3.1-8': neither a file nor in the catalog (did you mean "
        "'llama-3.1-8b'?)\nmodels: [llama-3.1-8]\n         ^");
  CHECK(complaint("models: [llama-3.1-8b]\nmachines: [h10-sxm-80gb]\ngpus: [8]\n" + kRest) ==
        "grid.yaml:2:12: 'machines[0]' unknown machine 'h10-sxm-80gb': neither a file nor in the catalog (did you mean "
        "'h100-sxm-80gb'?)\nmachines: [h10-sxm-80gb]\n           ^");
  const std::string names = "models: [llama-3.1-8b]\nmachines: [h100-sxm-80gb]\n";
  CHECK(complaint(names + "gpus: [8, 8]\n" + kRest) ==
        "grid.yaml:3:11: 'gpus[1]' comes twice\ngpus: [8, 8]\n          ^");
  CHECK(complaint(names + "gpus: []\n" + kRest) == "grid.yaml:3:7: 'gpus' must not be empty\ngpus: []\n      ^");
  CHECK(complaint(names + "gpus: 8\n" + kRest) == "grid.yaml:3:7: 'gpus' must be a list\ngpus: 8\n      ^");
  CHECK(complaint(names + "gpus: [8]\nprecisions: [bf17]\n" + kRest).starts_with("grid.yaml:4:14: 'precisions[0]' "));
  CHECK(complaint(names + "gpus: [8]\nengines: [megatron]\n" + kRest).starts_with("grid.yaml:4:11: 'engines[0]' "));
  CHECK(complaint(names + "gpu: [8]\n" + kRest).starts_with("grid.yaml:3:1: "));
  CHECK(complaint(names + kRest).starts_with("grid.yaml:1:1: "));
  CHECK(complaint("[]") ==
        "grid.yaml:1:1: the file must be a map with models, machines, gpus, sequence_lengths, global_batches\n"
        "[]\n^");
}

TEST_CASE("a point has the best plan of its question, or why there is none") {
  const Model model = find_model("llama-3.1-8b");
  const Machine machine = find_machine("a100-sxm-80gb");
  GridPoint point = {"llama-3.1-8b", "a100-sxm-80gb", "generic", 8, 1024, 8, DataType::bf16};
  SweepRow row = plan_point(point, model, machine, 1);
  REQUIRE(row.best.has_value());
  PlanRequest request;
  request.model = model;
  request.machine = machine;
  request.gpus = 8;
  request.workload.sequence_length = 1024;
  request.workload.global_batch = 8;
  for (const char* engine : {"generic", "megatron-lm"}) {  // the second has habits of its own
    point.engine = engine;
    row = plan_point(point, model, machine, 1);
    REQUIRE(row.best.has_value());
    PlanRequest own = request;
    own.engine = find_engine(engine, "engine");
    run_by(own.engine, DataType::bf16, own.workload);
    const PlanResult ranked = plan(own);
    CHECK(row.best->layout == ranked.plans[0].layout);
    CHECK(row.best->prediction->step == ranked.plans[0].prediction->step);
  }
  point.engine = "generic";
  point.precision = DataType::fp8;
  CHECK(plan_point(point, model, machine, 1).why_not == "a100-sxm-80gb does not compute in fp8");
  point.precision = DataType::bf16;
  point.gpus = 1;
  CHECK(plan_point(point, model, machine, 1).why_not.starts_with("memory: the nearest layout misses: stage 0 needs "));
  point.gpus = 37;  // more than there are stages, and a divisor of nothing else
  CHECK(plan_point(point, model, machine, 1).why_not.starts_with("every layout is impossible: "));
}

}  // namespace
}  // namespace shardwright
