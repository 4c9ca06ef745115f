#include "reports/format.h"

#include <doctest/doctest.h>

namespace shardwright {
namespace {

TEST_CASE("a time has three digits and the largest unit in which it is at least 1") {
  CHECK(with_unit(Seconds{0}) == "0 us");
  CHECK(with_unit(Seconds{1.5e-6}) == "1.50 us");
  CHECK(with_unit(Seconds{0.0123}) == "12.3 ms");
  CHECK(with_unit(Seconds{1}) == "1.00 s");
  CHECK(with_unit(Seconds{0.9996}) == "1.00 s");
  CHECK(with_unit(Seconds{123.4}) == "123 s");
  CHECK(with_unit(Seconds{123456}) == "123,456 s");
}

TEST_CASE("memory is in powers of 1024 and rates in powers of 1000") {
  CHECK(with_unit(Bytes{512}) == "512 B");
  CHECK(with_unit(3_KiB) == "3.00 KiB");
  CHECK(with_unit(1536_KiB) == "1.50 MiB");
  CHECK(with_unit(80_GiB) == "80.0 GiB");
  CHECK(with_unit(2048_GiB) == "2.00 TiB");
  CHECK(with_unit(BytesPerSecond{3.35e12}) == "3.35 TB/s");
  CHECK(with_unit(BytesPerSecond{50e9}) == "50.0 GB/s");
  CHECK(with_unit(FlopsPerSecond{989e12}) == "989 TFLOP/s");
  CHECK(with_unit(FlopsPerSecond{1979e12}) == "1.98 PFLOP/s");
  CHECK(in_gib(1536_MiB) == "1.5");
  CHECK(in_gib(1280_MiB, 2) == "1.25");
}

TEST_CASE("more bytes than fit 32 bits keep their value") {
  CHECK(with_unit(Bytes{std::int64_t{5} << 40}) == "5.00 TiB");
  CHECK(in_gib(Bytes{std::int64_t{5} << 40}) == "5120.0");
}

TEST_CASE("counts are grouped by thousands, or short as in model names") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(4194304) == "4,194,304");
  CHECK(grouped(-1234567) == "-1,234,567");
  CHECK(short_count(999) == "999");
  CHECK(short_count(125'000'000) == "125 M");
  CHECK(short_count(8'030'261'248) == "8.03 B");
  CHECK(short_count(405'853'388'800) == "406 B");
  CHECK(short_count(1'000'000'000'000) == "1.00 T");
}

TEST_CASE("fractions are percentages") {
  CHECK(percent(0.4247) == "42.5 %");
  CHECK(percent(1, 0) == "100 %");
  CHECK(signed_percent(0.034) == "+3.4 %");
  CHECK(signed_percent(-0.5) == "-50.0 %");
}

TEST_CASE("text is broken at spaces, and a long word has its own line") {
  CHECK(wrapped("one two three", 7) == "one two\nthree\n");
  CHECK(wrapped("one two three", 9, 2) == "  one two\n  three\n");
  CHECK(wrapped("a extraordinary b", 5) == "a\nextraordinary\nb\n");
  CHECK(wrapped("  spaces   go ", 80) == "spaces go\n");
  CHECK(wrapped("", 80) == "");
}

TEST_CASE("columns are as wide as their widest cell and lines end without spaces") {
  TextTable table({{"name", TextTable::Align::left}, {"n"}, {"note", TextTable::Align::left}});
  table.add_row({"a", "1000", ""});
  table.add_row({"longer", "1", "x"});
  CHECK(table.width(2) == 18);  // 6 + 2 + 4 + 2 + 4
  CHECK(table.lines(2) == std::vector<std::string>{"name       n  note", "a       1000", "longer     1  x"});
  CHECK(table.lines(1, 1)[2] == " longer    1 x");
}

TEST_CASE("colour is only where the style has it") {
  CHECK(bold("x", {}) == "x");
  CHECK(bold("x", {80, true}) == "\x1b[1mx\x1b[0m");
  CHECK(red("x", {80, true}) == "\x1b[31mx\x1b[0m");
  CHECK(green("x", {80, false}) == "x");
}

}  // namespace
}  // namespace shardwright
