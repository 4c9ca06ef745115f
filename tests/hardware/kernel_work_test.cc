#include "hardware/kernel_work.h"

#include <doctest/doctest.h>

namespace shardwright {
namespace {

// 2 x 10 x 20 x 30 = 12,000; 2 (10 x 30 + 30 x 20 + 10 x 20) = 2,200 bytes.
TEST_CASE("a product multiplies and adds, and moves its operands and its result once") {
  CHECK(work_of(GemmSpec{10, 20, 30}) == KernelWork{{12000}, {2200}});
  GemmSpec batch{10, 20, 30, 4};
  CHECK(work_of(batch) == KernelWork{{48000}, {8800}});
}

// The result in fp32, read and written: 2 (300 + 600) + 2 x 4 x 200.
TEST_CASE("a result that is added to is read, too") {
  GemmSpec spec{10, 20, 30};
  spec.result = StoredType::fp32;
  spec.accumulate = true;
  CHECK(work_of(spec) == KernelWork{{12000}, {3400}});
}

TEST_CASE("groups of products are a batch of them") {
  GroupedGemmSpec groups;
  groups.groups = 4;
  groups.m_per_group = 10;
  groups.n = 20;
  groups.k = 30;
  CHECK(work_of(groups) == KernelWork{{48000}, {8800}});
}

// Queries and outputs of 2 heads x 8 x (16 + 16), keys and values of 1 head x 8 x (16 + 16), 2 bytes each: 1,024 + 512.
// Two products of 2 x 8 x 8 x 16, half of each visible, and the diagonal: the work is AttentionSpec's own.
TEST_CASE("attention moves queries, keys, values and outputs, and twice that in backward") {
  AttentionSpec spec;
  spec.heads = 2;
  spec.query_length = spec.key_length = 8;
  spec.head_dim = spec.value_dim = 16;
  CHECK(work_of(spec) == KernelWork{spec.work(), {1536}});
  spec.backward = true;
  CHECK(work_of(spec) == KernelWork{spec.work(), {3072}});
}

TEST_CASE("what streams memory computes nothing, and a collective has no place under a roofline") {
  CHECK(work_of(MemorySpec{{4096}}) == KernelWork{{0}, {4096}});
  CHECK_FALSE(work_of(CollectiveSpec{}).has_value());
  CHECK_FALSE(work_of(MoeExchangeSpec{}).has_value());
  CHECK_FALSE(work_of(MlaModuleSpec{}).has_value());
}

}  // namespace
}  // namespace shardwright
