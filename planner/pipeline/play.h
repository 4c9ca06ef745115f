#pragma once

#include <vector>

#include "planner/pipeline/schedule.h"

namespace shardwright {

/// What playing a schedule gives. Times are counted from the first task's start.
struct Played {
  Seconds total;                                // to the last task's end
  std::vector<Seconds> stage_begin, stage_end;  // of each stage's first and last task
  std::vector<Seconds> stage_busy;
};

/// Plays every stage's order against the dependencies: a forward after the forward of the part before it plus `send`,
/// a backward or an input gradient after that of the part behind it plus `send`, on the last part after its own
/// forward; of a pair, both. A weight gradient is where its order has it. Exact but for rounding: once every stage
/// repeats itself, whole periods are added instead of played, which moves no time by more than 1e-12 of it. Makes no
/// list of tasks; its cost does not grow with the micro-batches beyond that point.
///
/// Knows no schedule: `orders`, one a stage, may be any in which each chunk takes its micro-batches in turn, the first
/// half of them on the first of two routes. Throws std::logic_error on a deadlock and on a micro-batch out of turn.
Played play(const Route& route, const std::vector<Order>& orders, const PipelineTimes& times, int micro_batches);

/// The orders of a schedule, played. `keeps`: see stage_orders. Throws std::invalid_argument as check() does.
Played play(const Pipeline& pipeline, const PipelineTimes& times, const std::vector<PassKeeps>& keeps = {});

/// One task of a play, with its time.
struct PlayedTask {
  int stage = 0;
  Task task;
  Seconds start, end;
};

/// Plays any orders, one a stage, task by task, and tells all of it: for traces, and what `play` is tested against.
/// Stage by stage, each in its order. Throws std::logic_error on a deadlock (orders that break a dependency or leave
/// out a task that another needs), and when an order has a task that is none of this pipeline's or has one twice.
std::vector<PlayedTask> play_in_detail(const Route& route, const std::vector<std::vector<Task>>& orders,
                                       const PipelineTimes& times, int micro_batches);

/// What a task takes on a stage.
Seconds time_of(const Route& route, const PipelineTimes& times, int stage, const Task& task);

/// A time that no play of this pipeline beats, whatever the order: for each stage, the forwards before it that the
/// first micro-batch needs, its own work, and what of backward must follow its last gradient; or one micro-batch's way
/// through all of it. Where backward is split, a stage's weight gradients may fill the time in which the gradient goes
/// on to the first part, so only the longer of the two counts. Of pairs each forward saves at most what it saves with
/// the best of partners. Lowered by 1e-11 of it, so that the rounding of a play never falls below. Uniform stages
/// without send: the time of 1F1B and of interleaved 1F1B.
Seconds pipeline_lower_bound(const Pipeline& pipeline, const PipelineTimes& times);

}  // namespace shardwright
