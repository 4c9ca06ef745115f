#include "hardware/attention_curve.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hardware/steady_line.h"

namespace shardwright {
namespace {

double as_double(std::int64_t value) { return static_cast<double>(value); }

constexpr double kLeastPart = 128;  // of the keys

/// Keys that are read: all, or of sparse attention no more than its queries select.
double keys_read(const AttentionSpec& spec) {
  if (spec.selected == 0) return as_double(spec.key_length);
  const double selected = as_double(spec.selected) * as_double(spec.query_length);
  return spec.key_length == 0 ? selected : std::min(selected, as_double(spec.key_length));
}

/// Of those, what a single token sees through its window.
double keys_moved(const AttentionSpec& spec) {
  const double keys = keys_read(spec);
  return spec.window > 0 && spec.query_length == 1 ? std::min(keys, as_double(spec.window)) : keys;
}

/// Activations come and go in 16 bits where the products are narrower.
double activation_bytes(DataType type) { return std::max(bytes_per_element(type), 2.0); }

/// Whether new keys and values are stored narrower than they come.
bool stores_narrow(const AttentionSpec& spec) {
  return bytes_per_element(spec.kv_type.value_or(stored(spec.type))) < activation_bytes(spec.type);
}

double joined(double a, double b, double join) {
  const auto [shorter, longer] = std::minmax(a, b);
  return longer * std::pow(1 + std::pow(shorter / longer, join), 1 / join);
}

/// What all but the products runs at: exponentials gain nothing where those are narrower than 16 bits.
double softmax_peak(DataType type, const Machine& machine) {
  const bool narrow = bytes_per_element(type) < 2 && supports(machine, DataType::bf16);
  return machine.peak[narrow ? DataType::bf16 : type].value;
}

struct Blocks {
  double count = 0;        // whole ones
  double filled = 0;       // what the rows fill
  double visited = 0;      // keys of an average one
  double longest = 0;      // keys of the last one
  double split = 0;        // what cutting the keys costs
  double key_seconds = 0;  // of a block on one multiprocessor
};

Blocks blocks_of(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine) {
  const double rows_of_one = curve.block_rows;
  const double shared = as_double(std::max<std::int64_t>(spec.kv_heads, 1));
  const double rows = as_double(spec.heads) / shared * as_double(spec.query_length);
  const double units = as_double(spec.batch) * shared;
  const double seen = spec.visible_keys(), keys = std::max(keys_read(spec), seen);
  const bool windowed = spec.window > 0 && as_double(spec.window) < keys;
  Blocks blocks;
  blocks.count = units * std::ceil(rows / rows_of_one);
  blocks.filled = units * rows / rows_of_one;
  const double width = as_double(spec.head_dim + spec.value_dim);
  const double gain = machine.peak[spec.type].value / softmax_peak(spec.type, machine);
  const double key_width = width + gain * curve.softmax_width;  // in operations at the products' rate
  const double edge = gain * (width + curve.softmax_width) / key_width;
  blocks.split = curve.split_keys * edge;
  const double cut = (spec.causal ? rows_of_one / 2 : 0) + (windowed ? curve.window_keys : 0);
  blocks.visited = std::min(keys, seen + cut) + curve.block_keys * edge;
  blocks.longest = (windowed      ? std::min(keys, as_double(spec.window) + cut)
                    : spec.causal ? keys
                                  : seen) +
                   curve.block_keys * edge;
  constexpr double kUsual = 256;  // heads of 128
  const double work = 2 * rows_of_one * key_width * kUsual / (kUsual + curve.softmax_width);
  const double rate = machine.peak[spec.type].value * curve.peak_fraction / machine.multiprocessors;
  AttentionSpec forward = spec;
  forward.backward = false;
  const double backward =
      spec.backward ? spec.work().value / forward.work().value / machine.efficiency.attention_backward_rate : 1;
  const bool narrow = spec.kv_type && bytes_per_element(*spec.kv_type) < bytes_per_element(spec.type);
  blocks.key_seconds = work / rate * backward * (narrow ? curve.narrow_keys : 1);
  return blocks;
}

double memory_seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine) {
  return bytes_moved(spec) / (machine.memory_bandwidth.value * curve.memory_fraction);
}

/// Serving tables time prefill with its cache: new keys and values are read and written once more, in 16 bits or
/// narrower.
double store_seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine) {
  if (spec.backward) return 0;
  const double keys =
      as_double(spec.batch) * as_double(spec.kv_heads) * as_double(std::min(spec.query_length, spec.key_length));
  const double bytes =
      activation_bytes(spec.type) * keys * as_double(spec.head_dim + (spec.values_in_keys ? 0 : spec.value_dim));
  return bytes * curve.store_seconds * (stores_narrow(spec) ? curve.narrow_store : 1) / machine.memory_bandwidth.value;
}

}  // namespace

double bytes_moved(const AttentionSpec& spec) {
  const double queries = as_double(spec.batch) * as_double(spec.heads) * as_double(spec.query_length);
  const double keys = as_double(spec.batch) * as_double(spec.kv_heads) * keys_moved(spec);
  const double query_bytes = activation_bytes(spec.type) * as_double(spec.head_dim + spec.value_dim);
  const double key_bytes = bytes_per_element(spec.kv_type.value_or(stored(spec.type))) *
                           as_double(spec.head_dim + (spec.values_in_keys ? 0 : spec.value_dim));
  return (queries * query_bytes + keys * key_bytes) * (spec.backward ? 2 : 1);
}

template <>
const std::vector<Coefficient<AttentionCurve>>& coefficients<AttentionCurve>() {
  using C = AttentionCurve;
  static const std::vector<Coefficient<C>> all = {{"launch_seconds", &C::launch_seconds, 1e-6, 5e-5, 5e-6},
                                                  {"peak_fraction", &C::peak_fraction, 0.01, 1, 0.7},
                                                  {"block_keys", &C::block_keys, 0, 3000, 200},
                                                  {"softmax_width", &C::softmax_width, 0, 1000, 100},
                                                  {"wave_step", &C::wave_step, 0, 1, 0.3},
                                                  {"memory_fraction", &C::memory_fraction, 0.1, 1, 0.8},
                                                  {"join", &C::join, 1, 8, 2},
                                                  {"split_keys", &C::split_keys, 0, 20000, 1000},
                                                  {"throttle", &C::throttle, 0, 1, 0.1},
                                                  {"throttle_seconds", &C::throttle_seconds, 1e-6, 1e-2, 5e-4},
                                                  {"window_keys", &C::window_keys, 0, 1000, 100},
                                                  {"narrow_keys", &C::narrow_keys, 0.2, 5, 1},
                                                  {"store_seconds", &C::store_seconds, 0, 20, 2},
                                                  {"narrow_store", &C::narrow_store, 0.5, 5, 1.5}};
  return all;
}

std::string_view name_of(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::prefill:
      return "prefill";
    case AttentionKind::decode:
      return "decode";
    case AttentionKind::latent_prefill:
      return "latent_prefill";
    case AttentionKind::latent_decode:
      return "latent_decode";
  }
  assert(false && "a kind of attention without a name");
  return "";
}

AttentionKind kind_of(const AttentionSpec& spec) {
  if (spec.values_in_keys) return AttentionKind::latent_decode;
  if (spec.head_dim != spec.value_dim) return AttentionKind::latent_prefill;
  return spec.query_length == 1 && !spec.causal ? AttentionKind::decode : AttentionKind::prefill;
}

bool is_empty(const AttentionSpec& spec) {
  return !(spec.visible_keys() > 0) || spec.batch == 0 || spec.heads == 0 || spec.query_length == 0;
}

bool is_large(const AttentionSpec& spec) {
  const bool usual = spec.values_in_keys || spec.head_dim != spec.value_dim || spec.head_dim == 128;
  return usual && spec.window == 0 && keys_read(spec) >= 4096;
}

double seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine) {
  assert(!is_empty(spec) && "attention to nothing has no curve");
  const Blocks b = blocks_of(curve, spec, machine);
  const double f = b.count / machine.multiprocessors;
  const double waves = curve.wave_step * std::ceil(f) + (1 - curve.wave_step) * std::max(f, 1.0);
  const double whole = std::max(waves * b.visited, b.longest);
  const double cut = std::max(f * b.visited, std::min(b.visited, kLeastPart)) + b.split;
  const double busy = b.key_seconds * std::min(whole, cut);
  const double loop = busy * (1 + curve.throttle * busy / (busy + curve.throttle_seconds));
  return curve.launch_seconds + joined(loop, memory_seconds(curve, spec, machine), curve.join) +
         store_seconds(curve, spec, machine);
}

double steady_seconds(const AttentionCurve& curve, const AttentionSpec& spec, const Machine& machine) {
  if (is_empty(spec)) return 0;
  // Parts of the keys may be narrower than the window.
  AttentionCurve parted = curve;
  parted.window_keys = 0;
  const Blocks b = blocks_of(parted, spec, machine);
  const double loop = steady_line(curve).slope * b.key_seconds * b.filled / machine.multiprocessors * b.visited;
  return joined(loop, memory_seconds(curve, spec, machine), curve.join) + store_seconds(curve, spec, machine);
}

}  // namespace shardwright
