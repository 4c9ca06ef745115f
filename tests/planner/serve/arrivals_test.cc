#include "planner/serve/arrivals.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

std::string error_of(const auto& call) {
  try {
    call();
  } catch (const InputError& e) { return e.what(); }
  return "";
}

struct Trace {
  explicit Trace(const std::string& text) : path("arrivals_test_trace.csv") { std::ofstream(path) << text; }
  ~Trace() { std::remove(path.c_str()); }
  std::string path;
};

TEST_CASE("a trace is its lines, without names and remarks") {
  const Trace trace("seconds,prompt_tokens,answer_tokens\n# a remark\n0,100,10\n0.5, 200 ,20\r\n\n2,300,60");
  const std::vector<Arrival> arrivals = read_arrivals(trace.path);
  CHECK(arrivals == std::vector<Arrival>{{0, 100, 10}, {0.5, 200, 20}, {2, 300, 60}});
  const ArrivalMeans means = means_of(arrivals);
  CHECK(means.per_second == 1);
  CHECK(means.prompt == 200);
  CHECK(means.answer == 30);
}

TEST_CASE("a trace that is wrong says in which line") {
  const auto error_in = [](const std::string& text) {
    const Trace trace(text);
    return error_of([&] { read_arrivals(trace.path); });
  };
  CHECK(error_in("0,1,1\n1,2\n") == "arrivals_test_trace.csv:2: must be seconds,prompt_tokens,answer_tokens");
  CHECK(error_in("0,1,1,4\n") == "arrivals_test_trace.csv:1: must be seconds,prompt_tokens,answer_tokens");
  CHECK(error_in("-1,1,1\n") == "arrivals_test_trace.csv:1: must be seconds,prompt_tokens,answer_tokens");
  CHECK(error_in("0,0,1\n") == "arrivals_test_trace.csv:1: tokens must be whole numbers between 1 and 16777216");
  CHECK(error_in("0,1.5,1\n") == "arrivals_test_trace.csv:1: tokens must be whole numbers between 1 and 16777216");
  CHECK(error_in("1,1,1\n0,1,1\n") == "arrivals_test_trace.csv:2: comes before the line above it");
  CHECK(error_in("# nothing\n") == "arrivals_test_trace.csv: has no requests");
}

TEST_CASE("spreads of lengths are read as they are written") {
  for (const char* text : {"fixed", "exponential", "uniform:0.5", "lognormal:0.8"})
    CHECK(to_string(parse_length_spread(text, "--lengths")) == text);
  CHECK(error_of([] { parse_length_spread("uniform:2", "--lengths"); }) ==
        "--lengths: must be fixed, exponential, uniform:W with W up to 1, or lognormal:S with S up to 4, got "
        "'uniform:2'");
}

}  // namespace
}  // namespace shardwright
