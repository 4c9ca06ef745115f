// The collectives that follow from published layouts, in kind, ranks and bytes: the formulas of Megatron-LM (Narayanan
// et al. 2021), sequence parallelism (Korthikanti et al. 2022) and ZeRO (Rajbhandari et al. 2020), on real shapes.
// Sizes are elements held as nccl-tests counts them: all-reduce its buffer, all-gather its result, reduce-scatter its
// input.
#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/transformer.h"
#include "planner/declare.h"
#include "planner/shard.h"

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
  bool gather_again = true, merge_sums = true, keep_parameters = false;
};

Derived derive(const Model& model, const Layout& l, Part part = Part::layer, Choices choices = {}) {
  ModelGraphs graphs = model_graphs(model);
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

}  // namespace
}  // namespace shardwright
