// Every kernel of every backend against the reference: one list of cases.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "kernels/backends.h"
#include "kernels/cpu/blas.h"
#include "tests/kernels/kernel_cases.h"

namespace shardwright {
namespace {

TEST_CASE("the cpu's kernels agree with the reference") {
  check_against_reference(*make_operators("cpu"), DataType::fp32);
}

TEST_CASE("plain loops and OpenBLAS make the same products") {
  if (cpu::openblas_version().empty()) MESSAGE("OpenBLAS is not here: plain loops are compared with themselves");
  constexpr std::int64_t m = 19, n = 300, k = 150, wide = 310;
  const auto numbers = [](std::size_t count, int step) {
    std::vector<float> x(count);
    for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<float>(static_cast<int>(i) * step % 17 - 8);
    return x;
  };
  const std::vector<float> a = numbers(wide * wide, 5), b = numbers(wide * wide, 7);
  for (const bool a_turned : {false, true}) {
    for (const bool b_turned : {false, true}) {
      for (const float beta : {0.0f, 1.0f, 0.5f}) {
        std::vector<float> ours = numbers(m * wide, 3), theirs = ours;
        cpu::plain_gemm(m, n, k, 0.25f, {a.data(), wide, a_turned}, {b.data(), wide, b_turned}, beta, ours.data(),
                        wide);
        cpu::gemm(m, n, k, 0.25f, {a.data(), wide, a_turned}, {b.data(), wide, b_turned}, beta, theirs.data(), wide);
        CHECK(ours == theirs);  // whole numbers, quarters of them: exact in any order
      }
    }
  }
}

TEST_CASE("two results that differ are told apart") {
  CHECK(relative_difference({{1, 2}}, {{1, 2}}) == 0);
  CHECK(relative_difference({{1, 2.5}}, {{1, 2}}) == doctest::Approx(0.25));
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  CHECK(relative_difference({{1}}, {{1, 2}}) == kWrong);
  CHECK(relative_difference({}, {{1}}) == kWrong);
  CHECK(relative_difference({{NAN}}, {{1}}) == kWrong);
  CHECK(relative_difference({{1}}, {{NAN}}) == kWrong);
  CHECK(relative_difference({{NAN}}, {{NAN}}) == 0);
}

/// Of one call, what each backend makes of a logit that is none.
TEST_CASE("what is no number stays so on every backend") {
  for (const std::string& name : operator_names()) {
    CAPTURE(name);
    const auto operators = make_operators(name);
    KernelBench bench(*operators, DataType::fp32);
    Operators& o = *operators;
    const View x = bench.numbers(40), y = bench.result(40), one = bench.result(2);
    std::vector<double> values = o.download(x);
    values[25] = NAN;
    o.upload(values, x);
    o.silu(x, y);
    CHECK(std::isnan(o.download(y)[25]));
    CHECK_FALSE(std::isnan(o.download(y)[24]));
    o.vocabulary_max(x, 20, one);
    CHECK_FALSE(std::isnan(o.download(one)[0]));
    CHECK(std::isnan(o.download(one)[1]));
    const View gate = bench.result(40), mask = bench.result_of(40, Element::byte);
    o.route(x, 20, 2, gate, mask);
    CHECK(std::isnan(o.download(gate)[20]));
    CHECK(o.rows_per_expert(mask, 20).size() == 20);
    double chosen = 0;
    for (const double m : o.download(mask)) chosen += m;
    CHECK(chosen == 2);
  }
}

TEST_CASE("normal numbers lie with their elements, wherever the block begins") {
  const auto o = make_operators("cpu");
  KernelBench bench(*o, DataType::fp32);
  const View whole = bench.result(40 * 100), block = bench.result(10 * 30);
  o->fill_normal(whole, {{40, 100}, {0, 0}, {40, 100}}, 3, 2.0);
  o->fill_normal(block, {{10, 30}, {7, 20}, {40, 100}}, 3, 2.0);
  const auto all = o->download(whole), part = o->download(block);
  double sum = 0, squares = 0;
  for (const double x : all) sum += x, squares += x * x;
  CHECK(std::abs(sum / 4000) < 0.13);                          // 4 sigma of the mean of 4000
  CHECK(squares / 4000 == doctest::Approx(4.0).epsilon(0.1));  // 4 sigma: 4 sqrt(2 / 4000)
  for (std::size_t i = 0; i < 10; ++i)
    for (std::size_t j = 0; j < 30; ++j) CHECK(part[i * 30 + j] == all[(i + 7) * 100 + j + 20]);
}

TEST_CASE("a backend says which formats it lacks") {
  const auto cpu = make_operators("cpu");
  CHECK(cpu->supports(DataType::fp32));
  CHECK_FALSE(cpu->supports(DataType::bf16));
  CHECK_THROWS_WITH(cpu->element(DataType::bf16), "the cpu backend computes in fp32, not in bf16");
  std::vector<double> one(1);
  CHECK_THROWS_WITH(cpu->gelu({one.data(), 1, Element::fp64}, {one.data(), 1, Element::fp64}),
                    "the cpu backend computes in fp32, not in fp64");
  CHECK_THROWS_WITH(cpu->gather({one.data(), 1, Element::fp32}, {}, 0, {}),
                    "the cpu backend computes in ids of int64, not in fp32");
  CHECK_THROWS_WITH(cpu->fill({one.data(), 1, Element::bf16}, 0), "the host's kernels have no numbers of bf16");
  CHECK_THROWS_WITH(make_operators("tpu"), "there is no backend 'tpu'; there are reference, cpu, cuda");
}

}  // namespace
}  // namespace shardwright
