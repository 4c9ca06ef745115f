#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <map>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/check.h"

namespace shardwright::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(failure(call, cublasLtGetStatusString(status), cublasLtGetStatusName(status), file, line));
}
#define SHARDWRIGHT_BLAS(call) check_blas(call, #call, __FILE__, __LINE__)

/// Descriptions of the library are destroyed with their owners.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle) static_cast<void>(destroy(handle));
  }
};
using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t number(DataType type) {
  switch (type) {
    case DataType::fp32:
    case DataType::tf32:
      return CUDA_R_32F;
    case DataType::fp16:
      return CUDA_R_16F;
    case DataType::bf16:
      return CUDA_R_16BF;
    case DataType::fp8:
    case DataType::mxfp8:
      return CUDA_R_8F_E4M3;
    case DataType::nvfp4:
      return CUDA_R_4F_E2M1;
  }
  assert(false && "all types are listed");
  return CUDA_R_32F;
}

std::int64_t bytes_of_result(DataType type) { return number(type) == CUDA_R_32F ? 4 : 2; }

bool is_scaled(DataType type) { return type == DataType::fp8 || type == DataType::mxfp8 || type == DataType::nvfp4; }

/// `square`: of b.
cublasLtMatmulMatrixScale_t scale_mode(const ProductSpec& spec, bool square) {
  if (spec.type == DataType::mxfp8) return CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0;
  if (spec.type == DataType::nvfp4) return CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  if (spec.scaling == Scaling::tensor) return CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  if (spec.scaling == Scaling::row) return CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  return square ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
}

template <typename Value>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  SHARDWRIGHT_BLAS(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)));
}
template <typename Value>
void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const Value& value) {
  SHARDWRIGHT_BLAS(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof(value)));
}
template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
  SHARDWRIGHT_BLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

/// A row-major matrix as the library sees it, column by column: its rows are our columns.
void make_layout(Layout& layout, DataType type, std::int64_t rows, std::int64_t columns, const MatrixPlace& place,
                 std::int64_t batch) {
  const auto [down, right] = place.transposed ? std::pair(columns, rows) : std::pair(rows, columns);
  SHARDWRIGHT_BLAS(cublasLtMatrixLayoutCreate(&layout.handle, number(type), static_cast<std::uint64_t>(right),
                                              static_cast<std::uint64_t>(down), place.stride));
  if (batch == 1) return;
  set(layout.handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
  set(layout.handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, place.batch_stride);
}

/// Row-major out = a b is column-major out^T = b^T a^T: the library's A is our b, and its B our a.
struct Problem {
  Description description;
  Layout a, b, out;

  Problem(const ProductSpec& spec, const void* any_scale) {
    const auto compute = spec.type == DataType::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    SHARDWRIGHT_BLAS(cublasLtMatmulDescCreate(&description.handle, compute, CUDA_R_32F));
    set(description.handle, CUBLASLT_MATMUL_DESC_TRANSA, spec.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description.handle, CUBLASLT_MATMUL_DESC_TRANSB, spec.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (is_scaled(spec.type)) {
      set(description.handle, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, scale_mode(spec, true));
      set(description.handle, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, scale_mode(spec, false));
      point_to_scales(any_scale, any_scale);
    }
    make_layout(b, spec.type, spec.k, spec.n, spec.b, spec.batch);
    make_layout(a, spec.type, spec.m, spec.k, spec.a, spec.batch);
    make_layout(out, spec.result, spec.m, spec.n, spec.out, spec.batch);
  }

  void point_to_scales(const void* of_a, const void* of_b) const {
    set(description.handle, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_b);
    set(description.handle, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_a);
  }
};

struct Planned final : Product {
  ProductSpec spec;
  Problem problem;
  cublasLtMatmulAlgo_t algorithm = {};
  Bytes needed;
  Seconds best;
  int tried_count = 1;

  Planned(const ProductSpec& of, const void* any_scale) : spec(of), problem(of, any_scale) {}
  Bytes workspace() const override { return needed; }
  Seconds tried() const override { return best; }
  int candidates() const override { return tried_count; }
};

Bytes extent_of_out(const ProductSpec& spec) {
  return {((spec.batch - 1) * spec.out.batch_stride + (spec.m - 1) * spec.out.stride + spec.n) *
          bytes_of_result(spec.result)};
}

}  // namespace

struct Matmul::State {
  Device& device;
  Library library;
  std::shared_ptr<void> workspace;
  Bytes workspace_size;
  std::map<ProductSpec, std::unique_ptr<Planned>> planned;

  State(Device& of, Bytes size) : device(of), workspace(of.allocate(size)), workspace_size(size) {
    SHARDWRIGHT_BLAS(cublasLtCreate(&library.handle));
  }

  /// The library's advice, best first; none where it has no algorithm, with its status.
  std::vector<cublasLtMatmulHeuristicResult_t> advice(const Problem& problem, const ProductSpec& spec, int most,
                                                      cublasStatus_t& status) const {
    Preference preference;
    SHARDWRIGHT_BLAS(cublasLtMatmulPreferenceCreate(&preference.handle));
    set(preference.handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_size.value));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(preference.handle, attribute, static_cast<std::uint32_t>(spec.alignment));
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
    int found = 0;
    status = cublasLtMatmulAlgoGetHeuristic(library.handle, problem.description.handle, problem.b.handle,
                                            problem.a.handle, problem.out.handle, problem.out.handle, preference.handle,
                                            most, results.data(), &found);
    if (status != CUBLAS_STATUS_SUCCESS) found = 0;
    results.resize(static_cast<std::size_t>(found));
    std::erase_if(results, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
    return results;
  }

  [[noreturn]] static void throw_no_algorithm(cublasStatus_t status) {
    throw std::runtime_error(std::string("cuBLASLt has no algorithm for the product: ") +
                             cublasLtGetStatusName(status));
  }

  cublasStatus_t try_run(const Planned& p, const cublasLtMatmulAlgo_t& algorithm, const ProductBuffers& on) {
    if (is_scaled(p.spec.type)) p.problem.point_to_scales(on.scale_a, on.scale_b);
    const float one = 1.0f, beta = p.spec.accumulate ? 1.0f : 0.0f;
    return cublasLtMatmul(library.handle, p.problem.description.handle, &one, on.b, p.problem.b.handle, on.a,
                          p.problem.a.handle, &beta, on.out, p.problem.out.handle, on.out, p.problem.out.handle,
                          &algorithm, workspace.get(), static_cast<std::size_t>(workspace_size.value), device.stream());
  }

  /// Mean of a few runs behind one that warms up; less than 0 where the algorithm refuses.
  double seconds(const Planned& p, const cublasLtMatmulAlgo_t& algorithm, const ProductBuffers& on) {
    constexpr int kRuns = 5;
    if (try_run(p, algorithm, on) != CUBLAS_STATUS_SUCCESS) return -1;
    Events events;
    events.begin(device);
    for (int i = 0; i < kRuns; ++i) SHARDWRIGHT_BLAS(try_run(p, algorithm, on));
    events.end(device);
    return events.between().value / kRuns;
  }
};

Matmul::Matmul(Device& device, Bytes workspace) : state_(std::make_unique<State>(device, workspace)) {}
Matmul::~Matmul() = default;

std::string Matmul::version() const {
  const auto v = static_cast<int>(cublasLtGetVersion());  // 130100: major * 10000 + minor * 100 + patch
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

std::string Matmul::unsupported(const ProductSpec& spec) {
  if (state_->planned.contains(spec)) return "";
  const Problem problem(spec, state_->workspace.get());
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  if (!state_->advice(problem, spec, 1, status).empty()) return "";
  return std::string("cuBLASLt has no algorithm for it (") + cublasLtGetStatusName(status) + ")";
}

const Product& Matmul::plan(const ProductSpec& spec) {
  if (const auto it = state_->planned.find(spec); it != state_->planned.end()) return *it->second;
  auto planned = std::make_unique<Planned>(spec, state_->workspace.get());
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto advice = state_->advice(planned->problem, spec, 1, status);
  if (advice.empty()) State::throw_no_algorithm(status);
  planned->algorithm = advice.front().algo;
  planned->needed = {static_cast<std::int64_t>(advice.front().workspaceSize)};
  return *(state_->planned[spec] = std::move(planned));
}

const Product& Matmul::plan_fastest(const ProductSpec& spec, const ProductBuffers& on, int candidates) {
  auto planned = std::make_unique<Planned>(spec, state_->workspace.get());
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto advice = state_->advice(planned->problem, spec, candidates, status);
  const auto out = state_->device.allocate(extent_of_out(spec));
  if (spec.accumulate) state_->device.copy(on.out, out.get(), extent_of_out(spec));
  ProductBuffers aside = on;
  aside.out = out.get();
  planned->tried_count = 0;
  for (const auto& candidate : advice) {
    const double time = state_->seconds(*planned, candidate.algo, aside);
    if (time < 0) continue;
    if (planned->tried_count++ > 0 && time >= planned->best.value) continue;
    planned->best = {time};
    planned->algorithm = candidate.algo;
    planned->needed = {static_cast<std::int64_t>(candidate.workspaceSize)};
  }
  if (planned->tried_count == 0) State::throw_no_algorithm(status);
  return *(state_->planned[spec] = std::move(planned));
}

void Matmul::run(const Product& product, const ProductBuffers& buffers) {
  const auto& planned = static_cast<const Planned&>(product);
  SHARDWRIGHT_BLAS(state_->try_run(planned, planned.algorithm, buffers));
}

}  // namespace shardwright::cuda
