#include "hardware/csv.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"

using namespace shardwright;

TEST_CASE("cells are read line by line, past empty lines and remarks") {
  CsvReader csv("# from somewhere\na,b,c\n\n1,,3\r\n# more\n4,5,6", "x.csv");
  CHECK(csv.header() == std::vector<std::string_view>{"a", "b", "c"});
  CHECK(csv.column("b") == 1);
  CHECK(csv.column("d") == 3);
  REQUIRE(csv.next());
  CHECK(csv[0] == "1");
  CHECK(csv[1] == "");
  CHECK(csv[2] == "3");
  REQUIRE(csv.next());
  CHECK(csv[2] == "6");
  CHECK(!csv.next());
  CHECK(!csv.next());
}

TEST_CASE("faults in CSV are told with file, line and column") {
  CHECK(message_of([] { CsvReader csv("", "x.csv"); }) == "x.csv: has no header");
  CHECK(message_of([] { CsvReader csv("# a\n\n", "x.csv"); }) == "x.csv: has no header");
  CHECK(message_of([] {
          CsvReader csv("a,b\n1,2\n\n1,2,3\n", "x.csv");
          while (csv.next()) {}
        }) == "x.csv:4:5: has 3 cells, the header has 2");
  CHECK(message_of([] {
          CsvReader csv("a,b\n11\n", "x.csv");
          csv.next();
        }) == "x.csv:2:1: has 1 cells, the header has 2");
  CHECK(message_of([] {
          CsvReader csv("a,b\n11,22\n", "x.csv");
          csv.next();
          csv.fail(1, "is \x1b[1m wrong");
        }) == "x.csv:2:4: is ?[1m wrong");
}
