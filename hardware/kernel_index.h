#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hardware/kernel_point.h"
#include "hardware/kernel_table.h"
#include "hardware/measurements.h"
#include "hardware/neighbours.h"

namespace shardwright {

/// The least time of a question among the kernels that were measured; of several rows of a kernel the middle one.
Seconds least_time(const KernelTable& table, KernelTable::Range rows);

/// The rows of a family that has points (kernel_point.h), ready to be read off between them. Time is
/// (launch + busy) x ratio, the ratio read off by Neighbours, apart for each kernel. A question is answered by the
/// kernel whose rows are nearest, for a library chooses by shape; by the fastest of those that are as near. No answer
/// beats the best share of the datasheet's rates that any row of its group reached: hence least().
class KernelIndex {
 public:
  /// `table` and `machine` are not kept, but for the machine's rates.
  KernelIndex(const KernelTable& table, const Machine& machine);

  /// Nothing where there is no group of kernels for the question, or too few rows in it. `without_site`: as if no
  /// question of the same site had been measured.
  std::optional<KernelCost> read(const KernelSpec& spec, bool without_site = false) const;

  /// What neither read nor a row falls below; added up over the parts of a question (in its batch, rows or sum) it is
  /// no less than that of the whole. Nothing where no row is of its group.
  std::optional<Seconds> least(const KernelSpec& spec) const;
  /// Whether read answers this question, and so all of which it is a part.
  bool reads(const KernelSpec& spec) const;

 private:
  struct Kernel {
    std::string name;  // and the software around it
    int variant = 0;
    double launch = 0;       // seconds: the fastest row
    std::size_t points = 0;  // index of its Neighbours
  };
  struct Group {
    std::vector<Kernel> kernels;
    std::vector<Neighbours> points;  // one for each kernel, or for all
    std::map<KernelSite, std::int32_t> sites;
    bool has_sites = true;                       // too few: every row is its own
    std::array<bool, 2> reads = {};              // by variant: some kernel has rows enough
    double compute_share = 0, memory_share = 0;  // least seconds over those at the datasheet's rates
  };
  static Group make_group(const KernelTable& table, const std::vector<std::size_t>& rows, const Machine& machine);
  const Group* find(const KernelSpec& spec, KernelSpec& asked) const;
  Seconds least(const Group& group, const KernelPoint& point) const;

  Machine machine_;
  std::map<KernelGroup, Group> groups_;
};

}  // namespace shardwright
