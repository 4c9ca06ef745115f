#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hardware/kernel_work.h"
#include "planner/explain.h"
#include "planner/plan.h"

namespace shardwright {

/// A kernel or collective of a layout. Calls and seconds are those of one GPU in one step, on the mean of its stages,
/// hidden ones, too.
struct KernelUse {
  KernelSpec spec;
  KernelCost cost;  ///< of one call
  double calls = 0;
  std::optional<KernelWork> work;  ///< of one call
  Seconds seconds() const { return calls * cost.time; }
};

/// Ranks that split something among them, and the links between them.
struct AxisLinks {
  std::string axis;  ///< "tp", "cp", "dp", "pp", "ep", "etp"
  std::int64_t ranks = 1;
  struct Level {
    std::string name;        ///< LinkLevel::name
    std::int64_t ranks = 1;  ///< of the group inside one unit of the level
  };
  std::vector<Level> levels;  ///< those at which ranks of the group meet, innermost first
};

/// Those of more than one rank. Precondition: stage_mesh has nothing against the layout.
std::vector<AxisLinks> axes_of(const Model& model, const Machine& machine, const Layout& layout);

/// How a layout would fare in a question with one thing changed (what_if_questions).
struct SameLayout {
  std::string name, meaning;
  Prediction prediction;
  bool fits = false;
};

/// What stands behind one priced layout, beyond its prediction.
struct PlanDetail {
  Model model;
  Machine machine;        ///< as a job of so many GPUs meets it (evenly_filled)
  int slowest_stage = 0;  ///< its parts are `parts`
  std::vector<StepPart> parts;
  std::vector<std::vector<MemoryItem>> tensors;  ///< by stage, largest first
  std::vector<KernelUse> kernels;                ///< longest first
  std::vector<AxisLinks> axes;                   ///< those of more than one rank
  std::vector<TraceSpan> spans;                  ///< as trace_of
  std::vector<SameLayout> what_ifs;
};

/// Of a layout that can be computed. `plan`: of an answer to `request`.
PlanDetail detail_of(const PlanRequest& request, const PricedLayout& plan);
/// Of the first plan of an answer, where there is one that can be computed.
std::optional<PlanDetail> detail_of_first(const PlanRequest& request, const PlanResult& result);

}  // namespace shardwright
