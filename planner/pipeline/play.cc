#include "planner/pipeline/play.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace shardwright {
namespace {

using Kind = Task::Kind;

constexpr int kNone = -1;
constexpr double kNever = std::numeric_limits<double>::infinity();

std::size_t at(int n) { return static_cast<std::size_t>(n); }

std::string described(int stage, const Task& task) {
  const char* const names[] = {"forward", "backward", "input gradient", "weight gradient", "pair"};
  return std::string(names[static_cast<int>(task.kind)]) + " of micro-batch " + std::to_string(task.micro_batch) +
         ", chunk " + std::to_string(task.chunk) + " on stage " + std::to_string(stage);
}

// ---- Steady state ----

/// Where a play stands: how far each stage is in its order, when it is free, and what it has sent that nobody took yet.
struct State {
  std::vector<std::int64_t> position;  // of what has to be the same again: by stage, all but repetitions of its block
  std::vector<std::int64_t> passed;    // by link, micro-batches made and taken
  std::vector<int> repetition;         // by stage, of its block
  std::vector<double> time;            // by stage, and then of what is under way
  std::vector<int> sender;             // of each time, a stage
};

/// By how much a state comes later than one before it.
struct Shift {
  std::vector<int> repetitions;      // by stage
  std::vector<double> time;          // by stage
  std::vector<std::int64_t> passed;  // as in State
};

bool is_close(double a, double b, double scale) {
  constexpr double kTolerance = 2e-13;  // above the rounding of the sums and well below 1e-12
  return std::abs(a - b) <= kTolerance * std::abs(scale);
}

/// By how much `now` comes later, if only times and repetitions differ, and what is under way by as much as its sender.
std::optional<Shift> shift_between(const State& before, const State& now) {
  if (now.position != before.position || now.sender != before.sender) return std::nullopt;
  Shift shift;
  const std::size_t stages = now.repetition.size();
  shift.repetitions.reserve(stages);
  shift.time.reserve(stages);
  for (std::size_t s = 0; s < stages; ++s) {
    shift.repetitions.push_back(now.repetition[s] - before.repetition[s]);
    shift.time.push_back(now.time[s] - before.time[s]);
    if (shift.repetitions[s] <= 0) return std::nullopt;
  }
  shift.passed.reserve(now.passed.size());
  for (std::size_t i = 0; i < now.passed.size(); ++i) shift.passed.push_back(now.passed[i] - before.passed[i]);
  for (std::size_t i = stages; i < now.time.size(); ++i) {
    const double of_sender = shift.time[at(now.sender[i])];
    if (!is_close(now.time[i] - before.time[i], of_sender, of_sender)) return std::nullopt;
  }
  return shift;
}

/// Says when a play has begun to repeat itself.
///
/// A round of a pipeline in its steady state takes the times at which tasks ended to the times at which the next ones
/// end, by maxima and additions alone. Such a step commutes with shifting all times and moves no two states further
/// apart (Baccelli et al., Synchronization and Linearity, 1992). So if a state equals an earlier one shifted, up to
/// `tolerance` of the shift, n more repetitions are n shifts, up to n times that: relative to the time that passes, the
/// tolerance. The period (of one micro-batch, of as many as there are stages where sends are felt, ...) is found as in
/// Brent 1980: look back at an anchor that moves up to the present after 1, 2, 4, ... observations.
///
/// Stages that wait for nobody behind them may have shifts of their own, each at least that of those it waits for: if
/// two shifts in a row are the same, what a stage waited for came with its own shift (else the second would have been
/// smaller), and all else it waits for falls behind. So all further shifts are the same, too.
class Repetition {
 public:
  /// The shift that will go on, if there is one. `times`: when each stage is free. `describe()` gives the State; it is
  /// asked for only where the times alone look right. `waits(a, b)`: stage a waits for stage b in its block.
  template <class Describe, class Waits>
  std::optional<Shift> observe(const std::vector<double>& times, Describe describe, Waits waits) {
    ++observed_;
    if (observed_ > 1 && is_shifted_as_one(times))
      if (auto shift = shift_between(anchor_, describe())) return shift;
    if (is_shifted_as_before(times)) {
      const State& now = describe();
      auto shift = candidate_ ? shift_between(*candidate_, now) : std::nullopt;
      if (shift && goes_on(*shift, waits)) return shift;
      candidate_ = now;
    } else {
      candidate_.reset();
    }
    if (observed_ < next_anchor_) return std::nullopt;
    anchor_ = describe();
    next_anchor_ = 2 * observed_;
    return std::nullopt;
  }

 private:
  bool is_shifted_as_one(const std::vector<double>& times) const {
    const double shift = times[0] - anchor_.time[0];
    for (std::size_t s = 1; s < times.size(); ++s)
      if (!is_close(times[s] - anchor_.time[s], shift, shift)) return false;
    return true;
  }
  bool is_shifted_as_before(const std::vector<double>& times) {
    bool same = observed_ > 2;
    last_.resize(times.size());
    last_shift_.resize(times.size());
    for (std::size_t s = 0; s < times.size(); ++s) {
      const double shift = times[s] - last_[s];
      same = same && is_close(shift, last_shift_[s], shift);
      last_shift_[s] = shift;
      last_[s] = times[s];
    }
    return same;
  }
  template <class Waits>
  static bool goes_on(const Shift& shift, Waits waits) {
    const int stages = static_cast<int>(shift.time.size());
    for (int a = 0; a < stages; ++a)
      for (int b = 0; b < stages; ++b) {
        const double mine = shift.time[at(a)], other = shift.time[at(b)];
        if (other > mine && !is_close(other, mine, mine) && waits(a, b)) return false;
      }
    return true;
  }

  State anchor_;
  std::optional<State> candidate_;
  std::vector<double> last_, last_shift_;
  std::int64_t observed_ = 0, next_anchor_ = 1;
};

// ---- The play ----

class Player {
 public:
  Player(const Route& route, const std::vector<Order>& orders, const PipelineTimes& times, int micro_batches);

  Played play();

 private:
  /// What one chunk hands to the next one, forward or back, in the order of micro-batches. What was done and not yet
  /// waited for has its ends kept in a ring; not what nobody waits for, or the same chunk, which is free later anyway.
  struct Link {
    double* ends = nullptr;            // the ring
    double delay = -kNever;            // if it is not kept, of no effect
    std::int64_t made = 0, taken = 0;  // micro-batches
    int from = 0;                      // stage
    bool is_kept = false;
  };
  /// One way through a chunk.
  struct Pass {
    Link *in = nullptr, *out = nullptr;
  };
  /// A task, compiled.
  struct Step {
    double time = 0;
    Pass pass, backward;  // the second one of pairs only
    bool is_pair = false;
  };
  struct Cursor {
    double time = 0;                                 // when the stage is free
    double begin = 0;                                // of its first task
    const Step* step = nullptr;                      // the next one
    const Step *first = nullptr, *behind = nullptr;  // of its run; all the same at the end
    int run_repetition = 0, run_repeats = 0;
    int run = 0;                    // among the order's runs
    int block = 0, repetition = 0;  // in the order, and of the block
    int block_repeats = 0;
    bool is_only_run = false;  // of its block
    bool has_begun = false;
  };

  void connect(const Route& route, const PipelineTimes& times, int micro_batches);
  void compile(const Route& route, const PipelineTimes& times);
  void check_turns() const;
  Pass pass(int stage, int chunk, bool forward);
  int out(int stage, int chunk, bool forward) const { return 2 * (stage * chunks_ + chunk) + (forward ? 0 : 1); }

  /// Plays on a stage until the end of its run, or until it has to wait. Whether it did anything.
  bool advance(int stage);
  bool may_go_on(int stage) const {
    const Cursor& c = cursors_[at(stage)];
    return c.step != c.behind && is_ready(c.step->pass);
  }
  static bool is_ready(const Pass& pass) { return pass.in->taken < pass.in->made; }
  double arrival(const Pass& pass) const { return end_of(*pass.in, pass.in->taken) + pass.in->delay; }
  void finish(const Pass& pass, double end) {
    ++pass.in->taken;
    Link& link = *pass.out;
    if (static_cast<std::size_t>(link.made - link.taken) == capacity_ && link.is_kept) grow();
    end_of(link, link.made) = end;
    ++link.made;
  }
  void next_run(int stage);
  void enter_run(int stage);
  bool is_done(int stage) const { return cursors_[at(stage)].block == static_cast<int>(order(stage).blocks().size()); }
  const Order& order(int stage) const { return orders_[at(stage)]; }

  /// Tells `repetition_` where all stages stand, and if they repeat themselves, leaps ahead.
  void observe();
  void describe(State& state) const;
  void leap(const Shift& shift);
  bool waits(int stage, int other) const;

  double& end_of(const Link& link, std::int64_t micro_batch) const {
    return link.ends[static_cast<std::size_t>(micro_batch) & (capacity_ - 1)];
  }
  void grow();

  const std::vector<Order>& orders_;
  int stages_, chunks_;
  std::vector<Link> links_;  // by out(), and then one that always has something, and one for what nobody takes
  std::vector<int> in_;      // by out(): the link from which the same pass takes
  std::vector<double> ends_;
  std::size_t capacity_ = 16;
  std::vector<Step> steps_;
  std::vector<int> first_step_;  // by stage
  std::vector<Cursor> cursors_;
  Repetition repetition_;
  State state_;
  std::vector<double> times_;
};

Player::Player(const Route& route, const std::vector<Order>& orders, const PipelineTimes& times, int micro_batches)
    : orders_(orders), stages_(route.stages()), chunks_(route.chunks()) {
  connect(route, times, micro_batches);
  compile(route, times);
  check_turns();
  cursors_.resize(at(stages_));
  for (int s = 0; s < stages_; ++s) enter_run(s);
}

void Player::connect(const Route& route, const PipelineTimes& times, int micro_batches) {
  const int passes = 2 * stages_ * chunks_;
  links_.resize(at(passes + 2));
  in_.assign(at(passes), passes);
  links_[at(passes)].made = std::numeric_limits<std::int64_t>::max();
  ends_.resize(links_.size() * capacity_);
  for (std::size_t l = 0; l < links_.size(); ++l) links_[l].ends = &ends_[l * capacity_];
  const auto join = [&](int from, Place sender, int to, Place taker) {
    links_[at(from)].is_kept = sender != taker;
    if (sender != taker) links_[at(from)].delay = sender.stage == taker.stage ? 0.0 : times.send.value;
    in_[at(to)] = from;
  };
  for (int r = 0; r < route.routes(); ++r) {
    Place next = route.place(r, 0);
    for (int part = 0; part < route.parts(); ++part) {
      const Place here = next;
      const int forward = out(here.stage, here.chunk, true), backward = out(here.stage, here.chunk, false);
      for (const int link : {forward, backward}) {
        links_[at(link)].from = here.stage;
        links_[at(link)].made = links_[at(link)].taken = std::int64_t{r} * (micro_batches / route.routes());
      }
      if (part + 1 == route.parts()) {
        join(forward, here, backward, here);
        continue;
      }
      next = route.place(r, part + 1);
      join(forward, here, out(next.stage, next.chunk, true), next);
      join(out(next.stage, next.chunk, false), next, backward, here);
    }
  }
}

Player::Pass Player::pass(int stage, int chunk, bool forward) {
  const int link = out(stage, chunk, forward);
  return {&links_[at(in_[at(link)])], &links_[at(link)]};
}

void Player::compile(const Route& route, const PipelineTimes& times) {
  std::size_t tasks = 0;
  for (const Order& order : orders_) tasks += order.tasks().size();
  steps_.reserve(tasks);
  first_step_.reserve(at(stages_));
  times_.reserve(at(stages_));
  const Pass none{&links_.end()[-2], &links_.end()[-1]};
  for (int stage = 0; stage < stages_; ++stage) {
    first_step_.push_back(static_cast<int>(steps_.size()));
    for (const Task& task : order(stage).tasks()) {
      Step& step = steps_.emplace_back();
      step.time = time_of(route, times, stage, task).value;
      step.is_pair = task.kind == Kind::pair;
      const bool forward = task.kind == Kind::forward || step.is_pair;
      step.pass = task.kind == Kind::weight_gradient ? none : pass(stage, task.chunk, forward);
      step.backward = step.is_pair ? pass(stage, task.backward_chunk, false) : none;
    }
  }
}

/// Throws if a chunk does not take its micro-batches in turn, so that a play need not look which ones they are.
void Player::check_turns() const {
  // By out(), the next micro-batch; before a run and before a block.
  std::vector<std::int64_t> next, before_run(links_.size()), before_block(links_.size());
  next.reserve(links_.size());
  for (const Link& link : links_) next.push_back(link.made);
  int stage = 0;
  const auto for_passes = [&](int first, int behind, auto visit) {
    for (int i = first; i < behind; ++i) {
      const Task& task = order(stage).tasks()[at(i)];
      if (task.kind == Kind::weight_gradient) continue;
      const bool is_pair = task.kind == Kind::pair;
      visit(at(out(stage, task.chunk, is_pair || task.kind == Kind::forward)), task.micro_batch);
      if (is_pair) visit(at(out(stage, task.backward_chunk, false)), task.backward_micro_batch);
    }
  };
  const auto require = [](bool in_turn) {
    if (!in_turn) throw std::logic_error("the orders take a micro-batch out of turn");
  };
  const auto repeat = [&](int first, int behind, int repeats, int shift, const std::vector<std::int64_t>& before) {
    if (repeats == 1) return;
    for_passes(first, behind, [&](std::size_t p, int) { require(next[p] - before[p] == shift); });
    for_passes(first, behind, [&](std::size_t p, int) { next[p] = before[p] + std::int64_t{repeats} * shift; });
  };
  for (; stage < stages_; ++stage)
    for (const Order::Block& block : order(stage).blocks()) {
      const std::vector<Order::Run>& runs = order(stage).runs();
      if (block.first == block.behind) continue;
      const int first = runs[at(block.first)].first, behind = runs[at(block.behind - 1)].behind;
      for_passes(first, behind, [&](std::size_t p, int) { before_block[p] = next[p]; });
      for (int r = block.first; r < block.behind; ++r) {
        const Order::Run& run = runs[at(r)];
        for_passes(run.first, run.behind, [&](std::size_t p, int) { before_run[p] = next[p]; });
        for_passes(run.first, run.behind, [&](std::size_t p, int micro_batch) { require(micro_batch == next[p]++); });
        repeat(run.first, run.behind, run.repeats, run.shift, before_run);
      }
      repeat(first, behind, block.repeats, block.shift, before_block);
    }
}

void Player::grow() {
  std::vector<double> wider(2 * ends_.size());
  const std::size_t wide = 2 * capacity_;
  double* ring = wider.data();
  for (Link& link : links_) {
    for (std::int64_t k = link.taken; link.is_kept && k < link.made; ++k)
      ring[static_cast<std::size_t>(k) & (wide - 1)] = end_of(link, k);
    link.ends = ring;
    ring += wide;
  }
  ends_ = std::move(wider);
  capacity_ = wide;
}

bool Player::advance(int stage) {
  Cursor& c = cursors_[at(stage)];
  const Step* step = c.step;
  double time = c.time;
  bool moved = false;
  while (step != c.behind) {
    const Step& s = *step;
    if (!is_ready(s.pass)) break;
    double start = std::max(time, arrival(s.pass));
    if (s.is_pair) {
      if (!is_ready(s.backward)) break;
      start = std::max(start, arrival(s.backward));
    }
    time = start + s.time;
    finish(s.pass, time);
    if (s.is_pair) finish(s.backward, time);
    if (!moved && !c.has_begun) {
      c.has_begun = true;
      c.begin = start;
    }
    moved = true;
    if (++step != c.behind) continue;
    if (++c.run_repetition == c.run_repeats) {
      if (c.is_only_run && c.repetition + 1 < c.block_repeats) {
        ++c.repetition;
        c.run_repetition = 0;
        step = c.first;
        break;
      }
      next_run(stage);
      step = c.step;
      break;
    }
    step = c.first;
  }
  c.step = step;
  c.time = time;
  return moved;
}

void Player::next_run(int stage) {
  Cursor& c = cursors_[at(stage)];
  const Order& o = order(stage);
  const Order::Block& block = o.blocks()[at(c.block)];
  if (++c.run == block.behind) {
    c.run = block.first;
    if (++c.repetition == block.repeats) {
      c.repetition = 0;
      c.run = block.behind;
      ++c.block;
    }
  }
  enter_run(stage);
}

void Player::enter_run(int stage) {
  Cursor& c = cursors_[at(stage)];
  c.run_repetition = 0;
  if (is_done(stage)) {
    c.step = c.first = c.behind;
    return;
  }
  const Order::Run& run = order(stage).runs()[at(c.run)];
  c.step = c.first = steps_.data() + first_step_[at(stage)] + run.first;
  c.behind = steps_.data() + first_step_[at(stage)] + run.behind;
  c.run_repeats = run.repeats;
  const Order::Block& block = order(stage).blocks()[at(c.block)];
  c.block_repeats = block.repeats;
  c.is_only_run = block.first + 1 == block.behind;
}

void Player::describe(State& state) const {
  state.position.clear();
  state.passed.clear();
  state.repetition.clear();
  state.time.clear();
  state.sender.clear();
  const std::size_t stages = cursors_.size(), links = links_.size();
  state.position.reserve(3 * stages + links);
  state.passed.reserve(2 * links);
  state.repetition.reserve(stages);
  state.time.reserve(stages + links);  // and more, if more is under way
  state.sender.reserve(stages + links);
  for (const Cursor& c : cursors_) {
    state.position.insert(state.position.end(), {c.run, c.run_repetition, c.step - c.first});
    state.repetition.push_back(c.repetition);
    state.time.push_back(c.time);
    state.sender.push_back(kNone);
  }
  for (int l = 0; l < 2 * stages_ * chunks_; ++l) {
    const Link& link = links_[at(l)];
    state.passed.push_back(link.made);
    state.passed.push_back(link.taken);
    if (!link.is_kept) continue;
    state.position.push_back(link.made - link.taken);
    for (std::int64_t k = link.taken; k < link.made; ++k) {
      state.time.push_back(end_of(link, k));
      state.sender.push_back(link.from);
    }
  }
}

void Player::observe() {
  times_.clear();
  for (int s = 0; s < stages_; ++s) {
    if (is_done(s) || cursors_[at(s)].repetition + 1 >= order(s).blocks()[at(cursors_[at(s)].block)].repeats) return;
    times_.push_back(cursors_[at(s)].time);
  }
  const auto describe = [&]() -> const State& {
    this->describe(state_);
    return state_;
  };
  if (const auto shift = repetition_.observe(times_, describe, [&](int a, int b) { return waits(a, b); })) leap(*shift);
}

bool Player::waits(int stage, int other) const {
  const Order& o = order(stage);
  const Order::Block& block = o.blocks()[at(cursors_[at(stage)].block)];
  const int first = o.runs()[at(block.first)].first, behind = o.runs()[at(block.behind - 1)].behind;
  for (int i = first; i < behind; ++i) {
    const Step& step = steps_[at(first_step_[at(stage)] + i)];
    for (const Link* in : {step.pass.in, step.backward.in})
      if (in->is_kept && in->from == other) return true;
  }
  return false;
}

void Player::leap(const Shift& shift) {
  int most = std::numeric_limits<int>::max();
  for (int s = 0; s < stages_; ++s) {
    const Cursor& c = cursors_[at(s)];
    most = std::min(most, (order(s).blocks()[at(c.block)].repeats - 1 - c.repetition) / shift.repetitions[at(s)]);
  }
  if (most == 0) return;
  for (int s = 0; s < stages_; ++s) {
    Cursor& c = cursors_[at(s)];
    const int repetitions = most * shift.repetitions[at(s)];
    c.repetition += repetitions;
    c.time += most * shift.time[at(s)];
  }
  std::vector<double> under_way;
  for (int l = 0; l < 2 * stages_ * chunks_; ++l) {
    Link& link = links_[at(l)];
    under_way.clear();
    for (std::int64_t k = link.taken; link.is_kept && k < link.made; ++k)
      under_way.push_back(end_of(link, k) + most * shift.time[at(link.from)]);
    link.made += most * shift.passed[at(2 * l)];
    link.taken += most * shift.passed[at(2 * l + 1)];
    for (std::size_t i = 0; i < under_way.size(); ++i)
      end_of(link, link.taken + static_cast<std::int64_t>(i)) = under_way[i];
  }
  repetition_ = {};
}

Played Player::play() {
  const Cursor& first = cursors_.front();
  int block = 0, repetition = 0;
  for (bool progress = true; progress;) {
    progress = false;
    for (int s = 0; s < stages_; ++s)
      if (may_go_on(s)) progress = advance(s) || progress;
    // Also the way of the backwards, where whole stages would wait for one sweep each; not where stages of a short
    // period would stop in other places each time.
    const bool drains = first.block + 1 >= static_cast<int>(order(0).blocks().size());
    for (int s = stages_ - 2; s >= 0 && (chunks_ > 1 || drains); --s)
      if (may_go_on(s)) progress = advance(s) || progress;
    if (first.block == block && first.repetition == repetition) continue;
    block = first.block;
    if (first.repetition > 0) observe();
    repetition = first.repetition;
  }
  Played played;
  played.stage_begin.reserve(at(stages_));
  played.stage_end.reserve(at(stages_));
  played.stage_busy.reserve(at(stages_));
  for (int s = 0; s < stages_; ++s) {
    const Cursor& c = cursors_[at(s)];
    if (!is_done(s)) {
      Task task = order(s).tasks()[at(static_cast<int>(c.step - steps_.data()) - first_step_[at(s)])];
      const Order::Block& in = order(s).blocks()[at(c.block)];
      task.micro_batch += c.repetition * in.shift + c.run_repetition * order(s).runs()[at(c.run)].shift;
      throw std::logic_error("the orders deadlock: nothing can start the " + described(s, task));
    }
    played.stage_begin.push_back({c.begin});
    played.stage_end.push_back({c.time});
    played.total = std::max(played.total, played.stage_end.back());
    Seconds busy;
    for (const Order::Block& b : order(s).blocks())
      for (int r = b.first; r < b.behind; ++r) {
        const Order::Run& run = order(s).runs()[at(r)];
        Seconds once;
        for (int i = run.first; i < run.behind; ++i) once += Seconds{steps_[at(first_step_[at(s)] + i)].time};
        busy += static_cast<double>(b.repeats) * static_cast<double>(run.repeats) * once;
      }
    played.stage_busy.push_back(busy);
  }
  return played;
}

}  // namespace

Seconds time_of(const Route& route, const PipelineTimes& times, int stage, const Task& task) {
  const std::size_t part = at(route.part_of({stage, task.chunk}));
  switch (task.kind) {
    case Kind::forward:
      return times.forward[part];
    case Kind::backward:
      return times.backward[part];
    case Kind::input_gradient:
      return times.backward[part] - times.weight_gradient[part];
    case Kind::weight_gradient:
      return times.weight_gradient[part];
    case Kind::pair:
      break;
  }
  if (times.pair.empty()) return times.forward[part] + times.backward[at(route.part_of({stage, task.backward_chunk}))];
  return times.pair[at((stage * route.chunks() + task.chunk) * route.chunks() + task.backward_chunk)];
}

Played play(const Route& route, const std::vector<Order>& orders, const PipelineTimes& times, int micro_batches) {
  return Player(route, orders, times, micro_batches).play();
}

Played play(const Pipeline& pipeline, const PipelineTimes& times, const std::vector<PassKeeps>& keeps) {
  return play(Route(pipeline), stage_orders(pipeline, times, keeps), times, pipeline.micro_batches);
}

std::vector<PlayedTask> play_in_detail(const Route& route, const std::vector<std::vector<Task>>& orders,
                                       const PipelineTimes& times, int micro_batches) {
  const int p = route.stages(), chunks = route.chunks();
  if (static_cast<int>(orders.size()) != p)
    throw std::invalid_argument("a pipeline of " + std::to_string(p) + " stages needs " + std::to_string(p) +
                                " orders, got " + std::to_string(orders.size()));
  const double open = std::numeric_limits<double>::quiet_NaN();
  const std::size_t passes = at(p * chunks) * at(micro_batches);
  std::vector<double> forward_end(passes, open), gradient_end(passes, open), weight_end(passes, open);
  const auto pass = [&](Place place, int micro_batch) {
    return at(place.stage * chunks + place.chunk) * at(micro_batches) + at(micro_batch);
  };
  const auto arrival = [&](const std::vector<double>& ends, Place from, Place to, int micro_batch) {
    return ends[pass(from, micro_batch)] + (from.stage == to.stage ? 0.0 : times.send.value);
  };
  // Both are NaN while something that is needed is open.
  const auto forward_ready = [&](Place place, int micro_batch) {
    const int part = route.part_of(place);
    if (part == 0) return 0.0;
    return arrival(forward_end, route.place(route.route_of(place), part - 1), place, micro_batch);
  };
  const auto gradient_ready = [&](Place place, int micro_batch) {
    const int part = route.part_of(place);
    const double own = forward_end[pass(place, micro_batch)];
    if (part + 1 == route.parts() || std::isnan(own)) return own;
    return arrival(gradient_end, route.place(route.route_of(place), part + 1), place, micro_batch);
  };

  std::vector<std::vector<PlayedTask>> done(at(p));
  std::vector<double> now(at(p), 0.0);
  const auto advance = [&](int stage, const Task& task) {
    const auto is_one = [&](int chunk, int micro_batch) {
      return chunk >= 0 && chunk < chunks && micro_batch >= 0 && micro_batch < micro_batches;
    };
    if (!is_one(task.chunk, task.micro_batch) ||
        (task.kind == Kind::pair && !is_one(task.backward_chunk, task.backward_micro_batch)))
      throw std::logic_error("the orders have a task that the pipeline has not: " + described(stage, task));
    const Place place{stage, task.chunk}, other{stage, task.backward_chunk};
    const bool forward = task.kind == Kind::forward || task.kind == Kind::pair;
    double ready = 0, other_ready = 0;
    std::vector<double*> ends;
    if (forward) {
      ready = forward_ready(place, task.micro_batch);
      ends = {&forward_end[pass(place, task.micro_batch)]};
    } else if (task.kind == Kind::weight_gradient) {
      ready = gradient_end[pass(place, task.micro_batch)];
      ends = {&weight_end[pass(place, task.micro_batch)]};
    } else {
      ready = gradient_ready(place, task.micro_batch);
      ends = {&gradient_end[pass(place, task.micro_batch)]};
      if (task.kind == Kind::backward) ends.push_back(&weight_end[pass(place, task.micro_batch)]);
    }
    if (task.kind == Kind::pair) {
      other_ready = gradient_ready(other, task.backward_micro_batch);
      ends.push_back(&gradient_end[pass(other, task.backward_micro_batch)]);
      ends.push_back(&weight_end[pass(other, task.backward_micro_batch)]);
    }
    for (const double* end : ends)
      if (!std::isnan(*end)) throw std::logic_error("the orders have a task twice: " + described(stage, task));
    if (std::isnan(ready) || std::isnan(other_ready)) return false;
    const double start = std::max({ready, other_ready, now[at(stage)]});
    now[at(stage)] = start + time_of(route, times, stage, task).value;
    for (double* end : ends) *end = now[at(stage)];
    done[at(stage)].push_back({stage, task, {start}, {now[at(stage)]}});
    return true;
  };
  for (bool progress = true; progress;) {
    progress = false;
    for (int stage = 0; stage < p; ++stage)
      while (done[at(stage)].size() < orders[at(stage)].size() &&
             advance(stage, orders[at(stage)][done[at(stage)].size()]))
        progress = true;
  }

  std::vector<PlayedTask> all;
  for (int stage = 0; stage < p; ++stage) {
    const auto& mine = done[at(stage)];
    if (mine.size() < orders[at(stage)].size())
      throw std::logic_error("the orders deadlock: nothing can start the " +
                             described(stage, orders[at(stage)][mine.size()]));
    all.insert(all.end(), mine.begin(), mine.end());
  }
  return all;
}

}  // namespace shardwright
