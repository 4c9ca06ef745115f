#include "planner/pipeline/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace shardwright {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();  // the end of what nobody waits for

void check_shape(Schedule schedule, int stages, int chunks, int micro_batches) {
  if (stages < 1) throw std::invalid_argument("a pipeline needs at least one stage, got " + std::to_string(stages));
  if (micro_batches < 1)
    throw std::invalid_argument("a pipeline needs at least one micro-batch, got " + std::to_string(micro_batches));
  if (schedule != Schedule::interleaved) {
    if (chunks != 1)
      throw std::invalid_argument("only interleaved 1F1B has other than one chunk a stage, got " +
                                  std::to_string(chunks));
    return;
  }
  if (chunks < 2)
    throw std::invalid_argument("interleaved 1F1B needs at least two chunks a stage, got " + std::to_string(chunks));
  if (micro_batches % stages != 0)
    throw std::invalid_argument("interleaved 1F1B needs micro-batches in multiples of its " + std::to_string(stages) +
                                " stages, got " + std::to_string(micro_batches));
}

void check_stage(int stages, int stage) {
  if (stage < 0 || stage >= stages)
    throw std::invalid_argument("stage " + std::to_string(stage) + " is none of the " + std::to_string(stages) +
                                " stages, counted from 0");
}

void check_times(const PipelineTimes& times, int micro_batches) {
  if (times.stages < 1 || times.chunks < 1 || micro_batches < 1)
    throw std::invalid_argument("a pipeline needs at least one stage, chunk and micro-batch, got " +
                                std::to_string(times.stages) + ", " + std::to_string(times.chunks) + " and " +
                                std::to_string(micro_batches));
  const std::size_t n = static_cast<std::size_t>(times.stages) * static_cast<std::size_t>(times.chunks);
  if (times.forward.size() != n || times.backward.size() != n)
    throw std::invalid_argument("a pipeline of " + std::to_string(times.stages) + " stages with " +
                                std::to_string(times.chunks) + " chunks each needs " + std::to_string(n) +
                                " forward and backward times, got " + std::to_string(times.forward.size()) + " and " +
                                std::to_string(times.backward.size()));
}

// Every order here is one pattern: forward k, then backward k - warm_up, for k = 0, 1, ..., where those exist. The k-th
// forward of any stage is the same micro-batch and chunk: groups of `stages` micro-batches, chunk by chunk. The k-th
// backward is the same with the chunks turned round.

std::int64_t warm_up(Schedule schedule, int stages, int chunks, int micro_batches, int stage) {
  const std::int64_t n = std::int64_t{micro_batches} * chunks;
  switch (schedule) {
    case Schedule::gpipe:
      return n;
    case Schedule::one_f_one_b:
      return std::min<std::int64_t>(n, stages - 1 - stage);
    case Schedule::interleaved:
      return std::min(n, std::int64_t{2} * (stages - 1 - stage) + std::int64_t{chunks - 1} * stages);
  }
  throw std::invalid_argument("a schedule that has no order");
}

int chunk_of(std::int64_t k, int stages, int chunks, Task::Kind kind) {
  const int turn = static_cast<int>(k / stages % chunks);
  return kind == Task::Kind::forward ? turn : chunks - 1 - turn;
}

Task nth_task(std::int64_t k, int stages, int chunks, Task::Kind kind) {
  const std::int64_t group = k / (std::int64_t{stages} * chunks);
  return {kind, chunk_of(k, stages, chunks, kind), static_cast<int>(group * stages + k % stages)};
}

/// Of the first `k` forwards (in backward: backwards), those of the chunk whose turn in a group is `turn`.
int passed(std::int64_t k, int stages, int chunks, int turn) {
  const std::int64_t in_group = k % (std::int64_t{stages} * chunks);
  const std::int64_t group = k / (std::int64_t{stages} * chunks);
  return static_cast<int>(group * stages + std::clamp<std::int64_t>(in_group - std::int64_t{turn} * stages, 0, stages));
}

/// Counts alive after `forwards` forwards and `backwards` backwards.
void alive(std::int64_t forwards, std::int64_t backwards, int stages, std::vector<int>& counts) {
  const int chunks = static_cast<int>(counts.size());
  for (int c = 0; c < chunks; ++c)
    counts[c] = passed(forwards, stages, chunks, c) - passed(backwards, stages, chunks, chunks - 1 - c);
}

/// Says when a state that the same step advances over and over has begun to repeat itself, later by `shift`.
///
/// A round of a pipeline in its steady state takes the times at which tasks ended to the times at which the next ones
/// end, by maxima and additions alone. Such a step commutes with shifting all times and moves no two states further
/// apart (Baccelli et al., Synchronization and Linearity, 1992). So if a state equals an earlier one shifted, up to
/// `tolerance` of the shift, n more repetitions are n shifts, up to n times that: relative to the time that passes, the
/// tolerance. The tolerance is above the rounding of the sums and well below 1e-12. The period (of one micro-batch, of
/// as many as there are stages where sends are felt, ...) is found as in Brent 1980: look back at an anchor that moves
/// up to the present after 1, 2, 4, ... observations.
class Repetition {
 public:
  explicit Repetition(std::size_t size) : anchor_(size) {}

  /// Observations since the state that this one repeats, 0 when it repeats none.
  std::int64_t observe(const double* state) {
    const bool repeats = observed_ > 0 && matches(state);
    ++observed_;
    if (repeats) return observed_ - anchored_;
    if (observed_ >= next_anchor_) {
      std::copy_n(state, anchor_.size(), anchor_.begin());
      anchored_ = observed_;
      next_anchor_ = 2 * observed_;
    }
    return 0;
  }
  double shift() const { return shift_; }

 private:
  bool matches(const double* state) {
    constexpr double kTolerance = 2e-13;
    shift_ = state[0] - anchor_[0];
    for (std::size_t i = 1; i < anchor_.size(); ++i)
      if (!(std::abs(state[i] - anchor_[i] - shift_) <= kTolerance * shift_)) return false;
    return true;
  }

  std::vector<double> anchor_;
  double shift_ = 0;
  std::int64_t observed_ = 0, anchored_ = 0, next_anchor_ = 1;
};

/// Identical jobs through a line of machines wait only for the slowest machine passed so far.
std::vector<double> gpipe_ends(const PipelineTimes& times, double send, int micro_batches) {
  const int p = times.stages;
  double way = 0, slowest = 0;
  for (int i = 0; i < p; ++i) {
    way += times.forward[i].value + (i > 0 ? send : 0);
    slowest = std::max(slowest, times.forward[i].value);
  }
  way += (micro_batches - 1) * slowest;  // the last stage has done every forward
  slowest = 0;
  std::vector<double> ends(p);
  for (int i = p; i-- > 0;) {
    way += times.backward[i].value + (i + 1 < p ? send : 0);
    slowest = std::max(slowest, times.backward[i].value);
    ends[i] = way + (micro_batches - 1) * slowest;
  }
  return ends;
}

/// Round d: every stage i does forward d, and then backward d - (p-1) + i, which is its order. Forwards need their left
/// neighbour's of this round, backwards their right neighbour's of the last one. So the state between rounds is one
/// number a stage.
std::vector<double> one_f_one_b_ends(const PipelineTimes& times, double send, std::int64_t micro_batches) {
  const int p = times.stages;
  std::vector<double> clock(p, 0.0), backward_end(p + 1, kNever);
  const Seconds* forward_time = times.forward.data();
  const Seconds* backward_time = times.backward.data();
  double* const now = clock.data();
  double* const ended = backward_end.data();
  const std::int64_t m = micro_batches, rounds = m + p - 1;
  Repetition repetition(p);
  bool watching = true;
  for (std::int64_t d = 0; d < rounds; ++d) {
    if (d < m) {
      double left = kNever;
      for (int i = 0; i < p; ++i) left = now[i] = std::max(now[i], left + send) + forward_time[i].value;
    }
    const int first = static_cast<int>(std::max<std::int64_t>(0, p - 1 - d));
    const int behind_last = static_cast<int>(std::min<std::int64_t>(p, rounds - d));
    for (int i = first; i < behind_last; ++i)
      now[i] = ended[i] = std::max(now[i], ended[i + 1] + send) + backward_time[i].value;
    if (watching && d >= p - 1 && d < m) {
      if (const std::int64_t period = repetition.observe(ended); period > 0) {
        const std::int64_t times_over = (m - 1 - d) / period;
        for (int i = 0; i < p; ++i) now[i] = ended[i] += static_cast<double>(times_over) * repetition.shift();
        d += times_over * period;
        watching = false;
      }
    }
  }
  return clock;
}

/// Round r: stage i does forward r - i, and then the backward that its order puts behind that one, r - i - warm_up(i) =
/// r - (V-1) p - 2 (p-1) + i. The k-th forward of a stage needs the k-th of its left neighbour, of stage 0 the (k-p)-th
/// of the last stage; backwards alike, the other way. Either was done in the round before: a round is two plain loops.
/// A stage that never gets through its warm-up does all its forwards first, in these rounds too.
std::vector<double> interleaved_ends(const PipelineTimes& times, double send, int micro_batches) {
  const int p = times.stages, chunks = times.chunks;
  const std::int64_t n = std::int64_t{micro_batches} * chunks;                     // forwards of a stage
  const std::int64_t first_backward = std::int64_t{chunks - 1} * p + 2 * (p - 1);  // stage 0's, as a round
  const std::int64_t rounds = n + first_backward;
  const std::int64_t group = std::int64_t{p} * chunks;

  // forward_end[-1] and backward_end[p] are what the first and the last stage wait for. Two of each: last round's and
  // this.
  const std::size_t half = static_cast<std::size_t>(p) * 2 + 2;
  std::vector<double> memory(2 * half + static_cast<std::size_t>(p), 0.0);
  double* before = memory.data();
  double* after = before + half;
  double* const now = after + half;
  Repetition repetition(static_cast<std::size_t>(p) * 2);
  bool watching = true;

  for (std::int64_t r = 0; r < rounds; ++r) {
    double* const old_forward = before + 1;
    double* const old_backward = old_forward + p;
    double* const new_forward = after + 1;
    double* const new_backward = new_forward + p;
    // The forwards r - i of stages 0..r%p have one chunk, those of the stages behind have the chunk before it.
    const double last_forward = old_forward[p - 1], first_stage_backward = old_backward[0];
    old_forward[-1] = chunk_of(r, p, chunks, Task::Kind::forward) == 0 ? kNever : last_forward;
    const int begin = static_cast<int>(std::max<std::int64_t>(0, r - n + 1));
    const int end = static_cast<int>(std::min<std::int64_t>(p, r + 1));
    for (int i = begin; i < end;) {
      const std::int64_t k = r - i;
      const Seconds* const time =
          &times.forward[static_cast<std::size_t>(chunk_of(k, p, chunks, Task::Kind::forward)) * p];
      const int stop = std::min<int>(end, i + static_cast<int>(k % p) + 1);
      for (; i < stop; ++i) now[i] = new_forward[i] = std::max(now[i], old_forward[i - 1] + send) + time[i].value;
    }
    // The backwards s + i: the chunk changes where s + i is a multiple of p.
    const std::int64_t s = r - first_backward;
    const int begin_back = static_cast<int>(std::max<std::int64_t>(0, -s));
    const int end_back = static_cast<int>(std::min<std::int64_t>(p, n - s));
    if (begin_back < p) {
      const std::int64_t last = s + p - 1;  // >= 0
      old_backward[p] = chunk_of(last, p, chunks, Task::Kind::backward) == chunks - 1 ? kNever : first_stage_backward;
    }
    for (int i = begin_back; i < end_back;) {
      const std::int64_t k = s + i;
      const Seconds* const time =
          &times.backward[static_cast<std::size_t>(chunk_of(k, p, chunks, Task::Kind::backward)) * p];
      const int stop = std::min<int>(end_back, i + p - static_cast<int>(k % p));
      for (; i < stop; ++i) now[i] = new_backward[i] = std::max(now[i], old_backward[i + 1] + send) + time[i].value;
    }
    std::swap(before, after);

    // Where every stage did both, the ends of both are the whole state, and a group of rounds later all is as now.
    if (watching && s >= 0 && r < n && (r - first_backward) % group == 0) {
      if (const std::int64_t period = group * repetition.observe(before + 1); period > 0) {
        const std::int64_t times_over = (n - 1 - r) / period;
        for (int i = 0; i < 2 * p; ++i) before[1 + i] += static_cast<double>(times_over) * repetition.shift();
        std::copy_n(before + 1 + p, p, now);
        r += times_over * period;
        watching = false;
      }
    }
  }
  return {now, now + p};
}

}  // namespace

std::vector<Task> stage_order(Schedule schedule, int stages, int chunks, int micro_batches, int stage) {
  check_shape(schedule, stages, chunks, micro_batches);
  check_stage(stages, stage);
  const std::int64_t n = std::int64_t{micro_batches} * chunks;
  const std::int64_t ahead = warm_up(schedule, stages, chunks, micro_batches, stage);
  std::vector<Task> order;
  order.reserve(static_cast<std::size_t>(2 * n));
  for (std::int64_t k = 0; k < n + ahead; ++k) {
    if (k < n) order.push_back(nth_task(k, stages, chunks, Task::Kind::forward));
    if (k >= ahead) order.push_back(nth_task(k - ahead, stages, chunks, Task::Kind::backward));
  }
  return order;
}

Played play(Schedule schedule, const PipelineTimes& times, int micro_batches) {
  check_shape(schedule, times.stages, times.chunks, micro_batches);
  check_times(times, micro_batches);
  const int p = times.stages;
  const double send = p == 1 ? 0.0 : times.send.value;
  const std::vector<double> ends = schedule == Schedule::gpipe         ? gpipe_ends(times, send, micro_batches)
                                   : schedule == Schedule::one_f_one_b ? one_f_one_b_ends(times, send, micro_batches)
                                                                       : interleaved_ends(times, send, micro_batches);
  Played played;
  played.stage_end.resize(p);
  played.stage_busy.resize(p);
  played.in_flight.assign(p, std::vector<int>(times.chunks));
  for (int i = 0; i < p; ++i) {
    played.stage_end[i] = {ends[i]};
    played.total = std::max(played.total, played.stage_end[i]);
    Seconds once;
    for (int c = i; c < p * times.chunks; c += p) once += times.forward[c] + times.backward[c];
    played.stage_busy[i] = once * micro_batches;
    // With equal weights, each backward makes room for one forward: the first peak is the first forward past the
    // warm-up.
    const std::int64_t n = std::int64_t{micro_batches} * times.chunks;
    const std::int64_t ahead = warm_up(schedule, p, times.chunks, micro_batches, i);
    alive(std::min(n, ahead + 1), 0, p, played.in_flight[i]);
  }
  return played;
}

std::vector<PlayedTask> play_in_detail(const std::vector<std::vector<Task>>& orders, const PipelineTimes& times,
                                       int micro_batches) {
  check_times(times, micro_batches);
  const int p = times.stages, global_chunks = p * times.chunks;
  if (static_cast<int>(orders.size()) != p)
    throw std::invalid_argument("a pipeline of " + std::to_string(p) + " stages needs " + std::to_string(p) +
                                " orders, got " + std::to_string(orders.size()));
  const auto described = [](int stage, const Task& task) {
    return std::string(task.kind == Task::Kind::forward ? "forward" : "backward") + " of micro-batch " +
           std::to_string(task.micro_batch) + ", chunk " + std::to_string(task.chunk) + " on stage " +
           std::to_string(stage);
  };
  const double send = p == 1 ? 0.0 : times.send.value;
  const double open = std::numeric_limits<double>::quiet_NaN();
  const std::size_t passes = static_cast<std::size_t>(global_chunks) * static_cast<std::size_t>(micro_batches);
  std::vector<double> forward_end(passes, open), backward_end(passes, open);
  const auto at = [&](int chunk, int micro_batch) {
    return static_cast<std::size_t>(chunk) * static_cast<std::size_t>(micro_batches) +
           static_cast<std::size_t>(micro_batch);
  };

  std::vector<std::vector<PlayedTask>> done(p);
  std::vector<double> now(p, 0.0);
  for (bool progress = true; progress;) {
    progress = false;
    for (int stage = 0; stage < p; ++stage) {
      while (done[stage].size() < orders[stage].size()) {
        const Task& task = orders[stage][done[stage].size()];
        if (task.chunk < 0 || task.chunk >= times.chunks || task.micro_batch < 0 || task.micro_batch >= micro_batches)
          throw std::logic_error("the orders have a task that the pipeline has not: " + described(stage, task));
        const int g = task.chunk * p + stage;
        const bool forward = task.kind == Task::Kind::forward;
        double& end = (forward ? forward_end : backward_end)[at(g, task.micro_batch)];
        if (!std::isnan(end)) throw std::logic_error("the orders have a task twice: " + described(stage, task));
        double ready = 0;  // NaN while something it needs is open
        if (forward && g > 0) ready = forward_end[at(g - 1, task.micro_batch)] + send;
        if (!forward && g + 1 < global_chunks) ready = backward_end[at(g + 1, task.micro_batch)] + send;
        if (!forward && std::isnan(forward_end[at(g, task.micro_batch)])) ready = open;
        if (std::isnan(ready)) break;
        const double start = std::max(ready, now[stage]);
        end = now[stage] = start + (forward ? times.forward : times.backward)[g].value;
        done[stage].push_back({stage, task, {start}, {end}});
        progress = true;
      }
    }
  }

  std::vector<PlayedTask> all;
  for (int stage = 0; stage < p; ++stage) {
    if (done[stage].size() < orders[stage].size())
      throw std::logic_error("the orders deadlock: nothing can start the " +
                             described(stage, orders[stage][done[stage].size()]));
    all.insert(all.end(), done[stage].begin(), done[stage].end());
  }
  return all;
}

std::vector<int> in_flight(Schedule schedule, int stages, int chunks, int micro_batches, int stage,
                           const std::vector<double>& weight) {
  check_shape(schedule, stages, chunks, micro_batches);
  check_stage(stages, stage);
  if (static_cast<int>(weight.size()) != chunks)
    throw std::invalid_argument("a stage of " + std::to_string(chunks) + " chunks needs as many weights, got " +
                                std::to_string(weight.size()));
  const std::int64_t n = std::int64_t{micro_batches} * chunks;
  const std::int64_t ahead = warm_up(schedule, stages, chunks, micro_batches, stage);
  std::vector<int> most(chunks);
  alive(std::min(n, ahead + 1), 0, stages, most);
  if (chunks == 1 || ahead + 1 >= n) return most;

  // Past the warm-up the counts repeat with every group of chunk-forwards, and between two changes of chunk, of the
  // forwards or of the backwards, each step adds the same weight. So the peak is at a change within the first group.
  // When the forwards have run out, counts only fall.
  double sum = 0;
  for (int c = 0; c < chunks; ++c) sum += most[c] * weight[c];
  double peak = sum;
  std::int64_t at = 0;
  const std::int64_t last = std::min(n - 1 - ahead, std::int64_t{stages} * chunks - 1);
  for (std::int64_t j = 0; j < last;) {  // after ahead + 1 + j forwards and j backwards
    const std::int64_t next = std::min({last, j + stages - j % stages, j + stages - (ahead + 1 + j) % stages});
    const double forward = weight[chunk_of(ahead + 1 + j, stages, chunks, Task::Kind::forward)];
    const double backward = weight[chunk_of(j, stages, chunks, Task::Kind::backward)];
    sum += static_cast<double>(next - j) * (forward - backward);
    j = next;
    if (sum > peak) {
      peak = sum;
      at = j;
    }
  }
  if (at > 0) alive(ahead + 1 + at, at, stages, most);
  return most;
}

Seconds pipeline_lower_bound(const PipelineTimes& times, int micro_batches) {
  check_times(times, micro_batches);
  const int p = times.stages, global_chunks = p * times.chunks;
  const Seconds send = p == 1 ? Seconds{} : times.send;
  Seconds bound, outside, one_way;  // outside: chunks 0..i-1 forward and backward, and their sends
  for (int i = 0; i < p; ++i) {
    Seconds once;
    for (int c = i; c < global_chunks; c += p) once += times.forward[c] + times.backward[c];
    bound = std::max(bound, outside + once * micro_batches);
    outside += times.forward[i] + times.backward[i] + 2 * send;
    one_way += once;
  }
  bound = std::max(bound, one_way + 2.0 * (global_chunks - 1) * send);
  return bound * (1 - 1e-11);
}

}  // namespace shardwright
