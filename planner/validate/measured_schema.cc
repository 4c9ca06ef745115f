#include "planner/validate/measured_schema.h"

#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "hardware/data_type.h"

namespace shardwright {
namespace {

using Words = std::vector<std::string_view>;

// ---- The schema: which key, of which type, in rows of which kind ----

enum class Type { count, degree, zero_stage, number, fraction, flag, text, word, data_type, texts, numbers, map };

constexpr unsigned kTraining = 1, kInference = 2, kCollective = 4, kKernel = 8;
constexpr unsigned kServingOrTraining = kTraining | kInference;
constexpr unsigned kSmall = kCollective | kKernel;
constexpr unsigned kAll = kServingOrTraining | kSmall;

struct Key {
  std::string_view name;
  Type type;
  unsigned kinds;
  Words words = {};  // of Type::word
};

constexpr std::array<std::string_view, 4> kKindNames = {"training", "inference", "collective", "kernel"};

const Words& gpu_names() {
  static const Words names = {
      "a100-sxm-40gb", "a100-sxm-80gb",  "a100-pcie-80gb", "a800-sxm-80gb", "h100-sxm-80gb",  "h100-96gb-hbm2e",
      "h100-nvl-94gb", "h200-sxm-141gb", "h200-nvl-141gb", "h800-sxm-80gb", "b200-sxm-192gb", "b300-sxm-288gb",
      "gb200-nvl72",   "gb300-nvl72",    "gh200-96gb",     "gh200-144gb",   "l40s-48gb",      "rtx-pro-6000-96gb",
      "mi300x-192gb",  "mi325x-256gb",   "mi355x-288gb",   "gaudi2-96gb",   "gaudi3-128gb",   "unknown"};
  return names;
}

const std::vector<Key>& row_keys() {
  static const std::vector<Key> keys = {
      {"id", Type::text, kAll},
      {"source", Type::text, kAll},
      {"kind", Type::text, kAll},
      {"arch", Type::text, kServingOrTraining},
      {"overrides", Type::map, kServingOrTraining},
      {"family", Type::text, kAll},
      {"assumed", Type::texts, kAll},
      {"trust", Type::word, kAll, {"A", "B", "C"}},
      {"suspect", Type::flag, kAll},
      {"note", Type::text, kAll},
      {"hardware", Type::map, kAll},
      {"layout", Type::map, kServingOrTraining | kKernel},
      {"workload", Type::map, kAll},
      {"software", Type::map, kAll},
      {"measured", Type::map, kAll},
      {"derived", Type::map, kAll},
  };
  return keys;
}

const std::vector<Key>& hardware_keys() {
  static const std::vector<Key> keys = {
      {"gpu", Type::word, kAll, gpu_names()}, {"gpus", Type::count, kAll},
      {"gpus_per_node", Type::count, kAll},   {"nodes", Type::count, kAll},
      {"nvlink_domain", Type::count, kAll},   {"interconnect", Type::text, kAll},
  };
  return keys;
}

const std::vector<Key>& layout_keys() {
  static const std::vector<Key> keys = {
      {"tp", Type::degree, kAll},
      {"pp", Type::degree, kAll},
      {"vpp", Type::degree, kAll},
      {"cp", Type::degree, kAll},
      {"ep", Type::degree, kAll},
      {"etp", Type::degree, kAll},
      {"dp", Type::degree, kAll},
      {"attention_dp", Type::degree, kInference},
      {"serving", Type::word, kInference, {"disaggregated"}},
      {"prefill", Type::map, kInference},
      {"decode", Type::map, kInference},
      {"zero", Type::zero_stage, kTraining},
      {"fsdp_group", Type::degree, kTraining},
      {"replicas", Type::count, kTraining},
      {"optimizer_shard_group", Type::count, kTraining},
      {"sequence_parallel", Type::flag, kTraining},
      {"schedule", Type::word, kTraining, {"1f1b", "interleaved", "zb-1p", "zb-2p", "zb-v", "dualpipe"}},
      {"recompute", Type::word, kTraining, {"none", "selective", "full"}},
      {"recompute_modules", Type::texts, kTraining},
      {"recompute_layers", Type::count, kTraining},
      {"pipeline_layout", Type::text, kTraining},
      {"rank_order", Type::word, kTraining, {"tp-cp-dp-pp", "tp-cp-pp-dp"}},
      {"activation_offload_layers", Type::count, kTraining},
      {"activation_offload_modules", Type::texts, kTraining},
      {"cuda_graphs", Type::texts, kTraining},
      {"micro_batch", Type::degree, kTraining},
      {"micro_batches", Type::degree, kTraining},
      {"local_batch", Type::degree, kTraining},
      {"dispatcher", Type::word, kTraining, {"allgather", "alltoall", "deepep", "hybridep"}},
      {"dispatcher_sms", Type::count, kTraining},
      {"optimizer_offload_fraction", Type::fraction, kTraining},
      {"strategy", Type::text, kTraining},
      {"tp_overlap", Type::flag, kTraining},
      {"dp_overlap", Type::map, kTraining},
      {"p2p_overlap", Type::flag, kTraining},
      {"ep_overlap", Type::flag, kTraining},
      {"delay_wgrad", Type::flag, kTraining},
      {"shared_expert_overlap", Type::flag, kTraining},
  };
  return keys;
}

const std::vector<Key>& dp_overlap_keys() {
  static const std::vector<Key> keys = {
      {"grad_reduce", Type::flag, kTraining},
      {"param_gather", Type::flag, kTraining},
      {"param_gather_with_optimizer", Type::flag, kTraining},
  };
  return keys;
}

/// Of `prefill` and `decode`.
const std::vector<Key>& worker_keys() {
  static const std::vector<Key> keys = {
      {"workers", Type::degree, kInference}, {"tp", Type::degree, kInference},
      {"pp", Type::degree, kInference},      {"ep", Type::degree, kInference},
      {"etp", Type::degree, kInference},     {"attention_dp", Type::degree, kInference},
      {"batch", Type::degree, kInference},
  };
  return keys;
}

const std::vector<Key>& workload_keys() {
  static const std::vector<Key> keys = {
      {"sequence_length", Type::count, kTraining},
      {"global_batch", Type::count, kTraining},
      {"precision", Type::word, kTraining, {"fp16", "bf16", "fp8", "mxfp8", "nvfp4"}},
      {"scaling", Type::word, kTraining, {"delayed", "current", "tensorwise", "rowwise", "blockwise", "mxfp8"}},
      {"reduce_precision", Type::word, kTraining, {"fp32", "bf16", "low", "fp32-or-default"}},
      {"task", Type::word, kTraining, {"pretrain", "sft", "lora"}},
      {"total_tokens", Type::count, kTraining},
      {"parameters_printed", Type::count, kTraining},
      {"parameter_dtype", Type::data_type, kTraining},
      {"parameter_gather_dtype", Type::data_type, kTraining},
      {"gradient_dtype", Type::data_type, kTraining},
      {"main_param_dtype", Type::data_type, kTraining},
      {"optimizer_state_dtype", Type::data_type, kTraining},
      {"optimizer", Type::word, kTraining, {"adam", "muon"}},
      {"cross_entropy_fusion", Type::word, kTraining, {"native", "te", "fused", "none"}},
      {"attention_backend", Type::word, kTraining, {"flash", "cudnn", "unfused"}},
      {"capacity_factor", Type::number, kTraining},
      {"routing", Type::word, kTraining, {"balanced"}},
      {"routing", Type::text, kKernel},
      {"lora_rank", Type::count, kTraining},
      {"lora_targets", Type::texts, kTraining},

      {"model_label", Type::text, kInference},
      {"isl", Type::count, kInference},
      {"osl", Type::count, kInference},
      {"concurrency", Type::count, kInference},
      {"batch_per_gpu", Type::count, kInference},
      {"kv_tokens_mean", Type::number, kInference},
      {"quant", Type::text, kInference},
      {"moe_quant", Type::text, kInference},
      {"phase", Type::word, kInference, {"offline", "mixed", "prefill", "decode", "server", "interactive"}},

      {"batch", Type::count, kInference | kKernel},
      {"kv_dtype", Type::text, kInference | kKernel},
      {"tokens_per_gpu", Type::count, kInference | kCollective},
      {"hidden_size", Type::count, kSmall},
      {"num_experts_per_tok", Type::count, kSmall},
      {"n_routed_experts", Type::count, kSmall},
      {"dtype", Type::text, kSmall},

      {"op",
       Type::word,
       kCollective,
       {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "moe_dispatch", "moe_combine",
        "moe_dispatch_combine", "rdma_write"}},
      {"message_bytes", Type::count, kCollective},
      {"bytes_per_pair", Type::count, kCollective},
      {"algorithm", Type::text, kCollective},
      {"mode", Type::word, kCollective, {"normal", "low_latency"}},
      {"top_groups", Type::count, kCollective},
      {"sms", Type::count, kCollective},
      {"bottleneck", Type::text, kCollective},
      {"bandwidth_definition", Type::text, kCollective},

      {"op", Type::text, kKernel},
      {"m", Type::count, kKernel},
      {"n", Type::count, kKernel},
      {"k", Type::count, kKernel},
      {"groups", Type::count, kKernel},
      {"m_per_group", Type::count, kKernel},
      {"heads", Type::count, kKernel},
      {"kv_heads", Type::count, kKernel},
      {"head_dim", Type::count, kKernel},
      {"seq", Type::count, kKernel},
      {"kv_len", Type::count, kKernel},
      {"query_len", Type::count, kKernel},
      {"causal", Type::flag, kKernel},
      {"tokens", Type::count, kKernel},
      {"intermediate_size", Type::count, kKernel},
      {"topk_tokens", Type::count, kKernel},
      {"layer", Type::text, kKernel},
      {"calls", Type::count, kKernel},
  };
  return keys;
}

const std::vector<Key>& software_keys() {
  static const std::vector<Key> keys = {
      {"framework", Type::text, kAll},   {"version", Type::text, kAll}, {"kernel", Type::text, kAll},
      {"compile", Type::flag, kAll},     {"variant", Type::text, kAll}, {"submitter", Type::text, kAll},
      {"measured_on", Type::text, kAll},
  };
  return keys;
}

const std::vector<Key>& measured_keys() {
  static const std::vector<Key> keys = {
      {"iteration_seconds", Type::number, kTraining},
      {"tokens_per_second_per_gpu", Type::number, kServingOrTraining},
      {"tokens_per_second", Type::number, kServingOrTraining},
      {"samples_per_second_per_gpu", Type::number, kTraining},
      {"tflops_per_gpu", Type::number, kTraining},
      {"mfu", Type::fraction, kTraining},
      {"hfu", Type::fraction, kTraining},
      {"flop_convention",
       Type::word,
       kTraining,
       {"model-causal", "model-full-attention", "6n-full-attention", "hardware-recompute", "unstated"}},
      {"peak_memory_gib", Type::number, kTraining},
      {"reserved_memory_gib", Type::number, kTraining},
      {"allocated_memory_gib", Type::number, kTraining},
      {"peak_memory_gib_by_stage", Type::numbers, kTraining},
      {"memory_unit", Type::word, kServingOrTraining, {"gib", "converted-from-gb", "unstated"}},
      {"oom", Type::flag, kTraining},
      {"memory_at_oom_gib", Type::number, kTraining},
      {"layer_forward_seconds", Type::number, kTraining},
      {"layer_backward_seconds", Type::number, kTraining},
      {"training_days", Type::number, kTraining},
      {"gpu_hours_per_trillion_tokens", Type::number, kTraining},
      {"tflops_per_gpu_best_without_cp", Type::number, kTraining},
      {"tokens_per_second_per_gpu_one_node", Type::number, kTraining},

      {"ttft_seconds", Type::number, kInference},
      {"ttft_median_seconds", Type::number, kInference},
      {"ttft_p99_seconds", Type::number, kInference},
      {"tpot_seconds", Type::number, kInference},
      {"tpot_median_seconds", Type::number, kInference},
      {"tpot_p99_seconds", Type::number, kInference},
      {"request_latency_seconds", Type::number, kInference},
      {"output_tokens_per_second", Type::number, kInference},
      {"output_tokens_per_second_per_gpu", Type::number, kInference},
      {"output_tokens_per_second_per_node", Type::number, kInference},
      {"output_tokens_per_second_at_least", Type::number, kInference},
      {"input_tokens_per_second", Type::number, kInference},
      {"input_tokens_per_second_per_gpu", Type::number, kInference},
      {"input_tokens_per_second_per_node", Type::number, kInference},
      {"input_tokens_per_second_at_least", Type::number, kInference},
      {"total_tokens_per_second", Type::number, kInference},
      {"total_tokens_per_second_per_gpu", Type::number, kInference},
      {"total_tokens_per_second_per_node", Type::number, kInference},
      {"total_tokens_per_second_at_least", Type::number, kInference},
      {"samples_per_second", Type::number, kInference},
      {"weights_and_activations_gib_per_gpu", Type::number, kInference},
      {"free_for_kv_gib_per_gpu", Type::number, kInference},
      {"kv_bytes_per_request", Type::number, kInference},

      {"time_seconds", Type::number, kSmall},
      {"dispatch_seconds", Type::number, kSmall},
      {"combine_seconds", Type::number, kSmall},
      {"bus_bandwidth_bytes_per_second", Type::number, kSmall},
      {"algorithm_bandwidth_bytes_per_second", Type::number, kSmall},
      {"bus_bandwidth_without_nvls_bytes_per_second", Type::number, kSmall},
      {"kernel_only_bandwidth_bytes_per_second", Type::number, kSmall},
      {"dispatch_bandwidth_bytes_per_second", Type::number, kSmall},
      {"combine_bandwidth_bytes_per_second", Type::number, kSmall},
      {"tflops", Type::number, kSmall},
      {"memory_bandwidth_bytes_per_second", Type::number, kSmall},
      {"total_time_seconds", Type::number, kSmall},
      {"min_time_seconds", Type::number, kSmall},
      {"max_time_seconds", Type::number, kSmall},
      {"compute_busy_seconds", Type::number, kSmall},
      {"communication_busy_seconds", Type::number, kSmall},
      {"window_seconds", Type::number, kSmall},
  };
  return keys;
}

/// Arithmetic on the row itself: the measured keys, and one that is never measured.
const std::vector<Key>& derived_keys() {
  static const std::vector<Key> keys = [] {
    std::vector<Key> all = measured_keys();
    all.push_back({"tflops_causal", Type::number, kKernel});
    return all;
  }();
  return keys;
}

// ---- Checking a map against its keys ----

Words data_type_names() {
  Words names;
  for (const DataType type : kDataTypes) names.push_back(name_of(type));
  return names;
}

void check_value(const YamlCursor& value, const Key& key) {
  switch (key.type) {
    case Type::count:
      value.integer(1, kLargestCount);
      return;
    case Type::degree:
      value.integer(1, kLargestDegree);
      return;
    case Type::zero_stage:
      value.integer(0, 3);
      return;
    case Type::number:
      value.number(0, kLargestNumber);
      return;
    case Type::fraction:
      value.number(0, 1);
      return;
    case Type::flag:
      value.boolean();
      return;
    case Type::text:
      value.text();
      return;
    case Type::word:
      value.one_of(key.words);
      return;
    case Type::data_type:
      value.one_of(data_type_names());
      return;
    case Type::texts:
      for (const YamlCursor& item : value.items()) item.text();
      return;
    case Type::numbers:
      for (const YamlCursor& item : value.items()) item.number(0, kLargestNumber);
      return;
    case Type::map:
      value.entries();
      return;
  }
}

/// Throws at the first key that rows of this kind do not have, or a value of another type than its key's.
void check_map(const YamlCursor& map, const std::vector<Key>& keys, MeasuredKind kind) {
  const unsigned bit = 1u << static_cast<unsigned>(kind);
  std::unordered_map<std::string_view, const Key*> known;
  for (const Key& key : keys) {
    if (key.kinds & bit) known.emplace(key.name, &key);
  }
  for (const auto& [name, value] : map.entries()) {
    const auto key = known.find(name);
    if (key == known.end()) {
      Words names;
      for (const Key& each : keys) {
        if (each.kinds & bit) names.push_back(each.name);
      }
      map.only_keys(names);
    }
    check_value(value, *key->second);
  }
}

}  // namespace

std::string_view name_of(MeasuredKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

MeasuredKind check_measured_row(const YamlCursor& row) {
  const auto kind = static_cast<MeasuredKind>(row.at("kind").one_of({kKindNames.begin(), kKindNames.end()}));
  check_map(row, row_keys(), kind);
  check_map(row.at("hardware"), hardware_keys(), kind);
  row.at("hardware").at("gpu");
  check_map(row.at("workload"), workload_keys(), kind);
  check_map(row.at("measured"), measured_keys(), kind);
  if (const auto software = row.find("software")) check_map(*software, software_keys(), kind);
  if (const auto derived = row.find("derived")) check_map(*derived, derived_keys(), kind);
  if (const auto layout = row.find("layout")) {
    check_map(*layout, layout_keys(), kind);
    if (const auto overlap = layout->find("dp_overlap")) check_map(*overlap, dp_overlap_keys(), kind);
    for (const std::string_view side : {"prefill", "decode"}) {
      if (const auto workers = layout->find(side)) check_map(*workers, worker_keys(), kind);
    }
  }
  return kind;
}

}  // namespace shardwright
