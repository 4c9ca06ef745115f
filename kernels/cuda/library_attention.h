#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/attention_graph.h"
#include "kernels/cuda/device.h"

namespace shardwright::cuda {

/// Where the arrays of a graph lie that is given or made; what it needs beside them is the library's own.
using GraphArrays = std::vector<std::pair<GraphArray, const void*>>;

/// Fused attention by cuDNN on a device's stream. What was planned is kept and planned no second time; so is a refusal.
class LibraryAttention {
 public:
  explicit LibraryAttention(Device& device);
  ~LibraryAttention();
  LibraryAttention(const LibraryAttention&) = delete;
  LibraryAttention& operator=(const LibraryAttention&) = delete;

  /// "cuDNN 9.19.0"
  std::string version() const;
  /// Why the library has no such attention on this GPU, in its words; "" where it has, which then is planned.
  std::string unsupported(const AttentionGraphSpec& spec);
  /// What `unsupported` said "" of.
  void run(const AttentionGraphSpec& spec, const GraphArrays& arrays);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shardwright::cuda
