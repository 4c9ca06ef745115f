#include "planner/cost/exchange_cost.h"

#include <doctest/doctest.h>

#include "hardware/collective_curves.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

using doctest::Approx;

/// Nodes of 4 at 100 B/s, a network of 10 B/s.
Machine with_rows() {
  auto inside = std::make_shared<FabricCurves>(), outside = std::make_shared<FabricCurves>();
  using enum CollectiveWay;
  (*inside)[dispatch] = {3, 0, 0.5, 0};
  (*inside)[combine] = {4, 0, 0.5, 0};
  (*outside)[dispatch] = {7, 0, 1, 0};
  (*outside)[combine] = {8, 0, 1, 0};
  (*inside)[low_latency_dispatch] = {1, 0, 1, 0};
  (*outside)[low_latency_dispatch] = {2, 0, 1, 0};
  inside->dispatch_rate_per_sm = 10;
  outside->dispatch_rate_per_sm = 5;
  inside->relative_error = 0.1;
  outside->relative_error = 0.3;
  Machine m = round_machine();
  m.links[0].curves = inside;
  m.links[1].curves = m.links[2].curves = outside;
  return m;
}

MoeExchangeSpec rows(std::int32_t ranks) {
  // 16 experts, one chosen: a row goes to one rank. 128 fp8 elements and a factor: 132 bytes.
  return {.tokens = 100, .hidden_size = 128, .num_experts_per_tok = 1, .n_routed_experts = 16, .group = run_of(ranks)};
}

double seconds(const MoeExchangeSpec& spec) { return exchange_cost(spec, with_rows())->time.value; }

}  // namespace

TEST_CASE("normal kernels send a row once to each unit and each rank that has one of its experts") {
  MoeExchangeSpec spec = rows(8);
  CHECK(exchange_bytes(spec, 4).inside == Approx(13200));
  CHECK(exchange_bytes(spec, 4).outside == Approx(6600));  // half of the experts are at home
  CHECK(exchange_bus_bytes(spec, 4) == Approx(13200));
  // Two of two experts: both units, one rank in each.
  spec.num_experts_per_tok = spec.n_routed_experts = 2;
  spec.group = run_of(2, 4);
  CHECK(exchange_bytes(spec, 4).inside == Approx(2 * 13200));
  CHECK(exchange_bytes(spec, 4).outside == Approx(13200));
  CHECK(exchange_bus_bytes(spec, 4) == Approx(2 * 13200));
  // All of four experts on four ranks of one unit.
  spec.num_experts_per_tok = spec.n_routed_experts = 4;
  spec.group = run_of(4);
  CHECK(exchange_bytes(spec, 4).inside == Approx(4 * 13200));
  CHECK(exchange_bytes(spec, 4).outside == 0);
  CHECK(exchange_bus_bytes(spec, 4) == Approx(4 * 13200));
}

TEST_CASE("a limit of groups keeps a token's experts to as many units") {
  MoeExchangeSpec spec = rows(16);  // four units
  spec.n_routed_experts = 16;
  spec.num_experts_per_tok = 4;
  spec.top_groups = 1;  // all four experts of one unit
  CHECK(exchange_bus_bytes(spec, 4) == Approx(13200));
  CHECK(exchange_bytes(spec, 4).inside == Approx(4 * 13200));
  spec.top_groups = 0;
  CHECK(exchange_bus_bytes(spec, 4) > 2 * 13200);
}

TEST_CASE("low-latency kernels send every copy by itself, a rank's own not at all") {
  MoeExchangeSpec spec = rows(8);
  spec.mode = MoeExchangeMode::low_latency;
  spec.num_experts_per_tok = 2;
  // 26400 bytes: half to the other unit, an eighth at home.
  CHECK(exchange_bytes(spec, 4).outside == Approx(13200));
  CHECK(exchange_bytes(spec, 4).inside == Approx(26400 * 3. / 8));
}

TEST_CASE("rows back are twice as wide as rows there, and a stated type decides") {
  MoeExchangeSpec spec = rows(4);
  spec.op = MoeExchangeOp::combine;
  CHECK(exchange_bytes(spec, 4).inside == Approx(100 * 256));
  for (const auto& [type, bytes] : {std::pair{StoredType::fp32, 512.},
                                    {StoredType::fp16, 256.},
                                    {StoredType::int8, 132.},
                                    {StoredType::nvfp4, 64.}}) {
    spec.type = type;
    CHECK(exchange_bytes(spec, 4).inside == Approx(100 * bytes));
  }
}

TEST_CASE("the slowest of links, network and multiprocessors decides") {
  // 13200 / (0.5 x 100) inside.
  CHECK(seconds(rows(4)) == Approx(3 + 264));
  // 6600 / 10 to the other unit against 264 inside.
  CHECK(seconds(rows(8)) == Approx(7 + 660));
  MoeExchangeSpec few = rows(4);
  few.sms = 2;  // 13200 / 20
  CHECK(seconds(few) == Approx(3 + 660));
  few.sms = 100;
  CHECK(seconds(few) == Approx(3 + 264));
  few = rows(8);
  few.sms = 2;  // 13200 / (2 x 5)
  CHECK(seconds(few) == Approx(7 + 1320));
  few.mode = MoeExchangeMode::low_latency;
  CHECK(seconds(few) == Approx(2 + 660));
  CHECK(exchange_cost(rows(4), with_rows())->relative_error == 0.1);
  CHECK(exchange_cost(rows(8), with_rows())->relative_error == 0.3);
}

TEST_CASE("more tokens never take less time") {
  for (const std::int32_t ranks : {2, 4, 8, 16, 64}) {
    double before = 0;
    for (std::int64_t tokens = 1; tokens < 100000; tokens *= 3) {
      MoeExchangeSpec spec{.tokens = tokens,
                           .hidden_size = 7168,
                           .num_experts_per_tok = 8,
                           .n_routed_experts = 256,
                           .sms = 20,
                           .group = run_of(ranks)};
      for (const auto mode : {MoeExchangeMode::normal, MoeExchangeMode::low_latency}) {
        spec.mode = mode;
        CHECK(exchange_cost(spec, find_machine("h100-sxm-80gb"))->time.value > 0);
      }
      spec.mode = MoeExchangeMode::normal;
      const double now = exchange_cost(spec, find_machine("h100-sxm-80gb"))->time.value;
      CHECK(now > before);
      before = now;
    }
  }
}

TEST_CASE("what has no curve has no time") {
  MoeExchangeSpec spec = rows(4);
  CHECK_FALSE(exchange_cost(spec, round_machine()).has_value());
  spec.op = MoeExchangeOp::prepare;
  CHECK_FALSE(exchange_cost(spec, with_rows()).has_value());
  spec = rows(4);
  spec.backend = MoeExchangeBackend::nccl_ep;
  CHECK_FALSE(exchange_cost(spec, with_rows()).has_value());
  spec.backend = MoeExchangeBackend::hybrid_ep;
  CHECK_FALSE(exchange_cost(spec, with_rows()).has_value());
  CHECK_FALSE(exchange_cost(rows(1), with_rows()).has_value());
}

}  // namespace shardwright
