// How fast serving is played: Llama-3.1-70B in fp8 on 8 H100 under vLLM, Poisson arrivals, chunked prompts. items:
// steps of an engine.

#include <benchmark/benchmark.h>

#include <stdexcept>

#include "planner/serve/simulate_layout.h"

namespace shardwright {
namespace {

ServeRequest question() {
  ServeRequest r;
  r.model = find_model("llama-3.1-70b");
  r.machine = find_machine("h100-sxm-80gb");
  r.engine = find_serve_engine("vllm", "--engine");
  r.workload = {1024, 256, {}, {WeightFormat::fp8, WeightFormat::fp8, KvFormat::fp8}, {}};
  return r;
}

/// The table is filled before; `copies` of tp 8, at `percent` of what they bear about.
void simulate_steps(benchmark::State& state) {
  const ServeRequest r = question();
  const auto copies = static_cast<int>(state.range(0));
  const double rate = 12 * static_cast<double>(copies * state.range(1)) / 100;
  LayoutSteps steps(r, r.machine, {.tensor = 8});
  ServingSystem system{rules_of(r, steps), {}};
  system.workers.workers = copies;
  const SimulatedLoad load{
      poisson_arrivals(rate, 10000, r.workload.isl, r.workload.osl, {LengthSpread::Kind::lognormal, 0.5}, 1), {}, {}};
  std::int64_t done = simulate(system, load).steps;
  done = 0;
  for (auto _ : state) {
    const Simulation s = simulate(system, load);
    if (s.answered != 10000) throw std::logic_error("requests were lost");
    done += s.steps;
  }
  state.SetItemsProcessed(done);
}
BENCHMARK(simulate_steps)
    ->ArgNames({"copies", "percent"})
    ->Args({1, 50})
    ->Args({1, 90})
    ->Args({8, 90})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shardwright

BENCHMARK_MAIN();
