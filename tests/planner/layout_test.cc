#include "planner/layout.h"

#include <doctest/doctest.h>

#include <random>

#include "hardware/input_error.h"
#include "planner/workload.h"

using namespace shardwright;

namespace {

std::string fault_of(const std::string& text) {
  try {
    parse_layout(text, "--layout");
  } catch (const InputError& error) { return error.what(); }
  return "no fault";
}

bool pins_nothing(const LayoutPins& pins) {
  return !pins.tp && !pins.pp && !pins.vpp && !pins.cp && !pins.dp && !pins.sequence_parallel && !pins.zero &&
         !pins.fsdp_group && !pins.recompute && !pins.micro_batch && !pins.schedule && !pins.rank_order &&
         !pins.layers_per_stage && !pins.dispatcher && pins.overlap_on == Overlaps{} && pins.overlap_off == Overlaps{};
}

/// The one canonical layout that pins leave when they pin exactly one: what to_string may leave out is filled in.
Layout completed(const LayoutPins& pins, int model_layers) {
  Layout layout;
  layout.tensor = pins.tp.value();
  layout.pipeline = pins.pp.value();
  layout.data = pins.dp.value();
  layout.virtual_pipeline = pins.vpp.value_or(1);
  layout.context = pins.cp.value_or(1);
  if (layout.context > 1) layout.context_kind = pins.cp_kind.value();
  layout.expert = pins.ep.value_or(1);
  layout.expert_tensor = pins.etp.value_or(1);
  if (layout.expert > 1) layout.dispatcher = pins.dispatcher.value();
  const bool many = layout.data * layout.context > 1;
  layout.sequence_parallel = layout.tensor > 1 ? pins.sequence_parallel.value() : false;
  layout.zero = many ? pins.zero.value() : 0;
  layout.shard_group = layout.zero > 0 ? pins.fsdp_group.value() : 1;
  layout.recompute = pins.recompute.value();
  layout.micro_batch = pins.micro_batch.value();
  layout.schedule = layout.pipeline > 1 ? pins.schedule.value() : Schedule::one_f_one_b;
  const bool ordered = layout.data > 1 && layout.pipeline > 1;
  layout.rank_order = ordered ? pins.rank_order.value() : RankOrder::tp_cp_dp_pp;
  layout.overlap = pins.overlap_on;
  layout.layers_per_chunk = layout.pipeline > 1 ? pins.layers_per_stage.value() : std::vector<int>{model_layers};
  return layout;
}

constexpr int kModelLayers = 126;

Layout random_layout(std::mt19937& random) {
  const auto up_to = [&](int n) { return std::uniform_int_distribution<int>(1, n)(random); };
  Layout layout;
  layout.tensor = up_to(3);
  layout.pipeline = up_to(4);
  layout.data = up_to(5);
  layout.context = up_to(2);
  if (layout.pipeline > 1) {
    layout.virtual_pipeline = up_to(3);
    layout.schedule = layout.virtual_pipeline > 1 ? Schedule::interleaved
                      : up_to(2) == 1             ? Schedule::gpipe
                                                  : Schedule::one_f_one_b;
  }
  layout.expert = up_to(64);
  layout.expert_tensor = up_to(4);
  if (layout.expert > 1) layout.dispatcher = static_cast<Dispatcher>(up_to(4) - 1);
  if (layout.context > 1) layout.context_kind = static_cast<ContextParallel>(up_to(3) - 1);
  if (layout.tensor > 1) layout.sequence_parallel = up_to(2) == 1;
  if (layout.data * layout.context > 1) layout.zero = up_to(4) - 1;
  if (layout.zero > 0) layout.shard_group = up_to(layout.data * layout.context);
  layout.recompute.full = up_to(3) == 1;
  if (!layout.recompute.full) layout.recompute.modules = static_cast<std::uint8_t>(up_to(1 << kRecomputeModules) - 1);
  layout.micro_batch = up_to(16);
  if (layout.data > 1 && layout.pipeline > 1 && up_to(2) == 1) layout.rank_order = RankOrder::tp_cp_pp_dp;
  layout.overlap = {static_cast<std::uint8_t>((up_to(1 << kOverlaps) - 1) & overlaps_of(layout).bits)};
  const int chunks = layout.pipeline * layout.virtual_pipeline;
  if (chunks == 1) layout.layers_per_chunk = {kModelLayers};
  for (int i = 0; chunks > 1 && i < chunks; ++i) layout.layers_per_chunk.push_back(up_to(12) - 1);
  return layout;
}

}  // namespace

TEST_CASE("the empty string pins nothing") { CHECK(pins_nothing(parse_layout("", "--layout"))); }

TEST_CASE("every key of a layout is read") {
  const LayoutPins pins = parse_layout(
      "tp=8,pp=16,vpp=2,cp=4,dp=3,sequence_parallel=true,zero=3,fsdp_group=12,recompute=selective,"
      "recompute_modules=core_attn+mlp,micro_batch=5,schedule=interleaved,rank_order=tp-cp-pp-dp,cp_kind=ulysses,"
      "layers_per_stage=4+4+4+4+4+4+4+4+4+4+4+4+4+4+4+0,ep=6,etp=2,dispatcher=hybridep,overlap=tp+p2p",
      "--layout");
  CHECK(pins.tp == 8);
  CHECK(pins.pp == 16);
  CHECK(pins.vpp == 2);
  CHECK(pins.cp == 4);
  CHECK(pins.dp == 3);
  CHECK(pins.sequence_parallel == true);
  CHECK(pins.zero == 3);
  CHECK(pins.fsdp_group == 12);
  CHECK(pins.recompute == Recompute{.full = false, .modules = 0b101});
  CHECK(pins.cp_kind == ContextParallel::ulysses);
  CHECK(pins.ep == 6);
  CHECK(pins.etp == 2);
  CHECK(pins.dispatcher == Dispatcher::hybridep);
  CHECK(pins.overlap_on == Overlaps{0b100001});
  CHECK(pins.overlap_off == Overlaps{0b011110});
  CHECK(pins.micro_batch == 5);
  CHECK(pins.schedule == Schedule::interleaved);
  CHECK(pins.rank_order == RankOrder::tp_cp_pp_dp);
  CHECK(pins.layers_per_stage == std::vector<int>{4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0});
}

TEST_CASE("recompute and its modules are one choice") {
  const auto recompute = [](const std::string& text) { return parse_layout(text, "--layout").recompute; };
  CHECK(recompute("recompute=none") == Recompute{});
  CHECK(recompute("recompute=full") == Recompute{.full = true, .modules = 0});
  CHECK(recompute("recompute=selective") == Recompute{.full = false, .modules = 0b001});
  CHECK(recompute("recompute_modules=layernorm") == Recompute{.full = false, .modules = 0b010});
  CHECK(recompute("recompute_modules=mlp+layernorm,recompute=selective") == Recompute{.full = false, .modules = 0b110});
  CHECK(recompute("tp=2") == std::nullopt);
}

TEST_CASE("a layout is written as the text that pins it") {
  Layout layout;
  layout.tensor = 8;
  layout.pipeline = 2;
  layout.virtual_pipeline = 2;
  layout.data = 4;
  layout.sequence_parallel = true;
  layout.zero = 1;
  layout.shard_group = 4;
  layout.recompute.modules = 0b011;
  layout.micro_batch = 2;
  layout.schedule = Schedule::interleaved;
  layout.overlap.set(Overlap::tp, true);
  layout.overlap.set(Overlap::grad_reduce, true);
  layout.layers_per_chunk = {7, 8, 8, 9};
  CHECK(to_string(layout) ==
        "tp=8,pp=2,vpp=2,dp=4,sequence_parallel=true,zero=1,fsdp_group=4,recompute=selective,"
        "recompute_modules=core_attn+layernorm,micro_batch=2,schedule=interleaved,rank_order=tp-cp-dp-pp,"
        "overlap=tp+grad_reduce,layers_per_stage=7+8+8+9");
  CHECK(layers_per_stage(layout) == std::vector<int>{15, 17});

  Layout one_gpu;
  one_gpu.layers_per_chunk = {32};
  CHECK(to_string(one_gpu) == "tp=1,pp=1,dp=1,recompute=none,micro_batch=1");
  CHECK(layers_per_stage(one_gpu) == std::vector<int>{32});
}

TEST_CASE("any canonical layout survives writing and reading") {
  std::mt19937 random(20240607);
  for (int i = 0; i < 5000; ++i) {
    const Layout layout = random_layout(random);
    const std::string text = to_string(layout);
    CAPTURE(text);
    REQUIRE(completed(parse_layout(text, "--layout"), kModelLayers) == layout);
  }
}

TEST_CASE("a wrong layout shows where") {
  SUBCASE("unknown keys suggest") {
    CHECK(fault_of("tp=8,tpp=8") == "--layout:1:6: unknown key 'tpp' (did you mean 'tp'?)\ntp=8,tpp=8\n     ^");
    CHECK(fault_of("strategy=deepep") == "--layout:1:1: unknown key 'strategy'\nstrategy=deepep\n^");
    CHECK(fault_of("=8") == "--layout:1:1: unknown key ''\n=8\n^");
  }
  SUBCASE("no key=value") {
    CHECK(fault_of("tp=8,pp") == "--layout:1:6: expected key=value, got 'pp'\ntp=8,pp\n     ^");
    CHECK(fault_of("tp=8,") == "--layout:1:6: expected key=value between commas\ntp=8,\n     ^");
    CHECK(fault_of(",tp=8") == "--layout:1:1: expected key=value between commas\n,tp=8\n^");
    CHECK(fault_of("tp=") == "--layout:1:4: 'tp' has no value\ntp=\n   ^");
  }
  SUBCASE("characters") {
    CHECK(fault_of("tp=8, pp=2") == "--layout:1:6: spaces are not allowed\ntp=8, pp=2\n     ^");
    CHECK(fault_of("tp=8\x1b[31m") == "--layout:1:5: only printable ASCII characters are allowed\ntp=8?[31m\n    ^");
    CHECK(fault_of(std::string(65537, 'x')) == "--layout: has 65537 characters, more than 65536");
  }
  SUBCASE("numbers") {
    CHECK(fault_of("tp=0") == "--layout:1:4: 'tp' must be between 1 and 16777216, got '0'\ntp=0\n   ^");
    CHECK(fault_of("tp=16777217") ==
          "--layout:1:4: 'tp' must be between 1 and 16777216, got '16777217'\ntp=16777217\n   ^");
    CHECK(fault_of("tp=1000000000000000000000000000000") ==
          "--layout:1:4: 'tp' must be between 1 and 16777216, got '1000000000000000000000000000000'\n"
          "tp=1000000000000000000000000000000\n   ^");
    CHECK(fault_of("tp=-1") == "--layout:1:4: 'tp' must be a whole number, got '-1'\ntp=-1\n   ^");
    CHECK(fault_of("tp=08") ==
          "--layout:1:4: 'tp' must be a whole number without leading zeros, got '08'\ntp=08\n   ^");
    CHECK(fault_of("zero=4") == "--layout:1:6: 'zero' must be between 0 and 3, got '4'\nzero=4\n     ^");
  }
  SUBCASE("words") {
    CHECK(fault_of("schedule=1f1") ==
          "--layout:1:10: 'schedule' must be one of gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-1p, zb-2p, zb-v, "
          "dualpipe, "
          "dualpipe-v, got '1f1' (did you mean '1f1b'?)\n"
          "schedule=1f1\n         ^");
    CHECK(fault_of("sequence_parallel=1") ==
          "--layout:1:19: 'sequence_parallel' must be one of false, true, got '1'\nsequence_parallel=1\n"
          "                  ^");
    CHECK(fault_of("cp_kind=rings") ==
          "--layout:1:9: 'cp_kind' must be one of allgather, ulysses, ring, got 'rings' (did you mean 'ring'?)\n"
          "cp_kind=rings\n        ^");
  }
  SUBCASE("ways of rows and overlaps") {
    CHECK(fault_of("dispatcher=deep") ==
          "--layout:1:12: 'dispatcher' must be one of alltoall, allgather, deepep, hybridep, got 'deep'\n"
          "dispatcher=deep\n           ^");
    CHECK(fault_of("overlap=tp+p2") ==
          "--layout:1:12: 'overlap' must be one of tp, ep, shared_experts, grad_reduce, param_gather, p2p, none, got "
          "'p2'\noverlap=tp+p2\n           ^");
    CHECK(fault_of("overlap=tp+tp") == "--layout:1:12: 'overlap' names 'tp' twice\noverlap=tp+tp\n           ^");
    CHECK(fault_of("overlap=tp+none") == "--layout:1:12: 'overlap' is none or some\noverlap=tp+none\n           ^");
    CHECK(parse_layout("overlap=none", "--layout").overlap_off == Overlaps::all());
  }
  SUBCASE("lists") {
    CHECK(fault_of("layers_per_stage=8++8") ==
          "--layout:1:20: 'layers_per_stage' must be a whole number, got ''\nlayers_per_stage=8++8\n"
          "                   ^");
    CHECK(fault_of("layers_per_stage=8+10001") ==
          "--layout:1:20: 'layers_per_stage' must be between 0 and 10000, got '10001'\nlayers_per_stage=8+10001\n"
          "                   ^");
    CHECK(fault_of("recompute_modules=mlp+mlp") ==
          "--layout:1:23: 'recompute_modules' names 'mlp' twice\nrecompute_modules=mlp+mlp\n"
          "                      ^");
    CHECK(
        fault_of("recompute_modules=core_atn") ==
        "--layout:1:19: 'recompute_modules' must be one of core_attn, layernorm, mlp, mla_up_proj, moe, moe_act, "
        "shared_experts, got 'core_atn' (did you mean 'core_attn'?)\nrecompute_modules=core_atn\n                  ^");
  }
  SUBCASE("a key twice") { CHECK(fault_of("tp=8,tp=8") == "--layout:1:6: 'tp' is given twice\ntp=8,tp=8\n     ^"); }
  SUBCASE("experts") {
    CHECK(fault_of("ep=0") == "--layout:1:4: 'ep' must be between 1 and 16777216, got '0'\nep=0\n   ^");
    CHECK(fault_of("etp=two") == "--layout:1:5: 'etp' must be a whole number, got 'two'\netp=two\n    ^");
  }
}

TEST_CASE("keys of a layout that contradict each other are refused") {
  CHECK(fault_of("recompute=full,recompute_modules=mlp") ==
        "--layout:1:16: 'recompute_modules' contradicts recompute=full: modules are chosen when it is selective\n"
        "recompute=full,recompute_modules=mlp\n               ^");
  CHECK(fault_of("recompute_modules=mlp,recompute=none") ==
        "--layout:1:1: 'recompute_modules' contradicts recompute=none: modules are chosen when it is selective\n"
        "recompute_modules=mlp,recompute=none\n^");
  CHECK(fault_of("vpp=2,schedule=1f1b") ==
        "--layout:1:16: schedule=1f1b contradicts vpp=2: more than one chunk a stage is interleaved\n"
        "vpp=2,schedule=1f1b\n               ^");
  CHECK(fault_of("vpp=1,schedule=interleaved") ==
        "--layout:1:16: schedule=interleaved contradicts vpp=1: interleaved has more than one chunk a stage\n"
        "vpp=1,schedule=interleaved\n               ^");
  CHECK(fault_of("zero=0,fsdp_group=8") ==
        "--layout:1:19: fsdp_group=8 contradicts zero=0, which shards nothing\nzero=0,fsdp_group=8\n"
        "                  ^");
  CHECK(fault_of("pp=2,layers_per_stage=8+8+8") ==
        "--layout:1:23: 'layers_per_stage' has 3 entries, not pp = 2\npp=2,layers_per_stage=8+8+8\n"
        "                      ^");
  CHECK(fault_of("pp=2,vpp=2,layers_per_stage=8+8+8") ==
        "--layout:1:29: 'layers_per_stage' has 3 entries, not pp = 2 or pp * vpp = 4\n"
        "pp=2,vpp=2,layers_per_stage=8+8+8\n                            ^");
  CHECK(fault_of("pp=2,layers_per_stage=8+8+8+8") == "no fault");
  CHECK(fault_of("pp=2,vpp=1,layers_per_stage=8+8+8+8") ==
        "--layout:1:29: 'layers_per_stage' has 4 entries, not pp = 2\npp=2,vpp=1,layers_per_stage=8+8+8+8\n"
        "                            ^");
}

TEST_CASE("a precision stands for Megatron's formats") {
  CHECK(formats_for(DataType::bf16) == TrainingFormats{});
  // 18 bytes a parameter in bf16 (2 + 4 + 12), 16 in fp16 (2 + 2 + 12).
  const auto bytes = [](DataType precision) {
    const TrainingFormats f = formats_for(precision);
    return bytes_per_element(f.parameter) + bytes_per_element(f.gradient) + bytes_per_element(f.main_parameter) +
           2 * bytes_per_element(f.optimizer_state);
  };
  CHECK(bytes(DataType::bf16) == 18);
  CHECK(bytes(DataType::fp16) == 16);
  for (const DataType low : {DataType::fp8, DataType::mxfp8, DataType::nvfp4}) {
    TrainingFormats expected;
    expected.compute = low;
    if (low != DataType::nvfp4) expected.dispatch = DataType::fp8;
    CHECK(formats_for(low) == expected);
  }
  for (const DataType full : {DataType::fp32, DataType::tf32}) {
    const TrainingFormats f = formats_for(full);
    CHECK(f.compute == full);
    CHECK(f.parameter == DataType::fp32);
    CHECK(f.parameter_gather == DataType::fp32);
    CHECK(f.gradient == DataType::fp32);
    CHECK(f.gradient_reduce == DataType::fp32);
  }
}
