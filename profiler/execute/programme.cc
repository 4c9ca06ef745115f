#include "profiler/execute/programme.h"

#include <algorithm>
#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "models/transformer.h"
#include "planner/pipeline/pipeline_shape.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

/// Weight gradients' nodes, but for those that make what an input gradient needs.
std::vector<char> deferred_nodes(const ShardedGraph& sharded) {
  std::vector<char> deferred(sharded.nodes.size(), false);
  for (std::size_t n = sharded.forward_nodes; n < sharded.nodes.size(); ++n)
    deferred[n] = sharded.nodes[n].phase == Phase::weight_gradient;
  for (std::size_t n = sharded.nodes.size(); n-- > sharded.forward_nodes;) {
    if (deferred[n]) continue;
    for (ValueId v : sharded.nodes[n].inputs)
      if (const NodeId maker = sharded.value(v).maker; maker >= 0) deferred[static_cast<std::size_t>(maker)] = false;
  }
  return deferred;
}

RunGraph run_graph(OpGraph graph, std::vector<std::int64_t> extents, const Mesh& mesh, Declarations says,
                   const Recompute& recompute) {
  RunGraph g = {std::move(graph), std::move(extents), std::move(says), {}, {}, {}, {}, {}, {}};
  g.sharded = shard(g.graph, g.extents, mesh, g.says);
  g.backward = plan_backward(g.graph, g.sharded, recompute);
  const std::size_t values = g.sharded.values.size();
  g.saved.assign(values, false);
  for (ValueId v : g.backward.saved) g.saved[static_cast<std::size_t>(v)] = true;
  g.deferred = deferred_nodes(g.sharded);
  g.forward_reads.assign(values, 0);
  g.backward_reads.assign(values, 0);
  for (std::size_t n = 0; n < g.sharded.forward_nodes; ++n)
    for (ValueId v : g.sharded.nodes[n].inputs) ++g.forward_reads[static_cast<std::size_t>(v)];
  for (NodeId n : g.backward.order)
    for (ValueId v : g.sharded.nodes[static_cast<std::size_t>(n)].inputs)
      ++g.backward_reads[static_cast<std::size_t>(v)];
  return g;
}

/// Extents that do not divide by what cuts them. Throws std::invalid_argument.
void check_divisible(const RunGraph& g, const Mesh& mesh) {
  for (const Value& v : g.sharded.values) {
    const DimList& dims = g.graph.tensor(v.tensor).dims;
    for (int i = 0; i < dims.size(); ++i)
      if (const std::int64_t parts = mesh.size_of(v.placement.dims[i]); g.extents[dims[i]] % parts != 0)
        throw std::invalid_argument(g.graph.dims()[dims[i]].name + " " + std::to_string(g.extents[dims[i]]) +
                                    " does not divide by " + std::to_string(parts) + " ranks");
  }
}

/// Everything on one rank.
Declarations nothing_sharded(const OpGraph& graph) {
  Declarations says;
  says.home.resize(graph.dims().size());
  says.stream.resize(graph.dims().size());
  says.weight_use.resize(graph.tensors().size());
  says.shard_axes.assign(graph.tensors().size(), 0);
  return says;
}

std::vector<std::vector<Programme::Instance>> parts_of(const ModelGraphs& graphs, const std::vector<int>& layers) {
  std::vector<std::vector<Programme::Instance>> parts(layers.size());
  const auto classes = static_cast<int>(graphs.layer_classes.size());
  parts.front().push_back({classes, -1});
  std::size_t layer = 0;
  for (std::size_t part = 0; part < layers.size(); ++part)
    for (int i = 0; i < layers[part]; ++i, ++layer)
      parts[part].push_back({graphs.class_of_layer[layer], static_cast<std::int64_t>(layer)});
  parts.back().push_back({classes + 1, -1});
  return parts;
}

std::vector<OpGraph> all_of(ModelGraphs graphs) {
  std::vector<OpGraph> all = std::move(graphs.layer_classes);
  all.push_back(std::move(graphs.embedding));
  all.push_back(std::move(graphs.head));
  return all;
}

/// Cut over a stage's ranks: the layer classes, then the embedding, then the head.
std::vector<RunGraph> graphs_of(const Model& model, const Layout& layout, const Workload& workload, const Mesh& mesh) {
  ModelGraphs graphs = model_graphs(model, graph_options(workload));
  const std::size_t classes = graphs.layer_classes.size();
  std::vector<RunGraph> result;
  for (OpGraph& graph : all_of(std::move(graphs))) {
    std::vector<std::int64_t> extents = layout_extents(graph, layout, workload.sequence_length);
    Declarations says = declare(graph, layout, mesh);
    says.gather_again = workload.memory.gather_again;
    // Embedding and head are not recomputed: see PipelineShape.
    const Recompute recompute = result.size() < classes ? layout.recompute : Recompute{};
    result.push_back(run_graph(std::move(graph), std::move(extents), mesh, std::move(says), recompute));
  }
  return result;
}

Mesh mesh_of(const Layout& layout, const Model& model) {
  auto mesh = stage_mesh(layout, model);
  if (const std::string* fault = std::get_if<std::string>(&mesh)) throw std::invalid_argument(*fault);
  return std::get<Mesh>(mesh);
}

void write(std::ostream& out, const Placement& p, int rank) {
  for (int i = 0; i < rank; ++i) {
    out << '[';
    for (AxisId a : p.dims[i]) out << int{a} << ' ';
    out << ']';
  }
  out << '+' << p.partial;
}

/// All that decides what is computed and moved.
std::string written(const RunGraph& g) {
  std::ostringstream out;
  for (std::size_t i = 0; i < g.extents.size(); ++i) out << g.graph.dims()[i].name << g.extents[i] << ' ';
  for (const Operator& op : g.graph.ops())
    out << name_of(op.kind) << ' ' << op.name << ' ' << op.window << ' ' << op.chunk << ' ' << op.score_width << '\n';
  for (const Value& v : g.sharded.values) {
    out << g.graph.tensor(v.tensor).name << (v.gradient ? " d " : " ");
    write(out, v.placement, g.graph.tensor(v.tensor).dims.size());
    out << '\n';
  }
  for (const Node& n : g.sharded.nodes) {
    out << static_cast<int>(n.kind) << ' ' << n.op << ' ' << int{n.gradient} << ' ' << n.ring;
    for (ValueId v : n.inputs) out << ' ' << v;
    out << " >";
    for (ValueId v : n.outputs) out << ' ' << v;
    for (int k = 0; k < n.steps.count; ++k) out << ' ' << name_of(n.steps.steps[k].kind) << n.steps.steps[k].axes;
    out << '\n';
  }
  for (NodeId n : g.backward.order) out << n << ' ';
  return out.str();
}

}  // namespace

std::string graph_digest(const Model& model, const Layout& layout, const Workload& workload) {
  const Mesh mesh = mesh_of(layout, model);
  // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/.
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&](const std::string& text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  };
  for (const Mesh::Axis& axis : mesh.axes()) mix(std::to_string(axis.size) + "*" + std::to_string(axis.stride) + " ");
  for (const RunGraph& g : graphs_of(model, layout, workload, mesh)) mix(written(g));
  std::ostringstream digits;
  digits << std::hex << std::setw(16) << std::setfill('0') << hash;
  return digits.str();
}

std::int64_t Programme::rank_of(int stage, std::int64_t line) const {
  if (layout.rank_order == RankOrder::tp_cp_dp_pp) return stage * mesh.ranks() + line;
  const std::int64_t inner = std::int64_t{layout.tensor} * layout.context;
  return line % inner + inner * (stage + pipeline.stages * (line / inner));
}
int Programme::stage_of(std::int64_t rank) const {
  if (layout.rank_order == RankOrder::tp_cp_dp_pp) return static_cast<int>(rank / mesh.ranks());
  const std::int64_t inner = std::int64_t{layout.tensor} * layout.context;
  return static_cast<int>(rank / inner % pipeline.stages);
}
std::int64_t Programme::line_of(std::int64_t rank) const {
  if (layout.rank_order == RankOrder::tp_cp_dp_pp) return rank % mesh.ranks();
  const std::int64_t inner = std::int64_t{layout.tensor} * layout.context;
  return rank % inner + inner * (rank / inner / pipeline.stages);
}

std::string Programme::weight_name(const Instance& instance, TensorId tensor) const {
  const std::string& name = graphs[static_cast<std::size_t>(instance.graph)].graph.tensor(tensor).name;
  return instance.layer < 0 ? name : "layers." + std::to_string(instance.layer) + "." + name;
}

std::vector<int> Programme::stages_with(const std::string& weight) const {
  std::vector<int> stages;
  for (int stage = 0; stage < pipeline.stages; ++stage) {
    bool has = false;
    for (int chunk = 0; chunk < route.chunks(); ++chunk)
      for (const Instance& instance : parts[static_cast<std::size_t>(route.part_of({stage, chunk}))])
        for (const WeightState& w : graphs[static_cast<std::size_t>(instance.graph)].sharded.weights)
          has = has || weight_name(instance, w.tensor) == weight;
    if (has) stages.push_back(stage);
  }
  return stages;
}

Programme make_programme(const Model& model, const Layout& layout, const Workload& workload,
                         const std::vector<Order>& orders) {
  if (workload.dropout) throw std::invalid_argument("the executor has no dropout");
  if (workload.capacity_factor > 0) throw std::invalid_argument("the executor drops no rows of experts");
  const Pipeline pipeline = pipeline_of(layout, workload.global_batch);
  check(pipeline);
  Programme p = {model,
                 layout,
                 workload.sequence_length,
                 workload.global_batch,
                 mesh_of(layout, model),
                 pipeline,
                 Route(pipeline),
                 {},
                 {},
                 {}};
  p.parts = parts_of(model_graphs(model, graph_options(workload)), layout.layers_per_chunk);
  p.graphs = graphs_of(model, layout, workload, p.mesh);
  for (const RunGraph& g : p.graphs) check_divisible(g, p.mesh);
  for (const Order& order : orders) p.tasks.push_back(tasks_of(order));
  if (static_cast<int>(p.tasks.size()) != pipeline.stages)
    throw std::invalid_argument("a pipeline of " + std::to_string(pipeline.stages) +
                                " stages needs as many orders, got " + std::to_string(p.tasks.size()));
  return p;
}

Programme at_length(const Programme& p, std::int64_t tokens) {
  if (p.route.routes() > 1) throw std::invalid_argument("inference has one way through the pipeline");
  Programme step = p;
  step.sequence_length = tokens;
  step.graphs.clear();
  for (const RunGraph& g : p.graphs) {
    std::vector<std::int64_t> extents = g.extents;
    for (const char* name : {"sequence", "key_sequence"})
      if (const int d = g.graph.find_dim(name); d >= 0) extents[static_cast<std::size_t>(d)] = tokens;
    step.graphs.push_back(run_graph(g.graph, std::move(extents), p.mesh, g.says, {}));
    std::fill(step.graphs.back().saved.begin(), step.graphs.back().saved.end(), false);
    check_divisible(step.graphs.back(), p.mesh);
  }
  return step;
}

Programme on_one_rank(const Programme& p) {
  Programme one = {p.model, {}, p.sequence_length, p.global_batch, Mesh(), {}, Route(Pipeline{}), {}, {}, {}};
  one.pipeline.micro_batches = p.pipeline.micro_batches;
  one.route = Route(one.pipeline);
  one.parts.resize(1);
  for (const auto& part : p.parts) one.parts[0].insert(one.parts[0].end(), part.begin(), part.end());
  one.layout.micro_batch = p.layout.micro_batch * p.layout.data;
  one.layout.layers_per_chunk = {static_cast<int>(p.model.num_hidden_layers)};
  for (const RunGraph& g : p.graphs)
    one.graphs.push_back(run_graph(g.graph, g.extents, one.mesh, nothing_sharded(g.graph), {}));
  one.tasks = {tasks_of(stage_order(one.pipeline, 0))};
  return one;
}

}  // namespace shardwright
