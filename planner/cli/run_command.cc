#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>

#include "hardware/input_error.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/mpi/mpi_ranks.h"
#include "kernels/threads/threads_communicator.h"
#include "planner/cli/backend_option.h"
#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_to_run.h"
#include "planner/cli/run_plan.h"
#include "planner/cost/forward_time.h"
#include "planner/pricer.h"
#include "profiler/execute/calibrate.h"
#include "profiler/execute/supervisor.h"
#include "profiler/execute/trial.h"
#include "reports/json.h"
#include "reports/trial_text.h"

namespace shardwright {
namespace {

/// What a run fails with; main makes exit code 3 of it.
[[noreturn]] void fail(const std::string& what) { throw OutputError("run: " + what); }

int slowest_stage_of(const PlanToRun& plan) {
  const std::vector<Seconds>& idle = plan.priced.plans[0].prediction->idle;
  return static_cast<int>(std::min_element(idle.begin(), idle.end()) - idle.begin());
}

struct Prepared {
  PlanToRun plan;
  Programme programme;
  TrialQuestion question;
  std::string not_checked;
  std::int64_t model_layers = 0;  // with --layers
};

/// --rank-of-n R/N.
std::optional<LoneRank> read_lone_rank(const Arguments& arguments, const PlanToRun& plan) {
  const auto text = arguments.find("--rank-of-n");
  if (!text) {
    if (arguments.has("--layers")) throw InputError("--layers: needs --rank-of-n, a rank that runs alone");
    return std::nullopt;
  }
  for (const char* other : {"--ranks", "--communicator", "--decode", "--calibrate"})
    if (arguments.has(other)) throw InputError(fmt::format("{}: contradicts --rank-of-n", other));
  const auto slash = text->find('/');
  if (slash == std::string::npos)
    throw InputError(fmt::format("--rank-of-n: must be R/N, rank R of N, got '{}'", shown(*text)));
  const std::int64_t of = whole_number("--rank-of-n", text->substr(slash + 1), 1, std::int64_t{1} << 24);
  const std::int64_t ranks = plan.priced.plans[0].layout.gpus();
  if (of != ranks) throw InputError(fmt::format("--rank-of-n: the plan is for {} ranks, got {}", ranks, of));
  const std::int64_t rank = whole_number("--rank-of-n", text->substr(0, slash), 0, of - 1);
  return LoneRank{rank, plan.request.workload.expert_load};
}

/// --layers N: the first N of each chunk of the pipeline, priced anew.
std::int64_t cut_layers(const Arguments& arguments, PlanToRun& plan) {
  const auto text = arguments.find("--layers");
  if (!text) return 0;
  const Layout layout = plan.priced.plans[0].layout;
  const auto chunks = static_cast<std::int64_t>(layout.layers_per_chunk.size());
  std::int64_t& layers = plan.request.model.num_hidden_layers;
  const std::int64_t each = whole_number("--layers", *text, 1, std::max<std::int64_t>(1, layers / chunks));
  layers = each * chunks;
  plan.request.pins.layers_per_stage.reset();
  if (chunks > 1)
    plan.request.pins.layers_per_stage = std::vector<int>(static_cast<std::size_t>(chunks), static_cast<int>(each));
  plan.priced = estimate(plan.request);
  if (!plan.priced.plans[0].prediction)
    throw InputError("--layers: is impossible: " + plan.priced.plans[0].rejection->detail);
  return layers;
}

/// By which the ranks of a layout answer prompts; as many of each as in a step of training.
std::shared_ptr<const Programme> answers_of(const PlanRequest& request, const Layout& layout) {
  PlanRequest own = request;
  own.workload.global_batch *= layout.context;
  const Layout l = answering(layout);
  auto programme = std::make_shared<const Programme>(make_programme(own.model, l, own.workload, Pricer(own).orders(l)));
  inference_steps(*programme);  // complains of pipelines with two ways
  return programme;
}

Prepared prepare(const std::string& path, const Arguments& arguments) {
  PlanToRun plan = read_plan(path, arguments);
  const std::optional<LoneRank> alone = read_lone_rank(arguments, plan);
  const std::int64_t model_layers = cut_layers(arguments, plan);
  const Layout& layout = plan.priced.plans[0].layout;
  const auto ranks = layout.gpus();
  // Ranks of one machine: threads or processes of a core each.
  constexpr std::int64_t kMostRanks = 256;
  if (ranks > kMostRanks && !alone)
    throw InputError(
        fmt::format("{}: is for {} ranks; on one machine run takes no more than {}", path, ranks, kMostRanks));
  if (const auto given = arguments.find("--ranks"))
    if (const std::int64_t n = whole_number("--ranks", *given, 1, 1 << 20); n != ranks)
      throw InputError(fmt::format("--ranks: the plan is for {} ranks, got {}", ranks, n));
  if (arguments.has("--calibrate") && plan.measured_folder.empty())
    throw InputError("--calibrate: needs a machine that was measured: plan for the folder of shardwright profile");
  const std::string backend = read_backend(arguments);
  if (backend == "cuda") check_gpus(alone ? 1 : static_cast<int>(ranks));
  Pricer pricer(plan.request);
  try {
    Programme programme = make_programme(plan.request.model, layout, plan.request.workload, pricer.orders(layout));
    TrialQuestion question;
    question.backend = backend;
    if (const auto steps = arguments.find("--steps"))
      question.rounds = static_cast<int>(whole_number("--steps", *steps, 1, 1'000'000));
    if (const auto tokens = arguments.find("--decode")) {
      question.decode = static_cast<int>(whole_number("--decode", *tokens, 1, 4096));
      question.answers = answers_of(plan.request, layout);
    }
    question.options.seed = plan.seed;
    question.options.alone = alone;
    question.options.compute = plan.request.precision;
    question.watched_stage = alone ? programme.stage_of(alone->rank) : slowest_stage_of(plan);
    question.memory_limit = plan.request.machine.usable_memory();
    std::string not_checked = too_large_to_check(programme);
    if (alone) not_checked = "a rank that is alone computes with made-up numbers";
    return {std::move(plan), std::move(programme), question, std::move(not_checked), model_layers};
  } catch (const std::invalid_argument& e) { throw InputError(path + ": cannot be run: " + e.what()); }
}

/// A token is decoded behind the prompt and, in the mean, half of all decoded ones.
void add_predictions(InferenceTrial& inference, const PlanToRun& plan) {
  const Layout& layout = plan.priced.plans[0].layout;
  inference.predicted_prefill = forward_time(plan.request, layout, inference.prompt, 0);
  inference.predicted_decode = forward_time(plan.request, layout, 1, inference.prompt + inference.tokens / 2);
}

/// Tells the machine's folder what the trial says of it.
CalibrationReport calibrate_folder(const Prepared& p, const Trial& trial) {
  CalibrationReport report;
  report.file = calibration_file_in(p.plan.measured_folder);
  if (!trial.equal()) report.refused = "the run was not right";
  if (!trial.step) report.refused = "all of its rounds are void";
  if (!report.refused.empty()) return report;
  const Layout& layout = p.plan.priced.plans[0].layout;
  report.run = calibrate(p.plan.request, layout, p.question.watched_stage, trial, today());
  report.refused = beyond_calibration(report.run.found);
  if (report.refused.empty() && !report.run.found.empty()) write_file(report.file, to_yaml(report.run.calibration));
  return report;
}

int answer(const Prepared& p, Trial trial, const Arguments& arguments) {
  trial.not_checked = p.not_checked;
  Pricer pricer(p.plan.request);
  add_predictions(trial, pricer.operator_times(p.plan.priced.plans[0].layout, p.question.watched_stage));
  if (trial.inference) add_predictions(*trial.inference, p.plan);
  std::optional<CalibrationReport> calibration;
  if (arguments.has("--calibrate")) calibration = calibrate_folder(p, trial);
  const TrialReport report = {p.plan.priced,
                              std::move(trial),
                              p.plan.seed,
                              p.plan.digest,
                              static_cast<int>(std::thread::hardware_concurrency()),
                              p.question.watched_stage,
                              std::move(calibration),
                              p.model_layers,
                              p.plan.request.model.n_routed_experts > 0,
                              p.plan.asked};
  write_answer(arguments, trial_text(report, stdout_style()), trial_json(report));
  const auto& inference = report.trial.inference;
  const bool answers = !inference || !inference->checked || inference->equal;
  const bool calibrated = !report.calibration || report.calibration->refused.empty();
  return report.trial.equal() && answers && calibrated ? kDone : kNothingFits;
}

Trial run_here(const Prepared& p, Communicator& world, OneRank one_rank, StatusBoard* board) {
  if (p.question.backend != "cuda")
    return run_trial(p.programme, world, p.question, std::move(one_rank), steady_clock(), board);
  const int gpus = cuda::library().gpus();
  const auto gpu = cuda::library().open(is_mpi_rank() ? cuda::gpu_of_rank(gpus) : world.rank());
  const auto ranks = gpu->communicator(world);
  TrialQuestion question = p.question;
  question.operators = &gpu->operators();
  question.device_memory = [&] { return gpu->taken(); };
  return run_trial(p.programme, *ranks, question, std::move(one_rank), steady_clock(), board);
}

OneRank reference_of(const Prepared& p) {
  if (!p.not_checked.empty()) return nullptr;
  return std::make_shared<const std::vector<StepResult>>(run_on_one_rank(p.programme, p.question.options, 2));
}

int run_as_threads(const Prepared& p, const Arguments& arguments) {
  const auto ranks = static_cast<std::size_t>(p.programme.ranks());
  std::vector<OneRank> one_rank(ranks, reference_of(p));  // each lets go of its own
  Trial trial;
  try {
    run_on_threads(static_cast<int>(p.programme.ranks()), [&](Communicator& world) {
      Trial found = run_here(p, world, std::move(one_rank[static_cast<std::size_t>(world.rank())]), nullptr);
      if (world.rank() == 0) trial = std::move(found);
    });
  } catch (const std::runtime_error& e) { fail(e.what()); }
  return answer(p, std::move(trial), arguments);
}

int run_alone(const Prepared& p, const Arguments& arguments) {
  Trial trial;
  try {
    trial = run_here(p, *make_alone_communicator(), nullptr, nullptr);
  } catch (const std::runtime_error& e) { fail(e.what()); }
  return answer(p, std::move(trial), arguments);
}

/// This process is one of the ranks.
int run_as_rank(const Prepared& p, const Arguments& arguments) {
  const std::unique_ptr<Communicator> world = mpi_world();
  if (world->size() != p.programme.ranks()) {
    if (world->rank() == 0)
      std::fprintf(stderr, "run: the plan is for %d ranks, %d were started\n", static_cast<int>(p.programme.ranks()),
                   world->size());
    return kInputWrong;
  }
  std::unique_ptr<StatusBoard> board;
  int code = kDone;
  try {
    if (const char* path = std::getenv(kBoardVariable)) {
      board = std::make_unique<StatusBoard>(StatusBoard::open(path));
      board->be(world->rank());
      board->doing("the proof's reference on one rank");
    }
    Trial trial = run_here(p, *world, reference_of(p), board.get());
    if (world->rank() == 0) code = answer(p, std::move(trial), arguments);
  } catch (const std::exception& e) {
    // Where somebody watches, that one tells and ends all.
    if (board) {
      board->end(StatusBoard::State::failed, e.what());
      std::this_thread::sleep_for(std::chrono::seconds(5));
    }
    std::fprintf(stderr, "run: %s\n", e.what());
    mpi_abort(kMachineFailed);
    return kMachineFailed;
  }
  world->barrier();
  if (board) board->end(StatusBoard::State::done, "");
  return code;
}

std::vector<std::string> words_of(const std::string& plan, const Arguments& arguments) {
  std::vector<std::string> words = {own_path(), "run", plan};
  for (const auto& [option, value] : arguments.options) {
    if (option == "--communicator" || option == "--plan" || option == "--run") continue;
    words.push_back(option);
    if (!value.empty()) words.push_back(value);
  }
  return words;
}

int run(const Arguments& arguments) { return run_plan(arguments.positionals[0], arguments); }

}  // namespace

int run_plan(const std::string& path, const Arguments& arguments) {
  const std::string by = arguments.find("--communicator").value_or("any");
  if (by != "any" && by != "mpi" && by != "threads")
    throw InputError(fmt::format("--communicator: must be one of mpi, threads, got '{}'", shown(by)));
  const Prepared p = prepare(path, arguments);
  if (p.question.options.alone) return run_alone(p, arguments);
  if (is_mpi_rank()) return run_as_rank(p, arguments);
  const std::string missing =
      mpi_missing().empty() && mpirun_path().empty() ? "there is no mpirun on PATH" : mpi_missing();
  if (by == "mpi" && !missing.empty()) fail(missing);
  if (by == "threads" || !missing.empty()) return run_as_threads(p, arguments);
  std::vector<std::string> command = mpirun_command(static_cast<int>(p.programme.ranks()), words_of(path, arguments));
  if (mpi_version().starts_with("Open MPI")) command.insert(command.begin() + 1, "--quiet");
  // The ranks' output goes through mpirun, which shows them a terminal whatever it goes to.
  if (isatty(STDOUT_FILENO) == 0) setenv("NO_COLOR", "1", 1);
  const Supervised ended = supervise(command, static_cast<int>(p.programme.ranks()));
  if (!ended.failure.empty()) fail(ended.failure);
  return ended.exit_code;
}

std::vector<Option> run_at_once_options() {
  std::vector<Option> options = {{"--run", "", "run the first plan on this machine, too"},
                                 {"--trial", "FILE", "with --run: write that as JSON there", Completes::files}};
  for (const Option& option : running_options()) options.push_back(option);
  return options;
}

int run_at_once(const Arguments& arguments, const PlanRequest& request, const PlanResult& result) {
  Arguments of_run;
  for (const char* option :
       {"--backend", "--ranks", "--steps", "--decode", "--calibrate", "--communicator", "--measurements", "--threads"})
    if (const auto value = arguments.find(option)) of_run.options[option] = *value;
  if (const auto trial = arguments.find("--trial")) of_run.options["--json"] = *trial;
  if (const auto plan = arguments.find("--plan")) return run_plan(*plan, of_run);
  // Ranks are processes of their own, which read the plan from a file.
  std::string path = (std::filesystem::temp_directory_path() / "shardwright-plan-XXXXXX").string();
  const int file = ::mkstemp(path.data());
  if (file < 0) fail(fmt::format("cannot make a file for the plan, '{}': {}", path, std::strerror(errno)));
  ::close(file);
  struct Removed {
    const std::string& path;
    ~Removed() { ::unlink(path.c_str()); }
  } const removed{path};
  Arguments written = arguments;
  written.options["--plan"] = path;
  write_plan(written, request, result);
  return run_plan(path, of_run);
}

std::vector<Option> running_options() {
  return {backend_option(),
          {"--ranks", "N", "ranks of this machine: as many as the plan has"},
          {"--steps", "K", "rounds that are timed (default 5)"},
          {"--decode", "N", "then prefill a prompt and decode N tokens"},
          {"--calibrate", "", "tell the measured machine what its kernels took"},
          {"--communicator",
           "NAME",
           "mpi or threads (default: mpi where it is found)",
           Completes::words,
           {"mpi", "threads"}}};
}

Command run_command() {
  Command command{
      "run",
      "run a plan on this machine: prove it, time it, compare",
      {"plan tiny.yaml this-machine --gpus 2 --precision fp32 \\\n    --sequence-length 256 --global-batch 8 "
       "--plan plan.json\n  shardwright run plan.json --ranks 2 --json trial.json",
       "estimate deepseek-v3 measured-gpu --gpus 64 --precision bf16 \\\n    "
       "--layout ep=64,dp=64,dispatcher=alltoall --sequence-length 4096 \\\n    "
       "--global-batch 64 --plan large.json\n  shardwright run large.json --rank-of-n 5/64 --layers 5 --backend cuda"},
      {{"PLAN", "a file of plan --plan, or of --json", true, false, Completes::files, {}}},
      running_options(),
      run};
  command.options.push_back({"--rank-of-n", "R/N", "one rank of N alone; communication is priced"});
  command.options.push_back({"--layers", "N", "with that: only N layers of each pipeline chunk"});
  command.options.push_back(measurements_option());
  command.options.push_back(json_option());
  command.options.push_back(threads_option());
  return command;
}

}  // namespace shardwright
