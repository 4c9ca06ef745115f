#include "profiler/execute/weights.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

/// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/.
std::uint64_t hash(const std::string& text, std::uint64_t seed) {
  std::uint64_t h = 0xcbf29ce484222325u ^ seed;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// What a weight is drawn from, by its use: products keep the size of what they multiply; norms' weights and biases lie
/// about 1 and 0.
FirstValues first_values(const RunGraph& g, TensorId weight) {
  for (const Operator& op : g.graph.ops()) {
    const bool second = op.inputs.size() > 1 && op.inputs[1].tensor == weight;
    if (second && op.kind == OpKind::gather) return {0, 1};
    if (second && (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm)) return {1, 0.1};
    if (!second || op.kind != OpKind::contraction) continue;
    double rows = 1;
    for (DimId d : op.inputs[1].dims)
      if (!op.outputs[0].dims.has(d)) rows *= static_cast<double>(g.extents[d]);
    return {0, 1 / std::sqrt(rows)};
  }
  return {0, 0.1};
}

}  // namespace

Weights::Weights(const Programme& programme, int stage, std::int64_t line, const Groups& groups, Operators& operators,
                 Memory& memory, Mover& mover, Recorder& recorder, const RunOptions& options)
    : programme_(programme),
      line_(line),
      groups_(groups),
      operators_(operators),
      memory_(memory),
      mover_(mover),
      recorder_(recorder),
      options_(options) {
  for (int chunk = 0; chunk < programme.route.chunks(); ++chunk) {
    for (const Programme::Instance& instance :
         programme.parts[static_cast<std::size_t>(programme.route.part_of({stage, chunk}))]) {
      const RunGraph& g = programme.graphs[static_cast<std::size_t>(instance.graph)];
      for (const WeightState& state : g.sharded.weights) {
        const std::string name = programme.weight_name(instance, state.tensor);
        Weight& w = weights_[name];
        const bool first = w.graph == nullptr;
        if (first) {
          w.name = name;
          w.graph = &g;
          w.state = state;
          w.placement = g.sharded.value(state.value).placement;
          w.elements = g.sharded.value(state.value).elements;
          w.stages = programme.stages_with(name);
          if (g.says.zero > 0)
            w.cut = static_cast<AxisSet>(g.says.shard_axes[static_cast<std::size_t>(state.tensor)] &
                                         ~w.placement.sharded());
        }
      }
    }
  }
  for (auto& [name, w] : weights_) {
    // By all uses in the model, so that all stages agree.
    std::optional<FirstValues> values;
    for (const auto& part : programme.parts)
      for (const Programme::Instance& instance : part) {
        const RunGraph& g = programme.graphs[static_cast<std::size_t>(instance.graph)];
        for (const WeightState& state : g.sharded.weights) {
          if (programme.weight_name(instance, state.tensor) != name) continue;
          if (!values) values = first_values(g, state.tensor);
          if (state.gradient >= 0)
            w.partial = static_cast<AxisSet>(w.partial | g.sharded.value(state.gradient).placement.partial);
        }
      }
    const auto given = options_.first_values.find(name);
    draw(w, given != options_.first_values.end() ? given->second : *values);
  }
}

/// Every number is drawn by the weight's name and the number's place in the whole weight.
void Weights::draw(Weight& w, const FirstValues& values) const {
  const RunGraph& g = *w.graph;
  const DimList& dims = g.graph.tensor(w.state.tensor).dims;
  BlockPlace place = {block_extents(dims, g.extents, w.placement, programme_.mesh),
                      block_begin(dims, g.extents, w.placement, programme_.mesh, line_),
                      {}};
  for (DimId d : dims) place.whole.push_back(g.extents[d]);
  const Element number = operators_.element(DataType::fp32);
  Block block = memory_.make(w.elements, number);
  operators_.fill_normal(block.view, place, hash(w.name, options_.seed), values.deviation);
  if (values.mean != 0) {
    const Block means = memory_.make(w.elements, number);
    operators_.fill(means.view, values.mean);
    operators_.residual_sum({block.view, means.view}, block.view);
  }
  const Element stored = operators_.element(options_.compute);
  if (stored != number) {
    if (options_.trains) w.main = w.cut ? mover_.scatter_flat(block, w.cut, 0, {w.name}) : block;
    const Block narrow = memory_.make(w.elements, stored);
    operators_.cast(block.view, narrow.view);
    block = narrow;
  }
  w.value = zero(w) == 3 && w.cut ? mover_.scatter_flat(block, w.cut, 0, {w.name}) : block;
  const std::int64_t state = w.cut ? flat_piece(programme_.mesh, line_, w.cut, w.elements).length : w.elements;
  if (!options_.trains) return;
  for (Block Weights::Weight::*moment : {&Weight::first_moment, &Weight::second_moment}) {
    w.*moment = memory_.make(state, number);
    operators_.fill((w.*moment).view, 0);
  }
}

void Weights::accumulate(const std::string& name, const Block& gradient, AxisSet partial) {
  Weight& w = weights_.at(name);
  // Of several uses one may be whole where another is a part: it enters once.
  for (std::size_t a = 0; a < programme_.mesh.axes().size(); ++a)
    if (((w.partial & ~partial) >> a & 1) && coordinate(programme_.mesh, line_, static_cast<AxisId>(a)) != 0) {
      operators_.fill(gradient.view, 0);
      break;
    }
  Block term = gradient;
  if (w.main) {
    term = memory_.make(gradient.view.elements, operators_.element(DataType::fp32));
    operators_.cast(gradient.view, term.view);
  }
  if (zero(w) >= 2 && w.cut)
    term = mover_.scatter_flat(term, w.cut, static_cast<AxisSet>(w.partial & w.cut), {"of d " + w.name});
  if (!w.gradient)
    w.gradient = term;
  else
    operators_.residual_sum({w.gradient.view, term.view}, w.gradient.view);
}

void Weights::reduce() {
  for (auto& [name, w] : weights_) {
    if (!w.gradient) continue;
    if (w.stages.size() > 1)
      mover_.all_reduce(w.gradient, groups_.between(w.stages), Reduction::sum, {"between stages of d " + name});
    Block reduced = w.gradient;
    AxisSet left = w.partial;
    if (w.cut) {
      if (zero(w) < 2)
        reduced = mover_.scatter_flat(w.gradient, w.cut, static_cast<AxisSet>(w.partial & w.cut), {"of d " + name});
      left = static_cast<AxisSet>(w.partial & ~w.cut);
    }
    if (left) mover_.all_reduce(reduced, left, Reduction::sum, {"of d " + name});
    w.reduced = reduced;
    w.gradient = {};
  }
}

void Weights::update() {
  AdamStep adam = options_.adam;
  adam.step = ++step_;
  for (auto& [name, w] : weights_) {
    if (!w.reduced) continue;
    Block piece = w.value;
    if (w.cut && zero(w) < 3)
      piece = w.main ? memory_.make(w.main.view.elements, w.value.view.element)
                     : mover_.scatter_flat(w.value, w.cut, 0, {name});
    {
      const During during(recorder_, {Doing::Kind::optimizer, "adam " + name, {}});
      const View main = w.main ? w.main.view : piece.view, copy = w.main ? piece.view : View{};
      operators_.adam_step(adam, w.reduced.view, main, w.first_moment.view, w.second_moment.view, copy);
    }
    if (w.cut && zero(w) < 3) w.value = mover_.gather_flat(piece, w.cut, w.elements, {"of " + name});
  }
}

void Weights::forget_gradients() {
  for (auto& [name, w] : weights_) w.reduced = {};
}

}  // namespace shardwright
