#include "planner/cost/operator_times.h"

#include <utility>

#include "planner/pipeline/pipeline_shape.h"

namespace shardwright {

std::string_view name_of(OperatorPass pass) {
  static constexpr std::string_view names[] = {"forward", "again", "input gradient", "weight gradient"};
  return names[static_cast<int>(pass)];
}

namespace {

KernelFamily family_of(const NodeQuestion& question) {
  if (std::holds_alternative<GemmSpec>(question)) return KernelFamily::gemm;
  if (std::holds_alternative<GroupedGemmSpec>(question)) return KernelFamily::grouped_gemm;
  if (std::holds_alternative<AttentionSpec>(question)) return KernelFamily::attention;
  return KernelFamily::memory;
}

OperatorPass pass_of(Phase phase, bool in_backward) {
  if (phase == Phase::input_gradient) return OperatorPass::input_gradient;
  if (phase == Phase::weight_gradient) return OperatorPass::weight_gradient;
  return in_backward ? OperatorPass::again : OperatorPass::forward;
}

}  // namespace

std::vector<OperatorTime> GraphPricer::operator_times(int micro_batch, const Recompute& choice) {
  cost_for(micro_batch);
  std::vector<OperatorTime> all;
  const auto add = [&](NodeId id, bool in_backward) {
    const auto i = static_cast<std::size_t>(id);
    const Node& node = sharded_.nodes[i];
    OperatorTime time;
    time.name = node.op >= 0 ? graph_.op(node.op).name : "stream";
    time.pass = pass_of(node.phase, in_backward);
    time.calls = 1;
    if (costs_[i].compute > Seconds{}) {
      time.family = family_of(node_question(context_, sharded_, node));
      time.seconds = costs_[i].compute;
      all.push_back(time);
    }
    if (costs_[i].communication > Seconds{} && traffic_[i] >= 0) {
      time.communicates = true;
      time.traffic = static_cast<Traffic>(traffic_[i]);
      time.seconds = costs_[i].communication;
      all.push_back(time);
    }
  };
  for (NodeId n : forward_) add(n, false);
  for (NodeId n : derived_.plan(choice).order) add(n, true);
  return all;
}

std::vector<OperatorTime> Pricer::operator_times(const Layout& layout, int stage) {
  const ShapePrice& known = shape(shape_of(layout), layout.recompute);
  const PipelineShape pipeline(*this, known, layout);
  const Route& route = pipeline.route();
  ShapePricer graphs = shape_pricer(shape_of(layout));
  const double passes = static_cast<double>(layout.micro_batches(workload_.global_batch)) / route.routes();
  std::vector<OperatorTime> all;
  const auto add = [&](std::size_t graph, const std::string& name, int count) {
    if (count == 0) return;
    // Embedding and head never run again (shape_price.h).
    const Recompute choice = graph < 2 ? Recompute{} : layout.recompute;
    for (OperatorTime& time : graphs.of_graph(graph).operator_times(layout.micro_batch, choice)) {
      time.graph = name;
      time.calls = count * passes;
      time.seconds = time.calls * time.seconds;
      all.push_back(std::move(time));
    }
  };
  const auto classes = static_cast<int>(graphs_.layer_classes.size());
  std::vector<int> layers(static_cast<std::size_t>(classes));
  int first = 0, last = 0;
  for (int chunk = 0; chunk < route.chunks(); ++chunk) {
    const int part = route.part_of({stage, chunk});
    for (int c = 0; c < classes; ++c) layers[static_cast<std::size_t>(c)] += pipeline.layers_in(part, c);
    first += part == 0;
    last += part + 1 == route.parts();
  }
  add(0, "embedding", first);
  for (int c = 0; c < classes; ++c)
    add(static_cast<std::size_t>(2 + c), classes == 1 ? "layer" : "layer class " + std::to_string(c),
        layers[static_cast<std::size_t>(c)]);
  add(1, "head", last);
  return all;
}

}  // namespace shardwright
