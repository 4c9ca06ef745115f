#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/kernel_spec.h"
#include "hardware/quantities.h"
#include "hardware/yaml_cursor.h"
#include "planner/engine/engine.h"
#include "planner/serve/serve_workload.h"

namespace shardwright {

/// What an inference engine takes beyond what its kernels and collectives were measured to take. Fitted to published
/// serving rows (fit_serving.h); never per row, source or model.
enum class ServeConstant {
  step_seconds,
  sequence_seconds,
  kernel_seconds,
  decode_factor,
  prefill_factor,
  communication_factor,
  clumping,
};
inline constexpr int kServeConstants = 7;

/// `neutral` changes nothing; `low` and `high` are the range of what is physical; `usual`: by how much engines differ,
/// the fit's scale.
struct ServeConstantFacts {
  ServeConstant constant;
  std::string_view name, unit, meaning;
  double neutral, low, high, usual;
};
inline constexpr std::array<ServeConstantFacts, kServeConstants> kServeConstantFacts = {
    {{ServeConstant::step_seconds, "step_seconds", "s", "of the host in every step, while the GPUs wait", 0, 0, 0.02,
      5e-4},
     {ServeConstant::sequence_seconds, "sequence_seconds", "s", "the same for each sequence that gains a token", 0, 0,
      2e-4, 1e-5},
     {ServeConstant::kernel_seconds, "kernel_seconds", "s",
      "between two kernels; below 0 where one starts before the other has ended", 0, -2e-6, 10e-6, 1e-6},
     {ServeConstant::decode_factor, "decode_factor", "",
      "time of a decode step's kernels over that of their benchmarks", 1, 0.8, 1.6, 0.05},
     {ServeConstant::prefill_factor, "prefill_factor", "",
      "the same of what a prompt adds: clocks fall under long products", 1, 0.7, 2, 0.1},
     {ServeConstant::communication_factor, "communication_factor", "",
      "time of a collective over that of its benchmark", 1, 0.5, 3, 0.25},
     {ServeConstant::clumping, "clumping", "", "of prompts that wait for each other (steady_state.h)", 0, 0, 3, 1}}};

class ServeConstants {
 public:
  constexpr ServeConstants() {
    for (const ServeConstantFacts& facts : kServeConstantFacts) (*this)[facts.constant] = facts.neutral;
  }
  constexpr double& operator[](ServeConstant c) { return values_[static_cast<std::size_t>(c)]; }
  constexpr double operator[](ServeConstant c) const { return values_[static_cast<std::size_t>(c)]; }
  bool operator==(const ServeConstants&) const = default;

 private:
  std::array<double, kServeConstants> values_ = {};
};

/// Half widths, in logs, of intervals that hold four in five of the published rows.
struct ServeErrors {
  double tpot = 0.25, ttft = 0.7, throughput = 0.25;
  bool operator==(const ServeErrors&) const = default;
};

/// How an engine is sized for the lengths that it is to serve: as many sequences as memory holds, and as many tokens of
/// a step as those take in a steady run, batch (1 + isl / osl), both within these limits.
struct SizedToLoad {
  std::int64_t most_sequences = 0, fewest_tokens = 0, most_tokens = 0;
  bool operator==(const SizedToLoad&) const = default;
};

/// Requests of an engine's published offline benchmark, all there at the start, by the lengths that it was run with.
struct OfflineQueue {
  std::int64_t isl = 0, osl = 0, requests = 0;
  bool operator==(const OfflineQueue&) const = default;
};

/// What an inference engine does, and what it takes beyond its kernels.
struct ServeEngine {
  std::string name, description;
  std::vector<EngineFramework> frameworks;
  CollectiveAlgorithm all_reduce = CollectiveAlgorithm::nccl;  ///< inside a unit of links; NCCL where that is faster
  Dispatcher dispatcher = Dispatcher::all_gather;              ///< of rows, where experts' ranks hold different tokens
  std::int64_t block_tokens = 16;                              ///< of a page of keys and values
  bool fraction_of_free = false;  ///< `memory_fraction` is of what weights and activations leave, else of all memory
  double memory_fraction = 0.9;
  Bytes cuda_graphs, workspace;
  std::int64_t max_sequences = 256, max_tokens = 8192;  ///< of a rank's step, by default
  bool chunked_prefill = true;  ///< a prompt may be cut where the step has max_tokens; else it goes whole
  bool prefill_first = false;   ///< all prompts that wait before any decoding: requests stay in waves
  bool narrow_kv = false;       ///< keys and values are fp8 where weights are below 16 bits and nobody says otherwise
  bool sequence_parallel = false;  ///< ranks of tp hold different tokens between attention and experts
  bool grouped_experts =
      false;  ///< products of a layer's experts by grouped GEMMs, else a fused layer where one is known
  bool overlaps_exchange = false;  ///< a step in two halves: one exchanges rows while the other computes, where faster
  bool reserves_answers = false;   ///< a request is let in when its whole answer has room; else when its prompt has
  bool fuses_casts = false;        ///< what comes before a product below 16 bits writes it narrow; else a pass more
  bool narrow_attention = false;   ///< attention multiplies in fp8 where weights, keys and values are; else in 16 bits
  std::optional<SizedToLoad> offline_size;   ///< of its offline benchmark; absent: the defaults above
  std::vector<OfflineQueue> offline_queues;  ///< of the same
  ServeConstants constants;
  ServeErrors errors;
  bool operator==(const ServeEngine&) const = default;
};

/// How an engine keeps keys and values where nobody says: with narrow_kv in fp8 where products are below 16 bits.
KvFormat usual_kv(const ServeEngine& engine, WeightFormat weights);

/// An engine of the program. Throws InputError: "--engine: unknown serving engine 'vlm' (did you mean 'vllm'?)".
ServeEngine find_serve_engine(const std::string& name, const std::string& what);
std::vector<std::string> serve_engine_names();  ///< sorted
/// The engine that a published row's software is; nothing where none matches.
const ServeEngine* serve_engine_of(const RowSoftware& software);
/// Facts alone; constants are neutral. Throws InputError.
ServeEngine read_serve_engine(const YamlCursor& top);

/// Constants and errors by engine, as the fit writes them. Throws InputError.
struct FittedServing {
  std::string name;
  int rows = 0;
  double median_error = 0;
  ServeConstants constants;
  ServeErrors errors;
};
std::vector<FittedServing> read_serve_constants(const YamlCursor& top);

}  // namespace shardwright
