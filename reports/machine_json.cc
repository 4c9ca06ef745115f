#include "reports/machine_json.h"

#include <nlohmann/json.hpp>

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

Json link_json(const LinkLevel& level) {
  Json json;
  json["name"] = level.name;
  if (level.gpus > 0) json["gpus"] = level.gpus;
  json["bytes_per_second_per_gpu"] = level.bandwidth.value;
  json["latency_seconds"] = level.latency.value;
  return json;
}

}  // namespace

nlohmann::ordered_json machine_json(const Machine& machine) {
  Json json;
  json["name"] = machine.name;
  json["memory_bytes"] = machine.memory.value;
  json["usable_memory_bytes"] = machine.usable_memory().value;
  json["peak_flops_per_second"] = Json::object();
  for (const DataType type : kDataTypes) {
    if (supports(machine, type)) json["peak_flops_per_second"][std::string(name_of(type))] = machine.peak[type].value;
  }
  json["memory_bytes_per_second"] = machine.memory_bandwidth.value;
  json["l2_bytes"] = machine.l2.value;
  json["multiprocessors"] = machine.multiprocessors;
  json["gpus_per_node"] = machine.gpus_per_node;
  json["nics_per_node"] = machine.nics_per_node;
  json["links"] = Json::array();
  for (const LinkLevel& level : machine.links) json["links"].push_back(link_json(level));
  if (machine.price_per_gpu_hour) json["price_per_gpu_hour"] = *machine.price_per_gpu_hour;
  json["measured"] = false;
  return json;
}

nlohmann::ordered_json axes_json(const std::vector<AxisLinks>& axes) {
  Json list = Json::array();
  for (const AxisLinks& axis : axes) {
    Json json;
    json["axis"] = axis.axis;
    json["ranks"] = axis.ranks;
    json["links"] = Json::array();
    for (const AxisLinks::Level& level : axis.levels)
      json["links"].push_back({{"name", level.name}, {"ranks_inside", level.ranks}});
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace shardwright
