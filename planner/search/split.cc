#include "planner/search/split.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace shardwright {
namespace {

/// Fills chunks from the last to the first, each up to its most or, when `evenly`, up to its share of what is left;
/// every middle chunk gets at least one layer. Empty when layers remain. `most(chunk, layers_left)`: layers that fit
/// into a chunk, taken from the end of those left. `first`: the embedding's time in layers.
template <typename Most>
std::vector<int> fill_from_the_end(int layers, int chunks, double first, bool evenly, const Most& most) {
  std::vector<int> split(static_cast<std::size_t>(chunks), 0);
  int left = layers;
  for (int c = chunks - 1; c >= 0; --c) {
    const int middle_before = c == 0 ? 0 : c - 1;  // chunks before this one that need a layer
    int take = std::min(most(c, left), left - middle_before);
    if (evenly && c != 0) take = std::min(take, static_cast<int>(std::ceil((left + first) / (c + 1) - 1e-9)));
    if (c != 0 && c != chunks - 1) take = std::max(take, 1);
    if (take < 0) return {};
    split[static_cast<std::size_t>(c)] = take;
    left -= take;
  }
  if (left > 0) return {};
  return split;
}

/// Even where that reaches the same time, else as full as can be.
template <typename Most>
std::vector<int> fill(int layers, int chunks, double first, const Most& most) {
  std::vector<int> even = fill_from_the_end(layers, chunks, first, true, most);
  return even.empty() ? fill_from_the_end(layers, chunks, first, false, most) : even;
}

bool impossible(int layers, int chunks, int most) {
  return chunks < 1 || chunks - 2 > layers || std::int64_t{most} * chunks < layers;
}

}  // namespace

std::vector<int> balanced_split(int layers, double layer, double first, double last, int chunks, int most) {
  if (impossible(layers, chunks, most)) return {};
  if (chunks == 1) return {layers};
  const auto fitting = [&](double budget) {
    // Candidates are budgets at which one more layer just fits: a hair of slack keeps that layer in.
    if (budget < 0) return -1;
    return static_cast<int>(std::min<double>(most, std::floor(budget / layer * (1 + 1e-12) + 1e-12)));
  };
  const auto holds = [&](double budget) {
    const int a = fitting(budget - first), z = fitting(budget - last), middle = fitting(budget);
    if (a < 0 || z < 0 || (chunks > 2 && middle < 1)) return false;
    return std::int64_t{a} + z + std::int64_t{chunks - 2} * middle >= layers;
  };
  double best = first + last + layers * layer;
  for (double extra : {0.0, first, last}) {
    int low = 0, high = layers;  // smallest k with a budget of extra + k layers that holds
    if (!holds(extra + high * layer)) continue;
    while (low < high) {
      const int k = (low + high) / 2;
      if (holds(extra + k * layer))
        high = k;
      else
        low = k + 1;
    }
    best = std::min(best, extra + low * layer);
  }
  return fill(layers, chunks, first / layer,
              [&](int c, int) { return fitting(best - (c == 0 ? first : 0) - (c == chunks - 1 ? last : 0)); });
}

std::vector<int> balanced_split(const std::vector<double>& layer_seconds, double first, double last, int chunks,
                                int most) {
  const int layers = static_cast<int>(layer_seconds.size());
  if (impossible(layers, chunks, most)) return {};
  if (chunks == 1) return {layers};
  if (std::all_of(layer_seconds.begin(), layer_seconds.end(), [&](double s) { return s == layer_seconds[0]; }))
    return balanced_split(layers, layer_seconds[0], first, last, chunks, most);
  std::vector<double> until(static_cast<std::size_t>(layers) + 1, 0);
  for (int i = 0; i < layers; ++i)
    until[static_cast<std::size_t>(i) + 1] =
        until[static_cast<std::size_t>(i)] + layer_seconds[static_cast<std::size_t>(i)];
  const auto split_within = [&](double budget) {
    return fill(layers, chunks, first / (until.back() / layers), [&](int c, int left) {
      const double room = budget - (c == 0 ? first : 0) - (c == chunks - 1 ? last : 0);
      if (room < 0) return -1;
      int take = 0;
      while (take < left && take < most &&
             until[static_cast<std::size_t>(left)] - until[static_cast<std::size_t>(left - take - 1)] <= room)
        ++take;
      return take;
    });
  };
  // Whether a budget holds, filling each chunk as full as can be; else no budget below `next` does: one more layer goes
  // into no chunk before it.
  const auto holds = [&](double budget, double& next) {
    next = std::numeric_limits<double>::infinity();
    int left = layers;
    for (int c = chunks - 1; c >= 0; --c) {
      const double ends = (c == 0 ? first : 0) + (c == chunks - 1 ? last : 0);
      const int room = std::min(most, left - (c == 0 ? 0 : c - 1));  // the middle chunks before need a layer each
      const auto seconds = [&](int take) {
        return ends + until[static_cast<std::size_t>(left)] - until[static_cast<std::size_t>(left - take)];
      };
      int take = 0;
      while (take < room && seconds(take + 1) <= budget) ++take;
      if (ends > budget) {
        next = std::min(next, ends);
        return false;
      }
      if (take < room) next = std::min(next, seconds(take + 1));
      if (take == 0 && c != 0 && c != chunks - 1) return false;
      left -= take;
    }
    return left == 0;
  };
  // Between the budgets `low`, below which none holds, and `high`, which holds: low jumps to sums that chunks can have.
  double low = (until.back() + first + last) / chunks * (1 - 1e-12), high = until.back() + first + last, next = 0;
  while (low < high) {
    if (holds(low, next)) {
      high = low;
      break;
    }
    low = std::max(next, std::nextafter(low, high));
    const double middle = (low + high) / 2;
    if (holds(middle, next))
      high = middle;
    else
      low = std::max(next, std::nextafter(middle, high));
  }
  // A hair more, so that sums added in another order stay within.
  std::vector<int> best = split_within(high * (1 + 1e-12));
  return best;
}

}  // namespace shardwright
