#include "hardware/leave_out.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace shardwright {
namespace {

struct Errors {
  std::vector<double> absolute;
  std::size_t within = 0;

  void add(Seconds measured, const KernelCost& predicted) {
    absolute.push_back(std::abs(predicted.time / measured - 1));
    // The error of an answer is that of its logarithm.
    within += std::abs(std::log(predicted.time / measured)) <= predicted.relative_error;
  }
  double at(double share) const {
    std::vector<double> sorted = absolute;
    const auto i = std::min(sorted.size() - 1, static_cast<std::size_t>(share * static_cast<double>(sorted.size())));
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(i), sorted.end());
    return sorted[i];
  }
};

struct Kind {
  std::string name;
  std::string left_out;
  auto operator<=>(const Kind&) const = default;
};

std::string type_text(DataType type, const std::optional<StoredType>& weights, Scaling scaling) {
  std::string text(name_of(type));
  if (weights) text += " x " + std::string(kStoredTypeNames[static_cast<std::size_t>(*weights)]);
  if (scaling == Scaling::row) text += " by rows";
  if (scaling == Scaling::block) text += " in blocks";
  return text;
}

Kind kind_of(const KernelSpec& spec) {
  if (const auto* gemm = std::get_if<GemmSpec>(&spec)) {
    return {type_text(gemm->type, gemm->weights, gemm->scaling) + (gemm->batch > 1 ? ", batched" : ""), "n, k"};
  }
  if (const auto* attention = std::get_if<AttentionSpec>(&spec)) {
    const bool latent = attention->values_in_keys || attention->head_dim != attention->value_dim;
    const char* pass = attention->backward ? "backward" : is_decode(*attention) ? "decode" : "prefill";
    return {std::string(pass) + (latent ? ", latent" : ""), "heads, kv_heads, head_dim, keys"};
  }
  const auto& layer = std::get<MoeLayerSpec>(spec);
  return {type_text(layer.type, layer.weights, layer.scaling) + (layer.router ? "" : ", without router"),
          "hidden, intermediate, top k, experts"};
}

using ByKind = std::map<Kind, Errors>;

/// Each question of a table: the rows of one stand together.
template <typename Visit>
void for_each_question(const KernelTable& table, std::size_t every, const Visit& visit) {
  std::size_t question = 0;
  for (std::size_t begin = 0; begin < table.size();) {
    const KernelSlots slots = table.slots(begin);
    std::size_t end = begin + 1;
    while (end < table.size() && table.slots(end) == slots) ++end;
    if (question++ % every == 0) visit(from_slots(table.family(), slots), least_time(table, {begin, end}));
    begin = end;
  }
}

ByKind errors_of_points(const MeasuredTimes& times, KernelFamily family, std::size_t every) {
  ByKind errors;
  for_each_question(times.measurements().table(family), every, [&](const KernelSpec& spec, Seconds measured) {
    if (const auto cost = times.index(family).read(spec, true)) errors[kind_of(spec)].add(measured, *cost);
  });
  return errors;
}

ByKind errors_of_collectives(const MeasuredTimes& times, std::size_t every) {
  using Without = CollectiveTimes::Without;
  ByKind errors;
  const KernelTable& table = times.measurements().table(KernelFamily::collective);
  for_each_question(table, every, [&](const KernelSpec& spec, Seconds measured) {
    const auto& collective = std::get<CollectiveSpec>(spec);
    const bool nccl = collective.algorithm == CollectiveAlgorithm::nccl;
    const auto score = [&](Without without, const char* left_out) {
      const auto cost = times.collectives().read(collective, without);
      if (cost) errors[{nccl ? "NCCL" : "custom", left_out}].add(measured, *cost);
    };
    score(Without::size, "a size");
    score(Without::type, "a type");
    score(Without::ranks, "a kind at a count of ranks");
  });
  return errors;
}

void append(std::vector<LeaveOutError>& all, KernelFamily family, const Kind& kind, const Errors& errors) {
  const std::size_t n = errors.absolute.size();
  all.push_back({family, kind.name, kind.left_out, n, errors.at(0.5), errors.at(0.9),
                 static_cast<double>(errors.within) / static_cast<double>(n)});
}

}  // namespace

std::vector<LeaveOutError> leave_out_errors(const MeasuredTimes& times, std::size_t every) {
  std::vector<LeaveOutError> all;
  for (const KernelFamily family :
       {KernelFamily::gemm, KernelFamily::moe_layer, KernelFamily::attention, KernelFamily::collective}) {
    const bool collective = family == KernelFamily::collective;
    const ByKind errors = collective ? errors_of_collectives(times, every) : errors_of_points(times, family, every);
    if (!collective && errors.size() > 1) {
      Errors whole;
      for (const auto& [kind, of_kind] : errors) {
        whole.absolute.insert(whole.absolute.end(), of_kind.absolute.begin(), of_kind.absolute.end());
        whole.within += of_kind.within;
      }
      append(all, family, {"", errors.begin()->first.left_out}, whole);
    }
    for (const auto& [kind, of_kind] : errors) append(all, family, kind, of_kind);
  }
  return all;
}

}  // namespace shardwright
