#include "planner/validate/validate_trials.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace shardwright {
namespace {

constexpr const char* kTrial = "shardwright.trial/1";
constexpr const char* kCollection = "shardwright.loop_trial/1";
constexpr double kLongest = 1e12;

std::optional<double> seconds_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  if (!value || value->is_nothing()) return std::nullopt;
  return value->number(-kLongest, kLongest);
}

/// Nothing where one of the two is missing or takes no time.
std::optional<ValidationRow> row_of(std::string id, const char* kind, const char* metric,
                                    const std::optional<double>& predicted, const std::optional<double>& measured) {
  if (!predicted || !measured || !(*predicted > 0) || !(*measured > 0)) return std::nullopt;
  ValidationRow row;
  row.id = std::move(id);
  row.kind = kind;
  row.trust = "A";  // our own
  row.metric = metric;
  row.measured = measured;
  row.predicted = row.predicted_low = row.predicted_high = *predicted;
  row.has_interval = false;
  row.relative_error = row.time_error = *predicted / *measured - 1;
  return row;
}

void set_interval(ValidationRow& row, const std::optional<double>& low, const std::optional<double>& high) {
  if (!low || !high) return;
  row.predicted_low = *low;
  row.predicted_high = *high;
  row.has_interval = true;
}

std::string operator_name(const YamlCursor& o) {
  std::string name = o.at("graph").text() + " " + o.at("name").text();
  if (o.at("kind").text() == "collective") name += ", moved";
  if (const std::string pass = o.at("pass").text(); pass != "forward") name += ", " + pass;
  return name;
}

std::vector<ValidationRow> rows_of_run(const YamlCursor& top) {
  const YamlCursor plan = top.at("plan"), measured = top.at("measured"), predicted = top.at("predicted");
  const std::string model = plan.at("model").text(), layout = plan.at("layout_text").text();
  std::vector<ValidationRow> rows;
  const auto add = [&](std::optional<ValidationRow> row) {
    if (!row) return;
    row->source = row->model = model;
    row->layout = layout;
    row->engine = plan.at("engine").text();
    rows.push_back(std::move(*row));
  };
  for (const char* metric : {"step_seconds", "compute_seconds", "exposed_communication_seconds", "bubble_seconds",
                             "optimizer_seconds", "host_seconds"}) {
    auto row = row_of(top.file(), "trial", metric, seconds_of(predicted, metric), seconds_of(measured, metric));
    if (row && row->metric == "step_seconds")
      set_interval(*row, seconds_of(predicted, "step_seconds_low"), seconds_of(predicted, "step_seconds_high"));
    add(std::move(row));
  }
  if (const auto inference = top.find("inference"))
    for (const auto& [metric, predicted_key] :
         {std::pair{"prefill_seconds", "predicted_prefill_seconds"}, {"decode_seconds", "predicted_decode_seconds"}})
      add(row_of(top.file(), "trial", metric, seconds_of(*inference, predicted_key), seconds_of(*inference, metric)));
  for (const YamlCursor& o : top.at("operators").items()) {
    auto row = row_of(top.file() + ": " + operator_name(o), "operator", "seconds", seconds_of(o, "predicted_seconds"),
                      seconds_of(o, "measured_seconds"));
    if (const auto family = o.find("family"); family && row) row->span = family->text();
    add(std::move(row));
  }
  return rows;
}

std::vector<ValidationRow> rows_of_collection(const YamlCursor& top) {
  std::vector<ValidationRow> rows;
  for (const char* list : {"rounds", "ranked"})
    for (const YamlCursor& round : top.at(list).items()) {
      auto row = row_of(top.file() + ": " + round.at("name").text(), "trial", "step_seconds",
                        seconds_of(round, "predicted_seconds"), seconds_of(round, "measured_seconds"));
      if (!row) continue;
      row->source = list;
      row->layout = round.at("layout").text();
      set_interval(*row, seconds_of(round, "low_seconds"), seconds_of(round, "high_seconds"));
      rows.push_back(std::move(*row));
    }
  return rows;
}

}  // namespace

bool is_trial(const YamlCursor& top) {
  if (!top.is_map()) return false;
  const auto schema = top.find("schema");
  return schema && (schema->text() == kTrial || schema->text() == kCollection);
}

std::vector<ValidationRow> rows_of_trial(const YamlCursor& top) {
  return top.at("schema").text() == kTrial ? rows_of_run(top) : rows_of_collection(top);
}

}  // namespace shardwright
