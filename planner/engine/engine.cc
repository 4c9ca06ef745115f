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
constexpr std::array<std::string_view, 3> kCrossEntropies = {"in_place", "softmax", "whole"};
constexpr std::array<std::string_view, 3> kWeightGradients = {"placeholders", "added", "apart"};

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
    item.only_keys({"name", "version", "kernel", "architectures"});
    EngineFramework& framework = frameworks.emplace_back();
    framework.name = item.at("name").text();
    if (const auto version = item.find("version")) framework.version = version->text();
    if (const auto kernel = item.find("kernel")) framework.kernel = kernel->text();
    if (const auto architectures = item.find("architectures"))
      for (const YamlCursor& architecture : architectures->items())
        framework.architectures.push_back(architecture.text());
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
    formats.only_keys({"gradient", "gradient_reduce", "optimizer_state"});
    const auto type = [&types, &map_of = formats](std::string_view key) {
      return kDataTypes[map_of.at(key).one_of(types)];
    };
    gradients[*data_type_named(name)] =
        GradientFormats{type("gradient"), type("gradient_reduce"),
                        formats.find("optimizer_state") ? type("optimizer_state") : DataType::fp32};
  }
  return gradients;
}

template <std::size_t n>
std::size_t index_among(const std::array<std::string_view, n>& words, const YamlCursor& word) {
  return word.one_of({words.begin(), words.end()});
}

/// Those that `map` names; the others stay.
void read_habits(const YamlCursor& map, EngineHabits& habits) {
  map.only_keys({"transformer_engine", "fused_attention", "fused_norm", "norm_in_fp32", "fused_activation",
                 "fused_rotary", "dropout", "cross_entropy", "weight_gradients", "gather_again", "narrow_activations",
                 "narrow_saves", "narrow_weights", "widens_gradients", "allocator", "peak_printed_by",
                 "sequence_parallel", "chunk_layers"});
  MemoryHabits& memory = habits.memory;
  for (const auto& [key, value] : {std::pair{"transformer_engine", &habits.transformer_engine},
                                   {"fused_attention", &habits.fused_attention},
                                   {"fused_norm", &habits.fused_norm},
                                   {"norm_in_fp32", &habits.norm_in_fp32},
                                   {"fused_activation", &habits.fused_activation},
                                   {"fused_rotary", &habits.fused_rotary},
                                   {"dropout", &habits.dropout},
                                   {"gather_again", &memory.gather_again},
                                   {"narrow_activations", &memory.narrow_activations},
                                   {"narrow_saves", &memory.narrow_saves},
                                   {"narrow_weights", &memory.narrow_weights},
                                   {"widens_gradients", &memory.widens_gradients}})
    if (const auto given = map.find(key)) *value = given->boolean();
  if (const auto loss = map.find("cross_entropy"))
    habits.cross_entropy = static_cast<CrossEntropy>(index_among(kCrossEntropies, *loss));
  if (const auto gradients = map.find("weight_gradients"))
    memory.weight_gradients = static_cast<WeightGradients>(index_among(kWeightGradients, *gradients));
  if (const auto allocator = map.find("allocator"))
    memory.fragmentation =
        allocator->one_of({"caching", "expandable_segments"}) == 0 ? kCachingAllocator : kExpandableSegments;
  if (const auto rank = map.find("peak_printed_by"))
    habits.last_rank_prints = rank->one_of({"worst_rank", "last_rank"}) == 1;
  if (const auto parallel = map.find("sequence_parallel")) habits.sequence_parallel = parallel->boolean();
  if (const auto layers = map.find("chunk_layers")) habits.chunk_layers = static_cast<int>(layers->integer(1, 1000));
}

AttentionKernel read_attention(const YamlCursor& word) {
  return static_cast<AttentionKernel>(word.one_of({kAttentionKernels.begin(), kAttentionKernels.end()}));
}

/// `engine` with what one of its flavours has instead.
Engine read_flavour(const YamlCursor& map, Engine engine) {
  map.only_keys({"name", "description", "frameworks", "gradients", "attention", "habits"});
  engine.flavour_of = engine.name;
  engine.name = map.at("name").text();
  engine.description = map.at("description").text();
  engine.frameworks = read_frameworks(map.at("frameworks"));
  if (const auto gradients = map.find("gradients")) engine.gradients = read_gradients(*gradients);
  if (const auto attention = map.find("attention")) engine.attention = read_attention(*attention);
  if (const auto habits = map.find("habits")) read_habits(*habits, engine.habits);
  return engine;
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

ErrorRecord read_errors(const YamlCursor& map) {
  constexpr double kMost = 5;  // half a width in logs: a factor of 150
  map.only_keys({"date", "rows", "fitted", "unfitted", "unknown_clock", "ratio"});
  ErrorRecord record;
  if (const auto date = map.find("date")) record.date = date->text();
  record.rows = static_cast<int>(map.at("rows").integer(0, 1'000'000'000));
  PredictionErrors shared;
  shared.unknown_clock = map.at("unknown_clock").number(0, kMost);
  const auto ratio = map.at("ratio").items();
  if (ratio.size() != shared.ratio.size()) map.at("ratio").fail("must have three entries: none, one and more degrees");
  std::transform(ratio.begin(), ratio.end(), shared.ratio.begin(),
                 [](const YamlCursor& width) { return width.number(0, kMost); });
  for (const auto& [key, errors] : {std::pair{"fitted", &record.fitted}, {"unfitted", &record.unfitted}}) {
    *errors = shared;
    const YamlCursor widths = map.at(key);
    widths.only_keys({"step", "step_of_experts"});
    errors->step = widths.at("step").number(0, kMost);
    errors->step_of_experts = widths.at("step_of_experts").number(0, kMost);
  }
  return record;
}

// ---- The engines of the program ----

YamlCursor parsed(const CatalogFile& file) { return YamlCursor::parse(std::string(file.text), std::string(file.path)); }

}  // namespace

std::map<std::string, Engine> read_engines(const std::vector<CatalogFile>& files) {
  std::map<std::string, Engine> engines;
  for (const CatalogFile& file : files) {
    const YamlCursor top = parsed(file);
    if (top.at("name").text() != file.name) top.at("name").fail(fmt::format("must be the file's, {}", file.name));
    for (Engine& engine : read_engine(top))
      if (const std::string name = engine.name; !engines.emplace(name, std::move(engine)).second)
        throw InputError(fmt::format("{}: there is another engine {}", file.path, name));
  }
  return engines;
}

namespace {

/// All with their constants: their own, else generic's.
std::map<std::string, Engine> engines_of_the_program() {
  std::map<std::string, EngineConstants> fitted;
  for (const CatalogFile& file : engine_constants_catalog())
    for (auto& [name, constants] : read_engine_constants(parsed(file)).engines) fitted.emplace(name, constants);
  const ErrorRecord errors = known_errors().value_or(ErrorRecord{});
  std::map<std::string, Engine> engines = read_engines(engine_catalog());
  for (auto& [name, engine] : engines) {
    const bool own = fitted.contains(engine.fitted_as());
    engine.constants = engine.is_neutral ? EngineConstants{} : fitted.at(own ? engine.fitted_as() : "generic");
    engine.errors = own && engine.fitted_as() != "generic" ? errors.fitted : errors.unfitted;
  }
  return engines;
}

const std::map<std::string, Engine>& engines() {
  static const std::map<std::string, Engine> all = engines_of_the_program();
  return all;
}

template <typename List, typename Value>
bool has(const List& list, const Value& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

/// How much of `match` a row's software has; nothing where it is none of its.
std::optional<std::size_t> matched(const EngineFramework& match, const RowSoftware& row) {
  if (!row.framework.starts_with(match.name) || !row.version.starts_with(match.version) ||
      row.kernel.find(match.kernel) == std::string::npos)
    return std::nullopt;
  const bool any = match.architectures.empty();
  if (!any && !has(match.architectures, row.architecture)) return std::nullopt;
  return match.name.size() + match.version.size() + match.kernel.size() + (any ? 0 : 1);
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

EngineConstants Engine::constants_of_its_host() const {
  // A linear layer of Transformer Engine takes the host 99.7 and 90.5 us on GB200 and GH200, PyTorch's 37.1 and 33.2
  // (github.com/NVIDIA/TransformerEngine/issues/2053, 2025-08).
  constexpr double kTransformerEngine = 2.7;
  EngineConstants own = constants;
  if (!habits.transformer_engine) own[EngineConstant::host_seconds_per_kernel] /= kTransformerEngine;
  return own;
}

bool Engine::counts_rows_on_host(Dispatcher dispatcher) const { return has(host_row_counts, dispatcher); }

std::vector<Engine> read_engine(const YamlCursor& top) {
  top.only_keys({"name",
                 "description",
                 "frameworks",
                 "tensor_parallel",
                 "etp",
                 "overlaps",
                 "default_overlaps",
                 "schedules",
                 "cp_kinds",
                 "dispatchers",
                 "host_row_counts",
                 "zero",
                 "gradients",
                 "fp8_scaling",
                 "attention",
                 "stage_split",
                 "scatters_sends",
                 "fused_optimizer",
                 "adds_gradients",
                 "merges_products",
                 "collects_by_layer",
                 "sums_beside_weight_gradients",
                 "shards_in_lists",
                 "reduces_once_in_pipelines",
                 "own_kernels",
                 "constants",
                 "habits",
                 "flavours"});
  Engine engine;
  engine.name = top.at("name").text();
  engine.description = top.at("description").text();
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
  engine.fp8_scaling = static_cast<Scaling>(top.at("fp8_scaling").one_of({"tensor", "row", "block"}));
  engine.attention = read_attention(top.at("attention"));
  engine.stage_split = static_cast<StageSplit>(top.at("stage_split").one_of({"layers", "modules"}));
  engine.scatters_sends = top.at("scatters_sends").boolean();
  engine.fused_optimizer = top.at("fused_optimizer").boolean();
  engine.merges_products = static_cast<MergedProducts>(top.at("merges_products").one_of({"none", "attention", "all"}));
  engine.collects_by_layer = top.at("collects_by_layer").boolean();
  engine.sums_beside_weight_gradients = top.at("sums_beside_weight_gradients").boolean();
  engine.shards_in_lists = top.at("shards_in_lists").boolean();
  if (const auto once = top.find("reduces_once_in_pipelines")) engine.reduces_once_in_pipelines = once->boolean();
  engine.adds_gradients = top.at("adds_gradients").boolean();
  if (const auto own = top.find("own_kernels")) engine.own_kernels = own->boolean();
  if (const auto constants = top.find("constants")) engine.is_neutral = constants->one_of({"fitted", "neutral"}) == 1;
  if (const auto habits = top.find("habits")) read_habits(*habits, engine.habits);
  std::vector<Engine> all = {engine};
  if (const auto flavours = top.find("flavours"))
    for (const YamlCursor& flavour : flavours->items()) all.push_back(read_flavour(flavour, engine));
  return all;
}

FittedConstants read_engine_constants(const YamlCursor& top) {
  top.only_keys({"schema", "record", "engines", "sustained_clock", "interval"});
  top.at("schema").one_of({"shardwright.engine_constants/1"});
  FittedConstants all;
  for (const auto& [name, fitted] : top.at("engines").entries()) {
    fitted.only_keys({"rows", "median_error", "constants"});
    all.engines.emplace_back(name, read_constants(fitted.at("constants")));
  }
  if (const auto interval = top.find("interval")) all.errors = read_errors(*interval);
  return all;
}

std::optional<ErrorRecord> known_errors() {
  for (const CatalogFile& file : engine_constants_catalog())
    if (auto errors = read_engine_constants(parsed(file)).errors) return errors;
  return std::nullopt;
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

const Engine& engine_of(const RowSoftware& software) {
  const Engine* best = &engines().at("generic");
  std::size_t longest = 0;
  for (const auto& [name, engine] : engines())
    for (const EngineFramework& match : engine.frameworks)
      if (const auto length = matched(match, software); length && *length > longest) {
        longest = *length;
        best = &engine;
      }
  return *best;
}

TrainingFormats formats_for(DataType precision, const Engine& engine) {
  TrainingFormats formats = formats_for(precision);
  if (precision == DataType::fp8) formats.scaling = engine.fp8_scaling;
  // Below 16 bits only the products change: gradients stay those of bf16.
  const bool narrow = bytes_per_element(precision) < 2;
  auto own = engine.gradients[precision];
  if (!own && narrow) own = engine.gradients[DataType::bf16];
  if (!own) return formats;
  formats.gradient = own->gradient;
  formats.gradient_reduce = own->gradient_reduce;
  formats.optimizer_state = own->optimizer_state;
  return formats;
}

void run_by(const Engine& engine, DataType precision, Workload& workload) {
  const EngineHabits& habits = engine.habits;
  workload.formats = formats_for(precision, engine);
  workload.fused_attention = habits.fused_attention;
  workload.fused_norm = habits.fused_norm;
  workload.norm_in_fp32 = habits.norm_in_fp32;
  workload.fused_activation = habits.fused_activation;
  workload.fused_rotary = habits.fused_rotary;
  workload.dropout = habits.dropout;
  workload.cross_entropy = habits.cross_entropy;
  workload.memory = habits.memory;
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
