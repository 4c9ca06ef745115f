#include "planner/cost/kernel_cost.h"

#include <fmt/format.h>

#include "hardware/measured_times.h"
#include "planner/cost/collective_cost.h"
#include "planner/cost/exchange_cost.h"

namespace shardwright {
namespace {

using Answer = std::variant<KernelCost, std::string>;

std::string does_not_compute(DataType type, const Machine& machine) {
  return fmt::format("{} does not compute in {}", machine.name, name_of(type));
}

std::string no_curve(const KernelSpec& spec) { return fmt::format("no curve for {}", name_of(family_of(spec))); }

template <typename Spec>
Answer computed(const Spec& spec, const Machine& machine) {
  if (!supports(machine, spec.type)) return does_not_compute(spec.type, machine);
  return look_up(spec, machine);
}

/// From tables alone.
Answer measured(const KernelSpec& spec, const Machine& machine) {
  if (machine.measured) {
    if (const auto cost = machine.measured->find(spec)) return *cost;
  }
  return no_curve(spec);
}

struct Asked {
  const Machine& machine;

  Answer operator()(const GemmSpec& spec) const { return computed(spec, machine); }
  Answer operator()(const GroupedGemmSpec& spec) const { return computed(spec, machine); }
  Answer operator()(const AttentionSpec& spec) const { return computed(spec, machine); }
  Answer operator()(const MoeLayerSpec& spec) const {
    if (!supports(machine, spec.type)) return does_not_compute(spec.type, machine);
    const auto cost = look_up(spec, machine);
    return cost ? Answer(*cost) : no_curve(spec);
  }
  Answer operator()(const MemorySpec& spec) const { return look_up(spec, machine); }
  Answer operator()(const CollectiveSpec& spec) const {
    const KernelCost cost = collective_cost(spec, machine);
    if (!has_curve(spec, machine) && cost.source == CostSource::datasheet)
      return fmt::format("no curve for {} but NCCL's", name_of(spec.kind));
    return cost;
  }
  Answer operator()(const MoeExchangeSpec& spec) const {
    Answer answer = measured(spec, machine);
    if (std::holds_alternative<KernelCost>(answer)) return answer;
    const auto cost = exchange_cost(spec, machine);
    return cost ? Answer(*cost) : answer;
  }
  template <typename Spec>
  Answer operator()(const Spec& spec) const {
    return measured(spec, machine);
  }
};

}  // namespace

std::variant<KernelCost, std::string> kernel_cost(const KernelSpec& spec, const Machine& machine) {
  return std::visit(Asked{machine}, spec);
}

}  // namespace shardwright
