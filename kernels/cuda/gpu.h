#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/communicator.h"
#include "kernels/cuda/matmul.h"
#include "kernels/operators.h"

namespace shardwright::cuda {

/// What the driver says of a GPU that does not change.
struct GpuFacts {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;
  int multiprocessors = 0;
  int on_node = 1;           // GPUs of this machine
  Bytes memory, taken;       // all of it; what is taken before the first tensor
  Bytes l2;                  // of the last cache
  std::string driver;        // "580.159.04"; "" where NVML does not say
  std::string libraries;     // "CUDA 13.0, cuBLASLt 13.0.2, cuDNN 9.12.0, NCCL 2.27.7"
  double power_limit_w = 0;  // 0 where NVML does not say, as the clocks
  int most_sm_mhz = 0, most_memory_mhz = 0;
};

/// What NVML says at one moment; all 0 where there is none.
struct GpuCondition {
  int sm_mhz = 0, memory_mhz = 0, celsius = 0;
  double watts = 0;
  bool power_capped = false;  // clocks are held at the power limit: what long products do anywhere
  bool slowed = false;        // too hot, or by the board or the power supply: nothing that is timed now counts
};

/// Numbers that buffers are filled with: uniform in [-1, 1) in each format; scales are positive and near 1.
enum class Fill { fp32, fp16, bf16, fp8, fp4, scale_fp32, scale_e8m0, scale_e4m3 };

/// Work that was recorded, to be run again with one call.
class Recorded {
 public:
  virtual ~Recorded() = default;
};

/// One GPU as it is measured and run on. Belongs to one thread. All work is on one stream, in the order in which it is
/// given. Everything throws std::runtime_error where CUDA fails, naming call and error.
class Gpu {
 public:
  virtual ~Gpu() = default;
  virtual const GpuFacts& facts() const = 0;
  virtual GpuCondition condition() = 0;
  /// Of its memory, by all who use it. What operators free stays taken, so that this is the most that they had.
  virtual Bytes taken() = 0;
  virtual Operators& operators() = 0;
  /// The same ranks, whose numbers in this GPU's memory NCCL moves; numbers of the host go by `host`, which outlives
  /// it. Collective.
  virtual std::unique_ptr<Communicator> communicator(Communicator& host) = 0;

  // ---- memory ----

  /// Throws std::bad_alloc.
  virtual std::shared_ptr<void> allocate(Bytes size) = 0;
  virtual void fill(void* to, Bytes size, Fill with, std::uint64_t seed) = 0;
  virtual void upload(const void* host, void* to, Bytes size) = 0;      // waits
  virtual void download(const void* from, void* host, Bytes size) = 0;  // waits
  /// `count` pieces of `width` bytes, `stride` apart, one behind the other. Waits.
  virtual void download_pieces(const void* from, std::int64_t stride, std::int64_t width, std::int64_t count,
                               void* host) = 0;
  /// Bytes per second of copies of `size` from the host's pinned memory, or to it. Waits.
  virtual BytesPerSecond host_rate(Bytes size, bool to_gpu) = 0;

  // ---- products ----

  virtual std::string product_unsupported(const ProductSpec& spec) = 0;
  /// By the fastest of some algorithms of the library, tried on these buffers.
  virtual const Product& product(const ProductSpec& spec, const ProductBuffers& on) = 0;
  virtual void run(const Product& product, const ProductBuffers& buffers) = 0;
  /// x [rows, width] in bf16 as fp8 (E4M3) with the scales that it is to be multiplied by: given (`tensor`: the one
  /// number in `scales`), or found: one for each row, or one for 128 of a row, as [width / 128][rows].
  virtual void narrow(const void* x, std::int64_t rows, std::int64_t width, Scaling scaling, void* y, void* scales) = 0;

  /// Who computed its operators' last attention: "cuDNN 9.19.0", "shardwright cuda". "" before the first.
  virtual std::string attention_by() = 0;

  // ---- time ----

  /// What `work` enqueues, to be run by one call; null where it cannot be recorded.
  virtual std::unique_ptr<Recorded> record(const std::function<void()>& work) = 0;
  virtual void run(Recorded& recorded) = 0;
  /// From the first to the last of what `work` enqueues, by the GPU's own clock. It begins late enough that the host,
  /// which needs `host_needs` to enqueue it, is not waited for. Waits.
  virtual Seconds time(const std::function<void()>& work, Seconds host_needs) = 0;
};

}  // namespace shardwright::cuda
