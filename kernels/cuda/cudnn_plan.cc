#include "kernels/cuda/cudnn_plan.h"

#include <cudnn_graph.h>

#include <array>
#include <cassert>
#include <list>
#include <map>
#include <stdexcept>

#include "kernels/cuda/check.h"

namespace shardwright::cuda {
namespace {

/// In one line: it stands in tables.
std::string last_error() {
  std::array<char, 1024> text = {};
  cudnnGetLastErrorString(text.data(), text.size());
  std::string line = text.data();
  for (char& c : line)
    if (c == '\n' || c == '\t' || c == '\r') c = ' ';
  return line;
}

void check_dnn(cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw std::runtime_error(failure(call, last_error(), cudnnGetErrorString(status), file, line));
}
#define SHARDWRIGHT_DNN(call) check_dnn(call, #call, __FILE__, __LINE__)

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    SHARDWRIGHT_DNN(cudnnBackendCreateDescriptor(type, &handle_));
  }
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (handle_) static_cast<void>(cudnnBackendDestroyDescriptor(handle_));
  }

  template <typename Value>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const Value* values,
           std::size_t count) const {
    SHARDWRIGHT_DNN(cudnnBackendSetAttribute(handle_, name, type, static_cast<std::int64_t>(count), values));
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& other) const {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &other.handle_, 1);
  }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t type) const { set(name, CUDNN_TYPE_DATA_TYPE, &type, 1); }
  void set(cudnnBackendAttributeName_t name, std::int64_t value) const { set(name, CUDNN_TYPE_INT64, &value, 1); }
  void set(cudnnBackendAttributeName_t name, bool value) const { set(name, CUDNN_TYPE_BOOLEAN, &value, 1); }
  void set(cudnnBackendAttributeName_t name, const GraphTensor::Four& four) const {
    set(name, CUDNN_TYPE_INT64, four.data(), four.size());
  }
  void finalize() const { SHARDWRIGHT_DNN(cudnnBackendFinalize(handle_)); }
  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

cudnnDataType_t type_of(GraphType type) {
  switch (type) {
    case GraphType::fp32:
      return CUDNN_DATA_FLOAT;
    case GraphType::fp16:
      return CUDNN_DATA_HALF;
    case GraphType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case GraphType::int32:
      return CUDNN_DATA_INT32;
    case GraphType::boolean:
      return CUDNN_DATA_BOOLEAN;
  }
  assert(false && "all types are listed");
  return CUDNN_DATA_FLOAT;
}

Descriptor tensor(const GraphTensor& t) {
  constexpr std::int64_t kAlignment = 16;
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type_of(t.type));
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, t.extents);
  d.set(CUDNN_ATTR_TENSOR_STRIDES, t.strides);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, t.id);
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, !t.in_memory && !t.value);
  d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, t.value.has_value());
  d.finalize();
  return d;
}

cudnnPointwiseMode_t mode_of(GraphWork work) {
  switch (work) {
    case GraphWork::row_index:
    case GraphWork::column_index:
      return CUDNN_POINTWISE_GEN_INDEX;
    case GraphWork::add:
      return CUDNN_POINTWISE_ADD;
    case GraphWork::subtract:
      return CUDNN_POINTWISE_SUB;
    case GraphWork::multiply:
      return CUDNN_POINTWISE_MUL;
    case GraphWork::divide:
      return CUDNN_POINTWISE_DIV;
    case GraphWork::exponential:
      return CUDNN_POINTWISE_EXP;
    case GraphWork::logarithm:
      return CUDNN_POINTWISE_LOG;
    case GraphWork::at_least:
      return CUDNN_POINTWISE_CMP_GE;
    case GraphWork::above:
      return CUDNN_POINTWISE_CMP_GT;
    case GraphWork::select:
      return CUDNN_POINTWISE_BINARY_SELECT;
    case GraphWork::copy:
    case GraphWork::product:
    case GraphWork::sum:
    case GraphWork::largest:
    case GraphWork::transpose:
      break;
  }
  return CUDNN_POINTWISE_IDENTITY;
}

/// Descriptors of a graph; each outlives what was made of it.
class Described {
 public:
  Described(const AttentionGraph& graph, cudnnHandle_t handle) : whole_(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
    for (const GraphTensor& t : graph.tensors) tensors_.emplace(t.id, tensor(t));
    for (const GraphStep& step : graph.steps) add(step);
    std::vector<cudnnBackendDescriptor_t> all;
    for (const Descriptor& d : operations_) all.push_back(d.handle());
    whole_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, all.data(), all.size());
    if (handle) whole_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, &handle, 1);
    whole_.finalize();
  }
  const Descriptor& whole() const { return whole_; }

 private:
  void add(const GraphStep& s) {
    switch (s.work) {
      case GraphWork::product:
        return add_product(s);
      case GraphWork::sum:
      case GraphWork::largest:
        return add_reduction(s);
      case GraphWork::transpose:
        return add_transpose(s);
      default:
        return add_pointwise(s);
    }
  }
  Descriptor& settings(cudnnBackendDescriptorType_t type) { return settings_.emplace_back(type); }

  void add_product(const GraphStep& s) {
    const Descriptor& how = settings(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, type_of(s.computed));
    how.finalize();
    const Descriptor& d = operations_.emplace_back(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    d.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensors_.at(s.a));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensors_.at(s.b));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensors_.at(s.out));
    d.finalize();
  }
  void add_reduction(const GraphStep& s) {
    const Descriptor& how = settings(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    const cudnnReduceTensorOp_t operation =
        s.work == GraphWork::sum ? CUDNN_REDUCE_TENSOR_ADD : CUDNN_REDUCE_TENSOR_MAX;
    how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &operation, 1);
    how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, type_of(s.computed));
    how.finalize();
    const Descriptor& d = operations_.emplace_back(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensors_.at(s.a));
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensors_.at(s.out));
    d.finalize();
  }
  void add_transpose(const GraphStep& s) {
    const Descriptor& d = operations_.emplace_back(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensors_.at(s.a));
    d.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensors_.at(s.out));
    d.finalize();
  }
  void add_pointwise(const GraphStep& s) {
    const Descriptor& how = settings(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    const cudnnPointwiseMode_t mode = mode_of(s.work);
    how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &mode, 1);
    how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, type_of(s.computed));
    if (mode == CUDNN_POINTWISE_GEN_INDEX)
      how.set(CUDNN_ATTR_POINTWISE_AXIS, std::int64_t{s.work == GraphWork::row_index ? 2 : 3});
    how.finalize();
    const Descriptor& d = operations_.emplace_back(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    d.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensors_.at(s.a));
    if (s.b != 0) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensors_.at(s.b));
    if (s.condition != 0) d.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensors_.at(s.condition));
    d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensors_.at(s.out));
    d.finalize();
  }

  std::map<std::int64_t, Descriptor> tensors_;
  std::list<Descriptor> settings_, operations_;
  Descriptor whole_;
};

/// Which GPU a plan is for: the handle's, or one that is described.
struct Target {
  cudnnHandle_t handle = nullptr;
  const Descriptor* device = nullptr;
};

/// cuDNN's advice, best first; none where it has none of that kind.
std::vector<Descriptor> advice(const Described& graph, const Target& target, cudnnBackendHeurMode_t mode) {
  constexpr std::size_t kMost = 8;
  const Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.whole());
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode, 1);
  if (target.device) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.device);
  if (cudnnBackendFinalize(heuristic.handle()) != CUDNN_STATUS_SUCCESS) return {};
  std::vector<Descriptor> configurations;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::size_t i = 0; i < kMost; ++i)
    handles.push_back(configurations.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).handle());
  std::int64_t found = 0;
  if (cudnnBackendGetAttribute(heuristic.handle(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kMost,
                               &found, handles.data()) != CUDNN_STATUS_SUCCESS)
    return {};
  while (configurations.size() > static_cast<std::size_t>(found)) configurations.pop_back();
  return configurations;
}

/// Of the first configuration that can be built; the first reason is told where none can.
Descriptor first_plan(const Described& graph, const Target& target) {
  std::string why;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const Descriptor& configuration : advice(graph, target, mode)) {
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
      if (target.handle) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, &target.handle, 1);
      if (target.device) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.device);
      if (cudnnBackendFinalize(plan.handle()) == CUDNN_STATUS_SUCCESS) return plan;
      if (why.empty()) why = last_error();
    }
  }
  throw std::runtime_error("cuDNN has no kernel for it" + (why.empty() ? why : ": " + why));
}

}  // namespace

struct CudnnPlan::State {
  Described graph;
  Descriptor plan;
  std::vector<std::pair<std::int64_t, double>> numbers;  // by value
  std::map<std::int64_t, GraphType> types;

  State(const AttentionGraph& of, const Target& target) : graph(of, target.handle), plan(first_plan(graph, target)) {
    for (const GraphTensor& t : of.tensors) {
      types[t.id] = t.type;
      if (t.value) numbers.emplace_back(t.id, *t.value);
    }
  }
};

CudnnPlan::CudnnPlan(const AttentionGraph& graph, cudnnContext* handle)
    : state_(std::make_unique<State>(graph, Target{handle, nullptr})) {}

CudnnPlan::CudnnPlan(const AttentionGraph& graph, const std::string& device) {
  const Descriptor described(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  described.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, device.c_str(), device.size() + 1);
  described.finalize();
  state_ = std::make_unique<State>(graph, Target{nullptr, &described});
}

CudnnPlan::~CudnnPlan() = default;

Bytes CudnnPlan::workspace() const {
  Bytes size;
  SHARDWRIGHT_DNN(cudnnBackendGetAttribute(state_->plan.handle(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                           CUDNN_TYPE_INT64, 1, nullptr, &size.value));
  return size;
}

void CudnnPlan::run(cudnnContext* handle, const std::vector<std::pair<GraphArray, void*>>& arrays,
                    void* workspace) const {
  std::vector<std::int64_t> ids;
  std::vector<void*> addresses;
  for (const auto& [array, address] : arrays) {
    ids.push_back(static_cast<std::int64_t>(array));
    addresses.push_back(address);
  }
  // Read when the plan is enqueued.
  std::list<float> floats;
  std::list<std::int32_t> whole;
  for (const auto& [id, value] : state_->numbers) {
    ids.push_back(id);
    if (state_->types.at(id) == GraphType::int32)
      addresses.push_back(&whole.emplace_back(static_cast<std::int32_t>(value)));
    else
      addresses.push_back(&floats.emplace_back(static_cast<float>(value)));
  }
  const Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.data(), ids.size());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, addresses.data(), addresses.size());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, &workspace, 1);
  pack.finalize();
  SHARDWRIGHT_DNN(cudnnBackendExecute(handle, state_->plan.handle(), pack.handle()));
}

}  // namespace shardwright::cuda
