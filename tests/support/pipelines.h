#pragma once

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "planner/pipeline/play.h"

namespace shardwright {

inline constexpr std::array kAllSchedules = {
    Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved, Schedule::zb_h1,    Schedule::zb_h2,
    Schedule::zb_1p, Schedule::zb_2p,       Schedule::zb_v,        Schedule::dualpipe, Schedule::dualpipe_v};

/// 0 .. below-1.
inline int draw(std::mt19937& random, int below) { return static_cast<int>(random() % static_cast<unsigned>(below)); }

/// A stage's share of the pass is the same everywhere: the times are one stage's, over all its chunks.
inline PipelineTimes uniform(int stages, int chunks, double forward, double backward, double send = 0,
                             double weight_gradient = 0) {
  const auto n = static_cast<std::size_t>(stages * chunks);
  const auto all = [&](double time) { return std::vector<Seconds>(n, Seconds{time / chunks}); };
  return {stages, chunks, all(forward), all(backward), Seconds{send}, all(weight_gradient), {}};
}

inline PipelineTimes random_times(std::mt19937& random, const Pipeline& pipeline) {
  std::uniform_real_distribution<double> time(0.1, 2.0), sends(0.0, 0.5), part(0.1, 0.9);
  PipelineTimes times = uniform(pipeline.stages, pipeline.chunks, 0, 0, draw(random, 3) == 0 ? 0.0 : sends(random));
  for (auto& t : times.forward) t = {time(random)};
  for (auto& t : times.backward) t = {time(random)};
  if (draw(random, 4) == 0) times.forward[draw(random, pipeline.parts())].value *= 10;  // one part is slow
  for (std::size_t g = 0; g < times.backward.size(); ++g) times.weight_gradient[g] = part(random) * times.backward[g];
  if (!has_pairs(pipeline) || draw(random, 4) == 0) return times;
  // Between the longer of the two and both one after the other.
  const Route route(pipeline);
  for (int stage = 0; stage < route.stages(); ++stage)
    for (int f = 0; f < route.chunks(); ++f)
      for (int b = 0; b < route.chunks(); ++b) {
        const Seconds forward = times.forward[route.part_of({stage, f})];
        const Seconds backward = times.backward[route.part_of({stage, b})];
        times.pair.push_back(std::max(forward, backward) + part(random) * std::min(forward, backward));
      }
  return times;
}

inline Pipeline random_pipeline(std::mt19937& random, Schedule schedule, int most_stages, int most_chunks,
                                int most_micro_batches) {
  Pipeline p{schedule, 1 + draw(random, most_stages), 1, 1 + draw(random, most_micro_batches)};
  if (schedule == Schedule::interleaved) {
    p.chunks = 2 + draw(random, most_chunks - 1);
    p.micro_batches = p.stages * (1 + draw(random, std::max(1, most_micro_batches / p.stages)));
  }
  if (schedule == Schedule::interleaved || schedule == Schedule::one_f_one_b) p.paired = draw(random, 3) == 0;
  if (schedule == Schedule::zb_v) p.chunks = 2;
  if (schedule == Schedule::dualpipe) p.stages = 2 * (1 + draw(random, most_stages / 2));
  if (schedule == Schedule::dualpipe || schedule == Schedule::dualpipe_v)
    p.micro_batches = 2 * (p.stages + draw(random, most_micro_batches / 2));
  if (schedule == Schedule::dualpipe_v) {
    p.chunks = 2;
    p.micro_batches -= draw(random, 2) * (p.micro_batches > 2 * p.stages);
  }
  return p;
}

/// Of any schedule.
inline Pipeline random_pipeline(std::mt19937& random, int most_stages, int most_chunks, int most_micro_batches) {
  const Schedule schedule = kAllSchedules[static_cast<std::size_t>(draw(random, kAllSchedules.size()))];
  return random_pipeline(random, schedule, most_stages, most_chunks, most_micro_batches);
}

inline std::vector<std::vector<Task>> written_out(const std::vector<Order>& orders) {
  std::vector<std::vector<Task>> all;
  for (const Order& order : orders) all.push_back(tasks_of(order));
  return all;
}

inline std::vector<PlayedTask> in_detail(const Pipeline& p, const PipelineTimes& times) {
  return play_in_detail(Route(p), written_out(stage_orders(p, times)), times, p.micro_batches);
}

/// The longest of the stages' spans, from the first task to the last.
inline Seconds longest_span(const Played& played) {
  Seconds longest;
  for (std::size_t s = 0; s < played.stage_end.size(); ++s)
    longest = std::max(longest, played.stage_end[s] - played.stage_begin[s]);
  return longest;
}

/// "F0.2" is the forward of chunk 0, micro-batch 2; B a whole backward, I and W the input and weight gradients, and
/// F0.2&B1.0 a pair.
inline std::string written(const std::vector<Task>& order) {
  const auto pass = [](const char* kind, int chunk, int micro_batch) {
    return kind + std::to_string(chunk) + "." + std::to_string(micro_batch);
  };
  const char* const kinds[] = {"F", "B", "I", "W", "F"};
  std::string text;
  for (const Task& t : order) {
    text += (text.empty() ? "" : " ") + pass(kinds[static_cast<int>(t.kind)], t.chunk, t.micro_batch);
    if (t.kind == Task::Kind::pair) text += "&" + pass("B", t.backward_chunk, t.backward_micro_batch);
  }
  return text;
}

}  // namespace shardwright
