#include "planner/cli/run_options.h"

#include <fmt/format.h>

#include <map>
#include <string_view>

#include "hardware/input_error.h"
#include "planner/cli/options.h"

namespace shardwright {
namespace {

constexpr double kMostTokensOfRun = 1e18, kMostPrice = 1e6, kMostExperiments = 1e6, kMostHours = 1e12,
                 kMostSeconds = 1e9, kMostGigabits = 1e9, kMostDays = 1e6, kMostBudget = 1e15;

/// "14.8T", "300B", "500M" or plain.
double read_tokens(const std::string& text) {
  static const std::map<char, double> units = {{'K', 1e3}, {'M', 1e6}, {'B', 1e9}, {'T', 1e12}};
  const auto unit = text.empty() ? units.end() : units.find(text.back());
  if (unit == units.end()) return positive_number("--tokens", text, kMostTokensOfRun);
  try {
    return unit->second * positive_number("--tokens", text.substr(0, text.size() - 1), kMostTokensOfRun / unit->second);
  } catch (const InputError&) {
    return positive_number("--tokens", text, kMostTokensOfRun);  // complains of the whole
  }
}

std::optional<double> number_of(const Arguments& arguments, const char* flag, double high) {
  const auto text = arguments.find(flag);
  return text ? std::optional(positive_number(flag, *text, high)) : std::nullopt;
}

void read_failures(const Arguments& arguments, const PlanRequest& request, RunQuestion& run) {
  run.mtbf_hours = number_of(arguments, "--mtbf-hours", kMostHours);
  const auto checkpoint = number_of(arguments, "--checkpoint-seconds", kMostSeconds);
  const auto storage = number_of(arguments, "--storage-gbps", kMostGigabits);
  const auto restart = number_of(arguments, "--restart-seconds", kMostSeconds);
  if (!run.mtbf_hours) {
    for (const char* flag : {"--checkpoint-seconds", "--storage-gbps", "--restart-seconds"})
      if (arguments.has(flag)) throw InputError(fmt::format("{}: needs --mtbf-hours, how often a GPU fails", flag));
    return;
  }
  if (checkpoint && storage) throw InputError("--storage-gbps: contradicts --checkpoint-seconds");
  if (!checkpoint && !storage)
    throw InputError("--mtbf-hours: needs --checkpoint-seconds, or --storage-gbps to find them from");
  run.checkpoint = checkpoint ? Seconds{*checkpoint}
                              : checkpoint_bytes(request.model, request.workload) / BytesPerSecond{*storage * 1e9 / 8};
  run.restart = {restart.value_or(0)};
}

}  // namespace

std::vector<Option> run_options() {
  return {{"--tokens", "COUNT", "what a run over so many takes: 14.8T, 300B"},
          {"--gpu-hour-price", "PRICE", "of one GPU for an hour, in your currency"},
          {"--experiments", "X", "all that is run, in such runs (default 1)"},
          {"--mtbf-hours", "H", "a GPU fails every H hours (Llama 3: 50676)"},
          {"--checkpoint-seconds", "S", "training waits so long for a checkpoint"},
          {"--storage-gbps", "RATE", "or: of all storage together, in gigabits a second"},
          {"--restart-seconds", "S", "from a failure until training goes on"}};
}

std::optional<RunQuestion> read_run(const Arguments& arguments, PlanRequest& request) {
  if (const auto price = number_of(arguments, "--gpu-hour-price", kMostPrice))
    request.machine.price_per_gpu_hour = *price;
  const auto tokens = arguments.find("--tokens");
  if (!tokens) {
    for (const char* flag : {"--experiments", "--mtbf-hours", "--checkpoint-seconds", "--storage-gbps",
                             "--restart-seconds", "--deadline-days", "--budget"})
      if (arguments.has(flag)) throw InputError(fmt::format("{}: needs --tokens, how long the run is", flag));
    return std::nullopt;
  }
  RunQuestion run;
  run.tokens = read_tokens(*tokens);
  run.price_per_gpu_hour = request.machine.price_per_gpu_hour;
  run.experiments = number_of(arguments, "--experiments", kMostExperiments).value_or(1);
  read_failures(arguments, request, run);
  return run;
}

void add_run(const std::optional<RunQuestion>& question, PlanResult& result) {
  if (!question || result.plans.empty() || !result.plans[0].fits) return;
  result.run = run_cost(*question, result.gpus, result.workload.tokens_per_step(), result.plans[0].prediction->step);
}

std::vector<Option> goal_options() {
  return {{"--deadline-days", "D", "find the fewest GPUs that run --tokens in D days"},
          {"--budget", "AMOUNT", "find the fewest GPUs whose run costs no more"},
          {"--longest-sequence", "", "find the longest that fits, in multiples of that"}};
}

std::optional<RunGoal> read_goal(const Arguments& arguments, const std::optional<RunQuestion>& run) {
  const auto days = number_of(arguments, "--deadline-days", kMostDays);
  const auto budget = number_of(arguments, "--budget", kMostBudget);
  if (!days && !budget) return std::nullopt;
  const char* flag = days ? "--deadline-days" : "--budget";
  if (arguments.has("--gpus")) throw InputError(fmt::format("--gpus: contradicts {}, which finds their number", flag));
  if (arguments.has("--longest-sequence")) throw InputError(fmt::format("--longest-sequence: contradicts {}", flag));
  if (budget && !run->price_per_gpu_hour)
    throw InputError("--budget: needs --gpu-hour-price: the machine has no price of its own");
  return RunGoal{*run, days, budget};
}

}  // namespace shardwright
