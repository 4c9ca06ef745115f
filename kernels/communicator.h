#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace shardwright {

enum class Reduction { sum, max };

/// Ranks that exchange numbers. Collectives are called by every rank of the communicator, in the same order; buffers
/// of all ranks have the same element. Except for send and receive, a call returns when this rank's buffers may be used
/// again. Throws std::runtime_error when the machine fails, naming the call and the rank.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual std::string name() const = 0;  // "threads", "mpi"
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place.
  virtual void all_reduce(View data, Reduction reduction) = 0;
  /// `all` holds the parts of all ranks, in their order; parts are alike.
  virtual void all_gather(In part, View all) = 0;
  /// Each rank gets its part of the reduced `all`.
  virtual void reduce_scatter(In all, View part, Reduction reduction) = 0;
  /// Of `from` the first send[0] elements go to rank 0, and so on; `to` likewise. Parts may be empty.
  virtual void all_to_all(In from, std::span<const std::int64_t> send, View to,
                          std::span<const std::int64_t> receive) = 0;
  virtual void broadcast(View data, int root) = 0;
  virtual void barrier() = 0;

  /// What is under way; its buffer stays alive and alone until wait(), or until done() is true. Destroyed only then.
  class Request {
   public:
    virtual ~Request() = default;
    virtual void wait() = 0;
    /// Whether wait() would not wait. A communicator that cannot tell says no.
    virtual bool done() { return false; }
  };
  /// Messages between two ranks with the same tag arrive in the order in which they were sent. Neither call waits.
  virtual std::unique_ptr<Request> send(In data, int to, int tag) = 0;
  virtual std::unique_ptr<Request> receive(View data, int from, int tag) = 0;

  /// The ranks that call with the same colour, in the order of their ranks here. Collective.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;
};

}  // namespace shardwright
