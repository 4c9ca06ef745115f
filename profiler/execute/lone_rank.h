#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/operators.h"
#include "planner/cost/expert_load.h"

namespace shardwright {

/// One rank of a plan that runs without the others. It computes what it would compute among them; what they would send
/// it is made up: of the size that it would have, the numbers its own.
struct LoneRank {
  std::int64_t rank = 0;
  ExpertLoad load;  ///< which experts tokens choose: by this, not by the router, so that as many rows come as would
};

/// Rank `rank` of `size`, the others of which are not there. No call waits; what would come from others is a copy of
/// what this rank gives, or noise where it gives nothing; what is added up is its own part. Buffers are of `operators`,
/// which outlives this.
std::unique_ptr<Communicator> make_lone_communicator(std::int64_t rank, std::int64_t size, Operators& operators);

/// Which experts tokens choose under a load, as often as it says: systematic sampling (Madow, Annals of Mathematical
/// Statistics 20, 1949) from a point that moves by the golden ratio from token to token, so that counts of all tokens
/// differ from their shares by little more than one. A router's limits to groups of experts are not looked at.
class DrawnExperts {
 public:
  DrawnExperts(const ExpertLoad& load, std::int64_t experts, std::int64_t chosen);
  std::int64_t chosen() const { return chosen_; }
  /// `chosen` different ones, ascending.
  void of_token(std::int64_t token, std::vector<std::int64_t>& experts) const;

 private:
  std::int64_t chosen_;
  std::vector<double> until_;  // chances of all experts up to this one, which add up to `chosen`
};

}  // namespace shardwright
