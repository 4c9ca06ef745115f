#include "planner/serve/validate_serving.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "planner/serve/one_phase.h"
#include "planner/validate/validate_kernels.h"
#include "planner/validate/validation_summary.h"

namespace shardwright {
namespace {

std::string skip(const char* word, const std::string& detail) { return fmt::format("{}: {}", word, detail); }

/// Words of `quant` and `moe_quant`.
std::optional<WeightFormat> format_of(const std::string& word) {
  if (word == "fp4") return WeightFormat::nvfp4;
  return weight_format_named(word);
}

std::optional<std::string> formats_of(const MeasuredServing& s, const ServeEngine& engine, ServeFormats& formats,
                                      std::vector<std::string>& assumed) {
  const auto dense = s.quant.empty() ? std::optional(WeightFormat::bf16) : format_of(s.quant);
  if (s.quant.empty()) assumed.push_back("quant");
  if (!dense) return skip("workload", "quant " + s.quant);
  formats.weights = formats.experts = *dense;
  if (!s.moe_quant.empty()) {
    const auto experts = format_of(s.moe_quant);
    if (!experts) return skip("workload", "moe_quant " + s.moe_quant);
    formats.experts = *experts;
    // A checkpoint with blocks of scales has them everywhere.
    if (*experts == WeightFormat::fp8_block && *dense == WeightFormat::fp8) formats.weights = *experts;
  }
  if (s.kv_dtype.empty()) assumed.push_back("kv_dtype");
  const std::string kv = s.kv_dtype == "fp16" ? "bf16" : s.kv_dtype;
  if (!kv.empty() && !kv_format_named(kv)) return skip("workload", "kv_dtype " + s.kv_dtype);
  formats.kv = kv.empty() ? usual_kv(engine, formats.weights) : *kv_format_named(kv);
  return std::nullopt;
}

/// Nobody serves weights that leave no room: where 16 bits do not fit, a checkpoint's fp8, then int4.
WeightFormat widest_that_fits(const ServingQuestion& q, const ServeLayout& layout) {
  const double bytes = static_cast<double>(parameters(q.model)) / static_cast<double>(layout.gpus() / layout.replicas);
  const auto usable = static_cast<double>(q.machine.usable_memory().value);
  if (2 * bytes < 0.9 * usable) return WeightFormat::bf16;
  if (bytes < 0.9 * usable && supports(q.machine, WeightFormat::fp8_block)) return WeightFormat::fp8_block;
  return WeightFormat::int4;
}

std::optional<std::int64_t> sequences_of(const MeasuredServing& s, const MeasuredHardware& hardware) {
  if (s.concurrency || s.batch) return s.concurrency ? s.concurrency : s.batch;
  if (s.batch_per_gpu && hardware.gpus) return *s.batch_per_gpu * *hardware.gpus;
  return std::nullopt;
}

std::optional<std::int64_t> queued(const ServingQuestion& q) {
  for (const OfflineQueue& queue : q.engine.offline_queues)
    if (queue.isl == q.workload.isl && queue.osl == q.workload.osl) return queue.requests;
  return std::nullopt;
}

ServeLayout layout_of_pool(const MeasuredPool& pool, const Model& model) {
  ServePins pins{pool.tp, pool.pp, pool.attention_dp, {}, pool.ep, pool.etp, pool.workers, {}};
  if (model.n_routed_experts == 0) pins.ep = pins.etp = std::nullopt;
  return layout_of(pins, model, std::nullopt);
}

}  // namespace

std::variant<ServingQuestion, std::string> serving_question(const MeasuredRow& row, const Machine* machine) {
  const MeasuredServing& s = row.serving;
  if (!machine) return skip("machine", row.hardware.gpu + " is not in the catalog");
  if (!row.model) return skip("model", "no architecture");
  if (const std::string what = unsupported(*row.model); !what.empty()) return skip("model", what);
  if (!s.has_layout) return skip("layout", "not stated");
  const ServeEngine* engine =
      serve_engine_of({row.software.framework, row.software.version, row.software.kernel, machine->architecture});
  if (!engine) return skip("engine", row.software.framework.empty() ? "not stated" : row.software.framework);
  const ServePhase phase = serve_phase_named(s.phase).value_or(ServePhase::both);  // else offline or mixed
  if (!s.isl || (!s.osl && phase != ServePhase::prefill)) return skip("workload", "isl and osl are not stated");
  if (s.phase == "server" || s.phase == "interactive") return skip("workload", "arrivals of phase " + s.phase);

  ServingQuestion q;
  q.model = *row.model;
  q.machine = *machine;
  if (row.hardware.nvlink_domain) q.machine.links.front().gpus = *row.hardware.nvlink_domain;
  q.engine = *engine;
  q.workload.isl = *s.isl;
  q.workload.osl = std::max<std::int64_t>(1, s.osl.value_or(1));
  q.workload.phase = phase;
  q.workload.concurrency = s.concurrency;
  q.offline = s.phase == "offline";
  if (q.offline) q.workload.concurrency.reset();
  if (phase != ServePhase::both)  // prefill takes what a step holds, decode what fits where nobody says
    q.workload.concurrency = phase == ServePhase::decode ? sequences_of(s, row.hardware) : std::nullopt;
  else if (!s.concurrency && s.batch)
    q.batch = s.batch;
  else if (!q.offline && !s.concurrency)
    return skip("workload", "concurrency is not stated");
  if (const auto why = formats_of(s, q.engine, q.workload.formats, q.assumed)) return *why;
  // MLPerf's batch is the largest that its engine was built with.
  if (q.offline && s.batch) {
    q.engine.max_sequences = *s.batch;
    q.engine.offline_size.reset();
    q.batch.reset();
  }
  if (q.offline) q.workload.queued = queued(q);
  const auto impossible_of = [&](const ServeLayout& l) {
    return impossible(q.model, q.machine, q.workload.formats, l);
  };
  try {
    if (s.prefill && s.decode) {
      q.pools = PoolLayout{layout_of_pool(*s.prefill, q.model), layout_of_pool(*s.decode, q.model)};
      for (const ServeLayout* l : {&q.pools->prefill, &q.pools->decode})
        if (const auto why = impossible_of(*l)) return skip("layout", why->detail);
      return q;
    }
    ServePins pins{s.tp, s.pp, s.attention_dp, {}, s.ep, s.etp, s.dp, {}};
    if (q.model.n_routed_experts == 0) {
      pins.ep = pins.etp = std::nullopt;
    } else if (!s.ep && !s.etp) {
      // Experts are tensor-parallel where nobody says (perf-overview of TensorRT-LLM, vLLM's default).
      pins.etp = s.tp.value_or(1) * s.attention_dp.value_or(1);
      q.assumed.push_back("etp");
    }
    q.layout = layout_of(pins, q.model, pins.dp ? std::nullopt : row.hardware.gpus);
    if (!s.dp && q.layout.replicas > 1) q.assumed.push_back("dp");
  } catch (const InputError& e) { return skip("layout", e.what()); }
  if (s.quant.empty() && s.moe_quant.empty())
    q.workload.formats.weights = q.workload.formats.experts = widest_that_fits(q, q.layout);
  if (const auto why = impossible_of(q.layout)) return skip("layout", why->detail);
  return q;
}

ServingModel::ServingModel(ServingQuestion question) : question_(std::move(question)) {
  const ServingQuestion& q = question_;
  const ServeLayout& main = q.pools ? q.pools->decode : q.layout;
  const Pace pace = q.offline || q.batch ? Pace::of_gpus : Pace::of_clients;
  times_ = std::make_unique<StepTimes>(q.model, q.machine, q.workload.formats, q.engine, main, pace);
  if (q.offline) times_->size_to_load(q.machine, q.workload);
  if (q.pools)
    prefill_ = std::make_unique<StepTimes>(q.model, q.machine, q.workload.formats, q.engine, q.pools->prefill);
}

/// Prompts one batch after the other, then every sequence to its end.
ServePrediction ServingModel::static_batch(StepTimes& times) {
  const ServingQuestion& q = question_;
  const std::int64_t ranks = std::int64_t{q.layout.replicas} * q.layout.attention_data;
  ServeWorkload w = q.workload;
  w.concurrency = q.batch;
  ServePrediction p = aggregated(times, q.machine, w);
  const std::int64_t batch = std::max<std::int64_t>(1, (*q.batch + ranks - 1) / ranks);
  const std::int64_t at_once = std::max<std::int64_t>(1, std::min(batch, p.memory.largest_batch));
  const double turns = std::ceil(static_cast<double>(batch) / static_cast<double>(at_once));
  const StepTimes::Prefill prefill = times.prefill(at_once, w.isl, 0, 0, w.cached_tokens());
  const Seconds step = times.decode(at_once, w.isl + w.osl / 2, w.speculation).time;
  const auto osl = static_cast<double>(w.osl);
  const Seconds latency = turns * (prefill.latency + (osl - 1) * step);
  const double scale = osl * static_cast<double>(batch * ranks) / latency.value / p.output_tokens_per_second;
  const double wide_first = p.ttft_high / p.ttft, wide = p.tpot_high / p.tpot;
  p.ttft = prefill.latency;
  p.ttft_low = (1 / wide_first) * p.ttft;
  p.ttft_high = wide_first * p.ttft;
  p.tpot = step;
  p.tpot_low = (1 / wide) * p.tpot;
  p.tpot_high = wide * p.tpot;
  for (double* rate : {&p.output_tokens_per_second, &p.output_low, &p.output_high, &p.output_tokens_per_second_per_gpu,
                       &p.total_tokens_per_second})
    *rate *= scale;
  return p;
}

ServePrediction ServingModel::predict(const ServeConstants& constants) {
  times_->use(constants);
  if (prefill_) prefill_->use(constants);
  ServePrediction p;
  if (prefill_) {
    const PoolPrediction pools = disaggregated(*prefill_, *times_, question_.machine, question_.workload);
    p = pools.all;
    fits_ = p.memory.largest_batch > 0 && pools.prefill_memory.largest_batch > 0;
  } else if (question_.workload.phase != ServePhase::both) {
    p = one_phase(*times_, question_.machine, question_.workload);
    fits_ = p.memory.largest_batch > 0;
  } else {
    p = question_.batch ? static_batch(*times_) : aggregated(*times_, question_.machine, question_.workload);
    fits_ = p.memory.largest_batch > 0;
  }
  return p;
}

std::optional<double> serving_metric(const std::string& metric, const ServingQuestion& q, const ServePrediction& p) {
  const bool pools = q.pools.has_value();
  const auto gpus = static_cast<double>(pools ? q.pools->gpus() : q.layout.gpus());
  const double input = p.total_tokens_per_second - p.output_tokens_per_second;
  if (metric == "ttft_seconds" || metric == "ttft_median_seconds") return p.ttft.value;
  if (metric == "tpot_seconds" || metric == "tpot_median_seconds") return p.tpot.value;
  if (metric == "request_latency_seconds") return p.ttft.value + static_cast<double>(q.workload.osl - 1) * p.tpot.value;
  if (metric == "output_tokens_per_second") return p.output_tokens_per_second;
  if (metric == "output_tokens_per_second_per_gpu") return p.output_tokens_per_second / gpus;
  if (metric == "input_tokens_per_second") return input;
  if (metric == "input_tokens_per_second_per_gpu") return input / gpus;
  if (metric == "total_tokens_per_second") return p.total_tokens_per_second;
  if (metric == "total_tokens_per_second_per_gpu") return p.total_tokens_per_second / gpus;
  if (metric == "samples_per_second") return p.output_tokens_per_second / static_cast<double>(q.workload.osl);
  return std::nullopt;
}

std::variant<std::vector<ValidationRow>, std::string> predict_serving_row(const MeasuredRow& row,
                                                                          const Machine* machine) {
  auto question = serving_question(row, machine);
  if (const auto* why = std::get_if<std::string>(&question)) return *why;
  ServingModel model(std::get<ServingQuestion>(std::move(question)));
  const ServePrediction p = model.predict();
  const ServingQuestion& q = model.question();
  std::vector<ValidationRow> rows;
  for (const auto& [metric, measured] : row.measured.numbers) {
    const auto predicted = serving_metric(metric, q, p);
    if (!predicted) continue;
    const bool ttft = metric.starts_with("ttft"), tpot = metric.starts_with("tpot") || metric.starts_with("request");
    const double width = std::log(ttft   ? p.ttft_high / p.ttft
                                  : tpot ? p.tpot_high / p.tpot
                                         : p.output_high / p.output_tokens_per_second);
    ValidationRow v = unpredicted(row, metric, measured);
    v.predicted = *predicted;
    v.predicted_low = *predicted * std::exp(-width);
    v.predicted_high = *predicted * std::exp(width);
    v.relative_error = *predicted / measured - 1;
    v.layout_fits = model.fits();
    v.layout_assumed = q.assumed;
    v.layout = q.pools ? to_string(*q.pools) : to_string(q.layout);
    v.engine = q.engine.name;
    v.model = q.model.name;
    v.serving = q.pools ? kDisaggregated : kAggregated;
    rows.push_back(std::move(v));
  }
  if (rows.empty()) return skip("metric", "nothing that is predicted was published");
  return rows;
}

}  // namespace shardwright
