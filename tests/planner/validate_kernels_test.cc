#include "planner/validate/validate_kernels.h"

#include <doctest/doctest.h>

#include <map>

#include "hardware/measurements.h"
#include "planner/cost/kernel_cost.h"
#include "tests/support/measured_machine.h"
#include "tests/support/round_machine.h"

namespace shardwright {
namespace {

MeasuredRow row_of(const std::string& kind, const std::string& gpus, const std::string& workload,
                   const std::string& measured) {
  return read_measured_rows(YamlCursor::parse("schema: shardwright.measured/1\n"
                                              "sources: {paper: {title: A paper, ref: arXiv 1, trust: B}}\n"
                                              "models: {}\n"
                                              "rows:\n"
                                              "- {id: a, source: paper, kind: " +
                                                  kind + ", family: f, trust: B, hardware: {gpu: unknown" + gpus +
                                                  "}, workload: {" + workload + "}, measured: {" + measured + "}}\n",
                                              "rows.yaml"))
      .rows.at(0);
}

/// The row's predictions by metric; REQUIREs that there are some.
std::map<std::string, ValidationRow> predicted(const MeasuredRow& row, const Machine& machine = round_machine()) {
  const auto answer = predict_kernel_row(row, machine);
  std::map<std::string, ValidationRow> by_metric;
  if (const auto* why = std::get_if<std::string>(&answer)) FAIL(*why);
  for (const ValidationRow& v : std::get<std::vector<ValidationRow>>(answer)) by_metric[v.metric] = v;
  return by_metric;
}

std::string why_not(const MeasuredRow& row, const Machine& machine = round_machine()) {
  const auto answer = predict_kernel_row(row, machine);
  return std::holds_alternative<std::string>(answer) ? std::get<std::string>(answer) : "is predicted";
}

MeasuredRow kernel(const std::string& workload, const std::string& measured) {
  return row_of("kernel", "", workload, measured);
}
MeasuredRow four_ranks(const std::string& workload, const std::string& measured) {
  return row_of("collective", ", gpus: 4, gpus_per_node: 4", workload, measured);
}

TEST_CASE("a collective is compared by its time and by both of nccl-tests' bandwidths") {
  // 400 bytes over links of 100 bytes a second: 2 x 3/4 x 400 / 100 = 6 s, six steps of 1 s, half a second of launch.
  const auto v = predicted(
      four_ranks("op: all_reduce, message_bytes: 400",
                 "time_seconds: 25, algorithm_bandwidth_bytes_per_second: 16, bus_bandwidth_bytes_per_second: 24"));
  REQUIRE(v.size() == 3);
  CHECK(v.at("time_seconds").predicted == doctest::Approx(12.5));
  CHECK(v.at("time_seconds").predicted_low == doctest::Approx(12.5 / 1.13674));  // exp(1.28155 x 0.1)
  CHECK(v.at("time_seconds").predicted_high == doctest::Approx(12.5 * 1.13674));
  CHECK(v.at("time_seconds").relative_error.value() == doctest::Approx(-0.5));
  CHECK(v.at("algorithm_bandwidth_bytes_per_second").predicted == doctest::Approx(32));  // 400 / 12.5
  CHECK(v.at("bus_bandwidth_bytes_per_second").predicted == doctest::Approx(48));        // x 2 x 3/4
  CHECK(v.at("bus_bandwidth_bytes_per_second").predicted_low == doctest::Approx(48 / 1.13674));
  CHECK(v.at("time_seconds").time_error.value() == doctest::Approx(-0.5));
  // Twice the rate that was measured is half the time, which was stated and judges alone.
  CHECK(v.at("bus_bandwidth_bytes_per_second").relative_error.value() == doctest::Approx(1));
  CHECK_FALSE(v.at("bus_bandwidth_bytes_per_second").time_error);
  const auto rate = predicted(four_ranks("op: all_reduce, message_bytes: 400", "bus_bandwidth_bytes_per_second: 24"));
  CHECK(rate.at("bus_bandwidth_bytes_per_second").time_error.value() == doctest::Approx(-0.5));
  for (const auto& [metric, row] : v) {
    CHECK(row.span == kWithinNode);
    CHECK(row.kind == "collective");
    CHECK(row.trust == "B");
  }
}

TEST_CASE("the factor of the bus bandwidth is the collective's own") {
  for (const auto& [op, factor] :
       {std::pair{"all_gather", 0.75}, {"reduce_scatter", 0.75}, {"all_to_all", 0.75}, {"send_recv", 1.0}}) {
    CAPTURE(op);
    const auto v = predicted(four_ranks(std::string("op: ") + op + ", message_bytes: 400",
                                        "time_seconds: 1, bus_bandwidth_bytes_per_second: 1"));
    CHECK(v.at("bus_bandwidth_bytes_per_second").predicted * v.at("time_seconds").predicted ==
          doctest::Approx(factor * 400));
  }
}

TEST_CASE("ranks of several nodes are told apart from ranks of one") {
  const MeasuredRow row =
      row_of("collective", ", gpus: 8, gpus_per_node: 8", "op: all_gather, message_bytes: 400", "time_seconds: 1");
  CHECK(predicted(row).at("time_seconds").span == kAcrossNodes);  // nodes of 4
  Machine wide = round_machine();
  wide.links[0].gpus = 8;
  CHECK(predicted(row, wide).at("time_seconds").span == kWithinNode);
}

TEST_CASE("a kernel is compared by its time, its work and its bytes") {
  const auto v = predicted(kernel("op: gemm, m: 1000, n: 2000, k: 3000, dtype: bf16",
                                  "time_seconds: 1, tflops: 1, memory_bandwidth_bytes_per_second: 1"));
  const double seconds = look_up(GemmSpec{.m = 1000, .n = 2000, .k = 3000}, round_machine()).time.value;
  REQUIRE(v.size() == 3);
  CHECK(v.at("time_seconds").predicted == doctest::Approx(seconds));
  CHECK(v.at("tflops").predicted == doctest::Approx(0.012 / seconds));  // 2 x 1000 x 2000 x 3000
  // (3 + 6 + 2 million elements) x 2 bytes
  CHECK(v.at("memory_bandwidth_bytes_per_second").predicted == doctest::Approx(22e6 / seconds));
  CHECK(predicted(kernel("op: gemm, m: 1000, n: 2000, k: 3000, dtype: bf16", "tflops: 1"))
            .at("tflops")
            .time_error.value() == doctest::Approx(seconds / 0.012 - 1));
  CHECK(v.at("tflops").span == "");
}

TEST_CASE("attention is compared by the half of the products that a causal mask leaves") {
  const std::string sizes = "op: attention_fwd, batch: 2, heads: 8, head_dim: 100, seq: 1000, dtype: bf16, causal: ";
  const auto half = predicted(kernel(sizes + "true", "tflops: 1, time_seconds: 1"));
  const auto full = predicted(kernel(sizes + "false", "tflops: 1, time_seconds: 1"));
  // 2 products x 2 x (2 x 8 x 1000 queries) x 1000 keys x 100
  CHECK(full.at("tflops").predicted * full.at("time_seconds").predicted == doctest::Approx(0.0064));
  CHECK(half.at("tflops").predicted * half.at("time_seconds").predicted == doctest::Approx(0.0032));
}

TEST_CASE("what has no time is skipped and says why") {
  CHECK(why_not(kernel("op: gemm, m: 1, n: 2, k: 3, dtype: fp8", "time_seconds: 1")) ==
        "kernel: round does not compute in fp8");
  CHECK(why_not(kernel("op: gemm, m: 1, n: 2, dtype: bf16", "time_seconds: 1")) == "kernel: k is not stated");
  CHECK(why_not(kernel("op: gemm, m: 1, n: 2, k: 3, dtype: bf16", "min_time_seconds: 1")) ==
        "metric: nothing that is predicted was published");
  CHECK(why_not(four_ranks("op: all_reduce, message_bytes: 4, algorithm: lsa_simple", "time_seconds: 1")) ==
        "kernel: no curve for all_reduce but NCCL's");
  CHECK(why_not(four_ranks("op: all_reduce, message_bytes: 4", "bus_bandwidth_without_nvls_bytes_per_second: 1")) ==
        "metric: bus_bandwidth_without_nvls_bytes_per_second is not predicted");
  CHECK(why_not(row_of("collective", ", gpus: 1", "op: all_reduce, message_bytes: 4", "time_seconds: 1")) ==
        "kernel: takes no time");
}

/// A machine where an exchange was measured: 100 us out, 200 us back.
Machine with_exchange() {
  MoeExchangeSpec spec{.mode = MoeExchangeMode::low_latency, .tokens = 4, .hidden_size = 128, .num_experts_per_tok = 2};
  spec.type = StoredType::fp8;
  spec.group.add(4, 1);
  MoeExchangeSpec back = spec;
  back.op = MoeExchangeOp::combine;
  Measurements measurements;
  measurements.add(table_of(KernelFamily::moe_exchange, {{spec, 100e-6}, {back, 200e-6}}));
  return with_measurements(round_machine(), std::move(measurements));
}

constexpr const char* kExchange =
    "mode: low_latency, tokens_per_gpu: 4, hidden_size: 128, num_experts_per_tok: 2, dtype: fp8, op: ";

TEST_CASE("experts' exchange is compared by dispatch and combine where it was measured") {
  const MeasuredRow both = four_ranks(std::string(kExchange) + "moe_dispatch_combine",
                                      "dispatch_seconds: 50.0e-6, combine_seconds: 400.0e-6");
  CHECK(why_not(both) == "kernel: no curve for moe_exchange");
  const auto v = predicted(both, with_exchange());
  REQUIRE(v.size() == 2);
  CHECK(v.at("dispatch_seconds").time_error.value() == doctest::Approx(1));
  CHECK(v.at("combine_seconds").time_error.value() == doctest::Approx(-0.5));
}

TEST_CASE("an exchange's bandwidth is compared where its definition says what it counts") {
  const std::string dispatch = std::string(kExchange) + "moe_dispatch, bandwidth_definition: ";
  const std::string rate = "bus_bandwidth_bytes_per_second: 1";
  // 4 tokens x 2 experts x (128 elements, one scale of 4 bytes, a header of 16) in 100 us
  const auto v = predicted(four_ranks(dispatch + "bottleneck-link", rate), with_exchange());
  CHECK(v.at("bus_bandwidth_bytes_per_second").predicted == doctest::Approx(4 * 2 * 148 / 100e-6));
  CHECK(why_not(four_ranks(dispatch + "unstated", rate), with_exchange()) ==
        "metric: bandwidth_definition unstated counts what the row does not state");
  CHECK(why_not(four_ranks(std::string(kExchange) + "moe_dispatch", rate), with_exchange()) ==
        "metric: bandwidth_definition is not stated");
}

TEST_CASE("every family that nobody knows the time of says so") {
  CHECK(std::get<std::string>(kernel_cost(MoeLayerSpec{}, round_machine())) == "no curve for moe_layer");
  CHECK(std::get<std::string>(kernel_cost(MlaModuleSpec{}, round_machine())) == "no curve for mla_module");
}

}  // namespace
}  // namespace shardwright
