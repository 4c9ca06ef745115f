#include "planner/engine/engine.h"

#include <doctest/doctest.h>

#include <fstream>

#include "planner/validate/validate.h"
#include "tests/support/message_of.h"
#include "tests/support/round_machine.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

using doctest::Approx;

const char* const kSmall = R"(name: small
description: one
frameworks: [{name: Small}]
tensor_parallel: false
etp: tp
overlaps: [grad_reduce, p2p]
default_overlaps: [p2p]
schedules: [1f1b]
cp_kinds: []
dispatchers: [alltoall]
host_row_counts: []
zero: [0, 2]
gradients:
  bf16: {gradient: fp32, gradient_reduce: bf16}
  fp8: {gradient: bf16, gradient_reduce: fp32, optimizer_state: bf16}
fp8_scaling: block
attention: flash1
stage_split: modules
scatters_sends: true
fused_optimizer: false
adds_gradients: false
merges_products: attention
collects_by_layer: true
sums_beside_weight_gradients: false
shards_in_lists: true
reduces_once_in_pipelines: true
)";

Engine read(const std::string& text) { return read_engine(YamlCursor::parse(text, "small.yaml")).at(0); }

/// The complaint, without the line and the caret below it, where `line` begins what is wrong in kSmall.
std::string fault(const std::string& line, const std::string& instead) {
  std::string text = kSmall;
  const std::size_t begin = text.find(line);
  REQUIRE(begin != std::string::npos);
  text.replace(begin, text.find('\n', begin) - begin, instead);
  const std::string message = message_of([&] { read(text); });
  return message.substr(0, message.find('\n'));
}

LayoutPins pins(const char* text) { return parse_layout(text, "--layout"); }

}  // namespace

TEST_CASE("two engines of one name are refused, and a name that is not the file's") {
  const std::string other = std::string(kSmall).replace(0, 11, "name: other");
  const CatalogFile small{"small", "small.yaml", kSmall}, again{"small", "again.yaml", kSmall};
  CHECK(read_engines({small, {"other", "other.yaml", other}}).size() == 2);
  CHECK(message_of([&] { read_engines({small, again}); }) == "again.yaml: there is another engine small");
  CHECK(message_of([&] {
          read_engines({{"large", "large.yaml", kSmall}});
        }) == "large.yaml:1:7: 'name' must be the file's, large\nname: small\n      ^");
}

TEST_CASE("generic is what an engine is that nobody described") {
  Engine generic = find_engine("generic", "--engine");
  generic.description.clear();
  generic.constants = {};
  generic.errors = {};
  CHECK(generic == Engine{});
}

TEST_CASE("the software of a row names its engine by the longest match") {
  const auto name = [](const char* framework, const char* version = "", const char* kernel = "",
                       const char* architecture = "ampere") {
    return engine_of({framework, version, kernel, architecture}).name;
  };
  CHECK(name("Megatron-Core", "r0.8.0") == "megatron-core");
  CHECK(name("Megatron-Bridge", "NeMo container 26.04") == "megatron-bridge");
  CHECK(name("NeMo") == "nemo");
  CHECK(name("NeMo", "25.04rc2") == "nemo");
  CHECK(name("NeMo", "24.03.01") == "nemo-2024");
  CHECK(name("Megatron-LM/NeMo") == "megatron-core");
  CHECK(name("Megatron-LM 0.14") == "megatron-core");
  CHECK(name("Megatron-LM", "0.14") == "megatron-core");
  CHECK(name("Megatron-LM", "@23e00ed0, TE 2.11, torch 2.10") == "megatron-core");
  CHECK(name("Megatron-LM") == "megatron-lm");
  CHECK(name("Megatron-LM", "", "", "hopper") == "megatron-lm-hopper");
  CHECK(name("Megatron-LM", "0.14", "", "hopper") == "megatron-core");
  CHECK(name("Megatron-LM", "", "", "") == "megatron-lm");
  CHECK(name("Megatron-LM + zero-bubble") == "megatron-lm");
  CHECK(name("Megatron-LM + DeepSpeed ZeRO-3") == "megatron-deepspeed");
  CHECK(name("Megatron-DeepSpeed") == "megatron-deepspeed");
  CHECK(name("GPT-NeoX (Megatron-DeepSpeed)") == "megatron-deepspeed");
  CHECK(name("DeepSpeed + Megatron") == "megatron-deepspeed");
  CHECK(name("DeepSpeed ZeRO-3") == "deepspeed");
  CHECK(name("llm-foundry/Composer FSDP") == "llm-foundry");
  CHECK(name("llm-foundry / PyTorch FSDP") == "llm-foundry");
  CHECK(name("fms-fsdp") == "torch-fsdp");
  CHECK(name("metaseq FSDP") == "torch-fsdp");
  CHECK(name("Meta internal, FSDP (ZeRO-2-like: no reshard)") == "torch-fsdp-llama3");
  CHECK(name("InternEvo", "0.2.1dev20231121") == "internevo");
  CHECK(name("Aleph Alpha internal (scaling)") == "aleph-alpha");
  CHECK(name("Aleph Alpha internal (scaling)", "", "fa2+fused-rmsnorm") == "aleph-alpha-fused-rmsnorm");
  CHECK(name("MaxText (JAX)") == "maxtext");
  CHECK(name("HAI-LLM") == "hai-llm");
  CHECK(name("MegaScale") == "generic");
  CHECK(name("") == "generic");
}

TEST_CASE("an engine that is not there is named with its nearest, or with all that are") {
  CHECK(message_of([] { find_engine("megatron-cor", "--engine"); }) ==
        "--engine: unknown engine 'megatron-cor' (did you mean 'megatron-core'?)");
  CHECK(message_of([] { find_engine("x", "--engine"); }) ==
        "--engine: unknown engine 'x' (there are aleph-alpha, aleph-alpha-fused-rmsnorm, deepspeed, generic, hai-llm, "
        "internevo, llm-foundry, maxtext, megatron-bridge, megatron-core, megatron-deepspeed, megatron-lm, "
        "megatron-lm-hopper, nemo, nemo-2024, "
        "shardwright, torch-fsdp, torch-fsdp-llama3)");
}

TEST_CASE("a file of an engine says what it can run") {
  const Engine e = read(kSmall);
  CHECK(e.name == "small");
  CHECK(e.frameworks == std::vector<EngineFramework>{{"Small", ""}});
  CHECK(!e.tensor_parallel);
  CHECK(e.etp_is_tp);
  CHECK(to_string(e.overlaps) == "grad_reduce+p2p");
  CHECK(to_string(e.default_overlaps) == "p2p");
  CHECK(e.schedules == std::vector{Schedule::one_f_one_b});
  CHECK(e.cp_kinds.empty());
  CHECK(e.dispatchers == std::vector{Dispatcher::all_to_all});
  CHECK(!e.counts_rows_on_host(Dispatcher::all_to_all));
  CHECK(e.zero == std::vector{0, 2});
  CHECK(e.gradients[DataType::bf16] == GradientFormats{DataType::fp32, DataType::bf16});
  CHECK(e.gradients[DataType::fp8] == GradientFormats{DataType::bf16, DataType::fp32, DataType::bf16});
  CHECK(!e.gradients[DataType::fp16]);
  CHECK(e.fp8_scaling == Scaling::block);
  CHECK(e.merges_products == MergedProducts::attention);
  CHECK(e.collects_by_layer);
  CHECK_FALSE(e.sums_beside_weight_gradients);
  CHECK(e.shards_in_lists);
  CHECK(e.reduces_once_in_pipelines);
  CHECK(e.attention == AttentionKernel::flash1);
  CHECK(e.stage_split == StageSplit::modules);
  CHECK(e.scatters_sends);
  CHECK(!e.adds_gradients);
  CHECK(e.optimizer_traffic() == 3);
  CHECK(e.constants == EngineConstants{});
  CHECK(e.habits == EngineHabits{});  // it names none
}

TEST_CASE("a flavour of an engine has its constants, and what it does not name itself") {
  const std::string text = std::string(kSmall) + R"(habits: {fused_attention: false, dropout: true, allocator: caching}
flavours:
  - name: smaller
    description: two
    frameworks: [{name: Small, kernel: tiny, architectures: [hopper]}]
    gradients: {}
    habits:
      transformer_engine: false
      fused_attention: true
      fused_norm: false
      fused_activation: false
      cross_entropy: whole
      weight_gradients: apart
      gather_again: false
      narrow_activations: false
      narrow_saves: true
      narrow_weights: false
      widens_gradients: false
      allocator: expandable_segments
      peak_printed_by: last_rank
      sequence_parallel: false
      chunk_layers: 2
)";
  const std::vector<Engine> all = read_engine(YamlCursor::parse(text, "small.yaml"));
  REQUIRE(all.size() == 2);
  EngineHabits habits{.fused_attention = false, .dropout = true};
  habits.memory.fragmentation = kCachingAllocator;
  CHECK(all[0].habits == habits);
  const Engine& e = all[1];
  CHECK(e.name == "smaller");
  CHECK(e.fitted_as() == "small");
  CHECK(e.frameworks == std::vector<EngineFramework>{{"Small", "", "tiny", {"hopper"}}});
  CHECK(e.zero == all[0].zero);
  CHECK(!e.gradients[DataType::bf16]);
  CHECK(e.habits ==
        EngineHabits{.transformer_engine = false,
                     .fused_attention = true,
                     .fused_norm = false,
                     .fused_activation = false,
                     .dropout = true,
                     .cross_entropy = CrossEntropy::whole,
                     .memory = {WeightGradients::apart, false, false, false, false, kExpandableSegments, true},
                     .last_rank_prints = true,
                     .sequence_parallel = false,
                     .chunk_layers = 2});
}

TEST_CASE("what a workload leaves open is its engine's habit") {
  Engine e;
  e.habits = {.fused_attention = false,
              .fused_norm = false,
              .fused_activation = false,
              .dropout = true,
              .cross_entropy = CrossEntropy::softmax,
              .memory = {WeightGradients::added, false, false, false, false, 0.1}};
  e.gradients[DataType::bf16] = GradientFormats{DataType::bf16, DataType::bf16};
  Workload expected;
  expected.sequence_length = 7;
  expected.fused_attention = expected.fused_norm = expected.fused_activation = false;
  expected.dropout = true;
  expected.cross_entropy = CrossEntropy::softmax;
  expected.memory = e.habits.memory;
  expected.formats.gradient = expected.formats.gradient_reduce = DataType::bf16;
  Workload w;
  w.sequence_length = 7;
  run_by(e, DataType::bf16, w);
  CHECK(w == expected);
}

TEST_CASE("what is wrong in a file of an engine is said with its place") {
  CHECK(fault("etp: tp", "etp: 2") == "small.yaml:5:6: 'etp' must be one of 1, tp, got '2'");
  CHECK(fault("overlaps: [grad", "overlaps: [tp, tp]") == "small.yaml:6:16: 'overlaps[1]' stands there twice");
  CHECK(fault("default_overlaps", "default_overlaps: [tp]") ==
        "small.yaml:7:19: 'default_overlaps' must be among 'overlaps', grad_reduce+p2p");
  CHECK(fault("schedules", "schedules: [zb-v]") == "small.yaml:8:12: 'schedules' must have 1f1b where it has any");
  CHECK(fault("schedules", "schedules: [zb-x]") ==
        "small.yaml:8:13: 'schedules[0]' must be one of gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-1p, zb-2p, zb-v, "
        "dualpipe, dualpipe-v, got 'zb-x' (did you mean 'zb-v'?)");
  CHECK(fault("zero", "zero: [1]") == "small.yaml:12:7: 'zero' must begin with 0");
  CHECK(fault("zero", "zero: [0, 3, 2]") == "small.yaml:12:14: 'zero[2]' must be above the one before it");
  CHECK(fault("fused_optimizer", "fused_optimizer: true\nhabits: {dropuot: true}") ==
        "small.yaml:21:10: unknown key 'dropuot' (did you mean 'dropout'?)");
  CHECK(fault("fused_optimizer", "fused_optimizer: true\nhabits: {allocator: jemalloc}") ==
        "small.yaml:21:21: 'habits.allocator' must be one of caching, expandable_segments, got 'jemalloc'");
  CHECK(fault("fused_optimizer", "fused_optimizer: true\nflavours: [{name: a, description: b}]") ==
        "small.yaml:21:12: 'flavours[0].frameworks' is missing");
  CHECK(fault("fused_optimizer", "fused: true") == "small.yaml:20:1: unknown key 'fused'");
}

TEST_CASE("fitted constants are read whole and in their ranges") {
  const std::string head = "schema: shardwright.engine_constants/1\nengines:\n  small:\n    constants: {";
  const std::string rest =
      "moe_host_seconds: 1e-4, step_seconds: 0.1, optimizer_passes: 2, communication_factor: 1.5, "
      "hidden_communication_factor: 1.2, memory_kernel_factor: 0.9}\n";
  const auto read_text = [&](const std::string& first) {
    return read_engine_constants(YamlCursor::parse(head + first + rest, "c.yaml"));
  };
  const auto all = read_text("host_seconds_per_kernel: 5e-6, ");
  REQUIRE(all.engines.size() == 1);
  CHECK(all.engines[0].first == "small");
  CHECK(all.engines[0].second[EngineConstant::host_seconds_per_kernel] == 5e-6);
  CHECK(all.engines[0].second[EngineConstant::memory_kernel_factor] == 0.9);
  CHECK(!all.errors);
  const auto complaint = [&](const std::string& first) {
    const std::string message = message_of([&] { read_text(first); });
    return message.substr(0, message.find('\n'));
  };
  CHECK(complaint("") == "c.yaml:4:16: 'engines.small.constants.host_seconds_per_kernel' is missing");
  CHECK(complaint("host_seconds_per_kernel: 1, ") ==
        "c.yaml:4:42: 'engines.small.constants.host_seconds_per_kernel' must be between 0 and 0.0002, got 1");
}

TEST_CASE("errors of predictions are read whole, with those of engines that were fitted and that were not") {
  const auto read_text = [](const std::string& more) {
    return read_engine_constants(YamlCursor::parse(
        "schema: shardwright.engine_constants/1\nengines: {}\ninterval:\n  date: 2026-08\n  rows: 7\n  fitted: {step: "
        "0.1, step_of_experts: 0.2}\n  unfitted: {step: 0.3, step_of_experts: 0.4}\n" +
            more,
        "c.yaml"));
  };
  const auto record = read_text("  unknown_clock: 0.5\n  ratio: [0.01, 0.02, 0.03]\n").errors;
  REQUIRE(record);
  CHECK(*record == ErrorRecord{"2026-08", 7, {0.1, 0.2, 0.5, {0.01, 0.02, 0.03}}, {0.3, 0.4, 0.5, {0.01, 0.02, 0.03}}});
  const auto complaint = [&](const char* more) {
    const std::string message = message_of([&] { read_text(more); });
    return message.substr(0, message.find('\n'));
  };
  CHECK(complaint("  ratio: [0, 0, 0]\n") == "c.yaml:4:3: 'interval.unknown_clock' is missing");
  CHECK(complaint("  unknown_clock: 0.5\n  ratio: [0.1]\n") ==
        "c.yaml:9:10: 'interval.ratio' must have three entries: none, one and more degrees");
}

TEST_CASE("engines with constants of their own err as those do, others as generic does") {
  const auto known = known_errors();
  REQUIRE(known);
  CHECK(find_engine("internevo", "").errors == known->fitted);
  CHECK(find_engine("aleph-alpha-fused-rmsnorm", "").errors == known->fitted);
  CHECK(find_engine("generic", "").errors == known->unfitted);
  CHECK(find_engine("hai-llm", "").errors == known->unfitted);
}

TEST_CASE("every engine of the program has constants in their ranges and what it overlaps by itself") {
  for (const std::string& name : engine_names()) {
    CAPTURE(name);
    const Engine engine = find_engine(name, "--engine");
    CHECK(engine.name == name);
    CHECK(!engine.description.empty());
    for (const EngineConstantFacts& facts : kEngineConstantFacts) {
      CHECK(engine.constants[facts.constant] >= facts.low);
      CHECK(engine.constants[facts.constant] <= facts.high);
    }
  }
}

TEST_CASE("what an engine cannot run is said in one line") {
  Engine e = read(kSmall);
  const auto why = [&](const char* text) { return beyond_engine(e, pins(text)); };
  CHECK(why("") == "");
  CHECK(why("tp=1,pp=4,ep=2,zero=2,overlap=p2p,schedule=1f1b,cp=1,dispatcher=alltoall") == "");
  CHECK(why("tp=2") == "engine small cannot run tp=2: it has no tensor parallelism");
  CHECK(why("cp=2") == "engine small cannot run cp=2: it has no context parallelism");
  CHECK(why("schedule=zb-h1") == "engine small cannot run schedule=zb-h1: it has 1f1b");
  CHECK(why("vpp=2") == "engine small cannot run vpp=2: it has no schedule with so many chunks a stage");
  CHECK(why("dispatcher=deepep") == "engine small cannot run dispatcher=deepep: it has alltoall");
  CHECK(why("zero=3") == "engine small cannot run zero=3: it has 0, 2");
  CHECK(why("overlap=tp+p2p") == "engine small cannot run overlap=tp: it has grad_reduce+p2p");
  e.schedules = {};
  e.dispatchers = {};
  e.cp_kinds = {ContextParallel::ring};
  e.zero = {0};
  CHECK(why("pp=2") == "engine small cannot run pp=2: it has no pipeline");
  CHECK(why("ep=2") == "engine small cannot run ep=2: it has no expert parallelism");
  CHECK(why("cp=2,cp_kind=ulysses") == "engine small cannot run cp_kind=ulysses: it has ring");
  CHECK(why("fsdp_group=2") == "engine small cannot run fsdp_group=2: it shards nothing");
}

TEST_CASE("gradients are the engine's, those of narrow products as of bf16") {
  const Engine e = read(kSmall);
  TrainingFormats expected = formats_for(DataType::bf16);
  expected.gradient_reduce = DataType::bf16;
  CHECK(formats_for(DataType::bf16, e) == expected);
  CHECK(formats_for(DataType::mxfp8, e).gradient_reduce == DataType::bf16);
  CHECK(formats_for(DataType::mxfp8, e).scaling == Scaling::tensor);
  const TrainingFormats narrow = formats_for(DataType::fp8, e);
  CHECK(narrow.gradient == DataType::bf16);
  CHECK(narrow.gradient_reduce == DataType::fp32);
  CHECK(narrow.optimizer_state == DataType::bf16);
  CHECK(narrow.scaling == Scaling::block);
  CHECK(formats_for(DataType::fp16, e) == formats_for(DataType::fp16));
  CHECK(formats_for(DataType::bf16, Engine{}) == formats_for(DataType::bf16));
}

TEST_CASE("operators that are none of Transformer Engine's take the host less time") {
  Engine e;
  e.constants[EngineConstant::host_seconds_per_kernel] = 54e-6;
  CHECK(e.constants_of_its_host() == e.constants);
  e.habits.transformer_engine = false;
  CHECK(e.constants_of_its_host()[EngineConstant::host_seconds_per_kernel] == Approx(20e-6));
  CHECK(e.constants_of_its_host()[EngineConstant::optimizer_passes] == e.constants[EngineConstant::optimizer_passes]);
}

TEST_CASE("older attention takes longer, and on Hopper and Blackwell FlashAttention-2, too") {
  const auto on = [](const char* architecture, AttentionKernel kernel) {
    Machine m = round_machine();
    m.architecture = architecture;
    Engine e;
    e.attention = kernel;
    const SustainedTimes t = as_used_by(e, m).sustained;
    return std::pair(t.attention_forward, t.attention_backward);
  };
  CHECK(on("hopper", AttentionKernel::flash3) == std::pair(1.0, 1.0));
  CHECK(on("hopper", AttentionKernel::flash2) == std::pair(1.75, 1.625));
  CHECK(on("blackwell", AttentionKernel::flash2) == std::pair(1.75, 1.625));
  CHECK(on("ampere", AttentionKernel::flash2) == std::pair(1.0, 1.0));
  CHECK(on("ampere", AttentionKernel::flash1) == std::pair(2.0, 2.0));
  CHECK(on("ampere", AttentionKernel::triton) == std::pair(1.55, 1.55));
  CHECK(on("", AttentionKernel::flash2) == std::pair(1.0, 1.0));
}

TEST_CASE("rows choose their engine by their software, not by their name or source") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/rows.yaml";
  const auto row = [](const char* id, const char* source, const char* software) {
    return std::string("  - {id: ") + id + ", source: " + source +
           ", kind: training, trust: A, arch: m, family: f, hardware: {gpu: h100-sxm-80gb, gpus: 8}, layout: {dp: 8}, "
           "workload: {sequence_length: 1024, global_batch: 8, precision: bf16}, " +
           software + "measured: {iteration_seconds: 1}}\n";
  };
  std::ofstream(path)
      << "schema: shardwright.measured/1\n"
         "sources:\n  llm-foundry: {title: t, ref: r, trust: A}\n  other: {title: t, ref: r, trust: A}\n"
         "models:\n  m: {num_hidden_layers: 2, hidden_size: 512, num_attention_heads: 4, "
         "num_key_value_heads: 4, head_dim: 128, vocab_size: 1024, intermediate_size: 1024, "
         "gated_mlp: true, tie_word_embeddings: false, position: rope, norm: rmsnorm}\n"
         "rows:\n"
      << row("a", "llm-foundry", "software: {framework: NeMo}, ")
      << row("llm-foundry-b", "other", "software: {framework: NeMo}, ")
      << row("c", "other", "software: {framework: llm-foundry/Composer FSDP}, ") << row("NeMo-d", "llm-foundry", "");
  const Validation v = validate({path}, 1);
  REQUIRE(v.rows.size() == 4);
  CHECK(v.rows[0].engine == "nemo");
  CHECK(v.rows[1].engine == "nemo");
  CHECK(v.rows[1].predicted == v.rows[0].predicted);
  CHECK(v.rows[2].engine == "llm-foundry");
  CHECK(v.rows[2].predicted != v.rows[0].predicted);  // its attention is older
  CHECK(v.rows[3].engine == "generic");
}

}  // namespace shardwright
