#include "reports/chrome_trace.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

namespace shardwright {

TEST_CASE("a trace names devices and streams once, and has a complete event for each span") {
  const std::vector<TraceSpan> spans = {{"stage 0", "compute", "forward 0", "forward", {0}, {0.001}},
                                        {"stage 0", "network", "send", "pipeline", {0.001}, {0.0015}},
                                        {"stage 1", "compute", "forward 0", "forward", {0.0015}, {0.0025000004}},
                                        {"stage 0", "compute", "forward 1", "forward", {0.001}, {0.002}}};
  CHECK(chrome_trace(spans) ==
        R"({"displayTimeUnit":"ms","traceEvents":[
{"ph":"M","name":"process_name","pid":0,"tid":0,"args":{"name":"stage 0"}},
{"ph":"M","name":"thread_name","pid":0,"tid":0,"args":{"name":"compute"}},
{"ph":"X","name":"forward 0","cat":"forward","pid":0,"tid":0,"ts":0.000,"dur":1000.000},
{"ph":"M","name":"thread_name","pid":0,"tid":1,"args":{"name":"network"}},
{"ph":"X","name":"send","cat":"pipeline","pid":0,"tid":1,"ts":1000.000,"dur":500.000},
{"ph":"M","name":"process_name","pid":1,"tid":0,"args":{"name":"stage 1"}},
{"ph":"M","name":"thread_name","pid":1,"tid":2,"args":{"name":"compute"}},
{"ph":"X","name":"forward 0","cat":"forward","pid":1,"tid":2,"ts":1500.000,"dur":1000.000},
{"ph":"X","name":"forward 1","cat":"forward","pid":0,"tid":0,"ts":1000.000,"dur":1000.000}
]}
)");
}

TEST_CASE("a trace is JSON whatever its names hold, and without spans") {
  CHECK(nlohmann::json::parse(chrome_trace({}))["traceEvents"].empty());
  const auto json = nlohmann::json::parse(chrome_trace({{"a \"b\"\\\n\xff", "s", "n\t", "k", {1}, {2}}}));
  CHECK(json["traceEvents"].size() == 3);
  CHECK(json["traceEvents"][2]["name"] == "n\t");
}

}  // namespace shardwright
