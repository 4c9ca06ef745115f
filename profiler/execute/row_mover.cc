// Routed rows on their way: only chosen ones exist, so who gets how many is known when the router has spoken.
#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "planner/shard/blocks.h"
#include "profiler/execute/mover.h"

namespace shardwright {
namespace {

/// Routed tensors are [expert, batch, sequence, ...].
constexpr int kRowDims = 3;

struct RowShape {
  std::int64_t experts, batch, sequence;  // whole
  std::int64_t index(std::int64_t place, int dim) const {
    const std::int64_t tokens = batch * sequence;
    if (dim == 0) return place / tokens;
    return dim == 1 ? place % tokens / sequence : place % sequence;
  }
  std::int64_t extent(int dim) const { return dim == 0 ? experts : dim == 1 ? batch : sequence; }
};

RowShape shape_of(const RunGraph& graph, const DimList& dims) {
  return {graph.extents[dims[0]], graph.extents[dims[1]], graph.extents[dims[2]]};
}

/// Elements of one row of a block.
std::int64_t width_of(const RunGraph& graph, const DimList& dims, const Placement& p, const Mesh& mesh) {
  const auto n = block_extents(dims, graph.extents, p, mesh);
  return product({n.begin() + kRowDims, n.end()});
}

std::vector<std::int64_t> in_order_of(const std::vector<std::int64_t>& places) {
  std::vector<std::int64_t> order(places.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return places[static_cast<std::size_t>(a)] < places[static_cast<std::size_t>(b)];
  });
  return order;
}

View view_of(std::vector<std::int64_t>& numbers) {
  return {numbers.data(), static_cast<std::int64_t>(numbers.size()), Element::int64};
}
In view_of(const std::vector<std::int64_t>& numbers) {
  return {numbers.data(), static_cast<std::int64_t>(numbers.size()), Element::int64};
}

}  // namespace

Block Mover::ids(const std::vector<std::int64_t>& numbers) {
  Block block = memory_.make(static_cast<std::int64_t>(numbers.size()), Element::int64);
  operators_.upload(std::vector<double>(numbers.begin(), numbers.end()), block.view);
  return block;
}

Block Mover::take_rows(const Block& from, const std::vector<std::int64_t>& which, std::int64_t width) {
  Block to = memory_.make(static_cast<std::int64_t>(which.size()) * width, from.view.element);
  if (!which.empty()) operators_.gather(ids(which).view, from.view, 0, to.view);
  return to;
}

std::shared_ptr<const RowList> Mover::row_list(const RunGraph& graph, const DimList& dims, const Placement& placement,
                                               std::vector<std::int64_t> places) {
  const RowShape shape = shape_of(graph, dims);
  const auto n = block_extents(dims, graph.extents, placement, programme_.mesh);
  const auto begin = block_begin(dims, graph.extents, placement, programme_.mesh, line_);
  auto list = std::make_shared<RowList>();
  const std::size_t count = places.size();
  list->per_expert.assign(static_cast<std::size_t>(n[0]), 0);
  std::vector<std::int64_t> numbers(3 * count);
  for (std::size_t row = 0; row < count; ++row) {
    const std::int64_t place = places[row], expert = shape.index(place, 0) - begin[0];
    const std::int64_t token = (shape.index(place, 1) - begin[1]) * n[2] + shape.index(place, 2) - begin[2];
    if (expert < 0 || expert >= n[0] || token < 0 || token >= n[1] * n[2])
      throw std::logic_error("a row of another rank's block");
    ++list->per_expert[static_cast<std::size_t>(expert)];
    numbers[row] = token;
    numbers[count + row] = expert;
    numbers[2 * count + row] = token * n[0] + expert;
  }
  list->places = std::move(places);
  const Block all = ids(numbers);
  list->owner = all.owner;
  const auto rows = static_cast<std::int64_t>(count);
  list->token = all.view.part(0, rows);
  list->expert = all.view.part(rows, rows);
  list->gate = all.view.part(2 * rows, rows);
  return list;
}

std::shared_ptr<const RowList> Mover::rows_of_mask(const RunGraph& graph, const DimList& dims,
                                                   const Placement& placement, In mask) {
  const RowShape shape = shape_of(graph, dims);
  const auto n = block_extents(dims, graph.extents, placement, programme_.mesh);
  const auto begin = block_begin(dims, graph.extents, placement, programme_.mesh, line_);
  const std::vector<std::int64_t> counts = operators_.rows_per_expert(mask, n[0]);
  const std::int64_t rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  std::vector<std::int64_t> places;
  if (rows > 0) {
    const Block tokens = memory_.make(rows, Element::int64);
    operators_.expert_rows(mask, n[0], tokens.view);
    std::size_t expert = 0;
    std::int64_t left = counts[0];
    for (double number : operators_.download(tokens.view)) {
      while (left == 0) left = counts[++expert];
      --left;
      const auto token = static_cast<std::int64_t>(number);
      const std::int64_t b = begin[1] + token / n[2], s = begin[2] + token % n[2];
      places.push_back(((begin[0] + static_cast<std::int64_t>(expert)) * shape.batch + b) * shape.sequence + s);
    }
  }
  // A rank that is alone has made up masks of tokens that are not its own.
  if (drawn_) places = drawn_places(graph, dims, placement);
  return row_list(graph, dims, placement, std::move(places));
}

// ---- a rank that is alone ----

/// Of a block, the rows that it would hold.
const std::vector<std::int64_t>& Mover::drawn_places(const RunGraph& graph, const DimList& dims,
                                                     const Placement& placement) {
  const RowShape shape = shape_of(graph, dims);
  const auto n = block_extents(dims, graph.extents, placement, programme_.mesh);
  const auto begin = block_begin(dims, graph.extents, placement, programme_.mesh, line_);
  std::vector<std::int64_t> key = {shape.experts, shape.batch, shape.sequence};
  key.insert(key.end(), n.begin(), n.begin() + kRowDims);
  key.insert(key.end(), begin.begin(), begin.begin() + kRowDims);
  const auto known = drawn_places_.find(key);
  if (known != drawn_places_.end()) return known->second;
  std::vector<std::int64_t>& places = drawn_places_[key];
  std::vector<std::int64_t> experts;
  for (std::int64_t b = begin[1]; b < begin[1] + n[1]; ++b)
    for (std::int64_t s = begin[2]; s < begin[2] + n[2]; ++s) {
      drawn_->of_token(b * shape.sequence + s, experts);
      for (std::int64_t e : experts)
        if (e >= begin[0] && e < begin[0] + n[0]) places.push_back((e * shape.batch + b) * shape.sequence + s);
    }
  std::sort(places.begin(), places.end());
  return places;
}

void Mover::replace_routes(const RunGraph& graph, const DimList& dims, const Placement& placement, View gate,
                           View mask) {
  if (!drawn_) return;
  const During during(recorder_, {Doing::Kind::receive, "routes of the load", {}});
  const auto n = block_extents(dims, graph.extents, placement, programme_.mesh);
  const auto begin = block_begin(dims, graph.extents, placement, programme_.mesh, line_);
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  std::vector<double> masks(at(mask.elements), 0.0);
  std::vector<std::int64_t> experts;
  for (std::int64_t b = 0; b < n[0]; ++b)
    for (std::int64_t s = 0; s < n[1]; ++s) {
      drawn_->of_token((begin[0] + b) * graph.extents[dims[1]] + begin[1] + s, experts);
      for (std::int64_t e : experts)
        if (e >= begin[2] && e < begin[2] + n[2]) masks[at((b * n[1] + s) * n[2] + e - begin[2])] = 1;
    }
  operators_.upload(masks, mask);
  for (double& x : masks) x /= static_cast<double>(drawn_->chosen());
  operators_.upload(masks, gate);
}

/// However its rows travel, those that lie here afterwards are known. Its steps are told.
Block Mover::drawn_rows(const RunGraph& graph, const Node& node, const Block& from, const Where& where) {
  const Placement& to = graph.sharded.value(node.outputs[0]).placement;
  const DimList& dims = graph.graph.tensor(graph.sharded.value(node.outputs[0]).tensor).dims;
  std::vector<Doing> steps;
  for (int k = 0; k < node.steps.count; ++k) {
    const ReshardSteps::Step& step = node.steps.steps[k];
    const auto members = static_cast<int>(programme_.mesh.size_of(step.axes));
    const std::string name = std::string(name_of(step.kind)) + " " + where.name;
    if (step.kind != ReshardStep::slice)
      steps.push_back({Doing::Kind::collective, name, where, step.kind, members, {}});
  }
  for (std::size_t k = 0; k + 1 < steps.size(); ++k) const During during(recorder_, steps[k]);
  const During during(recorder_, steps.back());
  const auto list = row_list(graph, dims, to, drawn_places(graph, dims, to));
  Block rows = memory_.make(list->count() * width_of(graph, dims, to, programme_.mesh), from.view.element);
  const std::vector<std::int64_t> all = {from.view.elements}, wanted = {rows.view.elements};
  make_lone_communicator(0, 1, operators_)->all_to_all(from.view, all, rows.view, wanted);
  rows.rows = list;
  return rows;
}

/// Terms of a sum of rows are of the same rows.
void Mover::check_same_rows(const std::vector<std::int64_t>& places, Communicator& group, const std::string& name) {
  std::uint64_t mixed = places.size();
  for (std::int64_t place : places) mixed = (mixed ^ static_cast<std::uint64_t>(place)) * 0x100000001b3u;
  const std::vector<std::int64_t> own = {static_cast<std::int64_t>(mixed)};
  std::vector<std::int64_t> all(static_cast<std::size_t>(group.size()));
  group.all_gather(view_of(own), view_of(all));
  for (std::int64_t other : all)
    if (other != own[0]) throw std::logic_error("ranks add up different rows: " + name);
}

/// A step of a reshard of routed rows. Where a row goes is a matter of the axes that the step is about: see
/// transfer_steps(). A reduce-scatter is an exchange whose rows are added up, an all-gather one of equal parts, the
/// shorter ones padded.
Block Mover::step_rows(const ReshardSteps::Step& step, const RunGraph& graph, const Node& node, const Block& from,
                       const Where& where) {
  const Value &before = graph.sharded.value(node.inputs[0]), &after = graph.sharded.value(node.outputs[0]);
  const DimList& dims = graph.graph.tensor(after.tensor).dims;
  const RowShape shape = shape_of(graph, dims);
  for (int i = kRowDims; i < dims.size(); ++i)
    if (!(before.placement.dims[i] == after.placement.dims[i]))
      throw std::logic_error("rows of experts are cut along a row: " + where.name);
  const std::int64_t width = width_of(graph, dims, before.placement, programme_.mesh);
  const std::string name = std::string(name_of(step.kind)) + " " + where.name;
  const std::vector<std::int64_t>& places = from.rows->places;
  const auto goes_to = [&](std::int64_t row_place, std::int64_t member) {
    for (int d = 0; d < kRowDims; ++d)
      if (!lies_at(shape.index(row_place, d), shape.extent(d), after.placement.dims[d], step.axes, programme_.mesh,
                   member))
        return false;
    return true;
  };
  const auto arrived = [&](Block rows, std::vector<std::int64_t> at) {
    // Between the steps of a reshard rows need not make up a block.
    const bool last = step.kind == node.steps.steps[node.steps.count - 1].kind;
    if (last) {
      rows.rows = row_list(graph, dims, after.placement, std::move(at));
    } else {
      auto list = std::make_shared<RowList>();
      list->places = std::move(at);
      rows.rows = list;
    }
    return rows;
  };
  if (step.kind == ReshardStep::slice) {
    std::vector<std::int64_t> kept, at;
    for (std::size_t row = 0; row < places.size(); ++row) {
      if (!goes_to(places[row], line_)) continue;
      kept.push_back(static_cast<std::int64_t>(row));
      at.push_back(places[row]);
    }
    return arrived(take_rows(from, kept, width), std::move(at));
  }
  if (step.kind == ReshardStep::all_reduce) {
    check_same_rows(places, groups_.over(step.axes), name);
    Block sum = copy(from);
    all_reduce(sum, step.axes, Reduction::sum, where);
    return arrived(std::move(sum), places);
  }

  Communicator& group = groups_.over(step.axes);
  const auto members = members_over(programme_.mesh, line_, step.axes);
  const std::size_t n = members.size();
  const Fault::Kind wrong = fault_at(name);
  const std::int64_t row_bytes = width * bytes_of(from.view.element);
  const During during(recorder_, {Doing::Kind::collective,
                                  name,
                                  where,
                                  step.kind,
                                  static_cast<int>(n),
                                  {static_cast<std::int64_t>(places.size()) * row_bytes *
                                   (step.kind == ReshardStep::all_gather ? static_cast<std::int64_t>(n) : 1)}});
  std::vector<std::int64_t> sent(n, 0), received(n, 0), in_places;
  Block in;
  if (step.kind == ReshardStep::all_gather) {
    std::vector<std::int64_t> counts(n);
    const std::vector<std::int64_t> own = {static_cast<std::int64_t>(places.size())};
    group.all_gather(view_of(own), view_of(counts));
    const std::int64_t most = *std::max_element(counts.begin(), counts.end());
    std::vector<std::int64_t> padded = places, all(static_cast<std::size_t>(most) * n);
    padded.resize(static_cast<std::size_t>(most), -1);
    group.all_gather(view_of(padded), view_of(all));
    const Block part = memory_.make(most * width, from.view.element);
    operators_.fill(part.view, 0);
    if (!places.empty()) operators_.cast(from.view, part.view.part(0, from.view.elements));
    in = memory_.make(most * width * static_cast<std::int64_t>(n), from.view.element);
    group.all_gather(part.view, in.view);
    received.assign(n, most);
    in_places = std::move(all);
  } else {
    std::vector<std::int64_t> order, out_places;
    for (std::size_t m = 0; m < n; ++m) {
      for (std::size_t row = 0; row < places.size(); ++row) {
        if (!goes_to(places[row], members[m])) continue;
        order.push_back(static_cast<std::int64_t>(row));
        out_places.push_back(places[row]);
        ++sent[m];
      }
    }
    const std::vector<std::int64_t> ones(n, 1);
    group.all_to_all(view_of(sent), ones, view_of(received), ones);
    const std::int64_t total = std::accumulate(received.begin(), received.end(), std::int64_t{0});
    in_places.resize(static_cast<std::size_t>(total));
    group.all_to_all(view_of(out_places), sent, view_of(in_places), received);
    const Block out = take_rows(from, order, width);
    in = memory_.make(total * width, from.view.element);
    std::vector<std::int64_t> send_elements, receive_elements;
    for (std::size_t m = 0; m < n; ++m) {
      send_elements.push_back(sent[m] * width);
      receive_elements.push_back(received[m] * width);
    }
    group.all_to_all(out.view, send_elements, in.view, receive_elements);
  }
  if (wrong != Fault::Kind::none)
    spoil_rows(in, received, width, static_cast<std::size_t>(group.rank()), wrong,
               step.kind == ReshardStep::reduce_scatter);

  std::vector<std::int64_t> order = in_order_of(in_places), at;
  std::erase_if(order, [&](std::int64_t row) { return in_places[static_cast<std::size_t>(row)] < 0; });
  for (std::int64_t row : order)
    if (at.empty() || at.back() != in_places[static_cast<std::size_t>(row)])
      at.push_back(in_places[static_cast<std::size_t>(row)]);
  if (step.kind != ReshardStep::reduce_scatter) return arrived(take_rows(in, order, width), std::move(at));
  std::vector<std::int64_t> target(in_places.size());
  for (std::size_t row = 0; row < in_places.size(); ++row)
    target[row] = std::lower_bound(at.begin(), at.end(), in_places[row]) - at.begin();
  Block sum = memory_.make(static_cast<std::int64_t>(at.size()) * width, from.view.element);
  if (!at.empty()) operators_.gather_gradient(ids(target).view, in.view, 0, sum.view);
  return arrived(std::move(sum), std::move(at));
}

/// What a fault makes of the rows that came in, member after member.
void Mover::spoil_rows(const Block& in, const std::vector<std::int64_t>& received, std::int64_t width, std::size_t own,
                       Fault::Kind wrong, bool adds) {
  std::int64_t first = 0;
  for (std::size_t m = 0; m < received.size(); ++m) {
    const View part = in.view.part(first, received[m] * width);
    first += received[m] * width;
    if (m == own || part.empty()) continue;
    if (wrong == Fault::Kind::drop) operators_.fill(part, adds ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    if (wrong == Fault::Kind::operation || wrong == Fault::Kind::misroute) {  // the rows in another order
      const Block copied = copy({part, in.owner, nullptr});
      for (std::int64_t row = 0; row < received[m]; ++row)
        operators_.cast(copied.view.part((received[m] - 1 - row) * width, width), part.part(row * width, width));
    }
  }
}

}  // namespace shardwright
