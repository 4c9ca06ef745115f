#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>

#include "hardware/input_error.h"
#include "hardware/input_file.h"
#include "hardware/measured_times.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/mpi/mpi_ranks.h"
#include "kernels/threads/threads_communicator.h"
#include "planner/cli/backend_option.h"
#include "planner/cli/commands.h"
#include "planner/cli/line_file.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/cli/plan_file.h"
#include "planner/pricer.h"
#include "profiler/cpu_facts.h"
#include "profiler/gpu_facts.h"
#include "profiler/profile.h"
#include "profiler/wanted.h"
#include "reports/json.h"
#include "reports/profile_text.h"

namespace shardwright {
namespace {

namespace fs = std::filesystem;

constexpr int kMostRanks = 1024;
constexpr std::size_t kLongestList = std::size_t{64} << 20;

// ---- Interrupts: the kernel that runs is finished, then the tables are written ----

volatile sig_atomic_t interrupted = 0;
void interrupt(int signal) { interrupted = signal; }

class InterruptsNoted {
 public:
  InterruptsNoted() {
    struct sigaction action = {};
    action.sa_handler = interrupt;
    for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
  }
  ~InterruptsNoted() {
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
  }
};

// ---- What is asked ----

/// Where the kernels come from: one of these, or the general grid. A plan's model is of the catalog, or --model's.
constexpr std::array<const char*, 3> kSources = {"--for", "--model", "--unmeasured"};

struct ProfileOptions {
  std::string backend = "cpu";
  int ranks = 1;
  std::string out;
  std::string source;  // one of kSources, or ""
  std::string given;   // its value
  bool shared = false, hot = false;
  Seconds most = StoppingRule().longest;  // on one kernel
};

ProfileOptions read_options(const Arguments& arguments) {
  ProfileOptions options;
  options.backend = read_backend(arguments);
  if (const auto ranks = arguments.find("--ranks"))
    options.ranks = static_cast<int>(whole_number("--ranks", *ranks, 1, kMostRanks));
  const auto out = arguments.find("--out");
  if (!out) throw InputError("--out: is missing: the folder to write, e.g. --out measured-here");
  options.out = *out;
  options.shared = arguments.has("--shared");
  options.hot = arguments.has("--hot");
  if (const auto most = arguments.find("--seconds")) options.most = {positive_number("--seconds", *most, 3600)};
  for (const char* source : kSources) {
    if (!arguments.has(source)) continue;
    if (options.source == "--for" && source == std::string_view("--model")) continue;
    if (!options.source.empty()) throw InputError(fmt::format("{}: cannot stand beside {}", source, options.source));
    options.source = source;
    options.given = *arguments.find(source);
  }
  if (options.source.empty() || options.source == "--unmeasured")
    for (const char* option : {"--sequence-length", "--global-batch"})
      if (arguments.has(option)) throw InputError(fmt::format("{}: is of a plan: give --model, too", option));
  return options;
}

/// The question about a model or a plan, on the machine that is measured: its facts alone, or with what is measured.
PlanRequest question(const Arguments& arguments, const ProfileOptions& options, bool with_tables) {
  Arguments asked;
  for (const Option& option : question_options())
    if (const auto value = arguments.find(option.name)) asked.options[option.name] = *value;
  asked.positionals = {options.given, ""};
  if (options.source == "--for") {
    asked = arguments_of_plan(std::move(asked), options.given);
    if (const auto model = arguments.find("--model")) asked.positionals[0] = *model;
  }
  asked.positionals[1] = with_tables ? options.out : machine_file_in(options.out);
  asked.options.try_emplace("--gpus", std::to_string(options.ranks));
  asked.options.try_emplace("--precision", options.backend == "cuda" ? "bf16" : "fp32");
  PlanRequest request = read_question(asked);
  if (const auto layout = asked.find("--layout")) request.pins = parse_layout(*layout, "--layout");
  return request;
}

// ---- The folder ----

class Folder {
 public:
  explicit Folder(const std::string& path) : path_(made(path)), journal_(path + "/rows.txt") {
    rows_ = read_journal(journal_.text(), path + "/rows.txt");
    const bool ours = journal_head().starts_with(journal_.torn()) || !journal_.text().empty();
    if (!ours) throw InputError(fmt::format("{}/rows.txt:1: is not a line of a profile", path));
    journal_.drop_torn();
    if (journal_.text().empty()) journal_.append(journal_head());
  }

  const std::map<std::string, JournalRow>& rows() const { return rows_; }
  bool has_machine() const { return fs::exists(machine_file_in(path_)); }
  void write_machine(const std::string& text) const { write_file(machine_file_in(path_), text); }

  /// `condition`: what the device was like meanwhile; "" where nobody watched.
  void add(const JournalRow& row, const std::string& condition) {
    if (!condition.empty()) {
      if (!conditions_) conditions_ = std::make_unique<LineFile>(path_ + "/conditions.txt");
      conditions_->append(fmt::format("{}\t{}\n", to_string(row.spec), condition));
    }
    const std::string line = journal_line(row);
    journal_.append(line);
    journal_.sync();
    // As whoever goes on will read it: the tables are the same then.
    rows_.insert_or_assign(to_string(row.spec), read_journal(journal_head() + line, "row").begin()->second);
  }

  /// Whether there is a row of every family that has one.
  bool write_tables() const {
    const Measurements tables = tables_of(rows_, fmt::format("shardwright {}", version()));
    for (int i = 0; i < kKernelFamilies; ++i) {
      const KernelTable& table = tables.table(static_cast<KernelFamily>(i));
      if (table.size() > 0)
        write_file((fs::path(path_) / fmt::format("{}.csv", name_of(table.family()))).string(),
                   kernel_table_csv(table));
    }
    return tables.size() > 0;
  }

  /// Those of `list` that have no row, but for a reason that may have passed.
  std::vector<KernelSpec> missing(const std::vector<KernelSpec>& list) const {
    std::vector<KernelSpec> left;
    for (const KernelSpec& spec : list)
      if (!rows_.contains(to_string(spec))) left.push_back(spec);
    return left;
  }
  std::vector<KernelSpec> known() const {
    std::vector<KernelSpec> specs;
    for (const auto& [text, row] : rows_) specs.push_back(row.spec);
    return specs;
  }

 private:
  static const std::string& made(const std::string& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (!fs::is_directory(path)) throw OutputError(fmt::format("cannot make the folder '{}'", path));
    return path;
  }

  std::string path_;
  LineFile journal_;
  std::unique_ptr<LineFile> conditions_;
  std::map<std::string, JournalRow> rows_;
};

// ---- Measuring ----

/// "120 of 300 kernels, about 3 min left"
std::string progress_text(const ProfileProgress& p) {
  std::string text = fmt::format("{} of {} kernels", p.done, p.all);
  if (p.done == 0) return text;
  const double left = p.taken.value / static_cast<double>(p.done) * static_cast<double>(p.all - p.done);
  return text +
         (left < 90 ? fmt::format(", about {:.0f} s left", left) : fmt::format(", about {:.0f} min left", left / 60));
}

/// What is measured: a core a rank, or a GPU.
class Measured {
 public:
  virtual ~Measured() = default;
  virtual Backend& backend() = 0;
  virtual KernelSpec reference() const = 0;
  virtual StoppingRule rule() const = 0;
  virtual std::vector<KernelSpec> grid() const = 0;
  virtual std::string machine() const = 0;  // its name
  virtual int ranks() const = 0;            // as its file says them; 0: whatever it says
  /// machine.yaml, from what is measured now. All ranks call.
  virtual std::string measure(Measurer& measurer) = 0;
};

class MeasuredCores final : public Measured {
 public:
  MeasuredCores(const ProfileOptions& options, Communicator& ranks)
      : ranks_(ranks),
        facts_(system_facts(options.ranks)),
        backend_(make_cpu_backend(ranks, options.hot ? Bytes{} : twice_the_cache())) {}
  Backend& backend() override { return *backend_; }
  KernelSpec reference() const override { return cpu_reference_kernel(); }
  StoppingRule rule() const override { return {}; }
  std::vector<KernelSpec> grid() const override { return general_grid(DataType::fp32, facts_.ranks); }
  std::string machine() const override { return machine_name(facts_); }
  int ranks() const override { return facts_.ranks; }
  std::string measure(Measurer& measurer) override {
    measure_facts(facts_, measurer, ranks_);
    const std::string libraries = fmt::format("{}; {}; shardwright {}", backend_->library(KernelFamily::gemm),
                                              ranks_.size() > 1 ? mpi_version() : "one rank", version());
    return machine_yaml(facts_, today(), libraries);
  }

 private:
  Communicator& ranks_;
  CpuFacts facts_;
  std::unique_ptr<Backend> backend_;
};

class MeasuredGpus final : public Measured {
 public:
  MeasuredGpus(const ProfileOptions& options, Communicator& ranks)
      : ranks_(ranks),
        gpu_(cuda::library().open(cuda::gpu_of_rank(cuda::library().gpus()))),
        backend_(make_cuda_backend(*gpu_, ranks, options.hot ? Bytes{} : gpu_->facts().l2 + gpu_->facts().l2)) {}
  Backend& backend() override { return *backend_; }
  KernelSpec reference() const override { return gpu_reference_kernel(); }
  StoppingRule rule() const override {
    StoppingRule rule;
    rule.round = {1e-3};  // events tell about half a microsecond
    return rule;
  }
  std::vector<KernelSpec> grid() const override { return gpu_grid(ranks_.size()); }
  std::string machine() const override { return machine_name(gpu_->facts()); }
  int ranks() const override { return 0; }
  std::string measure(Measurer& measurer) override {
    return machine_yaml(measure_gpu(*gpu_, measurer, ranks_), today(), fmt::format("shardwright {}", version()));
  }

 private:
  Communicator& ranks_;
  std::unique_ptr<cuda::Gpu> gpu_;
  std::unique_ptr<Backend> backend_;
};

std::unique_ptr<Measured> make_measured(const ProfileOptions& options, Communicator& ranks) {
  if (options.backend == "cuda") return std::make_unique<MeasuredGpus>(options, ranks);
  return std::make_unique<MeasuredCores>(options, ranks);
}

/// One profile, on all ranks; the folder is the first's.
class Profile {
 public:
  Profile(const Arguments& arguments, const ProfileOptions& options, Communicator& ranks)
      : arguments_(arguments),
        options_(options),
        ranks_(ranks),
        measured_(make_measured(options, ranks)),
        measurer_(measured_->backend(), ranks, steady_clock(), rule(), measured_->reference()) {
    if (ranks.rank() == 0) folder_ = std::make_unique<Folder>(options.out);
  }

  int run() {
    measure_machine();
    // A plan's kernels are asked for once; what a model's plans ask for changes with what is known.
    constexpr int kMostRounds = 12;
    bool all = true;
    for (int round = 0; all && round < kMostRounds; ++round) {
      std::vector<KernelSpec> list;
      if (folder_) list = next_list();
      const std::string any = told_by_first(ranks_, list.empty() ? "" : "some");
      if (any.empty()) break;
      all = profile_kernels(list, measurer_, measured_->backend(), ranks_, steady_clock(), listener());
      if (folder_) folder_->write_tables();
    }
    return folder_ ? answer() : kDone;
  }

 private:
  StoppingRule rule() const {
    StoppingRule rule = measured_->rule();
    rule.void_rounds = !options_.shared;
    rule.longest = options_.most;
    return rule;
  }

  void measure_machine() {
    const bool first = folder_ != nullptr;
    const std::string there = told_by_first(ranks_, first && folder_->has_machine() ? "yes" : "");
    if (there.empty()) {
      if (first) progress("measuring the machine itself");
      const std::string text = measured_->measure(measurer_);
      if (first) folder_->write_machine(text);
    }
    if (!first) return;
    const Machine machine = find_machine(options_.out);
    if (machine.name != measured_->machine())
      throw InputError(fmt::format("--out: '{}' is of {}, this is {}: name another folder", shown(options_.out),
                                   machine.name, measured_->machine()));
    if (measured_->ranks() != 0 && machine.gpus_per_node != measured_->ranks())
      throw InputError(fmt::format("--out: '{}' is of {} with {} ranks, this is {} with {}: name another folder",
                                   shown(options_.out), machine.name, machine.gpus_per_node, measured_->machine(),
                                   measured_->ranks()));
  }

  std::vector<KernelSpec> next_list() {
    if (options_.source == "--unmeasured")
      return folder_->missing(read_kernel_list(read_file(options_.given, kLongestList), options_.given));
    if (options_.source.empty()) return folder_->missing(measured_->grid());
    const PlanRequest request = question(arguments_, options_, folder_->write_tables());
    const PlanResult result = options_.source == "--for" ? estimate(request) : plan(request);
    return wanted_kernels(request, result, folder_->known());
  }

  ProfileListener listener() {
    ProfileListener listener;
    listener.row = [this](const JournalRow& row) {
      folder_->add(row, measured_->backend().condition());
      const Seconds now = steady_clock().now();
      constexpr Seconds kOften = {10};
      if (now - tables_written_ < kOften) return;
      tables_written_ = now;
      folder_->write_tables();
    };
    listener.progress = [](const ProfileProgress& p) { progress(progress_text(p)); };
    listener.stop = [] { return interrupted != 0; };
    return listener;
  }

  int answer() {
    progress("");
    const std::string machine = measured_->machine();
    if (interrupted != 0)
      write_stdout(fmt::format("interrupted with {} kernels; the same command goes on\n", folder_->rows().size()));
    else
      write_answer(arguments_, profile_text(folder_->rows(), options_.out, machine),
                   profile_json(folder_->rows(), machine));
    const auto measured = [](const auto& row) { return std::holds_alternative<MeasuredKernel>(row.second.answer); };
    return std::any_of(folder_->rows().begin(), folder_->rows().end(), measured) ? kDone : kNothingFits;
  }

  const Arguments& arguments_;
  const ProfileOptions& options_;
  Communicator& ranks_;
  std::unique_ptr<Measured> measured_;
  Measurer measurer_;
  std::unique_ptr<Folder> folder_;  // of the first rank
  Seconds tables_written_ = steady_clock().now();
};

// ---- Ranks ----

/// The command line of a rank: this one's.
std::vector<std::string> words_of(const Arguments& arguments) {
  std::vector<std::string> words = {own_path(), "profile"};
  for (const auto& [name, value] : arguments.options) {
    words.push_back(name);
    if (!value.empty()) words.push_back(value);
  }
  return words;
}

/// Everything that can be wrong with the question, before there are ranks to say it all at once.
void check_question(const ProfileOptions& options) {
  if (options.source == "--unmeasured") read_kernel_list(read_file(options.given, kLongestList), options.given);
  if (options.source == "--model") find_model(options.given);
  if (options.backend == "cuda") check_gpus(options.ranks);
  if (options.ranks == 1) return;
  if (const std::string missing = mpi_missing(); !missing.empty())
    throw InputError(fmt::format("--ranks: more than one rank needs MPI: {}", missing));
  if (mpirun_path().empty()) throw InputError("--ranks: more than one rank needs mpirun, which is not on PATH");
}

int run_as_rank(const Arguments& arguments, const ProfileOptions& options) {
  const auto world = mpi_world();
  if (world->size() != options.ranks)
    throw InputError(fmt::format("--ranks: {} were asked for, {} were started", options.ranks, world->size()));
  const auto complain = [&](const char* what, int code) {
    std::fprintf(stderr, "%s\n", what);
    mpi_abort(code);
    return code;
  };
  try {
    return Profile(arguments, options, *world).run();
  } catch (const InputError& error) {
    return complain(error.what(), kInputWrong);
  } catch (const std::exception& error) { return complain(error.what(), kMachineFailed); }
}

int run(const Arguments& arguments) {
  const ProfileOptions options = read_options(arguments);
  if (options.ranks > 1 && !is_mpi_rank()) {
    check_question(options);
    if (::isatty(STDERR_FILENO) == 1) setenv("SHARDWRIGHT_TERMINAL", "1", 1);
    become(mpirun_command(options.ranks, words_of(arguments)));
  }
  int code = kDone;
  {
    const InterruptsNoted noted;
    if (is_mpi_rank()) {
      code = run_as_rank(arguments, options);
    } else {
      check_question(options);
      code = Profile(arguments, options, *make_alone_communicator()).run();
    }
  }
  if (interrupted != 0) ::raise(interrupted);
  return code;
}

}  // namespace

Command profile_command() {
  Command command{
      "profile",
      "measure this machine's kernels, for plans to go by",
      {"profile --out measured-here   # a general grid; goes on if stopped",
       "profile --model MODEL.yaml --ranks 2 --sequence-length 256 \\\n    --global-batch 8 --out measured-here",
       "profile --for plan.json --ranks 2 --out measured-here", "profile --unmeasured todo.txt --out measured-here",
       "profile --backend cuda --model MODEL.yaml --ranks 8 \\\n    --sequence-length 4096 --global-batch 64 --out "
       "measured-gpus"},
      {},
      {backend_option(),
       {"--model", "MODEL", "what the plans of a model on --ranks need", Completes::words, model_names()},
       {"--for", "PLAN.json", "what this plan needs (plan --json)", Completes::files},
       {"--unmeasured", "LIST", "these kernels (plan --unmeasured)", Completes::files},
       {"--ranks", "N", "cores or GPUs at once, each a process"},
       {"--out", "DIR", "the measured machine: facts and tables", Completes::files},
       {"--seconds", "S", "at most on one kernel (default 3)"},
       {"--hot", "", "runs find their numbers in the caches"},
       {"--shared", "", "measure though others use the machine"}},
      run};
  for (const Option& option : question_options())
    if (option.name != "--gpus" && option.name != "--measurements") command.options.push_back(option);
  command.options.push_back(json_option());
  return command;
}

}  // namespace shardwright
