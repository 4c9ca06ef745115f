#include "planner/search/sweep.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 24;  // GPUs, tokens, sequences: as on the command line

/// The entries of a list that has some, none twice.
template <typename T, typename Read>
std::vector<T> entries(const YamlCursor& list, const Read& read) {
  std::vector<T> values;
  if (!list.is_list()) list.fail("must be a list");
  for (const YamlCursor& item : list.items()) {
    T value = read(item);
    if (std::find(values.begin(), values.end(), value) != values.end()) item.fail("comes twice");
    values.push_back(std::move(value));
  }
  if (values.empty()) list.fail("must not be empty");
  return values;
}

/// A name that `find` knows, or its complaint at the name's place. Complaints about a file that was found have their
/// own.
template <typename Find>
std::string known(const YamlCursor& item, const Find& find) {
  std::string name = item.text();
  try {
    find(name);
  } catch (const InputError& error) {
    const std::string message = error.what();
    if (message.find('\n') != std::string::npos) throw;
    item.fail(message);
  }
  return name;
}

std::vector<std::int64_t> numbers(const YamlCursor& list) {
  return entries<std::int64_t>(list, [](const YamlCursor& item) { return item.integer(1, kMost); });
}

DataType precision(const YamlCursor& item) {
  static constexpr std::array types = {DataType::fp32, DataType::fp16,  DataType::bf16,
                                       DataType::fp8,  DataType::mxfp8, DataType::nvfp4};
  std::vector<std::string_view> words;
  for (DataType type : types) words.push_back(name_of(type));
  return types[item.one_of(words)];
}

}  // namespace

std::size_t Grid::points() const {
  return models.size() * machines.size() * gpus.size() * sequence_lengths.size() * global_batches.size() *
         precisions.size() * engines.size();
}

Grid read_grid(const YamlCursor& top) {
  if (!top.is_map()) top.fail("must be a map with models, machines, gpus, sequence_lengths, global_batches");
  top.only_keys({"models", "machines", "gpus", "sequence_lengths", "global_batches", "precisions", "engines"});
  Grid grid;
  grid.models = entries<std::string>(top.at("models"), [](const YamlCursor& item) {
    return known(item, [&](const std::string& name) {
      const std::string lacking = unsupported(find_model(name));
      if (!lacking.empty()) item.fail("is not supported in this version: " + lacking);
    });
  });
  grid.machines = entries<std::string>(top.at("machines"), [](const YamlCursor& item) {
    return known(item, [](const std::string& name) { find_machine(name); });
  });
  grid.gpus = numbers(top.at("gpus"));
  grid.sequence_lengths = numbers(top.at("sequence_lengths"));
  grid.global_batches = numbers(top.at("global_batches"));
  grid.precisions = {DataType::bf16};
  if (const auto list = top.find("precisions")) grid.precisions = entries<DataType>(*list, precision);
  grid.engines = {"generic"};
  if (const auto list = top.find("engines")) {
    grid.engines = entries<std::string>(*list, [](const YamlCursor& item) {
      return known(item, [](const std::string& name) { find_engine(name, "engine"); });
    });
  }
  double points = 1;
  for (std::size_t n : {grid.models.size(), grid.machines.size(), grid.gpus.size(), grid.sequence_lengths.size(),
                        grid.global_batches.size(), grid.precisions.size(), grid.engines.size()})
    points *= static_cast<double>(n);
  if (points > static_cast<double>(kMostGridPoints)) top.fail("has more than 1000000 points");
  return grid;
}

GridPoint point_at(const Grid& grid, std::size_t i) {
  const auto next = [&](const auto& list) {
    const auto& value = list[i % list.size()];
    i /= list.size();
    return value;
  };
  GridPoint point;
  point.engine = next(grid.engines);
  point.precision = next(grid.precisions);
  point.global_batch = next(grid.global_batches);
  point.sequence_length = next(grid.sequence_lengths);
  point.gpus = next(grid.gpus);
  point.machine = next(grid.machines);
  point.model = next(grid.models);
  return point;
}

SweepRow plan_point(const GridPoint& point, const Model& model, const Machine& machine, int threads) {
  SweepRow row{point, {}, ""};
  PlanRequest request;
  request.model = model;
  request.machine = machine;
  request.gpus = point.gpus;
  request.engine = find_engine(point.engine, "engine");
  request.precision = point.precision;
  request.workload.sequence_length = point.sequence_length;
  request.workload.global_batch = point.global_batch;
  run_by(request.engine, point.precision, request.workload);
  request.top = 1;
  request.threads = threads;
  if (!supports(machine, point.precision)) {
    row.why_not = machine.name + " does not compute in " + std::string(name_of(point.precision));
    return row;
  }
  PlanResult result;
  try {
    result = plan(request);
  } catch (const InputError& error) {  // no layout of this engine fills the GPUs
    row.why_not = error.what();
    return row;
  }
  if (!result.plans.empty()) {
    row.best = std::move(result.plans[0]);
  } else if (!result.nearest.empty()) {
    row.why_not = "memory: the nearest layout misses: " + too_large(machine, *result.nearest[0].prediction).detail;
  } else {
    std::string reasons;
    for (const auto& [reason, count] : result.search.rejected)
      reasons += (reasons.empty() ? "" : ", ") + std::to_string(count) + " " + reason;
    row.why_not = "every layout is impossible: " + reasons;
  }
  return row;
}

}  // namespace shardwright
