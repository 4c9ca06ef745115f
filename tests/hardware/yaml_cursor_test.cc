#include "hardware/yaml_cursor.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/support/message_of.h"

using namespace shardwright;

namespace {

YamlCursor parse(const std::string& text) { return YamlCursor::parse(text, "m.yaml"); }

std::string parse_message(const std::string& text) {
  return message_of([&] { parse(text); });
}

std::string repeated(const std::string& part, int times) {
  std::string whole;
  for (int i = 0; i < times; ++i) whole += part;
  return whole;
}

/// A folder of its own for a test's files, gone afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    path_ = std::filesystem::temp_directory_path() / ("shardwright_cursor_" + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("values are read as written") {
  const YamlCursor top = parse(
      "name: llama # a comment\n"
      "layers: 32\n"
      "low: -7\n"
      "rate: 989.4e12\n"
      "half: .5\n"
      "tied: true\n"
      "list: [1, {deep: x}]\n"
      "quoted: \"012\"\n");
  CHECK(top.is_map());
  CHECK(top.at("name").text() == "llama");
  CHECK(top.at("layers").integer(1, 100) == 32);
  CHECK(top.at("layers").text() == "32");
  CHECK(top.at("low").integer(-7, 0) == -7);
  CHECK(top.at("rate").number(0, 1e15) == 989.4e12);
  CHECK(top.at("half").number(0, 1) == 0.5);
  CHECK(top.at("layers").number(0, 100) == 32);
  CHECK(top.at("tied").boolean());
  CHECK(top.at("list").is_list());
  CHECK(top.at("list").items().size() == 2);
  CHECK(top.at("list").items()[1].at("deep").text() == "x");
  CHECK(top.at("list").items()[1].at("deep").path() == "list[1].deep");
  CHECK(top.at("quoted").text() == "012");
  CHECK(top.path() == "");
  CHECK(top.file() == "m.yaml");
  CHECK_FALSE(top.find("absent").has_value());
}

TEST_CASE("entries keep the order of the file") {
  const auto entries = parse("b: 1\na: 2\nc: 3\n").entries();
  REQUIRE(entries.size() == 3);
  CHECK(entries[0].first == "b");
  CHECK(entries[1].first == "a");
  CHECK(entries[2].first == "c");
  CHECK(entries[2].second.integer(0, 9) == 3);
}

TEST_CASE("a cursor outlives the one it came from") {
  const YamlCursor inner = [] { return parse("a: {b: 5}").at("a").at("b"); }();
  CHECK(inner.integer(0, 9) == 5);
}

TEST_CASE("a word where a whole number should be") {
  const YamlCursor top = YamlCursor::parse("model_type: llama\n\nhidden_size: twelve\n", "llama.yaml");
  CHECK(message_of([&] { top.at("hidden_size").integer(1, 1000); }) ==
        "llama.yaml:3:14: 'hidden_size' must be a whole number, got 'twelve'\n"
        "hidden_size: twelve\n"
        "             ^");
}

TEST_CASE("what else is not a whole number") {
  const auto integer_message = [](const std::string& value) {
    const std::string message = message_of([&] { parse("n: " + value).at("n").integer(1, 1000); });
    return message.substr(0, message.find('\n'));
  };
  CHECK(integer_message("012") == "m.yaml:1:4: 'n' must be a whole number, got '012'");
  CHECK(integer_message("0x1F") == "m.yaml:1:4: 'n' must be a whole number, got '0x1F'");
  CHECK(integer_message("1_000") == "m.yaml:1:4: 'n' must be a whole number, got '1_000'");
  CHECK(integer_message("1.0") == "m.yaml:1:4: 'n' must be a whole number, got '1.0'");
  CHECK(integer_message("1e3") == "m.yaml:1:4: 'n' must be a whole number, got '1e3'");
  CHECK(integer_message("+5") == "m.yaml:1:4: 'n' must be a whole number, got '+5'");
  CHECK(integer_message("--5") == "m.yaml:1:4: 'n' must be a whole number, got '--5'");
  CHECK(integer_message("'12'") == "m.yaml:1:4: 'n' must be a whole number, got the text '12'");
  CHECK(integer_message("!!str 12") == "m.yaml:1:4: 'n' must be a whole number, got the text '12'");
  CHECK(integer_message("") == "m.yaml:1:1: 'n' must be a whole number, got nothing");  // no value: the key's place
  CHECK(integer_message("null") == "m.yaml:1:4: 'n' must be a whole number, got nothing");
  CHECK(integer_message("{a: 1}") == "m.yaml:1:4: 'n' must be a whole number, got a map");
  CHECK(integer_message("[1]") == "m.yaml:1:4: 'n' must be a whole number, got a list");
  CHECK(integer_message("!!int 12") == "nothing was thrown");
}

TEST_CASE("numbers out of range name the range") {
  const YamlCursor top = parse("gpus: 0\nhuge: 1000000000000000000000000000000\nratio: 1.5\nflops: 1e999\n");
  CHECK(message_of([&] { top.at("gpus").integer(1, 1000); }) ==
        "m.yaml:1:7: 'gpus' must be between 1 and 1000, got 0\n"
        "gpus: 0\n"
        "      ^");
  CHECK(message_of([&] { top.at("gpus").integer(1, std::numeric_limits<std::int64_t>::max()); }) ==
        "m.yaml:1:7: 'gpus' must be at least 1, got 0\n"
        "gpus: 0\n"
        "      ^");
  CHECK(message_of([&] { top.at("huge").integer(1, 1000); }) ==
        "m.yaml:2:7: 'huge' must be between 1 and 1000, got 1000000000000000000000000000000\n"
        "huge: 1000000000000000000000000000000\n"
        "      ^");
  CHECK(message_of([&] { top.at("ratio").number(0, 1); }) ==
        "m.yaml:3:8: 'ratio' must be between 0 and 1, got 1.5\n"
        "ratio: 1.5\n"
        "       ^");
  CHECK(message_of([&] { top.at("flops").number(1e6, 1e19); }) ==
        "m.yaml:4:8: 'flops' must be between 1000000 and 1e+19, got 1e999\n"
        "flops: 1e999\n"
        "       ^");
}

TEST_CASE("what is not a number") {
  const auto number_message = [](const std::string& value) {
    const std::string message = message_of([&] { parse("n: " + value).at("n").number(0, 1000); });
    return message.substr(0, message.find('\n'));
  };
  CHECK(number_message(".inf") == "m.yaml:1:4: 'n' must be a number, got '.inf'");
  CHECK(number_message("inf") == "m.yaml:1:4: 'n' must be a number, got 'inf'");
  CHECK(number_message("nan") == "m.yaml:1:4: 'n' must be a number, got 'nan'");
  CHECK(number_message("012.5") == "m.yaml:1:4: 'n' must be a number, got '012.5'");
  CHECK(number_message("0x10") == "m.yaml:1:4: 'n' must be a number, got '0x10'");
  CHECK(number_message("1e") == "m.yaml:1:4: 'n' must be a number, got '1e'");
  CHECK(number_message(".") == "m.yaml:1:4: 'n' must be a number, got '.'");
  CHECK(number_message("5 GB") == "m.yaml:1:4: 'n' must be a number, got '5 GB'");
  CHECK(number_message("'5'") == "m.yaml:1:4: 'n' must be a number, got the text '5'");
  for (const std::string good : {"0", "5", "5.", ".5", "0.5", "1e2", "1E+2", "1.5e-3"}) {
    CHECK(number_message(good) == "nothing was thrown");
  }
}

TEST_CASE("words: text, true or false, one of several") {
  const YamlCursor top = parse("text: {}\ntied: yes\nquoted: 'true'\nnorm: rmsnrom\n");
  CHECK(message_of([&] { top.at("text").text(); }) ==
        "m.yaml:1:7: 'text' must be text, got a map\n"
        "text: {}\n"
        "      ^");
  CHECK(message_of([&] { top.at("tied").boolean(); }) ==
        "m.yaml:2:7: 'tied' must be true or false, got 'yes'\n"
        "tied: yes\n"
        "      ^");
  CHECK(message_of([&] { top.at("quoted").boolean(); }) ==
        "m.yaml:3:9: 'quoted' must be true or false, got the text 'true'\n"
        "quoted: 'true'\n"
        "        ^");
  CHECK(message_of([&] {
          top.at("norm").one_of({"layernorm", "rmsnorm"});
        }) ==
        "m.yaml:4:7: 'norm' must be one of layernorm, rmsnorm, got 'rmsnrom' (did you mean 'rmsnorm'?)\n"
        "norm: rmsnrom\n"
        "      ^");
  CHECK(message_of([&] {
          top.at("text").one_of({"layernorm", "rmsnorm"});
        }) ==
        "m.yaml:1:7: 'text' must be one of layernorm, rmsnorm, got a map\n"
        "text: {}\n"
        "      ^");
  CHECK(parse("norm: rmsnorm").at("norm").one_of({"layernorm", "rmsnorm"}) == 1);
}

TEST_CASE("a missing key is reported at its map") {
  const YamlCursor top = YamlCursor::parse("links:\n  - name: node\n", "llama.yaml");
  CHECK(message_of([&] { top.at("hidden_size"); }) ==
        "llama.yaml:1:1: 'hidden_size' is missing\n"
        "links:\n"
        "^");
  CHECK(message_of([&] { top.at("links").items()[0].at("gpus"); }) ==
        "llama.yaml:2:5: 'links[0].gpus' is missing\n"
        "  - name: node\n"
        "    ^");
}

TEST_CASE("an unknown key is reported at the key") {
  const YamlCursor top = parse("a: 1\nb:\n  hiden_size: 3\n");
  CHECK(message_of([&] {
          top.at("b").only_keys({"hidden_size", "layers"});
        }) ==
        "m.yaml:3:3: unknown key 'hiden_size' (did you mean 'hidden_size'?)\n"
        "  hiden_size: 3\n"
        "  ^");
  CHECK(message_of([&] {
          top.only_keys({"a", "layers"});
        }) ==
        "m.yaml:2:1: unknown key 'b'\n"
        "b:\n"
        "^");
  CHECK(message_of([&] { top.only_keys({"b", "a"}); }) == "nothing was thrown");
}

TEST_CASE("maps and lists are not taken for each other") {
  const YamlCursor top = parse("a: [1]\nb: 3\n");
  CHECK(message_of([&] { top.at("a").at("x"); }) ==
        "m.yaml:1:4: 'a' must be a map, got a list\n"
        "a: [1]\n"
        "   ^");
  CHECK(message_of([&] { top.at("b").items(); }) ==
        "m.yaml:2:4: 'b' must be a list, got '3'\n"
        "b: 3\n"
        "   ^");
  CHECK(message_of([&] { top.at("b").entries(); }) ==
        "m.yaml:2:4: 'b' must be a map, got '3'\n"
        "b: 3\n"
        "   ^");
  CHECK(message_of([&] { parse("- 1").only_keys({}); }) ==
        "m.yaml:1:1: the file must be a map, got a list\n"
        "- 1\n"
        "^");
}

TEST_CASE("a caller's own complaint stands at the value or at its key") {
  const YamlCursor top = parse("a: {b: [7]}\n");
  const YamlCursor list = top.at("a").at("b");
  CHECK(message_of([&] { list.fail("must be above 0"); }) ==
        "m.yaml:1:8: 'a.b' must be above 0\n"
        "a: {b: [7]}\n"
        "       ^");
  CHECK(message_of([&] { list.fail_at_key("is out of place"); }) ==
        "m.yaml:1:5: 'a.b' is out of place\n"
        "a: {b: [7]}\n"
        "    ^");
  CHECK(message_of([&] { list.items()[0].fail_at_key("is odd"); }) ==
        "m.yaml:1:9: 'a.b[0]' is odd\n"
        "a: {b: [7]}\n"
        "        ^");
}

TEST_CASE("a key given twice is refused") {
  CHECK(parse_message("gpus: 1\nnics: 2\ngpus: 3\n") ==
        "m.yaml:3:1: 'gpus' is given twice, first in line 1\n"
        "gpus: 3\n"
        "^");
  CHECK(parse_message("a: {b: 1}\nc: {b: 1}\n") == "nothing was thrown");
}

TEST_CASE("keys are words") {
  CHECK(parse_message("[1, 2]: 3\n") ==
        "m.yaml:1:1: a key must be a word\n"
        "[1, 2]: 3\n"
        "^");
  CHECK(parse_message("{{a: 1}: 3}\n") ==
        "m.yaml:1:2: a key must be a word\n"
        "{{a: 1}: 3}\n"
        " ^");
}

TEST_CASE("anchors, aliases and foreign tags are refused") {
  CHECK(parse_message("a: &x 1\n") ==
        "m.yaml:1:4: anchors are not read; write the value where it is needed\n"
        "a: &x 1\n"
        "   ^");
  CHECK(parse_message("a: *x\n") ==
        "m.yaml:1:4: this is not YAML: the referenced anchor is not defined\n"
        "a: *x\n"
        "   ^");
  CHECK(parse_message("a: !python/object 1\n") ==
        "m.yaml:1:4: the tag '!python/object' is not read\n"
        "a: !python/object 1\n"
        "   ^");
  CHECK(parse_message("a: !!map 1\n") ==
        "m.yaml:1:4: the tag 'tag:yaml.org,2002:map' is not read\n"
        "a: !!map 1\n"
        "   ^");
  CHECK(parse_message("a: !!map {b: !!seq [!!str x, !!float 1.5]}\n") == "nothing was thrown");
}

TEST_CASE("an alias bomb ends at its first anchor") {
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char name = 'b'; name < 'k'; ++name) {
    const std::string before(1, static_cast<char>(name - 1));
    bomb += std::string(1, name) + ": &" + name + " [" + repeated("*" + before + ", ", 9) + "]\n";
  }
  CHECK(parse_message(bomb) ==
        "m.yaml:1:4: anchors are not read; write the value where it is needed\n"
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        "   ^");
}

TEST_CASE("what yaml-cpp refuses has its place, too") {
  CHECK(parse_message("a: 1\nb: [1, 2\n") ==
        "m.yaml:3:1: this is not YAML: end of sequence flow not found\n"
        "\n"
        "^");
  CHECK(parse_message("a: b: c\n") ==
        "m.yaml:1:5: this is not YAML: illegal map value\n"
        "a: b: c\n"
        "    ^");
}

TEST_CASE("one document, not none and not two") {
  CHECK(parse_message("") == "m.yaml:1:1: the file is empty\n\n^");
  CHECK(parse_message("# only a comment\n") ==
        "m.yaml:1:1: the file is empty\n"
        "# only a comment\n"
        "^");
  CHECK(parse_message("a: 1\n---\nb: 2\n") ==
        "m.yaml:2:1: a second document in one file is not read\n"
        "---\n"
        "^");
  CHECK(parse_message("--- \na: 1\n") == "nothing was thrown");
  CHECK(message_of([&] { parse("---\n").at("a"); }) == "m.yaml:2:1: the file must be a map, got nothing\n\n^");
}

TEST_CASE("a hundred levels are read, one more is not") {
  CHECK(parse_message(repeated("[", 100) + repeated("]", 100)) == "nothing was thrown");
  const std::string message = parse_message(repeated("[", 101) + repeated("]", 101));
  CHECK(message.substr(0, message.find('\n')) == "m.yaml:1:101: more than 100 levels");
}

TEST_CASE("deep nesting of any kind is refused, not a crash") {
  for (const std::string open : {"[", "{a: ", "- ", "{? ", "[{a: "}) {
    CHECK(parse_message(repeated(open, 100'000)) != "nothing was thrown");
  }
  CHECK(parse_message(repeated("[", 100'000) + repeated("]", 100'000)) != "nothing was thrown");
}

TEST_CASE("megabytes that would take yaml-cpp seconds are refused early") {
  CHECK(parse_message("a: 1\nb: " + std::string(1 << 20, 'x') + "\n") ==
        "m.yaml:2:1: a line of 1048579 bytes, more than 1 MiB");
  CHECK(parse_message("a: 1\nb: " + std::string((1 << 20) - 3, 'x') + "\n") == "nothing was thrown");
  CHECK(parse_message(repeated("[\n", 20'000)) == "m.yaml:10001:1: more than 100 levels");
  CHECK(parse_message(repeated("[]\n", 1) + "# " + repeated("[ ", 9'000)) == "nothing was thrown");
  CHECK(parse_message(repeated("- x\n", 600'000)) ==
        "m.yaml:500000:3: more than 500000 values\n"
        "- x\n"
        "  ^");
}

TEST_CASE("only text is read") {
  const auto text_message = [](std::string_view bytes) { return parse_message(std::string(bytes)); };
  CHECK(text_message(std::string_view("a: \0", 4)) == "m.yaml: is not text: byte 0x00 at offset 3");
  CHECK(text_message("a: \x04") == "m.yaml: is not text: byte 0x04 at offset 3");
  CHECK(text_message("a: \xff") == "m.yaml: is not text: byte 0xff at offset 3");
  CHECK(text_message("a: \xc0\xaf") == "m.yaml: is not text: byte 0xc0 at offset 3");  // '/' written too long
  CHECK(text_message("a: \xe0\x80\xaf") == "m.yaml: is not text: byte 0xe0 at offset 3");
  CHECK(text_message("a: \xed\xa0\x80") == "m.yaml: is not text: byte 0xed at offset 3");      // half a surrogate pair
  CHECK(text_message("a: \xf4\x90\x80\x80") == "m.yaml: is not text: byte 0xf4 at offset 3");  // above U+10FFFF
  CHECK(text_message("a: \xe2\x82") == "m.yaml: is not text: byte 0xe2 at offset 3");          // ends inside
  CHECK(text_message("a: \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") == "nothing was thrown");
  CHECK(parse("\xEF\xBB\xBF"
              "a: 1")
            .at("a")
            .integer(0, 9) == 1);  // a byte order mark
}

TEST_CASE("columns count characters, not bytes") {
  CHECK(message_of([&] { parse("{\xc3\xa9\xc3\xa9: x, n: y}").at("n").integer(0, 9); }) ==
        "m.yaml:1:12: 'n' must be a whole number, got 'y'\n"
        "{\xc3\xa9\xc3\xa9: x, n: y}\n"
        "           ^");
}

TEST_CASE("what a file says cannot steer the terminal") {
  CHECK(message_of([&] { parse("n:\t\"\\e[31m\\u009bx\"").at("n").integer(0, 9); }) ==
        "m.yaml:1:4: 'n' must be a whole number, got the text '?[31m?x'\n"
        "n: \"\\e[31m\\u009bx\"\n"
        "   ^");
  CHECK(message_of([&] { parse("n: \xc2\x9bx").at("n").integer(0, 9); }) ==
        "m.yaml:1:4: 'n' must be a whole number, got '?x'\n"
        "n: ?x\n"
        "   ^");
}

TEST_CASE("of long lines only the neighbourhood is shown") {
  const std::string line = "{k: [" + repeated("1, ", 100) + "x" + repeated(", 2", 100) + "]}";
  // The x stands in column 1 + 4 + 300 + 1 = 306; 50 characters before it and 49 after.
  const YamlCursor list = parse(line).at("k");
  CHECK(message_of([&] { list.items()[100].integer(0, 9); }) ==
        "m.yaml:1:306: 'k[100]' must be a whole number, got 'x'\n"
        "..." +
            line.substr(255, 100) + "...\n" + std::string(53, ' ') + "^");
  CHECK(message_of([&] { list.items()[0].integer(5, 9); }) ==
        "m.yaml:1:6: 'k[0]' must be between 5 and 9, got 1\n" + line.substr(0, 100) + "...\n     ^");
  const std::string value(200, 'v');
  CHECK(message_of([&] { parse("k: " + value).at("k").integer(0, 9); }) ==
        "m.yaml:1:4: 'k' must be a whole number, got '" + value.substr(0, 60) + "...'\nk: " + value.substr(0, 97) +
            "...\n   ^");
}

TEST_CASE("files are read from disk") {
  const TemporaryFolder folder;
  const std::string path = folder.write("good.yaml", "a: 1\r\nb: x\r\n");
  const YamlCursor top = YamlCursor::open(path);
  CHECK(top.at("a").integer(0, 9) == 1);
  CHECK(message_of([&] { top.at("b").integer(0, 9); }) == path +
                                                              ":2:4: 'b' must be a whole number, got 'x'\n"
                                                              "b: x\n"
                                                              "   ^");
}

TEST_CASE("what is no readable file is one clear line") {
  const TemporaryFolder folder;
  const auto open_message = [](const std::string& path) { return message_of([&] { YamlCursor::open(path); }); };
  const std::string absent = folder.file("absent.yaml");
  CHECK(open_message(absent) == "cannot read '" + absent + "': No such file or directory");
  CHECK(open_message("") == "cannot read '': No such file or directory");
  CHECK(open_message(folder.file("")) == "cannot read '" + folder.file("") + "': it is a folder");
  CHECK(open_message("/dev/zero") == "cannot read '/dev/zero': it is not a regular file");
  const std::string pipe = folder.file("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(open_message(pipe) == "cannot read '" + pipe + "': it is not a regular file");
  const std::string inside = folder.write("file", "x") + "/y.yaml";
  CHECK(open_message(inside) == "cannot read '" + inside + "': Not a directory");
  const std::string empty = folder.write("empty.yaml", "");
  CHECK(open_message(empty) == empty + ":1:1: the file is empty\n\n^");
}

TEST_CASE("a file above 8 MiB is refused by its size") {
  const TemporaryFolder folder;
  const std::string path = folder.write("big.yaml", "a: 1\n");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 30);  // sparse
  CHECK(message_of([&] { YamlCursor::open(path); }) ==
        "cannot read '" + path + "': it has 1073741824 bytes, more than 8 MiB");
  CHECK(parse_message(std::string((8 << 20) + 1, ' ')) ==
        "cannot read 'm.yaml': it has 8388609 bytes, more than 8 MiB");
}
