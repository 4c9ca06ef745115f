#include "reports/serve_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "reports/json.h"
#include "reports/machine_json.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

void put(Json& json, const char* key, double value) {
  if (std::isfinite(value)) json[key] = value;
}

Json degrees_json(const ServeLayout& l) {
  Json json;
  json["tp"] = l.tensor;
  json["pp"] = l.pipeline;
  json["attention_dp"] = l.attention_data;
  json["cp"] = l.context;
  json["ep"] = l.expert;
  json["etp"] = l.expert_tensor;
  if (l.redundant > 0) json["redundant"] = l.redundant;
  if (l.shared_routed) json["shared"] = "routed";
  return json;
}

Json layout_json(const ServedLayout& plan) {
  if (!plan.pools) {
    Json json = degrees_json(plan.layout);
    json["serving"] = "aggregated";
    json["dp"] = plan.layout.replicas;
    json["replicas"] = plan.layout.replicas;
    return json;
  }
  Json json;
  json["serving"] = "disaggregated";
  for (const auto& [name, pool] : {std::pair{"prefill", &plan.pools->prefill}, {"decode", &plan.pools->decode}}) {
    Json& of = json[name];
    of["workers"] = pool->replicas;
    of.update(degrees_json(*pool));
  }
  return json;
}

Json memory_json(const ServeMemory& m) {
  Json json;
  json["stage"] = m.stage;
  json["weights_bytes"] = m.weights.value;
  json["activations_bytes"] = m.activations.value;
  json["cuda_graphs_bytes"] = m.cuda_graphs.value;
  json["workspace_bytes"] = m.workspace.value;
  json["kv_pool_bytes"] = m.pool.value;
  json["kv_bytes_per_sequence"] = m.kv_per_sequence.value;
  json["usable_bytes"] = m.usable.value;
  json["max_batch"] = m.largest_batch;
  json["max_batch_reason"] = m.reason;
  return json;
}

/// What one rank does in a decode step, kernels by kind, and what of it the GPUs wait for the host.
Json parts_json(const ServePrediction& p) {
  const StepCost& c = p.decode_cost;
  Json json = Json::object();
  for (const auto& [name, time] : {std::pair{"products", c.products},
                                   {"experts", c.experts},
                                   {"attention", c.attention},
                                   {"memory", c.memory},
                                   {"collectives", c.collectives},
                                   {"exchange", c.exchange},
                                   {"host", p.host}})
    if (time > Seconds{}) put(json, name, time.value);
  return json;
}

Json prediction_json(const ServePrediction& p) {
  Json json;
  if (p.ttft.value > 0) {
    put(json, "ttft_seconds", p.ttft.value);
    put(json, "ttft_seconds_low", p.ttft_low.value);
    put(json, "ttft_seconds_high", p.ttft_high.value);
    put(json, "input_tokens_per_second", p.input_tokens_per_second);
    put(json, "prefill_added_seconds", p.prefill_added.value);
  }
  if (p.tpot.value > 0) {
    put(json, "tpot_seconds", p.tpot.value);
    put(json, "tpot_seconds_low", p.tpot_low.value);
    put(json, "tpot_seconds_high", p.tpot_high.value);
    put(json, "output_tokens_per_second", p.output_tokens_per_second);
    put(json, "output_tokens_per_second_low", p.output_low);
    put(json, "output_tokens_per_second_high", p.output_high);
    put(json, "output_tokens_per_second_per_gpu", p.output_tokens_per_second_per_gpu);
    put(json, "output_tokens_per_second_per_user", p.tokens_per_second_per_user);
    put(json, "total_tokens_per_second", p.total_tokens_per_second);
    json["concurrency"] = p.concurrency;
    json["batch_per_rank"] = p.batch;
    put(json, "decode_step_seconds", p.decode_step.value);
    json["decode_step_seconds_by_part"] = parts_json(p);
    if (p.decode_cost.hidden > Seconds{}) put(json, "exchange_hidden_seconds", p.decode_cost.hidden.value);
    json["kv_bytes_per_token"] = p.kv_bytes_per_token;
    if (p.cost_per_million_output_tokens)
      put(json, "cost_per_million_output_tokens", *p.cost_per_million_output_tokens);
  }
  json["max_batch"] = p.memory.largest_batch;
  json["memory"] = memory_json(p.memory);
  return json;
}

Json sources_json(const ServePrediction& p) {
  Json json = Json::object();
  const double all = p.sources.total().value;
  if (!(all > 0)) return json;
  for (const CostSource source :
       {CostSource::measured, CostSource::interpolated, CostSource::extrapolated, CostSource::datasheet})
    put(json, std::string(name_of(source)).c_str(), p.sources.times[static_cast<std::size_t>(source)].value / all);
  return json;
}

Json spread_json(const LatencySpread& spread) {
  Json json;
  for (const GoalOf of : kGoalsOf) put(json, std::string(name_of(of)).c_str(), value_of(spread, of));
  return json;
}

Json under_load_json(const UnderLoad& u) {
  Json json;
  json["requests"] = u.requests;
  json["counted"] = u.seen.counted;
  put(json, "arrivals_per_second", u.seen.arrivals_per_second);
  put(json, "answers_per_second", u.seen.answers_per_second);
  json["overloaded"] = u.overloaded;
  if (u.seen.counted > 0) {
    json["ttft_seconds"] = spread_json(u.seen.ttft);
    json["tpot_seconds"] = spread_json(u.seen.tpot);
    json["request_latency_seconds"] = spread_json(u.seen.latency);
  }
  json["preempted"] = u.preempted;
  json["refused"] = u.refused;
  json["steps"] = u.steps;
  return json;
}

Json plan_json(const ServedLayout& plan, std::size_t rank) {
  Json json;
  json["rank"] = rank;
  json["fits"] = plan.fits;
  json["keeps_goals"] = plan.keeps_goals;
  json["gpus"] = plan.gpus();
  if (plan.rejection) {
    json["rejection"]["reason"] = plan.rejection->reason;
    json["rejection"]["detail"] = plan.rejection->detail;
  }
  json["layout"] = layout_json(plan);
  json["layout_text"] = plan.pools ? to_string(*plan.pools) : to_string(plan.layout);
  json["layout_assumed"] = plan.assumed;
  if (plan.prediction) {
    const ServePrediction& p = *plan.prediction;
    if (p.output_tokens_per_second > 0) json["confidence"] = confidence(p.output_high / p.output_tokens_per_second - 1);
    json["predicted"] = prediction_json(*plan.prediction);
    json["sources"] = sources_json(*plan.prediction);
  }
  if (plan.under_load) json["under_load"] = under_load_json(*plan.under_load);
  return json;
}

Json list_json(const std::vector<ServedLayout>& plans) {
  Json list = Json::array();
  for (std::size_t i = 0; i < plans.size(); ++i) list.push_back(plan_json(plans[i], i + 1));
  return list;
}

Json workload_json(const ServeResult& result) {
  const ServeWorkload& w = result.workload;
  Json json;
  json["kind"] = "serving";
  json["isl"] = w.isl;
  json["osl"] = w.osl;
  if (w.concurrency) json["concurrency"] = *w.concurrency;
  if (result.load) {
    put(json, "requests_per_second", result.load->requests_per_second);
    json["arrivals"] = result.load->trace.empty() ? "poisson" : "trace";
    if (result.load->trace.empty()) {
      json["lengths"] = to_string(result.load->lengths);
      json["seed"] = result.load->seed;
    }
  }
  json["precision"] = name_of(w.formats.weights);
  json["moe_precision"] = name_of(w.formats.experts);
  json["kv_precision"] = name_of(w.formats.kv);
  if (w.cached_prefix > 0) put(json, "cached_prefix", w.cached_prefix);
  if (w.phase != ServePhase::both) json["phase"] = name_of(w.phase);
  if (w.speculation.tokens > 0) {
    json["mtp_tokens"] = w.speculation.tokens;
    json["mtp_acceptance"] = w.speculation.acceptance;
  }
  if (result.goals.max_ttft_seconds) json["slo"]["max_ttft_seconds"] = *result.goals.max_ttft_seconds;
  if (result.goals.max_tpot_seconds) json["slo"]["max_tpot_seconds"] = *result.goals.max_tpot_seconds;
  if (json.contains("slo")) json["slo"]["of"] = name_of(result.goals.of);
  return json;
}

/// A layout's own fate in a changed question.
Json what_if_json(const ServeWhatIf& w) {
  Json json;
  json["name"] = w.name;
  json["meaning"] = w.meaning;
  json["answers"] = w.same.has_value();
  if (!w.same) return json;
  const ServePrediction& p = *w.same->prediction;
  json["keeps_goals"] = w.same->keeps_goals;
  put(json, "output_tokens_per_second_per_gpu", p.output_tokens_per_second_per_gpu);
  if (p.ttft > Seconds{}) put(json, "ttft_seconds", p.ttft.value);
  if (p.tpot > Seconds{}) put(json, "tpot_seconds", p.tpot.value);
  json["concurrency"] = p.concurrency;
  return json;
}

Json what_ifs_json(const std::vector<ServeWhatIf>& what_ifs) {
  Json list = Json::array();
  for (const ServeWhatIf& w : what_ifs) list.push_back(what_if_json(w));
  return list;
}

Json detail_json(const ServeDetail& detail, const std::string& command) {
  Json json;
  json["command"] = command;
  json["machine"] = machine_json(detail.machine);
  json["machine"]["measured"] = detail.machine.measured != nullptr;
  json["pools"] = Json::array();
  for (const PoolLinks& pool : detail.pools) {
    Json of = Json::object();
    if (!pool.pool.empty()) of["pool"] = pool.pool;
    of["axes"] = axes_json(pool.axes);
    json["pools"].push_back(std::move(of));
  }
  json["what_if"] = what_ifs_json(detail.what_ifs);
  return json;
}

Json parts_json(const std::vector<StepPart>& parts) {
  Json json = Json::object();
  for (const StepPart& part : parts) put(json, part.name.c_str(), part.seconds.value);
  return json;
}

/// A plan with where the time between two of its tokens goes.
Json explained_json(const ServedLayout& plan, const Speculation& speculation) {
  Json json = plan_json(plan, 1);
  json.erase("rank");
  if (plan.fits) json["round_seconds_by_part"] = parts_json(round_parts(*plan.prediction, speculation));
  return json;
}

Json changes_json(const std::vector<ServeChange>& changes) {
  Json list = Json::array();
  for (const ServeChange& change : changes) {
    Json json;
    json["keys"] = Json::array();
    for (const ServeKey key : change.keys) json["keys"].push_back(name_of(key));
    json["turns"] = change.turns;
    Json plan = plan_json(change.plan, 1);
    plan.erase("rank");
    json.update(plan);
    list.push_back(std::move(json));
  }
  return list;
}

Json search_json(const SearchSummary& of) {
  Json search;
  search["considered"] = of.considered;
  search["priced"] = of.priced;
  search["pruned"] = of.pruned;
  search["rejected"] = Json::object();
  for (const auto& [reason, count] : of.rejected) search["rejected"][reason] = count;
  put(search, "seconds", of.seconds);
  search["proven_best"] = of.proven_best;
  return search;
}

/// What every answer begins with.
Json top(const char* schema, const ServeResult& result) {
  Json json;
  json["schema"] = schema;
  json["shardwright_version"] = version();
  json["model"] = result.model;
  json["machine"] = result.machine;
  json["engine"] = result.engine;
  json["gpus"] = result.gpus;
  if (result.prefill_pool) {
    json["prefill_pool"]["machine"] = result.prefill_pool->machine.name;
    json["prefill_pool"]["gpus"] = result.prefill_pool->gpus;
  }
  json["workload"] = workload_json(result);
  return json;
}

/// Every layout at its best load and its place in a chart, as columns.
Json priced_json(const std::vector<ServedPoint>& priced) {
  Json json = {{"layout_text", Json::array()},
               {"concurrency", Json::array()},
               {"output_tokens_per_second_per_gpu", Json::array()},
               {"output_tokens_per_second_per_user", Json::array()}};
  for (const ServedPoint& p : priced) {
    json["layout_text"].push_back(p.pools ? to_string(*p.pools) : to_string(p.layout));
    json["concurrency"].push_back(p.concurrency);
    json["output_tokens_per_second_per_gpu"].push_back(p.per_gpu);
    json["output_tokens_per_second_per_user"].push_back(p.per_user);
  }
  return json;
}

std::string text_of(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

std::string serve_result_json(const ServeResult& result, const std::optional<ServeDetail>& detail,
                              const std::string& command) {
  Json json = top("shardwright.plan_result/1", result);
  if (!result.is_estimate) json["search"] = search_json(result.search);
  json["plans"] = list_json(result.plans);
  if (!result.is_estimate) {
    json["pareto"] = list_json(result.pareto);
    if (!result.priced.empty()) json["priced_layouts"] = priced_json(result.priced);
    if (result.plans.empty()) json["nearest"] = list_json(result.nearest);
  }
  if (detail) json["detail"] = detail_json(*detail, command);
  return text_of(json);
}

std::string serve_explanation_json(const ServeExplanation& e) {
  const Speculation& speculation = e.asked.workload.speculation;
  Json json = top("shardwright.explanation/1", e.asked);
  json["standing"] = name_of(e.standing);
  json["layout"] = explained_json(e.layout, speculation);
  if (e.limit) json["limit"] = {{"reason", e.limit->reason}, {"detail", e.limit->detail}};
  if (e.best) json["best"] = explained_json(*e.best, speculation);
  json["search"] = search_json(e.search);
  json["search"].erase("seconds");  // nobody took the time
  json["changes"] = changes_json(e.changes);
  json["pairs"] = changes_json(e.pairs);
  if (e.against) json["against"] = explained_json(*e.against, speculation);
  if (!e.what_ifs.empty()) json["what_if"] = what_ifs_json(e.what_ifs);
  return text_of(json);
}

}  // namespace shardwright
