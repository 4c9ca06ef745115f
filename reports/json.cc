#include "reports/json.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/transformer.h"
#include "planner/memory.h"
#include "reports/machine_json.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

Json top(std::string_view kind) {
  Json json;
  json["schema"] = "shardwright." + std::string(kind) + "/1";
  json["shardwright_version"] = version();
  return json;
}

/// Names and paths are the user's and may not be UTF-8: such bytes become U+FFFD.
std::string text_of(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

/// JSON has no infinity and no NaN; a key without a number would become null.
void put(Json& json, const char* key, double value) {
  if (std::isfinite(value)) json[key] = value;
}
void put(Json& json, const char* key, const std::optional<double>& value) {
  if (value) put(json, key, *value);
}

/// A list with what `json_of` makes of each.
template <typename Values, typename JsonOf>
Json list_of(const Values& values, const JsonOf& json_of) {
  Json list = Json::array();
  for (const auto& value : values) list.push_back(json_of(value));
  return list;
}

// ---- plan_result ----

Json workload_json(const PlanResult& result) {
  Json json;
  json["kind"] = "training";
  json["sequence_length"] = result.workload.sequence_length;
  json["global_batch"] = result.workload.global_batch;
  json["precision"] = name_of(result.precision);
  if (result.workload.expert_load.kind != ExpertLoad::Kind::balanced)
    json["expert_load"] = to_string(result.workload.expert_load);
  if (result.workload.capacity_factor > 0) json["capacity_factor"] = result.workload.capacity_factor;
  if (result.workload.cuda_graphs != CudaGraphs{}) json["cuda_graphs"] = to_string(result.workload.cuda_graphs);
  return json;
}

Json search_json(const SearchSummary& search) {
  Json json;
  json["considered"] = search.considered;
  json["priced"] = search.priced;
  json["pruned"] = search.pruned;
  json["rejected"] = Json::object();
  for (const auto& [reason, count] : search.rejected) json["rejected"][reason] = count;
  put(json, "seconds", search.seconds);
  json["proven_best"] = search.proven_best;
  return json;
}

Json modules_json(const Recompute& recompute) {
  Json modules = Json::array();
  for (const RecomputeModule module : kRecomputeModuleList) {
    if (recompute.has(module)) modules.push_back(name_of(module));
  }
  return modules;
}

Json layout_json(const Layout& layout, std::int64_t global_batch) {
  Json json;
  json["tp"] = layout.tensor;
  json["sequence_parallel"] = layout.sequence_parallel;
  json["cp"] = layout.context;
  json["cp_kind"] = name_of(layout.context_kind);
  json["pp"] = layout.pipeline;
  json["vpp"] = layout.virtual_pipeline;
  json["schedule"] = name_of(layout.schedule);
  if (!layout.layers_per_chunk.empty()) json["layers_per_stage"] = layers_per_stage(layout);  // else impossible
  if (layout.layers_per_chunk.size() > static_cast<std::size_t>(layout.pipeline))
    json["layers_per_chunk"] = layout.layers_per_chunk;
  json["ep"] = layout.expert;
  json["etp"] = layout.expert_tensor;
  if (layout.expert > 1) json["dispatcher"] = name_of(layout.dispatcher);
  json["dp"] = layout.data;
  json["zero"] = layout.zero;
  json["fsdp_group"] = layout.shard_group;
  json["recompute"] = layout.recompute.full ? "full" : layout.recompute.modules != 0 ? "selective" : "none";
  json["recompute_modules"] = modules_json(layout.recompute);
  json["micro_batch"] = layout.micro_batch;
  json["micro_batches"] = layout.micro_batches(global_batch);
  json["rank_order"] = name_of(layout.rank_order);
  json["overlap"] = Json::array();
  for (const Overlap o : kOverlapList)
    if (layout.overlap.has(o)) json["overlap"].push_back(name_of(o));
  return json;
}

Json stage_json(const StageMemory& stage) {
  Json json;
  json["allocated_bytes"] = stage.allocated.value;
  json["reserved_bytes"] = stage.reserved.value;
  Json& parts = json["parts"];
  parts["weights"] = stage.parts.weights.value;
  parts["gradients"] = stage.parts.gradients.value;
  parts["optimizer"] = stage.parts.optimizer.value;
  parts["activations"] = stage.parts.activations.value;
  parts["transient"] = stage.parts.transient.value;
  parts["buffers"] = stage.parts.buffers.value;
  return json;
}

Json prediction_json(const Prediction& p) {
  Json json = Json::object();
  put(json, "step_seconds", p.step.value);
  put(json, "step_seconds_low", p.step_low.value);
  put(json, "step_seconds_high", p.step_high.value);
  put(json, "tokens_per_second", p.tokens_per_second);
  put(json, "tokens_per_second_per_gpu", p.tokens_per_second_per_gpu);
  put(json, "model_flops_per_second_per_gpu", p.model_flops_per_gpu.value);
  put(json, "mfu", p.mfu);
  put(json, "bubble_seconds", p.bubble.value);
  put(json, "compute_seconds", p.compute.value);
  put(json, "communication_seconds", p.communication.value);
  put(json, "exposed_communication_seconds", p.exposed_communication.value);
  for (std::size_t k = 0; k < kTraffics; ++k) {
    const auto kind = static_cast<Traffic>(k);
    if (!(p.traffic[kind] > Seconds{})) continue;
    Json& by_kind = json["communication"][std::string(name_of(kind))];
    put(by_kind, "seconds", p.traffic[kind].value);
    put(by_kind, "exposed_seconds", p.exposed[kind].value);
  }
  put(json, "optimizer_seconds", p.optimizer.value);
  put(json, "host_seconds", p.host.value);
  if (!p.stages.empty()) {
    const StageMemory& worst = p.worst();
    json["memory_allocated_bytes"] = worst.allocated.value;
    json["memory_reserved_bytes"] = worst.reserved.value;
    const double factor = std::exp(kMemoryWidth), reserved = static_cast<double>(worst.reserved.value);
    json["memory_reserved_bytes_low"] = static_cast<std::int64_t>(reserved / factor);
    json["memory_reserved_bytes_high"] = static_cast<std::int64_t>(reserved * factor);
    json["memory_worst_stage"] = p.worst_stage;
    for (const StageMemory& stage : p.stages) json["memory_per_stage"].push_back(stage_json(stage));
  }
  for (Seconds idle : p.idle) json["idle_seconds_per_stage"].push_back(idle.value);
  put(json, "gpu_hours_per_trillion_tokens", p.gpu_hours_per_trillion_tokens);
  if (p.cost_per_trillion_tokens) json["cost"]["per_trillion_tokens"] = *p.cost_per_trillion_tokens;
  return json;
}

/// `rank` counts from 1; 0 for layouts outside the ranking.
Json priced_json(const PricedLayout& plan, std::int64_t global_batch, std::size_t rank) {
  Json json;
  if (rank > 0) json["rank"] = rank;
  if (rank > 1) json["ties_with_best"] = plan.ties;
  json["fits"] = plan.fits;
  if (plan.prediction) json["confidence"] = confidence(*plan.prediction);
  if (plan.rejection) json["rejection"] = {{"reason", plan.rejection->reason}, {"detail", plan.rejection->detail}};
  json["precision"] = name_of(plan.precision);
  json["layout"] = layout_json(plan.layout, global_batch);
  json["layout_text"] = to_string(plan.layout);
  json["layout_assumed"] = plan.assumed;
  if (!plan.prediction) return json;
  json["predicted"] = prediction_json(*plan.prediction);
  Json& sources = json["sources"];
  for (std::size_t i = 0; i < plan.prediction->source_share.size(); ++i) {
    sources[std::string(name_of(static_cast<CostSource>(i)))] = plan.prediction->source_share[i];
  }
  return json;
}

Json list_json(const std::vector<PricedLayout>& plans, std::int64_t global_batch, bool ranked) {
  Json list = Json::array();
  for (std::size_t i = 0; i < plans.size(); ++i)
    list.push_back(priced_json(plans[i], global_batch, ranked ? i + 1 : 0));
  return list;
}

Json unmeasured_json(const UnmeasuredKernel& kernel) {
  Json json;
  json["kernel"] = to_string(kernel.spec);
  json["source"] = name_of(kernel.source);
  put(json, "seconds", kernel.seconds.value);
  put(json, "share", kernel.share);
  put(json, "relative_error", kernel.relative_error);
  put(json, "doubt_seconds", kernel.doubt().value);
  put(json, "calls", kernel.calls);
  return json;
}

Json run_json(const RunCost& run) {
  Json json;
  put(json, "tokens", run.question.tokens);
  put(json, "steps", run.steps);
  put(json, "seconds", run.time.value);
  put(json, "undisturbed_seconds", run.undisturbed.value);
  put(json, "tokens_per_second", run.tokens_per_second);
  put(json, "gpu_hours", run.gpu_hours);
  put(json, "price_per_gpu_hour", run.question.price_per_gpu_hour);
  put(json, "price", run.price);
  if (run.question.experiments != 1) {
    put(json, "experiments", run.question.experiments);
    put(json, "all_gpu_hours", run.all_gpu_hours);
    put(json, "all_price", run.all_price);
  }
  if (!run.failures) return json;
  Json& failures = json["failures"];
  put(failures, "mtbf_seconds", run.failures->mtbf.value);
  put(failures, "expected", run.failures->failures);
  put(failures, "checkpoint_seconds", run.failures->checkpoint.value);
  put(failures, "restart_seconds", run.failures->restart.value);
  put(failures, "checkpoint_interval_seconds", run.failures->interval.value);
  put(failures, "share_of_progress", run.failures->progress);
  return json;
}

Json tried_json(const TriedGpus& t) {
  Json json;
  json["gpus"] = t.gpus;
  json["fits"] = t.cost.has_value();
  json["reaches"] = t.reaches;
  if (t.cost) {
    put(json, "step_seconds", t.step.value);
    put(json, "seconds", t.cost->time.value);
    put(json, "gpu_hours", t.cost->gpu_hours);
    put(json, "price", t.cost->price);
  }
  return json;
}

// ---- explanation ----

Json parts_json(const std::vector<StepPart>& parts) {
  Json json = Json::object();
  for (const StepPart& part : parts) put(json, part.name.c_str(), part.seconds.value);
  return json;
}

Json explained_json(const ExplainedLayout& e, std::int64_t global_batch) {
  Json json = priced_json(e.priced, global_batch, 0);
  if (e.priced.prediction) {
    json["slowest_stage"] = slowest_stage(*e.priced.prediction);
    json["step_seconds_by_part"] = parts_json(e.parts);
  }
  return json;
}

Json changes_json(const std::vector<LayoutChange>& changes, const PricedLayout& from, std::int64_t global_batch) {
  Json list = Json::array();
  for (const LayoutChange& change : changes) {
    Json json;
    for (LayoutKey key : change.keys) json["keys"].push_back(name_of(key));
    json["changed"] = Json::object();
    for (const KeyChange& k : layout_changes(from.layout, change.priced.layout))
      json["changed"][k.key] = {{"from", k.from}, {"to", k.to}};
    json["turns"] = change.turns;
    if (from.prediction) {
      const Prediction &before = *from.prediction, &after = *change.priced.prediction;
      json["freed_bytes"] = (before.worst().reserved - after.worst().reserved).value;
      put(json, "more_seconds", (after.step - before.step).value);
      put(json, "relative_cost", after.step / before.step - 1);
    }
    json["plan"] = priced_json(change.priced, global_batch, 0);
    list.push_back(json);
  }
  return list;
}

Json operator_json(const OperatorTime& o) {
  Json json;
  json["graph"] = o.graph;
  json["operator"] = o.name;
  json["pass"] = name_of(o.pass);
  if (o.communicates) {
    json["traffic"] = name_of(o.traffic);
  } else {
    json["family"] = name_of(o.family);
  }
  put(json, "calls", o.calls);
  put(json, "seconds", o.seconds.value);
  return json;
}

Json tensor_json(const MemoryItem& t) {
  return {{"part", t.part}, {"tensor", t.tensor}, {"bytes", t.bytes.value}, {"copies", t.copies}};
}

Json what_if_json(const WhatIf& w) {
  Json json;
  json["name"] = w.name;
  json["meaning"] = w.meaning;
  const std::int64_t global_batch = w.request.workload.global_batch;
  if (w.same) json["same_layout"] = priced_json(*w.same, global_batch, 0);
  if (w.best) json["best"] = priced_json(*w.best, global_batch, 0);
  return json;
}

// ---- validation ----

Json row_json(const ValidationRow& row) {
  Json json;
  json["id"] = row.id;
  json["source"] = row.source;
  if (!row.family.empty()) json["family"] = row.family;
  json["kind"] = row.kind;
  json["trust"] = row.trust;
  json["suspect"] = row.suspect;
  json["metric"] = row.metric;
  put(json, "measured", row.measured);
  put(json, "predicted", row.predicted);
  if (row.has_interval) {
    put(json, "predicted_low", row.predicted_low);
    put(json, "predicted_high", row.predicted_high);
  }
  put(json, "relative_error", row.relative_error);
  put(json, "time_error", row.time_error);
  if (!row.span.empty()) json["span"] = row.span;
  if (row.kind == "training" || row.kind == "inference") json["layout_fits"] = row.layout_fits;
  if (!row.layout.empty()) json["layout"] = row.layout;
  json["layout_assumed"] = row.layout_assumed;
  if (!row.engine.empty()) json["engine"] = row.engine;
  return json;
}

Json error_json(const ErrorSummary& summary) {
  Json json;
  json["n"] = summary.n;
  put(json, "mean_absolute", summary.mean_absolute);
  put(json, "median_absolute", summary.median_absolute);
  put(json, "p90_absolute", summary.p90_absolute);
  put(json, "signed_median", summary.signed_median);
  if (const int intervals = summary.n - summary.without_interval; intervals > 0)
    put(json, "in_interval", static_cast<double>(summary.held) / intervals);
  return json;
}

Json ranking_json(const RankingSummary& ranking) {
  Json json;
  json["families"] = ranking.families;
  put(json, "kendall_tau_mean", ranking.kendall_tau_mean);
  put(json, "top_regret_mean", ranking.top_regret_mean);
  return json;
}

Json out_of_memory_json(const OutOfMemory& oom) {
  Json json;
  const int ran_out = oom.true_positive + oom.false_negative, ran = oom.true_negative + oom.false_positive;
  if (ran_out > 0) json["recall"] = static_cast<double>(oom.true_positive) / ran_out;
  if (ran > 0) json["false_alarm_rate"] = static_cast<double>(oom.false_positive) / ran;
  json["true_positive"] = oom.true_positive;
  json["false_positive"] = oom.false_positive;
  json["true_negative"] = oom.true_negative;
  json["false_negative"] = oom.false_negative;
  return json;
}

// ---- models and machines ----

Json model_json(const Model& model) {
  Json json;
  json["name"] = model.name;
  const std::string lacking = unsupported(model);
  if (lacking.empty()) {
    const std::int64_t total = parameters(model);
    json["parameters"] = total;
    json["parameters_with_mtp"] = parameters_with_mtp(model);
    json["active_parameters"] = active_parameters(model);
    json["active_parameters_without_embedding"] = active_parameters_without_embedding(model);
    json["kv_bytes_per_token"] = kv_bytes_per_token(model);
  } else {
    json["unsupported"] = lacking;
  }
  if (model.published_parameters) json["published_parameters"] = *model.published_parameters;
  json["num_hidden_layers"] = model.num_hidden_layers;
  json["hidden_size"] = model.hidden_size;
  json["num_attention_heads"] = model.num_attention_heads;
  json["num_key_value_heads"] = model.num_key_value_heads;
  json["head_dim"] = model.head_dim;
  if (model.intermediate_size > 0) json["intermediate_size"] = model.intermediate_size;
  if (model.n_routed_experts > 0) {
    json["n_routed_experts"] = model.n_routed_experts;
    json["num_experts_per_tok"] = model.num_experts_per_tok;
    json["moe_intermediate_size"] = model.moe_intermediate_size;
  }
  if (model.kv_lora_rank > 0) json["kv_lora_rank"] = model.kv_lora_rank;
  json["vocab_size"] = model.vocab_size;
  return json;
}

Json calibrated_json(const FamilyCalibration& f) {
  Json json;
  json["family"] = name_of(f.family);
  put(json, "factor", f.factor);
  json["operators"] = f.operators;
  json["date"] = f.date;
  put(json, "median_error_before", f.error_before);
  put(json, "median_error_after", f.error_after);
  return json;
}

/// Every layout that was priced and its place in a chart, as columns: there are thousands.
Json priced_json(const PlanResult& result) {
  Json json = {{"layout_text", Json::array()},
               {"precision", Json::array()},
               {"step_seconds", Json::array()},
               {"memory_reserved_bytes", Json::array()}};
  for (const PricedPoint& p : result.priced) {
    json["layout_text"].push_back(to_string(p.layout));
    json["precision"].push_back(name_of(p.precision));
    json["step_seconds"].push_back(p.step.value);
    json["memory_reserved_bytes"].push_back(p.reserved.value);
  }
  return json;
}

/// Of `plan` and `estimate`.
Json plan_json(const PlanResult& result) {
  Json json = top("plan_result");
  json["model"] = result.model;
  json["machine"] = result.machine;
  json["engine"] = result.engine;
  json["gpus"] = result.gpus;
  json["workload"] = workload_json(result);
  if (!result.calibration.families().empty())
    json["calibration"] = list_of(result.calibration.families(), calibrated_json);
  if (!result.is_estimate) json["search"] = search_json(result.search);
  const std::int64_t global_batch = result.workload.global_batch;
  json["plans"] = list_json(result.plans, global_batch, true);
  if (!result.is_estimate) json["ties_with_best"] = ties_with_best(result.plans);
  if (!result.is_estimate) json["pareto"] = list_json(result.pareto, global_batch, false);
  if (!result.priced.empty()) json["priced_layouts"] = priced_json(result);
  if (!result.nearest.empty()) json["nearest"] = list_json(result.nearest, global_batch, false);
  if (!result.rejected.empty()) json["rejected"] = list_json(result.rejected, global_batch, false);
  if (result.unmeasured) json["unmeasured"] = list_of(*result.unmeasured, unmeasured_json);
  if (result.run) json["run"] = run_json(*result.run);
  if (!result.tried.empty()) json["gpus_tried"] = list_of(result.tried, tried_json);
  if (!result.unreachable.empty()) json["unreachable"] = result.unreachable;
  if (result.sequence_unit) json["longest_sequence_multiple_of"] = *result.sequence_unit;
  return json;
}

// ---- detail ----

constexpr std::size_t kMostSpans = 20'000;

/// To the nanosecond: a clock has no more, and so many digits fill a file.
double to_nanoseconds(Seconds time) { return std::round(time.value * 1e9) / 1e9; }

/// Spans of one stream of one device, as columns: there are thousands.
struct Lane {
  Json kinds = Json::array(), names = Json::array(), starts = Json::array(), ends = Json::array();
};

/// Of a longer step the first and the last tasks: what lies between them repeats itself.
std::vector<TraceSpan> within_most(const std::vector<TraceSpan>& spans, Json& json) {
  if (spans.size() <= kMostSpans) return spans;
  std::vector<Seconds> starts;
  for (const TraceSpan& s : spans) starts.push_back(s.start);
  std::sort(starts.begin(), starts.end());
  const Seconds from = starts[kMostSpans / 2], to = starts[starts.size() - kMostSpans / 2];
  std::vector<TraceSpan> kept;
  for (const TraceSpan& s : spans)
    if (s.start < from || !(s.start < to)) kept.push_back(s);
  Json& omitted = json["timeline_omitted"];
  omitted["tasks"] = spans.size() - kept.size();
  omitted["from_seconds"] = to_nanoseconds(from);
  omitted["to_seconds"] = to_nanoseconds(to);
  return kept;
}

void put_timeline(Json& json, const std::vector<TraceSpan>& spans) {
  std::vector<std::pair<std::string, std::string>> order;
  std::map<std::pair<std::string, std::string>, Lane> lanes;
  for (const TraceSpan& s : within_most(spans, json)) {
    const std::pair key(s.device, s.stream);
    if (!lanes.contains(key)) order.push_back(key);
    Lane& lane = lanes[key];
    lane.kinds.push_back(s.kind);
    lane.names.push_back(s.name);
    lane.starts.push_back(to_nanoseconds(s.start));
    lane.ends.push_back(to_nanoseconds(s.end));
  }
  json["timeline"] = Json::array();
  for (const auto& key : order) {
    Lane& lane = lanes[key];
    json["timeline"].push_back({{"device", key.first},
                                {"stream", key.second},
                                {"kind", std::move(lane.kinds)},
                                {"name", std::move(lane.names)},
                                {"start_seconds", std::move(lane.starts)},
                                {"end_seconds", std::move(lane.ends)}});
  }
}

Json kernel_json(const KernelUse& k) {
  Json json;
  json["kernel"] = to_string(k.spec);
  json["family"] = name_of(family_of(k.spec));
  put(json, "calls", k.calls);
  put(json, "seconds_per_call", k.cost.time.value);
  put(json, "seconds", k.seconds().value);
  json["source"] = name_of(k.cost.source);
  put(json, "relative_error", k.cost.relative_error);
  if (k.work) {
    put(json, "flops_per_call", k.work->flops.value);
    json["bytes_per_call"] = k.work->moved.value;
  }
  return json;
}

/// A layout's own fate in each changed question.
Json same_layout_json(const SameLayout& w) {
  Json json;
  json["name"] = w.name;
  json["meaning"] = w.meaning;
  json["fits"] = w.fits;
  put(json, "step_seconds", w.prediction.step.value);
  put(json, "tokens_per_second_per_gpu", w.prediction.tokens_per_second_per_gpu);
  json["memory_reserved_bytes"] = w.prediction.worst().reserved.value;
  return json;
}

Json detail_json(const PlanDetail& detail, const std::string& estimate_command) {
  Json json;
  json["estimate_command"] = estimate_command;
  json["model"] = model_json(detail.model);
  json["machine"] = machine_json(detail.machine);
  json["machine"]["measured"] = detail.machine.measured != nullptr;
  json["slowest_stage"] = detail.slowest_stage;
  json["step_seconds_by_part"] = parts_json(detail.parts);
  json["axes"] = axes_json(detail.axes);
  json["tensors"] = Json::array();
  for (std::size_t stage = 0; stage < detail.tensors.size(); ++stage) {
    for (const MemoryItem& tensor : detail.tensors[stage]) {
      Json row = {{"stage", stage}};
      row.update(tensor_json(tensor));
      json["tensors"].push_back(row);
    }
  }
  json["kernels"] = list_of(detail.kernels, kernel_json);
  json["what_if"] = list_of(detail.what_ifs, same_layout_json);
  put_timeline(json, detail.spans);
  return json;
}

/// An object whose long lists have a line for each of their members, which are many and small.
std::string lines_of(const Json& object) {
  const auto flat = [](const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); };
  std::string text = "{";
  for (const auto& [key, value] : object.items()) {
    text += (text == "{" ? "\n    " : ",\n    ") + flat(key) + ": ";
    if (!value.is_array() || value.empty()) {
      text += flat(value);
      continue;
    }
    std::string list;
    for (const Json& member : value) list += (list.empty() ? "\n      " : ",\n      ") + flat(member);
    text += "[" + list + "\n    ]";
  }
  return text + "\n  }";
}

}  // namespace

std::string_view version() { return SHARDWRIGHT_VERSION; }

std::string plan_result_json(const PlanResult& result) { return text_of(plan_json(result)); }

std::string plan_result_json(const PlanResult& result, const PlanDetail& detail, const std::string& estimate_command) {
  std::string text = text_of(plan_json(result));
  text.resize(text.size() - 3);  // "\n}\n"
  return text + ",\n  \"detail\": " + lines_of(detail_json(detail, estimate_command)) + "\n}\n";
}

std::string explanation_json(const PlanRequest& request, const Explanation& e) {
  Json json = top("explanation");
  const std::int64_t global_batch = request.workload.global_batch;
  json["model"] = e.asked.model;
  json["machine"] = e.asked.machine;
  json["engine"] = e.asked.engine;
  json["gpus"] = e.asked.gpus;
  json["workload"] = workload_json(e.asked);
  json["standing"] = name_of(e.standing);
  json["layout"] = explained_json(e.layout, global_batch);
  if (e.best) json["best"] = explained_json(*e.best, global_batch);
  json["search"] = search_json(e.search);
  json["search"].erase("seconds");  // nobody took the time
  json["changes"] = changes_json(e.changes, e.layout.priced, global_batch);
  json["pairs"] = changes_json(e.pairs, e.layout.priced, global_batch);
  json["nearest"] = changes_json(e.nearest, e.layout.priced, global_batch);
  if (e.against) json["against"] = explained_json(*e.against, global_batch);
  if (!e.what_ifs.empty()) json["what_if"] = list_of(e.what_ifs, what_if_json);
  json["operators"] = list_of(e.operators, operator_json);
  json["tensors"] = list_of(e.tensors, tensor_json);
  return text_of(json);
}

std::string models_json(const std::vector<Model>& models) {
  Json json = top("models");
  json["models"] = list_of(models, model_json);
  return text_of(json);
}

std::string machines_json(const std::vector<Machine>& machines) {
  Json json = top("machines");
  json["machines"] = list_of(machines, machine_json);
  return text_of(json);
}

std::string validation_json(const Validation& validation) {
  Json json = top("validation");
  json["rows"] = list_of(validation.rows, row_json);
  json["skipped"] = list_of(validation.skipped, [](const SkippedRow& row) {
    return Json{{"id", row.id}, {"reason", row.reason}};
  });
  json["summary"] = Json::object();
  json["summary_by_source"] = Json::object();
  for (const ErrorSummary& summary : validation.summary) {
    Json& place = !summary.span.empty()     ? json["summary_by_span"][summary.span]
                  : !summary.source.empty() ? json["summary_by_source"][summary.source]
                                            : json["summary"];
    place[summary.kind][summary.metric] = error_json(summary);
  }
  for (const ServingErrors& e : validation.serving) {
    Json& place = json["serving"][e.serving][e.metric][e.engine];
    Json& errors = e.model.empty() ? place["all"] : place["models"][e.model];
    errors["n"] = e.n;
    put(errors, "median_absolute", e.median_absolute);
    put(errors, "p90_absolute", e.p90_absolute);
    put(errors, "signed_median", e.signed_median);
  }
  if (validation.ranking) json["ranking"] = ranking_json(*validation.ranking);
  if (validation.complete_ranking) json["ranking"]["complete"] = ranking_json(*validation.complete_ranking);
  if (validation.incomplete_ranking) json["ranking"]["incomplete"] = ranking_json(*validation.incomplete_ranking);
  for (const IntervalSummary& kind : validation.intervals) {
    Json& place = json["intervals"][kind.kind];
    place["n"] = kind.n;
    place["held"] = kind.held;
    put(place, "share", static_cast<double>(kind.held) / kind.n);
  }
  json["out_of_memory"] = out_of_memory_json(validation.out_of_memory);
  return text_of(json);
}

std::string plan_file_json(const PlanFile& plan) {
  Json json = top("plan");
  const PlanResult& r = plan.result;
  json["model"] = r.model;
  json["model_asked"] = plan.model_asked;
  json["model_yaml"] = model_yaml(plan.model);
  json["machine"] = plan.machine;
  json["engine"] = r.engine;
  json["gpus"] = r.gpus;
  json["workload"] = workload_json(r);
  const PricedLayout& best = r.plans.at(0);
  json["precision"] = name_of(best.precision);
  json["layout"] = layout_json(best.layout, r.workload.global_batch);
  json["layout_text"] = to_string(best.layout);
  if (best.prediction) json["predicted"] = prediction_json(*best.prediction);
  json["seed"] = plan.seed;
  json["graph_digest"] = plan.digest;
  return text_of(json);
}

namespace {

Json trial_operator_json(const TrialOperator& o, bool priced) {
  Json json;
  json["graph"] = o.graph;
  json["name"] = o.name;
  json["pass"] = name_of(o.pass);
  json["kind"] = o.communicates ? "collective" : "compute";
  put(json, "calls", o.calls);
  if (o.calls > 0 && !priced) put(json, "measured_seconds", o.measured.value);
  if (o.predicted) put(json, "predicted_seconds", o.predicted->value);
  if (o.family) json["family"] = name_of(*o.family);
  return json;
}

Json calibration_json(const CalibrationReport& report) {
  Json json;
  json["written"] = report.refused.empty() && !report.run.found.empty();
  if (!report.refused.empty()) json["refused"] = report.refused;
  json["families"] = list_of(report.run.found, calibrated_json);
  json["ranking"] = list_of(report.run.ranking, [](const RankedTwice& r) {
    Json row;
    row["layout_text"] = to_string(r.layout);
    row["rank_before"] = r.rank_before;
    row["rank_after"] = r.rank_after;
    put(row, "step_seconds_before", r.before.value);
    put(row, "step_seconds_after", r.after.value);
    return row;
  });
  return json;
}

Json round_json(const TrialRound& round) {
  Json json;
  json["void"] = !round.fault.empty();
  if (!round.fault.empty()) json["reason"] = round.fault;
  put(json, "step_seconds", round.step.value);
  return json;
}

Json measured_json(const TrialReport& report) {
  const Trial& t = report.trial;
  Json json = Json::object();
  if (t.step) put(json, "step_seconds", t.step->value);
  if (t.step && !t.alone) {
    const double tokens = static_cast<double>(report.plan.workload.global_batch) *
                          static_cast<double>(report.plan.workload.sequence_length);
    put(json, "tokens_per_second", tokens / t.step->value);
    put(json, "tokens_per_second_per_gpu", tokens / t.step->value / static_cast<double>(report.plan.gpus));
  }
  put(json, "compute_seconds", t.parts.compute.value);
  if (!t.alone) {
    put(json, "exposed_communication_seconds", t.parts.communication.value);
    put(json, "bubble_seconds", t.parts.bubble.value);
  }
  put(json, "optimizer_seconds", t.parts.optimizer.value);
  put(json, "host_seconds", t.parts.other.value);
  put(json, "reference_seconds", t.reference.value);
  for (const Trial::Peak& peak : t.peaks) {
    Json stage;
    stage["allocated_bytes"] = peak.allocated.value;
    stage["resident_bytes"] = peak.resident.value;
    json["memory_per_stage"].push_back(stage);
  }
  return json;
}

}  // namespace

namespace {

Json inference_json(const InferenceTrial& t) {
  Json json;
  json["prompt_tokens"] = t.prompt;
  json["sequences"] = t.sequences;
  json["decoded_tokens"] = t.tokens;
  json["rounds"] = t.rounds;
  json["void_rounds"] = t.void_rounds;
  json["equality"]["checked"] = t.checked;
  if (t.checked) {
    put(json["equality"], "max_relative_error", t.difference.relative);
    json["equality"]["at"] = t.difference.what;
    json["equality"]["equal"] = t.equal;
  }
  put(json, "prefill_seconds", t.prefill.value);
  put(json, "decode_seconds", t.decode.value);
  if (t.predicted_prefill) put(json, "predicted_prefill_seconds", t.predicted_prefill->value);
  if (t.predicted_decode) put(json, "predicted_decode_seconds", t.predicted_decode->value);
  json["memory_allocated_bytes"] = t.peak.value;
  return json;
}

}  // namespace

namespace {

/// One rank by itself: what of its step was not run.
Json alone_json(const TrialReport& report) {
  Json json;
  json["rank"] = *report.trial.alone;
  json["of"] = report.plan.gpus;
  if (report.model_layers > 0) json["model_layers"] = report.model_layers;
  if (report.has_experts) json["expert_load"] = to_string(report.plan.workload.expert_load);
  if (!report.plan.plans.at(0).prediction) return json;
  const PricedAlone priced = priced_alone(report.trial, *report.plan.plans.at(0).prediction);
  put(json["predicted"], "compute_seconds", priced.compute.value);
  put(json["priced"], "communication_seconds", priced.communication.value);
  put(json["priced"], "bubble_seconds", priced.bubble.value);
  if (priced.step) put(json, "step_seconds_of_both", priced.step->value);
  return json;
}

}  // namespace

std::string trial_json(const TrialReport& report) {
  const Trial& t = report.trial;
  const PricedLayout& plan = report.plan.plans.at(0);
  Json json = top("trial");
  Json& of = json["plan"];
  of["model"] = report.plan.model;
  of["machine"] = report.plan.machine;
  of["engine"] = report.plan.engine;
  of["gpus"] = report.plan.gpus;
  of["workload"] = workload_json(report.plan);
  of["layout"] = layout_json(plan.layout, report.plan.workload.global_batch);
  of["layout_text"] = to_string(plan.layout);
  if (!report.digest.empty()) of["graph_digest"] = report.digest;
  Json& conditions = json["conditions"];
  conditions["seed"] = report.seed;
  conditions["communicator"] = t.communicator;
  conditions["backend"] = t.backend;
  conditions["precision"] = name_of(t.precision);
  conditions["cores"] = report.cores;
  conditions["watched_stage"] = report.watched_stage;
  if (t.alone) json["alone"] = alone_json(report);
  Json& equality = json["equality"];
  equality["checked"] = t.checked;
  if (t.checked) {
    put(equality, "max_relative_error", t.difference.relative);
    equality["at"] = t.difference.what;
    equality["tolerance"] = equal_tolerance(t.precision);
    equality["equal"] = t.equal();
  } else {
    equality["reason"] = t.not_checked;
  }
  json["rounds"] = list_of(t.rounds, round_json);
  if (plan.prediction) json["predicted"] = prediction_json(*plan.prediction);
  json["measured"] = measured_json(report);
  json["operators"] =
      list_of(t.operators, [&](const TrialOperator& o) { return trial_operator_json(o, t.alone && o.communicates); });
  if (!t.alone) put(json, "loss", t.loss);
  if (report.calibration) json["calibration"] = calibration_json(*report.calibration);
  if (t.inference) json["inference"] = inference_json(*t.inference);
  return text_of(json);
}

std::string score_json(const std::string& machine, const std::vector<LeaveOutError>& errors) {
  Json json = top("score");
  json["machine"] = machine;
  json["errors"] = list_of(errors, [](const LeaveOutError& e) {
    Json row;
    row["family"] = name_of(e.family);
    if (!e.kind.empty()) row["kind"] = e.kind;
    row["left_out"] = e.left_out;
    row["questions"] = e.questions;
    row["median"] = e.median;
    row["p90"] = e.p90;
    row["within_sigma"] = e.within_sigma;
    return row;
  });
  return text_of(json);
}

std::string profile_json(const std::map<std::string, JournalRow>& rows, const std::string& machine) {
  Json json = top("profile");
  json["machine"] = machine;
  json["kernels"] = list_of(rows, [](const auto& named) {
    const auto& [text, row] = named;
    Json kernel = {{"kernel", text}};
    if (const auto* failed = std::get_if<NotMeasured>(&row.answer)) {
      kernel["not_measured"] = failed->reason;
    } else {
      const MeasuredKernel& m = std::get<MeasuredKernel>(row.answer);
      kernel["seconds"] = m.time.value;
      if (std::isfinite(m.relative_error)) kernel["relative_error"] = m.relative_error;
      kernel["rounds"] = m.rounds;
      kernel["void_rounds"] = m.void_rounds;
      kernel["library"] = row.kernel;
    }
    return kernel;
  });
  return text_of(json);
}

std::string doctor_json(const Diagnosis& diagnosis) {
  Json json = top("doctor");
  json["processor"] = diagnosis.processor;
  json["cores"] = diagnosis.cores;
  json["memory_bytes"] = diagnosis.memory.value;
  json["parts"] = list_of(diagnosis.parts, [](const Part& part) {
    Json found = {{"name", part.name}, {"found", !part.version.empty()}};
    if (part.version.empty()) {
      found["missing"] = part.missing;
      found["costs"] = part.costs;
    } else {
      found["version"] = part.version;
    }
    return found;
  });
  return text_of(json);
}

}  // namespace shardwright
