#include "planner/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "hardware/catalog.h"

namespace shardwright {

/// planner/engine/*.yaml and planner/engine/constants/*.yaml; made by embed.cmake.
const std::vector<CatalogFile>& engine_catalog();
const std::vector<CatalogFile>& engine_constants_catalog();

namespace {

constexpr std::array<std::string_view, 4> kAttentionKernels = {"flash1", "triton", "flash2", "flash3"};

// ---- Reading ----

/// The values of a list of words, each once.
template <typename List>
auto read_words(const YamlCursor& list, const List& values) {
  std::vector<std::string_view> names;
  for (const auto value : values) names.push_back(name_of(value));
  std::vector<typename List::value_type> chosen;
  for (const YamlCursor& item : list.items()) {
    const auto value = values[item.one_of(names)];
    if (std::find(chosen.begin(), chosen.end(), value) != chosen.end()) item.fail("stands there twice");
    chosen.push_back(value);
  }
  return chosen;
}

Overlaps read_overlaps(const YamlCursor& list) {
  Overlaps on;
  for (const Overlap o : read_words(list, kOverlapList)) on.set(o, true);
  return on;
}

std::vector<EngineFramework> read_frameworks(const YamlCursor& list) {
  std::vector<EngineFramework> frameworks;
  for (const YamlCursor& item : list.items()) {
    item.only_keys({"name", "version"});
    const auto version = item.find("version");
    frameworks.push_back({item.at("name").text(), version ? version->text() : ""});
  }
  return frameworks;
}

std::vector<int> read_zero(const YamlCursor& list) {
  std::vector<int> stages;
  for (const YamlCursor& item : list.items()) {
    stages.push_back(static_cast<int>(item.integer(0, 3)));
    if (stages.size() > 1 && stages.back() <= stages[stages.size() - 2]) item.fail("must be above the one before it");
  }
  if (stages.empty() || stages.front() != 0) list.fail("must begin with 0");
  return stages;
}

PerDataType<std::optional<GradientFormats>> read_gradients(const YamlCursor& map) {
  std::vector<std::string_view> types(kDataTypes.size());
  std::transform(kDataTypes.begin(), kDataTypes.end(), types.begin(), [](DataType type) { return name_of(type); });
  map.only_keys(types);
  PerDataType<std::optional<GradientFormats>> gradients;
  for (const auto& [name, formats] : map.entries()) {
    formats.only_keys({"gradient", "gradient_reduce"});
    const auto type = [&types, &map_of = formats](std::string_view key) {
      return kDataTypes[map_of.at(key).one_of(types)];
    };
    gradients[*data_type_named(name)] = GradientFormats{type("gradient"), type("gradient_reduce")};
  }
  return gradients;
}

EngineConstants read_constants(const YamlCursor& map) {
  std::vector<std::string_view> names;
  for (const EngineConstantFacts& facts : kEngineConstantFacts) names.push_back(facts.name);
  map.only_keys(names);
  EngineConstants constants;
  for (const EngineConstantFacts& facts : kEngineConstantFacts)
    constants[facts.constant] = map.at(facts.name).number(facts.low, facts.high);
  return constants;
}

// ---- The engines of the program ----

YamlCursor parsed(const CatalogFile& file) { return YamlCursor::parse(std::string(file.text), std::string(file.path)); }

/// All with their constants: its own, or of the one that it inherits from.
std::map<std::string, Engine> read_engines() {
  std::map<std::string, EngineConstants> fitted;
  for (const CatalogFile& file : engine_constants_catalog())
    for (auto& [name, constants] : read_engine_constants(parsed(file))) fitted.emplace(name, constants);
  std::map<std::string, Engine> engines;
  std::map<std::string, std::string> inherits;
  for (const CatalogFile& file : engine_catalog()) {
    const YamlCursor top = parsed(file);
    Engine engine = read_engine(top);
    if (engine.name != file.name) top.at("name").fail(fmt::format("must be the file's, {}", file.name));
    if (const auto from = top.find("inherit")) inherits[engine.name] = from->text();
    engines.emplace(engine.name, std::move(engine));
  }
  for (auto& [name, engine] : engines) {
    std::string from = name;
    for (std::size_t steps = 0; !fitted.contains(from); ++steps) {
      const auto next = inherits.find(from);
      if (next == inherits.end() || steps > engines.size())
        throw InputError(fmt::format("planner/engine/{}.yaml: has no constants of its own and inherits none", name));
      from = next->second;
    }
    engine.constants = fitted.at(from);
  }
  return engines;
}

const std::map<std::string, Engine>& engines() {
  static const std::map<std::string, Engine> all = read_engines();
  return all;
}

/// Letters that a framework's row has in common with `match`; nothing where it is none of its.
std::optional<std::size_t> matched(const EngineFramework& match, const std::string& framework,
                                   const std::string& version) {
  if (!framework.starts_with(match.name) || !version.starts_with(match.version)) return std::nullopt;
  return match.name.size() + match.version.size();
}

template <typename List, typename Value>
bool has(const List& list, const Value& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

template <typename List>
std::string names_in(const List& list) {
  std::vector<std::string_view> names;
  for (const auto& value : list) names.push_back(name_of(value));
  return fmt::format("it has {}", fmt::join(names, ", "));
}

bool has_newer_kernels(const Machine& machine) {
  return machine.architecture == "hopper" || machine.architecture == "blackwell";
}

}  // namespace

std::string_view name_of(AttentionKernel kernel) { return kAttentionKernels[static_cast<std::size_t>(kernel)]; }

double Engine::optimizer_traffic() const {
  // torch.optim.Adam without `fused`, one operator after the other: 7 passes over the parameters' memory become 21
  // (decay, lerp, mul, addcmul, sqrt, div, add, addcdiv; torch/optim/adam.py, _multi_tensor_adam).
  return constants[EngineConstant::optimizer_passes] * (fused_optimizer ? 1 : 3);
}

bool Engine::counts_rows_on_host(Dispatcher dispatcher) const { return has(host_row_counts, dispatcher); }

Engine read_engine(const YamlCursor& top) {
  top.only_keys({"name", "description", "inherit", "frameworks", "tensor_parallel", "etp", "overlaps",
                 "default_overlaps", "schedules", "cp_kinds", "dispatchers", "host_row_counts", "zero", "gradients",
                 "attention", "stage_split", "scatters_sends", "fused_optimizer", "adds_gradients"});
  Engine engine;
  engine.name = top.at("name").text();
  engine.description = top.at("description").text();
  if (const auto from = top.find("inherit")) from->text();
  engine.frameworks = read_frameworks(top.at("frameworks"));
  engine.tensor_parallel = top.at("tensor_parallel").boolean();
  engine.etp_is_tp = top.at("etp").one_of({"1", "tp"}) == 1;
  engine.overlaps = read_overlaps(top.at("overlaps"));
  engine.default_overlaps = read_overlaps(top.at("default_overlaps"));
  if (engine.default_overlaps.bits & ~engine.overlaps.bits)
    top.at("default_overlaps").fail(fmt::format("must be among 'overlaps', {}", to_string(engine.overlaps)));
  engine.schedules = read_words(top.at("schedules"), kScheduleList);
  if (!engine.schedules.empty() && !has(engine.schedules, Schedule::one_f_one_b))
    top.at("schedules").fail("must have 1f1b where it has any");
  engine.cp_kinds = read_words(top.at("cp_kinds"), kContextParallelList);
  engine.dispatchers = read_words(top.at("dispatchers"), kDispatcherList);
  engine.host_row_counts = read_words(top.at("host_row_counts"), kDispatcherList);
  engine.zero = read_zero(top.at("zero"));
  engine.gradients = read_gradients(top.at("gradients"));
  engine.attention =
      static_cast<AttentionKernel>(top.at("attention").one_of({kAttentionKernels.begin(), kAttentionKernels.end()}));
  engine.stage_split = static_cast<StageSplit>(top.at("stage_split").one_of({"layers", "modules"}));
  engine.scatters_sends = top.at("scatters_sends").boolean();
  engine.fused_optimizer = top.at("fused_optimizer").boolean();
  engine.adds_gradients = top.at("adds_gradients").boolean();
  return engine;
}

std::vector<std::pair<std::string, EngineConstants>> read_engine_constants(const YamlCursor& top) {
  top.only_keys({"schema", "record", "engines", "sustained_clock"});
  top.at("schema").one_of({"shardwright.engine_constants/1"});
  std::vector<std::pair<std::string, EngineConstants>> all;
  for (const auto& [name, fitted] : top.at("engines").entries()) {
    fitted.only_keys({"rows", "median_error", "constants"});
    all.emplace_back(name, read_constants(fitted.at("constants")));
  }
  return all;
}

Engine find_engine(const std::string& name, const std::string& what) {
  const auto found = engines().find(name);
  if (found != engines().end()) return found->second;
  const std::vector<std::string> names = engine_names();
  const std::string hint = did_you_mean(name, {names.begin(), names.end()});
  throw InputError(fmt::format("{}: unknown engine '{}'{}", what, name,
                               hint.empty() ? fmt::format(" (there are {})", fmt::join(names, ", ")) : hint));
}

std::vector<std::string> engine_names() {
  std::vector<std::string> names;
  for (const auto& [name, engine] : engines()) names.push_back(name);
  return names;
}

const Engine& engine_of(const std::string& framework, const std::string& version) {
  const Engine* best = &engines().at("generic");
  std::size_t longest = 0;
  for (const auto& [name, engine] : engines())
    for (const EngineFramework& match : engine.frameworks)
      if (const auto length = matched(match, framework, version); length && *length > longest) {
        longest = *length;
        best = &engine;
      }
  return *best;
}

TrainingFormats formats_for(DataType precision, const Engine& engine) {
  TrainingFormats formats = formats_for(precision);
  // Below 16 bits only the products change: gradients stay those of bf16.
  const bool narrow = bytes_per_element(precision) < 2;
  auto own = engine.gradients[precision];
  if (!own && narrow) own = engine.gradients[DataType::bf16];
  if (!own) return formats;
  formats.gradient = own->gradient;
  formats.gradient_reduce = own->gradient_reduce;
  return formats;
}

Machine as_used_by(const Engine& engine, Machine machine) {
  SustainedTimes& times = machine.sustained;
  // FlashAttention-2 is about twice as fast as its predecessor (arXiv 2307.08691, abstract), on H100, too
  // (section 4.1), and 1.3 to 2.5 times as fast as that in Triton (ibid.); 1.55 is what long sequences of llm-foundry's
  // benchmark say on A100 and H100 alike.
  const double older = engine.attention == AttentionKernel::flash1   ? 2
                       : engine.attention == AttentionKernel::triton ? 1.55
                                                                     : 1;
  times.attention_forward *= older;
  times.attention_backward *= older;
  // What is measured on Hopper and Blackwell is FlashAttention-3 and cuDNN: 1.5 to 2.0 times as fast as
  // FlashAttention-2 forward and 1.5 to 1.75 times backward on H100 (arXiv 2407.08608, section 1). On Blackwell, for
  // which FlashAttention-2 has no kernels of its own either, the same is an estimate.
  if (engine.attention != AttentionKernel::flash3 && has_newer_kernels(machine)) {
    times.attention_forward *= 1.75;
    times.attention_backward *= 1.625;
  }
  return machine;
}

std::string beyond_engine(const Engine& engine, const LayoutPins& pins) {
  const auto cannot = [&](std::string_view key, const auto& value, const std::string& why) {
    return fmt::format("engine {} cannot run {}={}: {}", engine.name, key, value, why);
  };
  const auto more_than_one = [](const std::optional<int>& degree) { return degree.value_or(1) > 1; };
  if (more_than_one(pins.tp) && !engine.tensor_parallel) return cannot("tp", *pins.tp, "it has no tensor parallelism");
  if (more_than_one(pins.pp) && engine.schedules.empty()) return cannot("pp", *pins.pp, "it has no pipeline");
  if (more_than_one(pins.cp) && engine.cp_kinds.empty()) return cannot("cp", *pins.cp, "it has no context parallelism");
  if (more_than_one(pins.ep) && engine.dispatchers.empty())
    return cannot("ep", *pins.ep, "it has no expert parallelism");
  if (pins.schedule && !engine.schedules.empty() && !has(engine.schedules, *pins.schedule))
    return cannot("schedule", name_of(*pins.schedule), names_in(engine.schedules));
  if (pins.vpp &&
      std::none_of(engine.schedules.begin(), engine.schedules.end(),
                   [&](Schedule s) { return takes_chunks(s, *pins.vpp); }) &&
      more_than_one(pins.vpp))
    return cannot("vpp", *pins.vpp, "it has no schedule with so many chunks a stage");
  if (pins.cp_kind && !engine.cp_kinds.empty() && !has(engine.cp_kinds, *pins.cp_kind))
    return cannot("cp_kind", name_of(*pins.cp_kind), names_in(engine.cp_kinds));
  if (pins.dispatcher && !engine.dispatchers.empty() && !has(engine.dispatchers, *pins.dispatcher))
    return cannot("dispatcher", name_of(*pins.dispatcher), names_in(engine.dispatchers));
  if (pins.zero && !has(engine.zero, *pins.zero))
    return cannot("zero", *pins.zero, fmt::format("it has {}", fmt::join(engine.zero, ", ")));
  if (more_than_one(pins.fsdp_group) && engine.zero.size() == 1)
    return cannot("fsdp_group", *pins.fsdp_group, "it shards nothing");
  for (const Overlap o : kOverlapList)
    if (pins.overlap_on.has(o) && !engine.overlaps.has(o))
      return cannot("overlap", name_of(o), "it has " + to_string(engine.overlaps));
  return "";
}

}  // namespace shardwright
