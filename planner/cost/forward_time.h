#pragma once

#include <cstdint>
#include <optional>

#include "planner/plan.h"

namespace shardwright {

/// A training layout as its ranks answer prompts, each with the weights that it has: a decoded token has no sequence to
/// cut, so all of a tp group see all tokens, and those of a context answer prompts of their own, as further dp ranks.
Layout answering(Layout layout);

/// What the ranks of a training layout take to pass `tokens` of each of a micro-batch's sequences forward, behind
/// `cached` ones whose keys and values are kept, until the logits: a step of inference as `run --decode` does it, each
/// operator as if it had the rank to itself. Prefill has nothing cached, decode one token. Nothing of layouts with
/// stages, whose handing on is not in it.
std::optional<Seconds> forward_time(const PlanRequest& request, const Layout& trained, std::int64_t tokens,
                                    std::int64_t cached);

}  // namespace shardwright
