#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/operators.h"

namespace shardwright {

/// Where no process has memory: an address plus this is one of a device, whose numbers the host cannot read.
inline constexpr std::uintptr_t kFar = std::uintptr_t{1} << 62;
inline bool is_far(const void* data) { return reinterpret_cast<std::uintptr_t>(data) >= kFar; }

/// Operators whose memory is a device's: what reads or writes it beside them dies, and what gives them memory of the
/// host's is told so. They compute by `on`, which outlives this.
class FarOperators : public Operators {
 public:
  explicit FarOperators(Operators& on) : on_(on) {}

  static void* near(void* data) {
    if (!data) return nullptr;
    if (!is_far(data)) throw std::logic_error("a device is given memory of the host's");
    return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(data) - kFar);
  }
  static View near(const View& v) { return {near(v.data), v.elements, v.element}; }
  static In near(const In& v) { return {near(const_cast<void*>(v.data)), v.elements, v.element}; }

  std::string name() const override { return on_.name(); }
  bool supports(DataType type) const override { return on_.supports(type); }
  Element element(DataType type) const override { return on_.element(type); }
  std::shared_ptr<void> allocate(Bytes size) override {
    std::shared_ptr<void> memory = on_.allocate(size);
    if (!memory) return memory;
    void* const far = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(memory.get()) + kFar);
    return {far, [memory = std::move(memory)](void*) mutable { memory.reset(); }};
  }
  void upload(std::span<const double> from, View to) override { on_.upload(from, near(to)); }
  std::vector<double> download(In from) override { return on_.download(near(from)); }
  void synchronize() override { on_.synchronize(); }
  void fill(View to, double value) override { on_.fill(near(to), value); }
  void fill_normal(View to, const BlockPlace& place, std::uint64_t seed, double deviation) override {
    on_.fill_normal(near(to), place, seed, deviation);
  }
  void cast(In from, View to) override { on_.cast(near(from), near(to)); }
  void copy_box(const Strided& from, const Strided& to, const std::vector<std::int64_t>& extents) override {
    on_.copy_box({near(from.view), from.strides}, {near(to.view), to.strides}, extents);
  }
  void contraction(const Labelled& a, const Labelled& b, const std::vector<int>& out_labels, View out,
                   bool accumulate) override {
    on_.contraction(near(a), near(b), out_labels, near(out), accumulate);
  }
  void add_bias(const Labelled& x, const Labelled& bias, View y) override {
    on_.add_bias(near(x), near(bias), near(y));
  }
  void add_bias_gradient(const Labelled& dy, const std::vector<int>& bias_labels, View d_bias) override {
    on_.add_bias_gradient(near(dy), bias_labels, near(d_bias));
  }
  void gelu(In x, View y) override { on_.gelu(near(x), near(y)); }
  void gelu_gradient(In x, In dy, View dx) override { on_.gelu_gradient(near(x), near(dy), near(dx)); }
  void silu(In x, View y) override { on_.silu(near(x), near(y)); }
  void gated_silu(In gate, In up, View y) override { on_.gated_silu(near(gate), near(up), near(y)); }
  void gated_silu_gradient(In gate, In up, In dy, View d_gate, View d_up) override {
    on_.gated_silu_gradient(near(gate), near(up), near(dy), near(d_gate), near(d_up));
  }
  void sigmoid_scale(In x, In scale, View y) override { on_.sigmoid_scale(near(x), near(scale), near(y)); }
  void sigmoid_scale_gradient_x(In scale, In dy, View dx) override {
    on_.sigmoid_scale_gradient_x(near(scale), near(dy), near(dx));
  }
  void sigmoid_scale_gradient_scale(In x, In scale, In dy, View d_scale) override {
    on_.sigmoid_scale_gradient_scale(near(x), near(scale), near(dy), near(d_scale));
  }
  void dropout_mask(const BlockPlace& place, double probability, std::uint64_t seed, View mask) override {
    on_.dropout_mask(place, probability, seed, near(mask));
  }
  void dropout(In x, In mask, double probability, View y) override {
    on_.dropout(near(x), near(mask), probability, near(y));
  }
  void rotary(In x, const RotaryShape& shape, View y) override { on_.rotary(near(x), shape, near(y)); }
  void rotary_gradient(In dy, const RotaryShape& shape, View dx) override {
    on_.rotary_gradient(near(dy), shape, near(dx));
  }
  void residual_sum(const std::vector<In>& terms, View y) override {
    std::vector<In> all;
    for (const In& term : terms) all.push_back(near(term));
    on_.residual_sum(all, near(y));
  }
  void scale_rows(In x, In scale, View y) override { on_.scale_rows(near(x), near(scale), near(y)); }
  void rms_norm(In x, In weight, View y, View normalised) override {
    on_.rms_norm(near(x), near(weight), near(y), near(normalised));
  }
  void layer_norm(In x, In weight, In bias, View y) override {
    on_.layer_norm(near(x), near(weight), near(bias), near(y));
  }
  void rms_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override {
    on_.rms_norm_gradient(near(x), near(weight), near(dy), near(d));
  }
  void layer_norm_gradient(In x, In weight, In dy, const NormGradientViews& d) override {
    on_.layer_norm_gradient(near(x), near(weight), near(dy), near(d));
  }
  void softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) override {
    on_.softmax(near(x), keys, seen, near(y));
  }
  void softmax_gradient(In y, In dy, std::int64_t keys, View dx) override {
    on_.softmax_gradient(near(y), near(dy), keys, near(dx));
  }
  void attention(const AttentionViews& in, const AttentionShape& shape, View o, View log_sum_exp) override {
    on_.attention(near(in), shape, near(o), near(log_sum_exp));
  }
  void attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& shape,
                          const AttentionGradientViews& d) override {
    AttentionGradientViews views{d.q, d.k, near(d.v), near(d.sinks)};
    for (View& view : views.q) view = near(view);
    for (View& view : views.k) view = near(view);
    on_.attention_gradient(near(in), near(o), near(log_sum_exp), near(d_o), shape, views);
  }
  void route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) override {
    on_.route(near(logits), experts, chosen, near(gate), near(mask));
  }
  void route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) override {
    on_.route_gradient(near(logits), near(d_gate), experts, chosen, near(d_logits));
  }
  std::vector<std::int64_t> rows_per_expert(In mask, std::int64_t experts) override {
    return on_.rows_per_expert(near(mask), experts);
  }
  void expert_rows(In mask, std::int64_t experts, View token_of_row) override {
    on_.expert_rows(near(mask), experts, near(token_of_row));
  }
  void grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed, View y) override {
    on_.grouped_contraction(near(x), near(b), rows_per_group, transposed, near(y));
  }
  void grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                    bool accumulate) override {
    on_.grouped_contraction_gradient(near(x), near(dy), rows_per_group, near(d_b), accumulate);
  }
  void gather(In ids, In table, std::int64_t first, View y) override {
    on_.gather(near(ids), near(table), first, near(y));
  }
  void gather_gradient(In ids, In dy, std::int64_t first, View d_table, bool accumulate) override {
    on_.gather_gradient(near(ids), near(dy), first, near(d_table), accumulate);
  }
  void vocabulary_max(In logits, std::int64_t columns, View largest) override {
    on_.vocabulary_max(near(logits), columns, near(largest));
  }
  void vocabulary_exp_sum(In logits, In largest, std::int64_t columns, View sum, View exponentials) override {
    on_.vocabulary_exp_sum(near(logits), near(largest), columns, near(sum), near(exponentials));
  }
  void vocabulary_exp_sum_gradient(In logits, In largest, In d_sum, std::int64_t columns, View d_logits) override {
    on_.vocabulary_exp_sum_gradient(near(logits), near(largest), near(d_sum), columns, near(d_logits));
  }
  void vocabulary_pick(In logits, In labels, std::int64_t columns, std::int64_t first, View picked) override {
    on_.vocabulary_pick(near(logits), near(labels), columns, first, near(picked));
  }
  void vocabulary_pick_gradient(In labels, In d_picked, std::int64_t columns, std::int64_t first,
                                View d_logits) override {
    on_.vocabulary_pick_gradient(near(labels), near(d_picked), columns, first, near(d_logits));
  }
  void cross_entropy(In largest, In exp_sum, In picked, std::int64_t all_tokens, View loss) override {
    on_.cross_entropy(near(largest), near(exp_sum), near(picked), all_tokens, near(loss));
  }
  void cross_entropy_gradient_exp_sum(In exp_sum, In d_loss, std::int64_t all_tokens, View d_sum) override {
    on_.cross_entropy_gradient_exp_sum(near(exp_sum), near(d_loss), all_tokens, near(d_sum));
  }
  void cross_entropy_gradient_picked(In d_loss, std::int64_t all_tokens, View d_picked) override {
    on_.cross_entropy_gradient_picked(near(d_loss), all_tokens, near(d_picked));
  }
  void adam_step(const AdamStep& step, In gradient, View weight, View first_moment, View second_moment,
                 View copy) override {
    on_.adam_step(step, near(gradient), near(weight), near(first_moment), near(second_moment), near(copy));
  }
  void square_sum(In x, View sum) override { on_.square_sum(near(x), near(sum)); }

 private:
  static Labelled near(const Labelled& x) { return {near(x.data), x.labels, x.extents}; }
  static NormGradientViews near(const NormGradientViews& d) { return {near(d.x), near(d.weight), near(d.bias)}; }
  static AttentionViews near(const AttentionViews& in) {
    AttentionViews views = in;
    for (ScoreViews& part : views.parts) part.q = near(part.q), part.k = near(part.k);
    views.v = near(in.v);
    views.sinks = near(in.sinks);
    return views;
  }

  Operators& on_;
};

/// Exchanges numbers of FarOperators, and those of the host, as NCCL's ranks do.
class FarCommunicator final : public Communicator {
 public:
  /// `operators`: of this rank.
  FarCommunicator(Communicator& on, Operators& operators) : on_(on), operators_(operators) {}
  FarCommunicator(std::unique_ptr<Communicator> on, Operators& operators)
      : owned_(std::move(on)), on_(*owned_), operators_(operators) {}

  std::string name() const override { return on_.name(); }
  int rank() const override { return on_.rank(); }
  int size() const override { return on_.size(); }
  void all_reduce(View data, Reduction reduction) override {
    if (!is_narrow(data.element)) return on_.all_reduce(reach(data), reduction);
    std::vector<double> numbers = operators_.download(data);
    on_.all_reduce(view_of(numbers), reduction);
    operators_.upload(numbers, data);
  }
  void all_gather(In part, View all) override { on_.all_gather(reach(part), reach(all)); }
  void reduce_scatter(In all, View part, Reduction reduction) override {
    if (!is_narrow(all.element)) return on_.reduce_scatter(reach(all), reach(part), reduction);
    std::vector<double> numbers = operators_.download(all), own(static_cast<std::size_t>(part.elements));
    on_.reduce_scatter(view_of(numbers), view_of(own), reduction);
    operators_.upload(own, part);
  }
  void all_to_all(In from, std::span<const std::int64_t> send, View to,
                  std::span<const std::int64_t> receive) override {
    on_.all_to_all(reach(from), send, reach(to), receive);
  }
  void broadcast(View data, int root) override { on_.broadcast(reach(data), root); }
  void barrier() override { on_.barrier(); }
  std::unique_ptr<Request> send(In data, int to, int tag) override { return on_.send(reach(data), to, tag); }
  std::unique_ptr<Request> receive(View data, int from, int tag) override {
    return on_.receive(reach(data), from, tag);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    return std::make_unique<FarCommunicator>(on_.split(colour), operators_);
  }

 private:
  /// Threads add up what the host has numbers of.
  static bool is_narrow(Element element) { return element == Element::bf16 || element == Element::fp16; }
  static View view_of(std::vector<double>& numbers) {
    return {numbers.data(), static_cast<std::int64_t>(numbers.size()), Element::fp64};
  }
  template <typename Numbers>
  static Numbers reach(const Numbers& data) {
    return is_far(data.data) ? FarOperators::near(data) : data;
  }
  std::unique_ptr<Communicator> owned_;
  Communicator& on_;
  Operators& operators_;
};

}  // namespace shardwright
