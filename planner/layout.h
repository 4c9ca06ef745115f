#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shardwright {

enum class Schedule { gpipe, one_f_one_b, interleaved, zb_h1, zb_h2, zb_1p, zb_2p, zb_v, dualpipe, dualpipe_v };
// Megatron's --recompute-modules; a bit each, in this order
enum class RecomputeModule { core_attn, layernorm, mlp, mla_up_proj, moe, moe_act, shared_experts };
inline constexpr std::array kRecomputeModuleList = {RecomputeModule::core_attn,     RecomputeModule::layernorm,
                                                    RecomputeModule::mlp,           RecomputeModule::mla_up_proj,
                                                    RecomputeModule::moe,           RecomputeModule::moe_act,
                                                    RecomputeModule::shared_experts};
inline constexpr int kRecomputeModules = static_cast<int>(kRecomputeModuleList.size());
enum class RankOrder { tp_cp_dp_pp, tp_cp_pp_dp };  // innermost first
enum class ContextParallel { all_gather, ulysses, ring };
/// How tokens get to their experts' ranks. all_gather: every rank of ep gets all tokens and keeps its own; all_to_all:
/// a copy for each chosen expert; deepep, hybridep: one copy to each node, passed on inside (the same bytes, other
/// kernels).
enum class Dispatcher { all_to_all, all_gather, deepep, hybridep };
/// Communications that run beside compute; a bit each, in this order.
enum class Overlap {
  tp,              ///< tensor parallelism's, in parts beside the products next to them
  ep,              ///< rows of experts, beside another micro-batch's compute
  shared_experts,  ///< rows of experts, beside the shared experts
  grad_reduce,     ///< gradients, beside backward
  param_gather,    ///< parameters of ZeRO, beside forward (and backward, of stage 3)
  p2p              ///< what stages send each other
};
inline constexpr std::array kOverlapList = {Overlap::tp,          Overlap::ep,           Overlap::shared_experts,
                                            Overlap::grad_reduce, Overlap::param_gather, Overlap::p2p};
inline constexpr int kOverlaps = static_cast<int>(kOverlapList.size());
inline constexpr std::array kScheduleList = {
    Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved, Schedule::zb_h1,    Schedule::zb_h2,
    Schedule::zb_1p, Schedule::zb_2p,       Schedule::zb_v,        Schedule::dualpipe, Schedule::dualpipe_v};
inline constexpr std::array kContextParallelList = {ContextParallel::all_gather, ContextParallel::ulysses,
                                                    ContextParallel::ring};
inline constexpr std::array kDispatcherList = {Dispatcher::all_to_all, Dispatcher::all_gather, Dispatcher::deepep,
                                               Dispatcher::hybridep};

/// "1f1b", "interleaved", "tp-cp-dp-pp", "core_attn", "allgather", "alltoall", ...
std::string_view name_of(Schedule);
std::string_view name_of(RecomputeModule);
std::string_view name_of(RankOrder);
std::string_view name_of(ContextParallel);
std::string_view name_of(Dispatcher);
std::string_view name_of(Overlap);

/// What is run again in backward instead of being kept.
struct Recompute {
  bool full = false;         // every layer, from its input
  std::uint8_t modules = 0;  // bits of RecomputeModule; 0 when full
  bool has(RecomputeModule m) const { return modules >> static_cast<int>(m) & 1; }
  auto operator<=>(const Recompute&) const = default;
};

/// A set of overlaps.
struct Overlaps {
  std::uint8_t bits = 0;
  bool has(Overlap o) const { return bits >> static_cast<int>(o) & 1; }
  constexpr void set(Overlap o, bool on) {
    const auto bit = static_cast<std::uint8_t>(1u << static_cast<int>(o));
    bits = static_cast<std::uint8_t>(on ? bits | bit : bits & ~bit);
  }
  static Overlaps all() { return {(1u << kOverlaps) - 1}; }
  auto operator<=>(const Overlaps&) const = default;
};

constexpr Overlaps overlaps_named(std::initializer_list<Overlap> some) {
  Overlaps on;
  for (Overlap o : some) on.set(o, true);
  return on;
}

/// "tp+p2p", "none"
std::string to_string(Overlaps);

/// How one model is split over the GPUs. gpus = tensor * pipeline * context * data.
/// Canonical: a choice that makes no difference has its default (sequence_parallel without tensor parallelism is false,
/// zero over one rank is 0, ...), so two layouts are equal exactly when they are the same run. Ordered member by
/// member: the search breaks ties by that.
struct Layout {
  int tensor = 1;            // tp
  int pipeline = 1;          // pp
  int virtual_pipeline = 1;  // vpp: chunks a stage; as takes_chunks
  int context = 1;           // cp
  int data = 1;              // dp
  int expert = 1;         // ep: parts of the experts, folded over dp x cp x tp; tp * cp * dp is a multiple of ep * etp
  int expert_tensor = 1;  // etp: parts of each expert
  bool sequence_parallel = false;
  int zero = 0;  // 0 none, 1 optimizer, 2 and gradients, 3 and parameters
  int shard_group =
      1;  // fsdp_group: ranks of dp x cp that share one copy of what zero shards; 1 exactly when zero is 0
  Recompute recompute;
  int micro_batch = 1;  // sequences
  Schedule schedule = Schedule::one_f_one_b;
  ContextParallel context_kind = ContextParallel::all_gather;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  Overlaps overlap;  // only where there is such a communication: see overlaps_of
  RankOrder rank_order = RankOrder::tp_cp_dp_pp;
  std::vector<int> layers_per_chunk;  // pp * vpp entries; chunk i is on stage i mod pp

  auto operator<=>(const Layout&) const = default;

  std::int64_t gpus() const { return std::int64_t{tensor} * pipeline * context * data; }
  std::int64_t micro_batches(std::int64_t global_batch) const {
    return global_batch / (std::int64_t{data} * micro_batch);
  }
};

/// The overlaps that a layout's degrees have any communication for: tp above 1; ep above 1; dp * cp above 1; pp
/// above 1.
Overlaps overlaps_of(const Layout& layout);

/// Whether a schedule runs with so many chunks a stage: interleaved with more than one, those in V shape with two, the
/// others with one.
bool takes_chunks(Schedule schedule, int chunks);

/// Whether a forward and another micro-batch's backward run at once: by their schedule, or since rows of experts are to
/// hide there.
bool has_pairs(const Layout& layout);

/// Layout keys given by a user; what is absent is free. Names of keys are those of the measured rows and of --layout.
struct LayoutPins {
  std::optional<int> tp, pp, vpp, cp, dp, ep, etp;
  std::optional<ContextParallel> cp_kind;
  std::optional<Dispatcher> dispatcher;
  std::optional<bool> sequence_parallel;
  std::optional<int> zero, fsdp_group;
  std::optional<Recompute> recompute;
  std::optional<int> micro_batch;
  std::optional<Schedule> schedule;
  std::optional<RankOrder> rank_order;
  Overlaps overlap_on, overlap_off;                  // what is in neither is free
  std::optional<std::vector<int>> layers_per_stage;  // pp entries, or pp * vpp: then chunk by chunk
};

/// Parses "tp=8,pp=16,recompute_modules=core_attn+layernorm,layers_per_stage=8+8". Throws InputError
/// (`--layout:1:5: unknown key 'tpp' (did you mean 'tp'?)`) that shows the string with a caret under the fault; `what`
/// names the flag ("--layout"). Keys: tp pp vpp cp dp sequence_parallel zero fsdp_group recompute (none|selective|full)
/// recompute_modules micro_batch schedule rank_order layers_per_stage cp_kind (allgather|ulysses|ring) ep etp
/// dispatcher (alltoall|allgather|deepep|hybridep) overlap (none, or tp+ep+shared_experts+grad_reduce+param_gather+p2p:
/// what is not named is off).
/// `recompute=selective` alone means core_attn, Megatron's default; `recompute_modules` alone means selective. The
/// empty string pins nothing.
LayoutPins parse_layout(const std::string& text, const std::string& what);

/// The same text back. Left out is only what the rest and the model's size fix for a canonical layout: vpp, cp, ep and
/// etp of 1 (which an estimate takes for 1), the dispatcher of ep 1, overlap where nothing could, sequence_parallel
/// without tensor parallelism, zero over one rank, fsdp_group of zero 0, schedule of one stage, rank order where dp or
/// pp is 1, layers of a single chunk. So parse_layout of it pins exactly this layout.
std::string to_string(const Layout&);

/// Entries summed by stage, as reports show them.
std::vector<int> layers_per_stage(const Layout&);

}  // namespace shardwright
