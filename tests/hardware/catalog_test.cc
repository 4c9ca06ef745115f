#include "hardware/catalog.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"

using namespace shardwright;

namespace {

const std::vector<CatalogFile> kFiles = {{"h100-sxm-80gb", "hardware/catalog/h100-sxm-80gb.yaml", "a: x\n"},
                                         {"a100-sxm-80gb", "hardware/catalog/a100-sxm-80gb.yaml", "a: 2\n"}};

std::string open_message(const std::string& name) {
  return message_of([&] { open_named("machine", name, kFiles); });
}

}  // namespace

TEST_CASE("names are sorted") {
  CHECK(catalog_names(kFiles) == std::vector<std::string>{"a100-sxm-80gb", "h100-sxm-80gb"});
}

TEST_CASE("a catalog file is read by its name, and complains by its path") {
  CHECK(open_named("machine", "a100-sxm-80gb", kFiles).at("a").integer(0, 9) == 2);
  CHECK(message_of([&] { open_named("machine", "h100-sxm-80gb", kFiles).at("a").integer(0, 9); }) ==
        "hardware/catalog/h100-sxm-80gb.yaml:1:4: 'a' must be a whole number, got 'x'\n"
        "a: x\n"
        "   ^");
}

TEST_CASE("an unknown name is answered with the nearest one, or with all") {
  CHECK(open_message("h10-sxm") ==
        "unknown machine 'h10-sxm': neither a file nor in the catalog (did you mean 'h100-sxm-80gb'?)");
  CHECK(open_message("A100-SXM-80GB") ==
        "unknown machine 'A100-SXM-80GB': neither a file nor in the catalog (did you mean 'a100-sxm-80gb'?)");
  CHECK(open_message("h100") ==
        "unknown machine 'h100': neither a file nor in the catalog (did you mean 'h100-sxm-80gb'?)");
  CHECK(open_message("tpu") ==
        "unknown machine 'tpu': neither a file nor in the catalog (the catalog has a100-sxm-80gb, h100-sxm-80gb)");
  CHECK(open_message("") ==
        "unknown machine '': neither a file nor in the catalog (the catalog has a100-sxm-80gb, h100-sxm-80gb)");
}

TEST_CASE("what looks like a path is one") {
  CHECK(open_message("x.yaml") == "cannot read 'x.yaml': No such file or directory");
  CHECK(open_message("x.yml") == "cannot read 'x.yml': No such file or directory");
  CHECK(open_message("no/such") == "cannot read 'no/such': No such file or directory");
  CHECK(open_message("/dev") == "cannot read '/dev': it is a folder");
}
