#include "profiler/execute/trial.h"

#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <tuple>
#include <utility>

#include "kernels/backends.h"
#include "models/transformer.h"
#include "profiler/statistics.h"

namespace shardwright {
namespace {

/// Of this thread.
Seconds cpu_time() {
  timespec t = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return {static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec)};
}

/// Of the process, now. Not its peak, which the proof's reference may have made; a run's own Memory gives nothing back
/// to the system.
Bytes resident_now() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmRSS:")) return {std::strtoll(line.c_str() + 6, nullptr, 10) * 1024};
  return {};
}

/// What was freed goes back to the system. AddressSanitizer has an allocator of its own, and glibc's was never begun.
void give_freed_memory_back() {
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
  ::malloc_trim(0);
#endif
}

/// Adds up what a rank does, and tells the board.
class Stopwatch final : public Recorder {
 public:
  using Key = std::tuple<int, OpId, int, bool>;  // graph, operator, pass, communicates
  struct Total {
    double calls = 0;
    Seconds seconds;
  };

  Stopwatch(Clock& clock, StatusBoard* board) : clock_(clock), board_(board) {}
  /// What a rank does has ended when `operators` have done all that they were asked for: those of a device, and what
  /// is exchanged between devices, only begin.
  void wait_for(Operators* operators) { operators_ = operators; }

  void start(const Doing& what) override {
    doing_ = what;
    if (board_) board_->doing(what.name);
    cpu_began_ = cpu_time();
    began_ = clock_.now();
  }
  void stop() override {
    try {
      if (operators_) operators_->synchronize();
    } catch (const std::exception&) {  // a device that failed says so again when it is asked for anything else
    }
    const Seconds took = clock_.now() - began_;
    switch (doing_.kind) {
      case Doing::Kind::compute:
      case Doing::Kind::optimizer:
        busy_ += cpu_time() - cpu_began_;
        computing_ += took;
        (doing_.kind == Doing::Kind::compute ? parts.compute : parts.optimizer) += took;
        break;
      case Doing::Kind::collective:
      case Doing::Kind::send:
        parts.communication += took;
        break;
      case Doing::Kind::receive:
        parts.bubble += took;
        break;
    }
    const bool moves = doing_.kind == Doing::Kind::collective;
    if (doing_.kind != Doing::Kind::compute && !moves) return;
    Total& total = totals[{doing_.where.graph, doing_.where.op, static_cast<int>(doing_.where.pass), moves}];
    ++total.calls;
    total.seconds += took;
  }
  const std::string& last() const { return doing_.name; }
  double busy() const { return computing_ > Seconds{} ? busy_ / computing_ : 1; }
  void forget() {
    totals.clear();
    parts = {};
    busy_ = computing_ = {};
  }

  std::map<Key, Total> totals;
  TrialParts parts;

 private:
  Clock& clock_;
  StatusBoard* board_;
  Operators* operators_ = nullptr;
  Doing doing_;
  Seconds began_, cpu_began_, busy_, computing_;
};

double largest(Communicator& world, double value) {
  world.all_reduce({&value, 1, Element::fp64}, Reduction::max);
  return value;
}

/// A product whose time tells whether the machine is as it was. Beside the second fastest so far: one time that was too
/// short by chance would void every round after it.
class Reference {
 public:
  Reference(Operators& operators, Clock& clock) : operators_(operators), clock_(clock), memory_(operators) {
    for (Block* block : {&a_, &b_, &c_}) {
      *block = memory_.make(kSize * kSize, operators.element(DataType::fp32));
      operators.fill(block->view, 0.5);
    }
    time();
    time();
  }
  Seconds time() {
    Seconds best{1e9};
    for (int i = 0; i < 3; ++i) {
      const Seconds began = clock_.now();
      operators_.contraction({a_.view, {0, 1}, {kSize, kSize}}, {b_.view, {1, 2}, {kSize, kSize}}, {0, 2}, c_.view);
      operators_.synchronize();
      best = std::min(best, clock_.now() - began);
    }
    if (best < fastest_) {
      second_ = std::exchange(fastest_, best);
    } else {
      second_ = std::min(second_, best);
    }
    return best;
  }
  double drift(Seconds now) const { return now / second_ - 1; }
  Seconds calm() const { return second_; }

 private:
  static constexpr std::int64_t kSize = 160;
  Operators& operators_;
  Clock& clock_;
  Memory memory_;
  Block a_, b_, c_;
  Seconds fastest_{1e9}, second_{1e9};
};

/// "" or why a round between two times of the reference is void; the same on all ranks.
std::string fault_of(Communicator& world, const TrialQuestion& question, const Reference& reference, Seconds before,
                     Seconds after, double own_busy) {
  const double drift = largest(world, std::max(reference.drift(before), reference.drift(after)));
  const double idle = largest(world, 1 - own_busy);
  std::ostringstream why;
  why.precision(3);
  if (drift > question.drift)
    why << "a product of reference took " << 100 * drift << " % longer than its fastest";
  else if (idle > 1 - question.busy)
    why << "a rank had the processor " << 100 * (1 - idle) << " % of the time in which it computed";
  return why.str();
}

std::string graph_name(const Programme& p, int graph) {
  const auto classes = static_cast<int>(p.graphs.size()) - 2;
  if (graph < 0) return "weights";
  if (graph == classes) return "embedding";
  if (graph == classes + 1) return "head";
  return classes == 1 ? "layer" : "layer class " + std::to_string(graph);
}

/// Numbers of one rank for rank 0: what it adds up, in order.
std::vector<double> told(const Stopwatch& watch) {
  const TrialParts& p = watch.parts;
  std::vector<double> numbers = {p.compute.value, p.communication.value, p.bubble.value, p.optimizer.value};
  for (const auto& [key, total] : watch.totals) {
    const auto& [graph, op, pass, communicates] = key;
    for (double x : {static_cast<double>(graph), static_cast<double>(op), static_cast<double>(pass),
                     communicates ? 1.0 : 0.0, total.calls, total.seconds.value})
      numbers.push_back(x);
  }
  return numbers;
}

/// From one rank to rank 0.
std::vector<double> brought(Communicator& world, int from, std::vector<double> numbers) {
  if (from == 0) return numbers;
  constexpr int kTag = 30'000;
  if (world.rank() == from) {
    double count = static_cast<double>(numbers.size());
    world.send(In{&count, 1, Element::fp64}, 0, kTag)->wait();
    world.send(In{numbers.data(), static_cast<std::int64_t>(numbers.size()), Element::fp64}, 0, kTag + 1)->wait();
  } else if (world.rank() == 0) {
    double count = 0;
    world.receive({&count, 1, Element::fp64}, from, kTag)->wait();
    numbers.resize(static_cast<std::size_t>(count));
    world.receive({numbers.data(), static_cast<std::int64_t>(numbers.size()), Element::fp64}, from, kTag + 1)->wait();
  }
  return numbers;
}

/// The worst difference of all ranks; its name is that rank's.
Difference worst_of(Communicator& world, Difference own) {
  const double most = largest(world, own.relative);
  double first = largest(world, own.relative == most ? -world.rank() : -world.size());
  char name[128] = {};
  std::strncpy(name, own.what.c_str(), sizeof name - 1);
  world.broadcast({name, sizeof name, Element::byte}, static_cast<int>(-first));
  return {most, name};
}

Trial trial_of(const Programme& programme, Communicator& world, const TrialQuestion& question, OneRank one_rank,
               Clock& clock, Stopwatch& watch) {
  const auto made = question.operators ? nullptr : make_operators(question.backend);
  Operators* const operators = question.operators ? question.operators : made.get();
  watch.wait_for(operators);
  Memory memory(*operators, question.memory_limit);
  const Fault none;
  Executor executor(programme, world, *operators, memory, watch, question.options, none);
  Trial trial;
  trial.communicator = world.name();
  trial.backend = operators->name();
  trial.precision = question.options.compute;
  if (question.options.alone) trial.alone = question.options.alone->rank;
  std::int64_t step = 0;
  if (one_rank) {
    trial.checked = true;
    Difference own;
    for (const StepResult& expected : *one_rank) {
      executor.train(step++);
      const Difference d = difference(executor, executor.loss(), expected, *operators);
      if (!(d.relative <= own.relative)) own = d;
      if (std::isnan(own.relative)) own.relative = std::numeric_limits<double>::infinity();
    }
    trial.difference = worst_of(world, own);
    one_rank.reset();
    world.barrier();
    give_freed_memory_back();
  }
  for (int i = 0; i < question.warm_up; ++i) executor.train(step++);
  memory.forget_peak();
  Reference reference(*operators, clock);
  struct Sums {
    int rounds = 0;
    TrialParts parts;
    std::map<Stopwatch::Key, Stopwatch::Total> totals;
  };
  Sums of_all, of_good;
  for (int round = 0; round < question.rounds; ++round) {
    const Seconds before = reference.time();
    watch.forget();
    world.barrier();
    const Seconds began = clock.now();
    executor.train(step++);
    Seconds took = clock.now() - began;
    if (trial.alone) took = took - watch.parts.communication - watch.parts.bubble;
    const double slowest = largest(world, took.value);
    world.barrier();
    const Seconds after = reference.time();
    TrialRound result = {{slowest}, fault_of(world, question, reference, before, after, watch.busy())};
    trial.rounds.push_back(result);
    if (trial.alone) watch.parts.communication = watch.parts.bubble = {};
    watch.parts.other = took - watch.parts.total();
    for (Sums* sums : {&of_all, &of_good}) {
      if (sums == &of_good && !result.fault.empty()) continue;
      ++sums->rounds;
      sums->parts += watch.parts;
      for (const auto& [key, total] : watch.totals) {
        sums->totals[key].calls += total.calls;
        sums->totals[key].seconds += total.seconds;
      }
    }
  }
  trial.reference = {largest(world, reference.calm().value)};
  trial.loss = executor.loss();
  const Bytes resident = question.device_memory ? question.device_memory() : resident_now();
  for (int stage = 0; stage < programme.pipeline.stages; ++stage) {
    const bool here = stage == executor.stage();
    if (trial.alone && !here) continue;
    trial.peaks.push_back(
        {{static_cast<std::int64_t>(largest(world, here ? static_cast<double>(memory.peak().value) : 0))},
         {static_cast<std::int64_t>(largest(world, here ? static_cast<double>(resident.value) : 0))}});
  }

  std::vector<Seconds> good;
  for (const TrialRound& r : trial.rounds)
    if (r.fault.empty()) good.push_back(r.step);
  if (!good.empty()) trial.step = median_time(std::move(good)).median;
  const Sums& sums = of_good.rounds > 0 ? of_good : of_all;  // ranks agree on which rounds are void
  watch.parts = sums.parts;
  watch.totals = sums.totals;
  std::vector<double> numbers = told(watch);
  numbers.push_back(sums.parts.other.value);
  const auto from = trial.alone ? 0 : static_cast<int>(programme.rank_of(question.watched_stage, 0));
  numbers = brought(world, from, std::move(numbers));
  const double each = 1.0 / std::max(1, sums.rounds);
  trial.parts = {Seconds{each * numbers[0]}, Seconds{each * numbers[1]}, Seconds{each * numbers[2]},
                 Seconds{each * numbers[3]}, Seconds{each * numbers.back()}};
  for (std::size_t i = 4; i + 6 < numbers.size(); i += 6) {
    const auto graph = static_cast<int>(numbers[i]);
    const auto op = static_cast<OpId>(numbers[i + 1]);
    TrialOperator o;
    o.graph = graph_name(programme, graph);
    o.name = graph < 0 ? "gradients and parameters"
             : op < 0  ? "stream"
                       : programme.graphs[static_cast<std::size_t>(graph)].graph.op(op).name;
    o.pass = static_cast<OperatorPass>(static_cast<int>(numbers[i + 2]));
    o.communicates = numbers[i + 3] > 0;
    o.calls = each * numbers[i + 4];
    if (!trial.alone || !o.communicates) o.measured = Seconds{each * numbers[i + 5]};
    trial.operators.push_back(std::move(o));
  }
  return trial;
}

/// Weights are the first step's again.
InferenceTrial inference_trial(const Programme& programme, Communicator& world, const TrialQuestion& question,
                               bool checked, Clock& clock, Stopwatch& watch) {
  const auto made = question.operators ? nullptr : make_operators(question.backend);
  Operators* const operators = question.operators ? question.operators : made.get();
  watch.wait_for(operators);
  Memory memory(*operators, question.memory_limit);
  const Fault none;
  const InferenceSteps steps = inference_steps(programme);
  RunOptions options = question.options;
  options.trains = false;
  Executor executor(programme, world, *operators, memory, watch, options, none);
  const std::vector<std::int64_t> prompt = prompt_of(programme, options.seed);
  InferenceTrial trial;
  trial.checked = checked;
  trial.prompt = programme.sequence_length;
  trial.sequences = static_cast<std::int64_t>(prompt.size()) / trial.prompt;
  trial.tokens = question.decode;
  if (checked) {
    const Generated one_rank = generate_on_one_rank(programme, options, question.decode);
    const double tolerance = equal_tolerance(options.compute);
    const Generated ranks = generate(executor, steps, prompt, question.decode);
    trial.difference = worst_of(world, difference(ranks, one_rank, tolerance));
    trial.equal = trial.difference.relative < tolerance;
  }
  struct Times {
    std::vector<Seconds> prefills, decodes;
  };
  Times of_all, of_good;
  Reference reference(*operators, clock);
  for (int round = 0; round < question.warm_up + question.rounds; ++round) {
    executor.forget_sequences();
    const std::vector<std::int64_t> next(static_cast<std::size_t>(trial.sequences), 0);
    Times times;
    const Seconds before = reference.time();
    watch.forget();
    for (int token = 0; token <= question.decode; ++token) {
      world.barrier();
      const Seconds began = clock.now();
      executor.answer(token == 0 ? steps.prefill : steps.decode, token == 0 ? prompt : next);
      const Seconds took = {largest(world, (clock.now() - began).value)};
      (token == 0 ? times.prefills : times.decodes).push_back(took);
    }
    const std::string fault = fault_of(world, question, reference, before, reference.time(), watch.busy());
    if (round < question.warm_up) continue;
    ++trial.rounds;
    if (!fault.empty()) ++trial.void_rounds;
    for (Times* good : {&of_all, &of_good}) {
      if (good == &of_good && !fault.empty()) continue;
      good->prefills.insert(good->prefills.end(), times.prefills.begin(), times.prefills.end());
      good->decodes.insert(good->decodes.end(), times.decodes.begin(), times.decodes.end());
    }
  }
  Times& counted = trial.void_rounds < trial.rounds ? of_good : of_all;
  trial.prefill = median_time(std::move(counted.prefills)).median;
  trial.decode = median_time(std::move(counted.decodes)).median;
  trial.peak = {static_cast<std::int64_t>(largest(world, static_cast<double>(memory.peak().value)))};
  return trial;
}

}  // namespace

TrialParts& TrialParts::operator+=(const TrialParts& more) {
  compute += more.compute;
  communication += more.communication;
  bubble += more.bubble;
  optimizer += more.optimizer;
  other += more.other;
  return *this;
}

void add_predictions(Trial& trial, const std::vector<OperatorTime>& predicted) {
  for (const OperatorTime& time : predicted) {
    const auto same = [&](const TrialOperator& o) {
      return o.graph == time.graph && o.name == time.name && o.pass == time.pass && o.communicates == time.communicates;
    };
    auto known = std::find_if(trial.operators.begin(), trial.operators.end(), same);
    if (known == trial.operators.end()) {
      trial.operators.push_back({time.graph, time.name, time.pass, time.communicates, 0, {}, {}});
      known = std::prev(trial.operators.end());
    }
    known->family = time.communicates ? KernelFamily::collective : time.family;
    known->predicted = known->predicted.value_or(Seconds{}) + time.seconds;
  }
}

PricedAlone priced_alone(const Trial& trial, const Prediction& prediction) {
  PricedAlone priced;
  for (const TrialOperator& o : trial.operators)
    if (!o.communicates) priced.compute += o.predicted.value_or(Seconds{});
  priced.communication = prediction.exposed_communication;
  priced.bubble = prediction.bubble;
  if (trial.step) priced.step = *trial.step + priced.communication + priced.bubble;
  return priced;
}

std::string too_large_to_check(const Programme& p) {
  const double tokens = static_cast<double>(p.global_batch) * static_cast<double>(p.sequence_length);
  // Two steps, each three times the products of forward; attention's products are no more than as much again where
  // sequences are as short as they must be here.
  const double flops = 2 * 6 * tokens * static_cast<double>(active_parameters(p.model));
  if (flops <= kMostProofFlops) return "";
  std::ostringstream out;
  out.precision(2);
  out << "two steps of " << flops / 2 << " operations each in double precision on one rank are more than the "
      << kMostProofFlops << " that a proof may take";
  return out.str();
}

Trial run_trial(const Programme& programme, Communicator& world, const TrialQuestion& question, OneRank one_rank,
                Clock& clock, StatusBoard* board) {
  Stopwatch watch(clock, board);
  try {
    Trial trial = trial_of(programme, world, question, std::move(one_rank), clock, watch);
    if (question.decode > 0) {
      const Programme& answers = question.answers ? *question.answers : programme;
      trial.inference = inference_trial(answers, world, question, trial.checked, clock, watch);
    }
    return trial;
  } catch (const std::exception& e) {
    if (board) board->end(StatusBoard::State::failed, e.what());
    throw std::runtime_error("rank " + std::to_string(world.rank()) + " failed " +
                             (watch.last().empty() ? "before its first operator" : "in '" + watch.last() + "'") + ": " +
                             e.what());
  }
}

}  // namespace shardwright
