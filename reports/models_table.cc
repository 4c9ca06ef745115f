#include "reports/models_table.h"

#include <fmt/format.h>

#include "models/transformer.h"

namespace shardwright {

std::string models_table(const std::vector<Model>& models, const TableStyle& style) {
  TextTable table({{"model", TextTable::Align::left},
                   {"parameters"},
                   {"KV per token"},
                   {"layers"},
                   {"hidden"},
                   {"heads"},
                   {"KV heads"}});
  std::string notes;
  for (const Model& model : models) {
    const std::string lacking = unsupported(model);
    const bool known = lacking.empty();
    table.add_row({model.name, known ? short_count(parameters(model)) : "?",
                   known ? with_unit(Bytes{kv_bytes_per_token(model)}) : "?", std::to_string(model.num_hidden_layers),
                   std::to_string(model.hidden_size), std::to_string(model.num_attention_heads),
                   std::to_string(model.num_key_value_heads)});
    if (!known) notes += wrapped(fmt::format("{}: no graph in this version ({})", model.name, lacking), style.width);
  }
  std::string text;
  const std::vector<std::string> lines = table.lines(2);
  for (std::size_t i = 0; i < lines.size(); ++i) text += (i == 0 ? bold(lines[i], style) : lines[i]) + "\n";
  return text + notes + "KV per token: keys and values of all layers, two bytes an element.\n";
}

std::string model_text(const Model& model, const TableStyle& style) {
  std::string text = bold(model.name, style) + "\n";
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<31}{}\n", name, value);
  };
  const std::string lacking = unsupported(model);
  if (lacking.empty()) {
    const std::int64_t total = parameters(model);
    add("parameters", fmt::format("{} ({})", grouped(total), short_count(total)));
    add("used by a token's products", grouped(active_parameters_without_embedding(model)));
    add("KV per token, 2-byte elements", with_unit(Bytes{kv_bytes_per_token(model)}));
  }
  if (model.published_parameters) add("published parameters", grouped(*model.published_parameters));
  add("layers", std::to_string(model.num_hidden_layers));
  add("hidden size", std::to_string(model.hidden_size));
  add("attention heads", fmt::format("{} of {}, {} for keys and values", model.num_attention_heads, model.head_dim,
                                     model.num_key_value_heads));
  if (model.intermediate_size > 0) {
    add("feed-forward", fmt::format("{}, {}", model.intermediate_size, model.gated_mlp ? "gated" : "not gated"));
  }
  add("vocabulary", fmt::format("{}, {}", grouped(model.vocab_size),
                                model.tie_word_embeddings ? "one table for input and output" : "two tables"));
  add("positions", fmt::format("{}, up to {}", model.position == Position::rope ? "rotary" : "learned",
                               grouped(model.max_position_embeddings)));
  add("norm", model.norm == Norm::rmsnorm ? "rmsnorm" : "layernorm");
  if (model.sliding_window > 0) {
    add("sliding window",
        fmt::format("{} tokens, one layer in {}", grouped(model.sliding_window), model.sliding_window_pattern));
  }
  if (!lacking.empty()) text += wrapped(fmt::format("no graph in this version: {}", lacking), style.width, 2);
  return text;
}

}  // namespace shardwright
