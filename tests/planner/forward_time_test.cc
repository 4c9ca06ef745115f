#include "planner/cost/forward_time.h"

#include <doctest/doctest.h>

#include "hardware/machine.h"
#include "models/model.h"
#include "planner/engine/engine.h"
#include "planner/pricer.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// Two layers of four heads that share two heads of keys, on one or two GPUs.
PlanRequest question(std::int64_t gpus) {
  PlanRequest request;
  Model& m = request.model;
  m.name = "tiny";
  m.num_hidden_layers = 2;
  m.hidden_size = 512;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.head_dim = 128;
  m.intermediate_size = 1024;
  m.vocab_size = 4096;
  m.gated_mlp = true;
  request.machine = find_machine("h100-sxm-80gb");
  request.gpus = gpus;
  request.workload.sequence_length = 256;
  request.workload.global_batch = 8;
  request.engine = find_engine("shardwright", "--engine");
  request.precision = DataType::fp32;
  run_by(request.engine, request.precision, request.workload);
  return request;
}

Layout layout_of(PlanRequest request, const char* text) {
  request.pins = parse_layout(text, "--layout");
  return estimate(request).plans.at(0).layout;
}

}  // namespace

TEST_CASE("a token behind others takes longer by its attention alone, once a layer") {
  const PlanRequest request = question(1);
  const Layout layout = layout_of(request, "dp=1,micro_batch=2");
  AttentionSpec spec{.batch = 2, .heads = 4, .kv_heads = 2};
  spec.type = DataType::fp32;
  spec.head_dim = spec.value_dim = 128;
  spec.query_length = spec.key_length = 1;
  AttentionSpec behind = spec;
  behind.key_length = 100'001;
  behind.causal = false;
  const Seconds more = *forward_time(request, layout, 1, 100'000) - *forward_time(request, layout, 1, 0);
  const Machine machine = Pricer(request).machine();  // as the engine uses it
  const double each = (look_up(behind, machine).time - look_up(spec, machine).time).value;
  CHECK(more.value == Approx(2 * each).epsilon(1e-6));
}

TEST_CASE("a step of inference is one micro-batch's, however many a step of training has") {
  PlanRequest request = question(2);
  const Layout layout = layout_of(request, "tp=2,micro_batch=2");
  const Seconds few = *forward_time(request, layout, 256, 0);
  request.workload.global_batch = 32;
  CHECK(forward_time(request, layout, 256, 0)->value == Approx(few.value));
  CHECK(few > *forward_time(request, layout, 1, 0));
  CHECK(*forward_time(question(2), layout_of(question(2), "tp=2,micro_batch=4"), 256, 0) > few);
}

TEST_CASE("what stages hand on is not priced, so a pipeline has no time") {
  const PlanRequest request = question(2);
  CHECK(!forward_time(request, layout_of(request, "pp=2,micro_batch=1"), 256, 0));
}
