#include "planner/validate/measured_kernels.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "tests/support/measured.h"

using namespace shardwright;

namespace {

/// A row of `kind` with this `hardware` and `workload`; `more` are further keys of the row.
MeasuredRow row_of(const std::string& kind, const std::string& hardware, const std::string& workload,
                   const std::string& more = "", const std::string& source = "paper") {
  const std::string text =
      "schema: shardwright.measured/1\n"
      "sources: {" +
      source +
      ": {title: A paper, ref: arXiv 1234.5678, trust: B}}\n"
      "models: {}\n"
      "rows:\n"
      "- {id: a, source: " +
      source + ", kind: " + kind + ", family: f, trust: A, hardware: {" + hardware + "}, workload: {" + workload +
      "}, measured: {time_seconds: 1}" + more + "}\n";
  return read_measured_rows(YamlCursor::parse(text, "rows.yaml")).rows.at(0);
}

/// "spec" of one kernel, "spec + spec" of two, or "none: reason".
std::string told(const MeasuredRow& row) {
  const auto answer = kernels_of(row);
  if (const auto* none = std::get_if<NoKernel>(&answer)) return "none: " + none->reason;
  std::string text;
  for (const MeasuredKernel& kernel : std::get<0>(answer)) text += (text.empty() ? "" : " + ") + to_string(kernel.spec);
  return text;
}

std::string kernel(const std::string& workload, const std::string& more = "", const std::string& source = "paper") {
  return told(row_of("kernel", "gpu: h100-sxm-80gb", workload, more, source));
}

std::string collective(const std::string& gpus, const std::string& workload, const std::string& more = "",
                       const std::string& source = "paper") {
  return told(row_of("collective", "gpu: h100-sxm-80gb, " + gpus, workload, more, source));
}

}  // namespace

TEST_CASE("kernel rows name their kernels") {
  CHECK(kernel("op: gemm, m: 1, n: 2, k: 3, dtype: fp8_block") == "gemm m=1 n=2 k=3 type=fp8 scaling=block");
  CHECK(kernel("op: grouped_gemm, groups: 4, m_per_group: 1, n: 2, k: 3, dtype: bf16") ==
        "grouped_gemm groups=4 m_per_group=1 n=2 k=3 type=bf16");
  CHECK(kernel("op: attention_prefill, batch: 2, heads: 8, kv_heads: 2, head_dim: 64, seq: 16, causal: true, dtype: "
               "bf16, kv_dtype: fp8") ==
        "attention batch=2 heads=8 kv_heads=2 query=16 head_dim=64 type=bf16 kv_type=fp8");
  CHECK(kernel("op: attention_fwd, batch: 2, heads: 8, head_dim: 64, seq: 16, causal: false, dtype: fp16") ==
        "attention batch=2 heads=8 query=16 head_dim=64 causal=false type=fp16");
  CHECK(kernel("op: attention_decode, batch: 2, heads: 8, kv_heads: 2, head_dim: 64, kv_len: 16, dtype: bf16, "
               "kv_dtype: bf16") ==
        "attention batch=2 heads=8 kv_heads=2 query=1 key=16 head_dim=64 causal=false type=bf16");
  CHECK(kernel("op: attention_decode, batch: 2, heads: 8, head_dim: 64, kv_len: 16, query_len: 2, dtype: bf16") ==
        "attention batch=2 heads=8 query=2 key=16 head_dim=64 type=bf16 queries_last=true");
  CHECK(kernel("op: mla_prefill, batch: 2, heads: 16, seq: 64, dtype: bf16, kv_dtype: fp8") ==
        "attention batch=2 heads=16 query=64 head_dim=192 value_dim=128 type=bf16 kv_type=fp8");
  CHECK(kernel("op: mla_decode, batch: 2, heads: 16, kv_len: 64, dtype: bf16") ==
        "attention batch=2 heads=16 kv_heads=1 query=1 key=64 head_dim=576 value_dim=512 values_in_keys=true "
        "causal=false type=bf16");
  CHECK(kernel("op: mla_decode_sparse, batch: 2, heads: 16, query_len: 2, topk_tokens: 64, dtype: bf16") ==
        "attention batch=2 heads=16 kv_heads=1 query=2 key=0 head_dim=576 value_dim=512 values_in_keys=true "
        "causal=false type=bf16 selected=64");
  CHECK(
      kernel("op: moe_ffn, tokens: 1, hidden_size: 2, intermediate_size: 3, n_routed_experts: 4, num_experts_per_tok: "
             "2, routing: power_law_1.2, dtype: nvfp4",
             ", layout: {ep: 4, etp: 2}") ==
      "moe_layer tokens=1 hidden_size=2 intermediate_size=3 n_routed_experts=4 num_experts_per_tok=2 ep=4 etp=2 "
      "routing=power_law_1.2 type=nvfp4");
}

TEST_CASE("the charts of FlashAttention-3 have that paper's batch and heads") {
  // 16384 / 512 sequences, 2048 / 64 heads.
  const std::string workload = "op: attention_fwd, dtype: fp16, head_dim: 64, seq: 512, causal: true";
  for (const char* source : {"paper", "fa3-charts-machine-read"})  // whoever says so
    CHECK(kernel(workload, "", source) == "attention batch=32 heads=32 query=512 head_dim=64 type=fp16");
  CHECK(kernel(workload + ", batch: 2") == "none: heads is not stated");
  CHECK(kernel(workload + ", heads: 2") == "none: batch is not stated");
}

TEST_CASE("collective rows name their collectives") {
  CHECK(collective("gpus: 8, gpus_per_node: 8", "op: all_reduce, message_bytes: 1024") ==
        "collective op=all_reduce bytes=1024 group=8");
  CHECK(collective("gpus: 16, gpus_per_node: 8", "op: all_gather, message_bytes: 1024, dtype: bf16") ==
        "collective op=all_gather bytes=1024 group=16 type=bf16");
  // The catalog's H100 has eight GPUs in a node.
  CHECK(collective("gpus: 2, gpus_per_node: 1", "op: send_recv, message_bytes: 8") ==
        "collective op=send_recv bytes=8 group=2x8");
  CHECK(collective("gpus: 8, gpus_per_node: 4", "op: reduce_scatter, message_bytes: 8") ==
        "collective op=reduce_scatter bytes=8 group=4:2x8");
  CHECK(collective("gpus: 8", "op: all_to_all, bytes_per_pair: 16, algorithm: lsa_simple") ==
        "collective op=all_to_all bytes=128 group=8 algorithm=lsa_simple");
  CHECK(collective("gpus: 8", "op: all_reduce, message_bytes: 16, algorithm: oneshot multicast") ==
        "collective op=all_reduce bytes=16 group=8 algorithm=one_shot_multicast");
}

TEST_CASE("rows about experts' exchange name dispatch, combine or both") {
  const std::string sizes = "mode: low_latency, tokens_per_gpu: 4, hidden_size: 16, num_experts_per_tok: 2";
  CHECK(collective("gpus: 8", "op: moe_dispatch, dtype: fp8, top_groups: 4, sms: 20, n_routed_experts: 64, " + sizes) ==
        "moe_exchange op=dispatch mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 n_routed_experts=64 "
        "top_groups=4 sms=20 group=8 type=fp8");
  CHECK(collective("gpus: 8", "op: moe_combine, " + sizes, ", software: {framework: NCCL EP 2.29}") ==
        "moe_exchange op=combine mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 group=8 "
        "backend=nccl_ep");
  CHECK(collective("gpus: 8", "op: moe_dispatch, bandwidth_definition: algorithm, " + sizes) ==
        "moe_exchange op=dispatch mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 group=8 "
        "backend=hybrid_ep");
  CHECK(collective("gpus: 8", "op: moe_dispatch, bandwidth_definition: algorithm, " + sizes,
                   ", software: {variant: b200-deepep-v1}") ==
        "moe_exchange op=dispatch mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 group=8");
  const auto both = kernels_of(row_of("collective", "gpu: unknown, gpus: 8", "op: moe_dispatch_combine, " + sizes));
  REQUIRE(std::get<0>(both).size() == 2);
  CHECK(to_string(std::get<0>(both)[0].spec) ==
        "moe_exchange op=dispatch mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 group=8");
  CHECK(std::get<0>(both)[0].seconds_key == "dispatch_seconds");
  CHECK(to_string(std::get<0>(both)[1].spec) ==
        "moe_exchange op=combine mode=low_latency tokens=4 hidden_size=16 num_experts_per_tok=2 group=8");
  CHECK(std::get<0>(both)[1].seconds_key == "combine_seconds");
}

TEST_CASE("a row that names no kernel says why") {
  CHECK(kernel("op: gemm, m: 1, n: 2, dtype: bf16") == "none: k is not stated");
  CHECK(kernel("op: gemm, m: 1, n: 2, k: 3") == "none: dtype is not stated");
  CHECK(kernel("op: gemm, m: 1, n: 2, k: 3, dtype: q4") == "none: unknown dtype 'q4'");
  CHECK(kernel("op: gemm, m: 1, n: 2, k: 3, dtype: bf16, kv_dtype: q4") == "none: unknown kv_dtype 'q4'");
  CHECK(kernel("op: rmsnorm_fwd, calls: 32, hidden_size: 7168") == "none: many calls, whose sizes are not stated");
  CHECK(kernel("op: frobnicate, dtype: bf16") == "none: unknown op 'frobnicate'");
  CHECK(kernel("op: mla_decode_dense, dtype: bf16") == "none: batch is not stated");
  CHECK(
      kernel("op: moe_ffn, tokens: 1, hidden_size: 2, intermediate_size: 3, n_routed_experts: 4, num_experts_per_tok: "
             "2, routing: zipf, dtype: fp8") == "none: routing 'zipf' is neither balanced nor a power law");
  CHECK(collective("gpus: 8", "op: all_reduce") == "none: message_bytes is not stated");
  CHECK(collective("gpus: 8", "op: rdma_write") == "none: message_bytes is not stated");
  CHECK(collective("nodes: 1", "op: all_reduce, message_bytes: 8") == "none: gpus is not stated");
  CHECK(collective("gpus: 9, gpus_per_node: 8", "op: all_reduce, message_bytes: 8") == "none: nodes of unequal size");
  CHECK(collective("gpus: 32, gpus_per_node: 16", "op: all_reduce, message_bytes: 8") ==
        "none: the catalog's h100-sxm-80gb has 8 GPUs in a node");
  CHECK(collective("gpus: 8", "op: all_reduce, message_bytes: 8, algorithm: magic") ==
        "none: unknown algorithm 'magic'");
  CHECK(collective("gpus: 8", "op: moe_dispatch, tokens_per_gpu: 1, hidden_size: 2, num_experts_per_tok: 3") ==
        "none: mode is not stated");
  CHECK(told(row_of("collective", "gpu: unknown, gpus: 16, gpus_per_node: 8", "op: all_reduce, message_bytes: 8")) ==
        "none: the catalog has no unknown");
  MeasuredRow training;
  CHECK(told(training) == "none: no row about a kernel");
}

TEST_CASE("every published row names a kernel whose text reads back, or is one of few that cannot") {
  const auto folder = measured_folder();
  if (!folder) return;
  std::map<std::string, int> reasons;
  int named = 0;
  for (const char* file : {"kernels.yaml", "collectives.yaml"}) {
    const auto path = (*folder / file).string();
    for (const MeasuredRow& row : read_measured_rows(YamlCursor::open(path)).rows) {
      const auto answer = kernels_of(row);
      if (const auto* none = std::get_if<NoKernel>(&answer)) {
        ++reasons[none->reason];
        continue;
      }
      ++named;
      for (const MeasuredKernel& kernel : std::get<0>(answer)) {
        const std::string text = to_string(kernel.spec);
        REQUIRE(to_string(parse_kernel_spec(text, row.id)) == text);
        REQUIRE(parse_kernel_spec(text, row.id) == kernel.spec);
      }
    }
  }
  for (const auto& [reason, count] : reasons) MESSAGE(count << " rows: " << reason);
  MESSAGE(named << " rows name kernels");
  CHECK(named > 3000);
  int left = 0;
  for (const auto& [reason, count] : reasons) left += count;
  CHECK(left < 60);
}
