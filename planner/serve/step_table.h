#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace shardwright {

/// Times of an engine's steps, on straight lines between points that are priced when first asked for: 1 to 8, then
/// four to each doubling. A look-up is some tens of nanoseconds.
class StepTable {
 public:
  /// What `tokens` tokens of prompts add to a step. `lag`: what is left of their way, through later pipeline stages,
  /// when the next step begins.
  struct Added {
    double seconds = 0, lag = 0;
  };
  /// Seconds of a step in which `batch` sequences with `context` tokens each, in the mean, gain a token.
  using PriceDecode = std::function<double(std::int64_t batch, std::int64_t context)>;
  /// `reach`: how many tokens before it a token sees, in the mean; `batch`: sequences that decode beside.
  using PricePrefill = std::function<Added(std::int64_t tokens, std::int64_t reach, std::int64_t batch)>;

  StepTable(PriceDecode, PricePrefill);

  double decode(std::int64_t batch, std::int64_t context);
  Added prefill(std::int64_t tokens, std::int64_t reach, std::int64_t batch);

 private:
  using Row = std::vector<double>;
  using Plane = std::vector<Added>;

  double decode_at(std::int64_t batch, std::int64_t context);
  Added prefill_at(std::int64_t tokens, std::int64_t reach, std::int64_t batch);

  PriceDecode price_decode_;
  PricePrefill price_prefill_;
  std::vector<Row> decode_;     // by batch's point, then context's; NaN: not priced yet
  std::vector<Plane> prefill_;  // by batch's point, then tokens' and reach's
};

}  // namespace shardwright
