#include "hardware/measured_times.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <thread>

#include "hardware/carried_over.h"
#include "hardware/leave_out.h"
#include "hardware/operator_tables.h"
#include "tests/support/measured.h"
#include "tests/support/measured_machine.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// A benchmark is no long run.
Machine rested(Machine machine) {
  machine.sustained = {};
  return machine;
}
Machine h100() { return rested(find_machine("h100-sxm-80gb")); }

/// What a well-behaved machine would take: a launch, and both roofs, one after the other.
double plain_seconds(const GemmSpec& s) {
  const double m = static_cast<double>(s.m), n = static_cast<double>(s.n), k = static_cast<double>(s.k);
  return 3e-6 + 2 * m * n * k / 600e12 + 2 * (m * k + n * k + m * n) / 2.8e12;
}

/// 80 layers of n, k from 64 to 8192, each with 15 sizes of m; every row `times` as long as plain_seconds says.
Measurements plain_gemms(double times = 1) {
  std::mt19937 random(9);
  const auto size = [&] {
    return static_cast<std::int64_t>(64 * std::exp2(static_cast<double>(random() % 701) / 100));
  };
  KernelTable table(KernelFamily::gemm);
  for (int layer = 0; layer < 80; ++layer) {
    const std::int64_t n = size(), k = size();
    for (std::int64_t m = 1; m <= 16384; m *= 2) {
      const GemmSpec spec{.m = m, .n = n, .k = k};
      table.add(to_slots(spec), {times * plain_seconds(spec)}, "gemm", "");
    }
  }
  Measurements measured;
  measured.add(std::move(table));
  return measured;
}

Measurements one_table(KernelTable table) {
  Measurements measured;
  measured.add(std::move(table));
  return measured;
}

}  // namespace

TEST_CASE("a question of the table has its time, the fastest of its kernels") {
  KernelTable table(KernelFamily::gemm);
  const GemmSpec spec{.m = 16, .n = 32, .k = 64};
  for (const double seconds : {3., 9., 4.}) table.add(to_slots(spec), {seconds}, "a", "");  // repeats: the middle one
  table.add(to_slots(spec), {3.5}, "b", "");
  const Machine machine = with_measurements(h100(), one_table(std::move(table)));
  const KernelCost cost = look_up(spec, machine);
  CHECK(cost.time.value == 3.5);
  CHECK(cost.source == CostSource::measured);
  CHECK(cost.relative_error == 0.02);
}

TEST_CASE("between the rows of a table times are read off, and beyond it that is told") {
  const Machine machine = with_measurements(h100(), plain_gemms());
  for (const GemmSpec& spec : {GemmSpec{.m = 4096, .n = 1500, .k = 700}, GemmSpec{.m = 96, .n = 3000, .k = 3000}}) {
    const KernelCost cost = look_up(spec, machine);
    CHECK(cost.source == CostSource::interpolated);
    CHECK(cost.time.value == Approx(plain_seconds(spec)).epsilon(0.06));
    CHECK(cost.relative_error > 0);
    CHECK(cost.relative_error < 0.15);
  }
  const KernelCost beyond = look_up(GemmSpec{.m = 262144, .n = 8192, .k = 8192}, machine);
  CHECK(beyond.source == CostSource::extrapolated);
  CHECK(beyond.time.value == Approx(plain_seconds({.m = 262144, .n = 8192, .k = 8192})).epsilon(0.15));
}

TEST_CASE("times twice as long are predicted twice as long") {
  const Machine once = with_measurements(h100(), plain_gemms()), twice = with_measurements(h100(), plain_gemms(2));
  std::mt19937 random(1);
  const auto size = [&] { return static_cast<std::int64_t>(random() % 10000) + 1; };
  for (int i = 0; i < 200; ++i) {
    const GemmSpec spec{.m = size(), .n = size(), .k = size(), .batch = 1 + static_cast<std::int64_t>(random() % 3)};
    CAPTURE(to_string(spec));
    // The model of a time has a term that the datasheet sets; the ratio that is read off makes up for it where there
    // are rows near.
    const double inside = std::max({spec.m, spec.n, spec.k}) <= 8192 ? 0.02 : 0.05;
    CHECK(look_up(spec, twice).time.value == Approx(2 * look_up(spec, once).time.value).epsilon(inside));
  }
}

TEST_CASE("what nothing alike was measured of is the datasheet's to say") {
  const Machine plain = h100(), machine = with_measurements(plain, plain_gemms());
  const GemmSpec fp8{.m = 512, .n = 512, .k = 512, .type = DataType::fp8};
  CHECK(look_up(fp8, machine).source == CostSource::datasheet);
  CHECK(look_up(fp8, machine).time == look_up(fp8, plain).time);
  CHECK(look_up(MemorySpec{{1000}}, machine).source == CostSource::datasheet);
  CHECK(look_up(AttentionSpec{.query_length = 512, .key_length = 512}, machine).source == CostSource::datasheet);
  CHECK(look_up(GemmSpec{.m = 0, .n = 512, .k = 512}, machine).source == CostSource::datasheet);
  const GemmSpec fp16{.m = 512, .n = 512, .k = 512, .type = DataType::fp16};  // as fast as bf16, but not measured
  CHECK(look_up(fp16, machine).source == CostSource::extrapolated);
  CHECK(look_up(fp16, machine).time.value == Approx(plain_seconds(fp16)).epsilon(0.05));
}

TEST_CASE("a few rows answer only themselves") {
  KernelTable table(KernelFamily::gemm);
  for (std::int64_t m = 1; m <= 7; ++m) table.add(to_slots(GemmSpec{.m = m, .n = 8, .k = 8}), {1}, "", "");
  const Machine machine = with_measurements(h100(), one_table(std::move(table)));
  CHECK(look_up(GemmSpec{.m = 7, .n = 8, .k = 8}, machine).source == CostSource::measured);
  CHECK(look_up(GemmSpec{.m = 8, .n = 8, .k = 8}, machine).source == CostSource::datasheet);
}

TEST_CASE("a batch of products is that of all its rows, by the datasheet's ratio") {
  const Machine plain = h100(), machine = with_measurements(plain, plain_gemms());
  const GemmSpec batched{.m = 256, .n = 1024, .k = 2048, .batch = 8}, one{.m = 2048, .n = 1024, .k = 2048};
  const KernelCost cost = look_up(batched, machine);
  CHECK(cost.source == CostSource::extrapolated);
  CHECK(cost.time.value ==
        Approx(look_up(one, machine).time.value * (look_up(batched, plain).time / look_up(one, plain).time)));
  CHECK(cost.relative_error ==
        Approx(std::hypot(look_up(one, machine).relative_error, plain.efficiency.relative_error)));
}

TEST_CASE("groups of products are a batch, until they are measured") {
  const Machine plain = h100(), machine = with_measurements(plain, plain_gemms());
  const GroupedGemmSpec groups{.groups = 8, .m_per_group = 256, .n = 1024, .k = 2048};
  const GemmSpec batch = as_batch(groups);
  CHECK(batch == GemmSpec{.m = 256, .n = 1024, .k = 2048, .batch = 8});
  for (const Machine& m : {plain, machine}) {
    CHECK(look_up(groups, m).time == look_up(batch, m).time);
    CHECK(look_up(groups, m).source == look_up(batch, m).source);
    CHECK(look_up(groups, m).relative_error == look_up(batch, m).relative_error);
    CHECK(steady_time(groups, m) == steady_time(batch, m));
  }
  Measurements both = plain_gemms();
  GroupedGemmSpec larger = groups, others = groups;
  larger.m_per_group = 512;
  others.k = 1024;
  both.add(table_of(KernelFamily::grouped_gemm, {{groups, 1}, {larger, 2}}));
  const Machine measured = with_measurements(plain, both);
  CHECK(look_up(groups, measured).time.value == 1);
  CHECK(look_up(groups, measured).source == CostSource::measured);
  larger.m_per_group = 384;
  CHECK(look_up(larger, measured).source == CostSource::interpolated);
  CHECK(look_up(others, measured).time == look_up(as_batch(others), measured).time);  // no curve of its own
  CHECK(steady_time(groups, measured) <= look_up(groups, measured).time);
}

TEST_CASE("a product without its cast is one with it by the curves' ratio, until it is measured") {
  const GemmSpec cast{.m = 4096, .n = 1024, .k = 2048, .type = DataType::fp8};
  GemmSpec alone = cast;
  alone.cast = false;
  const Machine curves = h100();
  const double ratio = look_up(alone, curves).time / look_up(cast, curves).time;
  CHECK(ratio < 1);
  KernelTable table(KernelFamily::gemm);
  table.add(to_slots(cast), {1}, "", "");
  // Near the datasheet's rates, which no answer may pass.
  table.add(to_slots(GemmSpec{.m = 8192, .n = 8192, .k = 8192, .type = DataType::fp8}), {1e-3}, "", "");
  const KernelCost cost = look_up(alone, with_measurements(h100(), one_table(table)));
  CHECK(cost.time.value == Approx(ratio));
  CHECK(cost.source == CostSource::extrapolated);
  table.add(to_slots(alone), {0.5}, "", "");
  const Machine both = with_measurements(h100(), one_table(std::move(table)));
  CHECK(look_up(alone, both).time.value == 0.5);
  CHECK(look_up(cast, both).time.value == 1);
  CHECK(steady_time(alone, both) <= Seconds{0.5});
}

TEST_CASE("backward attention is forward's time by the datasheet's ratio, until it is measured") {
  const Machine plain = h100();
  AttentionSpec spec{.batch = 2, .heads = 16, .kv_heads = 8, .query_length = 16384, .key_length = 16384};
  const double forward = 2 * look_up(spec, plain).time.value;
  KernelTable table = table_of(KernelFamily::attention, {{spec, forward}});
  const Machine few = with_measurements(plain, one_table(table));
  AttentionSpec back = spec;
  back.backward = true;
  const KernelCost cost = look_up(back, few);
  CHECK(cost.time.value == Approx(2 * look_up(back, plain).time.value));
  CHECK(cost.source == CostSource::extrapolated);
  table.add(to_slots(back), {7}, "", "");
  table.sort();
  CHECK(look_up(back, with_measurements(plain, one_table(table))).time.value == 7);
}

TEST_CASE("what was measured on another machine of the chip is carried over: of it what memory explains") {
  const Machine h100s = h100(), h200 = rested(find_machine("h200-sxm-141gb")),
                h800 = rested(find_machine("h800-sxm-80gb"));
  CHECK(same_chip(h100s, h200));
  CHECK(same_chip(h100s, h800));
  CHECK_FALSE(same_chip(h100s, find_machine("a100-sxm-80gb")));
  // Weights of 8192 x 8192 and one row: 2 x (8192 + 8192 + 8192^2) bytes. At 0.85 of 3.35 TB/s behind 2.5 us all of the
  // time is memory's, and shrinks by 3.35 / 4.8; twice as long beyond the launch, a quarter is.
  const GemmSpec thin{.m = 1, .n = 8192, .k = 8192}, fat{.m = 8192, .n = 8192, .k = 8192};
  const double memory = 2 * (8192. + 8192. + 8192. * 8192.) / 3.35e12 / 0.85, ratio = 3.35 / 4.8;
  const auto carried = [&](double seconds, const Machine& to) {
    const auto tables = carried_over(one_table(table_of(KernelFamily::gemm, {{thin, seconds}})), h100s, to);
    return tables.table(KernelFamily::gemm).seconds()[0];
  };
  CHECK(h200.memory_bandwidth.value == 4.8e12);
  CHECK(carried(2.5e-6 + memory, h200) == Approx(2.5e-6 + memory * ratio));
  CHECK(carried(2.5e-6 + 2 * memory, h200) == Approx(2.5e-6 + 2 * memory * (1 + 0.25 * (ratio - 1))));
  CHECK(carried(1e-6, h200) == 1e-6);
  CHECK(carried(1e-3, h800) == 1e-3);

  const auto of_h100 = carried_over(plain_gemms(), h100s, h800);
  Machine machine = h800;
  machine.measured = std::make_shared<const MeasuredTimes>(
      machine, std::make_shared<const Measurements>(one_table(table_of(KernelFamily::gemm, {{fat, 7}}))),
      std::make_shared<const Measurements>(of_h100));
  CHECK(look_up(fat, machine).time.value == 7);  // its own
  CHECK(look_up(fat, machine).source == CostSource::measured);
  const GemmSpec between{.m = 4096, .n = 1500, .k = 700};
  const KernelCost cost = look_up(between, machine), there = look_up(between, with_measurements(h100s, plain_gemms()));
  CHECK(cost.time == there.time);
  CHECK(cost.source == CostSource::extrapolated);
  CHECK(cost.relative_error == Approx(std::hypot(there.relative_error, 0.05)));
  CHECK(steady_time(between, machine) < cost.time);
  CHECK(look_up(MemorySpec{{1000}}, machine).source == CostSource::datasheet);
}

TEST_CASE("no answer falls below the steady time of what it is a part of") {
  const Machine h100s = badly_measured(h100(), 1);
  Machine carried = rested(find_machine("h200-sxm-141gb"));  // with a few rows of its own
  carried.measured = std::make_shared<const MeasuredTimes>(
      carried, std::make_shared<const Measurements>(one_table(table_of(KernelFamily::gemm, {{GemmSpec{}, 1e-6}}))),
      std::make_shared<const Measurements>(carried_over(h100s.measured->measurements(), h100s, carried)));
  for (const Machine& machine : {h100s, badly_measured(rested(find_machine("a100-sxm-40gb")), 1), carried}) {
    std::mt19937 random(2);
    const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
    for (int i = 0; i < 500; ++i) {
      const std::int64_t parts = size(64);
      const double times = static_cast<double>(parts) * (1 + 1e-9);
      const GemmSpec gemm{.m = size(3000), .n = size(3000), .k = size(20000), .batch = size(9)};
      for (std::int64_t GemmSpec::*parted : {&GemmSpec::m, &GemmSpec::k, &GemmSpec::batch}) {
        GemmSpec whole = gemm;
        whole.*parted *= parts;
        CHECK(steady_time(whole, machine).value <= times * look_up(gemm, machine).time.value);
      }
      AttentionSpec one{.batch = size(4), .heads = size(16), .query_length = size(4096), .key_length = size(4096)};
      one.backward = random() % 2;
      AttentionSpec all = one;
      all.batch *= parts;
      CHECK(steady_time(all, machine).value <= times * look_up(one, machine).time.value);
      const MemorySpec pass{{size(1'000'000)}};
      CHECK(steady_time(MemorySpec{parts * pass.moved}, machine).value <= times * look_up(pass, machine).time.value);
    }
    // And a useful one: half of the time of a large product.
    const GemmSpec large{.m = 8192, .n = 8192, .k = 8192};
    CHECK(steady_time(large, machine) > 0.4 * look_up(large, machine).time);
  }
}

TEST_CASE("many threads are told the same") {
  const Machine machine = with_measurements(h100(), plain_gemms());
  std::vector<std::vector<double>> answers(4);
  std::vector<std::thread> threads;
  for (std::vector<double>& mine : answers)
    threads.emplace_back([&] {
      for (std::int64_t m = 100; m < 700; ++m)
        mine.push_back(look_up({.m = m, .n = 999, .k = 555}, machine).time.value);
    });
  for (std::thread& t : threads) t.join();
  for (const std::vector<double>& mine : answers) CHECK(mine == answers[0]);
}

TEST_CASE("sites that are left out of a table are scored by family and kind") {
  const MeasuredTimes times(h100(), std::make_shared<const Measurements>(plain_gemms()));
  const std::vector<LeaveOutError> errors = leave_out_errors(times);
  REQUIRE(errors.size() == 1);
  CHECK(errors[0].family == KernelFamily::gemm);
  CHECK(errors[0].kind == "bf16");
  CHECK(errors[0].left_out == "n, k");
  CHECK(errors[0].questions == 80 * 15);
  CHECK(errors[0].median < 0.03);
  CHECK(errors[0].median > 0);
  CHECK(leave_out_errors(times, 4)[0].questions == 80 * 15 / 4);
  CHECK(leave_out_errors(MeasuredTimes(h100(), std::make_shared<const Measurements>())).empty());
}

TEST_CASE("of the H100's published tables, what is left out is known as well as README.md says") {
  const auto measured = measured_folder();
  if (!measured) return;
  const OperatorImport import = import_operator_tables((*measured / "silicon" / "h100_sxm").string(), 8);
  const MeasuredTimes times(h100(), std::make_shared<const Measurements>(import.measured));
  // A machine that takes twice as long is predicted to.
  Measurements slow;
  for (int i = 0; i < kKernelFamilies; ++i) {
    const KernelTable& table = import.measured.table(static_cast<KernelFamily>(i));
    KernelTable twice(table.family());
    for (std::size_t row = 0; row < table.size(); ++row)
      twice.add(table.slots(row), {2 * table.seconds()[row]}, table.kernel(row), table.framework(row));
    slow.add(std::move(twice));
  }
  const MeasuredTimes slower(h100(), std::make_shared<const Measurements>(std::move(slow)));
  std::mt19937 random(3);
  const auto size = [&](double most) {
    return static_cast<std::int64_t>(std::exp(static_cast<double>(random() % 1000) / 1000 * std::log(most)));
  };
  for (int i = 0; i < 300; ++i) {
    AttentionSpec attention{.batch = size(16), .heads = 8 * size(4), .kv_heads = 8};
    attention.query_length = attention.key_length = 64 * size(100);
    CollectiveSpec collective{.kind = static_cast<CollectiveKind>(random() % 4), .held = {1024 * size(200000)}};
    collective.group.add(2 << random() % 3, 1);
    for (const KernelSpec& spec : {KernelSpec(GemmSpec{.m = size(10000), .n = 64 * size(128), .k = 64 * size(128)}),
                                   KernelSpec(attention), KernelSpec(collective)}) {
      CAPTURE(to_string(spec));
      CHECK(slower.find(spec)->time.value == Approx(2 * times.find(spec)->time.value).epsilon(0.03));
    }
  }

  struct Target {
    KernelFamily family;
    const char *kind, *left_out;
    double median, p90;
  };
  std::size_t found = 0;
  for (const LeaveOutError& e : leave_out_errors(times, 5)) {
    for (const Target& t :
         {Target{KernelFamily::gemm, "bf16", "", 0.03, 0.12}, Target{KernelFamily::gemm, "fp8", "", 0.045, 0.12},
          Target{KernelFamily::attention, "prefill", "", 0.025, 0.10},
          Target{KernelFamily::attention, "decode", "", 0.025, 0.10},
          Target{KernelFamily::moe_layer, "", "", 0.08, 0.6},
          Target{KernelFamily::collective, "NCCL", "a size", 0.03, 0.15},
          Target{KernelFamily::collective, "NCCL", "a type", 0.03, 0.15},
          Target{KernelFamily::collective, "NCCL", "a kind at a count of ranks", 0.10, 0.4}}) {
      if (e.family != t.family || e.kind != t.kind || (*t.left_out && e.left_out != t.left_out)) continue;
      CAPTURE(e.kind);
      CAPTURE(e.left_out);
      CHECK(e.median <= t.median);
      CHECK(e.p90 <= t.p90);
      CHECK(e.within_sigma > 0.55);
      CHECK(e.within_sigma < 0.80);
      ++found;
    }
  }
  CHECK(found == 8);
}
