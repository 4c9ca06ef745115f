#include "planner/validate/validation_figures.h"

#include <doctest/doctest.h>

#include "tests/support/measured.h"

namespace shardwright {
namespace {

Validation round_validation() {
  Validation v;
  v.summary = {{"training", "mfu", "", 4, 0.25, 0.2, 0.5, 0.1, "", 3},
               {"kernel", "time_seconds", "s", 2, 1, 1, 2, 0},
               {"collective", "time_seconds", "", 1, 0.5, 0.5, 0.5, 0, "within_node", 1}};
  v.intervals = {{"training", 4, 3}};
  v.complete_ranking = RankingSummary{2, 0.5, 0.03125};
  v.out_of_memory = {3, 1, 9, 1};
  return v;
}

std::vector<std::string> moved(const std::string& kept, const Validation& now) {
  return moved_figures(YamlCursor::parse(kept, "figures.yaml"), now);
}

TEST_CASE("figures are a line for each metric and source") {
  CHECK(
      figures_yaml(round_validation()) ==
      R"(# Written by `shardwright validate ROWS.yaml... --figures FILE`: relative errors by kind, metric and source, of scored rows.
schema: shardwright.figures/1
figures:
  collective/time_seconds/within_node: {n: 1, mean: 0.5, median: 0.5, p90: 0.5, in_interval: 1}
  intervals/training: {n: 4, held: 0.75}
  kernel/time_seconds/s: {n: 2, mean: 1, median: 1, p90: 2, in_interval: 0}
  out_of_memory/false_alarms: {n: 10, share: 0.1}
  out_of_memory/told: {n: 4, share: 0.75}
  ranking/complete: {n: 2, kendall_tau: 0.5, regret: 0.03125}
  training/mfu/all: {n: 4, mean: 0.25, median: 0.2, p90: 0.5, in_interval: 0.75}
)");
}

TEST_CASE("a figure that moved is named with what it was and is") {
  const std::string kept = figures_yaml(round_validation());
  CHECK(moved(kept, round_validation()).empty());
  Validation now = round_validation();
  now.summary[0].mean_absolute = 0.2544;  // 0.002 + 1 % of 0.25 is 0.0045
  now.summary[0].median_absolute = 0.19;
  CHECK(moved(kept, now) == std::vector<std::string>{"training/mfu/all: median was 0.2, is 0.19"});
  now = round_validation();
  now.summary[1].n = 3;
  now.summary[1].held = 3;
  now.summary[0].metric = "hfu";
  now.intervals.clear();
  CHECK(moved(kept, now) == std::vector<std::string>{"intervals/training: is gone",
                                                     "kernel/time_seconds/s: n was 2, is 3",
                                                     "kernel/time_seconds/s: in_interval was 0, is 1",
                                                     "training/mfu/all: is gone", "training/hfu/all: is new"});
}

TEST_CASE("the figures of all that was collected are those that were kept") {
  const auto folder = measured_folder();
  if (!folder) return;
  const Validation now =
      validate({*folder / "training.yaml", *folder / "kernels.yaml", *folder / "collectives.yaml"}, 0);
  const std::string kept = std::string(SHARDWRIGHT_SOURCE_DIR) + "/tests/validation/figures.yaml";
  for (const std::string& figure : moved_figures(YamlCursor::open(kept), now)) FAIL_CHECK(figure);
}

}  // namespace
}  // namespace shardwright
