#include "planner/search.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>
#include <tuple>

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

  auto key() const {
    return std::tuple(lower_bound, degrees, virtual_pipeline, sequence_parallel, zero, group, recompute, micro_batch);
  }
};

/// All layouts that share their local shapes: one unit of work of the first phase.
struct Work {
  Shape shape;
  std::vector<std::int32_t> degrees;  // indices into Space::degrees()
};

struct Found {
  std::vector<Candidate> fits;
  std::int64_t considered = 0;
  std::map<std::string, std::int64_t> rejected;
  std::vector<Candidate> nearest;  // of those that do not fit, by reserved memory
};

class Search {
 public:
  Search(const PlanRequest& request, Pricer& pricer)
      : request_(request), pricer_(pricer), space_(request), recomputes_(space_.recomputes()) {}

  SearchAnswer run() {
    std::vector<Work> work = plan_work();
    std::vector<Found> found(work.size());
    in_parallel(work.size(), [&](std::size_t i) { found[i] = evaluate(work[i], false); });
    for (Found& f : found) {
      considered_ += f.considered;
      for (const auto& [reason, n] : f.rejected) rejected_[reason] += n;
      candidates_.insert(candidates_.end(), f.fits.begin(), f.fits.end());
    }
    if (candidates_.empty()) find_nearest(work);
    std::sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.key() < b.key(); });
    price_in_order();
    return answer();
  }

 private:
  Layout layout_of(const Candidate& c) const {
    const Space::Degrees& d = space_.degrees()[static_cast<std::size_t>(c.degrees)];
    Layout l;
    l.tensor = d.tensor;
    l.pipeline = d.pipeline;
    l.context = d.context;
    l.data = d.data;
    l.virtual_pipeline = c.virtual_pipeline;
    l.sequence_parallel = c.sequence_parallel;
    l.zero = c.zero;
    l.shard_group = c.group;
    l.recompute = recomputes_[static_cast<std::size_t>(c.recompute)];
    l.micro_batch = c.micro_batch;
    l.schedule = space_.schedule(c.virtual_pipeline);
    l.rank_order = space_.rank_order();
    return l;
  }

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

  /// Groups the space by local shape; impossible degrees are counted here at once.
  std::vector<Work> plan_work() {
    std::map<Shape, std::vector<std::int32_t>> by_shape;
    for (std::size_t i = 0; i < space_.degrees().size(); ++i) {
      const Space::Degrees& d = space_.degrees()[i];
      for (int micro_batch : space_.micro_batches(d))
        for (bool sp : space_.sequence_parallel(d))
          by_shape[{d.tensor, d.context, micro_batch, sp}].push_back(static_cast<std::int32_t>(i));
    }
    std::vector<Work> work;
    for (auto& [shape, degrees] : by_shape) work.push_back({shape, std::move(degrees)});
    return work;
  }

  /// Nothing fits: once more, for the layouts that miss by least.
  void find_nearest(const std::vector<Work>& work) {
    std::vector<Found> found(work.size());
    in_parallel(work.size(), [&](std::size_t i) { found[i] = evaluate(work[i], true); });
    for (Found& f : found) nearest_.insert(nearest_.end(), f.nearest.begin(), f.nearest.end());
    std::sort(nearest_.begin(), nearest_.end(), by_memory);
    if (nearest_.size() > kNearest) nearest_.resize(kNearest);
  }

  /// A choice of zero and fsdp_group, with what it costs at one shape and degrees.
  struct PricedSharding {
    Space::Sharding sharding;
    Pricer::Data data;
  };

  Found evaluate(const Work& work, bool with_nearest) {
    Found found;
    for (std::int32_t index : work.degrees) evaluate_degrees(work.shape, index, with_nearest, found);
    return found;
  }

  void evaluate_degrees(const Shape& shape, std::int32_t degrees, bool with_nearest, Found& found) {
    const Space::Degrees& d = space_.degrees()[static_cast<std::size_t>(degrees)];
    const std::vector<Space::Sharding> shardings = space_.shardings(d);
    const auto inner = static_cast<std::int64_t>(shardings.size());
    const auto recomputes = static_cast<std::int64_t>(recomputes_.size());
    const ShapePrice* price = nullptr;  // both made when the first possible layout is met
    std::vector<PricedSharding> priced;
    for (int vpp : space_.virtual_pipelines(d)) {
      Candidate c{};
      c.degrees = degrees;
      c.virtual_pipeline = vpp;
      c.micro_batch = shape.micro_batch;
      c.sequence_parallel = shape.sequence_parallel;
      c.group = 1;
      Layout l = layout_of(c);
      found.considered += inner * recomputes;
      if (const auto why = impossible(request_.model, request_.machine, request_.workload, l)) {
        found.rejected[why->reason] += inner * recomputes;
        continue;
      }
      if (!price) {
        price = &pricer_.shape(shape);
        priced = price_shardings(*price, shardings, l);
      }
      if (const std::int64_t impossible_ones = inner - static_cast<std::int64_t>(priced.size()); impossible_ones > 0)
        found.rejected["shard_group"] += impossible_ones * recomputes;
      for (std::size_t r = 0; r < recomputes_.size(); ++r) {
        c.recompute = static_cast<std::int16_t>(r);
        l.recompute = recomputes_[r];
        l.layers_per_chunk = layers_of(l, *price);
        if (l.layers_per_chunk.empty()) {
          found.rejected["layers"] += static_cast<std::int64_t>(priced.size());
          continue;
        }
        evaluate_shardings(PipelineShape(pricer_, *price, l), priced, c, with_nearest, found);
      }
    }
  }

  /// Those that are possible: a choice of zero and fsdp_group can fail for its shard group alone.
  std::vector<PricedSharding> price_shardings(const ShapePrice& price, const std::vector<Space::Sharding>& shardings,
                                              Layout l) const {
    std::vector<PricedSharding> priced;
    for (const Space::Sharding& s : shardings) {
      l.zero = s.zero;
      l.shard_group = s.group;
      if (impossible(request_.model, request_.machine, request_.workload, l)) continue;
      priced.push_back({s, pricer_.data_of(price, l)});
    }
    return priced;
  }

  void evaluate_shardings(const PipelineShape& pipeline, const std::vector<PricedSharding>& priced, Candidate c,
                          bool with_nearest, Found& found) const {
    for (const auto& [sharding, data] : priced) {
      c.zero = static_cast<std::int16_t>(sharding.zero);
      c.group = sharding.group;
      if (!pipeline.fits(data)) {
        ++found.rejected["memory"];
        if (with_nearest) remember_nearest(pipeline, data, c, found);
        continue;
      }
      c.reserved = pipeline.worst_reserved(data).value;
      c.lower_bound = pipeline.lower_bound(data).value;
      found.fits.push_back(c);
    }
  }
  static void remember_nearest(const PipelineShape& pipeline, const Pricer::Data& data, Candidate c, Found& found) {
    c.reserved = pipeline.worst_reserved(data).value;
    auto& list = found.nearest;
    list.push_back(c);
    std::sort(list.begin(), list.end(), by_memory);
    if (list.size() > kNearest) list.pop_back();
  }
  static bool by_memory(const Candidate& a, const Candidate& b) {
    return std::tuple(a.reserved, a.key()) < std::tuple(b.reserved, b.key());
  }

  /// Second phase. A priced layout that no other beats in both time and memory is on the front.
  void price_in_order() {
    for (const Candidate& c : candidates_) {
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
  bool can_be_pruned(const Candidate& c) const {
    if (top_.size() < static_cast<std::size_t>(request_.top)) return false;
    if (c.lower_bound <= top_.back().prediction->step.value) return false;
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
    const ShapePrice& shape = pricer_.shape(shape_of(p.layout));
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
    a.pareto = std::move(front_);
    if (a.top.empty()) {
      for (const Candidate& c : nearest_) {
        a.nearest.push_back(price(c));
        a.nearest.back().rejection = too_large(request_.machine, *a.nearest.back().prediction);
      }
    }
    return a;
  }
  template <typename F>
  void in_parallel(std::size_t count, const F& run) const {
    std::size_t threads =
        request_.threads > 0 ? static_cast<std::size_t>(request_.threads) : std::thread::hardware_concurrency();
    threads = std::clamp<std::size_t>(threads, 1, std::max<std::size_t>(count, 1));
    std::atomic<std::size_t> next = 0;
    std::vector<std::exception_ptr> errors(threads);
    const auto worker = [&](std::size_t t) {
      try {
        for (std::size_t i = next++; i < count; i = next++) run(i);
      } catch (...) { errors[t] = std::current_exception(); }
    };
    std::vector<std::thread> others;
    for (std::size_t t = 1; t < threads; ++t) others.emplace_back(worker, t);
    worker(0);
    for (std::thread& t : others) t.join();
    for (const std::exception_ptr& e : errors)
      if (e) std::rethrow_exception(e);
  }

  const PlanRequest& request_;
  Pricer& pricer_;
  Space space_;
  std::vector<Recompute> recomputes_;
  std::vector<Candidate> candidates_, nearest_;
  std::int64_t considered_ = 0, priced_ = 0, pruned_ = 0;
  std::map<std::string, std::int64_t> rejected_;
  std::vector<PricedLayout> top_, front_;
};

}  // namespace

Space::Space(const PlanRequest& request) : request_(request) {
  const LayoutPins& pins = request.pins;
  for (int tp : values(pins.tp, divisors(request.gpus)))
    for (int pp : values(pins.pp, divisors(request.gpus)))
      for (int cp : values(pins.cp, {1})) {
        const std::int64_t dense = std::int64_t{tp} * pp * cp;
        if (request.gpus % dense != 0) continue;
        const auto dp = static_cast<int>(request.gpus / dense);
        if (pins.dp && *pins.dp != dp) continue;
        const Degrees d = {tp, pp, cp, dp};
        if (!virtual_pipelines(d).empty()) degrees_.push_back(d);
      }
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
  return recompute_choices();
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
