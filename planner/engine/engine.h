#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hardware/catalog.h"
#include "hardware/machine.h"
#include "planner/cost/merged_products.h"
#include "planner/engine/constants.h"
#include "planner/engine/prediction_errors.h"
#include "planner/layout.h"
#include "planner/workload.h"

namespace shardwright {

/// The generation of an engine's fused attention.
enum class AttentionKernel { flash1, triton, flash2, flash3 };  ///< triton: flash1 in Triton of before Hopper
std::string_view name_of(AttentionKernel);

/// What a published row says about what it ran on.
struct RowSoftware {
  std::string framework, version, kernel;
  std::string architecture;  ///< of the GPU, as Machine has it; "" where the catalog lacks it
};

/// Rows of these frameworks are an engine's: the framework begins with `name`, the version with `version`, the kernels
/// have `kernel` in their name, and the GPU is of one of `architectures` where there are any.
struct EngineFramework {
  std::string name, version = {}, kernel = {};
  std::vector<std::string> architectures = {};
  bool operator==(const EngineFramework&) const = default;
};

/// How an engine shares layers out among the stages of a pipeline where nobody says.
enum class StageSplit : std::uint8_t {
  layers,   ///< as many on each; where that leaves a remainder, with embedding and head counted as a layer each
  modules,  ///< embedding, layers, last norm and head are one list, cut into equal parts, the first ones longer
};

/// Types of gradients, and of the optimizer's moments, where they are not those of formats_for.
struct GradientFormats {
  DataType gradient, gradient_reduce;
  DataType optimizer_state = DataType::fp32;
  bool operator==(const GradientFormats&) const = default;
};

/// What an engine's operators are made of, what it does with memory and what its logs mean, where nobody says
/// otherwise.
struct EngineHabits {
  bool transformer_engine = true;  ///< its layers are modules of Transformer Engine; else of PyTorch alone
  bool fused_attention = true, fused_norm = true, norm_in_fp32 = false, fused_activation = true, fused_rotary = true;
  bool dropout = false;
  CrossEntropy cross_entropy = CrossEntropy::in_place;
  MemoryHabits memory = {.fragmentation = kExpandableSegments};
  bool last_rank_prints = false;               ///< a printed peak of memory is the last stage's, not the worst
  std::optional<bool> sequence_parallel = {};  ///< of a run that does not say; nothing: whichever is faster
  int chunk_layers = 0;  ///< layers a chunk, the ends' one less, of a run that does not say its vpp; 0: vpp is 1
  bool operator==(const EngineHabits&) const = default;
};

/// What a training framework can run, and what it takes beyond its kernels. `Engine{}` is one that can run everything
/// and takes nothing: `generic` with neutral constants.
struct Engine {
  std::string name = "generic", description;
  std::string flavour_of = {};  ///< the engine whose flavour it is; "" of an engine
  std::vector<EngineFramework> frameworks;
  bool tensor_parallel = true;
  bool etp_is_tp = false;  ///< the etp of a layout that does not give it: tp, else 1
  Overlaps overlaps = Overlaps::all();
  Overlaps default_overlaps = overlaps_named({Overlap::grad_reduce, Overlap::param_gather, Overlap::p2p});
  std::vector<Schedule> schedules = {kScheduleList.begin(), kScheduleList.end()};  ///< none: no pipeline
  std::vector<ContextParallel> cp_kinds = {kContextParallelList.begin(), kContextParallelList.end()};  ///< none: no cp
  std::vector<Dispatcher> dispatchers = {kDispatcherList.begin(), kDispatcherList.end()};              ///< none: no ep
  /// Those for which the host waits until it knows how many rows each expert gets, where rows are not dropped.
  std::vector<Dispatcher> host_row_counts = {kDispatcherList.begin(), kDispatcherList.end()};
  std::vector<int> zero = {0, 1, 2, 3};  ///< always with 0
  PerDataType<std::optional<GradientFormats>> gradients;
  Scaling fp8_scaling = Scaling::tensor;  ///< of fp8 products' operands
  AttentionKernel attention = AttentionKernel::flash3;
  StageSplit stage_split = StageSplit::layers;
  /// Ranks of a tensor group that all hold a micro-batch send a part of it each to the next stage, which gathers it.
  bool scatters_sends = false;
  bool fused_optimizer = true;  ///< one kernel for all of a rank's parameters
  bool adds_gradients = true;   ///< its products add a weight's gradient to that of earlier micro-batches
  /// Passes over memory are asked as what they compute, and what a collective moves is packed and unpacked apart: its
  /// kernels are this program's own, measured so.
  bool own_kernels = false;
  bool is_neutral = false;  ///< takes nothing beyond its kernels as they were measured: no constants are fitted
  MergedProducts merges_products = MergedProducts::all;
  /// What tp gathers for layers or reduces of their gradients, once for each that is not merged with the others.
  bool collects_by_layer = false;
  /// In backward tp sums a layer's input gradient while its weight gradient is made, and gathers what that reads while
  /// the input gradient is.
  bool sums_beside_weight_gradients = true;
  /// ZeRO-3 gathers and scatters each matrix with torch.distributed's calls that take a list of tensors, one a rank:
  /// the host slices and copies as many.
  bool shards_in_lists = false;
  /// ZeRO-2 and 3 in a pipeline keep whole gradients and reduce-scatter them once, with a stage's last micro-batch.
  bool reduces_once_in_pipelines = false;
  EngineHabits habits;
  EngineConstants constants;
  PredictionErrors errors;

  /// The engine with whose rows its constants are fitted.
  const std::string& fitted_as() const { return flavour_of.empty() ? name : flavour_of; }
  /// Bytes that the optimizer moves over the least that it could.
  double optimizer_traffic() const;
  /// `constants`, the host's time for an operator by whose modules its layers are.
  EngineConstants constants_of_its_host() const;
  bool counts_rows_on_host(Dispatcher dispatcher) const;
  bool operator==(const Engine&) const = default;
};

/// Engines and flavours of all `files`, without their constants. Throws InputError where two have one name, or a file
/// has another than its engine.
std::map<std::string, Engine> read_engines(const std::vector<CatalogFile>& files);

/// An engine of the program, by name. Throws InputError: "--engine: unknown engine 'megatron' (did you mean
/// 'megatron-core'?)", where `what` is "--engine".
Engine find_engine(const std::string& name, const std::string& what);
std::vector<std::string> engine_names();  ///< sorted

/// The engine that a published row's software is: the longest match of all engines; generic where nothing matches.
const Engine& engine_of(const RowSoftware& software);

/// Facts without constants, which are the program's for that name: the engine of a file, then its flavours, which
/// differ from it in name, frameworks, gradients, attention and some habits. Habits that a file does not name are
/// generic's. Throws InputError.
std::vector<Engine> read_engine(const YamlCursor& top);

/// How far off predictions are, of engines with constants of their own and of those that have generic's; `date` and
/// `rows` are those of the steps that say so.
struct ErrorRecord {
  std::string date;
  int rows = 0;
  PredictionErrors fitted, unfitted;
  bool operator==(const ErrorRecord&) const = default;
};

/// Fitted constants: of engines that have some, by name. A file of planner/engine/constants. Throws InputError.
struct FittedConstants {
  std::vector<std::pair<std::string, EngineConstants>> engines;
  std::optional<ErrorRecord> errors;
};
FittedConstants read_engine_constants(const YamlCursor& top);
/// What the program's own file says.
std::optional<ErrorRecord> known_errors();

/// The formats that `--precision` stands for in this engine.
TrainingFormats formats_for(DataType precision, const Engine& engine);

/// What `workload` leaves to the engine that runs it, in that precision: number formats, fusions, habits of memory.
void run_by(const Engine& engine, DataType precision, Workload& workload);

/// `machine` with the attention kernels of the engine.
Machine as_used_by(const Engine& engine, Machine machine);

/// "" or why the engine has no such layout: "engine llm-foundry cannot run tp=2: it has no tensor parallelism".
std::string beyond_engine(const Engine& engine, const LayoutPins& pins);

}  // namespace shardwright
