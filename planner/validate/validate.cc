#include "planner/validate/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <variant>

#include "hardware/measured_times.h"
#include "planner/cost/network_rate.h"
#include "planner/memory.h"
#include "planner/parallel.h"
#include "planner/plan.h"
#include "planner/pricer.h"
#include "planner/serve/validate_serving.h"
#include "planner/validate/measured_rows.h"
#include "planner/validate/validate_kernels.h"
#include "planner/validate/validate_trials.h"
#include "planner/validate/validation_summary.h"

namespace shardwright {
namespace {

/// What a row asks of the planner, or why it cannot.
using Question = std::variant<PlanRequest, std::string>;

std::string skip(const char* word, const std::string& detail) { return fmt::format("{}: {}", word, detail); }

/// Sequences of a step, also where the row states only the parts of the product.
std::optional<std::int64_t> global_batch_of(const MeasuredRow& row) {
  if (row.workload.global_batch) return row.workload.global_batch;
  const MeasuredLayout& l = row.layout;
  if (!l.pins.dp) return std::nullopt;
  if (l.local_batch) return std::int64_t{*l.local_batch} * *l.pins.dp;
  if (l.pins.micro_batch && l.micro_batches) return std::int64_t{*l.pins.micro_batch} * *l.micro_batches * *l.pins.dp;
  return std::nullopt;
}

std::optional<std::int64_t> gpus_of(const MeasuredRow& row) {
  if (row.hardware.gpus) return row.hardware.gpus;
  const LayoutPins& p = row.layout.pins;
  if (!p.dp) return std::nullopt;
  return std::int64_t{*p.dp} * p.tp.value_or(1) * p.pp.value_or(1) * p.cp.value_or(1);
}

/// Takes down that a part was captured; false where there is no such part.
bool capture(const std::string& word, CudaGraphs& graphs) {
  for (const auto& [name, captured] : kCudaGraphParts)
    if (name == word) return graphs.*captured = true;
  return false;
}

/// What the row does that a Layout cannot say; "" when it can all be said.
std::string beyond_layout(const MeasuredRow& row) {
  const MeasuredLayout& l = row.layout;
  if (!l.schedule.empty() && !l.pins.schedule) return "schedule " + l.schedule;
  if (l.recompute_layers) return "recompute of some layers of a stage";
  if (!l.recompute.empty() && !l.pins.recompute) {
    std::string modules;
    for (const std::string& m : l.recompute_modules) modules += (modules.empty() ? "" : "+") + m;
    return "recompute of " + (modules.empty() ? l.recompute : modules);
  }
  if (l.activation_offload_layers.value_or(0) > 0 || !l.activation_offload_modules.empty()) return "activation offload";
  if (l.optimizer_offload_fraction.value_or(0) > 0) return "optimizer offload";
  CudaGraphs known;
  for (const std::string& word : l.cuda_graphs.value_or(std::vector<std::string>{}))
    if (!capture(word, known)) return "CUDA graphs of " + word;
  return "";
}

/// Nodes and network as the row has them: the link level that spans the catalog's node spans the row's; an NVLink
/// domain is the innermost; a stated rate is that of every level beyond the node.
void use_nodes_of(const MeasuredRow& row, Machine& machine) {
  if (row.hardware.nvlink_domain) machine.links.front().gpus = *row.hardware.nvlink_domain;
  if (row.hardware.gpus_per_node) {
    for (LinkLevel& level : machine.links)
      if (level.gpus == machine.gpus_per_node && !row.hardware.nvlink_domain) level.gpus = *row.hardware.gpus_per_node;
    machine.gpus_per_node = static_cast<int>(*row.hardware.gpus_per_node);
  }
  if (const auto rate = network_rate(row.hardware.interconnect, machine.gpus_per_node))
    for (LinkLevel& level : machine.links)
      if (level.gpus == 0 || level.gpus > machine.links.front().gpus) level.bandwidth = {*rate};
}

void use_formats_of(const MeasuredRow& row, TrainingFormats& formats) {
  const MeasuredWorkload& w = row.workload;
  if (w.scaling == "blockwise") formats.scaling = Scaling::block;
  if (w.scaling == "rowwise") formats.scaling = Scaling::row;
  if (w.scaling == "delayed" || w.scaling == "current" || w.scaling == "tensorwise") formats.scaling = Scaling::tensor;
  if (w.parameter_dtype) formats.parameter = *w.parameter_dtype;
  if (w.parameter_gather_dtype) formats.parameter_gather = *w.parameter_gather_dtype;
  if (w.gradient_dtype) formats.gradient = formats.gradient_reduce = *w.gradient_dtype;
  if (w.reduce_precision == "fp32") formats.gradient_reduce = DataType::fp32;
  if (w.reduce_precision == "bf16" || w.reduce_precision == "low") formats.gradient_reduce = DataType::bf16;
  if (w.main_param_dtype) formats.main_parameter = *w.main_param_dtype;
  if (w.optimizer_state_dtype) formats.optimizer_state = *w.optimizer_state_dtype;
}

/// Where the row says what its engine's habits leave open.
void use_kernels_of(const MeasuredRow& row, Workload& w) {
  const std::string& attention = row.workload.attention_backend;
  if (!attention.empty()) w.fused_attention = attention != "unfused";
  const std::string& loss = row.workload.cross_entropy_fusion;
  if (loss == "te" || loss == "fused") w.cross_entropy = CrossEntropy::in_place;
  if (loss == "native" || loss == "none") w.cross_entropy = CrossEntropy::softmax;
}

/// Embedding, layers, norm and head in `stages` runs as long as each other, the first ones one longer.
std::vector<int> split_of_modules(int layers, int stages) {
  const int modules = layers + 3;
  std::vector<int> split;
  for (int s = 0; s < stages; ++s) split.push_back(modules / stages + (s < modules % stages));
  split.front() -= 1;
  split.back() -= 2;
  return split;
}

/// Layers of each stage where the row does not say. StageSplit::layers counts embedding and head as Megatron's
/// account_for_embedding_in_pipeline_split and its twin for the loss do. Nothing where that leaves a remainder, too.
std::optional<std::vector<int>> usual_split(const LayoutPins& pins, int layers, StageSplit how) {
  const int stages = pins.pp.value_or(1), chunks = stages * pins.vpp.value_or(1);
  if (stages == 1 || pins.layers_per_stage) return pins.layers_per_stage;
  if (how == StageSplit::modules && chunks == stages && layers + 3 >= 3 * stages)
    return split_of_modules(layers, stages);
  if (layers % chunks == 0) return std::vector<int>(static_cast<std::size_t>(chunks), layers / chunks);
  if ((layers + 2) % chunks != 0) return std::nullopt;
  std::vector<int> split(static_cast<std::size_t>(chunks), (layers + 2) / chunks);
  --split.front();
  --split.back();
  return split;
}

/// The chunks of a run that does not say how many it has, by its engine's habit.
void use_usual_chunks(const Engine& engine, std::int64_t layers, LayoutPins& pins) {
  const std::int64_t part = std::int64_t{pins.pp.value_or(1)} * engine.habits.chunk_layers;
  if (part <= 1 || pins.pp == 1 || pins.vpp || pins.schedule || pins.layers_per_stage || (layers + 2) % part != 0)
    return;
  pins.vpp = static_cast<int>((layers + 2) / part);
  pins.schedule = *pins.vpp > 1 ? Schedule::interleaved : Schedule::one_f_one_b;
}

class Machines {
 public:
  explicit Machines(const std::optional<MeasuredMachine>& measured) {
    for (const std::string& n : machine_names()) known_[n] = std::make_unique<Machine>(find_machine(n));
    if (!measured || !known_.contains(measured->machine.name)) return;
    Machine& machine = *known_[measured->machine.name];
    machine.measured = std::make_shared<const MeasuredTimes>(machine, measured->measurements);
  }
  const Machine* find(const std::string& gpu) const {
    auto m = known_.find(gpu);
    return m == known_.end() ? nullptr : m->second.get();
  }

 private:
  std::map<std::string, std::unique_ptr<Machine>> known_;
};

Question question_of(const MeasuredRow& row, const Machines& machines) {
  if (row.kind != MeasuredKind::training)
    return skip("kind", fmt::format("{} rows are not predicted", name_of(row.kind)));
  const Machine* machine = machines.find(row.hardware.gpu);
  if (!machine) return skip("machine", row.hardware.gpu + " is not in the catalog");
  if (!row.model) return skip("model", "no architecture");
  if (const std::string what = unsupported(*row.model); !what.empty()) return skip("model", what);
  if (const std::string what = beyond_layout(row); !what.empty()) return skip("layout", what);
  if (row.workload.task == "lora") return skip("workload", "LoRA");
  const auto gpus = gpus_of(row), batch = global_batch_of(row);
  if (!gpus) return skip("workload", "the number of GPUs is not stated");
  if (!row.workload.sequence_length) return skip("workload", "sequence_length is not stated");
  if (!batch) return skip("workload", "global_batch is not stated");

  PlanRequest q;
  q.model = *row.model;
  q.machine = *machine;
  use_nodes_of(row, q.machine);
  q.gpus = *gpus;
  q.workload.sequence_length = *row.workload.sequence_length;
  q.workload.global_batch = *batch;
  q.precision = row.workload.precision.value_or(DataType::bf16);
  if (q.precision == DataType::fp8 && row.workload.scaling == "mxfp8") q.precision = DataType::mxfp8;
  // Only the software says what ran: never the source, nor the row's name.
  q.engine = engine_of({row.software.framework, row.software.version, row.software.kernel, machine->architecture});
  if (row.workload.attention_backend == "cudnn") q.engine.attention = AttentionKernel::flash3;
  for (const std::string& word : row.layout.cuda_graphs.value_or(std::vector<std::string>{}))
    capture(word, q.workload.cuda_graphs);
  run_by(q.engine, q.precision, q.workload);
  use_kernels_of(row, q.workload);
  use_formats_of(row, q.workload.formats);
  q.workload.capacity_factor = row.workload.capacity_factor.value_or(0);
  q.pins = row.layout.pins;
  use_usual_chunks(q.engine, q.model.num_hidden_layers, q.pins);
  q.pins.layers_per_stage = usual_split(q.pins, static_cast<int>(q.model.num_hidden_layers), q.engine.stage_split);
  if (!q.pins.sequence_parallel) q.pins.sequence_parallel = q.engine.habits.sequence_parallel;
  if (row.layout.optimizer_shard_group && !q.pins.fsdp_group)
    q.pins.fsdp_group = static_cast<int>(*row.layout.optimizer_shard_group);
  q.pins.ep = row.layout.ep;
  q.pins.etp = row.layout.etp;
  q.threads = 1;
  return q;
}

// ---- metrics ----

/// Forward work of one token in the attention cores of all layers, every key or only the visible half.
double attention_flops(const Model& model, std::int64_t sequence, bool causal) {
  double flops = 0;
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    AttentionSpec spec;
    spec.heads = model.num_attention_heads;
    spec.kv_heads = model.num_key_value_heads;
    spec.query_length = spec.key_length = sequence;
    spec.head_dim = spec.value_dim = model.head_dim;
    spec.window = model.is_windowed(layer) ? model.sliding_window : 0;
    spec.causal = causal;
    flops += spec.work().value;
  }
  return flops / static_cast<double>(sequence);
}

/// Work of one token, forward and backward, as `convention` counts it (shared schema's README, "FLOP conventions").
/// `unstated` is taken as the textbook's: the full square of attention.
double convention_flops(const MeasuredRow& row, const PlanRequest& q, const Pricer& pricer) {
  const double causal = pricer.model_flops_per_token().value;
  const double square = 3 * attention_flops(q.model, q.workload.sequence_length, false);
  const double full = causal + square - 3 * attention_flops(q.model, q.workload.sequence_length, true);
  const std::string& convention = row.measured.flop_convention;
  if (convention == "model-causal") return causal;
  if (convention == "6n-full-attention") return 6 * static_cast<double>(parameters(q.model)) + square;
  if (convention == "hardware-recompute") return full * 4 / 3;
  return full;
}

constexpr double kGiB = 1024.0 * 1024 * 1024;

struct Answer {
  double value, low, high;
};

class Metrics {
 public:
  Metrics(const MeasuredRow& row, const PlanRequest& q, const PricedLayout& priced)
      : row_(row), q_(q), priced_(priced), p_(*priced.prediction), pricer_(q) {}

  /// Nothing for a metric that this version does not predict.
  std::optional<Answer> predict(const std::string& metric) {
    const double gpus = static_cast<double>(q_.gpus);
    if (metric == "iteration_seconds") return Answer{p_.step.value, p_.step_low.value, p_.step_high.value};
    if (metric == "tokens_per_second") return rate(tokens());
    if (metric == "tokens_per_second_per_gpu") return rate(tokens() / gpus);
    if (metric == "samples_per_second_per_gpu") return rate(static_cast<double>(q_.workload.global_batch) / gpus);
    if (metric == "tflops_per_gpu") return rate(flops() * tokens() / gpus / 1e12);
    if (metric == "mfu") return rate(flops() * tokens() / gpus / peak());
    if (metric == "hfu" && (priced_.layout.recompute == Recompute{} || priced_.layout.recompute.full))
      return rate(flops() * again() * tokens() / gpus / peak());
    if (metric == "training_days" && row_.workload.total_tokens)
      return time(static_cast<double>(*row_.workload.total_tokens) / tokens() / 86400);
    if (metric == "gpu_hours_per_trillion_tokens") return time(1e12 / tokens() * gpus / 3600);
    if (metric == "layer_forward_seconds") return layer([](const PassPrice& p) { return p.forward(); });
    if (metric == "layer_backward_seconds") return layer([](const PassPrice& p) { return p.backward(); });
    if (metric == "peak_memory_gib" || metric == "allocated_memory_gib" || metric == "peak_memory_gib_by_stage")
      return memory(&StageMemory::allocated);
    if (metric == "reserved_memory_gib") return memory(&StageMemory::reserved);
    return std::nullopt;
  }

 private:
  double tokens() const {
    return static_cast<double>(q_.workload.global_batch) * static_cast<double>(q_.workload.sequence_length);
  }
  double flops() const { return convention_flops(row_, q_, pricer_); }
  /// Work of the hardware over flops().
  double again() const {
    const bool counted = row_.measured.flop_convention == "hardware-recompute";
    return priced_.layout.recompute.full && !counted ? 4.0 / 3 : 1;
  }
  double peak() const { return q_.machine.peak[q_.workload.formats.compute].value; }
  Answer rate(double per_step) const {
    return {per_step / p_.step.value, per_step / p_.step_high.value, per_step / p_.step_low.value};
  }
  Answer time(double steps) const {
    return {steps * p_.step.value, steps * p_.step_low.value, steps * p_.step_high.value};
  }
  template <typename F>
  Answer layer(const F& part) {
    const ShapePrice& shape = pricer_.shape(shape_of(priced_.layout), priced_.layout.recompute);
    const double seconds =
        part(shape.layers[0].passes[static_cast<std::size_t>(index_of(priced_.layout.recompute))]).value;
    const double factor = p_.step_high / p_.step;
    return {seconds, seconds / factor, seconds * factor};
  }
  Answer memory(Bytes StageMemory::*part) const {
    Bytes worst;
    for (const StageMemory& s : p_.stages) worst = std::max(worst, s.*part);
    if (q_.engine.habits.last_rank_prints) worst = p_.stages.back().*part;
    const double gib = static_cast<double>(worst.value) / kGiB;
    return {gib, gib / std::exp(kMemoryWidth), gib * std::exp(kMemoryWidth)};
  }

  const MeasuredRow& row_;
  const PlanRequest& q_;
  const PricedLayout& priced_;
  const Prediction& p_;
  Pricer pricer_;
};

struct Outcome {
  std::vector<ValidationRow> rows;
  std::optional<SkippedRow> skipped;
};

/// On the catalog's nodes: measured_kernels.h lays the ranks out on those.
Outcome predict_kernel(const MeasuredRow& row, const Machines& machines) {
  const auto skipped = [&](std::string reason) { return Outcome{{}, SkippedRow{row.id, std::move(reason)}}; };
  const Machine* machine = machines.find(row.hardware.gpu);
  if (!machine) return skipped(skip("machine", row.hardware.gpu + " is not in the catalog"));
  auto answer = predict_kernel_row(row, *machine);
  if (auto* why = std::get_if<std::string>(&answer)) return skipped(std::move(*why));
  return {std::move(std::get<std::vector<ValidationRow>>(answer)), std::nullopt};
}

Outcome predict_serving(const MeasuredRow& row, const Machines& machines) {
  auto answer = predict_serving_row(row, machines.find(row.hardware.gpu));
  if (auto* why = std::get_if<std::string>(&answer)) return {{}, SkippedRow{row.id, std::move(*why)}};
  return {std::move(std::get<std::vector<ValidationRow>>(answer)), std::nullopt};
}

Outcome predict(const MeasuredRow& row, const Machines& machines) {
  if (row.kind == MeasuredKind::inference) return predict_serving(row, machines);
  if (row.kind == MeasuredKind::kernel || row.kind == MeasuredKind::collective) return predict_kernel(row, machines);
  Outcome outcome;
  const auto skipped = [&](std::string reason) {
    outcome.skipped = SkippedRow{row.id, std::move(reason)};
    return outcome;
  };
  const Question question = question_of(row, machines);
  if (const auto* why = std::get_if<std::string>(&question)) return skipped(*why);
  const auto& request = std::get<PlanRequest>(question);
  PlanResult result;
  try {
    result = estimate(request);
  } catch (const InputError& e) { return skipped(skip("layout", e.what())); }
  const PricedLayout& priced = result.plans.front();
  if (!priced.prediction) return skipped(skip("layout", priced.rejection->detail));

  const auto row_of = [&](const std::string& metric, std::optional<double> measured, const Answer& answer) {
    ValidationRow v = unpredicted(row, metric, measured);
    v.predicted = answer.value;
    v.predicted_low = answer.low;
    v.predicted_high = answer.high;
    v.layout_fits = priced.fits;
    v.layout = to_string(priced.layout);
    v.layout_assumed = priced.assumed;
    v.engine = request.engine.name;
    return v;
  };
  const auto add = [&](const std::string& metric, std::optional<double> measured, const Answer& answer) {
    ValidationRow v = row_of(metric, measured, answer);
    if (measured) v.relative_error = answer.value / *measured - 1;
    outcome.rows.push_back(std::move(v));
  };
  Metrics metrics(row, request, priced);
  for (const auto& [metric, measured] : row.measured.numbers)
    if (const auto answer = metrics.predict(metric)) add(metric, measured, *answer);
  if (!row.measured.peak_memory_gib_by_stage.empty())
    add("peak_memory_gib_by_stage",
        *std::max_element(row.measured.peak_memory_gib_by_stage.begin(), row.measured.peak_memory_gib_by_stage.end()),
        *metrics.predict("peak_memory_gib_by_stage"));
  if (row.measured.oom) {
    const double out = priced.fits ? 0 : 1;
    outcome.rows.push_back(row_of("oom", 1, {out, out, out}));
  }
  if (outcome.rows.empty()) return skipped(skip("metric", "nothing that is predicted was published"));
  return outcome;
}

/// Of a step, best first: what was timed, then what follows from it.
constexpr std::array<std::string_view, 9> kSpeeds = {"iteration_seconds",
                                                     "tokens_per_second_per_gpu",
                                                     "tokens_per_second",
                                                     "samples_per_second_per_gpu",
                                                     "tflops_per_gpu",
                                                     "mfu",
                                                     "hfu",
                                                     "training_days",
                                                     "gpu_hours_per_trillion_tokens"};
bool is_rate(std::string_view speed) {
  return speed != "iteration_seconds" && speed != "training_days" && speed != "gpu_hours_per_trillion_tokens";
}

std::optional<TimedStep> timed_step(const MeasuredRow& row, const Machines& machines) {
  if (row.suspect || row.trust == "C") return std::nullopt;
  Question question = question_of(row, machines);
  if (!std::holds_alternative<PlanRequest>(question)) return std::nullopt;
  TimedStep step{row.id, row.source, row.software.measured_on, "", std::get<PlanRequest>(std::move(question)), {}, 0};
  step.request.engine.constants = {};
  step.request.engine.errors = {};
  step.request.machine.sustained = {};
  PlanResult result;
  try {
    result = estimate(step.request);
  } catch (const InputError&) { return std::nullopt; }
  const PricedLayout& priced = result.plans.front();
  if (!priced.prediction) return std::nullopt;
  step.layout = priced.layout;
  if (states_speed(priced.assumed)) step.family = row.family;
  Metrics metrics(row, step.request, priced);
  for (const std::string_view speed : kSpeeds) {
    const auto measured = row.measured.find(speed);
    const auto predicted = measured ? metrics.predict(std::string(speed)) : std::nullopt;
    if (!predicted) continue;
    const double longer = is_rate(speed) ? predicted->value / *measured : *measured / predicted->value;
    step.seconds = longer * priced.prediction->step.value;
    return step;
  }
  return std::nullopt;
}

/// `trials`: what files of our own runs say; null where they are out of place.
std::vector<MeasuredRow> read_rows(const std::vector<std::string>& files, std::vector<ValidationRow>* trials) {
  std::vector<MeasuredRow> rows;
  for (const std::string& file : files) {
    const YamlCursor top = file.ends_with(".json") ? YamlCursor::open_json(file) : YamlCursor::open(file);
    if (trials && is_trial(top)) {
      std::vector<ValidationRow> found = rows_of_trial(top);
      std::move(found.begin(), found.end(), std::back_inserter(*trials));
      continue;
    }
    MeasuredFile read = read_measured_rows(top);
    std::move(read.rows.begin(), read.rows.end(), std::back_inserter(rows));
  }
  return rows;
}

}  // namespace

bool states_speed(const std::vector<std::string>& layout_assumed) {
  return std::none_of(layout_assumed.begin(), layout_assumed.end(),
                      [](const std::string& key) { return key == "micro_batch" || key == "recompute"; });
}

std::vector<TimedStep> timed_steps(const std::vector<std::string>& files, int threads) {
  const std::vector<MeasuredRow> rows = read_rows(files, nullptr);
  const Machines machines({});
  std::vector<std::optional<TimedStep>> steps(rows.size());
  run_in_parallel(rows.size(), threads, [&](std::size_t i) { steps[i] = timed_step(rows[i], machines); });
  std::vector<TimedStep> all;
  for (std::optional<TimedStep>& step : steps)
    if (step) all.push_back(std::move(*step));
  return all;
}

Validation validate(const std::vector<std::string>& files, int threads,
                    const std::optional<MeasuredMachine>& measured) {
  Validation v;
  const std::vector<MeasuredRow> rows = read_rows(files, &v.rows);
  const Machines machines(measured);
  std::vector<Outcome> outcomes(rows.size());
  run_in_parallel(rows.size(), threads, [&](std::size_t i) { outcomes[i] = predict(rows[i], machines); });

  for (Outcome& o : outcomes) {
    std::move(o.rows.begin(), o.rows.end(), std::back_inserter(v.rows));
    if (o.skipped) v.skipped.push_back(std::move(*o.skipped));
  }
  summarise(v);
  return v;
}

}  // namespace shardwright
