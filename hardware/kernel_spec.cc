#include "hardware/kernel_spec.h"

#include <algorithm>
#include <cassert>

namespace shardwright {
double AttentionSpec::visible_keys() const {
  const auto keys = static_cast<double>(key_length);
  const double width = window == 0 ? keys : std::min(static_cast<double>(window), keys);
  if (!causal) return width;
  // The query at position i sees min(i, width) keys; the mean over i in 0..keys. Without a window that is half of them.
  return width - width * width / (2 * keys);
}

Flops AttentionSpec::work() const {
  const double pairs =
      static_cast<double>(batch) * static_cast<double>(heads) * static_cast<double>(query_length) * visible_keys();
  // Forward: scores (head_dim) and output (value_dim). Backward: scores again, gradients of queries and of keys
  // (head_dim), gradients of probabilities and of values (value_dim).
  const std::int64_t depth = backward ? 3 * head_dim + 2 * value_dim : head_dim + value_dim;
  return {2 * pairs * static_cast<double>(depth)};
}

std::string_view name_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::all_reduce:
      return "all_reduce";
    case CollectiveKind::all_gather:
      return "all_gather";
    case CollectiveKind::reduce_scatter:
      return "reduce_scatter";
    case CollectiveKind::all_to_all:
      return "all_to_all";
    case CollectiveKind::send_recv:
      return "send_recv";
  }
  assert(false && "a collective without a name");
  return "";
}

}  // namespace shardwright
