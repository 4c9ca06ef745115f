#include "planner/cost/exchange_cost.h"

#include <algorithm>
#include <numeric>

#include "hardware/collective_curves.h"
#include "planner/cost/expert_routing.h"

namespace shardwright {
namespace {

double width_of(StoredType type) {
  switch (type) {
    case StoredType::fp32:
    case StoredType::tf32:
      return 4;
    case StoredType::fp16:
    case StoredType::bf16:
      return 2;
    case StoredType::fp8:
    case StoredType::mxfp8:
    case StoredType::int8:
      return 1;
    case StoredType::nvfp4:
    case StoredType::mxfp4:
    case StoredType::int4:
      return 0.5;
  }
  return 0;
}

double row_bytes(const MoeExchangeSpec& spec) {
  const StoredType type = spec.type.value_or(spec.op == MoeExchangeOp::dispatch ? StoredType::fp8 : StoredType::bf16);
  const auto elements = static_cast<double>(spec.hidden_size);
  const double width = width_of(type);
  return elements * width + (width == 1 ? elements / 128 * 4 : 0);
}

std::optional<CollectiveWay> way_of(const MoeExchangeSpec& spec) {
  const bool there = spec.op == MoeExchangeOp::dispatch;
  if (!there && spec.op != MoeExchangeOp::combine) return std::nullopt;
  using enum CollectiveWay;
  if (spec.backend == MoeExchangeBackend::hybrid_ep) return there ? hybrid_dispatch : hybrid_combine;
  if (spec.backend != MoeExchangeBackend::deepep) return std::nullopt;
  if (spec.mode == MoeExchangeMode::low_latency) return there ? low_latency_dispatch : low_latency_combine;
  return there ? dispatch : combine;
}

const std::optional<TransferCurve>* curve_of(const LinkLevel& level, CollectiveWay way) {
  if (!level.curves || !(*level.curves)[way]) return nullptr;
  return &(*level.curves)[way];
}

}  // namespace

ExchangeBytes exchange_bytes(const MoeExchangeSpec& spec, std::int64_t unit) {
  const std::int64_t ranks = spec.group.size();
  const std::int64_t inside = unit == 0 ? ranks : spec.group.members_within(unit), units = ranks / inside;
  const std::int64_t experts = spec.n_routed_experts > 0 ? spec.n_routed_experts : std::lcm<std::int64_t>(256, ranks);
  const double sent = static_cast<double>(spec.tokens) * row_bytes(spec);
  const auto n = static_cast<double>(ranks), other_units = static_cast<double>(units - 1) / static_cast<double>(units);
  if (spec.mode == MoeExchangeMode::low_latency) {
    const double copies = static_cast<double>(spec.num_experts_per_tok) * sent;
    return {copies * (n - 1) / n - copies * other_units, copies * other_units};
  }
  const bool limited = spec.top_groups > 0 && spec.top_groups < units && experts % units == 0 &&
                       spec.num_experts_per_tok <= spec.top_groups * (experts / units);
  const std::int64_t groups = limited ? units : 0, top = limited ? spec.top_groups : 0;
  const auto reached = [&](std::int64_t parts) {
    return experts % parts == 0 ? distinct_parts(experts, spec.num_experts_per_tok, parts, groups, top)
                                : static_cast<double>(std::min(parts, spec.num_experts_per_tok));
  };
  return {reached(ranks) * sent, reached(units) * other_units * sent};
}

double exchange_bus_bytes(const MoeExchangeSpec& spec, std::int64_t unit) {
  const ExchangeBytes bytes = exchange_bytes(spec, unit);
  if (bytes.outside == 0) return bytes.inside;
  const std::int64_t units = spec.group.size() / spec.group.members_within(unit);
  return bytes.outside * static_cast<double>(units) / static_cast<double>(units - 1);
}

std::optional<KernelCost> exchange_cost(const MoeExchangeSpec& spec, const Machine& machine) {
  if (!way_of(spec) || spec.group.size() <= 1) return std::nullopt;
  return exchange_cost(spec, exchange_bytes(spec, machine.links.front().gpus), machine);
}

std::optional<KernelCost> exchange_cost(const MoeExchangeSpec& spec, const ExchangeBytes& bytes,
                                        const Machine& machine) {
  const auto way = way_of(spec);
  const std::int64_t ranks = spec.group.size();
  if (!way || ranks <= 1) return std::nullopt;
  const LinkLevel& unit = machine.links.front();
  const bool one_unit = unit.gpus == 0 || spec.group.members_within(unit.gpus) == ranks;
  const LinkLevel& out = one_unit ? unit : machine.links[1];
  const auto* inner = curve_of(unit, *way);
  const auto* outer = curve_of(out, *way);
  if (!inner || !outer) return std::nullopt;
  double moving = (*inner)->moving(bytes.inside / unit.bandwidth.value);
  const bool there = spec.op == MoeExchangeOp::dispatch;
  const double per_sm = there ? out.curves->dispatch_rate_per_sm : out.curves->combine_rate_per_sm;
  if (spec.mode == MoeExchangeMode::normal && spec.backend == MoeExchangeBackend::deepep && spec.sms > 0 && per_sm > 0)
    moving = std::max(moving, bytes.inside / (per_sm * static_cast<double>(spec.sms)));
  if (!one_unit) moving = std::max(moving, (*outer)->moving(bytes.outside / out.bandwidth.value));
  return KernelCost{{(*outer)->start + moving},
                    CostSource::datasheet,
                    std::max(unit.curves->relative_error, out.curves->relative_error)};
}

}  // namespace shardwright
