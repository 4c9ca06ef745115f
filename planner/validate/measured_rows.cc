#include "planner/validate/measured_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace shardwright {
namespace {

// ---- Taking checked values out ----

std::string text_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? value->text() : "";
}

std::vector<std::string> texts_of(const YamlCursor& map, std::string_view key) {
  std::vector<std::string> texts;
  if (const auto value = map.find(key)) {
    for (const YamlCursor& item : value->items()) texts.push_back(item.text());
  }
  return texts;
}

std::optional<std::int64_t> count_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? std::optional(value->integer(0, kLargestCount)) : std::nullopt;
}

/// Of Type::degree or zero_stage.
std::optional<int> degree_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? std::optional(static_cast<int>(value->integer(0, kLargestDegree))) : std::nullopt;
}

std::optional<bool> flag_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? std::optional(value->boolean()) : std::nullopt;
}

std::optional<double> number_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? std::optional(value->number(0, kLargestNumber)) : std::nullopt;
}

std::optional<DataType> data_type_of(const YamlCursor& map, std::string_view key) {
  const auto value = map.find(key);
  return value ? data_type_named(value->text()) : std::nullopt;
}

template <typename Enum>
std::optional<Enum> named(std::string_view text, const std::vector<Enum>& values) {
  for (const Enum value : values) {
    if (name_of(value) == text) return value;
  }
  return std::nullopt;
}

MeasuredHardware read_hardware(const YamlCursor& map) {
  MeasuredHardware hardware;
  hardware.gpu = text_of(map, "gpu");
  hardware.gpus = count_of(map, "gpus");
  hardware.gpus_per_node = count_of(map, "gpus_per_node");
  hardware.nodes = count_of(map, "nodes");
  hardware.nvlink_domain = count_of(map, "nvlink_domain");
  hardware.interconnect = text_of(map, "interconnect");
  return hardware;
}

/// Absent where nothing is said, or something that Recompute cannot say. Selective without modules is Megatron's:
/// core_attn.
std::optional<Recompute> recompute_of(const MeasuredLayout& layout) {
  Recompute choice;
  if (layout.recompute == "none") return choice;
  if (layout.recompute == "full") {
    // Only so many layers of a stage: not a Recompute.
    if (layout.recompute_layers) return std::nullopt;
    choice.full = true;
    return choice;
  }
  if (layout.recompute.empty() && layout.recompute_modules.empty()) return std::nullopt;
  const std::vector<std::string> defaults = {"core_attn"};
  for (const std::string& word : layout.recompute_modules.empty() ? defaults : layout.recompute_modules) {
    const auto module = named<RecomputeModule>(word, {kRecomputeModuleList.begin(), kRecomputeModuleList.end()});
    if (!module) return std::nullopt;
    choice.modules = static_cast<std::uint8_t>(choice.modules | 1u << static_cast<unsigned>(*module));
  }
  return choice;
}

LayoutPins read_pins(const YamlCursor& map, const MeasuredLayout& layout) {
  LayoutPins pins;
  pins.tp = degree_of(map, "tp");
  pins.pp = degree_of(map, "pp");
  pins.vpp = degree_of(map, "vpp");
  pins.cp = degree_of(map, "cp");
  pins.dp = degree_of(map, "dp");
  pins.sequence_parallel = flag_of(map, "sequence_parallel");
  pins.zero = degree_of(map, "zero");
  pins.fsdp_group = degree_of(map, "fsdp_group");
  pins.recompute = recompute_of(layout);
  pins.micro_batch = degree_of(map, "micro_batch");
  pins.schedule = named<Schedule>(layout.schedule, {kScheduleList.begin(), kScheduleList.end()});
  pins.rank_order = named<RankOrder>(text_of(map, "rank_order"), {RankOrder::tp_cp_dp_pp, RankOrder::tp_cp_pp_dp});
  pins.dispatcher = named<Dispatcher>(layout.dispatcher, {kDispatcherList.begin(), kDispatcherList.end()});
  const auto overlap = [&](Overlap which, const std::optional<bool>& on) {
    if (on) (*on ? pins.overlap_on : pins.overlap_off).set(which, true);
  };
  overlap(Overlap::tp, layout.tp_overlap);
  overlap(Overlap::ep, layout.ep_overlap);
  overlap(Overlap::shared_experts, layout.shared_expert_overlap);
  overlap(Overlap::grad_reduce, layout.grad_reduce_overlap);
  overlap(Overlap::param_gather, layout.param_gather_overlap);
  overlap(Overlap::p2p, layout.p2p_overlap);
  for (const PipelineChunk& chunk : layout.chunks) {
    if (!pins.layers_per_stage) pins.layers_per_stage.emplace();
    pins.layers_per_stage->push_back(chunk.layers);
  }
  return pins;
}

std::vector<PipelineChunk> read_chunks(const YamlCursor& map) {
  const auto value = map.find("pipeline_layout");
  if (!value) return {};
  auto parsed = parse_pipeline_layout(value->text());
  if (const auto* fault = std::get_if<PipelineLayoutFault>(&parsed)) value->fail(fault->reason);
  return std::get<std::vector<PipelineChunk>>(std::move(parsed));
}

MeasuredLayout read_layout(const YamlCursor& map) {
  MeasuredLayout layout;
  layout.ep = degree_of(map, "ep");
  layout.etp = degree_of(map, "etp");
  layout.micro_batches = degree_of(map, "micro_batches");
  layout.local_batch = degree_of(map, "local_batch");
  layout.optimizer_shard_group = count_of(map, "optimizer_shard_group");
  layout.replicas = count_of(map, "replicas");
  layout.recompute_layers = count_of(map, "recompute_layers");
  layout.activation_offload_layers = count_of(map, "activation_offload_layers");
  layout.dispatcher_sms = count_of(map, "dispatcher_sms");
  layout.schedule = text_of(map, "schedule");
  layout.recompute = text_of(map, "recompute");
  layout.recompute_modules = texts_of(map, "recompute_modules");
  layout.pipeline_layout = text_of(map, "pipeline_layout");
  layout.chunks = read_chunks(map);
  layout.strategy = text_of(map, "strategy");
  layout.dispatcher = text_of(map, "dispatcher");
  layout.activation_offload_modules = texts_of(map, "activation_offload_modules");
  if (map.find("cuda_graphs")) layout.cuda_graphs = texts_of(map, "cuda_graphs");
  layout.optimizer_offload_fraction = number_of(map, "optimizer_offload_fraction");
  layout.tp_overlap = flag_of(map, "tp_overlap");
  layout.p2p_overlap = flag_of(map, "p2p_overlap");
  layout.ep_overlap = flag_of(map, "ep_overlap");
  layout.delay_wgrad = flag_of(map, "delay_wgrad");
  layout.shared_expert_overlap = flag_of(map, "shared_expert_overlap");
  if (const auto overlap = map.find("dp_overlap")) {
    layout.grad_reduce_overlap = flag_of(*overlap, "grad_reduce");
    layout.param_gather_overlap = flag_of(*overlap, "param_gather");
    layout.param_gather_with_optimizer = flag_of(*overlap, "param_gather_with_optimizer");
  }
  layout.pins = read_pins(map, layout);
  return layout;
}

MeasuredWorkload read_workload(const YamlCursor& map) {
  MeasuredWorkload workload;
  workload.sequence_length = count_of(map, "sequence_length");
  workload.global_batch = count_of(map, "global_batch");
  workload.total_tokens = count_of(map, "total_tokens");
  workload.parameters_printed = count_of(map, "parameters_printed");
  workload.lora_rank = count_of(map, "lora_rank");
  workload.precision = data_type_of(map, "precision");
  workload.parameter_dtype = data_type_of(map, "parameter_dtype");
  workload.parameter_gather_dtype = data_type_of(map, "parameter_gather_dtype");
  workload.gradient_dtype = data_type_of(map, "gradient_dtype");
  workload.main_param_dtype = data_type_of(map, "main_param_dtype");
  workload.optimizer_state_dtype = data_type_of(map, "optimizer_state_dtype");
  workload.scaling = text_of(map, "scaling");
  workload.reduce_precision = text_of(map, "reduce_precision");
  workload.task = text_of(map, "task");
  workload.optimizer = text_of(map, "optimizer");
  workload.cross_entropy_fusion = text_of(map, "cross_entropy_fusion");
  workload.attention_backend = text_of(map, "attention_backend");
  workload.routing = text_of(map, "routing");
  workload.capacity_factor = number_of(map, "capacity_factor");
  workload.lora_targets = texts_of(map, "lora_targets");
  return workload;
}

MeasuredKernelWorkload read_kernel_workload(const YamlCursor& map) {
  MeasuredKernelWorkload workload;
  workload.op = text_of(map, "op");
  workload.dtype = text_of(map, "dtype");
  workload.kv_dtype = text_of(map, "kv_dtype");
  workload.algorithm = text_of(map, "algorithm");
  workload.bandwidth_definition = text_of(map, "bandwidth_definition");
  workload.mode = text_of(map, "mode");
  workload.routing = text_of(map, "routing");
  const std::pair<std::string_view, std::optional<std::int64_t>*> counts[] = {
      {"m", &workload.m},
      {"n", &workload.n},
      {"k", &workload.k},
      {"groups", &workload.groups},
      {"m_per_group", &workload.m_per_group},
      {"batch", &workload.batch},
      {"heads", &workload.heads},
      {"kv_heads", &workload.kv_heads},
      {"head_dim", &workload.head_dim},
      {"seq", &workload.seq},
      {"kv_len", &workload.kv_len},
      {"query_len", &workload.query_len},
      {"topk_tokens", &workload.topk_tokens},
      {"tokens", &workload.tokens},
      {"hidden_size", &workload.hidden_size},
      {"intermediate_size", &workload.intermediate_size},
      {"n_routed_experts", &workload.n_routed_experts},
      {"num_experts_per_tok", &workload.num_experts_per_tok},
      {"calls", &workload.calls},
      {"message_bytes", &workload.message_bytes},
      {"bytes_per_pair", &workload.bytes_per_pair},
      {"tokens_per_gpu", &workload.tokens_per_gpu},
      {"top_groups", &workload.top_groups},
      {"sms", &workload.sms},
  };
  for (const auto& [key, count] : counts) *count = count_of(map, key);
  workload.causal = flag_of(map, "causal");
  return workload;
}

MeasuredPool read_pool(const YamlCursor& map) {
  MeasuredPool pool;
  pool.workers = degree_of(map, "workers").value_or(1);
  pool.tp = degree_of(map, "tp").value_or(1);
  pool.pp = degree_of(map, "pp").value_or(1);
  pool.attention_dp = degree_of(map, "attention_dp").value_or(1);
  pool.ep = degree_of(map, "ep");
  pool.etp = degree_of(map, "etp");
  pool.batch = degree_of(map, "batch");
  return pool;
}

MeasuredServing read_serving(const YamlCursor& row) {
  MeasuredServing serving;
  if (const auto layout = row.find("layout")) {
    serving.has_layout = true;
    serving.tp = degree_of(*layout, "tp");
    serving.pp = degree_of(*layout, "pp");
    serving.attention_dp = degree_of(*layout, "attention_dp");
    serving.ep = degree_of(*layout, "ep");
    serving.etp = degree_of(*layout, "etp");
    serving.dp = degree_of(*layout, "dp");
    if (const auto prefill = layout->find("prefill")) serving.prefill = read_pool(*prefill);
    if (const auto decode = layout->find("decode")) serving.decode = read_pool(*decode);
  }
  const YamlCursor workload = row.at("workload");
  serving.phase = text_of(workload, "phase");
  serving.quant = text_of(workload, "quant");
  serving.moe_quant = text_of(workload, "moe_quant");
  serving.kv_dtype = text_of(workload, "kv_dtype");
  serving.isl = count_of(workload, "isl");
  serving.osl = count_of(workload, "osl");
  serving.concurrency = count_of(workload, "concurrency");
  serving.batch = count_of(workload, "batch");
  serving.batch_per_gpu = count_of(workload, "batch_per_gpu");
  serving.kv_tokens_mean = count_of(workload, "kv_tokens_mean");
  return serving;
}

MeasuredSoftware read_software(const YamlCursor& map) {
  MeasuredSoftware software;
  software.framework = text_of(map, "framework");
  software.version = text_of(map, "version");
  software.kernel = text_of(map, "kernel");
  software.variant = text_of(map, "variant");
  software.submitter = text_of(map, "submitter");
  software.measured_on = text_of(map, "measured_on");
  software.compile = flag_of(map, "compile");
  return software;
}

MeasuredResults read_results(const YamlCursor& map) {
  MeasuredResults results;
  for (const auto& [name, value] : map.entries()) {
    if (name == "oom") {
      results.oom = value.boolean();
    } else if (name == "memory_unit") {
      results.memory_unit = value.text();
    } else if (name == "flop_convention") {
      results.flop_convention = value.text();
    } else if (name == "peak_memory_gib_by_stage") {
      for (const YamlCursor& item : value.items()) {
        results.peak_memory_gib_by_stage.push_back(item.number(0, kLargestNumber));
      }
    } else {
      results.numbers.push_back({name, value.number(0, kLargestNumber)});
    }
  }
  return results;
}

// ---- A row as a whole ----

/// What rows refer to by name.
using SourceNames = std::unordered_set<std::string_view>;
using ModelsByName = std::unordered_map<std::string_view, const Model*>;

/// `value` names none of the file's `what`. Suggests only plain ASCII: quoted names may hold escapes that steer a
/// terminal.
[[noreturn]] void fail_unknown(const YamlCursor& value, std::string_view what, std::vector<std::string_view> names) {
  const auto steers = [](std::string_view name) {
    return std::any_of(name.begin(), name.end(), [](char c) { return c < 0x20 || c > 0x7E; });
  };
  names.erase(std::remove_if(names.begin(), names.end(), steers), names.end());
  std::sort(names.begin(), names.end());
  value.fail(fmt::format("is not among the file's {}{}", what, did_you_mean(value.text(), names)));
}

std::string source_of(const YamlCursor& row, const SourceNames& sources) {
  const YamlCursor source = row.at("source");
  if (sources.count(source.text()) == 0) fail_unknown(source, "sources", {sources.begin(), sources.end()});
  return source.text();
}

std::optional<Model> model_of(const YamlCursor& row, const ModelsByName& models) {
  const auto arch = row.find("arch");
  const auto overrides = row.find("overrides");
  if (!arch && overrides) overrides->fail_at_key("needs 'arch'");
  if (!arch) return std::nullopt;
  const auto found = models.find(arch->text());
  if (found == models.end()) {
    std::vector<std::string_view> names;
    for (const auto& [name, model] : models) names.push_back(name);
    fail_unknown(*arch, "models", names);
  }
  return overrides ? override_model(*found->second, *overrides) : *found->second;
}

/// Training: gpus = tp * pp * cp * dp, wherever both sides are stated.
void check_degrees(const YamlCursor& row, const MeasuredRow& read) {
  const LayoutPins& pins = read.layout.pins;
  if (!read.hardware.gpus || !pins.dp) return;
  const int tp = pins.tp.value_or(1), pp = pins.pp.value_or(1), cp = pins.cp.value_or(1), dp = *pins.dp;
  // A double, since four degrees may exceed 2^63; exact for any product that could be equal.
  const double product = 1.0 * tp * pp * cp * dp;
  if (product == static_cast<double>(*read.hardware.gpus)) return;
  row.at("layout").fail(fmt::format("has tp {} x pp {} x cp {} x dp {} = {}, not the {} gpus of the hardware", tp, pp,
                                    cp, dp, product, *read.hardware.gpus));
}

void check_pipeline_layout(const YamlCursor& row, const MeasuredRow& read) {
  const std::vector<PipelineChunk>& chunks = read.layout.chunks;
  if (chunks.empty()) return;
  const YamlCursor place = row.at("layout").at("pipeline_layout");
  const std::int64_t pp = read.layout.pins.pp.value_or(1), vpp = read.layout.pins.vpp.value_or(1);
  if (static_cast<std::int64_t>(chunks.size()) != pp * vpp) {
    place.fail(fmt::format("must have pp {} x vpp {} = {} chunks, has {}", pp, vpp, pp * vpp, chunks.size()));
  }
  std::int64_t layers = 0;
  for (const PipelineChunk& chunk : chunks) layers += chunk.layers;
  if (read.model && layers != read.model->num_hidden_layers) {
    place.fail(fmt::format("must have the model's {} layers, has {}", read.model->num_hidden_layers, layers));
  }
}

MeasuredRow read_row(const YamlCursor& row, const SourceNames& sources, const ModelsByName& models) {
  MeasuredRow read;
  read.kind = check_measured_row(row);
  read.id = row.at("id").text();
  read.source = source_of(row, sources);
  read.trust = row.at("trust").text();
  read.family = row.at("family").text();
  read.note = text_of(row, "note");
  read.suspect = flag_of(row, "suspect").value_or(false);
  read.assumed = texts_of(row, "assumed");
  read.hardware = read_hardware(row.at("hardware"));
  read.arch = text_of(row, "arch");
  read.model = model_of(row, models);
  if (const auto software = row.find("software")) read.software = read_software(*software);
  read.measured = read_results(row.at("measured"));
  if (read.kind == MeasuredKind::inference) {
    read.serving = read_serving(row);
    return read;
  }
  if (const auto layout = row.find("layout")) read.layout = read_layout(*layout);
  if (read.kind != MeasuredKind::training) {
    read.kernel = read_kernel_workload(row.at("workload"));
    return read;
  }
  read.workload = read_workload(row.at("workload"));
  check_degrees(row, read);
  check_pipeline_layout(row, read);
  return read;
}

std::vector<MeasuredSource> read_sources(const YamlCursor& map) {
  std::vector<MeasuredSource> sources;
  for (const auto& [name, source] : map.entries()) {
    source.only_keys({"title", "ref", "trust", "licence"});
    const std::size_t trust = source.at("trust").one_of({"A", "B", "C"});
    sources.push_back({name, source.at("title").text(), source.at("ref").text(), std::string(1, "ABC"[trust]),
                       text_of(source, "licence")});
  }
  return sources;
}

std::vector<Model> read_models(const YamlCursor& map) {
  std::vector<Model> models;
  for (const auto& [name, keys] : map.entries()) {
    if (const auto total = keys.find("parameters")) total->integer(1, std::int64_t{1} << 62);
    if (const auto assumed = keys.find("assumed")) assumed->items();
    if (const auto note = keys.find("note")) note->text();
    models.push_back(read_model(keys, name, {"parameters", "assumed", "note"}));
  }
  return models;
}

}  // namespace

std::optional<double> MeasuredResults::find(std::string_view name) const {
  for (const auto& [key, value] : numbers) {
    if (key == name) return value;
  }
  return std::nullopt;
}

MeasuredFile read_measured_rows(const YamlCursor& top) {
  top.only_keys({"schema", "sources", "models", "rows"});
  top.at("schema").one_of({"shardwright.measured/1"});
  MeasuredFile file;
  file.sources = read_sources(top.at("sources"));
  const std::vector<Model> models = read_models(top.at("models"));

  SourceNames source_names;
  for (const MeasuredSource& source : file.sources) source_names.insert(source.name);
  ModelsByName models_by_name;
  for (const Model& model : models) models_by_name.emplace(model.name, &model);

  std::unordered_map<std::string, std::size_t> ids;
  for (const YamlCursor& row : top.at("rows").items()) {
    file.rows.push_back(read_row(row, source_names, models_by_name));
    const MeasuredRow& read = file.rows.back();
    const auto [earlier, is_new] = ids.emplace(read.id, ids.size());
    if (!is_new) row.at("id").fail(fmt::format("is the id of rows[{}] already", earlier->second));
    if (read.kind != file.rows.front().kind) {
      row.at("kind").fail(fmt::format("is {}, but the file's first row is {}: a file holds one kind",
                                      name_of(read.kind), name_of(file.rows.front().kind)));
    }
  }
  return file;
}

}  // namespace shardwright
