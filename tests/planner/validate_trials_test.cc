#include "planner/validate/validate_trials.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

using doctest::Approx;
using namespace shardwright;

namespace {

constexpr const char* kRun = R"({
  "schema": "shardwright.trial/1",
  "plan": {"model": "tiny", "engine": "shardwright", "layout_text": "tp=2"},
  "predicted": {"step_seconds": 1.1, "step_seconds_low": 0.9, "step_seconds_high": 1.3, "compute_seconds": 0.5,
                "bubble_seconds": 0.2},
  "measured": {"step_seconds": 1.0, "compute_seconds": 1.0, "bubble_seconds": 0},
  "inference": {"prefill_seconds": 2, "decode_seconds": 0.1, "predicted_prefill_seconds": 3},
  "operators": [
    {"graph": "layer", "name": "q_proj", "pass": "forward", "kind": "compute", "calls": 2, "measured_seconds": 0.4,
     "predicted_seconds": 0.3, "family": "gemm"},
    {"graph": "head", "name": "stream", "pass": "input gradient", "kind": "collective", "calls": 1,
     "measured_seconds": 0.1, "predicted_seconds": 0.2, "family": "collective"},
    {"graph": "weights", "name": "gradients and parameters", "pass": "forward", "kind": "collective", "calls": 1,
     "measured_seconds": 0.1},
    {"graph": "layer", "name": "never", "pass": "forward", "kind": "compute", "calls": 0, "predicted_seconds": 0.2}
  ]
})";

}  // namespace

TEST_CASE("a run's step and operators stand beside what was predicted of them") {
  const YamlCursor top = YamlCursor::parse_json(kRun, "run.json");
  REQUIRE(is_trial(top));
  const std::vector<ValidationRow> rows = rows_of_trial(top);
  // The bubble was measured as nothing; a gradient's reduction has no price, and what was never done no time.
  // Of inference decoding has no prediction.
  REQUIRE(rows.size() == 5);
  CHECK(rows[0].id == "run.json");
  CHECK(rows[0].kind == "trial");
  CHECK(rows[0].metric == "step_seconds");
  CHECK(*rows[0].relative_error == Approx(0.1));
  CHECK(rows[0].has_interval);
  CHECK(rows[0].predicted_low == 0.9);
  CHECK(rows[0].predicted_high == 1.3);
  CHECK(rows[0].source == "tiny");
  CHECK(rows[0].layout == "tp=2");
  CHECK(rows[1].metric == "compute_seconds");
  CHECK(*rows[1].relative_error == Approx(-0.5));
  CHECK(!rows[1].has_interval);
  CHECK(rows[2].metric == "prefill_seconds");
  CHECK(*rows[2].relative_error == Approx(0.5));
  CHECK(rows[3].id == "run.json: layer q_proj");
  CHECK(rows[3].kind == "operator");
  CHECK(rows[3].span == "gemm");
  CHECK(*rows[3].time_error == Approx(-0.25));
  CHECK(rows[4].id == "run.json: head stream, moved, input gradient");
  CHECK(*rows[4].time_error == Approx(1));
}

TEST_CASE("trials are summarised as other rows are, without intervals where none was told") {
  const TemporaryFolder folder;
  folder.write("run.json", kRun);
  const Validation v = validate({folder / "run.json"}, 1);
  const auto find = [&](const std::string& kind, const std::string& metric, const std::string& span) {
    for (const ErrorSummary& e : v.summary)
      if (e.kind == kind && e.metric == metric && e.span == span && e.source.empty()) return e;
    return ErrorSummary{};
  };
  CHECK(find("trial", "step_seconds", "").n == 1);
  CHECK(find("trial", "step_seconds", "").held == 1);
  CHECK(find("trial", "step_seconds", "").without_interval == 0);
  const ErrorSummary operators = find("operator", "seconds", "");
  CHECK(operators.n == 2);
  CHECK(operators.without_interval == 2);
  CHECK(operators.median_absolute == Approx(0.625));  // of 0.25 and 1
  CHECK(find("operator", "seconds", "gemm").signed_median == Approx(-0.25));
  REQUIRE(v.intervals.size() == 1);
  CHECK(v.intervals[0].kind == "trial");
  CHECK(v.intervals[0].n == 1);
  CHECK(!v.ranking);
}

TEST_CASE("of a collection of runs the steps count, but not those that were void") {
  const YamlCursor top = YamlCursor::parse_json(R"({"schema": "shardwright.loop_trial/1", "rounds": [
    {"name": "round-1", "layout": "pp=2", "predicted_seconds": 0.9, "low_seconds": 0.8, "high_seconds": 1,
     "measured_seconds": 1}, {"name": "round-2", "layout": "dp=2", "predicted_seconds": 1, "measured_seconds": null}],
    "ranked": [{"name": "ranked-1", "layout": "tp=2", "predicted_seconds": 3, "measured_seconds": 2}]})",
                                                "trial.json");
  REQUIRE(is_trial(top));
  const std::vector<ValidationRow> rows = rows_of_trial(top);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].id == "trial.json: round-1");
  CHECK(rows[0].source == "rounds");
  CHECK(*rows[0].relative_error == Approx(-0.1));
  CHECK(rows[0].has_interval);
  CHECK(rows[1].id == "trial.json: ranked-1");
  CHECK(*rows[1].relative_error == Approx(0.5));
  CHECK(!rows[1].has_interval);
}

TEST_CASE("published rows are no trial, and a trial without operators says so") {
  CHECK(!is_trial(YamlCursor::parse("schema: shardwright.measured/1\n", "rows.yaml")));
  CHECK(!is_trial(YamlCursor::parse("[]\n", "rows.yaml")));
  const YamlCursor top = YamlCursor::parse_json(
      R"({"schema": "shardwright.trial/1", "plan": {"model": "m", "layout_text": "", "engine": "e"}, "measured": {},
          "predicted": {}})",
      "run.json");
  const std::string all = message_of([&] { rows_of_trial(top); });
  CHECK(all.substr(0, all.find('\n')) == "run.json:1:1: 'operators' is missing");
}
