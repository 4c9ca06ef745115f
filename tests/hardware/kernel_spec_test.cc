#include "hardware/kernel_spec.h"

#include <doctest/doctest.h>

using namespace shardwright;

TEST_CASE("attention's forward work is two products, causal half of them") {
  AttentionSpec spec{.batch = 2,
                     .heads = 3,
                     .kv_heads = 1,
                     .query_length = 100,
                     .key_length = 100,
                     .head_dim = 10,
                     .value_dim = 20,
                     .causal = false};
  // Pairs: 2 * 3 * 100 * 100 = 60,000; scores 2 * 10 and output 2 * 20 a pair.
  CHECK(spec.work().value == 60'000 * 60);
  spec.causal = true;
  CHECK(spec.work().value == 30'000 * 60);
}

TEST_CASE("attention's backward work is five products") {
  AttentionSpec spec{
      .query_length = 10, .key_length = 10, .head_dim = 1, .value_dim = 1, .causal = false, .backward = true};
  CHECK(spec.work().value == 100 * 2 * 5);
  // Three products are as wide as the heads, two as the values.
  spec.head_dim = 100;
  CHECK(spec.work().value == 100 * 2 * (3 * 100 + 2));
  spec.head_dim = 1;
  spec.value_dim = 100;
  CHECK(spec.work().value == 100 * 2 * (3 + 2 * 100));
}

TEST_CASE("a window limits the keys that a query sees") {
  AttentionSpec spec{.query_length = 1000, .key_length = 1000, .window = 100, .causal = false};
  CHECK(spec.visible_keys() == 100);
  // Causal: the first 100 queries see 50 on average, the other 900 see 100: 95 over all.
  spec.causal = true;
  CHECK(spec.visible_keys() == doctest::Approx(95));
  spec.window = 5000;  // wider than the text
  CHECK(spec.visible_keys() == 500);
}

TEST_CASE("a slice of the queries sees half of all keys on average") {
  const AttentionSpec slice{.query_length = 25, .key_length = 100};
  CHECK(slice.visible_keys() == 50);
}

TEST_CASE("collectives have the names of YAML and reports") {
  CHECK(name_of(CollectiveKind::all_reduce) == "all_reduce");
  CHECK(name_of(CollectiveKind::all_gather) == "all_gather");
  CHECK(name_of(CollectiveKind::reduce_scatter) == "reduce_scatter");
  CHECK(name_of(CollectiveKind::all_to_all) == "all_to_all");
  CHECK(name_of(CollectiveKind::send_recv) == "send_recv");
}

TEST_CASE("queries at the end of their keys see all that lies before") {
  // Queries at positions 60 to 100: 80 keys on average.
  AttentionSpec spec{.query_length = 40, .key_length = 100, .queries_last = true};
  CHECK(spec.visible_keys() == doctest::Approx(80));
  spec.window = 70;  // ten queries see 65 on average, thirty see 70
  CHECK(spec.visible_keys() == doctest::Approx(68.75));
  spec.window = 50;
  CHECK(spec.visible_keys() == 50);
}

TEST_CASE("sparse attention sees the keys that it selects") {
  AttentionSpec spec{.query_length = 1, .key_length = 0, .causal = false, .selected = 2048};
  CHECK(spec.visible_keys() == 2048);
  spec.key_length = 1000;
  CHECK(spec.visible_keys() == 1000);
}

TEST_CASE("a result needs no saying where it is as wide as its operands, or 16 bits") {
  CHECK(default_result(DataType::fp32) == StoredType::fp32);
  CHECK(default_result(DataType::fp16) == StoredType::fp16);
  CHECK(default_result(DataType::fp8) == StoredType::bf16);
  CHECK(default_result(DataType::nvfp4) == StoredType::bf16);
  for (const DataType type : kDataTypes)
    CHECK(kStoredTypeNames[static_cast<std::size_t>(stored(type))] == name_of(type));
}
