#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "planner/explain.h"
#include "planner/serve/serve_detail.h"

namespace shardwright {

/// The keys of a served layout that the search for a better one changes. Copies (dp) follow, since the GPUs stay the
/// same, but for ep alone; ep and etp follow tp, attention_dp and cp, as experts fold over the same ranks; etp follows
/// ep. cp only goes back to 1: the space has no other.
enum class ServeKey { tp, pp, attention_dp, cp, ep };
inline constexpr int kServeKeys = 5;
std::string_view name_of(ServeKey);

/// Pins of exactly this layout, with these keys, and what follows them, free.
ServePins pins_around(const ServeLayout& layout, const Model& model, const std::vector<ServeKey>& free);

/// The best load of the best layout among those that differ in these keys alone (and in what follows them).
struct ServeChange {
  std::vector<ServeKey> keys;
  ServedLayout plan;
  bool turns = false;  ///< it keeps what is promised where the other did not; else it answers as much as the best
};

/// What becomes of a layout at its best load.
enum class ServeStanding {
  best,            ///< nothing in the question's space answers more
  slower,          ///< than the best
  breaks_promise,  ///< at every load
  too_large,       ///< no request fits
  impossible,      ///< it cannot be run
};
std::string_view name_of(ServeStanding);  ///< "best", "slower", "breaks_promise", "too_large", "impossible"

/// A decode round (the time between two tokens, or between two groups of them where tokens are proposed): kernels by
/// kind as if alone, less what of the experts' exchange is hidden ("hidden", below 0), "host", "engine" (gaps between
/// kernels, stages that wait, the engine's own pace), "prompts" of others in between. They add up to
/// tpot x Speculation::gained(). Parts of no time are left out. Of pools the decoding worker's.
std::vector<StepPart> round_parts(const ServePrediction& prediction, const Speculation& speculation);

struct ServeExplanation {
  ServeResult asked;  ///< the question, with the GPUs of the layout where none were given; no plans
  ServeStanding standing = ServeStanding::impossible;
  ServedLayout layout;             ///< at its best load; nearest to what is promised where none keeps it
  std::optional<Rejection> limit;  ///< what forbids a larger batch: memory, the engine, a promise; nothing answers more
  std::optional<ServedLayout> best;  ///< of the question without pins; nothing where nothing keeps what is promised
  SearchSummary search;              ///< for it
  std::vector<ServeChange> changes;  ///< of one key, that turn it or answer more; most first
  std::vector<ServeChange> pairs;    ///< of two keys, where no single one turns it; most first, at most kMostPairs
  std::optional<ServedLayout> against;
  std::vector<ServeWhatIf> what_ifs;
};

/// Why a served layout is what it is, beside the best that plan_serving finds for the same question. `request`: as of
/// estimate_serving, without a load; its pins are the layout. `against`: pins of a layout to compare with, on the same
/// GPUs. Throws InputError as estimate_serving does, and for redundant or shared experts, which the space does not
/// have.
ServeExplanation explain_serving(const ServeRequest& request, const std::optional<ServePins>& against, bool what_ifs);

}  // namespace shardwright
