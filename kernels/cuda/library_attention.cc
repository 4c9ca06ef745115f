#include "kernels/cuda/library_attention.h"

#include <cudnn_graph.h>

#include <map>
#include <stdexcept>

#include "kernels/cuda/cudnn_plan.h"

namespace shardwright::cuda {
namespace {

/// Before 9.10 masks are not of -infinity; up to 9.15.0 gradients are wrong where keys are no multiple of 128, unless
/// their number is a tensor (cudnn-frontend's remarks on both).
std::string too_old(const AttentionGraphSpec& spec) {
  const std::size_t version = cudnnGetVersion();
  if (version < 91000) return "cuDNN is older than 9.10";
  if (spec.backward && spec.keys % 128 != 0 && version <= 91500)
    return "cuDNN up to 9.15.0 has gradients of whole blocks of 128 keys alone";
  return "";
}

/// A plan, or why there is none.
struct Planned {
  AttentionGraph graph;
  std::unique_ptr<CudnnPlan> plan;
  std::string missing;
};

}  // namespace

struct LibraryAttention::State {
  Device& device;
  cudnnHandle_t handle = nullptr;
  std::string no_handle;
  std::map<AttentionGraphSpec, Planned> planned;

  explicit State(Device& of) : device(of) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (handle) static_cast<void>(cudnnDestroy(handle));
  }

  /// When it is first wanted: it takes some of the GPU's memory.
  bool open() {
    if (handle || !no_handle.empty()) return handle != nullptr;
    cudnnStatus_t status = cudnnCreate(&handle);
    if (status == CUDNN_STATUS_SUCCESS) status = cudnnSetStream(handle, device.stream());
    if (status != CUDNN_STATUS_SUCCESS) no_handle = std::string("cuDNN cannot be used: ") + cudnnGetErrorString(status);
    return no_handle.empty();
  }

  const Planned& plan(const AttentionGraphSpec& spec) {
    const auto [it, is_new] = planned.try_emplace(spec);
    Planned& p = it->second;
    if (!is_new) return p;
    if (!open()) {
      p.missing = no_handle;
      return p;
    }
    if (p.missing = too_old(spec); !p.missing.empty()) return p;
    p.graph = attention_graph(spec);
    try {
      p.plan = std::make_unique<CudnnPlan>(p.graph, handle);
    } catch (const std::runtime_error& error) { p.missing = error.what(); }
    return p;
  }
};

LibraryAttention::LibraryAttention(Device& device) : state_(std::make_unique<State>(device)) {}
LibraryAttention::~LibraryAttention() = default;

std::string LibraryAttention::version() const {
  const std::size_t v = cudnnGetVersion();  // 91900: major * 10000 + minor * 100 + patch
  return "cuDNN " + std::to_string(v / 10'000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

std::string LibraryAttention::unsupported(const AttentionGraphSpec& spec) { return state_->plan(spec).missing; }

void LibraryAttention::run(const AttentionGraphSpec& spec, const GraphArrays& arrays) {
  const Planned& planned = state_->plan(spec);
  if (!planned.plan) throw std::runtime_error(planned.missing);
  std::vector<std::pair<GraphArray, void*>> all;
  for (const auto& [array, at] : arrays) all.emplace_back(array, const_cast<void*>(at));
  std::vector<std::shared_ptr<void>> memory;
  const auto own = [&](Bytes size) { return memory.emplace_back(state_->device.allocate(size)).get(); };
  if (spec.backward) {
    constexpr std::int64_t kFloat = 4;
    for (const GraphArray array : {GraphArray::along, GraphArray::d_q_sum})
      all.emplace_back(array, own({planned.graph.tensor(static_cast<std::int64_t>(array)).elements() * kFloat}));
  }
  planned.plan->run(state_->handle, all, own(planned.plan->workspace()));
}

}  // namespace shardwright::cuda
