// The operators of kernels/cuda on the host (emulated_cuda.cc): the same kernels, with no GPU.
#include "kernels/cuda/cuda_operators.h"

#include <doctest/doctest.h>

#include <cmath>

#include "kernels/cuda/operands.h"
#include "kernels/reference/reference_operators.h"
#include "tests/kernels/kernel_cases.h"

namespace shardwright {
namespace {

TEST_CASE("CUDA's kernels agree with the reference where the host runs them") {
  CudaOperators ours(0, false, true);
  for (const DataType type : {DataType::fp32, DataType::bf16, DataType::fp16}) check_against_reference(ours, type);
}

TEST_CASE("attention in one kernel is as exact as its format") {
  CudaOperators ours(0, false, true);
  const auto reference = make_reference_operators();
  for (const KernelCase& c : kernel_cases()) {
    if (!c.name.starts_with("attention")) continue;
    CAPTURE(c.name);
    KernelBench made(ours, DataType::fp16), expected(*reference, DataType::fp16);
    c.run(made);
    c.run(expected);
    auto got = made.results(), want = expected.results();
    got.resize(2), want.resize(2);  // o, and the log-sum-exp
    CHECK(relative_difference(got, want) < 0x1p-9);
  }
}

TEST_CASE("the graphs that cuDNN is asked for are attention and its gradients") {
  const auto reference = make_reference_operators();
  for (const DataType type : {DataType::bf16, DataType::fp16}) {
    CudaOperators ours;
    for (const KernelCase& c : kernel_cases()) {
      if (!c.name.starts_with("attention")) continue;
      CAPTURE(c.name);
      KernelBench made(ours, type), expected(*reference, type);
      c.run(made);
      c.run(expected);
      CHECK(relative_difference(made.results(), expected.results()) < (type == DataType::bf16 ? 0x1p-5 : 0x1p-8));
      // Chunks, parts, sinks and heads of odd widths are not cuDNN's.
      const bool theirs = c.name != "attention in chunks" && !c.name.starts_with("attention with sinks") &&
                          !c.name.starts_with("attention latent");
      CHECK(ours.attention_by() == (theirs ? "steps of a graph" : "shardwright cuda"));
    }
  }
}

TEST_CASE("what cuDNN refuses is done by our own kernels, which say so") {
  CudaOperators ours, own(0, false, true);
  CHECK(ours.attention_by() == "");
  const auto run = [](CudaOperators& o) {
    KernelBench bench(o, DataType::bf16);
    AttentionViews in;
    const View q = bench.numbers(2 * 192);
    in.parts.push_back({q, bench.numbers(2 * 192), 192, false});
    in.v = bench.numbers(2 * 8);
    const AttentionShape shape = {1, 2, 2, 1, 1, 8};
    const View made = bench.result(2 * 8), log_sum_exp = bench.result_of(2, Element::fp32);
    o.attention(in, shape, made, log_sum_exp);
    const std::string forward = o.attention_by();
    const View d_q = bench.result(2 * 192), d_k = bench.result(2 * 192), d_v = bench.result(2 * 8);
    o.attention_gradient(in, made, log_sum_exp, bench.numbers(2 * 8), shape, {{d_q}, {d_k}, d_v, {}});
    return std::pair(forward, o.attention_by());
  };
  CHECK(run(ours) ==
        std::pair<std::string, std::string>("steps of a graph", "shardwright cuda, since heads are too wide"));
  CHECK(run(own) == std::pair<std::string, std::string>("shardwright cuda", "shardwright cuda"));
}

TEST_CASE("16-bit numbers are rounded as IEEE 754 has it, both ways") {
  using cuda::Bfloat;
  using cuda::from_float;
  using cuda::Half;
  using cuda::to_float;
  const auto half = [](float x) { return from_float<Half>(x).bits; };
  CHECK(half(1.0f) == 0x3C00);
  CHECK(half(-2.0f) == 0xC000);
  CHECK(half(65504.0f) == 0x7BFF);  // the largest
  CHECK(half(65519.0f) == 0x7BFF);
  CHECK(half(65520.0f) == 0x7C00);             // infinite
  CHECK(half(0x1p-14f) == 0x0400);             // the smallest normal number
  CHECK(half(0x1p-24f) == 0x0001);             // the smallest of all
  CHECK(half(0x1p-25f) == 0x0000);             // between two: the even one
  CHECK(half(0x1.8p-24f) == 0x0002);           // also between two
  CHECK(half(1.0f + 0x1p-11f) == 0x3C00);      // also
  CHECK(half(1.0f + 3 * 0x1p-11f) == 0x3C02);  // also
  CHECK(half(0x1.FFFp-15f) == 0x0400);         // carries over into the normal numbers
  CHECK(std::isnan(to_float(from_float<Half>(NAN))));
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half h = {static_cast<std::uint16_t>(bits)};
    const Bfloat b = {static_cast<std::uint16_t>(bits)};
    if (!std::isnan(to_float(h))) REQUIRE(half(to_float(h)) == bits);
    if (!std::isnan(to_float(b))) REQUIRE(from_float<Bfloat>(to_float(b)).bits == bits);
  }
  const auto bfloat = [](float x) { return from_float<Bfloat>(x).bits; };
  CHECK(bfloat(1.0f + 0x1p-8f) == 0x3F80);      // between two: the even one
  CHECK(bfloat(1.0f + 3 * 0x1p-8f) == 0x3F82);  // also
  CHECK(std::isnan(to_float(from_float<Bfloat>(cuda::same_bits<float>(0x7F800001u)))));
}

TEST_CASE("where views begin, and how wide rows are, does not matter") {
  // Every offset within 16 bytes, and widths around whole pieces.
  CudaOperators ours;
  const auto reference = make_reference_operators();
  for (const std::int64_t offset : {0, 1, 2, 3, 5, 8}) {
    for (const std::int64_t width : {1, 7, 8, 16, 33, 64}) {
      CAPTURE(offset);
      CAPTURE(width);
      const auto run = [&](Operators& o) {
        KernelBench bench(o, DataType::bf16);
        const std::int64_t n = 4 * width;
        const View x = bench.numbers(n + offset).part(offset, n),
                   weight = bench.numbers(width + offset).part(offset, width);
        const View scale = bench.numbers(4);
        const auto to = [&](std::int64_t count) { return bench.result(count + offset).part(offset, count); };
        o.gelu(x, to(n));
        o.rms_norm(x, weight, to(n), to(n));
        o.rms_norm_gradient(x, weight, x, {to(n), to(width), {}});
        o.scale_rows(x, scale, to(n));
        o.cast(x, bench.result_of(n + offset, o.element(DataType::fp32)).part(offset, n));
        o.fill(to(n), 0.75);
        o.square_sum(x, bench.result(1));
        o.vocabulary_max(x, width, bench.result(4));
        o.gather(bench.ids(5, 6), x, 1, to(5 * width));
        o.contraction({x, {0, 1}, {4, width}}, {x, {2, 1}, {4, width}}, {0, 2}, to(16));
        return bench.results();
      };
      CHECK(relative_difference(run(ours), run(*reference)) < 0.03);
    }
  }
}

TEST_CASE("sums of experts' gradients and optimizer's numbers may be of another format") {
  CudaOperators ours;
  const auto reference = make_reference_operators();
  const auto run = [](Operators& o) {
    KernelBench bench(o, DataType::bf16);
    const Element wide = o.element(DataType::fp32);
    const View weight = bench.result_of(333, wide), first = bench.result_of(333, wide);
    const View second = bench.result_of(333, wide);
    const View gradient = bench.numbers(333);
    o.cast(bench.numbers(333), weight);
    o.fill(first, 0.5);
    o.fill(second, 0.25);
    o.adam_step({0.01, 0.9, 0.95, 1e-8, 0.1, 3, 0.5}, gradient, weight, first, second, bench.result(333));
    const View sum = bench.result_of(12 * 20, wide);
    o.fill(sum, 2);
    o.contraction(bench.labelled({0, 1}, {9, 12}), bench.labelled({0, 2}, {9, 20}), {1, 2}, sum, true);
    o.rms_norm_gradient(bench.numbers(96), bench.numbers(24), bench.numbers(96),
                        {bench.result(96), bench.result_of(24, wide), {}});
    return bench.results();
  };
  CHECK(relative_difference(run(ours), run(*reference)) < 0.01);
}

TEST_CASE("CUDA's operators say what they have not") {
  CudaOperators ours;
  CHECK(ours.name() == "cuda");
  CHECK(ours.supports(DataType::bf16));
  CHECK_FALSE(ours.supports(DataType::tf32));
  CHECK(CudaOperators(0, true).supports(DataType::tf32));
  CHECK_THROWS_WITH(ours.element(DataType::fp8), "the cuda backend computes in fp32, fp16 and bf16, not in fp8");
  CHECK_THROWS_WITH(CudaOperators(0, true).element(DataType::fp32),
                    "the cuda backend computes in tf32, fp16 and bf16, not in fp32");
  double one[2] = {};
  const View wide = {one, 1, Element::fp64}, single = {one, 2, Element::fp32}, narrow = {one, 2, Element::bf16};
  CHECK_THROWS_WITH(ours.gelu(wide, wide), "the cuda backend computes in fp32, fp16 and bf16, not in fp64");
  CHECK_THROWS_WITH(ours.fill(wide, 0), "the cuda backend computes in fp32, fp16 and bf16, not in fp64");
  CHECK_THROWS_WITH(ours.gelu(single, narrow), "the cuda backend's operands are of one format, not of fp32 and bf16");
  CHECK_THROWS_WITH(ours.gather(single, narrow, 0, single),
                    "the cuda backend's operands are of one format, not of bf16 and fp32");
  CHECK_THROWS_WITH(ours.gather(single, single, 0, single), "the cuda backend reads ids of int64, not of fp32");
  const std::vector<std::int64_t> nine(9, 1);
  CHECK_THROWS_WITH(ours.fill_normal(single, {nine, nine, nine}, 1, 1),
                    "the cuda backend's arrays have at most 8 dimensions, not 9");
}

TEST_CASE("scales of narrow products lie as the library wants them") {
  using cuda::dense;
  using cuda::ProductSpec;
  ProductSpec spec;
  spec.m = 300, spec.n = 256, spec.k = 1000;
  const auto bytes = [&](DataType type, Scaling scaling) {
    spec.type = type, spec.scaling = scaling;
    return std::pair(cuda::scale_bytes_of_a(spec).value, cuda::scale_bytes_of_b(spec).value);
  };
  CHECK(bytes(DataType::bf16, Scaling::tensor) == std::pair<std::int64_t, std::int64_t>(0, 0));
  CHECK(bytes(DataType::fp8, Scaling::tensor) == std::pair<std::int64_t, std::int64_t>(4, 4));
  CHECK(bytes(DataType::fp8, Scaling::row) == std::pair<std::int64_t, std::int64_t>(4 * 300, 4 * 256));
  // 1000 numbers along k are 8 blocks of 128; 256 rows of b are 2.
  CHECK(bytes(DataType::fp8, Scaling::block) == std::pair<std::int64_t, std::int64_t>(4 * 8 * 300, 4 * 8 * 2));
  // 32 numbers for a scale: 32 scales along k; rows in tiles of 128: 384 and 256.
  CHECK(bytes(DataType::mxfp8, Scaling::block) == std::pair<std::int64_t, std::int64_t>(32 * 384, 32 * 256));
  // 63 scales of 16 are 64, four by four.
  CHECK(bytes(DataType::nvfp4, Scaling::block) == std::pair<std::int64_t, std::int64_t>(64 * 384, 64 * 256));

  const ProductSpec nt = dense(spec, GemmLayout::nt), tn = dense(spec, GemmLayout::tn);
  CHECK(nt.a == cuda::MatrixPlace{false, 1000, 300000});
  CHECK(nt.b == cuda::MatrixPlace{true, 1000, 256000});
  CHECK(nt.out == cuda::MatrixPlace{false, 256, 76800});
  CHECK(tn.a == cuda::MatrixPlace{true, 300, 300000});
  CHECK(tn.b == cuda::MatrixPlace{false, 256, 256000});
}

}  // namespace
}  // namespace shardwright
