#include "planner/serve/steady_state.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "planner/cost/collective_cost.h"

namespace shardwright {
namespace {

using enum ServeConstant;

double as_double(std::int64_t n) { return static_cast<double>(n); }

std::int64_t divided_up(std::int64_t n, std::int64_t parts) { return (n + parts - 1) / parts; }

}  // namespace

StepTimes::StepTimes(const Model& model, const Machine& machine, const ServeFormats& formats, const ServeEngine& engine,
                     const ServeLayout& layout, Pace pace)
    : engine_(engine), layout_(layout), pricer_(model, machine, formats, engine, layout, pace) {}

const StepTimes::Known& StepTimes::known(const Step& step) {
  const auto at = known_.find(step);
  if (at != known_.end()) return at->second;
  return known_.emplace(step, Known{pricer_.stages(step), pricer_.handover(step)}).first->second;
}

Seconds StepTimes::device(const StepCost& cost, ServeConstant factor) const {
  const ServeConstants& c = engine_.constants;
  const Seconds kernels = c[factor] * cost.computing() + c[communication_factor] * cost.communicating();
  const Seconds between{c[kernel_seconds] * cost.kernels};
  return std::max(0.25 * kernels, kernels + between);
}

StepTimes::Decode StepTimes::decode(std::int64_t batch, std::int64_t context, const Speculation& speculation) {
  const ServeConstants& c = engine_.constants;
  const std::int64_t parts = std::clamp<std::int64_t>(batch, 1, layout_.pipeline);
  const std::int64_t each = std::max<std::int64_t>(1, divided_up(batch, parts));
  const Known& step = known({{each, 1 + speculation.tokens, context}});
  Decode d;
  Seconds slowest;
  for (const StepCost& stage : step.stages) {
    const Seconds time = device(stage, decode_factor);
    slowest = std::max(slowest, time);
    d.time += time;
    d.cost.add(1, stage);
  }
  d.time += as_double(layout_.pipeline - 1) * c[communication_factor] * step.handover;
  if (speculation.tokens > 0) {
    const auto [known, is_new] = proposals_.try_emplace({each, context});
    if (is_new) known->second = pricer_.proposal(each, context);
    d.cost.add(speculation.tokens, known->second);
    d.time += speculation.tokens * device(known->second, decode_factor);
  }
  d.time = std::max(d.time, as_double(parts) * slowest);
  d.host = host(batch);
  d.time += d.host;
  return d;
}

void StepTimes::size_to_load(const Machine& machine, const ServeWorkload& w) {
  if (!engine_.offline_size) return;
  const SizedToLoad& limits = *engine_.offline_size;
  const std::int64_t batch = std::clamp<std::int64_t>(memory(machine, w).fits, 1, limits.most_sequences);
  const double tokens = as_double(batch) * (1 + as_double(w.isl) / as_double(w.osl));
  engine_.max_sequences = batch;
  engine_.max_tokens = std::clamp(static_cast<std::int64_t>(tokens), limits.fewest_tokens, limits.most_tokens);
  memory_.clear();
}

const ServeMemory& StepTimes::memory(const Machine& machine, const ServeWorkload& w) {
  const auto [known, is_new] =
      memory_.try_emplace({w.isl, w.osl, w.speculation.tokens, static_cast<std::int64_t>(w.phase)});
  if (is_new) known->second = serve_memory(pricer_, machine, engine_, w);
  return known->second;
}

std::int64_t StepTimes::kv_bytes_per_token() {
  if (kv_bytes_per_token_ > 0) return kv_bytes_per_token_;
  // Without the page's rounding: of a whole number of pages.
  const std::int64_t block = engine_.block_tokens;
  std::int64_t bytes = 0;
  for (std::size_t s = 0; s < pricer_.layers_per_stage().size(); ++s)
    bytes += pricer_.kv(s, block * layout_.context).value;
  return kv_bytes_per_token_ = bytes / block;
}

Seconds StepTimes::host(std::int64_t batch) const {
  return Seconds{engine_.constants[step_seconds] + engine_.constants[sequence_seconds] * as_double(batch)};
}

StepTimes::Prefill StepTimes::beside(const SequenceGroup& group, std::int64_t batch, std::int64_t context) {
  Step mixed = {group};
  if (batch > 0) mixed.push_back({batch, 1, context});
  const Known& with = known(mixed);
  const Known* without = batch > 0 ? &known({{batch, 1, context}}) : nullptr;
  Prefill p;
  for (std::size_t s = 0; s < with.stages.size(); ++s) {
    StepCost more = with.stages[s];
    Seconds others;
    if (without) {
      more.add(-1, without->stages[s]);
      others = device(without->stages[s], decode_factor);
    }
    const Seconds added = std::max(Seconds{}, device(more, prefill_factor));
    p.added = std::max(p.added, added);
    p.latency += added + others;
    p.cost.add(1, more);
  }
  p.latency += host(batch) + as_double(layout_.pipeline - 1) * engine_.constants[communication_factor] * with.handover;
  return p;
}

StepTimes::Prefill StepTimes::prefill(std::int64_t prompts, std::int64_t isl, std::int64_t batch, std::int64_t context,
                                      std::int64_t cached) {
  // Chunks: as many tokens of a step as decoding leaves. The middle one stands for all.
  const std::int64_t room =
      std::max<std::int64_t>(std::min<std::int64_t>(64, engine_.max_tokens), engine_.max_tokens - batch);
  isl -= cached;
  const std::int64_t chunks = engine_.chunked_prefill ? std::max<std::int64_t>(1, divided_up(prompts * isl, room)) : 1;
  SequenceGroup group{prompts, isl, cached};
  if (chunks > 1 && prompts == 1)
    group = {1, divided_up(isl, chunks), cached + (isl - divided_up(isl, chunks)) / 2};
  else if (chunks > 1)
    group = {std::max<std::int64_t>(1, prompts / chunks), isl, cached};
  const double times = as_double(prompts * isl) / as_double(group.sequences * group.tokens);
  const Prefill one = beside(group, batch, context);
  Prefill p;
  p.cost.add(times, one.cost);
  p.latency = one.latency + (times - 1) * one.added;
  p.added = times * one.added;
  if (batch == 0) p.added += times * host(0);
  return p;
}

StepTimes::Prefill StepTimes::piece(std::int64_t tokens, std::int64_t reach, std::int64_t batch, std::int64_t context) {
  // One prompt's tokens behind others of it, or several prompts from their beginning.
  const std::int64_t prompts = 2 * reach >= tokens ? 1 : divided_up(tokens, 2 * std::max<std::int64_t>(1, reach));
  const std::int64_t each = divided_up(tokens, prompts);
  Prefill p = beside({prompts, each, std::max<std::int64_t>(0, reach - each / 2)}, batch, context);
  if (batch == 0) p.added += host(0);
  return p;
}

namespace {

/// Decode steps of any number of sequences, on straight lines between some that are priced.
class DecodeLine {
 public:
  DecodeLine(StepTimes& times, std::int64_t most, std::int64_t context, const Speculation& speculation) {
    for (const std::int64_t n : {std::int64_t{1}, most / 4, most / 2, most})
      if (n >= 1 && (points_.empty() || as_double(n) > points_.back().first))
        points_.push_back({as_double(n), times.decode(n, context, speculation).time});
  }
  Seconds at(double batch) const {
    for (std::size_t i = 1; i < points_.size(); ++i) {
      if (batch > points_[i].first && i + 1 < points_.size()) continue;
      const auto& [few, short_time] = points_[i - 1];
      const auto& [many, long_time] = points_[i];
      const double share = std::clamp((batch - few) / (many - few), 0.0, 1.0);
      return short_time + share * (long_time - short_time);
    }
    return points_.front().second;
  }

 private:
  std::vector<std::pair<double, Seconds>> points_;
};

/// Where as many requests come as end: `rate` a second, `decoding` of those in flight have their first token.
struct Balance {
  double rate = 0, decoding = 0;
  Seconds step, slot;  ///< without and with the prompts of others
};

/// Little's law of requests in flight: in_flight = rate (ttft + further slot). It rises with the rate, so by bisection.
Balance balance_of(const DecodeLine& line, double in_flight, double further, Seconds added, Seconds latency) {
  const double others = (in_flight - 1) / in_flight;
  const auto at = [&](double rate) {
    Balance b;
    b.rate = rate;
    const double busy = rate * added.value * others;
    // Steps grow less than their sequences, so this comes from below and settles.
    for (int round = 0; round < 40 && b.decoding <= in_flight; ++round) {
      b.step = line.at(b.decoding);
      b.slot = Seconds{b.step.value / (1 - busy)};
      b.decoding = rate * further * b.slot.value;
    }
    return b;
  };
  double low = 0, high = std::min(in_flight / latency.value, others > 0 ? 0.9999 / (added.value * others) : INFINITY);
  for (int round = 0; round < 60; ++round) {
    const double middle = 0.5 * (low + high);
    const Balance b = at(middle);
    const double waiting = middle * (latency + 0.5 * b.step).value;
    (b.decoding + waiting > in_flight ? high : low) = middle;
  }
  return at(low);
}

/// How long `requests` take of which at most `most` run at once, all waiting at the start. In each step as many prompts
/// as its tokens hold go in, `added` each, while there are both requests and room; those that went in together end
/// together, `further` steps later. On one rank.
struct QueueSteps {
  std::int64_t prompts = 1;  ///< of a step
  double steps = 1;          ///< of one such lot
};
Seconds drained(const DecodeLine& line, std::int64_t requests, std::int64_t most, double further, Seconds added,
                const QueueSteps& lot) {
  std::deque<std::pair<double, std::int64_t>> ends;  // step, requests
  std::int64_t running = 0;
  double step = 0;
  Seconds time;
  while (requests > 0 || running > 0) {
    const bool enters = requests > 0 && running < most;
    const double steps = enters ? lot.steps : ends.front().first - step;
    if (running > 0) time += steps * line.at(as_double(running));
    step += steps;
    if (enters) {
      const std::int64_t n = std::min({lot.prompts, requests, most - running});
      time += as_double(n) * added;
      ends.push_back({step + further, n});
      requests -= n;
      running += n;
    }
    for (; !ends.empty() && ends.front().first <= step; ends.pop_front()) running -= ends.front().second;
  }
  return time;
}

/// Rates from the answers that end.
void finish(ServePrediction& p, const Machine& machine, const ServeEngine& engine, const ServeWorkload& w,
            std::int64_t gpus, double answers_per_second) {
  complete(p, machine, engine, p.decode_cost, gpus, answers_per_second * as_double(w.isl),
           answers_per_second * as_double(w.osl));
}

/// Prompts that come together: as many as end at once in the mean, at least one.
std::int64_t together(const ServeEngine& engine, const ServeWorkload& w, double batch) {
  const double ended = batch * w.speculation.gained() / as_double(w.osl);
  const std::int64_t most = std::max<std::int64_t>(1, engine.max_tokens / std::max<std::int64_t>(1, w.isl));
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::round(ended)), 1, most);
}

}  // namespace

void complete(ServePrediction& p, const Machine& machine, const ServeEngine& engine, const StepCost& step,
              std::int64_t gpus, double input_tokens_per_second, double output_tokens_per_second) {
  // What rows say of the engine beside what tables say of kernels: 1.28 sigma hold four in five.
  const Seconds all = step.computing() + step.communicating();
  const double kernels = all.value > 0 ? 1.28 * (step.error.total() / all) : 0;
  const auto factor = [&](double of_engine) { return std::exp(std::hypot(of_engine, kernels)); };
  const double first = factor(engine.errors.ttft), further = factor(engine.errors.tpot),
               rate = factor(engine.errors.throughput);
  p.ttft_low = (1 / first) * p.ttft;
  p.ttft_high = first * p.ttft;
  p.tpot_low = (1 / further) * p.tpot;
  p.tpot_high = further * p.tpot;
  p.input_tokens_per_second = input_tokens_per_second;
  p.output_tokens_per_second = output_tokens_per_second;
  p.output_low = output_tokens_per_second / rate;
  p.output_high = output_tokens_per_second * rate;
  p.output_tokens_per_second_per_gpu = output_tokens_per_second / as_double(gpus);
  p.total_tokens_per_second = input_tokens_per_second + output_tokens_per_second;
  p.tokens_per_second_per_user = p.tpot.value > 0 ? 1 / p.tpot.value : 0;
  if (machine.price_per_gpu_hour && p.tpot.value > 0 && output_tokens_per_second > 0)
    p.cost_per_million_output_tokens =
        *machine.price_per_gpu_hour * as_double(gpus) / 3600 / output_tokens_per_second * 1e6;
}

Seconds handover_time(Bytes kv, std::int64_t prefill_gpus, const Machine& machine) {
  RankGroup pair;
  pair.add(2, prefill_gpus);
  return collective_cost({CollectiveKind::send_recv, kv, pair}, machine).time;
}

ServePrediction aggregated(StepTimes& times, const Machine& machine, const ServeWorkload& w) {
  const ServeLayout& layout = times.layout();
  const ServeEngine& engine = times.engine();
  const std::int64_t ranks = std::int64_t{layout.replicas} * layout.attention_data;
  ServePrediction p;
  p.memory = times.memory(machine, w);
  p.kv_bytes_per_token = times.kv_bytes_per_token();
  const std::int64_t most = std::max<std::int64_t>(1, p.memory.largest_batch);  // what does not fit is priced, too
  const double asked = w.concurrency ? as_double(*w.concurrency) / as_double(ranks) : as_double(most);
  const double running = std::clamp(asked, 1.0, as_double(most));
  p.batch = static_cast<std::int64_t>(std::ceil(running));
  p.concurrency = w.concurrency.value_or(most * ranks);

  const std::int64_t context = w.isl + w.osl / 2;
  const StepTimes::Decode full = times.decode(p.batch, context, w.speculation);
  const DecodeLine line(times, p.batch, context, w.speculation);
  const std::int64_t prompts = together(engine, w, running);
  const StepTimes::Prefill prefill = times.prefill(prompts, w.isl, p.batch, context, w.cached_tokens());
  const Seconds added = (1.0 / as_double(prompts)) * prefill.added;
  const double gained = w.speculation.gained(), further = as_double(std::max<std::int64_t>(0, w.osl - 1)) / gained;
  const Balance balance = balance_of(line, running, further, added, prefill.latency);
  // Clumps move waiting from further tokens to the first.
  const double others = running - 1, behind = engine.prefill_first ? 0.5 * others : 0.5 * std::sqrt(others);
  const Seconds queued = std::min(engine.constants[clumping] * std::min(behind, 0.5 * others), others) * added;
  const Seconds spared = further > 0 ? std::min((1 / further) * queued, balance.slot - balance.step) : Seconds{};
  p.tpot = (1 / gained) * (balance.slot - spared);
  p.ttft = prefill.latency + 0.5 * balance.step + queued;
  if (asked > running) p.ttft += Seconds{(asked - running) / balance.rate};
  p.decode_step = full.time;
  p.prefill_added = added;
  p.host = full.host;
  p.decode_cost = full.cost;
  p.sources.add(further, full.cost.sources);
  p.sources.add(1.0 / as_double(prompts), prefill.cost.sources);
  // Fewer clients than ranks leave some of them without work.
  double answers = balance.rate * as_double(ranks) * std::min(1.0, asked);
  if (w.queued) {
    const std::int64_t room = std::max(w.isl, engine.max_tokens - p.batch), all = divided_up(*w.queued, ranks);
    const QueueSteps lot{std::max<std::int64_t>(1, room / w.isl), as_double(divided_up(w.isl, engine.max_tokens))};
    answers = as_double(*w.queued) / drained(line, all, p.batch, further, added, lot).value;
  }
  finish(p, machine, engine, w, layout.gpus(), answers);
  return p;
}

ServePrediction decoding(StepTimes& times, const Machine& machine, const ServeWorkload& w, std::int64_t batch) {
  const ServeLayout& layout = times.layout();
  const std::int64_t sequences = batch * layout.attention_data * layout.replicas;
  const double gained = w.speculation.gained(), further = as_double(std::max<std::int64_t>(1, w.osl - 1)) / gained;
  const StepTimes::Decode step = times.decode(batch, w.isl + w.osl / 2, w.speculation);
  ServePrediction p;
  p.memory = times.memory(machine, w);
  p.kv_bytes_per_token = times.kv_bytes_per_token();
  p.batch = batch;
  p.concurrency = sequences;
  p.ttft = step.time;
  p.tpot = (1 / gained) * step.time;
  p.decode_step = step.time;
  p.host = step.host;
  p.decode_cost = step.cost;
  p.sources.add(further, step.cost.sources);
  finish(p, machine, times.engine(), w, layout.gpus(), as_double(sequences) / (further * step.time.value));
  return p;
}

ServePrediction aggregated_at_rate(StepTimes& times, const Machine& machine, const ServeWorkload& workload,
                                   double per_second) {
  const ServeConstants constants = times.engine().constants;
  ServeConstants apart = constants;
  apart[clumping] = 0;  // of closed loops: requests that come by themselves come one by one
  times.use(apart);
  ServeWorkload w = workload;
  w.concurrency.reset();
  ServePrediction p = aggregated(times, machine, w);
  // More clients ask more often; steps are priced anew for each number, so by halves.
  std::int64_t low = 0, high = p.concurrency;
  while (high - low > std::max<std::int64_t>(1, high / 64)) {
    w.concurrency = low + (high - low) / 2;
    const ServePrediction middle = aggregated(times, machine, w);
    const bool enough = middle.output_tokens_per_second >= per_second * as_double(w.osl);
    if (enough) p = middle;
    (enough ? high : low) = *w.concurrency;
  }
  times.use(constants);
  return p;
}

PoolPrediction disaggregated(StepTimes& prefill, StepTimes& decode, const Machine& machine, const ServeWorkload& w) {
  const ServeLayout &there = prefill.layout(), &here = decode.layout();
  const ServeEngine& engine = decode.engine();
  const std::int64_t context = w.isl + w.osl / 2, ranks = std::int64_t{here.replicas} * here.attention_data;
  PoolPrediction pool;
  ServePrediction& p = pool.all;
  p.memory = decode.memory(machine, w);
  ServeWorkload prompts = w;
  prompts.osl = 1;
  pool.prefill_memory = prefill.memory(machine, prompts);
  p.kv_bytes_per_token = decode.kv_bytes_per_token();
  const std::int64_t most = std::max<std::int64_t>(1, p.memory.largest_batch);

  // A worker's ranks prefill side by side, each one prompt.
  const StepTimes::Prefill one = prefill.prefill(1, w.isl, 0, 0, w.cached_tokens());
  const double servers = as_double(std::int64_t{there.replicas} * there.attention_data);
  const double can_prefill = servers / one.added.value;
  pool.transfer = handover_time({p.kv_bytes_per_token * w.isl}, there.gpus(), machine);
  const double gained = w.speculation.gained(), further = as_double(std::max<std::int64_t>(0, w.osl - 1)) / gained;
  const double asked = w.concurrency ? as_double(*w.concurrency) : as_double(most * ranks);

  // The rate at which prompts come, by bisection: requests in flight grow with it.
  const auto in_flight = [&](double rate, double& batch) {
    batch = 1;
    for (int round = 0; round < 12; ++round) {
      const auto whole = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(batch)), 1, most);
      batch = rate * further * decode.decode(whole, context, w.speculation).time.value / as_double(ranks);
      if (batch > as_double(most)) return double{INFINITY};
    }
    const double busy = rate / can_prefill;
    const double wait = 0.5 * busy / (1 - busy) * one.added.value / servers;
    return rate * (one.latency.value + wait + pool.transfer.value) + batch * as_double(ranks);
  };
  double low = 0, high = 0.98 * can_prefill, batch = 1;
  for (int round = 0; round < 50; ++round) {
    const double middle = 0.5 * (low + high);
    (in_flight(middle, batch) > asked ? high : low) = middle;
  }
  const double rate = low;
  in_flight(rate, batch);
  p.batch = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(batch)), 1, most);
  const StepTimes::Decode step = decode.decode(p.batch, context, w.speculation);
  pool.prefill_busy = rate / can_prefill;
  p.concurrency = static_cast<std::int64_t>(asked);
  p.tpot = (1 / gained) * step.time;
  const double busy = pool.prefill_busy;
  p.ttft = one.latency + pool.transfer + Seconds{0.5 * busy / (1 - busy) * one.added.value / servers};
  const double held = rate * p.ttft.value + batch * as_double(ranks);
  if (asked > held && rate > 0) p.ttft += Seconds{(asked - held) / rate};
  p.decode_step = step.time;
  p.prefill_added = one.added;
  p.host = step.host;
  p.decode_cost = step.cost;
  p.sources.add(further, step.cost.sources);
  p.sources.add(1, one.cost.sources);
  finish(p, machine, engine, w, there.gpus() + here.gpus(), rate);
  return pool;
}

}  // namespace shardwright
