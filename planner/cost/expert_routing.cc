#include "planner/cost/expert_routing.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <numeric>
#include <span>

namespace shardwright {
namespace {

/// The chance that at least one of `chosen` different experts out of `pool` is among `covered` of these. Summed over
/// which of them is the first, so that nothing cancels.
double hit_chance(std::int64_t pool, std::int64_t covered, std::int64_t chosen) {
  double hit = 0, miss = 1;
  for (std::int64_t i = 0; i < chosen && pool - i > covered; ++i) {
    const double left = static_cast<double>(pool - i);
    hit += miss * (static_cast<double>(covered) / left);
    miss *= (left - static_cast<double>(covered)) / left;
  }
  return chosen > pool - covered ? 1 : hit;
}

struct Routing {
  std::int64_t chosen = 0, groups = 0, open_groups = 0;  // open: those that a token's experts lie in
  std::int64_t group_size = 0;

  std::int64_t pool() const { return open_groups * group_size; }
};

/// hit_chance of a part that covers `extra` experts of the pool and `full` of `groups` groups, `open` of which are
/// drawn: the mean over how many full ones are among these (hypergeometric). Terms follow from their neighbours,
/// outwards from the likeliest, and are divided by their sum: so no binomial is ever computed, which would overflow.
double mean_hit_chance(const Routing& routing, std::int64_t extra, std::int64_t full, std::int64_t groups,
                       std::int64_t open) {
  if (full == 0) return hit_chance(routing.pool(), extra, routing.chosen);
  const std::int64_t fewest = std::max<std::int64_t>(0, open - (groups - full)), most = std::min(full, open);
  // Of n + 1 against n full groups among the open ones.
  const auto ratio = [&](std::int64_t n) {
    return static_cast<double>(full - n) * static_cast<double>(open - n) /
           (static_cast<double>(n + 1) * static_cast<double>(groups - full - open + n + 1));
  };
  double weights = 0, hits = 0;
  const auto add = [&](std::int64_t n, double weight) {
    weights += weight;
    hits += weight * hit_chance(routing.pool(), extra + n * routing.group_size, routing.chosen);
  };
  const std::int64_t likeliest = std::clamp((full + 1) * (open + 1) / (groups + 2), fewest, most);
  double weight = 1;
  for (std::int64_t n = likeliest; n <= most && weight > 0; ++n) {
    add(n, weight);
    weight *= ratio(n);
  }
  weight = 1;
  for (std::int64_t n = likeliest; n > fewest && weight > 0; --n) {
    weight /= ratio(n - 1);
    add(n - 1, weight);
  }
  return hits / weights;
}

/// mean_hit_chance of a part that besides the full groups covers `partial` experts of one group each: these are drawn
/// first, the full ones among the rest.
double drawn_hit_chance(const Routing& routing, std::span<const std::int64_t> partial, std::int64_t extra,
                        std::int64_t full, std::int64_t groups, std::int64_t open) {
  if (partial.empty()) return mean_hit_chance(routing, extra, full, groups, open);
  const auto rest = partial.subspan(1);
  double hits = 0;  // by `groups`
  if (open > 0) {
    hits += static_cast<double>(open) * drawn_hit_chance(routing, rest, extra + partial[0], full, groups - 1, open - 1);
  }
  if (groups > open) {
    hits += static_cast<double>(groups - open) * drawn_hit_chance(routing, rest, extra, full, groups - 1, open);
  }
  return hits / static_cast<double>(groups);
}

/// The chance that the token has an expert in the run [begin, begin + size): it covers groups, and parts of at most
/// two.
double part_chance(const Routing& routing, std::int64_t begin, std::int64_t size) {
  const std::int64_t group = routing.group_size, end = begin + size;
  std::int64_t head = (group - begin % group) % group, tail = end % group;
  if (head > size) {  // inside one group
    head = size;
    tail = 0;
  }
  std::array<std::int64_t, 2> partial = {};
  std::size_t partials = 0;
  if (head > 0) partial[partials++] = head;
  if (tail > 0) partial[partials++] = tail;
  const std::int64_t full = (size - head - tail) / group;
  return drawn_hit_chance(routing, std::span(partial.data(), partials), 0, full, routing.groups, routing.open_groups);
}

}  // namespace

double distinct_parts(std::int64_t experts, std::int64_t chosen, std::int64_t parts, std::int64_t n_group,
                      std::int64_t topk_group) {
  assert(chosen >= 1 && chosen <= experts && parts >= 1 && experts % parts == 0);
  const std::int64_t size = experts / parts;
  if (n_group <= 1 || topk_group >= n_group) { return static_cast<double>(parts) * hit_chance(experts, size, chosen); }
  assert(experts % n_group == 0 && topk_group >= 1 && chosen <= topk_group * (experts / n_group));
  Routing routing;
  routing.chosen = chosen;
  routing.groups = n_group;
  routing.open_groups = topk_group;
  routing.group_size = experts / n_group;
  // Parts inside one group are all alike; else parts and groups begin together again after this many parts.
  const bool inside = routing.group_size % size == 0;
  const std::int64_t period = inside ? 1 : routing.group_size / std::gcd(size, routing.group_size);
  double sum = 0;
  for (std::int64_t i = 0; i < period; ++i) sum += part_chance(routing, i * size, size);
  return sum * static_cast<double>(parts / period);
}

}  // namespace shardwright
