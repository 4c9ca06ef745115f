#include "planner/validate.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "planner/measured_rows.h"
#include "tests/support/measured.h"

namespace shardwright {

TEST_CASE("nine in ten of the published training rows that ran are predicted, and each other one says why not") {
  const auto folder = measured_folder();
  if (!folder) return;
  const std::string file = folder->string() + "/training.yaml";
  const Validation v = validate({file}, 0);
  std::set<std::string> predicted;
  for (const ValidationRow& row : v.rows) predicted.insert(row.id);
  std::map<std::string, std::string> why;
  for (const SkippedRow& row : v.skipped) {
    CHECK(why.emplace(row.id, row.reason).second);
    CHECK(predicted.count(row.id) == 0);
    const std::string word = row.reason.substr(0, row.reason.find(": "));
    CHECK(std::set<std::string>{"kind", "machine", "model", "layout", "workload", "metric"}.count(word) == 1);
    CHECK(row.reason.size() > word.size() + 2);
  }
  int ran = 0, answered = 0;
  for (const MeasuredRow& row : read_measured_rows(YamlCursor::open(file)).rows) {
    CHECK(predicted.count(row.id) + why.count(row.id) == 1);
    if (row.trust == "C" || row.suspect || row.measured.numbers.empty()) continue;
    ++ran;
    answered += predicted.count(row.id) == 1;
  }
  MESSAGE(answered, " of ", ran, " rows that ran are predicted");
  CHECK(ran > 900);
  CHECK(answered >= 0.9 * ran);
}

}  // namespace shardwright
