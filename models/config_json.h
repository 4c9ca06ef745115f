#pragma once

#include <string>

#include "models/model.h"

namespace shardwright {

/// The model that a Hugging Face `config.json` describes. Read are the `model_type`s llama, mistral, mixtral, qwen2,
/// qwen2_moe, qwen3, qwen3_moe, deepseek_v2, deepseek_v3, kimi_k2, gpt_oss, opt and gpt2, each as its class in the
/// transformers library builds it; what a file leaves out is that class's default where it is a detail (biases, tied
/// embeddings), and required where it is a size.
///
/// Throws InputError at the first key that neither changes a shape nor is known to be harmless, and at each value that
/// this version's keys cannot say. `published_parameters` is not in such files.
Model read_config_json(const YamlCursor& config, std::string name);

/// The model's name as the file has it, the last part of `_name_or_path`; "" without one. Any text, so ask before it
/// names a file.
std::string name_in_config_json(const YamlCursor& config);

}  // namespace shardwright
