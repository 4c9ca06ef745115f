#include "profiler/execute/mover.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

/// Calls `visit` with stretches of one length and at one distance, as many at a time as follow each other: how many,
/// where the first begins, the distance, the length, and how many numbers came before.
template <typename Visit>
void for_each_box(const std::vector<Stretch>& stretches, Visit visit) {
  std::int64_t at = 0;
  for (std::size_t i = 0; i < stretches.size();) {
    const Stretch first = stretches[i];
    std::size_t end = i + 1;
    const std::int64_t distance = end < stretches.size() ? stretches[end].first - first.first : first.count;
    while (end < stretches.size() && stretches[end].count == first.count &&
           stretches[end].first - stretches[end - 1].first == distance)
      ++end;
    const auto count = static_cast<std::int64_t>(end - i);
    visit(count, first.first, distance, first.count, at);
    at += count * first.count;
    i = end;
  }
}

/// Stretches of a block, one after the other.
void pack(Operators& operators, const View& from, const std::vector<Stretch>& stretches, View to) {
  for_each_box(stretches, [&](auto count, auto first, auto distance, auto length, auto at) {
    const std::int64_t span = (count - 1) * distance + length;
    operators.copy_box({from.part(first, span), {distance, 1}}, {to.part(at, count * length), {length, 1}},
                       {count, length});
  });
}
/// And back.
void unpack(Operators& operators, const View& from, const std::vector<Stretch>& stretches, View to) {
  for_each_box(stretches, [&](auto count, auto first, auto distance, auto length, auto at) {
    const std::int64_t span = (count - 1) * distance + length;
    operators.copy_box({from.part(at, count * length), {length, 1}}, {to.part(first, span), {distance, 1}},
                       {count, length});
  });
}

/// Whether pieces lie one behind the other already.
bool in_order(const std::vector<std::vector<Stretch>>& pieces) {
  std::int64_t at = 0;
  for (const auto& piece : pieces)
    for (const Stretch& s : piece) {
      if (s.first != at) return false;
      at += s.count;
    }
  return true;
}

std::vector<std::int64_t> counts_of(const std::vector<std::vector<Stretch>>& pieces) {
  std::vector<std::int64_t> counts;
  for (const auto& piece : pieces) counts.push_back(elements_of(piece));
  return counts;
}

Reduction reduction_of(Combine combine, bool wrong) {
  return (combine == Combine::max) != wrong ? Reduction::max : Reduction::sum;
}

/// What stands where nothing came: no number, no expert, no id.
double missing(Element element) {
  if (element == Element::byte) return 0;
  return element == Element::int64 ? -1 : std::numeric_limits<double>::quiet_NaN();
}

std::size_t own_place(const TransferStep& step, std::int64_t line) {
  return static_cast<std::size_t>(std::find(step.members.begin(), step.members.end(), line) - step.members.begin());
}

}  // namespace

Mover::Mover(const Programme& programme, std::int64_t line, const Groups& groups, Operators& operators, Memory& memory,
             Recorder& recorder, const Fault& fault, const DrawnExperts* drawn)
    : programme_(programme),
      line_(line),
      groups_(groups),
      operators_(operators),
      memory_(memory),
      recorder_(recorder),
      fault_(fault),
      drawn_(drawn) {}

const std::vector<TransferStep>& Mover::steps_of(const void* key, const RunGraph& graph, const DimList& dims,
                                                 const Placement& from, const Placement& to,
                                                 const ReshardSteps& steps) {
  const auto known = steps_.find(key);
  if (known != steps_.end()) return known->second;
  return steps_[key] = transfer_steps(dims, graph.extents, programme_.mesh, from, to, steps, line_);
}

Block Mover::copy(const Block& block) {
  Block to = memory_.make(block.view.elements, block.view.element);
  operators_.cast(block.view, to.view);
  to.rows = block.rows;
  return to;
}

Block Mover::reshard(const RunGraph& graph, const Node& node, Block block, const Where& where) {
  const Value& to = graph.sharded.value(node.outputs[0]);
  const Tensor& tensor = graph.graph.tensor(to.tensor);
  const Combine combine = to.gradient ? Combine::sum : tensor.combine;
  if (block.rows) {
    const auto moves = [](const ReshardSteps::Step& s) { return s.kind != ReshardStep::slice; };
    if (drawn_ && std::any_of(node.steps.steps, node.steps.steps + node.steps.count, moves))
      return drawn_rows(graph, node, block, where);
    for (int k = 0; k < node.steps.count; ++k) block = step_rows(node.steps.steps[k], graph, node, block, where);
    return block;
  }
  const Placement& at = graph.sharded.value(node.inputs[0]).placement;
  for (const TransferStep& s : steps_of(&node, graph, tensor.dims, at, to.placement, node.steps))
    block = step(s, std::move(block), combine, where);
  return block;
}

Block Mover::step(const TransferStep& s, Block from, Combine combine, const Where& where) {
  const std::string name = std::string(name_of(s.kind)) + " " + where.name;
  const Element element = from.view.element;
  if (s.kind == ReshardStep::slice) {
    Block to = memory_.make(s.next_elements, element);
    pack(operators_, from.view, s.send[0], to.view);
    return to;
  }
  const Fault::Kind wrong = fault_at(name);
  const Reduction reduction = reduction_of(combine, wrong == Fault::Kind::operation);
  if (s.kind == ReshardStep::all_reduce) {
    Block to = from.owner.use_count() == 1 ? std::move(from) : copy(from);
    all_reduce(to, s.axes, reduction_of(combine, false), where);
    return to;
  }
  Communicator& group = groups_.over(s.axes);
  const std::size_t own = own_place(s, line_), members = s.members.size();
  const During during(recorder_, {Doing::Kind::collective,
                                  name,
                                  where,
                                  s.kind,
                                  static_cast<int>(members),
                                  {std::max(s.elements, s.next_elements) * bytes_of(element)}});
  if (s.kind == ReshardStep::reduce_scatter && !s.equal)
    throw std::logic_error("a reduce-scatter of unequal pieces: " + name);
  const bool gathers = s.kind == ReshardStep::all_gather && s.equal;
  Block sent = from;
  auto send = s.send;
  if (wrong == Fault::Kind::misroute && s.kind == ReshardStep::reduce_scatter)
    for (std::size_t m = members; m-- > 1;) send[m] = send[m - 1];
  if (!gathers && !in_order(send)) {
    std::int64_t total = 0;
    for (std::int64_t n : counts_of(send)) total += n;
    sent = memory_.make(total, element);
    std::int64_t at = 0;
    for (const auto& piece : send) {
      pack(operators_, from.view, piece, sent.view.part(at, elements_of(piece)));
      at += elements_of(piece);
    }
  }
  Block to = memory_.make(s.next_elements, element);
  if (s.kind == ReshardStep::reduce_scatter) {
    if (wrong == Fault::Kind::drop)
      operators_.cast(sent.view.part(static_cast<std::int64_t>(own) * s.next_elements, s.next_elements), to.view);
    else
      group.reduce_scatter(sent.view.part(0, s.next_elements * static_cast<std::int64_t>(members)), to.view, reduction);
    return to;
  }
  const auto out = counts_of(s.send), in = counts_of(s.receive);
  const bool as_it_comes = in_order(s.receive) && wrong == Fault::Kind::none;
  std::int64_t total = 0;
  for (std::int64_t n : in) total += n;
  Block received = as_it_comes ? to : memory_.make(total, element);
  if (gathers)
    group.all_gather(from.view, received.view);
  else
    group.all_to_all(sent.view, out, received.view, in);
  if (as_it_comes) return to;
  std::vector<std::int64_t> begin(members, 0);
  for (std::size_t m = 1; m < members; ++m) begin[m] = begin[m - 1] + in[m - 1];
  for (std::size_t m = 0; m < members; ++m) {
    View piece = received.view.part(begin[m], in[m]);
    if (wrong == Fault::Kind::drop && m != own) operators_.fill(piece, missing(element));
    if (wrong == Fault::Kind::misroute && m > 0 && in[m - 1] == in[m]) piece = received.view.part(begin[m - 1], in[m]);
    unpack(operators_, piece, s.receive[m], to.view);
  }
  return to;
}

void Mover::all_reduce(const Block& block, AxisSet axes, Reduction reduction, const Where& where) {
  all_reduce(block, groups_.over(axes), reduction, where);
}

void Mover::all_reduce(const Block& block, Communicator& group, Reduction reduction, const Where& where) {
  const std::string name = "all_reduce " + where.name;
  const During during(recorder_,
                      {Doing::Kind::collective, name, where, ReshardStep::all_reduce, group.size(), block.view.size()});
  const Fault::Kind wrong = fault_at(name);
  if (wrong == Fault::Kind::drop) return;
  if (wrong == Fault::Kind::operation) reduction = reduction == Reduction::sum ? Reduction::max : Reduction::sum;
  group.all_reduce(block.view, reduction);
}

Block Mover::gather_flat(const Block& piece, AxisSet axes, std::int64_t elements, const Where& where) {
  const std::string name = "all_gather " + where.name;
  Communicator& group = groups_.over(axes);
  const std::int64_t length = piece.view.elements;
  Block all = memory_.make(length * group.size(), piece.view.element);
  const During during(recorder_,
                      {Doing::Kind::collective, name, where, ReshardStep::all_gather, group.size(), all.view.size()});
  group.all_gather(piece.view, all.view);
  const Fault::Kind wrong = fault_at(name);
  for (int m = group.size(); wrong != Fault::Kind::none && m-- > 0;) {
    const View part = all.view.part(m * length, length);
    if (wrong == Fault::Kind::drop && m != group.rank()) operators_.fill(part, missing(part.element));
    if (wrong == Fault::Kind::misroute && m > 0) operators_.cast(all.view.part((m - 1) * length, length), part);
  }
  all.view.elements = elements;  // what is behind is padding
  return all;
}

Block Mover::scatter_flat(const Block& whole, AxisSet cut, AxisSet scatter, const Where& where) {
  const Mesh& mesh = programme_.mesh;
  const std::int64_t n = whole.view.elements;
  const FlatPiece own = flat_piece(mesh, line_, cut, n);
  const auto members = members_over(mesh, line_, scatter);
  Block packed = memory_.make(own.length * static_cast<std::int64_t>(members.size()), whole.view.element);
  operators_.fill(packed.view, 0);
  for (std::size_t m = 0; m < members.size(); ++m) {
    const std::int64_t first = flat_piece(mesh, members[m], cut, n).first();
    const std::int64_t count = std::clamp<std::int64_t>(n - first, 0, own.length);
    if (count > 0)
      operators_.cast(whole.view.part(first, count),
                      packed.view.part(static_cast<std::int64_t>(m) * own.length, count));
  }
  if (!scatter) return packed;
  const std::string name = "reduce_scatter " + where.name;
  Communicator& group = groups_.over(scatter);
  const During during(
      recorder_, {Doing::Kind::collective, name, where, ReshardStep::reduce_scatter, group.size(), packed.view.size()});
  Block piece = memory_.make(own.length, whole.view.element);
  const Fault::Kind wrong = fault_at(name);
  if (wrong == Fault::Kind::drop) {
    operators_.cast(packed.view.part(group.rank() * own.length, own.length), piece.view);
    return piece;
  }
  if (wrong == Fault::Kind::misroute)
    for (int m = group.size(); m-- > 1;)
      operators_.cast(packed.view.part((m - 1) * own.length, own.length), packed.view.part(m * own.length, own.length));
  group.reduce_scatter(packed.view, piece.view, reduction_of(Combine::sum, wrong == Fault::Kind::operation));
  return piece;
}

// ---- rings ----

Block Mover::pass_around(const void* key, const RunGraph& graph, const DimList& dims, const Placement& from,
                         const Placement& to, AxisSet ring, const Block& block, const Where& where) {
  ReshardSteps gather;
  gather.count = 1;
  gather.steps[0] = {ReshardStep::all_gather, ring, 0};
  const TransferStep& s = steps_of(key, graph, dims, from, to, gather)[0];
  const std::string name = "ring " + where.name;
  Communicator& group = groups_.over(ring);
  const int n = group.size(), own = group.rank(), next = (own + 1) % n, before = (own + n - 1) % n;
  const During during(recorder_, {Doing::Kind::collective,
                                  name,
                                  where,
                                  ReshardStep::all_gather,
                                  n,
                                  {s.next_elements * bytes_of(block.view.element)}});
  const Fault::Kind wrong = fault_at(name);
  Block to_block = memory_.make(s.next_elements, block.view.element), piece = block;
  for (int hop = 0; hop < n; ++hop) {
    const int holder = (own + n - hop) % n;  // whose piece this is
    const int lands = wrong == Fault::Kind::misroute && holder > 0 ? holder - 1 : holder;
    Block shown = piece;
    if (wrong == Fault::Kind::drop && hop > 0) {
      shown = memory_.make(piece.view.elements, piece.view.element);
      operators_.fill(shown.view, missing(shown.view.element));
    }
    unpack(operators_, shown.view, s.receive[static_cast<std::size_t>(lands)], to_block.view);
    if (wrong == Fault::Kind::misroute && holder == n - 1)
      unpack(operators_, shown.view, s.receive[static_cast<std::size_t>(holder)], to_block.view);
    if (hop + 1 == n) break;
    Block incoming = memory_.make(piece.view.elements, piece.view.element);
    const auto sent = group.send(piece.view, next, hop);
    const auto received = group.receive(incoming.view, before, hop);
    received->wait();
    sent->wait();
    piece = std::move(incoming);
  }
  return to_block;
}

Block Mover::return_around(const void* key, const RunGraph& graph, const DimList& dims, const Placement& from,
                           const Placement& to, AxisSet ring, const Block& block, const Where& where) {
  ReshardSteps scatter;
  scatter.count = 1;
  scatter.steps[0] = {ReshardStep::reduce_scatter, ring, 0};
  const TransferStep& s = steps_of(key, graph, dims, from, to, scatter)[0];
  const std::string name = "ring " + where.name;
  Communicator& group = groups_.over(ring);
  const int n = group.size(), own = group.rank(), next = (own + 1) % n, before = (own + n - 1) % n;
  const During during(recorder_,
                      {Doing::Kind::collective, name, where, ReshardStep::reduce_scatter, n, block.view.size()});
  const Fault::Kind wrong = fault_at(name);
  const auto of_member = [&](int member) {
    Block piece = memory_.make(s.next_elements, block.view.element);
    pack(operators_, block.view, s.send[static_cast<std::size_t>(member)], piece.view);
    return piece;
  };
  // The sum for a member begins with the one behind it and goes round to it.
  Block sum = of_member(before);
  for (int hop = 1; hop < n; ++hop) {
    Block incoming = memory_.make(s.next_elements, block.view.element);
    const auto sent = group.send(sum.view, next, hop);
    const auto received = group.receive(incoming.view, before, hop);
    received->wait();
    sent->wait();
    Block own_part = of_member((own + 2 * n - 1 - hop) % n);
    if (wrong == Fault::Kind::drop) operators_.fill(incoming.view, 0);
    operators_.residual_sum({incoming.view, own_part.view}, own_part.view);
    sum = std::move(own_part);
  }
  if (wrong == Fault::Kind::misroute) {  // every member keeps the sum of the one before it, the first its own
    Block other = memory_.make(s.next_elements, block.view.element);
    const auto sent = group.send(sum.view, next, n);
    const auto received = group.receive(other.view, before, n);
    received->wait();
    sent->wait();
    if (own > 0) return other;
  }
  return sum;
}

}  // namespace shardwright
