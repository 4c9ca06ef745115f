#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/communicator.h"
#include "planner/shard/transfer.h"
#include "profiler/execute/block.h"
#include "profiler/execute/lone_rank.h"
#include "profiler/execute/programme.h"
#include "profiler/execute/recorder.h"

namespace shardwright {

/// One collective of a run left out, or done wrong: what a test of the tests asks for. The same on every rank, so that
/// all stay in step.
struct Fault {
  enum class Kind : std::uint8_t {
    none,
    drop,       ///< nothing comes from others: what is missing is no number, what is added up is one's own
    operation,  ///< max for sum, sum for max
    misroute,   ///< the pieces of the member before the right one (the first's from the first)
  };
  Kind kind = Kind::none;
  std::string place;  ///< Doing::name of the collective, or of the receive
};

/// The communicators of a rank: one for each set of axes over which some graph moves something.
class Groups {
 public:
  /// Collective over all ranks of the programme.
  Groups(const Programme& programme, Communicator& world);
  /// Of a rank that is alone.
  Groups(const Programme& programme, Communicator& world, std::int64_t lone_rank, Operators& operators);
  Communicator& world() const { return world_; }
  /// Ranks of the stage that differ on `axes` alone, in the order of members_over().
  Communicator& over(AxisSet axes) const;
  /// The same place on the line of several stages.
  Communicator& between(const std::vector<int>& stages) const;

 private:
  template <typename Over, typename Between>
  void make(const Programme& programme, int stage, const Over& over, const Between& between);
  Communicator& world_;
  std::map<AxisSet, std::unique_ptr<Communicator>> over_;
  std::map<std::vector<int>, std::unique_ptr<Communicator>> between_;
};

/// Moves one rank's blocks as the steps of a reshard say.
class Mover {
 public:
  Mover(const Programme& programme, std::int64_t line, const Groups& groups, Operators& operators, Memory& memory,
        Recorder& recorder, const Fault& fault, const DrawnExperts* drawn = nullptr);

  /// A value of a graph to the placement of another, in its place where nobody else has the block. `where`: the node,
  /// for faults and reports.
  Block reshard(const RunGraph& graph, const Node& node, Block block, const Where& where);
  /// A stored piece of a weight to the whole of it, `elements` long.
  Block gather_flat(const Block& piece, AxisSet axes, std::int64_t elements, const Where& where);
  /// A gradient to the piece that this rank keeps: over `scatter` it is added up, over the rest of `cut` it is cut.
  Block scatter_flat(const Block& whole, AxisSet cut, AxisSet scatter, const Where& where);
  void all_reduce(const Block& block, AxisSet axes, Reduction reduction, const Where& where);
  void all_reduce(const Block& block, Communicator& group, Reduction reduction, const Where& where);
  /// An operand of a ring: every piece of its sequence comes by, from neighbour to neighbour, until all is there.
  /// `key` is one for each operand of each node.
  Block pass_around(const void* key, const RunGraph& graph, const DimList& dims, const Placement& from,
                    const Placement& to, AxisSet ring, const Block& block, const Where& where);
  /// The gradient of such an operand, added up on its way to where its pieces belong.
  Block return_around(const void* key, const RunGraph& graph, const DimList& dims, const Placement& from,
                      const Placement& to, AxisSet ring, const Block& block, const Where& where);

  /// What a router says of a block of tokens [batch, sequence, experts] is replaced by what was drawn for a rank that
  /// is alone; else nothing happens.
  void replace_routes(const RunGraph& graph, const DimList& dims, const Placement& placement, View gate, View mask);
  /// The rows that a dispatch makes of a mask [tokens, experts], where its output lies at `placement`.
  std::shared_ptr<const RowList> rows_of_mask(const RunGraph& graph, const DimList& dims, const Placement& placement,
                                              In mask);

 private:
  const std::vector<TransferStep>& steps_of(const void* key, const RunGraph& graph, const DimList& dims,
                                            const Placement& from, const Placement& to, const ReshardSteps& steps);
  Block step(const TransferStep& step, Block from, Combine combine, const Where& where);
  Block step_rows(const ReshardSteps::Step& step, const RunGraph& graph, const Node& node, const Block& from,
                  const Where& where);
  Block drawn_rows(const RunGraph& graph, const Node& node, const Block& from, const Where& where);
  const std::vector<std::int64_t>& drawn_places(const RunGraph& graph, const DimList& dims, const Placement& placement);
  std::shared_ptr<const RowList> row_list(const RunGraph& graph, const DimList& dims, const Placement& placement,
                                          std::vector<std::int64_t> places);
  static void check_same_rows(const std::vector<std::int64_t>& places, Communicator& group, const std::string& name);
  void spoil_rows(const Block& in, const std::vector<std::int64_t>& received, std::int64_t width, std::size_t own,
                  Fault::Kind wrong, bool adds);
  Block take_rows(const Block& from, const std::vector<std::int64_t>& which, std::int64_t width);
  Block ids(const std::vector<std::int64_t>& numbers);
  Block copy(const Block& block);
  Fault::Kind fault_at(const std::string& place) const {
    return fault_.place == place ? fault_.kind : Fault::Kind::none;
  }

  const Programme& programme_;
  std::int64_t line_;
  const Groups& groups_;
  Operators& operators_;
  Memory& memory_;
  Recorder& recorder_;
  const Fault& fault_;
  std::map<const void*, std::vector<TransferStep>> steps_;
  const DrawnExperts* drawn_;                                                    // of a rank that is alone
  std::map<std::vector<std::int64_t>, std::vector<std::int64_t>> drawn_places_;  // by block
};

}  // namespace shardwright
