#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>

#include "planner/pipeline/play.h"
#include "tests/support/message_of.h"
#include "tests/support/pipelines.h"

namespace shardwright {
namespace {

using Kind = Task::Kind;

std::string order_of(const Pipeline& p, int stage) { return written(tasks_of(stage_order(p, stage))); }

/// Micro-batches that keep 1 until backward, and no more.
int kept_forwards(const Pipeline& p, int stage) {
  const Order order = stage_order(p, stage);
  int sum = 0;
  for (const int n : in_flight(order, std::vector<PassKeeps>(order.chunks(), {1, 0})).until_backward) sum += n;
  return sum;
}

/// The most that a stage keeps.
double most_kept(const Order& order, const std::vector<PassKeeps>& keeps) {
  const InFlight most = in_flight(order, keeps);
  double sum = 0;
  for (std::size_t c = 0; c < keeps.size(); ++c)
    sum += most.until_backward[c] * keeps[c].until_backward + most.until_weight[c] * keeps[c].until_weight;
  return sum;
}

}  // namespace

TEST_CASE("gpipe runs every forward before the first backward") {
  CHECK(order_of({Schedule::gpipe, 2, 1, 3}, 0) == "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
  CHECK(order_of({Schedule::gpipe, 2, 1, 3}, 1) == "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
}

TEST_CASE("1F1B warms up with one forward less per stage, alternates and drains") {
  CHECK(order_of({Schedule::one_f_one_b, 3, 1, 4}, 0) == "F0.0 F0.1 F0.2 B0.0 F0.3 B0.1 B0.2 B0.3");
  CHECK(order_of({Schedule::one_f_one_b, 3, 1, 4}, 1) == "F0.0 F0.1 B0.0 F0.2 B0.1 F0.3 B0.2 B0.3");
  CHECK(order_of({Schedule::one_f_one_b, 3, 1, 4}, 2) == "F0.0 B0.0 F0.1 B0.1 F0.2 B0.2 F0.3 B0.3");
  CHECK(order_of({Schedule::one_f_one_b, 4, 1, 2}, 0) == "F0.0 F0.1 B0.0 B0.1");  // never gets to alternate
}

TEST_CASE("paired 1F1B is one forward more ahead and runs each with the backward behind it") {
  Pipeline p{Schedule::one_f_one_b, 2, 1, 4};
  p.paired = true;
  CHECK(written(tasks_of(stage_order(p, 1))) == "F0.0 F0.1&B0.0 F0.2&B0.1 F0.3&B0.2 B0.3");
  CHECK(written(tasks_of(stage_order(p, 0))) == "F0.0 F0.1 F0.2&B0.0 F0.3&B0.1 B0.2 B0.3");
  Pipeline q{Schedule::interleaved, 1, 2, 2};
  q.paired = true;
  CHECK(written(tasks_of(stage_order(q, 0))) == "F0.0 F1.0 F0.1&B1.0 F1.1&B0.0 B1.1 B0.1");
}

TEST_CASE("interleaved 1F1B takes as many micro-batches as stages through each chunk in turn") {
  // Warm-up: stage 0 runs 2 (2-1-0) + (2-1) 2 = 4 forwards ahead, stage 1 runs 2.
  CHECK(order_of({Schedule::interleaved, 2, 2, 4}, 0) ==
        "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3");
  CHECK(order_of({Schedule::interleaved, 2, 2, 4}, 1) ==
        "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3");
  // As many micro-batches as stages: stage 0 has all 4 ahead, stage 1 still alternates.
  CHECK(order_of({Schedule::interleaved, 2, 2, 2}, 0) == "F0.0 F0.1 F1.0 F1.1 B1.0 B1.1 B0.0 B0.1");
  CHECK(order_of({Schedule::interleaved, 2, 2, 2}, 1) == "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 B0.0 B0.1");
}

TEST_CASE("zb-h1 is 1F1B with weight gradients i micro-batches behind on stage i") {
  CHECK(order_of({Schedule::zb_h1, 3, 1, 4}, 0) == "F0.0 F0.1 F0.2 I0.0 W0.0 F0.3 I0.1 W0.1 I0.2 W0.2 I0.3 W0.3");
  CHECK(order_of({Schedule::zb_h1, 3, 1, 4}, 1) == "F0.0 F0.1 I0.0 F0.2 I0.1 W0.0 F0.3 I0.2 W0.1 I0.3 W0.2 W0.3");
  CHECK(order_of({Schedule::zb_h1, 3, 1, 4}, 2) == "F0.0 I0.0 F0.1 I0.1 F0.2 I0.2 W0.0 F0.3 I0.3 W0.1 W0.2 W0.3");
  CHECK(order_of({Schedule::zb_h1, 3, 1, 1}, 2) == "F0.0 I0.0 W0.0");
}

TEST_CASE("zb-h2 runs twice as many forwards ahead, and weight gradients 2 i micro-batches behind") {
  CHECK(order_of({Schedule::zb_h2, 2, 1, 4}, 0) == "F0.0 F0.1 F0.2 I0.0 W0.0 F0.3 I0.1 W0.1 I0.2 W0.2 I0.3 W0.3");
  CHECK(order_of({Schedule::zb_h2, 2, 1, 4}, 1) == "F0.0 I0.0 F0.1 I0.1 F0.2 I0.2 W0.0 F0.3 I0.3 W0.1 W0.2 W0.3");
}

TEST_CASE("dualpipe works off its eight phases from both ends, dualpipe-v on half the stages") {
  // Four stages, eight micro-batches: 0..3 from the first stage (chunk 0), 4..7 from the last (chunk 1).
  CHECK(order_of({Schedule::dualpipe, 4, 1, 8}, 0) ==
        "F0.0 F0.1 F0.2 F1.4 I1.4 W1.4 F1.5 F0.3&B1.5 F1.6&B0.0 B1.6 F1.7&B0.1 B1.7 I0.2 W0.2 I0.3 W0.3");
  CHECK(order_of({Schedule::dualpipe, 4, 1, 8}, 1) ==
        "F0.0 F1.4 F0.1 F1.5 F0.2 B1.4 F1.6&B0.0 F0.3&B1.5 F1.7&B0.1 B1.6 B0.2 I1.7 I0.3 W1.7 W0.3");
  // The other half is the mirror image.
  CHECK(order_of({Schedule::dualpipe, 4, 1, 8}, 3) ==
        "F1.4 F1.5 F1.6 F0.0 I0.0 W0.0 F0.1 F1.7&B0.1 F0.2&B1.4 B0.2 F0.3&B1.5 B0.3 I1.6 W1.6 I1.7 W1.7");
  CHECK(order_of({Schedule::dualpipe_v, 2, 2, 4}, 0) ==
        "F0.0 F0.1 F0.2 F1.0 I1.0 W1.0 F1.1 F0.3&B1.1 F1.2&B0.0 B1.2 F1.3&B0.1 B1.3 I0.2 W0.2 I0.3 W0.3");
}

TEST_CASE("dualpipe has the published numbers of steps") {
  // https://github.com/deepseek-ai/DualPipe: 8 ranks and 20 micro-batches, by a rank's distance h from its end.
  // Phase 1: 2 (3-h) forwards; 2: h+1 times two; 3: 3-h times I W F; 4: 3+h times two pairs (in the middle the first
  // one apart); 5: 3-h times B and a pair; 6: h+1 times two gradients; 7: 3-h times W I; 8: h+1 W.
  const auto count = [](const std::vector<Task>& tasks, Kind kind) {
    return std::count_if(tasks.begin(), tasks.end(), [&](const Task& t) { return t.kind == kind; });
  };
  for (int stage = 0; stage < 8; ++stage) {
    const int h = std::min(stage, 7 - stage), apart = h == 3 ? 1 : 0;
    const auto tasks = tasks_of(stage_order({Schedule::dualpipe, 8, 1, 20}, stage));
    CHECK(count(tasks, Kind::pair) == 2 * (3 + h) + (3 - h) - apart);
    CHECK(count(tasks, Kind::forward) == 2 * (3 - h) + 2 * (h + 1) + (3 - h) + apart);
    CHECK(count(tasks, Kind::backward) == (3 - h) + (h + 1) + apart);
    CHECK(count(tasks, Kind::input_gradient) == (3 - h) + (h + 1) + (3 - h));
    CHECK(count(tasks, Kind::weight_gradient) == (3 - h) + (3 - h) + (h + 1));
    // The folded pipeline of four stages has the same tasks in the same order, of micro-batches 0..9 in either chunk.
    if (stage >= 4) continue;
    auto folded = tasks_of(stage_order({Schedule::dualpipe_v, 4, 2, 10}, stage));
    for (Task& t : folded) {
      if (t.chunk == 1) t.micro_batch += 10;
      if (t.kind == Kind::pair && t.backward_chunk == 1) t.backward_micro_batch += 10;
    }
    CHECK(tasks == folded);
  }
}

TEST_CASE("16 ranks overlap 97 to 104 pairs of 120 micro-batches") {
  // DeepSeek-V3's pipeline: 2 (60 - 16 + h + 1) + 7 - h steps of a forward and a backward. The published schedule runs
  // the first of the 104 in the middle apart.
  for (int h = 0; h < 8; ++h) {
    const Order order = stage_order({Schedule::dualpipe, 16, 1, 120}, h);
    int pairs = h == 7 ? 1 : 0;
    for (const Task& t : tasks_of(order)) pairs += t.kind == Kind::pair ? 1 : 0;
    CHECK(pairs == 97 + h);
  }
}

TEST_CASE("an order with a period does not grow with the micro-batches") {
  for (const Schedule schedule : kAllSchedules) {
    if (is_greedy(schedule)) continue;
    Pipeline p{schedule, 8, 1, 64};
    if (schedule == Schedule::interleaved) p.chunks = 4;
    if (schedule == Schedule::dualpipe_v) p.chunks = 2;
    for (int stage = 0; stage < p.stages; ++stage) {
      p.micro_batches = 64;
      const std::size_t tasks = stage_order(p, stage).tasks().size();
      p.micro_batches = 64'000'000;
      CHECK(stage_order(p, stage).tasks().size() == tasks);
    }
  }
}

TEST_CASE("every micro-batch passes every chunk of its route forward, back and through its weight gradient once") {
  std::mt19937 random(1);
  for (int n = 0; n < 1500; ++n) {
    const Pipeline p = random_pipeline(random, 9, 5, 40);
    const Route route(p);
    const auto orders = written_out(stage_orders(p, random_times(random, p)));
    for (int stage = 0; stage < p.stages; ++stage) {
      std::map<Kind, std::set<std::pair<int, int>>> done;
      const auto once = [&](Kind kind, int chunk, int micro_batch) {
        REQUIRE((chunk >= 0 && chunk < route.chunks() && micro_batch >= 0 && micro_batch < p.micro_batches));
        if (route.routes() == 2) REQUIRE(chunk == (micro_batch < p.micro_batches / 2 ? 0 : 1));
        REQUIRE(done[kind].insert({chunk, micro_batch}).second);
      };
      const auto backward = [&](int chunk, int micro_batch) {
        once(Kind::input_gradient, chunk, micro_batch);
        once(Kind::weight_gradient, chunk, micro_batch);
        REQUIRE(done[Kind::forward].count({chunk, micro_batch}) == 1);
      };
      for (const Task& t : orders[stage]) {
        if (t.kind == Kind::forward || t.kind == Kind::pair) once(Kind::forward, t.chunk, t.micro_batch);
        if (t.kind == Kind::backward) backward(t.chunk, t.micro_batch);
        if (t.kind == Kind::pair) backward(t.backward_chunk, t.backward_micro_batch);
        if (t.kind == Kind::input_gradient || t.kind == Kind::weight_gradient) once(t.kind, t.chunk, t.micro_batch);
        const Kind before = t.kind == Kind::weight_gradient ? Kind::input_gradient : Kind::forward;
        REQUIRE(done[before].count({t.chunk, t.micro_batch}) == 1);
      }
      const std::size_t passes = static_cast<std::size_t>(p.micro_batches) * p.chunks;
      for (const Kind kind : {Kind::forward, Kind::input_gradient, Kind::weight_gradient})
        REQUIRE(done[kind].size() == passes);
    }
  }
}

TEST_CASE("a route leads from part to part, and each part knows its place") {
  std::mt19937 random(2);
  for (int n = 0; n < 300; ++n) {
    const Pipeline p = random_pipeline(random, 9, 5, 40);
    const Route route(p);
    for (int r = 0; r < route.routes(); ++r) {
      std::set<std::pair<int, int>> places;
      for (int part = 0; part < route.parts(); ++part) {
        const Place place = route.place(r, part);
        REQUIRE(route.part_of(place) == part);
        REQUIRE(route.route_of(place) == r);
        REQUIRE(places.insert({place.stage, place.chunk}).second);
      }
    }
  }
  // Three stages: round again, and back.
  CHECK(Route({Schedule::interleaved, 3, 2, 3}).place(0, 3) == Place{0, 1});
  CHECK(Route({Schedule::zb_v, 3, 2, 3}).place(0, 3) == Place{2, 1});
  CHECK(Route({Schedule::zb_v, 3, 2, 3}).place(0, 5) == Place{0, 1});
  CHECK(Route({Schedule::dualpipe, 4, 1, 8}).place(1, 0) == Place{3, 1});
}

TEST_CASE(
    "1F1B keeps min(m, p-i) micro-batches, gpipe all, interleaved p(1 + (p-1)/(pV)) of a stage's layers on rank 0") {
  for (int p = 1; p <= 9; ++p) {
    for (int m = 1; m <= 30; ++m) {
      for (int i = 0; i < p; ++i) {
        REQUIRE(kept_forwards({Schedule::gpipe, p, 1, m}, i) == m);
        REQUIRE(kept_forwards({Schedule::one_f_one_b, p, 1, m}, i) == std::min(m, p - i));
      }
      if (m % p != 0) continue;
      for (int chunks = 2; chunks <= 5; ++chunks) {
        for (int i = 0; i < p; ++i) {
          const int sum = kept_forwards({Schedule::interleaved, p, chunks, m}, i);
          REQUIRE(sum == std::min(m * chunks, 2 * (p - i - 1) + (chunks - 1) * p + 1));
          if (i == 0 && m > p) REQUIRE(sum == p * chunks + p - 1);  // V times p (1 + (p-1)/(pV))
        }
      }
    }
  }
}

TEST_CASE("zb-h1 keeps (p-i) M_B + i M_W, zb-h2 (2p-2i-1) M_B + 2i M_W") {
  // Qi 2024, Table 2, where there are micro-batches enough.
  const PassKeeps keeps{1000, 1};
  for (int p = 1; p <= 9; ++p) {
    for (int i = 0; i < p; ++i) {
      CHECK(in_flight(stage_order({Schedule::zb_h1, p, 1, 4 * p}, i), {keeps}) == InFlight{{p - i}, {i}});
      CHECK(in_flight(stage_order({Schedule::zb_h2, p, 1, 4 * p}, i), {keeps}) ==
            InFlight{{2 * p - 2 * i - 1}, {2 * i}});
    }
  }
}

TEST_CASE("dualpipe keeps p + 1 chunks of its p parts, dualpipe-v 2p + 1 of its 2p") {
  // DualPipe's README. Weight gradients that are left for later keep theirs while backward goes on, and no more is
  // kept then.
  for (int p = 2; p <= 16; p += 2) {
    for (int i = 0; i < p; ++i) {
      const std::vector<PassKeeps> equal(2, {1, 1});
      CHECK(most_kept(stage_order({Schedule::dualpipe, p, 1, 4 * p}, i), equal) == p + 1);
      CHECK(most_kept(stage_order({Schedule::dualpipe_v, p, 2, 4 * p}, i), equal) == 2 * p + 1);
    }
  }
}

TEST_CASE("greedy schedules keep what they are allowed: zb-1p and zb-v p micro-batches, zb-2p 2p") {
  std::mt19937 random(3);
  double fullest[3] = {0, 0, 0};
  for (int n = 0; n < 300; ++n) {
    const Schedule schedule = std::array{Schedule::zb_1p, Schedule::zb_2p, Schedule::zb_v}[n % 3];
    const Pipeline p = random_pipeline(random, schedule, 8, 2, 40);
    const Route route(p);
    std::vector<PassKeeps> keeps;
    for (int g = 0; g < p.parts(); ++g) keeps.push_back({1.0 + draw(random, 9), 0.0 + draw(random, 11)});
    const auto orders = stage_orders(p, random_times(random, p), keeps);
    for (int stage = 0; stage < p.stages; ++stage) {
      std::vector<PassKeeps> mine;
      double micro_batch = 0;
      for (int c = 0; c < p.chunks; ++c) {
        mine.push_back(keeps[route.part_of({stage, c})]);
        micro_batch += std::max(mine.back().until_backward, mine.back().until_weight);
      }
      const double limit = (schedule == Schedule::zb_2p ? 2 : 1) * p.stages * micro_batch;
      REQUIRE(most_kept(orders[stage], mine) <= limit);
      fullest[n % 3] = std::max(fullest[n % 3], most_kept(orders[stage], mine) / limit);
    }
  }
  for (const double full : fullest) CHECK(full > 0.9);
}

TEST_CASE("uneven chunks can peak after the warm-up") {
  // Stage 1 of 2, 2 chunks, order F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 ...: at the first F1 two of chunk 0 and one
  // of chunk 1 are alive, at F0.2 three of chunk 0.
  const Order order = stage_order({Schedule::interleaved, 2, 2, 4}, 1);
  CHECK(in_flight(order, {{1, 0}, {1, 0}}).until_backward == std::vector<int>{2, 1});
  CHECK(in_flight(order, {{10, 0}, {1, 0}}).until_backward == std::vector<int>{3, 0});
  CHECK(in_flight(order, {{1, 0}, {10, 0}}).until_backward == std::vector<int>{2, 1});
}

TEST_CASE("where all chunks keep the same, what a stage holds is known at once") {
  const auto check_all = [](Schedule schedule, int stages, int chunks, int micro_batches) {
    const Pipeline p{schedule, stages, chunks, micro_batches};
    CAPTURE(name_of(schedule));
    CAPTURE(stages);
    CAPTURE(chunks);
    CAPTURE(micro_batches);
    for (int stage = 0; stage < stages; ++stage)
      for (double until_weight : {1.0, 3.0}) {
        const bool split = backward_tasks(schedule) == BackwardTasks::split;
        const std::vector<PassKeeps> keeps(static_cast<std::size_t>(chunks), {3, split ? until_weight : 0});
        CAPTURE(stage);
        CAPTURE(until_weight);
        const InFlight known = in_flight_of_alike(p, stage), found = in_flight(stage_order(p, stage), keeps);
        CHECK(known.until_backward == found.until_backward);
        CHECK(known.until_weight == found.until_weight);
      }
  };
  for (int stages : {1, 2, 3, 4, 8}) {
    for (Schedule one : {Schedule::gpipe, Schedule::one_f_one_b, Schedule::zb_h1, Schedule::zb_h2})
      for (int micro_batches : {1, 2, 3, 4, 7, 9, 30}) check_all(one, stages, 1, micro_batches);
    for (int chunks : {2, 3, 5})
      for (int groups : {1, 2, 3, 7}) check_all(Schedule::interleaved, stages, chunks, groups * stages);
  }
}

TEST_CASE("the micro-batches in flight are those of a walk through the whole order") {
  std::mt19937 random(8);
  for (int n = 0; n < 3000; ++n) {
    const Pipeline p = random_pipeline(random, 8, 5, 40);
    const auto orders = stage_orders(p, random_times(random, p));
    const int stage = draw(random, p.stages);
    const auto chunks = static_cast<std::size_t>(orders[stage].chunks());
    // Whole numbers, as bytes are: sums are exact, and ties, which the first moment wins, do happen.
    const int most_weight = draw(random, 2) == 0 ? 3 : 1000;
    std::vector<PassKeeps> keeps(chunks);
    for (auto& k : keeps) k = {1.0 + draw(random, most_weight), 1.0 + draw(random, most_weight)};
    InFlight now{std::vector<int>(chunks), std::vector<int>(chunks)}, most = now;
    double peak = 0;
    const auto look = [&] {
      double sum = 0;
      for (std::size_t c = 0; c < chunks; ++c)
        sum += now.until_backward[c] * keeps[c].until_backward + now.until_weight[c] * keeps[c].until_weight;
      if (sum <= peak) return;
      peak = sum;
      most = now;
    };
    for (const Task& t : tasks_of(orders[stage])) {
      if (t.kind == Kind::forward || t.kind == Kind::pair) ++now.until_backward[t.chunk];
      if (t.kind == Kind::backward || t.kind == Kind::input_gradient) --now.until_backward[t.chunk];
      if (t.kind == Kind::input_gradient) ++now.until_weight[t.chunk];
      if (t.kind == Kind::weight_gradient) --now.until_weight[t.chunk];
      look();
      if (t.kind == Kind::pair) --now.until_backward[t.backward_chunk];
    }
    REQUIRE(in_flight(orders[stage], keeps) == most);
    REQUIRE(now == InFlight{std::vector<int>(chunks), std::vector<int>(chunks)});
  }
}

TEST_CASE("a pipeline that is none is refused") {
  const auto refused = [](const Pipeline& p, int stage = 0) {
    return message_of<std::invalid_argument>([&] { stage_order(p, stage); });
  };
  CHECK(refused({Schedule::gpipe, 0, 1, 1}) == "a pipeline needs at least one stage, got 0");
  CHECK(refused({Schedule::gpipe, 1, 1, 0}) == "a pipeline needs at least one micro-batch, got 0");
  CHECK(refused({Schedule::one_f_one_b, 2, 3, 4}) == "1f1b has one chunk a stage, got 3");
  CHECK(refused({Schedule::dualpipe, 2, 2, 4}) == "dualpipe has one chunk a stage, got 2");
  CHECK(refused({Schedule::zb_v, 2, 1, 4}) == "zb-v has two chunks a stage, got 1");
  CHECK(refused({Schedule::dualpipe_v, 2, 3, 4}) == "dualpipe-v has two chunks a stage, got 3");
  CHECK(refused({Schedule::interleaved, 2, 1, 4}) == "interleaved needs at least two chunks a stage, got 1");
  CHECK(refused({Schedule::interleaved, 4, 2, 6}) ==
        "interleaved needs micro-batches in multiples of its 4 stages, got 6");
  CHECK(refused({Schedule::zb_h1, 4, 1, 6, true}) == "zb-h1 has no pairs to ask for: 1f1b and interleaved have");
  CHECK(refused({Schedule::dualpipe, 3, 1, 6}) == "dualpipe needs an even number of stages, got 3");
  CHECK(refused({Schedule::dualpipe, 4, 1, 9}) ==
        "dualpipe needs an even number of micro-batches, half from either end, got 9");
  CHECK(refused({Schedule::dualpipe, 4, 1, 6}) ==
        "dualpipe needs at least two micro-batches for each of its 4 stages, got 6");
  CHECK(refused({Schedule::dualpipe_v, 3, 2, 5}) ==
        "dualpipe-v needs at least two micro-batches for each of its 3 stages, got 5");
  CHECK(refused({Schedule::interleaved, 4, 3, 8}, 4) == "stage 4 is none of the 4 stages, counted from 0");
  CHECK(refused({Schedule::zb_1p, 4, 1, 8}) == "the order of zb-1p depends on the times");
  CHECK(refused({Schedule::zb_2p, 4, 1, 8}) == "the order of zb-2p depends on the times");
  CHECK(refused({Schedule::zb_v, 4, 2, 8}) == "the order of zb-v depends on the times");

  CHECK(message_of<std::invalid_argument>([] {
          in_flight(stage_order({Schedule::interleaved, 2, 2, 4}, 0), {{1, 0}});
        }) == "a stage of 2 chunks needs as many entries of what they keep, got 1");
  CHECK(message_of<std::invalid_argument>([] {
          stage_orders({Schedule::zb_1p, 4, 1, 8}, uniform(4, 1, 1, 2, 0, 1), {{1, 0}});
        }) == "4 parts need as many entries of what they keep, got 1");
}

TEST_CASE("times that are not of the pipeline are refused") {
  const auto refused = [](const Pipeline& p, const PipelineTimes& times) {
    const auto played = message_of<std::invalid_argument>([&] { play(p, times); });
    const auto bound = message_of<std::invalid_argument>([&] { pipeline_lower_bound(p, times); });
    CHECK(played == bound);
    return played;
  };
  CHECK(refused({Schedule::interleaved, 4, 2, 6}, uniform(4, 2, 1, 1)) ==
        "interleaved needs micro-batches in multiples of its 4 stages, got 6");
  CHECK(refused({Schedule::one_f_one_b, 4, 1, 6}, uniform(2, 2, 1, 1)) ==
        "the times are of 2 stages with 2 chunks each, the pipeline has 4 with 1");
  PipelineTimes times = uniform(2, 3, 1, 2);
  times.forward.pop_back();
  CHECK(refused({Schedule::interleaved, 2, 3, 4}, times) ==
        "a pipeline of 2 stages with 3 chunks each needs 6 forward and backward times, got 5 and 6");
  times = uniform(2, 1, 1, 2);
  times.weight_gradient.clear();
  CHECK(refused({Schedule::zb_h1, 2, 1, 4}, times) ==
        "a pipeline of 2 stages with 1 chunks each needs 2 times of weight gradients for zb-h1, got 0");
  CHECK(play({Schedule::one_f_one_b, 2, 1, 4}, times).total == Seconds{15});  // which needs none
  times = uniform(2, 1, 1, 2, 0, 1);
  times.pair = {{1}, {2}};
  CHECK(refused({Schedule::dualpipe, 2, 1, 4}, times) ==
        "a pipeline of 2 stages with 1 chunks each needs 8 times of pairs or none, got 2");
}

}  // namespace shardwright
