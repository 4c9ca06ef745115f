#include "kernels/shapes.h"

#include <algorithm>

namespace shardwright {

KeyRange causal_range(std::int64_t position, std::int64_t window, std::int64_t chunk) {
  KeyRange seen = {0, position + 1};
  if (window > 0) seen.first = std::max(seen.first, position + 1 - window);
  if (chunk > 0) seen.first = std::max(seen.first, position / chunk * chunk);
  return seen;
}

KeyRange AttentionShape::keys_seen(std::int64_t query) const {
  if (!causal) return {0, keys};
  KeyRange seen = causal_range(first_query + query, window, chunk);
  seen.end = std::min(seen.end, keys);
  return seen;
}

}  // namespace shardwright
