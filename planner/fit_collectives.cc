#include "planner/fit_collectives.h"

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
#include "planner/measured_kernels.h"
#include "planner/measured_rows.h"
#include "planner/network_rate.h"

namespace shardwright {
namespace {

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
    const KernelTable& table = measured.table(KernelFamily::collective);
    result_.machines.push_back(machine);
    for (std::size_t row = 0; row < table.size(); ++row)
      add(std::get<CollectiveSpec>(table.spec(row)), table.seconds()[row], std::string(table.framework(row)), "");
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
    const auto* spec = std::get_if<CollectiveSpec>(&kernel.spec);
    if (!spec) return;
    const auto seconds = seconds_of(row, *spec, kernel.seconds_key);
    if (!seconds) return;
    Machine machine = find_machine(row.hardware.gpu);
    // Ranks that a source has in one domain are so even where neighbours of that number could straddle two.
    if (row.hardware.nvlink_domain && spec->group.size() <= *row.hardware.nvlink_domain)
      machine.links.front().gpus = spec->group.size();
    const std::int64_t unit = machine.links.front().gpus;
    const bool inside = unit == 0 || spec->group.members_within(unit) == spec->group.size();
    if (inside && row.trust != "A") return;
    if (!inside && !row.hardware.interconnect.empty()) {
      const auto rate = network_rate(row.hardware.interconnect, machine.gpus_per_node);
      if (!rate) return;
      for (std::size_t level = 1; level < machine.links.size(); ++level) machine.links[level].bandwidth = {*rate};
    }
    result_.machines.push_back(std::move(machine));
    add(*spec, *seconds, row.source, row.software.measured_on);
  }

  /// Bytes that one member sends into the outermost links that it crosses, over the time, as a share of their rate; 1
  /// inside a unit.
  double share_reached(const CollectiveSample& sample) const {
    const Machine& machine = result_.machines[sample.machine];
    const std::int64_t size = sample.spec.group.size(), unit = machine.links.front().gpus;
    const auto n = static_cast<double>(size);
    const auto m = static_cast<double>(unit == 0 ? size : sample.spec.group.members_within(unit));
    if (m == n) return 1;
    double share_sent = (n - 1) / n / m;
    if (sample.spec.kind == CollectiveKind::all_reduce) share_sent *= 2;
    if (sample.spec.kind == CollectiveKind::all_to_all) share_sent = (n - m) / n;
    if (sample.spec.kind == CollectiveKind::send_recv) share_sent = 1;
    return share_sent * static_cast<double>(sample.spec.held.value) / sample.seconds / machine.links[1].bandwidth.value;
  }
  void leave_out_slow_networks() {
    const auto sweep_of = [&](const CollectiveSample& s) {
      return fmt::format("{} {} {}", s.source, result_.machines[s.machine].name, name_of(s.spec.kind));
    };
    std::map<std::string, double> reached;
    for (const CollectiveSample& sample : result_.samples) {
      double& most = reached[sweep_of(sample)];
      most = std::max(most, share_reached(sample));
    }
    std::erase_if(result_.samples, [&](const CollectiveSample& s) { return reached[sweep_of(s)] < 0.5; });
  }

  /// A time, or what nccl-tests' bus bandwidth says it is.
  static std::optional<double> seconds_of(const MeasuredRow& row, const CollectiveSpec& spec, std::string_view key) {
    if (const auto seconds = row.measured.find(key)) return seconds;
    const auto bandwidth = row.measured.find("bus_bandwidth_bytes_per_second");
    if (!bandwidth || !(*bandwidth > 0)) return std::nullopt;
    const auto n = static_cast<double>(spec.group.size());
    const double factor = spec.kind == CollectiveKind::send_recv    ? 1
                          : spec.kind == CollectiveKind::all_reduce ? 2 * (n - 1) / n
                                                                    : (n - 1) / n;
    return factor * static_cast<double>(spec.held.value) / *bandwidth;
  }

  void add(CollectiveSpec spec, double seconds, std::string source, std::string date) {
    if (!(seconds > 0) || spec.group.size() < 2) return;
    const Machine& machine = result_.machines.back();
    const std::string typed =
        fmt::format("{} {} {}", machine.name, machine.links.back().bandwidth.value, to_string(spec));
    spec.type.reset();  // makes little difference, and is mostly not stated
    const std::string untyped =
        fmt::format("{} {} {}", machine.name, machine.links.back().bandwidth.value, to_string(spec));
    if (sources_.try_emplace(untyped, source).first->second != source) return;
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
    case one_shot_multicast:
    case two_shot_multicast:
    case lsa_simple:
    case lsa_poison:
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

/// Simple, and sums in the switch, are what large transfers use.
double least_share(CollectiveWay way) { return way == ring_simple ? 0.5 : way == in_switch ? 0.4 : 1e-4; }

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

  std::shared_ptr<FabricCurves> named(const std::string& name) const {
    for (const auto& fabric : fabrics_)
      if (fabric->name == name) return fabric;
    return nullptr;
  }

  /// The outermost level at which members meet, and whether a network: any level but the innermost.
  std::pair<const LinkLevel*, bool> outermost(const CollectiveSample& sample) const {
    const Machine& machine = machines_[sample.machine];
    const std::int64_t n = sample.spec.group.size();
    for (std::size_t i = 0; i < machine.links.size(); ++i) {
      const LinkLevel& level = machine.links[i];
      if (level.gpus == 0 || sample.spec.group.members_within(level.gpus) == n) return {&level, i > 0};
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
    return collective_cost(sample.spec, machines_[sample.machine]).time.value;
  }

  void seek(FabricCurves& fabric, bool network, const Chosen& on, std::initializer_list<CollectiveWay> ways,
            std::vector<double*> plain) {
    if (on.size() < kFewest) return;
    std::vector<Sought> sought;
    for (const CollectiveWay way : ways) {
      auto& curve = fabric[way];
      if (!curve) continue;
      curve = first_guess(way, network);
      sought.push_back({&curve->start, 1e-9, 1e-2});
      // Two nodes, and more are in no data, cannot tell a step from a start.
      if (way != in_switch && !network) sought.push_back({&curve->step, 1e-9, 1e-3});
      sought.push_back({&curve->share, least_share(way), largest_share(way, network)});
      sought.push_back({&curve->fill, 1e-9, 1e-2});
    }
    if (sought.empty()) return;
    for (double* value : plain) {
      if (*value == 0) continue;  // the fabric does not have it
      *value = 0.5;
      sought.push_back({value, 1e-3, 10});
    }
    std::vector<double*> values;
    for (const Sought& s : sought) values.push_back(s.value);
    Search(std::move(sought), [&] {
      double sum = 0;
      for (const CollectiveSample* sample : on)
        sum += std::min(0.5, std::abs(std::log(predicted(*sample) / sample->seconds)));
      return sum / static_cast<double>(on.size());
    }).run();
    for (double* value : values) *value = rounded_to_file(*value);
  }

  void fit_fabric(FabricCurves& fabric, bool network) {
    const auto of_nccl = [](std::initializer_list<CollectiveKind> kinds) {
      return [kinds = std::vector<CollectiveKind>(kinds)](const CollectiveSpec& spec) {
        return spec.algorithm == CollectiveAlgorithm::nccl &&
               std::find(kinds.begin(), kinds.end(), spec.kind) != kinds.end();
      };
    };
    const auto by = [](CollectiveAlgorithm algorithm) {
      return [algorithm](const CollectiveSpec& spec) { return spec.algorithm == algorithm; };
    };
    using enum CollectiveKind;
    const Chosen all = chosen(fabric, network, [](const CollectiveSpec&) { return true; });
    if (all.empty()) return;
    if (network) {
      seek(fabric, network, chosen(fabric, network, of_nccl({all_gather, reduce_scatter})),
           {ring_ll, ring_ll128, ring_simple}, {});
      seek(fabric, network, chosen(fabric, network, of_nccl({all_reduce})), {tree}, {});
    } else {
      seek(fabric, network, chosen(fabric, network, of_nccl({all_reduce, all_gather, reduce_scatter})),
           {ring_ll, ring_ll128, ring_simple, in_switch}, {&fabric.ring_copy, &fabric.crowding});
    }
    seek(fabric, network, chosen(fabric, network, of_nccl({all_to_all, send_recv})), {direct_ll, direct_simple},
         {&fabric.direct_copy});
    seek(fabric, network, chosen(fabric, network, by(CollectiveAlgorithm::custom)), {one_shot, two_shot}, {});
    for (const auto& [algorithm, way] : {std::pair{CollectiveAlgorithm::one_shot_multicast, one_shot_multicast},
                                         {CollectiveAlgorithm::two_shot_multicast, two_shot_multicast},
                                         {CollectiveAlgorithm::lsa_simple, lsa_simple},
                                         {CollectiveAlgorithm::lsa_poison, lsa_poison}})
      seek(fabric, network, chosen(fabric, network, by(algorithm)), {way}, {});
    describe(fabric, all);
  }

  /// What it was fitted on, and how wrong it is about that.
  void describe(FabricCurves& fabric, const Chosen& on) const {
    std::map<std::string, std::vector<double>> errors;
    std::set<std::string> sources;
    fabric.date.clear();
    for (const CollectiveSample* sample : on) {
      const double error = std::abs(predicted(*sample) / sample->seconds - 1);
      const bool nccl = sample->spec.algorithm == CollectiveAlgorithm::nccl;
      errors[nccl ? std::string(name_of(sample->spec.kind)) : "other_algorithms"].push_back(error);
      errors["all"].push_back(error);
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
      if (of == "all") fabric.relative_error = rounded_to_file(quantile(0.68));
    }
  }

  const CollectiveSamples& samples_;
  std::vector<Machine> machines_;
  std::vector<std::shared_ptr<FabricCurves>> fabrics_;
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
