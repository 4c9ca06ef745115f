#include "planner/pipeline/greedy.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <queue>
#include <stdexcept>
#include <string>
#include <utility>

#include "planner/pipeline/play.h"

namespace shardwright {
namespace {

using Kind = Task::Kind;
constexpr double kUnknown = std::numeric_limits<double>::infinity();

/// What the heuristic leaves open.
struct Rules {
  /// Which gaps a weight gradient may fill: those that are long enough; also those that would make the stage the one
  /// that has idled most; any.
  enum class Fill { fitting, leading, any } fill = Fill::fitting;
  /// What goes first where both a gradient and a forward could start.
  enum class First { gradient, in_turn, forward } first = First::gradient;
  /// Of two gradients: that of the chunk farther along the route, or of the micro-batch that is farther behind.
  bool farther_gradient = false;
  /// Whether the room that is kept for a chunk farther along is also taken by its open weight gradients.
  bool open_take_room = false;
};

/// One play of all stages, in the order of time.
class Greedy {
 public:
  Greedy(const Pipeline& pipeline, const PipelineTimes& times, const std::vector<PassKeeps>& keeps, const Rules& rules)
      : rules_(rules),
        route_(pipeline),
        micro_batches_(pipeline.micro_batches),
        send_(times.send.value),
        stages_(static_cast<std::size_t>(pipeline.stages)) {
    const double factor = (pipeline.schedule == Schedule::zb_2p ? 2.0 : 1.0) * pipeline.stages;
    for (int s = 0; s < pipeline.stages; ++s) {
      Stage& stage = at(s);
      stage.chunks.resize(static_cast<std::size_t>(route_.chunks()));
      for (int c = 0; c < route_.chunks(); ++c) {
        Chunk& chunk = stage.chunks[static_cast<std::size_t>(c)];
        const int part = route_.part_of({s, c});
        const auto g = static_cast<std::size_t>(part);
        chunk.part = part;
        chunk.forward = times.forward[g].value;
        chunk.input_gradient = (times.backward[g] - times.weight_gradient[g]).value;
        chunk.weight_gradient = times.weight_gradient[g].value;
        chunk.until_weight = keeps[g].until_weight;
        chunk.until_gradient = std::max(keeps[g].until_backward, keeps[g].until_weight);
        chunk.forward_ready.assign(static_cast<std::size_t>(micro_batches_), part == 0 ? 0.0 : kUnknown);
        chunk.gradient_ready.assign(static_cast<std::size_t>(micro_batches_), kUnknown);
        stage.limit += factor * chunk.until_gradient;
      }
      // A hair more, for the rounding of the sums.
      stage.limit *= 1 + 1e-9;
      wake(s, 0);
    }
  }

  void play() {
    while (!events_.empty()) {
      const auto [time, s] = events_.top();
      events_.pop();
      if (time != at(s).wakes) continue;  // it was woken earlier since
      at(s).wakes = kUnknown;
      step(s, time);
    }
  }

  /// The longest of the stages' spans, from the first task to the end of the last one; and when all is done.
  std::pair<double, double> cost() const {
    std::pair<double, double> cost{0, 0};
    for (const Stage& s : stages_) {
      cost.first = std::max(cost.first, s.end - s.begin);
      cost.second = std::max(cost.second, s.end);
    }
    return cost;
  }
  bool complete() const {
    return std::all_of(stages_.begin(), stages_.end(), [&](const Stage& s) {
      return s.tasks.size() == 3 * s.chunks.size() * static_cast<std::size_t>(micro_batches_);
    });
  }
  std::vector<Order> orders() const {
    std::vector<Order> orders;
    for (const Stage& s : stages_) {
      Order& order = orders.emplace_back(static_cast<int>(s.chunks.size()));
      order.reserve(s.tasks.size(), 1, 1);
      order.block(1, 0);
      order.run(1, 0);
      for (const Task& t : s.tasks) order.add(t);
    }
    return orders;
  }

 private:
  struct Chunk {
    int part = 0;
    int forwards = 0, gradients = 0, weight_gradients = 0;  // done
    double forward = 0, input_gradient = 0, weight_gradient = 0;
    double until_gradient = 0, until_weight = 0;
    std::vector<double> forward_ready, gradient_ready;  // by micro-batch
  };
  struct Stage {
    std::vector<Chunk> chunks;
    std::deque<std::pair<int, int>> open;  // weight gradients: chunk and micro-batch
    std::vector<Task> tasks;
    double kept = 0, limit = 0;
    double begin = 0, end = 0, idle = 0;
    double wakes = kUnknown;
    bool gradient_last = false;
  };

  Stage& at(int stage) { return stages_[static_cast<std::size_t>(stage)]; }

  void wake(int stage, double time) {
    Stage& s = at(stage);
    time = std::max(time, s.end);
    if (time >= s.wakes) return;
    s.wakes = time;
    events_.push({time, stage});
  }

  double forward_arrives(const Chunk& c) const {
    return c.forwards < micro_batches_ ? c.forward_ready[static_cast<std::size_t>(c.forwards)] : kUnknown;
  }
  double gradient_arrives(const Chunk& c) const {
    return c.gradients < micro_batches_ ? c.gradient_ready[static_cast<std::size_t>(c.gradients)] : kUnknown;
  }

  /// Room for a forward. The second chunk of a V has a share kept free: i + 1 on stage i, of the 2 p in all, as it is
  /// that far from the end of the route. So the oldest micro-batch can always go on, and the pipeline never stops.
  bool has_room(const Stage& s, const Chunk& chunk) const {
    const auto share = static_cast<double>(&s - stages_.data() + 1);
    double room = s.kept + chunk.until_gradient;
    for (const Chunk& other : s.chunks) {
      if (other.part <= chunk.part) continue;
      double taken = (other.forwards - other.gradients) * other.until_gradient;
      if (rules_.open_take_room) taken += (other.gradients - other.weight_gradients) * other.until_weight;
      room += std::max(0.0, share * other.until_gradient - taken);
    }
    return room <= s.limit;
  }

  /// Starts the task that the rules choose, or waits for what is known to come.
  void step(int stage, double now) {
    Stage& s = at(stage);
    const int gradient = gradient_at(s, now), forward = forward_at(s, now);
    const double next_gradient = next_arrival(s, now, true),
                 next = std::min(next_gradient, next_arrival(s, now, false));
    const bool forward_first =
        rules_.first == Rules::First::forward || (rules_.first == Rules::First::in_turn && s.gradient_last);
    if (gradient >= 0 && !(forward >= 0 && forward_first)) return input_gradient(stage, gradient, now);
    if (forward >= 0 && !delays_first_gradient(s, forward, now, next_gradient)) return run_forward(stage, forward, now);
    if (!s.open.empty() && (fills(s, now, next) || is_blocked(s, now))) return weight_gradient(stage, now);
    if (next < kUnknown) wake(stage, next);
  }

  /// The chunk whose gradient is there, -1 for none.
  int gradient_at(const Stage& s, double now) const {
    int best = -1;
    for (std::size_t c = 0; c < s.chunks.size(); ++c) {
      if (gradient_arrives(s.chunks[c]) > now) continue;
      if (best < 0 || rules_.farther_gradient ||
          s.chunks[c].gradients <= s.chunks[static_cast<std::size_t>(best)].gradients)
        best = static_cast<int>(c);
    }
    return best;
  }
  /// The chunk whose forward is there and has room: the one farther along.
  int forward_at(const Stage& s, double now) const {
    int best = -1;
    for (std::size_t c = 0; c < s.chunks.size(); ++c)
      if (forward_arrives(s.chunks[c]) <= now && has_room(s, s.chunks[c])) best = static_cast<int>(c);
    return best;
  }
  /// The first gradient has a way through all stages before it: none should hold it up.
  bool delays_first_gradient(const Stage& s, int forward, double now, double next_gradient) const {
    const bool is_warm = std::any_of(s.chunks.begin(), s.chunks.end(), [](const Chunk& c) { return c.gradients > 0; });
    return !is_warm && next_gradient < now + s.chunks[static_cast<std::size_t>(forward)].forward;
  }
  bool fills(const Stage& s, double now, double next) const {
    const double end = now + s.chunks[static_cast<std::size_t>(s.open.front().first)].weight_gradient;
    return end <= next || rules_.fill == Rules::Fill::any ||
           (rules_.fill == Rules::Fill::leading && would_lead(s, next - now));
  }
  double next_arrival(const Stage& s, double now, bool gradients) const {
    double next = kUnknown;
    for (const Chunk& c : s.chunks) {
      const double arrives = gradients ? gradient_arrives(c) : forward_arrives(c);
      if (arrives > now && (gradients || has_room(s, c))) next = std::min(next, arrives);
    }
    return next;
  }
  /// A forward is there, but no room for it: a weight gradient makes some.
  bool is_blocked(const Stage& s, double now) const {
    return std::any_of(s.chunks.begin(), s.chunks.end(),
                       [&](const Chunk& c) { return forward_arrives(c) <= now && !has_room(s, c); });
  }
  /// Waiting for so long would make this stage the one that has idled most.
  bool would_lead(const Stage& s, double gap) const {
    double most = 0;
    for (const Stage& other : stages_) most = std::max(most, other.idle);
    return s.idle + gap > most;
  }

  void run(Stage& s, double now, double time, const Task& task) {
    if (s.tasks.empty()) {
      s.begin = now;
    } else {
      s.idle += now - s.end;
    }
    s.end = now + time;
    s.tasks.push_back(task);
    s.gradient_last = task.kind == Kind::input_gradient;
  }
  void run_forward(int stage, int chunk, double now) {
    Stage& s = at(stage);
    Chunk& c = s.chunks[static_cast<std::size_t>(chunk)];
    run(s, now, c.forward, {Kind::forward, chunk, c.forwards});
    s.kept += c.until_gradient;
    arrive(stage, c.part, c.part + 1, c.forwards++, s.end);
    wake(stage, s.end);
  }
  void input_gradient(int stage, int chunk, double now) {
    Stage& s = at(stage);
    Chunk& c = s.chunks[static_cast<std::size_t>(chunk)];
    run(s, now, c.input_gradient, {Kind::input_gradient, chunk, c.gradients});
    s.kept += c.until_weight - c.until_gradient;
    s.open.push_back({chunk, c.gradients});
    arrive(stage, c.part, c.part - 1, c.gradients++, s.end);
    wake(stage, s.end);
  }
  void weight_gradient(int stage, double now) {
    Stage& s = at(stage);
    const auto [chunk, micro_batch] = s.open.front();
    s.open.pop_front();
    Chunk& c = s.chunks[static_cast<std::size_t>(chunk)];
    ++c.weight_gradients;
    run(s, now, c.weight_gradient, {Kind::weight_gradient, chunk, micro_batch});
    s.kept -= c.until_weight;
    wake(stage, s.end);
  }

  /// What a part has done with a micro-batch at `end` goes to the next one of the route, forward or back; the last
  /// forward starts the way back.
  void arrive(int stage, int part, int next, int micro_batch, double end) {
    if (next < 0) return;
    const bool forward = next > part;
    const Place place = route_.place(0, next < route_.parts() ? next : part);
    Chunk& c = at(place.stage).chunks[static_cast<std::size_t>(place.chunk)];
    const double arrives = end + (place.stage == stage ? 0 : send_);
    (forward && next < route_.parts() ? c.forward_ready : c.gradient_ready)[static_cast<std::size_t>(micro_batch)] =
        arrives;
    wake(place.stage, arrives);
  }

  Rules rules_;
  Route route_;
  int micro_batches_;
  double send_;
  std::vector<Stage> stages_;
  using Event = std::pair<double, int>;
  std::priority_queue<Event, std::vector<Event>, std::greater<Event>> events_;
};

/// The best so far.
struct Best {
  std::pair<double, double> cost{kUnknown, kUnknown};
  std::vector<Order> orders;
};

/// The schedule laid out by hand that the heuristic should not fall behind, where it stays within the limit: true
/// where backward never keeps more for its second half than for its first.
void consider_laid_out(const Pipeline& pipeline, const PipelineTimes& times, const std::vector<PassKeeps>& keeps,
                       Best& best) {
  Pipeline laid_out = pipeline;
  laid_out.schedule = pipeline.schedule == Schedule::zb_1p ? Schedule::zb_h1 : Schedule::zb_h2;
  for (const PassKeeps& k : keeps)
    if (k.until_weight > k.until_backward) return;
  std::vector<Order> orders = stage_orders(laid_out, times);
  const Played played = play(Route(laid_out), orders, times, pipeline.micro_batches);
  std::pair<double, double> cost{0, played.total.value};
  for (std::size_t s = 0; s < orders.size(); ++s)
    cost.first = std::max(cost.first, (played.stage_end[s] - played.stage_begin[s]).value);
  if (cost < best.cost) best = {cost, std::move(orders)};
}

}  // namespace

std::vector<Order> greedy_orders(const Pipeline& pipeline, const PipelineTimes& times,
                                 const std::vector<PassKeeps>& keeps) {
  Best best;
  const bool one_chunk = pipeline.chunks == 1;
  for (const auto fill : {Rules::Fill::fitting, Rules::Fill::leading, Rules::Fill::any})
    for (const auto first : {Rules::First::gradient, Rules::First::in_turn, Rules::First::forward})
      for (const bool farther_gradient : {false, true})
        for (const bool open_take_room : {false, true}) {
          if (one_chunk && (farther_gradient || open_take_room)) continue;  // these are about two chunks
          Greedy greedy(pipeline, times, keeps, {fill, first, farther_gradient, open_take_room});
          greedy.play();
          if (!greedy.complete())
            throw std::logic_error("the greedy play of " + std::string(name_of(pipeline.schedule)) + " came to a stop");
          if (greedy.cost() < best.cost) best = {greedy.cost(), greedy.orders()};
        }
  if (one_chunk) consider_laid_out(pipeline, times, keeps, best);
  return std::move(best.orders);
}

}  // namespace shardwright
