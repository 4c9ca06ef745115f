#include "planner/cli/serve_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <set>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "reports/prediction_text.h"
#include "reports/serve_explain_text.h"
#include "reports/serve_json.h"
#include "reports/serve_text.h"

namespace shardwright {
namespace {

constexpr std::int64_t kMostClients = std::int64_t{1} << 24, kMostServeGpus = 4096;

/// What only one of the two kinds of question has.
constexpr std::array<const char*, 20> kOfServing = {"--isl",
                                                    "--osl",
                                                    "--concurrency",
                                                    "--moe-precision",
                                                    "--kv-precision",
                                                    "--mtp-tokens",
                                                    "--mtp-acceptance",
                                                    "--max-ttft",
                                                    "--max-tpot",
                                                    "--requests-per-second",
                                                    "--arrivals",
                                                    "--lengths",
                                                    "--requests",
                                                    "--seed",
                                                    "--slo",
                                                    "--cached-prefix",
                                                    "--phase",
                                                    "--prefill-machine",
                                                    "--prefill-gpus",
                                                    "--prefill-gpu-hour-price"};
constexpr std::array<const char*, 26> kOfTraining = {
    "--train",           "--sequence-length", "--global-batch",  "--cuda-graphs", "--expert-load",
    "--capacity-factor", "--tokens",          "--experiments",   "--mtbf-hours",  "--checkpoint-seconds",
    "--storage-gbps",    "--restart-seconds", "--deadline-days", "--budget",      "--longest-sequence",
    "--trace",           "--unmeasured",      "--plan",          "--run",         "--trial",
    "--ranks",           "--steps",           "--communicator",  "--schedules",   "--calibrate",
    "--operators"};

template <typename Format, std::size_t n, typename Named>
Format read_format(const Arguments& arguments, const char* flag, const std::array<Format, n>& all, Format otherwise,
                   const Named& named) {
  const auto text = arguments.find(flag);
  if (!text) return otherwise;
  if (const auto format = named(*text)) return *format;
  std::vector<std::string_view> words;
  for (const Format f : all) words.push_back(name_of(f));
  throw InputError(fmt::format("{}: must be one of {}, got '{}'{}", flag, fmt::join(words, ", "), shown(*text),
                               did_you_mean(*text, words)));
}

void check_formats(const Machine& machine, const ServeFormats& formats) {
  for (const auto& [flag, format] : {std::pair{"--precision", formats.weights}, {"--moe-precision", formats.experts}})
    if (!supports(machine, format))
      throw InputError(
          fmt::format("{}: {} does not compute in {}", flag, machine.name, name_of(product_format(format).compute)));
}

/// The pool on another kind of machine, where there is one.
std::optional<PrefillPool> read_prefill_pool(const Arguments& arguments, const ServeRequest& request) {
  const auto machine = arguments.find("--prefill-machine"), gpus = arguments.find("--prefill-gpus");
  if (!machine) {
    for (const char* flag : {"--prefill-gpus", "--prefill-gpu-hour-price"})
      if (arguments.has(flag)) throw InputError(fmt::format("{}: needs --prefill-machine", flag));
    return std::nullopt;
  }
  if (request.pins.disaggregated && !*request.pins.disaggregated)
    throw InputError("--prefill-machine: contradicts serving=aggregated");
  if (request.load && !request.gpus)
    throw InputError("--prefill-machine: needs --gpus, those that decode: the fewest GPUs are of aggregated serving");
  PrefillPool pool{find_machine(*machine), 0};
  pool.gpus = gpus ? whole_number("--prefill-gpus", *gpus, 1, kMostServeGpus) : pool.machine.gpus_per_node;
  if (const auto price = arguments.find("--prefill-gpu-hour-price"))
    pool.machine.price_per_gpu_hour = positive_number("--prefill-gpu-hour-price", *price, 1e6);
  check_formats(pool.machine, request.workload.formats);
  return pool;
}

std::optional<double> seconds_of(const Arguments& arguments, const char* flag) {
  const auto text = arguments.find(flag);
  return text ? std::optional(positive_number(flag, *text, 1e6)) : std::nullopt;
}

std::int64_t needed(const Arguments& arguments, const char* flag, const char* meaning, int example) {
  const auto text = arguments.find(flag);
  if (!text) throw InputError(fmt::format("{0}: is missing: {1}, e.g. {0} {2}", flag, meaning, example));
  return whole_number(flag, *text, 1, kMostTokens);
}

/// The load that options ask for, if they do.
std::optional<ServeLoad> read_load(const Arguments& arguments) {
  const auto rate = arguments.find("--requests-per-second"), arrivals = arguments.find("--arrivals");
  const bool trace = arrivals && *arrivals != "poisson";
  if (!rate && !trace) {
    for (const char* flag : {"--arrivals", "--lengths", "--requests", "--seed"})
      if (arguments.has(flag)) throw InputError(fmt::format("{}: needs --requests-per-second", flag));
    return std::nullopt;
  }
  ServeLoad load;
  if (trace) {
    for (const char* flag : {"--requests-per-second", "--lengths", "--requests", "--seed"})
      if (arguments.has(flag)) throw InputError(fmt::format("{}: the trace of --arrivals says that", flag));
    load.trace = read_arrivals(*arrivals);
    load.requests_per_second = means_of(load.trace).per_second;
    if (load.requests_per_second == 0) throw InputError(fmt::format("{}: all its requests come at once", *arrivals));
    return load;
  }
  load.requests_per_second = positive_number("--requests-per-second", *rate, 1e6);
  if (const auto lengths = arguments.find("--lengths")) load.lengths = parse_length_spread(*lengths, "--lengths");
  if (const auto n = arguments.find("--requests")) load.requests = whole_number("--requests", *n, 100, 10'000'000);
  if (const auto seed = arguments.find("--seed"))
    load.seed = static_cast<std::uint64_t>(whole_number("--seed", *seed, 0, std::int64_t{1} << 53));
  return load;
}

}  // namespace

std::vector<Option> serve_options() {
  std::vector<std::string> kv;
  for (const KvFormat f : kKvFormats) kv.emplace_back(name_of(f));
  std::vector<std::string> weights;
  for (const WeightFormat f : kWeightFormats) weights.emplace_back(name_of(f));
  return {{"--isl", "TOKENS", "tokens of a prompt"},
          {"--osl", "TOKENS", "tokens of its answer"},
          {"--concurrency", "C", "clients that each wait for their answer"},
          {"--moe-precision", "TYPE", "of the experts (default: --precision)", Completes::words, weights},
          {"--kv-precision", "TYPE", "of keys and values: bf16, fp8, int6, int4, ...", Completes::words, kv},
          {"--mtp-tokens", "K", "tokens proposed and checked in each step"},
          {"--mtp-acceptance", "A", "how often one of them is right: 0.85"},
          {"--cached-prefix", "SHARE", "of a prompt, whose keys are kept from before: 0.56"},
          {"--max-ttft", "S", "seconds until the first token, at most"},
          {"--max-tpot", "S", "seconds for each further token, at most"}};
}

std::vector<Option> load_options() {
  std::vector<std::string> goals;
  for (const GoalOf g : kGoalsOf) goals.emplace_back(name_of(g));
  return {{"--slo", "WHICH", "of which request: mean (default), p90, p99, ...", Completes::words, goals},
          {"--requests-per-second", "R", "a load, played; of a plan, for the fewest GPUs"},
          {"--arrivals", "A", "poisson (default), or a trace, a CSV file"},
          {"--lengths", "L", "fixed, exponential, uniform:W or lognormal:S"},
          {"--requests", "N", "how many are played (default: enough for p99)"},
          {"--seed", "N", "of arrivals and lengths (default 1)"}};
}

std::vector<Option> prefill_pool_options() {
  return {{"--prefill-machine", "MACHINE", "another one prefills; --gpus of this one decode", Completes::words,
           machine_names()},
          {"--prefill-gpus", "N", "how many of it (default: one node)"},
          {"--prefill-gpu-hour-price", "PRICE", "of one of them"}};
}

Option phase_option() {
  std::vector<std::string> phases;
  for (const ServePhase p : kServePhases) phases.emplace_back(name_of(p));
  return {"--phase", "PHASE", "both, or prefill or decode alone, as a pool's GPUs", Completes::words, phases};
}

void check_serve_mix(const Arguments& arguments) {
  if (arguments.has("--serve")) {
    for (const char* flag : kOfTraining)
      if (arguments.has(flag)) throw InputError(fmt::format("{}: belongs to training, not to --serve", flag));
    return;
  }
  for (const char* flag : kOfServing)
    if (arguments.has(flag)) throw InputError(fmt::format("{}: needs --serve", flag));
}

ServeRequest read_serve_question(const Arguments& arguments, const std::string& pins, const std::string& what) {
  ServeRequest request;
  ServeWorkload& w = request.workload;
  if (const auto gpus = arguments.find("--gpus")) request.gpus = whole_number("--gpus", *gpus, 1, kMostServeGpus);
  request.load = read_load(arguments);
  if (request.load && !request.load->trace.empty()) {
    for (const char* flag : {"--isl", "--osl"})
      if (arguments.has(flag))
        throw InputError(fmt::format("{}: the trace of --arrivals has lengths of its own", flag));
    const ArrivalMeans means = means_of(request.load->trace);
    w.isl = means.prompt;
    w.osl = means.answer;
  } else {
    w.isl = needed(arguments, "--isl", "tokens of a prompt", 1024);
    w.osl = needed(arguments, "--osl", "tokens of its answer", 256);
  }
  if (const auto c = arguments.find("--concurrency"))
    w.concurrency = whole_number("--concurrency", *c, 1, kMostClients);
  w.formats.weights = read_format(arguments, "--precision", kWeightFormats, WeightFormat::bf16, weight_format_named);
  w.formats.experts = read_format(arguments, "--moe-precision", kWeightFormats, w.formats.weights, weight_format_named);
  request.engine = find_serve_engine(arguments.find("--engine").value_or("vllm"), "--engine");
  w.formats.kv = read_format(arguments, "--kv-precision", kKvFormats, usual_kv(request.engine, w.formats.weights),
                             kv_format_named);
  if (const auto k = arguments.find("--mtp-tokens"))
    w.speculation.tokens = static_cast<int>(whole_number("--mtp-tokens", *k, 1, 8));
  if (const auto a = arguments.find("--mtp-acceptance")) {
    if (w.speculation.tokens == 0) throw InputError("--mtp-acceptance: needs --mtp-tokens");
    w.speculation.acceptance = positive_number("--mtp-acceptance", *a, 1);
  } else if (w.speculation.tokens > 0) {
    throw InputError("--mtp-tokens: needs --mtp-acceptance, how often a proposed token is right");
  }
  if (const auto share = arguments.find("--cached-prefix")) {
    w.cached_prefix = positive_number("--cached-prefix", *share, 1);
    if (w.cached_prefix >= 1) throw InputError("--cached-prefix: must be below 1: a share of a prompt is new");
  }
  if (w.cached_prefix > 0 && request.load)
    throw InputError("--cached-prefix: a load's prompts are all new in this version");
  w.phase = read_format(arguments, "--phase", kServePhases, ServePhase::both, serve_phase_named);
  if (w.phase != ServePhase::both && request.load) throw InputError("--phase: a load has both phases");
  if (w.phase == ServePhase::prefill && w.concurrency)
    throw InputError("--concurrency: prefill alone takes as many prompts as a step holds");
  if (w.phase == ServePhase::prefill && arguments.has("--max-tpot"))
    throw InputError("--max-tpot: prefill alone has only first tokens");
  if (w.phase == ServePhase::decode && arguments.has("--max-ttft"))
    throw InputError("--max-ttft: decode alone has no first tokens");
  request.goals = {seconds_of(arguments, "--max-ttft"), seconds_of(arguments, "--max-tpot"),
                   read_format(arguments, "--slo", kGoalsOf, GoalOf::mean, goal_of_named)};
  if (request.goals.of != GoalOf::mean && !request.load)
    throw InputError("--slo: percentiles are of a load: give --requests-per-second or --arrivals");
  if (request.load && w.concurrency) throw InputError("--concurrency: contradicts a load, which has its own");
  request.pins = parse_serve_layout(pins, what);
  request.prefill_pool = read_prefill_pool(arguments, request);
  if (request.prefill_pool) request.pins.disaggregated = true;
  if (request.load && !request.gpus && request.pins.disaggregated.value_or(false))
    throw InputError("--requests-per-second: the fewest GPUs are of aggregated serving; give --gpus for pools");
  if (request.pins.dp && request.pins.disaggregated.value_or(false))
    throw InputError("dp: copies of a layout; pools have workers, which the search finds");
  if (w.concurrency && request.pins.disaggregated.value_or(false))
    throw InputError("--concurrency: pools take as much as they bear; leave it out with serving=disaggregated");
  if (const auto top = arguments.find("--top")) request.top = static_cast<int>(whole_number("--top", *top, 1, 1000));
  request.threads = read_threads(arguments);
  request.model = find_model(arguments.positionals[0]);
  request.machine = find_machine(arguments.positionals[1]);
  if (const std::string lacking = unsupported(request.model); !lacking.empty())
    throw InputError(fmt::format("{}: not supported in this version: {}", shown(arguments.positionals[0]), lacking));
  check_formats(request.machine, w.formats);
  if (const auto price = arguments.find("--gpu-hour-price"))
    request.machine.price_per_gpu_hour = positive_number("--gpu-hour-price", *price, 1e6);
  request.machine.measured = read_all_measurements(arguments, request.machine);
  return request;
}

namespace {

/// The command line that asks for the first plan again: an estimate of its layout at its load; of pools, which no
/// estimate has, the plan. None without a plan.
std::vector<std::string> command_again(const Arguments& arguments, const ServeResult& result) {
  if (result.plans.empty()) return {};
  const ServedLayout& first = result.plans[0];
  static const std::set<std::string> replaced = {"--serve", "--gpus",    "--pin",  "--layout",     "--top",
                                                 "--json",  "--threads", "--html", "--concurrency"};
  std::vector<std::string> words = {"shardwright", first.pools ? "plan" : "estimate", quoted(arguments.positionals[0]),
                                    quoted(arguments.positionals[1]), "--serve"};
  for (const auto& [flag, value] : arguments.options)
    if (!replaced.contains(flag)) words.push_back(value.empty() ? flag : flag + " " + quoted(value));
  if (first.pools) {
    words.push_back(fmt::format("--gpus {}", result.gpus - (result.prefill_pool ? result.prefill_pool->gpus : 0)));
    words.push_back("--pin " + quoted(arguments.find("--pin").value_or("serving=disaggregated")));
    return words;
  }
  const bool fixed = result.load || result.workload.phase == ServePhase::prefill || !first.prediction;
  if (!fixed) words.push_back(fmt::format("--concurrency {}", first.prediction->concurrency));
  words.push_back("--layout " + to_string(first.layout));
  return words;
}

void write_serve_answer(const Arguments& arguments, const ServeRequest& request, const ServeResult& result) {
  const std::optional<ServeDetail> detail = detail_of_first(request, result);
  const std::vector<std::string> command = command_again(arguments, result);
  const std::string json = serve_result_json(result, detail, fmt::format("{}", fmt::join(command, " ")));
  write_html(arguments, {{arguments.positionals[0] + " on " + arguments.positionals[1], json}});
  write_answer(arguments, serve_text(request, result, detail, command, stdout_style()), json);
}

}  // namespace

int run_plan_serve(const Arguments& arguments) {
  check_html(arguments);
  const ServeRequest request = read_serve_question(arguments, arguments.find("--pin").value_or(""), "--pin");
  const auto start = std::chrono::steady_clock::now();
  ServeResult result = plan_serving(request);
  result.search.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_serve_answer(arguments, request, result);
  return result.plans.empty() ? kNothingFits : kDone;
}

int run_estimate_serve(const Arguments& arguments) {
  check_html(arguments);
  const std::optional<std::string> layout = arguments.find("--layout");
  if (!layout) throw InputError("--layout: is missing: the layout to price, e.g. --layout tp=8,ep=8");
  const ServeRequest request = read_serve_question(arguments, *layout, "--layout");
  const ServeResult result = estimate_serving(request);
  write_serve_answer(arguments, request, result);
  return result.plans.front().keeps_goals ? kDone : kNothingFits;
}

int run_explain_serve(const Arguments& arguments) {
  if (arguments.positionals.size() < 2)
    throw InputError("explain: MACHINE is missing: with --serve it needs a model and a machine");
  const std::optional<std::string> layout = arguments.find("--layout");
  if (!layout) throw InputError("--layout: is missing: the layout to explain, e.g. --layout tp=8,ep=8");
  check_html(arguments);
  const ServeRequest request = read_serve_question(arguments, *layout, "--layout");
  std::optional<ServePins> against;
  if (const auto other = arguments.find("--against")) against = parse_serve_layout(*other, "--against");
  const ServeExplanation explanation = explain_serving(request, against, arguments.has("--sensitivity"));
  const std::string json = serve_explanation_json(explanation);
  write_answer(arguments, serve_explain_text(request, explanation, stdout_style()), json);
  write_html(arguments, {{arguments.positionals[0] + " on " + arguments.positionals[1], json}});
  return explanation.layout.keeps_goals ? kDone : kNothingFits;
}

}  // namespace shardwright
