#include "hardware/gzip.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

using namespace shardwright;

namespace {

constexpr std::size_t kMost = 1 << 20;

std::string fault_of(const std::string& packed, std::size_t most = kMost) {
  return message_of([&] { gunzip(packed, "x.gz", most); });
}

}  // namespace

TEST_CASE("what was packed is unpacked again, in one or several members") {
  std::mt19937_64 random(1);
  for (const std::size_t size : {0u, 1u, 1000u, 300'000u}) {
    std::string text(size, 'a');
    for (std::size_t i = 0; i < size; i += 3) text[i] = static_cast<char>(random());
    CHECK(gunzip(gzip(text), "x.gz", kMost) == text);
    CHECK(gunzip(gzip(text) + gzip("more"), "x.gz", kMost) == text + "more");
  }
  const std::string zeros(kMost, '0');  // a thousand times smaller when packed
  CHECK(gunzip(gzip(zeros), "x.gz", kMost) == zeros);
  CHECK(gzip(zeros) == gzip(zeros));
}

TEST_CASE("what is not whole gzip is refused") {
  const std::string packed = gzip(std::string(10'000, 'x') + "y");
  CHECK(fault_of("") == "x.gz: is not packed by gzip, as its name says");
  CHECK(fault_of("m,n\n") == "x.gz: is not packed by gzip, as its name says");
  for (std::size_t size = 2; size < packed.size(); ++size) {
    CAPTURE(size);
    CHECK(fault_of(packed.substr(0, size)) == "x.gz: is cut off: the end of its packed text is missing");
  }
  std::string flipped = packed;
  flipped[packed.size() - 6] = static_cast<char>(flipped[packed.size() - 6] ^ 1);  // of the checksum
  CHECK(fault_of(flipped) == "x.gz: is damaged: it cannot be unpacked");
  CHECK(fault_of(packed + "rest") == "x.gz: is damaged: it cannot be unpacked");
  CHECK(fault_of(gzip(std::string(kMost + 1, 'x'))) == "x.gz: is larger than 1 MiB unpacked");
}

TEST_CASE("files are unpacked by their name") {
  const TemporaryFolder folder;
  folder.write("a.csv", "text");
  folder.write("b.csv.gz", gzip("packed"));
  folder.write("empty.csv", "");
  CHECK(read_maybe_gzip(folder / "a.csv", kMost) == "text");
  CHECK(read_maybe_gzip(folder / "b.csv.gz", kMost) == "packed");
  CHECK(read_maybe_gzip(folder / "empty.csv", kMost) == "");
  const auto fault = [&](const std::string& path) {
    const std::string message = message_of([&] { read_maybe_gzip(path, kMost); }),
                      start = "cannot read '" + path + "': ";
    return message.starts_with(start) ? message.substr(start.size()) : message;
  };
  CHECK(fault(folder / "none") == "No such file or directory");
  CHECK(fault(folder.path()) == "it is a folder");
  folder.write("large", std::string(kMost + 1, 'x'));
  CHECK(fault(folder / "large") == "it has 1048577 bytes, more than 1 MiB");
}
