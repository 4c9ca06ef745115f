#include "hardware/kernel_work.h"

#include <cmath>
#include <cstdint>

#include "hardware/attention_curve.h"
#include "hardware/gemm_curve.h"

namespace shardwright {
namespace {

Bytes rounded(double bytes) { return {static_cast<std::int64_t>(std::llround(bytes))}; }

struct Work {
  using Answer = std::optional<KernelWork>;
  Answer operator()(const GemmSpec& spec) const {
    const Products p = products_of(spec);
    return KernelWork{{2 * p.count * p.m * p.n * p.k}, rounded(bytes_moved(p))};
  }
  Answer operator()(const GroupedGemmSpec& spec) const { return (*this)(as_batch(spec)); }
  Answer operator()(const AttentionSpec& spec) const { return KernelWork{spec.work(), rounded(bytes_moved(spec))}; }
  Answer operator()(const MemorySpec& spec) const { return KernelWork{{0}, spec.moved}; }
  template <typename Spec>
  Answer operator()(const Spec&) const {
    return std::nullopt;
  }
};

}  // namespace

std::optional<KernelWork> work_of(const KernelSpec& spec) { return std::visit(Work{}, spec); }

}  // namespace shardwright
