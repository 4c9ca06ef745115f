// Does a sharded graph compute what the graph says? Every rank of a mesh is run in this process, with the derived
// collectives and the reference kernels, and compared with one rank.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/transformer.h"
#include "planner/shard/declare.h"
#include "planner/shard/placement.h"
#include "planner/shard/shard.h"
#include "tests/support/random_graph.h"
#include "tests/support/rank_simulator.h"

namespace shardwright {
namespace {

constexpr double kTolerance = 1e-9;

#if defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kWildGraphs = 60, kTidyGraphs = 40, kMutatedGraphs = 10;
constexpr std::size_t kMutatedLayouts = 24;  // every 24th pair of a model and a layout
#else
constexpr std::uint64_t kWildGraphs = 700, kTidyGraphs = 300, kMutatedGraphs = 60;
constexpr std::size_t kMutatedLayouts = 4;
#endif

std::uint64_t first_seed() {
  const char* given = std::getenv("SHARDWRIGHT_SEED");
  return given ? std::strtoull(given, nullptr, 10) : 0;
}

/// Everything on one rank.
Declarations nothing_sharded(const OpGraph& graph) {
  Declarations says;
  says.home.resize(graph.dims().size());
  says.stream.resize(graph.dims().size());
  says.weight_use.resize(graph.tensors().size());
  return says;
}

/// A case on one rank and on all.
struct Pair {
  const OpGraph& graph;
  const std::vector<std::int64_t>& extents;
  const Mesh& mesh;
  const Declarations& says;
  WholeData data;
  Mesh one_mesh = {};
  Declarations one_says = nothing_sharded(graph);
  ShardedGraph one = shard(graph, extents, one_mesh, one_says), all = shard(graph, extents, mesh, says);
  RankSimulator reference = RankSimulator(graph, extents, one_mesh, one_says, one, data);
  RankSimulator ranks = RankSimulator(graph, extents, mesh, says, all, data);

  /// "" when they agree.
  std::string disagreement() {
    reference.run();
    ranks.run();
    const std::string fault = reference.fault() + ranks.fault();
    if (!fault.empty()) return fault;
    const auto difference = ranks.difference(reference);
    if (difference.relative < kTolerance) return "";
    return difference.result + " differs by " + std::to_string(difference.relative);
  }
  std::string described() const { return describe(graph, extents, mesh, says, all); }

  struct Killed {
    std::size_t killed = 0, total = 0;
    std::string survivors = "";
  };
  /// After disagreement().
  Killed kill_mutants() {
    Killed result;
    for (const Mutation& m : mutations(all, mesh)) {
      ++result.total;
      ranks.run(m);
      if (ranks.difference(reference).relative > kTolerance) {
        ++result.killed;
      } else {
        result.survivors += describe(m, graph, all) + "\n";
      }
    }
    return result;
  }
};

/// Each SHARDWRIGHT_SEED has `count` cases of its own.
void check_random_graphs(bool tidy, std::uint64_t count) {
  for (std::uint64_t seed = first_seed() * count, end = seed + count; seed < end; ++seed) {
    const RandomCase c = random_case(seed, tidy);
    Pair pair = {c.graph, c.extents, c.mesh, c.says, draw_data(c.graph, c.extents, seed)};
    const std::string disagreement = pair.disagreement();
    INFO("random_case(", seed, ", ", tidy, "), SHARDWRIGHT_SEED ", first_seed(), "\n", pair.described());
    REQUIRE(disagreement == "");
  }
}

// ---- transformers ----

Model tiny_llama() {
  Model m;
  m.name = "tiny-llama";
  m.num_hidden_layers = 2;
  m.hidden_size = 10;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.head_dim = 6;
  m.intermediate_size = 20;
  m.vocab_size = 11;
  m.max_position_embeddings = 24;
  return m;
}

Model tiny_gpt() {
  Model m = tiny_llama();
  m.name = "tiny-gpt";
  m.num_key_value_heads = 4;
  m.gated_mlp = false;
  m.tie_word_embeddings = true;
  m.position = Position::learned;
  m.norm = Norm::layernorm;
  m.attention_bias = m.attention_output_bias = m.mlp_bias = true;
  return m;
}

struct Case {
  const char* name;
  Model model;
  GraphOptions options;
};

std::vector<Case> tiny_models() {
  Model windowed = tiny_llama(), head_norm = tiny_llama(), full_norm = tiny_llama();
  windowed.sliding_window = 5;
  windowed.sliding_window_pattern = 2;
  head_norm.qk_norm = QkNorm::head;
  full_norm.qk_norm = QkNorm::full;
  return {{"llama", tiny_llama(), {}},
          {"gpt, unfused, dropout, tied", tiny_gpt(), {.fused_attention = false, .dropout = true}},
          {"llama, norm and activation written out, fp32 softmax",
           tiny_llama(),
           {.fused_norm = false, .fused_activation = false, .cross_entropy = CrossEntropy::softmax}},
          {"llama, the loss of the whole vocabulary", tiny_llama(), {.cross_entropy = CrossEntropy::whole}},
          {"windowed", windowed, {}},
          {"a norm on each head", head_norm, {}},
          {"a norm over all heads", full_norm, {}}};
}

struct NamedLayout {
  const char* name;
  Layout layout;
};

std::vector<NamedLayout> layouts() {
  const auto of = [](int tp, bool sp, int cp, int dp, int zero, int group) {
    Layout l;
    l.tensor = tp;
    l.sequence_parallel = sp;
    l.context = cp;
    l.data = dp;
    l.zero = zero;
    l.shard_group = group;
    return l;
  };
  return {{"tp 2", of(2, false, 1, 1, 0, 1)},
          {"tp 2, sequence parallel", of(2, true, 1, 1, 0, 1)},
          {"dp 2", of(1, false, 1, 2, 0, 1)},
          {"dp 3, zero 1", of(1, false, 1, 3, 1, 3)},
          {"dp 2, zero 3", of(1, false, 1, 2, 3, 2)},
          {"cp 2", of(1, false, 2, 1, 0, 1)},
          {"tp 4: more than KV heads", of(4, false, 1, 1, 0, 1)},
          {"tp 4, sequence parallel", of(4, true, 1, 1, 0, 1)},
          {"dp 4, zero 3 in groups of 2", of(1, false, 1, 4, 3, 2)},
          {"tp 2, cp 2, dp 2, zero 1", of(2, true, 2, 2, 1, 4)},
          {"tp 4, cp 2, dp 2, zero 3 in groups of 2", of(4, true, 2, 2, 3, 2)},
          {"tp 4, cp 3", of(4, false, 3, 1, 0, 1)}};
}

/// Embedding, two layers, head and multi-token prediction as one graph. Its layers share their weights, which graphs
/// know by name: each has two uses, but for a dense feed-forward part in one layer and experts in the other.
OpGraph whole_model(const Model& model, const GraphOptions& options) {
  OpGraph g;
  const TransformerDims d = add_transformer_dims(g, model);
  TensorId stream = append_embedding(g, d, model, options);
  for (std::int64_t layer = 0; layer < 2; ++layer)
    stream = append_layer(g, d, stream, model, kind_of_layer(model, layer), options);
  append_head(g, d, stream, model, options);
  for (std::int64_t i = 0; i < model.num_nextn_predict_layers; ++i)
    append_prediction_layer(g, d, stream, model, options);
  return g;
}

constexpr std::int64_t kSequence = 24;

/// What a layout makes of a graph of a transformer.
struct LaidOut {
  OpGraph graph;
  std::vector<std::int64_t> extents;
  Mesh mesh;
  Declarations says;
};

LaidOut laid_out(OpGraph graph, const Model& model, const Layout& layout) {
  LaidOut result = {std::move(graph), {}, {}, {}};
  result.extents = layout_extents(result.graph, layout, kSequence);
  result.mesh = std::get<Mesh>(stage_mesh(layout, model));
  result.says = declare(result.graph, layout, result.mesh);
  return result;
}

/// Moves every logit of a token by about a thousand, up or down: softmax does not mind, exponentials without the true
/// maximum do. Tokens differ by more than what biases add to all of them, so that some go up and some down.
void move_logits(const OpGraph& graph, const std::vector<std::int64_t>& extents, WholeData& data) {
  const TensorId head = graph.find_tensor("lm_head");
  REQUIRE(head >= 0);
  const auto columns = static_cast<std::size_t>(extents[graph.tensor(head).dims[1]]);
  auto& table = data.tensors[static_cast<std::size_t>(head)];
  for (std::size_t i = 0; i < table.size(); ++i) table[i] += i / columns % 3 == 0 ? 1000.0 : -700.0;
  for (double& x : data.tensors[static_cast<std::size_t>(graph.find_tensor("embed_tokens"))]) x *= 4;
}

void check_model(const Case& model, const NamedLayout& layout, const OpGraph& graph) {
  for (const bool gather_again : {true, false}) {
    LaidOut l = laid_out(graph, model.model, layout.layout);
    l.says.gather_again = gather_again;
    Pair pair = {l.graph, l.extents, l.mesh, l.says, draw_data(l.graph, l.extents, 7)};
    const std::string disagreement = pair.disagreement();
    INFO(model.name, " under ", layout.name, "\n", pair.described());
    REQUIRE(disagreement == "");
  }
}

TEST_CASE("random graphs under any sharding compute on all ranks what they compute on one") {
  check_random_graphs(false, kWildGraphs);
}

TEST_CASE("random graphs sharded as layouts shard compute on all ranks what they compute on one") {
  check_random_graphs(true, kTidyGraphs);
}

TEST_CASE("transformers compute under every layout what they compute on one rank") {
  for (const Case& model : tiny_models())
    for (const NamedLayout& layout : layouts()) check_model(model, layout, whole_model(model.model, model.options));
}

TEST_CASE("the separate graphs of embedding, layers and head do too") {
  for (const Case& model : tiny_models()) {
    const ModelGraphs graphs = model_graphs(model.model, model.options);
    for (const NamedLayout& layout : layouts()) {
      check_model(model, layout, graphs.embedding);
      for (const OpGraph& layer : graphs.layer_classes) check_model(model, layout, layer);
      check_model(model, layout, graphs.head);
    }
  }
}

// ---- experts, latent attention, context parallelism ----

/// A dense layer, then one with experts.
Model with_experts(Model m) {
  m.n_routed_experts = 8;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 12;
  m.first_k_dense_replace = 1;
  return m;
}

Model tiny_latent(std::int64_t q_rank) {
  Model m = tiny_llama();
  m.name = "tiny-latent";
  m.q_lora_rank = q_rank;
  m.kv_lora_rank = 7;
  m.qk_nope_head_dim = 5;
  m.qk_rope_head_dim = 4;
  m.v_head_dim = 3;
  return m;
}

std::vector<Case> expert_models() {
  const Model plain = with_experts(tiny_llama());
  Model shared = plain, gated = plain, biased = plain, deepseek = with_experts(tiny_latent(6));
  shared.n_shared_experts = 2;
  gated.n_shared_experts = 1;
  gated.shared_expert_intermediate_size = 8;
  gated.shared_expert_gate = true;
  gated.qk_norm = QkNorm::head;
  biased.router_bias = biased.mlp_bias = biased.attention_bias = biased.attention_output_bias = true;
  biased.qk_norm = QkNorm::head;
  biased.attention_sinks = true;
  biased.sliding_window = 5;
  biased.sliding_window_pattern = 2;
  deepseek.n_shared_experts = 1;
  deepseek.num_nextn_predict_layers = 1;
  return {{"experts", plain, {}},
          {"experts, gated when they come back", plain, {.early_gate = false}},
          {"shared experts", shared, {.early_gate = false}},
          {"a gate on the shared expert", gated, {}},
          {"biases on router and experts, sinks, windows", biased, {}},
          {"latent attention, shared experts, token prediction", deepseek, {}}};
}

/// A layout in words: "tp 2 sp cp 2 dp 2 ep 4 etp 2 zero 1 group 4 ring".
NamedLayout spelled(const char* words) {
  Layout l;
  std::istringstream in(words);
  for (std::string key; in >> key;) {
    if (key == "sp") l.sequence_parallel = true;
    if (key == "ring") l.context_kind = ContextParallel::ring;
    if (key == "ulysses") l.context_kind = ContextParallel::ulysses;
    if (key == "allgather") l.dispatcher = Dispatcher::all_gather;
    if (key == "tp") in >> l.tensor;
    if (key == "cp") in >> l.context;
    if (key == "dp") in >> l.data;
    if (key == "ep") in >> l.expert;
    if (key == "etp") in >> l.expert_tensor;
    if (key == "zero") in >> l.zero;
    if (key == "group") in >> l.shard_group;
  }
  return {words, l};
}

/// Folds of the experts' mesh over the tokens': ep inside dp, over tp, over both, over tokens that are the same on
/// every rank of tp.
std::vector<NamedLayout> expert_layouts() {
  std::vector<NamedLayout> all;
  for (const char* words :
       {"dp 4 ep 4", "dp 4 ep 2", "dp 4 ep 2 zero 1 group 4", "dp 4 ep 2 zero 3 group 4", "dp 4 ep 4 zero 3 group 2",
        "tp 2 sp dp 2 ep 4", "tp 2 sp dp 2 ep 2", "tp 2 sp dp 2 ep 2 etp 2", "tp 2 sp dp 4 ep 2 etp 2",
        "tp 2 sp dp 2 zero 1 group 2", "tp 2 sp dp 4 ep 2 zero 3 group 4", "tp 2 sp dp 4 ep 2 etp 2 zero 3 group 4",
        "tp 2 sp dp 2 etp 4", "tp 4 sp dp 2 ep 8", "tp 4 sp dp 2 ep 2 etp 2", "tp 4 sp ep 2", "tp 4 sp etp 4",
        "tp 2 sp cp 2 dp 2 ep 4", "tp 2 sp cp 2 dp 2 ep 4 etp 2", "tp 2 sp cp 2 dp 2 ep 4 zero 1 group 4",
        "tp 2 sp cp 2 dp 2 ep 2 etp 4", "cp 2 dp 2 ep 4 zero 1 group 4", "cp 2 ep 2",
        // Without sequence parallelism every rank of tp has the same tokens.
        "tp 2 ep 2", "tp 2 etp 2", "tp 2 dp 2 ep 4", "tp 2 dp 2 ep 2", "tp 2 dp 2 ep 2 etp 2", "tp 4 dp 2 ep 8",
        "tp 4 dp 2 ep 4 etp 2", "tp 4 etp 4", "tp 2 dp 4 ep 4 zero 3 group 4", "tp 2 dp 2 zero 1 group 2",
        "tp 2 cp 2 dp 2 ep 8", "tp 2 cp 2 dp 2 ep 2 etp 2",
        // Tokens are gathered, and the experts' sums scattered.
        "dp 4 ep 4 allgather", "dp 4 ep 2 zero 1 group 4 allgather", "tp 2 sp dp 2 ep 4 allgather",
        "tp 2 sp dp 4 ep 2 etp 2 allgather", "tp 2 sp cp 2 dp 2 ep 4 zero 3 group 4 allgather",
        "tp 2 dp 2 ep 4 allgather"})
    all.push_back(spelled(words));
  return all;
}

std::vector<Case> attention_models() {
  Model heads = tiny_llama();
  heads.num_attention_heads = 8;
  heads.num_key_value_heads = 4;
  Model windowed = heads, sinks = heads, chunked = heads;
  windowed.sliding_window = 7;
  windowed.sliding_window_pattern = 2;
  windowed.attention_bias = true;
  windowed.qk_norm = QkNorm::head;
  sinks.attention_sinks = true;
  chunked.attention_chunk_size = 9;
  return {{"grouped heads", heads, {}},
          {"windows", windowed, {}},
          {"sinks", sinks, {}},
          {"chunks", chunked, {}},
          {"latent", tiny_latent(6), {}},
          {"latent, queries from the stream", tiny_latent(0), {}},
          {"absorbed latent", tiny_latent(6), {.absorbed_latent = true}},
          {"absorbed latent, queries from the stream", tiny_latent(0), {.absorbed_latent = true}}};
}

std::vector<NamedLayout> attention_layouts() {
  std::vector<NamedLayout> all;
  for (const char* words :
       {"tp 2", "tp 2 sp", "tp 4 dp 2", "tp 4 sp", "tp 2 sp dp 2 zero 1 group 2", "tp 2 sp dp 2 zero 3 group 2", "cp 2",
        "cp 2 ring", "cp 2 ulysses", "cp 4 ring", "cp 4 ulysses", "tp 2 cp 2", "tp 2 cp 2 ring", "tp 2 cp 2 ulysses",
        "tp 2 sp cp 2 dp 2 zero 1 group 4", "tp 2 sp cp 2 dp 2 ring zero 1 group 4",
        "tp 2 sp cp 2 dp 2 ulysses zero 1 group 4", "tp 2 sp cp 2 dp 2 ring zero 3 group 4", "tp 2 sp cp 3 ring"})
    all.push_back(spelled(words));
  return all;
}

TEST_CASE("models with experts compute under every fold of the experts' ranks what they compute on one") {
  for (const Case& model : expert_models()) {
    const ModelGraphs graphs = model_graphs(model.model, model.options);
    for (const NamedLayout& layout : expert_layouts()) {
      check_model(model, layout, whole_model(model.model, model.options));
      for (const OpGraph& layer : graphs.layer_classes) check_model(model, layout, layer);
      check_model(model, layout, graphs.head);
    }
  }
}

TEST_CASE("every kind of attention computes under every kind of context parallelism what it computes on one rank") {
  for (const Case& model : attention_models())
    for (const NamedLayout& layout : attention_layouts())
      check_model(model, layout, whole_model(model.model, model.options));
}

TEST_CASE("latent attention absorbed into its latent has the loss and the gradients of the expanded form") {
  Model with_prediction = with_experts(tiny_latent(6));
  with_prediction.num_nextn_predict_layers = 1;
  for (const Model& model : {tiny_latent(6), tiny_latent(0), with_prediction}) {
    const LaidOut expanded = laid_out(whole_model(model, {}), model, {});
    const LaidOut absorbed = laid_out(whole_model(model, {.absorbed_latent = true}), model, {});
    const WholeData data = draw_data(expanded.graph, expanded.extents, 11);
    WholeData same;
    same.seeds = data.seeds;
    for (const Tensor& t : absorbed.graph.tensors()) {
      const TensorId known = expanded.graph.find_tensor(t.name);
      same.tensors.push_back(known >= 0 ? data.tensors[static_cast<std::size_t>(known)] : std::vector<double>{});
    }
    Pair one = {expanded.graph, expanded.extents, expanded.mesh, expanded.says, data};
    Pair other = {absorbed.graph, absorbed.extents, absorbed.mesh, absorbed.says, same};
    REQUIRE(one.disagreement() == "");
    REQUIRE(other.disagreement() == "");
    const auto difference = other.ranks.difference(one.ranks);
    INFO(difference.result);
    CHECK(difference.relative < kTolerance);
    CHECK(std::abs(other.ranks.outputs_along_seeds() - one.ranks.outputs_along_seeds()) < kTolerance);
    // Not by way of the same operators.
    CHECK(absorbed.graph.find_tensor("q_absorbed") >= 0);
    CHECK(expanded.graph.find_tensor("q_absorbed") == -1);
  }
}

TEST_CASE("a transformer's gradients are those of its loss") {
  // (loss(w + e d) - loss(w - e d)) / 2 e against the sum of gradient x d, with d the direction of a random draw.
  std::vector<Case> models = tiny_models();
  for (const Case& model : expert_models()) models.push_back(model);
  for (const Case& model : attention_models()) models.push_back(model);
  for (const Case& model : models) {
    INFO(model.name);
    const OpGraph graph = whole_model(model.model, model.options);
    const std::vector<std::int64_t> extents = layout_extents(graph, Layout{}, kSequence);
    const Mesh mesh;
    const Declarations says = nothing_sharded(graph);
    const ShardedGraph sharded = shard(graph, extents, mesh, says);
    const WholeData at = draw_data(graph, extents, 1), along = draw_data(graph, extents, 2);
    const auto loss = [&](double step) {
      WholeData moved = at;
      for (std::size_t t = 0; t < moved.tensors.size(); ++t)
        for (std::size_t i = 0; graph.tensors()[t].role == TensorRole::weight && i < moved.tensors[t].size(); ++i)
          moved.tensors[t][i] += step * along.tensors[t][i];
      RankSimulator simulator(graph, extents, mesh, says, sharded, moved);
      simulator.run();
      return simulator.outputs_along_seeds();
    };
    RankSimulator simulator(graph, extents, mesh, says, sharded, at);
    simulator.run();
    CHECK(simulator.gradients_along(along) == doctest::Approx((loss(1e-5) - loss(-1e-5)) / 2e-5).epsilon(1e-6));
  }
}

/// Counts over many cases. Random data is no proof: a mutant may change a result by less than the tolerance. The seeds
/// here have none of that kind.
struct Mutants {
  std::size_t killed = 0, total = 0;
  std::string survivors = "";

  void kill(Pair& pair, const std::string& name) {
    REQUIRE(pair.disagreement() == "");
    const Pair::Killed result = pair.kill_mutants();
    killed += result.killed;
    total += result.total;
    if (!result.survivors.empty()) survivors += name + ": " + result.survivors;
  }
  /// One in `every` pairs, such that each layout has its turn.
  void kill(const std::vector<Case>& models, const std::vector<NamedLayout>& layouts, std::size_t every = 1) {
    std::size_t first = 0;
    for (const Case& model : models) {
      for (std::size_t i = first++ % every; i < layouts.size(); i += every) {
        const NamedLayout& layout = layouts[i];
        const LaidOut l = laid_out(whole_model(model.model, model.options), model.model, layout.layout);
        Pair pair = {l.graph, l.extents, l.mesh, l.says, draw_data(l.graph, l.extents, 3)};
        move_logits(l.graph, l.extents, pair.data);
        kill(pair, std::string(model.name) + " under " + layout.name);
      }
    }
  }
  void check(std::size_t at_least) const {
    MESSAGE("mutants killed " << killed << "/" << total);
    CHECK(survivors == "");
    CHECK(killed == total);
    CHECK(total > at_least);
  }
};

TEST_CASE("no derived collective can be left out, misrouted or done with another operation") {
  Mutants mutants;
  for (std::uint64_t seed = 0; seed < kMutatedGraphs; ++seed) {
    const RandomCase c = random_case(seed, true);
    Pair pair = {c.graph, c.extents, c.mesh, c.says, draw_data(c.graph, c.extents, seed)};
    mutants.kill(pair, "random_case(" + std::to_string(seed) + ", true)");
  }
  // Without rotation or a norm behind it, the gradient of a key's bias is exactly zero: softmax does not feel it.
  Model gpt = tiny_gpt();
  gpt.tie_word_embeddings = false;
  gpt.qk_norm = QkNorm::head;
  mutants.kill({{"llama", tiny_llama(), {}}, {"gpt", gpt, {.fused_attention = false, .dropout = true}}}, layouts());
  mutants.check(1000);
}

TEST_CASE("nor can any of a model with experts") {
  Mutants mutants;
  mutants.kill(expert_models(), expert_layouts(), kMutatedLayouts);
  mutants.check(10'000 / kMutatedLayouts);
}

TEST_CASE("nor can any of latent attention and of context parallelism, rings included") {
  Mutants mutants;
  mutants.kill(attention_models(), attention_layouts(), kMutatedLayouts);
  mutants.check(10'000 / kMutatedLayouts);
}

// ---- the reshard table ----

/// Every way to give each of 3 axes to no place, to a partial sum or to one of 2 dimensions, in every order.
void all_placements(Placement so_far, AxisSet left, std::vector<Placement>& result) {
  if (!left) {
    for (const Placement& known : result)
      if (known == so_far) return;
    result.push_back(so_far);
    return;
  }
  for (AxisId a = 0; a < 3; ++a) {
    if (!(left & bit(a))) continue;
    const auto rest = static_cast<AxisSet>(left & ~bit(a));
    all_placements(so_far, rest, result);
    Placement p = so_far;
    p.partial = static_cast<AxisSet>(p.partial | bit(a));
    all_placements(p, rest, result);
    for (int d = 0; d < 2; ++d) {
      p = so_far;
      p.dims[d].push_back(a);
      all_placements(p, rest, result);
    }
  }
}

TEST_CASE("every placement of a tensor turns into every other, directly or halfway") {
  OpGraph graph;
  const DimList dims = {graph.add_dim("rows", 12 * 5), graph.add_dim("columns", 12)};
  const std::vector<std::int64_t> extents = graph.extents();
  const Mesh mesh = std::get<Mesh>(Mesh::refine({{{"a", 2}, {"b", 3}, {"c", 2}}}));
  const Declarations says;
  const ShardedGraph none;
  const WholeData data;
  RankSimulator simulator(graph, extents, mesh, says, none, data);
  std::vector<Placement> placements;
  all_placements({}, 7, placements);
  // k of the axes in order on 2 dims: k! (k + 1) ways; each other axis in 2: 8 + 3 * 2 * 4 + 3 * 6 * 2 + 24.
  REQUIRE(placements.size() == 92);

  // Each rank's own term: what a rank at `coordinates of the partial axes` adds to the whole.
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::vector<std::vector<double>> terms(12, std::vector<double>(static_cast<std::size_t>(60 * 12)));
  for (auto& term : terms)
    for (double& x : term) x = normal(random);
  const std::int64_t line[] = {1, 2, 6};
  const auto coordinate = [&](std::int64_t rank, AxisId a) { return rank / line[a] % mesh.axes()[a].size; };
  // Of a rank, partial over `partial` after the axes in `added` were added up.
  const auto expected = [&](const Placement& to, AxisSet added) {
    RankSimulator::Blocks result;
    std::vector<RankSimulator::Blocks> of_term;
    for (const auto& term : terms) of_term.push_back(simulator.blocks_of(term, dims, to));
    for (std::int64_t rank = 0; rank < 12; ++rank) {
      std::vector<double> block(of_term[0][static_cast<std::size_t>(rank)].size(), 0.0);
      for (std::int64_t other = 0; other < 12; ++other) {
        bool counts = true;
        for (AxisId a = 0; a < 3; ++a) {
          const bool same = coordinate(other, a) == coordinate(rank, a);
          if (to.partial & bit(a))
            counts = counts && same;
          else if (!(added & bit(a)))
            counts = counts && coordinate(other, a) == 0;
        }
        for (std::size_t e = 0; counts && e < block.size(); ++e)
          block[e] += of_term[static_cast<std::size_t>(other)][static_cast<std::size_t>(rank)][e];
      }
      result.push_back(std::move(block));
    }
    return result;
  };

  std::size_t direct = 0, halved = 0;
  for (const Placement& from : placements) {
    const RankSimulator::Blocks start = expected(from, 0);
    for (const Placement& to : placements) {
      if (to.partial & ~from.partial) continue;
      std::vector<Placement> way = {from, to};
      if (is_direct(from, to)) {
        ++direct;
      } else {
        ++halved;
        way.insert(way.begin() + 1, halfway(from, to));
        REQUIRE(is_direct(way[0], way[1]));
        REQUIRE(is_direct(way[1], way[2]));
      }
      RankSimulator::Blocks blocks = start;
      for (std::size_t i = 0; i + 1 < way.size(); ++i) {
        const std::int64_t held = local_elements(dims, extents, way[i], mesh);
        const ReshardSteps steps = reshard_steps(way[i], way[i + 1], held, mesh);
        blocks = simulator.move({dims, way[i], way[i + 1], steps}, blocks);
      }
      REQUIRE(simulator.fault() == "");
      const RankSimulator::Blocks wanted = expected(to, static_cast<AxisSet>(from.partial & ~to.partial));
      double worst = 0.0;
      for (std::size_t r = 0; r < wanted.size(); ++r) {
        REQUIRE(blocks[r].size() == wanted[r].size());
        for (std::size_t e = 0; e < wanted[r].size(); ++e)
          worst = std::max(worst, std::abs(blocks[r][e] - wanted[r][e]));
      }
      REQUIRE(worst < 1e-12);
    }
  }
  MESSAGE("reshards: " << direct << " direct, " << halved << " by way of a third placement");
  CHECK(direct > halved);
}

}  // namespace
}  // namespace shardwright
