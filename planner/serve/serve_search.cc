#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <variant>

#include "planner/divisors.h"
#include "planner/parallel.h"
#include "planner/serve/simulate_layout.h"

namespace shardwright {
namespace {

/// A fewest-GPUs search looks at copies of up to so many GPUs, at so many in all, and plays so many layouts.
constexpr std::int64_t kLargestCopy = 64, kMostGpusOfLoad = 65536;
constexpr int kMostPlayed = 64;

bool allows(const std::optional<int>& pin, std::int64_t value) { return !pin || *pin == value; }

/// What a copy does at one load, or all copies with the clients that are asked for.
struct Point {
  ServeLayout layout;
  ServePrediction prediction;
};

/// So many clients, or every load: each batch that fits.
struct Copy {
  std::vector<Point> points;
  std::optional<ServedLayout> misses;  // what does not fit
};

Copy loads_of(const ServeRequest& request, const ServeLayout& layout, std::optional<std::int64_t> clients) {
  const Machine machine = evenly_filled(request.machine, layout.ranks() * layout.pipeline);
  StepTimes times(request.model, machine, request.workload.formats, request.engine, layout);
  const ServeMemory& memory = times.memory(machine, request.workload);
  Copy copy;
  if (memory.largest_batch == 0) {
    ServedLayout misses;
    misses.layout = layout;
    misses.rejection = Rejection{"memory", memory.reason.substr(memory.reason.find(' ') + 1)};
    misses.prediction.emplace();
    misses.prediction->memory = memory;
    copy.misses = std::move(misses);
    return copy;
  }
  const auto at = [&](std::int64_t requests) {
    ServeWorkload workload = request.workload;
    workload.concurrency = requests;
    copy.points.push_back({layout, aggregated(times, machine, workload)});
  };
  if (clients) {
    at(*clients);
  } else {
    for (const std::int64_t batch : batches_tried(memory.largest_batch)) at(batch * layout.attention_data);
  }
  return copy;
}

/// `copies` of a point.
ServedLayout served(const Point& point, std::int64_t copies) {
  ServedLayout plan;
  plan.layout = point.layout;
  plan.layout.replicas *= static_cast<int>(copies);
  plan.prediction = point.prediction;
  plan.fits = true;
  ServePrediction& p = *plan.prediction;
  const auto times = static_cast<double>(copies);
  for (double* rate : {&p.output_tokens_per_second, &p.output_low, &p.output_high, &p.total_tokens_per_second})
    *rate *= times;
  p.concurrency *= copies;
  return plan;
}

// ---- Pools ----

struct Prefiller {
  ServeLayout layout;
  StepTimes::Prefill one;
  double rate = 0;  // prompts a second of a worker
};
struct Decoder {
  ServeLayout layout;
  std::int64_t batch = 0;
  double rate = 0;  // answers a second of a worker
  ServePrediction prediction;
};

/// Of a size, those that no other beats in every respect; exact, since a pool's goals and rate want nothing else.
/// `worse(a, b)`: whether a is no better than b in any of them.
template <typename Worker, typename Worse>
void keep_front(std::vector<Worker>& workers, const Worse& worse) {
  std::stable_sort(workers.begin(), workers.end(), [](const Worker& a, const Worker& b) {
    return std::make_tuple(a.layout.gpus(), -a.rate, a.layout) < std::make_tuple(b.layout.gpus(), -b.rate, b.layout);
  });
  std::vector<Worker> front;
  std::size_t group = 0;  // where this size begins
  for (Worker& w : workers) {
    if (!front.empty() && front.back().layout.gpus() != w.layout.gpus()) group = front.size();
    const bool beaten = std::any_of(front.begin() + static_cast<std::ptrdiff_t>(group), front.end(),
                                    [&](const Worker& other) { return worse(w, other); });
    if (!beaten) front.push_back(std::move(w));
  }
  workers = std::move(front);
}

constexpr double kBusiestPrefill = 0.9;  // more makes prompts wait without end

/// `x` prefilling and `y` decoding workers, decoding with at most the decoder's batch.
struct Pair {
  const Prefiller* prefill = nullptr;
  const Decoder* decode = nullptr;
  std::int64_t x = 0, y = 0;
  double rate = 0;  // answers a second
  Seconds ttft;
  Seconds tpot() const { return decode->prediction.tpot; }
};

Pair paired(const ServeRequest& request, const Prefiller& prefill, const Decoder& decode, std::int64_t x,
            std::int64_t y) {
  Pair pair{&prefill, &decode, x, y, 0, {}};
  const double can_prefill = static_cast<double>(x) * prefill.rate;
  pair.rate = std::min(static_cast<double>(y) * decode.rate, kBusiestPrefill * can_prefill);
  const double busy = pair.rate / can_prefill;
  const Bytes kv{decode.prediction.kv_bytes_per_token * request.workload.isl};
  const Seconds transfer = handover_time(request, kv, x * prefill.layout.gpus());
  pair.ttft = prefill.one.latency + transfer + Seconds{0.5 * busy / (1 - busy) / can_prefill};
  return pair;
}

ServedLayout pooled(const ServeRequest& request, const Pair& pair) {
  const ServeWorkload& w = request.workload;
  ServedLayout plan;
  plan.pools = PoolLayout{pair.prefill->layout, pair.decode->layout};
  plan.pools->prefill.replicas = static_cast<int>(pair.x);
  plan.pools->decode.replicas = static_cast<int>(pair.y);
  plan.layout = plan.pools->decode;
  plan.fits = true;
  plan.prediction = pair.decode->prediction;
  ServePrediction& p = *plan.prediction;
  const double wide = p.ttft_high / p.ttft;
  p.ttft = pair.ttft;
  const double share = pair.rate * static_cast<double>(w.osl) / p.output_tokens_per_second;
  for (double* each : {&p.output_tokens_per_second, &p.output_low, &p.output_high, &p.total_tokens_per_second})
    *each *= share;
  p.output_tokens_per_second_per_gpu = p.output_tokens_per_second / static_cast<double>(plan.pools->gpus());
  p.ttft_low = (1 / wide) * p.ttft;
  p.ttft_high = wide * p.ttft;
  p.prefill_added = pair.prefill->one.added;
  p.sources.add(1, pair.prefill->one.cost.sources);
  p.concurrency = static_cast<std::int64_t>(
      std::llround(pair.rate * (p.ttft.value + static_cast<double>(w.osl - 1) * p.tpot.value)));
  return plan;
}

/// Sizes of workers below `gpus`: all within a node, then whole nodes, of many nodes eight sizes to each doubling.
std::vector<std::int64_t> sizes_of_workers(const Machine& machine, std::int64_t gpus) {
  const std::int64_t node = std::max(1, machine.gpus_per_node);
  std::vector<std::int64_t> sizes;
  for (std::int64_t n = 1; n < gpus;) {
    sizes.push_back(n);
    std::int64_t step = 1;
    while (n / node / step >= 16) step *= 2;
    n += n < node ? 1 : node * step;
  }
  return sizes;
}

/// Numbers of workers of a pair that fill the GPUs, of those that may be best: where prefill and decode balance, rates
/// are highest; more that prefill only make first tokens sooner, so up to the first that keeps them in time.
void add_pairs(const ServeRequest& request, const Prefiller& prefill, const Decoder& decode, std::int64_t gpus,
               std::vector<Pair>& pairs) {
  const std::int64_t a = prefill.layout.gpus(), b = decode.layout.gpus();
  const double per_decode = decode.rate / static_cast<double>(b), all = static_cast<double>(gpus);
  const double balance = all * per_decode / (kBusiestPrefill * prefill.rate + static_cast<double>(a) * per_decode);
  const auto fills = [&](std::int64_t x) { return gpus - x * a >= b && (gpus - x * a) % b == 0; };
  const auto add = [&](std::int64_t x) {
    pairs.push_back(paired(request, prefill, decode, x, (gpus - x * a) / b));
    return !request.goals.max_ttft_seconds || pairs.back().ttft.value <= *request.goals.max_ttft_seconds;
  };
  const auto middle = static_cast<std::int64_t>(balance);
  for (std::int64_t x = middle; x >= 1; --x)
    if (fills(x)) {
      add(x);
      break;
    }
  for (std::int64_t x = std::max<std::int64_t>(1, middle + 1); x * a + b <= gpus; ++x)
    if (fills(x) && add(x)) break;
}

/// Those that may be ranked, on the front, or nearest to the goals; the rest is counted only.
std::vector<Pair> worth_a_prediction(const ServeRequest& request, std::vector<Pair> pairs) {
  const ServeGoals& goals = request.goals;
  const auto misses = [&](const Pair& p) {
    double worst = 1;
    if (goals.max_ttft_seconds) worst = std::max(worst, p.ttft.value / *goals.max_ttft_seconds);
    if (goals.max_tpot_seconds) worst = std::max(worst, p.tpot().value / *goals.max_tpot_seconds);
    return worst;
  };
  const auto key = [&](const Pair& p) {
    return std::make_tuple(misses(p), -p.rate, p.prefill->layout, p.decode->layout, p.x, p.decode->batch);
  };
  std::sort(pairs.begin(), pairs.end(), [&](const Pair& p, const Pair& q) { return key(p) < key(q); });
  std::vector<Pair> kept;
  std::set<std::tuple<ServeLayout, ServeLayout, std::int64_t>> ranked;
  Seconds soonest{INFINITY};
  for (const Pair& p : pairs) {
    const bool listed = ranked.size() < static_cast<std::size_t>(request.top) &&
                        ranked.insert({p.prefill->layout, p.decode->layout, p.x}).second;
    const bool in_front = misses(p) <= 1 && p.tpot() < soonest;
    if (in_front) soonest = p.tpot();
    if (listed || in_front) kept.push_back(p);
  }
  return kept;
}

/// One worker of a pool.
struct WorkerTimes {
  Machine machine;
  StepTimes times;
  WorkerTimes(const ServeRequest& request, const Machine& of, const ServeLayout& layout)
      : machine(evenly_filled(of, layout.gpus())),
        times(request.model, machine, request.workload.formats, request.engine, layout) {}
};

/// Nothing where no prompt fits.
std::optional<Prefiller> prefiller_of(const ServeRequest& request, WorkerTimes& worker) {
  ServeWorkload prompts = request.workload;
  prompts.osl = 1;
  if (worker.times.memory(worker.machine, prompts).largest_batch == 0) return std::nullopt;
  const StepTimes::Prefill one = worker.times.prefill(1, prompts.isl, 0, 0, prompts.cached_tokens());
  const ServeLayout& layout = worker.times.layout();
  return Prefiller{layout, one, static_cast<double>(layout.attention_data) / one.added.value};
}

/// With every batch that is tried.
std::vector<Decoder> decoders_of(const ServeRequest& request, WorkerTimes& worker) {
  const auto answer = static_cast<double>(std::max<std::int64_t>(1, request.workload.osl));
  std::vector<Decoder> decoders;
  for (const std::int64_t batch : batches_tried(worker.times.memory(worker.machine, request.workload).largest_batch)) {
    Decoder d;
    d.layout = worker.times.layout();
    d.batch = batch;
    d.prediction = decoding(worker.times, worker.machine, request.workload, batch);
    d.rate = d.prediction.output_tokens_per_second / answer;
    decoders.push_back(std::move(d));
  }
  return decoders;
}

/// A worker's layout and what a pool's workers are there for.
struct WorkerRole {
  ServeLayout layout;
  bool prefills = true, decodes = true;
};

/// Of pools on one machine each worker may do both; of two kinds each fills its own pool with others of its size.
std::vector<WorkerRole> roles_of_workers(const ServeRequest& request, std::int64_t gpus) {
  std::vector<WorkerRole> workers;
  if (!request.prefill_pool) {
    for (const std::int64_t size : sizes_of_workers(request.machine, gpus))
      for (const ServeLayout& l : copies_on(request, size)) workers.push_back({l, true, true});
    return workers;
  }
  ServeRequest prefill = request;
  prefill.machine = request.prefill_machine();
  for (const std::int64_t size : divisors(request.prefill_pool->gpus))
    for (const ServeLayout& l : copies_on(prefill, size)) workers.push_back({l, true, false});
  for (const std::int64_t size : divisors(gpus))
    for (const ServeLayout& l : copies_on(request, size)) workers.push_back({l, false, true});
  return workers;
}

/// Pools that fill the GPUs, `gpus` of which are of the question's machine; how many were looked at is added to
/// `priced`.
std::vector<ServedLayout> all_pools(const ServeRequest& request, std::int64_t gpus, std::int64_t& priced) {
  std::vector<Prefiller> prefillers;
  std::vector<Decoder> decoders;
  const std::vector<WorkerRole> workers = roles_of_workers(request, gpus);
  std::vector<std::optional<Prefiller>> found(workers.size());
  std::vector<std::vector<Decoder>> found_decoders(workers.size());
  run_in_parallel(workers.size(), request.threads, [&](std::size_t i) {
    const WorkerRole& w = workers[i];
    WorkerTimes worker(request, w.prefills ? request.prefill_machine() : request.machine, w.layout);
    if (w.prefills) found[i] = prefiller_of(request, worker);
    if (w.decodes) found_decoders[i] = decoders_of(request, worker);
  });
  for (std::size_t i = 0; i < workers.size(); ++i) {
    if (found[i]) prefillers.push_back(std::move(*found[i]));
    std::move(found_decoders[i].begin(), found_decoders[i].end(), std::back_inserter(decoders));
  }
  keep_front(prefillers,
             [](const Prefiller& a, const Prefiller& b) { return b.one.latency <= a.one.latency && b.rate >= a.rate; });
  keep_front(decoders, [](const Decoder& a, const Decoder& b) {
    const ServePrediction &p = a.prediction, &q = b.prediction;
    return q.tpot <= p.tpot && b.rate >= a.rate && q.kv_bytes_per_token <= p.kv_bytes_per_token;
  });
  std::vector<Pair> pairs;
  for (const Prefiller& prefill : prefillers)
    for (const Decoder& decode : decoders) {
      if (request.prefill_pool)
        pairs.push_back(paired(request, prefill, decode, request.prefill_pool->gpus / prefill.layout.gpus(),
                               gpus / decode.layout.gpus()));
      else
        add_pairs(request, prefill, decode, gpus, pairs);
    }
  priced += static_cast<std::int64_t>(pairs.size());
  std::vector<ServedLayout> plans;
  for (const Pair& pair : worth_a_prediction(request, std::move(pairs))) plans.push_back(pooled(request, pair));
  return plans;
}

bool better(const ServedLayout& a, const ServedLayout& b) {
  const double fast_a = a.prediction->output_tokens_per_second, fast_b = b.prediction->output_tokens_per_second;
  if (fast_a != fast_b) return fast_a > fast_b;
  if (a.pools.has_value() != b.pools.has_value()) return !a.pools;
  return a.pools ? *a.pools < *b.pools : a.layout < b.layout;
}

/// The best load of each layout.
std::vector<ServedLayout> best_loads(std::vector<ServedLayout> plans) {
  std::sort(plans.begin(), plans.end(), better);
  std::vector<ServedLayout> best;
  for (ServedLayout& p : plans) {
    const bool known = std::any_of(best.begin(), best.end(), [&](const ServedLayout& q) {
      return p.pools ? q.pools == p.pools : !q.pools && q.layout == p.layout;
    });
    if (!known) best.push_back(std::move(p));
  }
  return best;
}

std::vector<ServedLayout> front_of(std::vector<ServedLayout> plans) {
  std::sort(plans.begin(), plans.end(), [](const ServedLayout& a, const ServedLayout& b) {
    const double user_a = a.prediction->tokens_per_second_per_user, user_b = b.prediction->tokens_per_second_per_user;
    return user_a != user_b ? user_a > user_b : better(a, b);
  });
  std::vector<ServedLayout> front;
  for (ServedLayout& p : plans)
    if (front.empty() || p.prediction->output_tokens_per_second > front.back().prediction->output_tokens_per_second)
      front.push_back(std::move(p));
  return front;
}

bool sooner_under_load(const ServedLayout& a, const ServedLayout& b) {
  return a.under_load->seen.latency.mean < b.under_load->seen.latency.mean;
}

constexpr std::size_t kNearest = 3;

/// How far a plan is from its goals, as a factor.
double distance(const ServeGoals& goals, const ServePrediction& p) {
  double worst = 0;
  if (goals.max_ttft_seconds) worst = std::max(worst, p.ttft.value / *goals.max_ttft_seconds);
  if (goals.max_tpot_seconds) worst = std::max(worst, p.tpot.value / *goals.max_tpot_seconds);
  return worst;
}

/// Sorts what was tried into plans, front and nearest.
void answer(const ServeRequest& request, std::vector<ServedLayout> tried, std::vector<ServedLayout> misses,
            ServeResult& result) {
  std::vector<ServedLayout> kept, broken;
  const auto price_of = [&](const ServedLayout& p) -> std::optional<double> {  // of all its GPUs for an hour
    const std::optional<double>&own = request.machine.price_per_gpu_hour,
          &prefill = request.prefill_machine().price_per_gpu_hour;
    if (!own || !prefill) return std::nullopt;
    if (!p.pools) return *own * static_cast<double>(p.gpus());
    return *own * static_cast<double>(p.pools->decode.gpus()) + *prefill * static_cast<double>(p.pools->prefill.gpus());
  };
  for (ServedLayout& p : tried) {
    ServePrediction& of = *p.prediction;
    const std::optional<double> price = price_of(p);
    of.cost_per_million_output_tokens.reset();
    if (price) of.cost_per_million_output_tokens = *price / 3600 / of.output_tokens_per_second * 1e6;
    const bool told = p.rejection || p.under_load || request.goals.of != GoalOf::mean;
    if (!told) p.rejection = broken_goal(request.goals, of);
    p.keeps_goals = !p.rejection;
    if (p.rejection) ++result.search.rejected[p.rejection->reason];
    (p.keeps_goals ? kept : broken).push_back(std::move(p));
  }
  result.pareto = front_of(kept);
  result.plans = best_loads(std::move(kept));
  for (const ServedLayout& p : result.plans)
    result.priced.push_back({p.layout, p.pools, p.prediction->concurrency,
                             p.prediction->output_tokens_per_second_per_gpu, p.prediction->tokens_per_second_per_user});
  if (result.plans.size() > static_cast<std::size_t>(request.top))
    result.plans.resize(static_cast<std::size_t>(request.top));
  result.search.proven_best = !result.plans.empty();
  if (!result.plans.empty()) return;
  std::sort(broken.begin(), broken.end(), [&](const ServedLayout& a, const ServedLayout& b) {
    const double far_a = distance(request.goals, *a.prediction), far_b = distance(request.goals, *b.prediction);
    return far_a != far_b ? far_a < far_b : better(a, b);
  });
  if (broken.empty()) {
    std::sort(misses.begin(), misses.end(), [](const ServedLayout& a, const ServedLayout& b) {
      const Bytes need_a = a.prediction->memory.needed_without_kv(), need_b = b.prediction->memory.needed_without_kv();
      return need_a != need_b ? need_a < need_b : a.layout < b.layout;
    });
    broken = std::move(misses);
  }
  for (std::size_t i = 0; i < broken.size() && i < kNearest; ++i) result.nearest.push_back(std::move(broken[i]));
}

/// Loads of every copy of each of the sizes; where a number of clients is asked for, of as many copies as there is room
/// for.
std::vector<Copy> copies_of(const ServeRequest& request, const std::vector<std::int64_t>& sizes,
                            std::optional<std::int64_t> gpus, SearchSummary& search) {
  std::vector<ServeLayout> layouts;
  for (const std::int64_t size : sizes)
    for (const ServeLayout& l : copies_on(request, size, &search.rejected)) layouts.push_back(l);
  std::vector<Copy> copies(layouts.size());
  run_in_parallel(layouts.size(), request.threads, [&](std::size_t i) {
    if (request.workload.concurrency && gpus) layouts[i].replicas = static_cast<int>(*gpus / layouts[i].gpus());
    copies[i] = loads_of(request, layouts[i], gpus ? request.workload.concurrency : std::nullopt);
  });
  return copies;
}

}  // namespace

std::optional<ServedLayout> best_load(const ServeRequest& request, const PoolLayout& pools) {
  const auto one = [](ServeLayout layout) {
    layout.replicas = 1;
    return layout;
  };
  WorkerTimes prompts(request, request.prefill_machine(), one(pools.prefill)),
      answers(request, request.machine, one(pools.decode));
  const std::optional<Prefiller> prefill = prefiller_of(request, prompts);
  std::optional<ServedLayout> best;
  if (!prefill) return best;
  for (const Decoder& decode : decoders_of(request, answers)) {
    ServedLayout plan =
        pooled(request, paired(request, *prefill, decode, pools.prefill.replicas, pools.decode.replicas));
    plan.keeps_goals = !broken_goal(request.goals, *plan.prediction);
    if (plan.keeps_goals && (!best || better(plan, *best))) best = std::move(plan);
  }
  return best;
}

std::vector<std::int64_t> batches_tried(std::int64_t most) {
  std::vector<std::int64_t> all;
  if (most < 1) return all;
  for (std::int64_t n = 1; n < most; n *= 2) {
    all.push_back(n);
    if (n > 1 && n + n / 2 < most) all.push_back(n + n / 2);
  }
  all.push_back(most);
  return all;
}

std::vector<ServeLayout> copies_on(const ServeRequest& request, std::int64_t gpus,
                                   std::map<std::string, std::int64_t>* rejected) {
  const ServePins& pins = request.pins;
  const bool experts = request.model.n_routed_experts > 0;
  const std::int64_t cp = pins.cp.value_or(1);
  std::vector<ServeLayout> all;
  for (const std::int64_t tp : divisors(gpus)) {
    for (const std::int64_t pp : divisors(gpus / tp)) {
      if (!allows(pins.tp, tp) || !allows(pins.pp, pp) || gpus / tp / pp % cp != 0) continue;
      const std::int64_t dp = gpus / tp / pp / cp, ranks = tp * cp * dp;
      if (!allows(pins.attention_dp, dp) || (dp > 1 && !experts && !pins.attention_dp)) continue;
      for (const std::int64_t ep : experts ? divisors(ranks) : std::vector<int>{1}) {
        const std::int64_t etp = experts ? ranks / ep : 1;
        if (!allows(pins.ep, ep) || !allows(pins.etp, etp)) continue;
        ServeLayout l;
        l.tensor = static_cast<int>(tp);
        l.pipeline = static_cast<int>(pp);
        l.attention_data = static_cast<int>(dp);
        l.context = static_cast<int>(cp);
        l.expert = static_cast<int>(ep);
        l.expert_tensor = static_cast<int>(etp);
        const auto why = impossible(request.model, request.machine, request.workload.formats, l);
        if (why && rejected) ++(*rejected)[why->reason];
        if (!why) all.push_back(l);
      }
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

namespace {

// ---- A load ----

/// Sizes of copies that a search for the fewest GPUs looks at: all within a node, then whole nodes.
std::vector<std::int64_t> sizes_of_copies(const Machine& machine) {
  std::vector<std::int64_t> sizes;
  const std::int64_t node = std::max(1, machine.gpus_per_node);
  for (std::int64_t n = 1; n <= kLargestCopy; ++n)
    if (n <= node || n % node == 0) sizes.push_back(n);
  return sizes;
}

/// Copies of one layout, as many as bear the load in the mean; more where the load, played, says so.
struct Candidate {
  const Copy* copy = nullptr;
  std::int64_t copies = 0, most = 0;
  ServedLayout plan;

  std::int64_t gpus() const { return plan.gpus(); }
  bool operator<(const Candidate& other) const {
    const auto key = [](const Candidate& c) {
      const ServePrediction& p = *c.plan.prediction;
      return std::make_tuple(c.gpus(), p.ttft + p.tpot, c.plan.layout);
    };
    return key(*this) < key(other);
  }
};

/// The smallest batch with which so many copies answer as many as ask.
std::optional<ServedLayout> at_load(const ServeRequest& request, const Copy& copy, std::int64_t copies) {
  const double tokens = request.load->requests_per_second * static_cast<double>(request.workload.osl);
  for (const Point& point : copy.points)
    if (point.prediction.output_tokens_per_second * static_cast<double>(copies) >= tokens) return served(point, copies);
  return std::nullopt;
}

/// The fewest copies of it that bear the load while further tokens come as promised in the mean; first tokens are
/// left to the play, as their waits hang on who comes when. Or what comes nearest.
std::variant<Candidate, ServedLayout> fewest_copies(const ServeRequest& request, const Copy& copy) {
  const ServeGoals further{{}, request.goals.max_tpot_seconds, GoalOf::mean};
  double most = 0;
  for (const Point& p : copy.points)
    if (!broken_goal(further, p.prediction)) most = std::max(most, p.prediction.output_tokens_per_second);
  if (most == 0) {
    ServedLayout near = served(copy.points.front(), 1);
    near.rejection = broken_goal(further, *near.prediction);
    return near;
  }
  const double tokens = request.load->requests_per_second * static_cast<double>(request.workload.osl);
  Candidate c;
  c.copy = &copy;
  c.copies = static_cast<std::int64_t>(std::ceil(tokens / most));
  c.most = 4 * c.copies + 4;
  if (request.pins.dp) {
    c.most = *request.pins.dp;
    if (c.copies <= c.most) c.copies = c.most;
  }
  const std::int64_t size = copy.points.front().layout.gpus();
  if (c.copies > c.most || c.copies * size > kMostGpusOfLoad) {
    const std::int64_t shown = std::min(c.most, kMostGpusOfLoad / size);
    ServedLayout near = served(copy.points.back(), std::max<std::int64_t>(1, shown));
    near.rejection = Rejection{"load", std::to_string(near.layout.replicas) + " copies do not bear it"};
    return near;
  }
  c.plan = *at_load(request, copy, c.copies);
  return c;
}

/// Plays candidates, those with the fewest GPUs first, each with a copy more where it breaks a promise.
void play_fewest(const ServeRequest& request, std::multiset<Candidate> candidates, std::vector<ServedLayout>& kept,
                 std::vector<ServedLayout>& broken, bool& all_looked_at) {
  LoadPlayer player(request);
  int played = 0;
  while (!candidates.empty() && kept.size() < static_cast<std::size_t>(request.top)) {
    Candidate c = *candidates.begin();
    candidates.erase(candidates.begin());
    if (!kept.empty() && c.gpus() > kept.front().gpus()) return;
    if (played++ == kMostPlayed) {
      all_looked_at = false;
      return;
    }
    c.plan.under_load = player.play(c.plan);
    c.plan.rejection = broken_goal(request.goals, *c.plan.under_load);
    if (!c.plan.rejection) {
      kept.push_back(c.plan);
      continue;
    }
    broken.push_back(c.plan);
    if (++c.copies > c.most || c.copies * c.copy->points.front().layout.gpus() > kMostGpusOfLoad) continue;
    c.plan = *at_load(request, *c.copy, c.copies);
    candidates.insert(std::move(c));
  }
}

void plan_fewest(const ServeRequest& request, ServeResult& result) {
  std::vector<ServedLayout> kept, broken, misses;
  std::multiset<Candidate> candidates;
  std::vector<Copy> copies = copies_of(request, sizes_of_copies(request.machine), std::nullopt, result.search);
  for (Copy& copy : copies) {
    result.search.priced += static_cast<std::int64_t>(copy.points.size());
    if (copy.misses) {
      ++result.search.rejected["memory"];
      misses.push_back(std::move(*copy.misses));
      continue;
    }
    auto found = fewest_copies(request, copy);
    if (auto* c = std::get_if<Candidate>(&found))
      candidates.insert(std::move(*c));
    else
      broken.push_back(std::get<ServedLayout>(std::move(found)));
  }
  bool all = true;
  play_fewest(request, std::move(candidates), kept, broken, all);
  result.gpus = kept.empty() ? 0 : kept.front().gpus();
  result.search.considered = result.search.priced + static_cast<std::int64_t>(misses.size());
  answer(request, kept.empty() ? std::move(broken) : std::move(kept), std::move(misses), result);
  std::stable_sort(result.plans.begin(), result.plans.end(), sooner_under_load);
  result.search.proven_best = result.search.proven_best && all;
}

/// Of plans that were ranked without it, those that bear a load.
void play_plans(const ServeRequest& request, ServeResult& result) {
  LoadPlayer player(request);
  std::vector<ServedLayout> kept, broken;
  for (ServedLayout& p : result.plans) {
    p.under_load = player.play(p);
    p.rejection = broken_goal(request.goals, *p.under_load);
    p.keeps_goals = !p.rejection;
    if (p.rejection) ++result.search.rejected[p.rejection->reason];
    (p.keeps_goals ? kept : broken).push_back(std::move(p));
  }
  std::stable_sort(kept.begin(), kept.end(), sooner_under_load);
  if (kept.empty() && !broken.empty()) {
    broken.resize(std::min<std::size_t>(broken.size(), kNearest));
    result.nearest = std::move(broken);
  }
  result.plans = std::move(kept);
  result.search.proven_best = false;  // others than these may answer sooner
}

/// All that fills so many GPUs.
void plan_filling(const ServeRequest& request, std::int64_t gpus, ServeResult& result) {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t n : divisors(gpus))
    if (allows(request.pins.dp, gpus / n)) sizes.push_back(n);
  std::vector<ServedLayout> tried, pools, misses;
  if (!request.pins.disaggregated.value_or(false)) {
    for (Copy& copy : copies_of(request, sizes, gpus, result.search)) {
      for (const Point& point : copy.points) tried.push_back(served(point, gpus / point.layout.gpus()));
      if (!copy.misses) continue;
      ++result.search.rejected["memory"];
      misses.push_back(std::move(*copy.misses));
    }
  }
  if (request.pins.disaggregated.value_or(!request.workload.concurrency && gpus > 1 && !request.pins.dp))
    for (ServedLayout& p : all_pools(request, gpus, result.search.priced)) pools.push_back(std::move(p));
  result.search.priced += static_cast<std::int64_t>(tried.size());
  std::move(pools.begin(), pools.end(), std::back_inserter(tried));
  result.search.considered = result.search.priced + static_cast<std::int64_t>(misses.size());
  for (const auto& [reason, n] : result.search.rejected) result.search.considered += reason == "memory" ? 0 : n;
  result.gpus = gpus + (request.prefill_pool ? request.prefill_pool->gpus : 0);
  answer(request, std::move(tried), std::move(misses), result);
}

}  // namespace

ServeResult plan_serving(const ServeRequest& request) {
  ServeResult result = empty_result(request);
  if (request.load && !request.gpus) {
    plan_fewest(request, result);
    return result;
  }
  plan_filling(request, request.gpus.value_or(request.machine.gpus_per_node), result);
  if (request.load) play_plans(request, result);
  return result;
}

}  // namespace shardwright
