#include "planner/validate/measured_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "hardware/machine.h"

namespace shardwright {
namespace {

using Answer = std::variant<std::vector<MeasuredKernel>, NoKernel>;

Answer one(const KernelSpec& spec) { return std::vector<MeasuredKernel>{{spec, "time_seconds"}}; }
Answer none(std::string reason) { return NoKernel{std::move(reason)}; }

/// "" when all are stated.
std::string unstated(std::initializer_list<std::pair<std::string_view, bool>> keys) {
  for (const auto& [name, stated] : keys) {
    if (!stated) return fmt::format("{} is not stated", name);
  }
  return "";
}

// ---- Types ----

struct Format {
  DataType type = DataType::bf16;
  Scaling scaling = Scaling::tensor;
};

std::optional<Format> format_named(std::string_view word) {
  if (word == "fp8_block") return Format{DataType::fp8, Scaling::block};
  const auto type = data_type_named(word);
  return type ? std::optional(Format{*type}) : std::nullopt;
}

/// Stored as `word` says; absent where that is `type`, or nothing is said. `word` must be known.
std::optional<StoredType> stored_unless(std::string_view word, DataType type) {
  const auto named = data_type_named(word);
  return !named || *named == type ? std::nullopt : std::optional(stored(*named));
}

// ---- Kernels ----

Answer gemm(const MeasuredKernelWorkload& w, const Format& format) {
  const std::string lacking = unstated({{"m", w.m.has_value()}, {"n", w.n.has_value()}, {"k", w.k.has_value()}});
  if (!lacking.empty()) return none(lacking);
  return one(GemmSpec{.m = *w.m, .n = *w.n, .k = *w.k, .type = format.type, .scaling = format.scaling});
}

Answer grouped_gemm(const MeasuredKernelWorkload& w, const Format& format) {
  const std::string lacking = unstated({{"groups", w.groups.has_value()},
                                        {"m_per_group", w.m_per_group.has_value()},
                                        {"n", w.n.has_value()},
                                        {"k", w.k.has_value()}});
  if (!lacking.empty()) return none(lacking);
  return one(GroupedGemmSpec{.groups = *w.groups,
                             .m_per_group = *w.m_per_group,
                             .n = *w.n,
                             .k = *w.k,
                             .type = format.type,
                             .scaling = format.scaling});
}

/// FlashAttention's benchmarks have these for every length and head.
constexpr std::int64_t kFlashAttentionTokens = 16384, kFlashAttentionWidth = 2048;

Answer attention_forward(const MeasuredRow& row, const Format& format) {
  MeasuredKernelWorkload w = row.kernel;
  const bool chart = w.op == "attention_fwd" && !w.batch && !w.heads && w.seq && w.head_dim;
  if (chart) w.batch = std::max<std::int64_t>(kFlashAttentionTokens / *w.seq, 1);
  if (chart) w.heads = std::max<std::int64_t>(kFlashAttentionWidth / *w.head_dim, 1);
  const std::string lacking = unstated({{"batch", w.batch.has_value()},
                                        {"heads", w.heads.has_value()},
                                        {"head_dim", w.head_dim.has_value()},
                                        {"seq", w.seq.has_value()},
                                        {"causal", w.causal.has_value()}});
  if (!lacking.empty()) return none(lacking);
  return one(AttentionSpec{.batch = *w.batch,
                           .heads = *w.heads,
                           .kv_heads = w.kv_heads.value_or(*w.heads),
                           .query_length = *w.seq,
                           .key_length = *w.seq,
                           .head_dim = *w.head_dim,
                           .value_dim = *w.head_dim,
                           .causal = *w.causal,
                           .type = format.type,
                           .kv_type = stored_unless(w.kv_dtype, format.type)});
}

Answer attention_decode(const MeasuredKernelWorkload& w, const Format& format) {
  const std::string lacking = unstated({{"batch", w.batch.has_value()},
                                        {"heads", w.heads.has_value()},
                                        {"head_dim", w.head_dim.has_value()},
                                        {"kv_len", w.kv_len.has_value()}});
  if (!lacking.empty()) return none(lacking);
  return one(AttentionSpec{.batch = *w.batch,
                           .heads = *w.heads,
                           .kv_heads = w.kv_heads.value_or(*w.heads),
                           .query_length = w.query_len.value_or(1),
                           .key_length = *w.kv_len,
                           .head_dim = *w.head_dim,
                           .value_dim = *w.head_dim,
                           .causal = w.query_len.value_or(1) > 1,
                           .type = format.type,
                           .queries_last = w.query_len.value_or(1) > 1,
                           .kv_type = stored_unless(w.kv_dtype, format.type)});
}

Answer mla_prefill(const MeasuredKernelWorkload& w, const Format& format) {
  const std::string lacking =
      unstated({{"batch", w.batch.has_value()}, {"heads", w.heads.has_value()}, {"seq", w.seq.has_value()}});
  if (!lacking.empty()) return none(lacking);
  AttentionSpec spec = expanded_mla(*w.heads);
  spec.batch = *w.batch;
  spec.query_length = spec.key_length = *w.seq;
  spec.type = format.type;
  spec.kv_type = stored_unless(w.kv_dtype, format.type);
  return one(spec);
}

Answer mla_decode(const MeasuredKernelWorkload& w, const Format& format) {
  const std::string lacking = unstated({{"batch", w.batch.has_value()},
                                        {"heads", w.heads.has_value()},
                                        {"kv_len", w.kv_len.has_value() || w.topk_tokens.has_value()}});
  if (!lacking.empty()) return none(lacking);
  AttentionSpec spec = absorbed_mla(*w.heads);
  spec.batch = *w.batch;
  spec.query_length = w.query_len.value_or(1);
  spec.key_length = w.kv_len.value_or(0);
  spec.selected = w.topk_tokens.value_or(0);
  spec.causal = spec.queries_last = spec.query_length > 1 && spec.selected == 0;
  spec.type = format.type;
  spec.kv_type = stored_unless(w.kv_dtype, format.type);
  return one(spec);
}

/// "balanced" or "power_law_1.2".
std::optional<double> power_law(std::string_view routing) {
  constexpr std::string_view prefix = "power_law_";
  if (routing == "balanced") return 0;
  if (!routing.starts_with(prefix)) return std::nullopt;
  double exponent = 0;
  const char* end = routing.data() + routing.size();
  const auto read = std::from_chars(routing.data() + prefix.size(), end, exponent);
  return read.ec == std::errc() && read.ptr == end && exponent > 0 ? std::optional(exponent) : std::nullopt;
}

Answer moe_layer(const MeasuredRow& row, const Format& format) {
  const MeasuredKernelWorkload& w = row.kernel;
  const std::string lacking = unstated({{"tokens", w.tokens.has_value()},
                                        {"hidden_size", w.hidden_size.has_value()},
                                        {"intermediate_size", w.intermediate_size.has_value()},
                                        {"n_routed_experts", w.n_routed_experts.has_value()},
                                        {"num_experts_per_tok", w.num_experts_per_tok.has_value()}});
  if (!lacking.empty()) return none(lacking);
  const auto exponent = power_law(w.routing);
  if (!exponent) return none(fmt::format("routing '{}' is neither balanced nor a power law", w.routing));
  return one(MoeLayerSpec{.tokens = *w.tokens,
                          .hidden_size = *w.hidden_size,
                          .intermediate_size = *w.intermediate_size,
                          .n_routed_experts = *w.n_routed_experts,
                          .num_experts_per_tok = *w.num_experts_per_tok,
                          .ep = row.layout.ep.value_or(1),
                          .etp = row.layout.etp.value_or(1),
                          .power_law = *exponent,
                          .type = format.type,
                          .scaling = format.scaling});
}

// ---- Between GPUs ----

/// Neighbouring ranks, `gpus_per_node` of them in each node.
std::variant<RankGroup, NoKernel> group_of(const MeasuredHardware& hardware) {
  if (!hardware.gpus) return NoKernel{"gpus is not stated"};
  RankGroup group;
  const std::int64_t gpus = *hardware.gpus, per_node = hardware.gpus_per_node.value_or(gpus);
  if (gpus > kLargestDegree || gpus % std::min(per_node, gpus) != 0) return NoKernel{"nodes of unequal size"};
  if (gpus <= per_node) {
    group.add(static_cast<std::int32_t>(gpus), 1);
    return group;
  }
  const std::vector<std::string> names = machine_names();
  if (std::find(names.begin(), names.end(), hardware.gpu) == names.end())
    return NoKernel{fmt::format("the catalog has no {}", hardware.gpu)};
  const std::int64_t node = find_machine(hardware.gpu).gpus_per_node;
  if (per_node > node) return NoKernel{fmt::format("the catalog's {} has {} GPUs in a node", hardware.gpu, node)};
  group.add(static_cast<std::int32_t>(per_node), 1);
  group.add(static_cast<std::int32_t>(gpus / per_node), node);
  return group;
}

std::optional<CollectiveKind> collective_named(std::string_view op) {
  for (const CollectiveKind kind :
       {CollectiveKind::all_reduce, CollectiveKind::all_gather, CollectiveKind::reduce_scatter,
        CollectiveKind::all_to_all, CollectiveKind::send_recv}) {
    if (name_of(kind) == op) return kind;
  }
  return std::nullopt;
}

std::optional<CollectiveAlgorithm> algorithm_named(std::string_view word) {
  constexpr std::pair<std::string_view, CollectiveAlgorithm> words[] = {
      {"", CollectiveAlgorithm::nccl},
      {"NCCL", CollectiveAlgorithm::nccl},
      {"NCCL baseline", CollectiveAlgorithm::nccl},
      {"TensorRT-LLM custom", CollectiveAlgorithm::custom},
      {"oneshot multicast", CollectiveAlgorithm::one_shot_multicast},
      {"two-shot multicast", CollectiveAlgorithm::two_shot_multicast},
      {"lsa_simple", CollectiveAlgorithm::lsa_simple},
      {"lsa_poison", CollectiveAlgorithm::lsa_poison}};
  for (const auto& [name, algorithm] : words) {
    if (name == word) return algorithm;
  }
  return std::nullopt;
}

Answer collective(const MeasuredRow& row, CollectiveKind kind) {
  const MeasuredKernelWorkload& w = row.kernel;
  const auto group = group_of(row.hardware);
  if (const auto* fault = std::get_if<NoKernel>(&group)) return *fault;
  const auto algorithm = algorithm_named(w.algorithm);
  if (!algorithm) return none(fmt::format("unknown algorithm '{}'", w.algorithm));
  CollectiveSpec spec{.kind = kind, .group = std::get<RankGroup>(group), .algorithm = *algorithm};
  if (w.message_bytes) {
    spec.held = {*w.message_bytes};
  } else if (w.bytes_per_pair && *w.bytes_per_pair <= kLargestCount / *row.hardware.gpus) {
    spec.held = Bytes{*w.bytes_per_pair} * *row.hardware.gpus;
  } else {
    return none("message_bytes is not stated");
  }
  if (const auto type = data_type_named(w.dtype)) spec.type = stored(*type);
  return one(spec);
}

/// Which library moved the rows: of those that were measured, HybridEP alone tells algorithm bandwidths, its own and
/// DeepEP's beside them.
MoeExchangeBackend backend_of(const MeasuredRow& row) {
  if (row.software.framework.starts_with("NCCL EP")) return MoeExchangeBackend::nccl_ep;
  const bool deepep_beside = row.software.variant.find("deepep") != std::string::npos;
  if (row.kernel.bandwidth_definition == "algorithm" && !deepep_beside) return MoeExchangeBackend::hybrid_ep;
  return MoeExchangeBackend::deepep;
}

Answer moe_exchange(const MeasuredRow& row) {
  const MeasuredKernelWorkload& w = row.kernel;
  const std::string lacking = unstated({{"tokens_per_gpu", w.tokens_per_gpu.has_value()},
                                        {"hidden_size", w.hidden_size.has_value()},
                                        {"num_experts_per_tok", w.num_experts_per_tok.has_value()},
                                        {"mode", !w.mode.empty()}});
  if (!lacking.empty()) return none(lacking);
  const auto group = group_of(row.hardware);
  if (const auto* fault = std::get_if<NoKernel>(&group)) return *fault;
  MoeExchangeSpec spec{.mode = w.mode == "normal" ? MoeExchangeMode::normal : MoeExchangeMode::low_latency,
                       .tokens = *w.tokens_per_gpu,
                       .hidden_size = *w.hidden_size,
                       .num_experts_per_tok = *w.num_experts_per_tok,
                       .n_routed_experts = w.n_routed_experts.value_or(0),
                       .top_groups = w.top_groups.value_or(0),
                       .sms = w.sms.value_or(0),
                       .group = std::get<RankGroup>(group),
                       .backend = backend_of(row)};
  if (const auto type = data_type_named(w.dtype)) spec.type = stored(*type);
  MoeExchangeSpec back = spec;
  back.op = MoeExchangeOp::combine;
  if (w.op == "moe_dispatch") return one(spec);
  if (w.op == "moe_combine") return one(back);
  return std::vector<MeasuredKernel>{{spec, "dispatch_seconds"}, {back, "combine_seconds"}};
}

}  // namespace

std::variant<std::vector<MeasuredKernel>, NoKernel> kernels_of(const MeasuredRow& row) {
  const MeasuredKernelWorkload& w = row.kernel;
  if (row.kind != MeasuredKind::kernel && row.kind != MeasuredKind::collective) return none("no row about a kernel");
  // A profile's rows are medians over calls of several sizes.
  if (w.calls || w.op.starts_with("dualpipe")) return none("many calls, whose sizes are not stated");
  if (const auto kind = collective_named(w.op)) return collective(row, *kind);
  if (w.op.starts_with("moe_dispatch") || w.op == "moe_combine") return moe_exchange(row);
  if (w.op == "rdma_write") return none("message_bytes is not stated");
  if (w.dtype.empty()) return none("dtype is not stated");
  const auto format = format_named(w.dtype);
  if (!format) return none(fmt::format("unknown dtype '{}'", w.dtype));
  if (!w.kv_dtype.empty() && !data_type_named(w.kv_dtype))
    return none(fmt::format("unknown kv_dtype '{}'", w.kv_dtype));
  if (w.op == "gemm") return gemm(w, *format);
  if (w.op == "grouped_gemm") return grouped_gemm(w, *format);
  if (w.op == "attention_fwd" || w.op == "attention_prefill") return attention_forward(row, *format);
  if (w.op == "attention_decode") return attention_decode(w, *format);
  if (w.op == "mla_prefill") return mla_prefill(w, *format);
  if (w.op.starts_with("mla_decode")) return mla_decode(w, *format);
  if (w.op == "moe_ffn") return moe_layer(row, *format);
  return none(fmt::format("unknown op '{}'", w.op));
}

}  // namespace shardwright
