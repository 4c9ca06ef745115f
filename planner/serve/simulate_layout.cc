#include "planner/serve/simulate_layout.h"

#include <algorithm>
#include <cassert>

namespace shardwright {
namespace {

/// Requests whose percentiles are not counted: the first tenth finds an emptier system than those after it.
constexpr double kWarmUp = 0.1;
/// Fewer answers a second than this share of the requests: the queue grows. Counts of ten thousand are 1 % off.
constexpr double kKeepsUp = 0.95;
/// As many requests as have about so many further tokens, within bounds that give percentiles their tails.
constexpr std::int64_t kTokensPlayed = 4'000'000, kFewest = 2000, kMost = 20'000;
/// Of more copies so many are played, with their share of the load.
constexpr int kMostCopies = 8;

StepTable table_of(StepTimes& times, const ServeWorkload& w) {
  const std::int64_t context = w.isl + w.osl / 2;
  return {[&times, proposals = w.speculation](std::int64_t batch, std::int64_t length) {
            return times.decode(batch, length, proposals).time.value;
          },
          [&times, context](std::int64_t tokens, std::int64_t reach, std::int64_t batch) {
            const StepTimes::Prefill p = times.piece(tokens, reach, batch, context);
            // In pipelines the next step begins before this one's tokens are through.
            const Seconds beside = batch > 0 ? times.decode(batch, context, {}).time : Seconds{};
            return StepTable::Added{p.added.value, std::max(0.0, (p.latency - p.added - beside).value)};
          }};
}

/// Of `share` of a load; at least thirty times those that are in flight at once.
SimulatedLoad requests_of(const ServeRequest& request, double share, double in_flight) {
  const ServeLoad& load = *request.load;
  const ServeWorkload& w = request.workload;
  SimulatedLoad played;
  played.arrivals = load.trace;
  if (!load.trace.empty()) return played;
  const auto steady = static_cast<std::int64_t>(std::min(30 * in_flight, 1e6));
  const std::int64_t n =
      load.requests > 0 ? load.requests : std::max(std::clamp(kTokensPlayed / w.osl, kFewest, kMost), steady);
  played.arrivals = poisson_arrivals(share * load.requests_per_second, n, w.isl, w.osl, load.lengths, load.seed);
  return played;
}

}  // namespace

LayoutSteps::LayoutSteps(const ServeRequest& request, const Machine& machine, const ServeLayout& layout)
    : machine_(evenly_filled(machine, layout.ranks() * layout.pipeline)),
      times_(request.model, machine_, request.workload.formats, request.engine, layout),
      table_(table_of(times_, request.workload)) {
  const ServeWorkload& w = request.workload;
  const ServeMemory memory = times_.memory(machine_, w);
  const std::int64_t block = request.engine.block_tokens, tokens = (w.isl + w.osl + block - 1) / block * block;
  const Bytes held = times_.pricer().kv(static_cast<std::size_t>(memory.stage), tokens);
  assert(held.value > 0 && "a model without keys and values");
  kv_tokens_ = static_cast<std::int64_t>(static_cast<double>(memory.pool.value) / static_cast<double>(held.value) *
                                         static_cast<double>(tokens));
}

WorkerRules rules_of(const ServeRequest& request, LayoutSteps& steps) {
  const ServeEngine& engine = request.engine;
  WorkerRules rules;
  rules.workers = steps.layout().replicas;
  rules.ranks = steps.layout().attention_data;
  rules.max_sequences = engine.max_sequences;
  rules.max_tokens = engine.max_tokens;
  rules.chunked_prefill = engine.chunked_prefill;
  rules.prefill_first = engine.prefill_first;
  rules.reserves_answers = engine.reserves_answers;
  rules.block_tokens = engine.block_tokens;
  rules.kv_tokens = steps.kv_tokens();
  rules.gained = request.workload.speculation.gained();
  rules.steps = &steps.table();
  return rules;
}

LayoutSteps& LoadPlayer::steps_of(ServeLayout layout, bool prefills) {
  layout.replicas = 1;
  const bool elsewhere = prefills && request_.prefill_pool;
  std::unique_ptr<LayoutSteps>& steps = steps_[{elsewhere, layout}];
  if (!steps)
    steps = std::make_unique<LayoutSteps>(request_, elsewhere ? request_.prefill_machine() : request_.machine, layout);
  return *steps;
}

UnderLoad LoadPlayer::play(const ServedLayout& plan) {
  const ServeLayout& first = plan.pools ? plan.pools->prefill : plan.layout;
  ServingSystem system;
  system.workers = rules_of(request_, steps_of(first, plan.pools.has_value()));
  const bool alike = !plan.pools && request_.load->trace.empty();
  system.workers.workers = alike ? std::min(first.replicas, kMostCopies) : first.replicas;
  const double share = static_cast<double>(system.workers.workers) / first.replicas;
  if (plan.pools) {
    LayoutSteps& decode = steps_of(plan.pools->decode);
    system.decode = rules_of(request_, decode);
    system.decode->workers = plan.pools->decode.replicas;
    const std::int64_t isl = request_.workload.isl, bytes = decode.times().kv_bytes_per_token() * isl;
    const double one = handover_time(request_, {bytes}, first.gpus()).value;
    const double two = handover_time(request_, {2 * bytes}, first.gpus()).value;
    system.handover_seconds_per_token = (two - one) / static_cast<double>(isl);
    system.handover_seconds = std::max(0.0, 2 * one - two);
  }
  const ServePrediction& p = *plan.prediction;
  const double life = p.ttft.value + static_cast<double>(request_.workload.osl) * p.tpot.value;
  const double per_second = share * request_.load->requests_per_second;
  const Simulation s = simulate(system, requests_of(request_, share, per_second * life));
  UnderLoad of;
  of.seen = latencies_of(s, kWarmUp);
  of.seen.answers_per_second /= share;
  of.seen.arrivals_per_second /= share;
  of.requests = s.arrived;
  of.steps = s.steps;
  of.preempted = s.preempted;
  of.refused = s.refused;
  of.overloaded = of.seen.answers_per_second < kKeepsUp * of.seen.arrivals_per_second;
  return of;
}

}  // namespace shardwright
