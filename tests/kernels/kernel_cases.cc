#include "tests/kernels/kernel_cases.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference_operators.h"

namespace shardwright {
namespace {

using Extents = std::vector<std::int64_t>;

std::int64_t product(const Extents& extents) {
  std::int64_t n = 1;
  for (const std::int64_t e : extents) n *= e;
  return n;
}

void contraction_case(std::vector<KernelCase>& cases, const std::string& what, std::vector<int> a, Extents ea,
                      std::vector<int> b, Extents eb, std::vector<int> out, std::int64_t elements, double sum) {
  for (const bool accumulate : {false, true}) {
    cases.push_back({"contraction: " + what + (accumulate ? ", added" : ""), sum, [=](KernelBench& bench) {
                       const Labelled x = bench.labelled(a, ea), y = bench.labelled(b, eb);
                       const View to = accumulate ? bench.result_from(bench.numbers(elements)) : bench.result(elements);
                       bench.operators().contraction(x, y, out, to, accumulate);
                     }});
  }
}

void add_contractions(std::vector<KernelCase>& cases) {
  contraction_case(cases, "a product", {0, 1}, {37, 65}, {1, 2}, {65, 29}, {0, 2}, 37 * 29, 65);
  contraction_case(cases, "by a transpose", {0, 1}, {37, 65}, {2, 1}, {29, 65}, {0, 2}, 37 * 29, 65);
  contraction_case(cases, "of a transpose", {1, 0}, {65, 37}, {1, 2}, {65, 29}, {0, 2}, 37 * 29, 65);
  contraction_case(cases, "to a transpose", {0, 1}, {37, 65}, {1, 2}, {65, 29}, {2, 0}, 37 * 29, 65);
  contraction_case(cases, "one row", {0, 1}, {1, 65}, {1, 2}, {65, 29}, {0, 2}, 29, 65);
  contraction_case(cases, "one column", {0, 1}, {37, 65}, {1, 2}, {65, 1}, {0, 2}, 37, 65);
  contraction_case(cases, "two labels summed", {0, 1, 2}, {9, 6, 8}, {1, 2, 3}, {6, 8, 11}, {0, 3}, 9 * 11, 48);
  contraction_case(cases, "two labels summed in other orders", {0, 1, 2}, {9, 6, 8}, {2, 1, 3}, {8, 6, 11}, {0, 3},
                   9 * 11, 48);
  contraction_case(cases, "a weight's gradient", {0, 1, 2}, {3, 12, 16}, {0, 1, 3}, {3, 12, 20}, {2, 3}, 16 * 20, 36);
  contraction_case(cases, "a batch of heads", {0, 1, 2, 3}, {2, 5, 4, 16}, {2, 3, 4}, {4, 16, 12}, {0, 1, 2, 4},
                   2 * 5 * 4 * 12, 16);
  contraction_case(cases, "scores of heads", {0, 1, 2, 3}, {2, 7, 3, 16}, {0, 4, 2, 3}, {2, 9, 3, 16}, {0, 2, 1, 4},
                   2 * 3 * 7 * 9, 16);
  contraction_case(cases, "elementwise", {0, 1}, {8, 30}, {0, 1}, {8, 30}, {0, 1}, 240, 1);
  contraction_case(cases, "rows by a number each", {0, 1}, {8, 30}, {0}, {8}, {0, 1}, 240, 1);
  contraction_case(cases, "an outer product", {0}, {23}, {1}, {31}, {0, 1}, 23 * 31, 1);
  contraction_case(cases, "rows to experts", {0, 1}, {6, 4}, {0, 2}, {6, 20}, {1, 0, 2}, 6 * 4 * 20, 1);
  contraction_case(cases, "all summed", {0, 1}, {8, 30}, {0, 1}, {8, 30}, {}, 1, 240);
  contraction_case(cases, "a label of one operand summed", {0, 1, 3}, {8, 30, 3}, {1, 2}, {30, 9}, {0, 2}, 72, 90);
  cases.push_back({"contraction: by a mask of bytes", 1, [](KernelBench& bench) {
                     const Labelled mask = {bench.mask(24), {0, 1}, {6, 4}};
                     const Labelled rows = bench.labelled({0, 2}, {6, 20});
                     bench.operators().contraction(mask, rows, {1, 0, 2}, bench.result(480));
                   }});
  cases.push_back({"add_bias", 1, [](KernelBench& bench) {
                     const Labelled x = bench.labelled({0, 1, 2}, {3, 4, 10}), bias = bench.labelled({2}, {10});
                     bench.operators().add_bias(x, bias, bench.result(120));
                   }});
  cases.push_back({"add_bias: of two labels", 1, [](KernelBench& bench) {
                     const Labelled x = bench.labelled({0, 1, 2}, {3, 4, 10}), bias = bench.labelled({1, 2}, {4, 10});
                     bench.operators().add_bias(x, bias, bench.result(120));
                   }});
  cases.push_back({"add_bias_gradient", 12, [](KernelBench& bench) {
                     const Labelled dy = bench.labelled({0, 1, 2}, {3, 4, 10});
                     bench.operators().add_bias_gradient(dy, {2}, bench.result(10));
                   }});
}

void add_pointwise(std::vector<KernelCase>& cases) {
  constexpr std::int64_t n = 1003;  // no multiple of a vector
  cases.push_back({"gelu", 8, [](KernelBench& b) { b.operators().gelu(b.numbers(n, 3), b.result(n)); }});
  cases.push_back({"gelu_gradient", 8, [](KernelBench& b) {
                     const View x = b.numbers(n, 3), dy = b.numbers(n);
                     b.operators().gelu_gradient(x, dy, b.result(n));
                   }});
  cases.push_back({"silu", 8, [](KernelBench& b) { b.operators().silu(b.numbers(n, 30), b.result(n)); }});
  cases.push_back({"gated_silu", 8, [](KernelBench& b) {
                     const View gate = b.numbers(n, 5), up = b.numbers(n);
                     b.operators().gated_silu(gate, up, b.result(n));
                   }});
  cases.push_back({"gated_silu_gradient", 8, [](KernelBench& b) {
                     const View gate = b.numbers(n, 5), up = b.numbers(n), dy = b.numbers(n);
                     const View d_gate = b.result(n);
                     b.operators().gated_silu_gradient(gate, up, dy, d_gate, b.result(n));
                   }});
  cases.push_back({"sigmoid_scale", 8, [](KernelBench& b) {
                     const View x = b.numbers(17 * 59), scale = b.numbers(17);
                     b.operators().sigmoid_scale(x, scale, b.result(n));
                   }});
  cases.push_back({"sigmoid_scale_gradient", 59, [](KernelBench& b) {
                     const View x = b.numbers(17 * 59), scale = b.numbers(17), dy = b.numbers(17 * 59);
                     b.operators().sigmoid_scale_gradient_x(scale, dy, b.result(n));
                     b.operators().sigmoid_scale_gradient_scale(x, scale, dy, b.result(17));
                   }});
  cases.push_back({"scale_rows", 1, [](KernelBench& b) {
                     const View x = b.numbers(17 * 59), scale = b.numbers(17);
                     b.operators().scale_rows(x, scale, b.result(n));
                   }});
  cases.push_back({"dropout and its mask", 1, [](KernelBench& b) {
                     const BlockPlace place = {{3, 50}, {2, 25}, {5, 100}};
                     const View x = b.numbers(150), mask = b.result_of(150, Element::byte);
                     b.operators().dropout_mask(place, 0.25, 7, mask);
                     b.operators().dropout(x, mask, 0.25, b.result(150));
                   }});
  cases.push_back({"normal numbers", 1, [](KernelBench& b) {
                     b.operators().fill_normal(b.result(150), {{3, 50}, {2, 25}, {5, 100}}, 7, 0.02);
                   }});
  for (const RotaryShape& shape : {RotaryShape{2, 5, 3, 16, 0}, RotaryShape{1, 4, 1, 64, 4090}}) {
    const std::int64_t size = shape.outer * shape.sequence * shape.inner * shape.width;
    cases.push_back({"rotary from " + std::to_string(shape.first_position), 2, [=](KernelBench& b) {
                       b.operators().rotary(b.numbers(size), shape, b.result(size));
                       b.operators().rotary_gradient(b.numbers(size), shape, b.result(size));
                     }});
  }
  cases.push_back({"residual_sum", 3, [](KernelBench& b) {
                     const View x = b.numbers(n), y = b.numbers(n), z = b.numbers(n);
                     b.operators().residual_sum({x}, b.result(n));
                     b.operators().residual_sum({x, y, z}, b.result(n));
                     const View in_place = b.result_from(b.numbers(n));
                     b.operators().residual_sum({x, in_place, z}, in_place);
                   }});
  cases.push_back({"copy of a box", 1, [](KernelBench& b) {
                     const View whole = b.numbers(4 * 6 * 5), rows = b.result_from(b.numbers(4 * 2 * 5));
                     b.operators().copy_box({whole.part(10, 110), {30, 5, 1}}, {rows, {10, 5, 1}}, {4, 2, 5});
                     const View turned = b.result_from(b.numbers(4 * 6 * 5));
                     b.operators().copy_box({whole, {30, 5, 1}}, {turned, {1, 4, 24}}, {4, 6, 5});
                   }});
}

void add_norms(std::vector<KernelCase>& cases) {
  for (const std::int64_t width : {7, 96}) {
    const std::int64_t rows = 5, n = rows * width;
    const auto name = [&](const std::string& what) { return what + " of " + std::to_string(width); };
    const auto sum = static_cast<double>(width);
    cases.push_back({name("rms_norm"), sum, [=](KernelBench& b) {
                       const View x = b.numbers(n), weight = b.numbers(width), y = b.result(n);
                       b.operators().rms_norm(x, weight, y, b.result(n));
                       b.operators().rms_norm(x, weight, b.result(n));
                     }});
    cases.push_back({name("layer_norm"), sum, [=](KernelBench& b) {
                       const View x = b.numbers(n), weight = b.numbers(width), bias = b.numbers(width);
                       b.operators().layer_norm(x, weight, bias, b.result(n));
                     }});
    cases.push_back({name("norm gradients"), sum, [=](KernelBench& b) {
                       const View x = b.numbers(n), weight = b.numbers(width), dy = b.numbers(n);
                       const View dx = b.result(n), d_weight = b.result(width);
                       b.operators().rms_norm_gradient(x, weight, dy, {dx, d_weight, {}});
                       b.operators().rms_norm_gradient(x, weight, dy, {b.result(n), {}, {}});
                       const View lx = b.result(n), l_weight = b.result(width), l_bias = b.result(width);
                       b.operators().layer_norm_gradient(x, weight, dy, {lx, l_weight, l_bias});
                     }});
  }
}

struct AttentionCase {
  std::string name;
  AttentionShape shape;
  std::vector<std::int64_t> widths;  // of the score's parts
  bool shared_key = false, shared_value = false, sinks = false;
};

void add_attention(std::vector<KernelCase>& cases) {
  std::vector<AttentionCase> list;
  const auto add = [&](const std::string& name, AttentionShape shape, std::vector<std::int64_t> widths) {
    list.push_back({name, shape, std::move(widths), false, false, false});
    return &list.back();
  };
  add("short", {2, 5, 5, 2, 1, 8}, {8});
  add("of groups", {2, 9, 9, 2, 3, 8}, {16});
  add("longer than a block", {1, 300, 300, 1, 2, 16}, {16});
  add("behind a prefix", {1, 140, 600, 2, 1, 16, 460}, {16});
  add("of a window", {1, 300, 300, 1, 1, 16, 0, 20}, {16});
  add("in chunks", {1, 300, 300, 1, 1, 16, 0, 0, 64}, {16});
  add("one query, all heads of a group", {3, 1, 520, 2, 4, 16, 519}, {16});
  add("one query, split keys", {1, 1, 520, 1, 4, 16, 519}, {16});
  add("one query of a window, split keys", {1, 1, 520, 1, 4, 16, 519, 300}, {16});
  add("that sees all", {2, 33, 290, 2, 1, 8, 0, 0, 0, false}, {8});
  add("latent", {2, 40, 40, 3, 1, 12}, {16, 4});
  add("latent absorbed", {2, 1, 300, 1, 6, 24, 299}, {24, 8})->shared_key = true;
  list.back().shared_value = true;
  add("with sinks", {1, 40, 40, 2, 2, 8}, {8})->sinks = true;
  add("with sinks, split keys", {1, 1, 200, 1, 2, 8, 199}, {8})->sinks = true;
  for (const AttentionCase& c : list) {
    cases.push_back({"attention " + c.name, 4.0 * static_cast<double>(c.shape.keys), [c](KernelBench& b) {
                       const AttentionShape& s = c.shape;
                       const std::int64_t rows = s.batch * s.queries * s.heads * s.group;
                       const std::int64_t keys = s.batch * s.keys * s.heads;
                       const auto of = [&](bool shared) { return shared ? s.batch * s.keys : keys; };
                       AttentionViews in;
                       for (const std::int64_t width : c.widths) {
                         const View q = b.numbers(rows * width);
                         in.parts.push_back({q, b.numbers(of(c.shared_key) * width), width, c.shared_key});
                       }
                       in.v = b.numbers(of(c.shared_value) * s.value_dim);
                       in.shared_value = c.shared_value;
                       if (c.sinks) in.sinks = b.numbers(s.heads * s.group);
                       const View o = b.result(rows * s.value_dim);
                       const View log_sum_exp = b.result_of(rows, b.operators().element(DataType::fp32));
                       b.operators().attention(in, s, o, log_sum_exp);
                       const View d_o = b.numbers(rows * s.value_dim);
                       AttentionGradientViews d;
                       for (const ScoreViews& part : in.parts) {
                         d.q.push_back(b.result(part.q.elements));
                         d.k.push_back(b.result(part.k.elements));
                       }
                       d.v = b.result(in.v.elements);
                       if (c.sinks) d.sinks = b.result(in.sinks.elements);
                       b.operators().attention_gradient(in, o, log_sum_exp, d_o, s, d);
                     }});
  }
  cases.push_back({"softmax and its gradient", 40, [](KernelBench& b) {
                     const std::vector<KeyRange> seen = {{0, 1}, {0, 40}, {7, 9}, {39, 60}};
                     const View x = b.numbers(160, 10), y = b.result(160);
                     b.operators().softmax(x, 40, seen, y);
                     b.operators().softmax_gradient(y, b.numbers(160), 40, b.result(160));
                   }});
}

void add_experts(std::vector<KernelCase>& cases) {
  cases.push_back({"route and its gradient", 4, [](KernelBench& b) {
                     const View logits = b.numbers(12 * 8), gate = b.result(96), mask = b.result_of(96, Element::byte);
                     b.operators().route(logits, 8, 3, gate, mask);
                     b.operators().route_gradient(logits, b.numbers(96), 8, 3, b.result(96));
                     const auto rows = b.operators().rows_per_expert(mask, 8);
                     std::vector<double> counts(rows.begin(), rows.end());
                     b.operators().upload(counts, b.result(8));
                     b.operators().expert_rows(mask, 8, b.result_of(36, Element::int64));
                   }});
  cases.push_back({"grouped_contraction", 33, [](KernelBench& b) {
                     const std::vector<std::int64_t> rows = {5, 0, 11, 1};
                     const View x = b.numbers(17 * 33), matrices = b.numbers(4 * 33 * 12), dy = b.numbers(17 * 12);
                     b.operators().grouped_contraction(x, matrices, rows, false, b.result(17 * 12));
                     b.operators().grouped_contraction(dy, matrices, rows, true, b.result(17 * 33));
                     b.operators().grouped_contraction_gradient(x, dy, rows, b.result(4 * 33 * 12));
                     const View sum = b.result_from(b.numbers(4 * 33 * 12));
                     b.operators().grouped_contraction_gradient(x, dy, rows, sum, true);
                   }});
  cases.push_back({"grouped_contraction of groups that are alike", 33, [](KernelBench& b) {
                     const std::vector<std::int64_t> rows = {6, 6, 6};
                     const View x = b.numbers(18 * 33), matrices = b.numbers(3 * 33 * 12), dy = b.numbers(18 * 12);
                     b.operators().grouped_contraction(x, matrices, rows, false, b.result(18 * 12));
                     b.operators().grouped_contraction(dy, matrices, rows, true, b.result(18 * 33));
                     b.operators().grouped_contraction_gradient(x, dy, rows, b.result(3 * 33 * 12));
                     const View sum = b.result_from(b.numbers(3 * 33 * 12));
                     b.operators().grouped_contraction_gradient(x, dy, rows, sum, true);
                   }});
  cases.push_back({"grouped_contraction of no rows", 1, [](KernelBench& b) {
                     const std::vector<std::int64_t> rows = {0, 0};
                     b.operators().grouped_contraction_gradient({}, {}, rows, b.result(2 * 6));
                   }});
}

void add_vocabulary(std::vector<KernelCase>& cases) {
  cases.push_back({"gather and its gradient", 9, [](KernelBench& b) {
                     const View ids = b.ids(9, 30), table = b.numbers(20 * 12), dy = b.numbers(9 * 12);
                     b.operators().gather(ids, table, 5, b.result(9 * 12));
                     b.operators().gather_gradient(ids, dy, 5, b.result(20 * 12));
                     const View sum = b.result_from(b.numbers(20 * 12));
                     b.operators().gather_gradient(ids, dy, 5, sum, true);
                   }});
  cases.push_back({"vocabulary", 70, [](KernelBench& b) {
                     const View logits = b.numbers(6 * 70, 20), labels = b.ids(6, 140), largest = b.result(6);
                     b.operators().vocabulary_max(logits, 70, largest);
                     const View sum = b.result(6), exponentials = b.result(6 * 70);
                     b.operators().vocabulary_exp_sum(logits, largest, 70, sum, exponentials);
                     b.operators().vocabulary_exp_sum(logits, largest, 70, b.result(6));
                     b.operators().vocabulary_exp_sum_gradient(logits, largest, b.numbers(6), 70, b.result(6 * 70));
                     const View picked = b.result(6);
                     b.operators().vocabulary_pick(logits, labels, 70, 35, picked);
                     b.operators().vocabulary_pick_gradient(labels, b.numbers(6), 70, 35, b.result(6 * 70));
                     b.operators().cross_entropy(largest, sum, picked, 24, b.result(1));
                     const View d_loss = b.numbers(1);
                     b.operators().cross_entropy_gradient_exp_sum(sum, d_loss, 24, b.result(6));
                     b.operators().cross_entropy_gradient_picked(d_loss, 24, b.result(6));
                   }});
  cases.push_back({"adam_step", 4, [](KernelBench& b) {
                     const View gradient = b.numbers(333), weight = b.result_from(b.numbers(333));
                     const View first = b.result_from(b.numbers(333, 0.1)), second = b.result(333);
                     b.operators().fill(second, 0.25);
                     const AdamStep step = {0.01, 0.9, 0.95, 1e-8, 0.1, 3, 0.5};
                     b.operators().adam_step(step, gradient, weight, first, second, b.result(333));
                   }});
  cases.push_back({"square_sum", 5000, [](KernelBench& b) { b.operators().square_sum(b.numbers(5000), b.result(1)); }});
}

/// Binary digits of a number.
int digits_of(DataType type) { return type == DataType::bf16 ? 8 : type == DataType::fp16 ? 11 : 24; }

double rounded(double x, int digits) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, digits)), exponent - digits);
}

/// What rounding may do: a few units of the last place, and as many more as the root of the sum's length.
double tolerance(DataType type, double sum_length) {
  return 4 * std::ldexp(1.0, -digits_of(type)) * (4 + std::sqrt(sum_length));
}

}  // namespace

double KernelBench::next() {
  // xorshift64* (Vigna, 2016); 7 bits and a sign: exact in bf16.
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  const auto bits = static_cast<std::int64_t>((state_ * 0x2545F4914F6CDD1Du) >> 56);
  return static_cast<double>(bits - 128) / 128.0;
}

View KernelBench::filled(const std::vector<double>& values, Element element) {
  const auto count = static_cast<std::int64_t>(values.size());
  memory_.push_back(operators_.allocate({count * bytes_of(element)}));
  const View view = {memory_.back().get(), count, element};
  operators_.upload(values, view);
  return view;
}

View KernelBench::numbers(std::int64_t count, double scale) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& v : values) v = rounded(scale * next(), digits_of(type_));
  return filled(values, operators_.element(type_));
}

View KernelBench::ids(std::int64_t count, std::int64_t below) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& v : values) v = std::floor((next() + 1) / 2 * static_cast<double>(below + 2)) - 1;
  return filled(values, Element::int64);
}

View KernelBench::mask(std::int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& v : values) v = next() > 0 ? 1 : 0;
  return filled(values, Element::byte);
}

View KernelBench::result(std::int64_t count) {
  const std::vector<double> nothing(static_cast<std::size_t>(count), std::numeric_limits<double>::quiet_NaN());
  return result_from(filled(nothing, operators_.element(type_)));
}

View KernelBench::result_of(std::int64_t count, Element element) {
  return result_from(filled(std::vector<double>(static_cast<std::size_t>(count), 77), element));
}

View KernelBench::result_from(View view) {
  results_.push_back(view);
  return view;
}

Labelled KernelBench::labelled(std::vector<int> labels, std::vector<std::int64_t> extents) {
  const View view = numbers(product(extents));
  return {view, std::move(labels), std::move(extents)};
}

std::vector<std::vector<double>> KernelBench::results() {
  operators_.synchronize();
  std::vector<std::vector<double>> all;
  for (const View& view : results_) all.push_back(operators_.download(view));
  return all;
}

std::vector<KernelCase> kernel_cases() {
  std::vector<KernelCase> cases;
  add_contractions(cases);
  add_pointwise(cases);
  add_norms(cases);
  add_attention(cases);
  add_experts(cases);
  add_vocabulary(cases);
  return cases;
}

void check_against_reference(Operators& operators, DataType type) {
  const auto reference = make_reference_operators();
  for (const KernelCase& c : kernel_cases()) {
    INFO(name_of(type), ": ", c.name);
    KernelBench ours(operators, type), theirs(*reference, type);
    c.run(ours);
    c.run(theirs);
    CHECK(relative_difference(ours.results(), theirs.results()) < tolerance(type, c.sum_length));
  }
}

double relative_difference(const std::vector<std::vector<double>>& got,
                           const std::vector<std::vector<double>>& expected) {
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  if (got.size() != expected.size()) return kWrong;
  double worst = 0;
  for (std::size_t r = 0; r < got.size(); ++r) {
    if (got[r].size() != expected[r].size()) return kWrong;
    double largest = 0;
    for (const double x : expected[r])
      if (!std::isnan(x)) largest = std::max(largest, std::abs(x));
    for (std::size_t i = 0; i < got[r].size(); ++i) {
      if (std::isnan(got[r][i]) && std::isnan(expected[r][i])) continue;
      const double off = std::abs(got[r][i] - expected[r][i]);
      if (std::isnan(off)) return kWrong;
      if (off > 0) worst = std::max(worst, off / largest);
    }
  }
  return worst;
}

}  // namespace shardwright
