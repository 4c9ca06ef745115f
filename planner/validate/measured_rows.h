#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hardware/data_type.h"
#include "hardware/yaml_cursor.h"
#include "models/model.h"
#include "planner/layout.h"
#include "planner/pipeline/pipeline_layout.h"
#include "planner/validate/measured_schema.h"

namespace shardwright {

/// Files of schema `shardwright.measured/1`: training steps, serving rates, collectives and kernels that others
/// measured and published, one row each. They judge predictions. **An absent key means unknown**: hence the optionals.
/// Units are those of the key names; without one: seconds, bytes, tokens per second; fractions are between 0 and 1.

struct MeasuredSource {
  std::string name, title, ref, trust, licence;
};

struct MeasuredHardware {
  std::string gpu;  // canonical name: "h100-sxm-80gb"; "unknown"
  std::optional<std::int64_t> gpus, gpus_per_node, nodes, nvlink_domain;
  std::string interconnect;  // as printed
};

/// A training row's layout: in `pins` what a Layout can say, beside it what it cannot say, or not in the same words.
struct MeasuredLayout {
  LayoutPins pins;  // layers_per_stage is chunk by chunk where there is a pipeline_layout
  std::optional<int> ep, etp, micro_batches, local_batch;
  std::optional<std::int64_t> optimizer_shard_group, replicas, recompute_layers, activation_offload_layers;
  std::optional<std::int64_t> dispatcher_sms;
  std::string schedule;   // as written, also where pins.schedule cannot say it ("zb-1p", "dualpipe")
  std::string recompute;  // "none", "selective", "full"
  std::vector<std::string> recompute_modules;  // as written; pins.recompute is absent where a Recompute cannot say them
  std::string pipeline_layout;                 // as written
  std::vector<PipelineChunk> chunks;
  std::string strategy, dispatcher;
  std::vector<std::string> activation_offload_modules;
  std::optional<std::vector<std::string>> cuda_graphs;  // what is captured; present and empty: nothing
  std::optional<double> optimizer_offload_fraction;
  std::optional<bool> tp_overlap, p2p_overlap, ep_overlap, delay_wgrad, shared_expert_overlap;
  std::optional<bool> grad_reduce_overlap, param_gather_overlap, param_gather_with_optimizer;  // dp_overlap
};

/// A training row's workload.
struct MeasuredWorkload {
  std::optional<std::int64_t> sequence_length, global_batch, total_tokens, parameters_printed, lora_rank;
  std::optional<DataType> precision;
  std::optional<DataType> parameter_dtype, parameter_gather_dtype, gradient_dtype, main_param_dtype,
      optimizer_state_dtype;
  std::string scaling, reduce_precision, task, optimizer, cross_entropy_fusion, attention_backend, routing;
  std::optional<double> capacity_factor;
  std::vector<std::string> lora_targets;
};

/// The workload of a row about a kernel or a collective, under the schema's keys. Strings are empty where nothing is
/// said.
struct MeasuredKernelWorkload {
  std::string op, dtype, kv_dtype, algorithm, mode, routing, bandwidth_definition;
  std::optional<std::int64_t> m, n, k, groups, m_per_group;
  std::optional<std::int64_t> batch, heads, kv_heads, head_dim, seq, kv_len, query_len, topk_tokens;
  std::optional<std::int64_t> tokens, hidden_size, intermediate_size, n_routed_experts, num_experts_per_tok, calls;
  std::optional<std::int64_t> message_bytes, bytes_per_pair, tokens_per_gpu, top_groups, sms;
  std::optional<bool> causal;
};

/// A pool of a disaggregated serving row: so many workers, each with these degrees.
struct MeasuredPool {
  int workers = 1, tp = 1, pp = 1, attention_dp = 1;
  std::optional<int> ep, etp, batch;
};

/// An inference row's layout and workload, under the schema's keys.
struct MeasuredServing {
  bool has_layout = false;
  std::optional<int> tp, pp, attention_dp, ep, etp, dp;
  std::optional<MeasuredPool> prefill, decode;  // of a disaggregated row
  std::string phase, quant, moe_quant, kv_dtype;
  std::optional<std::int64_t> isl, osl, concurrency, batch, batch_per_gpu, kv_tokens_mean;
};

struct MeasuredSoftware {
  std::string framework, version, kernel, variant, submitter, measured_on;
  std::optional<bool> compile;
};

/// What was published.
struct MeasuredResults {
  std::vector<std::pair<std::string, double>> numbers;  // in file order: {"iteration_seconds", 12.3}, ...
  std::vector<double> peak_memory_gib_by_stage;
  bool oom = false;
  std::string memory_unit;  // "gib", "converted-from-gb", "unstated": may be 7 % off
  std::string flop_convention;

  std::optional<double> find(std::string_view name) const;
};

struct MeasuredRow {
  std::string id, source, trust, family, note;
  MeasuredKind kind = MeasuredKind::training;
  bool suspect = false;              // must not be scored
  std::vector<std::string> assumed;  // keys of this row that its source does not state
  MeasuredHardware hardware;
  std::optional<Model> model;  // arch with its overrides applied
  std::string arch;
  MeasuredSoftware software;
  MeasuredResults measured;
  MeasuredLayout layout;          // of training rows; of kernel rows its ep and etp
  MeasuredWorkload workload;      // of training rows
  MeasuredKernelWorkload kernel;  // of kernel and collective rows
  MeasuredServing serving;        // of inference rows
};

struct MeasuredFile {
  std::vector<MeasuredSource> sources;
  std::vector<MeasuredRow> rows;
};

/// Reads and checks a whole file. Throws InputError: an unknown key or word, a wrong type, a number out of its range, a
/// name that is not among sources or models, an id given twice, two kinds in one file, degrees that do not multiply to
/// `gpus`, a pipeline layout with other chunks or layers than the row says.
MeasuredFile read_measured_rows(const YamlCursor& top);

}  // namespace shardwright
