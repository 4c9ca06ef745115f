#include "planner/search/search.h"

#include <algorithm>
#include <array>
#include <deque>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "planner/cost/row_traffic.h"
#include "planner/divisors.h"
#include "planner/parallel.h"
#include "planner/pipeline/pipeline_shape.h"
#include "planner/search/floor.h"

namespace shardwright {
namespace {

/// The values of a degree: as pinned, or all.
std::vector<int> values(const std::optional<int>& pin, std::vector<int> all) {
  return pin ? std::vector<int>{*pin} : std::move(all);
}

template <typename T>
bool has(const std::vector<T>& list, T value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

/// A layout before it is priced in full.
struct Candidate {
  double lower_bound;     // seconds
  std::int64_t reserved;  // bytes, worst stage
  std::int32_t degrees, virtual_pipeline, micro_batch;
  std::int16_t recompute, zero;  // index into recomputes(); zero stage
  std::int32_t group;
  std::int32_t most_layers;  // in a chunk; 0: as many as the balanced split has
  bool sequence_parallel;
  Schedule schedule;
};

/// How micro-batches can run through a pipeline, the same for all degrees with one pp and dp.
struct Runs {
  struct Run {
    int micro_batch;
    std::vector<Space::Way> ways;  // that no floor tells apart
  };
  struct Impossible {
    std::int64_t count = 0;
    Rejection first;  // of them
    int micro_batch = 1;
    Space::Way way;
  };
  std::vector<Run> possible;  // by micro_batch
  std::map<std::string, Impossible> impossible;
  std::int64_t count = 0;  // of what is possible
};

/// Layouts that have their degrees in common.
struct Node {
  std::int32_t degrees, shardings;  // indices into Space::degrees() and Search::shardings_
  const Runs* runs;
  std::vector<double> least;  // seconds: no layout of a run takes less; by Runs::possible
};

/// All layouts whose local shapes differ in the micro-batch alone: one unit of work. Their graphs are derived once.
struct Family {
  Shape shape;  // micro_batch 1
  std::vector<Node> nodes;
  LeastPrice floor;
  double least = 0;  // seconds: no layout of it takes less
};

/// Some that stand side by side in a list: a node of a tree of halves of halves, the root 1.
struct Range {
  std::size_t first, behind, node = 1;
  std::size_t size() const { return behind - first; }
  std::array<Range, 2> halves() const {
    const std::size_t middle = first + (size() + 1) / 2;
    return {Range{first, middle, 2 * node}, Range{middle, behind, 2 * node + 1}};
  }
};

/// A list, and of each of its halves, their halves, ... what none of it falls below.
template <typename T>
class Ranges {
 public:
  Ranges() = default;
  explicit Ranges(std::vector<T> list) : list_(std::move(list)) {
    std::size_t nodes = 1;  // with more than one entry
    while (nodes < list_.size()) nodes *= 2;
    halves_.resize(nodes);
    add({0, list_.size()});
  }
  bool empty() const { return list_.empty(); }
  /// Of the whole, or of one of Range::halves() of a range that is known.
  const T& least(Range range) const { return range.size() == 1 ? list_[range.first] : halves_[range.node]; }

 private:
  void add(Range range) {
    if (range.size() < 2) return;
    for (Range half : range.halves()) add(half);
    T& least = halves_[range.node];
    least = this->least(range.halves()[0]);
    least.lower_to(this->least(range.halves()[1]));
  }

  std::vector<T> list_, halves_;
};

/// What is known to be possible: times of distinct layouts that fit, and the least memory for each time.
class Known {
 public:
  explicit Known(int top) : most_(static_cast<std::size_t>(top)) {}

  void add(Seconds step, Bytes reserved) {
    const double time = step.value;
    times_.insert(std::upper_bound(times_.begin(), times_.end(), time), time);
    if (times_.size() > most_) times_.pop_back();
    auto at = std::upper_bound(front_.begin(), front_.end(), std::pair(time, reserved.value));
    if (at != front_.begin() && std::prev(at)->second <= reserved.value) return;
    auto last = at;
    while (last != front_.end() && last->second >= reserved.value) ++last;
    front_.insert(front_.erase(at, last), {time, reserved.value});
  }
  bool empty() const { return times_.empty(); }
  /// Neither the top nor the front has room for what takes longer, in seconds.
  double slowest() const {
    return times_.size() == most_ ? std::max(times_.back(), kFrontReach * times_.front())
                                  : std::numeric_limits<double>::infinity();
  }
  bool too_slow(double seconds) const { return seconds > slowest(); }
  /// Nor for what takes that long and needs so many bytes.
  bool leaves_no_room(double seconds, std::int64_t reserved) const {
    if (times_.size() < most_ || seconds <= times_.back()) return false;
    if (too_slow(seconds)) return true;
    // Sorted by time, and memory falls along it: the last that is faster needs the least.
    const auto slower = std::lower_bound(front_.begin(), front_.end(), seconds,
                                         [](const auto& point, double t) { return point.first < t; });
    return slower != front_.begin() && std::prev(slower)->second <= reserved;
  }

 private:
  std::size_t most_;
  std::vector<double> times_;                           // the shortest
  std::vector<std::pair<double, std::int64_t>> front_;  // seconds and bytes
};

struct Found {
  std::vector<Candidate> fits, nearest;  // nearest: of those that do not fit, by reserved memory
  std::vector<Candidate> fastest;        // of those that do not fit, by lower_bound, as many as are to be named
  std::int64_t pruned = 0, too_large = 0;
};

constexpr int kAnyNumber = std::numeric_limits<int>::max();

class Search {
 public:
  Search(const PlanRequest& request, Pricer& pricer)
      : request_(request),
        pricer_(pricer),
        space_(request),
        recomputes_(space_.recomputes()),
        shared_(recomputes_),
        known_(request.top) {}

  SearchAnswer run() {
    std::vector<Family> families = plan_work();
    run_in_parallel(families.size(), request_.threads, [&](std::size_t i) { bound(families[i]); });
    // The most promising first.
    std::sort(families.begin(), families.end(),
              [](const Family& a, const Family& b) { return std::tie(a.least, a.shape) < std::tie(b.least, b.shape); });
    scout(families);
    // What a batch may prune is fixed before it starts, so that threads change nothing.
    std::size_t size = 4;
    for (std::size_t begin = 0; begin < families.size(); begin += size, size = std::min<std::size_t>(2 * size, 64)) {
      std::vector<Found> found(std::min(size, families.size() - begin));
      run_in_parallel(found.size(), request_.threads,
                      [&](std::size_t i) { found[i] = FamilySearch(*this, families[begin + i]).run(); });
      take(found);
      if (request_.progress) request_.progress(begin + found.size(), families.size());
    }
    return answer();
  }

 private:
  const Space::Degrees& degrees_of(const Node& node) const {
    return space_.degrees()[static_cast<std::size_t>(node.degrees)];
  }
  Layout layout_of(const Family& family, const Node& node) const {
    Layout l = space_.layout_at(degrees_of(node));
    l.sequence_parallel = family.shape.sequence_parallel;
    return l;
  }
  static void set_run(Layout& l, int micro_batch, Space::Way way) {
    l.micro_batch = micro_batch;
    l.virtual_pipeline = way.virtual_pipeline;
    l.schedule = way.schedule;
  }
  Layout layout_of(const Candidate& c) const {
    Layout l = space_.layout_at(space_.degrees()[static_cast<std::size_t>(c.degrees)]);
    l.sequence_parallel = c.sequence_parallel;
    l.zero = c.zero;
    l.shard_group = c.group;
    l.recompute = recomputes_[static_cast<std::size_t>(c.recompute)];
    set_run(l, c.micro_batch, {c.schedule, c.virtual_pipeline});
    return l;
  }

  /// Layers of every chunk: as pinned, else balanced, with at most `most` in each where that is above 0.
  std::vector<int> layers_of(const Layout& l, const ShapePrice& shape, int most) const {
    const int chunks = l.pipeline * l.virtual_pipeline;
    const std::vector<int>* pinned = space_.pinned_layers();
    if (!pinned) return pricer_.balanced_layers(shape, l.recompute, chunks, most > 0 ? most : kAnyNumber);
    if (pinned->size() == static_cast<std::size_t>(chunks)) return *pinned;
    // A stage's layers, evenly over its chunks.
    std::vector<int> layers(static_cast<std::size_t>(chunks), 0);
    const Route route(pipeline_of(l, request_.workload.global_batch));
    for (int s = 0; s < l.pipeline; ++s)
      for (int c = 0; c < l.virtual_pipeline; ++c) {
        const int n = (*pinned)[static_cast<std::size_t>(s)];
        const int part = l.virtual_pipeline == 1 ? s : route.part_of({s, c});
        layers[static_cast<std::size_t>(part)] = n / l.virtual_pipeline + (c < n % l.virtual_pipeline);
      }
    return layers;
  }

  /// Groups what is possible of the space by local shape, and counts the rest.
  std::vector<Family> plan_work() {
    std::map<Shape, std::vector<Node>> by_shape;
    for (std::size_t i = 0; i < space_.degrees().size(); ++i) {
      const Space::Degrees& d = space_.degrees()[i];
      for (bool sp : space_.sequence_parallel(d)) {
        Layout l = space_.layout_at(d);
        l.sequence_parallel = sp;
        const Runs& runs = runs_of(d);
        shardings_.push_back(possible_shardings(l, space_.shardings(d), runs));
        if (runs.possible.empty() || shardings_.back().empty()) continue;
        by_shape[shape_of(l)].push_back(
            {static_cast<std::int32_t>(i), static_cast<std::int32_t>(shardings_.size() - 1), &runs, {}});
      }
    }
    std::vector<Family> families;
    for (auto& [shape, nodes] : by_shape) families.push_back({shape, std::move(nodes), {}, 0});
    return families;
  }
  const Runs& runs_of(const Space::Degrees& d) {
    const auto [known, is_new] = runs_.try_emplace({d.pipeline, d.data, d.paired});
    Runs& runs = known->second;
    if (!is_new) return runs;
    Layout l = space_.layout_at(d);
    for (int micro_batch : space_.micro_batches(d)) {
      std::map<std::tuple<bool, BackwardTasks, bool, bool>, std::vector<Space::Way>> alike;  // to a Floor
      for (const Space::Way way : space_.ways(d)) {
        set_run(l, micro_batch, way);
        if (const auto why = impossible_pipeline(request_.model, request_.workload, l)) {
          Runs::Impossible& of_reason = runs.impossible[why->reason];
          if (of_reason.count++ == 0) of_reason = {1, *why, micro_batch, way};
        } else {
          alike[{way.virtual_pipeline > 1, backward_tasks(way.schedule), way.schedule == Schedule::gpipe,
                 is_greedy(way.schedule)}]
              .push_back(way);
        }
      }
      for (auto& [what, ways] : alike) {
        runs.count += std::ssize(ways);
        runs.possible.push_back({micro_batch, std::move(ways)});
      }
    }
    return runs;
  }
  /// Those that `l` can have. All layouts of its degrees are counted, with the reason of what is impossible.
  std::vector<Space::Sharding> possible_shardings(Layout l, const std::vector<Space::Sharding>& shardings,
                                                  const Runs& runs) {
    std::int64_t all_runs = runs.count;
    for (const auto& [reason, of_reason] : runs.impossible) all_runs += of_reason.count;
    const auto count = [&](std::int64_t n, std::int64_t* as) {
      considered_ += n * std::ssize(recomputes_);
      if (as) *as += n * std::ssize(recomputes_);
    };
    if (const auto why = impossible_shape(request_.model, request_.machine, request_.workload, l)) {
      count(std::ssize(shardings) * all_runs, &rejected_[why->reason]);
      keep_example(l, shardings.front(), *why);
      return {};
    }
    // The mesh does not ask for the kind of context parallelism or the order of ranks.
    std::vector<std::optional<Rejection>>& meshes = meshes_[{l.tensor, l.context, l.data, l.expert, l.expert_tensor}];
    for (std::size_t i = meshes.size(); i < shardings.size(); ++i) {
      l.zero = shardings[i].zero;
      l.shard_group = shardings[i].group;
      meshes.push_back(impossible_mesh(request_.model, l));
    }
    std::vector<Space::Sharding> possible;
    for (std::size_t i = 0; i < shardings.size(); ++i) {
      const Space::Sharding& s = shardings[i];
      l.zero = s.zero;
      l.shard_group = s.group;
      if (meshes[i]) {
        count(all_runs, &rejected_[meshes[i]->reason]);
        keep_example(l, s, *meshes[i]);
        continue;
      }
      for (const auto& [reason, of_reason] : runs.impossible) {
        count(of_reason.count, &rejected_[reason]);
        Layout of_run = l;
        set_run(of_run, of_reason.micro_batch, of_reason.way);
        keep_example(of_run, s, of_reason.first);
      }
      if (runs.count == 0) continue;
      const auto why = impossible_group(l);
      count(runs.count, why ? &rejected_[why->reason] : nullptr);
      if (!why)
        possible.push_back(s);
      else
        keep_example(l, s, *why);
    }
    return possible;
  }
  /// Keeps an impossible layout as an example of its reason: the first that are met, each with another detail.
  void keep_example(Layout l, const Space::Sharding& s, const Rejection& why) {
    std::vector<PricedLayout>& named = impossible_[why.reason];
    if (std::ssize(named) >= request_.rejected_examples ||
        std::any_of(named.begin(), named.end(), [&](const PricedLayout& p) { return p.rejection == why; }))
      return;
    l.zero = s.zero;
    l.shard_group = s.group;
    l.recompute = recomputes_.front();
    named.emplace_back();
    named.back().layout = std::move(l);
    named.back().precision = request_.precision;
    named.back().rejection = why;
  }

  /// Layouts of a node for each of its runs, and of a family.
  std::int64_t count_of_run(const Node& node) const {
    return std::ssize(shardings_[static_cast<std::size_t>(node.shardings)]) * std::ssize(recomputes_);
  }
  std::int64_t count(const Family& family) const {
    std::int64_t n = 0;
    for (const Node& node : family.nodes) n += node.runs->count * count_of_run(node);
    return n;
  }

  /// What every layout of the family takes at the least, whatever keeps its weights in step.
  void bound(Family& family) const {
    family.floor = pricer_.least(family.shape);
    family.least = std::numeric_limits<double>::infinity();
    std::map<int, Floor::Passes> passes;  // by micro-batch
    for (Node& node : family.nodes) {
      Layout l = layout_of(family, node);
      std::optional<Floor> floor;
      for (const Runs::Run& run : node.runs->possible) {
        auto known = passes.find(run.micro_batch);
        if (known == passes.end())
          known = passes.emplace(run.micro_batch, Floor::passes(pricer_, family.floor, run.micro_batch, {})).first;
        set_floor(floor, l, family, run);
        node.least.push_back(floor->time(known->second, {}).value);
        family.least = std::min(family.least, node.least.back());
      }
    }
  }
  /// Of a run of the degrees of `l`; `floor` may be that of another of them.
  void set_floor(std::optional<Floor>& floor, Layout& l, const Family& family, const Runs::Run& run) const {
    const bool same_size = floor && l.micro_batch == run.micro_batch;
    set_run(l, run.micro_batch, run.ways.front());
    if (same_size)
      floor->change_way(l);
    else
      floor.emplace(pricer_, l, run.micro_batch * family.floor.weights.stream, !space_.pinned_layers());
  }

  /// Prices a few layouts of the most promising families ahead, so that the first batches, too, can prune: for some
  /// sizes of memory, the fastest by their floors. They are met again, and counted, when their family is searched.
  void scout(const std::vector<Family>& families) {
    std::vector<BySize> found(std::min<std::size_t>(families.size(), 64));
    run_in_parallel(found.size(), request_.threads, [&](std::size_t i) { found[i] = promising(families[i]); });
    std::vector<Candidate> chosen;
    for (std::size_t size = 0; size < kSizes; ++size) {
      std::vector<Candidate> all;
      for (const BySize& of_family : found)
        if (of_family[size]) all.push_back(*of_family[size]);
      std::stable_sort(all.begin(), all.end(),
                       [](const Candidate& a, const Candidate& b) { return a.lower_bound < b.lower_bound; });
      if (all.size() > kOfEachSize) all.resize(kOfEachSize);
      chosen.insert(chosen.end(), all.begin(), all.end());
    }
    std::vector<PricedLayout> priced(chosen.size());
    run_in_parallel(chosen.size(), request_.threads, [&](std::size_t i) { priced[i] = price(chosen[i]); });
    for (const PricedLayout& p : priced)
      if (p.fits && scouted_.insert(p.layout).second) known_.add(p.prediction->step, {reserved(p)});
  }
  static constexpr std::size_t kSizes = 12, kOfEachSize = 4;
  using BySize = std::array<std::optional<Candidate>, kSizes>;
  BySize promising(const Family& family) {
    BySize best;
    ShapePricer graphs = pricer_.shape_pricer(family.shape, &shared_);
    const LeastPrice least = graphs.least(recomputes_);
    for (const Node& node : family.nodes) {
      Layout l = layout_of(family, node);
      std::optional<Floor> floor;
      std::vector<std::pair<Space::Sharding, Floor::Weights>> shardings;
      for (const Space::Sharding& s : shardings_[static_cast<std::size_t>(node.shardings)]) {
        l.zero = s.zero;
        l.shard_group = s.group;
        shardings.push_back({s, Floor::weights(pricer_, pricer_.data_of(family.floor.weights, l))});
      }
      for (const Runs::Run& run : node.runs->possible) {
        if (run.micro_batch > 2 * node.runs->possible.front().micro_batch) break;
        set_floor(floor, l, family, run);
        for (std::size_t r = 0; r < recomputes_.size(); ++r) {
          const Floor::Passes passes = Floor::passes(pricer_, least, run.micro_batch, recomputes_[r]);
          for (const auto& [sharding, weights] : shardings) {
            Candidate c{};
            c.lower_bound = floor->time(passes, weights).value;
            c.reserved = floor->memory(passes, weights).value;
            c.degrees = node.degrees;
            c.virtual_pipeline = run.ways.front().virtual_pipeline;
            c.schedule = run.ways.front().schedule;
            c.micro_batch = run.micro_batch;
            c.sequence_parallel = family.shape.sequence_parallel;
            c.recompute = static_cast<std::int16_t>(r);
            c.zero = static_cast<std::int16_t>(sharding.zero);
            c.group = sharding.group;
            // Floors are below what is really needed.
            double room = 0.9 * static_cast<double>(request_.machine.usable_memory().value);
            for (std::size_t size = 0; size < kSizes && static_cast<double>(c.reserved) <= room; ++size, room *= 0.75)
              if (!best[size] || c.lower_bound < best[size]->lower_bound) best[size] = c;
          }
        }
      }
    }
    return best;
  }

  /// All layouts of one family: counted, but for those that fit and that a pricing in full could still show to matter.
  class FamilySearch {
   public:
    FamilySearch(const Search& search, const Family& family)
        : s_(search),
          family_(family),
          graphs_(search.pricer_.shape_pricer(family.shape, &search.shared_)),
          shardings_(family.nodes.size()) {}

    Found run() {
      if (s_.too_slow(family_.least)) {
        found_.pruned = s_.count(family_);
        return std::move(found_);
      }
      std::set<int> micro_batches;
      for (const Node& node : family_.nodes)
        for (const Runs::Run& run : node.runs->possible) micro_batches.insert(run.micro_batch);
      for (int micro_batch : micro_batches) search(micro_batch);
      return std::move(found_);
    }

   private:
    /// What zero and fsdp_group cost at some degrees, and what none of them falls below.
    struct Weights {
      struct Priced {
        Space::Sharding sharding;
        Pricer::Data data;
        Floor::Weights floor;
      };
      std::vector<Priced> priced;
      Ranges<Floor::Weights> least;
    };
    /// Layouts that differ in their way through the pipeline alone, if at all.
    struct Line {
      const Node* node;
      const Runs::Run* run;
      Range ways;  // of the run
      const Floor* floor;
      std::size_t recompute;
      const Weights::Priced* sharding;
      std::int64_t count() const { return static_cast<std::int64_t>(ways.size()); }
    };

    /// A run of a node, and the floors of its ways: made when they are needed.
    struct Ways {
      const Node* node;
      const Runs::Run* run;
      const Layout* layout;
      std::vector<const Floor*> floors;
    };

    /// All layouts with a micro-batch: those that no floor under all micro-batches dismisses are priced at this one.
    void search(int micro_batch) {
      floors_.clear();
      std::vector<Line> lines = lines_at(micro_batch);
      if (lines.empty()) return;
      keep_by_sums(micro_batch, lines);
      if (lines.empty()) return;
      const std::size_t before = found_.fits.size() + found_.nearest.size();
      search(lines, graphs_.price(micro_batch, choices_of(lines)));
      if (found_.fits.size() + found_.nearest.size() == before) return;
      Shape shape = family_.shape;
      shape.micro_batch = micro_batch;
      const Recompute& first = s_.recomputes_.front();
      s_.pricer_.remember(shape, first, graphs_.price(micro_batch, s_.pricer_.priced_with(first)));
    }

    std::vector<Recompute> choices_of(const std::vector<Line>& lines) const {
      std::vector<char> asked(s_.recomputes_.size());
      for (const Line& line : lines) asked[line.recompute] = 1;
      std::vector<Recompute> choices;
      for (std::size_t r = 0; r < asked.size(); ++r)
        if (asked[r]) choices.push_back(s_.recomputes_[r]);
      return choices;
    }

    std::vector<Line> lines_at(int micro_batch) {
      Ranges<Floor::Passes> passes;  // by choice of recomputation, made when they are needed
      std::vector<Line> lines;
      for (std::size_t n = 0; n < family_.nodes.size(); ++n) {
        const Node& node = family_.nodes[n];
        std::optional<Layout> l;
        std::optional<Floor> floor;
        const std::vector<Runs::Run>& runs = node.runs->possible;
        auto next = std::lower_bound(runs.begin(), runs.end(), micro_batch,
                                     [](const Runs::Run& run, int b) { return run.micro_batch < b; });
        for (; next != runs.end() && next->micro_batch == micro_batch; ++next) {
          const Runs::Run& run = *next;
          if (s_.too_slow(node.least[static_cast<std::size_t>(next - runs.begin())])) {
            found_.pruned += std::ssize(run.ways) * s_.count_of_run(node);
            continue;
          }
          if (passes.empty()) passes = Ranges(passes_at(micro_batch));
          if (!l) l = s_.layout_of(family_, node);
          s_.set_floor(floor, *l, family_, run);
          floors_.push_back(*floor);
          Ways ways{&node, &run, &*l, std::vector<const Floor*>(run.ways.size())};
          ways.floors.front() = &floors_.back();
          const std::size_t before = lines.size();
          add_lines(ways, {0, run.ways.size()}, passes, {0, s_.recomputes_.size()}, weights(n),
                    {0, weights(n).priced.size()}, lines);
          std::sort(lines.begin() + static_cast<std::ptrdiff_t>(before), lines.end(), [](const Line& a, const Line& b) {
            return std::tie(a.recompute, a.sharding, a.ways.first) < std::tie(b.recompute, b.sharding, b.ways.first);
          });
        }
      }
      return lines;
    }
    /// Leaves those that the sums of their operators' times at this micro-batch do not dismiss.
    void keep_by_sums(int micro_batch, std::vector<Line>& lines) {
      const LeastPrice sums = graphs_.least_at(micro_batch, choices_of(lines), *floor_);
      std::vector<std::optional<Floor::Passes>> passes(s_.recomputes_.size());
      std::erase_if(lines, [&](const Line& line) {
        std::optional<Floor::Passes>& p = passes[line.recompute];
        if (!p) p = Floor::passes(s_.pricer_, sums, micro_batch, s_.recomputes_[line.recompute]);
        return dismiss(*line.floor, *p, line.sharding->floor, line.count());
      });
    }
    std::vector<Floor::Passes> passes_at(int micro_batch) {
      if (!floor_) {
        floor_ = graphs_.least(s_.recomputes_);
        order_recomputes();
      }
      std::vector<Floor::Passes> passes;
      for (const std::size_t r : recomputes_)
        passes.push_back(Floor::passes(s_.pricer_, *floor_, micro_batch, s_.recomputes_[r]));
      return passes;
    }
    /// What keeps most, and so takes least, first: halves of such a list have more in common.
    void order_recomputes() {
      std::vector<double> saved;
      for (const Recompute& recompute : s_.recomputes_) {
        const Floor::Passes passes = Floor::passes(s_.pricer_, *floor_, 1, recompute);
        saved.push_back(std::accumulate(passes.saved.begin(), passes.saved.end(), 0.0));
      }
      recomputes_.resize(saved.size());
      std::iota(recomputes_.begin(), recomputes_.end(), std::size_t{0});
      std::stable_sort(recomputes_.begin(), recomputes_.end(),
                       [&](std::size_t a, std::size_t b) { return saved[a] > saved[b]; });
    }
    /// Lines of these ways through the pipeline, choices of recomputation and ways to shard, by halves: what dismisses
    /// a half dismisses all of it. The floor of the first of some ways holds for all of them.
    void add_lines(Ways& of, Range ways, const Ranges<Floor::Passes>& passes, Range recomputes, const Weights& weights,
                   Range shardings, std::vector<Line>& lines) {
      const std::size_t lines_here = recomputes.size() * shardings.size();
      const bool can_part =
          ways.size() > 1 && of.run->ways[ways.first].virtual_pipeline > 1;  // else no floor tells them apart
      const Floor*& floor = of.floors[ways.first];
      if (!floor) {
        Layout l = *of.layout;
        set_run(l, of.run->micro_batch, of.run->ways[ways.first]);
        floors_.push_back(*of.floors.front());
        floors_.back().change_way(l);
        floor = &floors_.back();
      }
      if (dismiss(*floor, passes.least(recomputes), weights.least.least(shardings),
                  static_cast<std::int64_t>(lines_here * ways.size())))
        return;
      if (lines_here == 1 && !can_part) {
        lines.push_back(
            {of.node, of.run, ways, floor, recomputes_[recomputes.first], &weights.priced[shardings.first]});
      } else if (can_part && ways.size() >= std::max(recomputes.size(), shardings.size())) {
        for (Range half : ways.halves()) add_lines(of, half, passes, recomputes, weights, shardings, lines);
      } else if (recomputes.size() >= shardings.size()) {
        for (Range half : recomputes.halves()) add_lines(of, ways, passes, half, weights, shardings, lines);
      } else {
        for (Range half : shardings.halves()) add_lines(of, ways, passes, recomputes, weights, half, lines);
      }
    }
    /// Counts layouts none of which matters.
    bool dismiss(const Floor& floor, const Floor::Passes& passes, const Floor::Weights& weights, std::int64_t count) {
      const double time = floor.time(passes, weights, {s_.known_.slowest()}).value;
      if (s_.too_slow(time)) {
        found_.pruned += count;
        return true;
      }
      Candidate least{};
      least.lower_bound = time;
      least.reserved = floor.memory(passes, weights).value;
      const bool fits = least.reserved <= s_.request_.machine.usable_memory().value;
      if (!fits && !s_.may_be_near(least.reserved, found_)) {
        found_.too_large += count;
        return true;
      }
      if (fits && s_.can_be_pruned(least)) {
        found_.pruned += count;
        return true;
      }
      return false;
    }

    const Weights& weights(std::size_t n) {
      Weights& w = shardings_[n];
      if (!w.priced.empty()) return w;
      const Node& node = family_.nodes[n];
      Layout l = s_.layout_of(family_, node);
      for (const Space::Sharding& s : s_.shardings_[static_cast<std::size_t>(node.shardings)]) {
        l.zero = s.zero;
        l.shard_group = s.group;
        w.priced.push_back({s, s_.pricer_.data_of(family_.floor.weights, l), {}});
        w.priced.back().floor = Floor::weights(s_.pricer_, w.priced.back().data);
      }
      std::vector<Floor::Weights> floors;
      for (const auto& p : w.priced) floors.push_back(p.floor);
      w.least = Ranges(std::move(floors));
      return w;
    }

    /// Those of one node, run and recomputation stand together.
    void search(const std::vector<Line>& lines, const ShapePrice& price) {
      splits_.clear();
      of_1f1b_.clear();
      std::vector<std::optional<Floor::Passes>> passes(s_.recomputes_.size());
      for (const Line& line : lines)
        if (!passes[line.recompute])
          passes[line.recompute] = Floor::passes(s_.pricer_, price, s_.recomputes_[line.recompute]);
      std::vector<std::optional<Piped>> pipelines;  // by way, made when a sharding needs it
      const Line* of = nullptr;                     // whose they are
      for (const Line& line : lines) {
        const Floor::Passes& of_line = *passes[line.recompute];
        if (dismiss(*line.floor, of_line, line.sharding->floor, line.count())) continue;
        const Bytes least_memory = line.floor->memory(of_line, line.sharding->floor);
        if (!of || std::tie(of->node, of->run, of->recompute) != std::tie(line.node, line.run, line.recompute)) {
          pipelines.clear();
          pipelines.resize(line.run->ways.size());
          of = &line;
        }
        const OfLine key(line.node, line.recompute, line.sharding);
        // Greedy schedules may keep less than 1f1b.
        const bool keeps_more =
            line.run->ways.front().virtual_pipeline == 1 && !is_greedy(line.run->ways.front().schedule);
        const auto plain = keeps_more ? of_1f1b_.find(key) : of_1f1b_.end();
        const bool known_too_large = plain != of_1f1b_.end() && !plain->second;
        Fate fate = Fate::open;
        for (std::size_t v = line.ways.first; v < line.ways.behind; ++v) {
          const Space::Way way = line.run->ways[v];
          // gpipe and zb-h1 need no less memory than 1f1b, zb-h2 no less than zb-h1, whose bound is its own, too, where
          // it has the same split.
          const bool as_before = fate == Fate::too_large || (fate == Fate::pruned && !pipelines[v - 1]->others());
          const bool settled = known_too_large || (way.schedule == Schedule::zb_h2 && v > line.ways.first && as_before);
          if (settled && !s_.known_.empty()) {
            ++(known_too_large || fate == Fate::too_large ? found_.too_large : found_.pruned);
            continue;
          }
          if (!pipelines[v]) {
            Layout l = s_.layout_of(family_, *line.node);
            set_run(l, line.run->micro_batch, way);
            l.recompute = s_.recomputes_[line.recompute];
            pipelines[v].emplace(s_, price, l, splits_of(l, price, line.recompute));
          }
          Candidate c{};
          c.degrees = line.node->degrees;
          c.virtual_pipeline = way.virtual_pipeline;
          c.schedule = way.schedule;
          c.micro_batch = line.run->micro_batch;
          c.sequence_parallel = family_.shape.sequence_parallel;
          c.recompute = static_cast<std::int16_t>(line.recompute);
          c.zero = static_cast<std::int16_t>(line.sharding->sharding.zero);
          c.group = line.sharding->sharding.group;
          c.reserved = least_memory.value;
          if (plain != of_1f1b_.end() && plain->second) c.reserved = std::max(c.reserved, plain->second->value);
          fate = search(*pipelines[v], line.sharding->data, c);
          if (way.schedule == Schedule::one_f_one_b && !family_.shape.pairs) {
            if (fate == Fate::too_large) of_1f1b_[key] = std::nullopt;
            if (fate == Fate::open && found_.fits.back().most_layers == 0)
              of_1f1b_[key] = Bytes{found_.fits.back().reserved};
          }
        }
      }
    }
    /// Splits of the layers over some chunks, in the order in which they are tried: the first that fits is taken. The
    /// balanced one, and the same with no more than k layers in a chunk, k falling (search.h).
    struct Splits {
      std::vector<int> most;  // 0 of the first
      std::vector<std::vector<int>> layers;
    };
    /// A layout but for its sharding, with each of its splits.
    class Piped {
     public:
      Piped(const Search& search, const ShapePrice& price, Layout layout, const Splits& splits)
          : s_(search), price_(price), layout_(std::move(layout)), splits_(splits), made_(splits.most.size()) {}
      std::size_t size() const { return made_.size(); }
      bool others() const { return made_.size() > 1; }
      int most(std::size_t split) const { return splits_.most[split]; }
      const PipelineShape& at(std::size_t split) {
        if (!made_[split]) {
          layout_.layers_per_chunk = splits_.layers[split];
          made_[split].emplace(s_.pricer_, price_, layout_);
        }
        return *made_[split];
      }

     private:
      const Search& s_;
      const ShapePrice& price_;
      Layout layout_;
      const Splits& splits_;
      std::vector<std::optional<PipelineShape>> made_;
    };
    enum class Fate { too_large, pruned, open };
    /// `c.reserved`: no more than what it needs with the first split.
    Fate search(Piped& pipelines, const Pricer::Data& data, Candidate c) {
      const PipelineShape& first = pipelines.at(0);
      c.lower_bound = first.lower_bound(data).value;
      const bool fast_enough = !s_.can_be_pruned(c);
      if (!fast_enough && is_greedy(c.schedule) && none_fast_enough(pipelines, data, c)) {
        ++found_.pruned;
        return Fate::pruned;
      }
      // Whether it fits decides which split a layout has.
      std::optional<Bytes> reserved = fast_enough || pipelines.others() ? first.fitting(data) : Bytes{c.reserved};
      if (reserved && !fast_enough) {
        ++found_.pruned;
        return Fate::pruned;
      }
      for (std::size_t split = 1; !reserved && split < pipelines.size(); ++split) {
        reserved = pipelines.at(split).fitting(data);
        if (!reserved) continue;
        c.most_layers = pipelines.most(split);
        c.lower_bound = pipelines.at(split).lower_bound(data).value;
      }
      if (!reserved) {
        ++found_.too_large;
        s_.insert_fastest(c, found_.fastest);
        s_.remember_nearest(first, data, c, found_);
        return Fate::too_large;
      }
      c.reserved = reserved->value;
      if (s_.can_be_pruned(c)) {
        ++found_.pruned;
        return Fate::pruned;
      }
      found_.fits.push_back(c);
      return Fate::open;
    }
    /// With no split: told apart from which of them fits, where that takes a play to find out.
    bool none_fast_enough(Piped& pipelines, const Pricer::Data& data, Candidate c) {
      for (std::size_t split = 1; split < pipelines.size(); ++split) {
        c.lower_bound = pipelines.at(split).lower_bound(data).value;
        if (!s_.can_be_pruned(c)) return false;
      }
      return true;
    }
    const Splits& splits_of(const Layout& l, const ShapePrice& shape, std::size_t recompute) {
      const int chunks = l.pipeline * l.virtual_pipeline;
      Splits& known = splits_[{recompute, chunks}];
      if (!known.most.empty() && !s_.space_.pinned_layers()) return known;
      known = {{0}, {s_.layers_of(l, shape, 0)}};
      if (s_.space_.pinned_layers()) return known;
      const std::vector<int>& balanced = known.layers.front();
      const int layers = std::accumulate(balanced.begin(), balanced.end(), 0);
      const int fewest = (layers + chunks - 1) / chunks;
      for (int most = *std::max_element(balanced.begin(), balanced.end()) - 1; most >= fewest; --most) {
        known.most.push_back(most);
        known.layers.push_back(s_.layers_of(l, shape, most));
      }
      return known;
    }

    const Search& s_;
    const Family& family_;
    ShapePricer graphs_;
    std::optional<LeastPrice> floor_;                       // with every recomputation
    std::vector<std::size_t> recomputes_;                   // in the order of what they keep
    std::deque<Floor> floors_;                              // of the lines of one micro-batch
    std::vector<Weights> shardings_;                        // by node, made when they are needed
    std::map<std::pair<std::size_t, int>, Splits> splits_;  // of one micro-batch, by recomputation and chunks
    /// What 1f1b needs, nothing where that does not fit: of one micro-batch, those that were looked at.
    using OfLine = std::tuple<const Node*, std::size_t, const Weights::Priced*>;
    std::map<OfLine, std::optional<Bytes>> of_1f1b_;
    Found found_;
  };

  /// Of what does not fit: whether that many bytes are among the fewest, as long as nothing fits.
  bool may_be_near(std::int64_t bytes, const Found& found) const {
    if (!known_.empty()) return false;
    const auto less_than_third = [&](const std::vector<Candidate>& list) {
      return list.size() < kNearest || bytes <= list.back().reserved;
    };
    return less_than_third(nearest_) && less_than_third(found.nearest);
  }
  void remember_nearest(const PipelineShape& pipeline, const Pricer::Data& data, Candidate c, Found& found) const {
    if (!known_.empty()) return;
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

  void insert_fastest(const Candidate& c, std::vector<Candidate>& list) const {
    const auto most = static_cast<std::size_t>(request_.rejected_examples);
    if (most == 0 || (list.size() == most && c.lower_bound > list.back().lower_bound)) return;
    const auto faster = [&](const Candidate& a, const Candidate& b) {
      return a.lower_bound != b.lower_bound ? a.lower_bound < b.lower_bound : layout_of(a) < layout_of(b);
    };
    list.insert(std::upper_bound(list.begin(), list.end(), c, faster), c);
    if (list.size() > most) list.pop_back();
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
      for (const Candidate& c : f.fastest) insert_fastest(c, fastest_);
    }
    if (too_large > 0) rejected_["memory"] += too_large;
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.lower_bound < b.lower_bound; });
    for (const Candidate& c : candidates) {
      if (can_be_pruned(c)) {
        ++pruned_;
        continue;
      }
      PricedLayout p = price(c);
      if (scouted_.count(p.layout) == 0) known_.add(p.prediction->step, {reserved(p)});
      points_.push_back({p.layout, p.precision, p.prediction->step, {reserved(p)}});
      insert_top(p);
      insert_front(std::move(p));
    }
  }

  bool too_slow(double seconds) const { return known_.too_slow(seconds); }
  bool can_be_pruned(const Candidate& c) const { return known_.leaves_no_room(c.lower_bound, c.reserved); }
  static std::int64_t reserved(const PricedLayout& p) { return p.prediction->worst().reserved.value; }
  static bool better(const PricedLayout& a, const PricedLayout& b) {
    return std::tie(a.prediction->step, a.layout) < std::tie(b.prediction->step, b.layout);
  }
  PricedLayout price(const Candidate& c) {
    PricedLayout p;
    p.layout = layout_of(c);
    const ShapePrice& shape = pricer_.shape(shape_of(p.layout), p.layout.recompute);
    p.layout.layers_per_chunk = layers_of(p.layout, shape, c.most_layers);
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
    a.summary.priced = std::ssize(points_);
    a.summary.pruned = pruned_;
    a.summary.rejected = rejected_;
    std::int64_t rejected = 0;
    for (const auto& [reason, n] : rejected_) rejected += n;
    a.summary.proven_best = !top_.empty() && considered_ == a.summary.priced + pruned_ + rejected;
    a.top = std::move(top_);
    a.pareto = within_reach(std::move(front_));
    a.priced = std::move(points_);
    if (a.top.empty()) a.nearest = priced_too_large(nearest_);
    if (a.top.empty() && request_.rejected_examples > 0)
      a.rejected = {a.nearest.begin(),
                    a.nearest.begin() + std::min(std::ssize(a.nearest), std::ptrdiff_t{request_.rejected_examples})};
    else
      a.rejected = priced_too_large(fastest_);
    for (auto& [reason, named] : impossible_)
      a.rejected.insert(a.rejected.end(), std::make_move_iterator(named.begin()), std::make_move_iterator(named.end()));
    return a;
  }
  std::vector<PricedLayout> priced_too_large(const std::vector<Candidate>& candidates) {
    std::vector<PricedLayout> priced;
    for (const Candidate& c : candidates) {
      priced.push_back(price(c));
      priced.back().rejection = too_large(request_.machine, *priced.back().prediction);
    }
    return priced;
  }

  const PlanRequest& request_;
  Pricer& pricer_;
  Space space_;
  std::vector<Recompute> recomputes_;
  std::vector<std::vector<Space::Sharding>> shardings_;
  std::map<std::tuple<int, int, std::optional<Schedule>>, Runs> runs_;          // by pp, dp and Degrees::paired
  std::map<std::array<int, 5>, std::vector<std::optional<Rejection>>> meshes_;  // by tp, cp, dp, ep, etp; of shardings
  mutable SharedPrices shared_;
  Known known_;
  std::set<Layout> scouted_;
  std::vector<Candidate> nearest_, fastest_;                     // that do not fit, as of Found
  std::map<std::string, std::vector<PricedLayout>> impossible_;  // examples, by reason
  std::int64_t considered_ = 0, pruned_ = 0;
  std::map<std::string, std::int64_t> rejected_;
  std::vector<PricedLayout> top_, front_;
  std::vector<PricedPoint> points_;
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
  const bool experts = request.model.n_routed_experts > 0, spread = experts && !request.engine.dispatchers.empty();
  const Engine& engine = request.engine;
  const std::vector<int> all = divisors(request.gpus), one = {1};
  for (int tp : values(pins.tp, engine.tensor_parallel ? all : one))
    for (int pp : values(pins.pp, engine.schedules.empty() ? one : all))
      for (int cp : values(pins.cp, engine.cp_kinds.empty() ? one : all)) {
        const std::int64_t dense = std::int64_t{tp} * pp * cp;
        if (request.gpus % dense != 0) continue;
        const auto dp = static_cast<int>(request.gpus / dense);
        if (pins.dp && *pins.dp != dp) continue;
        Degrees d = {tp, pp, cp, dp};
        const std::vector<std::optional<Schedule>> with_paired = paired(d);
        if (with_paired.empty()) continue;
        for (int ep : values(pins.ep, spread ? divisors(request.model.n_routed_experts) : one))
          for (int etp : values(pins.etp, experts && tp > 1 ? std::vector{1, tp} : std::vector{1})) {
            if (!pins.ep && std::int64_t{tp} * cp * dp % (std::int64_t{ep} * etp) != 0) continue;
            d.expert = ep;
            d.expert_tensor = etp;
            std::vector<std::pair<RankOrder, Dispatcher>> orders;  // the dispatcher does not ask for the rest
            for (RankOrder order : rank_orders(d)) {
              d.rank_order = order;
              orders.push_back({order, dispatcher(d)});
            }
            for (ContextParallel kind : context_kinds(cp))
              for (const auto& [order, dispatcher] : orders)
                for (const std::optional<Schedule> schedule : with_paired) {
                  d.context_kind = kind;
                  d.rank_order = order;
                  d.paired = schedule;
                  d.dispatcher = dispatcher;
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
  l.rank_order = d.rank_order;
  if (only(d) && d.pipeline > 1) l.schedule = *only(d);
  l.overlap = overlaps(l);
  return l;
}

std::vector<ContextParallel> Space::context_kinds(int context) const {
  if (context == 1) return {ContextParallel::all_gather};
  if (request_.pins.cp_kind) return {*request_.pins.cp_kind};
  return request_.engine.cp_kinds;
}

Dispatcher Space::dispatcher(const Degrees& d) const {
  if (d.expert == 1) return Dispatcher::all_to_all;
  if (request_.pins.dispatcher) return *request_.pins.dispatcher;
  std::vector<Dispatcher> some;
  for (Dispatcher one : {Dispatcher::all_to_all, Dispatcher::deepep})
    if (has(request_.engine.dispatchers, one)) some.push_back(one);
  if (some.size() == 1) return some.front();
  if (some.empty()) return request_.engine.dispatchers.front();
  return faster_dispatcher(request_.model, layout_at(d), request_.machine);
}

Overlaps Space::overlaps(const Layout& l) const {
  const LayoutPins& pins = request_.pins;
  Overlaps wanted = request_.engine.default_overlaps;
  // What pairs are for.
  if (l.schedule == Schedule::dualpipe || l.schedule == Schedule::dualpipe_v) wanted.set(Overlap::ep, true);
  const int on = (wanted.bits | pins.overlap_on.bits) & ~pins.overlap_off.bits & overlaps_of(l).bits;
  return {static_cast<std::uint8_t>(on)};
}

std::vector<int> Space::virtual_pipelines(const Degrees& d) const {
  const LayoutPins& pins = request_.pins;
  const std::optional<Schedule> only = this->only(d);
  const auto runs = [&](Schedule s) {
    return has(request_.engine.schedules, s) && (s == Schedule::interleaved || has(request_.more_schedules, s));
  };
  const int most = d.pipeline > 1 ? static_cast<int>((request_.model.num_hidden_layers + 2) / d.pipeline) : 1;
  std::vector<int> all;
  if (pins.vpp) {
    all = {*pins.vpp};
  } else {
    for (int v = 1; v <= std::max(most, 1); ++v) all.push_back(v);
    if (most < 2 && d.pipeline > 1 && pins.schedule && takes_chunks(*pins.schedule, 2) &&
        !takes_chunks(*pins.schedule, 3))
      all.push_back(2);  // in V shape, however few the layers
  }
  std::erase_if(all, [&](int v) {
    if (v > 1 && d.pipeline == 1) return true;
    if (only && d.pipeline > 1 && !takes_chunks(*only, v)) return true;
    if (only == Schedule::interleaved && v == 1) return true;
    if (!only && v > 1 && !runs(Schedule::interleaved) && !(v == 2 && runs(Schedule::zb_v))) return true;
    if (!pins.layers_per_stage) return false;
    const auto entries = static_cast<std::int64_t>(pins.layers_per_stage->size());
    return entries != d.pipeline && entries != std::int64_t{d.pipeline} * v;
  });
  return all;
}

std::vector<std::optional<Schedule>> Space::paired(const Degrees& d) const {
  std::vector<std::optional<Schedule>> all;
  const auto add = [&](std::optional<Schedule> schedule) {
    Degrees with = d;
    with.paired = schedule;
    if (!virtual_pipelines(with).empty()) all.push_back(schedule);
  };
  add({});
  if (d.pipeline == 1 || request_.pins.schedule) return all;
  for (Schedule one : {Schedule::dualpipe, Schedule::dualpipe_v})
    if (has(request_.more_schedules, one) && has(request_.engine.schedules, one)) add(one);
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
  std::vector<int> stages = request_.engine.zero;
  if (group) std::erase(stages, 0);
  for (int zero : values(pins.zero, stages)) {
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

std::vector<Space::Way> Space::ways(const Degrees& d) const {
  const std::optional<Schedule> only = this->only(d);
  std::vector<Way> all;
  for (int v : virtual_pipelines(d)) {
    if (only && takes_chunks(*only, v)) {
      all.push_back({*only, v});
      continue;
    }
    if (d.pipeline == 1) {
      all.push_back({Schedule::one_f_one_b, 1});
      continue;
    }
    const auto add = [&](Schedule one) {
      if (has(request_.engine.schedules, one) && takes_chunks(one, v)) all.push_back({one, v});
    };
    for (Schedule one :
         {Schedule::interleaved, Schedule::gpipe, Schedule::one_f_one_b, Schedule::zb_h1, Schedule::zb_h2})
      add(one);
    for (Schedule one : {Schedule::zb_1p, Schedule::zb_2p, Schedule::zb_v})
      if (has(request_.more_schedules, one)) add(one);
  }
  return all;
}

std::vector<RankOrder> Space::rank_orders(const Degrees& d) const {
  if (request_.pins.rank_order) return {*request_.pins.rank_order};
  if (d.data == 1 || d.pipeline == 1) return {RankOrder::tp_cp_dp_pp};
  return {RankOrder::tp_cp_dp_pp, RankOrder::tp_cp_pp_dp};
}

const std::vector<int>* Space::pinned_layers() const {
  return request_.pins.layers_per_stage ? &*request_.pins.layers_per_stage : nullptr;
}

SearchAnswer search(const PlanRequest& request, Pricer& pricer) { return Search(request, pricer).run(); }

}  // namespace shardwright
