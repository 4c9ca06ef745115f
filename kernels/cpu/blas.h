#pragma once

#include <cstdint>
#include <string>

namespace shardwright::cpu {

/// A row-major matrix, or one that is to be read as its transpose: element (i, j) is data[i * stride + j], or
/// data[j * stride + i].
struct Matrix {
  const float* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
  Matrix of_transpose() const { return {data, stride, !transposed}; }
};

/// c[m, n] = alpha a[m, k] b[k, n] + beta c; c is row-major, not read where beta is 0. On the calling thread alone, by
/// OpenBLAS where it is installed, else by plain loops.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, Matrix a, Matrix b, float beta, float* c,
          std::int64_t c_stride);

/// The same by plain loops.
void plain_gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, Matrix a, Matrix b, float beta, float* c,
                std::int64_t c_stride);

/// "OpenBLAS 0.3.21 ...", in its own words; "" where it is not installed.
const std::string& openblas_version();

}  // namespace shardwright::cpu
