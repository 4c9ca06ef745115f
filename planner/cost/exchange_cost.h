#pragma once

#include <optional>

#include "hardware/kernel_spec.h"
#include "hardware/machine.h"
#include "hardware/measurements.h"

namespace shardwright {

/// Bytes that one rank sends, or gets back, when rows go to the experts of their tokens: every choice of experts that
/// the question allows equally likely.
struct ExchangeBytes {
  double inside = 0;   // over links inside units
  double outside = 0;  // between units
};

/// Normal kernels send a row once to each unit that has one of its experts, from where it is passed on, and once to
/// each such rank there; a rank's own rows are copied like others. Low-latency kernels send each copy by itself:
/// between units those for experts in other units, inside all but a rank's own.
///
/// A row has hidden_size elements of the question's type and one factor of 4 bytes for 128 of them where that is 8 bits
/// wide; not stated: fp8 there, bf16 back, as DeepEP's own tests have it. Number of experts not stated: 256 or one a
/// rank. top_groups: of as many groups as there are units (DeepEP's tests).
ExchangeBytes exchange_bytes(const MoeExchangeSpec& spec, std::int64_t unit);

/// What published bandwidths of normal kernels count: rows for every unit that a token's experts lie in, its own too;
/// in a single unit rows for every rank (DeepEP's and HybridEP's tests).
double exchange_bus_bytes(const MoeExchangeSpec& spec, std::int64_t unit);

/// Time of a dispatch or combine from the curves of the machine's links (collective_curves.h), for DeepEP and HybridEP:
///   start + the longest of: inside bytes at the share of the links' rate; inside bytes at what the multiprocessors
///   that it may take move; outside bytes at the share of the network's rate
/// start is that of the outermost links. Nothing for other parts and backends, groups of one, and links without such
/// curves.
std::optional<KernelCost> exchange_cost(const MoeExchangeSpec& spec, const Machine& machine);
/// The same of known bytes.
std::optional<KernelCost> exchange_cost(const MoeExchangeSpec& spec, const ExchangeBytes& bytes,
                                        const Machine& machine);

}  // namespace shardwright
