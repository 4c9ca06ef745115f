#include "planner/pipeline/pipeline_layout.h"

#include <doctest/doctest.h>

using namespace shardwright;

namespace {

/// Layers of each chunk, or the fault.
std::string layers_of(const std::string& text) {
  const auto parsed = parse_pipeline_layout(text);
  if (const auto* fault = std::get_if<PipelineLayoutFault>(&parsed)) return fault->reason;
  std::string layers;
  for (const PipelineChunk& chunk : std::get<std::vector<PipelineChunk>>(parsed)) {
    layers += (layers.empty() ? "" : " ") + std::to_string(chunk.layers);
  }
  return layers;
}

}  // namespace

TEST_CASE("Megatron's pipeline layout is unrolled into chunks") {
  using Chunks = std::vector<PipelineChunk>;
  CHECK(std::get<Chunks>(parse_pipeline_layout("Et|(t*2|)*2mL")) ==
        Chunks{{.embedding = true, .layers = 1}, {.layers = 2}, {.layers = 2}, {.prediction_layers = 1, .loss = true}});
  CHECK(layers_of("EL") == "0");
  CHECK(layers_of("EtttL") == "3");
  CHECK(layers_of("E|t||tL") == "0 1 0 1");
  CHECK(layers_of("Et*3|(tt|)*2,m|L") == "3 2 2 0 0");
  CHECK(layers_of("Et|*3tL") == "1 0 0 1");

  // Llama 3.1 405B over 8 stages of 8 chunks: 126 layers in 64 chunks, one in the first and in the last.
  const auto chunks = std::get<Chunks>(parse_pipeline_layout("Et|(tt|)*62tL"));
  REQUIRE(chunks.size() == 64);
  CHECK(chunks.front() == PipelineChunk{.embedding = true, .layers = 1});
  for (std::size_t i = 1; i < 63; ++i) CHECK(chunks[i] == PipelineChunk{.layers = 2});
  CHECK(chunks.back() == PipelineChunk{.layers = 1, .loss = true});
}

TEST_CASE("a wrong pipeline layout says why") {
  CHECK(layers_of("") == "must begin with E, the embedding");
  CHECK(layers_of("tEL") == "must begin with E, the embedding");
  CHECK(layers_of("Et|tL|") == "must end with L, the output layer and loss");
  CHECK(layers_of("EEtL") == "has E more than once");
  CHECK(layers_of("EtL|L") == "has L more than once");
  CHECK(layers_of("Etx|L") == "has 'x', which is none of E t m L | ( ) *, at character 3");
  CHECK(layers_of("Et\nL") == "has an unprintable character at character 3");
  CHECK(layers_of("E(t|L") == "has '(' without ')' at character 2");
  CHECK(layers_of("Et)L") == "has ')' without '(' at character 3");
  CHECK(layers_of("E((t)*2)L") == "has '(' inside another at character 3");
  CHECK(layers_of("Et*L") == "has no count above 0 after '*' at character 4");
  CHECK(layers_of("Et*0L") == "has no count above 0 after '*' at character 4");
  CHECK(layers_of("*3EL") == "has '*', which is none of E t m L | ( ) *, at character 1");
  CHECK(layers_of("Et*100001L") == "has more than 100000 symbols at character 10");
  CHECK(layers_of("Et*99999999999999999999999L") == "has more than 100000 symbols at character 27");
}
