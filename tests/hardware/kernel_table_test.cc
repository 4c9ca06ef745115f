#include "hardware/kernel_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "tests/support/message_of.h"
#include "tests/support/random_kernel.h"

using namespace shardwright;

namespace {

const std::string kGemms =
    "m,n,k,type,scaling,seconds,kernel,framework\n"
    "64,10,20,fp8,block,3e-06,deep,engine 1\n"
    "8,10,20,bf16,,2.5e-06,cublas,engine 1\n"
    "64,10,20,fp8,block,1e-06,cutlass,engine 1\n"
    "64,10,20,bf16,tensor,2e-05,cublas,engine 1\n"
    "1,10,20,bf16,tensor,1e-06,cublas,engine 2\n";

KernelTable gemms(const std::string& text) { return read_kernel_table(text, "gemm.csv", KernelFamily::gemm); }

std::string fault_of(const std::string& text, KernelFamily family = KernelFamily::gemm) {
  return message_of([&] { read_kernel_table(text, "x.csv", family); });
}

}  // namespace

TEST_CASE("a table is sorted so that rows of one curve are neighbours") {
  const KernelTable table = gemms(kGemms);
  REQUIRE(table.size() == 5);
  // bf16 before fp8; along m; the same question by the kernel's name.
  const auto m = table.column("m");
  CHECK(std::vector<std::int64_t>(m.begin(), m.end()) == std::vector<std::int64_t>{1, 8, 64, 64, 64});
  CHECK(std::vector<double>(table.seconds().begin(), table.seconds().end()) ==
        std::vector<double>{1e-6, 2.5e-6, 2e-5, 1e-6, 3e-6});
  CHECK(table.spec(1) == KernelSpec(GemmSpec{.m = 8, .n = 10, .k = 20}));
  CHECK(table.spec(4) ==
        KernelSpec(GemmSpec{.m = 64, .n = 10, .k = 20, .type = DataType::fp8, .scaling = Scaling::block}));
  CHECK(table.kernel(3) == "cutlass");
  CHECK(table.kernel(4) == "deep");
  CHECK(table.framework(0) == "engine 2");
}

TEST_CASE("a question finds all rows that measured it") {
  const KernelTable table = gemms(kGemms);
  const auto rows = [&](const GemmSpec& spec) {
    const auto found = table.find(spec);
    return std::pair(found.begin, found.end);
  };
  CHECK(rows({.m = 8, .n = 10, .k = 20}) == std::pair<std::size_t, std::size_t>(1, 2));
  CHECK(rows({.m = 64, .n = 10, .k = 20, .type = DataType::fp8, .scaling = Scaling::block}) ==
        std::pair<std::size_t, std::size_t>(3, 5));
  CHECK(table.find(GemmSpec{.m = 9, .n = 10, .k = 20}).size() == 0);
  CHECK(table.find(GemmSpec{.m = 8, .n = 10, .k = 20, .accumulate = true}).size() == 0);
  // A default that is said is the same question.
  CHECK(table.find(GemmSpec{.m = 8, .n = 10, .k = 20, .weights = StoredType::bf16}).size() == 1);
  CHECK(KernelTable(KernelFamily::memory).find(MemorySpec{Bytes{1}}).size() == 0);
}

TEST_CASE("a question finds the curve that it lies on") {
  const KernelTable table = gemms(kGemms);
  const auto rows = [&](const KernelSpec& spec) {
    const auto found = table.curve(spec);
    return std::pair(found.begin, found.end);
  };
  CHECK(rows(GemmSpec{.m = 1000, .n = 10, .k = 20}) == std::pair<std::size_t, std::size_t>(0, 3));
  CHECK(rows(GemmSpec{.m = 1, .n = 10, .k = 20, .type = DataType::fp8, .scaling = Scaling::block}) ==
        std::pair<std::size_t, std::size_t>(3, 5));
  CHECK(table.curve(GemmSpec{.m = 1, .n = 11, .k = 20}).size() == 0);
}

TEST_CASE("a table is written without the columns that say nothing, and reads back") {
  CHECK(kernel_table_csv(gemms("k,n,m,type,batch,seconds\n3,2,1,bf16,1,0.5\n")) ==
        "m,n,k,type,seconds\n1,2,3,bf16,0.5\n");
  const std::string text = kernel_table_csv(gemms(kGemms));
  CHECK(text ==
        "m,n,k,type,scaling,seconds,kernel,framework\n"
        "1,10,20,bf16,tensor,1e-06,cublas,engine 2\n"
        "8,10,20,bf16,tensor,2.5e-06,cublas,engine 1\n"
        "64,10,20,bf16,tensor,2e-05,cublas,engine 1\n"
        "64,10,20,fp8,block,1e-06,cutlass,engine 1\n"
        "64,10,20,fp8,block,3e-06,deep,engine 1\n");
  CHECK(kernel_table_csv(gemms(text)) == text);
  CHECK(
      kernel_table_csv(read_kernel_table("op,bytes,group,type,seconds\nall_reduce,8,2:4x8,,1\nall_gather,8,1,int8,2\n",
                                         "x", KernelFamily::collective)) ==
      "op,bytes,group,type,seconds\nall_reduce,8,2:4x8,,1\nall_gather,8,1,int8,2\n");
}

TEST_CASE("random tables are the same after a way through CSV, and every row is found") {
  std::mt19937_64 random(2);
  std::vector<KernelTable> tables;
  for (int i = 0; i < kKernelFamilies; ++i) tables.emplace_back(static_cast<KernelFamily>(i));
  for (int i = 0; i < 8000; ++i) {
    const KernelSpec spec = random_kernel(random);
    const double seconds = 1e-6 * (1 + static_cast<double>(random() % 1'000'000) / 7);
    tables[spec.index()].add(to_slots(spec), {seconds}, i % 3 == 0 ? "a" : "", i % 2 == 0 ? "b c" : "");
  }
  for (KernelTable& table : tables) {
    table.sort();
    CAPTURE(name_of(table.family()));
    REQUIRE(table.size() > 500);
    const std::string text = kernel_table_csv(table);
    const KernelTable read = read_kernel_table(text, "x.csv", table.family());
    REQUIRE(kernel_table_csv(read) == text);
    for (std::size_t row = 0; row < table.size(); ++row) {
      REQUIRE(read.slots(row) == table.slots(row));
      REQUIRE(read.seconds()[row] == table.seconds()[row]);
      const auto found = table.find(table.spec(row));
      REQUIRE(found.begin <= row);
      REQUIRE(row < found.end);
    }
  }
}

TEST_CASE("tables are joined") {
  KernelTable table = gemms("m,n,k,type,seconds,kernel\n2,1,1,bf16,2,b\n");
  table.add(gemms("m,n,k,type,seconds,kernel\n1,1,1,bf16,1,a\n3,1,1,bf16,3,b\n"));
  table.sort();
  CHECK(kernel_table_csv(table) == "m,n,k,type,seconds,kernel\n1,1,1,bf16,1,a\n2,1,1,bf16,2,b\n3,1,1,bf16,3,b\n");
}

TEST_CASE("faults in a table are told with file, line and column") {
  CHECK(fault_of("") == "x.csv: has no header");
  CHECK(fault_of("m,nn,k\n") == "x.csv:1:3: unknown column 'nn' of gemm");
  CHECK(fault_of("m,n,k,tpye\n") == "x.csv:1:7: unknown column 'tpye' of gemm (did you mean 'type'?)");
  CHECK(fault_of("m,n,k,m\n") == "x.csv:1:7: column 'm' is given twice");
  CHECK(fault_of("m,n,k,seconds\n") == "x.csv:1:1: column 'type' of gemm is missing");
  CHECK(fault_of("m,n,k,type\n") == "x.csv:1:1: column 'seconds' is missing");
  const std::string head = "m,n,k,type,seconds,kernel\n1,2,3,bf16,1,a\n";
  CHECK(fault_of(head + "1,x,3,bf16,1,a\n") ==
        "x.csv:3:3: 'n' must be a whole number between 0 and 9007199254740992, got 'x'");
  CHECK(fault_of(head + "1,,3,bf16,1,a\n") ==
        "x.csv:3:3: 'n' must be a whole number between 0 and 9007199254740992, got ''");
  CHECK(
      fault_of(head + "1,2,3,bf61,1,a\n") ==
      "x.csv:3:7: 'type' must be one of fp32, tf32, fp16, bf16, fp8, mxfp8, nvfp4 (did you mean 'bf16'?), got 'bf61'");
  for (const char* wrong : {"0", "-1", "1e7", "nan", "inf", "1 ", "", "1e-400", "1x"}) {
    CAPTURE(wrong);
    CHECK(fault_of(head + "1,2,3,bf16," + wrong + ",a\n") ==
          std::string("x.csv:3:12: 'seconds' must be a number above 0 and at most 1e+06, got '") + wrong + "'");
  }
  CHECK(fault_of(head + "1,2,3,bf16,1,\"a\"\n") ==
        "x.csv:3:14: 'kernel' must be printable ASCII without quotes, got '\"a\"'");
  CHECK(fault_of(head + "1,2,3\n") == "x.csv:3:5: has 3 cells, the header has 6");
  CHECK(fault_of(head + "1,2," + std::string(100, '9') + ",bf16,1,a\n") ==
        "x.csv:3:5: 'k' must be a whole number between 0 and 9007199254740992, got '" + std::string(57, '9') + "...'");
}

TEST_CASE("names in tables have no commas, quotes or unprintable letters") {
  CHECK(is_table_name(""));
  CHECK(is_table_name("torch.nn.functional.linear (v1) <a|b>"));
  for (const char* wrong : {"a,b", "\"a\"", "it's", "a\n", "\x1b[1m", "\xc3\xa9"}) CHECK(!is_table_name(wrong));
}
