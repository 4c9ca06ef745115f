#pragma once

#include "planner/cost/shape_price.h"
#include "planner/engine/engine.h"

namespace shardwright {

/// What keeping the weights of one graph in step costs under a layout's data parallelism and ZeRO stage.
///
/// zero 0   gradients all-reduced once a step
/// zero 1   reduce-scattered once a step, parameters all-gathered once
/// zero 2   reduce-scattered every micro-batch, parameters all-gathered once
/// zero 3   reduce-scattered every micro-batch, parameters all-gathered in every forward and again in every backward
/// With an engine's reduces_once_in_pipelines zero 2 and 3 reduce-scatter once a step where there are stages.
/// What is left of a partial gradient after the reduce-scatter (other replicas of the shard, tp for norms) is
/// all-reduced once a step, on the shard. The optimizer streams its state once, times the engine's optimizer_traffic.
/// Times of communications are those of the layout's overlaps: what runs beside compute is slower (EngineConstants).
struct DataCost {
  Seconds forward, backward;  ///< of one micro-batch
  Seconds reduction, gather;  ///< once a step, before and after the optimizer
  Seconds optimizer;
  Bytes weights, gradients, optimizer_state;  ///< resident
  Bytes widened;                              ///< gradients in fp32, while the optimizer works on them
  Bytes buffer;                               ///< gathered parameters and unsharded gradients while the graph runs
};

/// Of so many elements of weights that products below 16 bits read: their casts. Transformer Engine casts 16-bit ones
/// once a step, row-wise and column-wise, and keeps both; of narrow ones it keeps the transpose.
Bytes narrow_casts(std::int64_t elements, const Workload& workload);

/// What of `moves` shows beside `work`: what is longer than that, and by how much it slows what it hides behind, taking
/// a share of the multiprocessors from it. (The first of a row of moves has nothing to hide behind: add it whole.)
Seconds visible(Seconds moves, Seconds work, double multiprocessors);

/// `without_tied`: the table shared by embedding and head is counted elsewhere.
DataCost data_cost(const GraphPrice& price, const Layout& layout, const Machine& machine, const Workload& workload,
                   bool without_tied = false, const Engine& engine = Engine{});

/// The same without times.
DataCost data_bytes(const GraphPrice& price, const Layout& layout, const Workload& workload, bool without_tied,
                    const Engine& engine);

/// Which communications of the weights run beside compute: gathers beside forward, and what runs in backward there.
/// ZeRO-3 gathers and reduces in backward, ZeRO-2 reduces, or nothing where that happens once a step.
struct BesideCompute {
  bool forward, backward, reduction;
};
BesideCompute beside_compute(Overlaps overlap, int zero);

/// Ranks that a stage's weights (experts' with `routed`) are cut over by ZeRO, beyond what tp, or ep and etp, cut.
std::int64_t zero_parts(const Layout& layout, bool routed);

/// What data_cost's times are made of: for each micro-batch, and once a step.
struct AskedForData {
  std::vector<AskedKernel> each, once;
};
AskedForData asked_for_data(const GraphPrice& price, const Layout& layout, const Machine& machine,
                            const TrainingFormats& formats, bool without_tied = false, const Engine& engine = Engine{});

}  // namespace shardwright
