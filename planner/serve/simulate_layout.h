#pragma once

#include <map>
#include <memory>
#include <utility>

#include "planner/serve/serve_plan.h"

namespace shardwright {

/// A layout's steps as a table, and what its ranks hold.
class LayoutSteps {
 public:
  /// `layout`: one copy. Precondition: impossible() has nothing against it.
  LayoutSteps(const ServeRequest& request, const Machine& machine, const ServeLayout& layout);

  StepTable& table() { return table_; }
  StepTimes& times() { return times_; }
  const ServeLayout& layout() const { return times_.layout(); }
  const Machine& machine() const { return machine_; }
  /// Tokens of requests like the workload's whose keys and values a rank holds.
  std::int64_t kv_tokens() const { return kv_tokens_; }

 private:
  Machine machine_;
  StepTimes times_;
  StepTable table_;
  std::int64_t kv_tokens_ = 0;
};

/// What the engine's scheduler does with it.
WorkerRules rules_of(const ServeRequest& request, LayoutSteps& steps);

/// Plays a question's load against its layouts; each layout's steps are priced once.
class LoadPlayer {
 public:
  /// Precondition: `request.load`. Keeps a reference.
  explicit LoadPlayer(const ServeRequest& request) : request_(request) {}
  /// Precondition: the plan fits, and has a prediction.
  UnderLoad play(const ServedLayout& plan);
  /// On the question's machine, or on that which prefills.
  LayoutSteps& steps_of(ServeLayout layout, bool prefills = false);

 private:
  const ServeRequest& request_;
  std::map<std::pair<bool, ServeLayout>, std::unique_ptr<LayoutSteps>> steps_;
};

}  // namespace shardwright
