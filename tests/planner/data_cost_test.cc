#include "planner/cost/data_cost.h"

#include <doctest/doctest.h>

#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

using doctest::Approx;

constexpr std::int64_t kElements = 48000;  // Psi; every group below divides it

/// One bucket of weights, all of them gathered in both directions.
GraphPrice weights(RankGroup tensor_ranks = {}) {
  GraphPrice price;
  price.buckets.push_back({false, tensor_ranks, kElements, kElements, kElements});
  return price;
}

Layout data_parallel(int dp, int zero, int group) {
  Layout l;
  l.data = dp;
  l.zero = zero;
  l.shard_group = group;
  return l;
}

Workload in(const TrainingFormats& formats) {
  Workload w;
  w.formats = formats;
  return w;
}

DataCost cost_of(const Layout& layout, const TrainingFormats& formats, const Machine& machine = wire_machine()) {
  return data_cost(weights(), layout, machine, in(formats));
}

/// Resident bytes of one parameter.
double per_parameter(const DataCost& c) {
  return static_cast<double>((c.weights + c.gradients + c.optimizer_state).value) / kElements;
}

}  // namespace

TEST_CASE("data parallelism moves the volumes of the ZeRO paper") {
  // 2 bytes an element everywhere on the wire: volumes in elements are half of the seconds.
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  const double psi = kElements, share = 7. / 8;
  SUBCASE("zero 0: 2 Psi, once a step") {
    const DataCost c = cost_of(data_parallel(8, 0, 1), two_bytes);
    CHECK(c.reduction.value / 2 == Approx(2 * psi * share));
    CHECK(c.gather.value == 0);
    CHECK(c.forward.value == 0);
    CHECK(c.backward.value == 0);
    CHECK(c.buffer.value == 0);
  }
  SUBCASE("zero 1: Psi down and Psi up, once a step") {
    const DataCost c = cost_of(data_parallel(8, 1, 8), two_bytes);
    CHECK(c.reduction.value / 2 == Approx(psi * share));
    CHECK(c.gather.value / 2 == Approx(psi * share));
    CHECK(c.forward.value == 0);
    CHECK(c.backward.value == 0);
    CHECK(c.buffer.value == 0);
  }
  SUBCASE("zero 2: gradients are scattered in every micro-batch") {
    const DataCost c = cost_of(data_parallel(8, 2, 8), two_bytes);
    CHECK(c.reduction.value == 0);
    CHECK(c.gather.value / 2 == Approx(psi * share));
    CHECK(c.forward.value == 0);
    CHECK(c.backward.value / 2 == Approx(psi * share));
    CHECK(c.buffer.value == 2 * kElements);  // one graph's whole gradient
  }
  SUBCASE("zero 3: 3 Psi in every micro-batch") {
    const DataCost c = cost_of(data_parallel(8, 3, 8), two_bytes);
    CHECK(c.reduction.value == 0);
    CHECK(c.gather.value == 0);
    CHECK(c.forward.value / 2 == Approx(psi * share));
    CHECK(c.backward.value / 2 == Approx(2 * psi * share));
    CHECK(c.buffer.value == 2 * kElements + 2 * kElements);  // and its gathered parameters
  }
}

TEST_CASE("an engine that reduces once in pipelines keeps whole gradients there, and only there") {
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  const double psi = kElements, share = 7. / 8;
  Engine engine;
  engine.reduces_once_in_pipelines = true;
  const auto cost = [&](int zero, int stages) {
    Layout l = data_parallel(8, zero, 8);
    l.pipeline = stages;
    return data_cost(weights(), l, wire_machine(), in(two_bytes), false, engine);
  };
  for (const int zero : {2, 3}) {
    CAPTURE(zero);
    const DataCost once = cost(zero, 2), each = cost(zero, 1);
    CHECK(once.reduction.value / 2 == Approx(psi * share));
    CHECK(each.reduction.value == 0);
    CHECK((each.backward - once.backward).value / 2 == Approx(psi * share));
    CHECK(once.gradients.value == 8 * each.gradients.value);
    CHECK((each.buffer - once.buffer).value == 2 * kElements);  // a graph's whole gradient is among those that are kept
  }
}

TEST_CASE("zero 3 in lists takes the host an operator a matrix and rank, in each gather and in the reduction") {
  // 3 matrices and 4 ranks of a shard, 2.7 s an operator of Transformer Engine's, 1 s of PyTorch's: 12 s a collective.
  Engine engine;
  engine.habits.transformer_engine = false;
  engine.constants[EngineConstant::host_seconds_per_kernel] = 2.7;
  engine.shards_in_lists = true;
  GraphPrice price = weights();
  price.buckets[0].matrices = 3;
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  const auto more = [&](int zero) {
    const Layout l = data_parallel(8, zero, 4);
    const DataCost listed = data_cost(price, l, wire_machine(), in(two_bytes), false, engine);
    const DataCost plain = cost_of(l, two_bytes);
    return std::pair((listed.forward - plain.forward).value, (listed.backward - plain.backward).value);
  };
  CHECK(more(3).first == Approx(12));
  CHECK(more(3).second == Approx(24));
  CHECK(more(2) == std::pair(0., 0.));
}

TEST_CASE("hybrid sharding reduces the shard over the replicas once a step") {
  // 8 ranks in 2 replicas of 4 shards: scatter over 4, all-reduce of a quarter over 2.
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  const double psi = kElements;
  const DataCost c = cost_of(data_parallel(8, 3, 4), two_bytes);
  CHECK(c.forward.value / 2 == Approx(psi * 3 / 4));
  CHECK(c.backward.value / 2 == Approx(2 * psi * 3 / 4));
  CHECK(c.reduction.value / 2 == Approx(2 * (psi / 4) * 1 / 2));
  CHECK(c.gather.value == 0);
  const DataCost one = cost_of(data_parallel(8, 1, 4), two_bytes);
  CHECK(one.reduction.value / 2 == Approx(psi * 3 / 4 + 2 * (psi / 4) / 2));
  CHECK(one.gather.value / 2 == Approx(psi * 3 / 4));
}

TEST_CASE("bf16 training reduces fp32 gradients and gathers bf16 parameters") {
  const DataCost c = cost_of(data_parallel(8, 1, 8), formats_for(DataType::bf16));
  CHECK(c.reduction.value == Approx(4. * kElements * 7 / 8));
  CHECK(c.gather.value == Approx(2. * kElements * 7 / 8));
}

TEST_CASE("context parallel ranks share the weights") {
  Layout l = data_parallel(4, 1, 8);
  l.context = 2;
  const DataCost c = cost_of(l, formats_for(DataType::fp16));
  CHECK(c.reduction.value == Approx(2. * kElements * 7 / 8));
  CHECK(per_parameter(c) == Approx(4 + 12. / 8));
}

TEST_CASE("gradients that are partial over tp are summed over it, on the shard where there is one") {
  // Norms under sequence parallelism with tp 2.
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  Layout l = data_parallel(4, 0, 1);
  l.tensor = 2;
  const double psi = kElements;
  CHECK(data_cost(weights(run_of(2)), l, wire_machine(), in(two_bytes)).reduction.value / 2 == Approx(2 * psi * 7 / 8));
  l.zero = 1;
  l.shard_group = 4;
  CHECK(data_cost(weights(run_of(2)), l, wire_machine(), in(two_bytes)).reduction.value / 2 ==
        Approx(psi * 3 / 4 + 2 * (psi / 4) / 2));
}

TEST_CASE("data parallel groups lie where the rank order puts them") {
  // tp 4 fills a node. dp 4 outside of it is one lane of the rail: 10 s a step, two ways. With pp 4 between, it is the
  // spine's.
  Layout l = data_parallel(4, 0, 1);
  l.tensor = 4;
  l.pipeline = 4;
  const TrainingFormats two_bytes = formats_for(DataType::fp16);
  const double wire = 2. * 2 * kElements * 3 / 4;
  CHECK(cost_of(l, two_bytes, round_machine()).reduction.value == Approx(wire / 10 + 60 + 0.5));
  l.rank_order = RankOrder::tp_cp_pp_dp;
  CHECK(cost_of(l, two_bytes, round_machine()).reduction.value == Approx(wire / 5 + 600 + 0.5));
}

TEST_CASE("one replica moves nothing") {
  const DataCost c = cost_of(Layout{}, formats_for(DataType::bf16), round_machine());
  CHECK(c.forward.value == 0);
  CHECK(c.backward.value == 0);
  CHECK(c.reduction.value == 0);
  CHECK(c.gather.value == 0);
}

TEST_CASE("resident bytes of a parameter with fp32 gradients are Megatron's") {
  const TrainingFormats bf16 = formats_for(DataType::bf16);
  for (int d : {2, 8, 16}) {
    CAPTURE(d);
    CHECK(per_parameter(cost_of(data_parallel(d, 0, 1), bf16)) == Approx(18));
    CHECK(per_parameter(cost_of(data_parallel(d, 1, d), bf16)) == Approx(6 + 12. / d));
    CHECK(per_parameter(cost_of(data_parallel(d, 2, d), bf16)) == Approx(2 + 16. / d));
    CHECK(per_parameter(cost_of(data_parallel(d, 3, d), bf16)) == Approx(18. / d));
  }
}

TEST_CASE("resident bytes of a parameter with 2-byte gradients are the ZeRO paper's") {
  TrainingFormats two_bytes = formats_for(DataType::bf16);
  two_bytes.gradient = two_bytes.gradient_reduce = DataType::bf16;
  for (int d : {2, 8, 16}) {
    CAPTURE(d);
    CHECK(per_parameter(cost_of(data_parallel(d, 0, 1), two_bytes)) == Approx(16));
    CHECK(per_parameter(cost_of(data_parallel(d, 1, d), two_bytes)) == Approx(4 + 12. / d));
    CHECK(per_parameter(cost_of(data_parallel(d, 2, d), two_bytes)) == Approx(2 + 14. / d));
    CHECK(per_parameter(cost_of(data_parallel(d, 3, d), two_bytes)) == Approx(16. / d));
  }
}

TEST_CASE("fp32 training has no main copy beside its parameters") {
  CHECK(per_parameter(cost_of(data_parallel(8, 0, 1), formats_for(DataType::fp32))) == Approx(16));
}

TEST_CASE("the optimizer streams what it reads and writes, once") {
  // An element on its shard: the gradient 4, both moments and the main copy 12 in and 12 out, the parameter 2 out. At
  // 1e12 B/s.
  const DataCost c = cost_of(data_parallel(8, 1, 8), formats_for(DataType::bf16));
  CHECK(c.optimizer.value == Approx(30. * kElements / 8 / 1e12));
  CHECK(cost_of(data_parallel(8, 0, 1), formats_for(DataType::bf16)).optimizer.value == Approx(30. * kElements / 1e12));
}

TEST_CASE("a table that is counted elsewhere is left out") {
  GraphPrice price = weights();
  price.tied_elements = kElements / 4;
  const DataCost with =
      data_cost(price, data_parallel(8, 1, 8), wire_machine(), in(formats_for(DataType::bf16)), false);
  const DataCost without =
      data_cost(price, data_parallel(8, 1, 8), wire_machine(), in(formats_for(DataType::bf16)), true);
  CHECK(without.weights.value * 4 == with.weights.value * 3);
  CHECK(without.optimizer_state.value * 4 == with.optimizer_state.value * 3);
  CHECK(without.reduction.value == Approx(with.reduction.value * 3 / 4));
}

TEST_CASE("a graph without weights costs nothing, not even an optimizer's launch") {
  const DataCost c = data_cost({}, data_parallel(8, 3, 8), round_machine(), in(formats_for(DataType::bf16)));
  CHECK(c.optimizer.value == 0);
  CHECK(c.forward.value == 0);
  CHECK((c.weights + c.gradients + c.optimizer_state + c.buffer).value == 0);
}

TEST_CASE("an optimizer that works in fp32 copies narrower gradients, each rank those of its shard") {
  const TrainingFormats fp16 = formats_for(DataType::fp16);
  CHECK(cost_of(data_parallel(8, 0, 1), fp16).widened == Bytes{4 * kElements});
  CHECK(cost_of(data_parallel(8, 1, 8), fp16).widened == Bytes{4 * kElements / 8});
  CHECK(cost_of(data_parallel(8, 0, 1), formats_for(DataType::bf16)).widened == Bytes{0});  // they are fp32
  Workload none = in(fp16);
  none.memory.widens_gradients = false;
  CHECK(data_cost(weights(), data_parallel(8, 0, 1), wire_machine(), none).widened == Bytes{0});
}

TEST_CASE("weights that fp8 products read are kept as cast, or transposed where they are fp8 themselves") {
  Workload w = in(formats_for(DataType::fp8));
  CHECK(narrow_casts(100, w) == Bytes{200});  // row-wise and column-wise
  w.formats.parameter = DataType::fp8;
  CHECK(narrow_casts(100, w) == Bytes{100});
  w.memory.narrow_weights = false;
  CHECK(narrow_casts(100, w) == Bytes{0});
  CHECK(narrow_casts(100, in(formats_for(DataType::bf16))) == Bytes{0});
}

}  // namespace shardwright
