#pragma once

#include <cstdint>
#include <vector>

#include "hardware/quantities.h"
#include "planner/layout.h"

namespace shardwright {

/// One unit of work on a stage: the forward or backward pass of one micro-batch through one chunk of layers.
struct Task {
  enum class Kind : std::uint8_t { forward, backward };
  Kind kind = Kind::forward;
  int chunk = 0;  // 0 .. vpp-1, on this stage; global chunk = chunk * pp + stage
  int micro_batch = 0;
  bool operator==(const Task&) const = default;
};

/// Times of one micro-batch through each chunk, and of handing its activation (or its gradient) to the next (previous)
/// chunk. None may be negative.
struct PipelineTimes {
  int stages = 1;
  int chunks = 1;                          // virtual chunks a stage
  std::vector<Seconds> forward, backward;  // stages * chunks, by global chunk (chunk * stages + stage)
  Seconds send;  // between stages, either direction; blocks neither side's compute; nothing with one stage
};

// What follows throws std::invalid_argument for a pipeline that is none: no stage or micro-batch, one chunk a stage
// with interleaved or several without, interleaved micro-batches that are no multiple of the stages, vectors of another
// size.

/// The order in which `stage` works through its tasks. Every micro-batch passes every chunk forward once and backward
/// once. Sources: GPipe, Huang 2019; 1F1B and interleaved 1F1B, Narayanan 2021, with the warm-up of today's
/// Megatron-Core: stage i of p runs min(m V, 2 (p-1-i) + (V-1) p) chunk-forwards ahead. (Megatron's first releases ran
/// every forward before every backward when there were just p micro-batches; later ones dropped that case.)
/// GPipe's backwards take the micro-batches in the order of the forwards: all are alike, no time or memory depends on
/// it.
std::vector<Task> stage_order(Schedule schedule, int stages, int chunks, int micro_batches, int stage);

/// What playing a schedule gives.
struct Played {
  Seconds total;                   // from the first task's start to the last task's end
  std::vector<Seconds> stage_end;  // when each stage's last task ends, counted from the first task's start
  std::vector<Seconds> stage_busy;
  std::vector<std::vector<int>> in_flight;  // [stage][chunk]: in_flight() below with equal weights
};

/// Plays every stage's order against the dependencies: forward of a chunk after forward of the chunk before it plus
/// `send`, backward after backward of the chunk behind it plus `send`, and after its own forward. Exact but for
/// rounding: once every stage repeats itself, whole periods are added instead of played, which moves no time by more
/// than 1e-12 of it. Makes no list of tasks; its cost does not grow with the micro-batches beyond that point.
Played play(Schedule schedule, const PipelineTimes& times, int micro_batches);

/// One task of a play, with its time.
struct PlayedTask {
  int stage = 0;
  Task task;
  Seconds start, end;
};

/// Plays any orders, one a stage, task by task, and tells all of it: for traces, and what `play` is tested against.
/// Stage by stage, each in its order. Throws std::logic_error on a deadlock (orders that break a dependency or leave
/// out a task that another needs), and when an order has a task that is none of this pipeline's or has one twice.
std::vector<PlayedTask> play_in_detail(const std::vector<std::vector<Task>>& orders, const PipelineTimes& times,
                                       int micro_batches);

/// How many micro-batches of each chunk of `stage` have gone forward and not yet backward, at the (first) moment when
/// sum(count[c] * weight[c]) over the stage's chunks is largest; needs no times, the order alone decides. A weight is
/// what one micro-batch keeps in that chunk, at least 0 (a chunk of weight 0 may be counted later than at the first
/// such moment). Looks at about 2 V moments, however many micro-batches there are.
std::vector<int> in_flight(Schedule schedule, int stages, int chunks, int micro_batches, int stage,
                           const std::vector<double>& weight);

/// A time that no play of any schedule with these chunks can beat: for each stage, the work before it that the first
/// micro-batch needs, its own work, and the work that follows its last backward; or one micro-batch's way through all
/// of it. Lowered by 1e-11 of it, so that the rounding of a play never falls below. Uniform stages without send: the
/// time of 1F1B and of interleaved 1F1B.
Seconds pipeline_lower_bound(const PipelineTimes& times, int micro_batches);

}  // namespace shardwright
