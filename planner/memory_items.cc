#include <algorithm>

#include "planner/pipeline/pipeline_shape.h"

namespace shardwright {
namespace {

/// Lists tensors of a stage, named with where they are: "layer.q_proj".
struct Lister {
  const Layout& layout;
  const Workload& workload;
  std::vector<MemoryItem>& items;

  void weights(GraphPricer& graph, const std::string& where, std::int64_t copies, bool without_tied) const {
    for (const GraphPricer::WeightTensor& w : graph.weight_tensors()) {
      if (without_tied && w.name == "embed_tokens") continue;
      const TrainingFormats& formats = workload.formats;
      const std::int64_t parts = layout.zero > 0 ? zero_parts(layout, w.routed) : 1;
      const std::int64_t shard = (w.elements + parts - 1) / parts;
      const auto add = [&](const char* part, const std::string& tensor, std::int64_t elements, double width) {
        items.push_back({part, where + tensor,
                         Bytes{static_cast<std::int64_t>(static_cast<double>(elements) * width)} * copies, copies});
      };
      add("weights", w.name, layout.zero == 3 ? shard : w.elements, bytes_per_element(formats.parameter));
      if (w.narrow && layout.zero < 3)
        items.push_back({"weights", where + w.name + " (casts)", narrow_casts(w.elements, workload) * copies, copies});
      add("gradients", w.name, layout.zero >= 2 ? shard : w.elements, bytes_per_element(formats.gradient));
      if (formats.main_parameter != formats.parameter)
        add("optimizer", w.name + " (main copy)", shard, bytes_per_element(formats.main_parameter));
      add("optimizer", w.name + " (two moments)", shard, 2 * bytes_per_element(formats.optimizer_state));
    }
  }
  void activations(GraphPricer& graph, const std::string& where, std::int64_t copies, const Recompute& choice) const {
    for (const GraphPricer::SavedTensor& saved : graph.saved_tensors(layout.micro_batch, choice))
      items.push_back({"activations", where + saved.name, saved.bytes * copies, copies});
  }
};

}  // namespace

std::vector<MemoryItem> Pricer::memory_items(const Layout& layout, int stage) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  const PipelineShape pipeline(*this, known, layout);
  const InFlight& in_flight = pipeline.in_flight_counts(stage);
  const Route& route = pipeline.route();
  ShapePricer pricer = shape_pricer(shape_of(layout));
  std::vector<MemoryItem> items;
  const Lister list{layout, workload_, items};
  for (std::size_t c = 0; c < graphs_.layer_classes.size(); ++c) {
    std::int64_t layers = 0, kept = 0, for_weights = 0;
    for (int chunk = 0; chunk < route.chunks(); ++chunk) {
      const int n = pipeline.layers_in(route.part_of({stage, chunk}), static_cast<int>(c));
      layers += n;
      kept += std::int64_t{n} * in_flight.until_backward[static_cast<std::size_t>(chunk)];
      for_weights += std::int64_t{n} * in_flight.until_weight[static_cast<std::size_t>(chunk)];
    }
    const std::string where = graphs_.layer_classes.size() == 1 ? "layer." : "layer class " + std::to_string(c) + ".";
    GraphPricer& graph = pricer.of_graph(2 + c);
    if (layers > 0) list.weights(graph, where, layers, false);
    if (kept > 0) list.activations(graph, where, kept, layout.recompute);
    const auto& passes = known.layers[c].passes;
    const Bytes late = passes[static_cast<std::size_t>(index_of(layout.recompute))].need.for_weights;
    if (for_weights > 0)
      items.push_back({"activations", where + "what weight gradients still read", late * for_weights, for_weights});
  }
  for (int chunk = 0; chunk < route.chunks(); ++chunk) {
    const int part = route.part_of({stage, chunk});
    const int kept = in_flight.until_backward[static_cast<std::size_t>(chunk)];
    if (part == 0) {
      list.weights(pricer.of_graph(0), "embedding.", 1, false);
      list.activations(pricer.of_graph(0), "embedding.", kept, {});
    }
    if (part + 1 == route.parts()) {
      list.weights(pricer.of_graph(1), "head.", 1, pipeline.has_both_ends(stage));
      list.activations(pricer.of_graph(1), "head.", kept, {});
    }
  }
  const StageMemory memory = pipeline.memory(data_of(known, layout), stage);
  items.push_back({"transient", "inside a forward or backward, or gradients in fp32", memory.parts.transient, 1});
  items.push_back({"buffers", "between stages, gathered by ZeRO, held by libraries", memory.parts.buffers, 1});
  std::stable_sort(items.begin(), items.end(),
                   [](const MemoryItem& a, const MemoryItem& b) { return a.bytes > b.bytes; });
  return items;
}

}  // namespace shardwright
