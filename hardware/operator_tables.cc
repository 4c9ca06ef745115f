#include "hardware/operator_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "hardware/csv.h"
#include "hardware/gzip.h"

namespace shardwright {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestTable = std::size_t{512} << 20;  // unpacked
constexpr std::int64_t kLargestCount = std::int64_t{1} << 40;

/// Why a row is no measurement.
struct LeftOut {
  std::string reason;
};

struct Format {
  DataType type = DataType::bf16;
  std::optional<StoredType> weights = {};
  Scaling scaling = Scaling::tensor;
};

/// The tables' names of number formats of matrix products.
std::optional<Format> format_named(std::string_view word) {
  if (word == "bfloat16") return Format{DataType::bf16};
  if (word == "float16" || word == "half") return Format{DataType::fp16};
  if (word == "fp8") return Format{DataType::fp8};
  if (word == "fp8_block") return Format{DataType::fp8, {}, Scaling::block};
  if (word == "nvfp4") return Format{DataType::nvfp4};
  if (word == "int4_wo") return Format{DataType::bf16, StoredType::int4};
  if (word == "w4a16_mxfp4") return Format{DataType::bf16, StoredType::mxfp4};
  if (word == "w4a8_mxfp4_mxfp8") return Format{DataType::mxfp8, StoredType::mxfp4};
  return std::nullopt;
}

/// A row of a table, by column names. A reader of one kind of table asks it for cells; what is wrong is thrown with its
/// place, what is merely unknown leaves the row out.
class Row {
 public:
  Row(const CsvReader& csv, int gpus_per_node) : csv_(csv), gpus_per_node_(gpus_per_node) {}

  std::string_view text(std::string_view column) const { return csv_[index(column)]; }

  bool has(std::string_view column) const { return csv_.column(column) < csv_.header().size(); }

  std::int64_t count(std::string_view column, std::int64_t low = 1) const {
    const std::string_view cell = text(column);
    std::int64_t value = 0;
    const auto read = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (read.ec != std::errc() || read.ptr != cell.data() + cell.size() || value < low || value > kLargestCount) {
      csv_.fail(index(column), fmt::format("'{}' must be a whole number between {} and {}, got '{}'", column, low,
                                           kLargestCount, cell));
    }
    return value;
  }

  /// A time in units of 10^exponent seconds; no detour over a double of another unit, so that 0.004728 ms
  /// are 4.728e-06.
  Seconds time(std::string_view column, int exponent) const {
    const std::string_view cell = text(column);
    const bool plain = !cell.empty() && cell.find_first_not_of("0123456789.eE+-") == std::string_view::npos;
    const bool scientific = cell.find_first_of("eE") != std::string_view::npos;
    const std::string scaled = scientific ? std::string(cell) : fmt::format("{}e{}", cell, exponent);
    double value = 0;
    const auto read = std::from_chars(scaled.data(), scaled.data() + scaled.size(), value);
    const bool whole = read.ec == std::errc() && read.ptr == scaled.data() + scaled.size();
    if (scientific) value *= exponent == -3 ? 1e-3 : 1e-6;
    if (!plain || !whole || !(value >= 0) || value > 1e6)
      csv_.fail(index(column), fmt::format("'{}' must be a time, got '{}'", column, cell));
    return {value};
  }
  Seconds milliseconds(std::string_view column) const { return time(column, -3); }
  Seconds microseconds(std::string_view column) const { return time(column, -6); }

  Format format(std::string_view column) const {
    const auto named = format_named(text(column));
    if (!named) throw LeftOut{fmt::format("unknown {} '{}'", column, text(column))};
    return *named;
  }

  /// Of what lies in memory: absent where it is `type`.
  std::optional<StoredType> stored_unless(std::string_view column, DataType type) const {
    const Format named = format(column);
    return named.type == type ? std::nullopt : std::optional(stored(named.type));
  }

  RankGroup ranks(std::string_view column) const { return run_of(count(column)); }
  RankGroup nodes(std::string_view column) const { return run_of(count(column) * gpus_per_node_); }

  /// "balanced", "power_law_1.2", "power_law_1.2_eplb".
  double power_law(bool* eplb = nullptr) const {
    constexpr std::string_view prefix = "power_law_", suffix = "_eplb";
    std::string_view word = text("distribution");
    if (eplb != nullptr && word.ends_with(suffix)) {
      *eplb = true;
      word.remove_suffix(suffix.size());
    }
    if (word == "balanced") return 0;
    double exponent = 0;
    const char* end = word.data() + word.size();
    const bool is_power = word.starts_with(prefix);
    const auto read = std::from_chars(word.data() + (is_power ? prefix.size() : 0), end, exponent);
    if (!is_power || read.ec != std::errc() || read.ptr != end || !(exponent > 0) || exponent > 100)
      throw LeftOut{fmt::format("unknown distribution '{}'", text("distribution"))};
    return exponent;
  }

 private:
  std::size_t index(std::string_view column) const {
    const std::size_t found = csv_.column(column);
    if (found == csv_.header().size()) csv_.fail(0, fmt::format("has no column '{}'", column));
    return found;
  }

  static RankGroup run_of(std::int64_t ranks) {
    if (ranks > kMostRanks) throw LeftOut{fmt::format("more than {} ranks", kMostRanks)};
    RankGroup group;
    group.add(static_cast<std::int32_t>(ranks), 1);
    return group;
  }
  static constexpr std::int64_t kMostRanks = std::int64_t{1} << 24;

  const CsvReader& csv_;
  int gpus_per_node_;
};

struct Measured {
  KernelSpec spec;
  Seconds time;
};
using Measures = std::vector<Measured>;

Measures one(KernelSpec spec, Seconds time) {
  Measures measures;
  measures.push_back({std::move(spec), time});
  return measures;
}

// ---- One function for each kind of table ----

Measures gemm(const Row& row) {
  const Format format = row.format("gemm_dtype");
  return one(GemmSpec{.m = row.count("m"),
                      .n = row.count("n"),
                      .k = row.count("k"),
                      .type = format.type,
                      .weights = format.weights,
                      .scaling = format.scaling},
             row.milliseconds("latency"));
}

CollectiveKind collective_named(std::string_view op) {
  if (op == "all_reduce") return CollectiveKind::all_reduce;
  if (op == "all_gather") return CollectiveKind::all_gather;
  if (op == "reduce_scatter") return CollectiveKind::reduce_scatter;
  if (op == "alltoall") return CollectiveKind::all_to_all;
  throw LeftOut{fmt::format("unknown collective '{}'", op)};
}

/// Sizes are nccl-tests' but counted in elements.
Measures collective(const Row& row, std::string_view type_column, CollectiveAlgorithm algorithm) {
  const std::string_view word = row.text(type_column);
  StoredType type = StoredType::int8;
  std::int64_t width = 1;
  if (word != "int8") {
    type = stored(row.format(type_column).type);
    width = static_cast<std::int64_t>(bytes_per_element(row.format(type_column).type));
  }
  return one(CollectiveSpec{.kind = collective_named(row.text("op_name")),
                            .held = {row.count("message_size") * width},
                            .group = row.ranks("num_gpus"),
                            .type = type,
                            .algorithm = algorithm},
             row.milliseconds("latency"));
}

Measures nccl(const Row& row) { return collective(row, "nccl_dtype", CollectiveAlgorithm::nccl); }
Measures custom_all_reduce(const Row& row) { return collective(row, "allreduce_dtype", CollectiveAlgorithm::custom); }

/// `isl` queries behind `step` cached tokens. A single query at the end sees all keys.
void set_lengths(const Row& row, AttentionSpec& spec) {
  const std::int64_t cached = row.count("step", 0);
  spec.batch = row.count("batch_size");
  spec.query_length = row.count("isl");
  spec.key_length = spec.query_length + cached;
  spec.causal = spec.query_length > 1 || cached == 0;
  spec.queries_last = spec.query_length > 1 && cached > 0;
}

Measures attention(const Row& row) {
  if (row.has("beam_width") && row.count("beam_width") != 1) throw LeftOut{"beam search"};
  AttentionSpec spec;
  set_lengths(row, spec);
  spec.heads = row.count("num_heads");
  spec.kv_heads = row.count("num_key_value_heads");
  spec.head_dim = spec.value_dim = row.count("head_dim");
  spec.window = row.has("window_size") ? row.count("window_size", 0) : 0;
  spec.type = row.format("attn_dtype").type;
  spec.kv_type = row.stored_unless("kv_cache_dtype", spec.type);
  return one(spec, row.milliseconds("latency"));
}

Measures latent_attention(const Row& row, AttentionSpec spec) {
  set_lengths(row, spec);
  spec.type = row.format("mla_dtype").type;
  spec.kv_type = row.stored_unless("kv_cache_dtype", spec.type);
  return one(spec, row.milliseconds("latency"));
}

Measures context_mla(const Row& row) { return latent_attention(row, expanded_mla(row.count("num_heads"))); }
Measures generation_mla(const Row& row) { return latent_attention(row, absorbed_mla(row.count("num_heads"))); }

/// The products with the up-projections that absorbing moves to queries and outputs: one for each head.
Measures mla_products(const Row& row) {
  const std::string_view op = row.text("op_name");
  const bool before = op == "mla_gen_pre";
  if (!before && op != "mla_gen_post") throw LeftOut{fmt::format("unknown product '{}'", op)};
  const AttentionSpec head = expanded_mla(1), latent = absorbed_mla(1);
  Format format = row.format("bmm_dtype");
  if (row.text("kernel_source").find("block_scaling") != std::string_view::npos) format.scaling = Scaling::block;
  return one(
      GemmSpec{.m = row.count("num_tokens"),
               .n = before ? latent.value_dim : head.value_dim,
               .k = before ? head.value_dim : latent.value_dim,  // heads without rotary part are as wide as values
               .batch = row.count("num_heads"),
               .type = format.type,
               .scaling = format.scaling},
      row.milliseconds("latency"));
}

Measures mla_module(const Row& row, bool absorbed) {
  if (row.text("model") != "deepseek-ai/DeepSeek-V3")
    throw LeftOut{fmt::format("unknown model '{}'", row.text("model"))};
  const Format projections = row.format("gemm_type");
  MlaModuleSpec spec;
  spec.batch = row.count("batch_size");
  spec.heads = row.count("num_heads");
  spec.query_length = row.count("isl");
  spec.key_length = spec.query_length + row.count("step", 0);
  spec.absorbed = absorbed;
  spec.type = row.format("mla_dtype").type;
  spec.kv_type = row.stored_unless("kv_cache_dtype", spec.type);
  spec.gemm_type = row.stored_unless("gemm_type", spec.type);
  spec.scaling = projections.scaling;
  return one(spec, row.milliseconds("latency"));
}

Measures mla_context_module(const Row& row) { return mla_module(row, false); }
Measures mla_generation_module(const Row& row) { return mla_module(row, true); }

MoeLayerSpec moe_layer(const Row& row) {
  const Format format = row.format("moe_dtype");
  MoeLayerSpec spec{.tokens = row.count("num_tokens"),
                    .hidden_size = row.count("hidden_size"),
                    .intermediate_size = row.count("inter_size"),
                    .n_routed_experts = row.count("num_experts"),
                    .num_experts_per_tok = row.count("topk"),
                    .ep = row.count("moe_ep_size"),
                    .etp = row.count("moe_tp_size"),
                    .type = format.type,
                    .weights = format.weights,
                    .scaling = format.scaling};
  spec.power_law = row.power_law(&spec.eplb);
  return spec;
}

Measures moe(const Row& row) {
  MoeLayerSpec spec = moe_layer(row);
  spec.gated = !row.text("kernel_source").ends_with("nongated");
  return one(spec, row.milliseconds("latency"));
}

/// Experts' compute alone, with copies of experts in further slots.
Measures wide_moe(const Row& row) {
  MoeLayerSpec spec = moe_layer(row);
  spec.redundant_experts = row.count("num_slots") - spec.n_routed_experts;
  if (spec.redundant_experts < 0) throw LeftOut{"fewer slots than experts"};
  spec.router = false;
  return one(spec, row.milliseconds("latency"));
}

MoeExchangeSpec deepep(const Row& row, MoeExchangeMode mode) {
  return {.mode = mode,
          .tokens = row.count("num_token"),
          .hidden_size = row.count("hidden_size"),
          .num_experts_per_tok = row.count("num_topk"),
          .n_routed_experts = row.count("num_experts"),
          .group = row.nodes("node_num")};
}

void add_part(Measures& measures, MoeExchangeSpec spec, MoeExchangeOp op, Seconds time) {
  spec.op = op;
  if (time.value > 0) measures.push_back({spec, time});
}

Measures deepep_low_latency(const Row& row) {
  const MoeExchangeSpec spec = deepep(row, MoeExchangeMode::low_latency);
  Measures measures;
  add_part(measures, spec, MoeExchangeOp::dispatch, row.microseconds("dispatch_avg_t_us"));
  add_part(measures, spec, MoeExchangeOp::combine, row.microseconds("combine_avg_t_us"));
  return measures;
}

/// Notifying takes no time of its own inside a node.
Measures deepep_normal(const Row& row) {
  MoeExchangeSpec spec = deepep(row, MoeExchangeMode::normal);
  Measures measures;
  spec.sms = row.count("dispatch_sms");
  add_part(measures, spec, MoeExchangeOp::dispatch, row.microseconds("dispatch_transmit_us"));
  add_part(measures, spec, MoeExchangeOp::dispatch_notify, row.microseconds("dispatch_notify_us"));
  spec.sms = row.count("combine_sms");
  add_part(measures, spec, MoeExchangeOp::combine, row.microseconds("combine_transmit_us"));
  add_part(measures, spec, MoeExchangeOp::combine_notify, row.microseconds("combine_notify_us"));
  return measures;
}

Measures nvlink_all_to_all(const Row& row) {
  MoeExchangeSpec spec{.tokens = row.count("num_tokens"),
                       .hidden_size = row.count("hidden_size"),
                       .num_experts_per_tok = row.count("topk"),
                       .n_routed_experts = row.count("num_experts"),
                       .group = row.ranks("moe_ep_size"),
                       .power_law = row.power_law(),
                       .type = stored(row.format("moe_dtype").type)};
  const std::string_view op = row.text("op_name"), kernel = row.text("kernel_source");
  if (kernel == "NVLinkOneSided") {
    spec.backend = MoeExchangeBackend::nvlink_one_sided;
  } else if (kernel == "NVLinkTwoSided") {
    spec.backend = MoeExchangeBackend::nvlink_two_sided;
  } else {
    throw LeftOut{fmt::format("unknown kernel '{}'", kernel)};
  }
  if (op == "alltoall_prepare") {
    spec.op = MoeExchangeOp::prepare;
  } else if (op == "alltoall_dispatch") {
    spec.op = MoeExchangeOp::dispatch;
  } else if (op == "alltoall_combine") {
    spec.op = MoeExchangeOp::combine;
  } else if (op == "alltoall_combine_low_precision") {
    spec.op = MoeExchangeOp::combine_low_precision;
  } else {
    throw LeftOut{fmt::format("unknown part '{}'", op)};
  }
  return one(spec, row.milliseconds("latency"));
}

// ---- Files ----

struct Table {
  std::string_view name;
  Measures (*measures_of)(const Row&);
};

constexpr Table kTables[] = {
    {"gemm_perf", gemm},
    {"nccl_perf", nccl},
    {"custom_allreduce_perf", custom_all_reduce},
    {"context_attention_perf", attention},
    {"generation_attention_perf", attention},
    {"context_mla_perf", context_mla},
    {"generation_mla_perf", generation_mla},
    {"mla_context_module_perf", mla_context_module},
    {"mla_generation_module_perf", mla_generation_module},
    {"mla_bmm_perf", mla_products},
    {"moe_perf", moe},
    {"wideep_moe_perf", wide_moe},
    {"wideep_deepep_ll_perf", deepep_low_latency},
    {"wideep_deepep_normal_perf", deepep_normal},
    {"trtllm_alltoall_perf", nvlink_all_to_all},
};

bool is_csv(std::string_view name) { return name.ends_with(".csv") || name.ends_with(".csv.gz"); }

/// By the name up to its first point.
const Table* table_named(std::string_view file_name) {
  if (!is_csv(file_name)) return nullptr;
  for (const Table& table : kTables) {
    if (table.name == file_name.substr(0, file_name.find('.'))) return &table;
  }
  return nullptr;
}

std::vector<std::string> csv_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (is_csv(name)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// "SGLang 0.5.10"; "" where the table does not say.
std::string framework_of(const Row& row) {
  if (!row.has("framework")) return "";
  std::string name(row.text("framework"));
  if (row.has("version")) name += fmt::format(" {}", row.text("version"));
  return name;
}

/// One row into `tables`, or into the count of those left out.
void import_row(const Row& row, const Table& table, std::vector<KernelTable>& tables, ImportedFile& file) {
  ++file.rows;
  try {
    const std::string_view kernel = row.has("kernel_source") ? row.text("kernel_source") : "";
    const std::string framework = framework_of(row);
    if (!is_table_name(kernel) || !is_table_name(framework)) throw LeftOut{"a name with quotes or unprintable letters"};
    for (const auto& [spec, time] : table.measures_of(row)) {
      if (!(time.value > 0)) throw LeftOut{"no time"};
      tables[spec.index()].add(to_slots(spec), time, kernel, framework);
      ++file.measurements;
    }
  } catch (const LeftOut& left_out) { ++file.left_out[left_out.reason]; }
}

}  // namespace

bool has_operator_tables(const std::string& folder) {
  const std::vector<std::string> names = csv_files(folder);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return table_named(name) != nullptr; });
}

OperatorImport import_operator_tables(const std::string& folder, int gpus_per_node) {
  OperatorImport result;
  std::vector<KernelTable> tables;
  for (int i = 0; i < kKernelFamilies; ++i) tables.emplace_back(static_cast<KernelFamily>(i));
  for (const std::string& name : csv_files(folder)) {
    const Table* table = table_named(name);
    if (table == nullptr) {
      result.ignored.push_back(name);
      continue;
    }
    const std::string path = (fs::path(folder) / name).string();
    const std::string text = read_maybe_gzip(path, kLargestTable);
    CsvReader csv(text, path);
    const Row row(csv, gpus_per_node);
    ImportedFile file{name};
    while (csv.next()) import_row(row, *table, tables, file);
    result.files.push_back(std::move(file));
  }
  for (KernelTable& table : tables) result.measured.add(std::move(table));
  return result;
}

}  // namespace shardwright
