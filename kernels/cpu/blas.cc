#include "kernels/cpu/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <stdexcept>
#include <vector>

namespace shardwright::cpu {
namespace {

// Of cblas.h, which need not be installed: the values of its enumerations are the same in every BLAS.
enum Order : int { kRowMajor = 101 };
enum Transpose : int { kNo = 111, kYes = 112 };
using Sgemm = void(Order, Transpose, Transpose, int, int, int, float, const float*, int, const float*, int, float,
                   float*, int);

struct OpenBlas {
  Sgemm* sgemm = nullptr;
  std::string version;
};

/// Loaded at first use: its threads, one a core, would else start with every command of the program.
OpenBlas load() {
  setenv("OPENBLAS_NUM_THREADS", "1", 0);  // a rank is one core
  void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (!library) library = dlopen("libopenblas.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) return {};
  const auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
  const auto config = reinterpret_cast<const char* (*)()>(dlsym(library, "openblas_get_config"));
  const auto sgemm = reinterpret_cast<Sgemm*>(dlsym(library, "cblas_sgemm"));
  if (!set_threads || !sgemm) return {};
  set_threads(1);
  return {sgemm, config ? config() : "OpenBLAS"};
}

const OpenBlas& openblas() {
  static const OpenBlas loaded = load();
  return loaded;
}

float at(Matrix x, std::int64_t i, std::int64_t j) {
  return x.transposed ? x.data[j * x.stride + i] : x.data[i * x.stride + j];
}

int size(std::int64_t n) {
  if (n > INT_MAX) throw std::runtime_error("OpenBLAS counts rows and columns up to 2147483647");
  return static_cast<int>(n);
}

}  // namespace

const std::string& openblas_version() { return openblas().version; }

/// Rows of b are made dense once and added to rows of c, so that the inner loop is one that vectors do.
void plain_gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, Matrix a, Matrix b, float beta, float* c,
                std::int64_t c_stride) {
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      float& to = c[i * c_stride + j];
      to = beta == 0 ? 0.0f : beta * to;
    }
  constexpr std::int64_t kWide = 256, kDeep = 128;
  std::vector<float> block(static_cast<std::size_t>(kWide * kDeep));
  for (std::int64_t j0 = 0; j0 < n; j0 += kWide) {
    const std::int64_t wide = std::min(kWide, n - j0);
    for (std::int64_t l0 = 0; l0 < k; l0 += kDeep) {
      const std::int64_t deep = std::min(kDeep, k - l0);
      for (std::int64_t l = 0; l < deep; ++l)
        for (std::int64_t j = 0; j < wide; ++j) block[static_cast<std::size_t>(l * kWide + j)] = at(b, l0 + l, j0 + j);
      for (std::int64_t i = 0; i < m; ++i) {
        float* to = c + i * c_stride + j0;
        for (std::int64_t l = 0; l < deep; ++l) {
          const float factor = alpha * at(a, i, l0 + l);
          const float* from = &block[static_cast<std::size_t>(l * kWide)];
          for (std::int64_t j = 0; j < wide; ++j) to[j] += factor * from[j];
        }
      }
    }
  }
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, Matrix a, Matrix b, float beta, float* c,
          std::int64_t c_stride) {
  if (m == 0 || n == 0) return;
  if (k > 0 && openblas().sgemm) {
    openblas().sgemm(kRowMajor, a.transposed ? kYes : kNo, b.transposed ? kYes : kNo, size(m), size(n), size(k), alpha,
                     a.data, size(std::max<std::int64_t>(a.stride, 1)), b.data,
                     size(std::max<std::int64_t>(b.stride, 1)), beta, c, size(c_stride));
    return;
  }
  plain_gemm(m, n, k, alpha, a, b, beta, c, c_stride);
}

}  // namespace shardwright::cpu
