#include "planner/search.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "planner/cost/row_traffic.h"
#include "planner/parallel.h"

namespace shardwright {
namespace {

std::vector<int> divisors(std::int64_t n) {
  std::vector<int> small, large;
  for (std::int64_t d = 1; d * d <= n; ++d)
    if (n % d == 0) {
      small.push_back(static_cast<int>(d));
      if (d != n / d) large.push_back(static_cast<int>(n / d));
    }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

/// The values of a degree: as pinned, or all.
std::vector<int> values(const std::optional<int>& pin, std::vector<int> all) {
  return pin ? std::vector<int>{*pin} : std::move(all);
}

/// A layout before it is priced in full.
struct Candidate {
  double lower_bound;     // seconds
  std::int64_t reserved;  // bytes, worst stage
  std::int32_t degrees, virtual_pipeline, micro_batch;
  std::int16_t recompute, zero;  // index into recomputes(); zero stage
  std::int32_t group;
  bool sequence_parallel;
};

/// Layouts that differ only in recomputation, zero and fsdp_group.
struct Node {
  std::int32_t degrees, virtual_pipeline, shardings;  // indices into Space::degrees() and Search::shardings_
  double least = 0;                                   // seconds: no layout of it takes less
};

/// All layouts that share their local shapes: one unit of work.
struct Work {
  Shape shape;
  std::vector<Node> nodes;
  double least = 0;    // seconds: no layout of it takes less
  Bytes least_memory;  // nor needs less
};

struct Found {
  std::vector<Candidate> fits, nearest;  // nearest: of those that do not fit, by reserved memory
  std::int64_t pruned = 0, too_large = 0;
};

class Search {
 public:
  Search(const PlanRequest& request, Pricer& pricer)
      : request_(request), pricer_(pricer), space_(request), recomputes_(space_.recomputes()) {}

  SearchAnswer run() {
    std::vector<Work> work = plan_work();
    run_in_parallel(work.size(), request_.threads, [&](std::size_t i) { bound(work[i]); });
    // The most promising first; what cannot fit last.
    const Bytes usable = request_.machine.usable_memory();
    const auto order = [&](const Work& w) { return std::tuple(w.least_memory > usable, w.least, w.shape); };
    std::sort(work.begin(), work.end(), [&](const Work& a, const Work& b) { return order(a) < order(b); });
    // What a batch may prune is fixed before it starts, so that threads change nothing.
    std::size_t size = 8;
    for (std::size_t begin = 0; begin < work.size(); begin += size, size = std::min<std::size_t>(2 * size, 256)) {
      std::vector<Found> found(std::min(size, work.size() - begin));
      run_in_parallel(found.size(), request_.threads, [&](std::size_t i) { found[i] = evaluate(work[begin + i]); });
      take(found);
    }
    return answer();
  }

 private:
  Layout layout_of(const Work& work, const Node& node) const {
    Layout l = space_.layout_at(space_.degrees()[static_cast<std::size_t>(node.degrees)]);
    l.micro_batch = work.shape.micro_batch;
    l.sequence_parallel = work.shape.sequence_parallel;
    l.virtual_pipeline = node.virtual_pipeline;
    l.schedule = space_.schedule(node.virtual_pipeline);
    return l;
  }
  Layout layout_of(const Candidate& c) const {
    Layout l = space_.layout_at(space_.degrees()[static_cast<std::size_t>(c.degrees)]);
    l.virtual_pipeline = c.virtual_pipeline;
    l.sequence_parallel = c.sequence_parallel;
    l.zero = c.zero;
    l.shard_group = c.group;
    l.recompute = recomputes_[static_cast<std::size_t>(c.recompute)];
    l.micro_batch = c.micro_batch;
    l.schedule = space_.schedule(c.virtual_pipeline);
    return l;
  }

  /// Balanced splits of one shape, by recomputation and number of chunks.
  using Splits = std::map<std::pair<std::size_t, int>, std::vector<int>>;

  /// Layers of every chunk: as pinned, else balanced.
  std::vector<int> layers_of(const Layout& l, const ShapePrice& shape) const {
    const int chunks = l.pipeline * l.virtual_pipeline;
    const std::vector<int>* pinned = space_.pinned_layers();
    if (!pinned) return pricer_.balanced_layers(shape, l.recompute, chunks);
    if (pinned->size() == static_cast<std::size_t>(chunks)) return *pinned;
    std::vector<int> layers(static_cast<std::size_t>(chunks), 0);  // a stage's layers, evenly over its chunks
    for (int s = 0; s < l.pipeline; ++s)
      for (int c = 0; c < l.virtual_pipeline; ++c) {
        const int n = (*pinned)[static_cast<std::size_t>(s)];
        layers[static_cast<std::size_t>(c * l.pipeline + s)] = n / l.virtual_pipeline + (c < n % l.virtual_pipeline);
      }
    return layers;
  }

  std::vector<int> layers_of(const Layout& l, const ShapePrice& shape, std::size_t recompute, Splits& splits) const {
    if (space_.pinned_layers()) return layers_of(l, shape);
    std::vector<int>& known = splits[{recompute, l.pipeline * l.virtual_pipeline}];
    if (known.empty()) known = layers_of(l, shape);
    return known;
  }

  /// Groups what is possible of the space by local shape, and counts the rest.
  std::vector<Work> plan_work() {
    std::map<Shape, std::vector<Node>> by_shape;
    for (std::size_t i = 0; i < space_.degrees().size(); ++i) {
      const Space::Degrees& d = space_.degrees()[i];
      const std::vector<int> virtual_pipelines = space_.virtual_pipelines(d), micro_batches = space_.micro_batches(d);
      for (bool sp : space_.sequence_parallel(d)) {
        Layout l = space_.layout_at(d);
        l.sequence_parallel = sp;
        const std::int64_t uses = std::ssize(virtual_pipelines) * std::ssize(micro_batches);
        const auto [possible, no_groups] = possible_shardings(l, space_.shardings(d), uses);
        if (possible.empty() && no_groups == 0) continue;
        shardings_.push_back(possible);
        for (int micro_batch : micro_batches) {
          l.micro_batch = micro_batch;
          std::vector<Node> nodes;
          for (int vpp : virtual_pipelines) {
            l.virtual_pipeline = vpp;
            l.schedule = space_.schedule(vpp);
            if (const auto why = impossible_pipeline(request_.model, request_.workload, l)) {
              reject(why->reason, std::ssize(possible) + no_groups);
              continue;
            }
            if (no_groups > 0) reject("shard_group", no_groups);
            considered_ += std::ssize(possible) * std::ssize(recomputes_);
            if (!possible.empty())
              nodes.push_back({static_cast<std::int32_t>(i), vpp, static_cast<std::int32_t>(shardings_.size() - 1)});
          }
          if (nodes.empty()) continue;
          std::vector<Node>& all = by_shape[shape_of(l)];
          all.insert(all.end(), nodes.begin(), nodes.end());
        }
      }
    }
    std::vector<Work> work;
    for (auto& [shape, nodes] : by_shape) work.push_back({shape, std::move(nodes), 0, {}});
    return work;
  }
  void reject(const std::string& reason, std::int64_t shardings) {
    considered_ += shardings * std::ssize(recomputes_);
    rejected_[reason] += shardings * std::ssize(recomputes_);
  }
  /// Those that `l` can have, and how many only fsdp_group forbids. The others are counted, for `uses` nodes.
  std::pair<std::vector<Space::Sharding>, std::int64_t> possible_shardings(
      Layout l, const std::vector<Space::Sharding>& shardings, std::int64_t uses) {
    std::vector<Space::Sharding> possible;
    std::int64_t no_groups = 0;
    for (const Space::Sharding& s : shardings) {
      l.zero = s.zero;
      l.shard_group = s.group;
      if (const auto why = impossible_shape(request_.model, request_.machine, request_.workload, l))
        reject(why->reason, uses);
      else if (impossible_group(l))
        ++no_groups;
      else
        possible.push_back(s);
    }
    return {possible, no_groups};
  }

  /// Layouts of a node.
  std::int64_t count(const Node& node) const {
    return std::ssize(shardings_[static_cast<std::size_t>(node.shardings)]) * std::ssize(recomputes_);
  }
  std::int64_t count(const Work& work) const {
    std::int64_t n = 0;
    for (const Node& node : work.nodes) n += count(node);
    return n;
  }

  /// What zero and fsdp_group cost at one shape and degrees.
  struct PricedSharding {
    Space::Sharding sharding;
    Pricer::Data data;
    Floor::Weights floor;
  };
  std::vector<PricedSharding> price_shardings(const ShapePrice& price, const Node& node, Layout l,
                                              const Floor& floor) const {
    std::vector<PricedSharding> priced;
    for (const Space::Sharding& s : shardings_[static_cast<std::size_t>(node.shardings)]) {
      l.zero = s.zero;
      l.shard_group = s.group;
      priced.push_back({s, pricer_.data_of(price, l), {}});
      priced.back().floor = floor.weights(priced.back().data);
    }
    return priced;
  }

  /// What every layout of the work takes at the least, from its head, then from its passes without recomputation.
  void bound(Work& work) const {
    const PassPrice head = pricer_.head(work.shape).passes[0];
    work.least_memory = head.need.transient_reserved + head.need.saved_reserved;  // on the last stage
    if (work.least_memory > request_.machine.usable_memory()) return;
    const ShapePrice price = pricer_.plain_shape(work.shape);
    work.least = std::numeric_limits<double>::infinity();
    std::vector<PricedSharding> priced;
    std::int32_t of = -1;  // the degrees of `priced`
    for (Node& node : work.nodes) {
      const Layout l = layout_of(work, node);
      const Floor floor(pricer_, price, l, !space_.pinned_layers());
      if (std::exchange(of, node.degrees) != node.degrees) priced = price_shardings(price, node, l, floor);
      const Floor::Passes passes = floor.passes(price, {});
      node.least = std::numeric_limits<double>::infinity();
      for (const PricedSharding& s : priced) node.least = std::min(node.least, floor.time(passes, s.floor).value);
      work.least = std::min(work.least, node.least);
    }
  }

  /// All layouts of the work: counted, but for those that fit and that a pricing in full could still show to matter.
  Found evaluate(const Work& work) const {
    Found found;
    if (too_slow(work.least)) {
      found.pruned = count(work);
      return found;
    }
    if (work.least_memory > request_.machine.usable_memory() && !may_be_near(work.least_memory.value, found)) {
      found.too_large = count(work);
      return found;
    }
    const ShapePrice* price = nullptr;  // made when it is needed
    Splits splits;
    std::vector<PricedSharding> priced;
    std::int32_t of = -1;  // the degrees of `priced`
    for (const Node& node : work.nodes) {
      if (too_slow(node.least)) {
        found.pruned += count(node);
        continue;
      }
      if (!price) price = &pricer_.shape(work.shape, recomputes_.front());
      const Layout l = layout_of(work, node);
      const Floor floor(pricer_, *price, l, !space_.pinned_layers());
      if (std::exchange(of, node.degrees) != node.degrees) priced = price_shardings(*price, node, l, floor);
      evaluate_node(*price, floor, priced, node, l, splits, found);
    }
    return found;
  }

  void evaluate_node(const ShapePrice& price, const Floor& floor, const std::vector<PricedSharding>& priced,
                     const Node& node, Layout l, Splits& splits, Found& found) const {
    const std::int64_t usable = request_.machine.usable_memory().value;
    Candidate c{};
    c.degrees = node.degrees;
    c.virtual_pipeline = l.virtual_pipeline;
    c.micro_batch = l.micro_batch;
    c.sequence_parallel = l.sequence_parallel;
    for (std::size_t r = 0; r < recomputes_.size(); ++r) {
      c.recompute = static_cast<std::int16_t>(r);
      l.recompute = recomputes_[r];
      const Floor::Passes passes = floor.passes(price, l.recompute);
      std::optional<PipelineShape> pipeline;  // made when a sharding needs it
      for (const PricedSharding& s : priced) {
        c.zero = static_cast<std::int16_t>(s.sharding.zero);
        c.group = s.sharding.group;
        c.reserved = floor.memory(passes, s.floor).value;
        c.lower_bound = floor.time(passes, s.floor).value;
        if (c.reserved > usable && !may_be_near(c.reserved, found)) {
          ++found.too_large;
          continue;
        }
        if (c.reserved <= usable && can_be_pruned(c)) {
          ++found.pruned;
          continue;
        }
        if (!pipeline) {
          l.layers_per_chunk = layers_of(l, price, r, splits);
          pipeline.emplace(pricer_, price, l);
        }
        evaluate_sharding(*pipeline, s.data, c, found);
      }
    }
  }
  void evaluate_sharding(const PipelineShape& pipeline, const Pricer::Data& data, Candidate c, Found& found) const {
    if (!pipeline.fits(data)) {
      ++found.too_large;
      remember_nearest(pipeline, data, c, found);
      return;
    }
    c.reserved = pipeline.worst_reserved(data).value;
    c.lower_bound = pipeline.lower_bound(data).value;
    if (can_be_pruned(c))
      ++found.pruned;
    else
      found.fits.push_back(c);
  }

  /// Of what does not fit: whether that many bytes are among the fewest, as long as nothing fits.
  bool may_be_near(std::int64_t bytes, const Found& found) const {
    if (!top_.empty()) return false;
    const auto less_than_third = [&](const std::vector<Candidate>& list) {
      return list.size() < kNearest || bytes <= list.back().reserved;
    };
    return less_than_third(nearest_) && less_than_third(found.nearest);
  }
  void remember_nearest(const PipelineShape& pipeline, const Pricer::Data& data, Candidate c, Found& found) const {
    if (!top_.empty()) return;
    c.reserved = pipeline.worst_reserved(data).value;
    if (may_be_near(c.reserved, found)) insert_nearest(c, found.nearest);
  }
  void insert_nearest(const Candidate& c, std::vector<Candidate>& list) const {
    const auto smaller = [&](const Candidate& a, const Candidate& b) {
      return a.reserved != b.reserved ? a.reserved < b.reserved : layout_of(a) < layout_of(b);
    };
    list.insert(std::upper_bound(list.begin(), list.end(), c, smaller), c);
    if (list.size() > kNearest) list.pop_back();
  }

  /// Counts a batch and prices what is left of it, in the order of the bounds.
  void take(std::vector<Found>& batch) {
    std::vector<Candidate> candidates;
    std::int64_t too_large = 0;
    for (const Found& f : batch) {
      pruned_ += f.pruned;
      too_large += f.too_large;
      candidates.insert(candidates.end(), f.fits.begin(), f.fits.end());
      for (const Candidate& c : f.nearest) insert_nearest(c, nearest_);
    }
    if (too_large > 0) rejected_["memory"] += too_large;
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.lower_bound < b.lower_bound; });
    for (const Candidate& c : candidates) {
      if (can_be_pruned(c)) {
        ++pruned_;
        continue;
      }
      ++priced_;
      PricedLayout p = price(c);
      insert_top(p);
      insert_front(std::move(p));
    }
  }

  /// Neither the top nor the front has room for what takes that long.
  bool too_slow(double seconds) const {
    return top_.size() == static_cast<std::size_t>(request_.top) && seconds > top_.back().prediction->step.value &&
           seconds > kFrontReach * top_.front().prediction->step.value;
  }
  bool can_be_pruned(const Candidate& c) const {
    if (top_.size() < static_cast<std::size_t>(request_.top)) return false;
    if (c.lower_bound <= top_.back().prediction->step.value) return false;
    if (too_slow(c.lower_bound)) return true;
    // The front is sorted by time, and memory falls along it: the last that is fast enough needs the least.
    auto slower = std::upper_bound(front_.begin(), front_.end(), c.lower_bound,
                                   [](double t, const PricedLayout& p) { return t < p.prediction->step.value; });
    return slower != front_.begin() && reserved(*std::prev(slower)) <= c.reserved;
  }
  static std::int64_t reserved(const PricedLayout& p) { return p.prediction->worst().reserved.value; }
  static bool better(const PricedLayout& a, const PricedLayout& b) {
    return std::tie(a.prediction->step, a.layout) < std::tie(b.prediction->step, b.layout);
  }
  PricedLayout price(const Candidate& c) {
    PricedLayout p;
    p.layout = layout_of(c);
    const ShapePrice& shape = pricer_.shape(shape_of(p.layout), p.layout.recompute);
    p.layout.layers_per_chunk = layers_of(p.layout, shape);
    p.precision = request_.precision;
    p.prediction = pricer_.price(p.layout);
    p.fits = Bytes{reserved(p)} <= request_.machine.usable_memory();
    return p;
  }
  void insert_top(const PricedLayout& p) {
    top_.insert(std::upper_bound(top_.begin(), top_.end(), p, better), p);
    if (top_.size() > static_cast<std::size_t>(request_.top)) top_.pop_back();
  }
  void insert_front(PricedLayout p) {
    auto at = std::upper_bound(front_.begin(), front_.end(), p, better);
    if (at != front_.begin() && reserved(*std::prev(at)) <= reserved(p)) return;
    auto last = at;
    while (last != front_.end() && reserved(*last) >= reserved(p)) ++last;
    at = front_.erase(at, last);
    front_.insert(at, std::move(p));
  }

  SearchAnswer answer() {
    SearchAnswer a;
    a.summary.considered = considered_;
    a.summary.priced = priced_;
    a.summary.pruned = pruned_;
    a.summary.rejected = rejected_;
    std::int64_t rejected = 0;
    for (const auto& [reason, n] : rejected_) rejected += n;
    a.summary.proven_best = !top_.empty() && considered_ == priced_ + pruned_ + rejected;
    a.top = std::move(top_);
    a.pareto = within_reach(std::move(front_));
    if (a.top.empty()) {
      for (const Candidate& c : nearest_) {
        a.nearest.push_back(price(c));
        a.nearest.back().rejection = too_large(request_.machine, *a.nearest.back().prediction);
      }
    }
    return a;
  }

  const PlanRequest& request_;
  Pricer& pricer_;
  Space space_;
  std::vector<Recompute> recomputes_;
  std::vector<std::vector<Space::Sharding>> shardings_;
  std::vector<Candidate> nearest_;
  std::int64_t considered_ = 0, priced_ = 0, pruned_ = 0;
  std::map<std::string, std::int64_t> rejected_;
  std::vector<PricedLayout> top_, front_;
};

}  // namespace

std::vector<PricedLayout> within_reach(std::vector<PricedLayout> front) {
  if (front.empty()) return front;
  const Seconds most = kFrontReach * front.front().prediction->step;
  std::erase_if(front, [&](const PricedLayout& p) { return p.prediction->step > most; });
  return front;
}

Space::Space(const PlanRequest& request) : request_(request) {
  const LayoutPins& pins = request.pins;
  const bool experts = request.model.n_routed_experts > 0;
  for (int tp : values(pins.tp, divisors(request.gpus)))
    for (int pp : values(pins.pp, divisors(request.gpus)))
      for (int cp : values(pins.cp, {1})) {
        const std::int64_t dense = std::int64_t{tp} * pp * cp;
        if (request.gpus % dense != 0) continue;
        const auto dp = static_cast<int>(request.gpus / dense);
        if (pins.dp && *pins.dp != dp) continue;
        Degrees d = {tp, pp, cp, dp};
        if (virtual_pipelines(d).empty()) continue;
        for (int ep : values(pins.ep, experts ? divisors(request.model.n_routed_experts) : std::vector{1}))
          for (int etp : values(pins.etp, experts && tp > 1 ? std::vector{1, tp} : std::vector{1})) {
            if (!pins.ep && std::int64_t{tp} * cp * dp % (std::int64_t{ep} * etp) != 0) continue;
            d.expert = ep;
            d.expert_tensor = etp;
            for (ContextParallel kind : context_kinds(cp)) {
              d.context_kind = kind;
              d.dispatcher = dispatcher(d);
              degrees_.push_back(d);
            }
          }
      }
}

Layout Space::layout_at(const Degrees& d) const {
  Layout l;
  l.tensor = d.tensor;
  l.pipeline = d.pipeline;
  l.context = d.context;
  l.data = d.data;
  l.expert = d.expert;
  l.expert_tensor = d.expert_tensor;
  l.context_kind = d.context_kind;
  l.dispatcher = d.dispatcher;
  l.rank_order = rank_order();
  return l;
}

std::vector<ContextParallel> Space::context_kinds(int context) const {
  if (context == 1) return {ContextParallel::all_gather};
  if (request_.pins.cp_kind) return {*request_.pins.cp_kind};
  return {ContextParallel::all_gather, ContextParallel::ulysses, ContextParallel::ring};
}

Dispatcher Space::dispatcher(const Degrees& d) const {
  if (d.expert == 1) return Dispatcher::all_to_all;
  if (request_.pins.dispatcher) return *request_.pins.dispatcher;
  return faster_dispatcher(request_.model, layout_at(d), request_.machine);
}

std::vector<int> Space::virtual_pipelines(const Degrees& d) const {
  const LayoutPins& pins = request_.pins;
  const bool interleaved = pins.schedule == Schedule::interleaved, other = pins.schedule && !interleaved;
  const int most = d.pipeline > 1 ? static_cast<int>((request_.model.num_hidden_layers + 2) / d.pipeline) : 1;
  std::vector<int> all;
  if (pins.vpp) {
    all = {*pins.vpp};
  } else {
    for (int v = 1; v <= std::max(most, 1); ++v) all.push_back(v);
  }
  std::erase_if(all, [&](int v) {
    if (v > 1 && (d.pipeline == 1 || other)) return true;
    if (v == 1 && interleaved) return true;
    if (!pins.layers_per_stage) return false;
    const auto entries = static_cast<std::int64_t>(pins.layers_per_stage->size());
    return entries != d.pipeline && entries != std::int64_t{d.pipeline} * v;
  });
  return all;
}

std::vector<int> Space::micro_batches(const Degrees& d) const {
  if (request_.pins.micro_batch) return {*request_.pins.micro_batch};
  if (request_.workload.global_batch % d.data != 0) return {1};  // considered once, and rejected
  return divisors(request_.workload.global_batch / d.data);
}

std::vector<bool> Space::sequence_parallel(const Degrees& d) const {
  if (d.tensor == 1) return {false};
  if (request_.pins.sequence_parallel) return {*request_.pins.sequence_parallel};
  return {false, true};
}

std::vector<Space::Sharding> Space::shardings(const Degrees& d) const {
  const int ranks = d.data * d.context;
  const LayoutPins& pins = request_.pins;
  const std::optional<int> group = pins.fsdp_group;
  if (group ? *group == 1 : ranks == 1) return {{0, 1}};  // zero over one rank is none
  std::vector<Sharding> all;
  for (int zero : values(pins.zero, group ? std::vector{1, 2, 3} : std::vector{0, 1, 2, 3})) {
    if (zero == 0) {
      all.push_back({0, 1});
    } else if (group) {
      all.push_back({zero, *group});
    } else if (zero < 3) {
      all.push_back({zero, ranks});
    } else {
      for (int g : divisors(ranks))
        if (g > 1) all.push_back({3, g});
    }
  }
  return all;
}

std::vector<Recompute> Space::recomputes() const {
  if (request_.pins.recompute) return {*request_.pins.recompute};
  return recompute_choices(request_.model);
}

Schedule Space::schedule(int virtual_pipeline) const {
  if (virtual_pipeline > 1) return Schedule::interleaved;
  return request_.pins.schedule ? *request_.pins.schedule : Schedule::one_f_one_b;
}

RankOrder Space::rank_order() const { return request_.pins.rank_order.value_or(RankOrder::tp_cp_dp_pp); }

const std::vector<int>* Space::pinned_layers() const {
  return request_.pins.layers_per_stage ? &*request_.pins.layers_per_stage : nullptr;
}

SearchAnswer search(const PlanRequest& request, Pricer& pricer) { return Search(request, pricer).run(); }

}  // namespace shardwright
