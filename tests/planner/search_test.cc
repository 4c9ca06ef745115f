#include "planner/search/search.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>
#include <tuple>

#include "tests/support/measured_machine.h"
#include "tests/support/message_of.h"
#include "tests/support/slow_engine.h"

namespace shardwright {
namespace {

PlanRequest request_for(Model model, const char* machine, std::int64_t gpus, std::int64_t sequence,
                        std::int64_t batch) {
  PlanRequest r;
  r.model = std::move(model);
  r.machine = find_machine(machine);
  r.gpus = gpus;
  r.workload.sequence_length = sequence;
  r.workload.global_batch = batch;
  r.workload.formats = formats_for(DataType::bf16);
  r.top = 20;
  r.threads = 2;
  return r;
}

Model shallow(const char* name, std::int64_t layers) {
  Model m = find_model(name);
  m.num_hidden_layers = layers;
  return m;
}

std::vector<int> divisors_of(std::int64_t n) {
  std::vector<int> all;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) all.push_back(d);
  return all;
}

std::vector<int> pinned_or(const std::optional<int>& pin, const std::vector<int>& all) {
  return pin ? std::vector{*pin} : all;
}

/// What a search should find.
struct Expected {
  std::int64_t considered = 0;
  std::map<std::string, std::int64_t> rejected;
  std::vector<PricedLayout> fitting, too_large;  // fastest first; smallest first
};

double step(const PricedLayout& p) { return p.prediction->step.value; }
std::int64_t memory(const PricedLayout& p) { return p.prediction->worst().reserved.value; }

/// none, the sets of modules, full: the list in shape_price.h.
std::vector<Recompute> every_recompute(const Model& model) {
  const auto bit = [](RecomputeModule m) { return 1 << static_cast<int>(m); };
  std::vector<int> sets = {0};
  const auto with = [&](std::vector<RecomputeModule> one_of) {  // or none of them
    const std::vector<int> before = sets;
    for (RecomputeModule m : one_of)
      for (int set : before) sets.push_back(set | bit(m));
  };
  with({RecomputeModule::core_attn});
  with({RecomputeModule::layernorm});
  if (model.kv_lora_rank > 0) with({RecomputeModule::mla_up_proj});
  if (model.n_routed_experts > 0)
    with({RecomputeModule::moe, RecomputeModule::moe_act});
  else
    with({RecomputeModule::mlp});
  std::vector<Recompute> all = {{true, 0}};
  for (int set : sets) all.push_back({false, static_cast<std::uint8_t>(set)});
  return all;
}

/// Every layout of a request's space, by plain loops over the list in search.h, each priced alone.
class EveryLayout {
 public:
  explicit EveryLayout(const PlanRequest& given) : given_(given), pins_(given.pins) {}

  Expected run() {
    std::vector<DataType> precisions = {given_.precision};
    if (given_.any_precision) precisions = {DataType::bf16, DataType::fp16, DataType::fp8};  // of an H100
    for (DataType precision : precisions)
      for (int tp : pinned_or(pins_.tp, divisors_of(given_.gpus)))
        for (int pp : pinned_or(pins_.pp, divisors_of(given_.gpus)))
          for (int cp : pinned_or(pins_.cp, divisors_of(given_.gpus))) {
            if (given_.gpus % (tp * pp * cp) != 0) continue;
            const int dp = static_cast<int>(given_.gpus / (tp * pp * cp));
            if (pins_.dp && *pins_.dp != dp) continue;
            LayoutPins all;
            all.tp = tp;
            all.pp = pp;
            all.cp = cp;
            all.dp = dp;
            for (RankOrder order : {RankOrder::tp_cp_dp_pp, RankOrder::tp_cp_pp_dp}) {
              if (pins_.rank_order && *pins_.rank_order != order) continue;
              if (!pins_.rank_order && order == RankOrder::tp_cp_pp_dp && (dp == 1 || pp == 1)) continue;
              all.rank_order = order;
              of_experts(precision, all);
            }
          }
    std::sort(e_.fitting.begin(), e_.fitting.end(), [](const PricedLayout& a, const PricedLayout& b) {
      return std::tuple(step(a), a.layout, a.precision) < std::tuple(step(b), b.layout, b.precision);
    });
    std::sort(e_.too_large.begin(), e_.too_large.end(), [](const PricedLayout& a, const PricedLayout& b) {
      return std::tuple(memory(a), a.layout, a.precision) < std::tuple(memory(b), b.layout, b.precision);
    });
    return e_;
  }

 private:
  void of_experts(DataType precision, LayoutPins all) {
    const std::int64_t experts = given_.model.n_routed_experts;
    std::vector<ContextParallel> kinds = {ContextParallel::all_gather};
    if (*all.cp > 1) kinds = {ContextParallel::all_gather, ContextParallel::ulysses, ContextParallel::ring};
    if (*all.cp > 1 && pins_.cp_kind) kinds = {*pins_.cp_kind};
    std::vector<int> eps = {1}, etps = {1};
    if (experts > 0) eps = divisors_of(experts);
    if (experts > 0 && *all.tp > 1) etps.push_back(*all.tp);
    for (ContextParallel kind : kinds)
      for (int ep : pinned_or(pins_.ep, eps))
        for (int etp : pinned_or(pins_.etp, etps)) {
          if (!pins_.ep && *all.tp * *all.cp * *all.dp % (ep * etp) != 0) continue;
          all.cp_kind = kind;
          all.ep = ep;
          all.etp = etp;
          of_pipelines(precision, all);
        }
  }

  void of_pipelines(DataType precision, LayoutPins all) {
    const int pp = *all.pp, tp = *all.tp, dp = *all.dp;
    std::vector<int> vpps = {1};
    for (int v = 2; pp > 1 && v <= (given_.model.num_hidden_layers + 2) / pp; ++v) vpps.push_back(v);
    for (int vpp : pinned_or(pins_.vpp, vpps)) {
      if (vpp > 1 && (pp == 1 || pins_.schedule.value_or(Schedule::interleaved) != Schedule::interleaved)) continue;
      if (vpp == 1 && pins_.schedule == Schedule::interleaved) continue;
      if (pins_.layers_per_stage) {
        const auto entries = static_cast<int>(pins_.layers_per_stage->size());
        if (entries != pp && entries != pp * vpp) continue;
      }
      for (int sp = 0; sp <= (tp > 1 ? 1 : 0); ++sp) {
        if (tp > 1 && pins_.sequence_parallel && *pins_.sequence_parallel != (sp == 1)) continue;
        std::vector<int> micro_batches = {1};
        if (given_.workload.global_batch % dp == 0) micro_batches = divisors_of(given_.workload.global_batch / dp);
        std::vector<Schedule> schedules = {Schedule::gpipe, Schedule::one_f_one_b, Schedule::zb_h1, Schedule::zb_h2};
        if (pp == 1) schedules = {Schedule::one_f_one_b};
        if (vpp > 1) schedules = {Schedule::interleaved};
        for (Schedule one : given_.more_schedules)
          if (pp > 1 && takes_chunks(one, vpp)) schedules.push_back(one);
        if (pins_.schedule) schedules = {*pins_.schedule};
        for (int micro_batch : pinned_or(pins_.micro_batch, micro_batches))
          for (Schedule schedule : schedules) {
            all.vpp = vpp;
            all.sequence_parallel = sp == 1;
            all.micro_batch = micro_batch;
            all.schedule = schedule;
            all.layers_per_stage = pins_.layers_per_stage;
            of_shards(precision, all);
          }
      }
    }
  }

  void of_shards(DataType precision, LayoutPins all) {
    const int ranks = *all.dp * *all.cp;
    std::vector<Recompute> recomputes = every_recompute(given_.model);
    if (pins_.recompute) recomputes = {*pins_.recompute};
    for (const Recompute& recompute : recomputes)
      for (int zero = 0; zero < 4; ++zero)
        for (int group : divisors_of(std::max(ranks, pins_.fsdp_group.value_or(1)))) {
          const bool alone = pins_.fsdp_group ? *pins_.fsdp_group == 1 : ranks == 1;
          if (alone && zero > 0) continue;
          if (!alone && pins_.zero && *pins_.zero != zero) continue;
          if ((zero == 0) != (group == 1)) continue;
          if (!alone && zero == 0 && pins_.fsdp_group) continue;
          if (zero > 0 && pins_.fsdp_group && group != *pins_.fsdp_group) continue;
          if ((zero == 1 || zero == 2) && !pins_.fsdp_group && group != ranks) continue;
          LayoutPins one = all;
          one.recompute = recompute;
          one.zero = zero;
          if (zero > 0) one.fsdp_group = group;
          consider(precision, one);
        }
  }

  void consider(DataType precision, const LayoutPins& all) {
    PlanRequest one = given_;
    one.threads = 1;
    one.pins = all;
    one.any_precision = false;
    one.precision = precision;
    if (given_.any_precision) one.workload.formats = formats_for(precision);
    const PlanResult result = estimate(one);
    REQUIRE(result.plans.size() == 1);
    const PricedLayout& p = result.plans[0];
    ++e_.considered;
    CHECK(layouts_.insert(to_string(p.layout) + std::string(name_of(precision))).second);  // each run once
    if (p.rejection) ++e_.rejected[p.rejection->reason];
    if (p.fits) e_.fitting.push_back(p);
    if (!p.fits && p.prediction) e_.too_large.push_back(p);
    CHECK(p.fits != p.rejection.has_value());
  }

  const PlanRequest& given_;
  const LayoutPins& pins_;
  std::set<std::string> layouts_;
  Expected e_;
};

Expected every_layout(const PlanRequest& given) { return EveryLayout(given).run(); }

/// The same layouts in the same order, times bit by bit.
void check_same(const std::vector<PricedLayout>& found, const std::vector<PricedLayout>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(to_string(found[i].layout) == to_string(expected[i].layout));
    CHECK(found[i].layout == expected[i].layout);
    CHECK(found[i].precision == expected[i].precision);
    CHECK(step(found[i]) == step(expected[i]));
    CHECK(memory(found[i]) == memory(expected[i]));
    CHECK(found[i].fits == expected[i].fits);
    CHECK(found[i].rejection == expected[i].rejection);
  }
}

std::vector<PricedLayout> front_of(const std::vector<PricedLayout>& fastest_first) {
  std::vector<PricedLayout> front;
  for (const PricedLayout& p : fastest_first)
    if (step(p) <= 2 * step(fastest_first[0]) && (front.empty() || memory(p) < memory(front.back())))
      front.push_back(p);
  return front;
}

/// Of `priced`: as many as were counted, each as it is in `all`, in their order, those of the answer among them.
void check_points(const PlanResult& r, const std::vector<PricedLayout>& all) {
  CHECK(std::ssize(r.priced) == r.search.priced);
  const auto same = [](const PricedPoint& a, const PricedLayout& b) {
    return a.layout == b.layout && a.precision == b.precision && a.step.value == step(b) &&
           a.reserved.value == memory(b);
  };
  auto next = all.begin();
  for (const PricedPoint& point : r.priced) {
    next = std::find_if(next, all.end(), [&](const PricedLayout& p) { return same(point, p); });
    REQUIRE(next != all.end());
    ++next;
  }
  for (const auto& list : {r.plans, r.pareto})
    for (const PricedLayout& p : list)
      CHECK(std::any_of(r.priced.begin(), r.priced.end(), [&](const PricedPoint& point) { return same(point, p); }));
}

std::int64_t sum_of(const std::map<std::string, std::int64_t>& counts) {
  std::int64_t n = 0;
  for (const auto& [reason, count] : counts) n += count;
  return n;
}

/// plan() against every_layout(); returns the summary.
SearchSummary agree(const PlanRequest& request) {
  const Expected e = every_layout(request);
  const PlanResult r = plan(request);
  CHECK(r.search.considered == e.considered);
  // Of what is too slow to matter, the search may leave open whether it fits.
  auto found = r.search.rejected, expected = e.rejected;
  CHECK(found["memory"] <= expected["memory"]);
  CHECK(r.search.priced + r.search.pruned >= std::ssize(e.fitting));
  if (!e.fitting.empty()) found["memory"] = expected["memory"] = 0;
  CHECK(found == expected);
  CHECK(r.search.priced + r.search.pruned + sum_of(r.search.rejected) == r.search.considered);
  CHECK(r.search.proven_best == !e.fitting.empty());
  std::vector<PricedLayout> top = e.fitting, nearest;
  if (top.size() > static_cast<std::size_t>(request.top)) top.resize(static_cast<std::size_t>(request.top));
  check_same(r.plans, top);
  check_same(r.pareto, front_of(e.fitting));
  check_points(r, e.fitting);
  if (e.fitting.empty())
    nearest.assign(e.too_large.begin(), e.too_large.begin() + std::min<std::ptrdiff_t>(3, std::ssize(e.too_large)));
  check_same(r.nearest, nearest);
  return r.search;
}

void tell(const std::string& what, const SearchSummary& s) {
  MESSAGE(what, ": considered ", s.considered, ", priced ", s.priced, ", pruned ", s.pruned, ", rejected ",
          sum_of(s.rejected));
}

/// All that a search says, but for its seconds.
void check_identical(const PlanResult& a, const PlanResult& b) {
  CHECK(std::tuple(a.search.considered, a.search.priced, a.search.pruned, a.search.rejected, a.search.proven_best) ==
        std::tuple(b.search.considered, b.search.priced, b.search.pruned, b.search.rejected, b.search.proven_best));
  for (auto list : {&PlanResult::plans, &PlanResult::pareto, &PlanResult::nearest}) {
    check_same(a.*list, b.*list);
    for (std::size_t i = 0; i < (a.*list).size(); ++i) {
      const PricedLayout &x = (a.*list)[i], &y = (b.*list)[i];
      CHECK(x.assumed == y.assumed);
      CHECK(x.prediction->stages == y.prediction->stages);
      CHECK(
          std::tuple(x.prediction->compute, x.prediction->communication, x.prediction->bubble, x.prediction->optimizer,
                     x.prediction->step_low, x.prediction->step_high, x.prediction->mfu, x.prediction->worst_stage) ==
          std::tuple(y.prediction->compute, y.prediction->communication, y.prediction->bubble, y.prediction->optimizer,
                     y.prediction->step_low, y.prediction->step_high, y.prediction->mfu, y.prediction->worst_stage));
    }
  }
}

}  // namespace

TEST_CASE("brute force agrees: a small Llama on one node, some layouts too large") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 4), "h100-sxm-80gb", 8, 2048, 8);
  r.machine.memory = 12_GiB;
  const SearchSummary s = agree(r);
  tell("llama", s);
  CHECK(s.rejected.at("memory") > 0);
  CHECK(s.pruned > 0);
}

TEST_CASE("brute force agrees: GPipe, tied and learned embeddings, unfused attention with dropout, fp16") {
  PlanRequest r = request_for(shallow("gpt3-175b", 5), "a100-sxm-80gb", 12, 1024, 12);
  r.precision = DataType::fp16;
  r.workload.formats = formats_for(DataType::fp16);
  r.workload.fused_attention = false;
  r.workload.dropout = true;
  r.model.hidden_size = 1536;
  r.model.num_attention_heads = r.model.num_key_value_heads = 12;
  r.model.intermediate_size = 6144;
  r.machine.memory = 6_GiB;
  r.pins.schedule = Schedule::gpipe;
  const SearchSummary s = agree(r);
  tell("gpipe", s);
  CHECK(s.pruned > 0);
}

TEST_CASE("brute force agrees: sliding windows and context parallelism") {
  PlanRequest r = request_for(shallow("qwen3-32b", 5), "h100-sxm-80gb", 16, 4096, 8);
  r.model.sliding_window = 512;
  r.model.sliding_window_pattern = 2;
  r.pins.cp = 2;
  r.pins.rank_order = RankOrder::tp_cp_pp_dp;
  r.machine.memory = 24_GiB;
  const SearchSummary s = agree(r);
  tell("windows", s);
  CHECK(s.rejected.at("memory") > 0);
}

TEST_CASE("brute force agrees: any precision") {
  PlanRequest r = request_for(shallow("deepseek-llm-7b", 6), "h100-sxm-80gb", 8, 4096, 32);
  r.any_precision = true;
  r.pins.recompute = Recompute{};
  r.machine.memory = 30_GiB;
  const SearchSummary s = agree(r);
  tell("any precision", s);
  CHECK(plan(r).plans[0].precision == DataType::fp8);
}

TEST_CASE("brute force agrees: many chunks on 24 GPUs") {
  PlanRequest r = request_for(shallow("qwen3-32b", 10), "a100-sxm-40gb", 24, 2048, 24);
  r.pins.recompute = Recompute{false, 2};
  r.pins.zero = 1;
  tell("chunks", agree(r));
}

TEST_CASE("brute force agrees: schedules that are tried when they are asked for") {
  for (const char* model : {"llama-3.1-8b", "mixtral-8x7b"}) {
    PlanRequest r = request_for(shallow(model, 6), "h100-sxm-80gb", 8, 1024, 16);
    r.more_schedules = {Schedule::zb_1p, Schedule::zb_2p, Schedule::zb_v, Schedule::dualpipe, Schedule::dualpipe_v};
    r.pins.tp = r.pins.cp = 1;
    r.pins.recompute = Recompute{};
    r.machine.memory = 40_GiB;
    const SearchSummary s = agree(r);
    tell("more schedules", s);
    CHECK(s.rejected.at("memory") > 0);
    r.top = 100000;
    std::set<Schedule> found;
    for (const PricedLayout& p : plan(r).plans) found.insert(p.layout.schedule);
    CHECK(found.size() >= 9);  // of 10, four or five of those asked for
    r.engine.schedules = {Schedule::one_f_one_b, Schedule::zb_v};
    found.clear();
    for (const PricedLayout& p : plan(r).plans) found.insert(p.layout.schedule);
    CHECK(found == std::set<Schedule>{Schedule::one_f_one_b, Schedule::zb_v});
  }
}

TEST_CASE("brute force agrees: layers as given, a stage with fewer") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 7), "h100-sxm-80gb", 8, 2048, 16);
  r.pins.layers_per_stage = {3, 4};
  agree(r);
  r.pins.layers_per_stage = {1, 2, 2, 2};  // four stages of any chunks, or two stages of two
  agree(r);
  r.top = 100000;  // all that fit
  std::set<std::pair<int, int>> depths;
  for (const PricedLayout& p : plan(r).plans) depths.insert({p.layout.pipeline, p.layout.virtual_pipeline});
  CHECK(depths == std::set<std::pair<int, int>>{{2, 2}, {4, 1}, {4, 2}});
}

TEST_CASE("brute force agrees: random small spaces") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto one_of = [&](auto list) {
      return *(list.begin() + static_cast<std::ptrdiff_t>(random() % list.size()));
    };
    PlanRequest r = request_for(
        shallow(one_of(std::initializer_list<const char*>{"llama-3.1-8b", "gpt3-175b", "qwen3-32b", "deepseek-llm-7b"}),
                one_of(std::initializer_list<int>{2, 3, 6, 9})),
        one_of(std::initializer_list<const char*>{"h100-sxm-80gb", "a100-sxm-40gb"}),
        one_of(std::initializer_list<int>{4, 6, 8, 16, 32}), 1024, one_of(std::initializer_list<int>{4, 12, 15, 16}));
    r.model.tie_word_embeddings = random() % 2;
    r.machine.memory = r.machine.unusable_memory + one_of(std::initializer_list<std::int64_t>{3, 10, 20, 38}) * 1_GiB;
    r.top = one_of(std::initializer_list<int>{1, 3, 20});
    if (random() % 3) r.pins.recompute = Recompute{random() % 4 == 0, 0};
    if (random() % 3) r.pins.micro_batch = one_of(std::initializer_list<int>{1, 2});
    if (random() % 3 == 0) r.pins.tp = one_of(std::initializer_list<int>{1, 2, 4});
    if (random() % 3 == 0) r.pins.pp = one_of(std::initializer_list<int>{1, 2});
    if (random() % 4 == 0) r.pins.zero = static_cast<int>(random() % 4);
    if (random() % 4 == 0) r.pins.sequence_parallel = random() % 2;
    if (random() % 5 == 0 && r.pins.zero != 0) r.pins.fsdp_group = one_of(std::initializer_list<int>{1, 2, 4});
    if (random() % 5 == 0 && r.pins.pp != 1)
      r.pins.schedule = one_of(std::initializer_list<Schedule>{Schedule::gpipe, Schedule::one_f_one_b});
    if (r.gpus % (std::int64_t{r.pins.tp.value_or(1)} * r.pins.pp.value_or(1)) != 0) continue;
    agree(r);
  }
}

TEST_CASE("brute force agrees: a mixture of experts folded over tensor and data parallelism") {
  PlanRequest r = request_for(shallow("mixtral-8x7b", 3), "h100-sxm-80gb", 8, 1024, 8);
  r.machine.memory = 24_GiB;
  r.pins.recompute = Recompute{};
  const SearchSummary s = agree(r);
  tell("mixtral", s);
  CHECK(s.rejected.at("experts") > 0);
  CHECK(s.rejected.at("memory") > 0);
  CHECK(s.pruned > 0);
}

TEST_CASE("brute force agrees: a machine that was measured, badly") {
  for (const char* model : {"llama-3.1-8b", "mixtral-8x7b"}) {
    PlanRequest r = request_for(shallow(model, 3), "h100-sxm-80gb", 16, 1024, 8);
    r.machine = badly_measured(r.machine, 7);
    r.machine.memory = 24_GiB;
    r.pins.recompute = Recompute{};
    const SearchSummary s = agree(r);
    tell("measured", s);
    CHECK(s.pruned > 0);
  }
}

TEST_CASE("brute force agrees: an engine that takes time of its own for everything") {
  for (const char* model : {"llama-3.1-8b", "mixtral-8x7b"})
    for (const bool measured : {false, true}) {
      PlanRequest r = request_for(shallow(model, 3), "h100-sxm-80gb", 4, 1024, 8);
      r.engine = slow_engine();
      r.engine.reduces_once_in_pipelines = true;
      if (measured) r.machine = badly_measured(r.machine, 3);
      r.machine.sustained.product[DataType::bf16] = 1.3;
      r.machine.memory = 24_GiB;
      if (measured) r.pins.recompute = Recompute{};
      const SearchSummary s = agree(r);
      tell("slow engine", s);
      CHECK(s.pruned > 0);
      CHECK(plan(r).plans[0].prediction->host > Seconds{});
    }
}

TEST_CASE("an engine narrows the search to what it can run") {
  PlanRequest r = request_for(shallow("deepseek-v2-lite", 4), "h100-sxm-80gb", 16, 1024, 16);
  r.top = 100000;
  r.pins.recompute = Recompute{};
  r.engine = Engine{};
  r.engine.tensor_parallel = false;
  r.engine.schedules = {};
  r.engine.cp_kinds = {ContextParallel::ring};
  r.engine.dispatchers = {Dispatcher::all_gather};
  r.engine.zero = {0, 3};
  r.engine.default_overlaps = overlaps_named({Overlap::grad_reduce});
  const PlanResult found = plan(r);
  REQUIRE(found.plans.size() > 20);
  CHECK(found.engine == "generic");
  std::set<int> zero, context;
  for (const PricedLayout& p : found.plans) {
    CHECK(p.layout.tensor == 1);
    CHECK(p.layout.pipeline == 1);
    if (p.layout.context > 1) CHECK(p.layout.context_kind == ContextParallel::ring);
    if (p.layout.expert > 1) CHECK(p.layout.dispatcher == Dispatcher::all_gather);
    CHECK(to_string(p.layout.overlap) == "grad_reduce");
    zero.insert(p.layout.zero);
    context.insert(p.layout.context);
  }
  CHECK(zero == std::set<int>{0, 3});
  CHECK(context.size() > 1);
  r.engine.dispatchers = {};
  r.engine.cp_kinds = {};
  for (const PricedLayout& p : plan(r).plans) CHECK(p.layout.expert * p.layout.context == 1);
  r.engine = Engine{};
  r.engine.schedules = {Schedule::one_f_one_b};
  for (const PricedLayout& p : plan(r).plans) CHECK(p.layout.virtual_pipeline == 1);
}

TEST_CASE("etp that is not given is the engine's, where the ranks allow it") {
  PlanRequest r = request_for(shallow("deepseek-v2-lite", 4), "h100-sxm-80gb", 8, 1024, 16);
  r.engine.etp_is_tp = true;
  r.pins.tp = 2;
  r.pins.ep = 4;
  CHECK(estimate(r).plans[0].layout.expert_tensor == 2);
  r.pins.ep = 8;  // 8 x 2 ranks of experts among 8
  CHECK(estimate(r).plans[0].layout.expert_tensor == 1);
  r.engine = Engine{};
  r.pins.ep = 4;
  CHECK(estimate(r).plans[0].layout.expert_tensor == 1);
}

TEST_CASE("brute force agrees: every recomputation of latent attention and experts") {
  PlanRequest r = request_for(shallow("deepseek-v2-lite", 4), "h100-sxm-80gb", 8, 1024, 8);
  r.model.num_nextn_predict_layers = 1;
  r.machine.memory = 11_GiB;
  r.pins.micro_batch = 2;
  r.pins.zero = 1;
  const SearchSummary s = agree(r);
  tell("latent attention", s);
  CHECK(s.rejected.at("memory") > 0);
  CHECK(s.pruned > 0);
}

TEST_CASE("brute force agrees: experts and every kind of context parallelism") {
  PlanRequest r = request_for(shallow("deepseek-v2-lite", 3), "h100-sxm-80gb", 16, 2048, 8);
  r.machine.memory = 6_GiB;
  r.pins.cp = 2;
  r.pins.recompute = Recompute{true, 0};
  r.pins.sequence_parallel = true;
  const SearchSummary s = agree(r);
  tell("context parallelism", s);
  CHECK(s.rejected.at("memory") > 0);
}

TEST_CASE("brute force agrees: experts on given ranks, ring attention, stages inside of data parallelism") {
  PlanRequest r = request_for(shallow("mixtral-8x7b", 4), "a100-sxm-80gb", 16, 2048, 16);
  r.pins = parse_layout("cp=2,cp_kind=ring,ep=4,rank_order=tp-cp-pp-dp", "--pin");
  r.pins.recompute = Recompute{false, 1};
  r.machine.memory = 40_GiB;
  const SearchSummary s = agree(r);
  tell("ring", s);
  CHECK(s.rejected.at("mesh") > 0);
}

TEST_CASE("brute force agrees: experts cut whole, the layers as given, every micro-batch") {
  PlanRequest r = request_for(shallow("deepseek-v2-lite", 4), "h100-sxm-80gb", 8, 1024, 16);
  r.pins.etp = 2;
  r.pins.layers_per_stage = {1, 3};
  r.pins.recompute = Recompute{false, 16};
  tell("layers of experts as given", agree(r));
  r.pins.layers_per_stage = {0, 4};  // a stage of the embedding alone
  tell("an empty stage", agree(r));
}

TEST_CASE("brute force agrees: experts with every context parallelism, its kinds, and orders of ranks") {
  struct Small {
    const char* model;
    std::int64_t layers, gpus, sequence, batch, memory_gib;
    const char* machine;
    const char* pins;
  };
  const std::vector<Small> spaces = {
      {"mixtral-8x7b", 2, 8, 512, 4, 14, "h100-sxm-80gb", "recompute_modules=moe_act"},
      {"deepseek-v2-lite", 3, 8, 1024, 8, 9, "h800-sxm-80gb", "recompute=none,zero=1"},
      {"qwen3-30b-a3b", 4, 16, 1024, 8, 11, "a100-sxm-40gb", "recompute_modules=core_attn+layernorm,micro_batch=1"},
      {"gpt-oss-20b", 4, 12, 768, 12, 12, "h100-sxm-80gb", "recompute=full,micro_batch=2"},
      {"deepseek-v2-lite", 4, 32, 1024, 16, 10, "a100-sxm-80gb", "pp=2,vpp=1,recompute=none,zero=3,micro_batch=1"}};
  for (const Small& s : spaces) {
    CAPTURE(s.model);
    CAPTURE(s.gpus);
    PlanRequest r = request_for(shallow(s.model, s.layers), s.machine, s.gpus, s.sequence, s.batch);
    r.machine.memory = r.machine.unusable_memory + s.memory_gib * 1_GiB;
    r.machine.gpus_per_node = 4;  // so that it matters which ranks are neighbours
    r.machine.links.front().gpus = 4;
    r.pins = parse_layout(s.pins, "--pin");
    const SearchSummary summary = agree(r);
    tell(s.model, summary);
    CHECK(summary.pruned > 0);
    CHECK(summary.rejected.at("memory") > 0);
    r.top = 100000;
    std::set<int> cp, ep, etp;
    std::set<ContextParallel> kinds;
    std::set<RankOrder> orders;
    for (const PricedLayout& p : plan(r).plans) {
      cp.insert(p.layout.context);
      ep.insert(p.layout.expert);
      etp.insert(p.layout.expert_tensor);
      kinds.insert(p.layout.context_kind);
      orders.insert(p.layout.rank_order);
    }
    CHECK(cp.size() > 1);
    CHECK(ep.size() > 1);
    CHECK(etp.size() > 1);
    CHECK(kinds.size() > 1);
    CHECK(orders.size() == 2);
  }
}

TEST_CASE("when nothing fits, the three layouts that need least memory are named") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 4), "h100-sxm-80gb", 4, 2048, 8);
  r.machine.memory = r.machine.unusable_memory + 1_GiB;
  const SearchSummary s = agree(r);
  CHECK_FALSE(s.proven_best);
  const PlanResult result = plan(r);
  CHECK(result.plans.empty());
  CHECK(result.pareto.empty());
  REQUIRE(result.nearest.size() == 3);
  CHECK(result.nearest[0].rejection->reason == "memory");
  CHECK_FALSE(result.nearest[0].fits);
  r.any_precision = true;  // three of all precisions
  CHECK(plan(r).nearest.size() == 3);
}

TEST_CASE("where one precision fits, what misses in another is not named") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 4), "h100-sxm-80gb", 8, 2048, 8);
  r.pins = parse_layout("dp=8,zero=0,recompute=full,micro_batch=1", "--pin");
  r.workload.memory.widens_gradients = false;
  const auto needs = [&](DataType precision) {
    PlanRequest one = r;
    one.precision = precision;
    one.workload.formats = formats_for(precision);
    return memory(estimate(one).plans[0]);
  };
  REQUIRE(needs(DataType::fp16) < needs(DataType::bf16));  // gradients of two bytes, not four
  r.machine.memory = r.machine.unusable_memory + Bytes{needs(DataType::fp16)};
  r.any_precision = true;
  const PlanResult result = plan(r);
  REQUIRE(!result.plans.empty());
  for (const PricedLayout& p : result.plans) CHECK(p.precision == DataType::fp16);
  CHECK(result.nearest.empty());
  CHECK(result.search.proven_best);
  agree(r);
}

TEST_CASE("rejected layouts are named with their reasons, as many as asked for, whatever the threads") {
  PlanRequest request = request_for(shallow("llama-3.1-8b", 8), "a100-sxm-80gb", 12, 65536, 24);
  request.rejected_examples = 2;
  const PlanResult result = plan(request);
  REQUIRE(!result.plans.empty());
  std::map<std::string, int> named;
  for (const PricedLayout& p : result.rejected) {
    REQUIRE(p.rejection);
    CHECK(!p.fits);
    ++named[p.rejection->reason];
    if (p.rejection->reason == "memory") {
      REQUIRE(p.prediction);
      CHECK(p.prediction->worst().reserved > request.machine.usable_memory());
    } else {
      CHECK(impossible(request.model, request.machine, request.workload, p.layout) == p.rejection);
    }
  }
  for (const auto& [reason, count] : result.search.rejected) {
    CAPTURE(reason);
    CHECK(named[reason] >= 1);
    CHECK(named[reason] <= 2);
  }
  CHECK(named.size() == result.search.rejected.size());
  CHECK(named.count("memory") == 1);

  request.threads = 1;
  const PlanResult alone = plan(request);
  REQUIRE(alone.rejected.size() == result.rejected.size());
  for (std::size_t i = 0; i < alone.rejected.size(); ++i) {
    CHECK(alone.rejected[i].layout == result.rejected[i].layout);
    CHECK(alone.rejected[i].rejection == result.rejected[i].rejection);
  }
  request.rejected_examples = 0;
  CHECK(plan(request).rejected.empty());
}

TEST_CASE("threads change nothing but the time") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 8), "h100-sxm-80gb", 32, 2048, 32);
  PlanRequest experts = request_for(shallow("deepseek-v2-lite", 6), "h100-sxm-80gb", 32, 2048, 64);
  for (PlanRequest one : {r, experts})
    for (std::int64_t memory_limit : {(14_GiB).value, (3_GiB).value}) {
      one.machine.memory = {memory_limit};
      one.threads = 1;
      const PlanResult alone = plan(one);
      for (int threads : {2, 3, 0}) {
        one.threads = threads;
        check_identical(alone, plan(one));
      }
    }
}

TEST_CASE("an estimate fills free keys with the fastest layout that fits") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 8), "h100-sxm-80gb", 16, 2048, 16);
  r.machine.memory = 16_GiB;
  r.pins = parse_layout("tp=2,pp=4", "--layout");
  const PlanResult result = estimate(r);
  CHECK(result.is_estimate);
  REQUIRE(result.plans.size() == 1);
  const PricedLayout& p = result.plans[0];
  CHECK(p.layout.tensor == 2);
  CHECK(p.layout.pipeline == 4);
  CHECK(p.layout.virtual_pipeline == 1);  // 1 unless given
  CHECK(p.layout.context == 1);
  CHECK(p.layout.data == 2);
  CHECK(p.fits);
  CHECK(p.assumed == std::vector<std::string>{"sequence_parallel", "cp", "cp_kind", "vpp", "dp", "ep", "etp", "zero",
                                              "fsdp_group", "recompute", "micro_batch", "schedule", "rank_order",
                                              "overlap", "layers_per_stage"});
  PlanRequest same = r;  // the same space as a plan's
  same.pins.vpp = 1;
  same.pins.cp = 1;
  same.pins.rank_order = RankOrder::tp_cp_dp_pp;
  same.pins.schedule = Schedule::one_f_one_b;
  check_same({p}, {plan(same).plans[0]});
  CHECK(every_layout(same).fitting[0].layout == p.layout);
}

TEST_CASE("an interleaved estimate searches the chunks") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 8), "h100-sxm-80gb", 8, 2048, 16);
  r.pins = parse_layout("pp=2,tp=4,schedule=interleaved", "--layout");
  CHECK(estimate(r).plans[0].layout.virtual_pipeline > 1);
}

TEST_CASE("where the balanced split does not fit, the first that does has fewer layers in a chunk") {
  // 8 layers and a head as long as several on 2 stages: the balanced split gives the last one fewer. The first stage,
  // with more layers and more micro-batches in flight, is the fullest.
  PlanRequest r = request_for(shallow("llama-3.1-8b", 8), "h100-sxm-80gb", 2, 4096, 16);
  r.pins = parse_layout("tp=1,pp=2,zero=0,recompute=none,micro_batch=1,schedule=1f1b,rank_order=tp-cp-dp-pp", "--pin");
  const PricedLayout balanced = estimate(r).plans.at(0);
  REQUIRE(balanced.fits);
  const std::vector<int> fastest = balanced.layout.layers_per_chunk;
  const int most = *std::max_element(fastest.begin(), fastest.end());
  REQUIRE(most > 4);
  REQUIRE(fastest.front() == most);
  REQUIRE(balanced.prediction->worst_stage == 0);
  r.machine.memory = r.machine.memory - r.machine.usable_memory() + Bytes{memory(balanced) - 1};
  const PricedLayout other = estimate(r).plans.at(0);
  CHECK(other.fits);
  CHECK(*std::max_element(other.layout.layers_per_chunk.begin(), other.layout.layers_per_chunk.end()) < most);
  CHECK(step(other) > step(balanced));
  PlanRequest pinned = r;
  pinned.pins.layers_per_stage = other.layout.layers_per_chunk;
  check_same({estimate(pinned).plans.at(0)}, {other});
  check_same({plan(r).plans.at(0)}, {other});
  pinned.pins.layers_per_stage = fastest;
  CHECK_FALSE(estimate(pinned).plans.at(0).fits);
  // Where no split fits, the balanced one is told.
  r.machine.memory = r.machine.memory - r.machine.usable_memory() + 4_GiB;
  const PricedLayout none = estimate(r).plans.at(0);
  CHECK_FALSE(none.fits);
  CHECK(none.layout.layers_per_chunk == fastest);
}

TEST_CASE("an estimate that does not fit is the smallest, with the reason") {
  PlanRequest r = request_for(find_model("llama-3.1-70b"), "h100-sxm-80gb", 8, 8192, 8);
  r.pins = parse_layout("tp=8", "--layout");
  const PricedLayout p = estimate(r).plans[0];
  CHECK_FALSE(p.fits);
  REQUIRE(p.prediction);
  REQUIRE(p.rejection);
  CHECK(*p.rejection == too_large(r.machine, *p.prediction));
  r.pins.vpp = 1;
  CHECK(every_layout(r).too_large[0].layout == p.layout);
}

TEST_CASE("an impossible estimate has its reason and no prediction") {
  PlanRequest r = request_for(find_model("llama-3.1-8b"), "h100-sxm-80gb", 64, 8192, 60);
  r.pins = parse_layout("dp=64,micro_batch=1", "--layout");
  PricedLayout p = estimate(r).plans[0];
  CHECK_FALSE(p.prediction);
  CHECK_FALSE(p.fits);
  CHECK(p.rejection == Rejection{"batch", "dp * micro_batch 64 does not divide global_batch 60"});
  CHECK(p.layout.data == 64);

  r.gpus = 64;
  r.pins = parse_layout("tp=64", "--layout");
  p = estimate(r).plans[0];
  CHECK_FALSE(p.prediction);
  CHECK(p.rejection == Rejection{"heads", "tp 64 does not cut 8 KV heads with 4 query heads each into equal parts"});

  r.workload.global_batch = 64;
  r.pins = parse_layout("dp=64,zero=1,fsdp_group=3", "--layout");
  p = estimate(r).plans[0];
  CHECK(p.rejection == Rejection{"shard_group", "fsdp_group 3 must divide dp * cp 64 and be a multiple of cp 1"});
  r.pins = parse_layout("dp=64,zero=1,fsdp_group=128", "--layout");  // never quietly another group
  CHECK(estimate(r).plans[0].rejection->reason == "shard_group");
}

TEST_CASE("a pinned group of one, or nothing to shard over, is zero 0") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 4), "h100-sxm-80gb", 8, 2048, 8);
  r.pins = parse_layout("dp=8,zero=3,fsdp_group=1", "--layout");
  CHECK(estimate(r).plans[0].layout.zero == 0);
  r.pins = parse_layout("tp=8,zero=1", "--layout");
  CHECK(estimate(r).plans[0].layout.zero == 0);
  CHECK(estimate(r).plans[0].layout.shard_group == 1);
}

TEST_CASE("pins that some degrees cannot hold leave the others") {
  PlanRequest r = request_for(shallow("llama-3.1-8b", 4), "h100-sxm-80gb", 8, 2048, 8);
  r.pins.vpp = 2;
  const PlanResult found = plan(r);
  REQUIRE(!found.plans.empty());
  for (const PricedLayout& p : found.plans) CHECK(p.layout.virtual_pipeline == 2);
}

TEST_CASE("pins that no layout can hold are the user's mistake") {
  PlanRequest r = request_for(find_model("llama-3.1-8b"), "h100-sxm-80gb", 1024, 8192, 512);
  const auto message = [&](const char* pins) {
    r.pins = parse_layout(pins, "--pin");
    return message_of([&] { plan(r); });
  };
  const auto of_estimate = [&](const char* pins) {
    r.pins = parse_layout(pins, "--layout");
    return message_of([&] { estimate(r); });
  };
  CHECK(message("tp=6") == "tp 6 cannot fill 1024 GPUs");
  CHECK(message("tp=8,pp=16,cp=2,dp=3") == "tp 8, pp 16, cp 2, dp 3 cannot fill 1024 GPUs");
  CHECK(message("vpp=2,pp=1") == "vpp 2 needs a pipeline: pp is 1");
  CHECK(of_estimate("vpp=2") == "vpp 2 needs a pipeline: pp is 1");
  CHECK(of_estimate("schedule=interleaved") == "schedule interleaved needs a pipeline: pp is 1");
  CHECK(of_estimate("schedule=interleaved,pp=32") ==
        "schedule interleaved needs two chunks a stage: 32 layers are too few");
  CHECK(of_estimate("layers_per_stage=16+16") == "layers_per_stage has 2 entries: pp 1 needs 1");
  CHECK(of_estimate("pp=4,layers_per_stage=4+4+4+4+4+4+4+4") == "layers_per_stage has 8 entries: pp 4 needs 4");
  CHECK(message("layers_per_stage=10+11+11") == "layers_per_stage has 3 entries: no pp that it fits fills the GPUs");
  CHECK(message("pp=2,layers_per_stage=16+15") == "layers_per_stage adds up to 31 layers: llama-3.1-8b has 32");

  r.pins = {};
  r.pins.schedule = Schedule::gpipe;
  r.pins.vpp = 2;
  CHECK(message_of([&] { plan(r); }) == "schedule gpipe contradicts vpp 2");
  r.pins = {};
  r.pins.pp = 2;
  r.pins.vpp = 3;
  r.pins.layers_per_stage = {8, 8, 8, 8};
  CHECK(message_of([&] { plan(r); }) == "layers_per_stage has 4 entries: pp 2 needs 2, or 6 for its chunks");
  r.pins = {};
  r.gpus = 0;
  CHECK(message_of([&] { plan(r); }) == "no layout can fill 0 GPUs");
}

TEST_CASE("a model that this version cannot describe is refused in words") {
  PlanRequest r = request_for(find_model("deepseek-v2-lite"), "h100-sxm-80gb", 8, 8192, 8);
  r.model.position = Position::learned;
  CHECK(message_of([&] { plan(r); }) ==
        "deepseek-v2-lite has learned positions with latent attention, which this version does not describe");
}

TEST_CASE("the spaces of large models are proven, and their counts add up") {
  PlanRequest r;
  SUBCASE("dense") { r = request_for(find_model("llama-3.1-405b"), "h100-sxm-80gb", 1024, 8192, 512); }
  SUBCASE("experts") {
    r = request_for(find_model("deepseek-v3"), "h800-sxm-80gb", 2048, 4096, 15360);
    r.precision = DataType::fp8;
    r.workload.formats = formats_for(DataType::fp8);
  }
  r.top = 10;
  const PlanResult result = plan(r);
  CHECK(result.search.proven_best);
  CHECK(result.search.considered == result.search.priced + result.search.pruned + sum_of(result.search.rejected));
  REQUIRE(result.plans.size() == 10);
  for (std::size_t i = 1; i < result.plans.size(); ++i) CHECK(step(result.plans[i - 1]) <= step(result.plans[i]));
  for (std::size_t i = 1; i < result.pareto.size(); ++i) {
    CHECK(step(result.pareto[i - 1]) < step(result.pareto[i]));
    CHECK(memory(result.pareto[i - 1]) > memory(result.pareto[i]));
  }
  CHECK(result.pareto[0].layout == result.plans[0].layout);
}

TEST_CASE("large models are proven: none of 300 random layouts of DeepSeek-V3 beats the plan") {
  PlanRequest r = request_for(find_model("deepseek-v3"), "h800-sxm-80gb", 2048, 4096, 15360);
  r.precision = DataType::fp8;
  r.workload.formats = formats_for(DataType::fp8);
  r.top = 1;
  const PricedLayout best = plan(r).plans[0];
  std::mt19937 random(1);
  const auto one_of = [&](auto list) { return *(list.begin() + static_cast<std::ptrdiff_t>(random() % list.size())); };
  const auto degree = [&](int most) {
    int d = 1;
    while (2 * d <= most && random() % 2) d *= 2;
    return d;
  };
  const std::vector<Recompute> recomputes = every_recompute(r.model);
  int possible = 0, fitting = 0;
  for (int i = 0; i < 300; ++i) {
    LayoutPins pins;
    pins.tp = degree(8);
    pins.pp = degree(32);
    pins.cp = degree(4);
    pins.ep = one_of(std::initializer_list<int>{8, 16, 32, 64, 128});
    pins.etp = 1;
    pins.sequence_parallel = *pins.tp > 1;
    pins.micro_batch = degree(4);
    pins.zero = static_cast<int>(random() % 4);
    pins.recompute = one_of(recomputes);
    pins.vpp = *pins.pp > 1 ? degree(4) : 1;
    if (*pins.pp > 1)
      pins.schedule = *pins.vpp > 1 ? Schedule::interleaved
                                    : one_of(std::initializer_list<Schedule>{Schedule::one_f_one_b, Schedule::zb_h1});
    r.pins = pins;
    const PricedLayout p = estimate(r).plans[0];
    possible += p.prediction.has_value();
    if (!p.fits) continue;
    ++fitting;
    CAPTURE(to_string(p.layout));
    CHECK(step(p) >= step(best));
  }
  MESSAGE(possible, " of 300 possible, ", fitting, " fit");
  CHECK(fitting >= 20);
}

}  // namespace shardwright
