#pragma once

#include <limits>
#include <vector>

namespace shardwright {

/// Layers of each chunk, in order, so that the slowest chunk is as fast as it can be: chunk 0 also takes `first`
/// seconds (the embedding), the last `last` (head and loss). Among the splits that reach that time an even one is taken
/// where there is one, the smaller chunks first, since early stages hold more micro-batches. Only the first and the
/// last chunk may be without layers. `layer_seconds`: forward and backward of each layer, in order. With `most`, no
/// chunk has more layers than that. Empty when there are too many chunks, or too few.
std::vector<int> balanced_split(const std::vector<double>& layer_seconds, double first, double last, int chunks,
                                int most = std::numeric_limits<int>::max());

/// The same where all layers take `layer` seconds; fast.
std::vector<int> balanced_split(int layers, double layer, double first, double last, int chunks,
                                int most = std::numeric_limits<int>::max());

}  // namespace shardwright
