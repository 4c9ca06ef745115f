#include "planner/cost/node_cost.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "models/transformer.h"
#include "planner/shard/declare.h"
#include "tests/support/measured_machine.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

/// A layer's attention core as a layout has it.
class Core {
 public:
  Core(const Model& model, const GraphOptions& options, const Layout& layout, std::int64_t queries, std::int64_t keys)
      : graph_(model_graphs(model, options).layer_classes[0]), mesh_(std::get<Mesh>(stage_mesh(layout, model))) {
    extents_ = layout_extents(graph_, layout, keys);
    extents_[static_cast<std::size_t>(graph_.find_dim("sequence"))] = queries;
    sharded_ = shard(graph_, extents_, mesh_, declare(graph_, layout, mesh_));
  }
  AttentionSpec question(bool backward) const {
    return std::get<AttentionSpec>(node_question(context(), sharded_, node(backward)));
  }
  double times(bool backward) const { return times_asked(context(), sharded_, node(backward)); }
  Seconds communication(bool backward) const { return node_cost(context(), sharded_, node(backward)).communication; }

 private:
  CostContext context() const { return {graph_, extents_, mesh_, machine_, {}, graph_.find_dim("key_sequence")}; }
  const Node& node(bool backward) const {
    for (const Node& n : sharded_.nodes)
      if (n.kind == Node::Kind::compute && graph_.op(n.op).kind == OpKind::attention && (n.gradient >= 0) == backward)
        return n;
    FAIL("no attention");
    return sharded_.nodes[0];
  }

  OpGraph graph_;
  Mesh mesh_;
  Machine machine_ = wire_machine();
  std::vector<std::int64_t> extents_;
  ShardedGraph sharded_;
};

Layout of_tensor(int ranks) {
  Layout l;
  l.tensor = ranks;
  return l;
}

TEST_CASE("a ring asks for one of its blocks, as often as there are ranks") {
  Layout ring;
  ring.context = 4;
  ring.context_kind = ContextParallel::ring;
  const Core core(find_model("llama-3.1-70b"), {}, ring, 4096, 4096);
  CHECK(core.question(false) == AttentionSpec{.heads = 64, .kv_heads = 8, .query_length = 1024, .key_length = 1024});
  CHECK(core.times(false) == 4);
  // All blocks together are the work of the whole: a rank's queries times the visible half of all keys.
  CHECK(4 * core.question(false).work().value ==
        AttentionSpec{.heads = 64, .kv_heads = 8, .query_length = 1024, .key_length = 4096}.work().value);
  ring.context_kind = ContextParallel::all_gather;
  CHECK(Core(find_model("llama-3.1-70b"), {}, ring, 4096, 4096).times(false) == 1);
  SUBCASE("a window or a chunk lies evenly over the blocks") {
    ring.context_kind = ContextParallel::ring;
    Model m = find_model("llama-3.1-70b");
    m.sliding_window = 512;
    CHECK(Core(m, {}, ring, 4096, 4096).question(false).window == 128);
    m.sliding_window = 0;
    m.attention_chunk_size = 1024;
    const AttentionSpec chunked = Core(m, {}, ring, 4096, 4096).question(true);
    CHECK(chunked.key_length == 256);
    CHECK(chunked.query_length == 256);
    CHECK(chunked.batch == 4);
  }
}

constexpr GraphOptions kAbsorbed = {.absorbed_latent = true};

TEST_CASE("grouped heads ask for their share of query and key heads") {
  const Core core(find_model("llama-3.1-70b"), {}, of_tensor(4), 4096, 4096);
  CHECK(core.question(false) == AttentionSpec{.heads = 16, .kv_heads = 2, .query_length = 4096, .key_length = 4096});
}

TEST_CASE("latent attention asks for heads of 192 and values of 128, absorbed for heads of 576 on one latent") {
  const Model v3 = find_model("deepseek-v3");
  AttentionSpec expanded{
      .heads = 16, .kv_heads = 16, .query_length = 4096, .key_length = 4096, .head_dim = 128 + 64, .value_dim = 128};
  // The latent and the rotary key are whole on every rank of tp; its heads are not.
  AttentionSpec absorbed{.heads = 16,
                         .kv_heads = 1,
                         .query_length = 4096,
                         .key_length = 4096,
                         .head_dim = 512 + 64,
                         .value_dim = 512,
                         .values_in_keys = true};
  for (const bool backward : {false, true}) {
    expanded.backward = absorbed.backward = backward;
    CHECK(Core(v3, {}, of_tensor(8), 4096, 4096).question(backward) == expanded);
    CHECK(Core(v3, kAbsorbed, of_tensor(8), 4096, 4096).question(backward) == absorbed);
  }
}

TEST_CASE("one query against S keys takes 2 S a (kv_r + d_R) + 2 S a kv_r operations on the latent") {
  const std::int64_t S = 4989, a = 128, kv_r = 512, d_R = 64;
  const auto work = [&](const GraphOptions& options) {
    AttentionSpec spec = Core(find_model("deepseek-v3"), options, {}, 1, S).question(false);
    CHECK(spec.query_length == 1);
    CHECK(spec.key_length == S);
    spec.causal = false;  // the newest token sees all that are cached
    return spec.work().value;
  };
  CHECK(work(kAbsorbed) == static_cast<double>(2 * S * a * (kv_r + d_R) + 2 * S * a * kv_r));
  CHECK(work({}) == static_cast<double>(2 * S * a * (128 + d_R) + 2 * S * a * 128));
}

TEST_CASE("a ring passes the latent once, though it is keys and values") {
  Layout l;
  l.context = 4;
  l.context_kind = ContextParallel::ring;
  const Model v3 = find_model("deepseek-v3");
  // Seconds are bytes: three hops of a quarter of 4096 tokens, two bytes an element; in backward their gradients too.
  const double hops = 3, tokens = 1024;
  const Core absorbed(v3, kAbsorbed, l, 4096, 4096), expanded(v3, {}, l, 4096, 4096);
  CHECK(absorbed.communication(false).value == doctest::Approx(hops * tokens * 2 * 576));
  CHECK(absorbed.communication(true).value == doctest::Approx(2 * hops * tokens * 2 * 576));
  CHECK(expanded.communication(false).value == doctest::Approx(hops * tokens * 2 * 32'832));
}

/// A layer without parallelism, 64 tokens.
class OneLayer {
 public:
  OneLayer(const char* model, DataType compute, bool adds_gradients, MergedProducts merges = MergedProducts::none)
      : OneLayer(model, true) {
    formats_.compute = compute;
    adds_gradients_ = adds_gradients;
    merges_products_ = merges;
  }
  OneLayer(const char* model, bool fused_attention)
      : graph_(model_graphs(find_model(model), {.fused_attention = fused_attention}).layer_classes[0]),
        mesh_(std::get<Mesh>(stage_mesh({}, find_model(model)))) {
    extents_ = layout_extents(graph_, {}, 64);
    sharded_ = shard(graph_, extents_, mesh_, declare(graph_, {}, mesh_));
  }
  NodeQuestion question(const std::string& op, Phase phase) const {
    return node_question(context(), sharded_, node(op, phase));
  }
  std::int64_t cast_bytes(const std::string& op, Phase phase) const {
    return casts_of(context(), sharded_, node(op, phase)).moved.value;
  }
  std::int64_t swizzled_bytes(const std::string& op, Phase phase) const {
    return swizzled(context(), sharded_, node(op, phase)).moved.value;
  }
  NodeCost cost(const std::string& op, Phase phase) const { return node_cost(context(), sharded_, node(op, phase)); }
  KernelCost look_up_asked(const std::string& op, Phase phase) const {
    return std::visit([&](const auto& spec) { return look_up(spec, machine_); }, question(op, phase));
  }
  double times(const std::string& op, Phase phase) const { return times_asked(context(), sharded_, node(op, phase)); }
  void set_scaling(Scaling scaling) { formats_.scaling = scaling; }
  /// How often the sums of gradients ask, in the order of the graph.
  std::vector<double> sums() const {
    std::vector<double> all;
    for (const Node& n : sharded_.nodes)
      if (n.kind == Node::Kind::sum) all.push_back(times_asked(context(), sharded_, n));
    return all;
  }
  Seconds pass(std::int64_t bytes) const { return look_up(MemorySpec{{bytes}}, machine_).time; }

 private:
  CostContext context() const {
    return {graph_, extents_, mesh_,           machine_,        formats_, -1, graph_.find_dim("expert"),
            1,      {},       adds_gradients_, merges_products_};
  }
  const Node& node(const std::string& op, Phase phase) const {
    for (const Node& n : sharded_.nodes)
      if (n.kind == Node::Kind::compute && n.phase == phase && graph_.op(n.op).name == op) return n;
    FAIL("no operator " << op);
    return sharded_.nodes[0];
  }

  OpGraph graph_;
  Mesh mesh_;
  Machine machine_ = find_machine("h100-sxm-80gb");
  TrainingFormats formats_;
  bool adds_gradients_ = false;
  MergedProducts merges_products_ = MergedProducts::none;
  std::vector<std::int64_t> extents_;
  ShardedGraph sharded_;
};

TEST_CASE("what narrow products read is cast once, for both of its layouts") {
  const OneLayer layer("llama-3.1-8b", DataType::fp8, false);
  // 64 tokens of 4096, 2 bytes read and 1 + 1 written; k, v and the gate find what q and up cast.
  const std::int64_t hidden = 64 * 4096 * 4, wide = 64 * 14336 * 4;
  CHECK(layer.cast_bytes("q", Phase::forward) == hidden);
  CHECK(layer.cast_bytes("k", Phase::forward) == 0);
  CHECK(layer.cast_bytes("v", Phase::forward) == 0);
  CHECK(layer.cast_bytes("mlp_up", Phase::forward) == hidden);
  CHECK(layer.cast_bytes("mlp_gate", Phase::forward) == 0);
  CHECK(layer.cast_bytes("mlp_out", Phase::forward) == wide);
  // The gradient of the result is cast by the first of the two products that read it; the input is narrow already.
  CHECK(layer.cast_bytes("mlp_out", Phase::input_gradient) + layer.cast_bytes("mlp_out", Phase::weight_gradient) ==
        hidden);
  CHECK(layer.cast_bytes("mlp_up", Phase::input_gradient) + layer.cast_bytes("mlp_up", Phase::weight_gradient) == wide);
  CHECK(layer.cast_bytes("core_attention", Phase::forward) == 0);
  CHECK(OneLayer("llama-3.1-8b", DataType::bf16, false).cast_bytes("q", Phase::forward) == 0);
  const GemmSpec up{.m = 64, .n = 14336, .k = 4096, .type = DataType::fp8, .cast = false};
  CHECK(layer.question("mlp_up", Phase::forward) == NodeQuestion(up));
  CHECK(layer.cost("mlp_up", Phase::forward).compute.value ==
        doctest::Approx((layer.look_up_asked("mlp_up", Phase::forward).time + layer.pass(hidden)).value));
}

TEST_CASE("factors of blocks are brought into the tensor cores' order, a kernel an operand") {
  const OneLayer layer("llama-3.1-8b", DataType::mxfp8, false);
  // One for 32 of 64 x 4096 tokens and 14336 x 4096 weights: the mean of both operands, read and written.
  const std::int64_t factors = (64 * 4096 + 14336 * 4096) / 32;
  CHECK(layer.swizzled_bytes("mlp_up", Phase::forward) == factors);
  CHECK(OneLayer("llama-3.1-8b", DataType::nvfp4, false).swizzled_bytes("mlp_up", Phase::forward) == 2 * factors);
  CHECK(OneLayer("llama-3.1-8b", DataType::fp8, false).swizzled_bytes("mlp_up", Phase::forward) == 0);
  CHECK(layer.swizzled_bytes("core_attention", Phase::forward) == 0);
}

TEST_CASE("a causal softmax reads the triangle and writes the square") {
  const OneLayer layer("gpt3-175b", false);
  // 96 heads of 64 x 64 scores, 2 bytes each: half of one tensor read and one written; backward half of two.
  const std::int64_t scores = 96 * 64 * 64 * 2;
  CHECK(layer.question("softmax", Phase::forward) == NodeQuestion(MemorySpec{{scores / 2 + scores}}));
  CHECK(layer.question("softmax", Phase::input_gradient) == NodeQuestion(MemorySpec{{scores + scores}}));
}

TEST_CASE("fp8 products have the scales of their format, those of experts too, and casts the factors") {
  OneLayer layer("qwen3-30b-a3b", DataType::fp8, false);
  layer.set_scaling(Scaling::block);
  CHECK(std::get<GemmSpec>(layer.question("q", Phase::forward)).scaling == Scaling::block);
  CHECK(std::get<GemmSpec>(layer.question("router_logits", Phase::forward)).scaling == Scaling::tensor);
  CHECK(std::get<GroupedGemmSpec>(layer.question("expert_up", Phase::forward)).scaling == Scaling::block);
  CHECK(layer.cast_bytes("q", Phase::forward) == 64 * 2048 * 4 + 2 * 64 * 2048 / 128 * 4);
}

TEST_CASE("one kernel makes the products of an input with several weights, each is its share of it") {
  const OneLayer layer("llama-3.1-8b", DataType::bf16, false, MergedProducts::all),
      apart("llama-3.1-8b", DataType::bf16, false);
  const GemmSpec qkv{.m = 64, .n = 4096 + 2 * 1024, .k = 4096}, gate_up{.m = 64, .n = 2 * 14336, .k = 4096};
  for (const char* op : {"q", "k", "v"}) CHECK(layer.question(op, Phase::forward) == NodeQuestion(qkv));
  CHECK(layer.times("q", Phase::forward) == doctest::Approx(4. / 6));
  CHECK(layer.times("k", Phase::forward) == doctest::Approx(1. / 6));
  CHECK(layer.question("mlp_gate", Phase::forward) == NodeQuestion(gate_up));
  CHECK(layer.times("mlp_gate", Phase::forward) == 0.5);
  CHECK(layer.question("mlp_out", Phase::forward) == apart.question("mlp_out", Phase::forward));
  // The gradient of the input sums up over all weights, that of the weights has all their columns.
  CHECK(layer.question("k", Phase::input_gradient) == NodeQuestion(GemmSpec{.m = 64, .n = 4096, .k = 6144}));
  CHECK(layer.question("k", Phase::weight_gradient) == NodeQuestion(GemmSpec{.m = 6144, .n = 4096, .k = 64}));
  // Nothing is left to add of those two inputs' gradients.
  const auto idle = [](const std::vector<double>& sums) { return std::count(sums.begin(), sums.end(), 0.); };
  CHECK(idle(apart.sums()) == 0);
  CHECK(idle(layer.sums()) == 2);
}

TEST_CASE("a router multiplies in 16 bits where other products are narrow") {
  const OneLayer layer("qwen3-30b-a3b", DataType::fp8, false);
  CHECK(layer.question("router_logits", Phase::forward) == NodeQuestion(GemmSpec{.m = 64, .n = 128, .k = 2048}));
  CHECK(layer.cast_bytes("router_logits", Phase::forward) == 0);
}

TEST_CASE("products of weight gradients add to the accumulated ones, those of experts too") {
  const GemmSpec made{.m = 4096, .n = 14336, .k = 64};
  GemmSpec added = made;
  added.result = StoredType::fp32;
  added.accumulate = true;
  const auto question = [](bool adds) {
    return std::get<GemmSpec>(
        OneLayer("llama-3.1-8b", DataType::bf16, adds).question("mlp_up", Phase::weight_gradient));
  };
  const auto sorted = [](GemmSpec spec) {
    if (spec.m > spec.n) std::swap(spec.m, spec.n);
    return spec;
  };
  CHECK(sorted(question(false)) == made);
  CHECK(sorted(question(true)) == added);
  const OneLayer experts("qwen3-30b-a3b", DataType::fp8, true);
  const auto grouped = std::get<GroupedGemmSpec>(experts.question("expert_up", Phase::weight_gradient));
  CHECK(grouped.groups == 128);
  CHECK(grouped.k == 4);  // 64 tokens x 8 of 128 experts
  CHECK(grouped.result == StoredType::fp32);
  CHECK(grouped.accumulate);
  CHECK(!grouped.cast);
  CHECK(!std::get<GroupedGemmSpec>(experts.question("expert_up", Phase::forward)).accumulate);
}

}  // namespace
}  // namespace shardwright
