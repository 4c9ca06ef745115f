#include "planner/serve/serve_engine.h"

#include <doctest/doctest.h>

#include "tests/support/message_of.h"

namespace shardwright {
namespace {

const char* const kSmall = R"(name: small
description: one
frameworks: [{name: Small}, {name: Small, version: "2."}]
all_reduce: nccl
dispatcher: alltoall
block_tokens: 32
memory: {fraction: 0.8, fraction_of: free, cuda_graphs_gib: 0.5, workspace_gib: 1}
max_sequences: 64
max_tokens: 4096
chunked_prefill: false
reserves_answers: true
narrow_kv: true
prefill_first: true
)";

TEST_CASE("a serving engine's facts are read") {
  const ServeEngine e = read_serve_engine(YamlCursor::parse(kSmall, "small.yaml"));
  CHECK(e.name == "small");
  CHECK(e.frameworks.size() == 2);
  CHECK(e.frameworks[1].version == "2.");
  CHECK(e.all_reduce == CollectiveAlgorithm::nccl);
  CHECK(e.dispatcher == Dispatcher::all_to_all);
  CHECK(e.block_tokens == 32);
  CHECK(e.fraction_of_free);
  CHECK(e.memory_fraction == 0.8);
  CHECK(e.cuda_graphs == Bytes{1 << 29});
  CHECK(e.workspace == 1_GiB);
  CHECK(e.max_sequences == 64);
  CHECK(e.max_tokens == 4096);
  CHECK_FALSE(e.chunked_prefill);
  CHECK(e.reserves_answers);
  CHECK(e.narrow_kv);
  CHECK(e.prefill_first);
  CHECK(e.constants == ServeConstants{});
}

TEST_CASE("what an engine's offline benchmark was is read, and absent where nobody says") {
  const ServeEngine without = read_serve_engine(YamlCursor::parse(kSmall, "small.yaml"));
  CHECK_FALSE(without.offline_size);
  CHECK(without.offline_queues.empty());
  CHECK_FALSE(without.narrow_attention);
  CHECK_FALSE(without.fuses_casts);
  const ServeEngine e = read_serve_engine(YamlCursor::parse(
      std::string(kSmall) + "narrow_attention: true\nfuses_casts: true\noffline:\n  most_sequences: 16\n"
                            "  fewest_tokens: 32\n  most_tokens: 64\n  queues: [{isl: 1, osl: 2, requests: 3}]\n",
      "small.yaml"));
  CHECK(e.offline_size == SizedToLoad{16, 32, 64});
  CHECK(e.offline_queues == std::vector<OfflineQueue>{{1, 2, 3}});
  CHECK(e.narrow_attention);
  CHECK(e.fuses_casts);
}

TEST_CASE("what is wrong in a serving engine's file is told with its place") {
  std::string text = kSmall;
  text.replace(text.find("alltoall"), 8, "allgater");
  const std::string message = message_of([&] { read_serve_engine(YamlCursor::parse(text, "small.yaml")); });
  CHECK(message.starts_with("small.yaml:5:13: 'dispatcher' must be one of"));
  CHECK(message.find("(did you mean 'allgather'?)") != std::string::npos);
}

TEST_CASE("an unknown serving engine is told with the nearest") {
  CHECK(message_of([] { find_serve_engine("vlm", "--engine"); }) ==
        "--engine: unknown serving engine 'vlm' (did you mean 'vllm'?)");
  CHECK(message_of([] { find_serve_engine("", "--engine"); }) ==
        "--engine: unknown serving engine '' (there are deepseek, ideal, sglang, tensorrt-llm, tensorrt-llm-0, vllm)");
}

TEST_CASE("rows are their software's, older releases of TensorRT-LLM an engine of their own") {
  const auto name = [](const char* framework, const char* version) {
    const ServeEngine* e = serve_engine_of({framework, version, "", "hopper"});
    return e ? e->name : "";
  };
  CHECK(name("vLLM", "0.12.0") == "vllm");
  CHECK(name("SGLang", "") == "sglang");
  CHECK(name("TensorRT-LLM", "1.0.0rc3") == "tensorrt-llm");
  CHECK(name("TensorRT-LLM", "0.17") == "tensorrt-llm-0");
  CHECK(name("TensorRT-LLM", "0.9.0") == "tensorrt-llm-0");
  CHECK(name("TensorRT-LLM", "10.0") == "tensorrt-llm");
  CHECK(name("TensorRT-LLM", "") == "tensorrt-llm");
  CHECK(name("TensorRT 10.11, CUDA 12.9", "") == "tensorrt-llm-0");
  CHECK(name("Mango", "") == "");
}

TEST_CASE("keys are fp8 where the engine does that with its weights, and nobody says otherwise") {
  const ServeEngine narrow = find_serve_engine("tensorrt-llm", "--engine"),
                    wide = find_serve_engine("vllm", "--engine");
  CHECK(usual_kv(narrow, WeightFormat::fp8) == KvFormat::fp8);
  CHECK(usual_kv(narrow, WeightFormat::nvfp4) == KvFormat::fp8);
  CHECK(usual_kv(narrow, WeightFormat::int4) == KvFormat::bf16);  // its products are in bf16
  CHECK(usual_kv(narrow, WeightFormat::bf16) == KvFormat::bf16);
  CHECK(usual_kv(wide, WeightFormat::fp8) == KvFormat::bf16);
}

TEST_CASE("constants are physical, and neutral ones change nothing") {
  for (const ServeConstantFacts& f : kServeConstantFacts) {
    CHECK(f.low <= f.neutral);
    CHECK(f.neutral <= f.high);
    CHECK(f.usual > 0);
  }
  for (const std::string& name : serve_engine_names())
    for (const ServeConstantFacts& f : kServeConstantFacts) {
      const double value = find_serve_engine(name, "").constants[f.constant];
      CHECK(value >= f.low);
      CHECK(value <= f.high);
    }
  CHECK(find_serve_engine("ideal", "").constants == ServeConstants{});
}

TEST_CASE("fitted constants are read back, and what is out of range is not") {
  const std::string text = R"(schema: shardwright.serving_constants/1
engines:
  vllm:
    rows: 3
    median_error: 0.1
    constants: {step_seconds: 0.001, sequence_seconds: 0, kernel_seconds: 0, decode_factor: 1, prefill_factor: 1,
                communication_factor: 1, clumping: 0.5}
    interval: {tpot: 0.1, ttft: 0.2, throughput: 0.3}
)";
  const auto fitted = read_serve_constants(YamlCursor::parse(text, "c.yaml"));
  REQUIRE(fitted.size() == 1);
  CHECK(fitted[0].constants[ServeConstant::step_seconds] == 0.001);
  CHECK(fitted[0].errors.throughput == 0.3);
  std::string wrong = text;
  wrong.replace(wrong.find("0.001"), 5, "9.001");
  CHECK(message_of([&] { read_serve_constants(YamlCursor::parse(wrong, "c.yaml")); }).starts_with("c.yaml:6:31: "));
}

}  // namespace
}  // namespace shardwright
