#include "planner/cost/written_out.h"

#include <doctest/doctest.h>

#include "models/transformer.h"
#include "planner/cost/host_time.h"
#include "planner/cost/node_cost.h"
#include "planner/shard/declare.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

/// The last kind of layer of a model on one GPU, and what its nodes ask for.
class Layer {
 public:
  Layer(const char* model, const GraphOptions& options)
      : graph_(model_graphs(find_model(model), options).layer_classes.back()),
        mesh_(std::get<Mesh>(stage_mesh(Layout{}, find_model(model)))),
        extents_(layout_extents(graph_, Layout{}, 1024)),
        sharded_(shard(graph_, extents_, mesh_, declare(graph_, Layout{}, mesh_))) {}

  /// Bytes of all passes over memory of operators of that kind.
  double moved(OpKind kind, bool backward) const {
    double bytes = 0;
    for (const Node& n : sharded_.nodes)
      if (is(n, kind, backward))
        bytes += times_asked(context(), sharded_, n) *
                 static_cast<double>(std::get<MemorySpec>(node_question(context(), sharded_, n)).moved.value);
    return bytes;
  }
  /// Bytes of the forward's sums.
  double added() const {
    double bytes = 0;
    for (std::size_t i = 0; i < sharded_.forward_nodes; ++i)
      if (const Node& n = sharded_.nodes[i]; n.kind == Node::Kind::sum)
        bytes += static_cast<double>(std::get<MemorySpec>(node_question(context(), sharded_, n)).moved.value);
    return bytes;
  }
  double launches(OpKind kind, bool backward) const {
    const std::vector<HostWork> all =
        host_work(graph_, mesh_, sharded_, {}, false, MadeTogether(graph_, sharded_, MergedProducts::none));
    double sum = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (is(sharded_.nodes[i], kind, backward)) sum += all[i].launches;
    return sum;
  }

 private:
  bool is(const Node& n, OpKind kind, bool backward) const {
    return n.kind == Node::Kind::compute && graph_.op(n.op).kind == kind && (n.gradient >= 0) == backward;
  }
  CostContext context() const { return {graph_, extents_, mesh_, machine_, {}}; }

  OpGraph graph_;
  Mesh mesh_;
  Machine machine_ = round_machine();
  std::vector<std::int64_t> extents_;
  ShardedGraph sharded_;
};

constexpr double kStream = 1024.0 * 4096;  // elements of Llama-3.1-8B's
constexpr double kWidth = 1024.0 * 14336;

}  // namespace

TEST_CASE("an RMSNorm that is written out is six kernels forward and twelve backward") {
  Operator op;
  op.kind = OpKind::rms_norm;
  CHECK(written_out(op, false) == WrittenOut{6, 4, 7});
  CHECK(written_out(op, true) == WrittenOut{12, 8, 17});
  op.kind = OpKind::gated_silu;
  CHECK(written_out(op, false) == WrittenOut{2, 5, 0});
  CHECK(written_out(op, true) == WrittenOut{3, 9, 0});
}

TEST_CASE("rotary positions that are written out are five kernels forward and nine backward") {
  Operator op;
  op.kind = OpKind::rotary;
  // Times cos 2, half of it negated 1, both halves concatenated 2, times sin 2, the sum 3.
  CHECK(written_out(op, false) == WrittenOut{5, 10, 0});
  // Times sin 2, times cos 2, half negated 1; zeros and a half of them for either half 4; two sums 6.
  CHECK(written_out(op, true) == WrittenOut{9, 15, 0});
}

TEST_CASE("a norm of a copy in fp32 makes that copy again in backward") {
  Operator op;
  op.kind = OpKind::rms_norm;
  op.on_fp32_copy = true;
  CHECK(written_out(op, false) == WrittenOut{2, 2, 2});
  CHECK(written_out(op, true) == WrittenOut{4, 4, 5});
}

TEST_CASE("what is written out moves each tensor of its chain, in as many launches") {
  GraphOptions options;
  options.fused_norm = options.fused_activation = false;
  const Layer chain("llama-3.1-8b", options);
  // Two norms: 4 passes of 2 bytes and 7 of 4 forward, 8 and 17 backward. Bytes of a kernel are whole.
  CHECK(chain.moved(OpKind::rms_norm, false) == doctest::Approx(2 * kStream * 36));
  CHECK(chain.moved(OpKind::rms_norm, true) == doctest::Approx(2 * kStream * 84));
  CHECK(chain.moved(OpKind::gated_silu, false) == doctest::Approx(kWidth * 10));
  CHECK(chain.moved(OpKind::gated_silu, true) == doctest::Approx(kWidth * 18));
  CHECK(chain.launches(OpKind::rms_norm, false) == 12);
  CHECK(chain.launches(OpKind::gated_silu, true) == 3);

  const Layer fused("llama-3.1-8b", {});
  CHECK(fused.moved(OpKind::rms_norm, false) == doctest::Approx(2 * (kStream * 4 + 4096 * 2)));
  CHECK(fused.launches(OpKind::rms_norm, false) == 2);

  GraphOptions apart;
  apart.fused_rotary = false;
  apart.norm_in_fp32 = true;
  const Layer copies("llama-3.1-8b", apart);
  // 32 heads of queries and 8 of keys, of 128.
  CHECK(copies.moved(OpKind::rotary, false) == doctest::Approx(1.25 * kStream * 20));
  CHECK(copies.launches(OpKind::rotary, true) == 2 * 9);
  CHECK(copies.moved(OpKind::rms_norm, false) == doctest::Approx(2 * kStream * 12));
}

TEST_CASE("a bias is added where its product is made, and dropping out where the stream is added to") {
  GraphOptions options;
  options.dropout = true;
  const Layer layer("gpt3-175b", options);
  constexpr double kWide = 1024.0 * 12288;
  CHECK(layer.moved(OpKind::add_bias, false) == 0);
  CHECK(layer.launches(OpKind::add_bias, false) == 0);
  CHECK(layer.moved(OpKind::add_bias, true) > 0);  // the bias's own gradient
  // Twice: read what is dropped from, write a mask of bytes; then read the stream and write the sum.
  CHECK(layer.moved(OpKind::dropout, false) == 2 * kWide * 3);
  CHECK(layer.added() == 2 * kWide * 4);
}

}  // namespace shardwright
