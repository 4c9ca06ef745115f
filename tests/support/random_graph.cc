#include "tests/support/random_graph.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <random>
#include <string>
#include <utility>
#include <variant>

namespace shardwright {
namespace {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(engine_() % n); }
  bool chance(double p) { return static_cast<double>(engine_() % 4096) < p * 4096; }
  template <typename T>
  const T& one_of(const std::vector<T>& from) {
    return from[below(from.size())];
  }
  template <typename T>
  void shuffle(std::vector<T>& v) {
    for (std::size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

DimList joined(const DimList& a, const DimList& b) {
  DimList result = a;
  for (DimId d : b) result.dims[result.count++] = d;
  return result;
}

/// Draws the operators. Activations have dims [batch, sequence, features...]; every one of them reaches the output.
class GraphDice {
 public:
  GraphDice(Dice& dice, OpGraph& graph, const std::vector<std::int64_t>& extents, bool tidy)
      : dice_(dice), g_(graph), extents_(extents), tidy_(tidy) {}

  void draw() {
    const DimList tokens = {dim("batch"), dim("sequence")};
    wide_ = {dim("batch"), dim("sequence"), dim("hidden")};
    if (dice_.chance(0.75)) {
      g_.stream_in = g_.add_tensor({"stream", wide_, TensorRole::activation, Width::compute, Combine::sum, 1, true});
      add(g_.stream_in);
    } else {
      const TensorId ids = index("token_ids", tokens);
      TensorId x = gather(ids, weight({dim("vocab"), dim("hidden")}), wide_);
      if (dice_.chance(0.5)) g_.mark_stream(x);
    }
    for (std::size_t n = 2 + dice_.below(5); n > 0; --n) step();
    finish();
  }

 private:
  struct Used {
    DimList in, out;
    TensorId weight;
  };

  DimId dim(const char* name) const { return static_cast<DimId>(g_.find_dim(name)); }
  DimList dims(TensorId t) const { return g_.tensor(t).dims; }  // a copy: tensors are added meanwhile
  Operand plain(TensorId t) const { return {t, dims(t)}; }
  Operand as_key(TensorId t) const { return as_key(plain(t)); }
  Operand as_key(Operand o) const {
    for (DimId& d : o.dims.dims)
      if (d == dim("sequence")) d = dim("key_sequence");
    return o;
  }
  void add(TensorId t) {
    pool_.push_back(t);
    read_.resize(g_.tensors().size(), false);
  }
  std::string name(const char* what) { return what + std::to_string(g_.tensors().size()); }
  TensorId weight(const DimList& of) {
    return g_.add_tensor({name("w"), of, TensorRole::weight, Width::compute, Combine::sum, 1, false});
  }
  TensorId index(const char* what, const DimList& of) {
    return g_.add_tensor({name(what), of, TensorRole::index, Width::compute, Combine::sum, 1, false});
  }
  TensorId op(Operator o, const DimList& out, std::vector<Gradient> gradients, Combine combine = Combine::sum) {
    o.name = name(name_of(o.kind).data());
    o.gradients = std::move(gradients);
    const TensorId y = g_.add_tensor({o.name, out, TensorRole::activation, Width::compute, combine, 1, false});
    o.outputs.insert(o.outputs.begin(), {y, out});
    add(y);
    for (const Operand& in : o.inputs) read_[static_cast<std::size_t>(in.tensor)] = true;
    g_.add_op(std::move(o));
    return y;
  }
  bool on_stream(TensorId x, double probability) { return dice_.chance(probability) && (!tidy_ || dims(x) == wide_); }
  Operator start(OpKind kind, std::vector<Operand> inputs) {
    Operator o;
    o.kind = kind;
    o.inputs = std::move(inputs);
    return o;
  }

  TensorId contract(Operand a, Operand b, const DimList& out) {
    Operator o = start(OpKind::contraction, {a, b});
    o.passes_partial = dice_.chance(0.3);
    return op(std::move(o), out, {{.of = {0}, .reads = {1}}, {.of = {1}, .reads = {0}}});
  }
  TensorId gather(TensorId ids, TensorId table, const DimList& out) {
    Operator o = start(OpKind::gather, {plain(ids), plain(table)});
    o.passes_partial = dice_.chance(0.5);
    return op(std::move(o), out, {{.of = {1}, .reads = {0}}});
  }
  TensorId linear(TensorId x, const DimList& lost, const DimList& shared, const DimList& made) {
    DimList out;
    for (DimId d : dims(x))
      if (!lost.has(d)) out.dims[out.count++] = d;
    out = joined(out, made);
    for (const Used& u : used_)
      if (u.in == dims(x) && u.out == out && dice_.chance(0.5)) return contract(plain(x), plain(u.weight), out);
    const TensorId w = weight(joined(joined(shared, lost), made));
    used_.push_back({dims(x), out, w});
    return contract(plain(x), plain(w), out);
  }

  // ---- what a step may be ----

  void step() {
    const TensorId x = pick();
    switch (dice_.below(14)) {
      case 0:
      case 1:
      case 2:
        return random_linear(x);
      case 3:
        elementwise(x);
        return;
      case 4:
        add_bias(x);
        return;
      case 5:
        norm(x, 1 + dice_.below(2));
        return;
      case 6:
        dropout(x);
        return;
      case 7:
        residual(x);
        return;
      case 8:
        return attention_unfused();
      case 9:
        return attention_fused();
      case 10:
        return attention_linear();
      case 11:
      case 12:
        return experts();
      default:
        return feed_forward();
    }
  }
  /// Rather what nobody reads yet.
  TensorId pick() {
    for (int attempt = 0; attempt < 2; ++attempt) {
      const TensorId t = dice_.one_of(pool_);
      if (!read_[static_cast<std::size_t>(t)]) return t;
    }
    return dice_.one_of(pool_);
  }
  TensorId pick_wide() {
    for (int attempt = 0; attempt < 8; ++attempt)
      if (const TensorId t = dice_.one_of(pool_); dims(t) == wide_) return t;
    return pool_.front();  // the first is wide
  }
  DimList features(TensorId t) const {
    DimList f;
    for (int i = 2; i < dims(t).size(); ++i) f.dims[f.count++] = dims(t)[i];
    return f;
  }

  std::int64_t extent(const DimList& of) const {
    std::int64_t n = 1;
    for (DimId d : of) n *= extents_[d];
    return n;
  }
  void random_linear(TensorId x) {
    const DimList f = features(x);
    DimList lost, shared, made;
    const std::size_t certain = dice_.below(static_cast<std::size_t>(f.size()));
    for (int i = 0; i < f.size(); ++i) {
      const bool goes = static_cast<std::size_t>(i) == certain || f.size() > 2 || dice_.chance(0.4);
      if (goes) {
        lost.dims[lost.count++] = f[i];
      } else if (dice_.chance(0.4)) {
        shared.dims[shared.count++] = f[i];
      }
    }
    std::vector<DimId> fresh;
    for (const char* n : {"hidden", "head", "head_dim", "ffn", "value_dim"})
      if (!f.has(dim(n))) fresh.push_back(dim(n));
    dice_.shuffle(fresh);
    constexpr std::int64_t kMostProducts = 60000;  // many graphs are run
    for (std::size_t n = 1 + dice_.below(2); n > 0 && !fresh.empty(); --n) {
      if (made.size() > 0 && extent(dims(x)) * extent(made) * extents_[fresh.back()] > kMostProducts) break;
      made.dims[made.count++] = fresh.back();
      fresh.pop_back();
    }
    linear(x, lost, shared, made);
  }
  void elementwise(TensorId x) {
    std::vector<TensorId> alike;
    for (TensorId t : pool_)
      if (t != x && dims(t) == dims(x)) alike.push_back(t);
    if (!alike.empty() && dice_.chance(0.7)) {
      op(start(OpKind::gated_silu, {plain(x), plain(dice_.one_of(alike))}), dims(x), {{.of = {0, 1}, .reads = {0, 1}}});
    } else if (!rotary(x)) {
      op(start(OpKind::gelu, {plain(x)}), dims(x), {{.of = {0}, .reads = {0}}});
    }
  }
  /// -1 when the last dimension cannot be turned in pairs.
  TensorId rotary_of(TensorId x) {
    Operator o = start(OpKind::rotary, {plain(x)});
    o.whole = {dims(x)[dims(x).size() - 1]};
    o.passes_partial = dice_.chance(0.3);
    return op(std::move(o), dims(x), {{.of = {0}}});
  }
  bool rotary(TensorId x) {
    if (extents_[dims(x)[dims(x).size() - 1]] % 2 != 0 || dims(x).size() < 3) return false;
    rotary_of(x);
    return true;
  }
  void add_bias(TensorId x) {
    Operator o = start(OpKind::add_bias, {plain(x)});
    o.on_stream = on_stream(x, 0.3);
    DimList over;
    if (dims(x) == wide_ && dice_.chance(0.4)) {  // learned positions
      const TensorId rows = gather(index("position_ids", {dim("sequence")}), weight({dim("position"), dim("hidden")}),
                                   {dim("sequence"), dim("hidden")});
      pool_.pop_back();
      o.inputs.push_back(plain(rows));
    } else {
      const int n = std::min<int>(dims(x).size() - 2, 1 + static_cast<int>(dice_.below(2)));
      for (int i = dims(x).size() - n; i < dims(x).size(); ++i) over.dims[over.count++] = dims(x)[i];
      o.inputs.push_back(plain(weight(over)));
    }
    op(std::move(o), dims(x), {{.of = {0}, .identity = true}, {.of = {1}}});
  }
  TensorId norm(TensorId x, std::size_t last) { return norm(x, last, dice_.chance(0.4)); }
  TensorId norm(TensorId x, std::size_t last, bool layer) {
    Operator o = start(layer ? OpKind::layer_norm : OpKind::rms_norm, {plain(x)});
    const int n = std::min<int>(dims(x).size() - 2, static_cast<int>(last));
    for (int i = dims(x).size() - n; i < dims(x).size(); ++i) o.whole.dims[o.whole.count++] = dims(x)[i];
    Gradient gradient = {.of = {0, 1}, .reads = {0, 1}};
    o.inputs.push_back(plain(weight(o.whole)));
    if (layer) {
      o.inputs.push_back(plain(weight(o.whole)));
      gradient.of.push_back(2);
    }
    return op(std::move(o), dims(x), {gradient});
  }
  TensorId dropout(TensorId x) {
    Operator o = start(OpKind::dropout, {plain(x)});
    o.on_stream = on_stream(x, 0.3);
    const TensorId mask =
        g_.add_tensor({name("mask"), dims(x), TensorRole::activation, Width::byte, Combine::sum, 1, false});
    o.outputs.push_back(plain(mask));
    return op(std::move(o), dims(x), {{.of = {0}, .reads = {2}}});
  }
  TensorId residual_of(std::vector<TensorId> terms) {
    Operator o = start(OpKind::residual_sum, {});
    o.on_stream = on_stream(terms[0], 0.5);
    Gradient gradient = {.of = {}, .identity = true};
    for (TensorId t : terms) {
      gradient.of.push_back(static_cast<int>(o.inputs.size()));
      o.inputs.push_back(plain(t));
    }
    const TensorId y = op(std::move(o), dims(terms[0]), {gradient});
    if (g_.ops().back().on_stream && dims(y) == wide_ && dice_.chance(0.5)) g_.mark_stream(y);
    return y;
  }
  void residual(TensorId x) {
    std::vector<TensorId> terms = {x}, alike;
    for (TensorId t : pool_)
      if (dims(t) == dims(x)) alike.push_back(t);
    for (std::size_t n = 1 + dice_.below(2); n > 0; --n) terms.push_back(dice_.one_of(alike));
    residual_of(terms);
  }
  /// Keys have no bias: softmax would not feel it, and its gradient would be zero.
  struct Heads {
    TensorId q, k, v;
  };
  Heads heads(bool grouped) {
    const DimList key = {dim("head"), dim("head_dim")}, value = {dim("head"), dim("value_dim")};
    const DimList query = grouped ? DimList{dim("head"), dim("group"), dim("head_dim")} : key;
    const TensorId x = pick_wide();
    Heads h = {linear(x, {dim("hidden")}, {}, query), linear(x, {dim("hidden")}, {}, key),
               linear(x, {dim("hidden")}, {}, value)};
    if (dice_.chance(0.3)) {
      h.q = norm(h.q, 1, false);
      h.k = norm(h.k, 1, false);
    }
    if (extents_[dim("head_dim")] % 2 == 0 && dice_.chance(0.5)) {
      h.q = rotary_of(h.q);
      h.k = rotary_of(h.k);
    }
    return h;
  }
  void attention_unfused() {
    const Heads h = heads(false);
    const DimList scores = {dim("batch"), dim("sequence"), dim("head"), dim("key_sequence")};
    TensorId p = contract(plain(h.q), as_key(h.k), scores);
    Operator o = start(OpKind::softmax, {plain(p)});
    o.whole = {dim("key_sequence")};
    p = op(std::move(o), scores, {{.of = {0}, .reads = {1}}});
    if (dice_.chance(0.3)) p = dropout(p);
    contract(plain(p), as_key(h.v), {dim("batch"), dim("sequence"), dim("head"), dim("value_dim")});
    pool_.erase(std::remove_if(pool_.begin(), pool_.end(), [&](TensorId t) { return dims(t) == scores; }), pool_.end());
  }
  void attention_fused() {
    const Heads h = heads(true);
    DimId value = dim("value_dim");
    Operator o = start(OpKind::attention, {plain(h.q), as_key(h.k), as_key(h.v)});
    if (dice_.chance(0.3)) {  // one latent is keys and values of all heads
      value = dim("latent_value");
      const TensorId latent = linear(pick_wide(), {dim("hidden")}, {}, {dim("head_dim")});
      o.inputs[1] = as_key(latent);
      o.inputs[2] = as_key(Operand{latent, {dim("batch"), dim("sequence"), value}});
      o.score_width = 2;
    }
    o.whole = {dim("key_sequence"), dim("head_dim"), value};
    o.window = dice_.chance(0.3) ? 2 : 0;
    const DimList rows = {dim("batch"), dim("sequence"), dim("head"), dim("group")};
    const TensorId lse =
        g_.add_tensor({name("log_sum_exp"), rows, TensorRole::activation, Width::fp32, Combine::sum, 1, false});
    o.outputs.push_back(plain(lse));
    op(std::move(o), joined(rows, {value}), {{.of = {0, 1, 2}, .reads = {0, 1, 2, 3, 4}}});
  }
  /// Without softmax: keys and values are summed over the sequence first, which leaves a partial sum where it is cut.
  void attention_linear() {
    const Heads h = heads(false);
    const TensorId state =
        contract(plain(h.k), plain(h.v), {dim("batch"), dim("head"), dim("head_dim"), dim("value_dim")});
    pool_.pop_back();
    contract(plain(h.q), plain(state), {dim("batch"), dim("sequence"), dim("head"), dim("value_dim")});
  }
  void feed_forward() {
    const TensorId x = pick_wide();
    const TensorId gate = linear(x, {dim("hidden")}, {}, {dim("ffn")}),
                   up = linear(x, {dim("hidden")}, {}, {dim("ffn")});
    const TensorId y =
        op(start(OpKind::gated_silu, {plain(gate), plain(up)}), dims(up), {{.of = {0, 1}, .reads = {0, 1}}});
    residual_of({x, linear(y, {dim("ffn")}, {}, {dim("hidden")})});
  }

  /// Two of all experts for each token. What is made of their rows is read here only.
  void experts() {
    const std::size_t before = pool_.size();
    const TensorId x = pick_wide(), logits = linear(x, {dim("hidden")}, {}, {dim("expert")});
    const double density = 2.0 / static_cast<double>(extents_[dim("expert")]);
    const TensorId mask =
        g_.add_tensor({name("mask"), dims(logits), TensorRole::activation, Width::byte, Combine::sum, density, false});
    Operator choose = start(OpKind::route, {plain(logits)});
    choose.whole = {dim("expert")};
    choose.outputs = {plain(mask)};
    const TensorId gate = op(std::move(choose), dims(logits), {{.of = {0}, .reads = {0}}});
    g_.set_density(gate, density);
    const auto rows_of = [&](const char* width) {
      return DimList{dim("expert"), dim("batch"), dim("sequence"), dim(width)};
    };
    Operator send = start(OpKind::dispatch, {plain(mask), plain(x)});
    send.passes_partial = dice_.chance(0.7);
    const TensorId rows = op(std::move(send), rows_of("hidden"), {{.of = {1}, .reads = {0}}});
    const bool gated_early = dice_.chance(0.4);
    TensorId y =
        contract(plain(rows), plain(weight({dim("expert"), dim("hidden"), dim("expert_ffn")})), rows_of("expert_ffn"));
    if (dice_.chance(0.5)) {
      Operator add = start(OpKind::add_bias, {plain(y), plain(weight({dim("expert"), dim("expert_ffn")}))});
      y = op(std::move(add), dims(y), {{.of = {0}, .identity = true}, {.of = {1}}});
    }
    y = op(start(OpKind::gelu, {plain(y)}), dims(y), {{.of = {0}, .reads = {0}}});
    if (gated_early) y = contract(plain(y), plain(gate), dims(y));
    y = contract(plain(y), plain(weight({dim("expert"), dim("expert_ffn"), dim("hidden")})), rows_of("hidden"));
    Operator back = start(OpKind::combine, {plain(gated_early ? mask : gate), plain(y)});
    back.passes_partial = dice_.chance(0.7);
    std::vector<Gradient> gradients = {{.of = {1}, .reads = {0}}};
    if (!gated_early) gradients.push_back({.of = {0}, .reads = {1}});
    y = op(std::move(back), wide_, gradients);
    pool_.resize(before);
    if (dice_.chance(0.4)) {
      const TensorId scale = linear(y, {dim("hidden")}, {}, {});
      Operator scaled = start(OpKind::sigmoid_scale, {plain(y), plain(scale)});
      scaled.passes_partial = dice_.chance(0.5);
      scaled.resolved = 1 << 1;
      y = op(std::move(scaled), wide_, {{.of = {0}, .reads = {1}}, {.of = {1}, .reads = {0, 1}}});
      pool_.resize(before);
    }
    pool_.push_back(y);
  }

  // ---- the end ----

  /// Everything that nobody reads becomes wide, and the sum of it the output or the loss.
  void finish() {
    std::vector<TensorId> ends;
    for (TensorId t : std::vector<TensorId>(pool_)) {
      if (read_[static_cast<std::size_t>(t)]) continue;
      if (dims(t) == wide_) {
        ends.push_back(t);
        continue;
      }
      DimList lost, kept;
      for (DimId d : features(t)) {
        DimList& to = d == dim("hidden") ? kept : lost;
        to.dims[to.count++] = d;
      }
      ends.push_back(linear(t, lost, {}, kept.size() ? DimList{} : DimList{dim("hidden")}));
      // A linear drops `hidden` where it stood; put it last by summing nothing: dims already end with it or are wide.
    }
    TensorId y = ends.size() > 1 ? residual_of(ends) : ends[0];
    if (y == g_.stream_in) y = linear_back(y);
    if (dice_.chance(0.4)) return loss(y);
    g_.stream_out = y;
  }
  TensorId linear_back(TensorId x) {
    return linear(linear(x, {dim("hidden")}, {}, {dim("ffn")}), {dim("ffn")}, {}, {dim("hidden")});
  }
  void loss(TensorId x) {
    const DimList tokens = {dim("batch"), dim("sequence")}, row = joined(tokens, {dim("vocab")});
    TensorId logits = linear(x, {dim("hidden")}, {}, {dim("vocab")});
    const TensorId offset =
        g_.add_tensor({"logit_offset", {dim("vocab")}, TensorRole::weight, Width::compute, Combine::sum, 1, false});
    logits =
        op(start(OpKind::add_bias, {plain(logits), plain(offset)}), row, {{.of = {0}, .identity = true}, {.of = {1}}});
    const TensorId labels = index("labels", tokens);
    const TensorId largest = op(start(OpKind::vocabulary_max, {plain(logits)}), tokens, {}, Combine::max);
    const TensorId sum =
        op(start(OpKind::vocabulary_exp_sum, {plain(logits), plain(largest)}), tokens, {{.of = {0}, .reads = {0, 1}}});
    const TensorId picked = op(start(OpKind::vocabulary_pick, {plain(logits), plain(labels)}), tokens,
                               {{.of = {0}, .reads = {1}, .one_hot = true}});
    op(start(OpKind::cross_entropy, {plain(largest), plain(sum), plain(picked)}), {},
       {{.of = {1}, .reads = {1}}, {.of = {2}, .reads = {1}}});
  }

  Dice& dice_;
  OpGraph& g_;
  const std::vector<std::int64_t>& extents_;
  bool tidy_;
  DimList wide_;
  std::vector<TensorId> pool_;
  std::vector<char> read_;  // by tensor
  std::vector<Used> used_;
};

struct DimSpec {
  const char* name;
  std::int64_t prime;     // what is left when all axes cut it
  std::int64_t most = 3;  // ranks that may share it
};

const std::vector<std::vector<std::int64_t>> kMeshes = {{2, 2},    {2, 3},    {3, 2},    {2, 5},    {5, 2},      {3, 3},
                                                        {2, 2, 2}, {2, 2, 3}, {3, 2, 2}, {2, 3, 2}, {2, 2, 2, 2}};

class CaseDice {
 public:
  CaseDice(std::uint64_t seed, bool tidy) : dice_(seed), tidy_(tidy) {}

  RandomCase draw() {
    RandomCase c;
    draw_mesh(c);
    do draw_dims(c);
    while (!distinct(c));
    GraphDice(dice_, c.graph, c.extents, tidy_).draw();
    tidy_ ? declare_tidy(c) : declare_wild(c);
    declare_storage(c);
    return c;
  }

 private:
  void draw_mesh(RandomCase& c) {
    const auto& sizes = dice_.one_of(kMeshes);
    Mesh::View view;
    for (std::size_t i = 0; i < sizes.size(); ++i) view.push_back({"axis" + std::to_string(i), sizes[i]});
    c.mesh = std::get<Mesh>(Mesh::refine({view}));
  }
  /// Extent = sizes of the axes that may cut the dimension x a prime of its own.
  void draw_dims(RandomCase& c) {
    std::vector<std::int64_t> primes = {3, 5, 7};
    dice_.shuffle(primes);
    const DimSpec specs[] = {{"batch", 2},
                             {"sequence", primes[0]},
                             {"key_sequence", primes[0]},
                             {"hidden", primes[1]},
                             {"head", 1, 4},
                             {"group", 1, 3},
                             {"head_dim", primes[2], 2},
                             {"value_dim", 13, 2},
                             {"ffn", 11, 4},
                             {"vocab", 17, 4},
                             {"position", 19, 4},
                             {"expert", 4, 4},
                             {"expert_ffn", 9},
                             {"latent_value", primes[2], 2}};
    c.graph = {};
    c.extents.clear();
    allowed_.clear();
    for (const DimSpec& spec : specs) {
      AxisSet allowed = 0;
      std::int64_t parts = 1;
      const std::string name = spec.name;
      for (std::size_t a = 0; a < c.mesh.axes().size(); ++a) {
        if (parts * c.mesh.axes()[a].size > spec.most || !dice_.chance(0.6)) continue;
        parts *= c.mesh.axes()[a].size;
        allowed = static_cast<AxisSet>(allowed | bit(static_cast<AxisId>(a)));
      }
      if (name == "key_sequence") {  // the sequence under another name
        allowed = allowed_.back();
        parts = c.mesh.size_of(allowed);
      }
      if (name == "latent_value") {  // and a head's width
        const auto width = static_cast<std::size_t>(c.graph.find_dim("head_dim"));
        allowed = allowed_[width];
        parts = c.extents[width] / spec.prime;
      }
      std::int64_t extent = parts * spec.prime;
      if (extent == 1) extent = name == "head" ? 3 : 2;  // heads have no prime of their own
      if (name == "head_dim" && extent % 2 != 0 && dice_.chance(0.5)) extent *= 2;
      allowed_.push_back(allowed);
      c.extents.push_back(extent);
      c.graph.add_dim(name, extent);
    }
  }
  static bool distinct(const RandomCase& c) {
    for (std::size_t i = 0; i < c.extents.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (c.extents[i] == c.extents[j] && c.graph.dims()[i].name != "key_sequence" &&
            c.graph.dims()[i].name != "latent_value")
          return false;
    return true;
  }

  AxisTuple tuple(std::vector<AxisId> axes) {
    dice_.shuffle(axes);
    AxisTuple t;
    for (AxisId a : axes) t.push_back(a);
    return t;
  }
  /// Gives each axis to one of `dims` that it may cut, or to none.
  std::vector<AxisTuple> spread(const RandomCase& c, const std::vector<DimId>& dims, double probability) {
    std::vector<std::vector<AxisId>> of(c.extents.size());
    for (std::size_t a = 0; a < c.mesh.axes().size(); ++a) {
      std::vector<DimId> may;
      for (DimId d : dims)
        if (allowed_[d] >> a & 1) may.push_back(d);
      if (!may.empty() && dice_.chance(probability)) of[dice_.one_of(may)].push_back(static_cast<AxisId>(a));
    }
    std::vector<AxisTuple> result;
    for (auto& axes : of) result.push_back(tuple(axes));
    return result;
  }

  static void pin_ring(RandomCase& c, OpId op, const AxisTuple& axes) {
    for (const char* name : {"sequence", "key_sequence"})
      c.says.pins.push_back({op, static_cast<DimId>(c.graph.find_dim(name)), axes, true});
  }

  void declare_wild(RandomCase& c) {
    Declarations& says = c.says;
    std::vector<DimId> some;
    for (std::size_t d = 0; d < c.extents.size(); ++d)
      if (c.graph.dims()[d].name != "key_sequence" && (d < 2 || dice_.chance(0.3)))
        some.push_back(static_cast<DimId>(d));
    says.home = spread(c, some, 0.7);
    const auto hidden = static_cast<DimId>(c.graph.find_dim("hidden"));
    says.stream = spread(c, {0, 1, hidden}, 0.7);
    says.weight_use.resize(c.graph.tensors().size());
    for (std::size_t i = 0; i < c.graph.tensors().size(); ++i) {
      const Tensor& t = c.graph.tensors()[i];
      if (t.role != TensorRole::weight) continue;
      std::vector<DimId> may;
      for (DimId d : t.dims)
        if (!needs_whole(c.graph, static_cast<TensorId>(i), d)) may.push_back(d);
      const auto axes = spread(c, may, 0.5);
      for (int k = 0; k < t.dims.size(); ++k) says.weight_use[i].dims[k] = axes[t.dims[k]];
    }
    for (std::size_t i = 0; i < c.graph.ops().size(); ++i) {
      if (!dice_.chance(0.15)) continue;
      const DimList& out = c.graph.ops()[i].outputs[0].dims;
      if (out.size() == 0) continue;
      const DimId d = out[static_cast<int>(dice_.below(static_cast<std::size_t>(out.size())))];
      says.pins.push_back({static_cast<OpId>(i), d, spread(c, {d}, 0.5)[d]});
    }
    const auto expert = static_cast<DimId>(c.graph.find_dim("expert"));
    for (std::size_t i = 0; i < c.graph.ops().size(); ++i) {
      const OpKind kind = c.graph.ops()[i].kind;
      if ((kind == OpKind::dispatch || kind == OpKind::combine) && dice_.chance(0.4))
        says.pins.push_back({static_cast<OpId>(i), expert, spread(c, {expert}, 0.6)[expert], true});
      if (kind == OpKind::attention && dice_.chance(0.4)) pin_ring(c, static_cast<OpId>(i), spread(c, {1}, 0.8)[1]);
    }
    says.shard_axes.assign(c.graph.tensors().size(),
                           static_cast<AxisSet>(dice_.below(std::size_t{1} << c.mesh.axes().size())));
  }
  /// As layouts do: some axes are for tokens, the others cut features, one way everywhere; the stream's tokens are cut
  /// at least as home says, and state is cut over axes of tokens.
  void declare_tidy(RandomCase& c) {
    Declarations& says = c.says;
    AxisSet of_tokens = 0;
    says.home = spread(c, {0, 1}, 0.5);
    for (const AxisTuple& t : says.home) of_tokens = static_cast<AxisSet>(of_tokens | set_of(t));
    std::vector<AxisTuple> of_feature(c.extents.size());
    const auto expert = static_cast<std::size_t>(c.graph.find_dim("expert"));
    for (std::size_t d = 3; d < c.extents.size(); ++d) {
      std::vector<AxisId> axes;
      for (std::size_t a = 0; a < c.mesh.axes().size(); ++a)
        if (((d == expert ? allowed_[d] : allowed_[d] & ~of_tokens) >> a & 1) && dice_.chance(0.7))
          axes.push_back(static_cast<AxisId>(a));
      of_feature[d] = tuple(axes);
    }
    says.stream = says.home;
    const auto hidden = static_cast<std::size_t>(c.graph.find_dim("hidden"));
    says.stream[hidden] = of_feature[hidden];
    const auto more = spread(c, {0, 1}, 0.5);
    for (std::size_t d = 0; d < more.size(); ++d)
      for (AxisId a : more[d])
        if (!((of_tokens | set_of(of_feature[hidden])) & bit(a))) says.stream[d].push_back(a);
    says.weight_use.resize(c.graph.tensors().size());
    for (std::size_t i = 0; i < c.graph.tensors().size(); ++i) {
      const Tensor& t = c.graph.tensors()[i];
      AxisSet taken = 0;
      for (int k = 0; t.role == TensorRole::weight && k < t.dims.size(); ++k) {
        if (needs_whole(c.graph, static_cast<TensorId>(i), t.dims[k])) continue;
        if (t.dims[k] == expert && k > 0) continue;  // a router's
        for (AxisId a : of_feature[t.dims[k]]) {
          if (taken & bit(a)) break;
          says.weight_use[i].dims[k].push_back(a);
          taken = static_cast<AxisSet>(taken | bit(a));
        }
      }
    }
    AxisSet anywhere = of_tokens;
    for (const AxisTuple& t : says.stream) anywhere = static_cast<AxisSet>(anywhere | set_of(t));
    pin_tidy(c, of_feature[expert], anywhere);
    says.shard_axes.assign(c.graph.tensors().size(),
                           static_cast<AxisSet>(of_tokens & dice_.below(std::size_t{1} << c.mesh.axes().size())));
  }
  /// Axes that tokens do not have may cut the rows before they are sent; rings go over the tokens'.
  void pin_tidy(RandomCase& c, const AxisTuple& experts, AxisSet of_tokens) {
    AxisTuple replicating;
    for (int i = 0; i < experts.size() && !(of_tokens & bit(experts[i])); ++i) replicating.push_back(experts[i]);
    const bool pinned = dice_.chance(0.5), ring = dice_.chance(0.4);
    for (std::size_t i = 0; i < c.graph.ops().size(); ++i) {
      const OpKind kind = c.graph.ops()[i].kind;
      const auto id = static_cast<OpId>(i);
      if (pinned && (kind == OpKind::dispatch || kind == OpKind::combine))
        c.says.pins.push_back({id, static_cast<DimId>(c.graph.find_dim("expert")), replicating, true});
      if (ring && kind == OpKind::attention) pin_ring(c, id, c.says.home[1]);
    }
  }
  void declare_storage(RandomCase& c) {
    Declarations& says = c.says;
    says.gather_again = dice_.chance(0.5);
    says.merge_sums = dice_.chance(0.7);
    const int stages[] = {0, 1, 3};
    says.zero = stages[dice_.below(3)];
    if (says.zero == 0) says.shard_axes.assign(c.graph.tensors().size(), 0);
    says.keep_parameters = dice_.chance(0.3);
  }
  static bool needs_whole(const OpGraph& graph, TensorId weight, DimId d) {
    for (const Operator& op : graph.ops())
      for (const Operand& in : op.inputs)
        if (in.tensor == weight && op.whole.has(d)) return true;
    return false;
  }

  Dice dice_;
  bool tidy_;
  std::vector<AxisSet> allowed_;  // by dim: axes that may cut it
};

}  // namespace

RandomCase random_case(std::uint64_t seed, bool tidy) { return CaseDice(seed, tidy).draw(); }

}  // namespace shardwright
