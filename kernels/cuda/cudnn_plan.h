#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hardware/quantities.h"
#include "kernels/cuda/attention_graph.h"

struct cudnnContext;

namespace shardwright::cuda {

/// One graph as one kernel of cuDNN's, by the first of its advices that it can build. Throws std::runtime_error where
/// there is none, in cuDNN's words.
class CudnnPlan {
 public:
  /// For the handle's GPU.
  CudnnPlan(const AttentionGraph& graph, cudnnContext* handle);
  /// For a GPU that need not be here, by what it is (cuDNN's JSON): can be asked about, not run.
  CudnnPlan(const AttentionGraph& graph, const std::string& device);
  ~CudnnPlan();
  CudnnPlan(const CudnnPlan&) = delete;
  CudnnPlan& operator=(const CudnnPlan&) = delete;

  Bytes workspace() const;
  /// On the handle's stream; an address for each array of the graph that lies in memory.
  void run(cudnnContext* handle, const std::vector<std::pair<GraphArray, void*>>& arrays, void* workspace) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shardwright::cuda
