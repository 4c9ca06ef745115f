#include "planner/serve/serve_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace shardwright {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
double in_gib(Bytes b) { return static_cast<double>(b.value) / kGiB; }

Bytes share(double fraction, Bytes of) { return {static_cast<std::int64_t>(fraction * static_cast<double>(of.value))}; }

ServeMemory of_stage(StepPricer& pricer, const Machine& machine, const ServeEngine& engine,
                     const ServeWorkload& workload, std::size_t stage, Bytes weights) {
  ServeMemory m;
  m.stage = static_cast<int>(stage);
  m.weights = weights;
  const bool last = stage + 1 == pricer.layers_per_stage().size();
  if (last && workload.speculation.tokens > 0) m.weights += pricer.prediction_weights();
  const bool decodes = workload.phase == ServePhase::decode;
  const std::int64_t prompts = engine.chunked_prefill ? engine.max_tokens : std::max(engine.max_tokens, workload.isl);
  const std::int64_t tokens = decodes ? engine.max_sequences * (1 + workload.speculation.tokens) : prompts;
  m.activations = pricer.activations(tokens);
  if (last) m.activations = std::max(m.activations, pricer.logits(engine.max_sequences));
  m.cuda_graphs = engine.cuda_graphs;
  m.workspace = engine.workspace;
  m.usable = machine.usable_memory();
  m.holds_weights = m.needed_without_kv() <= m.usable;
  const Bytes left = m.usable - m.needed_without_kv();
  m.pool = engine.fraction_of_free
               ? share(engine.memory_fraction, left)
               : share(engine.memory_fraction, machine.memory) - m.needed_without_kv() - machine.unusable_memory;
  m.pool = std::max(Bytes{}, std::min(m.pool, left));
  // Requests that run are on average half way through their answers; without reservations that is what they hold.
  const std::int64_t held =
      workload.isl + (engine.reserves_answers ? workload.osl : (workload.osl + 1) / 2) + workload.speculation.tokens;
  m.kv_per_sequence = pricer.kv(stage, workload.isl + workload.osl);
  const Bytes each = pricer.kv(stage, held);
  m.fits = m.pool < m.kv_per_sequence ? 0 : each.value > 0 ? m.pool.value / each.value : engine.max_sequences;
  m.largest_batch = std::min(m.fits, engine.max_sequences);
  if (!m.holds_weights)
    m.reason = fmt::format("memory: stage {} needs {:.1f} GiB without keys and values, of {:.1f} GiB", stage,
                           in_gib(m.needed_without_kv()), in_gib(m.usable));
  else if (m.fits == 0)
    m.reason = fmt::format("memory: {:.2f} GiB for keys and values, a whole request takes {:.3f} GiB", in_gib(m.pool),
                           in_gib(m.kv_per_sequence));
  else if (m.fits < engine.max_sequences)
    m.reason =
        fmt::format("memory: {:.2f} GiB for keys and values, {:.3f} GiB a sequence", in_gib(m.pool), in_gib(each));
  else
    m.reason = fmt::format("engine: {} runs at most {} sequences at once", engine.name, engine.max_sequences);
  return m;
}

}  // namespace

ServeMemory serve_memory(StepPricer& pricer, const Machine& machine, const ServeEngine& engine,
                         const ServeWorkload& workload) {
  const std::vector<Bytes> weights = pricer.weights();
  ServeMemory worst;
  for (std::size_t s = 0; s < weights.size(); ++s) {
    ServeMemory m = of_stage(pricer, machine, engine, workload, s, weights[s]);
    const bool worse = std::pair(m.fits, m.pool) < std::pair(worst.fits, worst.pool);
    if (s == 0 || worse) worst = std::move(m);
  }
  return worst;
}

}  // namespace shardwright
