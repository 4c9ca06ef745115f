// The reference kernels: small cases by hand, gradients against central finite differences.
#include "kernels/reference/reference.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

namespace shardwright::reference {
namespace {

Array random_array(std::int64_t n, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Array x(static_cast<std::size_t>(n));
  for (double& v : x) v = normal(random);
  return x;
}

double dot(const Array& a, const Array& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

void check_close(const Array& got, const Array& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

/// Whether `gradient` is that of sum(f(x) * dy): each element of x is moved a little either way.
void check_gradient(Array x, const Array& dy, const std::function<Array(const Array&)>& f, const Array& gradient) {
  REQUIRE(gradient.size() == x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    constexpr double kStep = 1e-5;
    const double before = x[i];
    x[i] = before + kStep;
    const double up = dot(f(x), dy);
    x[i] = before - kStep;
    const double down = dot(f(x), dy);
    x[i] = before;
    CHECK(std::abs(gradient[i] - (up - down) / (2 * kStep)) < 1e-7);
  }
}

TEST_CASE("a contraction sums over the labels that its result lacks") {
  const Array a = {1, 2, 3, 4, 5, 6}, b = {1, 0, 2, 1, 0, 3};
  SUBCASE("a matrix product") {  // [[1 2 3] [4 5 6]] x [[1 0] [2 1] [0 3]]
    check_close(contraction({a, {0, 1}, {2, 3}}, {b, {1, 2}, {3, 2}}, {0, 2}), {5, 11, 14, 23});
  }
  SUBCASE("its transpose") {
    check_close(contraction({a, {0, 1}, {2, 3}}, {b, {1, 2}, {3, 2}}, {2, 0}), {5, 14, 11, 23});
  }
  SUBCASE("a shared label stays: one product for each row") {  // rows [1 2 3].[1 0 2], [4 5 6].[1 0 3]
    check_close(contraction({a, {0, 1}, {2, 3}}, {b, {0, 1}, {2, 3}}, {0}), {7, 22});
  }
  SUBCASE("an outer product sums nothing") {
    check_close(contraction({Array{2, 3}, {0}, {2}}, {Array{5, 7}, {1}, {2}}, {0, 1}), {10, 14, 15, 21});
  }
  SUBCASE("everything summed leaves one number") {
    check_close(contraction({a, {0}, {6}}, {b, {0}, {6}}, {}), {1 + 6 + 4 + 18});
  }
}

TEST_CASE("a bias is added wherever it has a label, and its gradient is the sum over those it lacks") {
  const Array x = {1, 2, 3, 4}, y = {1, 2, 3, 4, 5, 6, 7, 8}, bias = {10, 20}, wide = {10, 20, 30, 40};
  check_close(add_bias({x, {0, 1}, {2, 2}}, {bias, {1}, {2}}), {11, 22, 13, 24});
  check_close(add_bias_gradient({x, {0, 1}, {2, 2}}, {1}), {4, 6});
  // One for each first and last label: 2 experts x 2 tokens x 2 wide.
  check_close(add_bias({y, {0, 1, 2}, {2, 2, 2}}, {wide, {0, 2}, {2, 2}}), {11, 22, 13, 24, 35, 46, 37, 48});
  check_close(add_bias_gradient({y, {0, 1, 2}, {2, 2, 2}}, {0, 2}), {4, 6, 12, 14});
}

TEST_CASE("gelu") {
  // 1 Phi(1) = 0.841344746..., a table's value.
  check_close(gelu(Array{0, 1, -1}), {0, 0.8413447460685429, -0.15865525393145707});
  const Array x = random_array(7, 1), dy = random_array(7, 2);
  check_gradient(
      x, dy, [](const Array& v) { return gelu(v); }, gelu_gradient(x, dy));
}

TEST_CASE("gated silu") {
  check_close(gated_silu(Array{0, 1}, Array{5, 2}), {0, 2 / (1 + std::exp(-1.0))});
  const Array gate = random_array(7, 1), up = random_array(7, 2), dy = random_array(7, 3);
  const GatedSiluGradient d = gated_silu_gradient(gate, up, dy);
  check_gradient(
      gate, dy, [&](const Array& v) { return gated_silu(v, up); }, d.gate);
  check_gradient(
      up, dy, [&](const Array& v) { return gated_silu(gate, v); }, d.up);
}

TEST_CASE("rows are scaled by the sigmoid of a number of their own") {
  check_close(sigmoid_scale(Array{2, 4, 6, 8}, Array{0, std::log(3.0)}), {1, 2, 4.5, 6});
  const Array x = random_array(6, 1), scale = random_array(3, 2), dy = random_array(6, 3);
  check_gradient(
      x, dy, [&](const Array& v) { return sigmoid_scale(v, scale); }, sigmoid_scale_gradient_x(scale, dy));
  check_gradient(
      scale, dy, [&](const Array& v) { return sigmoid_scale(x, v); }, sigmoid_scale_gradient_scale(x, scale, dy));
}

TEST_CASE("routing chooses the largest logits, the first of equal ones") {
  const double third = std::log(1 / 2.0);  // sigmoid 1/3
  const Route r = route(Array{0, third, third, third, -9, 0}, 3, 2);
  check_close(r.gate, {0.5, 1.0 / 3, 0, 1.0 / 3, 0, 0.5});
  check_close(r.mask, {1, 1, 0, 1, 0, 1});
  const Route lost = route(Array{0, std::nan(""), 1}, 3, 2);
  for (double x : lost.gate) CHECK(std::isnan(x));
  for (double x : lost.mask) CHECK(std::isnan(x));
  const Array logits = random_array(12, 1), dy = random_array(12, 2);
  check_gradient(
      logits, dy, [](const Array& v) { return route(v, 4, 2).gate; }, route_gradient(logits, dy, 4, 2));
}

TEST_CASE("dropout keeps what the mask keeps, scaled up") {
  check_close(dropout(Array{3, 6, 9}, Array{1, 0, 1}, 0.25), {4, 0, 12});
}

TEST_CASE("rotary turns pairs by the position in the whole sequence") {
  SUBCASE("position 0 is left alone, position 2 turns the first pair by 2 radians") {
    const Array x = {1, 0, 1, 0};  // 2 positions x width 2: the pair is (1, 0)
    check_close(rotary(x, {1, 2, 1, 2, 0}), {1, 0, std::cos(1.0), std::sin(1.0)});
    check_close(rotary(x, {1, 2, 1, 2, 1}), {std::cos(1.0), std::sin(1.0), std::cos(2.0), std::sin(2.0)});
  }
  SUBCASE("width 4: the second pair is (1, 3) and turns 10000^-0.5 = 0.01 as fast") {
    check_close(rotary(Array{0, 1, 0, 0}, {1, 1, 1, 4, 1}), {0, std::cos(0.01), 0, std::sin(0.01)});
  }
  SUBCASE("gradient") {
    const RotaryShape shape = {2, 3, 2, 4, 5};
    const Array x = random_array(48, 1), dy = random_array(48, 2);
    check_gradient(
        x, dy, [&](const Array& v) { return rotary(v, shape); }, rotary_gradient(dy, shape));
  }
}

TEST_CASE("norms") {
  // mean 2, variance 1: [-1, 1] / sqrt(1 + 1e-5)
  const double n = 1 / std::sqrt(1 + 1e-5), r = 1 / std::sqrt(5 + 1e-5);
  check_close(layer_norm(Array{1, 3}, Array{2, 2}, Array{10, 20}), {10 - 2 * n, 20 + 2 * n});
  check_close(rms_norm(Array{1, 3}, Array{1, 2}), {r, 6 * r});  // mean square 5
  const Array x = random_array(15, 1), w = random_array(5, 2), bias = random_array(5, 3), dy = random_array(15, 4);
  SUBCASE("gradients of rms norm") {
    const NormGradient d = rms_norm_gradient(x, w, dy);
    check_gradient(
        x, dy, [&](const Array& v) { return rms_norm(v, w); }, d.x);
    check_gradient(
        w, dy, [&](const Array& v) { return rms_norm(x, v); }, d.weight);
    CHECK(d.bias.empty());
  }
  SUBCASE("gradients of layer norm") {
    const NormGradient d = layer_norm_gradient(x, w, dy);
    check_gradient(
        x, dy, [&](const Array& v) { return layer_norm(v, w, bias); }, d.x);
    check_gradient(
        w, dy, [&](const Array& v) { return layer_norm(x, v, bias); }, d.weight);
    check_gradient(
        bias, dy, [&](const Array& v) { return layer_norm(x, w, v); }, d.bias);
  }
}

TEST_CASE("softmax over the keys that a row sees") {
  const std::vector<KeyRange> seen = {{0, 1}, {0, 2}, {1, 3}};
  const double half = 0.5, e = std::exp(1.0);
  check_close(softmax(Array{5, 9, 9, 2, 2, 9, 9, 0, 1}, 3, seen),
              {1, 0, 0, half, half, 0, 0, 1 / (1 + e), e / (1 + e)});
  const Array x = random_array(9, 1), dy = random_array(9, 2);
  check_gradient(
      x, dy, [&](const Array& v) { return softmax(v, 3, seen); }, softmax_gradient(softmax(x, 3, seen), dy, 3));
}

TEST_CASE("a query sees itself and what is before it, or the last of that") {
  CHECK(causal_range(4, 0).first == 0);
  CHECK(causal_range(4, 0).end == 5);
  CHECK(causal_range(4, 3).first == 2);
  CHECK(causal_range(1, 3).first == 0);
  CHECK(causal_range(7, 0, 4).first == 4);  // the second chunk
  CHECK(causal_range(8, 0, 4).first == 8);
  CHECK(causal_range(7, 2, 4).first == 6);
}

TEST_CASE("attention") {
  SUBCASE("equal keys average the values that a query sees") {
    // One head of width 1; queries are the last 2 of 3 positions.
    const Array q = {1, 1}, k = {2, 2, 2}, v = {3, 6, 12};
    const AttentionInputs in = {{{q, k, 1}}, v, {}};
    const AttentionOutput out = attention(in, {1, 2, 3, 1, 1, 1, 1, 0});
    check_close(out.o, {4.5, 7});
    check_close(out.log_sum_exp, {2 + std::log(2.0), 2 + std::log(3.0)});
    check_close(attention(in, {1, 2, 3, 1, 1, 1, 1, 2}).o, {4.5, 9});      // a window of 2
    check_close(attention(in, {1, 2, 3, 1, 1, 1, 1, 0, 2}).o, {4.5, 12});  // chunks of 2: the last is alone
    // A sink as strong as every key takes the share of one.
    const Array sink = {2};
    check_close(attention({{{q, k, 1}}, v, sink}, {1, 2, 3, 1, 1, 1, 1, 0}).o, {3, 5.25});
  }
  SUBCASE("a second part adds its scores, and all heads may share its keys") {
    // 2 heads, 2 keys; the query of the second head sees log 3 more in the second key's part that both share.
    const Array q = {0, 0}, k = {0, 0, 0, 0}, v = {4, 4, 8, 8}, q2 = {0, std::sqrt(2.0) * std::log(3.0)}, k2 = {0, 1};
    const AttentionOutput out = attention({{{q, k, 1}, {q2, k2, 1, true}}, v, {}}, {1, 1, 2, 2, 1, 1, 1});
    check_close(out.o, {6, 7});
  }
  SUBCASE("all heads may share values, and scores may be scaled for another width than the queries'") {
    // 2 heads, 2 keys; 3 * log 3 over the root of 9 is log 3: the second head sees its second key thrice as strong.
    const Array q = {0, 3 * std::log(3.0)}, k = {0, 1}, v = {4, 8};
    const AttentionInputs in = {{{q, k, 1, true}}, v, {}, true, 9};
    check_close(attention(in, {1, 1, 2, 2, 1, 1, 1}).o, {6, 7});
  }
  SUBCASE("gradients of keys and values that all heads share") {
    const AttentionShape shape = {2, 3, 4, 2, 1, 3, 1};
    const Array q = random_array(2 * 3 * 2 * 2, 1), k = random_array(2 * 4 * 2, 2), v = random_array(2 * 4 * 3, 3),
                d_o = random_array(2 * 3 * 2 * 3, 4);
    const auto in = [&](In keys, In values) { return AttentionInputs{{{q, keys, 2, true}}, values, {}, true, 5}; };
    const AttentionOutput out = attention(in(k, v), shape);
    const AttentionGradient d = attention_gradient(in(k, v), out.o, out.log_sum_exp, d_o, shape);
    check_gradient(
        k, d_o, [&](const Array& moved) { return attention(in(moved, v), shape).o; }, d.k[0]);
    check_gradient(
        v, d_o, [&](const Array& moved) { return attention(in(k, moved), shape).o; }, d.v);
  }
  SUBCASE("gradients, with groups, two parts, sinks, a window or chunks and queries that begin later") {
    for (const AttentionShape& shape :
         {AttentionShape{2, 3, 5, 2, 2, 4, 2, 3}, AttentionShape{2, 3, 5, 2, 2, 4, 2, 0, 3}}) {
      const Array q = random_array(2 * 3 * 2 * 2 * 3, 1), k = random_array(2 * 5 * 2 * 3, 2),
                  v = random_array(2 * 5 * 2 * 4, 3), q2 = random_array(2 * 3 * 2 * 2 * 2, 5),
                  k2 = random_array(2 * 5 * 2, 6), sinks = random_array(2 * 2, 7);
      const Array d_o = random_array(2 * 3 * 2 * 2 * 4, 4);
      const auto in = [&]() { return AttentionInputs{{{q, k, 3}, {q2, k2, 2, true}}, v, sinks}; };
      const AttentionOutput out = attention(in(), shape);
      const AttentionGradient d = attention_gradient(in(), out.o, out.log_sum_exp, d_o, shape);
      const auto check = [&](const Array& x, const Array& gradient,
                             const std::function<void(AttentionInputs&, In)>& set) {
        const auto f = [&](const Array& moved) {
          AttentionInputs other = in();
          set(other, moved);
          return attention(other, shape).o;
        };
        check_gradient(x, d_o, f, gradient);
      };
      check(q, d.q[0], [](AttentionInputs& to, In x) { to.parts[0].q = x; });
      check(k, d.k[0], [](AttentionInputs& to, In x) { to.parts[0].k = x; });
      check(q2, d.q[1], [](AttentionInputs& to, In x) { to.parts[1].q = x; });
      check(k2, d.k[1], [](AttentionInputs& to, In x) { to.parts[1].k = x; });
      check(v, d.v, [](AttentionInputs& to, In x) { to.v = x; });
      check(sinks, d.sinks, [](AttentionInputs& to, In x) { to.sinks = x; });
    }
  }
}

TEST_CASE("gather takes the rows that are in its block") {
  const Array table = {1, 2, 3, 4};  // rows 5 and 6 of the whole table
  check_close(gather(Array{6, 4, 5}, table, 2, 5), {3, 4, 0, 0, 1, 2});
  check_close(gather_gradient(Array{6, 4, 6}, Array{1, 2, 3, 4, 5, 6}, 2, 5, 2), {0, 0, 6, 8});
}

TEST_CASE("statistics over a block of the vocabulary and the loss from them") {
  const Array logits = {1, 3, 2, 0}, labels = {5, 2};  // 2 tokens, columns 4 and 5 of the vocabulary
  check_close(vocabulary_max(logits, 2), {3, 2});
  check_close(vocabulary_exp_sum(logits, Array{3, 2}, 2), {1 + std::exp(-2.0), 1 + std::exp(-2.0)});
  check_close(vocabulary_pick(logits, labels, 2, 4), {3, 0});
  check_close(vocabulary_pick_gradient(labels, Array{7, 8}, 2, 4), {0, 7, 0, 0});
  // (log 2 + 3 - 1 + log 4 + 0 - 2) / 5 tokens
  CHECK(cross_entropy(Array{3, 0}, Array{2, 4}, Array{1, 2}, 5) == doctest::Approx(std::log(8.0) / 5));

  const Array sum = {2, 4}, picked = {1, 2}, largest = {3, 2}, x = random_array(6, 1), dy = random_array(3, 2),
              top = {1, 2, 3};
  check_gradient(
      x, dy, [&](const Array& v) { return vocabulary_exp_sum(v, top, 2); }, vocabulary_exp_sum_gradient(x, top, dy, 2));
  check_gradient(
      sum, {0.5}, [&](const Array& v) { return Array{cross_entropy(largest, v, picked, 5)}; },
      cross_entropy_gradient_exp_sum(sum, 0.5, 5));
  check_gradient(
      picked, {0.5}, [&](const Array& v) { return Array{cross_entropy(largest, sum, v, 5)}; },
      cross_entropy_gradient_picked(2, 0.5, 5));
}

}  // namespace
}  // namespace shardwright::reference
