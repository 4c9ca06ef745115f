#include "planner/validate/validation_summary.h"

#include <doctest/doctest.h>

namespace shardwright {
namespace {

ValidationRow row(std::string id, std::string source, std::string metric, double measured, double predicted) {
  ValidationRow result;
  result.id = std::move(id);
  result.source = std::move(source);
  result.kind = "training";
  result.metric = std::move(metric);
  result.measured = measured;
  result.predicted = predicted;
  result.relative_error = predicted / measured - 1;
  result.layout_fits = true;
  return result;
}

ValidationRow member(std::string id, std::string family, std::string metric, double measured, double predicted) {
  ValidationRow result = row(std::move(id), "grid", std::move(metric), measured, predicted);
  result.family = std::move(family);
  return result;
}

TEST_CASE("errors are summed up for all sources and for each") {
  Validation v;
  // Errors +10 %, -20 %, +30 %, and +40 % of another source.
  v.rows = {row("a", "s1", "mfu", 100, 110), row("b", "s1", "mfu", 100, 80), row("c", "s1", "mfu", 100, 130),
            row("d", "s2", "mfu", 100, 140)};
  summarise(v);
  REQUIRE(v.summary.size() == 3);
  CHECK(v.summary[0].source == "");
  CHECK(v.summary[0].kind == "training");
  CHECK(v.summary[0].metric == "mfu");
  CHECK(v.summary[0].n == 4);
  CHECK(v.summary[0].mean_absolute == doctest::Approx(0.25));    // (10 + 20 + 30 + 40) / 4
  CHECK(v.summary[0].median_absolute == doctest::Approx(0.25));  // between 20 and 30
  CHECK(v.summary[0].p90_absolute == doctest::Approx(0.40));
  CHECK(v.summary[0].signed_median == doctest::Approx(0.20));  // between +10 and +30
  CHECK(v.summary[1].source == "s1");
  CHECK(v.summary[1].n == 3);
  CHECK(v.summary[1].median_absolute == doctest::Approx(0.20));
  CHECK(v.summary[1].signed_median == doctest::Approx(0.10));
  CHECK(v.summary[2].source == "s2");
  CHECK(v.summary[2].n == 1);
}

TEST_CASE("nine in ten errors do not exceed the 90th percentile") {
  Validation v;
  for (int i = 1; i <= 10; ++i) v.rows.push_back(row(std::to_string(i), "s", "mfu", 100, 100 + i));
  summarise(v);
  CHECK(v.summary[0].p90_absolute == doctest::Approx(0.09));
  v.rows.push_back(row("11", "s", "mfu", 100, 111));  // 9.9 of 11: the tenth
  summarise(v);
  CHECK(v.summary[0].p90_absolute == doctest::Approx(0.10));
}

TEST_CASE("a suspect row counts nowhere") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 10, 10), member("b", "f", "iteration_seconds", 20, 5)};
  v.rows[1].suspect = true;
  v.rows[1].layout_fits = false;
  summarise(v);
  REQUIRE(v.summary.size() == 2);
  CHECK(v.summary[0].n == 1);
  CHECK_FALSE(v.ranking);
  CHECK(v.out_of_memory.true_negative == 1);
  CHECK(v.out_of_memory.false_positive == 0);
}

TEST_CASE("a family is ranked by its pairs and by the price of its predicted best") {
  Validation v;
  // Measured 10 < 12 < 15; predicted 11, 10, 14: of three pairs one is in the wrong order. The predicted best took 12
  // s.
  v.rows = {member("a", "f", "iteration_seconds", 10, 11), member("b", "f", "iteration_seconds", 12, 10),
            member("c", "f", "iteration_seconds", 15, 14)};
  summarise(v);
  REQUIRE(v.ranking);
  CHECK(v.ranking->families == 1);
  CHECK(v.ranking->kendall_tau_mean == doctest::Approx(1.0 / 3));  // (2 - 1) / 3
  CHECK(v.ranking->top_regret_mean == doctest::Approx(0.2));
}

TEST_CASE("a rate is ranked the other way round from a time") {
  Validation v;
  // The predicted best does 80 where 100 was possible: a quarter more time.
  v.rows = {member("a", "f", "tokens_per_second_per_gpu", 100, 70),
            member("b", "f", "tokens_per_second_per_gpu", 80, 90)};
  summarise(v);
  REQUIRE(v.ranking);
  CHECK(v.ranking->kendall_tau_mean == doctest::Approx(-1));
  CHECK(v.ranking->top_regret_mean == doctest::Approx(0.25));
}

TEST_CASE("measurements less than 2 % apart are ties") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 100, 11), member("b", "f", "iteration_seconds", 101.9, 10)};
  summarise(v);
  CHECK_FALSE(v.ranking);
  v.rows[1].measured = 102;
  summarise(v);
  REQUIRE(v.ranking);
  CHECK(v.ranking->kendall_tau_mean == doctest::Approx(-1));
}

TEST_CASE("a pair predicted equal is neither right nor wrong") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 10, 5), member("b", "f", "iteration_seconds", 20, 5)};
  summarise(v);
  REQUIRE(v.ranking);
  CHECK(v.ranking->kendall_tau_mean == 0);
}

TEST_CASE("the mean is over families, each by the metric that most of its rows have") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 10, 1),
            member("a", "f", "mfu", 0.5, 0.6),
            member("b", "f", "mfu", 0.4, 0.3),
            member("c", "g", "iteration_seconds", 10, 20),
            member("d", "g", "iteration_seconds", 20, 10),
            member("e", "", "iteration_seconds", 20, 10)};
  summarise(v);
  REQUIRE(v.ranking);
  CHECK(v.ranking->families == 2);
  CHECK(v.ranking->kendall_tau_mean == doctest::Approx(0));   // f by mfu: +1; g: -1
  CHECK(v.ranking->top_regret_mean == doctest::Approx(0.5));  // f: 0; g: 20 / 10 - 1 = 1
}

TEST_CASE("families whose rows do not say what tells them apart are ranked apart") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 10, 11), member("b", "f", "iteration_seconds", 20, 22),
            member("c", "g", "iteration_seconds", 10, 20), member("d", "g", "iteration_seconds", 20, 10),
            member("e", "h", "iteration_seconds", 10, 10), member("f", "h", "iteration_seconds", 20, 10)};
  v.rows[0].layout_assumed = {"zero"};
  v.rows[3].layout_assumed = {"zero", "recompute"};
  for (ValidationRow& r : v.rows) r.layout = r.id;
  v.rows[4].layout = v.rows[5].layout = "same";  // and predicted alike
  summarise(v);
  REQUIRE(v.complete_ranking);
  REQUIRE(v.incomplete_ranking);
  CHECK(v.ranking->families == 3);
  CHECK(v.complete_ranking->families == 1);
  CHECK(v.complete_ranking->kendall_tau_mean == 1);
  CHECK(v.incomplete_ranking->families == 2);
  CHECK(v.incomplete_ranking->kendall_tau_mean == -0.5);
  CHECK(v.incomplete_ranking->top_regret_mean == 0.5);
  v.rows[3].layout_assumed = {"micro_batch"};
  v.rows[5].predicted = 11;  // something else than the layout tells them apart
  summarise(v);
  CHECK(v.complete_ranking->families == 2);
}

TEST_CASE("intervals are counted by metric, and of a step once") {
  Validation v;
  v.rows = {row("a", "s", "iteration_seconds", 10, 11), row("a", "s", "mfu", 0.5, 0.4), row("b", "s", "mfu", 0.5, 0.4),
            row("b", "s", "peak_memory_gib", 10, 11)};
  for (ValidationRow& r : v.rows) {
    r.predicted_low = r.predicted * 0.9;
    r.predicted_high = r.predicted * 1.1;
  }
  ValidationRow kernel = row("k", "s", "time_seconds", 1, 1.2);
  kernel.kind = "kernel";
  kernel.time_error = 0.2;
  kernel.predicted_low = 1;
  kernel.predicted_high = 1.4;
  v.rows.push_back(kernel);
  summarise(v);
  REQUIRE(v.intervals.size() == 2);
  CHECK(v.intervals[0].kind == "kernel");
  CHECK(v.intervals[0].held == 1);
  CHECK(v.intervals[1].n == 2);     // a by its time, b by its MFU
  CHECK(v.intervals[1].held == 1);  // 9.9 to 12.1 holds 10, 0.36 to 0.44 does not hold 0.5
  for (const ErrorSummary& e : v.summary) {
    CAPTURE(e.metric);
    CHECK(e.held == (e.metric == "mfu" ? 0 : 1));
  }
}

TEST_CASE("out of memory is counted by row, not by number") {
  Validation v;
  v.rows = {row("ran", "s", "mfu", 1, 1),    row("ran", "s", "iteration_seconds", 1, 1),
            row("alarm", "s", "mfu", 1, 1),  row("foreseen", "s", "oom", 1, 1),
            row("missed", "s", "oom", 1, 1), row("missed2", "s", "mfu", 1, 1),
            row("missed2", "s", "oom", 1, 1)};
  v.rows[2].layout_fits = false;
  v.rows[3].layout_fits = false;
  ValidationRow collective = row("wire", "s", "time_seconds", 1, 1);
  collective.kind = "collective";
  collective.layout_fits = false;
  v.rows.push_back(collective);
  summarise(v);
  CHECK(v.out_of_memory.true_positive == 1);
  CHECK(v.out_of_memory.false_positive == 1);
  CHECK(v.out_of_memory.true_negative == 1);
  CHECK(v.out_of_memory.false_negative == 2);
}

TEST_CASE("a row of trust C counts nowhere") {
  Validation v;
  v.rows = {member("a", "f", "iteration_seconds", 10, 10), member("b", "f", "iteration_seconds", 20, 5)};
  v.rows[1].trust = "C";
  summarise(v);
  REQUIRE(v.summary.size() == 2);
  CHECK(v.summary[0].n == 1);
  CHECK_FALSE(v.ranking);
  CHECK(v.out_of_memory.true_negative == 1);
}

TEST_CASE("collectives are summed up by the error of their time, also by span, and never ranked") {
  Validation v;
  v.rows = {member("a", "sweep", "bus_bandwidth_bytes_per_second", 10, 20),
            member("b", "sweep", "bus_bandwidth_bytes_per_second", 40, 20)};
  for (ValidationRow& r : v.rows) {
    r.kind = "collective";
    r.time_error = *r.measured / r.predicted - 1;  // -50 %, +100 %
  }
  v.rows[0].span = kWithinNode;
  v.rows[1].span = kAcrossNodes;
  summarise(v);
  REQUIRE(v.summary.size() == 4);
  CHECK(v.summary[0].span == "");
  CHECK(v.summary[0].signed_median == doctest::Approx(0.25));  // between -50 % and +100 %
  CHECK(v.summary[1].span == "across_nodes");
  CHECK(v.summary[1].signed_median == doctest::Approx(1));
  CHECK(v.summary[2].span == "within_node");
  CHECK(v.summary[2].signed_median == doctest::Approx(-0.5));
  CHECK(v.summary[3].source == "grid");
  CHECK_FALSE(v.ranking);
}

TEST_CASE("a number without a measurement has no error to sum up") {
  Validation v;
  v.rows = {row("a", "s", "oom", 1, 1)};
  v.rows[0].measured.reset();
  v.rows[0].relative_error.reset();
  summarise(v);
  CHECK(v.summary.empty());
}

}  // namespace
}  // namespace shardwright
