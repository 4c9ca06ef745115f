#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "hardware/data_type.h"
#include "hardware/kernel_spec.h"
#include "kernels/cuda/device.h"

namespace shardwright::cuda {

/// Where a row-major matrix lies: `stride` numbers from one row to the next, `batch_stride` from one matrix of a batch
/// to the next (0: all the same one). Stored the other way round where `transposed`.
struct MatrixPlace {
  bool transposed = false;
  std::int64_t stride = 0, batch_stride = 0;
  auto operator<=>(const MatrixPlace&) const = default;
};

/// out [m, n] = a [m, k] b [k, n], `batch` times, added to what is there if `accumulate`. Sums are made in fp32.
struct ProductSpec {
  std::int64_t m = 1, n = 1, k = 1, batch = 1;
  DataType type = DataType::bf16;     // of a and b
  DataType result = DataType::bf16;   // of out: fp32, fp16 or bf16
  Scaling scaling = Scaling::tensor;  // of fp8: mxfp8 and nvfp4 have their own. `block`: 1 x 128 of a, 128 x 128 of b
  MatrixPlace a, b, out;              // out is never transposed
  bool accumulate = false;
  std::int64_t alignment = 256;  // bytes that divide the addresses of a, b and out in every run
  auto operator<=>(const ProductSpec&) const = default;
};

/// `spec` with places filled in for dense arrays of that layout: `nt` stores b as [n, k]. Unstated: nn.
ProductSpec dense(ProductSpec spec, GemmLayout layout);

/// Of one run. Scales are needed below 16 bits, by what `scale_bytes_of_a` and `scale_bytes_of_b` say.
struct ProductBuffers {
  const void *a = nullptr, *b = nullptr;
  void* out = nullptr;
  const void *scale_a = nullptr, *scale_b = nullptr;
};

/// Bytes of the scales of an operand, 0 where it has none. One fp32 for the tensor; one for each row (`row`); blocks:
/// of a [k / 128][m] fp32; of b [n / 128][k / 128, to a multiple of 4] fp32; one byte for 32 (mxfp8) or 16 (nvfp4)
/// numbers along k, in tiles of 128 rows by 4 scales. From the cuBLAS documentation, "Scaling factors layouts".
Bytes scale_bytes_of_a(const ProductSpec& spec);
Bytes scale_bytes_of_b(const ProductSpec& spec);

/// A product that is set up: its algorithm, and descriptions of its matrices.
class Product {
 public:
  virtual ~Product() = default;
  /// Of the workspace, as the algorithm needs it.
  virtual Bytes workspace() const = 0;
  /// Seconds of one run, as tried; 0 where there was nothing to choose from.
  virtual Seconds tried() const = 0;
  /// Algorithms that were tried, at least one.
  virtual int candidates() const = 0;
};

/// Products by cuBLASLt on a device's stream. What was planned is kept and planned no second time.
class Matmul {
 public:
  /// `workspace` is allocated once and given to every algorithm; 32 MiB is what cuBLAS advises for Hopper.
  explicit Matmul(Device& device, Bytes workspace = {32 << 20});
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// "cuBLASLt 13.0.2"
  std::string version() const;
  /// Why there is no such product here, "" where there is. Asks the library, and runs nothing.
  std::string unsupported(const ProductSpec& spec);
  /// By the library's first advice; no work is done. Throws std::runtime_error where there is none.
  const Product& plan(const ProductSpec& spec);
  /// By the fastest of at most `candidates` of the library's, each run on these buffers (into memory of its own, so
  /// that `out` stays as it is). Replaces, and ends, what was planned for it before. Waits; not while a graph is
  /// captured.
  const Product& plan_fastest(const ProductSpec& spec, const ProductBuffers& on, int candidates = 8);
  void run(const Product& product, const ProductBuffers& buffers);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shardwright::cuda
