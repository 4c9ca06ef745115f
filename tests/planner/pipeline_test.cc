#include <doctest/doctest.h>

#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/topological_sort.hpp>
#include <cmath>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>

#include "planner/pipeline/schedule.h"

namespace shardwright {
namespace {

constexpr auto kForward = Task::Kind::forward;
constexpr auto kBackward = Task::Kind::backward;

/// 0 .. below-1.
int draw(std::mt19937& random, int below) { return static_cast<int>(random() % static_cast<unsigned>(below)); }

/// A stage's share of the pass is the same everywhere: `forward` and `backward` are one stage's, over all its chunks.
PipelineTimes uniform(int stages, int chunks, double forward, double backward, double send = 0) {
  const auto n = static_cast<std::size_t>(stages * chunks);
  return {stages, chunks, std::vector<Seconds>(n, Seconds{forward / chunks}),
          std::vector<Seconds>(n, Seconds{backward / chunks}), Seconds{send}};
}

PipelineTimes random_times(std::mt19937& random, int stages, int chunks) {
  std::uniform_real_distribution<double> time(0.1, 2.0), sends(0.0, 0.5);
  PipelineTimes times = uniform(stages, chunks, 0, 0, draw(random, 3) == 0 ? 0.0 : sends(random));
  for (auto& t : times.forward) t = {time(random)};
  for (auto& t : times.backward) t = {time(random)};
  if (draw(random, 4) == 0) times.forward[draw(random, stages * chunks)].value *= 10;  // one chunk is slow
  return times;
}

struct Shape {
  Schedule schedule;
  int stages, chunks, micro_batches;
};

Shape random_shape(std::mt19937& random, int most_stages, int most_chunks, int most_micro_batches) {
  Shape shape{static_cast<Schedule>(draw(random, 3)), 1 + draw(random, most_stages), 1, 1};
  if (shape.schedule == Schedule::interleaved) {
    shape.chunks = 2 + draw(random, most_chunks - 1);
    const int groups = std::max(1, most_micro_batches / shape.stages);
    shape.micro_batches = shape.stages * (1 + draw(random, groups));
  } else {
    shape.micro_batches = 1 + draw(random, most_micro_batches);
  }
  return shape;
}

std::vector<std::vector<Task>> orders_of(const Shape& s) {
  std::vector<std::vector<Task>> orders;
  for (int i = 0; i < s.stages; ++i) orders.push_back(stage_order(s.schedule, s.stages, s.chunks, s.micro_batches, i));
  return orders;
}

std::vector<PlayedTask> in_detail(const Shape& s, const PipelineTimes& times) {
  return play_in_detail(orders_of(s), times, s.micro_batches);
}

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
double longest_path(const Shape& s, const PipelineTimes& times) {
  using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, boost::no_property,
                                      boost::property<boost::edge_weight_t, double>>;
  Graph graph;
  std::vector<double> duration;
  std::map<std::tuple<Task::Kind, int, int>, std::size_t> vertex_of;  // kind, global chunk, micro-batch
  for (int stage = 0; stage < s.stages; ++stage) {
    bool first = true;
    for (const Task& task : stage_order(s.schedule, s.stages, s.chunks, s.micro_batches, stage)) {
      const auto vertex = boost::add_vertex(graph);
      const int g = task.chunk * s.stages + stage;
      vertex_of[{task.kind, g, task.micro_batch}] = vertex;
      duration.push_back((task.kind == kForward ? times.forward : times.backward)[g].value);
      if (!first) boost::add_edge(vertex - 1, vertex, 0.0, graph);
      first = false;
    }
  }
  const double send = s.stages > 1 ? times.send.value : 0.0;
  const int chunks = s.stages * s.chunks;
  for (int micro_batch = 0; micro_batch < s.micro_batches; ++micro_batch) {
    for (int g = 0; g < chunks; ++g) {
      const auto forward = vertex_of.at({kForward, g, micro_batch});
      const auto backward = vertex_of.at({kBackward, g, micro_batch});
      boost::add_edge(forward, backward, 0.0, graph);
      if (g + 1 < chunks) boost::add_edge(forward, vertex_of.at({kForward, g + 1, micro_batch}), send, graph);
      if (g > 0) boost::add_edge(backward, vertex_of.at({kBackward, g - 1, micro_batch}), send, graph);
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

/// "F0.2" is the forward of chunk 0, micro-batch 2.
std::string written(const std::vector<Task>& order) {
  std::string text;
  for (const Task& task : order)
    text += (text.empty() ? "" : " ") + std::string(task.kind == kForward ? "F" : "B") + std::to_string(task.chunk) +
            "." + std::to_string(task.micro_batch);
  return text;
}

template <class Exception, class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Exception& error) { return error.what(); }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("gpipe runs every forward before the first backward") {
  CHECK(written(stage_order(Schedule::gpipe, 2, 1, 3, 0)) == "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
  CHECK(written(stage_order(Schedule::gpipe, 2, 1, 3, 1)) == "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
}

TEST_CASE("1F1B warms up with one forward less per stage, alternates and drains") {
  CHECK(written(stage_order(Schedule::one_f_one_b, 3, 1, 4, 0)) == "F0.0 F0.1 F0.2 B0.0 F0.3 B0.1 B0.2 B0.3");
  CHECK(written(stage_order(Schedule::one_f_one_b, 3, 1, 4, 1)) == "F0.0 F0.1 B0.0 F0.2 B0.1 F0.3 B0.2 B0.3");
  CHECK(written(stage_order(Schedule::one_f_one_b, 3, 1, 4, 2)) == "F0.0 B0.0 F0.1 B0.1 F0.2 B0.2 F0.3 B0.3");
  CHECK(written(stage_order(Schedule::one_f_one_b, 4, 1, 2, 0)) == "F0.0 F0.1 B0.0 B0.1");  // never gets to alternate
}

TEST_CASE("interleaved 1F1B takes as many micro-batches as stages through each chunk in turn") {
  // Warm-up: stage 0 runs 2 (2-1-0) + (2-1) 2 = 4 forwards ahead, stage 1 runs 2.
  CHECK(written(stage_order(Schedule::interleaved, 2, 2, 4, 0)) ==
        "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3");
  CHECK(written(stage_order(Schedule::interleaved, 2, 2, 4, 1)) ==
        "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3");
  // As many micro-batches as stages: stage 0 has all 4 ahead, stage 1 still alternates.
  CHECK(written(stage_order(Schedule::interleaved, 2, 2, 2, 0)) == "F0.0 F0.1 F1.0 F1.1 B1.0 B1.1 B0.0 B0.1");
  CHECK(written(stage_order(Schedule::interleaved, 2, 2, 2, 1)) == "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 B0.0 B0.1");
}

TEST_CASE("every micro-batch passes every chunk forward once, then backward once, on every stage") {
  std::mt19937 random(1);
  for (int n = 0; n < 1000; ++n) {
    const Shape s = random_shape(random, 9, 5, 40);
    for (int stage = 0; stage < s.stages; ++stage) {
      std::set<std::pair<int, int>> forward, backward;
      const auto order = stage_order(s.schedule, s.stages, s.chunks, s.micro_batches, stage);
      REQUIRE(static_cast<int>(order.size()) == 2 * s.chunks * s.micro_batches);
      for (const Task& task : order) {
        REQUIRE(
            (task.chunk >= 0 && task.chunk < s.chunks && task.micro_batch >= 0 && task.micro_batch < s.micro_batches));
        const std::pair pass{task.chunk, task.micro_batch};
        REQUIRE((task.kind == kForward ? forward : backward).insert(pass).second);
        if (task.kind == kBackward) REQUIRE(forward.count(pass) == 1);
      }
    }
  }
}

TEST_CASE("two uneven stages play as worked out by hand") {
  PipelineTimes times{2, 1, {{1}, {10}}, {{100}, {1000}}, {0.5}};
  SUBCASE("1F1B") {
    // Stage 0: F0 0..1, F1 1..2, B0 1012..1112, B1 2022..2122.
    // Stage 1: F0 1.5..11.5, B0 11.5..1011.5, F1 1011.5..1021.5, B1 1021.5..2021.5.
    const Played played = play(Schedule::one_f_one_b, times, 2);
    CHECK(played.total == Seconds{2122});
    CHECK(played.stage_end == std::vector<Seconds>{{2122}, {2021.5}});
    CHECK(played.stage_busy == std::vector<Seconds>{{202}, {2020}});
    CHECK(played.in_flight == std::vector<std::vector<int>>{{2}, {1}});
  }
  SUBCASE("gpipe") {
    // Stage 1: F0 1.5..11.5, F1 11.5..21.5, B0 21.5..1021.5, B1 1021.5..2021.5. Stage 0: B0 1022..1122, B1 2022..2122.
    const Played played = play(Schedule::gpipe, times, 2);
    CHECK(played.total == Seconds{2122});
    CHECK(played.stage_end == std::vector<Seconds>{{2122}, {2021.5}});
    CHECK(played.stage_busy == std::vector<Seconds>{{202}, {2020}});
    CHECK(played.in_flight == std::vector<std::vector<int>>{{2}, {2}});
  }
  SUBCASE("interleaved") {
    // A chunk takes 1 forward and 2 backward.
    // Stage 0: F0.0 0..1, F0.1 1..2, F1.0 2.5..3.5, F1.1 3.5..4.5, B1.0 7..9, B1.1 10..12, B0.0 12..14,
    // B0.1 14.5..16.5. Stage 1: F0.0 1.25..2.25, F0.1 2.25..3.25, F1.0 3.75..4.75, B1.0 4.75..6.75, F1.1 6.75..7.75,
    // B1.1 7.75..9.75, B0.0 9.75..11.75, B0.1 12.25..14.25.
    const Played played = play(Schedule::interleaved, uniform(2, 2, 2, 4, 0.25), 2);
    CHECK(played.total == Seconds{16.5});
    CHECK(played.stage_end == std::vector<Seconds>{{16.5}, {14.25}});
    CHECK(played.stage_busy == std::vector<Seconds>{{12}, {12}});
    CHECK(played.in_flight == std::vector<std::vector<int>>{{2, 2}, {2, 1}});
  }
}

TEST_CASE("one stage has no bubble and sends nothing") {
  for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved}) {
    const int chunks = schedule == Schedule::interleaved ? 4 : 1;
    const PipelineTimes times = uniform(1, chunks, 4, 8, 1000);
    const Played played = play(schedule, times, 5);
    CHECK(played.total == Seconds{60});
    CHECK(played.stage_busy == std::vector<Seconds>{{60}});
    CHECK(pipeline_lower_bound(times, 5).value == doctest::Approx(60).epsilon(1e-10));
  }
}

TEST_CASE("uniform stages that send nothing idle for (p-1)(F+B), interleaved for (p-1)(F+B)/V") {
  // Narayanan 2021, section 2.2. Times are whole, so every sum is exact.
  std::mt19937 random(2);
  for (int n = 0; n < 2000; ++n) {
    const Shape s = random_shape(random, 12, 6, 100);
    const double forward = s.chunks * (1 + draw(random, 50)), backward = s.chunks * (1 + draw(random, 50));
    const PipelineTimes times = uniform(s.stages, s.chunks, forward, backward);
    const Played played = play(s.schedule, times, s.micro_batches);
    const double expected = (s.micro_batches + (s.stages - 1.0) / s.chunks) * (forward + backward);
    INFO("schedule ", static_cast<int>(s.schedule), " stages ", s.stages, " chunks ", s.chunks, " micro-batches ",
         s.micro_batches);
    REQUIRE(played.total.value == doctest::Approx(expected).epsilon(1e-14));
    for (const Seconds busy : played.stage_busy) REQUIRE(busy.value == s.micro_batches * (forward + backward));
    REQUIRE(pipeline_lower_bound(times, s.micro_batches).value == doctest::Approx(expected).epsilon(2e-11));
  }
}

TEST_CASE("1F1B idles as much as the zero-bubble paper profiled it") {
  // Qi 2024, Table 5, 1F1B; F, B, W and T_comm in ms from its Table 9. B + W is the whole backward.
  struct Row {
    int stages, micro_batches;
    double forward, input_gradient, weight_gradient, send, bubble_rate;
  };
  for (const Row& row : {Row{8, 24, 18.5, 18.1, 9.3, 0.60, 0.2431}, Row{16, 64, 11.3, 11.2, 8.1, 0.38, 0.2082},
                         Row{32, 256, 10.4, 10.2, 7.7, 0.41, 0.1352}}) {
    const double pass = row.forward + row.input_gradient + row.weight_gradient;
    const PipelineTimes times = uniform(row.stages, 1, row.forward, row.input_gradient + row.weight_gradient, row.send);
    const double cost = play(Schedule::one_f_one_b, times, row.micro_batches).total.value;
    const double bubble_rate = (cost - row.micro_batches * pass) / cost;
    MESSAGE(row.stages, " stages, ", row.micro_batches, " micro-batches: bubble rate ", bubble_rate, ", printed ",
            row.bubble_rate);
    CHECK(std::abs(bubble_rate - row.bubble_rate) < 0.01);
  }
}

TEST_CASE("a play respects every dependency and runs one task at a time on a stage") {
  std::mt19937 random(3);
  for (int n = 0; n < 300; ++n) {
    const Shape s = random_shape(random, 6, 4, 24);
    const PipelineTimes times = random_times(random, s.stages, s.chunks);
    const auto detail = in_detail(s, times);
    REQUIRE(static_cast<int>(detail.size()) == 2 * s.stages * s.chunks * s.micro_batches);
    std::map<std::tuple<Task::Kind, int, int>, PlayedTask> by_pass;
    for (std::size_t i = 0; i < detail.size(); ++i) {
      const PlayedTask& t = detail[i];
      const int g = t.task.chunk * s.stages + t.stage;
      by_pass[{t.task.kind, g, t.task.micro_batch}] = t;
      REQUIRE(t.end == t.start + (t.task.kind == kForward ? times.forward : times.backward)[g]);
      if (i > 0 && detail[i - 1].stage == t.stage) REQUIRE(t.start >= detail[i - 1].end);
    }
    REQUIRE(detail.front().start == Seconds{0});
    const Seconds send = s.stages > 1 ? times.send : Seconds{0};
    for (const auto& [pass, t] : by_pass) {
      const auto [kind, g, micro_batch] = pass;
      if (kind == kForward && g > 0) REQUIRE(t.start >= by_pass.at({kForward, g - 1, micro_batch}).end + send);
      if (kind == kBackward) {
        REQUIRE(t.start >= by_pass.at({kForward, g, micro_batch}).end);
        if (g + 1 < s.stages * s.chunks) REQUIRE(t.start >= by_pass.at({kBackward, g + 1, micro_batch}).end + send);
      }
    }
  }
}

TEST_CASE("play, the play in detail and the longest path through the graph of tasks take the same time") {
  std::mt19937 random(4);
  for (int n = 0; n < 1000; ++n) {
    const Shape s = random_shape(random, 7, 4, 28);
    const PipelineTimes times = random_times(random, s.stages, s.chunks);
    const Played played = play(s.schedule, times, s.micro_batches);
    const auto ends = stage_ends(in_detail(s, times), s.stages);
    REQUIRE(largest_relative_difference(played.stage_end, ends) <= 1e-12);
    REQUIRE(std::abs(played.total.value / longest_path(s, times) - 1) <= 1e-12);
    REQUIRE(played.total == *std::max_element(played.stage_end.begin(), played.stage_end.end()));
  }
}

TEST_CASE("whole periods added are as good as whole periods played") {
  std::mt19937 random(5);
  double worst = 0;
  for (int n = 0; n < 400; ++n) {
    Shape s = random_shape(random, 10, 4, 800);
    PipelineTimes times = random_times(random, s.stages, s.chunks);
    if (n % 2 == 1) {
      // Stages alike but for 10^-3 to 10^-16 of their time: what seems steady may still drift.
      std::uniform_real_distribution<double> noise(-1, 1);
      const double size = std::pow(10.0, -3 - draw(random, 14));
      for (auto& t : times.forward) t = {1 + size * noise(random)};
      for (auto& t : times.backward) t = {2 + size * noise(random)};
      times.send = {draw(random, 2) == 0 ? 0.0 : size};
    }
    const auto ends = stage_ends(in_detail(s, times), s.stages);
    const double difference = largest_relative_difference(play(s.schedule, times, s.micro_batches).stage_end, ends);
    worst = std::max(worst, difference);
    REQUIRE(difference <= 1e-12);
  }
  MESSAGE("largest relative difference: ", worst);
}

TEST_CASE("a billion micro-batches are played as soon as they repeat themselves") {
  // Task by task these would be some 10^10 tasks each. Sends make a period of four micro-batches: the round trip of the
  // four in flight, 4 (1 + 2) + 6 sends of 1/4, is 13.5.
  CHECK(play(Schedule::one_f_one_b, uniform(4, 1, 1, 2), 1'000'000'000).total == Seconds{3'000'000'009});
  CHECK(play(Schedule::interleaved, uniform(4, 2, 2, 4), 1'000'000'000).total == Seconds{6'000'000'009});
  CHECK(play(Schedule::one_f_one_b, uniform(4, 1, 1, 2, 0.25), 1'000'000'000).total.value ==
        doctest::Approx(1e9 / 4 * 13.5).epsilon(1e-8));
  CHECK(play(Schedule::one_f_one_b, uniform(4, 1, 1, 2, 0.25), 1'000'000'000).total -
            play(Schedule::one_f_one_b, uniform(4, 1, 1, 2, 0.25), 999'999'996).total ==
        Seconds{13.5});
}

TEST_CASE("playing twice gives the same bits") {
  std::mt19937 random(6);
  for (int n = 0; n < 50; ++n) {
    const Shape s = random_shape(random, 8, 4, 300);
    const PipelineTimes times = random_times(random, s.stages, s.chunks);
    const Played once = play(s.schedule, times, s.micro_batches), again = play(s.schedule, times, s.micro_batches);
    REQUIRE(once.total == again.total);
    REQUIRE(once.stage_end == again.stage_end);
  }
}

TEST_CASE("no play is faster than the lower bound") {
  std::mt19937 random(7);
  double tightness[3] = {0, 0, 0};
  int plays[3] = {0, 0, 0};
  for (int n = 0; n < 20000; ++n) {
    const Shape s = random_shape(random, 10, 5, 60);
    const PipelineTimes times = random_times(random, s.stages, s.chunks);
    const Seconds bound = pipeline_lower_bound(times, s.micro_batches);
    const Seconds total = play(s.schedule, times, s.micro_batches).total;
    REQUIRE(bound <= total);
    tightness[static_cast<int>(s.schedule)] += bound / total;
    ++plays[static_cast<int>(s.schedule)];
  }
  for (int i = 0; i < 3; ++i) tightness[i] /= plays[i];
  MESSAGE("bound / play on random times: gpipe ", tightness[0], ", 1f1b ", tightness[1], ", interleaved ",
          tightness[2]);
}

TEST_CASE("the lower bound is the slowest stage's work and what must come before and after it") {
  // Stage 1 of three: 10 + 0.5 before it, 4 (20 + 200), then 0.5 + 100 = 991. Stages 0 and 2: 4 x 110 = 440, and
  // 10 + 20 + 4 x 33 + 200 + 100 + 4 x 0.5 = 464.
  const PipelineTimes times{3, 1, {{10}, {20}, {3}}, {{100}, {200}, {30}}, {0.5}};
  CHECK(pipeline_lower_bound(times, 4).value == doctest::Approx(991).epsilon(1e-10));
  // One micro-batch: its way through, 363 + 4 x 0.5.
  CHECK(pipeline_lower_bound(times, 1).value == doctest::Approx(365).epsilon(1e-10));
  // Two chunks a stage, one micro-batch: 12 in the six chunks, and 5 sends each way.
  CHECK(pipeline_lower_bound(uniform(3, 2, 2, 2, 1), 1).value == doctest::Approx(22).epsilon(1e-10));
}

TEST_CASE(
    "1F1B keeps min(m, p-i) micro-batches, gpipe all, interleaved p(1 + (p-1)/(pV)) of a stage's layers on rank 0") {
  for (int p = 1; p <= 9; ++p) {
    for (int m = 1; m <= 30; ++m) {
      for (int i = 0; i < p; ++i) {
        REQUIRE(in_flight(Schedule::gpipe, p, 1, m, i, {7}) == std::vector<int>{m});
        REQUIRE(in_flight(Schedule::one_f_one_b, p, 1, m, i, {7}) == std::vector<int>{std::min(m, p - i)});
      }
      if (m % p != 0) continue;
      for (int chunks = 2; chunks <= 5; ++chunks) {
        for (int i = 0; i < p; ++i) {
          int sum = 0;
          for (const int count : in_flight(Schedule::interleaved, p, chunks, m, i, std::vector<double>(chunks, 1)))
            sum += count;
          REQUIRE(sum == std::min(m * chunks, 2 * (p - i - 1) + (chunks - 1) * p + 1));
          if (i == 0 && m > p) REQUIRE(sum == p * chunks + p - 1);  // V times p (1 + (p-1)/(pV))
        }
      }
    }
  }
}

TEST_CASE("uneven chunks can peak after the warm-up") {
  // Stage 1 of 2, 2 chunks, order F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 ...: at the first F1 two of chunk 0 and one
  // of chunk 1 are alive, at F0.2 three of chunk 0.
  CHECK(in_flight(Schedule::interleaved, 2, 2, 4, 1, {1, 1}) == std::vector<int>{2, 1});
  CHECK(in_flight(Schedule::interleaved, 2, 2, 4, 1, {10, 1}) == std::vector<int>{3, 0});
  CHECK(in_flight(Schedule::interleaved, 2, 2, 4, 1, {1, 10}) == std::vector<int>{2, 1});
}

TEST_CASE("the micro-batches in flight are those of a walk through the whole order") {
  std::mt19937 random(8);
  for (int p = 1; p <= 8; ++p) {
    for (int chunks = 1; chunks <= 4; ++chunks) {
      for (int m = 1; m <= 32; ++m) {
        for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved}) {
          if ((schedule == Schedule::interleaved) != (chunks > 1)) continue;
          if (schedule == Schedule::interleaved && m % p != 0) continue;
          for (int stage = 0; stage < p; ++stage) {
            for (int attempt = 0; attempt < 3; ++attempt) {
              // Whole numbers, as bytes are: sums are exact, and ties, which the first moment wins, do happen.
              std::vector<double> weight(chunks);
              for (auto& w : weight) w = draw(random, attempt == 0 ? 3 : 1000);
              std::vector<int> counts(chunks), most(chunks);
              double peak = 0;
              for (const Task& task : stage_order(schedule, p, chunks, m, stage)) {
                counts[task.chunk] += task.kind == kForward ? 1 : -1;
                double sum = 0;
                for (int c = 0; c < chunks; ++c) sum += counts[c] * weight[c];
                if (sum > peak) {
                  peak = sum;
                  most = counts;
                }
              }
              const auto fast = in_flight(schedule, p, chunks, m, stage, weight);
              double sum = 0;
              for (int c = 0; c < chunks; ++c) sum += fast[c] * weight[c];
              REQUIRE(sum == peak);
              // Weights above 0 also tell the moment; with a weight of 0 several counts are the peak.
              if (*std::min_element(weight.begin(), weight.end()) > 0) REQUIRE(fast == most);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("play reports the micro-batches in flight of equal weights") {
  std::mt19937 random(9);
  for (int n = 0; n < 300; ++n) {
    const Shape s = random_shape(random, 8, 5, 40);
    const Played played = play(s.schedule, uniform(s.stages, s.chunks, 1, 2), s.micro_batches);
    for (int i = 0; i < s.stages; ++i)
      REQUIRE(played.in_flight[i] ==
              in_flight(s.schedule, s.stages, s.chunks, s.micro_batches, i, std::vector<double>(s.chunks, 1)));
  }
}

TEST_CASE("a pipeline that is none is refused") {
  const auto refused = [](Schedule schedule, int stages, int chunks, int micro_batches, int stage) {
    const auto order =
        message_of<std::invalid_argument>([&] { stage_order(schedule, stages, chunks, micro_batches, stage); });
    const auto flight = message_of<std::invalid_argument>(
        [&] { in_flight(schedule, stages, chunks, micro_batches, stage, std::vector<double>(3, 1)); });
    CHECK(order == flight);
    return order;
  };
  CHECK(refused(Schedule::gpipe, 0, 1, 1, 0) == "a pipeline needs at least one stage, got 0");
  CHECK(refused(Schedule::gpipe, 1, 1, 0, 0) == "a pipeline needs at least one micro-batch, got 0");
  CHECK(refused(Schedule::one_f_one_b, 2, 3, 4, 0) == "only interleaved 1F1B has other than one chunk a stage, got 3");
  CHECK(refused(Schedule::interleaved, 2, 1, 4, 0) == "interleaved 1F1B needs at least two chunks a stage, got 1");
  CHECK(refused(Schedule::interleaved, 4, 2, 6, 0) ==
        "interleaved 1F1B needs micro-batches in multiples of its 4 stages, got 6");
  CHECK(refused(Schedule::interleaved, 4, 3, 8, 4) == "stage 4 is none of the 4 stages, counted from 0");

  CHECK(message_of<std::invalid_argument>([] {
          in_flight(Schedule::interleaved, 2, 2, 4, 0, {1, 1, 1});
        }) == "a stage of 2 chunks needs as many weights, got 3");
  CHECK(message_of<std::invalid_argument>([] { play(Schedule::interleaved, uniform(4, 2, 1, 1), 6); }) ==
        "interleaved 1F1B needs micro-batches in multiples of its 4 stages, got 6");
  PipelineTimes times = uniform(2, 3, 1, 2);
  times.forward.pop_back();
  const std::string sizes = "a pipeline of 2 stages with 3 chunks each needs 6 forward and backward times, got 5 and 6";
  CHECK(message_of<std::invalid_argument>([&] { play(Schedule::interleaved, times, 4); }) == sizes);
  CHECK(message_of<std::invalid_argument>([&] { pipeline_lower_bound(times, 4); }) == sizes);
  CHECK(message_of<std::invalid_argument>([] { pipeline_lower_bound(uniform(2, 1, 1, 1), 0); }) ==
        "a pipeline needs at least one stage, chunk and micro-batch, got 2, 1 and 0");
  CHECK(message_of<std::invalid_argument>([] { play_in_detail({{}}, uniform(2, 1, 1, 1), 1); }) ==
        "a pipeline of 2 stages needs 2 orders, got 1");
}

TEST_CASE("orders that cannot be played are a mistake of ours and say where they hang") {
  const Task forward{kForward, 0, 0}, backward{kBackward, 0, 0};
  const PipelineTimes times = uniform(2, 1, 1, 1);
  const auto mistake = [&](const std::vector<std::vector<Task>>& orders) {
    return message_of<std::logic_error>([&] { play_in_detail(orders, times, 1); });
  };
  CHECK(mistake({{forward, backward}, {backward, forward}}) ==
        "the orders deadlock: nothing can start the backward of micro-batch 0, chunk 0 on stage 0");
  CHECK(mistake({{forward, backward}, {forward}}) ==
        "the orders deadlock: nothing can start the backward of micro-batch 0, chunk 0 on stage 0");
  CHECK(mistake({{forward, forward}, {forward}}) ==
        "the orders have a task twice: forward of micro-batch 0, chunk 0 on stage 0");
  CHECK(mistake({{forward}, {{kBackward, 1, 0}}}) ==
        "the orders have a task that the pipeline has not: backward of micro-batch 0, chunk 1 on stage 1");
  CHECK(play_in_detail({{forward, backward}, {forward, backward}}, times, 1).back().end == Seconds{3});
}

}  // namespace shardwright
