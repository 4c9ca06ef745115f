#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace shardwright {

/// One chunk of Megatron's pipeline layout.
struct PipelineChunk {
  bool embedding = false;     // E
  int layers = 0;             // t
  int prediction_layers = 0;  // m, multi-token prediction
  bool loss = false;          // L
  bool operator==(const PipelineChunk&) const = default;
};

/// Why a text is not a pipeline layout: "has 'x' at character 3, which is none of E t m L | ( ) *".
struct PipelineLayoutFault {
  std::string reason;
};

/// Reads Megatron's --pipeline-model-parallel-layout, "Et|(tt|)*62tL": `|` ends a chunk, `x*n` and `(...)*n` repeat,
/// commas count for nothing. The whole begins with the only E and ends with the only L; chunk i is on stage i mod pp.
std::variant<std::vector<PipelineChunk>, PipelineLayoutFault> parse_pipeline_layout(std::string_view text);

}  // namespace shardwright
