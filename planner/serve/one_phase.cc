#include "planner/serve/one_phase.h"

#include <algorithm>
#include <cmath>

namespace shardwright {
namespace {

double as_double(std::int64_t n) { return static_cast<double>(n); }

std::int64_t ranks_of(const ServeLayout& layout) { return std::int64_t{layout.replicas} * layout.attention_data; }

/// Half the width of an interval in logs: what rows say of the engine beside what tables say of kernels, which holds
/// four in five within 1.28 sigma.
double width(double of_engine, const StepCost& cost) {
  const Seconds all = cost.computing() + cost.communicating();
  return std::hypot(of_engine, all.value > 0 ? 1.28 * (cost.error.total() / all) : 0);
}

ServePrediction prefill_alone(StepTimes& times, const Machine& machine, ServeWorkload w) {
  const ServeEngine& engine = times.engine();
  w.osl = 1;
  ServePrediction p;
  p.memory = serve_memory(times.pricer(), machine, engine, w);
  const std::int64_t fresh = w.isl - w.cached_tokens();
  p.batch = std::clamp<std::int64_t>(engine.max_tokens / fresh, 1, std::max<std::int64_t>(1, p.memory.largest_batch));
  p.concurrency = p.batch * ranks_of(times.layout());
  const StepTimes::Prefill step = times.prefill(p.batch, w.isl, 0, 0, w.cached_tokens());
  p.prefill_added = (1.0 / as_double(p.batch)) * step.added;
  p.ttft = step.latency;
  const double wide = std::exp(width(engine.errors.ttft, step.cost));
  p.ttft_low = (1 / wide) * p.ttft;
  p.ttft_high = wide * p.ttft;
  p.output_tokens_per_second = as_double(p.concurrency) / step.added.value;
  p.input_tokens_per_second = p.output_tokens_per_second * as_double(w.isl);
  p.total_tokens_per_second = p.input_tokens_per_second + p.output_tokens_per_second;
  p.prefill_cost = step.cost;
  p.sources.add(1, step.cost.sources);
  return p;
}

ServePrediction decode_alone(StepTimes& times, const Machine& machine, const ServeWorkload& w) {
  const ServeEngine& engine = times.engine();
  const std::int64_t ranks = ranks_of(times.layout());
  ServePrediction p;
  p.memory = serve_memory(times.pricer(), machine, engine, w);
  const std::int64_t most = std::max<std::int64_t>(1, p.memory.largest_batch);
  const std::int64_t asked = w.concurrency.value_or(most * ranks);
  p.batch = std::clamp<std::int64_t>((asked + ranks - 1) / ranks, 1, most);
  p.concurrency = std::min(asked, most * ranks);
  const StepTimes::Decode step = times.decode(p.batch, w.isl + w.osl / 2, w.speculation);
  p.decode_step = step.time;
  p.host = step.host;
  p.decode_cost = step.cost;
  p.tpot = (1 / w.speculation.gained()) * step.time;
  const double wide = std::exp(width(engine.errors.tpot, step.cost));
  p.tpot_low = (1 / wide) * p.tpot;
  p.tpot_high = wide * p.tpot;
  p.output_tokens_per_second = as_double(p.concurrency) / p.tpot.value;
  p.total_tokens_per_second = p.output_tokens_per_second;
  p.tokens_per_second_per_user = 1 / p.tpot.value;
  p.sources.add(1, step.cost.sources);
  return p;
}

}  // namespace

ServePrediction one_phase(StepTimes& times, const Machine& machine, const ServeWorkload& w) {
  ServePrediction p =
      w.phase == ServePhase::prefill ? prefill_alone(times, machine, w) : decode_alone(times, machine, w);
  const StepCost& cost = w.phase == ServePhase::prefill ? p.prefill_cost : p.decode_cost;
  const double wide = std::exp(width(times.engine().errors.throughput, cost));
  p.output_low = p.output_tokens_per_second / wide;
  p.output_high = p.output_tokens_per_second * wide;
  const ServeLayout& layout = times.layout();
  p.output_tokens_per_second_per_gpu = p.output_tokens_per_second / as_double(layout.gpus());
  const std::int64_t page = times.engine().block_tokens * layout.context;
  for (int stage = 0; stage < layout.pipeline; ++stage)
    p.kv_bytes_per_token += times.pricer().kv(static_cast<std::size_t>(stage), page).value;
  p.kv_bytes_per_token /= times.engine().block_tokens;
  const bool answers = w.phase == ServePhase::decode && p.output_tokens_per_second > 0;
  if (machine.price_per_gpu_hour && answers)
    p.cost_per_million_output_tokens =
        *machine.price_per_gpu_hour * as_double(layout.gpus()) / 3600 / p.output_tokens_per_second * 1e6;
  return p;
}

}  // namespace shardwright
