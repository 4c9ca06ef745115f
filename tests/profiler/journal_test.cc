#include "profiler/journal.h"

#include <doctest/doctest.h>

#include "hardware/input_error.h"
#include "tests/support/message_of.h"

namespace shardwright {
namespace {

KernelSpec spec(const std::string& text) { return parse_kernel_spec(text, "test"); }

const std::string kGemm = "gemm m=8 n=16 k=32 type=fp32", kMemory = "memory bytes=64";

TEST_CASE("a journal's lines are read as they were written") {
  const JournalRow timed = {spec(kGemm), MeasuredKernel{{1.25e-5}, 0.004, 12, 3}, "OpenBLAS 0.3.21"};
  const JournalRow failed = {spec(kMemory), NotMeasured{"no such kernel"}, ""};
  CHECK(journal_line(timed) == "gemm m=8 n=16 k=32 type=fp32\t1.25e-05\t0.004\t12\t3\tOpenBLAS 0.3.21\n");
  CHECK(journal_line(failed) == "memory bytes=64\tfailed\tno such kernel\n");
  const auto rows = read_journal(journal_head() + journal_line(timed) + journal_line(failed), "rows.txt");
  REQUIRE(rows.size() == 2);
  const auto& m = std::get<MeasuredKernel>(rows.at(kGemm).answer);
  CHECK(m.time.value == 1.25e-5);
  CHECK(m.relative_error == 0.004);
  CHECK(m.rounds == 12);
  CHECK(m.void_rounds == 3);
  CHECK(rows.at(kGemm).kernel == "OpenBLAS 0.3.21");
  CHECK(std::get<NotMeasured>(rows.at(kMemory).answer).reason == "no such kernel");
}

TEST_CASE("of two lines about a kernel the later counts") {
  const std::string text = journal_head() + kMemory + "\tfailed\tbusy\n" + kMemory + "\t2e-06\t0\t7\t0\tx\n";
  CHECK(std::get<MeasuredKernel>(read_journal(text, "rows.txt").at(kMemory).answer).time.value == 2e-6);
}

TEST_CASE("what is no journal is said to be none") {
  const auto complaint = [](const std::string& text) { return message_of([&] { read_journal(text, "rows.txt"); }); };
  CHECK(complaint("hello\n") == "rows.txt:1: is not a line of a profile");
  CHECK(complaint(journal_head() + kMemory + "\n") == "rows.txt:2: is not a line of a profile");
  CHECK(complaint(journal_head() + kMemory + "\t0\t0\t7\t0\tx\n") == "rows.txt:2: is not a line of a profile");
  CHECK(complaint(journal_head() + kMemory + "\t1e-6s\t0\t7\t0\tx\n") == "rows.txt:2: is not a line of a profile");
  CHECK(complaint(journal_head() + "memory bites=64\tfailed\tx\n").starts_with("rows.txt:2:1:8: unknown key 'bites'"));
}

TEST_CASE("tables hold what was measured, and who did") {
  const std::string text = journal_head() + kGemm + "\t1e-05\t0.01\t7\t0\tOpenBLAS 0.3.21\n" + kMemory +
                           "\tfailed\tbusy\n" + "gemm m=4 n=16 k=32 type=fp32\t5e-06\t0.01\t7\t0\tOpenBLAS 0.3.21\n";
  const Measurements tables = tables_of(read_journal(text, "rows.txt"), "shardwright 0.1");
  CHECK(tables.size() == 2);
  CHECK(kernel_table_csv(tables.table(KernelFamily::gemm)) ==
        "m,n,k,type,seconds,kernel,framework\n"
        "4,16,32,fp32,5e-06,OpenBLAS 0.3.21,shardwright 0.1\n"
        "8,16,32,fp32,1e-05,OpenBLAS 0.3.21,shardwright 0.1\n");
}

}  // namespace
}  // namespace shardwright
