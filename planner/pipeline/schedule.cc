#include "planner/pipeline/schedule.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>

#include "planner/pipeline/greedy.h"

namespace shardwright {
namespace {

using Kind = Task::Kind;

std::string text(std::int64_t n) { return std::to_string(n); }

void check_chunks(const Pipeline& p) {
  const std::string name(name_of(p.schedule));
  switch (p.schedule) {
    case Schedule::interleaved:
      if (p.chunks < 2) throw std::invalid_argument(name + " needs at least two chunks a stage, got " + text(p.chunks));
      return;
    case Schedule::zb_v:
    case Schedule::dualpipe_v:
      if (p.chunks != 2) throw std::invalid_argument(name + " has two chunks a stage, got " + text(p.chunks));
      return;
    default:
      if (p.chunks != 1) throw std::invalid_argument(name + " has one chunk a stage, got " + text(p.chunks));
  }
}

void check_stage(const Pipeline& p, int stage) {
  if (stage < 0 || stage >= p.stages)
    throw std::invalid_argument("stage " + text(stage) + " is none of the " + text(p.stages) +
                                " stages, counted from 0");
}

// ---- Streams ----
//
// Most orders are one pattern: for n = 0, 1, ... the n-th forward, then the backward that is some way behind it, then
// the weight gradient that is further behind, where those exist. The n-th forward of any stage is the same micro-batch
// and chunk: groups of `stages` micro-batches, chunk by chunk. Gradients are the same with the chunks turned round.

class Streams {
 public:
  /// Gradients are so many forwards behind; without `weight_gradients`, both at once.
  Streams(const Pipeline& p, std::int64_t gradients)
      : Streams(p, {{{Kind::forward, 0}, {Kind::backward, gradients}, {}}}, 2) {}
  Streams(const Pipeline& p, std::int64_t gradients, std::int64_t weight_gradients)
      : Streams(p, {{{Kind::forward, 0}, {Kind::input_gradient, gradients}, {Kind::weight_gradient, weight_gradients}}},
                3) {}

  Order order() {
    constexpr std::int64_t kNever = std::int64_t{1} << 62;
    for (std::int64_t n = 0, next = 0; next != kNever; n = next) {
      next = kNever;  // where a stream begins or ends
      for (int i = 0; i < count_; ++i)
        for (const std::int64_t mark : {stream(i).behind, stream(i).behind + passes_})
          if (mark > n) next = std::min(next, mark);
      between(n, next);
    }
    return std::move(order_);
  }

 private:
  struct Stream {
    Kind kind = Kind::forward;
    std::int64_t behind = 0;
    int group = 0, turn = 0, in_turn = 0;  // where it is
  };

  Streams(const Pipeline& p, const std::array<Stream, 3>& streams, int count)
      : streams_(streams),
        count_(count),
        turn_(p.stages),
        chunks_(p.chunks),
        paired_(p.paired),
        passes_(std::int64_t{p.micro_batches} * p.chunks),
        order_(p.chunks) {
    const auto n = static_cast<std::size_t>(chunks_);
    order_.reserve(12 * n, 8 * n, 8);
  }

  /// No stream begins or ends here: with one chunk all is one period, with several a group is.
  void between(std::int64_t begin, std::int64_t end) {
    bool any = false;
    for (int i = 0; i < count_; ++i) any = any || runs(stream(i), begin);
    if (!any) return;
    if (chunks_ == 1) {
      order_.block(static_cast<int>(end - begin), 1);
      return run(begin, 1);
    }
    const std::int64_t group = std::int64_t{turn_} * chunks_, groups = (end - begin) / group;
    if (groups > 0) {
      order_.block(static_cast<int>(groups), turn_);
      runs_between(begin, begin + group);
      for (int i = 0; i < count_; ++i)
        if (runs(stream(i), begin)) stream(i).group += static_cast<int>(groups - 1);
    }
    if (begin + groups * group == end) return;
    order_.block(1, 0);
    runs_between(begin + groups * group, end);
  }
  /// A run lasts until one of the streams gets to another chunk.
  void runs_between(std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      std::int64_t repeats = end - begin;
      for (int i = 0; i < count_; ++i)
        if (runs(stream(i), begin)) repeats = std::min<std::int64_t>(repeats, turn_ - stream(i).in_turn);
      run(begin, static_cast<int>(repeats));
      begin += repeats;
    }
  }
  void run(std::int64_t n, int repeats) {
    order_.run(repeats, 1);
    if (paired_ && runs(stream(0), n) && runs(stream(1), n)) {
      Task pair = task(stream(0), n);
      const Task backward = task(stream(1), n);
      pair.kind = Kind::pair;
      pair.backward_chunk = backward.chunk;
      pair.backward_micro_batch = backward.micro_batch;
      order_.add(pair);
    } else {
      for (int i = 0; i < count_; ++i)
        if (runs(stream(i), n)) order_.add(task(stream(i), n));
    }
    for (int i = 0; i < count_ && chunks_ > 1; ++i) {
      Stream& s = stream(i);
      if (!runs(s, n)) continue;
      s.in_turn += repeats;
      if (s.in_turn < turn_) continue;
      s.in_turn = 0;
      if (++s.turn < chunks_) continue;
      s.turn = 0;
      ++s.group;
    }
  }
  Task task(const Stream& s, std::int64_t n) const {
    if (chunks_ == 1) return {s.kind, 0, static_cast<int>(n - s.behind)};
    return {s.kind, s.kind == Kind::forward ? s.turn : chunks_ - 1 - s.turn, s.group * turn_ + s.in_turn};
  }
  bool runs(const Stream& s, std::int64_t n) const { return n >= s.behind && n < s.behind + passes_; }
  Stream& stream(int i) { return streams_[static_cast<std::size_t>(i)]; }

  std::array<Stream, 3> streams_;
  int count_;
  int turn_;  // passes of one chunk in a row
  int chunks_;
  bool paired_;  // a forward and the backward behind it at once
  std::int64_t passes_;
  Order order_;
};

// ---- DualPipe ----

/// One stage's order, with the micro-batches counted chunk by chunk. Chunk `near` is the one whose route enters the
/// pipeline closer to this stage, `far` the other.
class DualPipe {
 public:
  /// `half`: stages from an end to the middle. `h`: this one, counted from its end.
  DualPipe(int near_chunk, int first_near, int first_far, int half, int h, int micro_batches_of_a_chunk)
      : near_(near_chunk),
        far_(1 - near_chunk),
        half_(half),
        h_(h),
        micro_batches_(micro_batches_of_a_chunk),
        order_(2) {
    forwards_[near_] = backwards_[near_] = first_near;
    forwards_[far_] = backwards_[far_] = first_far;
  }

  Order order() {
    const int outer = half_ - h_ - 1, inner = h_ + 1;
    loop(2 * outer, [&] { forward(near_); });
    loop(inner, [&] { forward(near_), forward(far_); });
    loop(outer, [&] { input_gradient(far_), weight_gradient(), forward(far_); });
    int main = micro_batches_ - 2 * half_ + inner;
    if (outer == 0) {  // in the middle the first two are run one after the other: the gradient is waited for
      --main;
      loop(1, [&] { forward(near_), backward(far_), pair(far_, near_); });
    }
    loop(main, [&] { pair(near_, far_), pair(far_, near_); });
    loop(outer, [&] { backward(far_), pair(far_, near_); });
    // The last `inner` of these 2 `inner` leave their weight gradients for later.
    loop(inner / 2, [&] { backward(far_), backward(near_); });
    if (inner % 2 == 1) loop(1, [&] { backward(far_), input_gradient(near_); });
    for (int i = 0; i < inner / 2; ++i) loop(1, [&] { input_gradient(far_), input_gradient(near_); });
    for (int i = 0; i < outer; ++i) loop(1, [&] { weight_gradient(), input_gradient(near_); });
    for (int i = 0; i < inner; ++i) loop(1, [&] { weight_gradient(); });
    return std::move(order_);
  }

 private:
  template <class Body>
  void loop(int repeats, Body body) {
    if (repeats <= 0) return;
    order_.block(repeats, 1);
    order_.run(1, 0);
    const int forwards[2] = {forwards_[0], forwards_[1]}, backwards[2] = {backwards_[0], backwards_[1]};
    body();
    for (int c = 0; c < 2; ++c) {
      forwards_[c] += (repeats - 1) * (forwards_[c] - forwards[c]);
      backwards_[c] += (repeats - 1) * (backwards_[c] - backwards[c]);
    }
  }
  void forward(int chunk) { order_.add({Kind::forward, chunk, forwards_[chunk]++}); }
  void backward(int chunk) { order_.add({Kind::backward, chunk, backwards_[chunk]++}); }
  void input_gradient(int chunk) {
    open_.push_back({Kind::weight_gradient, chunk, backwards_[chunk]});
    order_.add({Kind::input_gradient, chunk, backwards_[chunk]++});
  }
  void weight_gradient() {
    order_.add(open_.front());
    open_.pop_front();
  }
  void pair(int forward, int backward) {
    order_.add({Kind::pair, forward, forwards_[forward]++, backward, backwards_[backward]++});
  }

  int near_, far_, half_, h_, micro_batches_;
  int forwards_[2], backwards_[2];
  std::deque<Task> open_;
  Order order_;
};

/// How far the gradients of a stage, and its weight gradients, are behind its forwards, in passes of a chunk.
struct Behind {
  std::int64_t gradients, weight_gradients;
};
Behind behind(const Pipeline& p, int stage) {
  const int after = p.stages - 1 - stage, one_more = p.paired ? 1 : 0;
  switch (p.schedule) {
    case Schedule::gpipe:
      return {p.micro_batches, p.micro_batches};
    case Schedule::one_f_one_b:
      return {after + one_more, after + one_more};
    case Schedule::interleaved: {
      const std::int64_t ahead = 2 * after + std::int64_t{p.chunks - 1} * p.stages + one_more;
      return {ahead, ahead};
    }
    case Schedule::zb_h1:
      return {after, after + stage};
    case Schedule::zb_h2:
      return {2 * after, 2 * after + 2 * stage};
    default:
      throw std::invalid_argument(std::string(name_of(p.schedule)) + " has more than one pattern");
  }
}

}  // namespace

void check(const Pipeline& p) {
  const std::string name(name_of(p.schedule));
  if (p.stages < 1) throw std::invalid_argument("a pipeline needs at least one stage, got " + text(p.stages));
  if (p.micro_batches < 1)
    throw std::invalid_argument("a pipeline needs at least one micro-batch, got " + text(p.micro_batches));
  check_chunks(p);
  if (p.paired && p.schedule != Schedule::one_f_one_b && p.schedule != Schedule::interleaved)
    throw std::invalid_argument(name + " has no pairs to ask for: 1f1b and interleaved have");
  if (p.schedule == Schedule::interleaved && p.micro_batches % p.stages != 0)
    throw std::invalid_argument(name + " needs micro-batches in multiples of its " + text(p.stages) + " stages, got " +
                                text(p.micro_batches));
  if (p.schedule != Schedule::dualpipe && p.schedule != Schedule::dualpipe_v) return;
  const bool both_ways = p.schedule == Schedule::dualpipe;
  if (both_ways && p.stages % 2 != 0)
    throw std::invalid_argument(name + " needs an even number of stages, got " + text(p.stages));
  if (both_ways && p.micro_batches % 2 != 0)
    throw std::invalid_argument(name + " needs an even number of micro-batches, half from either end, got " +
                                text(p.micro_batches));
  if (p.micro_batches < 2 * std::int64_t{p.stages})
    throw std::invalid_argument(name + " needs at least two micro-batches for each of its " + text(p.stages) +
                                " stages, got " + text(p.micro_batches));
}

BackwardTasks backward_tasks(Schedule schedule) {
  switch (schedule) {
    case Schedule::gpipe:
    case Schedule::one_f_one_b:
    case Schedule::interleaved:
      return BackwardTasks::whole;
    case Schedule::zb_h1:
    case Schedule::zb_h2:
    case Schedule::zb_1p:
    case Schedule::zb_2p:
    case Schedule::zb_v:
      return BackwardTasks::split;
    case Schedule::dualpipe:
    case Schedule::dualpipe_v:
      return BackwardTasks::mixed;
  }
  throw std::invalid_argument("a schedule that has no tasks");
}

bool has_pairs(const Pipeline& pipeline) {
  return pipeline.paired || backward_tasks(pipeline.schedule) == BackwardTasks::mixed;
}

bool is_greedy(Schedule schedule) {
  return schedule == Schedule::zb_1p || schedule == Schedule::zb_2p || schedule == Schedule::zb_v;
}

// ---- Route ----

Route::Route(const Pipeline& p)
    : shape_(p.schedule == Schedule::dualpipe                                     ? Shape::both_ways
             : p.schedule == Schedule::dualpipe_v || p.schedule == Schedule::zb_v ? Shape::v
                                                                                  : Shape::round_robin),
      stages_(p.stages),
      parts_(p.parts()) {}

Place Route::place(int route, int part) const {
  switch (shape_) {
    case Shape::v:
      return part < stages_ ? Place{part, 0} : Place{2 * stages_ - 1 - part, 1};
    case Shape::both_ways:
      return {route == 0 ? part : stages_ - 1 - part, route};
    case Shape::round_robin:
      break;
  }
  return {part % stages_, part / stages_};
}

int Route::part_of(Place place) const {
  switch (shape_) {
    case Shape::v:
      return place.chunk == 0 ? place.stage : 2 * stages_ - 1 - place.stage;
    case Shape::both_ways:
      return place.chunk == 0 ? place.stage : stages_ - 1 - place.stage;
    case Shape::round_robin:
      break;
  }
  return place.chunk * stages_ + place.stage;
}

// ---- Times and orders ----

void check(const Pipeline& p, const PipelineTimes& times) {
  check(p);
  if (times.stages != p.stages || times.chunks != p.chunks)
    throw std::invalid_argument("the times are of " + text(times.stages) + " stages with " + text(times.chunks) +
                                " chunks each, the pipeline has " + text(p.stages) + " with " + text(p.chunks));
  const auto n = static_cast<std::size_t>(p.parts());
  const auto pipeline = [&] {
    return "a pipeline of " + text(p.stages) + " stages with " + text(p.chunks) + " chunks each needs ";
  };
  if (times.forward.size() != n || times.backward.size() != n)
    throw std::invalid_argument(pipeline() + std::to_string(n) + " forward and backward times, got " +
                                std::to_string(times.forward.size()) + " and " + std::to_string(times.backward.size()));
  const bool optional = backward_tasks(p.schedule) == BackwardTasks::whole && times.weight_gradient.empty();
  if (!optional && times.weight_gradient.size() != n)
    throw std::invalid_argument(pipeline() + std::to_string(n) + " times of weight gradients for " +
                                std::string(name_of(p.schedule)) + ", got " +
                                std::to_string(times.weight_gradient.size()));
  const auto chunks = static_cast<std::size_t>(Route(p).chunks());
  const std::size_t pairs = static_cast<std::size_t>(p.stages) * chunks * chunks;
  if (!times.pair.empty() && times.pair.size() != pairs)
    throw std::invalid_argument(pipeline() + std::to_string(pairs) + " times of pairs or none, got " +
                                std::to_string(times.pair.size()));
}

Order stage_order(const Pipeline& p, int stage) {
  check(p);
  check_stage(p, stage);
  const int after = p.stages - 1 - stage;
  switch (p.schedule) {
    case Schedule::gpipe:
    case Schedule::one_f_one_b:
    case Schedule::interleaved:
      return Streams(p, behind(p, stage).gradients).order();
    case Schedule::zb_h1:
    case Schedule::zb_h2:
      return Streams(p, behind(p, stage).gradients, behind(p, stage).weight_gradients).order();
    case Schedule::dualpipe: {
      const int half = p.stages / 2, each = p.micro_batches / 2;
      if (stage < half) return DualPipe(0, 0, each, half, stage, each).order();
      return DualPipe(1, each, 0, half, after, each).order();
    }
    case Schedule::dualpipe_v:
      return DualPipe(0, 0, 0, p.stages, stage, p.micro_batches).order();
    case Schedule::zb_1p:
    case Schedule::zb_2p:
    case Schedule::zb_v:
      break;
  }
  throw std::invalid_argument("the order of " + std::string(name_of(p.schedule)) + " depends on the times");
}

InFlight in_flight_of_alike(const Pipeline& p, int stage) {
  const std::int64_t all = std::int64_t{p.micro_batches} * p.chunks, group = std::int64_t{p.stages} * p.chunks;
  const auto [gradients, weight_gradients] = behind(p, stage);
  const std::int64_t forwards = std::min(all, gradients + 1), open = std::min(all - 1, weight_gradients) - gradients;
  InFlight counts;
  for (int c = 0; c < p.chunks; ++c) {
    const std::int64_t of_group = std::clamp<std::int64_t>(forwards % group - std::int64_t{c} * p.stages, 0, p.stages);
    counts.until_backward.push_back(
        static_cast<int>(p.chunks == 1 ? forwards : forwards / group * p.stages + of_group));
    counts.until_weight.push_back(static_cast<int>(std::max<std::int64_t>(0, open)));  // of one chunk only
  }
  return counts;
}

std::vector<Order> stage_orders(const Pipeline& p, const PipelineTimes& times, const std::vector<PassKeeps>& keeps) {
  check(p, times);
  if (!keeps.empty() && static_cast<int>(keeps.size()) != p.parts())
    throw std::invalid_argument(text(p.parts()) + " parts need as many entries of what they keep, got " +
                                std::to_string(keeps.size()));
  if (is_greedy(p.schedule))
    return greedy_orders(p, times,
                         keeps.empty() ? std::vector<PassKeeps>(static_cast<std::size_t>(p.parts()), {1, 1}) : keeps);
  std::vector<Order> orders;
  orders.reserve(static_cast<std::size_t>(p.stages));
  for (int stage = 0; stage < p.stages; ++stage) orders.push_back(stage_order(p, stage));
  return orders;
}

}  // namespace shardwright
