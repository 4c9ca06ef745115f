#include "planner/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hardware/measured_times.h"
#include "planner/pipeline/pipeline_shape.h"
#include "planner/search/search.h"

namespace shardwright {
namespace {

/// Pins that no layout of the request can hold are the user's mistake, not a rejection.
void check(const PlanRequest& request, const Space& space) {
  const LayoutPins& pins = request.pins;
  if (const std::string why = beyond_engine(request.engine, pins); !why.empty()) throw InputError(why);
  if (const std::string what = unsupported(request.model); !what.empty())
    throw InputError(fmt::format("{} has {}, which this version does not describe", request.model.name, what));
  if (space.degrees().empty()) {
    PlanRequest bare = request;  // whether the degrees alone are to blame
    bare.pins.vpp.reset();
    bare.pins.schedule.reset();
    bare.pins.layers_per_stage.reset();
    const Space filling(bare);
    if (filling.degrees().empty()) {
      std::string given;
      for (const auto& [name, pin] : {std::pair{"tp", pins.tp}, {"pp", pins.pp}, {"cp", pins.cp}, {"dp", pins.dp}})
        if (pin) given += fmt::format("{}{} {}", given.empty() ? "" : ", ", name, *pin);
      throw InputError(given.empty() ? fmt::format("no layout can fill {} GPUs", request.gpus)
                                     : fmt::format("{} cannot fill {} GPUs", given, request.gpus));
    }
    const bool pipeline = std::any_of(filling.degrees().begin(), filling.degrees().end(),
                                      [](const Space::Degrees& d) { return d.pipeline > 1; });
    if (!pipeline && pins.vpp.value_or(1) > 1)
      throw InputError(fmt::format("vpp {} needs a pipeline: pp is 1", *pins.vpp));
    if (!pipeline && pins.schedule == Schedule::interleaved)
      throw InputError("schedule interleaved needs a pipeline: pp is 1");
    if (pins.layers_per_stage) {
      const int pp = filling.degrees().front().pipeline, v = pins.vpp.value_or(1);
      const std::string needs = !pins.pp ? "no pp that it fits fills the GPUs"
                                : v > 1  ? fmt::format("pp {} needs {}, or {} for its chunks", pp, pp, pp * v)
                                         : fmt::format("pp {} needs {}", pp, pp);
      throw InputError(fmt::format("layers_per_stage has {} entries: {}", pins.layers_per_stage->size(), needs));
    }
    if (pins.vpp && pins.schedule)
      throw InputError(fmt::format("schedule {} contradicts vpp {}", name_of(*pins.schedule), *pins.vpp));
    throw InputError(fmt::format("schedule interleaved needs two chunks a stage: {} layers are too few",
                                 request.model.num_hidden_layers));
  }
  if (pins.layers_per_stage) {
    const int sum = std::accumulate(pins.layers_per_stage->begin(), pins.layers_per_stage->end(), 0);
    if (sum != request.model.num_hidden_layers)
      throw InputError(fmt::format("layers_per_stage adds up to {} layers: {} has {}", sum, request.model.name,
                                   request.model.num_hidden_layers));
  }
}

/// Keys that the request left to the planner, in the order of to_string(Layout).
std::vector<std::string> assumed(const LayoutPins& pins, const Layout& layout) {
  std::vector<std::string> keys;
  const auto note = [&](const char* key, bool pinned) {
    if (!pinned) keys.push_back(key);
  };
  note("tp", pins.tp.has_value());
  note("sequence_parallel", pins.sequence_parallel.has_value());
  note("cp", pins.cp.has_value());
  note("cp_kind", pins.cp_kind.has_value());
  note("pp", pins.pp.has_value());
  note("vpp", pins.vpp.has_value());
  note("dp", pins.dp.has_value());
  note("ep", pins.ep.has_value());
  note("etp", pins.etp.has_value());
  note("dispatcher", pins.dispatcher.has_value() || layout.expert == 1);
  note("zero", pins.zero.has_value());
  note("fsdp_group", pins.fsdp_group.has_value());
  note("recompute", pins.recompute.has_value());
  note("micro_batch", pins.micro_batch.has_value());
  note("schedule", pins.schedule.has_value());
  note("rank_order", pins.rank_order.has_value());
  const auto given = static_cast<std::uint8_t>(pins.overlap_on.bits | pins.overlap_off.bits);
  note("overlap", (overlaps_of(layout).bits & ~given) == 0);
  note("layers_per_stage", pins.layers_per_stage.has_value());
  return keys;
}

/// The precisions of a request with the formats that go with them.
std::vector<PlanRequest> by_precision(const PlanRequest& request) {
  if (!request.any_precision) return {request};
  std::vector<PlanRequest> all;
  for (DataType p : {DataType::bf16, DataType::fp16, DataType::fp8, DataType::mxfp8, DataType::nvfp4}) {
    if (!supports(request.machine, p)) continue;
    all.push_back(request);
    all.back().precision = p;
    all.back().workload.formats = formats_for(p, request.engine);
  }
  return all;
}

bool faster(const PricedLayout& a, const PricedLayout& b) {
  return std::tie(a.prediction->step, a.layout, a.precision) < std::tie(b.prediction->step, b.layout, b.precision);
}

bool smaller(const PricedLayout& a, const PricedLayout& b) {
  const Bytes needs_a = a.prediction->worst().reserved, needs_b = b.prediction->worst().reserved;
  return std::tie(needs_a, a.layout, a.precision) < std::tie(needs_b, b.layout, b.precision);
}

/// Those that need less memory than every faster one.
std::vector<PricedLayout> front_of(std::vector<PricedLayout> all) {
  std::sort(all.begin(), all.end(), faster);
  std::vector<PricedLayout> front;
  for (PricedLayout& p : all)
    if (front.empty() || p.prediction->worst().reserved < front.back().prediction->worst().reserved)
      front.push_back(std::move(p));
  return within_reach(std::move(front));
}

/// The first `most` of each reason; those of one reason stand together, in the order in which reasons were met.
void keep_examples(std::vector<PricedLayout>& rejected, int most) {
  std::vector<std::string> reasons;
  std::map<std::string, std::vector<PricedLayout>> by_reason;
  for (PricedLayout& p : rejected) {
    std::vector<PricedLayout>& list = by_reason[p.rejection->reason];
    if (list.empty()) reasons.push_back(p.rejection->reason);
    if (std::ssize(list) < most) list.push_back(std::move(p));
  }
  rejected.clear();
  for (const std::string& reason : reasons)
    for (PricedLayout& p : by_reason[reason]) rejected.push_back(std::move(p));
}

SearchAnswer search_all(const PlanRequest& request) {
  SearchAnswer all;
  all.summary.proven_best = true;
  bool any_fits = false;
  for (const PlanRequest& one : by_precision(request)) {
    Pricer pricer(one);
    SearchAnswer a = search(one, pricer);
    all.summary.considered += a.summary.considered;
    all.summary.priced += a.summary.priced;
    all.summary.pruned += a.summary.pruned;
    for (const auto& [reason, n] : a.summary.rejected) all.summary.rejected[reason] += n;
    if (!a.top.empty()) {
      any_fits = true;
      all.summary.proven_best = all.summary.proven_best && a.summary.proven_best;
    }
    for (auto* list : {&a.top, &a.pareto, &a.nearest, &a.rejected})
      for (PricedLayout& p : *list)
        if (p.prediction) p.prediction->source_share = pricer.source_share(p.layout);
    for (auto [from, to] : {std::pair{&a.top, &all.top},
                            {&a.pareto, &all.pareto},
                            {&a.nearest, &all.nearest},
                            {&a.rejected, &all.rejected}})
      to->insert(to->end(), std::make_move_iterator(from->begin()), std::make_move_iterator(from->end()));
    all.priced.insert(all.priced.end(), std::make_move_iterator(a.priced.begin()),
                      std::make_move_iterator(a.priced.end()));
  }
  all.summary.proven_best = all.summary.proven_best && any_fits;
  std::sort(all.top.begin(), all.top.end(), faster);
  if (all.top.size() > static_cast<std::size_t>(request.top)) all.top.resize(static_cast<std::size_t>(request.top));
  all.pareto = front_of(std::move(all.pareto));
  std::sort(all.priced.begin(), all.priced.end(), [](const PricedPoint& a, const PricedPoint& b) {
    return std::tie(a.step, a.layout, a.precision) < std::tie(b.step, b.layout, b.precision);
  });
  if (any_fits) all.nearest.clear();
  std::sort(all.nearest.begin(), all.nearest.end(), smaller);
  if (all.nearest.size() > kNearest) all.nearest.resize(kNearest);
  keep_examples(all.rejected, request.rejected_examples);
  for (auto* list : {&all.top, &all.pareto, &all.nearest, &all.rejected})
    for (PricedLayout& p : *list) p.assumed = assumed(request.pins, p.layout);
  return all;
}

/// The engine's, of pinned tp, pp, cp and ep; 1 where that is none that such degrees can have.
int default_etp(const PlanRequest& request) {
  const LayoutPins& pins = request.pins;
  const std::int64_t stage = request.gpus / *pins.pp;
  if (!request.engine.etp_is_tp || request.model.n_routed_experts == 0) return 1;
  Layout l;
  l.tensor = *pins.tp;
  l.context = *pins.cp;
  l.data = static_cast<int>(std::max<std::int64_t>(1, stage / (std::int64_t{l.tensor} * l.context)));
  l.expert = *pins.ep;
  l.expert_tensor = l.tensor;
  return impossible_mesh(request.model, l) ? 1 : l.expert_tensor;
}

/// The layout of a request of which every layout is impossible: its first, with the reason.
PricedLayout first_impossible(const PlanRequest& request, const Space& space) {
  PricedLayout p;
  const Space::Degrees d = space.degrees().front();
  Layout& l = p.layout;
  l = space.layout_at(d);
  l.virtual_pipeline = space.ways(d).front().virtual_pipeline;
  l.micro_batch = space.micro_batches(d).front();
  l.sequence_parallel = space.sequence_parallel(d).front();
  l.schedule = space.ways(d).front().schedule;
  l.recompute = space.recomputes().front();
  l.zero = space.shardings(d).front().zero;
  l.shard_group = space.shardings(d).front().group;
  p.precision = request.precision;
  p.assumed = assumed(request.pins, p.layout);
  p.rejection = impossible(request.model, request.machine, request.workload, l);
  return p;
}

}  // namespace

PlanResult empty_result(const PlanRequest& request) {
  PlanResult r;
  r.model = request.model.name;
  r.machine = request.machine.name;
  r.engine = request.engine.name;
  r.gpus = request.gpus;
  r.workload = request.workload;
  if (request.machine.measured) r.calibration = request.machine.measured->calibration();
  r.precision = request.precision;
  return r;
}

Rejection too_large(const Machine& machine, const Prediction& prediction) {
  const double gib = static_cast<double>((1_GiB).value);
  return {"memory", fmt::format("stage {} needs {:.1f} GiB of {:.1f} GiB", prediction.worst_stage,
                                static_cast<double>(prediction.worst().reserved.value) / gib,
                                static_cast<double>(machine.usable_memory().value) / gib)};
}

std::size_t different_degrees(const Layout& a, const Layout& b) {
  std::size_t differ = 0;
  for (const auto degree : {&Layout::tensor, &Layout::pipeline, &Layout::context, &Layout::expert})
    differ += a.*degree != b.*degree;
  return differ;
}

bool ties_with(const PricedLayout& a, const PricedLayout& b, const PredictionErrors& errors) {
  // Another type of products is as much of a difference as any.
  const std::size_t differ = a.precision == b.precision ? different_degrees(a.layout, b.layout) : errors.ratio.size();
  const double width = errors.ratio[std::min(differ, errors.ratio.size() - 1)];
  return std::abs(std::log(a.prediction->step / b.prediction->step)) <= width;
}

PlanResult plan(const PlanRequest& request) {
  check(request, Space(request));
  SearchAnswer a = search_all(request);
  PlanResult r = empty_result(request);
  r.search = std::move(a.summary);
  r.plans = std::move(a.top);
  r.pareto = std::move(a.pareto);
  r.priced = std::move(a.priced);
  r.nearest = std::move(a.nearest);
  r.rejected = std::move(a.rejected);
  for (auto* list : {&r.plans, &r.nearest})
    for (std::size_t i = 1; i < list->size(); ++i)
      (*list)[i].ties = ties_with(list->front(), (*list)[i], request.engine.errors);
  return r;
}

PlanResult estimate(const PlanRequest& request) {
  PlanRequest one = request;
  LayoutPins& pins = one.pins;
  for (std::optional<int>* degree : {&pins.tp, &pins.pp, &pins.cp, &pins.ep})
    if (!*degree) *degree = 1;
  if (!pins.etp) pins.etp = default_etp(one);
  const bool one_chunk = !pins.schedule || takes_chunks(*pins.schedule, 1);
  if (!pins.vpp && (one_chunk || pins.pp == 1)) pins.vpp = 1;
  if (!pins.schedule)  // what a run has that does not say
    std::erase_if(one.engine.schedules,
                  [](Schedule s) { return s != Schedule::one_f_one_b && s != Schedule::interleaved; });
  one.top = 1;
  const Space space(one);
  check(one, space);
  SearchAnswer a = search_all(one);
  PlanResult r = empty_result(request);
  r.is_estimate = true;
  r.search = std::move(a.summary);
  if (!a.top.empty()) {
    r.plans = std::move(a.top);
  } else if (!a.nearest.empty()) {
    r.plans.push_back(std::move(a.nearest.front()));
  } else {
    r.plans.push_back(first_impossible(one, space));
  }
  for (PricedLayout& p : r.plans) p.assumed = assumed(request.pins, p.layout);
  return r;
}

std::vector<MemoryItem> memory_items(const PlanRequest& request, const Layout& layout, int stage) {
  return Pricer(request).memory_items(layout, stage);
}

std::vector<TraceSpan> trace_of(const PlanRequest& request, const Layout& layout) {
  Pricer pricer(request);
  const ShapePrice& shape = pricer.shape(shape_of(layout), layout.recompute);
  std::vector<TraceSpan> spans = PipelineShape(pricer, shape, layout).trace(pricer.data_of(shape, layout));
  // One layer of each class, with what runs beside what in it.
  ShapePricer graphs = pricer.shape_pricer(shape_of(layout));
  for (std::size_t g = 2; g < graphs.graphs(); ++g) {
    GraphPricer& graph = graphs.of_graph(g);
    const std::string layer =
        graphs.graphs() == 3 ? "one layer" : fmt::format("one layer of class {}", g - 2);  // behind embedding and head
    for (const auto& [name, pieces] :
         {std::pair{", forward", graph.forward_pieces(layout.micro_batch)},
          std::pair{", backward", graph.backward_pieces(layout.micro_batch, layout.recompute)}}) {
      const std::vector<TraceSpan> pass = graph.trace(pieces, layer + name);
      spans.insert(spans.end(), pass.begin(), pass.end());
    }
  }
  return spans;
}

}  // namespace shardwright
