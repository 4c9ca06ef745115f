#include "reports/sweep_lines.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "reports/json.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

/// A point, then its answer: keys and values. Without a value: not known.
using Cells = std::vector<std::pair<const char*, std::optional<Json>>>;

Cells point_cells(const GridPoint& p) {
  return {{"model", p.model},
          {"machine", p.machine},
          {"gpus", p.gpus},
          {"sequence_length", p.sequence_length},
          {"global_batch", p.global_batch},
          {"precision", std::string(name_of(p.precision))},
          {"engine", p.engine}};
}

Cells answer_cells(const SweepRow& row) {
  const bool fits = row.best.has_value();
  const auto given = [&](auto value_of) {
    return fits ? std::optional<Json>(value_of(*row.best->prediction)) : std::nullopt;
  };
  using P = const Prediction&;
  const bool priced = fits && row.best->prediction->cost_per_trillion_tokens;
  return {{"fits", fits},
          {"step_seconds", given([](P p) { return p.step.value; })},
          {"step_seconds_low", given([](P p) { return p.step_low.value; })},
          {"step_seconds_high", given([](P p) { return p.step_high.value; })},
          {"tokens_per_second", given([](P p) { return p.tokens_per_second; })},
          {"tokens_per_second_per_gpu", given([](P p) { return p.tokens_per_second_per_gpu; })},
          {"mfu", given([](P p) { return p.mfu; })},
          {"bubble_seconds", given([](P p) { return p.bubble.value; })},
          {"exposed_communication_seconds", given([](P p) { return p.exposed_communication.value; })},
          {"memory_reserved_bytes", given([](P p) { return p.worst().reserved.value; })},
          {"gpu_hours_per_trillion_tokens", given([](P p) { return p.gpu_hours_per_trillion_tokens; })},
          {"cost_per_trillion_tokens",
           priced ? std::optional<Json>(*row.best->prediction->cost_per_trillion_tokens) : std::nullopt},
          {"layout_text", fits ? std::optional<Json>(to_string(row.best->layout)) : std::nullopt},
          {"why_not", fits ? std::nullopt : std::optional<Json>(row.why_not)}};
}

std::string json_text(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// As RFC 4180 has it; line ends, which a message may have, become spaces.
std::string csv_cell(const std::optional<Json>& value) {
  if (!value) return "";
  if (!value->is_string()) return json_text(*value);
  std::string text = value->get<std::string>(), quoted = "\"";
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
    quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  }
  return text.find_first_of(",\"") == std::string::npos ? text : quoted + "\"";
}

std::string csv_line(const Cells& cells, bool names) {
  std::string line;
  for (const auto& [name, value] : cells) line += (names ? std::string(name) : csv_cell(value)) + ",";
  return line;
}

/// Without the braces.
std::string json_line(const Cells& cells) {
  std::string line;
  for (const auto& [name, value] : cells)
    if (value) line += (line.empty() ? "" : ",") + json_text(name) + ":" + json_text(*value);
  return line;
}

}  // namespace

std::string sweep_head(SweepFormat format) {
  if (format == SweepFormat::json)
    return fmt::format("{{\"schema\":\"shardwright.sweep/1\",\"shardwright_version\":\"{}\",\"rows\":[\n", version());
  std::string line = csv_line(point_cells({}), true) + csv_line(answer_cells({}), true);
  line.back() = '\n';
  return line;
}

std::string sweep_line_start(SweepFormat format, const GridPoint& point) {
  return format == SweepFormat::csv ? csv_line(point_cells(point), false) : "{" + json_line(point_cells(point)) + ",";
}

std::string sweep_line(SweepFormat format, const SweepRow& row, bool last) {
  const std::string start = sweep_line_start(format, row.point);
  if (format == SweepFormat::json) return start + json_line(answer_cells(row)) + (last ? "}\n" : "},\n");
  std::string line = start + csv_line(answer_cells(row), false);
  line.back() = '\n';
  return line;
}

std::string sweep_foot(SweepFormat format) { return format == SweepFormat::json ? "]}\n" : ""; }

bool sweep_line_fits(SweepFormat format, const GridPoint& point, const std::string& line) {
  const char* yes = format == SweepFormat::csv ? "true," : "\"fits\":true";
  return line.compare(sweep_line_start(format, point).size(), std::string(yes).size(), yes) == 0;
}

}  // namespace shardwright
