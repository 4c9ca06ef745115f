#include "planner/serve/one_phase.h"

#include <algorithm>

namespace shardwright {
namespace {

double as_double(std::int64_t n) { return static_cast<double>(n); }

std::int64_t ranks_of(const ServeLayout& layout) { return std::int64_t{layout.replicas} * layout.attention_data; }

ServePrediction prefill_alone(StepTimes& times, const Machine& machine, ServeWorkload w) {
  const ServeEngine& engine = times.engine();
  w.osl = 1;
  ServePrediction p;
  p.memory = times.memory(machine, w);
  p.kv_bytes_per_token = times.kv_bytes_per_token();
  const std::int64_t fresh = w.isl - w.cached_tokens();
  p.batch = std::clamp<std::int64_t>(engine.max_tokens / fresh, 1, std::max<std::int64_t>(1, p.memory.largest_batch));
  p.concurrency = p.batch * ranks_of(times.layout());
  const StepTimes::Prefill step = times.prefill(p.batch, w.isl, 0, 0, w.cached_tokens());
  p.prefill_added = (1.0 / as_double(p.batch)) * step.added;
  p.ttft = step.latency;
  p.prefill_cost = step.cost;
  p.sources.add(1, step.cost.sources);
  const double prompts = as_double(p.concurrency) / step.added.value;
  complete(p, machine, engine, step.cost, times.layout().gpus(), prompts * as_double(w.isl), prompts);
  return p;
}

ServePrediction decode_alone(StepTimes& times, const Machine& machine, const ServeWorkload& w) {
  const std::int64_t ranks = ranks_of(times.layout());
  const std::int64_t most = std::max<std::int64_t>(1, times.memory(machine, w).largest_batch);
  const std::int64_t asked = w.concurrency.value_or(most * ranks);
  ServePrediction p = decoding(times, machine, w, std::clamp<std::int64_t>((asked + ranks - 1) / ranks, 1, most));
  // Nobody's first token is made here, and the last rank may have fewer sequences.
  p.concurrency = std::min(asked, most * ranks);
  p.ttft = {};
  complete(p, machine, times.engine(), p.decode_cost, times.layout().gpus(), 0,
           as_double(p.concurrency) / p.tpot.value);
  return p;
}

}  // namespace

ServePrediction one_phase(StepTimes& times, const Machine& machine, const ServeWorkload& w) {
  return w.phase == ServePhase::prefill ? prefill_alone(times, machine, w) : decode_alone(times, machine, w);
}

}  // namespace shardwright
