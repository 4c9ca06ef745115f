#include <algorithm>

#include "planner/declare.h"
#include "planner/pipeline_shape.h"

namespace shardwright {
namespace {

/// Tensors of one graph, named with where they are: "layer.q_proj".
class GraphItems {
 public:
  GraphItems(const OpGraph& graph, const std::string& where, const Layout& layout, const Pricer& pricer,
             const Recompute& recompute)
      : graph_(graph), where_(where), layout_(layout), formats_(pricer.workload().formats) {
    const Layout sample = sample_layout(shape_of(layout));
    const auto refined = stage_mesh(sample, pricer.model());
    const Mesh& mesh = std::get<Mesh>(refined);
    sharded_ = shard(graph, layout_extents(graph, sample, pricer.workload().sequence_length), mesh,
                     declare(graph, sample, mesh));
    plan_ = plan_backward(graph, sharded_, recompute);
  }

  void weights(std::int64_t copies, bool without_tied, std::vector<MemoryItem>& items) const {
    const std::int64_t parts = layout_.zero > 0 ? layout_.shard_group : 1;
    for (const WeightState& w : sharded_.weights) {
      const std::string& name = graph_.tensor(w.tensor).name;
      if (without_tied && name == "embed_tokens") continue;
      const std::int64_t shard = (w.used_elements + parts - 1) / parts;
      const auto add = [&](const char* part, const std::string& tensor, std::int64_t elements, double width) {
        items.push_back({part, where_ + tensor,
                         Bytes{static_cast<std::int64_t>(static_cast<double>(elements) * width)} * copies, copies});
      };
      add("weights", name, layout_.zero == 3 ? shard : w.used_elements, bytes_per_element(formats_.parameter));
      add("gradients", name, layout_.zero >= 2 ? shard : w.used_elements, bytes_per_element(formats_.gradient));
      if (formats_.main_parameter != formats_.parameter)
        add("optimizer", name + " (main copy)", shard, bytes_per_element(formats_.main_parameter));
      add("optimizer", name + " (two moments)", shard, 2 * bytes_per_element(formats_.optimizer_state));
    }
  }
  void activations(std::int64_t copies, std::vector<MemoryItem>& items) const {
    for (ValueId v : plan_.saved) {
      const Value& value = sharded_.value(v);
      items.push_back({"activations", where_ + graph_.tensor(value.tensor).name,
                       bytes_of(graph_, value, formats_) * copies, copies});
    }
  }

 private:
  const OpGraph& graph_;
  std::string where_;
  const Layout& layout_;
  TrainingFormats formats_;
  ShardedGraph sharded_;
  BackwardPlan plan_;
};

}  // namespace

std::vector<MemoryItem> Pricer::memory_items(const Layout& layout, int stage) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  const PipelineShape pipeline(*this, known, layout);
  const InFlight& in_flight = pipeline.in_flight_counts(stage);
  const Route& route = pipeline.route();
  std::vector<MemoryItem> items;
  for (std::size_t c = 0; c < graphs_.layer_classes.size(); ++c) {
    std::int64_t layers = 0, kept = 0, for_weights = 0;
    for (int chunk = 0; chunk < route.chunks(); ++chunk) {
      const int n = pipeline.layers_in(route.part_of({stage, chunk}), static_cast<int>(c));
      layers += n;
      kept += std::int64_t{n} * in_flight.until_backward[static_cast<std::size_t>(chunk)];
      for_weights += std::int64_t{n} * in_flight.until_weight[static_cast<std::size_t>(chunk)];
    }
    const std::string where = graphs_.layer_classes.size() == 1 ? "layer." : "layer class " + std::to_string(c) + ".";
    const GraphItems graph(graphs_.layer_classes[c], where, layout, *this, layout.recompute);
    if (layers > 0) graph.weights(layers, false, items);
    if (kept > 0) graph.activations(kept, items);
    const auto& passes = known.layers[c].passes;
    const Bytes late = passes[static_cast<std::size_t>(index_of(layout.recompute))].need.for_weights;
    if (for_weights > 0)
      items.push_back({"activations", where + "what weight gradients still read", late * for_weights, for_weights});
  }
  for (int chunk = 0; chunk < route.chunks(); ++chunk) {
    const int part = route.part_of({stage, chunk});
    const int kept = in_flight.until_backward[static_cast<std::size_t>(chunk)];
    if (part == 0) {
      const GraphItems graph(graphs_.embedding, "embedding.", layout, *this, {});
      graph.weights(1, false, items);
      graph.activations(kept, items);
    }
    if (part + 1 == route.parts()) {
      const GraphItems graph(graphs_.head, "head.", layout, *this, {});
      graph.weights(1, model_.tie_word_embeddings && layout.pipeline == 1, items);
      graph.activations(kept, items);
    }
  }
  const StageMemory memory = pipeline.memory(data_of(known, layout), stage);
  items.push_back({"transient", "inside one layer's forward or backward", memory.parts.transient, 1});
  items.push_back({"buffers", "on their way between stages, gathered by ZeRO", memory.parts.buffers, 1});
  std::stable_sort(items.begin(), items.end(),
                   [](const MemoryItem& a, const MemoryItem& b) { return a.bytes > b.bytes; });
  return items;
}

}  // namespace shardwright
