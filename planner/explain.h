#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/cost/operator_times.h"
#include "planner/plan.h"

namespace shardwright {

class Pricer;

/// The keys of a layout that the search for a better one changes. Some bring others along, which then take the fastest
/// value that fits:
///   tp, pp, cp    dp, since the GPUs stay the same; fsdp_group where it is all of dp x cp; what has no meaning before
///                 the change (cp_kind with cp 1, sequence_parallel with tp 1, dispatcher with ep 1, rank_order with
///                 one stage or one replica, zero over one rank); tp also etp
///   ep            etp, dispatcher
///   zero          fsdp_group
///   pp, vpp       schedule, layers_per_stage
/// And layers_per_stage follows every change where the planner chose it. Of a layout that cannot be computed, all that
/// was filled in follows, but for degrees.
enum class LayoutKey { tp, pp, vpp, cp, cp_kind, ep, etp, sequence_parallel, zero, recompute, micro_batch, rank_order };
inline constexpr int kLayoutKeys = 12;
std::string_view name_of(LayoutKey);

/// Pins of exactly this layout.
LayoutPins pins_of(const Layout& layout);
/// The same with these keys, and what they bring along, free. `own_layers`: layers_per_stage is the user's, and stays
/// where the chunks do.
LayoutPins pins_around(const Layout& layout, const std::vector<LayoutKey>& free, bool own_layers);

/// The fastest layout that fits among those that differ in these keys alone (and in what follows them).
struct LayoutChange {
  std::vector<LayoutKey> keys;
  PricedLayout priced;
  bool turns =
      false;  ///< it fits where the other did not; else it is the best of the question, or as good within errors
};

/// A part of a step, by what the slowest stage does in it.
struct StepPart {
  std::string name;  ///< a KernelFamily, "overlap", "exposed tensor" (a Traffic), "optimizer", "host", "bubble"
  Seconds seconds;
};

/// What the slowest stage computes by family, each kernel as if alone; "overlap" is what running beside communication
/// adds to that (less, where a schedule runs two micro-batches at once); what of each parallelism's communication is
/// exposed; the optimizer, the host, the bubble. They add up to the step. Parts of no time are left out.
std::vector<StepPart> step_parts(const Prediction& prediction, const std::vector<OperatorTime>& operators);

/// The stage whose time is the step's: the one that waits least.
int slowest_stage(const Prediction& prediction);

/// A layout with where its time goes.
struct ExplainedLayout {
  PricedLayout priced;
  std::vector<StepPart> parts;  ///< empty without a prediction
};

enum class Standing {
  best,        ///< no layout of the question is faster
  tied,        ///< the best is faster, but not by more than the errors
  slower,      ///< than the best
  too_large,   ///< it does not fit
  impossible,  ///< it cannot be computed
};
std::string_view name_of(Standing);  ///< "best", "tied", "slower", "too_large", "impossible"

/// The question with one thing changed.
struct WhatIf {
  std::string name, meaning;         ///< "network_twice", "links between nodes twice as fast"
  PlanRequest request;               ///< with no pins
  std::optional<PricedLayout> best;  ///< of the changed question; nothing where nothing fits
  std::optional<PricedLayout> same;  ///< the layout that is explained, as it would fare
};

struct Explanation {
  PlanResult asked;  ///< as estimate answers
  Standing standing = Standing::impossible;
  ExplainedLayout layout;
  std::vector<OperatorTime> operators;  ///< of the slowest stage
  std::vector<MemoryItem> tensors;      ///< of the fullest stage
  std::optional<ExplainedLayout> best;  ///< of the question without pins; nothing where nothing fits
  SearchSummary search;                 ///< for it
  std::vector<LayoutChange> changes;    ///< of one key, that turn it or are faster; fastest first
  std::vector<LayoutChange> pairs;    ///< of two keys, where no single one turns it; fastest first, at most kMostPairs
  std::vector<LayoutChange> nearest;  ///< where nothing turns it: of one key, least memory first; they do not fit
  std::optional<ExplainedLayout> against;  ///< the layout to compare with
  std::vector<WhatIf> what_ifs;
};
inline constexpr std::size_t kMostPairs = 3;

/// Why a layout is what it is. `request`: as of estimate; its pins are the layout, its precision is one. Every change
/// is priced as `estimate` would. `against`: pins of a layout to compare with. Throws InputError as estimate does.
Explanation explain(const PlanRequest& request, const std::optional<LayoutPins>& against, bool what_ifs);

/// A machine with one thing changed.
struct MachineChange {
  std::string name, meaning;
  Machine machine;
};
/// The network twice as fast (of a machine with links between nodes), GPUs with 141 GB (where they have less: NVIDIA
/// H200's).
std::vector<MachineChange> machine_changes(const Machine& machine);

/// Questions with one thing changed: the machine, or the global batch doubled.
std::vector<WhatIf> what_if_questions(const PlanRequest& request);

}  // namespace shardwright
