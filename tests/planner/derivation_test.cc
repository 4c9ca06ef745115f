// The collectives that follow from published layouts, in kind, ranks and bytes: the formulas of Megatron-LM (Narayanan
// et al. 2021), sequence parallelism (Korthikanti et al. 2022) and ZeRO (Rajbhandari et al. 2020), on real shapes.
// Sizes are elements held as nccl-tests counts them: all-reduce its buffer, all-gather its result, reduce-scatter its
// input.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/transformer.h"
#include "planner/shard/declare.h"
#include "planner/shard/shard.h"

template <>
struct doctest::StringMaker<std::vector<std::string>> {
  static String convert(const std::vector<std::string>& lines) {
    std::string all;
    for (const std::string& l : lines) all += "\n    " + l;
    return all.c_str();
  }
};

namespace shardwright {
namespace {

// Llama-3.1-70B, one micro-batch of 2 sequences.
constexpr std::int64_t b = 2, s = 4096, h = 8192, h_kv = 1024, f = 28672, v = 128256;

Model llama() {
  Model m;
  m.name = "llama-3.1-70b";
  m.num_hidden_layers = 80;
  m.hidden_size = h;
  m.num_attention_heads = 64;
  m.num_key_value_heads = 8;
  m.head_dim = 128;
  m.intermediate_size = f;
  m.vocab_size = v;
  return m;
}

Layout layout(int tp, bool sequence_parallel, int cp = 1, int dp = 1, int zero = 0, int shard_group = 1) {
  Layout l;
  l.tensor = tp;
  l.sequence_parallel = sequence_parallel;
  l.context = cp;
  l.data = dp;
  l.zero = zero;
  l.shard_group = shard_group;
  l.micro_batch = static_cast<int>(b);
  return l;
}

/// "all_reduce 8: 67108864": kind, ranks, elements held.
std::string line(const char* kind, std::int64_t ranks, std::int64_t elements) {
  return std::string(kind) + " " + std::to_string(ranks) + ": " + std::to_string(elements);
}
std::string all_reduce(std::int64_t ranks, std::int64_t elements) { return line("all_reduce", ranks, elements); }
std::string all_gather(std::int64_t ranks, std::int64_t elements) { return line("all_gather", ranks, elements); }
std::string reduce_scatter(std::int64_t ranks, std::int64_t elements) {
  return line("reduce_scatter", ranks, elements);
}

using Lines = std::vector<std::string>;

Lines sorted(Lines lines) {
  std::sort(lines.begin(), lines.end());
  return lines;
}

struct Derived {
  OpGraph graph;
  Mesh mesh;
  ShardedGraph sharded;

  Lines lines(const ReshardSteps& steps) const {
    Lines result;
    for (int i = 0; i < steps.count; ++i) {
      const auto& step = steps.steps[i];
      if (step.kind == ReshardStep::slice) continue;
      result.push_back(line(std::string(name_of(step.kind)).c_str(), mesh.size_of(step.axes), step.held_elements));
    }
    return result;
  }
  Lines between(std::size_t first, std::size_t end, Node::Kind kind) const {
    Lines result;
    for (std::size_t i = first; i < end; ++i) {
      if (sharded.nodes[i].kind != kind) continue;
      for (const std::string& l : lines(sharded.nodes[i].steps)) result.push_back(l);
    }
    return result;
  }
  Lines forward(Node::Kind kind = Node::Kind::reshard) const { return between(0, sharded.forward_nodes, kind); }
  Lines backward(Node::Kind kind = Node::Kind::reshard) const {
    return between(sharded.forward_nodes, sharded.nodes.size(), kind);
  }
  const WeightState& weight(const char* name) const {
    const TensorId t = graph.find_tensor(name);
    for (const WeightState& w : sharded.weights)
      if (w.tensor == t) return w;
    FAIL("no weight '", name, "'");
    return sharded.weights[0];
  }
  Lines step(const char* name) const { return lines(weight(name).reduction); }
};

enum class Part { embedding, layer, head };

struct Choices {
  bool gather_again = true, merge_sums = true, keep_parameters = false, early_gate = false, absorbed_latent = false;
  double fullest_experts = 1;  // of the ranks of ep, over their mean
};

Derived derive(const Model& model, const Layout& l, Part part = Part::layer, Choices choices = {}) {
  ModelGraphs graphs =
      model_graphs(model, {.early_gate = choices.early_gate, .absorbed_latent = choices.absorbed_latent});
  Derived d = {part == Part::embedding ? graphs.embedding
               : part == Part::head    ? graphs.head
                                       : graphs.layer_classes[0],
               {},
               {}};
  d.mesh = std::get<Mesh>(stage_mesh(l, model));
  Declarations says = declare(d.graph, l, d.mesh);
  says.gather_again = choices.gather_again;
  says.merge_sums = choices.merge_sums;
  says.keep_parameters = choices.keep_parameters;
  says.fullest.assign(d.graph.dims().size(), 1);
  says.fullest[static_cast<std::size_t>(d.graph.find_dim("expert"))] = choices.fullest_experts;
  d.sharded = shard(d.graph, layout_extents(d.graph, l, s), d.mesh, says);
  return d;
}

constexpr auto kParameters = Node::Kind::gather_parameter;

TEST_CASE("one rank moves nothing") {
  const Derived d = derive(llama(), layout(1, false));
  CHECK(d.forward() == Lines{});
  CHECK(d.backward() == Lines{});
  for (const WeightState& w : d.sharded.weights) CHECK(w.reduction.count == 0);
}

TEST_CASE("tensor parallelism: two all-reduces of b s h in forward and two in backward") {
  const Derived d = derive(llama(), layout(8, false));
  CHECK(d.forward() == Lines{all_reduce(8, b * s * h), all_reduce(8, b * s * h)});
  CHECK(d.backward() == Lines{all_reduce(8, b * s * h), all_reduce(8, b * s * h)});
  for (const WeightState& w : d.sharded.weights) CHECK(w.reduction.count == 0);
}

TEST_CASE("GPT-3 with biases and layer norms moves the same") {
  Model gpt = llama();
  gpt.hidden_size = 12288;
  gpt.num_attention_heads = gpt.num_key_value_heads = 96;
  gpt.intermediate_size = 4 * 12288;
  gpt.gated_mlp = false;
  gpt.norm = Norm::layernorm;
  gpt.position = Position::learned;
  gpt.attention_bias = gpt.attention_output_bias = gpt.mlp_bias = true;
  gpt.max_position_embeddings = s;
  const Derived d = derive(gpt, layout(8, false));
  CHECK(d.forward() == Lines{all_reduce(8, b * s * 12288), all_reduce(8, b * s * 12288)});
  CHECK(d.backward() == Lines{all_reduce(8, b * s * 12288), all_reduce(8, b * s * 12288)});
  // Row-parallel biases are added after the reduction, on every rank alike: their gradient needs no sum without
  // sequence parallelism, and one over tp with it.
  CHECK(d.step("o_proj.bias") == Lines{});
  const Derived sharded = derive(gpt, layout(8, true));
  CHECK(sharded.step("o_proj.bias") == Lines{all_reduce(8, 12288)});
  CHECK(sharded.step("q_proj.bias") == Lines{});
  // A table of positions: its rows' gradient waits for the reduction of the table.
  const Derived embedding = derive(gpt, layout(8, true, 1, 2), Part::embedding);
  CHECK(embedding.step("embed_positions") == Lines{all_reduce(16, s * 12288)});
  CHECK(embedding.backward() == Lines{all_gather(8, b * s * 12288)});
}

TEST_CASE("without merging the terms of a sum, backward has five all-reduces: q, k, v, gate, up") {
  const Derived d = derive(llama(), layout(8, false), Part::layer, {.merge_sums = false});
  CHECK(d.backward() == Lines(5, all_reduce(8, b * s * h)));
}

TEST_CASE("sequence parallelism: pairs of all-gather and reduce-scatter") {
  const std::string ag = all_gather(8, b * s * h), rs = reduce_scatter(8, b * s * h);
  SUBCASE("forward, and the norms' gradients are summed over tp") {
    const Derived d = derive(llama(), layout(8, true));
    CHECK(d.forward() == Lines{ag, rs, ag, rs});
    CHECK(d.step("input_layernorm.weight") == Lines{all_reduce(8, h)});
    CHECK(d.step("post_attention_layernorm.weight") == Lines{all_reduce(8, h)});
    CHECK(d.step("q_proj") == Lines{});
  }
  SUBCASE("backward gathers the saved shards again: 4 all-gathers and 2 reduce-scatters") {
    CHECK(derive(llama(), layout(8, true)).backward() == Lines{ag, ag, rs, ag, ag, rs});
  }
  SUBCASE("backward with the gathered tensors kept: 2 and 2") {
    CHECK(derive(llama(), layout(8, true), Part::layer, {.gather_again = false}).backward() == Lines{ag, rs, ag, rs});
  }
}

TEST_CASE("a norm on each head is shared by the ranks of tp, with or without sequence parallelism") {
  Model qwen = llama();
  qwen.qk_norm = QkNorm::head;
  for (const bool sequence_parallel : {false, true}) {
    const Derived d = derive(qwen, layout(8, sequence_parallel));
    CHECK(d.step("q_norm.weight") == Lines{all_reduce(8, 128)});
    CHECK(d.step("k_norm.weight") == Lines{all_reduce(8, 128)});
  }
}

TEST_CASE("tp 16 with 8 KV heads: two ranks share a head and sum its gradients") {
  const Derived d = derive(llama(), layout(16, false));
  CHECK(d.forward() == Lines{all_reduce(16, b * s * h), all_reduce(16, b * s * h)});
  CHECK(d.backward() == Lines{all_reduce(16, b * s * h),                                         // feed-forward
                              all_reduce(2, b * s * h_kv / 8), all_reduce(2, b * s * h_kv / 8),  // dv, dk
                              all_reduce(16, b * s * h)});
  CHECK(d.step("k_proj") == Lines{});
  CHECK(d.weight("k_proj").used_elements == h * h_kv / 8);
  CHECK(d.weight("q_proj").used_elements == h * h / 16);
}

TEST_CASE("embedding with its vocabulary over tp") {
  SUBCASE("plain: an all-reduce in forward, nothing in backward") {
    const Derived d = derive(llama(), layout(8, false), Part::embedding);
    CHECK(d.forward() == Lines{all_reduce(8, b * s * h)});
    CHECK(d.backward() == Lines{});
  }
  SUBCASE("sequence parallel: a reduce-scatter and an all-gather") {
    const Derived d = derive(llama(), layout(8, true), Part::embedding);
    CHECK(d.forward() == Lines{reduce_scatter(8, b * s * h)});
    CHECK(d.backward() == Lines{all_gather(8, b * s * h)});
  }
}

TEST_CASE("head and loss with the vocabulary over tp: three statistics of one number a token") {
  const Lines statistics(3, all_reduce(8, b * s));
  SUBCASE("plain") {
    const Derived d = derive(llama(), layout(8, false), Part::head);
    CHECK(d.forward() == statistics);
    CHECK(d.backward() == Lines{all_reduce(8, b * s * h)});
    int fp32 = 0;
    for (const Node& n : d.sharded.nodes)
      if (n.kind == Node::Kind::reshard && n.phase == Phase::forward)
        fp32 += d.sharded.value(n.outputs[0]).width == Width::fp32;
    CHECK(fp32 == 3);
    // The labels' share of the logits' gradient is made where the logits lie: nothing is moved, not even sliced.
    const TensorId logits = d.graph.find_tensor("logits");
    for (const Node& n : d.sharded.nodes)
      CHECK_FALSE((n.kind == Node::Kind::reshard && d.sharded.value(n.outputs[0]).tensor == logits));
  }
  SUBCASE("sequence parallel: an all-gather in front, a reduce-scatter behind, the shard gathered again") {
    const Derived d = derive(llama(), layout(8, true), Part::head);
    CHECK(d.forward() == Lines{all_gather(8, b * s * h), statistics[0], statistics[1], statistics[2]});
    CHECK(d.backward() == Lines{all_gather(8, b * s * h), reduce_scatter(8, b * s * h)});
  }
}

TEST_CASE("data parallelism: one all-reduce of every weight's gradient") {
  const Derived d = derive(llama(), layout(1, false, 1, 8));
  CHECK(d.forward() == Lines{});
  CHECK(d.backward() == Lines{});
  CHECK(d.sharded.weights.size() == 9);
  for (const WeightState& w : d.sharded.weights) {
    CHECK(w.shard_parts == 1);
    CHECK(d.lines(w.reduction) == Lines{all_reduce(8, w.used_elements)});
  }
  CHECK(d.weight("gate_proj").used_elements == h * f);
}

TEST_CASE("ZeRO-1 cuts over dp x cp: a reduce-scatter of every gradient") {
  const Derived d = derive(llama(), layout(1, false, 2, 4, 1, 8));
  for (const WeightState& w : d.sharded.weights) {
    CHECK(w.shard_parts == 8);
    CHECK(d.lines(w.reduction) == Lines{reduce_scatter(8, w.used_elements)});
  }
  CHECK(d.forward(kParameters) == Lines{});
}

TEST_CASE("ZeRO-3 gathers every weight in forward and again in backward, and scatters its gradient") {
  const Derived d = derive(llama(), layout(1, false, 1, 8, 3, 8));
  // As operators first use them.
  const Lines forward = {all_gather(8, h),        all_gather(8, h * h), all_gather(8, h * h_kv),
                         all_gather(8, h * h_kv), all_gather(8, h * h), all_gather(8, h),
                         all_gather(8, h * f),    all_gather(8, h * f), all_gather(8, h * f)};
  CHECK(d.forward(kParameters) == forward);
  CHECK(d.backward(kParameters).size() == forward.size());
  for (const WeightState& w : d.sharded.weights)
    CHECK(d.lines(w.reduction) == Lines{reduce_scatter(8, w.used_elements)});
}

TEST_CASE("ZeRO-3 with parameters kept reads in backward what forward gathered") {
  const Derived d = derive(llama(), layout(1, false, 1, 8, 3, 8), Part::layer, {.keep_parameters = true});
  CHECK(d.forward(kParameters).size() == 9);
  CHECK(d.backward(kParameters) == Lines{});
  for (std::size_t i = d.sharded.forward_nodes; i < d.sharded.nodes.size(); ++i) {
    for (ValueId read : d.sharded.nodes[i].inputs) {
      const Value& value = d.sharded.value(read);
      const bool stored = d.graph.tensor(value.tensor).role == TensorRole::weight && !value.gradient && value.maker < 0;
      CHECK_FALSE(stored);
    }
  }
}

TEST_CASE("ZeRO-3 does not gather the input embedding in backward, which only its gradient would read") {
  const Derived d = derive(llama(), layout(1, false, 1, 8, 3, 8), Part::embedding);
  CHECK(d.forward(kParameters) == Lines{all_gather(8, v * h)});
  CHECK(d.backward(kParameters) == Lines{});
}

TEST_CASE("hybrid sharding, 4 groups of 8: reduce-scatter inside, then an all-reduce of the shard across") {
  const Derived d = derive(llama(), layout(1, false, 1, 32, 3, 8));
  CHECK(d.forward(kParameters)[1] == all_gather(8, h * h));
  CHECK(d.weight("q_proj").shard_parts == 8);
  CHECK(d.step("q_proj") == Lines{reduce_scatter(8, h * h), all_reduce(4, h * h / 8)});
}

TEST_CASE(
    "norms under sequence parallelism and ZeRO-1: a reduce-scatter over dp x cp, then an all-reduce of the shard over "
    "tp") {
  const Derived d = derive(llama(), layout(2, true, 2, 4, 1, 8));
  CHECK(d.step("input_layernorm.weight") == Lines{reduce_scatter(8, h), all_reduce(2, h / 8)});
  CHECK(d.step("q_proj") == Lines{reduce_scatter(8, h * h / 2)});
}

TEST_CASE("context parallelism gathers keys and values, and scatters their gradients") {
  // One rank's batch: 2 s b h_kv / tp elements, K and V.
  const std::string ag = all_gather(4, b * s * h_kv / 4), rs = reduce_scatter(4, b * s * h_kv / 4);
  const std::string tp = all_reduce(4, b * (s / 4) * h);
  const Derived d = derive(llama(), layout(4, false, 4));
  CHECK(d.forward() == Lines{ag, ag, tp, tp});
  CHECK(d.backward() == Lines{tp, ag, ag, rs, rs, tp});
  CHECK(d.step("q_proj") == Lines{all_reduce(4, h * h / 4)});
  const Derived kept = derive(llama(), layout(4, false, 4), Part::layer, {.gather_again = false});
  CHECK(kept.backward() == Lines{tp, rs, rs, tp});
}

TEST_CASE("tensor and sequence parallel, cp 2, dp 2: the worked example") {
  // Each rank of dp has b sequences; a rank of cp half of each. Backward order: mlp, attention out, core, input
  // projections.
  const std::int64_t rows = b * (s / 2);
  const std::string ag = all_gather(8, rows * h), rs = reduce_scatter(8, rows * h);
  const std::string kv = all_gather(2, b * s * h_kv / 8), dkv = reduce_scatter(2, b * s * h_kv / 8);
  const Derived d = derive(llama(), layout(8, true, 2, 2, 1, 4));
  CHECK(d.forward() == Lines{ag, kv, kv, rs, ag, rs});
  CHECK(d.backward() == Lines{ag, ag, rs, ag, kv, kv, dkv, dkv, ag, rs});
  CHECK(rows * h * 2 == 64 << 20);  // 64 MiB
}

// ---- multi-head latent attention, experts: DeepSeek-V3 ----

// One micro-batch of one sequence; T tokens, k of E experts.
constexpr std::int64_t T = 4096, h3 = 7168, E = 256, k = 8, f3 = 2048;

Model deepseek_v3() {
  Model m;
  m.name = "deepseek-v3";
  m.num_hidden_layers = 61;
  m.hidden_size = h3;
  m.num_attention_heads = m.num_key_value_heads = m.head_dim = 128;
  m.intermediate_size = 18432;
  m.vocab_size = 129280;
  m.q_lora_rank = 1536;
  m.kv_lora_rank = 512;
  m.qk_nope_head_dim = m.v_head_dim = 128;
  m.qk_rope_head_dim = 64;
  m.n_routed_experts = E;
  m.num_experts_per_tok = k;
  m.moe_intermediate_size = f3;
  m.n_shared_experts = 1;
  m.first_k_dense_replace = 3;
  return m;
}

struct Folds {
  int tp = 1;
  bool sequence_parallel = false;
  int cp = 1, dp = 1, ep = 1, etp = 1, zero = 0;
  ContextParallel kind = ContextParallel::all_gather;
  Dispatcher dispatcher = Dispatcher::all_to_all;
};
Layout folded(const Folds& n) {
  Layout l = layout(n.tp, n.sequence_parallel, n.cp, n.dp, n.zero, n.zero ? n.cp * n.dp : 1);
  l.micro_batch = 1;
  l.expert = n.ep;
  l.expert_tensor = n.etp;
  l.context_kind = n.kind;
  l.dispatcher = n.dispatcher;
  return l;
}

/// Only what the operators from `first` on to `last` ask for, by name.
Lines asked_by(const Derived& d, const char* first, const char* last, bool backward) {
  OpId from = -1, to = -1;
  for (std::size_t i = 0; i < d.graph.ops().size(); ++i) {
    if (d.graph.ops()[i].name == first) from = static_cast<OpId>(i);
    if (d.graph.ops()[i].name == last) to = static_cast<OpId>(i);
  }
  REQUIRE(from >= 0);
  REQUIRE(to >= from);
  Lines result;
  for (std::size_t i = 0; i < d.sharded.nodes.size(); ++i) {
    const Node& n = d.sharded.nodes[i];
    if (n.kind != Node::Kind::reshard || (i >= d.sharded.forward_nodes) != backward || n.op < from || n.op > to)
      continue;
    for (const std::string& l : d.lines(n.steps)) result.push_back(l);
  }
  return result;
}

Lines attention_lines(const Derived& d, bool backward) {
  return asked_by(d, "input_layernorm", "after_attention", backward);
}
Lines experts_lines(const Derived& d, bool backward) {
  return asked_by(d, "post_attention_layernorm", "after_experts", backward);
}
std::string all_to_all(std::int64_t ranks, std::int64_t elements) { return line("all_to_all", ranks, elements); }

Derived derive_dense_v3(const Folds& folds, Choices choices = {}) {
  return derive(deepseek_v3(), folded(folds), Part::layer, choices);
}
Derived derive_experts(const Model& model, const Folds& folds, Choices choices = {}) {
  Model all = model;
  all.first_k_dense_replace = 0;
  return derive(all, folded(folds), Part::layer, choices);
}

TEST_CASE("latent attention, tp 8: one all-reduce of the output and in backward of the latents and the rotary key") {
  const Derived d = derive_dense_v3({.tp = 8});
  CHECK(attention_lines(d, false) == Lines{all_reduce(8, T * h3)});
  // As backward meets them; the second of two readers of a latent decides when.
  const Lines backward = attention_lines(d, true);
  CHECK(sorted(backward) == sorted({all_reduce(8, T * 1536), all_reduce(8, T * 512), all_reduce(8, T * 64)}));
  for (const WeightState& w : d.sharded.weights) CHECK(w.reduction.count == 0);
}

TEST_CASE("latent attention, tp 8 and sequence parallel: the latents are gathered, not the stream") {
  const auto ag = [](std::int64_t width) { return all_gather(8, T * width); };
  const auto rs = [](std::int64_t width) { return reduce_scatter(8, T * width); };
  const Derived d = derive_dense_v3({.tp = 8, .sequence_parallel = true});
  CHECK(sorted(attention_lines(d, false)) == sorted({ag(1536), ag(512), ag(64), rs(h3)}));
  CHECK(sorted(attention_lines(d, true)) == sorted({ag(h3), rs(1536), rs(512), rs(64), ag(1536), ag(512), ag(64)}));
  const Derived kept = derive_dense_v3({.tp = 8, .sequence_parallel = true}, {.gather_again = false});
  CHECK(sorted(attention_lines(kept, true)) == sorted({ag(h3), rs(1536), rs(512), rs(64)}));
  for (const char* name : {"q_a_proj", "kv_a_proj", "k_rope_proj", "q_a_layernorm.weight", "kv_a_layernorm.weight",
                           "input_layernorm.weight"})
    CHECK(d.step(name) == Lines{all_reduce(8, d.weight(name).used_elements)});
  CHECK(d.step("q_b_proj") == Lines{});
  CHECK(d.weight("q_a_proj").used_elements == h3 * 1536);  // on every rank whole
}

TEST_CASE("latent attention without a query latent reduces the gradient of the stream") {
  Model lite = deepseek_v3();
  lite.q_lora_rank = 0;
  const Derived d = derive(lite, folded({.tp = 8}));
  CHECK(attention_lines(d, false) == Lines{all_reduce(8, T * h3)});
  CHECK(sorted(attention_lines(d, true)) ==
        sorted({all_reduce(8, T * 512), all_reduce(8, T * 64), all_reduce(8, T * h3)}));
}

TEST_CASE("latent attention, cp 4: keys and values of all heads are gathered, 32,832 elements a token") {
  const Derived d = derive_dense_v3({.cp = 4});
  const Lines gathered = {all_gather(4, T * 128 * 128), all_gather(4, T * 64), all_gather(4, T * 128 * 128)};
  const Lines scattered = {reduce_scatter(4, T * 128 * 128), reduce_scatter(4, T * 64),
                           reduce_scatter(4, T * 128 * 128)};
  CHECK(2 * 128 * 128 + 64 == 32'832);
  CHECK(attention_lines(d, false) == gathered);
  Lines both = gathered;
  both.insert(both.end(), scattered.begin(), scattered.end());
  CHECK(sorted(attention_lines(d, true)) == sorted(both));
}

TEST_CASE("absorbed latent attention, tp 8: the latent is on every rank, its gradient a share of each rank's heads") {
  const Derived d = derive_dense_v3({.tp = 8}, {.absorbed_latent = true});
  CHECK(attention_lines(d, false) == Lines{all_reduce(8, T * h3)});
  CHECK(sorted(attention_lines(d, true)) ==
        sorted({all_reduce(8, T * 1536), all_reduce(8, T * 512), all_reduce(8, T * 64)}));
  for (const WeightState& w : d.sharded.weights) CHECK(w.reduction.count == 0);
  CHECK(d.weight("k_b_proj").used_elements == 512 * 128 * 128 / 8);
  CHECK(d.weight("v_b_proj").used_elements == 512 * 128 * 128 / 8);
}

TEST_CASE("absorbed latent attention, tp 8 and sequence parallel: the latents are gathered as in the expanded form") {
  const Folds folds = {.tp = 8, .sequence_parallel = true};
  for (const bool gather_again : {true, false}) {
    const Derived absorbed = derive_dense_v3(folds, {.gather_again = gather_again, .absorbed_latent = true}),
                  expanded = derive_dense_v3(folds, {.gather_again = gather_again});
    for (const bool backward : {false, true})
      CHECK(sorted(attention_lines(absorbed, backward)) == sorted(attention_lines(expanded, backward)));
    for (const WeightState& w : expanded.sharded.weights) {
      const char* name = expanded.graph.tensor(w.tensor).name.c_str();
      CHECK(absorbed.step(name) == expanded.step(name));
    }
  }
}

TEST_CASE("absorbed latent attention, cp 4: the latent is gathered once for keys and values, 576 elements a token") {
  const Derived d = derive_dense_v3({.cp = 4}, {.absorbed_latent = true});
  const Lines gathered = {all_gather(4, T * 512), all_gather(4, T * 64)};
  CHECK(attention_lines(d, false) == gathered);
  Lines both = {reduce_scatter(4, T * 512), reduce_scatter(4, T * 64)};
  both.insert(both.end(), gathered.begin(), gathered.end());
  CHECK(sorted(attention_lines(d, true)) == sorted(both));
}

TEST_CASE("absorbed latent attention, Ulysses: queries and results as wide as the latent change heads for sequence") {
  const Derived d = derive_dense_v3({.cp = 4, .kind = ContextParallel::ulysses}, {.absorbed_latent = true});
  const auto moved = [](std::int64_t width) { return all_to_all(4, T / 4 * 128 * width); };
  CHECK(sorted(attention_lines(d, false)) ==
        sorted({moved(512), moved(64), all_gather(4, T * 512), all_gather(4, T * 64), moved(512)}));
}

TEST_CASE("64 ranks of experts: two all-to-alls of T k h in forward, two in backward") {
  const Derived d = derive_experts(deepseek_v3(), {.dp = 64, .ep = 64});
  const std::string rows = all_to_all(64, T * k * h3);
  CHECK(experts_lines(d, false) == Lines{rows, rows});
  CHECK(experts_lines(d, true) == Lines{rows, rows});
  CHECK(d.weight("experts.up_proj").used_elements == E / 64 * h3 * f3);
  CHECK(d.step("experts.up_proj") == Lines{});
  CHECK(d.step("router") == Lines{all_reduce(64, h3 * E)});
  CHECK(d.step("shared_experts.up_proj") == Lines{all_reduce(64, h3 * f3)});
  SUBCASE("of 128 ranks, pairs hold the same experts") {
    const Derived wider = derive_experts(deepseek_v3(), {.dp = 128, .ep = 64});
    CHECK(experts_lines(wider, false) == Lines{rows, rows});
    CHECK(wider.step("experts.down_proj") == Lines{all_reduce(2, E / 64 * h3 * f3)});
    CHECK(wider.step("router") == Lines{all_reduce(128, h3 * E)});
  }
  SUBCASE("and ZeRO-1 cuts their state in two, that of the rest in 128") {
    const Derived wider = derive_experts(deepseek_v3(), {.dp = 128, .ep = 64, .zero = 1});
    CHECK(wider.weight("experts.down_proj").shard_parts == 2);
    CHECK(wider.weight("router").shard_parts == 128);
    CHECK(wider.step("experts.down_proj") == Lines{reduce_scatter(2, E / 64 * h3 * f3)});
  }
  SUBCASE("dp 128 and tp 2: of 256 ranks, four hold the same experts") {
    const Derived wider =
        derive_experts(deepseek_v3(), {.tp = 2, .sequence_parallel = true, .dp = 128, .ep = 64, .zero = 1});
    CHECK(wider.weight("experts.down_proj").shard_parts == 4);
    CHECK(wider.step("experts.down_proj") == Lines{reduce_scatter(4, E / 64 * h3 * f3)});
  }
}

TEST_CASE("experts that are whole on the ranks of tp have copies there, over which their state is cut too") {
  const Derived d = derive_experts(deepseek_v3(), {.tp = 2, .sequence_parallel = true, .dp = 4, .zero = 1});
  CHECK(d.weight("experts.up_proj").shard_parts == 8);
  CHECK(d.step("experts.up_proj") == Lines{reduce_scatter(8, E * h3 * f3)});
  CHECK(d.weight("router").shard_parts == 4);
  CHECK(d.step("router") == Lines{reduce_scatter(4, h3 * E), all_reduce(2, h3 * E / 4)});
  CHECK(d.weight("shared_experts.up_proj").shard_parts == 4);
  CHECK(d.step("shared_experts.up_proj") == Lines{reduce_scatter(4, h3 * f3 / 2)});
}

TEST_CASE("a gate in front of the down-projection travels with the rows, and its gradient back") {
  const Derived d = derive_experts(deepseek_v3(), {.dp = 64, .ep = 64}, {.early_gate = true});
  const std::string rows = all_to_all(64, T * k * h3), gates = all_to_all(64, T * k);
  CHECK(experts_lines(d, false) == Lines{rows, gates, rows});
  CHECK(experts_lines(d, true) == Lines{rows, rows, gates});
}

TEST_CASE("experts folded over tp 8 and dp 8: each rank sends the rows of its part of the sequence") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d = derive_experts(routed, {.tp = 8, .sequence_parallel = true, .dp = 8, .ep = 64});
  const std::string rows = all_to_all(64, T * k * h3 / 8);
  CHECK(experts_lines(d, false) == Lines{rows, rows});
  CHECK(experts_lines(d, true) == Lines{rows, rows});
  CHECK(d.step("router") == Lines{all_reduce(64, h3 * E)});
  CHECK(d.step("experts.gate_proj") == Lines{});
}

TEST_CASE("experts over ep 8 and etp 2 on dp 8, tp 2: rows are gathered over tp, and their sums scattered") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d =
      derive_experts(routed, {.tp = 2, .sequence_parallel = true, .dp = 8, .ep = 8, .etp = 2}, {.gather_again = false});
  const std::string rows = all_to_all(8, T * k * h3 / 2), ag = all_gather(2, T * k * h3),
                    rs = reduce_scatter(2, T * k * h3);
  CHECK(experts_lines(d, false) == Lines{rows, ag, rs, rows});
  CHECK(experts_lines(d, true) == Lines{rows, ag, rs, rows});
  CHECK(d.weight("experts.up_proj").used_elements == E / 8 * h3 * f3 / 2);
  CHECK(d.step("experts.up_proj") == Lines{});
}

TEST_CASE("experts of two parts over dp: what is made of rows stays where the rows are") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d = derive_experts(routed, {.dp = 2, .etp = 2}, {.gather_again = false});
  // Both ranks' rows to both, and the sum of both parts back.
  const std::string ag = all_gather(2, 2 * T * k * h3), rs = reduce_scatter(2, 2 * T * k * h3);
  CHECK(experts_lines(d, false) == Lines{ag, rs});
  CHECK(experts_lines(d, true) == Lines{ag, rs});
}

TEST_CASE("experts folded over tp 4 and dp 2 without sequence parallelism") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d = derive_experts(routed, {.tp = 4, .dp = 2, .ep = 8});
  const std::string rows = all_to_all(2, T * k * h3 / 4);
  CHECK(experts_lines(d, false) == Lines{rows, rows, all_reduce(4, T * h3)});
  // Gates of the experts elsewhere: k a token.
  CHECK(experts_lines(d, true) == Lines{rows, rows, all_gather(4, T * k), all_reduce(4, T * h3)});
}

TEST_CASE("tokens gathered over ep 8: all tokens to every rank, the sums of its experts back") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d = derive_experts(routed, {.dp = 8, .ep = 8, .dispatcher = Dispatcher::all_gather});
  const std::string ag = all_gather(8, 8 * T * h3), rs = reduce_scatter(8, 8 * T * h3), mask = all_to_all(8, T * k);
  CHECK(sorted(experts_lines(d, false)) == sorted({mask, ag, mask, rs}));  // mask and gate with the tokens
  // The sums' gradient is gathered; the tokens' scattered; the gates' sent back.
  CHECK(sorted(experts_lines(d, true)) == sorted({ag, rs, mask}));
  CHECK(d.weight("experts.up_proj").used_elements == E / 8 * h3 * f3);
  CHECK(d.step("experts.up_proj") == Lines{});
}

TEST_CASE("where experts are loaded unevenly the fullest rank's rows pace both exchanges and fill its memory") {
  Model routed = deepseek_v3();
  routed.n_shared_experts = 0;
  const Derived d = derive_experts(routed, {.dp = 64, .ep = 64}, {.fullest_experts = 1.5});
  const std::string rows = all_to_all(64, T * k * h3 * 3 / 2);
  CHECK(experts_lines(d, false) == Lines{rows, rows});
  CHECK(experts_lines(d, true) == Lines{rows, rows});
  for (const Value& value : d.sharded.values) {
    const std::string& name = d.graph.tensor(value.tensor).name;
    if (name == "expert_up") CHECK(value.elements == T * k * f3 * 3 / 2);
    if (name == "mask") CHECK(value.elements == T * k);
    if (name == "experts.up_proj") CHECK(value.elements == E / 64 * h3 * f3);
  }
  SUBCASE("what is gathered behind the exchange is the fullest rank's, too") {
    const Derived parts = derive_experts(routed, {.tp = 2, .sequence_parallel = true, .dp = 8, .ep = 8, .etp = 2},
                                         {.gather_again = false, .fullest_experts = 1.5});
    const std::string part = all_to_all(8, T * k * h3 * 3 / 4);
    const std::int64_t both = T * k * h3 * 3 / 2;
    CHECK(experts_lines(parts, false) == Lines{part, all_gather(2, both), reduce_scatter(2, both), part});
  }
}

TEST_CASE("routed and shared experts in parts over tp are summed before they are reduced") {
  const Folds parts = {.tp = 4, .etp = 4};
  const Derived d = derive_experts(deepseek_v3(), parts);
  const std::string wide = all_reduce(4, T * h3);
  CHECK(experts_lines(d, false) == Lines{wide});
  CHECK(sorted(experts_lines(d, true)) == sorted({wide, all_reduce(4, T * k)}));
  CHECK(experts_lines(derive_experts(deepseek_v3(), parts, {.merge_sums = false}), false) == Lines{wide, wide});
}

// ---- context parallelism ----

TEST_CASE("Ulysses, cp 2 and tp 4: sequence for heads and back, (2 h + 2 h_kv) (s / c) b / t elements") {
  Layout l = layout(4, false, 2);
  l.context_kind = ContextParallel::ulysses;
  const Derived d = derive(llama(), l);
  const std::int64_t part = b * (s / 2) / 4;
  const std::string wide = all_to_all(2, part * h), narrow = all_to_all(2, part * h_kv);
  const std::string tp = all_reduce(4, b * (s / 2) * h);
  CHECK(d.forward() == Lines{wide, narrow, narrow, wide, tp, tp});
  CHECK(sorted(d.backward()) == sorted({tp, wide, wide, narrow, narrow, tp}));
}

TEST_CASE("ring attention moves nothing outside the operator, which passes its keys and values around") {
  Layout l = layout(4, true, 2);
  l.context_kind = ContextParallel::ring;
  const Derived d = derive(llama(), l);
  const std::string ag = all_gather(4, b * (s / 2) * h), rs = reduce_scatter(4, b * (s / 2) * h);
  CHECK(d.forward() == Lines{ag, rs, ag, rs});
  CHECK(d.backward() == Lines{ag, ag, rs, ag, ag, rs});
  int rings = 0;
  for (const Node& n : d.sharded.nodes) {
    if (n.ring == 0) continue;
    ++rings;
    CHECK(d.mesh.size_of(n.ring) == 2);
    CHECK(d.graph.op(n.op).kind == OpKind::attention);
    const std::size_t first = n.gradient < 0 ? 0 : 1;  // behind the output's gradient
    CHECK(d.sharded.value(n.inputs[first]).elements == b * (s / 2) * h / 4);
    CHECK(d.sharded.value(n.inputs[first + 1]).elements == b * (s / 2) * h_kv / 4);
    CHECK(d.sharded.value(n.inputs[first + 2]).elements == b * (s / 2) * h_kv / 4);
    for (ValueId out : n.outputs) CHECK(d.sharded.value(out).placement.partial == 0);
  }
  CHECK(rings == 2);
}

TEST_CASE("sinks under a ring: each rank's queries give a share of their gradient") {
  Model sinks = llama();
  sinks.attention_sinks = true;
  Layout l = layout(4, false, 2);
  l.context_kind = ContextParallel::ring;
  CHECK(derive(sinks, l).step("sinks") == Lines{all_reduce(2, 64 / 4)});
  l.context_kind = ContextParallel::ulysses;  // a rank has its own heads, and all queries of them
  CHECK(derive(sinks, l).step("sinks") == Lines{});
}

}  // namespace
}  // namespace shardwright
