#include "planner/validate/measured_rows.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/support/measured.h"

using namespace shardwright;

namespace {

const std::string kHead =
    "schema: shardwright.measured/1\n"
    "sources:\n"
    "  paper: {title: A paper, ref: arXiv 1234.5678, trust: B, licence: MIT}\n"
    "models:\n"
    "  tiny: {num_hidden_layers: 8, hidden_size: 64, num_attention_heads: 8, num_key_value_heads: 2, head_dim: 8,\n"
    "    intermediate_size: 96, vocab_size: 100, gated_mlp: true, tie_word_embeddings: false, position: rope,\n"
    "    norm: rmsnorm, parameters: 12345, assumed: [vocab_size], note: small}\n"
    "rows:\n";

/// A row with no more than it must have, in lines 9 and 10 of a file; `more` is its line 11.
std::string training_row(const std::string& more = "") {
  return "- {id: a, source: paper, kind: training, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8},\n"
         "   workload: {sequence_length: 2048}, measured: {iteration_seconds: 1.5}" +
         (more.empty() ? "" : ",\n   " + more) + "}\n";
}

MeasuredFile read(const std::string& text) { return read_measured_rows(YamlCursor::parse(text, "rows.yaml")); }

std::string fault_of(const std::string& text) {
  try {
    read(text);
  } catch (const InputError& error) { return error.what(); }
  return "no fault";
}

std::string replaced(std::string text, const std::string& old, const std::string& with) {
  const std::size_t at = text.find(old);
  REQUIRE(at != std::string::npos);
  return text.replace(at, old.size(), with);
}

}  // namespace

TEST_CASE("a training row is read completely") {
  const MeasuredFile file = read(
      kHead +
      "- {id: a, source: paper, kind: training, arch: tiny, overrides: {num_hidden_layers: 4}, family: f, trust: A,\n"
      "   suspect: true, assumed: [zero], note: a note,\n"
      "   hardware: {gpu: gb200-nvl72, gpus: 64, gpus_per_node: 4, nodes: 16, nvlink_domain: 72, interconnect: "
      "NVLink},\n"
      "   layout: {tp: 2, pp: 2, vpp: 2, cp: 2, ep: 4, etp: 1, dp: 8, zero: 1, fsdp_group: 16, replicas: 2,\n"
      "     optimizer_shard_group: 8, sequence_parallel: true, schedule: interleaved, recompute: selective,\n"
      "     recompute_modules: [mlp, core_attn], pipeline_layout: Et|t*2||tL, rank_order: tp-cp-pp-dp,\n"
      "     activation_offload_layers: 3, activation_offload_modules: [moe_act], cuda_graphs: [], micro_batch: 1,\n"
      "     micro_batches: 16, local_batch: 16, dispatcher: deepep, dispatcher_sms: 32, optimizer_offload_fraction: "
      "0.5,\n"
      "     strategy: Folding, tp_overlap: true, dp_overlap: {grad_reduce: true, param_gather: false}, p2p_overlap: "
      "true,\n"
      "     ep_overlap: false, delay_wgrad: true, shared_expert_overlap: true},\n"
      "   workload: {sequence_length: 4096, global_batch: 128, precision: fp8, scaling: current, parameter_dtype: "
      "bf16,\n"
      "     parameter_gather_dtype: fp8, gradient_dtype: fp32, main_param_dtype: fp32, optimizer_state_dtype: bf16,\n"
      "     optimizer: adam, cross_entropy_fusion: te, attention_backend: cudnn, capacity_factor: 1.0, routing: "
      "balanced,\n"
      "     task: lora, lora_rank: 16, lora_targets: [linear_qkv], reduce_precision: low, total_tokens: 300000000000,\n"
      "     parameters_printed: 12864440320},\n"
      "   software: {framework: Megatron, version: 0.17, kernel: fa2, compile: true, measured_on: 2025-10-29},\n"
      "   measured: {iteration_seconds: 12.27, mfu: 0.41, oom: true, memory_unit: gib, flop_convention: unstated,\n"
      "     peak_memory_gib_by_stage: [31.5, 44.7]},\n"
      "   derived: {tokens_per_second_per_gpu: 667.6}}\n");
  REQUIRE(file.sources.size() == 1);
  CHECK(file.sources[0].name == "paper");
  CHECK(file.sources[0].title == "A paper");
  CHECK(file.sources[0].ref == "arXiv 1234.5678");
  CHECK(file.sources[0].trust == "B");
  CHECK(file.sources[0].licence == "MIT");

  REQUIRE(file.rows.size() == 1);
  const MeasuredRow& row = file.rows[0];
  CHECK(row.id == "a");
  CHECK(row.source == "paper");
  CHECK(row.kind == MeasuredKind::training);
  CHECK(row.trust == "A");
  CHECK(row.family == "f");
  CHECK(row.note == "a note");
  CHECK(row.suspect);
  CHECK(row.assumed == std::vector<std::string>{"zero"});
  CHECK(row.arch == "tiny");
  REQUIRE(row.model.has_value());
  CHECK(row.model->name == "tiny");
  CHECK(row.model->num_hidden_layers == 4);
  CHECK(row.model->hidden_size == 64);

  CHECK(row.hardware.gpu == "gb200-nvl72");
  CHECK(row.hardware.gpus == 64);
  CHECK(row.hardware.gpus_per_node == 4);
  CHECK(row.hardware.nodes == 16);
  CHECK(row.hardware.nvlink_domain == 72);
  CHECK(row.hardware.interconnect == "NVLink");

  const MeasuredLayout& layout = row.layout;
  CHECK(layout.pins.tp == 2);
  CHECK(layout.pins.pp == 2);
  CHECK(layout.pins.vpp == 2);
  CHECK(layout.pins.cp == 2);
  CHECK(layout.pins.dp == 8);
  CHECK(layout.pins.sequence_parallel == true);
  CHECK(layout.pins.zero == 1);
  CHECK(layout.pins.fsdp_group == 16);
  CHECK(layout.pins.recompute == Recompute{.full = false, .modules = 0b101});
  CHECK(layout.pins.micro_batch == 1);
  CHECK(layout.pins.schedule == Schedule::interleaved);
  CHECK(layout.pins.rank_order == RankOrder::tp_cp_pp_dp);
  CHECK(layout.pins.layers_per_stage == std::vector<int>{1, 2, 0, 1});
  CHECK(layout.ep == 4);
  CHECK(layout.etp == 1);
  CHECK(layout.micro_batches == 16);
  CHECK(layout.local_batch == 16);
  CHECK(layout.optimizer_shard_group == 8);
  CHECK(layout.replicas == 2);
  CHECK(layout.activation_offload_layers == 3);
  CHECK(layout.activation_offload_modules == std::vector<std::string>{"moe_act"});
  CHECK(layout.dispatcher == "deepep");
  CHECK(layout.dispatcher_sms == 32);
  CHECK(layout.schedule == "interleaved");
  CHECK(layout.recompute == "selective");
  CHECK(layout.recompute_modules == std::vector<std::string>{"mlp", "core_attn"});
  CHECK(layout.pipeline_layout == "Et|t*2||tL");
  CHECK(layout.strategy == "Folding");
  CHECK(layout.cuda_graphs == std::vector<std::string>{});
  CHECK(layout.optimizer_offload_fraction == 0.5);
  CHECK(layout.tp_overlap == true);
  CHECK(layout.grad_reduce_overlap == true);
  CHECK(layout.param_gather_overlap == false);
  CHECK(layout.param_gather_with_optimizer == std::nullopt);
  CHECK(layout.p2p_overlap == true);
  CHECK(layout.ep_overlap == false);
  CHECK(layout.delay_wgrad == true);
  CHECK(layout.shared_expert_overlap == true);

  const MeasuredWorkload& workload = row.workload;
  CHECK(workload.sequence_length == 4096);
  CHECK(workload.global_batch == 128);
  CHECK(workload.precision == DataType::fp8);
  CHECK(workload.scaling == "current");
  CHECK(workload.parameter_dtype == DataType::bf16);
  CHECK(workload.parameter_gather_dtype == DataType::fp8);
  CHECK(workload.gradient_dtype == DataType::fp32);
  CHECK(workload.main_param_dtype == DataType::fp32);
  CHECK(workload.optimizer_state_dtype == DataType::bf16);
  CHECK(workload.optimizer == "adam");
  CHECK(workload.cross_entropy_fusion == "te");
  CHECK(workload.attention_backend == "cudnn");
  CHECK(workload.capacity_factor == 1.0);
  CHECK(workload.routing == "balanced");
  CHECK(workload.task == "lora");
  CHECK(workload.lora_rank == 16);
  CHECK(workload.lora_targets == std::vector<std::string>{"linear_qkv"});
  CHECK(workload.reduce_precision == "low");
  CHECK(workload.total_tokens == 300'000'000'000);
  CHECK(workload.parameters_printed == 12'864'440'320);

  CHECK(row.software.framework == "Megatron");
  CHECK(row.software.version == "0.17");
  CHECK(row.software.kernel == "fa2");
  CHECK(row.software.compile == true);
  CHECK(row.software.measured_on == "2025-10-29");

  CHECK(row.measured.numbers ==
        std::vector<std::pair<std::string, double>>{{"iteration_seconds", 12.27}, {"mfu", 0.41}});
  CHECK(row.measured.find("mfu") == 0.41);
  CHECK(row.measured.find("hfu") == std::nullopt);
  CHECK(row.measured.oom);
  CHECK(row.measured.memory_unit == "gib");
  CHECK(row.measured.flop_convention == "unstated");
  CHECK(row.measured.peak_memory_gib_by_stage == std::vector<double>{31.5, 44.7});
}

TEST_CASE("what a row does not state stays absent") {
  const MeasuredRow row = read(kHead + training_row()).rows.at(0);
  CHECK_FALSE(row.model.has_value());
  CHECK_FALSE(row.suspect);
  CHECK_FALSE(row.layout.pins.tp.has_value());
  CHECK_FALSE(row.layout.pins.recompute.has_value());
  CHECK_FALSE(row.layout.cuda_graphs.has_value());
  CHECK_FALSE(row.workload.global_batch.has_value());
  CHECK_FALSE(row.software.compile.has_value());
  CHECK_FALSE(row.measured.oom);
}

TEST_CASE("recompute is pinned where a layout can say it") {
  const auto pinned = [](const std::string& keys) {
    return read(kHead + training_row("layout: {" + keys + "}")).rows.at(0).layout.pins.recompute;
  };
  CHECK(pinned("recompute: none") == Recompute{});
  CHECK(pinned("recompute: full") == Recompute{.full = true, .modules = 0});
  CHECK(pinned("recompute: full, recompute_layers: 2") == std::nullopt);
  CHECK(pinned("recompute: selective") == Recompute{.full = false, .modules = 0b001});
  CHECK(pinned("recompute_modules: [layernorm]") == Recompute{.full = false, .modules = 0b010});
  CHECK(pinned("recompute: selective, recompute_modules: [layernorm, moe_act]") ==
        Recompute{.full = false, .modules = 0b100010});
  CHECK(pinned("recompute: selective, recompute_modules: [layernorm, all_but_qkv_proj]") == std::nullopt);
  CHECK(pinned("tp: 1") == std::nullopt);
}

TEST_CASE("schedules and overlaps are pinned as they are stated") {
  const MeasuredLayout layout = read(kHead + training_row("layout: {schedule: zb-2p, tp_overlap: true, ep_overlap: "
                                                          "false, dp_overlap: {grad_reduce: true}}"))
                                    .rows.at(0)
                                    .layout;
  CHECK(layout.schedule == "zb-2p");
  CHECK(layout.pins.schedule == Schedule::zb_2p);
  CHECK(to_string(layout.pins.overlap_on) == "tp+grad_reduce");
  CHECK(to_string(layout.pins.overlap_off) == "ep");
}

TEST_CASE("rows of the other kinds are checked and named") {
  const MeasuredFile serving = read(
      kHead +
      "- {id: s, source: paper, kind: inference, arch: tiny, family: f, trust: C, hardware: {gpu: h200-sxm-141gb},\n"
      "   layout: {tp: 2, attention_dp: 1, serving: disaggregated, prefill: {workers: 2, tp: 4, batch: 1},\n"
      "     decode: {workers: 1, tp: 8, ep: 8, etp: 1, attention_dp: 8, pp: 1}},\n"
      "   workload: {model_label: Tiny, isl: 128, osl: 64, concurrency: 8, phase: mixed, quant: fp8},\n"
      "   measured: {ttft_seconds: 0.5, tpot_median_seconds: 0.01, output_tokens_per_second_per_gpu: 100}}\n");
  REQUIRE(serving.rows.size() == 1);
  CHECK(serving.rows[0].kind == MeasuredKind::inference);
  CHECK(serving.rows[0].trust == "C");
  CHECK(serving.rows[0].model->num_hidden_layers == 8);

  const MeasuredFile collectives =
      read(kHead +
           "- {id: c, source: paper, kind: collective, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8},\n"
           "   workload: {op: all_reduce, message_bytes: 1024}, measured: {time_seconds: 1e-5}, suspect: true}\n");
  REQUIRE(collectives.rows.size() == 1);
  CHECK(collectives.rows[0].kind == MeasuredKind::collective);
  CHECK(collectives.rows[0].suspect);

  const MeasuredFile kernels = read(
      kHead +
      "- {id: k, source: paper, kind: kernel, family: f, trust: A, hardware: {gpu: h100-sxm-80gb},\n"
      "   workload: {op: gemm, m: 1, n: 2, k: 3, dtype: fp8_block, routing: power_law_1.2}, measured: {tflops: 0.5},\n"
      "   derived: {tflops_causal: 0.25}}\n");
  REQUIRE(kernels.rows.size() == 1);
  CHECK(kernels.rows[0].kind == MeasuredKind::kernel);
}

TEST_CASE("a file of another schema, or of none, is refused") {
  CHECK(fault_of("rows: []\n") == "rows.yaml:1:1: 'schema' is missing\nrows: []\n^");
  CHECK(fault_of("schema: shardwright.measured/2\n") ==
        "rows.yaml:1:9: 'schema' must be one of shardwright.measured/1, got 'shardwright.measured/2' (did you mean "
        "'shardwright.measured/1'?)\nschema: shardwright.measured/2\n        ^");
  CHECK(fault_of("schema: shardwright.measured/1\nrow: []\n") ==
        "rows.yaml:2:1: unknown key 'row' (did you mean 'rows'?)\nrow: []\n^");
  CHECK(fault_of("[1, 2]\n") == "rows.yaml:1:1: the file must be a map, got a list\n[1, 2]\n^");
}

TEST_CASE("unknown keys and words of a row are refused with a suggestion") {
  CHECK(fault_of(kHead + training_row("sofware: {}")) ==
        "rows.yaml:11:4: unknown key 'sofware' (did you mean 'software'?)\n"
        "   sofware: {}}\n"
        "   ^");
  CHECK(fault_of(kHead + training_row("layout: {tpp: 2}")) ==
        "rows.yaml:11:13: unknown key 'tpp' (did you mean 'tp'?)\n"
        "   layout: {tpp: 2}}\n"
        "            ^");
  CHECK(fault_of(kHead + training_row("layout: {dp_overlap: {gather: true}}")) ==
        "rows.yaml:11:26: unknown key 'gather'\n"
        "   layout: {dp_overlap: {gather: true}}}\n"
        "                         ^");
  // A key of serving rows is none of training rows.
  CHECK(fault_of(kHead + replaced(training_row(), "sequence_length", "isl")) ==
        "rows.yaml:10:15: unknown key 'isl'\n"
        "   workload: {isl: 2048}, measured: {iteration_seconds: 1.5}}\n"
        "              ^");
  CHECK(fault_of(kHead + replaced(training_row(), "h100-sxm-80gb", "unknwon")) ==
        "rows.yaml:9:79: 'rows[0].hardware.gpu' must be one of a100-sxm-40gb, a100-sxm-80gb, a100-pcie-80gb, "
        "a800-sxm-80gb, h100-sxm-80gb, h100-96gb-hbm2e, h100-nvl-94gb, h200-sxm-141gb, h200-nvl-141gb, h800-sxm-80gb, "
        "b200-sxm-192gb, b300-sxm-288gb, gb200-nvl72, gb300-nvl72, gh200-96gb, gh200-144gb, l40s-48gb, "
        "rtx-pro-6000-96gb, mi300x-192gb, mi325x-256gb, mi355x-288gb, gaudi2-96gb, gaudi3-128gb, unknown, got "
        "'unknwon' (did you mean 'unknown'?)\n"
        "- {id: a, source: paper, kind: training, family: f, trust: A, hardware: {gpu: unknwon, gpus: 8},\n"
        "                                                                              ^");
  CHECK(fault_of(kHead + replaced(training_row(), "kind: training", "kind: trainin")) ==
        "rows.yaml:9:32: 'rows[0].kind' must be one of training, inference, collective, kernel, got 'trainin' (did you "
        "mean 'training'?)\n"
        "- {id: a, source: paper, kind: trainin, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8}...\n"
        "                               ^");
}

TEST_CASE("names of a row must exist and ids are unique") {
  CHECK(fault_of(kHead + training_row("arch: tyny")) ==
        "rows.yaml:11:10: 'rows[0].arch' is not among the file's models (did you mean 'tiny'?)\n"
        "   arch: tyny}\n"
        "         ^");
  CHECK(fault_of(kHead + training_row("overrides: {num_hidden_layers: 2}")) ==
        "rows.yaml:11:4: 'rows[0].overrides' needs 'arch'\n"
        "   overrides: {num_hidden_layers: 2}}\n"
        "   ^");
  CHECK(fault_of(kHead + replaced(training_row(), "source: paper", "source: papr")) ==
        "rows.yaml:9:19: 'rows[0].source' is not among the file's sources (did you mean 'paper'?)\n"
        "- {id: a, source: papr, kind: training, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8}...\n"
        "                  ^");
  CHECK(fault_of(kHead + training_row() + training_row()) ==
        "rows.yaml:11:8: 'rows[1].id' is the id of rows[0] already\n"
        "- {id: a, source: paper, kind: training, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8...\n"
        "       ^");
  CHECK(fault_of(
            kHead + training_row() +
            "- {id: c, source: paper, kind: collective, family: f, trust: A, hardware: {gpu: unknown}, workload: {},\n"
            "   measured: {}}\n") ==
        "rows.yaml:11:32: 'rows[1].kind' is collective, but the file's first row is training: a file holds one kind\n"
        "- {id: c, source: paper, kind: collective, family: f, trust: A, hardware: {gpu: unknown}, workload: ...\n"
        "                               ^");
}

TEST_CASE("values of a row have their type and range") {
  CHECK(fault_of(kHead + training_row("layout: {tp: 0}")) ==
        "rows.yaml:11:17: 'rows[0].layout.tp' must be between 1 and 16777216, got 0\n"
        "   layout: {tp: 0}}\n"
        "                ^");
  CHECK(fault_of(kHead + training_row("layout: {zero: 4}")) ==
        "rows.yaml:11:19: 'rows[0].layout.zero' must be between 0 and 3, got 4\n"
        "   layout: {zero: 4}}\n"
        "                  ^");
  CHECK(fault_of(kHead + replaced(training_row(), "iteration_seconds: 1.5", "mfu: 41")) ==
        "rows.yaml:10:55: 'rows[0].measured.mfu' must be between 0 and 1, got 41\n"
        "   workload: {sequence_length: 2048}, measured: {mfu: 41}}\n"
        "                                                      ^");
  CHECK(fault_of(kHead + training_row("suspect: maybe")) ==
        "rows.yaml:11:13: 'rows[0].suspect' must be true or false, got 'maybe'\n"
        "   suspect: maybe}\n"
        "            ^");
  CHECK(fault_of(kHead + training_row("assumed: zero")) ==
        "rows.yaml:11:13: 'rows[0].assumed' must be a list, got 'zero'\n"
        "   assumed: zero}\n"
        "            ^");
  CHECK(fault_of(kHead + replaced(training_row(), "id: a, ", "")) ==
        "rows.yaml:9:3: 'rows[0].id' is missing\n"
        "- {source: paper, kind: training, family: f, trust: A, hardware: {gpu: h100-sxm-80gb, gpus: 8},\n"
        "  ^");
}

TEST_CASE("a layout must fit its row") {
  CHECK(fault_of(kHead + training_row("layout: {tp: 2, pp: 2, dp: 4}")) ==
        "rows.yaml:11:12: 'rows[0].layout' has tp 2 x pp 2 x cp 1 x dp 4 = 16, not the 8 gpus of the hardware\n"
        "   layout: {tp: 2, pp: 2, dp: 4}}\n"
        "           ^");
  CHECK(fault_of(kHead + training_row("layout: {tp: 2, pp: 2, dp: 2}")) == "no fault");
  CHECK(fault_of(kHead + training_row("layout: {pp: 2, pipeline_layout: EtL}")) ==
        "rows.yaml:11:37: 'rows[0].layout.pipeline_layout' must have pp 2 x vpp 1 = 2 chunks, has 1\n"
        "   layout: {pp: 2, pipeline_layout: EtL}}\n"
        "                                    ^");
  CHECK(fault_of(kHead + training_row("arch: tiny, layout: {pp: 2, pipeline_layout: Et|tL}")) ==
        "rows.yaml:11:49: 'rows[0].layout.pipeline_layout' must have the model's 8 layers, has 2\n"
        "   arch: tiny, layout: {pp: 2, pipeline_layout: Et|tL}}\n"
        "                                                ^");
  CHECK(fault_of(kHead + training_row("layout: {pipeline_layout: Ex|tL}")) ==
        "rows.yaml:11:30: 'rows[0].layout.pipeline_layout' has 'x', which is none of E t m L | ( ) *, at character 2\n"
        "   layout: {pipeline_layout: Ex|tL}}\n"
        "                             ^");
}

TEST_CASE("the published measurements are read without a fault") {
  const auto folder = measured_folder();
  if (!folder) return;
  for (const std::string name : {"training", "inference", "collectives", "kernels"}) {
    CAPTURE(name);
    MeasuredFile file;
    CHECK_NOTHROW(file = read_measured_rows(YamlCursor::open(folder->string() + "/" + name + ".yaml")));
    CHECK(file.rows.size() > 1000);
  }
}
