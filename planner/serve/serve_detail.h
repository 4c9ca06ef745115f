#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/plan_detail.h"
#include "planner/serve/serve_plan.h"

namespace shardwright {

/// Where the ranks of a worker meet. `pool`: "prefill", "decode"; empty where both are on the same GPUs.
struct PoolLinks {
  std::string pool;
  std::vector<AxisLinks> axes;  ///< "attention_dp" is what layouts of training have as "dp"
};

/// A layout, at its best load, in the question with one thing changed.
struct ServeWhatIf {
  std::string name, meaning;         ///< "network_twice", "links between nodes twice as fast"
  std::optional<ServedLayout> same;  ///< nothing where it no longer fits, or no load keeps what is promised
};

/// What stands behind the first plan of an answer, beyond its prediction.
struct ServeDetail {
  Machine machine;  ///< as a job of so many GPUs meets it (evenly_filled)
  std::vector<PoolLinks> pools;
  std::vector<ServeWhatIf> what_ifs;  ///< none of a load, which says how many tokens there are
};

/// Nothing where there is no plan, or it cannot be computed or does not fit.
std::optional<ServeDetail> detail_of_first(const ServeRequest& request, const ServeResult& result);

}  // namespace shardwright
