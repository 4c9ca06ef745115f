#include <doctest/doctest.h>

#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/topological_sort.hpp>
#include <cmath>
#include <iterator>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "planner/pipeline/play.h"
#include "tests/support/message_of.h"
#include "tests/support/pipelines.h"

namespace shardwright {
namespace {

using Kind = Task::Kind;

std::vector<Seconds> stage_ends(const std::vector<PlayedTask>& detail, int stages) {
  std::vector<Seconds> ends(stages);
  for (const auto& played : detail) ends[played.stage] = std::max(ends[played.stage], played.end);
  return ends;
}

double largest_relative_difference(const std::vector<Seconds>& a, const std::vector<Seconds>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(a[i].value - b[i].value) / std::max(a[i].value, b[i].value));
  return largest;
}

/// The longest path through the graph of tasks, by Boost.Graph: knows the orders and the dependencies, plays nothing.
double longest_path(const Pipeline& p, const PipelineTimes& times) {
  using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, boost::no_property,
                                      boost::property<boost::edge_weight_t, double>>;
  const Route route(p);
  Graph graph;
  std::vector<double> duration;
  std::map<std::tuple<Kind, int, int, int>, std::size_t> vertex_of;  // by what it does: kind, stage, chunk, micro-batch
  const auto orders = written_out(stage_orders(p, times));
  for (int stage = 0; stage < p.stages; ++stage) {
    bool first = true;
    for (const Task& t : orders[stage]) {
      const auto vertex = boost::add_vertex(graph);
      if (t.kind == Kind::forward || t.kind == Kind::pair)
        vertex_of[{Kind::forward, stage, t.chunk, t.micro_batch}] = vertex;
      if (t.kind == Kind::input_gradient || t.kind == Kind::backward)
        vertex_of[{Kind::input_gradient, stage, t.chunk, t.micro_batch}] = vertex;
      if (t.kind == Kind::pair)
        vertex_of[{Kind::input_gradient, stage, t.backward_chunk, t.backward_micro_batch}] = vertex;
      if (t.kind == Kind::weight_gradient) vertex_of[{t.kind, stage, t.chunk, t.micro_batch}] = vertex;
      duration.push_back(time_of(route, times, stage, t).value);
      if (!first) boost::add_edge(vertex - 1, vertex, 0.0, graph);
      first = false;
    }
  }
  for (const auto& [what, vertex] : vertex_of) {
    const auto [kind, stage, chunk, micro_batch] = what;
    const Place here{stage, chunk};
    const int part = route.part_of(here), step = kind == Kind::forward ? 1 : -1;
    if (kind == Kind::forward)
      boost::add_edge(vertex, vertex_of.at({Kind::input_gradient, stage, chunk, micro_batch}), 0.0, graph);
    if (kind == Kind::weight_gradient) {
      boost::add_edge(vertex_of.at({Kind::input_gradient, stage, chunk, micro_batch}), vertex, 0.0, graph);
    } else if (part + step >= 0 && part + step < route.parts()) {
      const Place next = route.place(route.route_of(here), part + step);
      const double send = next.stage == stage ? 0.0 : times.send.value;
      boost::add_edge(vertex, vertex_of.at({kind, next.stage, next.chunk, micro_batch}), send, graph);
    }
  }
  std::vector<std::size_t> backwards;
  boost::topological_sort(graph, std::back_inserter(backwards));
  std::vector<double> start(duration.size(), 0.0);
  double longest = 0;
  for (auto v = backwards.rbegin(); v != backwards.rend(); ++v) {
    const double end = start[*v] + duration[*v];
    longest = std::max(longest, end);
    for (auto [edge, stop] = boost::out_edges(*v, graph); edge != stop; ++edge) {
      double& next = start[boost::target(*edge, graph)];
      next = std::max(next, end + boost::get(boost::edge_weight, graph, *edge));
    }
  }
  return longest;
}

}  // namespace

TEST_CASE("two uneven stages play as worked out by hand") {
  PipelineTimes times{2, 1, {{1}, {10}}, {{100}, {1000}}, {0.5}, {}, {}};
  SUBCASE("1F1B") {
    // Stage 0: F0 0..1, F1 1..2, B0 1012..1112, B1 2022..2122.
    // Stage 1: F0 1.5..11.5, B0 11.5..1011.5, F1 1011.5..1021.5, B1 1021.5..2021.5.
    const Played played = play({Schedule::one_f_one_b, 2, 1, 2}, times);
    CHECK(played.total == Seconds{2122});
    CHECK(played.stage_begin == std::vector<Seconds>{{0}, {1.5}});
    CHECK(played.stage_end == std::vector<Seconds>{{2122}, {2021.5}});
    CHECK(played.stage_busy == std::vector<Seconds>{{202}, {2020}});
  }
  SUBCASE("gpipe") {
    // Stage 1: F0 1.5..11.5, F1 11.5..21.5, B0 21.5..1021.5, B1 1021.5..2021.5. Stage 0: B0 1022..1122, B1 2022..2122.
    const Played played = play({Schedule::gpipe, 2, 1, 2}, times);
    CHECK(played.total == Seconds{2122});
    CHECK(played.stage_end == std::vector<Seconds>{{2122}, {2021.5}});
    CHECK(played.stage_busy == std::vector<Seconds>{{202}, {2020}});
  }
  SUBCASE("zb-h1") {
    // Input gradients take 70 and 300. Stage 1: F0 1.5..11.5, I0 ..311.5, F1 ..321.5, I1 ..621.5, W0 ..1321.5,
    // W1 ..2021.5. Stage 0: F0 0..1, F1 1..2, I0 312..382, W0 ..412, I1 622..692, W1 ..722.
    times.weight_gradient = {{30}, {700}};
    const Played played = play({Schedule::zb_h1, 2, 1, 2}, times);
    CHECK(played.stage_end == std::vector<Seconds>{{722}, {1321.5 + 700}});
    CHECK(played.stage_busy == std::vector<Seconds>{{202}, {2020}});
  }
  SUBCASE("interleaved") {
    // A chunk takes 1 forward and 2 backward.
    // Stage 0: F0.0 0..1, F0.1 1..2, F1.0 2.5..3.5, F1.1 3.5..4.5, B1.0 7..9, B1.1 10..12, B0.0 12..14,
    // B0.1 14.5..16.5. Stage 1: F0.0 1.25..2.25, F0.1 2.25..3.25, F1.0 3.75..4.75, B1.0 4.75..6.75, F1.1 6.75..7.75,
    // B1.1 7.75..9.75, B0.0 9.75..11.75, B0.1 12.25..14.25.
    const Played played = play({Schedule::interleaved, 2, 2, 2}, uniform(2, 2, 2, 4, 0.25));
    CHECK(played.total == Seconds{16.5});
    CHECK(played.stage_end == std::vector<Seconds>{{16.5}, {14.25}});
    CHECK(played.stage_busy == std::vector<Seconds>{{12}, {12}});
  }
  SUBCASE("dualpipe-v") {
    // One stage, no send: F0.0 F1.0, then in the middle F0.1 B1.0 apart, F1.1 with B0.0, B1.1, I0.1, W0.1. A chunk's
    // forward takes 1, its backward 3, of which the weight gradient 1, the pair 3.5.
    PipelineTimes folded = uniform(1, 2, 2, 6, 9, 2);
    folded.pair.assign(4, {3.5});
    const Played played = play({Schedule::dualpipe_v, 1, 2, 2}, folded);
    CHECK(played.total == Seconds{1 + 1 + 1 + 3 + 3.5 + 3 + 2 + 1});
    CHECK(played.stage_busy == std::vector<Seconds>{played.total});
  }
}

TEST_CASE("one stage has no bubble and sends nothing") {
  for (const Schedule schedule : kAllSchedules) {
    if (schedule == Schedule::dualpipe) continue;  // has two at least
    const bool v_shape = schedule == Schedule::zb_v || schedule == Schedule::dualpipe_v;
    const int chunks = schedule == Schedule::interleaved ? 4 : v_shape ? 2 : 1;
    const Pipeline p{schedule, 1, chunks, 5};
    const PipelineTimes times = uniform(1, chunks, 4, 8, 1000, 4);
    const Played played = play(p, times);
    CHECK(played.total == Seconds{60});
    CHECK(played.stage_busy == std::vector<Seconds>{{60}});
    CHECK(pipeline_lower_bound(p, times).value == doctest::Approx(60).epsilon(1e-10));
  }
}

TEST_CASE("a play respects every dependency and runs one task at a time on a stage") {
  std::mt19937 random(3);
  for (int n = 0; n < 500; ++n) {
    const Pipeline p = random_pipeline(random, 6, 4, 24);
    const Route route(p);
    const PipelineTimes times = random_times(random, p);
    const auto detail = in_detail(p, times);
    std::map<std::tuple<Kind, int, int, int>, PlayedTask> by_pass;  // input gradients stand for whole backwards, too
    for (std::size_t i = 0; i < detail.size(); ++i) {
      const PlayedTask& t = detail[i];
      if (t.task.kind == Kind::forward || t.task.kind == Kind::pair)
        by_pass[{Kind::forward, t.stage, t.task.chunk, t.task.micro_batch}] = t;
      if (t.task.kind == Kind::backward || t.task.kind == Kind::input_gradient)
        by_pass[{Kind::input_gradient, t.stage, t.task.chunk, t.task.micro_batch}] = t;
      if (t.task.kind == Kind::pair)
        by_pass[{Kind::input_gradient, t.stage, t.task.backward_chunk, t.task.backward_micro_batch}] = t;
      if (t.task.kind == Kind::weight_gradient)
        by_pass[{Kind::weight_gradient, t.stage, t.task.chunk, t.task.micro_batch}] = t;
      REQUIRE(t.end == t.start + time_of(route, times, t.stage, t.task));
      if (i > 0 && detail[i - 1].stage == t.stage) REQUIRE(t.start >= detail[i - 1].end);
    }
    for (const auto& [pass, t] : by_pass) {
      const auto [kind, stage, chunk, micro_batch] = pass;
      const int part = route.part_of({stage, chunk}), before = kind == Kind::forward ? part - 1 : part + 1;
      if (kind == Kind::input_gradient) REQUIRE(t.start >= by_pass.at({Kind::forward, stage, chunk, micro_batch}).end);
      if (kind == Kind::weight_gradient) {
        REQUIRE(t.start >= by_pass.at({Kind::input_gradient, stage, chunk, micro_batch}).end);
      } else if (before >= 0 && before < route.parts()) {
        const Place from = route.place(route.route_of({stage, chunk}), before);
        const Seconds send = from.stage == stage ? Seconds{} : times.send;
        REQUIRE(t.start >= by_pass.at({kind, from.stage, from.chunk, micro_batch}).end + send);
      }
    }
  }
}

TEST_CASE("play, the play in detail and the longest path through the graph of tasks take the same time") {
  std::mt19937 random(4);
  for (int n = 0; n < 1500; ++n) {
    const Pipeline p = random_pipeline(random, 7, 4, 28);
    const PipelineTimes times = random_times(random, p);
    const Played played = play(p, times);
    const auto detail = in_detail(p, times);
    const auto ends = stage_ends(detail, p.stages);
    REQUIRE(largest_relative_difference(played.stage_end, ends) <= 1e-12);
    REQUIRE(played.total.value == doctest::Approx(longest_path(p, times)).epsilon(1e-12));
    std::vector<Seconds> busy(p.stages), begin(p.stages, Seconds{1e300});
    for (const PlayedTask& t : detail) {
      busy[t.stage] += t.end - t.start;
      begin[t.stage] = std::min(begin[t.stage], t.start);
    }
    REQUIRE(largest_relative_difference(played.stage_busy, busy) <= 1e-11);
    for (int s = 0; s < p.stages; ++s)
      REQUIRE(played.stage_begin[s].value == doctest::Approx(begin[s].value).epsilon(1e-12));
  }
}

TEST_CASE("whole periods added are as good as whole periods played") {
  std::mt19937 random(5);
  double worst = 0;
  for (int n = 0; n < 600; ++n) {
    Pipeline p = random_pipeline(random, 10, 4, 800);
    if (is_greedy(p.schedule)) p = random_pipeline(random, Schedule::dualpipe, 10, 4, 800);
    PipelineTimes times = random_times(random, p);
    if (n % 2 == 1) {
      // Stages alike but for 10^-3 to 10^-16 of their time: what seems steady may still drift.
      std::uniform_real_distribution<double> noise(-1, 1);
      const double size = std::pow(10.0, -3 - draw(random, 14));
      for (auto& t : times.forward) t = {1 + size * noise(random)};
      for (auto& t : times.backward) t = {2 + size * noise(random)};
      for (auto& t : times.weight_gradient) t = {0.9 + size * noise(random)};
      for (auto& t : times.pair) t = {2.5 + size * noise(random)};
      times.send = {draw(random, 2) == 0 ? 0.0 : size};
    }
    const auto ends = stage_ends(in_detail(p, times), p.stages);
    const double difference = largest_relative_difference(play(p, times).stage_end, ends);
    worst = std::max(worst, difference);
    REQUIRE(difference <= 1e-12);
  }
  MESSAGE("largest relative difference: ", worst);
}

TEST_CASE("stages that do not wait for each other have steady states of their own") {
  // In gpipe's forwards stage 1 falls 2 behind stage 0 with each micro-batch, and stage 2 waits for it. Last forward:
  // 1 + 3 m + 2. Backward alike: stage 2 takes 1 each, stage 1 2, stage 0 waits for it: 1 + 2 m + 1.
  const PipelineTimes times{3, 1, {{1}, {3}, {2}}, {{1}, {2}, {1}}, {0}, {}, {}};
  const double m = 500'000'000;
  const Played played = play({Schedule::gpipe, 3, 1, 500'000'000}, times);
  CHECK(played.stage_end ==
        std::vector<Seconds>{{1 + 3 * m + 2 + 1 + 2 * m + 1}, {1 + 3 * m + 2 + 1 + 2 * m}, {1 + 3 * m + 2 + m}});
}

TEST_CASE("a billion micro-batches are played as soon as they repeat themselves") {
  // Task by task these would be some 10^10 tasks each. Sends make a period of four micro-batches: the round trip of the
  // four in flight, 4 (1 + 2) + 6 sends of 1/4, is 13.5.
  const auto total = [](Schedule schedule, int chunks, int micro_batches, const PipelineTimes& times) {
    return play({schedule, 4, chunks, micro_batches}, times).total;
  };
  CHECK(total(Schedule::gpipe, 1, 1'000'000'000, uniform(4, 1, 1, 2)) == Seconds{3'000'000'009});
  CHECK(total(Schedule::one_f_one_b, 1, 1'000'000'000, uniform(4, 1, 1, 2)) == Seconds{3'000'000'009});
  CHECK(total(Schedule::interleaved, 2, 1'000'000'000, uniform(4, 2, 2, 4)) == Seconds{6'000'000'009});
  // 3 (F + B - W), and F&B + B - 3 W of dualpipe.
  CHECK(total(Schedule::zb_h1, 1, 1'000'000'000, uniform(4, 1, 3, 5, 0, 2)) == Seconds{8'000'000'012});
  CHECK(total(Schedule::dualpipe, 1, 1'000'000'000, uniform(4, 1, 1, 2, 0, 1)) == Seconds{3'000'000'002});
  const PipelineTimes sending = uniform(4, 1, 1, 2, 0.25);
  CHECK(total(Schedule::one_f_one_b, 1, 1'000'000'000, sending).value == doctest::Approx(1e9 / 4 * 13.5).epsilon(1e-8));
  CHECK(total(Schedule::one_f_one_b, 1, 1'000'000'000, sending) -
            total(Schedule::one_f_one_b, 1, 999'999'996, sending) ==
        Seconds{13.5});
}

TEST_CASE("playing twice gives the same bits") {
  std::mt19937 random(6);
  for (int n = 0; n < 100; ++n) {
    const Pipeline p = random_pipeline(random, 8, 4, 200);
    const PipelineTimes times = random_times(random, p);
    const Played once = play(p, times), again = play(p, times);
    REQUIRE(once.total == again.total);
    REQUIRE(once.stage_end == again.stage_end);
  }
}

TEST_CASE("no play is faster than the lower bound") {
  std::mt19937 random(7);
  std::map<Schedule, std::pair<double, int>> tightness;
  for (int n = 0; n < 20000; ++n) {
    const bool greedy = n % 20 == 0;  // these take longest to play
    Pipeline p = random_pipeline(random, 10, 5, 60);
    if (is_greedy(p.schedule) != greedy) continue;
    const PipelineTimes times = random_times(random, p);
    const Seconds bound = pipeline_lower_bound(p, times);
    const Seconds total = play(p, times).total;
    REQUIRE(bound <= total);
    auto& [sum, plays] = tightness[p.schedule];
    sum += bound / total;
    ++plays;
  }
  for (const auto& [schedule, t] : tightness)
    MESSAGE("bound / play on random times: ", name_of(schedule), " ", t.first / t.second);
}

TEST_CASE("the lower bound is the slowest stage's work and what must come before and after it") {
  // Stage 1 of three: 10 + 0.5 before it, 4 (20 + 200), then 0.5 + 100 = 991. Stages 0 and 2: 4 x 110 = 440, and
  // 10 + 20 + 4 x 33 + 200 + 100 + 4 x 0.5 = 464.
  PipelineTimes times{3, 1, {{10}, {20}, {3}}, {{100}, {200}, {30}}, {0.5}, {}, {}};
  const auto bound = [&](Schedule schedule, int micro_batches) {
    return pipeline_lower_bound({schedule, 3, 1, micro_batches}, times).value;
  };
  CHECK(bound(Schedule::one_f_one_b, 4) == doctest::Approx(991).epsilon(1e-10));
  // One micro-batch: its way through, 363 + 4 x 0.5.
  CHECK(bound(Schedule::one_f_one_b, 1) == doctest::Approx(365).epsilon(1e-10));
  // Two chunks a stage, one micro-batch: 12 in the six chunks, and 5 sends each way.
  CHECK(pipeline_lower_bound({Schedule::interleaved, 3, 2, 3}, uniform(3, 2, 2, 2, 1)).value ==
        doctest::Approx(22).epsilon(1e-10));
  // In V shape it turns without a send.
  CHECK(pipeline_lower_bound({Schedule::zb_v, 3, 2, 1}, uniform(3, 2, 2, 2, 1, 1)).value ==
        doctest::Approx(6 + 3 + 4 + 4 + 0.5).epsilon(1e-10));

  // Weight gradients of 40, 50 and 5. Stage 1 may do its own, 200, while the gradient of 60 goes on to stage 0: it
  // ends last, 10.5 + 4 x 220 = 890.5. With 10, 5 and 5 its own are done before 0.5 + 90 + 10: 10.5 + 860 + 100.5.
  times.weight_gradient = {{40}, {50}, {5}};
  CHECK(bound(Schedule::zb_h1, 4) == doctest::Approx(890.5).epsilon(1e-10));
  times.weight_gradient = {{10}, {5}, {5}};
  CHECK(bound(Schedule::zb_h1, 4) == doctest::Approx(971).epsilon(1e-10));
}

TEST_CASE("of pairs the lower bound takes what each forward saves at best") {
  // Two parts on both of two stages: a forward of part 0 takes 4, of part 1 6, backwards 10 and 20. Stage 0 runs chunk
  // 0 (part 0) and chunk 1 (part 1), two micro-batches each. A pair of 0 and 1 takes 21, saving 3; of 1 and 0 9, saving
  // 7; of equals no less than both. Stage 0: 2 (40 - 10) = 60; stage 1 with no savings 80. Both start with part 0, at
  // once, and end with it.
  PipelineTimes times{2, 1, {{4}, {6}}, {{10}, {20}}, {0}, {{5}, {10}}, {}};
  times.pair = {{14}, {21}, {9}, {26}, {26}, {16}, {24}, {14}};
  const Pipeline p{Schedule::dualpipe, 2, 1, 4};
  CHECK(pipeline_lower_bound(p, times).value == doctest::Approx(80).epsilon(1e-10));
  times.pair = {{14}, {21}, {9}, {26}, {26}, {9}, {21}, {14}};
  CHECK(pipeline_lower_bound(p, times).value == doctest::Approx(60).epsilon(1e-10));
  CHECK(pipeline_lower_bound(p, times) <= play(p, times).total);
}

TEST_CASE("orders that cannot be played are a mistake of ours and say where they hang") {
  const Task forward{Kind::forward, 0, 0}, backward{Kind::backward, 0, 0};
  const PipelineTimes times = uniform(2, 1, 1, 1);
  const Route route({Schedule::one_f_one_b, 2, 1, 1});
  const auto ordered = [](const std::vector<Task>& tasks) {
    Order order(1);
    order.block(1, 0);
    order.run(1, 0);
    for (const Task& t : tasks) order.add(t);
    return order;
  };
  const auto mistake = [&](const std::vector<std::vector<Task>>& orders) {
    return message_of<std::logic_error>([&] { play_in_detail(route, orders, times, 1); });
  };
  const auto short_mistake = [&](const std::vector<Task>& first, const std::vector<Task>& second) {
    return message_of<std::logic_error>([&] { play(route, {ordered(first), ordered(second)}, times, 1); });
  };
  const std::string hangs = "the orders deadlock: nothing can start the backward of micro-batch 0, chunk 0 on stage 0";
  CHECK(mistake({{forward, backward}, {backward, forward}}) == hangs);
  CHECK(short_mistake({forward, backward}, {backward, forward}) == hangs);
  CHECK(mistake({{forward, backward}, {forward}}) == hangs);
  CHECK(short_mistake({forward, backward}, {forward}) == hangs);
  CHECK(mistake({{forward, forward}, {forward}}) ==
        "the orders have a task twice: forward of micro-batch 0, chunk 0 on stage 0");
  CHECK(short_mistake({forward, forward}, {forward}) == "the orders take a micro-batch out of turn");
  // In loops, too: twice one micro-batch, each time two later.
  for (const bool in_run : {true, false}) {
    Order skips(1);
    skips.block(in_run ? 1 : 2, in_run ? 0 : 2);
    skips.run(in_run ? 2 : 1, in_run ? 2 : 0);
    skips.add(forward);
    skips.add(backward);
    const Pipeline alone{Schedule::one_f_one_b, 1, 1, 4};
    CHECK(message_of<std::logic_error>([&] { play(Route(alone), {skips}, uniform(1, 1, 1, 1), 4); }) ==
          "the orders take a micro-batch out of turn");
  }
  CHECK(mistake({{forward}, {{Kind::backward, 1, 0}}}) ==
        "the orders have a task that the pipeline has not: backward of micro-batch 0, chunk 1 on stage 1");
  CHECK(mistake({{{Kind::weight_gradient, 0, 0}}, {}}) ==
        "the orders deadlock: nothing can start the weight gradient of micro-batch 0, chunk 0 on stage 0");
  CHECK(mistake({{{Kind::input_gradient, 0, 0}}, {}}) ==
        "the orders deadlock: nothing can start the input gradient of micro-batch 0, chunk 0 on stage 0");
  CHECK(mistake({{{Kind::pair, 0, 0, 0, 0}}, {}}) ==
        "the orders deadlock: nothing can start the pair of micro-batch 0, chunk 0 on stage 0");
  CHECK(message_of<std::invalid_argument>([&] { play_in_detail(route, {{}}, times, 1); }) ==
        "a pipeline of 2 stages needs 2 orders, got 1");
  CHECK(play_in_detail(route, {{forward, backward}, {forward, backward}}, times, 1).back().end == Seconds{3});
}

}  // namespace shardwright
