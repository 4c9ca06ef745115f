#include "planner/serve/serve_engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "hardware/catalog.h"

namespace shardwright {

/// planner/engine/serving/*.yaml and planner/engine/serving/constants/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& serving_engine_catalog();
const std::vector<CatalogFile>& serving_constants_catalog();

namespace {

constexpr std::array<std::string_view, 4> kAllReduces = {"nccl", "custom", "one_shot_multicast", "two_shot_multicast"};
constexpr double kGiB = 1024.0 * 1024 * 1024;

Bytes gib(const YamlCursor& value) { return {static_cast<std::int64_t>(value.number(0, 64) * kGiB)}; }

YamlCursor parsed(const CatalogFile& file) { return YamlCursor::parse(std::string(file.text), std::string(file.path)); }

std::map<std::string, ServeEngine> read_all() {
  std::map<std::string, ServeEngine> engines;
  for (const CatalogFile& file : serving_engine_catalog()) {
    const YamlCursor top = parsed(file);
    if (top.at("name").text() != file.name) top.at("name").fail(fmt::format("must be the file's, {}", file.name));
    engines.emplace(file.name, read_serve_engine(top));
  }
  for (const CatalogFile& file : serving_constants_catalog())
    for (const FittedServing& fitted : read_serve_constants(parsed(file)))
      if (const auto engine = engines.find(fitted.name); engine != engines.end()) {
        engine->second.constants = fitted.constants;
        engine->second.errors = fitted.errors;
      }
  return engines;
}

const std::map<std::string, ServeEngine>& engines() {
  static const std::map<std::string, ServeEngine> all = read_all();
  return all;
}

void read_offline(const YamlCursor& offline, ServeEngine& engine) {
  offline.only_keys({"most_sequences", "fewest_tokens", "most_tokens", "queues"});
  engine.offline_size =
      SizedToLoad{offline.at("most_sequences").integer(1, 1 << 20), offline.at("fewest_tokens").integer(1, 1 << 24),
                  offline.at("most_tokens").integer(1, 1 << 24)};
  for (const YamlCursor& item : offline.at("queues").items()) {
    item.only_keys({"isl", "osl", "requests"});
    engine.offline_queues.push_back({item.at("isl").integer(1, 1 << 24), item.at("osl").integer(1, 1 << 24),
                                     item.at("requests").integer(1, 1'000'000'000)});
  }
}

}  // namespace

ServeEngine read_serve_engine(const YamlCursor& top) {
  top.only_keys({"name", "description", "frameworks", "all_reduce", "dispatcher", "block_tokens", "memory",
                 "max_sequences", "max_tokens", "chunked_prefill", "reserves_answers", "narrow_kv", "prefill_first",
                 "overlaps_exchange", "sequence_parallel", "experts", "narrow_attention", "fuses_casts", "offline"});
  ServeEngine engine;
  engine.name = top.at("name").text();
  engine.description = top.at("description").text();
  for (const YamlCursor& item : top.at("frameworks").items()) {
    item.only_keys({"name", "version"});
    const auto release = item.find("version");
    engine.frameworks.push_back({item.at("name").text(), release ? release->text() : ""});
  }
  engine.all_reduce =
      static_cast<CollectiveAlgorithm>(top.at("all_reduce").one_of({kAllReduces.begin(), kAllReduces.end()}));
  std::vector<std::string_view> dispatchers;
  for (const Dispatcher d : kDispatcherList) dispatchers.push_back(name_of(d));
  engine.dispatcher = kDispatcherList[top.at("dispatcher").one_of(dispatchers)];
  engine.block_tokens = top.at("block_tokens").integer(1, 4096);
  const YamlCursor memory = top.at("memory");
  memory.only_keys({"fraction", "fraction_of", "cuda_graphs_gib", "workspace_gib"});
  engine.memory_fraction = memory.at("fraction").number(0.01, 1);
  engine.fraction_of_free = memory.at("fraction_of").one_of({"total", "free"}) == 1;
  engine.cuda_graphs = gib(memory.at("cuda_graphs_gib"));
  engine.workspace = gib(memory.at("workspace_gib"));
  engine.max_sequences = top.at("max_sequences").integer(1, 1 << 20);
  engine.max_tokens = top.at("max_tokens").integer(1, 1 << 24);
  engine.chunked_prefill = top.at("chunked_prefill").boolean();
  engine.prefill_first = top.at("prefill_first").boolean();
  if (const auto overlaps = top.find("overlaps_exchange")) engine.overlaps_exchange = overlaps->boolean();
  if (const auto cut = top.find("sequence_parallel")) engine.sequence_parallel = cut->boolean();
  if (const auto experts = top.find("experts")) engine.grouped_experts = experts->one_of({"fused", "grouped"}) == 1;
  engine.narrow_kv = top.at("narrow_kv").boolean();
  engine.reserves_answers = top.at("reserves_answers").boolean();
  if (const auto narrow = top.find("narrow_attention")) engine.narrow_attention = narrow->boolean();
  if (const auto fused = top.find("fuses_casts")) engine.fuses_casts = fused->boolean();
  if (const auto offline = top.find("offline")) read_offline(*offline, engine);
  return engine;
}

std::vector<FittedServing> read_serve_constants(const YamlCursor& top) {
  top.only_keys({"schema", "engines"});
  top.at("schema").one_of({"shardwright.serving_constants/1"});
  std::vector<FittedServing> all;
  for (const auto& [name, map] : top.at("engines").entries()) {
    map.only_keys({"rows", "median_error", "constants", "interval"});
    FittedServing& fitted = all.emplace_back();
    fitted.name = name;
    fitted.rows = static_cast<int>(map.at("rows").integer(0, 1'000'000'000));
    fitted.median_error = map.at("median_error").number(0, 1e6);
    const YamlCursor constants = map.at("constants"), interval = map.at("interval");
    std::vector<std::string_view> names;
    for (const ServeConstantFacts& facts : kServeConstantFacts) names.push_back(facts.name);
    constants.only_keys(names);
    for (const ServeConstantFacts& facts : kServeConstantFacts)
      fitted.constants[facts.constant] = constants.at(facts.name).number(facts.low, facts.high);
    interval.only_keys({"tpot", "ttft", "throughput"});
    fitted.errors = {interval.at("tpot").number(0, 5), interval.at("ttft").number(0, 5),
                     interval.at("throughput").number(0, 5)};
  }
  return all;
}

KvFormat usual_kv(const ServeEngine& engine, WeightFormat weights) {
  const bool narrow = bytes_per_element(product_format(weights).compute) < 2;
  return narrow && engine.narrow_kv ? KvFormat::fp8 : KvFormat::bf16;
}

ServeEngine find_serve_engine(const std::string& name, const std::string& what) {
  const auto found = engines().find(name);
  if (found != engines().end()) return found->second;
  const std::vector<std::string> names = serve_engine_names();
  const std::string hint = did_you_mean(name, {names.begin(), names.end()});
  throw InputError(fmt::format("{}: unknown serving engine '{}'{}", what, name,
                               hint.empty() ? fmt::format(" (there are {})", fmt::join(names, ", ")) : hint));
}

std::vector<std::string> serve_engine_names() {
  std::vector<std::string> names;
  for (const auto& [name, engine] : engines()) names.push_back(name);
  return names;
}

const ServeEngine* serve_engine_of(const RowSoftware& software) {
  const ServeEngine* best = nullptr;
  std::size_t longest = 0;
  for (const auto& [name, engine] : engines())
    for (const EngineFramework& match : engine.frameworks)
      if (software.framework.starts_with(match.name) && software.version.starts_with(match.version) &&
          match.name.size() + match.version.size() > longest) {
        longest = match.name.size() + match.version.size();
        best = &engine;
      }
  return best;
}

}  // namespace shardwright
