#include "planner/cost/row_traffic.h"

#include "planner/cost/collective_cost.h"
#include "planner/cost/expert_routing.h"
#include "planner/shard/declare.h"

namespace shardwright {
namespace {

RankGroup expert_group(const Mesh& mesh) { return mesh.group(set_of(mesh.tuple("ep"))); }

}  // namespace

double row_crossing(const Model& model, const Layout& layout, const Mesh& mesh, const Machine& machine) {
  const bool once_a_node = layout.dispatcher == Dispatcher::deepep || layout.dispatcher == Dispatcher::hybridep;
  if (!once_a_node || layout.expert == 1) return 1;
  const std::int64_t unit = machine.links.front().gpus;
  if (unit == 0) return 1;
  const RankGroup group = expert_group(mesh);
  const std::int64_t nodes = group.size() / group.members_within(unit);
  return distinct_parts(model.n_routed_experts, model.num_experts_per_tok, nodes, model.n_group, model.topk_group) /
         static_cast<double>(model.num_experts_per_tok);
}

Dispatcher faster_dispatcher(const Model& model, const Layout& layout, const Machine& machine) {
  if (layout.expert == 1) return Dispatcher::all_to_all;
  const auto refined = stage_mesh(layout, model);
  const Mesh* mesh = std::get_if<Mesh>(&refined);
  if (!mesh) return Dispatcher::all_to_all;  // the layout is impossible
  Layout once = layout;
  once.dispatcher = Dispatcher::deepep;
  CollectiveSpec rows{CollectiveKind::all_to_all, 1_GiB, expert_group(*mesh)};  // latencies are those of both
  const Seconds every_copy = collective_cost(rows, machine).time;
  rows.crossing = row_crossing(model, once, *mesh, machine);
  return collective_cost(rows, machine).time < every_copy ? Dispatcher::deepep : Dispatcher::all_to_all;
}

}  // namespace shardwright
