#include "planner/pipeline/timeline.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

namespace shardwright {
namespace {

using doctest::Approx;

constexpr StreamSet kCompute = bit(Stream::compute), kLinks = bit(Stream::node_links), kNetwork = bit(Stream::network);

using After = std::initializer_list<int>;
Piece computing(double seconds, After after = {}, double need = 1, double memory = 0) {
  return {kCompute, {seconds}, need, memory, after, 0};
}
Piece moving(double seconds, After after = {}, double multiprocessors = 0, StreamSet streams = kNetwork) {
  return {streams, {seconds}, multiprocessors, 0, after, streams == kLinks ? 1 : 2};
}
double busy(const Timeline& t, Stream s) { return t.busy[static_cast<std::size_t>(s)].value; }

}  // namespace

TEST_CASE("nothing takes no time") { CHECK(play_streams({}).total.value == 0); }

TEST_CASE("a chain takes the sum of its pieces, on any streams") {
  const Timeline t = play_streams({computing(3), moving(2, {0}), computing(4, {1})});
  CHECK(t.total.value == Approx(9));
  CHECK(busy(t, Stream::compute) == Approx(7));
  CHECK(busy(t, Stream::network) == Approx(2));
  CHECK(t.spans[1].start.value == Approx(3));
  CHECK(t.spans[1].end.value == Approx(5));
}

TEST_CASE("what nobody waits for runs beside what comes after it") {
  // 3, then 4 beside 2.
  CHECK(play_streams({computing(3), moving(2, {0}), computing(4, {0})}).total.value == Approx(7));
  CHECK(play_streams({computing(3), moving(6, {0}), computing(4, {0})}).total.value == Approx(9));
}

TEST_CASE("a communication that compute waits for holds the compute stream") {
  const Timeline t = play_streams({computing(3), moving(2, {0}, 0, kCompute | kNetwork), computing(4, {0})});
  CHECK(t.total.value == Approx(9));
  CHECK(busy(t, Stream::compute) == Approx(9));
  CHECK(busy(t, Stream::network) == Approx(2));
}

TEST_CASE("two links work at once, two communications of one link one after the other") {
  CHECK(play_streams({moving(5), moving(3, {}, 0, kLinks)}).total.value == Approx(5));
  const Timeline t = play_streams({moving(5), moving(3)});
  CHECK(t.total.value == Approx(8));
  CHECK(t.spans[1].start.value == Approx(5));
}

TEST_CASE("what moves is exposed while nothing computes, and shares that time where two kinds do") {
  // 0-2 all three, 2-3 both links, 3-5 the network.
  const Timeline t = play_streams({moving(5), moving(3, {}, 0, kLinks), computing(2)});
  CHECK(t.computing.value == Approx(2));
  CHECK(t.moving[1].value == Approx(3));
  CHECK(t.moving[2].value == Approx(5));
  CHECK(t.exposed[1].value == Approx(0.5));
  CHECK(t.exposed[2].value == Approx(0.5 + 2));
}

TEST_CASE("of what could start, the first in the list does") {
  // The third reads the communication; until it is there the fourth runs, whole.
  const Timeline t = play_streams({computing(1), moving(2, {0}), computing(4, {1}), computing(3, {0})});
  CHECK(t.spans[3].start.value == Approx(1));
  CHECK(t.spans[2].start.value == Approx(4));
  CHECK(t.total.value == Approx(8));
}

TEST_CASE("a kernel without the multiprocessors of a communication beside it is slower while that runs") {
  // 2 s at 0.8 of the speed leave 8 - 1.6 at full speed.
  const Timeline t = play_streams({moving(2, {}, 0.2), computing(8)});
  CHECK(t.total.value == Approx(2 + 6.4));
  CHECK(t.spans[0].end.value == Approx(2));
  // A kernel that waits for memory half of its time loses half of that.
  CHECK(play_streams({moving(2, {}, 0.2), computing(8, {}, 0.5)}).total.value == Approx(2 + 8 - 2 * 0.9));
  // A communication that compute waits for takes nothing from it.
  CHECK(play_streams({moving(2, {}, 0.2, kCompute | kNetwork), computing(8)}).total.value == Approx(10));
}

TEST_CASE("what uses more memory bandwidth than there is gets its part of it") {
  // 0.9 + 0.35 of it: both at 1 / 1.25 until the communication has gone its 4 s, after 5.
  Piece copy = moving(4);
  copy.memory = 0.35;
  const Timeline t = play_streams({copy, computing(10, {}, 0, 0.9)});
  CHECK(t.spans[0].end.value == Approx(5));
  CHECK(t.total.value == Approx(5 + 10 - 4));
  // One that needs no memory is not slowed.
  CHECK(play_streams({copy, computing(10)}).total.value == Approx(10));
}

TEST_CASE("any pieces: dependencies and streams are kept, and the time lies between the busiest stream and the sum") {
  std::mt19937 random(1);
  const auto draw = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const StreamSet sets[] = {kCompute, kCompute, kCompute, kLinks, kNetwork, kCompute | kLinks, kLinks | kNetwork};
  for (int round = 0; round < 300; ++round) {
    std::vector<Piece> pieces;
    const int n = 1 + draw(40);
    for (int i = 0; i < n; ++i) {
      Piece p{sets[draw(7)], {0.1 * draw(20)}, 0.1 * draw(4), 0.2 * draw(6), {}, draw(kPieceKinds)};
      for (int k = 0; i > 0 && k < draw(3); ++k) p.after.push_back(draw(i));
      pieces.push_back(p);
    }
    const Timeline t = play_streams(pieces);
    double sum = 0, longest_stream = 0;
    for (int s = 0; s < kStreams; ++s)
      longest_stream = std::max(longest_stream, t.busy[static_cast<std::size_t>(s)].value);
    for (int i = 0; i < n; ++i) {
      const Piece& p = pieces[static_cast<std::size_t>(i)];
      const Span& span = t.spans[static_cast<std::size_t>(i)];
      sum += span.end.value - span.start.value;
      CHECK(span.end.value - span.start.value >= p.alone.value * (1 - 1e-9));
      for (int before : p.after) CHECK(t.spans[static_cast<std::size_t>(before)].end.value <= span.start.value);
      for (int j = 0; j < i; ++j) {
        const Span& other = t.spans[static_cast<std::size_t>(j)];
        if (!(pieces[static_cast<std::size_t>(j)].streams & p.streams)) continue;
        CHECK((other.end.value <= span.start.value || span.end.value <= other.start.value));
      }
    }
    CHECK(t.total.value <= sum * (1 + 1e-9));
    CHECK(t.total.value >= longest_stream * (1 - 1e-9));
    double parts = t.computing.value;
    for (Seconds e : t.exposed) parts += e.value;
    CHECK(t.total.value == Approx(parts));
  }
}

}  // namespace shardwright
