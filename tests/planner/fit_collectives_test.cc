#include "planner/validate/fit_collectives.h"

#include <doctest/doctest.h>

#include <cmath>

#include "planner/cost/collective_cost.h"
#include "planner/cost/exchange_cost.h"
#include "tests/support/message_of.h"
#include "tests/support/round_machine.h"
#include "tests/support/temporary_folder.h"

namespace shardwright {
namespace {

using doctest::Approx;
using enum CollectiveWay;

std::shared_ptr<FabricCurves> wire() {
  auto fabric = std::make_shared<FabricCurves>();
  fabric->name = "wire";
  (*fabric)[ring_ll] = {5e-6, 1e-6, 0.3, 1e-7};
  (*fabric)[ring_simple] = {15e-6, 3e-6, 0.75, 3e-6};
  (*fabric)[direct_simple] = {9e-6, 1e-7, 0.7, 1e-6};
  (*fabric)[combine] = {40e-6, 0, 0.8, 1e-6};
  fabric->ring_copy = 0.4;
  return fabric;
}

Machine on(std::shared_ptr<const FabricCurves> fabric) {
  Machine m = round_machine();
  m.links = {{"node", 8, {400e9}, {1e-6}, 0.8, std::move(fabric)}};
  return m;
}

/// Times of a machine whose curves are known.
CollectiveSamples made_of(const Machine& machine) {
  CollectiveSamples samples;
  samples.machines.push_back(machine);
  const auto add = [&](const KernelSpec& spec, double seconds) {
    samples.samples.push_back({spec, 0, seconds, "made", "2026-01"});
  };
  for (const std::int32_t ranks : {2, 4, 8}) {
    for (std::int64_t bytes = 1024; bytes <= 1 << 30; bytes *= 8)
      for (const auto kind : {CollectiveKind::all_reduce, CollectiveKind::all_gather, CollectiveKind::all_to_all}) {
        const CollectiveSpec spec{kind, {bytes}, run_of(ranks)};
        add(spec, collective_cost(spec, machine).time.value);
      }
    for (std::int64_t tokens = 1; tokens <= 8192; tokens *= 8) {
      const MoeExchangeSpec spec{.op = MoeExchangeOp::combine,
                                 .tokens = tokens,
                                 .hidden_size = 7168,
                                 .num_experts_per_tok = 8,
                                 .n_routed_experts = 256,
                                 .group = run_of(ranks)};
      add(spec, exchange_cost(spec, machine)->time.value);
    }
  }
  return samples;
}

}  // namespace

TEST_CASE("curves are found again in times that were made of them") {
  const auto truth = wire();
  const CollectiveSamples samples = made_of(on(truth));
  auto unknown = std::make_shared<FabricCurves>(*truth);
  for (auto& curve : unknown->ways)
    if (curve) curve = TransferCurve{1, 1, 1, 1};
  unknown->ring_copy = 1;
  const std::vector<FabricCurves> fitted = fit_collectives(samples, {unknown});
  REQUIRE(fitted.size() == 1);
  CHECK(fitted[0].name == "wire");
  CHECK(fitted[0].data == "made on round");
  CHECK(fitted[0].date == "2026-01");
  CHECK_FALSE(fitted[0][in_switch].has_value());
  const Machine found = on(std::make_shared<FabricCurves>(fitted[0]));
  for (const CollectiveSample& sample : samples.samples) {
    CAPTURE(to_string(sample.spec));
    const auto* spec = std::get_if<CollectiveSpec>(&sample.spec);
    const double seconds = spec ? collective_cost(*spec, found).time.value
                                : exchange_cost(std::get<MoeExchangeSpec>(sample.spec), found)->time.value;
    CHECK(seconds == Approx(sample.seconds).epsilon(0.08));
  }
  REQUIRE_FALSE(fitted[0].errors.empty());
  for (const CurveError& error : fitted[0].errors) CHECK(error.median < 0.03);
  SUBCASE("the same samples give the same file, whatever the curves were before") {
    CHECK(collective_curves_text(fit_collectives(samples, {truth})) == collective_curves_text(fitted));
  }
}

TEST_CASE("a fabric without samples stays as it is") {
  const auto other = wire();
  other->name = "other";
  const std::vector<FabricCurves> fitted = fit_collectives(made_of(on(wire())), {other});
  CHECK(fitted == std::vector{*other});
}

TEST_CASE("rows with nothing to fit on are refused") {
  const TemporaryFolder folder;
  folder.write(
      "rows.yaml",
      "schema: shardwright.measured/1\nsources: {s: {title: t, ref: r, trust: A}}\nmodels: {}\nrows:\n"
      "- {id: a, source: s, kind: collective, family: f, hardware: {gpu: h100-sxm-80gb, gpus: 8, gpus_per_node: 8}, "
      "workload: {op: all_reduce, message_bytes: 1024}, measured: {time_seconds: 1e-5}, trust: C}\n");
  CHECK(message_of([&] { collective_samples({folder / "rows.yaml"}); }) ==
        "fit collectives: no collective that may be fitted on is in the input");
}

}  // namespace shardwright
