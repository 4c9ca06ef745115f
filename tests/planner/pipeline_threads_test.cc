// The schedules run for real, but for the arithmetic: a thread a stage, channels between them, and tasks that sleep.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "planner/pipeline/play.h"
#include "tests/support/pipelines.h"

namespace shardwright {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = Task::Kind;

Clock::duration lasting(Seconds time) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time.value));
}

/// Micro-batches on their way from one chunk to the next, each with the time at which it arrives.
class Channel {
 public:
  void put(int micro_batch, Clock::time_point arrives) {
    const std::lock_guard lock(mutex_);
    under_way_.push_back({micro_batch, arrives});
    there_is_one_.notify_one();
  }
  /// Waits for the next one, which has to be this.
  void take(int micro_batch) {
    std::unique_lock lock(mutex_);
    there_is_one_.wait(lock, [&] { return !under_way_.empty(); });
    const auto [there, arrives] = under_way_.front();
    under_way_.pop_front();
    lock.unlock();
    if (there != micro_batch) throw std::logic_error("another micro-batch was expected");
    std::this_thread::sleep_until(arrives);
  }

 private:
  std::mutex mutex_;
  std::condition_variable there_is_one_;
  std::deque<std::pair<int, Clock::time_point>> under_way_;
};

class Run {
 public:
  Run(const Pipeline& pipeline, const PipelineTimes& times)
      : route_(pipeline),
        times_(times),
        orders_(written_out(stage_orders(pipeline, times))),
        forwards_(static_cast<std::size_t>(route_.stages() * route_.chunks())),
        gradients_(forwards_.size()) {}

  /// When each stage has done its last task, counted from the start of all.
  std::vector<double> stage_ends() {
    std::vector<double> ends(static_cast<std::size_t>(route_.stages()));
    const Clock::time_point start = Clock::now() + std::chrono::milliseconds(2);  // time for all threads to be there
    std::vector<std::thread> stages;
    for (int s = 0; s < route_.stages(); ++s)
      stages.emplace_back([&, s] {
        std::this_thread::sleep_until(start);
        for (const Task& task : orders_[s]) work(s, task);
        ends[s] = std::chrono::duration<double>(Clock::now() - start).count();
      });
    for (std::thread& t : stages) t.join();
    return ends;
  }

 private:
  void work(int stage, const Task& t) {
    const bool forward = t.kind == Kind::forward || t.kind == Kind::pair;
    const bool gradient = t.kind == Kind::backward || t.kind == Kind::input_gradient;
    const Place place{stage, t.chunk}, behind{stage, t.backward_chunk};
    if (forward && route_.part_of(place) > 0) into(forwards_, place).take(t.micro_batch);
    if (gradient) into(gradients_, place).take(t.micro_batch);
    if (t.kind == Kind::pair) into(gradients_, behind).take(t.backward_micro_batch);
    std::this_thread::sleep_for(lasting(time_of(route_, times_, stage, t)));
    if (forward) send_forward(place, t.micro_batch);
    if (gradient) send_gradient(place, t.micro_batch);
    if (t.kind == Kind::pair) send_gradient(behind, t.backward_micro_batch);
  }
  void send_forward(Place from, int micro_batch) {
    const int part = route_.part_of(from);
    if (part + 1 == route_.parts()) return send(from, from, gradients_, micro_batch);
    send(from, route_.place(route_.route_of(from), part + 1), forwards_, micro_batch);
  }
  void send_gradient(Place from, int micro_batch) {
    const int part = route_.part_of(from);
    if (part > 0) send(from, route_.place(route_.route_of(from), part - 1), gradients_, micro_batch);
  }
  void send(Place from, Place to, std::vector<Channel>& channels, int micro_batch) {
    into(channels, to).put(micro_batch, Clock::now() + lasting(from.stage == to.stage ? Seconds{} : times_.send));
  }
  Channel& into(std::vector<Channel>& channels, Place place) {
    return channels[static_cast<std::size_t>(place.stage * route_.chunks() + place.chunk)];
  }

  Route route_;
  const PipelineTimes& times_;
  std::vector<std::vector<Task>> orders_;
  std::vector<Channel> forwards_, gradients_;  // into each chunk
};

/// By how much a thread that sleeps again and again is late, relative to what it should have slept.
double lateness(Seconds one, int times) {
  const Clock::time_point start = Clock::now();
  for (int n = 0; n < times; ++n) std::this_thread::sleep_for(lasting(one));
  const double slept = std::chrono::duration<double>(Clock::now() - start).count();
  return slept / (one * times).value - 1;
}

struct Trial {
  double disagreement;  ///< the largest difference of any stage's end from its prediction, relative to the whole
  double lateness;      ///< of one more thread, meanwhile
};

Trial try_out(Schedule schedule, int stages) {
  Pipeline p{schedule, stages, 1, stages};
  if (schedule == Schedule::dualpipe) p.stages += stages % 2;
  if (schedule == Schedule::dualpipe || schedule == Schedule::dualpipe_v) p.micro_batches = 2 * p.stages;
  if (schedule == Schedule::interleaved || schedule == Schedule::zb_v || schedule == Schedule::dualpipe_v) p.chunks = 2;
  PipelineTimes times = uniform(p.stages, p.chunks, 12e-3, 20e-3, 2e-3, 8e-3);
  const int chunks = Route(p).chunks();
  times.pair.assign(static_cast<std::size_t>(p.stages * chunks * chunks), Seconds{24e-3 / p.chunks});
  const Played played = play(p, times);
  Trial trial{};
  const Seconds one{10e-3};
  std::thread control([&] { trial.lateness = lateness(one, static_cast<int>(played.total / one)); });
  const std::vector<double> ends = Run(p, times).stage_ends();
  control.join();
  for (std::size_t s = 0; s < ends.size(); ++s)
    trial.disagreement =
        std::max(trial.disagreement, std::abs(ends[s] - played.stage_end[s].value) / played.total.value);
  return trial;
}

}  // namespace

TEST_CASE("threads that sleep their tasks' times end each stage within 5 % of the prediction") {
  // Forwards of 12 ms, backwards of 20, weight gradients of 8, pairs of 24: of a stage. A sleep is some 0.1 ms too
  // long. Threads that sleep need no cores of their own, so all schedules run at once. Where the machine is so busy
  // that a lone sleeper is late by more than 1.5 %, a try says nothing.
  constexpr int kTries = 20;  // of those that did not agree yet
  double worst = 0;
  for (const int stages : {2, 5, 8, 16}) {
    std::vector<double> best(kAllSchedules.size(), 1);
    std::vector<int> fair_tries(kAllSchedules.size(), 0);
    for (int n = 0; n < kTries; ++n) {
      std::vector<std::thread> runs;
      for (std::size_t i = 0; i < kAllSchedules.size(); ++i)
        if (best[i] > 0.05)
          runs.emplace_back([&best, &fair_tries, i, stages] {
            const Trial trial = try_out(kAllSchedules[i], stages);
            best[i] = std::min(best[i], trial.disagreement);
            fair_tries[i] += trial.lateness <= 0.015 ? 1 : 0;
          });
      for (std::thread& run : runs) run.join();
    }
    for (std::size_t i = 0; i < kAllSchedules.size(); ++i) {
      INFO(name_of(kAllSchedules[i]), ", ", stages, " stages");
      if (best[i] > 0.05 && fair_tries[i] == 0) {
        MESSAGE("SKIPPED: the machine is too busy to sleep on time");
        return;
      }
      CHECK(best[i] <= 0.05);
      worst = std::max(worst, best[i]);
    }
  }
  MESSAGE("largest difference: ", worst);
}

}  // namespace shardwright
