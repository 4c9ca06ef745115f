#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "hardware/measured_times.h"

namespace shardwright {

/// The same machine with these tables.
inline Machine with_measurements(Machine machine, Measurements measured) {
  machine.measured =
      std::make_shared<const MeasuredTimes>(machine, std::make_shared<const Measurements>(std::move(measured)));
  return machine;
}

inline KernelTable table_of(KernelFamily family, const std::vector<std::pair<KernelSpec, double>>& rows) {
  KernelTable table(family);
  for (const auto& [spec, seconds] : rows) table.add(to_slots(spec), {seconds}, "", "");
  return table;
}

/// A machine of which everything was measured, at random sizes and badly: its curves' times, each by up to a half more
/// or a third less.
inline Machine badly_measured(const Machine& machine, unsigned seed, DataType type = DataType::bf16) {
  std::mt19937 random(seed);
  const auto size = [&](double most) {
    const double share = static_cast<double>(random() % 1000) / 1000;
    return static_cast<std::int64_t>(std::exp(share * std::log(most)));
  };
  const auto off = [&] { return std::exp(0.8 * (static_cast<double>(random() % 1000) / 1000 - 0.5)); };
  std::vector<std::pair<KernelSpec, double>> gemms, attentions, passes, collectives;
  for (int i = 0; i < 800; ++i) {
    const GemmSpec gemm{.m = size(20000), .n = size(20000), .k = size(20000), .type = type};
    gemms.push_back({gemm, off() * look_up(gemm, machine).time.value});
    AttentionSpec attention{.batch = size(16), .kv_heads = size(16)};
    attention.type = type;
    attention.heads = attention.kv_heads * size(8);
    attention.query_length = attention.key_length = size(16384);
    attentions.push_back({attention, off() * look_up(attention, machine).time.value});
  }
  for (std::int64_t bytes = 1; bytes < 1'000'000'000; bytes *= 8)
    passes.push_back({MemorySpec{{bytes}}, off() * look_up(MemorySpec{{bytes}}, machine).time.value});
  for (int kind = 0; kind <= static_cast<int>(CollectiveKind::all_to_all); ++kind) {
    for (int ranks = 2; ranks <= machine.links.front().gpus; ranks *= 2) {
      if (kind == 2 && ranks == 4) continue;  // is carried over
      CollectiveSpec spec{.kind = static_cast<CollectiveKind>(kind)};
      spec.group.add(ranks, 1);
      for (std::int64_t bytes = 1024; bytes < 1'000'000'000; bytes *= 4) {
        spec.held = {bytes};
        const double rate = machine.links.front().bandwidth.value;
        collectives.push_back({spec, off() * (1e-5 + static_cast<double>(bytes) / rate)});
      }
    }
  }
  Measurements measured;
  measured.add(table_of(KernelFamily::gemm, gemms));
  measured.add(table_of(KernelFamily::attention, attentions));
  measured.add(table_of(KernelFamily::memory, passes));
  measured.add(table_of(KernelFamily::collective, collectives));
  return with_measurements(machine, std::move(measured));
}

}  // namespace shardwright
