#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hardware/machine.h"
#include "models/model.h"
#include "planner/layout.h"
#include "planner/plan.h"
#include "planner/serve/serve_workload.h"

namespace shardwright {

/// How one copy of a model is split over GPUs to be served, and how many copies there are. Ranks of a stage lie on one
/// line, innermost first: tp, cp, attention_dp; experts fold over the same line: ep * etp = tp * cp * attention_dp.
/// Ordered member by member: a search breaks ties by that.
struct ServeLayout {
  int tensor = 1;              // tp, of attention and the dense parts
  int pipeline = 1;            // pp
  int attention_data = 1;      // attention_dp: parts of the batch, each with keys and values of its own
  int context = 1;             // cp: parts of a prompt, in prefill
  int expert = 1;              // ep
  int expert_tensor = 1;       // etp
  int replicas = 1;            // dp: whole copies of all that
  int redundant = 0;           // further copies of routed experts, in each layer; the busiest ones'
  bool shared_routed = false;  // shared experts lie among the routed ones, and every token chooses them

  auto operator<=>(const ServeLayout&) const = default;
  std::int64_t ranks() const { return std::int64_t{tensor} * context * attention_data; }  ///< of a stage
  std::int64_t gpus() const { return ranks() * pipeline * replicas; }
};

/// Pools that prefill and decode apart; keys and values go from one to the other.
struct PoolLayout {
  ServeLayout prefill, decode;  ///< replicas: workers
  auto operator<=>(const PoolLayout&) const = default;
  std::int64_t gpus() const { return prefill.gpus() + decode.gpus(); }
};

/// What is given of a layout; what is absent is free. Keys of --layout and --pin when serving: tp pp attention_dp cp ep
/// etp dp redundant, `shared=routed` or `apart`, and `serving=aggregated` or `disaggregated`.
struct ServePins {
  std::optional<int> tp, pp, attention_dp, cp, ep, etp, dp;
  std::optional<bool> disaggregated;
  std::optional<int> redundant = {};
  bool shared_routed = false;
};

/// Parses "tp=8,ep=8". Throws InputError as parse_layout does.
ServePins parse_serve_layout(const std::string& text, const std::string& what);
/// Pins of exactly this layout, aggregated.
ServePins pins_of(const ServeLayout& layout, const Model& model);
std::string to_string(const ServeLayout& layout);
std::string to_string(const PoolLayout& layout);

/// The layout that pins stand for: degrees that are not given are 1, but for ep * etp, which fills the stage (all ep
/// unless one of them is given), and dp, which fills `gpus` where that is given. Throws InputError where pins
/// contradict each other or the GPUs.
ServeLayout layout_of(const ServePins& pins, const Model& model, std::optional<std::int64_t> gpus);

/// The model as its experts lie: with redundant copies as experts of their own, which take a share of the rows each (so
/// that all have the same in the mean), and shared experts among them where they are routed.
Model deployed(Model model, const ServeLayout& layout);

/// The same ranks as a training layout, which the graphs are sharded by.
Layout stage_layout(const ServeLayout& layout, Dispatcher dispatcher);

/// Why no engine can run it: heads, widths or experts that do not divide, a format that the machine lacks.
std::optional<Rejection> impossible(const Model& model, const Machine& machine, const ServeFormats& formats,
                                    const ServeLayout& layout);

}  // namespace shardwright
