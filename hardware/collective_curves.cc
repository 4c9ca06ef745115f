#include "hardware/collective_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "hardware/catalog.h"

namespace shardwright {

/// hardware/curves/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& fabric_catalog();

namespace {

constexpr std::string_view kSchema = "shardwright.collective_curves/1";

TransferCurve read_transfer(const YamlCursor& map) {
  map.only_keys({"start_seconds", "step_seconds", "share", "fill_seconds"});
  TransferCurve curve;
  curve.start = map.at("start_seconds").number(0, 1);
  curve.step = map.at("step_seconds").number(0, 1);
  curve.share = map.at("share").number(1e-9, 1);
  curve.fill = map.at("fill_seconds").number(0, 1);
  return curve;
}

CurveError read_error(const YamlCursor& map) {
  map.only_keys({"of", "rows", "median", "p68", "p90"});
  CurveError error;
  error.of = map.at("of").text();
  error.rows = map.at("rows").integer(1, 1'000'000'000);
  error.median = map.at("median").number(0, 1e6);
  error.p68 = map.at("p68").number(0, 1e6);
  error.p90 = map.at("p90").number(0, 1e6);
  return error;
}

FabricCurves read_fabric(const std::string& name, const YamlCursor& map) {
  std::vector<std::string_view> known(kCollectiveWayNames.begin(), kCollectiveWayNames.end());
  known.insert(known.end(), {"ring_copy", "direct_copy", "crowding", "dispatch_bytes_per_second_per_sm",
                             "combine_bytes_per_second_per_sm", "relative_error", "data", "date", "errors"});
  map.only_keys(known);
  FabricCurves fabric;
  fabric.name = name;
  for (int way = 0; way < kCollectiveWays; ++way)
    if (const auto curve = map.find(kCollectiveWayNames[static_cast<std::size_t>(way)]))
      fabric.ways[static_cast<std::size_t>(way)] = read_transfer(*curve);
  for (const CollectiveWay needed : {CollectiveWay::ring_simple, CollectiveWay::direct_simple})
    map.at(kCollectiveWayNames[static_cast<std::size_t>(needed)]);
  if (const auto copy = map.find("ring_copy")) fabric.ring_copy = copy->number(0, 100);
  if (const auto copy = map.find("direct_copy")) fabric.direct_copy = copy->number(0, 100);
  if (const auto crowding = map.find("crowding")) fabric.crowding = crowding->number(0, 10);
  if (const auto rate = map.find("dispatch_bytes_per_second_per_sm"))
    fabric.dispatch_rate_per_sm = rate->number(1, 1e15);
  if (const auto rate = map.find("combine_bytes_per_second_per_sm")) fabric.combine_rate_per_sm = rate->number(1, 1e15);
  fabric.relative_error = map.at("relative_error").number(0, 10);
  if (const auto data = map.find("data")) fabric.data = data->text();
  if (const auto date = map.find("date")) fabric.date = date->text();
  if (const auto errors = map.find("errors"))
    for (const YamlCursor& error : errors->items()) fabric.errors.push_back(read_error(error));
  return fabric;
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

std::string number(double value) { return fmt::format("{:.4g}", value); }

}  // namespace

double rounded_to_file(double value) { return std::strtod(number(value).c_str(), nullptr); }

std::vector<FabricCurves> read_collective_curves(const YamlCursor& top) {
  top.only_keys({"schema", "fabrics"});
  const YamlCursor schema = top.at("schema");
  if (schema.text() != kSchema) schema.fail(fmt::format("must be {}", kSchema));
  std::vector<FabricCurves> fabrics;
  for (const auto& [name, map] : top.at("fabrics").entries()) fabrics.push_back(read_fabric(name, map));
  return fabrics;
}

std::string collective_curves_text(const std::vector<FabricCurves>& fabrics) {
  std::string text = fmt::format(
      "# How collectives run over links; forms and errors: hardware/README.md.\nschema: {}\nfabrics:\n", kSchema);
  for (const FabricCurves& fabric : fabrics) {
    text += fmt::format("  {}:\n", fabric.name);
    if (!fabric.data.empty()) text += fmt::format("    data: {}\n", quoted(fabric.data));
    if (!fabric.date.empty()) text += fmt::format("    date: {}\n", quoted(fabric.date));
    for (std::size_t way = 0; way < fabric.ways.size(); ++way) {
      const auto& curve = fabric.ways[way];
      if (!curve) continue;
      text += fmt::format("    {}: {{start_seconds: {}, step_seconds: {}, share: {}, fill_seconds: {}}}\n",
                          kCollectiveWayNames[way], number(curve->start), number(curve->step), number(curve->share),
                          number(curve->fill));
    }
    const auto unless_zero = [&](std::string_view key, double value) {
      if (value != 0) text += fmt::format("    {}: {}\n", key, number(value));
    };
    unless_zero("ring_copy", fabric.ring_copy);
    unless_zero("direct_copy", fabric.direct_copy);
    unless_zero("crowding", fabric.crowding);
    unless_zero("dispatch_bytes_per_second_per_sm", fabric.dispatch_rate_per_sm);
    unless_zero("combine_bytes_per_second_per_sm", fabric.combine_rate_per_sm);
    text += fmt::format("    relative_error: {}\n", number(fabric.relative_error));
    if (fabric.errors.empty()) continue;
    text += "    errors:\n";
    for (const CurveError& error : fabric.errors)
      text += fmt::format("      - {{of: {}, rows: {}, median: {:.3f}, p68: {:.3f}, p90: {:.3f}}}\n", error.of,
                          error.rows, error.median, error.p68, error.p90);
  }
  return text;
}

const std::vector<std::shared_ptr<const FabricCurves>>& known_fabrics() {
  static const std::vector<std::shared_ptr<const FabricCurves>> fabrics = [] {
    std::vector<std::shared_ptr<const FabricCurves>> known;
    for (const CatalogFile& file : fabric_catalog()) {
      if (file.name != "collectives") continue;
      for (FabricCurves& fabric :
           read_collective_curves(YamlCursor::parse(std::string(file.text), std::string(file.path))))
        known.push_back(std::make_shared<const FabricCurves>(std::move(fabric)));
    }
    return known;
  }();
  return fabrics;
}

}  // namespace shardwright
