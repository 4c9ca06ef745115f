#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "hardware/kernel_table.h"
#include "hardware/measurements.h"
#include "hardware/size_curve.h"

namespace shardwright {

/// A table as curves: rows that differ only along the family's size (bytes, tokens, keys) are one. Of several kernels
/// the fastest counts at each size.
class CurveTimes {
 public:
  explicit CurveTimes(const KernelTable& table);

  using Curves = std::map<KernelSlots, SizeCurve>;  // by a question's slots, without its size
  const Curves& curves() const { return curves_; }
  /// By the question's slots; its size does not matter.
  const SizeCurve* curve_of(KernelSlots slots) const;
  double size_of(const KernelSlots& slots) const;

  /// Between the sizes of a curve. Nothing where there is no curve of two sizes.
  std::optional<KernelCost> read(const KernelSpec& spec) const;
  /// The same of a curve, as if one of its sizes had not been measured.
  std::optional<KernelCost> read(const SizeCurve& curve, double size, std::optional<std::size_t> skip = {}) const;

 private:
  std::size_t size_slot_;
  Curves curves_;
  double error_factor_ = 1;  // of a reading's doubt, such that 68 % of left out points are within
};

/// Collectives inside a node, by the tables of nccl-tests: kind, ranks, type of the elements, bytes.
///
/// Where the type was not measured, the same bytes of another type are; where neither was at this count of ranks, what
/// other kinds take there, by how they compare at other counts:
///   ln t(kind, n) = mean of ln t(kind, n') + ln t(other, n) - ln t(other, n')
/// over the other kinds and counts, those weighing more that are nearer: 1 / (log2(n'/n)^2 (gap^2 + 0.003)) with gap =
/// ln t(other, n') - ln t(kind, n'). How wrong either is was tried by leaving out each curve. A group's ranks may lie
/// apart inside the node: its links are a switch.
class CollectiveTimes {
 public:
  /// `node`: GPUs in one unit of the innermost links; 0 without limit.
  CollectiveTimes(const KernelTable& table, std::int64_t node);
  CollectiveTimes(const CollectiveTimes&) = delete;

  /// What is left out of an answer, to score it.
  enum class Without { nothing, size, type, ranks };

  /// Nothing where the group leaves the node or nothing alike was measured.
  std::optional<KernelCost> read(const CollectiveSpec& spec, Without without = Without::nothing) const;

  /// A time per byte that no size up to the spec's falls below. Nothing where read has nothing.
  std::optional<double> least_slope(const CollectiveSpec& spec) const;

 private:
  struct Key {
    CollectiveKind kind;
    CollectiveAlgorithm algorithm;
    std::int64_t ranks;
    int type;  // -1: not stated
    auto operator<=>(const Key&) const = default;
  };
  std::optional<Key> key_of(const CollectiveSpec& spec) const;
  /// The curve that answers: of the stated type, else of another one.
  const SizeCurve* curve_of(const Key& key, bool& other_type, bool without_type = false) const;
  std::optional<double> log_carried_over(const Key& key, double bytes) const;
  double ranks_error(CollectiveKind kind) const;
  void calibrate();

  CurveTimes curves_;
  std::int64_t node_;
  std::map<Key, const SizeCurve*> known_;
  double type_error_ = 0;
  std::map<CollectiveKind, double> ranks_error_;
};

}  // namespace shardwright
