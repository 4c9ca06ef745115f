// The text form of questions: hardware/kernel_spec.h and hardware/kernel_keys.h.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>

#include "hardware/input_error.h"
#include "hardware/kernel_keys.h"
#include "hardware/kernel_spec.h"
#include "tests/support/random_kernel.h"

using namespace shardwright;

namespace {

std::string again(const std::string& text) { return to_string(parse_kernel_spec(text, "--kernel")); }

std::string fault_of(const std::string& text) {
  try {
    parse_kernel_spec(text, "--kernel");
  } catch (const InputError& error) { return error.what(); }
  return "no fault";
}

RankGroup group_of(std::initializer_list<RankGroup::Factor> factors) {
  RankGroup group;
  for (const auto& factor : factors) group.add(factor.size, factor.stride);
  return group;
}

}  // namespace

TEST_CASE("a question's text has the family and the keys without their defaults") {
  CHECK(to_string(GemmSpec{.m = 4096, .n = 7168, .k = 2048}) == "gemm m=4096 n=7168 k=2048 type=bf16");
  CHECK(to_string(GemmSpec{.m = 1,
                           .n = 2,
                           .k = 3,
                           .batch = 4,
                           .type = DataType::fp8,
                           .weights = StoredType::int4,
                           .result = StoredType::fp32,
                           .scaling = Scaling::block,
                           .accumulate = true,
                           .cast = false,
                           .layout = GemmLayout::nt}) ==
        "gemm m=1 n=2 k=3 batch=4 type=fp8 weights=int4 result=fp32 scaling=block accumulate=true cast=false "
        "layout=nt");
  CHECK(to_string(GroupedGemmSpec{.groups = 8, .m_per_group = 16, .n = 32, .k = 64, .type = DataType::fp8}) ==
        "grouped_gemm groups=8 m_per_group=16 n=32 k=64 type=fp8");
  CHECK(to_string(GroupedGemmSpec{.groups = 8,
                                  .m_per_group = 16,
                                  .n = 32,
                                  .k = 64,
                                  .type = DataType::fp8,
                                  .result = StoredType::fp32,
                                  .accumulate = true,
                                  .cast = false}) ==
        "grouped_gemm groups=8 m_per_group=16 n=32 k=64 type=fp8 result=fp32 accumulate=true cast=false");
  CHECK(to_string(MoeLayerSpec{.tokens = 128,
                               .hidden_size = 7168,
                               .intermediate_size = 2048,
                               .n_routed_experts = 256,
                               .num_experts_per_tok = 8,
                               .redundant_experts = 32,
                               .ep = 8,
                               .power_law = 1.2,
                               .eplb = true,
                               .router = false,
                               .type = DataType::fp8,
                               .scaling = Scaling::block}) ==
        "moe_layer tokens=128 hidden_size=7168 intermediate_size=2048 n_routed_experts=256 num_experts_per_tok=8 "
        "redundant_experts=32 ep=8 routing=power_law_1.2 eplb=true router=false type=fp8 scaling=block");
  CHECK(to_string(AttentionSpec{.batch = 2, .heads = 8, .kv_heads = 8, .query_length = 64, .key_length = 64}) ==
        "attention batch=2 heads=8 query=64 head_dim=128 type=bf16");
  CHECK(to_string(AttentionSpec{.heads = 128,
                                .kv_heads = 1,
                                .query_length = 1,
                                .key_length = 1024,
                                .head_dim = 576,
                                .value_dim = 512,
                                .values_in_keys = true,
                                .causal = false,
                                .kv_type = StoredType::fp8}) ==
        "attention heads=128 kv_heads=1 query=1 key=1024 head_dim=576 value_dim=512 values_in_keys=true causal=false "
        "type=bf16 kv_type=fp8");
  CHECK(to_string(MlaModuleSpec{.heads = 16, .query_length = 1, .key_length = 9, .absorbed = true}) ==
        "mla_module heads=16 query=1 key=9 absorbed=true type=bf16");
  CHECK(to_string(MemorySpec{Bytes{1000}}) == "memory bytes=1000");
  CHECK(to_string(MemorySpec{Bytes{1000}, MemoryPass::adam}) == "memory bytes=1000 pass=adam");
  CHECK(to_string(MoeExchangeSpec{.op = MoeExchangeOp::combine,
                                  .mode = MoeExchangeMode::low_latency,
                                  .tokens = 16,
                                  .hidden_size = 7168,
                                  .num_experts_per_tok = 8,
                                  .n_routed_experts = 256,
                                  .group = group_of({{16, 1}}),
                                  .type = StoredType::bf16}) ==
        "moe_exchange op=combine mode=low_latency tokens=16 hidden_size=7168 num_experts_per_tok=8 "
        "n_routed_experts=256 group=16 type=bf16");
}

TEST_CASE("a group of ranks is written run by run") {
  const auto text = [](std::initializer_list<RankGroup::Factor> factors) {
    return to_string(CollectiveSpec{CollectiveKind::all_reduce, {8}, group_of(factors)});
  };
  CHECK(text({}) == "collective op=all_reduce bytes=8 group=1");
  CHECK(text({{8, 1}}) == "collective op=all_reduce bytes=8 group=8");
  CHECK(text({{2, 8}}) == "collective op=all_reduce bytes=8 group=2x8");
  CHECK(text({{2, 1}, {4, 8}}) == "collective op=all_reduce bytes=8 group=2:4x8");
  CHECK(again("collective op=all_reduce bytes=8 group=2:2x2:3x8") == "collective op=all_reduce bytes=8 group=4:3x8");
}

TEST_CASE("keys come in any order, and what is the default may be said") {
  CHECK(again("  gemm type=bf16  k=3 n=2 m=1 ") == "gemm m=1 n=2 k=3 type=bf16");
  CHECK(again("gemm m=1 n=2 k=3 batch=1 type=fp8 weights=fp8 result=bf16 scaling=tensor accumulate=false "
              "layout=unstated") == "gemm m=1 n=2 k=3 type=fp8");
  CHECK(again("attention heads=8 kv_heads=8 query=5 key=5 head_dim=64 value_dim=64 type=bf16 kv_type=bf16") ==
        "attention heads=8 query=5 head_dim=64 type=bf16");
  CHECK(again("collective op=all_to_all bytes=8 group=8 crossing=1 algorithm=nccl") ==
        "collective op=all_to_all bytes=8 group=8");
  CHECK(again("collective op=all_to_all bytes=8 group=8 crossing=0.25 type=int8 algorithm=custom") ==
        "collective op=all_to_all bytes=8 group=8 crossing=0.25 type=int8 algorithm=custom");
  CHECK(again("moe_exchange op=dispatch tokens=1 hidden_size=2 num_experts_per_tok=3 group=4 routing=balanced") ==
        "moe_exchange op=dispatch tokens=1 hidden_size=2 num_experts_per_tok=3 group=4");
}

TEST_CASE("random questions are the same after a way through their text") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const KernelSpec spec = random_kernel(random);
    const std::string text = to_string(spec);
    const KernelSpec read = parse_kernel_spec(text, "--kernel");
    REQUIRE(to_string(read) == text);
    REQUIRE(to_slots(read) == to_slots(spec));
    REQUIRE(from_slots(family_of(read), to_slots(read)) == read);
  }
}

TEST_CASE("tables are sorted by words, then sizes, at last along the curve") {
  std::string order;
  for (const int slot : sort_order(KernelFamily::gemm)) {
    order += std::string(kernel_keys(KernelFamily::gemm)[static_cast<std::size_t>(slot)].name) + " ";
  }
  CHECK(order == "type weights result scaling accumulate cast layout n k batch m ");
  for (int i = 0; i < kKernelFamilies; ++i) {
    const auto family = static_cast<KernelFamily>(i);
    std::vector<int> slots = sort_order(family);
    std::sort(slots.begin(), slots.end());
    REQUIRE(static_cast<int>(slots.size()) == slot_count(family));
    for (int slot = 0; slot < slot_count(family); ++slot) CHECK(slots[static_cast<std::size_t>(slot)] == slot);
  }
}

TEST_CASE("faults in a question's text are told with their place") {
  CHECK(fault_of("") ==
        "--kernel:1:1: names no kernel; there are gemm, grouped_gemm, moe_layer, attention, mla_module, memory, "
        "collective, moe_exchange\n\n^");
  CHECK(fault_of(" gem m=1") == "--kernel:1:2: unknown kernel 'gem' (did you mean 'gemm'?)\n gem m=1\n ^");
  CHECK(fault_of("gemm m") == "--kernel:1:6: expected key=value, got 'm'\ngemm m\n     ^");
  CHECK(fault_of("gemm tpye=bf16") ==
        "--kernel:1:6: unknown key 'tpye' of gemm (did you mean 'type'?)\ngemm tpye=bf16\n     ^");
  CHECK(fault_of("gemm m=1 m=1") == "--kernel:1:10: 'm' is given twice\ngemm m=1 m=1\n         ^");
  CHECK(fault_of("gemm m=1 n=1 type=bf16") == "--kernel:1:1: 'k' of gemm is missing\ngemm m=1 n=1 type=bf16\n^");
  CHECK(fault_of("gemm m=x") ==
        "--kernel:1:8: 'm' must be a whole number between 0 and 9007199254740992, got 'x'\ngemm m=x\n       ^");
  CHECK(fault_of("attention heads=0") ==
        "--kernel:1:17: 'heads' must be a whole number between 1 and 9007199254740992, got '0'\n"
        "attention heads=0\n                ^");
  CHECK(fault_of("gemm type=bf61") ==
        "--kernel:1:11: 'type' must be one of fp32, tf32, fp16, bf16, fp8, mxfp8, nvfp4 (did you mean 'bf16'?), got "
        "'bf61'\ngemm type=bf61\n          ^");
  CHECK(fault_of("gemm accumulate=yes") ==
        "--kernel:1:17: 'accumulate' must be true or false, got 'yes'\ngemm accumulate=yes\n                ^");
  CHECK(fault_of("collective crossing=1.5") ==
        "--kernel:1:21: 'crossing' must be a number between 0 and 1, got '1.5'\n"
        "collective crossing=1.5\n                    ^");
  CHECK(fault_of("moe_layer routing=zipf") ==
        "--kernel:1:19: 'routing' must be balanced or power_law_ and its exponent, got 'zipf'\n"
        "moe_layer routing=zipf\n                  ^");
  CHECK(fault_of("collective group=2x") ==
        "--kernel:1:18: 'group' must be ranks such as 8, 2x8 (two, 8 apart) or 2:4x8, got '2x'\n"
        "collective group=2x\n                 ^");
  CHECK(fault_of(std::string(4097, 'x')) == "--kernel: has 4097 characters, more than 4096");
  CHECK(fault_of("gemm m=\x1b[1m") ==
        "--kernel:1:8: 'm' must be a whole number between 0 and 9007199254740992, got '?[1m'\ngemm m=?[1m\n       ^");
}

TEST_CASE("values that are nearly right are refused") {
  for (const char* text : {"gemm m=",
                           "gemm m=+1",
                           "gemm m=-1",
                           "gemm m=01",
                           "gemm m=1.0",
                           "gemm m=9007199254740993",
                           "gemm type=int8",
                           "collective group=0",
                           "collective group=1x8",
                           "collective group=8x0",
                           "collective group=4:2x2",
                           "collective group=2x8:2",
                           "collective group=2:",
                           "collective group=2:2x4:2x16:2x64:2x256",
                           "collective group=16777216:2x16777216",
                           "collective crossing=-0",
                           "collective crossing=nan",
                           "collective crossing=1e999",
                           "moe_layer routing=power_law_",
                           "moe_layer routing=power_law_0",
                           "moe_layer routing=power_law_inf",
                           "moe_layer routing=power_law_101"}) {
    CAPTURE(text);
    CHECK(fault_of(text).find("' must be ") != std::string::npos);
  }
}
