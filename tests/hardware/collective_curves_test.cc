#include "hardware/collective_curves.h"

#include <doctest/doctest.h>

#include "hardware/catalog.h"
#include "hardware/input_error.h"

namespace shardwright {

const std::vector<CatalogFile>& fabric_catalog();

namespace {

using doctest::Approx;

constexpr const char* kSmall =
    "schema: shardwright.collective_curves/1\n"                                                    // 1
    "fabrics:\n"                                                                                   // 2
    "  wire:\n"                                                                                    // 3
    "    ring_simple: {start_seconds: 1e-05, step_seconds: 2e-06, share: 0.5, fill_seconds: 0}\n"  // 4
    "    direct_simple: {start_seconds: 1, step_seconds: 0, share: 1, fill_seconds: 0}\n"          // 5
    "    relative_error: 0.25\n";                                                                  // 6

std::vector<FabricCurves> read(const std::string& text) {
  return read_collective_curves(YamlCursor::parse(text, "curves.yaml"));
}

std::string with(std::string text, const std::string& what, const std::string& instead) {
  text.replace(text.find(what), what.size(), instead);
  return text;
}

std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const InputError& error) { return error.what(); }
  return "no error";
}

}  // namespace

TEST_CASE("what moves takes its share of the rate, and pieces as many as are best") {
  CHECK(TransferCurve{1, 2, 0.5, 0}.moving(10) == 20);
  // x = 16, fill 4: 16 + 2 sqrt(64).
  CHECK(TransferCurve{0, 0, 1, 4}.moving(16) == 32);
  CHECK(TransferCurve{0, 0, 0.25, 4}.moving(4) == 32);
  CHECK(TransferCurve{0, 0, 1, 4}.moving(0) == 0);
}

TEST_CASE("a fabric is read with what it has") {
  const std::vector<FabricCurves> fabrics = read(kSmall);
  REQUIRE(fabrics.size() == 1);
  CHECK(fabrics[0].name == "wire");
  CHECK(fabrics[0][CollectiveWay::ring_simple] == TransferCurve{1e-5, 2e-6, 0.5, 0});
  CHECK_FALSE(fabrics[0][CollectiveWay::in_switch].has_value());
  CHECK(fabrics[0].ring_copy == 0);
  CHECK(fabrics[0].crowding == 0);
  CHECK(fabrics[0].relative_error == 0.25);
  CHECK(fabrics[0].errors.empty());
}

TEST_CASE("curves are written as they are read, and the program's own file byte by byte") {
  FabricCurves fabric = read(kSmall)[0];
  fabric[CollectiveWay::combine] = {rounded_to_file(1.23456e-5), 0, 0.7654, 1e-9};
  fabric.ring_copy = 0.3333;
  fabric.direct_copy = 0.5;
  fabric.crowding = 2;
  fabric.dispatch_rate_per_sm = 1.25e10;
  fabric.data = "said \"so\" \\ there";
  fabric.date = "2026-05";
  fabric.errors = {{"all_reduce", 12, 0.125, 0.25, 0.5}};
  CHECK(read(collective_curves_text({fabric})) == std::vector{fabric});
  REQUIRE(fabric_catalog().size() >= 1);
  for (const CatalogFile& file : fabric_catalog())
    if (file.name == "collectives") CHECK(collective_curves_text(read(std::string(file.text))) == file.text);
}

TEST_CASE("numbers keep four digits") {
  CHECK(rounded_to_file(1.23456e-5) == 1.235e-5);
  CHECK(rounded_to_file(0) == 0);
  CHECK(rounded_to_file(7) == 7);
}

TEST_CASE("what is wrong with a file of curves is said with its place") {
  CHECK(error_of(with(kSmall, "curves/1", "curves/2")) ==
        "curves.yaml:1:9: 'schema' must be shardwright.collective_curves/1\n"
        "schema: shardwright.collective_curves/2\n"
        "        ^");
  CHECK(error_of(with(kSmall, "ring_simple", "ring_simpel")) ==
        "curves.yaml:4:5: unknown key 'ring_simpel' (did you mean 'ring_simple'?)\n"
        "    ring_simpel: {start_seconds: 1e-05, step_seconds: 2e-06, share: 0.5, fill_seconds: 0}\n"
        "    ^");
  CHECK(error_of(
            with(kSmall, "    direct_simple: {start_seconds: 1, step_seconds: 0, share: 1, fill_seconds: 0}\n", "")) ==
        "curves.yaml:4:5: 'fabrics.wire.direct_simple' is missing\n"
        "    ring_simple: {start_seconds: 1e-05, step_seconds: 2e-06, share: 0.5, fill_seconds: 0}\n"
        "    ^");
  CHECK(error_of(with(kSmall, "share: 0.5", "share: 1.5")) ==
        "curves.yaml:4:69: 'fabrics.wire.ring_simple.share' must be between 1e-09 and 1, got 1.5\n"
        "    ring_simple: {start_seconds: 1e-05, step_seconds: 2e-06, share: 1.5, fill_seconds: 0}\n"
        "                                                                    ^");
}

}  // namespace shardwright
