#include "planner/serve/simulate.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <deque>
#include <queue>

namespace shardwright {
namespace {

using Id = std::int32_t;
constexpr Id kNone = -1;

/// A request on its way.
struct Job {
  double arrived = 0, first = NAN, done = NAN;
  std::int32_t prompt = 0, answer = 0;
  std::int32_t made = 0;              // tokens of the answer when it began to decode
  std::int32_t left = 0, seen = 0;    // of the prompt: still to prefill, and prefilled
  std::int64_t joined = 0, ends = 0;  // decode steps of its rank
  Id before = kNone, after = kNone;   // that end in the same step
  bool decoding = false;
};

enum class Role { both, prefill, decode };

/// What a step did to a request.
struct Outcome {
  Id id;
  bool first_token, done;
};

/// One rank's queue, its batch and its keys and values.
class Rank {
 public:
  Rank(const WorkerRules& rules, Role role, std::vector<Job>& jobs, std::int64_t longest_answer)
      : rules_(rules),
        role_(role),
        jobs_(jobs),
        ends_(std::bit_ceil(static_cast<std::uint64_t>(longest_answer) + 2), kNone),
        capacity_(static_cast<double>(rules.kv_tokens)) {}

  /// Requests that it has, running or not.
  std::int64_t load() const { return waiting() + running(); }
  std::int64_t waiting() const { return static_cast<std::int64_t>(queue_.size()); }
  std::int64_t running() const { return decoding_ + static_cast<std::int64_t>(prefilling_.size()); }
  std::int64_t preempted() const { return preempted_; }
  double most_kv() const { return most_kv_; }

  bool ever_fits(const Job& job) const {
    if (role_ == Role::prefill) return whole(job.prompt) <= capacity_;
    const std::int64_t tokens = std::int64_t{job.prompt} + job.answer;
    return (rules_.reserves_answers ? whole(tokens) : begun(tokens) + rules_.gained) <= capacity_;
  }
  void enqueue(Id id) { queue_.push_back(id); }

  struct Planned {
    double seconds = 0, lag = 0;
    bool any = false;
  };
  /// Chooses what the next step does.
  Planned plan() {
    taken_.clear();
    const bool crowded = make_room();
    if (role_ == Role::decode) {
      while (!crowded && may_admit()) join(admit());
    }
    const Pieces pieces = role_ == Role::decode ? Pieces{} : take_prompts(crowded);
    advances_ = decoding_ > 0 && !(rules_.prefill_first && pieces.tokens > 0);
    Planned step;
    step.any = advances_ || pieces.tokens > 0;
    if (advances_) step.seconds = rules_.steps->decode(decoding_, mean_context());
    if (pieces.tokens > 0) {
      const auto reach = static_cast<std::int64_t>(std::llround(pieces.seen / static_cast<double>(pieces.tokens)));
      const StepTable::Added added = rules_.steps->prefill(pieces.tokens, reach, decoding_);
      step.seconds += added.seconds;
      step.lag = added.lag;
    }
    return step;
  }

  /// Does what was chosen; first tokens come `lag` after `now`.
  void finish(double now, double lag, std::vector<Outcome>& outcomes) {
    if (advances_) advance(now, outcomes);
    for (const auto& [id, tokens] : taken_) {
      Job& job = jobs_[at(id)];
      job.left -= tokens;
      job.seen += tokens;
      if (job.left > 0) continue;
      prefilling_.pop_front();
      prefilled(id, now + lag, outcomes);
    }
    advances_ = false;
    taken_.clear();
  }

 private:
  struct Pieces {
    std::int64_t tokens = 0;
    double seen = 0;  // of each token, those before it, summed
  };

  static std::size_t at(Id id) { return static_cast<std::size_t>(id); }

  // ---- Keys and values ----

  double whole(std::int64_t tokens) const {
    const std::int64_t block = rules_.block_tokens;
    return static_cast<double>((tokens + block - 1) / block * block);
  }
  /// Of tokens that grow one by one no more than a block is begun.
  double begun(std::int64_t tokens) const { return static_cast<double>(tokens + rules_.block_tokens - 1); }
  double growth() const { return rules_.reserves_answers ? 0 : rules_.gained * static_cast<double>(decoding_); }

  /// What a request takes when it is let in.
  double entry(const Job& job) const {
    if (role_ == Role::prefill) return whole(job.prompt);
    if (rules_.reserves_answers) return whole(std::int64_t{job.prompt} + job.answer);
    return begun(job.prompt + job.made - (role_ == Role::decode ? 1 : 0));
  }
  void take(double tokens) {
    kv_ += tokens;
    most_kv_ = std::max(most_kv_, kv_);
    assert(kv_ <= capacity_ && "more keys and values than a rank holds");
  }

  /// Puts back who came last until all others can gain their tokens; whether any was.
  bool make_room() {
    bool any = false;
    while (kv_ + growth() > capacity_) {
      put_back();
      any = true;
    }
    return any;
  }
  void put_back() {
    ++preempted_;
    Id id = kNone;
    if (!prefilling_.empty()) {
      id = prefilling_.back();
      prefilling_.pop_back();
      kv_ -= entry(jobs_[at(id)]);
    } else {
      while (!jobs_[at(order_.back())].decoding) order_.pop_back();
      id = order_.back();
      order_.pop_back();
      Job& job = jobs_[at(id)];
      leave(job);
      unlink(id);
      const double steps = static_cast<double>(step_ - job.joined);
      job.made = std::min<std::int32_t>(job.answer - 1, job.made + static_cast<std::int32_t>(steps * rules_.gained));
    }
    Job& job = jobs_[at(id)];
    job.left = job.prompt + job.made;
    job.seen = 0;
    queue_.push_front(id);
  }

  // ---- Who is let in ----

  bool may_admit() const {
    if (queue_.empty() || running() >= rules_.max_sequences) return false;
    const bool grows_now = role_ == Role::decode && !rules_.reserves_answers;
    return kv_ + growth() + entry(jobs_[at(queue_.front())]) + (grows_now ? rules_.gained : 0) <= capacity_;
  }
  Id admit() {
    const Id id = queue_.front();
    queue_.pop_front();
    take(entry(jobs_[at(id)]));
    return id;
  }

  Pieces take_prompts(bool crowded) {
    Pieces pieces;
    std::int64_t budget = std::max(std::min<std::int64_t>(64, rules_.max_tokens), rules_.max_tokens - decoding_);
    for (std::size_t i = 0; budget > 0; ++i) {
      if (i == prefilling_.size()) {
        if (crowded || !may_admit()) break;
        if (!fits(jobs_[at(queue_.front())].left, budget, pieces)) break;
        prefilling_.push_back(admit());
      }
      const Id id = prefilling_[i];
      const Job& job = jobs_[at(id)];
      if (!fits(job.left, budget, pieces)) break;
      const std::int32_t tokens =
          rules_.chunked_prefill ? static_cast<std::int32_t>(std::min<std::int64_t>(job.left, budget)) : job.left;
      taken_.push_back({id, tokens});
      pieces.tokens += tokens;
      pieces.seen += static_cast<double>(tokens) * (job.seen + 0.5 * tokens);
      budget -= tokens;
    }
    return pieces;
  }
  /// Whole prompts that are longer than a step's tokens go alone.
  bool fits(std::int64_t tokens, std::int64_t budget, const Pieces& pieces) const {
    return rules_.chunked_prefill || tokens <= budget || pieces.tokens == 0;
  }

  // ---- Decoding ----

  std::int64_t mean_context() const { return std::llround(context_ / static_cast<double>(decoding_)); }

  void prefilled(Id id, double now, std::vector<Outcome>& outcomes) {
    Job& job = jobs_[at(id)];
    const bool first = std::isnan(job.first);
    if (first) job.first = now;
    const bool done = job.made + 1 >= job.answer;
    if (role_ == Role::prefill || done) {
      kv_ -= entry(job);
      if (done) job.done = now;
      job.made += 1;
      outcomes.push_back({id, first, done});
      return;
    }
    job.made += 1;
    join(id);
    outcomes.push_back({id, first, false});
  }

  /// A request whose keys and values are there begins to gain tokens.
  void join(Id id) {
    Job& job = jobs_[at(id)];
    job.decoding = true;
    job.joined = step_;
    const double further = std::ceil(static_cast<double>(job.answer - job.made) / rules_.gained);
    job.ends = step_ + std::max<std::int64_t>(1, static_cast<std::int64_t>(further));
    Id& head = ends_[static_cast<std::size_t>(job.ends) & (ends_.size() - 1)];
    job.before = kNone;
    job.after = head;
    if (head != kNone) jobs_[at(head)].before = id;
    head = id;
    ++decoding_;
    context_ += static_cast<double>(job.prompt + job.made);
    if (rules_.reserves_answers) return;
    order_.push_back(id);
    if (order_.size() > 2 * static_cast<std::size_t>(decoding_) + 64)
      std::erase_if(order_, [&](Id o) { return !jobs_[at(o)].decoding; });
  }

  /// What it holds, and what it saw, is of the others now.
  void leave(Job& job) {
    const double steps = rules_.gained * static_cast<double>(step_ - job.joined);
    --decoding_;
    context_ -= static_cast<double>(job.prompt + job.made) + steps;
    kv_ -= rules_.reserves_answers ? entry(job) : begun(job.prompt + job.made - 1) + steps;
    job.decoding = false;
  }
  void unlink(Id id) {
    Job& job = jobs_[at(id)];
    if (job.before != kNone)
      jobs_[at(job.before)].after = job.after;
    else
      ends_[static_cast<std::size_t>(job.ends) & (ends_.size() - 1)] = job.after;
    if (job.after != kNone) jobs_[at(job.after)].before = job.before;
  }

  void advance(double now, std::vector<Outcome>& outcomes) {
    ++step_;
    take(growth());
    context_ += rules_.gained * static_cast<double>(decoding_);
    Id& head = ends_[static_cast<std::size_t>(step_) & (ends_.size() - 1)];
    for (Id id = head; id != kNone;) {
      Job& job = jobs_[at(id)];
      const Id next = job.after;
      leave(job);
      job.done = now;
      outcomes.push_back({id, false, true});
      id = next;
    }
    head = kNone;
    if (decoding_ == 0) context_ = 0;  // no remainder of fractions
  }

  const WorkerRules& rules_;
  Role role_;
  std::vector<Job>& jobs_;
  std::deque<Id> queue_, prefilling_;
  std::vector<std::pair<Id, std::int32_t>> taken_;  // pieces of prompts in this step
  std::vector<Id> ends_;                            // by step: the first of those that end then
  std::vector<Id> order_;                           // as they began to decode; some have left
  bool advances_ = false;
  std::int64_t step_ = 0, decoding_ = 0, preempted_ = 0;
  double capacity_, kv_ = 0, most_kv_ = 0, context_ = 0;
};

/// A worker's ranks, which step together.
struct Worker {
  std::vector<Rank> ranks;
  bool busy = false;
  double lag = 0;
};

struct Event {
  double time;
  std::int64_t order;   // of those at one time, as they were made
  std::int32_t worker;  // whose step ends; kNone: a handover
  Id id;
  bool operator>(const Event& other) const { return time != other.time ? time > other.time : order > other.order; }
};

class Player {
 public:
  Player(const ServingSystem& system, const SimulatedLoad& load) : system_(system), load_(load) {
    std::int64_t longest = 1;
    jobs_.resize(load.arrivals.size());
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      const Arrival& a = load.arrivals[i];
      jobs_[i].arrived = a.seconds;
      jobs_[i].prompt = jobs_[i].left = a.prompt;
      jobs_[i].answer = a.answer;
      longest = std::max<std::int64_t>(longest, a.answer);
    }
    first_ = add_pool(system.workers, system.decode ? Role::prefill : Role::both, longest);
    if (system.decode) second_ = add_pool(*system.decode, Role::decode, longest);
  }

  Simulation play() {
    const double until = load_.until_seconds.value_or(INFINITY);
    if (load_.clients) {
      for (std::int64_t i = 0; i < *load_.clients; ++i) ask_again(0);
      start_idle(0);
    }
    for (;;) {
      const double arrival = load_.clients || next_ == jobs_.size() ? INFINITY : jobs_[next_].arrived;
      const double event = events_.empty() ? INFINITY : events_.top().time;
      const double time = std::min(arrival, event);
      if (time == INFINITY || time > until) break;
      now_ = time;
      if (arrival <= event) {
        while (next_ < jobs_.size() && jobs_[next_].arrived == time) arrive(static_cast<Id>(next_++));
        start_idle(time);
      } else {
        const Event e = events_.top();
        events_.pop();
        e.worker == kNone ? handed_over(e) : end_step(e);
      }
    }
    return result(until);
  }

 private:
  struct Pool {
    std::size_t begin = 0, end = 0;
  };

  Pool add_pool(const WorkerRules& rules, Role role, std::int64_t longest) {
    Pool pool{workers_.size(), workers_.size() + static_cast<std::size_t>(rules.workers)};
    for (int w = 0; w < rules.workers; ++w) {
      Worker& worker = workers_.emplace_back();
      for (int r = 0; r < rules.ranks; ++r) worker.ranks.emplace_back(rules, role, jobs_, longest);
    }
    return pool;
  }

  /// To the rank that has least; the first of them.
  void send(const Pool& pool, Id id) {
    std::size_t best = pool.begin;
    Rank* least = nullptr;
    for (std::size_t w = pool.begin; w < pool.end; ++w)
      for (Rank& rank : workers_[w].ranks)
        if (!least || rank.load() < least->load()) {
          least = &rank;
          best = w;
        }
    least->enqueue(id);
    if (!workers_[best].busy) idle_with_work_.push_back(best);
  }
  /// Whether it can ever be answered.
  bool arrive(Id id) {
    ++counts_.arrived;
    const Job& job = jobs_[static_cast<std::size_t>(id)];
    const bool fits = workers_[first_.begin].ranks.front().ever_fits(job) &&
                      (!system_.decode || workers_[second_.begin].ranks.front().ever_fits(job));
    if (fits)
      send(first_, id);
    else
      ++counts_.refused;
    return fits;
  }
  void ask_again(double now) {
    while (next_ < jobs_.size()) {
      jobs_[next_].arrived = now;
      if (arrive(static_cast<Id>(next_++))) return;
    }
  }

  void start_idle(double now) {
    for (const std::size_t w : idle_with_work_)
      if (!workers_[w].busy) start_step(w, now);
    idle_with_work_.clear();
  }
  void start_step(std::size_t w, double now) {
    Worker& worker = workers_[w];
    Rank::Planned step;
    for (Rank& rank : worker.ranks) {
      const Rank::Planned of = rank.plan();
      step.seconds = std::max(step.seconds, of.seconds);
      step.lag = std::max(step.lag, of.lag);
      step.any = step.any || of.any;
      counts_.steps += of.any;
    }
    worker.busy = step.any;
    worker.lag = step.lag;
    if (step.any) events_.push({now + step.seconds, made_++, static_cast<std::int32_t>(w), kNone});
  }
  void end_step(const Event& e) {
    const auto w = static_cast<std::size_t>(e.worker);
    Worker& worker = workers_[w];
    outcomes_.clear();
    for (Rank& rank : worker.ranks) rank.finish(e.time, worker.lag, outcomes_);
    const bool prefills = system_.decode && w < first_.end;
    for (const Outcome& o : outcomes_) {
      if (o.done)
        answered();
      else if (prefills)
        hand_over(o.id, e.time + worker.lag);
    }
    start_step(w, e.time);
    start_idle(e.time);  // of pools, and of clients that asked again
  }
  void answered() {
    ++counts_.answered;
    if (load_.clients) ask_again(now_);
  }
  void hand_over(Id id, double now) {
    Job& job = jobs_[static_cast<std::size_t>(id)];
    job.first = now + system_.handover_seconds + system_.handover_seconds_per_token * job.prompt;
    ++counts_.handed_over;
    events_.push({job.first, made_++, kNone, id});
  }
  void handed_over(const Event& e) {
    --counts_.handed_over;
    send(second_, e.id);
    start_idle(e.time);
  }

  Simulation result(double until) {
    Simulation s = std::move(counts_);
    s.seconds = std::isfinite(until) ? until : now_;
    double most = 0;
    for (std::size_t w = 0; w < workers_.size(); ++w)
      for (const Rank& rank : workers_[w].ranks) {
        s.waiting += rank.waiting();
        s.running += rank.running();
        s.preempted += rank.preempted();
        if (w >= second_.begin) most = std::max(most, rank.most_kv());
      }
    s.most_kv_tokens = static_cast<std::int64_t>(std::ceil(most));
    s.requests.reserve(next_);
    for (std::size_t i = 0; i < next_; ++i) {
      const Job& job = jobs_[i];
      s.requests.push_back({job.arrived, job.first, job.done, job.answer});
    }
    return s;
  }

  const ServingSystem& system_;
  const SimulatedLoad& load_;
  std::vector<Job> jobs_;
  std::vector<Worker> workers_;
  Pool first_, second_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<Outcome> outcomes_;
  std::vector<std::size_t> idle_with_work_;
  std::size_t next_ = 0;  // of the requests, who comes next
  std::int64_t made_ = 0;
  double now_ = 0;
  Simulation counts_;
};

LatencySpread spread_of(std::vector<double> values) {
  LatencySpread s;
  for (const double v : values) s.mean += v;
  s.mean /= static_cast<double>(values.size());
  s.p50 = percentile(values, 0.50);
  s.p90 = percentile(values, 0.90);
  s.p95 = percentile(values, 0.95);
  s.p99 = percentile(values, 0.99);
  return s;
}

}  // namespace

Simulation simulate(const ServingSystem& system, const SimulatedLoad& load) {
  assert(system.workers.steps && (!system.decode || system.decode->steps));
  return Player(system, load).play();
}

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) return NAN;
  const double place = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(low);
  std::nth_element(values.begin(), nth, values.end());
  if (low + 1 == values.size()) return *nth;
  const double next = *std::min_element(nth + 1, values.end());
  return *nth + (place - static_cast<double>(low)) * (next - *nth);
}

SimulatedLatencies latencies_of(const Simulation& simulation, double warm_up) {
  SimulatedLatencies of;
  const std::vector<SimulatedRequest>& all = simulation.requests;
  const auto skipped = static_cast<std::size_t>(warm_up * static_cast<double>(all.size()));
  if (skipped >= all.size()) return of;
  std::vector<double> ttft, tpot, latency;
  const double from = all[skipped].arrived, to = all.back().arrived;
  std::int64_t came = 0, went = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const SimulatedRequest& r = all[i];
    came += r.arrived > from;
    went += r.done > from && r.done <= to;
    if (i < skipped || std::isnan(r.done)) continue;
    ttft.push_back(r.ttft());
    if (r.answer > 1) tpot.push_back(r.tpot());
    latency.push_back(r.latency());
  }
  of.counted = static_cast<std::int64_t>(latency.size());
  if (of.counted == 0) return of;
  of.ttft = spread_of(std::move(ttft));
  if (!tpot.empty()) of.tpot = spread_of(std::move(tpot));
  of.latency = spread_of(std::move(latency));
  if (to > from) {
    of.arrivals_per_second = static_cast<double>(came) / (to - from);
    of.answers_per_second = static_cast<double>(went) / (to - from);
  }
  return of;
}

}  // namespace shardwright
