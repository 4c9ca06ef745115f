// Collectives between ranks: the same cases between threads of this process, and between processes under mpirun, where
// this program is started again for each rank.
#include "kernels/communicator.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/mpi/mpi_ranks.h"
#include "kernels/threads/threads_communicator.h"

namespace shardwright {
namespace {

View view(std::vector<float>& x) { return {x.data(), static_cast<std::int64_t>(x.size()), Element::fp32}; }
View view(std::vector<std::int64_t>& x) { return {x.data(), static_cast<std::int64_t>(x.size()), Element::int64}; }

std::string shown(const std::vector<float>& x) {
  std::string s;
  for (float v : x) s += std::to_string(static_cast<int>(v)) + " ";
  return s;
}

/// Throws what is wrong: doctest's checks belong to one thread.
template <typename Number>
void expect(const std::vector<Number>& got, const std::vector<Number>& wanted, const std::string& what) {
  if (got == wanted) return;
  std::string s = what + " has";
  for (const Number& v : got) s += " " + std::to_string(v);
  throw std::runtime_error(s);
}

/// Every collective, with numbers that tell ranks and places apart: element i of rank r is 10 r + i.
void check_collectives(Communicator& c) {
  const int n = c.size(), r = c.rank();
  const auto f = [](int x) { return static_cast<float>(x); };

  std::vector<float> sum = {f(r), f(10 * r)};
  c.all_reduce(view(sum), Reduction::sum);
  const int ranks_sum = n * (n - 1) / 2;
  expect(sum, {f(ranks_sum), f(10 * ranks_sum)}, "all_reduce sum");
  std::vector<float> most = {f(r), f(-r)};
  c.all_reduce(view(most), Reduction::max);
  expect(most, {f(n - 1), 0.f}, "all_reduce max");

  std::vector<float> part = {f(10 * r), f(10 * r + 1)}, all(static_cast<std::size_t>(2 * n)), wanted;
  c.all_gather(view(part), view(all));
  for (int q = 0; q < n; ++q) wanted.insert(wanted.end(), {f(10 * q), f(10 * q + 1)});
  expect(all, wanted, "all_gather");

  // Every rank gives 100 q + r to rank q: rank q has the sum of 100 q + r over r.
  std::vector<float> given, kept(1);
  for (int q = 0; q < n; ++q) given.push_back(f(100 * q + r));
  c.reduce_scatter(view(given), view(kept), Reduction::sum);
  expect(kept, {f(100 * r * n + ranks_sum)}, "reduce_scatter");

  // Rank r sends q copies of 10 r + q to rank q: nothing to rank 0.
  std::vector<std::int64_t> out, send, receive;
  for (int q = 0; q < n; ++q) {
    send.push_back(q);
    out.insert(out.end(), static_cast<std::size_t>(q), 10 * r + q);
    receive.push_back(r);
  }
  std::vector<std::int64_t> in(static_cast<std::size_t>(n * r), -1), expected;
  c.all_to_all(view(out), send, view(in), receive);
  for (int q = 0; q < n; ++q) expected.insert(expected.end(), static_cast<std::size_t>(r), 10 * q + r);
  expect(in, expected, "all_to_all");

  std::vector<float> told = {f(r == n - 1 ? 7 : 0)};
  c.broadcast(view(told), n - 1);
  expect(told, {7.f}, "broadcast");

  // Two messages around the ring; both are asked for before either is there.
  std::vector<float> first(1), second(2), a = {f(r)}, b = {f(r), f(r + 1)};
  const int next = (r + 1) % n, before = (r + n - 1) % n;
  const auto got_first = c.receive(view(first), before, 3), got_second = c.receive(view(second), before, 3);
  const auto sent_a = c.send(view(a), next, 3), sent_b = c.send(view(b), next, 3);
  got_first->wait();
  got_second->wait();
  sent_a->wait();
  sent_b->wait();
  expect(first, {f(before)}, "first message");
  expect(second, {f(before), f(before + 1)}, "second message");
  c.barrier();
}

void check_split(Communicator& c) {
  const auto halves = c.split(c.rank() % 2);
  if (halves->rank() != c.rank() / 2) throw std::runtime_error("rank in the part: " + std::to_string(halves->rank()));
  if (halves->size() != (c.size() + 1 - c.rank() % 2) / 2) throw std::runtime_error("size of the part");
  check_collectives(*halves);
  check_collectives(*halves->split(7));
}

TEST_CASE("threads exchange what they should, all of them and in parts") {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    CAPTURE(ranks);
    run_on_threads(ranks, [](Communicator& c) {
      check_collectives(c);
      check_split(c);
      check_collectives(c);
    });
  }
}

TEST_CASE("a thread that fails ends those that wait for it, and its failure is told") {
  for (const int waiting_in : {0, 1, 2}) {
    CAPTURE(waiting_in);
    CHECK_THROWS_WITH(run_on_threads(3,
                                     [&](Communicator& c) {
                                       if (c.rank() == 1) throw std::runtime_error("rank 1 has had enough");
                                       std::vector<float> x(1);
                                       if (waiting_in == 0) c.barrier();
                                       if (waiting_in == 1) c.all_reduce(view(x), Reduction::sum);
                                       if (waiting_in == 2) c.receive(view(x), 1, 0)->wait();
                                     }),
                      "rank 1 has had enough");
  }
}

TEST_CASE("what a group reads of each other lives until all have read it, though a rank outside fails") {
  for (int round = 0; round < 20; ++round)
    CHECK_THROWS_WITH(run_on_threads(3,
                                     [&](Communicator& c) {
                                       const auto part = c.split(c.rank() == 2 ? 1 : 0);
                                       if (c.rank() == 2) throw std::runtime_error("rank 2 has had enough");
                                       for (;;) {
                                         std::vector<float> x(4096, 1.0F);
                                         part->all_reduce(view(x), Reduction::sum);
                                       }
                                     }),
                      "rank 2 has had enough");
}

TEST_CASE("a message of another size than expected is a fault") {
  CHECK_THROWS_WITH(run_on_threads(2,
                                   [](Communicator& c) {
                                     std::vector<float> x(c.rank() == 0 ? 3 : 2);
                                     if (c.rank() == 0) c.send(view(x), 1, 0);
                                     if (c.rank() == 1) c.receive(view(x), 0, 0)->wait();
                                   }),
                    "a message of 12 bytes came where 8 were expected");
}

TEST_CASE("a maximum keeps what is no number") {
  run_on_threads(3, [](Communicator& c) {
    std::vector<float> x = {c.rank() == 1 ? std::nanf("") : 1.f};
    c.all_reduce(view(x), Reduction::max);
    if (!std::isnan(x[0])) throw std::runtime_error("a number: " + shown(x));
  });
}

// Run as a rank by the test below; alone it is nothing to run.
TEST_CASE("mpi ranks exchange what they should" * doctest::skip(!is_mpi_rank())) {
  const auto world = mpi_world();
  try {
    check_collectives(*world);
    check_split(*world);
    check_collectives(*world);
  } catch (const std::exception& error) {
    FAIL_CHECK(error.what());
    mpi_abort(1);
  }
}

// ctest runs it by name (CMakeLists.txt gives it the label `mpi`).
TEST_CASE("mpi processes exchange what they should, all of them and in parts" * doctest::skip()) {
  if (!mpi_missing().empty() || mpirun_path().empty()) {
    MESSAGE("SKIPPED: " << (mpi_missing().empty() ? "no mpirun" : mpi_missing()));
    return;
  }
  for (const int ranks : {1, 2, 3}) {
    std::string line;
    for (const std::string& word :
         mpirun_command(ranks, {own_path(), "-tc=mpi ranks exchange what they should", "--no-skip", "--minimal"}))
      line += "'" + word + "' ";
    CAPTURE(line);
    CHECK(std::system(line.c_str()) == 0);
  }
}

}  // namespace
}  // namespace shardwright
