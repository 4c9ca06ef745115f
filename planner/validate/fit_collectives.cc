#include "planner/validate/fit_collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "hardware/input_error.h"
#include "hardware/measured_machine.h"
#include "planner/cost/collective_cost.h"
#include "planner/cost/exchange_cost.h"
#include "planner/cost/network_rate.h"
#include "planner/validate/measured_kernels.h"
#include "planner/validate/measured_rows.h"

namespace shardwright {
namespace {

const RankGroup& group_of(const KernelSpec& spec) {
  const auto* collective = std::get_if<CollectiveSpec>(&spec);
  return collective ? collective->group : std::get<MoeExchangeSpec>(spec).group;
}

/// How many of its ranks share a unit of the innermost links.
std::int64_t inside_unit(const RankGroup& group, const Machine& machine) {
  const std::int64_t unit = machine.links.front().gpus;
  return unit == 0 ? group.size() : group.members_within(unit);
}

// ---- Samples ----

class Reader {
 public:
  CollectiveSamples take() {
    leave_out_slow_networks();
    return std::move(result_);
  }

  void read_folder(const std::string& folder) {
    const Machine machine = read_machine(YamlCursor::open(machine_file_in(folder)));
    const Measurements measured = read_measurements(folder);
    result_.machines.push_back(machine);
    for (const KernelFamily family : {KernelFamily::collective, KernelFamily::moe_exchange}) {
      const KernelTable& table = measured.table(family);
      for (std::size_t row = 0; row < table.size(); ++row)
        add(table.spec(row), table.seconds()[row], std::string(table.framework(row)), "");
    }
  }

  void read_rows(const std::string& file) {
    const std::vector<std::string> names = machine_names();
    for (const MeasuredRow& row : read_measured_rows(YamlCursor::open(file)).rows) {
      if (row.kind != MeasuredKind::collective || row.suspect || row.trust == "C") continue;
      if (std::find(names.begin(), names.end(), row.hardware.gpu) == names.end()) continue;
      const auto kernels = kernels_of(row);
      if (const auto* known = std::get_if<std::vector<MeasuredKernel>>(&kernels))
        for (const MeasuredKernel& kernel : *known) read_kernel(row, kernel);
    }
  }

 private:
  void read_kernel(const MeasuredRow& row, const MeasuredKernel& kernel) {
    if (family_of(kernel.spec) != KernelFamily::collective && family_of(kernel.spec) != KernelFamily::moe_exchange)
      return;
    const RankGroup& group = group_of(kernel.spec);
    Machine machine = find_machine(row.hardware.gpu);
    // Ranks that a source has in one domain are so even where neighbours of that number could straddle two.
    if (row.hardware.nvlink_domain && group.size() <= *row.hardware.nvlink_domain)
      machine.links.front().gpus = group.size();
    const bool inside = inside_unit(group, machine) == group.size();
    if (inside && row.trust != "A") return;
    if (!inside && !row.hardware.interconnect.empty()) {
      if (const auto rate = network_rate(row.hardware.interconnect, machine.gpus_per_node)) {
        for (std::size_t level = 1; level < machine.links.size(); ++level) machine.links[level].bandwidth = {*rate};
      } else if (family_of(kernel.spec) == KernelFamily::collective) {
        return;
      }
    }
    const auto seconds = seconds_of(row, kernel, machine);
    if (!seconds) return;
    result_.machines.push_back(std::move(machine));
    add(kernel.spec, *seconds, row.source, row.software.measured_on);
  }

  /// Bytes that one member sends into the outermost links that it crosses, over the time, as a share of their rate; 1
  /// inside a unit.
  double share_reached(const CollectiveSample& sample) const {
    const Machine& machine = result_.machines[sample.machine];
    const auto* spec = std::get_if<CollectiveSpec>(&sample.spec);
    const std::int64_t inside = inside_unit(group_of(sample.spec), machine);
    const auto n = static_cast<double>(group_of(sample.spec).size()), m = static_cast<double>(inside);
    if (!spec || m == n) return 1;
    double share_sent = (n - 1) / n / m;
    if (spec->kind == CollectiveKind::all_reduce) share_sent *= 2;
    if (spec->kind == CollectiveKind::all_to_all) share_sent = (n - m) / n;
    if (spec->kind == CollectiveKind::send_recv) share_sent = 1;
    return share_sent * static_cast<double>(spec->held.value) / sample.seconds / machine.links[1].bandwidth.value;
  }
  void leave_out_slow_networks() {
    const auto sweep_of = [&](const CollectiveSample& s) {
      const auto* spec = std::get_if<CollectiveSpec>(&s.spec);
      return fmt::format("{} {} {}", s.source, result_.machines[s.machine].name,
                         spec ? name_of(spec->kind) : name_of(family_of(s.spec)));
    };
    std::map<std::string, double> reached;
    for (const CollectiveSample& sample : result_.samples) {
      double& most = reached[sweep_of(sample)];
      most = std::max(most, share_reached(sample));
    }
    std::erase_if(result_.samples, [&](const CollectiveSample& s) { return reached[sweep_of(s)] < 0.5; });
  }

  /// A time, or what a published bandwidth says it is: nccl-tests' of the bus, or of a dispatch or combine.
  static std::optional<double> seconds_of(const MeasuredRow& row, const MeasuredKernel& kernel,
                                          const Machine& machine) {
    if (const auto seconds = row.measured.find(kernel.seconds_key)) return seconds;
    const auto bandwidth = row.measured.find("bus_bandwidth_bytes_per_second");
    if (!bandwidth || !(*bandwidth > 0)) return std::nullopt;
    if (const auto* exchange = std::get_if<MoeExchangeSpec>(&kernel.spec)) {
      if (exchange->mode != MoeExchangeMode::normal) return std::nullopt;
      return exchange_bus_bytes(*exchange, machine.links.front().gpus) / *bandwidth;
    }
    const auto& spec = std::get<CollectiveSpec>(kernel.spec);
    const auto n = static_cast<double>(spec.group.size());
    const double factor = spec.kind == CollectiveKind::send_recv    ? 1
                          : spec.kind == CollectiveKind::all_reduce ? 2 * (n - 1) / n
                                                                    : (n - 1) / n;
    return factor * static_cast<double>(spec.held.value) / *bandwidth;
  }

  void add(KernelSpec spec, double seconds, std::string source, std::string date) {
    if (!(seconds > 0) || group_of(spec).size() < 2) return;
    const Machine& machine = result_.machines.back();
    if (const auto* exchange = std::get_if<MoeExchangeSpec>(&spec); exchange && !exchange_cost(*exchange, machine))
      return;
    const auto question = [&] {
      return fmt::format("{} {} {}", machine.name, machine.links.back().bandwidth.value, to_string(spec));
    };
    const std::string typed = question();
    // The type of a collective's elements makes little difference, and is mostly not stated.
    if (auto* collective = std::get_if<CollectiveSpec>(&spec)) collective->type.reset();
    if (sources_.try_emplace(question(), source).first->second != source) return;
    const auto [met, is_new] = met_.try_emplace(typed, result_.samples.size());
    if (is_new) {
      result_.samples.push_back({spec, result_.machines.size() - 1, seconds, std::move(source), std::move(date)});
    } else {
      CollectiveSample& first = result_.samples[met->second];
      first.seconds = std::min(first.seconds, seconds);
    }
  }

  CollectiveSamples result_;
  std::map<std::string, std::string> sources_;  // the first of each question, whatever its type
  std::map<std::string, std::size_t> met_;      // samples by question and type
};

// ---- Pattern search ----

/// A number that is sought between two others, on a logarithmic scale.
struct Sought {
  double* value;
  double low, high;
};

class Search {
 public:
  Search(std::vector<Sought> sought, std::function<double()> loss)
      : sought_(std::move(sought)), loss_(std::move(loss)) {}

  /// Leaves the best values found in place.
  void run() {
    std::vector<double> first = values(), best = first;
    double best_loss = INFINITY;
    std::uint32_t seed = 1;
    for (int start = 0; start < kStarts; ++start) {
      set(first);
      if (start > 0)
        for (const Sought& s : sought_) {
          seed = seed * 1664525U + 1013904223U;  // Numerical Recipes' generator
          move(s, (static_cast<double>(seed >> 8) / (1 << 24) - 0.5) * 1.2);
        }
      descend();
      const double loss = descend();
      if (loss >= best_loss) continue;
      best_loss = loss;
      best = values();
    }
    set(best);
  }

 private:
  static constexpr int kStarts = 32, kRounds = 400;

  static void move(const Sought& s, double log_step) {
    *s.value = std::clamp(*s.value * std::exp(log_step), s.low, s.high);
  }
  std::vector<double> values() const {
    std::vector<double> all;
    for (const Sought& s : sought_) all.push_back(*s.value);
    return all;
  }
  void set(const std::vector<double>& values) {
    for (std::size_t i = 0; i < sought_.size(); ++i) *sought_[i].value = values[i];
  }
  double descend() {
    double best = loss_();
    std::vector<double> steps(sought_.size(), 0.4);
    for (int round = 0; round < kRounds; ++round) {
      bool moving = false;
      for (std::size_t i = 0; i < sought_.size(); ++i) {
        if (steps[i] < 1e-3) continue;
        moving = true;
        const double before = *sought_[i].value;
        bool better = false;
        for (const double sign : {1.0, -1.0}) {
          move(sought_[i], sign * steps[i]);
          const double loss = loss_();
          better = loss < best - 1e-9;
          if (better) {
            best = loss;
            break;
          }
          *sought_[i].value = before;
        }
        steps[i] = std::min(1.0, steps[i] * (better ? 1.3 : 0.6));
      }
      if (!moving) break;
    }
    return best;
  }

  std::vector<Sought> sought_;
  std::function<double()> loss_;
};

// ---- Fabrics ----

using enum CollectiveWay;

/// Where the search begins: NCCL's base and hardware latencies of rings and trees, NVLink or network (2.30.7,
/// src/graph/tuning.cc); round numbers for what it does not have.
TransferCurve first_guess(CollectiveWay way, bool network) {
  constexpr double us = 1e-6;
  switch (way) {
    case ring_ll:
      return {6.6 * us, (network ? 2.7 : 0.6) * us, 0.2, 1 * us};
    case ring_ll128:
      return {14 * us, (network ? 4.0 : 1.9) * us, 0.6, 3 * us};
    case ring_simple:
      return {8.4 * us, (network ? 14 : 3.4) * us, 0.8, 10 * us};
    case direct_ll:
      return {6 * us, 0.3 * us, 0.1, 1 * us};
    case direct_simple:  // a peer more: (28.2 - 11.75) us over 24, 8 and 32 ranks of a GB200 rack (nccl-custom-algos)
      return {12 * us, (network ? 0.7 : 0.3) * us, 0.75, 5 * us};
    case tree:
      return {8.4 * us, 14 * us, 0.9, 10 * us};
    case in_switch:
      return {25 * us, 0, 0.5, 10 * us};
    case one_shot:
      return {3 * us, 0.1 * us, 0.6, 0.01 * us};
    case two_shot:
      return {10 * us, 0.3 * us, 0.6, 1 * us};
    case dispatch:
      return {(network ? 40 : 30) * us, 0, network ? 0.9 : 0.7, 2 * us};
    case combine:
      return {(network ? 60 : 50) * us, 0, network ? 0.9 : 0.7, 2 * us};
    case low_latency_dispatch:
    case low_latency_combine:
      return {(network ? 25 : 14) * us, 0, network ? 0.9 : 0.55, 0.1 * us};
    case one_shot_multicast:
    case two_shot_multicast:
    case lsa_simple:
    case lsa_poison:
    case hybrid_dispatch:
    case hybrid_combine:
      return {4 * us, 0.05 * us, 0.05, 0.01 * us};
  }
  return {};
}

/// No ring and no send carries more than NCCL takes a link of NVLink to carry: 20 of 25 GB/s (NVLink 3), 20.6 (4), 40.1
/// of 50 (5), src/graph/topo.h. A network's rate is that of its data. Half of what LL sends are flags, 8 of 128 bytes
/// of LL128.
double largest_share(CollectiveWay way, bool network) {
  if (way >= tree) return 1;
  const double link = network ? 1 : 0.825;
  return link * (way == ring_ll || way == direct_ll ? 0.5 : way == ring_ll128 ? 0.9375 : 1);
}

/// Simple, sums in the switch, and rows of experts where multiprocessors do not limit them use links well.
double least_share(CollectiveWay way) {
  if (way == in_switch) return 0.4;
  return way == ring_simple || way == dispatch || way == combine ? 0.5 : 1e-4;
}

/// Fewer samples than that are not fitted on: curves have up to twelve numbers.
constexpr std::size_t kFewest = 6;

class Fitter {
 public:
  Fitter(const CollectiveSamples& samples, const std::vector<std::shared_ptr<const FabricCurves>>& known)
      : samples_(samples), machines_(samples.machines) {
    for (const auto& fabric : known) fabrics_.push_back(std::make_shared<FabricCurves>(*fabric));
    for (Machine& machine : machines_)
      for (LinkLevel& level : machine.links)
        if (level.curves) level.curves = named(level.curves->name);
    for (const CollectiveSample& sample : samples.samples) {
      const auto* exchange = std::get_if<MoeExchangeSpec>(&sample.spec);
      bytes_.push_back(exchange ? exchange_bytes(*exchange, machines_[sample.machine].links.front().gpus)
                                : ExchangeBytes{});
    }
  }

  std::vector<FabricCurves> fit() {
    for (const bool network : {false, true})
      for (const auto& fabric : fabrics_) fit_fabric(*fabric, network);
    std::vector<FabricCurves> result;
    for (const auto& fabric : fabrics_) result.push_back(*fabric);
    return result;
  }

 private:
  using Chosen = std::vector<const CollectiveSample*>;
  /// A number of a fabric, and where its search begins.
  struct Plain {
    double* value;
    double first;
  };

  std::shared_ptr<FabricCurves> named(const std::string& name) const {
    for (const auto& fabric : fabrics_)
      if (fabric->name == name) return fabric;
    return nullptr;
  }

  /// The outermost level at which members meet, and whether a network: any level but the innermost.
  std::pair<const LinkLevel*, bool> outermost(const CollectiveSample& sample) const {
    const Machine& machine = machines_[sample.machine];
    const RankGroup& group = group_of(sample.spec);
    for (std::size_t i = 0; i < machine.links.size(); ++i) {
      const LinkLevel& level = machine.links[i];
      if (level.gpus == 0 || group.members_within(level.gpus) == group.size()) return {&level, i > 0};
    }
    return {nullptr, false};
  }
  template <typename F>
  Chosen chosen(const FabricCurves& fabric, bool network, const F& wanted) const {
    Chosen result;
    for (const CollectiveSample& sample : samples_.samples) {
      const auto [level, outside] = outermost(sample);
      if (level && level->curves.get() == &fabric && outside == network && wanted(sample.spec))
        result.push_back(&sample);
    }
    return result;
  }
  double predicted(const CollectiveSample& sample) const {
    const Machine& machine = machines_[sample.machine];
    if (const auto* spec = std::get_if<CollectiveSpec>(&sample.spec)) return collective_cost(*spec, machine).time.value;
    const auto index = static_cast<std::size_t>(&sample - samples_.samples.data());
    return exchange_cost(std::get<MoeExchangeSpec>(sample.spec), bytes_[index], machine)->time.value;
  }

  /// Only a share, the rest as another curve: of rows that are all of one size.
  void seek_share(std::optional<TransferCurve>& curve, const std::optional<TransferCurve>& like, const Chosen& on) {
    if (!curve || !like) return;
    curve = like;
    if (on.size() >= kFewest) search({{&curve->share, 1e-2, 1}}, on);
  }

  void seek(FabricCurves& fabric, bool network, const Chosen& on, std::initializer_list<CollectiveWay> ways,
            std::vector<Plain> plain) {
    if (on.size() < kFewest) return;
    std::vector<Sought> sought;
    for (const CollectiveWay way : ways) {
      auto& curve = fabric[way];
      if (!curve) continue;
      curve = first_guess(way, network);
      sought.push_back({&curve->start, 1e-9, 1e-2});
      // Two nodes, and more are in no data, cannot tell a step from a start.
      if (way < dispatch && way != in_switch && !network) sought.push_back({&curve->step, 1e-9, 1e-3});
      sought.push_back({&curve->share, least_share(way), largest_share(way, network)});
      sought.push_back({&curve->fill, 1e-9, 1e-2});
    }
    if (sought.empty()) return;
    for (const auto& [value, first] : plain) {
      if (*value == 0) continue;  // the fabric does not have it
      *value = first;
      sought.push_back({value, first * 2e-3, first * 20});
    }
    search(std::move(sought), on);
  }

  void search(std::vector<Sought> sought, const Chosen& on) const {
    const std::vector<Sought> values = sought;
    Search(std::move(sought), [&] {
      double sum = 0;
      for (const CollectiveSample* sample : on)
        sum += std::min(0.5, std::abs(std::log(predicted(*sample) / sample->seconds)));
      return sum / static_cast<double>(on.size());
    }).run();
    for (const Sought& s : values) *s.value = rounded_to_file(*s.value);
  }

  void fit_fabric(FabricCurves& fabric, bool network) {
    const auto of_nccl = [](std::initializer_list<CollectiveKind> kinds) {
      return [kinds = std::vector<CollectiveKind>(kinds)](const KernelSpec& any) {
        const auto* spec = std::get_if<CollectiveSpec>(&any);
        return spec && spec->algorithm == CollectiveAlgorithm::nccl &&
               std::find(kinds.begin(), kinds.end(), spec->kind) != kinds.end();
      };
    };
    const auto by = [](CollectiveAlgorithm algorithm) {
      return [algorithm](const KernelSpec& any) {
        const auto* spec = std::get_if<CollectiveSpec>(&any);
        return spec && spec->algorithm == algorithm;
      };
    };
    const auto rows = [](MoeExchangeBackend backend, MoeExchangeMode mode, MoeExchangeOp op) {
      return [=](const KernelSpec& any) {
        const auto* spec = std::get_if<MoeExchangeSpec>(&any);
        return spec && spec->backend == backend && spec->mode == mode && spec->op == op;
      };
    };
    using enum CollectiveKind;
    const Chosen all = chosen(fabric, network, [](const KernelSpec&) { return true; });
    if (all.empty()) return;
    if (network) {
      seek(fabric, network, chosen(fabric, network, of_nccl({all_gather, reduce_scatter})),
           {ring_ll, ring_ll128, ring_simple}, {});
      seek(fabric, network, chosen(fabric, network, of_nccl({all_reduce})), {tree}, {});
    } else {
      seek(fabric, network, chosen(fabric, network, of_nccl({all_reduce, all_gather, reduce_scatter})),
           {ring_ll, ring_ll128, ring_simple, in_switch}, {{&fabric.ring_copy, 0.5}, {&fabric.crowding, 0.5}});
    }
    seek(fabric, network, chosen(fabric, network, of_nccl({all_to_all, send_recv})), {direct_ll, direct_simple},
         {{&fabric.direct_copy, 0.5}});
    seek(fabric, network, chosen(fabric, network, by(CollectiveAlgorithm::custom)), {one_shot, two_shot}, {});
    for (const auto& [algorithm, way] : {std::pair{CollectiveAlgorithm::one_shot_multicast, one_shot_multicast},
                                         {CollectiveAlgorithm::two_shot_multicast, two_shot_multicast},
                                         {CollectiveAlgorithm::lsa_simple, lsa_simple},
                                         {CollectiveAlgorithm::lsa_poison, lsa_poison}})
      seek(fabric, network, chosen(fabric, network, by(algorithm)), {way}, {});
    using enum MoeExchangeBackend;
    using enum MoeExchangeMode;
    for (const bool there : {true, false}) {
      const MoeExchangeOp op = there ? MoeExchangeOp::dispatch : MoeExchangeOp::combine;
      double& per_sm = there ? fabric.dispatch_rate_per_sm : fabric.combine_rate_per_sm;
      seek(fabric, network, chosen(fabric, network, rows(deepep, normal, op)), {there ? dispatch : combine},
           {{&per_sm, 15e9}});
      seek(fabric, network, chosen(fabric, network, rows(deepep, low_latency, op)),
           {there ? low_latency_dispatch : low_latency_combine}, {});
      seek_share(fabric[there ? hybrid_dispatch : hybrid_combine], fabric[there ? dispatch : combine],
                 chosen(fabric, network, rows(hybrid_ep, normal, op)));
    }
    describe(fabric, all);
  }

  /// "all_reduce", "other_algorithms", "low_latency_combine"
  static std::string described(const KernelSpec& any) {
    if (const auto* spec = std::get_if<CollectiveSpec>(&any))
      return spec->algorithm == CollectiveAlgorithm::nccl ? std::string(name_of(spec->kind)) : "other_algorithms";
    const auto& spec = std::get<MoeExchangeSpec>(any);
    const std::string mode = spec.backend == MoeExchangeBackend::hybrid_ep ? "hybrid_"
                             : spec.mode == MoeExchangeMode::low_latency   ? "low_latency_"
                                                                           : "";
    return mode + (spec.op == MoeExchangeOp::dispatch ? "dispatch" : "combine");
  }

  /// What it was fitted on, and how wrong it is about that.
  void describe(FabricCurves& fabric, const Chosen& on) const {
    std::map<std::string, std::vector<double>> errors;
    std::set<std::string> sources;
    fabric.date.clear();
    for (const CollectiveSample* sample : on) {
      const double error = std::abs(predicted(*sample) / sample->seconds - 1);
      const std::string of = described(sample->spec);
      errors[of].push_back(error);
      if (family_of(sample->spec) == KernelFamily::collective) errors["collectives"].push_back(error);
      sources.insert(fmt::format("{} on {}", sample->source.empty() ? "unnamed software" : sample->source,
                                 machines_[sample->machine].name));
      fabric.date = std::max(fabric.date, sample->date);
    }
    fabric.data = fmt::format("{}", fmt::join(sources, ", "));
    fabric.errors.clear();
    for (auto& [of, values] : errors) {
      std::sort(values.begin(), values.end());
      const auto quantile = [&values = values](double share) {
        return values[std::min(values.size() - 1,
                               static_cast<std::size_t>(share * static_cast<double>(values.size())))];
      };
      fabric.errors.push_back(
          {of, static_cast<std::int64_t>(values.size()), quantile(0.5), quantile(0.68), quantile(0.9)});
      if (of == "collectives") fabric.relative_error = rounded_to_file(quantile(0.68));
    }
  }

  const CollectiveSamples& samples_;
  std::vector<Machine> machines_;
  std::vector<std::shared_ptr<FabricCurves>> fabrics_;
  std::vector<ExchangeBytes> bytes_;  // of the samples: what does not change while curves are sought
};

}  // namespace

CollectiveSamples collective_samples(const std::vector<std::string>& inputs) {
  Reader reader;
  for (const std::string& input : inputs) {
    std::error_code ignored;
    if (std::filesystem::is_directory(input, ignored)) {
      reader.read_folder(input);
    } else {
      reader.read_rows(input);
    }
  }
  CollectiveSamples samples = reader.take();
  if (samples.samples.empty()) throw InputError("fit collectives: no collective that may be fitted on is in the input");
  return samples;
}

std::vector<FabricCurves> fit_collectives(const CollectiveSamples& samples,
                                          const std::vector<std::shared_ptr<const FabricCurves>>& known) {
  return Fitter(samples, known).fit();
}

}  // namespace shardwright
