#include "hardware/curve_times.h"

#include <doctest/doctest.h>

#include <cmath>

using doctest::Approx;
using namespace shardwright;

namespace {

constexpr auto kReduce = CollectiveKind::all_reduce, kGather = CollectiveKind::all_gather;

CollectiveSpec spec(CollectiveKind kind, std::int64_t bytes, std::int32_t ranks, std::optional<StoredType> type = {},
                    std::int64_t stride = 1) {
  CollectiveSpec s{.kind = kind, .held = {bytes}, .type = type};
  s.group.add(ranks, stride);
  return s;
}

/// Sizes 100, 200, .. 800 of both kinds: 2 and 4 ranks, 8 only of all_gather. All_reduce takes twice as long. Types
/// fp16 and, of all_gather on 2 ranks, int8, which takes a tenth more.
KernelTable table() {
  KernelTable t(KernelFamily::collective);
  const auto add = [&](const CollectiveSpec& s, double seconds) { t.add(to_slots(s), {seconds}, "NCCL", ""); };
  for (std::int64_t bytes = 100; bytes <= 800; bytes += 100) {
    for (const std::int32_t ranks : {2, 4, 8}) {
      const double seconds = 10 * ranks + static_cast<double>(bytes);
      add(spec(kGather, bytes, ranks, StoredType::fp16), seconds);
      if (ranks < 8) add(spec(kReduce, bytes, ranks, StoredType::fp16), 2 * seconds);
    }
    add(spec(kGather, bytes, 2, StoredType::int8), 1.1 * (20 + static_cast<double>(bytes)));
  }
  t.sort();
  return t;
}

}  // namespace

TEST_CASE("a collective is measured at a size of its table and interpolated between two") {
  const CollectiveTimes times(table(), 8);
  const KernelCost known = *times.read(spec(kGather, 300, 4, StoredType::fp16));
  CHECK(known.time.value == 340);
  CHECK(known.source == CostSource::measured);
  CHECK(known.relative_error == 0.02);
  const KernelCost between = *times.read(spec(kGather, 350, 4, StoredType::fp16));
  CHECK(between.time.value == Approx(390));
  CHECK(between.source == CostSource::interpolated);
  const KernelCost beyond = *times.read(spec(kGather, 1000, 4, StoredType::fp16));
  CHECK(beyond.time.value == Approx(1040));
  CHECK(beyond.source == CostSource::extrapolated);
  CHECK(times.read(spec(kGather, 300, 4, StoredType::fp16), CollectiveTimes::Without::size)->source ==
        CostSource::interpolated);
}

TEST_CASE("another type answers for one that was not measured, at the same bytes") {
  const CollectiveTimes times(table(), 8);
  const KernelCost other = *times.read(spec(kGather, 300, 4, StoredType::int8));
  CHECK(other.time.value == 340);
  CHECK(other.source == CostSource::interpolated);
  CHECK(other.relative_error == Approx(std::log(1.1)));  // what int8 and fp16 of 2 ranks differ by
  CHECK(times.read(spec(kGather, 300, 2, StoredType::int8))->time.value == Approx(352));
  CHECK(times.read(spec(kGather, 300, 2, StoredType::int8), CollectiveTimes::Without::type)->time.value == 320);
  CHECK(times.read(spec(kGather, 300, 2))->time.value == 320);  // not stated: 16 bits
  CHECK(times.read(spec(kGather, 300, 2))->source == CostSource::measured);
}

TEST_CASE("a kind that was not measured at a count of ranks is carried over from other kinds") {
  const CollectiveTimes times(table(), 8);
  const KernelCost carried = *times.read(spec(kReduce, 300, 8));
  CHECK(carried.time.value == Approx(2 * 380));  // twice an all_gather, as at 2 and 4 ranks
  CHECK(carried.source == CostSource::extrapolated);
  CHECK(times.read(spec(kReduce, 300, 4), CollectiveTimes::Without::ranks)->time.value == Approx(2 * 340));
  CHECK_FALSE(times.read(spec(CollectiveKind::send_recv, 300, 2)));
  CHECK_FALSE(times.read(spec(kReduce, 300, 3)));
}

TEST_CASE("ranks may lie apart in a node but not outside of it") {
  const CollectiveTimes times(table(), 8);
  CHECK(times.read(spec(kGather, 300, 2, {}, 4))->time.value == 320);
  CHECK_FALSE(times.read(spec(kGather, 300, 2, {}, 8)));
  CHECK_FALSE(times.read(spec(kGather, 300, 1)));
  CHECK(CollectiveTimes(table(), 0).read(spec(kGather, 300, 2, {}, 8))->time.value == 320);
  CHECK_FALSE(CollectiveTimes(table(), 4).read(spec(kGather, 300, 8)));
}

TEST_CASE("an all-reduce of an engine is another curve than NCCL's") {
  const CollectiveTimes times(table(), 8);
  CollectiveSpec custom = spec(kReduce, 300, 4);
  custom.algorithm = CollectiveAlgorithm::custom;
  CHECK_FALSE(times.read(custom));
}

TEST_CASE("the least slope of a collective is under all of its sizes") {
  const CollectiveTimes times(table(), 8);
  CHECK(*times.least_slope(spec(kGather, 800, 4)) == Approx(1.05));
  CHECK(*times.least_slope(spec(kGather, 400, 4)) == Approx(1.1));
  CHECK(*times.least_slope(spec(kReduce, 400, 8)) == 0);  // carried over: not known
  CHECK_FALSE(times.least_slope(spec(CollectiveKind::send_recv, 300, 2)));
}

TEST_CASE("other families are read along their size, the fastest kernel at each") {
  KernelTable t(KernelFamily::memory);
  for (std::int64_t bytes = 100; bytes <= 400; bytes += 100) {
    t.add(to_slots(MemorySpec{{bytes}}), {static_cast<double>(bytes)}, "slow", "");
    t.add(to_slots(MemorySpec{{bytes}}), {static_cast<double>(bytes) / 2}, "fast", "");
  }
  t.sort();
  const CurveTimes times(t);
  CHECK(times.read(MemorySpec{{250}})->time.value == Approx(125));
  CHECK(times.read(MemorySpec{{250}})->relative_error == Approx(0).epsilon(1e-6));
  CHECK(times.read(MemorySpec{{800}})->source == CostSource::extrapolated);
  CHECK_FALSE(CurveTimes(KernelTable(KernelFamily::memory)).read(MemorySpec{{250}}));
}
