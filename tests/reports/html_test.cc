#include "reports/html.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hardware/gzip.h"
#include "hardware/input_error.h"
#include "tests/support/message_of.h"

namespace shardwright {
namespace {

/// What stands in the page's data element, unpacked: the reverse of RFC 4648. Of a build without a page it is all there
/// is.
std::string data_of(const std::string& page) {
  const std::string open = "id=\"data\">";
  const std::size_t begin = has_html() ? page.find(open) + open.size() : 0;
  const std::size_t end = std::min(page.size(), page.find("</script>", begin));
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned bits = 0, count = 0;
  for (std::size_t i = begin; i < end && page[i] != '='; ++i) {
    bits = bits << 6 | static_cast<unsigned>(digits.find(page[i]));
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 255u);
  }
  return gunzip(bytes, "page", 1 << 20);
}

const std::string kHostile = R"({"schema":"shardwright.plan_result/1","model":"</script><script>x"})";

TEST_CASE("a page carries its files, and nothing in them is markup") {
  const std::string page = html_page({{"a\"b.json", kHostile}, {"c.json", R"({"schema":"shardwright.sweep/1"})"}});
  CHECK(page.find("</script><script>x") == std::string::npos);
  if (has_html()) {
    CHECK(page.starts_with("<!doctype html>"));
    CHECK(page.find("default-src 'none'") != std::string::npos);
  }
  const nlohmann::json data = nlohmann::json::parse(data_of(page));
  REQUIRE(data.size() == 2);
  CHECK(data[0]["name"] == "a\"b.json");
  CHECK(data[0]["data"]["model"] == "</script><script>x");
  CHECK(data[1]["data"]["schema"] == "shardwright.sweep/1");
}

TEST_CASE("plans behind the first hundred are columns, without what they list by stage, and the page says so") {
  nlohmann::json plans = {{"schema", "shardwright.plan_result/1"}, {"plans", nlohmann::json::array()}};
  for (int i = 0; i < 100; ++i)
    plans["plans"].push_back(
        {{"predicted", {{"step_seconds", 1}, {"memory_per_stage", {1}}, {"idle_seconds_per_stage", {2}}}}});
  const auto carried = [&] { return nlohmann::json::parse(data_of(html_page({{"x", plans.dump()}})))[0]["data"]; };
  CHECK(carried() == plans);
  for (int step : {3, 4})
    plans["plans"].push_back({{"fits", true}, {"layout", {{"tp", step}}}, {"predicted", {{"step_seconds", step}}}});
  plans["plans"][101]["predicted"]["mfu"] = 0.5;
  plans["plans"][101]["predicted"]["memory_per_stage"] = {1};
  const nlohmann::json page = carried();
  CHECK(page["page_left_out"] ==
        "of plans behind the first 100, what they list by stage and by parallelism, and what was filled in");
  CHECK(page["plans"].size() == 100);
  CHECK(page["plans"][99] == plans["plans"][99]);
  CHECK(page["plans_behind"] == nlohmann::json::parse(R"({"plans":2,"same":{"fits":true},"values":{"layout.tp":[3,4],
                                  "predicted.step_seconds":[3,4],"predicted.mfu":[null,0.5]}})"));
}

TEST_CASE("a byte order mark and a newline in a name do no harm") {
  const std::string json = R"({"schema":"shardwright.sweep/1"})";
  const nlohmann::json data = nlohmann::json::parse(data_of(html_page({{"two\nlines.json", "\xEF\xBB\xBF" + json}})));
  CHECK(data[0]["name"] == "two\nlines.json");
  CHECK(data[0]["data"] == nlohmann::json::parse(json));
  CHECK(message_of<InputError>([&] {
          html_page({{"two\nlines.json", "{"}});
        }) == "two?lines.json: must be JSON that this program wrote: it is no JSON, or cut off");
}

TEST_CASE("the same files make the same page") { CHECK(html_page({{"a", kHostile}}) == html_page({{"a", kHostile}})); }

TEST_CASE("a page is made of this program's JSON alone") {
  const auto checked = [](const std::string& json) {
    return message_of<InputError>([&] { html_page({{"x.json", json}}); });
  };
  CHECK(checked("{\"schema\":\"shardwright.sweep/1\",\"rows\":[") ==
        "x.json: must be JSON that this program wrote: it is no JSON, or cut off");
  const std::string other = "x.json: must be JSON that this program wrote: it has no 'schema: shardwright...'";
  CHECK(checked("[]") == other);
  CHECK(checked("{}") == other);
  CHECK(checked("{\"schema\":1}") == other);
  CHECK(checked("{\"schema\":\"other/1\"}") == other);
}

}  // namespace
}  // namespace shardwright
