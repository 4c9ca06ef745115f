// The timing loop and its stopping rule, on a device whose times the test gives.
#include "profiler/measure.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "kernels/threads/threads_communicator.h"
#include "profiler/statistics.h"
#include "tests/support/fake_backend.h"

namespace shardwright {
namespace {

const std::string kKernel = "gemm m=8 n=8 k=8 type=fp32", kReference = "memory bytes=64";

struct Bench {
  CountingClock clock;
  FakeBackend backend = FakeBackend(clock);
  std::unique_ptr<Communicator> alone = make_alone_communicator();
  StoppingRule rule;

  std::variant<MeasuredKernel, NotMeasured> measure() {
    Measurer measurer(backend, *alone, clock, rule, parse_kernel_spec(kReference, "test"));
    return measurer.measure(parse_kernel_spec(kKernel, "test"));
  }
  MeasuredKernel measured() { return std::get<MeasuredKernel>(measure()); }
  std::string reason() { return std::get<NotMeasured>(measure()).reason; }
  void takes(const std::string& kernel, FakeBackend::Durations durations) { backend.durations[kernel] = durations; }
};

Timed all_ours(double seconds) { return {{seconds}, {seconds}}; }

TEST_CASE("a median holds the middle time, and the times around it say how sure that is") {
  // Of 16 times 1..16 s: (16 - 1.96 x 4) / 2 = 4.08, so the fourth time and the fourth from the end: 4 and 13;
  // half of 9 over 8.5.
  std::vector<Seconds> times;
  for (int i = 16; i >= 1; --i) times.push_back({static_cast<double>(i)});
  CHECK(median_time(times).median.value == 8.5);
  CHECK(median_time(times).relative_error == doctest::Approx(4.5 / 8.5));
  CHECK(median_time({{3}, {1}, {2}}).median.value == 2);
  CHECK(std::isinf(median_time({{1}, {1}, {1}, {1}, {1}}).relative_error));
  CHECK(median_time({{1}, {1}, {1}, {1}, {1}, {1}}).relative_error == 0);
  CHECK(std::isinf(median_time({}).relative_error));
}

TEST_CASE("a kernel that always takes the same is timed no more often than needed") {
  Bench b;
  b.takes(kKernel, [](int) { return all_ours(0.5e-3); });
  const MeasuredKernel m = b.measured();
  CHECK(m.time.value == doctest::Approx(0.5e-3));
  CHECK(m.relative_error == 0);
  CHECK(m.rounds == b.rule.least);
  CHECK(m.void_rounds == 0);
}

TEST_CASE("the first run, which finds cold caches, does not count") {
  Bench b;
  b.takes(kKernel, [](int run) { return all_ours(run == 0 ? 5.0 : 1e-3); });
  CHECK(b.measured().time.value == doctest::Approx(1e-3));
}

TEST_CASE("short kernels run many times in a round, but not for ever") {
  Bench b;
  b.rule.round = {2e-4};
  SUBCASE("20 us: ten runs are 0.2 ms") {
    b.takes(kKernel, [](int) { return all_ours(20e-6); });
    CHECK(b.measured().time.value == doctest::Approx(20e-6));
    CHECK(b.backend.timed.back() == std::pair(kKernel, 10));
  }
  SUBCASE("1 ns: a thousand") {
    b.takes(kKernel, [](int) { return all_ours(1e-9); });
    b.measured();
    CHECK(b.backend.timed.back() == std::pair(kKernel, 1000));
  }
  SUBCASE("1 s: one") {
    b.takes(kKernel, [](int) { return all_ours(1); });
    b.measured();
    CHECK(b.backend.timed.back() == std::pair(kKernel, 1));
  }
}

TEST_CASE("times that scatter are taken until their median is known, or the time is up") {
  Bench b;
  // 1 ms, every third 1.1 ms: the middle ones agree as soon as there are enough.
  SUBCASE("known") {
    b.takes(kKernel, [](int run) { return all_ours(run % 3 == 0 ? 1.1e-3 : 1e-3); });
    const MeasuredKernel m = b.measured();
    CHECK(m.time.value == doctest::Approx(1e-3));
    CHECK(m.relative_error <= b.rule.relative_error);
    CHECK(m.rounds > b.rule.least);
    CHECK(m.rounds < b.rule.most);
  }
  SUBCASE("never known: the most rounds") {
    b.takes(kKernel, [](int run) { return all_ours(run % 2 == 0 ? 1e-3 : 2e-3); });
    const MeasuredKernel m = b.measured();
    CHECK(m.rounds == b.rule.most);
    CHECK(m.relative_error > b.rule.relative_error);
  }
  SUBCASE("never known and slow: the longest time") {
    // 0.5 s and 1 s in turn beside a reference of 1 ms: the 3 s are over before the seventh, which is the least.
    b.takes(kKernel, [](int run) { return all_ours(run % 2 == 0 ? 0.5 : 1.0); });
    CHECK(b.measured().rounds == b.rule.least);
  }
}

TEST_CASE("a round in which others had the device does not count") {
  Bench b;
  b.takes(kKernel, [](int run) { return run % 2 == 0 ? Timed{{3e-3}, {1e-3}} : all_ours(1e-3); });
  const MeasuredKernel m = b.measured();
  CHECK(m.time.value == doctest::Approx(1e-3));
  CHECK(m.relative_error == 0);
  // Runs 0 and 1 are not rounds; 2, 4, ... are void.
  CHECK(m.void_rounds == m.rounds);
}

TEST_CASE("a round behind a slow reference kernel does not count") {
  Bench b;
  // The reference runs fifteen times two before the first round, then twice before each, whose faster counts: every
  // third of those is slow.
  b.takes(kReference, [](int run) { return all_ours(run >= 30 && run / 2 % 3 == 0 ? 1.3e-3 : 1e-3); });
  b.takes(kKernel, [](int) { return all_ours(1e-3); });
  const MeasuredKernel m = b.measured();
  CHECK(m.rounds == 7);
  CHECK(m.void_rounds == 4);  // rounds 0, 3, 6, 9
}

TEST_CASE("one lucky time of the reference voids nothing, a calmer machine what was measured before") {
  Bench b;
  SUBCASE("lucky") {
    b.takes(kReference, [](int run) { return all_ours(run < 2 ? 0.5e-3 : 1e-3); });
    b.takes(kKernel, [](int) { return all_ours(1e-3); });
    CHECK(b.measured().void_rounds == 0);
  }
  SUBCASE("calmer") {
    b.takes(kReference, [](int run) { return all_ours(run < 40 ? 2e-3 : 1e-3); });
    b.takes(kKernel, [](int) { return all_ours(1e-3); });
    Measurer measurer(b.backend, *b.alone, b.clock, b.rule, parse_kernel_spec(kReference, "test"));
    const Seconds before = measurer.calm();
    CHECK(before.value == doctest::Approx(2e-3));
    CHECK(measurer.in_calm(before));
    for (int i = 0; i < 3; ++i) measurer.measure(parse_kernel_spec(kKernel, "test"));
    CHECK(measurer.calm().value == doctest::Approx(1e-3));
    CHECK_FALSE(measurer.in_calm(before));
  }
}

TEST_CASE("a machine that is never ours gives no time but a reason") {
  Bench b;
  b.takes(kKernel, [](int) { return Timed{{2e-3}, {1e-3}}; });
  CHECK(b.reason() == "the machine was not ours alone in 100 of 100 rounds");
  CHECK(b.clock.paused.value == doctest::Approx(2e-3 * 5050));  // 1 + 2 + ... + 100
  SUBCASE("unless that is asked for") {
    b.rule.void_rounds = false;
    CHECK(b.measured().time.value == doctest::Approx(2e-3));
    CHECK(b.measured().void_rounds == 0);
  }
}

TEST_CASE("what cannot be timed says why, and is not timed") {
  Bench b;
  SUBCASE("lacking") {
    b.backend.lacks[kKernel] = "no such kernel";
    CHECK(b.reason() == "no such kernel");
  }
  SUBCASE("too large") {
    b.backend.too_large = {kKernel};
    CHECK(b.reason() == "its buffers do not fit into the memory");
  }
  SUBCASE("beyond any device") {
    Measurer measurer(b.backend, *b.alone, b.clock, b.rule, parse_kernel_spec(kReference, "test"));
    const auto reason = [&](const char* spec) {
      return std::get<NotMeasured>(measurer.measure(parse_kernel_spec(spec, "test"))).reason;
    };
    CHECK(reason("gemm m=9007199254740992 n=9007199254740992 k=9007199254740992 type=bf16") ==
          "it is of 1e+48 operations: more than can be waited for");
    CHECK(reason("attention heads=1 kv_heads=1 query=9007199254740992 key=9007199254740992 head_dim=64 causal=false "
                 "type=bf16") == "it is of 2e+34 operations: more than can be waited for");
    CHECK(reason("memory bytes=9007199254740992") == "its buffers do not fit into the memory");
    CHECK(reason("collective op=send_recv bytes=9007199254740992 group=2") == "its buffers do not fit into the memory");
  }
  SUBCASE("wrong") {
    b.backend.errors[kKernel] = 3e-5;
    CHECK(b.reason() == "it differs from the reference by 3e-05, 1e-05 is allowed");
  }
  SUBCASE("no number") {
    b.backend.errors[kKernel] = std::numeric_limits<double>::quiet_NaN();
    CHECK(b.reason() == "it differs from the reference: it has what is no number");
  }
  for (const auto& [kernel, runs] : b.backend.timed) CHECK(kernel == kReference);
}

TEST_CASE("of several ranks the slowest counts, and all stop together") {
  run_on_threads(3, [](Communicator& ranks) {
    CountingClock clock;
    FakeBackend backend(clock);
    const double own = 1e-3 * (1 + ranks.rank());
    backend.durations[kKernel] = [own](int) { return all_ours(own); };
    Measurer measurer(backend, ranks, clock, {}, parse_kernel_spec(kReference, "test"));
    const auto made = measurer.measure(parse_kernel_spec(kKernel, "test"));
    const MeasuredKernel& m = std::get<MeasuredKernel>(made);
    if (std::abs(m.time.value - 3e-3) > 1e-9 || m.rounds != 7) throw std::runtime_error("not the slowest");
    // One rank's fault is everyone's answer.
    backend.errors[kKernel] = ranks.rank() == 1 ? 1.0 : 0.0;
    const auto wrong = measurer.measure(parse_kernel_spec(kKernel, "test"));
    if (std::get<NotMeasured>(wrong).reason != "it differs from the reference by 1, 1e-05 is allowed")
      throw std::runtime_error(std::get<NotMeasured>(wrong).reason);
    backend.too_large = ranks.rank() == 2 ? std::vector{kKernel} : std::vector<std::string>{};
    const auto large = measurer.measure(parse_kernel_spec(kKernel, "test"));
    if (std::get<NotMeasured>(large).reason != "its buffers do not fit into the memory")
      throw std::runtime_error(std::get<NotMeasured>(large).reason);
  });
}

TEST_CASE("a kernel that fails when it runs has that reason, unless the device is lost with it") {
  const auto alone = make_alone_communicator();
  CountingClock clock;
  FakeBackend backend(clock);
  const std::string reference = "memory bytes=64", kernel = "memory bytes=8";
  Measurer measurer(backend, *alone, clock, {}, parse_kernel_spec(reference, "test"));
  backend.breaks[kernel] = "refused";
  const auto answer = measurer.measure(parse_kernel_spec(kernel, "test"));
  REQUIRE(std::holds_alternative<NotMeasured>(answer));
  CHECK(std::get<NotMeasured>(answer).reason == "refused");
  backend.breaks[reference] = "the device is lost";
  CHECK_THROWS_WITH(measurer.measure(parse_kernel_spec(kernel, "test")), "the device is lost");
}

}  // namespace
}  // namespace shardwright
