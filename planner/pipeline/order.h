#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shardwright {

/// One unit of work on a stage: one micro-batch through one of its chunks of layers, one way or the other.
struct Task {
  enum class Kind : std::uint8_t {
    forward,
    backward,         // both gradients at once
    input_gradient,   // what the stage before waits for
    weight_gradient,  // after the input gradient, of the same micro-batch
    pair              // a forward and a backward of another micro-batch, run at once
  };
  Kind kind = Kind::forward;
  int chunk = 0;                                     // one of those that the stage works on, from 0
  int micro_batch = 0;                               // of a pair: chunk and micro_batch of the forward
  int backward_chunk = 0, backward_micro_batch = 0;  // of a pair alone
  bool operator==(const Task&) const = default;
};

/// The order in which a stage works through its tasks, as loops in loops. A run is a few tasks over and over, each time
/// with micro-batches later by `shift`; a block is a few runs over and over, likewise. So an order of a schedule with a
/// period is as long for a thousand micro-batches as for a hundred.
class Order {
 public:
  struct Run {
    int first = 0, behind = 0;  // tasks()[first .. behind-1]
    int repeats = 1, shift = 0;
  };
  struct Block {
    int first = 0, behind = 0;  // runs()[first .. behind-1]
    int repeats = 1, shift = 0;
  };

  /// `chunks`: those that the stage works on.
  explicit Order(int chunks) : chunks_(chunks) {}
  void reserve(std::size_t tasks, std::size_t runs, std::size_t blocks);
  /// Opens a block; the runs and tasks that are added next are in it.
  void block(int repeats, int shift) { blocks_.push_back({runs_end(), runs_end(), repeats, shift}); }
  void run(int repeats, int shift) {
    runs_.push_back({tasks_end(), tasks_end(), repeats, shift});
    blocks_.back().behind = runs_end();
  }
  void add(const Task& task) {
    tasks_.push_back(task);
    runs_.back().behind = tasks_end();
  }

  int chunks() const { return chunks_; }
  const std::vector<Task>& tasks() const { return tasks_; }
  const std::vector<Run>& runs() const { return runs_; }
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  int tasks_end() const { return static_cast<int>(tasks_.size()); }
  int runs_end() const { return static_cast<int>(runs_.size()); }
  int chunks_;
  std::vector<Task> tasks_;
  std::vector<Run> runs_;
  std::vector<Block> blocks_;
};

/// Every task of an order, written out.
std::vector<Task> tasks_of(const Order& order);

/// What one micro-batch keeps in a chunk: from its forward until its backward or input gradient, and from there until
/// its weight gradient. Neither may be negative.
struct PassKeeps {
  double until_backward = 0, until_weight = 0;
};

/// Micro-batches of each chunk of a stage that keep something.
struct InFlight {
  std::vector<int> until_backward, until_weight;  // by chunk
  bool operator==(const InFlight&) const = default;
};

/// The counts at the (first) moment when what a stage keeps is most, `keeps` for each of its chunks. Needs no times,
/// the order alone decides. Within a loop what is kept grows or falls steadily, so only its first and its last time are
/// looked at: the work does not grow with the micro-batches. While a pair runs, its forward and its backward both keep
/// theirs. A chunk that keeps nothing may be counted later than at the first such moment. Throws std::invalid_argument
/// unless `keeps` has an entry for each chunk.
InFlight in_flight(const Order& order, const std::vector<PassKeeps>& keeps);

}  // namespace shardwright
