#include "hardware/kernel_point.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }
float log2f_of(double value) { return static_cast<float>(std::log2(value)); }

std::int64_t weights_of(const std::optional<StoredType>& weights, DataType type) {
  return static_cast<std::int64_t>(weights.value_or(stored(type)));
}

/// By how much waves of work that do not come out even lengthen the whole, as a logarithm: log2 of 3 waves for 2.1.
float wave_waste(double waves) { return waves > 1 ? log2f_of(std::ceil(waves) / waves) : 0; }

// ---- GEMM ----

/// k is the cheapest direction: same tiles, same waves. A mismatch of waves by 10 % costs as much as half an octave
/// of k.
const Metric kGemmMetric = {.features = 7,
                            .scale = {2, 1.25f, 1, 1, 4.5f, 2.25f, 2},
                            .neighbours = 24,
                            .soft = 0.2f,
                            .ridge = 0.008f,
                            .main_features = 3};

KernelGroup group(const GemmSpec& s) {
  const bool alike = s.cast || bytes_per_element(s.type) >= 2;  // nothing to cast
  return {0, static_cast<std::int64_t>(s.type), weights_of(s.weights, s.type), static_cast<std::int64_t>(s.scaling),
          alike};
}
KernelSite site(const GemmSpec& s) { return {s.n, s.k, s.batch}; }

KernelPoint point(const GemmSpec& s, const Machine& machine) {
  const double m = as_double(s.m), n = as_double(s.n), k = as_double(s.k), batch = as_double(s.batch);
  const double a = bytes_per_element(stored(s.type)), b = bytes_per_element(s.weights.value_or(stored(s.type)));
  const double c = bytes_per_element(s.result.value_or(default_result(s.type))) * (s.accumulate ? 2 : 1);
  KernelPoint p;
  p.compute = 2 * batch * m * n * k / machine.peak[s.type].value;
  p.memory = batch * (a * m * k + b * k * n + c * m * n) / machine.memory_bandwidth.value;
  p.busy = p.compute + p.memory;
  const double waves = batch * std::ceil(m / 128) * std::ceil(n / 128) / machine.multiprocessors;
  p.at = {log2f_of(batch * m), log2f_of(n),           log2f_of(k),    s.m % 8 == 0 ? 0.f : 1.f,
          wave_waste(waves),   wave_waste(waves / 2), log2f_of(batch)};
  return p;
}

// ---- Attention ----

const Metric kPrefillMetric = {.features = 11,
                               .scale = {2.5f, 1.1f, 1.25f, 4.5f, 0.3f, 3, 0.4f, 6, 0.5f, 1, 1},
                               .neighbours = 20,
                               .soft = 0.07f,
                               .ridge = 0.008f,
                               .main_features = 3};
const Metric kDecodeMetric = {.features = 11,
                              .scale = {5.5f, 1.1f, 0.6f, 3.2f, 1.4f, 1, 0.5f, 8, 0.2f, 1, 1},
                              .neighbours = 16,
                              .soft = 0.5f,
                              .ridge = 0.005f,
                              .main_features = 3};

KernelGroup group(const AttentionSpec& s) {
  // Heads whose values are as wide as their keys are of one kind; others (latent attention) each of their own.
  const bool alike = s.head_dim == s.value_dim && !s.values_in_keys;
  return {1,
          static_cast<std::int64_t>(s.type),
          is_decode(s),
          alike ? 0 : s.head_dim,
          alike ? 0 : s.value_dim,
          s.values_in_keys,
          s.backward};
}
KernelSite site(const AttentionSpec& s) { return {s.heads, s.kv_heads, s.head_dim, s.key_length}; }

/// Tables of prefill have causal attention of as many queries as keys: the last two features hold that nothing else was
/// measured. Batch and heads trade for each other: their product is what matters, so a head count that was left out is
/// known from another batch.
KernelPoint point(const AttentionSpec& s, const Machine& machine) {
  const bool decode = is_decode(s);
  const double batch = as_double(s.batch), heads = as_double(s.heads), kv_heads = as_double(s.kv_heads);
  const double keys = as_double(s.key_length), queries = as_double(s.query_length);
  const double seen = s.window > 0 ? std::min(as_double(s.window), keys) : keys;
  const double width = as_double(s.head_dim + s.value_dim);
  const double kv_width = as_double(s.head_dim + (s.values_in_keys ? 0 : s.value_dim));
  const double kv_bytes = bytes_per_element(s.kv_type.value_or(stored(s.type)));
  const double blocks = batch * heads * std::ceil(queries / 128);
  const double idle = decode ? 1 : std::max(1.0, machine.multiprocessors / blocks);
  KernelPoint p;
  p.compute = s.work().value / machine.peak[s.type].value;
  p.memory = (s.backward ? 2 : 1) * batch *
             (kv_heads * kv_width * (decode ? seen : keys) * kv_bytes +
              heads * width * queries * bytes_per_element(stored(s.type))) /
             machine.memory_bandwidth.value;
  // What well filled kernels reach of either rate: any two constants near these do.
  p.busy = p.compute / 0.6 * idle + p.memory / 0.8;
  const double units = decode ? kv_heads : heads;
  p.at = {log2f_of(batch * units),    log2f_of(keys),
          log2f_of(heads / kv_heads), log2f_of(width / 2),
          log2f_of(seen / keys),      wave_waste((decode ? batch * kv_heads : blocks) / machine.multiprocessors),
          log2f_of(batch / units),    static_cast<float>(kv_bytes),
          s.window > 0 ? 1.f : 0.f,   decode ? 0.f : log2f_of(keys / queries),
          s.causal ? 1.f : 0.f};
  return p;
}

// ---- Layers of experts ----

const Metric kMoeMetric = {.features = 11,
                           .scale = {2, 2.8f, 1, 0.45f, 1, 1, 1, 10, 1.4f, 1.8f, 10},
                           .neighbours = 24,
                           .soft = 0.25f,
                           .ridge = 0.2f,
                           .main_features = 6};

KernelGroup group(const MoeLayerSpec& s) {
  return {2, static_cast<std::int64_t>(s.type), weights_of(s.weights, s.type), static_cast<std::int64_t>(s.scaling),
          s.router};
}
KernelSite site(const MoeLayerSpec& s) {
  return {s.hidden_size, s.intermediate_size, s.num_experts_per_tok, s.n_routed_experts};
}

/// Pairs of token and expert on the busiest rank, and how many of its experts have any.
struct ExpertLoad {
  double rows = 1, hit = 1;
};

/// Balanced: tokens are dealt out in turn. By a power law: loads 1/x over 1 .. 0.8 tokens, whose logarithm is spread
/// evenly; a guess from what such rows are called and how their times grow, not from their generator.
ExpertLoad load_of(const MoeLayerSpec& s, double local_experts) {
  const double tokens = as_double(s.tokens), topk = as_double(s.num_experts_per_tok), ep = as_double(s.ep);
  ExpertLoad load{tokens * topk / ep, 0};
  const double experts = as_double(s.n_routed_experts + s.redundant_experts);
  if (s.power_law == 0 || tokens < 3) {
    load.hit = std::min(local_experts, std::max(1.0, std::ceil(load.rows)));
  } else {
    const double most = 0.8 * tokens, width = std::log(most);
    const double mean = tokens * topk / experts;
    if (s.ep > 1) {
      const double hottest = 1 + std::sqrt(2 * std::log(ep)) * std::sqrt(width / 2 / local_experts);
      load.rows *= std::max(1.0, std::min({hottest, std::max(width, 1.0), ep * std::min(topk, local_experts) / topk}));
    }
    const double missed = std::log(std::max(1.0, 0.5 * (most - 1) / (mean * width))) / width;
    load.hit = std::clamp(local_experts * (1 - missed), 1.0, std::max(1.0, local_experts));
  }
  load.rows = std::max(load.rows, 1.0);
  load.hit = std::min(load.hit, load.rows);
  return load;
}

KernelPoint point(const MoeLayerSpec& s, const Machine& machine, double launch, int kernel) {
  const double local_experts = as_double(s.n_routed_experts + s.redundant_experts) / as_double(s.ep);
  const double width = as_double(s.intermediate_size) / as_double(s.etp);
  const double tokens = as_double(s.tokens), hidden = as_double(s.hidden_size);
  const ExpertLoad load = load_of(s, local_experts);
  const double matrices = s.gated ? 3 : 2;
  const double activation = bytes_per_element(stored(s.type));
  const double weight = bytes_per_element(s.weights.value_or(stored(s.type)));
  KernelPoint p;
  p.compute = 2 * load.rows * hidden * width * matrices / machine.peak[s.type].value;
  p.memory = (load.hit * matrices * hidden * width * weight + load.rows * (2 * hidden + width) * activation +
              4 * tokens * hidden) /
             machine.memory_bandwidth.value;
  p.busy = p.compute / 0.6 + p.memory / 0.7;
  p.at = {log2f_of(tokens),
          log2f_of(load.rows),
          log2f_of(load.rows / load.hit),
          log2f_of(hidden),
          log2f_of(width),
          log2f_of(local_experts),
          log2f_of(as_double(s.num_experts_per_tok)),
          static_cast<float>(s.power_law),
          log2f_of(1e6 * (launch + p.busy)),
          static_cast<float>(kernel),
          s.eplb ? 1.f : 0.f};
  return p;
}

}  // namespace

bool is_decode(const AttentionSpec& spec) { return spec.query_length == 1 && !spec.causal; }

bool has_points(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec))
    return gemm->m > 0 && gemm->n > 0 && gemm->k > 0 && gemm->batch > 0;
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) {
    return attention->selected == 0 && attention->visible_keys() > 0 && attention->batch > 0 && attention->heads > 0 &&
           attention->kv_heads > 0 && attention->query_length > 0;
  }
  const auto* layer = std::get_if<MoeLayerSpec>(&spec);
  return layer != nullptr && layer->tokens > 0;
}

KernelGroup group_of(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) return group(*gemm);
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) return group(*attention);
  return group(std::get<MoeLayerSpec>(spec));
}

KernelSite site_of(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) return site(*gemm);
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) return site(*attention);
  return site(std::get<MoeLayerSpec>(spec));
}

KernelPoint point_of(const KernelSpec& spec, const Machine& machine, double launch, int kernel) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) return point(*gemm, machine);
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) return point(*attention, machine);
  return point(std::get<MoeLayerSpec>(spec), machine, launch, kernel);
}

const Metric& metric_of(const KernelSpec& spec) {
  if (std::holds_alternative<GemmSpec>(spec)) return kGemmMetric;
  if (const auto* attention = std::get_if<AttentionSpec>(&spec))
    return is_decode(*attention) ? kDecodeMetric : kPrefillMetric;
  return kMoeMetric;
}

bool pools_kernels(const KernelSpec& spec) { return std::holds_alternative<MoeLayerSpec>(spec); }

int variant_of(const KernelSpec& spec) {
  const auto* layer = std::get_if<MoeLayerSpec>(&spec);
  return layer != nullptr && !layer->gated ? 1 : 0;
}

}  // namespace shardwright
