#include "profiler/profile.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "hardware/input_error.h"
#include "kernels/threads/threads_communicator.h"
#include "tests/support/fake_backend.h"
#include "tests/support/message_of.h"

namespace shardwright {
namespace {

const std::string kReference = "memory bytes=64";

TEST_CASE("a list of kernels is read line by line, each once") {
  const auto list =
      read_kernel_list("# remarks\n\nmemory bytes=8\r\ngemm m=1 n=2 k=3 type=fp32\nmemory bytes=8  \n", "l");
  REQUIRE(list.size() == 2);
  CHECK(to_string(list[0]) == "memory bytes=8");
  CHECK(to_string(list[1]) == "gemm m=1 n=2 k=3 type=fp32");
  CHECK(message_of([] { read_kernel_list("memory bytes=8\nmemory bytes=x\n", "l"); }) ==
        "l:2:1:14: 'bytes' must be a whole number between 0 and 9007199254740992, got 'x'\n"
        "memory bytes=x\n             ^");
}

TEST_CASE("a list is measured in its order by all ranks, told to the first, and ends when that is asked to") {
  for (const std::size_t most : {std::size_t{100}, std::size_t{2}}) {
    CAPTURE(most);
    run_on_threads(2, [most](Communicator& ranks) {
      CountingClock clock;
      FakeBackend backend(clock);
      backend.lacks["memory bytes=16"] = "none such";
      Measurer measurer(backend, ranks, clock, {}, parse_kernel_spec(kReference, "test"));
      std::vector<KernelSpec> list;
      // Only the first rank's list counts.
      if (ranks.rank() == 0) list = read_kernel_list("memory bytes=8\nmemory bytes=16\nmemory bytes=32\n", "list");
      std::vector<std::string> told;
      std::vector<double> times;
      ProfileListener listener;
      listener.row = [&](const JournalRow& row) { told.push_back(journal_line(row)); };
      listener.progress = [&](const ProfileProgress& p) {
        if (p.all != 3 || p.done != times.size()) throw std::runtime_error("progress");
        times.push_back(p.taken.value);
      };
      listener.stop = [&] { return told.size() >= most; };
      const bool all = profile_kernels(list, measurer, backend, ranks, clock, listener);
      if (all != (most == 100)) throw std::runtime_error("the end");
      const std::vector<std::string> expected = {"memory bytes=8\t0.001\t0\t7\t0\tfake 1.0\n",
                                                 "memory bytes=16\tfailed\tnone such\n",
                                                 "memory bytes=32\t0.001\t0\t7\t0\tfake 1.0\n"};
      const std::size_t rows = ranks.rank() == 0 ? std::min(most, expected.size()) : 0;
      if (told != std::vector<std::string>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(rows)))
        throw std::runtime_error("rows: " + (told.empty() ? "none" : told[0]));
      // A kernel: two runs that do not count, then seven, each behind the reference twice: 23 ms.
      if (ranks.rank() == 0 && std::abs(times[1] - 23e-3) > 1e-9) throw std::runtime_error("time");
    });
  }
}

TEST_CASE("what was measured before the machine was calm is measured once more at the end") {
  CountingClock clock;
  FakeBackend backend(clock);
  const auto alone = make_alone_communicator();
  // Slow while the Measurer looks at it first (15 times two runs of 2 ms) and measures the first kernel (9 runs, and 14
  // of the reference): 106 ms.
  const auto slow_at_first = [&clock](int) {
    const double seconds = clock.now().value < 0.1055 ? 2e-3 : 1e-3;
    return Timed{{seconds}, {seconds}};
  };
  backend.durations[kReference] = backend.durations["memory bytes=8"] = slow_at_first;
  Measurer measurer(backend, *alone, clock, {}, parse_kernel_spec(kReference, "test"));
  std::vector<std::string> told;
  ProfileListener listener;
  listener.row = [&](const JournalRow& row) { told.push_back(journal_line(row)); };
  CHECK(profile_kernels(read_kernel_list("memory bytes=8\nmemory bytes=16\nmemory bytes=32\n", "list"), measurer,
                        backend, *alone, clock, listener));
  REQUIRE(told.size() >= 4);
  CHECK(told.front() == "memory bytes=8\t0.002\t0\t7\t0\tfake 1.0\n");
  CHECK(told[3] == "memory bytes=8\t0.001\t0\t7\t0\tfake 1.0\n");
}

TEST_CASE("the general grid asks each question once, collectives as far as there are ranks") {
  for (const int ranks : {1, 2, 4, 6}) {
    std::set<std::string> texts;
    std::set<std::int64_t> groups;
    const auto grid = general_grid(DataType::fp32, ranks);
    for (const KernelSpec& spec : grid) {
      texts.insert(to_string(spec));
      if (const auto* c = std::get_if<CollectiveSpec>(&spec)) groups.insert(c->group.size());
    }
    CHECK(texts.size() == grid.size());
    CHECK(groups == (ranks == 1   ? std::set<std::int64_t>{}
                     : ranks == 2 ? std::set<std::int64_t>{2}
                     : ranks == 4 ? std::set<std::int64_t>{2, 4}
                                  : std::set<std::int64_t>{2, 3, 6}));
  }
}

}  // namespace
}  // namespace shardwright
