#include "planner/pipeline/order.h"

#include <stdexcept>
#include <string>

namespace shardwright {
namespace {

/// What the chunks keep together.
class Sum {
 public:
  explicit Sum(const std::vector<PassKeeps>& keeps) : keeps_(keeps) {}
  void change(int chunk, int until_backward, int until_weight) {
    const PassKeeps& k = keeps_[static_cast<std::size_t>(chunk)];
    sum_ += until_backward * k.until_backward + until_weight * k.until_weight;
  }
  using Before = double;
  Before now() const { return sum_; }
  void repeat(int times, Before before) { sum_ += times * (sum_ - before); }

 private:
  const std::vector<PassKeeps>& keeps_;
  double sum_ = 0;
};

/// Micro-batches, chunk by chunk.
class Counts {
 public:
  explicit Counts(std::size_t chunks) : counts_(2 * chunks, 0) {}
  void change(int chunk, int until_backward, int until_weight) {
    counts_[static_cast<std::size_t>(2 * chunk)] += until_backward;
    counts_[static_cast<std::size_t>(2 * chunk) + 1] += until_weight;
  }
  using Before = std::vector<int>;
  Before now() const { return counts_; }
  void repeat(int times, const Before& before) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += times * (counts_[i] - before[i]);
  }

 private:
  std::vector<int> counts_;
};

/// Goes through an order with `Kept` in hand, and calls `look(kept)` wherever it may have come to its most, until that
/// says stop: in a loop each time adds the same, so any moment of it is at its most the first or the last time.
template <class Kept, class Look>
class Walk {
 public:
  Walk(const Order& order, Kept& kept, Look look) : order_(order), kept_(kept), look_(look) {}

  void whole() {
    for (const Order::Block& block : order_.blocks()) {
      const typename Kept::Before before = kept_.now();
      if (!runs(block)) return;
      if (block.repeats == 1) continue;
      kept_.repeat(block.repeats - 2, before);
      if (!runs(block)) return;
    }
  }

 private:
  bool runs(const Order::Block& block) {
    const Order::Run* const all = order_.runs().data();
    for (const Order::Run* run = all + block.first; run != all + block.behind; ++run) {
      if (!tasks(*run)) return false;
      if (run->repeats == 1) continue;
      change(*run, run->repeats - 2);
      if (!tasks(*run)) return false;
    }
    return true;
  }
  bool tasks(const Order::Run& run) {
    const Task* const all = order_.tasks().data();
    for (const Task* t = all + run.first; t != all + run.behind; ++t) {
      if (t->kind == Task::Kind::pair) {
        kept_.change(t->chunk, 1, 0);
        if (!look_(kept_)) return false;
        kept_.change(t->backward_chunk, -1, 0);
        continue;
      }
      change(*t, 1);
      const bool may_grow = t->kind == Task::Kind::forward || t->kind == Task::Kind::input_gradient;
      if (may_grow && !look_(kept_)) return false;
    }
    return true;
  }
  void change(const Order::Run& run, int times) {
    for (int i = run.first; i < run.behind; ++i) change(order_.tasks()[static_cast<std::size_t>(i)], times);
  }
  void change(const Task& t, int times) {
    switch (t.kind) {
      case Task::Kind::forward:
        return kept_.change(t.chunk, times, 0);
      case Task::Kind::backward:
        return kept_.change(t.chunk, -times, 0);
      case Task::Kind::input_gradient:
        return kept_.change(t.chunk, -times, times);
      case Task::Kind::weight_gradient:
        return kept_.change(t.chunk, 0, -times);
      case Task::Kind::pair:
        kept_.change(t.chunk, times, 0);
        return kept_.change(t.backward_chunk, -times, 0);
    }
  }

  const Order& order_;
  Kept& kept_;
  Look look_;
};

}  // namespace

void Order::reserve(std::size_t tasks, std::size_t runs, std::size_t blocks) {
  tasks_.reserve(tasks);
  runs_.reserve(runs);
  blocks_.reserve(blocks);
}

std::vector<Task> tasks_of(const Order& order) {
  std::vector<Task> all;
  for (const Order::Block& block : order.blocks())
    for (int b = 0; b < block.repeats; ++b)
      for (int r = block.first; r < block.behind; ++r) {
        const Order::Run& run = order.runs()[static_cast<std::size_t>(r)];
        for (int n = 0; n < run.repeats; ++n)
          for (int i = run.first; i < run.behind; ++i) {
            Task task = order.tasks()[static_cast<std::size_t>(i)];
            task.micro_batch += b * block.shift + n * run.shift;
            if (task.kind == Task::Kind::pair) task.backward_micro_batch += b * block.shift + n * run.shift;
            all.push_back(task);
          }
      }
  return all;
}

InFlight in_flight(const Order& order, const std::vector<PassKeeps>& keeps) {
  if (static_cast<int>(keeps.size()) != order.chunks())
    throw std::invalid_argument("a stage of " + std::to_string(order.chunks()) +
                                " chunks needs as many entries of what they keep, got " + std::to_string(keeps.size()));
  // First when it is most, by sums alone, then what there is at that moment.
  Sum sum(keeps);
  double peak = 0;
  int looks = 0, at = 0;
  const auto find = [&](const Sum& kept) {
    ++looks;
    if (kept.now() > peak) {
      peak = kept.now();
      at = looks;
    }
    return true;
  };
  Walk(order, sum, find).whole();
  InFlight result{std::vector<int>(keeps.size()), std::vector<int>(keeps.size())};
  if (at == 0) return result;
  Counts counts(keeps.size());
  looks = 0;
  Walk(order, counts, [&](const Counts&) { return ++looks < at; }).whole();
  const std::vector<int> most = counts.now();
  for (std::size_t c = 0; c < keeps.size(); ++c) {
    result.until_backward[c] = most[2 * c];
    result.until_weight[c] = most[2 * c + 1];
  }
  return result;
}

}  // namespace shardwright
