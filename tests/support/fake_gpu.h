#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_operators.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/product_samples.h"
#include "kernels/host/host_operators.h"

namespace shardwright {

/// A GPU whose memory is the host's: it computes as a GPU is told to, by plain loops, and notes what it was told.
/// Operators compute in fp32 alone.
class FakeGpu final : public cuda::Gpu {
 public:
  cuda::GpuFacts given{.name = "NVIDIA Fake 80GB",
                       .major = 9,
                       .minor = 0,
                       .multiprocessors = 100,
                       .on_node = 2,
                       .memory = {80'000'000'000},
                       .taken = {500'000'000},
                       .l2 = {50 << 20},
                       .driver = "580.1",
                       .libraries = "CUDA 13.0, cuBLASLt 13.0.2, cuDNN 9.12.0, NCCL 2.27.7",
                       .power_limit_w = 700,
                       .most_sm_mhz = 1980,
                       .most_memory_mhz = 2619};
  cuda::GpuCondition now{.sm_mhz = 1980, .memory_mhz = 2619, .celsius = 40, .watts = 300};
  std::vector<std::string> told;          // in order
  std::vector<const void*> products_of;   // a of each product that was run
  std::string no_product;                 // why there are none
  double spoil = 0;                       // added to each product's first result
  bool records = true;                    // whether work can be recorded
  Seconds takes = {1e-3};                 // what is timed
  Bytes holds = {std::int64_t{1} << 40};  // its memory
  std::int64_t allocated = 0;             // the largest of all
  std::string ran_attention;              // who

  const cuda::GpuFacts& facts() const override { return given; }
  cuda::GpuCondition condition() override { return now; }
  Bytes taken() override { return given.taken; }
  Operators& operators() override { return operators_; }
  std::unique_ptr<Communicator> communicator(Communicator& host) override { return host.split(0); }

  std::shared_ptr<void> allocate(Bytes size) override {
    if (size > holds) throw std::bad_alloc();
    allocated = std::max(allocated, size.value);
    return operators_.allocate(size);
  }
  void fill(void* to, Bytes size, cuda::Fill with, std::uint64_t seed) override {
    auto* bytes = static_cast<unsigned char*>(to);
    const auto place = [&](auto number) {
      for (std::int64_t i = 0; i + static_cast<std::int64_t>(sizeof number) <= size.value; i += sizeof number) {
        const std::uint64_t bits = random_bits(seed, static_cast<std::uint64_t>(i));
        const double uniform = static_cast<double>(bits >> 40) * 0x1p-23 - 1.0;
        write(bytes + i, with, uniform, bits);
      }
    };
    if (with == cuda::Fill::fp32 || with == cuda::Fill::scale_fp32)
      place(float{});
    else if (with == cuda::Fill::bf16 || with == cuda::Fill::fp16)
      place(std::uint16_t{});
    else
      place(std::uint8_t{});
  }
  void upload(const void* host, void* to, Bytes size) override {
    std::memcpy(to, host, static_cast<std::size_t>(size.value));
  }
  void download(const void* from, void* host, Bytes size) override {
    std::memcpy(host, from, static_cast<std::size_t>(size.value));
  }
  void download_pieces(const void* from, std::int64_t stride, std::int64_t width, std::int64_t count,
                       void* host) override {
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(static_cast<char*>(host) + i * width, static_cast<const char*>(from) + i * stride,
                  static_cast<std::size_t>(width));
  }
  BytesPerSecond host_rate(Bytes, bool to_gpu) override { return {to_gpu ? 5e10 : 4e10}; }

  std::string attention_by() override { return ran_attention; }

  std::string product_unsupported(const cuda::ProductSpec&) override { return no_product; }
  const cuda::Product& product(const cuda::ProductSpec& spec, const cuda::ProductBuffers&) override {
    told.push_back("choose");
    planned_.push_back({});
    planned_.back().spec = spec;
    return planned_.back();
  }
  void run(const cuda::Product& product, const cuda::ProductBuffers& at) override {
    products_of.push_back(at.a);
    multiply(static_cast<const Planned&>(product).spec, at);
  }
  void narrow(const void* x, std::int64_t rows, std::int64_t width, Scaling scaling, void* y, void* scales) override {
    told.push_back("narrow");
    const std::int64_t block = scaling == Scaling::block ? 128 : width;
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t first = 0; first < width; first += block) {
        const auto at = [&](std::int64_t l) {
          return cuda::number_at(static_cast<const unsigned char*>(x), row * width + l, DataType::bf16);
        };
        const std::int64_t end = std::min(first + block, width);
        double largest = 0;
        for (std::int64_t l = first; l < end; ++l) largest = std::max(largest, std::abs(at(l)));
        auto* scale = static_cast<float*>(scales);
        if (scaling == Scaling::row) scale += row;
        if (scaling == Scaling::block) scale += first / 128 * rows + row;
        if (scaling != Scaling::tensor) *scale = static_cast<float>(largest / 448);
        for (std::int64_t l = first; l < end; ++l)
          static_cast<unsigned char*>(y)[row * width + l] = nearest_fp8(at(l) / static_cast<double>(*scale));
      }
  }

  std::unique_ptr<cuda::Recorded> record(const std::function<void()>& work) override {
    told.push_back("record");
    if (!records) return nullptr;
    auto played = std::make_unique<Played>();
    played->work = work;
    return played;
  }
  void run(cuda::Recorded& recorded) override {
    told.push_back("play");
    static_cast<Played&>(recorded).work();
  }
  Seconds time(const std::function<void()>& work, Seconds) override {
    work();
    return takes;
  }

 private:
  struct Planned final : cuda::Product {
    cuda::ProductSpec spec;
    Bytes workspace() const override { return {}; }
    Seconds tried() const override { return {}; }
    int candidates() const override { return 1; }
  };
  struct Played final : cuda::Recorded {
    std::function<void()> work;
  };

  static std::uint16_t bf16_of(double x) {
    const auto number = static_cast<float>(x);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static unsigned char nearest_fp8(double x) {
    unsigned char best = 0;
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<unsigned char>(code);
      const double off = std::abs(cuda::number_at(&byte, 0, DataType::fp8) - x);
      if (off < std::abs(cuda::number_at(&best, 0, DataType::fp8) - x)) best = byte;
    }
    return best;
  }
  static void write(unsigned char* at, cuda::Fill with, double uniform, std::uint64_t bits) {
    const auto store = [&](auto number) { std::memcpy(at, &number, sizeof number); };
    switch (with) {
      case cuda::Fill::fp32:
        return store(static_cast<float>(uniform));
      case cuda::Fill::scale_fp32:
        return store(static_cast<float>(1 + uniform / 2));
      case cuda::Fill::bf16:
        return store(bf16_of(uniform));
      case cuda::Fill::fp16:
        return store(static_cast<std::uint16_t>(0x3800 + bits % 1024));  // in [1/2, 1)
      case cuda::Fill::fp8:
        return store(static_cast<std::uint8_t>(bits % 2 * 128 + 0x30 + (bits >> 8) % 8));
      case cuda::Fill::fp4:
        return store(static_cast<std::uint8_t>(bits >> 16));
      case cuda::Fill::scale_e8m0:
        return store(static_cast<std::uint8_t>(126 + bits % 3));
      case cuda::Fill::scale_e4m3:
        return store(static_cast<std::uint8_t>(0x30 + bits % 17));
    }
  }

  /// As matmul.h says it, with blocks' scales as its comments have them.
  void multiply(const cuda::ProductSpec& s, const cuda::ProductBuffers& at) const {
    const auto* a = static_cast<const unsigned char*>(at.a);
    const auto* b = static_cast<const unsigned char*>(at.b);
    const std::int64_t along = (s.k + 127) / 128;
    const auto scale = [&](bool of_b, std::int64_t batch, std::int64_t row, std::int64_t l) {
      const void* scales = of_b ? at.scale_b : at.scale_a;
      if (!scales) return 1.0;
      const auto* numbers = static_cast<const float*>(scales);
      const auto* bytes = static_cast<const unsigned char*>(scales);
      if (s.type == DataType::mxfp8) return std::ldexp(1.0, bytes[cuda::tiled_scale(row, l / 32, s.k / 32)] - 127);
      if (s.type == DataType::nvfp4)
        return cuda::number_at(bytes, cuda::tiled_scale(row, l / 16, s.k / 16), DataType::fp8);
      if (s.scaling == Scaling::tensor) return static_cast<double>(numbers[0]);
      if (s.scaling == Scaling::row) return static_cast<double>(numbers[batch * (of_b ? s.n : s.m) + row]);
      return static_cast<double>(of_b ? numbers[row / 128 * ((along + 3) / 4 * 4) + l / 128]
                                      : numbers[l / 128 * s.m + row]);
    };
    const auto element = [](const cuda::MatrixPlace& p, std::int64_t batch, std::int64_t i, std::int64_t j) {
      return batch * p.batch_stride + (p.transposed ? j * p.stride + i : i * p.stride + j);
    };
    for (std::int64_t batch = 0; batch < s.batch; ++batch)
      for (std::int64_t i = 0; i < s.m; ++i)
        for (std::int64_t j = 0; j < s.n; ++j) {
          double sum = batch + i + j == 0 ? spoil : 0;
          for (std::int64_t l = 0; l < s.k; ++l)
            sum += cuda::number_at(a, element(s.a, batch, i, l), s.type) * scale(false, batch, i, l) *
                   cuda::number_at(b, element(s.b, batch, l, j), s.type) * scale(true, batch, j, l);
          const std::int64_t to = element(s.out, batch, i, j);
          if (s.accumulate) sum += cuda::number_at(static_cast<const unsigned char*>(at.out), to, s.result);
          if (s.result == DataType::fp32)
            static_cast<float*>(at.out)[to] = static_cast<float>(sum);
          else
            static_cast<std::uint16_t*>(at.out)[to] = bf16_of(sum);
        }
  }

  CpuOperators operators_;
  std::deque<Planned> planned_;
};

}  // namespace shardwright
