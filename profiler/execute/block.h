#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/operators.h"

namespace shardwright {

/// Which chosen (expert, token) pairs a block of routed rows holds, in the order of its rows: expert by expert, in each
/// the tokens in order. Known to the host, since every exchange of rows depends on it.
struct RowList {
  std::vector<std::int64_t> places;      ///< expert * all tokens + token, whole indices, ascending
  std::vector<std::int64_t> per_expert;  ///< of the experts of the block
  std::shared_ptr<void> owner;           ///< of the three below, int64
  View token, expert, gate;              ///< of each row, in the block; gate: token * experts + expert
  std::int64_t count() const { return static_cast<std::int64_t>(places.size()); }
};

struct OneHot;

/// One rank's numbers of one value. Freed with the last copy.
struct Block {
  View view;
  std::shared_ptr<void> owner;
  std::shared_ptr<const RowList> rows = nullptr;    ///< of routed rows only
  std::shared_ptr<const OneHot> one_hot = nullptr;  ///< then `view` has the only number of each row that is not 0
  explicit operator bool() const { return owner != nullptr; }
};

/// A block [rows, columns] whose rows have one number each: where labels[row] - first is a column, there.
struct OneHot {
  Block labels;
  std::int64_t columns = 1, first = 0;
};

/// More memory is wanted than a rank may have.
class RanOutOfMemory : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Hands out blocks and counts the bytes that live. What is given back is kept for blocks of about the same size: every
/// step asks for the same ones, and fresh memory costs a system its pages.
class Memory {
 public:
  /// `limit`: of the bytes that may live at once; 0 is none.
  explicit Memory(Operators& operators, Bytes limit = {});
  Block make(std::int64_t elements, Element element);
  Bytes current() const { return counts_->current; }
  Bytes peak() const { return counts_->peak; }
  void forget_peak() { counts_->peak = counts_->current; }

 private:
  struct Counts {
    Bytes current, peak;
    std::multimap<std::int64_t, std::shared_ptr<void>> kept;  // by size
  };
  std::shared_ptr<void> raw(Bytes& size);
  Operators& operators_;
  Bytes limit_;
  std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
};

}  // namespace shardwright
