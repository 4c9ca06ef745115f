// JSON as YamlCursor reads it: values, places and faults.
#include "hardware/json_events.h"

#include <doctest/doctest.h>

#include <string>

#include "hardware/yaml_cursor.h"
#include "tests/support/message_of.h"

using namespace shardwright;

namespace {

YamlCursor parse(const std::string& text) { return YamlCursor::parse_json(text, "c.json"); }

std::string fault_of(const std::string& text) {
  return message_of([&] { parse(text); });
}

/// Writes down what it is told.
class Notes : public JsonEvents {
 public:
  void text(std::size_t at, const std::string& value) override { note(at, "'" + value + "'"); }
  void word(std::size_t at, const std::string& value) override { note(at, value); }
  void nothing(std::size_t at) override { note(at, "null"); }
  void open_map(std::size_t at) override { note(at, "{"); }
  void open_list(std::size_t at) override { note(at, "["); }
  void close() override { all += "end "; }

  std::string all;

 private:
  void note(std::size_t at, const std::string& what) { all += std::to_string(at) + what + " "; }
};

}  // namespace

TEST_CASE("values of JSON come in order, with the byte where each begins") {
  const auto notes = [](const std::string& text) {
    Notes told;
    REQUIRE_FALSE(read_json(text, told));
    return told.all;
  };
  CHECK(notes("{}") == "0{ end ");
  CHECK(notes("  7") == "27 ");
  CHECK(notes("[1,-2.50e-3, 0]") == "0[ 11 3-2.50e-3 130 end ");
  CHECK(notes(R"({"a" : {"b":[ ]}, "c":null})") == "0{ 1'a' 7{ 8'b' 12[ end end 18'c' 22null end ");
  CHECK(notes("[[1],[2]\n,\ttrue,false]") == "0[ 1[ 21 end 5[ 62 end 11true 16false end ");
  // Quotes and brackets in texts are no ends; escapes are resolved, two halves of a character become one.
  CHECK(notes(R"(["a\"]", "\u00e9\ud83d\ude00", "x"])") == "0[ 1'a\"]' 9'\u00e9\U0001F600' 31'x' end ");
  // Kept as written, however large.
  CHECK(notes("[123456789012345678901234567890, 18446744073709551615]") ==
        "0[ 1123456789012345678901234567890 3318446744073709551615 end ");
}

TEST_CASE("a JSON file is read like a YAML file") {
  const YamlCursor top = parse("\xEF\xBB\xBF{\r\n  \"caf\u00e9\": [1, \"1\", null, true],\n\t\"b\": {\"c\": 0.5}\n}\n");
  const YamlCursor list = top.at("caf\u00e9");
  CHECK(list.items()[0].integer(0, 9) == 1);
  CHECK(list.items()[1].text() == "1");
  CHECK(list.items()[2].is_nothing());
  CHECK_FALSE(list.is_nothing());
  CHECK(list.items()[3].boolean());
  CHECK(top.at("b").at("c").number(0, 1) == 0.5);
  CHECK(message_of([&] { list.items()[1].integer(0, 9); }) ==
        "c.json:2:15: 'caf\u00e9[1]' must be a whole number, got the text '1'\n"
        "  \"caf\u00e9\": [1, \"1\", null, true],\n              ^");
  CHECK(message_of([&] { top.at("b").at("c").fail_at_key("is wrong"); }) ==
        "c.json:3:8: 'b.c' is wrong\n \"b\": {\"c\": 0.5}\n       ^");
  CHECK(parse("\"x\"").text() == "x");
}

TEST_CASE("what is not JSON is refused where it stops being so") {
  CHECK(fault_of("") == "c.json:1:1: this is not JSON: it ends too early\n\n^");
  CHECK(fault_of("{\"a\": 1") == "c.json:1:8: this is not JSON: it ends too early\n{\"a\": 1\n       ^");
  CHECK(fault_of("{\"a\": \"1") == "c.json:1:9: this is not JSON: it ends too early\n{\"a\": \"1\n        ^");
  CHECK(fault_of("{\n  \"a\": 1,\n}") == "c.json:3:1: this is not JSON: '}' is not expected here\n}\n^");
  CHECK(fault_of("{\"a\": 1 \"b\": 2}") ==
        "c.json:1:9: this is not JSON: '\"b\"' is not expected here\n{\"a\": 1 \"b\": 2}\n        ^");
  CHECK(fault_of("[1, 2] 3") == "c.json:1:8: this is not JSON: '3' is not expected here\n[1, 2] 3\n       ^");
  CHECK(fault_of("[1,,2]") == "c.json:1:4: this is not JSON: ',' is not expected here\n[1,,2]\n   ^");
  CHECK(fault_of("{\"a\": yes}") == "c.json:1:7: this is not JSON: 'y' is not expected here\n{\"a\": yes}\n      ^");
  CHECK(fault_of("{\"a\": 012}") == "c.json:1:9: this is not JSON: '2' is not expected here\n{\"a\": 012}\n        ^");
  CHECK(fault_of("{\"a\": NaN}") == "c.json:1:7: this is not JSON: 'N' is not expected here\n{\"a\": NaN}\n      ^");
  CHECK(fault_of("// no\n{}") == "c.json:1:1: this is not JSON: '/' is not expected here\n// no\n^");
  CHECK(fault_of("[\"a\nb\"]") == "c.json:1:2: this is not JSON: '\"a?' is not expected here\n[\"a\n ^");
  CHECK(fault_of("[1e999]") == "c.json:1:2: this is not JSON: '1e999' is not expected here\n[1e999]\n ^");
  CHECK(fault_of("model_type: llama\n") ==
        "c.json:1:1: this is not JSON: 'm' is not expected here\nmodel_type: llama\n^");
}

TEST_CASE("JSON has the limits of YAML files") {
  CHECK(fault_of("{\"a\": 1,\n \"a\": 2}") == "c.json:2:2: 'a' is given twice, first in line 1\n \"a\": 2}\n ^");
  CHECK(fault_of(std::string(101, '[')) ==
        "c.json:1:101: more than 100 levels\n..." + std::string(100, '[') + "\n" + std::string(102, ' ') + "^");
  CHECK(fault_of("{\"a\": \"\xFF\"}") == "c.json: is not text: byte 0xff at offset 7");
  CHECK(fault_of(std::string((8 << 20) + 1, ' ')) == "cannot read 'c.json': it has 8388609 bytes, more than 8 MiB");
  CHECK(message_of([] { YamlCursor::open_json("no/such.json"); }) ==
        "cannot read 'no/such.json': No such file or directory");
}
