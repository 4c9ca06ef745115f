#include "kernels/reference/reference_operators.h"

#include <cassert>
#include <cmath>

#include "kernels/host/host_operators.h"
#include "kernels/reference/reference.h"

namespace shardwright {
namespace {

using reference::Array;

class ReferenceOperators final : public HostOperators {
 public:
  explicit ReferenceOperators(Element stored) : stored_(stored) {}
  std::string name() const override { return "reference"; }
  bool supports(DataType) const override { return true; }
  Element element(DataType) const override { return stored_; }

  void contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                   bool accumulate) override {
    const Array x = download(a.data), y = download(b.data);
    Array sum = reference::contraction({x, a.labels, a.extents}, {y, b.labels, b.extents}, out_labels);
    write_or_add(sum, out, accumulate);
  }

  void add_bias(const Labelled& x, const Labelled& bias, View y) override {
    const Array a = download(x.data), b = download(bias.data);
    upload(reference::add_bias({a, x.labels, x.extents}, {b, bias.labels, bias.extents}), y);
  }
  void add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) override {
    const Array d = download(dy.data);
    upload(reference::add_bias_gradient({d, dy.labels, dy.extents}, bias_labels), d_bias);
  }
  void gelu(In x, View y) override { upload(reference::gelu(download(x)), y); }
  void gelu_gradient(In x, In dy, View dx) override { upload(reference::gelu_gradient(download(x), download(dy)), dx); }
  void silu(In x, View y) override {
    const Array ones(static_cast<std::size_t>(x.elements), 1.0);
    upload(reference::gated_silu(download(x), ones), y);
  }
  void gated_silu(In gate, In up, View y) override { upload(reference::gated_silu(download(gate), download(up)), y); }
  void gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) override {
    const auto d = reference::gated_silu_gradient(download(gate), download(up), download(dy));
    upload(d.gate, d_gate);
    upload(d.up, d_up);
  }
  void sigmoid_scale(In x, In scale, View y) override {
    upload(reference::sigmoid_scale(download(x), download(scale)), y);
  }
  void sigmoid_scale_gradient_x(In scale, In dy, View dx) override {
    upload(reference::sigmoid_scale_gradient_x(download(scale), download(dy)), dx);
  }
  void sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) override {
    upload(reference::sigmoid_scale_gradient_scale(download(x), download(scale), download(dy)), d_scale);
  }
  void dropout(In x, In mask, double probability, View y) override {
    upload(reference::dropout(download(x), download(mask), probability), y);
  }
  void rotary(In x, const RotaryShape& shape, View y) override { upload(reference::rotary(download(x), shape), y); }
  void rotary_gradient(In dy, const RotaryShape& shape, View dx) override {
    upload(reference::rotary_gradient(download(dy), shape), dx);
  }
  void residual_sum(const std::vector<In>& terms, View y) override {
    Array sum(static_cast<std::size_t>(y.elements), 0.0);
    for (const In& term : terms) {
      const Array x = download(term);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += x[i];
    }
    upload(sum, y);
  }
  void scale_rows(In x, In scale, View y) override {
    Array a = download(x);
    const Array s = download(scale);
    for (std::size_t i = 0; i < a.size(); ++i) a[i] *= s[i / (a.size() / s.size())];
    upload(a, y);
  }

  void rms_norm(In x, In weight, View y, View normalised) override {
    const Array a = download(x), w = download(weight), ones(w.size(), 1.0);
    upload(reference::rms_norm(a, w), y);
    if (!normalised.empty()) upload(reference::rms_norm(a, ones), normalised);
  }
  void layer_norm(In x, In weight, In bias, View y) override {
    upload(reference::layer_norm(download(x), download(weight), download(bias)), y);
  }
  void rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override {
    write_norm(reference::rms_norm_gradient(download(x), download(weight), download(dy)), d);
  }
  void layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override {
    write_norm(reference::layer_norm_gradient(download(x), download(weight), download(dy)), d);
  }

  void softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) override {
    upload(reference::softmax(download(x), keys, seen), y);
  }
  void softmax_gradient(In y, In dy, std::int64_t keys, View dx) override {
    upload(reference::softmax_gradient(download(y), download(dy), keys), dx);
  }
  void attention(const AttentionViews& in, const AttentionShape& shape, View o, View log_sum_exp) override {
    const Held held(*this, in);
    const auto out = reference::attention(held.inputs, shape);
    upload(out.o, o);
    upload(out.log_sum_exp, log_sum_exp);
  }
  void attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& shape,
                          const AttentionGradientViews& d) override {
    const Held held(*this, in);
    const auto made =
        reference::attention_gradient(held.inputs, download(o), download(log_sum_exp), download(d_o), shape);
    for (std::size_t i = 0; i < d.q.size(); ++i) write_wanted(made.q[i], d.q[i]);
    for (std::size_t i = 0; i < d.k.size(); ++i) write_wanted(made.k[i], d.k[i]);
    write_wanted(made.v, d.v);
    write_wanted(made.sinks, d.sinks);
  }

  void route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) override {
    auto r = reference::route(download(logits), experts, chosen);
    upload(r.gate, gate);
    for (double& m : r.mask) m = m == 1.0 ? 1.0 : 0.0;  // no number, no expert; the gate says so
    upload(r.mask, mask);
  }
  void route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) override {
    upload(reference::route_gradient(download(logits), download(d_gate), experts, chosen), d_logits);
  }
  void grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed, View y) override {
    const Array a = download(x), matrices = download(b);
    const std::int64_t rows = total(rows_per_group), groups = static_cast<std::int64_t>(rows_per_group.size());
    if (rows == 0) return;
    const std::int64_t k = x.elements / rows, n = b.elements / groups / k;
    Array out;
    std::int64_t first = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t m = rows_per_group[static_cast<std::size_t>(g)];
      if (m == 0) continue;
      const Array part = reference::contraction(
          {block(a, first * k, m * k), {0, 1}, {m, k}},
          transposed ? matrix(matrices, g, {2, 1}, {n, k}) : matrix(matrices, g, {1, 2}, {k, n}), {0, 2});
      out.insert(out.end(), part.begin(), part.end());
      first += m;
    }
    upload(out, y);
  }
  void grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                    bool accumulate) override {
    const Array a = download(x), d = download(dy);
    const std::int64_t rows = total(rows_per_group);
    Array out(static_cast<std::size_t>(d_b.elements), 0.0);
    const std::int64_t k = rows == 0 ? 0 : x.elements / rows, n = rows == 0 ? 0 : dy.elements / rows;
    std::int64_t row = 0;
    for (std::size_t g = 0; g < rows_per_group.size(); ++g)
      for (std::int64_t m = 0; m < rows_per_group[g]; ++m, ++row)
        for (std::int64_t i = 0; i < k; ++i)
          for (std::int64_t j = 0; j < n; ++j)
            out[g * static_cast<std::size_t>(k * n) + static_cast<std::size_t>(i * n + j)] +=
                a[static_cast<std::size_t>(row * k + i)] * d[static_cast<std::size_t>(row * n + j)];
    write_or_add(out, d_b, accumulate);
  }

  void gather(In ids, In table, std::int64_t first, View y) override {
    if (ids.empty()) return;
    upload(reference::gather(download(ids), download(table), y.elements / ids.elements, first), y);
  }
  void gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate) override {
    if (ids.empty()) {
      if (!accumulate) fill(d_table, 0);
      return;
    }
    const std::int64_t width = dy.elements / ids.elements;
    Array d = reference::gather_gradient(download(ids), download(dy), width, first, d_table.elements / width);
    write_or_add(d, d_table, accumulate);
  }

  void vocabulary_max(In logits, std::int64_t columns, View largest) override {
    upload(reference::vocabulary_max(download(logits), columns), largest);
  }
  void vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials) override {
    const Array x = download(logits), most = download(largest);
    upload(reference::vocabulary_exp_sum(x, most, columns), sum);
    if (exponentials.empty()) return;
    const Array ones(most.size(), 1.0);
    upload(reference::vocabulary_exp_sum_gradient(x, most, ones, columns), exponentials);
  }
  void vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) override {
    upload(reference::vocabulary_exp_sum_gradient(download(logits), download(largest), download(d_sum), columns),
           d_logits);
  }
  void vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) override {
    upload(reference::vocabulary_pick(download(logits), download(labels), columns, first), picked);
  }
  void vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                View d_logits) override {
    upload(reference::vocabulary_pick_gradient(download(labels), download(d_picked), columns, first), d_logits);
  }
  void cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) override {
    fill(loss, reference::cross_entropy(download(largest), download(exp_sum), download(picked), all_tokens));
  }
  void cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) override {
    upload(reference::cross_entropy_gradient_exp_sum(download(exp_sum), download(d_loss)[0], all_tokens), d_sum);
  }
  void cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) override {
    upload(reference::cross_entropy_gradient_picked(d_picked.elements, download(d_loss)[0], all_tokens), d_picked);
  }

  void adam_step(const AdamStep& step, In gradient, View weight, View first_moment, View second_moment,
                 View copy) override {
    const Array g = download(gradient);
    Array w = download(weight), m = download(first_moment), v = download(second_moment);
    reference::adam_step(step, g, w, m, v);
    upload(w, weight);
    upload(m, first_moment);
    upload(v, second_moment);
    write_wanted(w, copy);
  }
  void square_sum(In x, View sum) override {
    double total = 0.0;
    for (double v : download(x)) total += v * v;
    fill(sum, total);
  }

 private:
  /// An attention's inputs as arrays; they live as long as this does.
  struct Held {
    Held(ReferenceOperators& host, const AttentionViews& in) : v(host.download(in.v)), sinks(host.download(in.sinks)) {
      for (const ScoreViews& part : in.parts) {
        q.push_back(host.download(part.q));
        k.push_back(host.download(part.k));
      }
      for (std::size_t i = 0; i < q.size(); ++i)
        inputs.parts.push_back({q[i], k[i], in.parts[i].width, in.parts[i].shared_key});
      inputs.v = v;
      inputs.sinks = sinks;
      inputs.shared_value = in.shared_value;
      inputs.score_width = in.score_width;
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    std::vector<Array> q, k;
    Array v, sinks;
    reference::AttentionInputs inputs;
  };

  static std::int64_t total(std::span<const std::int64_t> rows) {
    std::int64_t sum = 0;
    for (std::int64_t r : rows) sum += r;
    return sum;
  }
  static reference::In block(const Array& a, std::int64_t first, std::int64_t count) {
    return reference::In(a).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  }
  static reference::Labelled matrix(const Array& all, std::int64_t which, std::vector<int> labels,
                                    std::vector<std::int64_t> extents) {
    const std::int64_t size = extents[0] * extents[1];
    return {block(all, which * size, size), std::move(labels), std::move(extents)};
  }
  void write_wanted(const Array& from, View to) {
    if (!to.empty()) upload(from, to);
  }
  void write_or_add(Array& from, View to, bool add) {
    if (add) {
      const Array before = download(to);
      for (std::size_t i = 0; i < from.size(); ++i) from[i] += before[i];
    }
    upload(from, to);
  }
  void write_norm(const reference::NormGradient& made, const NormGradientViews& d) {
    write_wanted(made.x, d.x);
    write_wanted(made.weight, d.weight);
    write_wanted(made.bias, d.bias);
  }

  Element stored_;
};

}  // namespace

std::unique_ptr<Operators> make_reference_operators(Element stored) {
  return std::make_unique<ReferenceOperators>(stored);
}

}  // namespace shardwright
